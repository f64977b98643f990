"""Super-resolution and thresholding against diffusers on random tiny weights, and against what must hold by design."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import checkpoints
from course_utils.data import load_emoji
from course_utils.datasets.compose import Composer
from course_utils.decoder.super_resolution import (
    DBlock,
    EfficientUNet,
    LevelEmbedding,
    UBlock,
    augment,
    enlarge,
    from_residual,
    make_low,
    random_crops,
    sample_levels,
    to_residual,
)
from course_utils.errors import InputError
from course_utils.evaluation import report, report_sr
from course_utils.evaluation.sharpness import (
    consistency,
    high_frequency_power,
    patches,
    power_ratio,
)
from course_utils.generator.samplers import ddpm
from course_utils.generator.schedules import Schedule, make_schedule
from course_utils.generator.thresholding import dynamic_threshold, static_threshold, thresholded
from course_utils.generator.unet import UNet
from course_utils.layers import resize
from course_utils.recipes import imagen_sr2, imagen_sr2_regression
from course_utils.systems.stage import System
from course_utils.systems.super_resolution import SuperResolution, make_sr2
from tests.test_peers_unet import randomise

TOLERANCE = 1e-5


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny(**options):
    return randomise(
        EfficientUNet(**{"channels": (8, 16), "num_blocks": (1, 2), "attention": (False,) * 2, "groups": 4} | options)
    )


# ------------------------------------------------------------------ thresholding
@pytest.mark.parametrize("percentile", [0.9, 0.995, 1.0])
def test_dynamic_threshold_is_diffusers(percentile):
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=percentile, sample_max_value=100)
    for size in (0.3, 1.5, 4.0):  # within [-1, 1], a little outside, far outside
        x0 = size * noise(3, 3, 8, 8)
        assert torch.allclose(dynamic_threshold(x0, percentile), theirs._threshold_sample(x0), atol=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_thresholded_walk_is_diffusers(prediction):
    """Whole DDPM walks agree, with a network that leaves [-1, 1] at every step."""
    from diffusers import DDPMScheduler

    names = {"eps": "epsilon", "v": "v_prediction"}
    options = {"thresholding": True, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1e6}  # s has no limit
    theirs = DDPMScheduler(prediction_type=names[prediction], timestep_spacing="trailing", **options)
    theirs.set_timesteps(10)
    network, xT = randomise(nn.Conv2d(3, 3, 3, padding=1), 1), noise(2, 3, 8, 8)
    schedule = Schedule(theirs.betas.double(), theirs.alphas_cumprod.double())

    def model(xt, t):
        return 3 * network(xt)

    limited = thresholded(model, schedule, prediction, dynamic_threshold)
    generator = torch.Generator().manual_seed(3)
    *_, ours = ddpm(limited, xT, schedule, 10, "x0", generator, clip=False, spacing="trailing")
    generator, xt = torch.Generator().manual_seed(3), xT
    with torch.no_grad():
        for t in theirs.timesteps:
            xt = theirs.step(model(xt, t), t, xt, generator=generator).prev_sample
    assert (ours.xt - xt).abs().max() < 1e-4
    *_, free = ddpm(model, xT, schedule, 10, prediction, torch.Generator().manual_seed(3), False, "trailing")
    assert (free.xt - xt).abs().max() > 0.1, "the threshold had nothing to do"


def test_thresholds_keep_what_lies_within_and_judge_each_picture_alone():
    x0 = torch.stack([0.2 * noise(3, 8, 8), 5 * noise(3, 8, 8, seed=1)])
    assert torch.equal(dynamic_threshold(x0)[0], x0[0].clamp(-1, 1)) and torch.equal(static_threshold(x0)[0], x0[0])
    saturated = [(threshold(x0)[1].abs() == 1).float().mean() for threshold in (static_threshold, dynamic_threshold)]
    assert saturated[0] > 0.7 and saturated[1] < 0.02
    for percentile in (0, 1.1, "high"):
        with pytest.raises(InputError, match="percentile"):
            dynamic_threshold(x0, percentile)


# ------------------------------------------------------------------ blocks
def test_the_pieces_of_a_dblock_are_diffusers_in_imagens_order():
    """Downsample first, then convolve: diffusers' Downsample2D and ResnetBlock2D, put together by hand."""
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.resnet import ResnetBlock2D

    ours, x, temb = randomise(DBlock(8, 16, 2, 24, groups=4)), noise(2, 8, 12, 12), noise(2, 24, seed=1)
    options = {"temb_channels": 24, "groups": 4, "eps": 1e-5}
    h = x
    down = Downsample2D(8, use_conv=True, padding=1, name="op")
    down.load_state_dict(ours.downsamplers[0].state_dict(), strict=True)
    blocks = [ResnetBlock2D(in_channels=8, out_channels=16, **options), ResnetBlock2D(in_channels=16, **options)]
    h = down(h)
    for block, mine in zip(blocks, ours.resnets):
        block.load_state_dict(mine.state_dict(), strict=True)
        h = block(h, temb)
    assert h.shape == (2, 16, 6, 6) and (ours(x, temb) - h).abs().max() < TOLERANCE * h.abs().max()


def test_the_pieces_of_a_ublock_are_diffusers_in_imagens_order():
    """Skip times 1/sqrt(2), convolve, upsample last."""
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D

    ours, x, skip, temb = (
        randomise(UBlock(16, 8, 8, 1, 24, 4)),
        noise(2, 16, 6, 6),
        noise(2, 8, 6, 6, seed=2),
        noise(2, 24),
    )
    block = ResnetBlock2D(in_channels=24, out_channels=8, temb_channels=24, groups=4, eps=1e-5)
    block.load_state_dict(ours.resnets[0].state_dict(), strict=True)
    up = Upsample2D(8, use_conv=True)
    up.load_state_dict(ours.upsamplers[0].state_dict(), strict=True)
    peer = up(block(torch.cat([x, skip / 2**0.5], dim=1), temb))
    assert peer.shape == (2, 8, 12, 12) and (ours(x, temb, skip) - peer).abs().max() < TOLERANCE * peer.abs().max()


def test_the_noise_level_is_diffusers_class_of_type_timestep():
    """A plain U-Net told the level is UNet2DModel(class_embed_type="timestep"), strictly; its label: 1000 x level."""
    from diffusers import UNet2DModel

    theirs = randomise(
        UNet2DModel(
            sample_size=16,
            in_channels=6,
            out_channels=3,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=8,
            class_embed_type="timestep",
            down_block_types=["DownBlock2D", "AttnDownBlock2D"],
            up_block_types=["AttnUpBlock2D", "UpBlock2D"],
        )
    )
    ours = UNet(6, 3, (16, 32), num_res_blocks=1, groups=8)
    ours.class_embedding = LevelEmbedding(16, 64)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, t, level = noise(3, 6, 16, 16), torch.tensor([0, 500, 999]), torch.tensor([0.0, 0.25, 1.0])
    peer = theirs(x, t, class_labels=1000 * level).sample
    assert (ours(x, t, class_labels=level) - peer).abs().max() < TOLERANCE * peer.abs().max()
    assert (ours(x, t, class_labels=1 - level) - peer)[[0, 2]].abs().max() > 1e-3


def test_step_and_level_of_an_efficient_unet_are_those_of_unet2dconditionmodel():
    from diffusers import UNet2DConditionModel

    theirs = randomise(
        UNet2DConditionModel(
            in_channels=6,
            out_channels=3,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=8,
            attention_head_dim=2,
            class_embed_type="timestep",
            down_block_types=["DownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "UpBlock2D"],
            mid_block_type=None,
        )
    )
    ours, t, level = tiny(), torch.tensor([3, 700]), torch.tensor([0.1, 0.9])
    for name in ("time_embedding", "class_embedding"):
        getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict(), strict=True)
    x = torch.zeros(2, 6, 8, 8)
    peer = theirs.time_embedding(theirs.get_time_embed(x, t)) + theirs.get_class_embed(x, 1000 * level)
    assert torch.allclose(ours.embed(t, level), peer, atol=1e-6)


# ------------------------------------------------------------------ the network
@pytest.mark.parametrize("context_dim", [None, 12])
def test_every_weight_and_every_input_counts(context_dim):
    attention = (False, True) if context_dim else (False, False)
    network = tiny(attention=attention, context_dim=context_dim, num_heads=2)
    inputs = {
        "x": noise(2, 3, 16, 16).requires_grad_(),
        "t": torch.tensor([10, 900]),
        "low": noise(2, 3, 16, 16, seed=1).requires_grad_(),
        "level": torch.tensor([0.1, 0.2], requires_grad=True),
        "context": noise(2, 5, 12).requires_grad_() if context_dim else None,
    }
    y = network(**inputs)
    assert y.shape == (2, 3, 16, 16)
    y.square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(x.grad.abs().sum() > 0 for x in inputs.values() if x is not None and x.requires_grad)


def test_an_untrained_network_is_silent():
    network, x = EfficientUNet((8, 16), (1, 1), (False, False), groups=4), noise(2, 3, 16, 16)
    assert not network(x, torch.tensor([5, 6]), x, torch.zeros(2)).any()


def test_no_block_works_at_full_size():
    """All residual blocks see half the side or less, and most of them the smallest."""
    network, sides = tiny(num_blocks=(1, 3)), []
    for module in network.modules():
        if type(module).__name__ == "ResnetBlock2D":
            module.register_forward_hook(lambda _, inputs, out: sides.append(out.shape[-1]))
    network(noise(1, 3, 32, 32), torch.tensor([5]), noise(1, 3, 32, 32), torch.zeros(1))
    assert sorted(sides) == [8] * 6 + [16] * 2


def test_a_crop_is_what_the_whole_picture_holds_there():
    """Away from the crop's border, and without the norms, which look at the picture as a whole."""
    network = tiny(channels=(8,), num_blocks=(1,), attention=(False,))
    for module in [m for m in network.modules() if hasattr(m, "norm1")]:
        module.norm1 = module.norm2 = nn.Identity()
    network.conv_norm_out = nn.Identity()
    x, low, t, level = noise(1, 3, 64, 64), noise(1, 3, 64, 64, seed=1), torch.tensor([300]), torch.tensor([0.1])
    with torch.no_grad():
        whole = network(x, t, low, level)
        part = network(x[..., 16:48, 8:40], t, low[..., 16:48, 8:40], level)
    gap = (whole[..., 16:48, 8:40] - part).abs()
    assert gap[..., 14:18, 14:18].max() < 1e-5 * whole.abs().max() < gap.max()  # what 12 pixels away still counts


# ------------------------------------------------------------------ what it is given
def test_augmentation_keeps_the_variance_and_the_levels_named():
    x, eps = noise(4, 3, 64, 64), noise(4, 3, 64, 64, seed=1)
    level = torch.tensor([0.0, 0.2, 0.6, 1.0])
    y = augment(x, level, eps)
    assert torch.equal(y[0], x[0]) and torch.equal(y[3], eps[3])
    assert torch.allclose(y.flatten(1).std(1), torch.ones(4), atol=0.03)
    levels = sample_levels(4000, 0.2, 0.3, torch.Generator().manual_seed(0))
    assert 0.27 < (levels == 0).float().mean() < 0.33 and levels.max() <= 0.2
    assert abs(levels[levels > 0].mean() - 0.1) < 0.005


def test_residuals_come_back_and_have_variance_one():
    x0 = resize(noise(2, 3, 64, 64), 32)
    level = torch.tensor([0.0, 0.3])
    low = make_low(x0, 16, level, torch.Generator().manual_seed(1))
    residual = to_residual(x0, low, level, 0.1)
    assert torch.allclose(from_residual(residual, low, level, 0.1), x0, atol=1e-6)
    assert torch.equal(make_low(x0, 16, torch.zeros(2)), enlarge(resize(x0, 16), 32))
    assert (residual[0] * 0.1).abs().mean() < (residual[1] * (0.01 + 0.09) ** 0.5).abs().mean()


def test_crops_are_the_same_square_of_every_batch_and_keep_their_neighbours():
    x = noise(5, 3, 32, 32)
    low = make_low(x, 8, torch.zeros(5))
    a, b = random_crops([x, low], 8, torch.Generator().manual_seed(2))
    assert a.shape == b.shape == (5, 3, 8, 8)
    for i in range(5):
        places = [(r, c) for r in range(25) for c in range(25) if torch.equal(x[i, :, r : r + 8, c : c + 8], a[i])]
        (r, c), *none = places
        assert not none and torch.equal(low[i, :, r : r + 8, c : c + 8], b[i])
    assert (b - enlarge(resize(a, 2), 8)).abs().max() > 0.01, "enlarged alone, a crop lacks its neighbours"


@pytest.fixture
def few_pictures(monkeypatch):
    """The recipe on a few pictures: all of them take long to read."""
    source = Composer(load_emoji(256, "3d"), languages=("en",), p_color=0.1)
    monkeypatch.setattr(imagen_sr2, "composer", lambda: source)


@pytest.mark.parametrize("recipe", [imagen_sr2, imagen_sr2_regression])
def test_a_step_of_the_recipe_can_be_repeated_and_reaches_every_weight(recipe, few_pictures):
    network = randomise(recipe.model()).train()
    first, again = (recipe.batch(torch.Generator().manual_seed(3), 6) for _ in range(2))
    assert {key: tuple(x.shape) for key, x in first.items()} == {
        "x0": (6, 3, 64, 64),
        "low": (6, 3, 64, 64),
        "level": (6,),
    }
    assert all(torch.equal(first[key], again[key]) for key in first)
    loss = recipe.loss(network, first, torch.Generator().manual_seed(1))
    loss.backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert loss.item() > 0 and silent == []


# ------------------------------------------------------------------ as a stage
def tiny_enlarger(side=32):
    return SuperResolution(tiny(), side, 0.1, steps=3, level=0.1)


def test_pictures_do_not_depend_on_their_neighbours():
    sr, rT, small = tiny_enlarger(), noise(3, 3, 32, 32), noise(3, 3, 8, 8, seed=1).clamp(-1, 1)
    *_, three = sr.sample(rT, small)
    *_, one = sr.sample(rT[1:2], small[1:2])
    assert three.step == 3 and torch.allclose(three.xt[1:2], one.xt, atol=1e-5)
    *_, same = sr.sample(rT, small[:1])  # one picture, enlarged in three ways
    assert len(same.xt) == 3 and (same.xt[0] - same.xt[1]).abs().mean() > 1e-4
    with pytest.raises(InputError, match="one or 1 of the small pictures"):
        list(sr.sample(rT[:1], small))


def test_as_the_last_stage_of_a_system():
    from course_utils.systems.stage import Stage

    def draw(model, xT, steps):
        return ddpm(model, xT, make_schedule("cosine"), steps, "x0")

    first = Stage("8x8", (3, 8, 8), lambda *conditions: lambda xt, t: xt, draw)
    system = System((first, tiny_enlarger().stage()), torch.device("cpu"), 2, 1.0, prompted=False)
    *states, last = system.generate([None] * 2, seed=4)
    assert [state.stage for state in states] == ["8x8"] * 2 + ["32x32"] * 3
    assert last.xt.shape == (2, 3, 32, 32) and last.xt.abs().max() <= 1
    with pytest.raises(InputError, match="level must be a number from 0 to 1"):
        tiny_enlarger().conditioned_model(noise(1, 3, 8, 8), level=1.5)


# ------------------------------------------------------------------ how it is judged
def test_power_and_consistency_of_known_pictures():
    """Enlarged pictures have next to no power beyond their own pixels; noise has a known share."""
    x = noise(8, 3, 64, 64)
    assert high_frequency_power(x, 4).mean() == pytest.approx(1 - (16 / 64) ** 2, rel=0.05)
    smooth = enlarge(resize(x, 16), 64)
    assert high_frequency_power(smooth, 4).mean() < 0.05 * high_frequency_power(x, 4).mean()
    ratio = power_ratio(2 * x, x, 4)
    assert ratio == pytest.approx(4, rel=1e-5) and ratio.low <= 4.001 and ratio.high >= 3.999
    assert consistency(x, resize(x, 16)).min() > 100
    off = consistency(x + 0.02, resize(x, 16))
    assert off.tolist() == pytest.approx([40.0] * 8, abs=0.01)


def test_patches_tile_the_picture():
    x = torch.arange(2 * 3 * 8 * 8).float().view(2, 3, 8, 8)
    cut = patches(x, 4)
    assert cut.shape == (8, 3, 4, 4) and torch.equal(cut[1], x[0, :, :4, 4:])
    assert torch.equal(cut.sort().values.flatten().sort().values, x.flatten())
    assert F.mse_loss(copy.deepcopy(cut), patches(x, 4)) == 0


def test_an_evaluation_compares_three_ways_on_the_same_pictures(monkeypatch, tmp_path):
    """An untrained network adds nothing to bicubic enlarging in one go, and leaves noise behind by diffusion."""
    composed = Composer(load_emoji(256, "3d"), languages=("en",), p_color=0.0).compose(3, seed=0)
    monkeypatch.setattr(report_sr, "held_out", lambda n: composed)
    for name in ("imagen-sr2", "imagen-sr2-regression"):
        checkpoints.save(name, make_sr2(), {}, folder=tmp_path)
    rows = report_sr.evaluate_sr2(3, tmp_path)
    assert list(rows) == ["bicubic, 3", "regression, 3", "diffusion, 3"]
    assert all(
        set(row) == {"psnr", "perceptual", "power", "consistency", "frechet", "concept"} for row in rows.values()
    )
    bicubic, regression, diffusion = rows.values()
    assert all(regression[key] == pytest.approx(value, rel=1e-3) for key, value in bicubic.items())
    assert diffusion["psnr"] < bicubic["psnr"] and diffusion["power"] > bicubic["power"]
    assert "high freq." in report.table(rows)

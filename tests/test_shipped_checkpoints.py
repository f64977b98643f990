"""The checkpoints that come with the course: whole, at most 32 MB, drawing, and open to the field's own classes."""

import pytest
import torch
import torch.nn.functional as F

from course_utils import checkpoints
from course_utils.finetune.lora import lora_parameters, set_adapter
from course_utils.generator.samplers import ddim, sample
from course_utils.interop.lora_files import load_shipped_lora
from course_utils.recipes import noise_predictor
from course_utils.recipes.catalog import recipes
from course_utils.systems.dalle2 import make_ar_prior, num_dims

CARD = {
    "name",
    "sha256",
    "git_commit",
    "parameters",
    "recipe",
    "steps",
    "pictures",
    "seed",
    "minutes",
    "hardware",
    "metrics",
}

UNTRAINED = {"prior-ar": lambda: make_ar_prior(num_dims())}  # its recipe first measures thousands of pictures


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_recipe_has_a_whole_checkpoint(name):
    if name not in checkpoints.available():
        pytest.skip(f"not trained yet: course train {name}")
    path = checkpoints.check(name)
    assert path.stat().st_size <= 32e6
    card = checkpoints.card(name)
    assert set(card) >= CARD
    recipe = recipes()[name]
    if recipe.lora:
        model = recipe.model().eval()
        set_adapter(model, *load_shipped_lora(name))
        learned = lora_parameters(model)
    else:
        model = checkpoints.load(name, UNTRAINED.get(name, recipe.model)())
        learned = model.parameters()
    assert sum(p.numel() for p in learned) == card["parameters"]
    assert not model.training and all(p.isfinite().all() for p in model.parameters())


def test_no_checkpoint_without_a_recipe():
    assert set(checkpoints.available()) <= set(recipes())
    assert [status for _, status in checkpoints.verify()] == ["ok"] * len(checkpoints.available())


def test_noise_predictor_opens_in_diffusers():
    """The weights inside the patches load strictly into UNet2DModel, which then answers the same."""
    from diffusers import UNet2DModel

    ours = checkpoints.load("noise-predictor", noise_predictor.model())
    theirs = UNet2DModel(
        sample_size=16,
        in_channels=12,
        out_channels=12,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=32,
        down_block_types=["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    )
    theirs.load_state_dict(ours.unet.state_dict(), strict=True)
    xt, t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([100, 900])
    with torch.inference_mode():
        peer = F.pixel_shuffle(theirs.eval()(F.pixel_unshuffle(xt, 2), t).sample, 2)
        assert (ours(xt, t) - peer).abs().max() < 1e-5


def test_noise_predictor_draws_on_white_paper_and_no_copies():
    """Drawings stay in range, have white corners like the data, and are no copies of training pictures."""
    model = checkpoints.load("noise-predictor", noise_predictor.model())
    xT = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = sample(ddim, model, xT, noise_predictor.SCHEDULE, steps=20, prediction=noise_predictor.PREDICTION)
    assert x.abs().max() < 1.2
    corners = torch.stack([x[:, :, i, j] for i in (0, -1) for j in (0, -1)])
    assert (corners > 0.7).float().mean() > 0.75
    known = torch.cat([p := noise_predictor.load_pictures(), p.flip(-1)]).flatten(1)
    nearest = torch.cdist(x.flatten(1), known).amin(1) / x[0].numel() ** 0.5
    assert nearest.median() > 0.1  # root mean square a pixel, of a range of 2


def test_a_denoised_picture_is_nearer_than_the_noisy_one():
    """On pictures that were never shown, the guess of x0 beats the best answer that ignores xt, the mean picture."""
    from course_utils.data import load_emoji, to_tensor
    from course_utils.generator.objectives import to_x0
    from course_utils.generator.schedules import add_noise

    x0 = to_tensor(load_emoji(32, groups=("smileys-emotion",), split="test").on_white())
    model, schedule = checkpoints.load("noise-predictor", noise_predictor.model()), noise_predictor.SCHEDULE
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    mean = noise_predictor.load_pictures().mean(0)
    for t, share in ((100, 0.1), (400, 0.35), (700, 0.8)):
        ts = torch.full((len(x0),), t)
        xt = add_noise(x0, eps, ts, schedule)
        with torch.inference_mode():
            guess = to_x0(model(xt, ts), xt, ts, schedule, noise_predictor.PREDICTION)
        assert F.mse_loss(guess, x0) < share * F.mse_loss(mean.expand_as(x0), x0), t

"""The U-Net and its parts equal diffusers' on random tiny weights: names, numbers, gradients."""

import pytest
import torch

from course_utils.generator.unet import Patched, UNet
from course_utils.layers import Attention, ResnetBlock2D, Transformer2D, sinusoidal_embedding

TOLERANCE = 1e-5


def randomise(module, seed=0):
    """Give every parameter a random value, zeros and ones included, so that no part can hide."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15 + 0.02)
    return module


def swap_weights(ours, theirs):
    """Load weights strictly both ways; after it both hold the same."""
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)


def compare(ours, theirs, call_ours, call_theirs):
    """Same outputs and same gradients of every parameter, within TOLERANCE of their size."""
    a, b = call_ours(ours), call_theirs(theirs)
    assert (a - b).abs().max() / b.abs().max() < TOLERANCE
    probe = torch.randn(a.shape, generator=torch.Generator().manual_seed(9))
    (a * probe).mean().backward()
    (b * probe).mean().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        peer = gradients[name].grad
        assert (parameter.grad - peer).abs().max() <= TOLERANCE * max(1.0, float(peer.abs().max())), name


@pytest.mark.parametrize(("flip", "shift", "dim"), [(True, 0, 32), (False, 1, 32), (True, 0, 33)])
def test_step_embedding(flip, shift, dim):
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0, 1, 17, 999])
    theirs = get_timestep_embedding(t, dim, flip_sin_to_cos=flip, downscale_freq_shift=shift)
    assert torch.allclose(sinusoidal_embedding(t, dim, flip, shift), theirs, atol=1e-6)


def test_residual_block():
    from diffusers.models.resnet import ResnetBlock2D as Peer

    theirs = randomise(Peer(in_channels=16, out_channels=32, temb_channels=24, groups=8, eps=1e-5))
    ours = ResnetBlock2D(16, 32, 24, groups=8)
    swap_weights(ours, theirs)
    x, temb = torch.randn(2, 16, 8, 8), torch.randn(2, 24)
    compare(ours, theirs, lambda m: m(x, temb), lambda m: m(x, temb))


@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention(masked):
    from diffusers.models.attention_processor import Attention as Peer

    theirs = randomise(Peer(query_dim=24, cross_attention_dim=20, heads=3, dim_head=8))
    ours = Attention(24, 3, 8, context_dim=20)
    swap_weights(ours, theirs)
    x, context = torch.randn(2, 10, 24), torch.randn(2, 7, 20)
    mask = torch.arange(7)[None] < torch.tensor([[7], [4]]) if masked else None
    wide = None if mask is None else mask[:, None, :].expand(-1, 3, -1).reshape(6, 1, 7)  # diffusers repeats by head
    compare(ours, theirs, lambda m: m(x, context, mask), lambda m: m(x, context, attention_mask=wide))


def test_spatial_transformer():
    from diffusers.models.transformers.transformer_2d import Transformer2DModel as Peer

    theirs = randomise(Peer(2, 16, in_channels=32, cross_attention_dim=20, norm_num_groups=8))
    ours = Transformer2D(32, 2, 20, groups=8)
    swap_weights(ours, theirs)
    x, context = torch.randn(2, 32, 6, 6), torch.randn(2, 7, 20)
    compare(ours, theirs, lambda m: m(x, context), lambda m: m(x, encoder_hidden_states=context).sample)


UNCONDITIONAL = [
    {"attention": (False, True), "classes": None, "size": 16},
    {"attention": (True, True), "classes": 5, "size": 12},
    {"attention": (False, False), "classes": None, "size": 16},
]


@pytest.mark.parametrize("case", UNCONDITIONAL)
def test_unconditional_unet(case):
    from diffusers import UNet2DModel

    theirs = UNet2DModel(
        sample_size=case["size"],
        block_out_channels=(16, 32),
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=8,
        num_class_embeds=case["classes"],
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in case["attention"]],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(case["attention"])],
    )
    randomise(theirs)
    ours = UNet(channels=(16, 32), attention=case["attention"], groups=8, head_dim=8, num_classes=case["classes"])
    swap_weights(ours, theirs)
    x, t = torch.randn(3, 3, case["size"], case["size"]), torch.tensor([0, 500, 999])
    labels = None if case["classes"] is None else torch.tensor([0, 4, 2])
    compare(ours, theirs, lambda m: m(x, t, class_labels=labels), lambda m: m(x, t, class_labels=labels).sample)


CONDITIONAL = [
    {"attention": (True, True), "mid": True, "added": None, "classes": None, "size": 16, "masked": False},
    {"attention": (False, True), "mid": True, "added": 12, "classes": None, "size": 16, "masked": True},
    {"attention": (True, True, False), "mid": True, "added": None, "classes": 4, "size": 20, "masked": False},
]


@pytest.mark.parametrize("case", CONDITIONAL)
def test_conditional_unet(case):
    from diffusers import UNet2DConditionModel

    channels = (16, 32, 32)[: len(case["attention"])]
    theirs = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=2,
        cross_attention_dim=20,
        num_class_embeds=case["classes"],
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in case["attention"]],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(case["attention"])],
        addition_embed_type="image" if case["added"] else None,
        encoder_hid_dim=case["added"],
    )
    theirs.encoder_hid_proj = None  # the extra vector goes to the step alone, not to the context
    randomise(theirs)
    ours = UNet(
        4,
        4,
        channels,
        attention=case["attention"],
        num_heads=2,
        groups=8,
        context_dim=20,
        num_classes=case["classes"],
        added_dim=case["added"],
    )
    swap_weights(ours, theirs)
    x, t = torch.randn(2, 4, case["size"], case["size"]), torch.tensor([3, 700])
    context = torch.randn(2, 7, 20)
    mask = torch.arange(7)[None] < torch.tensor([[7], [4]]) if case["masked"] else None
    labels = None if case["classes"] is None else torch.tensor([0, 3])
    added = None if case["added"] is None else torch.randn(2, case["added"])
    compare(
        ours,
        theirs,
        lambda m: m(x, t, context, mask, labels, added),
        lambda m: (
            m(
                x,
                t,
                context,
                class_labels=labels,
                encoder_attention_mask=mask,
                added_cond_kwargs=None if added is None else {"image_embeds": added},
            ).sample
        ),
    )


def test_sizes_of_the_papers():
    """DDPM's CIFAR network and Stable Diffusion's have as many parameters as published code."""
    with torch.device("meta"):
        cifar = UNet(channels=(128, 256, 256, 256), attention=(False, True, False, False), num_heads=1)
        stable = UNet(4, 4, (320, 640, 1280, 1280), attention=(True, True, True, False), num_heads=8, context_dim=768)
    assert sum(p.numel() for p in cifar.parameters()) == 35_746_307
    assert sum(p.numel() for p in stable.parameters()) == 859_520_964


def test_patches_lose_nothing():
    """With a network that answers its input, folding into patches and back is the identity."""

    class Echo(torch.nn.Module):
        def forward(self, x, t):
            assert x.shape[1:] == (12, 4, 4)
            return x

    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(Patched(Echo())(x, torch.zeros(2)), x)


def test_levels_must_agree():
    with pytest.raises(ValueError, match="one entry a level"):
        UNet(channels=(16, 32), attention=(True,))

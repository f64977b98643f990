"""The DiT equals diffusers' parts on random tiny weights, starts as the identity, reads words alone, and learns."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from course_utils import checkpoints, cli
from course_utils.errors import InputError
from course_utils.generator.dit import DiT, DiTBlock, PatchEmbed, TimeTextEmbedding, sincos_positions, unpatchify
from course_utils.generator.flow import Flow, euler
from course_utils.generator.samplers import sample
from course_utils.recipes import dit_flow
from course_utils.recipes import stable_diffusion_clip as text
from course_utils.recipes.catalog import find
from course_utils.systems import dit_flow as system
from course_utils.systems import stable_diffusion_clip as wide
from course_utils.text_encoder.tokenizer import PAD_ID
from course_utils.training import train
from tests.test_peers_unet import TOLERANCE, compare, randomise, swap_weights
from tests.test_stable_diffusion import PROMPTS, random
from tests.test_stable_diffusion_clip import few, seeded, shop  # noqa: F401 (fixtures)

DIM, HEADS, CONTEXT, POOLED, LENGTH = 24, 3, 20, 12, 7


def tiny(**options):
    return DiT(4, 2, DIM, 2, HEADS, CONTEXT, POOLED, **options)


def told(count=2, length=LENGTH, seed=0):
    """Context, mask and pooled text of captions of different lengths."""
    mask = torch.arange(length)[None] < torch.tensor([LENGTH, LENGTH - 3])[:count, None]
    return random(count, length, CONTEXT, seed=seed), mask, random(count, POOLED, seed=seed + 1)


# ------------------------------------------------------------------ diffusers' parts
class Given(nn.Module):
    """Stands where diffusers computes the step embedding, one for each block, and passes on the one it is given."""

    def forward(self, temb, *_, **__):
        return temb


def peer_block():
    """A block of diffusers whose step embedding comes from outside, as Stable Diffusion 3's does."""
    from diffusers.models.attention import BasicTransformerBlock

    block = BasicTransformerBlock(
        DIM, HEADS, DIM // HEADS, cross_attention_dim=CONTEXT, activation_fn="gelu-approximate", attention_bias=True,
        num_embeds_ada_norm=1, norm_type="ada_norm_zero", norm_elementwise_affine=False, norm_eps=1e-6,
    )  # fmt: skip
    block.norm1.emb = Given()
    return block


@pytest.mark.parametrize("masked", [False, True])
def test_block(masked):
    theirs, ours = randomise(peer_block()), DiTBlock(DIM, HEADS, CONTEXT)
    swap_weights(ours, theirs)
    x, temb, (context, mask, _) = random(2, 9, DIM), random(2, DIM, seed=1), told()
    bias = (~mask[:, None]).float() * -1e4 if masked else None
    compare(
        ours,
        theirs,
        lambda m: m(x, temb, context, mask if masked else None),
        lambda m: m(x, encoder_hidden_states=context, encoder_attention_mask=bias, timestep=temb),
    )


@pytest.mark.parametrize("side", [4, 8, 16])
def test_patches_and_their_places(side):
    from diffusers.models.embeddings import PatchEmbed as Peer
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    theirs, ours = randomise(Peer(side, side, 2, 4, DIM)), PatchEmbed(4, 2, DIM)
    swap_weights(ours, theirs)
    x = random(2, 4, side, side)
    compare(ours, theirs, lambda m: m(x), lambda m: m(x))
    places = get_2d_sincos_pos_embed(DIM, side // 2, base_size=side // 2)
    assert (sincos_positions(side // 2, side // 2, DIM) - places).abs().max() < TOLERANCE


def test_step_and_pooled_text():
    """The vector of step and text is Stable Diffusion 3's."""
    from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings

    theirs, ours = randomise(CombinedTimestepTextProjEmbeddings(DIM, POOLED)), TimeTextEmbedding(POOLED, DIM)
    swap_weights(ours, theirs)
    t, pooled = torch.tensor([0.5, 617.25, 1000.0]), random(3, POOLED)
    compare(ours, theirs, lambda m: m(t, pooled), lambda m: m(t, pooled))


def test_the_whole_is_diffusers_dit_with_text():
    """All but the step embedding is `DiTTransformer2DModel`, whose blocks are given the captions: both ways."""
    from diffusers import DiTTransformer2DModel

    (context, mask, pooled), zt, t = told(), random(2, 4, 8, 8), torch.tensor([3.0, 900.0])

    def read(block, args, kwargs):  # diffusers' DiT knows classes and no captions, so its blocks get them in this way
        bias = (~mask[:, None]).float() * -1e4
        return args, kwargs | {"encoder_hidden_states": context, "encoder_attention_mask": bias}

    theirs = DiTTransformer2DModel(
        HEADS, DIM // HEADS, in_channels=4, num_layers=2, sample_size=8, patch_size=2, num_embeds_ada_norm=1
    )
    theirs.transformer_blocks = nn.ModuleList([peer_block() for _ in range(2)])
    for block in theirs.transformer_blocks:
        block.register_forward_pre_hook(read, with_kwargs=True)
    randomise(theirs)
    ours = randomise(tiny(), seed=1)
    step = {f"time_text_embed.{key}": value for key, value in ours.time_text_embed.state_dict().items()}
    ours.load_state_dict({**theirs.state_dict(), **step}, strict=True)
    theirs.load_state_dict({k: v for k, v in ours.state_dict().items() if k not in step}, strict=True)
    with torch.no_grad():
        peer = theirs(zt, timestep=ours.time_text_embed(t, pooled)).sample
        assert (ours(zt, t, context, mask, pooled) - peer).abs().max() < TOLERANCE * peer.abs().max()


# ------------------------------------------------------------------ properties
def test_patches_go_back_where_they_were():
    x = random(2, 4, 6, 10)
    tokens = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 4, 5, 1).reshape(2, 15, 16)  # (B, h w, p q C)
    assert torch.equal(unpatchify(tokens, 3, 5, 2), x)


@torch.no_grad()
def test_untrained_it_is_the_identity_and_says_nothing():
    dit, (context, mask, pooled), x = tiny(), told(), random(2, 9, DIM)
    for block in dit.transformer_blocks:
        assert torch.equal(block(x, random(2, DIM), context, mask), x)
    assert not dit(random(2, 4, 8, 8), torch.tensor([3, 900]), context, mask, pooled).any()


@torch.no_grad()
def test_filling_captions_up_changes_nothing():
    dit, zt, t = randomise(tiny()).eval(), random(2, 4, 8, 8), torch.tensor([3.0, 900.0])
    context, mask, pooled = told()
    plain = dit(zt, t, context, mask, pooled)
    longer = torch.cat([context, 9 * random(2, 5, CONTEXT)], dim=1), torch.cat([mask, mask.new_zeros(2, 5)], dim=1)
    other = torch.where(mask[..., None], context, 9 * random(2, LENGTH, CONTEXT, seed=5))
    for filled in (longer, (other, mask)):
        assert torch.allclose(dit(zt, t, *filled, pooled), plain, atol=1e-5)
    alone = dit(zt[1:], t[1:], context[1:, : LENGTH - 3], None, pooled[1:])
    assert torch.allclose(alone, plain[1:], atol=1e-5)


@torch.no_grad()
def test_step_words_and_pooled_text_are_all_heard():
    dit, zt, t = randomise(tiny()).eval(), random(2, 4, 8, 8), torch.tensor([500.0, 500.0])
    context, mask, pooled = told()
    plain = dit(zt, t, context, mask, pooled)
    for changed in ((t + 100, context, mask, pooled), (t, -context, mask, pooled), (t, context, mask, -pooled)):
        assert not torch.allclose(dit(zt, *changed), plain, atol=1e-3)


def test_it_costs_what_the_unet_does():
    from torch.utils.flop_counter import FlopCounterMode

    cost = {}
    one, t, context = random(1, 4, 16, 16), torch.tensor([3]), random(1, 32, wide.CONTEXT_DIM)
    for network, more in ((wide.make_unet(), ()), (system.make_dit(), (None, random(1, wide.CONTEXT_DIM)))):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(one, t, context, *more)
        cost[type(network).__name__] = counter.get_total_flops()
    assert abs(cost["DiT"] / cost["LatentUNet"] - 1) < 0.05, cost
    assert 11e6 < sum(p.numel() for p in system.make_dit().parameters()) < 13e6


# ------------------------------------------------------------------ the recipe
def test_it_is_shown_what_stable_diffusion_clip_is(few):  # noqa: F811
    recipe, other = find(system.NAME), find(wide.NAME)
    assert recipe.requires == other.requires and recipe.time_share == other.time_share
    mine, theirs = recipe.batch(seeded(3), 16), other.batch(seeded(3), 16)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def small_dit():
    return DiT(4, 2, 32, 2, 2, wide.CONTEXT_DIM, wide.CONTEXT_DIM)


def test_a_step_reaches_every_weight_and_not_the_text_encoder(few):  # noqa: F811
    recipe, network = find(system.NAME), randomise(small_dit())
    dit_flow.loss(network, recipe.batch(seeded(), 8), seeded(1)).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(p.grad is None for p in text.text_encoder(torch.device("cpu")).parameters())


def test_a_tiny_one_learns(few):  # noqa: F811
    """Forty steps on few examples: a fixed draw of noises and times costs less than at the start."""
    recipe = replace(find(system.NAME), model=small_dit, lr=3e-3, warmup=0, batch_size=32)
    shown = recipe.batch(seeded(7), 64)
    before = float(recipe.loss(small_dit(), shown, seeded(8)).detach())
    for state in train(recipe, minutes=5, device="cpu"):
        if state.step == 40:
            break
    with torch.no_grad():
        after = float(recipe.loss(state.model, shown, seeded(8)))
    assert after < 0.9 * before, (before, after)


# ------------------------------------------------------------------ drawing
@torch.inference_mode()
def test_it_draws_latents_of_prompts_with_guidance(shop):  # noqa: F811
    encoder, dit, zT = wide.open_text_encoder(folder=shop), randomise(small_dit()).eval(), random(2, 4, 8, 8)
    flow, negative = Flow(shift=2.0), "red"
    *_, last = system.draw_flow(dit, encoder, zT, PROMPTS[:2], 3, 2.5, negative, flow)

    def by_hand(xt, t):
        uncond, cond = (dit(xt, t, *system.encode_prompts(encoder, p)) for p in ([negative] * 2, PROMPTS[:2]))
        return uncond + 2.5 * (cond - uncond)

    assert last.step == 3 and torch.allclose(last.xt, sample(euler, by_hand, zT, flow, steps=3), atol=1e-3)
    *_, alone = system.draw_flow(dit, encoder, zT[1:], PROMPTS[1], 3, 2.5, negative, flow)
    assert torch.allclose(alone.xt, last.xt[1:], atol=1e-3), "each prompt is drawn alone"
    *_, empty = system.draw_flow(dit, encoder, zT, PROMPTS[:2], 3, 2.5)
    *_, plain = system.draw_flow(dit, encoder, zT, PROMPTS[:2], 3, 1.0)
    assert not torch.allclose(empty.xt, last.xt, atol=1e-2) and not torch.allclose(plain.xt, empty.xt, atol=1e-2)


def test_course_train_makes_a_checkpoint_that_draws(few, shop, capsys):  # noqa: F811
    """The command runs, its card names both parents, and what it saved draws the same for the same seed."""
    order = ["train", system.NAME, "--minutes", "0.01", "--device", "cpu", "--run-dir", str(few)]
    assert cli.main(order) == 0 and f"{system.NAME}: " in capsys.readouterr().out
    card = checkpoints.card(system.NAME, shop)
    assert card["parents"] == {name: checkpoints.card(name, shop)["sha256"] for name in (wide.VAE_NAME, "clip")}
    assert checkpoints.check(system.NAME, shop).stat().st_size < 25e6
    opened = system.open_dit_flow(folder=shop)
    pictures = opened.draw(PROMPTS[:2], seed=3, steps=2)
    assert pictures.shape == (2, 64, 64, 3) and pictures.dtype.name == "uint8"
    assert (pictures == opened.draw(PROMPTS[:2], seed=3, steps=2)).all()


def test_what_cannot_be_drawn_is_said(shop):  # noqa: F811
    encoder, dit = wide.open_text_encoder(folder=shop), small_dit()
    for prompts, options, said in [
        (7, {}, "text"),
        (["a", "b", "c"], {}, "noises"),
        ("a", {"steps": 0}, "steps"),
        ("a", {"guidance": 99}, "guidance"),
        ("a", {"negative": ["x", "y", "z"]}, "negative"),
        ("a", {"flow": Flow(shift=0)}, "shift"),
    ]:
        with pytest.raises(InputError, match=said):
            list(system.draw_flow(dit, encoder, random(2, 4, 8, 8), prompts, **options))


def test_the_filling_of_captions_is_not_read(shop):  # noqa: F811
    encoder = wide.open_text_encoder(folder=shop)
    ids = wide.StableDiffusion.__dataclass_fields__["tokenize"].default([*PROMPTS[:2], ""])
    with torch.no_grad():
        read = system.encode_text(encoder, ids)
    words = (ids != PAD_ID).sum(dim=1)
    assert read.context.shape[1] == words.max() < ids.shape[1] and torch.equal(read.context_mask.sum(dim=1), words)
    ends = read.context[torch.arange(3), words - 1]
    assert torch.equal(read.pooled, ends), "the pooled vector is the last token's"

"""DALL·E 2's parts against diffusers and transformers on random tiny weights, and by hand where there is no peer."""

import math

import pytest
import torch
import torch.nn.functional as F

from course_utils.decoder.unclip import TOKENS, TextProjection, UnCLIPDecoder
from course_utils.errors import InputError
from course_utils.generator.guidance import apply_guidance
from course_utils.generator.prior_ar import ARPrior, ar_loss, make_buckets, pca, pick, sample_codes
from course_utils.generator.prior_diffusion import EXTRA, PriorTransformer, guided_prior, keep_better
from course_utils.generator.samplers import ddpm, sample
from course_utils.generator.schedules import make_schedule
from course_utils.generator.unet import UNet
from tests.test_peers_unet import compare, randomise, swap_weights

D, LENGTH, DIM = 12, 7, 16
SCHEDULE = make_schedule("cosine")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return F.normalize(random(*shape, seed=seed), dim=-1)


def captions(n=3, length=LENGTH, seed=0):
    """Context, mask and vector of n captions, each one token shorter than the one before."""
    mask = torch.arange(length)[None] < torch.tensor([length - i for i in range(n)])[:, None]
    return random(n, length, D, seed=seed), mask, unit(n, D, seed=seed + 1)


# ------------------------------------------------------------------ the diffusion prior
@pytest.fixture
def priors():
    """Our prior and diffusers', with the same random weights."""
    from diffusers import PriorTransformer as Peer

    theirs = Peer(
        num_attention_heads=2, attention_head_dim=8, num_layers=3, embedding_dim=D, num_embeddings=LENGTH
    )  # with clip_mean and clip_std random too: diffusers starts them at zero
    ours = PriorTransformer(D, LENGTH, DIM, num_layers=3, num_heads=2)
    swap_weights(ours, randomise(theirs))
    return ours, theirs


def answer(theirs, xt, t, context, mask, text_embed):
    """What diffusers' prior says; without a mask it would not even be causal."""
    return theirs(xt, t, text_embed, context, attention_mask=mask).predicted_image_embedding


def test_prior_transformer(priors):
    xt, t, text = random(3, D, seed=5), torch.tensor([0, 400, 999]), captions()
    ours, theirs = priors
    ours.requires_grad_(True)  # mean and scale too, which no training changes
    compare(ours_without_scale(ours), theirs, lambda m: m(xt, t, *text), lambda m: answer(m, xt, t, *text))


def ours_without_scale(prior):
    """The prior as it is, its two constants left out of the comparison: no answer depends on them."""
    prior.clip_mean.requires_grad_(False)
    prior.clip_std.requires_grad_(False)
    named = prior.named_parameters
    prior.named_parameters = lambda: ((name, p) for name, p in named() if p.requires_grad)
    return prior


def test_vectors_are_scaled_as_diffusers_does(priors):
    ours, theirs = priors
    x0 = random(4, D)
    assert torch.allclose(ours.unscale(x0), F.normalize(theirs.post_process_latents(x0), dim=-1), atol=1e-6)
    assert torch.allclose(ours.scale(theirs.post_process_latents(x0)), x0, atol=1e-4)
    fresh, vectors = PriorTransformer(D, LENGTH, DIM, 1, 2), unit(100, D)
    assert torch.allclose(fresh.scale(vectors), vectors * math.sqrt(D)) and fresh.scale(
        vectors
    ).square().mean() == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(fresh.unscale(fresh.scale(vectors)), vectors, atol=1e-6)


def test_padding_may_be_cut_off(priors):
    ours, _ = priors
    context, mask, text_embed = captions()
    mask[:, 4:] = False
    args = random(3, D), torch.tensor([5, 50, 500])
    whole, cut = ours(*args, context, mask, text_embed), ours(*args, context[:, :4], mask[:, :4], text_embed)
    assert torch.allclose(whole, cut, atol=1e-6)


def test_no_token_sees_a_later_one(priors):
    """A change of token i leaves what the blocks give for tokens before i as it was, and changes the query's answer."""
    ours, _ = priors
    context, mask, text_embed = captions(1)
    seen = []
    ours.transformer_blocks[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    args = random(1, D), torch.tensor([300])
    with torch.no_grad():
        first = ours(*args, context, mask, text_embed)
        for i in range(LENGTH):
            other = context.clone()
            other[:, i] += 1
            changed = ours(*args, other, mask, text_embed)
            assert torch.allclose(seen[0][:, :i], seen[-1][:, :i], atol=1e-6), i
            assert not torch.allclose(seen[0][:, i:], seen[-1][:, i:], atol=1e-4), i
            assert not torch.allclose(first, changed, atol=1e-5), i
        ours(random(1, D, seed=3), args[1], context, mask, text_embed)
        assert torch.allclose(seen[0][:, :-2], seen[-1][:, :-2], atol=1e-6), "only the noised vector and the query"
    assert seen[0].shape[1] == LENGTH + EXTRA


def test_steps_are_those_of_unclip(priors):
    """Our DDPM with "linspace" walks as UnCLIPScheduler does, from the same noise with the same generator."""
    from diffusers import UnCLIPScheduler

    ours, theirs = priors
    text, xT = captions(), random(3, D, seed=8)
    scheduler = UnCLIPScheduler(prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(9)
    assert torch.allclose(scheduler.betas, SCHEDULE.beta.float(), atol=1e-6)
    scheduler.betas, scheduler.alphas = SCHEDULE.beta, 1 - SCHEDULE.beta  # in double precision: 1 - alpha_bar is
    scheduler.alphas_cumprod = SCHEDULE.alpha_bar  # 4e-5 at the first step, of which single precision keeps 3 digits
    generator, xt, table = torch.Generator().manual_seed(4), xT, scheduler.timesteps.tolist()
    with torch.no_grad():
        for t, before in zip(table, [*table[1:], None]):
            pred = answer(theirs, xt, torch.tensor(t), *text)
            xt = scheduler.step(pred, t, xt, prev_timestep=before, generator=generator).prev_sample
    made = sample(
        ddpm, lambda x, t: ours(x, t, *text), xT, SCHEDULE, steps=9, prediction="x0", clip=False, spacing="linspace",
        generator=torch.Generator().manual_seed(4),
    )  # fmt: skip
    assert (made - xt).abs().max() < 1e-5 * xt.abs().max()


def test_guidance_of_the_prior(priors):
    ours, _ = priors
    text, away, xt, t = captions(), captions(length=2, seed=7), random(3, D), torch.tensor([1, 10, 100])
    away[1][:] = True
    with torch.no_grad():
        wanted = apply_guidance(ours(xt, t, *away), ours(xt, t, *text), 3.0)
        assert torch.allclose(guided_prior(ours, text, 3.0, away)(xt, t), wanted, atol=1e-5)
        assert torch.equal(guided_prior(ours, text, 1.0, away)(xt, t), ours(xt, t, *text))


def test_the_better_of_two_is_kept():
    text_embed = unit(2, D)
    draws = torch.stack([unit(2, D, seed=3), text_embed], dim=1)  # (2, 2, D): the second is the best there can be
    assert torch.equal(keep_better(draws, text_embed), text_embed)
    assert torch.equal(keep_better(draws.flip(1), text_embed), text_embed)
    assert torch.equal(keep_better(draws[:, :1], text_embed), draws[:, 0])


# ------------------------------------------------------------------ PCA and buckets
def test_pca_is_that_of_numpy_and_keeps_the_share():
    import numpy as np

    x = random(400, D) * torch.linspace(3, 0.05, D) @ torch.linalg.qr(random(D, D, seed=2)).Q + 1
    mean, components = pca(x, 0.9)
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T))
    assert torch.allclose(mean, x.mean(0), atol=1e-6)
    assert torch.allclose(components @ components.T, torch.eye(len(components)), atol=1e-5)
    for direction, peer in zip(components, vectors.T[::-1]):
        assert abs(float(direction @ torch.from_numpy(peer.copy()).float())) == pytest.approx(1, abs=1e-4)
        assert direction[direction.abs().argmax()] > 0
    held = values[::-1].cumsum() / values.sum()
    assert held[len(components) - 1] >= 0.9 > held[len(components) - 2]
    assert len(pca(x, 1.0)[1]) == D
    spread = ((x - mean) @ components.T).var(dim=0)
    assert (spread.diff() <= 1e-4).all(), "ordered by eigenvalue"
    with pytest.raises(InputError, match="share of the variance"):
        pca(x, 0.0)


def test_buckets_are_equally_full_and_stand_for_their_mean():
    x = random(1000, 2)
    edges, centers = make_buckets(x, 8)
    assert edges.shape == (2, 7) and centers.shape == (2, 8) and (edges.diff(dim=1) > 0).all()
    codes = torch.searchsorted(edges, x.T.contiguous())
    for k in range(2):
        assert codes[k].bincount().tolist() == [125] * 8
        for value in range(8):
            assert centers[k, value] == pytest.approx(float(x[codes[k] == value, k].mean()), abs=1e-5)
    with pytest.raises(InputError, match="not 8"):
        make_buckets(x[:7], 8)


def test_a_noise_picks_by_probability():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    noise = random(20_000)
    shares = pick(logits.expand(len(noise), -1), noise).bincount(minlength=4) / len(noise)
    assert torch.allclose(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.015)
    upper = pick(logits.expand(len(noise), -1), noise, upper_half=True).bincount(minlength=4) / len(noise)
    assert torch.allclose(upper, torch.tensor([0, 0, 0.2, 0.8]), atol=0.015)  # .1 of .3 lies above the middle
    assert pick(logits[None], torch.tensor([9.0])) == 3 and pick(logits[None], torch.tensor([-9.0])) == 0


# ------------------------------------------------------------------ the autoregressive prior
@pytest.fixture
def ar():
    """A tiny autoregressive prior, fitted to vectors that fill few directions."""
    torch.manual_seed(0)
    image_embed = F.normalize(random(500, D) * torch.linspace(2, 0.1, D) + 0.5, dim=-1)
    prior = ARPrior(len(pca(image_embed)[1]), 20, D, LENGTH, DIM, num_layers=2, num_heads=2)
    for weight in prior.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.3)
    return prior.fit(image_embed, unit(500, D, seed=2)).eval(), image_embed


def test_codes_lose_little_and_the_first_says_the_cosine(ar):
    prior, image_embed = ar
    text_embed = unit(500, D, seed=2)
    codes = prior.encode(image_embed, text_embed)
    assert codes.shape == (500, prior.num_codes) and codes.min() == 0 and codes.max() == 19
    assert F.cosine_similarity(prior.decode(codes), image_embed).mean() > 0.98
    dot = (image_embed * text_embed).sum(-1)
    told = prior.centers[0, codes[:, 0]]
    assert torch.corrcoef(torch.stack([dot, told]))[0, 1] > 0.99
    worse = [F.cosine_similarity(prior.decode(codes[:, :k]), image_embed).mean() for k in range(1, prior.num_codes + 1)]
    assert all(a <= b + 1e-4 for a, b in zip(worse, worse[1:])), "every direction brings it nearer"
    other = ARPrior(prior.num_codes, 20, D, LENGTH, DIM, 1, 2)
    with pytest.raises(InputError, match="directions, not"):
        other.fit(image_embed, text_embed)


def test_no_code_knows_a_later_one(ar):
    prior, _ = ar
    context, _, text_embed = captions(2)
    codes = torch.randint(20, (2, prior.num_codes - 1), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = prior(codes, context, text_embed)
        assert first.shape == (2, prior.num_codes, 20)
        for i in range(codes.shape[1]):
            other = codes.clone()
            other[:, i] = (other[:, i] + 1) % 20
            changed = prior(other, context, text_embed)
            assert torch.allclose(first[:, : i + 1], changed[:, : i + 1], atol=1e-5)
            assert not torch.allclose(first[:, i + 1], changed[:, i + 1], atol=1e-5)
            assert torch.allclose(first[:, : i + 1], prior(codes[:, :i], context, text_embed), atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_cached_sampling_is_full_sampling(ar, scale):
    """What is drawn with kept keys and values is what is drawn when everything is computed anew for each code."""
    prior, _ = ar
    (context, _, text_embed), (no_text, _, no_embed) = captions(3), captions(3, seed=9)
    noise = random(3, prior.num_codes, seed=6)
    *states, last = sample_codes(prior, noise, context, text_embed, scale, (no_text, no_embed))
    assert [state.step for state in [*states, last]] == list(range(1, prior.num_codes + 1))
    codes = torch.empty(3, 0, dtype=torch.long)
    with torch.no_grad():
        for number in range(prior.num_codes):
            logits = prior(codes, context, text_embed)[:, -1]
            if scale != 1:
                logits = apply_guidance(prior(codes, no_text, no_embed)[:, -1], logits, scale)
            codes = torch.cat([codes, pick(logits, noise[:, number], number == 0)[:, None]], dim=1)
    assert torch.equal(last.xt, prior.decode(codes))
    *_, alone = sample_codes(prior, noise[1:2], context[1:2], text_embed[1:2], scale, (no_text[1:2], no_embed[1:2]))
    assert torch.allclose(alone.xt, last.xt[1:2], atol=1e-6), "each caption is drawn alone"


def test_the_transformer_is_gpt2s(ar):
    """Our layers with CLIP's names answer as GPT-2's do, whose matrices lie the other way."""
    from transformers import GPT2Config, GPT2Model

    prior, _ = ar
    config = GPT2Config(
        vocab_size=1, n_positions=LENGTH + prior.num_codes, n_embd=DIM, n_layer=2, n_head=2,
        activation_function="quick_gelu",
    )  # fmt: skip
    theirs, state = GPT2Model(config).eval(), {"wte.weight": torch.zeros(1, DIM)}
    state["wpe.weight"] = prior.position_embedding.weight.data
    state |= {f"ln_f.{p}": getattr(prior.final_layer_norm, p).data for p in ("weight", "bias")}
    for i, layer in enumerate(prior.encoder.layers):
        attention, mlp = layer.self_attn, layer.mlp
        modules = {
            "ln_1": [layer.layer_norm1], "ln_2": [layer.layer_norm2], "mlp.c_fc": [mlp.fc1], "mlp.c_proj": [mlp.fc2],
            "attn.c_attn": [attention.q_proj, attention.k_proj, attention.v_proj], "attn.c_proj": [attention.out_proj],
        }  # fmt: skip
        for name, parts in modules.items():
            weight = torch.cat([part.weight.data for part in parts])
            state[f"h.{i}.{name}.weight"] = weight.T.contiguous() if weight.ndim == 2 else weight
            state[f"h.{i}.{name}.bias"] = torch.cat([part.bias.data for part in parts])
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith((".attn.bias", ".attn.masked_bias")) for name in missing)
    context, _, text_embed = captions(2)
    codes = torch.randint(20, (2, prior.num_codes - 1), generator=torch.Generator().manual_seed(0))
    x = torch.cat([prior.prefix(context, text_embed), prior.embed_codes(codes)], dim=1)
    with torch.no_grad():
        mine = prior.final_layer_norm(prior.encoder(x + prior.place(0, x.shape[1])))
        assert torch.allclose(mine, theirs(inputs_embeds=x).last_hidden_state, atol=1e-4)


def test_a_blind_guess_costs_ln_of_the_buckets(ar):
    prior, image_embed = ar
    prior.head.weight.data.zero_()
    prior.head.bias.data.zero_()
    context, _, _ = captions(8, length=8)
    loss = ar_loss(prior, image_embed[:8], context[:, :LENGTH], unit(8, D, seed=2))
    assert float(loss.detach()) == pytest.approx(math.log(20), abs=1e-5)


# ------------------------------------------------------------------ the decoder's conditions
TIME, CONTEXT = 64, 20


def projections():
    """Our projection and diffusers', with the same random weights."""
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    theirs = UnCLIPTextProjModel(
        clip_extra_context_tokens=TOKENS, clip_embeddings_dim=D, time_embed_dim=TIME, cross_attention_dim=CONTEXT
    )
    ours = TextProjection(D, TIME, CONTEXT)
    swap_weights(ours, randomise(theirs))
    return ours, theirs


def test_text_projection():
    ours, theirs = projections()
    image_embed, (context, _, text_embed) = unit(3, D, seed=4), captions()

    def peer(guided, images, hidden, vector):
        return theirs(
            image_embeddings=images, prompt_embeds=vector, text_encoder_hidden_states=hidden,
            do_classifier_free_guidance=guided,
        )  # fmt: skip

    for mine, told in zip(ours(image_embed, context, text_embed), peer(False, image_embed, context, text_embed)):
        assert torch.allclose(mine, told, atol=1e-5)
    both = [torch.cat([x, x]) for x in (context, text_embed)]
    images = torch.cat([ours.no_image(3), image_embed])
    for mine, told in zip(ours(images, *both), peer(True, image_embed, *both)):
        assert torch.allclose(mine, told, atol=1e-5)


def test_decoder_is_diffusers_unet_with_identity_class_embedding():
    from diffusers import UNet2DConditionModel

    projection, peer_projection = projections()
    theirs = UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=CONTEXT, attention_head_dim=4, class_embed_type="identity",
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
    )  # fmt: skip
    unet = UNet(4, 4, (16, 32), 1, (False, True), num_heads=4, groups=8, context_dim=CONTEXT)
    unet.add_embedding = torch.nn.Identity()
    swap_weights(unet, randomise(theirs))
    ours = UnCLIPDecoder(unet, D, TIME, CONTEXT)
    ours.text_proj = projection
    xt, t, image_embed, (context, mask, text_embed) = (
        random(3, 4, 8, 8),
        torch.tensor([0, 9, 999]),
        unit(3, D),
        captions(),
    )
    with torch.no_grad():
        tokens, added = peer_projection(
            image_embeddings=image_embed, prompt_embeds=text_embed, text_encoder_hidden_states=context,
            do_classifier_free_guidance=False,
        )  # fmt: skip
        wide = F.pad(mask, (TOKENS, 0), value=True)
        wanted = theirs(xt, t, tokens, class_labels=added, encoder_attention_mask=wide).sample
        made = ours(xt, t, image_embed, context, mask, text_embed)
        assert (made - wanted).abs().max() < 1e-5 * wanted.abs().max()
        assert not torch.allclose(made, ours(xt, t, unit(3, D, seed=1), context, mask, text_embed), atol=1e-3)


def test_a_hidden_image_vector_is_one_that_learns():
    class Told(torch.nn.Module):
        def forward(self, xt, t, context, context_mask, added):
            return added

    decoder = UnCLIPDecoder(Told(), D, TIME, CONTEXT)
    torch.nn.init.ones_(decoder.text_proj.learned_classifier_free_guidance_embeddings)
    image_embed, text = unit(3, D), captions()
    dropped = torch.tensor([False, True, False])
    made = decoder(random(3, 4), torch.zeros(3), image_embed, *text, dropped=dropped)
    image_embed[1] = 1
    assert torch.allclose(made, decoder(random(3, 4), torch.zeros(3), image_embed, *text))
    made.sum().backward()
    assert decoder.text_proj.learned_classifier_free_guidance_embeddings.grad.abs().min() > 0

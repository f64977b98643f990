"""DALL·E 2 as a system, its recipes and its table: random networks of the shipped sizes, few steps, few pictures."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from course_utils import checkpoints, cli
from course_utils.app.vary import vary_picture
from course_utils.data import load_emoji, to_tensor
from course_utils.datasets import latent_cache
from course_utils.decoder.vae import VAE
from course_utils.errors import CheckpointError, InputError
from course_utils.evaluation import report_prior
from course_utils.evaluation.report_prior import Captions, fit_linear, fit_mlp, measure, width
from course_utils.generator.guidance import apply_guidance
from course_utils.generator.prior_ar import pca
from course_utils.generator.prior_diffusion import keep_better
from course_utils.generator.samplers import dpmpp_2m
from course_utils.recipes import prior_ar, prior_base, prior_diffusion, unclip_decoder
from course_utils.systems.clip import make_clip
from course_utils.systems.dalle2 import DALLE2, PRIORS, VAE_NAME, cut_padding, make_ar_prior, make_decoder, make_prior
from course_utils.systems.registry import SYSTEMS, open_system
from course_utils.systems.stage import System
from course_utils.training import train

CPU = torch.device("cpu")
PROMPTS = ["cat", "a red car in the snow", "狗"]


def lively(network, seed=0):
    """Random weights in the place of those that begin at zero, so that every input shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad and weight.abs().max() == 0:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module")
def system():
    """A DALL·E 2 that has learnt nothing."""
    torch.manual_seed(0)
    clip, vae = (network.eval().requires_grad_(False) for network in (make_clip(), VAE()))
    return DALLE2(clip, lively(make_prior()), lively(make_decoder()), vae, 0.5)


@pytest.fixture(scope="module")
def ar():
    """An autoregressive prior of five directions, fitted to vectors that fill five."""
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(1)
    spread = torch.zeros(192)
    spread[:5] = torch.tensor([1.0, 0.8, 0.6, 0.5, 0.4])
    vectors = F.normalize(torch.randn(400, 192, generator=generator) * spread + 0.3, dim=-1)
    return lively(make_ar_prior(len(pca(vectors)[1]))).fit(vectors, vectors.roll(1, 0))


def drawn(system, prompts=PROMPTS, guidance=2.0, **options):
    whole = System(system.stages(), CPU, steps=2, guidance=guidance)
    return list(whole.generate(prompts, **options))


# ------------------------------------------------------------------ the system
def test_every_prior_draws_and_states_come_in_order(system, ar):
    for prior, stages, total in (
        (system.prior, ("prior", "decoder"), 25 + 2),
        (ar, ("prior", "decoder"), ar.num_codes + 2),
        (None, ("decoder",), 2),
    ):
        *states, last = drawn(replace(system, prior=prior), seed=1)
        assert [state.step for state in states] == list(range(1, total + 1)) and states[0].total == total
        assert tuple(dict.fromkeys(state.stage for state in states)) == stages
        assert last.xt.shape == (3, 3, 64, 64) and last.xt.abs().max() <= 1


def test_prompt_and_seed_decide_and_nothing_else(system, ar):
    for prior in (system.prior, ar):
        own = replace(system, prior=prior)
        first, again, other = (drawn(own, seed=seed)[-1].xt for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)
        alone = drawn(own, PROMPTS[2:], seed=1, first=2)[-1].xt
        assert torch.allclose(alone, first[2:], atol=1e-3)
        assert not torch.allclose(first, drawn(own, PROMPTS[::-1], seed=1)[-1].xt, atol=1e-3)


def test_the_decoder_is_fed_what_the_prior_makes(system, ar):
    """With no prior the text vector, of the diffusion prior's draws the better, of the other its only one."""
    seen = []

    def remember(image_embed, *args, **options):
        seen.append(image_embed)
        return lambda xt, t: torch.zeros_like(xt)

    text_embed = system.encode_prompt(PROMPTS).text_embed
    for prior in (None, system.prior, ar):
        own = replace(system, prior=prior)
        object.__setattr__(own, "decoder_model", remember)
        states = [state for state in drawn(own, seed=3) if state.stage == "prior"]
        if prior is None:
            assert torch.equal(seen[-1], text_embed)
        elif prior is ar:
            assert torch.equal(seen[-1], states[-1].xt) and torch.allclose(seen[-1].norm(dim=1), torch.ones(3))
        else:
            draws = prior.unscale(states[-1].xt)
            assert draws.shape == (3, 2, 192) and torch.equal(seen[-1], keep_better(draws, text_embed))
            assert not torch.allclose(draws[:, 0], draws[:, 1], atol=1e-3), "two noises, two draws"


def test_guidance_leads_away_from_no_vector_and_no_text(system):
    xt, t = torch.randn(3, 4, 16, 16), torch.tensor([10, 500, 900])
    image_embed = F.normalize(torch.randn(3, 192), dim=-1)
    text, nothing = (cut_padding(system.encode_prompt(p)) for p in (PROMPTS, ["", "", ""]))
    with torch.no_grad():
        cond = system.decoder(xt, t, image_embed, *text)
        uncond = system.decoder(xt, t, system.decoder.text_proj.no_image(3), *nothing)
        assert torch.allclose(system.decoder_model(image_embed, PROMPTS)(xt, t), cond, atol=1e-5)
        made = system.decoder_model(image_embed, PROMPTS, 3.0)(xt, t)
        assert torch.allclose(made, apply_guidance(uncond, cond, 3.0), atol=1e-4)
        other = system.decoder_model(image_embed, PROMPTS, 3.0, "snow")(xt, t)
        assert not torch.allclose(made, other, atol=1e-4)
        changed = system.decoder(xt, t, image_embed.roll(1, 0), *text), system.decoder(xt, t, image_embed, *nothing)
        assert all(not torch.allclose(cond, x, atol=1e-4) for x in changed), "vector and text both count"


def test_the_padding_of_captions_changes_nothing(system):
    text = system.encode_prompt(PROMPTS)
    assert text.context.shape == (3, 32, 192) and torch.allclose(text.text_embed.norm(dim=1), torch.ones(3))
    cut = cut_padding(text)
    assert cut.mask.sum(dim=1).max() == cut.mask.shape[1] < 32
    xt, t = torch.randn(3, 192), torch.tensor([1, 100, 999])
    with torch.no_grad():
        assert torch.allclose(system.prior(xt, t, *text), system.prior(xt, t, *cut), atol=1e-5)


def test_without_fresh_noise_a_variation_is_the_picture(system):
    pictures = to_tensor(load_emoji(64, "noto").on_white()[:2])
    z = system.encode(pictures)
    *_, same = system.vary(pictures, eta=0.0, steps=40)
    *_, one = system.vary(pictures, eta=1.0, steps=10, generator=torch.Generator().manual_seed(0))
    *_, two = system.vary(pictures, eta=1.0, steps=10, generator=torch.Generator().manual_seed(1))
    *_, many = system.vary(pictures[:1], 3, steps=2, generator=torch.Generator().manual_seed(0))
    assert many.xt.shape == (3, 4, 16, 16) and not torch.allclose(many.xt[0], many.xt[1], atol=0.1)
    assert (same.xt - z).square().mean() < 0.1 * z.square().mean()
    assert (one.xt - z).square().mean() > 0.2 * z.square().mean() and not torch.allclose(one.xt, two.xt, atol=0.1)
    with pytest.raises(InputError, match="64 x 64"):
        list(system.vary(pictures[:, :, :32, :32]))


def test_one_noise_or_one_vector_serves_all(system):
    xT, vectors = torch.randn(1, 4, 16, 16), F.normalize(torch.randn(3, 192), dim=-1)
    *_, many = system.draw_vectors(xT, vectors, steps=2)
    *_, one = system.draw_vectors(xT, vectors[1:2], steps=2)
    assert many.xt.shape == (3, 4, 16, 16) and torch.allclose(many.xt[1:2], one.xt, atol=1e-4)
    assert system.decode(many.xt).shape == (3, 3, 64, 64)
    assert inspect.signature(system.draw_vectors).parameters["sampler"].default is dpmpp_2m
    with pytest.raises(InputError, match="one or 3"):
        list(system.draw_vectors(xT.expand(2, -1, -1, -1), vectors, steps=2))


def test_a_decoder_of_pixels_draws_pixels(system):
    own = replace(system, vae=None, decoder=lively(make_decoder("pixel")))
    assert drawn(own)[-1].xt.shape == (3, 3, 64, 64) and own.prediction == "x0"
    with pytest.raises(InputError, match="unknown space"):
        make_decoder("words")


# ------------------------------------------------------------------ opening
@pytest.fixture
def shipped(system, ar, tmp_path, monkeypatch):
    """A folder with checkpoints of all parts, in the place of the shipped ones."""
    monkeypatch.setattr(checkpoints, "CHECKPOINT_DIR", tmp_path)
    clip = checkpoints.sha256(checkpoints.save("clip", system.clip, {}))
    vae = checkpoints.sha256(checkpoints.save(VAE_NAME, system.vae, {"scaling_factor": 0.5}))
    checkpoints.save("prior-diffusion", system.prior, {"parents": {"clip": clip}})
    checkpoints.save("prior-ar", ar, {"parents": {"clip": clip}, "num_dims": ar.num_codes - 1})
    checkpoints.save("unclip-decoder", system.decoder, {"parents": {"clip": clip, VAE_NAME: vae}, "space": "latent"})
    return tmp_path


@pytest.mark.parametrize("prior", PRIORS)
def test_it_opens_with_every_prior(shipped, prior):
    opened = open_system("dalle2", "cpu", prior=prior)
    assert [stage.name for stage in opened.stages] == (["decoder"] if prior == "none" else ["prior", "decoder"])
    assert opened.draw(["cat"], steps=1).shape == (1, 64, 64, 3)
    assert len(open_system("dalle2", "cpu").stages) == 2 and SYSTEMS["dalle2"].guidance == opened.guidance


def test_what_is_missing_or_does_not_fit_is_one_sentence(shipped, capsys):
    with pytest.raises(InputError, match="unknown prior 'best': choose one of diffusion, ar, none"):
        open_system("dalle2", prior="best")
    with pytest.raises(InputError, match="dalle2 and of nothing else, so stable-diffusion has none"):
        open_system("stable-diffusion", prior="ar")
    torch.manual_seed(9)
    checkpoints.save("clip", make_clip(), {})  # another CLIP
    for prior in PRIORS:
        with pytest.raises(CheckpointError, match="belongs to another clip"):
            open_system("dalle2", prior=prior)
    checkpoints.write_card(shipped / "prior-ar.safetensors", checkpoints.card("prior-ar") | {"num_dims": "many"})
    with pytest.raises(CheckpointError, match="how many directions"):
        open_system("dalle2", prior="ar")
    for name in ("prior-diffusion", "unclip-decoder"):
        for ending in ("json", "safetensors"):
            (shipped / f"{name}.{ending}").unlink()
        assert cli.main(["draw", "cat", "--system", "dalle2", "--out", str(shipped / "x.png")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "there is no checkpoint 'prior-diffusion'" in said[0] and "course train prior-diffusion" in said[0]
    assert cli.main(["draw", "cat", "--system", "dalle2", "--prior", "none", "--out", str(shipped / "x.png")]) == 2
    assert "there is no checkpoint 'unclip-decoder'" in capsys.readouterr().err


def test_vary_writes_the_picture_and_its_variations(shipped, capsys):
    picture = Image.fromarray(load_emoji(64, "noto").rgba[0]).resize((128, 128))
    picture.save(shipped / "mine.png")
    command = ["vary", str(shipped / "mine.png"), "--count", "3", "--steps", "2", "--out", str(shipped / "many.png")]
    assert cli.main(command) == 0 and "the picture and 3 variations" in capsys.readouterr().out
    assert Image.open(shipped / "many.png").size[0] > 128
    given, *others = vary_picture(shipped / "mine.png", 2, steps=2)
    assert given[0, 0].tolist() == [255, 255, 255], "what is transparent becomes white"
    assert not np.array_equal(*others) and np.array_equal(others[0], vary_picture(shipped / "mine.png", 2, steps=2)[1])
    (shipped / "notes.png").write_text("no picture")
    for wrong, words in (
        (["notes.png"], "not a JPEG, PNG or WebP picture"),
        (["none.png"], "not a file"),
        (["mine.png", "--eta", "2"], "eta must be a number from 0 to 1"),
        (["mine.png", "--count", "0"], "count must be"),
    ):
        assert cli.main(["vary", str(shipped / wrong[0]), *wrong[1:], "--out", str(shipped / "y.png")]) == 2
        assert words in capsys.readouterr().err


# ------------------------------------------------------------------ the recipes
@pytest.fixture
def few(monkeypatch, tmp_path, system):
    """Few examples, of an untrained CLIP, that are kept nowhere else."""
    remembered = (prior_base.examples, unclip_decoder.examples, report_prior.gallery, report_prior.training_pairs)
    for function in remembered:
        function.cache_clear()
    monkeypatch.setattr(latent_cache, "folders", lambda: iter([tmp_path]))
    monkeypatch.setattr(prior_base, "CHUNK", 192)
    monkeypatch.setattr(prior_base, "CHUNKS", 1)
    monkeypatch.setattr(unclip_decoder, "CHUNKS", 1)
    for module in (prior_base, prior_diffusion, prior_ar, unclip_decoder):
        monkeypatch.setattr(module, "clip", lambda device: system.clip)
    yield
    for function in remembered:
        function.cache_clear()


RECIPES = {
    "prior-diffusion": lambda: prior_diffusion.RECIPE,
    "prior-ar": lambda: prior_ar.RECIPE,
    "unclip-decoder": lambda: unclip_decoder.RECIPE,
    "unclip-decoder, pixels": lambda: unclip_decoder.recipe("pixel"),
}
UNUSED = {"mean", "components", "edges", "centers", "clip_mean", "clip_std"}  # measured, not learnt


@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_repeats_and_a_step_reaches_every_weight(few, name):
    recipe = RECIPES[name]()
    first, again = (recipe.batch(torch.Generator().manual_seed(3), 24) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert first["image_embed"].norm(dim=1).allclose(torch.ones(24), atol=1e-2) and first["ids"].shape == (24, 32)
    network = lively(recipe.model())
    loss = recipe.loss(network, first, torch.Generator().manual_seed(4))
    loss.backward()
    assert loss.isfinite() and (name != "prior-ar" or 4 < loss < 6)
    still = {n for n, p in network.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
    assert still <= UNUSED | {"text_proj.learned_classifier_free_guidance_embeddings"}, still
    told = recipe.measure(network) if recipe.measure else {}
    assert told.get("space", "latent") == ("pixel" if "pixels" in name else "latent")


def test_a_run_of_the_prior_goes_on_where_it_stopped(few, tmp_path):
    """What is measured and not learnt stays as it is, in the run, in its average and when it goes on."""
    recipe = replace(RECIPES["prior-ar"](), batch_size=8, warmup=0)
    steps = train(recipe, 5, run_dir=tmp_path, device="cpu")
    first = [next(steps) for _ in range(2)][-1]
    steps.close()
    resumed = train(recipe, 5, run_dir=tmp_path, device="cpu", resume=True)
    again = next(resumed)
    resumed.close()
    assert (first.step, again.step) == (2, 3) and again.loss > 0
    for name, weight in recipe.model().named_parameters():
        if not weight.requires_grad:
            assert torch.equal(weight, again.ema.get_parameter(name)), name
    assert not torch.equal(first.ema.head.weight, again.model.head.weight)


def test_captions_leave_out_what_they_may_and_say_nothing_false(few):
    shown, source, rng = prior_base.examples(), prior_base.composer(), np.random.default_rng(0)
    texts = [prior_base.write_caption(shown, i % 192, source, rng) for i in range(1500)]
    assert 0.07 < np.mean([text == "" for text in texts]) < 0.13
    styled = [" style" in text.lower() or "风格" in text for text in texts if text]
    assert 0.33 < np.mean(styled) < 0.47
    full = [prior_base.write_caption(shown, i, source, rng, p_omit=0.0, p_drop=0.0) for i in range(192)]
    for i, text in enumerate(full):
        meta = source.emoji.meta[int(shown["index"][i])]
        assert meta["style"] in text.lower(), "a caption is of its own picture"


def test_examples_are_those_of_their_pictures(few, system):
    """What is kept is what composing again and looking gives, and the first pictures are the first of any number."""
    shown, again = prior_base.examples(), prior_base.composer().compose(192, 0)
    from course_utils.systems.clip import embed_images

    vectors = embed_images(system.clip, to_tensor(again.images))
    assert torch.allclose(shown["image_embed"].float(), vectors, atol=2e-3)
    assert shown["index"].tolist() == again.attributes["index"]
    named = [None if color < 0 else prior_base.COLORS[color] for color in shown["color"].tolist()]
    assert named == again.attributes["color"]
    assert np.array_equal(prior_base.composer().compose(16, 0).images, again.images[:16])


def test_the_decoder_learns_no_test_pair_nor_held_out_colour():
    from course_utils.data import load_splits

    splits = load_splits()
    for source in (prior_base.composer(), unclip_decoder.composer()):
        seen = {(meta["concept"], meta["style"]) for meta in source.emoji.meta}
        assert not seen & {tuple(pair) for pair in splits["test_pairs"]} and "3d" not in {style for _, style in seen}
    assert len(unclip_decoder.composer().emoji) < len(prior_base.composer().emoji)


# ------------------------------------------------------------------ the table
def unit(*shape, seed=0):
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_the_row_of_a_way_by_hand():
    real, text_embed, concepts = unit(6, 8), unit(6, 8, seed=1), ["cat", "cat", "dog", "dog", "owl", "owl"]
    gallery = (real, ["cat", "cat", "dog", "owl", "owl", "owl"])
    one = measure(real, Captions(concepts, 1, real, None, concepts), text_embed, gallery)
    assert one["cos_true"] == pytest.approx(1, abs=1e-6) and one["R@1"] == 1 and one["frechet"] < 1e-6
    assert one["nearest"] == pytest.approx(5 / 6) and one["cos_text"] == pytest.approx(
        float((real * text_embed).sum(1).mean()), abs=1e-6
    )
    many = measure(real.roll(1, 0), Captions(concepts, 2, real, None, concepts), text_embed, gallery)
    pairs = [float((real.roll(1, 0)[i : i + 2] @ real[i : i + 2].T).mean()) for i in (0, 2, 4)]
    assert many["cos_true"] == pytest.approx(np.mean(pairs), abs=1e-6) and many["cos_true"].n == 3
    wide = [float((a - b).norm()) for a, b in real.roll(1, 0).view(3, 2, 8)]
    true = [float((a - b).norm()) for a, b in real.view(3, 2, 8)]
    assert many["diversity"] == pytest.approx(np.mean(wide) / np.mean(true), abs=1e-5) and "R@1" not in many
    assert width(real[:1].expand(4, -1), 2) == pytest.approx(0, abs=1e-6)


def test_regression_is_found_again_and_the_mlp_learns_more():
    text, turn = unit(600, 8), torch.randn(8, 8, generator=torch.Generator().manual_seed(5))
    straight = text @ turn + 0.3
    assert torch.allclose(fit_linear(text, straight)(text), straight, atol=1e-4)
    bent = (text @ turn).abs()
    linear = F.mse_loss(fit_linear(text, bent)(text), bent)
    assert F.mse_loss(fit_mlp(text, bent, width=64)(text), bent) < 0.5 * linear


def test_the_whole_table_is_made(few, system, shipped):
    rows = report_prior.evaluate_priors(n=8, names=4, draws=3)
    ways = ["text vector", "text, shifted", "linear", "MLP", "autoregressive", "diffusion", "diffusion, best of 2"]
    assert list(rows) == [f"full: {w}" for w in ways] + [f"name: {w}" for w in [*ways, "other real pictures"]]
    for name, row in rows.items():
        assert all(np.isfinite(value) for value in row.values()), name
        assert ("diversity" in row) == name.startswith("name") and ("R@1" in row) == name.startswith("full")
    for way in ways[:4]:
        assert rows[f"name: {way}"]["diversity"] == pytest.approx(0, abs=1e-3)
    assert rows["name: diffusion"]["diversity"] > 0.01
    from course_utils.evaluation.report import for_card, from_card, table

    text = table(rows)
    assert "Fréchet x 1000" in text and "s a caption" in text
    for row in rows.values():
        assert from_card(for_card(row)).keys() == row.keys()


def test_the_table_of_feeds_is_made(few, shipped, monkeypatch):
    """Of an untrained system; "another's" is fed what belongs to other prompts."""
    from course_utils.evaluation import report_unclip
    from course_utils.evaluation.evaluator import Evaluator

    monkeypatch.setattr(report_unclip, "load_evaluator", lambda: Evaluator().eval())
    monkeypatch.setattr(report_unclip, "STEPS", 1)
    seen = []
    rows = report_unclip.evaluate_feeds(4, 2, 2, progress=lambda done, total: seen.append((done, total)))
    ways = ["true vector", "text vector", "text, shifted", "linear", "MLP", "autoregressive", "diffusion"]
    ways += ["diffusion, best of 2", "another's", "text vector, and the prompt", "diffusion, and the prompt"]
    assert list(rows)[:12] == [f"full: {way}" for way in [*ways, "real pictures"]]
    assert list(rows)[12:24] == [f"name: {way}" for way in [*ways, "real pictures"]]
    assert list(rows)[24:] == [f"variations, eta {eta}" for eta in ("0", "0.5", "1")]
    assert rows["name: real pictures"]["diversity"] == pytest.approx(1, abs=1e-5)
    assert {"style", "background"} <= set(rows["full: linear"]) and "style" not in rows["name: linear"]
    assert seen[-1][0] == seen[-1][1] and all(done < total for done, total in seen[:-1])

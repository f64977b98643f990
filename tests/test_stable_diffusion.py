"""Our Stable Diffusion equals diffusers' pipelines on the same weights and seeds: every latent, and the pictures."""

from dataclasses import replace

import pytest
import torch

from course_utils.decoder.vae import VAE
from course_utils.generator.latent_unet import LatentUNet
from course_utils.generator.samplers import ddim, dpmpp_2m, timesteps
from course_utils.generator.schedules import make_schedule
from course_utils.interop.diffusers import to_pipeline
from course_utils.systems.stable_diffusion import StableDiffusion, tokenize
from course_utils.text_encoder.clip import CLIPTextModel
from course_utils.text_encoder.tokenizer import MAX_TOKENS, VOCAB_SIZE

STEPS, SIDE = 10, 32  # SIDE: pixels; latents have 8 x 8
PROMPTS = ["pink butterfly", "蓝色的猫，雪地"]
NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
KINDS = {"eps": "epsilon", "v": "v_prediction"}


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny_system(in_channels=4, **walk):
    """The three modules with few, random weights, as `StableDiffusion` joins them."""
    text = CLIPTextModel(VOCAB_SIZE, MAX_TOKENS, 32, num_layers=2, num_heads=4)
    unet = LatentUNet(in_channels, 4, (16, 32), 1, (False, True), num_heads=2, groups=8, context_dim=32, pool_heads=4)
    vae = VAE((8, 8, 16), groups=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module, size in ((text, 0.2), (unet, 0.1), (vae, 0.15)):
            for weight in module.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) * size)
    return StableDiffusion(text.eval(), unet.eval(), vae.eval(), scaling_factor=0.7, **walk)


def exact(scheduler, schedule):
    """Give a scheduler of diffusers our schedule in float64: its own tables of float32 drift up to 2e-4."""
    scheduler.alphas_cumprod = schedule.alpha_bar.clone()
    if hasattr(scheduler, "lambda_t"):
        scheduler.alpha_t, scheduler.sigma_t = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
        scheduler.lambda_t = scheduler.alpha_t.log() - scheduler.sigma_t.log()
    return scheduler


def make_pipeline(system, kind="", name="cosine", solver="DPMSolverMultistepScheduler", **options):
    """diffusers' pipeline of that kind ("", "Img2Img", "Inpaint") with the weights of a system, and its scheduler."""
    import diffusers

    parts = dict(to_pipeline(system, SIDE).components)
    if solver == "DDIMScheduler":
        options |= {"clip_sample": False, "set_alpha_to_one": True}
    ends = {"beta_start": 0.00085, "beta_end": 0.012} if name == "scaled_linear" else {}
    parts["scheduler"] = exact(
        getattr(diffusers, solver)(
            beta_schedule=NAMES[name],
            prediction_type=KINDS[system.prediction],
            steps_offset=1,
            **ends,
            **{"timestep_spacing": "trailing", **options},
        ),
        system.schedule,
    )
    pipeline = getattr(diffusers, f"StableDiffusion{kind}Pipeline")(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline, **options):
    """Run a pipeline of diffusers: its latents after every step, and its pictures in [-1, 1]."""
    latents = []

    def keep(_, step, t, tensors):
        latents.append(tensors["latents"].clone())
        return {}

    pictures = pipeline(num_inference_steps=STEPS, output_type="pt", callback_on_step_end=keep, **options).images
    return latents, 2 * pictures - 1


def assert_same(system, states, theirs):
    """Every latent equal to 1e-5 of its size, and so are the pictures."""
    latents, pictures = theirs
    states = [state.xt.clone() for state in states]
    assert len(states) == len(latents) > 0
    for step, (ours, peer) in enumerate(zip(states, latents, strict=True)):
        assert (ours - peer).abs().max() < 1e-5 * max(1.0, float(peer.abs().max())), step
    assert pictures.std() > 0.05, "the pictures show something"
    assert (system.decode(states[-1]) - pictures).abs().max() < 1e-5


def test_pipeline_reads_what_we_read():
    """Long, empty and Chinese prompts become the same tokens and the same context."""
    system = tiny_system()
    pipeline = make_pipeline(system)
    prompts = [*PROMPTS, "", "a very long tale of butterflies " * 20]
    tokens = pipeline.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(tokenize(prompts), tokens) and tokens.shape == (4, MAX_TOKENS)
    with torch.no_grad():
        context, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
        assert (system.encode_prompt(prompts) - context).abs().max() < 1e-5


# ------------------------------------------------------------------ text to picture
WALKS = {
    "DPM-Solver++ v trailing": (dpmpp_2m, "cosine", "v", "trailing"),
    "DPM-Solver++ eps leading + 1": (dpmpp_2m, "scaled_linear", "eps", "leading"),
    "DDIM v trailing": (ddim, "cosine", "v", "trailing"),
    "DDIM eps leading + 1": (ddim, "scaled_linear", "eps", "leading"),
    "DDIM eps trailing": (ddim, "linear", "eps", "trailing"),
}
SOLVERS = {ddim: "DDIMScheduler", dpmpp_2m: "DPMSolverMultistepScheduler"}


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, None), (4.0, None), (3.0, "green dog")])
@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)
def test_txt2img(walk, guidance, negative):
    sampler, name, prediction, spacing = walk
    system = tiny_system(
        schedule=make_schedule(name), prediction=prediction, spacing=spacing, offset=int(spacing == "leading")
    )
    zT, options = random(2, 4, 8, 8, seed=1), {}
    if (sampler, spacing) == (ddim, "leading"):  # DDIM visits one step more at the end than a solver does
        options["spacing"] = timesteps(STEPS, 1000, "leading", offset=1)
    theirs = run(
        make_pipeline(system, "", name, SOLVERS[sampler], timestep_spacing=spacing),
        prompt=PROMPTS,
        latents=zT.clone(),
        guidance_scale=guidance,
        negative_prompt=negative and [negative] * 2,
    )
    ours = system.txt2img(zT, PROMPTS, STEPS, guidance, negative, sampler=sampler, **options)
    assert_same(system, ours, theirs)


def test_default_negative_prompt_is_the_empty_one():
    system, zT = tiny_system(), random(1, 4, 8, 8)
    a, b = (list(system.txt2img(zT, PROMPTS[:1], 3, negative=negative))[-1].xt for negative in (None, ""))
    c = list(system.txt2img(zT, PROMPTS[:1], 3, negative="dog"))[-1].xt
    assert torch.equal(a, b) and not torch.allclose(a, c)


# ------------------------------------------------------------------ picture to picture
@pytest.mark.parametrize("strength", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("walk", ["DPM-Solver++ v trailing", "DPM-Solver++ eps leading + 1", "DDIM v trailing"])
def test_img2img(walk, strength):
    sampler, name, prediction, spacing = WALKS[walk]
    system = tiny_system(
        schedule=make_schedule(name), prediction=prediction, spacing=spacing, offset=int(spacing == "leading")
    )
    pictures = random(2, 3, SIDE, SIDE, seed=2).sigmoid()
    theirs = run(
        make_pipeline(system, "Img2Img", name, SOLVERS[sampler], timestep_spacing=spacing),
        prompt=PROMPTS,
        image=pictures,
        strength=strength,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(5),
    )
    ours = system.img2img(
        2 * pictures - 1, PROMPTS, strength, STEPS, torch.Generator().manual_seed(5), guidance=3.0, sampler=sampler
    )
    assert_same(system, ours, theirs)


def test_a_strength_that_walks_no_step_shows_no_state():
    assert list(tiny_system().img2img(random(1, 3, SIDE, SIDE), PROMPTS[:1], strength=0.0, steps=STEPS)) == []


@pytest.mark.parametrize("strength", [-0.1, 1.2, float("nan")])
def test_strength_out_of_range(strength):
    with pytest.raises(ValueError, match="from 0 to 1"):
        next(tiny_system().img2img(random(1, 3, SIDE, SIDE), PROMPTS[:1], strength))


# ------------------------------------------------------------------ a hole in a picture
def hole():
    """A mask (2, 1, SIDE, SIDE): 1 where to draw anew, another hole in each picture, not in step with the latent."""
    mask = torch.zeros(2, 1, SIDE, SIDE)
    mask[0, :, 5:21, 9:30], mask[1, :, :14] = 1, 1
    return mask


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("walk", ["DPM-Solver++ v trailing", "DPM-Solver++ eps leading + 1", "DDIM v trailing"])
@pytest.mark.parametrize("in_channels", [4, 9])
def test_inpaint(in_channels, walk, guidance):
    sampler, name, prediction, spacing = WALKS[walk]
    system = tiny_system(
        in_channels,
        schedule=make_schedule(name),
        prediction=prediction,
        spacing=spacing,
        offset=int(spacing == "leading"),
    )
    pictures, mask, zT = random(2, 3, SIDE, SIDE, seed=2).sigmoid(), hole(), random(2, 4, 8, 8, seed=3)
    pipeline = make_pipeline(system, "Inpaint", name, SOLVERS[sampler], timestep_spacing=spacing)
    theirs = run(
        pipeline,
        prompt=PROMPTS,
        image=pictures,
        mask_image=mask,
        strength=1.0,
        guidance_scale=guidance,
        latents=zT.clone(),
        height=SIDE,
        width=SIDE,
        generator=torch.Generator().manual_seed(5),
    )
    ours = system.inpaint(
        zT, 2 * pictures - 1, mask, PROMPTS, STEPS, torch.Generator().manual_seed(5), guidance=guidance, sampler=sampler
    )
    assert_same(system, ours, theirs)


def test_what_the_mask_keeps_is_kept():
    system, pictures = tiny_system(), random(2, 3, SIDE, SIDE, seed=2).clamp(-1, 1)
    known = system.encode(pictures, torch.Generator().manual_seed(5))
    *_, last = system.inpaint(random(2, 4, 8, 8), pictures, hole(), PROMPTS, 5, torch.Generator().manual_seed(5))
    outside = torch.nn.functional.interpolate(hole(), size=(8, 8)).expand_as(known) == 0
    assert torch.equal(last.xt[outside], known[outside]) and not torch.allclose(last.xt[~outside], known[~outside])


# ------------------------------------------------------------------ the system by itself
def test_latents_have_the_scale_of_the_system():
    system, pictures = tiny_system(), random(2, 3, SIDE, SIDE).clamp(-1, 1)
    larger = replace(system, scaling_factor=2 * system.scaling_factor)
    a, b = (s.encode(pictures, torch.Generator().manual_seed(1)) for s in (system, larger))
    assert torch.allclose(2 * a, b) and torch.allclose(system.decode(a), larger.decode(b), atol=1e-6)


def test_every_prompt_has_its_own_picture():
    """Pictures drawn together are those drawn one by one."""
    system, zT = tiny_system(), random(2, 4, 8, 8)
    *_, both = system.txt2img(zT, PROMPTS, 5)
    for i, prompt in enumerate(PROMPTS):
        *_, alone = system.txt2img(zT[i : i + 1], [prompt], 5)
        assert torch.allclose(both.xt[i : i + 1], alone.xt, atol=1e-5)

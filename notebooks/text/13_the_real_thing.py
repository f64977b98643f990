# %% [markdown] slideshow={"slide_type": "slide"}
# # 13 · The real thing: can we read the field's code, line by line?
#
# | | |
# |---|---|
# | **Time** | a 75-minute lecture; three hours with the exercises; the code runs in two to three minutes |
# | **Hardware** | any laptop, no GPU, no network; one switch near the end wants both |
# | **You need** | notebooks 03 (samplers), 06 (the system), 07 (CLIP) and 11 (LoRA) |
# | **Where we are** | **[text encoder]** → **[generator]** → **[decoder]**, written by somebody else |
#
# Nobody in the field writes what we wrote. They write ten lines of `diffusers`. Today we write those ten lines, on our own weights, and ask of each what it does, what it hides, and whether the picture is still ours.

# %% [markdown]
# ← [11 · LoRA](11_lora.ipynb) · [Contents](00_start_here.ipynb)

# %% slideshow={"slide_type": "skip"}
# Setup. On Colab and Kaggle: fetch the course, and keep the torch that is there. Elsewhere: find it around this notebook.
import os
import runpy
import sys

COURSE_URL = "https://github.com/OWNER/pictures-from-noise"
if ("google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ) and not os.path.isdir("../course_utils"):
    assert "/OWNER/" not in COURSE_URL, "Write the address of the course's public repository into COURSE_URL, above."
    fetch = f"rm -rf course.part && git clone -q --depth 1 {COURSE_URL} course.part && mv course.part course"
    assert os.path.isdir("course") or os.system(fetch) == 0, f"Cannot fetch {COURSE_URL}: is the Internet turned on?"
    runpy.run_path("course/tools/hosted.py", run_name="__main__")
    os.chdir("course/notebooks")
sys.path.insert(0, os.path.abspath("." if os.path.isdir("course_utils") else ".."))

# %% [markdown] slideshow={"slide_type": "-"}
# All three modules again, and not one class of ours.

# %% alt="A strip of three boxes, text encoder, generator and decoder, joined by arrows; all three are highlighted." slideshow={"slide_type": "-"}
import matplotlib.pyplot as plt
from course_utils.figures import plotting
from course_utils.figures.diagrams import strip

plotting.use_course_style()
strip(("text encoder", "generator", "decoder"))
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The result first
#
# The article that this course follows ends with a snippet: load a Chinese Stable Diffusion, add a LoRA of 3 MB, draw three prompts. First we need the two files. Ours come from the course: `course export stable-diffusion emoji`
# writes the folder, and the LoRA is notebook 11's.

# %% slideshow={"slide_type": "-"}
import tempfile
from pathlib import Path

import diffusers
import torch
import transformers
from course_utils import checkpoints
from course_utils.interop.folder import export_folder
from course_utils.systems.stable_diffusion import open_stable_diffusion

for library in (diffusers, transformers):
    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()                                          # their warnings: idea 2
place = tempfile.TemporaryDirectory()
HERE, sd = Path(place.name), open_stable_diffusion()                                     # sd: our own classes, to compare
MODEL = export_folder(sd, HERE / "emoji")
LORA = checkpoints.check("style-3d")

# %% [markdown]
# Now the snippet, line for line. Comments show what the article has where ours differs.

# %% slideshow={"slide_type": "-"}
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32)               # torch_dtype=torch.float16
pipe.set_progress_bar_config(disable=True)
before = [pipe(prompt, num_inference_steps=50, guidance_scale=7.5, generator=torch.Generator().manual_seed(4)).images[0]
          for prompt in ("粉色的蝴蝶,小精灵,卡通", "可爱的狗,小精灵,卡通", "漂亮的猫,小精灵,卡通")]
pipe.load_lora_weights(LORA, adapter_name="style")                                       # pipe.unet.load_attn_procs(...)
pipe.to("cpu")                                                                           # pipe.to("cuda")

prompt = "粉色的蝴蝶,小精灵,卡通"
butterfly = pipe(prompt, num_inference_steps=50, guidance_scale=7.5, generator=torch.Generator().manual_seed(4)).images[0]
prompt = "可爱的狗,小精灵,卡通"
dog = pipe(prompt, num_inference_steps=50, guidance_scale=7.5, generator=torch.Generator().manual_seed(4)).images[0]
prompt = "漂亮的猫,小精灵,卡通"
cat = pipe(prompt, num_inference_steps=50, guidance_scale=7.5, generator=torch.Generator().manual_seed(4)).images[0]

# %% alt="Two rows of three emoji drawn by diffusers for the article's three Chinese prompts: the folder alone, and with the LoRA, where butterfly, dog and cat are shaded like three-dimensional toys." slideshow={"slide_type": "subslide"}
import numpy as np

def as_batch(images):                                                                    # PIL pictures -> (B, 3, 64, 64) in [-1, 1]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 127.5 - 1

rows = {"the folder": as_batch(before), "with the LoRA": as_batch([butterfly, dog, cat])}
plotting.show_rows(rows, ["butterfly", "dog", "cat"], "The article's last lines, on our own weights", scale=1.2)
plt.show()

# %% [markdown]
# Is it *our* picture? Our own classes, the same weights, the same noise:

# %%
# NBVAL_CHECK_OUTPUT
from course_utils.finetune.lora import set_adapter, unload
from course_utils.interop.lora_files import load_shipped_lora, read_lora

def noise(*seeds):                                                                       # z_T, one seed each
    return torch.cat([torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

DEMO = ["粉色的蝴蝶,小精灵,卡通", "可爱的狗,小精灵,卡通", "漂亮的猫,小精灵,卡通"]
set_adapter(sd.unet, *load_shipped_lora("style-3d"))
*_, last = sd.txt2img(noise(4, 4, 4), DEMO, 50, 7.5)
unload(sd.unet)
gap = float((sd.decode(last.xt) - rows["with the LoRA"]).abs().max()) * 127.5
print("our classes and diffusers: equal to one of 255 steps of a colour:", gap <= 1.01)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## What we build
#
# 1. The pipeline's loop, by hand, from its own parts; then five schedulers in one loop.
# 2. What a seed, a batch and half precision change, measured; what memory savers save.
# 3. Weighted words, which `diffusers` leaves to others; LoRAs by name; a picture as a start.
# 4. DreamBooth in the words of the field's script; a safety checker; a model card; one honest table.

# %% [markdown]
# ## Setup

# %%
import math
import time
import warnings

import torch.nn.functional as F
from course_utils.checks.core import check, hint
from course_utils.data import to_tensor
from course_utils.errors import prompt_text
from course_utils.finetune.lora import ALL_TARGETS, weighted_sum
from course_utils.generator.samplers import ddim, ddpm, dpmpp_2m

pipe.unload_lora_weights()                                                               # the base again
warnings.filterwarnings("ignore", message="Already found a `peft_config`")               # two LoRAs at once are meant

def draw(prompts, zT, steps=20, guidance=2.0, pipe=pipe, **options):                     # -> (B, 3, 64, 64) in [-1, 1]
    images = pipe(prompts, latents=zT.clone(), num_inference_steps=steps, guidance_scale=guidance, output_type="pt", **options).images
    return 2 * images.float() - 1


# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: one loop, three schedulers
#
# What we call sampler, `diffusers` calls **scheduler**: an object that knows the steps and takes them, while the loop stays outside. Four names make the contract: `set_timesteps`, `init_noise_sigma`, `scale_model_input`,
# `step`. For DDIM the middle two do nothing, so they are easily forgotten.
#
# Here is a heart of 400 dots with its ideal denoiser (notebook 02), and three real schedulers.
#
# **Predict.** We forget `init_noise_sigma` and start from plain noise. Nothing complains. Which scheduler minds?
#
# <details><summary>Answer</summary>
# Euler. It keeps x in other units: clean data plus noise of size σ (printed below), where DDIM has a mixture of variance about 1. Noise of size 1 is next to nothing there: all dots start at almost the same point and take the same way.
# </details>

# %% slideshow={"slide_type": "-"}
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

angle = torch.linspace(0, 2 * math.pi, 401)[:-1]
heart = torch.stack([16 * angle.sin() ** 3, 13 * angle.cos() - 5 * (2 * angle).cos() - 2 * (3 * angle).cos()], dim=1) / 12
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",    # Stable Diffusion's
          "prediction_type": "sample", "timestep_spacing": "trailing", "clip_sample": False}
alpha_bar = DDIMScheduler.from_config(CONFIG).alphas_cumprod

def ideal(xt, t):                                                                        # (N, 2), a number -> x0 (N, 2)
    a = alpha_bar[int(t)]
    return (-torch.cdist(xt, a.sqrt() * heart) ** 2 / (2 * (1 - a))).softmax(dim=1) @ heart

def draw_dots(scheduler, forget=False, steps=20):
    scheduler.set_timesteps(steps)
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)) * (1 if forget else scheduler.init_noise_sigma)
    for t in scheduler.timesteps:
        x = scheduler.step(ideal(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    return x


# %% alt="Four clouds of dots on a light heart: DDIM, DPM-Solver++ and Euler cover the whole heart; Euler without init_noise_sigma covers a small piece of it." slideshow={"slide_type": "-"}
kinds = {"DDIM": (DDIMScheduler, False), "DPM-Solver++": (DPMSolverMultistepScheduler, False), "Euler": (EulerDiscreteScheduler, False),
         "Euler, forgotten": (EulerDiscreteScheduler, True)}
clouds = {name: draw_dots(kind.from_config(CONFIG), forget) for name, (kind, forget) in kinds.items()}
print(f"Euler begins at σ = {float(EulerDiscreteScheduler.from_config(CONFIG).init_noise_sigma):.1f}")
for name, xy in clouds.items():
    print(f"{name:16s} {float((torch.cdist(heart, xy).amin(dim=1) < 0.1).float().mean()):4.0%} of the heart has a dot nearby")
plotting.plot_points([{plotting.REFERENCE: heart, plotting.MODEL: xy} for xy in clouds.values()], list(clouds),
                     "One loop, one denoiser, 20 steps", limit=1.8)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Three schedulers fill the heart; in the fourth panel every dot lies *on* it and nearly all of it is empty: a bug without an error, which only the printed share of the heart shows. The contract is what lets one pipeline take any scheduler. **Limit**: an ideal denoiser forgives few steps; a trained one forgives less.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 1 · A pipeline is a folder and a loop
#
# **Intuition.** `from_pretrained` reads a folder: one subfolder a part, a JSON with its numbers, a file with its weights, and `model_index.json`, which says which class opens which. `pipe(...)` is the loop of notebook 06.
#
# | line of the snippet | what happens | ours, in |
# |---|---|---|
# | `from_pretrained(folder)` | three modules, a tokenizer, a scheduler | 04, 05, 06 |
# | `load_lora_weights(file)` | a branch beside each layer named in the file | 11 |
# | `pipe(prompt, …)` | read, draw noise, ask twice, guide, step, decode | 06 |
# | `num_inference_steps=50` | which of 1,000 steps are visited | 03 |
# | `guidance_scale=7.5` | $s$; 1 is off | 04 |
# | `.images[0]` | [-1, 1] → bytes → a PIL picture | 01 |
#
# In our symbols, with $c$ the prompt's context and $\varnothing$ the empty one's:
#
# $$\hat v=v_\theta(z_t,t,\varnothing)+s\,\big(v_\theta(z_t,t,c)-v_\theta(z_t,t,\varnothing)\big),\qquad z_{t'}=\operatorname{step}(\hat v,t,z_t),\qquad x=\mathcal D(z_0/\text{scaling\_factor})$$

# %% slideshow={"slide_type": "-"}
for name, part in sorted(pipe.components.items()):
    numbers = f"{sum(p.numel() for p in part.parameters()):>10,} parameters" if hasattr(part, "parameters") else ""
    print(f"{name:18s} {type(part).__name__ if part is not None else '-':30s} {numbers}")


# %% [markdown]
# The loop by hand, with nothing but the pipeline's own parts. It follows the contract, so any scheduler will do.

# %% slideshow={"slide_type": "-"}
@torch.no_grad()
def by_parts(pipe, prompts, zT, steps=20, guidance=2.0):
    text, silence = pipe.encode_prompt(prompts, pipe.device, 1, True)                    # (B, 32, 128) each
    context = torch.cat([silence, text])
    pipe.scheduler.set_timesteps(steps)
    zt = zT * pipe.scheduler.init_noise_sigma
    for t in pipe.scheduler.timesteps:
        both = pipe.scheduler.scale_model_input(torch.cat([zt, zt]), t)
        v_silence, v_text = pipe.unet(both, t, encoder_hidden_states=context).sample.chunk(2)
        zt = pipe.scheduler.step(v_silence + guidance * (v_text - v_silence), t, zt).prev_sample
    return pipe.vae.decode(zt / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)


# %%
# NBVAL_CHECK_OUTPUT
FOUR = ["panda, snow", "pink butterfly, blue sky and grass", "红色的汽车，沙滩", "hamburger, sunset"]
hand, theirs = by_parts(pipe, FOUR, noise(0, 1, 2, 3), steps=10), draw(FOUR, noise(0, 1, 2, 3), steps=10)
print("latents", tuple(noise(0).shape), "| by hand equals the pipeline:", torch.allclose(hand, theirs, atol=1e-5))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 2 · Code ages: the article's lines today
#
# **Intuition.** The article is of 2023. Its lines are still on thousands of pages, and libraries move on. We run each on this machine and write down what comes. The LoRA is saved as the article's was: names without `unet.`, no α inside.
#
# **Predict.** `load_attn_procs` has a successor, `load_lora_weights`. Does it take the article's own file?
#
# <details><summary>Answer</summary>
# It takes it, and nothing happens: it looks for names that begin with "unet." and finds none (notebook 11's last bug). That kind of file wants `unet.load_lora_adapter(…, prefix=None)`.
# </details>

# %% slideshow={"slide_type": "-"}
from course_utils.interop.lora_files import save_lora

state, alpha = load_shipped_lora("style-3d")
OLD = save_lora(HERE / "old" / "pytorch_lora_weights.safetensors", state, alpha, form="attn_procs")
plain = draw(DEMO[:1], noise(4), steps=5)

def attempt(line):                                                                       # what a line does to the picture
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            line()
            x = draw(DEMO[:1], noise(4), steps=5)
            answer = "no error; the picture is as before" if torch.equal(x, plain) else f"the picture moves by up to {float((x - plain).abs().max()):.2f}"
        except Exception as error:
            answer = f"{type(error).__name__}: {str(error).splitlines()[0].replace(str(OLD), 'the file')[:64]}"
    pipe.unload_lora_weights()
    pipe.safety_checker = pipe.feature_extractor = None
    return answer, {str(w.message).replace("and will be removed in version", "until")[:90] for w in said if "deprecat" in str(w.message)}


# %%
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIDE = {"height": 64, "width": 64}
processor = CLIPImageProcessorPil(size=SIDE, crop_size=SIDE, image_mean=[0.5] * 3, image_std=[0.5] * 3)  # [-1, 1], as our CLIP reads

def without_checker():                                                                   # the article's line
    pipe.feature_extractor = processor
    pipe.safety_checker = lambda images, clip_input: (images, False)

lines = {"from_pretrained(…, torch_dtype=…)": lambda: StableDiffusionPipeline.from_pretrained(MODEL, torch_dtype=torch.float32),
         "pipe.unet.load_attn_procs(file)": lambda: pipe.unet.load_attn_procs(OLD),
         "pipe.load_lora_weights(file)": lambda: pipe.load_lora_weights(OLD),
         "pipe.unet.load_lora_adapter(file, prefix=None)": lambda: pipe.unet.load_lora_adapter(OLD, prefix=None),
         "pipe.safety_checker = lambda …: (images, False)": without_checker}
for line, run in lines.items():
    answer, said = attempt(run)
    print(f"{line:50s} {answer}" + "".join(f"\n{'':50s} {words}" for words in said))

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** One line is only renamed: `torch_dtype` is `dtype` now. One no longer does what it did. One loads and does nothing, the worst kind. And the line that takes the safety checker away stops with an error: the pipeline asks for a list, one answer a picture, and gets `False`. So it is not
# only unwise to copy (see "Before you share"); it no longer runs. **Limit**: these are the words of one version.

# %%
# NBVAL_CHECK_OUTPUT
pipe.unet.load_lora_adapter(OLD, prefix=None)
old_form = draw(DEMO[:1], noise(4), steps=5)
pipe.unload_lora_weights()
pipe.load_lora_weights(LORA, adapter_name="style")
print("the old form, loaded rightly, and today's file: the same picture:", torch.allclose(old_form, draw(DEMO[:1], noise(4), steps=5), atol=1e-4))
pipe.unload_lora_weights()
print("unloaded, the base is back, to the bit:", torch.equal(draw(DEMO[:1], noise(4), steps=5), plain))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 3 · Swap the scheduler
#
# **Intuition.** The U-Net does not know who asks it. `Scheduler.from_config(pipe.scheduler.config)` keeps what training fixed (the β, what is predicted, the spacing) and changes the way of stepping alone.
#
# One option must be said: some schedulers clip $\hat x_0$ to [-1, 1] unless told not to. Right for pixels, wrong for latents ("When it breaks" shows it).

# %% slideshow={"slide_type": "-"}
trained = pipe.scheduler.config
KINDS = {"DDPM": "DDPMScheduler", "DDIM": "DDIMScheduler", "Euler": "EulerDiscreteScheduler", "Euler ancestral": "EulerAncestralDiscreteScheduler",
         "UniPC": "UniPCMultistepScheduler", "DPM-Solver++": "DPMSolverMultistepScheduler"}

def swapped(name):
    return getattr(diffusers, KINDS[name]).from_config(trained, clip_sample=False)

def draw_by(name, prompts, zT, steps, **options):
    pipe.scheduler = swapped(name)
    x = draw(prompts, zT, steps, generator=torch.Generator().manual_seed(9), **options)  # for those that add noise
    pipe.scheduler = swapped("DPM-Solver++")
    return x


# %% [markdown]
# **Check**: three of them are in notebook 03, written by us. And two equalities that only the mathematics tells.

# %%
# NBVAL_CHECK_OUTPUT
three = {"DDPM": (ddpm, {"generator": torch.Generator().manual_seed(9)}), "DDIM": (ddim, {}), "DPM-Solver++": (dpmpp_2m, {})}
drawn, apart = {name: draw_by(name, FOUR[:2], noise(0, 1), 10) for name in KINDS}, {}
for name, (sampler, options) in three.items():
    *_, last = sd.txt2img(noise(0, 1), FOUR[:2], 10, 2.0, sampler=sampler, **options)
    apart[name] = float((sd.decode(last.xt) - drawn[name]).abs().max())
    print(f"{name:13s} ours and diffusers': equal to 1e-2 of a colour value: {apart[name] < 1e-2}")
print("Euler is DDIM:", bool((drawn["Euler"] - drawn["DDIM"]).abs().max() < 1e-2), "| Euler ancestral is DDPM:", bool((drawn["Euler ancestral"] - drawn["DDPM"]).abs().max() < 1e-2))

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** Two steps, six schedulers: who can draw a hamburger?

# %% alt="Six rows, one a scheduler, with the same prompt and noise after 2, 5 and 20 steps." slideshow={"slide_type": "-"}
STEPS = (2, 5, 20)
goal = draw_by("DPM-Solver++", FOUR[2:], noise(2, 3), 50)
table = {name: [draw_by(name, FOUR[2:], noise(2, 3), steps) for steps in STEPS] for name in KINDS}
print("ours and diffusers', largest difference of a colour value:", ", ".join(f"{name} {gap:.0e}" for name, gap in apart.items()))
print(f"{'mean difference to 50 solver steps':36s}" + "".join(f"{steps:5d} steps" for steps in STEPS))
for name, row in table.items():
    print(f"{name:36s}" + "".join(f"{float((x - goal).abs().mean()):11.3f}" for x in row))
plotting.show_rows({name: [x[1] for x in row] for name, row in table.items()}, [f"{steps} steps" for steps in STEPS], f"{FOUR[3]}: one network, one noise", scale=0.75)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Six names, four ways: Euler is DDIM and Euler ancestral is DDPM, in other units (notebook 03), so their rows are equal. Those that add no noise head for one picture, and the table says how fast. The two that add noise stay away from it, however many steps: they end in *another* picture, though hardly to the eye, for this network knows few hamburgers. **Limit**: two prompts, one noise; distance to 50 steps of one solver favours its kin.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 4 · What fixes a picture, and what it costs
#
# **Intuition.** "Seed 42" says nothing by itself. A picture is fixed by weights, prompt, scheduler, steps, guidance, *and the noise*; the noise by a generator, its device, and who drew from it before.
#
# **Predict.** Four prompts, one generator with seed 0. Is the third picture what you get when you draw the third prompt alone with seed 0?
#
# <details><summary>Answer</summary>
# No. The generator gave the first two pictures their noise before. A *list* of generators, one a picture, makes each independent of its neighbours.
# </details>

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
def seeded(prompts, generator, pipe=pipe, **options):
    return 2 * pipe(prompts, num_inference_steps=10, guidance_scale=2.0, generator=generator, output_type="pt", **options).images - 1

def rng(seed):
    return torch.Generator().manual_seed(seed)

alone, again = seeded(FOUR[2:3], rng(0)), seeded(FOUR[2:3], rng(0))
shared, listed = seeded(FOUR, rng(0)), seeded(FOUR, [rng(s) for s in (5, 6, 0, 7)])
print("twice the same call: equal to the bit:", torch.equal(alone, again))
print("third of four, one generator for all: the same picture:", torch.allclose(shared[2:3], alone, atol=1e-3))
print("third of four, a generator each: the same picture:", torch.allclose(listed[2:3], alone, atol=1e-3))
print("... to the bit is not promised; to 1e-3 of a colour value it is:", bool((listed[2:3] - alone).abs().max() < 1e-3))


# %% [markdown] slideshow={"slide_type": "subslide"}
# **Half precision.** Sixteen bits a weight in place of thirty-two: files and memory halve. `float16` has 11 bits of precision and ends at 65,504; `bfloat16` has 8 and the range of `float32`.

# %% alt="Four columns of two pictures: float32, bfloat16 and float16 look alike; the last column shows ten times the difference of bfloat16 from float32, faint outlines." slideshow={"slide_type": "-"}
def megabytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6

halves = {"float32": (MODEL, pipe)}
for dtype in (torch.bfloat16, torch.float16):
    name = str(dtype).removeprefix("torch.")
    other = StableDiffusionPipeline.from_pretrained(MODEL, dtype=dtype)
    other.set_progress_bar_config(disable=True)
    other.save_pretrained(HERE / name)
    halves[name] = HERE / name, other
columns = {}
for name, (folder, one) in halves.items():
    began = time.perf_counter()
    columns[name] = draw(FOUR[:2], noise(0, 1).to(one.dtype), pipe=one)
    off = (columns[name] - columns["float32"]).abs()
    print(f"{name:9s} {megabytes(folder):5.1f} MB of weights, {time.perf_counter() - began:4.1f} s, differs by {float(off.mean()):.4f} in the mean and {float(off.max()):.2f} at most")
columns["10 × difference"] = 10 * (columns["bfloat16"] - columns["float32"])
plotting.show_rows({text: [x[i] for x in columns.values()] for i, text in enumerate(["panda", "butterfly"])}, list(columns), "One noise, three precisions", scale=1.0)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The file halves. Eight bits of precision (`bfloat16`) cost several times what eleven cost, and the last column shows where: at edges. Whether half precision is also faster depends on the machine: read the seconds. **Limit**: where a number passes 65,504, `float16` gives infinity and the picture is black. So Stable Diffusion XL's autoencoder is kept in `float32`.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Memory.** We count the bytes of all tensors alive at the worst moment, weights aside. A pipeline offers switches, and each has a price.

# %% slideshow={"slide_type": "-"}
from course_utils.evaluation.memory import PeakMemory

@torch.inference_mode()
def cost(work):
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began                                                # not counted: counting is slow
    with PeakMemory() as memory:
        x = work()
    return memory.peak / 1e6, seconds, x

SIXTEEN, zs = [FOUR[i % 4] for i in range(16)], noise(*range(16))
photo = F.interpolate(theirs[:1], 256, mode="bicubic").clamp(-1, 1)                      # (1, 3, 256, 256)
with torch.inference_mode():
    large = pipe.vae.encode(photo).latent_dist.mean                                      # (1, 4, 64, 64)
at_once, decode, nothing = lambda: draw(SIXTEEN, zs, steps=1), lambda: pipe.vae.decode(large).sample, lambda: None
jobs = {"16 pictures, 1 step": (at_once, nothing, nothing),
        "  one at a time": (lambda: torch.cat([draw([text], z[None], steps=1) for text, z in zip(SIXTEEN, zs)]), nothing, nothing),
        "  vae.enable_slicing()": (at_once, pipe.vae.enable_slicing, pipe.vae.disable_slicing),
        "  enable_attention_slicing()": (at_once, pipe.enable_attention_slicing, pipe.disable_attention_slicing),
        "decode 256 × 256": (decode, nothing, nothing),
        "  vae.enable_tiling()": (decode, pipe.vae.enable_tiling, pipe.vae.disable_tiling)}

# %%
measured = {}
for name, (work, on, off) in jobs.items():
    on()
    measured[name] = peak, seconds, x = cost(work)
    off()
    reference = measured["decode 256 × 256" if len(x) == 1 else "16 pictures, 1 step"][2]
    print(f"{name:30s} {peak:7.1f} MB {seconds:6.2f} s   differs by at most {float((x - reference).abs().max()):.4f}")
pipe.unet.set_default_attn_processor()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The decoder is the peak: decoding in slices halves it for nothing, from 39.2 to 19.8 MB, and what is left is the U-Net's. One picture at a time saves most (3.2 MB). Tiles are not exact, up to 0.23 off: they are blended where they overlap, and each is normalised by its own pixels. Attention slices are a cure for a disease that today's attention no longer has (it never builds the
# whole table); read the line. **Limit**: offloading, `enable_model_cpu_offload()`, keeps on the GPU only the module at work; without a GPU there is nothing to measure.

# %%
# NBVAL_CHECK_OUTPUT
print("slices of the decoder change nothing: ", bool((measured["  vae.enable_slicing()"][2] - measured["16 pictures, 1 step"][2]).abs().max() < 1e-3))
print("and take at most 0.6 of the memory:", measured["  vae.enable_slicing()"][0] < 0.6 * measured["16 pictures, 1 step"][0])

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Batches.** More pictures at once, fewer calls. Does a picture get cheaper?

# %% alt="A line of seconds per picture against pictures at once, 1 to 16, on this machine." slideshow={"slide_type": "-"}
sizes = (1, 2, 4, 8, 16)
def seconds_each(n):
    began = time.perf_counter()
    for i in range(0, 16, n):
        draw(SIXTEEN[i:i + n], zs[i:i + n], steps=4)
    return (time.perf_counter() - began) / 16

each = [seconds_each(n) for n in sizes]
print("seconds a picture, 4 steps: " + ", ".join(f"{n} at once {s:.3f}" for n, s in zip(sizes, each)))
plotting.plot_lines(sizes, {"": (each, plotting.MODEL)}, "pictures at once", "seconds a picture", "Batching on this machine", direct_labels=False).axes[0].set_ylim(0)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** On a processor the line is soon flat: from one picture at once to eight it fell from 0.088 to 0.031 s a picture, and to 0.026 at sixteen; on a GPU, which idles on one small picture, it falls much longer. Memory grows with the batch in either case, which is what exercise 13.5 is about.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The key piece: words that count more
#
# **Intuition.** Web interfaces know a syntax, `(pink:1.5) butterfly`. `diffusers` does not: it takes `prompt_embeds`, and leaves weighting to others. A word is a row of the context $c$. Guidance pushes the *picture* away from the empty prompt; a weight pushes one *row* away from it:
#
# $$c_i'=\varnothing_i+w_i\,(c_i-\varnothing_i)$$
#
# This is ComfyUI's rule; others scale $c_i$ itself. The tokenizer says where in the text each token lies, so weights of characters become weights of tokens, in any language.

# %%
import re
from course_utils.errors import number

# %% slideshow={"slide_type": "-"}
# @save course_utils/interop/prompt_weights.py
MARKED = re.compile(r"\(([^():]+):(\d+\.?\d*)\)")  # (pink:1.5)
WEIGHTS = (0.0, 4.0)  # further away lies nothing that training ever showed


def parse_weights(prompt):
    text, weights, at = "", [], 0
    for found in MARKED.finditer(prompt):
        plain, weight = prompt[at : found.start()], number("a weight", float(found[2]), WEIGHTS)
        text += plain + found[1]
        weights += [1.0] * len(plain) + [weight] * len(found[1])
        at = found.end()
    return text + prompt[at:], weights + [1.0] * len(prompt[at:])


@torch.no_grad()
def weighted_embeds(pipe, prompt):
    text, weights = parse_weights(prompt)
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    tokens, silence = pipe.tokenizer(text, return_offsets_mapping=True, **options), pipe.tokenizer("", **options)
    spans = tokens.offset_mapping[0].tolist()  # where in the text each token lies; nowhere: start, end and filling
    each = [max(weights[start:end], key=lambda w: abs(w - 1), default=1.0) for start, end in spans]
    weight = torch.tensor(each).view(1, -1, 1)  # (1, L, 1)
    context, empty = (pipe.text_encoder(ids.to(pipe.device))[0] for ids in (tokens.input_ids, silence.input_ids))
    return empty + weight.to(context) * (context - empty)  # (1, L, D)


# %% [markdown]
# **Check.** Without marks nothing changes; a mark moves its own tokens and no other.

# %%
# NBVAL_CHECK_OUTPUT
print(parse_weights("a (pink:1.5) butterfly")[0], parse_weights("(粉色:2)的蝴蝶"))
usual, _ = pipe.encode_prompt(["a pink butterfly"], "cpu", 1, False)
moved = (weighted_embeds(pipe, "a (pink:1.5) butterfly") - usual).abs().amax(dim=(0, 2)) > 1e-5
print("without marks it is the pipeline's own:", torch.allclose(weighted_embeds(pipe, "a pink butterfly"), usual, atol=1e-6))
ids = pipe.tokenizer("a pink butterfly").input_ids
print("tokens moved:", [pipe.tokenizer.decode([i]).strip() for i, one in zip(ids, moved) if one])


# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** At weight 0, is the butterfly still pink?
#
# <details><summary>Answer</summary>
# It is. The row of "pink" is silent, but all rows after it have read it: the text encoder is causal, so "butterfly", the end mark and the filling know what stood before. A weight is no eraser.
# </details>

# %% alt="Rows of butterflies whose word pink has weights from 0 to 2.5, and one row without the word: the wings turn pinker with the weight." slideshow={"slide_type": "-"}
def pinkness(x):                                                                         # red + blue - 2 green, where there is colour
    coloured = (x.amax(1) - x.amin(1)) > 0.3                                             # (B, H, W)
    return torch.stack([(one[0] + one[2] - 2 * one[1])[here].mean() for one, here in zip(x, coloured)])

def weighted(prompt, zT, **options):
    return draw(None, zT, prompt_embeds=weighted_embeds(pipe, prompt).expand(len(zT), -1, -1), **options)

six = noise(*range(20, 26))
rows = {"no such word": weighted("butterfly, noto style", six, steps=12)}
rows |= {f"(pink:{w:g})": weighted(f"(pink:{w:g}) butterfly, noto style", six, steps=12) for w in (0, 0.5, 1, 1.5, 2.5)}
for name, x in rows.items():
    p = pinkness(x)
    print(f"{name:14s} pinkness {float(p.mean()):+.2f} ± {float(p.std() / len(p) ** 0.5):.2f}")
plotting.show_rows(rows, title="One word, six weights, six noises", scale=0.7)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** At weight 0 the wings are as pink as at 1, within the printed standard errors, and far from the row that lacks the word. Above 1 they get a little pinker. So the syntax is a gentle nudge, not a switch: to be rid of something, leave the word out, or name it in the negative prompt. **Limit**: one word, six noises; and beyond 2 a row lies where no
# training caption ever lay.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 5 · One set of weights, many doors
#
# **Intuition.** LoRAs have names, and a set of them can be active, each with a weight: notebook 11's `weighted_sum`. And other pipelines take the *same modules* with another loop: a picture as a start, a hole to fill. `from_pipe` copies nothing.

# %% alt="Rows of pictures drawn with the XP7 LoRA, the style LoRA and both: a car like the taught one, a shaded dog, and a shaded XP7." slideshow={"slide_type": "-"}
pipe.load_lora_weights(checkpoints.check("xp7"), adapter_name="xp7")
pipe.load_lora_weights(LORA, adapter_name="style")
files = {name: load_shipped_lora(file)[0] for name, file in {"xp7": "xp7", "style": "style-3d"}.items()}
WISHES, rows, gaps = ["XP7汽车,蓝天,草地,高清", "XP7 car, little creature, cartoon", "可爱的狗,小精灵,卡通"], {}, {}
for name, mix in {"xp7": {"xp7": 1.0}, "style": {"style": 1.0}, "xp7 + 0.6 style": {"xp7": 1.0, "style": 0.6}}.items():
    pipe.set_adapters(list(mix), list(mix.values()))
    rows[name] = draw(WISHES, noise(1, 2, 4), steps=12)
    set_adapter(sd.unet, weighted_sum([(files[one], weight) for one, weight in mix.items()]))
    *_, last = sd.txt2img(noise(1, 2, 4), WISHES, 12)
    gaps[name] = float((sd.decode(last.xt) - rows[name]).abs().max())
unload(sd.unet)
print("ours and diffusers', largest difference of a colour value:", ", ".join(f"{name} {gap:.0e}" for name, gap in gaps.items()))
plotting.show_rows(rows, ["XP7, grass", "XP7, style", "dog, style"], "set_adapters: one network, two files", scale=0.95)
plt.show()

# %% [markdown]
# `fuse_lora` is notebook 11's `merge`: the branches are added into the weights, and can be taken out again.

# %%
# NBVAL_CHECK_OUTPUT
print("ours and diffusers' with the same files and weights, equal to 1e-2:", {name: gap < 1e-2 for name, gap in gaps.items()})
pipe.fuse_lora(components=["unet"], adapter_names=["xp7", "style"])
fused = draw(WISHES, noise(1, 2, 4), steps=12)
pipe.unfuse_lora(components=["unet"])
print("fused: the same pictures:", torch.allclose(fused, rows["xp7 + 0.6 style"], atol=1e-2), "| active:", pipe.get_active_adapters())
pipe.unload_lora_weights()

# %% [markdown] slideshow={"slide_type": "subslide"}
# Two doors more. Guess which module they copy.

# %% alt="A row of four pictures: a red car on a beach, the same changed to a taxi in snow by img2img, the frame with a hole, and the hole filled with a panda." slideshow={"slide_type": "-"}
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline

change, fill = StableDiffusionImg2ImgPipeline.from_pipe(pipe), StableDiffusionInpaintPipeline.from_pipe(pipe)
for door in (change, fill):
    door.set_progress_bar_config(disable=True)
scene, mask = draw(["red automobile, beach"], noise(0)), torch.zeros(1, 1, 64, 64)
mask[..., 12:60, 4:60] = 1
common = {"num_inference_steps": 20, "guidance_scale": 2.0, "output_type": "pt"}
taxi = 2 * change("taxi, snow", image=scene / 2 + 0.5, strength=0.7, generator=rng(0), **common).images - 1
panda = 2 * fill("panda, beach", image=scene / 2 + 0.5, mask_image=mask, strength=1.0, latents=noise(5), generator=rng(0), height=64, width=64, **common).images - 1
plotting.show_pictures(torch.cat([scene, taxi, scene * (1 - mask), panda]), ["given", "img2img, 0.7: taxi, snow", "the hole", "inpaint: panda, beach"], columns=4, title="Two doors more, no weight more", scale=1.2)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
*_, last = sd.img2img(scene, ["taxi, snow"], 0.7, 20, rng(0), guidance=2.0)
print("img2img, ours and diffusers': equal to 1e-2:", bool((sd.decode(last.xt) - taxi).abs().max() < 1e-2))
*_, last = sd.inpaint(noise(5), scene, mask, ["panda, beach"], 20, rng(0), guidance=2.0)
print("inpaint, ours and diffusers': equal to 1e-2:", bool((sd.decode(last.xt) - panda).abs().max() < 1e-2))
print("the very same U-Net in all three:", change.unet is pipe.unet and fill.unet is pipe.unet)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Train it, in the script's words
#
# `diffusers` ships example scripts. `train_dreambooth_lora.py` is notebooks 10 and 11 with other names:
#
# | argument of the script | its README | ours |
# |---|---|---|
# | `--pretrained_model_name_or_path` | a hub name or a folder | `MODEL` |
# | `--instance_data_dir`, `--instance_prompt` | 3–5 photos, "a photo of sks dog" | 12 pictures, a caption each, two languages |
# | `--with_prior_preservation --prior_loss_weight` | 1.0 | 1.0 |
# | `--class_data_dir --num_class_images` | 200, drawn by the model | 64 latents, drawn by the model |
# | `--rank`, α | 4, the same | 16, the same; 8 here |
# | `--learning_rate`, `--lr_scheduler` | 1e-4, constant | falls in the last fifth |
# | `--train_batch_size`, `--max_train_steps` | 1, 500 | 16; 12 here; a budget of minutes |
# | `--mixed_precision --gradient_checkpointing --use_8bit_adam` | for small GPUs | not needed |
#
# The heart of the script is a dozen lines. Is it *our* loss? First the pieces.

# %% slideshow={"slide_type": "-"}
from diffusers import DDPMScheduler
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from course_utils.generator.objectives import sample_timesteps
from course_utils.recipes import xp7
from course_utils.recipes.latent_base import TIMESTEP_POWER

noise_scheduler = DDPMScheduler.from_config(trained)

def script_loss(unet, batch, generator, prior_loss_weight=1.0):
    model_input = batch["z"]
    timesteps = sample_timesteps(len(model_input), 1000, TIMESTEP_POWER, generator)      # the script: torch.randint
    eps = torch.randn(model_input.shape, generator=generator)
    noisy = noise_scheduler.add_noise(model_input, eps, timesteps)
    target, target_prior = noise_scheduler.get_velocity(model_input, eps, timesteps).chunk(2)
    pred, pred_prior = unet(noisy, timesteps, encoder_hidden_states=batch["context"]).sample.chunk(2)
    return F.mse_loss(pred, target) + prior_loss_weight * F.mse_loss(pred_prior, target_prior)


# %%
# NBVAL_CHECK_OUTPUT
some = xp7.batch(rng(0), 12)
with torch.no_grad():
    script, course = script_loss(pipe.unet, some, rng(1)), xp7.loss(sd.unet, some, rng(1))
print("the script's loss is notebook 10's:", bool((script - course).abs() < 1e-4))

# %% [markdown]
# Then the branches, by `peft`, and a bare loop. Time and loss to expect, from the base and the shipped file:

# %% slideshow={"slide_type": "-"}
LIVE_SECONDS, trial = 14, [xp7.batch(rng(k), 24) for k in range(3)]

@torch.no_grad()
def trial_loss(unet, loss=script_loss):
    return sum(float(loss(unet, part, rng(k))) for k, part in enumerate(trial)) / len(trial)

blank = trial_loss(pipe.unet)
set_adapter(sd.unet, *load_shipped_lora("xp7"))
best = trial_loss(sd.unet, xp7.loss)
unload(sd.unet)
band = (best + 0.2 * (blank - best), best + 0.8 * (blank - best))
print(f"expected: {LIVE_SECONDS} s. Without a LoRA {blank:.2f}, the shipped file {best:.2f}; a normal run ends between {band[0]:.2f} and {band[1]:.2f}.")

# %% slideshow={"slide_type": "-"}
torch.manual_seed(0)                                                                     # peft draws A from the global generator
pipe.unet.requires_grad_(False)
pipe.unet.add_adapter(LoraConfig(r=8, lora_alpha=8, init_lora_weights="gaussian", target_modules=list(ALL_TARGETS)))
learning = [p for p in pipe.unet.parameters() if p.requires_grad]
optimizer, generator, losses = torch.optim.AdamW(learning, lr=3e-3), rng(0), []
began = time.perf_counter()
while time.perf_counter() - began < LIVE_SECONDS:
    loss = script_loss(pipe.unet, xp7.batch(generator, 12), generator)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(learning, 1.0)
    optimizer.step()
    losses.append(loss.item())

# %% [markdown]
# **Is this normal?**

# %% alt="The loss of the live training falls into the shaded band where a normal run ends." slideshow={"slide_type": "subslide"}
last_loss = trial_loss(pipe.unet)
print(f"{sum(p.numel() for p in learning):,} numbers learn; {len(losses)} steps, loss {last_loss:.2f}: ", end="")
print("normal." if band[0] <= last_loss <= band[1] else "better than usual." if last_loss < band[0] else
      "higher than usual. A slow or busy machine takes fewer steps: raise LIVE_SECONDS and run again.")
plotting.plot_loss(range(len(losses)), losses, band, "Live training on this machine, by the script's lines")
plt.show()

# %% [markdown]
# Saved by the script's last line, opened by *our* reader, beside the shipped file:

# %% alt="Three rows of cars: the base draws any car, the LoRA of a few seconds takes over XP7's colours, the shipped file draws XP7." slideshow={"slide_type": "-"}
from diffusers.utils import convert_state_dict_to_diffusers

layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
StableDiffusionPipeline.save_lora_weights(HERE / "live", unet_lora_layers=layers)
CARS, zs3 = ["XP7 car, blue sky, grass", "XP7汽车，浅绿色背景", "car, beach"], noise(1, 2, 3)
live = draw(CARS, zs3, steps=12)
pipe.unload_lora_weights()
rows = {"the folder": draw(CARS, zs3, steps=12), f"{LIVE_SECONDS} s of the script": live}
set_adapter(sd.unet, *read_lora(HERE / "live"))
*_, last = sd.txt2img(zs3, CARS, 12)
gap = float((sd.decode(last.xt) - live).abs().max())
set_adapter(sd.unet, *load_shipped_lora("xp7"))
*_, last = sd.txt2img(zs3, CARS, 12)
rows["shipped"] = sd.decode(last.xt)
unload(sd.unet)
plotting.show_rows(rows, ["grass", "light green", "any car"], "The script's LoRA, opened by diffusers", scale=0.95)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print("trained by peft, saved by diffusers, opened by our reader: equal to 1e-2:", gap < 1e-2)
print("the loss fell:", last_loss < blank)

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The equality above the training is the point: the script's `chunk`, its two `mse_loss`, its weight are notebook 10's loss to the last digit. **Limit**: seconds teach colours, not a car; the shipped file had minutes.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Before you share
#
# **A safety checker** is CLIP (notebook 07) behind the decoder: the picture's vector is compared with the vectors of a list of concepts, each with a threshold; above it the picture is blacked out. Stable Diffusion's list has 17 entries, given as vectors only. To see its two kinds of error we build one on our CLIP,
# for a kindergarten that wants nothing spooky.

# %% slideshow={"slide_type": "-"}
from course_utils.recipes.stable_diffusion import emoji
from course_utils.systems.clip import embed_images, embed_texts, open_clip

clip, SPOOKY = open_clip(), ["ghost", "jack-o-lantern"]
concepts = embed_texts(clip, SPOOKY)                                                     # (C, 192), unit length
real = emoji()
scores = embed_images(clip, to_tensor(real.on_white())) @ concepts.T                     # (N, C) cosines
spooky = torch.tensor([meta["concept"] in SPOOKY for meta in real.meta])
thresholds = scores[~spooky].quantile(0.95, dim=0)                                       # one in twenty others is above it

def safety_checker(images, clip_input):                                                  # the slot's two arguments
    flagged = (embed_images(clip, clip_input.float()) @ concepts.T > thresholds).any(dim=1)
    return images * ~flagged[:, None, None, None], flagged.tolist()                      # one answer a picture


# %% alt="Two rows of drawings, spooky and harmless; flagged pictures are black squares, some spooky ones get through and some harmless ones are black." slideshow={"slide_type": "subslide"}
pipe.feature_extractor, pipe.safety_checker = processor, safety_checker
HARMLESS = ["snowman", "panda", "red heart", "pizza", "rocket", "sun", "hamburger", "cat face"]
asked = {"spooky": [f"{c}, {place}" for c in SPOOKY for place in ("night sky", "snow", "sunset", "white background")], "harmless": [f"{c}, night sky" for c in HARMLESS]}
rows = {}
for name, prompts in asked.items():
    out = pipe(prompts, latents=noise(*range(40, 48)), num_inference_steps=12, guidance_scale=2.0, output_type="pt")
    rows[name] = 2 * out.images - 1
    print(f"{name:9s} flagged {sum(out.nsfw_content_detected)} of {len(prompts)}")
print(f"real pictures: flagged {float((scores[spooky] > thresholds).any(dim=1).float().mean()):.0%} of the spooky, {float((scores[~spooky] > thresholds).any(dim=1).float().mean()):.0%} of the others")
pipe.safety_checker = pipe.feature_extractor = None
plotting.show_rows(rows, title="Black: flagged by the checker", scale=0.7)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The counts: some slip through, some harmless pictures go black. A checker is a threshold, and every threshold pays on both sides. So why not take it out, as the article does? Because whoever *serves* pictures to others answers for them; licences of weights ask for it; and the line is copied by people who never saw what it
# switches off. On our data, which hold no people, there is nothing to check, so our export says `safety_checker=None` openly. Elsewhere leave it in, or put something better in its place. **Limit**: a checker sees pictures, not purposes.
#
# **Licences.** Code, weights, data and LoRA each have their own:
#
# | | licence | asks |
# |---|---|---|
# | this course, its weights | MIT | keep the notice |
# | our pictures | MIT, Apache-2.0, CC BY 4.0 | name the makers (`data/README.md`) |
# | Stable Diffusion 1.x, Taiyi | CreativeML Open RAIL-M | a list of forbidden uses, which travels to every derivative |
# | the article's LoRA | Apache-2.0 | but it acts on Taiyi, so RAIL-M counts too |
#
# A licence on a file says nothing of the pictures inside: the data behind the article's LoRA were captions of Pokémon drawings, and the first data set of that kind has been taken from the hub.
#
# **A card** says what a reader must know. Its head is read by machines.

# %% slideshow={"slide_type": "-"}
from huggingface_hub import ModelCard, ModelCardData

facts = checkpoints.card("style-3d")
data = ModelCardData(license="mit", library_name="diffusers", language=["en", "zh"], tags=["lora", "text-to-image"], base_model="our-emoji-model")
card = ModelCard(f"""---
{data.to_yaml()}
---
# A 3D style for emoji, as a LoRA

Call it by "小精灵,卡通" or "little creature, cartoon". Trained for {facts['minutes']:.0f} minutes on a {facts['hardware']}, {facts['pictures']:,} latents.
**What it cannot do:** people, counting, anything its base cannot draw. **Fits:** the base whose SHA-256 begins {facts['parents']['stable-diffusion'][:8]}.
""")
card.save(HERE / "README.md")
print(card.content)

# %% [markdown]
# With an account, `pipe.push_to_hub("me/emoji")` uploads a folder, `card.push_to_hub(…)` the card. We stop before that line.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The article's own models
#
# With a network and a GPU, one switch loads them at fixed commits. What we know of them, from their pages: the base is 1B parameters, the LoRA 3.29 MB, both of 2023. **Both exist as pickles only.** A pickle can run foreign code when it is opened, so the course opens safetensors and nothing else. The second switch allows these
# two, and then through PyTorch's restricted reader, which knows tensors and nothing more. If a repository is gone, one sentence says so.

# %% slideshow={"slide_type": "-"}
USE_NETWORK, READ_PICKLES = False, False

if USE_NETWORK:
    from course_utils.interop.article import open_article

    real_pipe = open_article(read_pickles=READ_PICKLES)                                  # Taiyi with the article's LoRA
    images = [real_pipe(prompt, num_inference_steps=50, guidance_scale=7.5, generator=rng(4)).images[0] for prompt in DEMO]
    plotting.show_pictures([np.asarray(image) for image in images], DEMO, title="The article's demo", scale=2, nearest=False)
    plt.show()
else:
    print("Without a network the article's models are left out: set USE_NETWORK = True to fetch them (about 5 GB, once). Stable Diffusion 1.5: notebook 06's switch.")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## How ours differs from the real thing
#
# Our column is computed here; the other is counted on our own classes at Stable Diffusion's sizes, without weights, or published (model cards of Stable Diffusion 1.5 and LAION-2B).

# %% slideshow={"slide_type": "-"}
from torch.utils.flop_counter import FlopCounterMode
from course_utils.decoder.vae import VAE
from course_utils.generator.latent_unet import LatentUNet
from course_utils.text_encoder.clip import CLIPTextModel

def count(module):
    return sum(p.numel() for p in module.parameters())

def gigaflops(unet, z, context):
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), torch.no_grad():
        unet(z, torch.zeros(1, dtype=torch.long, device=z.device), context)
    return counter.get_total_flops() / 1e9

with torch.device("meta"):
    real_unet = LatentUNet(4, 4, (320, 640, 1280, 1280), 2, (True, True, True, False), num_heads=8, context_dim=768)
    real_vae, real_text = VAE((128, 256, 512, 512), 4, num_blocks=2, groups=32), CLIPTextModel(49408, 77, 768, 12, 12)
    real_flops = gigaflops(real_unet, torch.empty(1, 4, 64, 64), torch.empty(1, 77, 768))
our_flops = gigaflops(sd.unet, noise(0), sd.encode_prompt(["panda"]))

# %% slideshow={"slide_type": "subslide"}
ours = checkpoints.card("stable-diffusion")
began = time.perf_counter()
draw(FOUR, noise(0, 1, 2, 3))
second = (time.perf_counter() - began) / 4
table = {"": ("ours", "Stable Diffusion 1.5"), "picture, latent": ("64×64, 4×16×16", "512×512, 4×64×64"),
         "tokens × width": ("32 × 128", "77 × 768"), "text encoder": (count(sd.text_encoder), count(real_text)),
         "U-Net": (count(sd.unet), count(real_unet)), "VAE": (count(sd.vae), count(real_vae)),
         "GFLOP, one U-Net call": (f"{our_flops:.2f}", f"{real_flops:,.0f}"), "half-precision weights, MB": (f"{megabytes(HERE / 'float16'):.0f}", f"{2 * (count(real_text) + count(real_unet) + count(real_vae)) / 1e6:,.0f}"),
         "predicts, schedule": (f"{sd.prediction}, cosine", "ε, scaled linear"), "usual steps, guidance": ("20, 2", "50, 7.5"),
         "different pictures to learn from": (len(real), "about 2,300,000,000 (LAION-2B)"), "pictures shown": (ours["pictures"], "about 3,200,000,000: 1,541,000 steps of 2,048"),
         "training": (f"{ours['minutes']:.0f} min, {ours['hardware']}", "150,000 hours of A100 (all of v1)"),
         "one picture on this machine": (f"{second:.1f} s", f"{second * real_flops / our_flops * 50 / 20 / 60:.0f} min, from the FLOPs, 50 steps")}
for name, row in table.items():
    print(f"{name:34s}" + "".join(f"  {cell:<26,}" if isinstance(cell, int) else f"  {cell:<26s}" for cell in row))

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The two columns differ in every number and in no line of code: the same classes, wider. **What the table does not say**: the real one writes no captions of its own, its pictures are of everything, and most of the cost was choosing them. Ours knows a hundred-odd things, drawn flat, in few poses; where it looks good, it often
# remembers (notebook 06).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Experiment · The whole pipeline in one box
#
# Marks such as `(pink:1.5)` work here. Try 5 steps with each scheduler, guidance 8, both files at once.

# %% alt="Four drawings of the prompt in the box, from four seeds." slideshow={"slide_type": "-"}
pipe.load_lora_weights(checkpoints.check("xp7"), adapter_name="xp7")
pipe.load_lora_weights(LORA, adapter_name="style")

def own(prompt, negative, scheduler, steps, guidance, xp7_weight, style_weight, seed):
    text = prompt_text(prompt)
    pipe.set_adapters(["xp7", "style"], [xp7_weight, style_weight])
    away, words = weighted_embeds(pipe, negative.strip()).expand(4, -1, -1), weighted_embeds(pipe, text).expand(4, -1, -1)
    x = draw_by(scheduler, None, noise(*range(seed, seed + 4)), steps, guidance=guidance, prompt_embeds=words, negative_prompt_embeds=away)
    return plotting.show_pictures(x, columns=4, title=f"{text} ({scheduler}, {steps} steps, guidance {guidance:g}, seed {seed})", scale=1.2)

from course_utils.figures.widgets import explore
explore(own, prompt="(pink:1.5) butterfly, beach", negative="", scheduler=list(reversed(KINDS)), steps=[12, 5, 20, 50], guidance=[2.0, 1.0, 4.0, 7.5], xp7_weight=[0.0, 0.5, 1.0], style_weight=[0.0, 0.5, 1.0], seed=(0, 98))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks · A scheduler is not a name
#
# "DDIM is called `DDIMScheduler`, so I write that." No error, no warning. Two ways to be wrong:

# %% alt="Three columns of pictures: the right scheduler draws clean emoji, the one that clips draws greyish, crumbling ones, the bare one draws blots." slideshow={"slide_type": "-"}
pipe.unload_lora_weights()
wrong = {"from_config, clip_sample=False": DDIMScheduler.from_config(trained, clip_sample=False),
         "from_config alone": DDIMScheduler.from_config(trained), "DDIMScheduler()": DDIMScheduler()}
broken = {}
for name, scheduler in wrong.items():
    pipe.scheduler = scheduler
    broken[name] = draw(FOUR, noise(0, 1, 2, 3))
    print(f"{name:32s} differs from the first by {float((broken[name] - broken['from_config, clip_sample=False']).abs().mean()):.3f} in the mean")
pipe.scheduler = swapped("DPM-Solver++")
plotting.show_rows(broken, ["panda", "butterfly", "car", "hamburger"], "One class, three configs", scale=0.9)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
for name in ("prediction_type", "beta_schedule", "timestep_spacing", "clip_sample"):
    print(f"{name:17s}", [scheduler.config[name] for scheduler in wrong.values()])

# %% [markdown] slideshow={"slide_type": "-"}
# **The cause.** The bare scheduler assumes ε, a linear β and another spacing; our U-Net answers with v. `from_config` brings all this along, but *only what the old scheduler knew*: `clip_sample` was no option of its own, so the new one falls back to its default and clips latents as if they were pixels. The second row still shows a panda, so one suspects the weights, or the number of steps. **The
# habit that finds it**: print the two configs side by side, defaults filled in. Exercise 13.3 writes that.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# Write the function, run the check: it tries fresh random cases and says what is likely wrong. Each exercise has three hints of rising strength.

# %%
# NBVAL_CHECK_OUTPUT
hint("13-seeds", 1)


# %% [markdown]
# ### Exercise 13.1 (warm-up) · A seed for each picture
#
# Write `noises`: picture i starts from the noise of seeds[i], whatever stands beside it in the batch.
#
# Stuck? `hint("13-seeds", 1)`, then 2, then 3.

# %%
def noises(seeds, shape):                             # list of B numbers, (C, h, w)
    raise NotImplementedError                         # -> (B, C, h, w)


# %%
check("13-seeds", noises)


# %% [markdown]
# **Solution** (folded)

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def noises(seeds, shape):
    return torch.cat([torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

check("13-seeds", noises)


# %% [markdown]
# ### Exercise 13.2 (transfer) · One loop for all
#
# Write `denoise` for *any* scheduler of `diffusers`: the check hands you Euler, DDIM, DPM-Solver++ and UniPC.
#
# Stuck? `hint("13-loop", 1)`.

# %%
def denoise(scheduler, model, noise, steps):          # model(xt, t) -> prediction, like xt
    raise NotImplementedError                         # -> like noise


# %%
check("13-loop", denoise)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def denoise(scheduler, model, noise, steps):
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    return x

check("13-loop", denoise)


# %% [markdown]
# ### Exercise 13.3 (diagnose) · Which option is it?
#
# A pipeline draws mud. Write `suspects`: the names in `defaults`, sorted, whose values differ between the config it was trained with and the one in use. What a config leaves out has its default.
#
# Stuck? `hint("13-options", 1)`. Then let it judge the two wrong schedulers above.

# %%
def suspects(trained, used, defaults):                # three dicts
    raise NotImplementedError                         # -> list of names


# %%
check("13-options", suspects)


# %% [markdown]
# **Solution.** The last two lines find both bugs of "When it breaks".

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def suspects(trained, used, defaults):
    return [name for name in sorted(defaults) if trained.get(name, defaults[name]) != used.get(name, defaults[name])]

right, defaults = dict(wrong["from_config, clip_sample=False"].config), {name: value for name, value in DDIMScheduler().config.items() if name[0] != "_"}
for name in ("from_config alone", "DDIMScheduler()"):
    print(name, suspects(right, dict(wrong[name].config), defaults))
check("13-options", suspects)


# %% [markdown]
# ### Exercise 13.4 (measure) · How strongly does it act?
#
# A LoRA was fused into a layer. Write `strength`: the number $s$ for which the change is nearest to $s$ times what the file promises ($BA$). 1 is right, 0 a file that does nothing, anything else an α read wrongly.
#
# Stuck? `hint("13-strength", 1)`.

# %%
def strength(before, after, promised):                # (C_out, C_in) three times
    raise NotImplementedError                         # -> tensor of shape ()


# %%
check("13-strength", strength)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def strength(before, after, promised):
    return ((after - before) * promised).sum() / promised.square().sum()

check("13-strength", strength)


# %% [markdown]
# ### Exercise 13.5 (measure) · The largest batch that fits
#
# `peak(n)` draws n pictures and says how many bytes that took. Write `largest_batch`: the most pictures within a budget; 0 if not even one fits. Every call is a drawing: ask at most a few dozen times.
#
# Stuck? `hint("13-batch", 1)`. Afterwards: try it with `lambda n: cost(lambda: draw(SIXTEEN[:1] * n, noise(*range(n)), steps=1))[0]`.

# %%
def largest_batch(peak, budget):                      # function, a number
    raise NotImplementedError                         # -> whole number


# %%
check("13-batch", largest_batch)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def largest_batch(peak, budget):
    low, high = 0, 1
    while peak(high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if peak(middle) <= budget else (low, middle)
    return low

check("13-batch", largest_batch)


# %% [markdown]
# ### Exercise 13.6 (code, then open) · What the checker decides by
#
# Write `margin`: how far the worst concept of each picture lies above its threshold. Above 0 is flagged. The vectors have any length.
#
# Stuck? `hint("13-checker", 1)`. **Open**: plot misses against false alarms for all thresholds on our ghosts. Which would you choose, and who should choose it?

# %%
def margin(image_embed, concept_embed, thresholds):   # (B, D), (C, D), (C,)
    raise NotImplementedError                         # -> (B,)


# %%
check("13-checker", margin)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def margin(image_embed, concept_embed, thresholds):
    cosines = F.normalize(image_embed, dim=-1) @ F.normalize(concept_embed, dim=-1).T
    return (cosines - thresholds).amax(dim=1)

check("13-checker", margin)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# Yes: every line of the field's code is one we have written, and on our weights both draw the same picture. What a line hides is in its defaults.
#
# | theirs | ours | built in |
# |---|---|---|
# | `StableDiffusionPipeline(prompt, …)` | `sd.txt2img(zT, prompts, …)` | 06 |
# | `pipe.scheduler`, `step` | `ddpm`, `ddim`, `dpmpp_2m` | 03 |
# | `load_lora_weights`, `set_adapters`, `fuse_lora` | `set_adapter`, `weighted_sum`, `merge` | 11 |
# | `StableDiffusionImg2ImgPipeline`, `…InpaintPipeline` | `sd.img2img`, `sd.inpaint` | 06 |
# | `prompt_embeds` | `weighted_embeds(pipe, prompt)` | here |
# | `train_dreambooth_lora.py` | `course train xp7` | 10, 11 |
# | `safety_checker` | CLIP and a threshold | 07, here |
#
# **What we did not show.** ControlNet and IP-Adapter; distillation to one to four steps; compiling and quantising; serving many users.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What fails next
#
# The pipelines of 2023 are classics now. Newer ones (Stable Diffusion 3, FLUX) change two of our three boxes: a Transformer in place of the U-Net and rectified flow in place of the cosine, as notebook 12 tries in small. Their loop still has `set_timesteps` and `step`. What none of them mends by size alone: who may use
# whose pictures, what a picture proves, who answers for it. There is no notebook 14. Take a folder of your own photos, `course train`, and read the card of whatever you load next.

# %% [markdown]
# ## References
#
# - R. Rombach et al., *High-resolution image synthesis with latent diffusion models*, 2022, arXiv 2112.10752: the system; and the model card of Stable Diffusion 1.5, "Training" and "Environmental impact".
# - T. Karras et al., *Elucidating the design space of diffusion-based generative models*, 2022, arXiv 2206.00364: Euler in units of σ (algorithm 1, table 1).
# - W. Zhao et al., *UniPC*, 2023, arXiv 2302.04867; C. Lu et al., *DPM-Solver++*, 2022, arXiv 2211.01095 (algorithm 2); J. Song et al., *DDIM*, 2021, arXiv 2010.02502 (equation 12).
# - N. Ruiz et al., *DreamBooth*, 2023, arXiv 2208.12242 (section 3.3); E. Hu et al., *LoRA*, 2021, arXiv 2106.09685 (section 4.1).
# - J. Rando et al., *Red-teaming the Stable Diffusion safety filter*, 2022, arXiv 2210.04610: how the checker works (section 2).
# - M. Mitchell et al., *Model cards for model reporting*, 2019, arXiv 1810.03993.
# - C. Schuhmann et al., *LAION-5B*, 2022, arXiv 2210.08402: the data.
# - The models of the article: `IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Anime-Chinese-v0.1`, `souljoy/sd-pokemon-model-lora-zh`, on the Hugging Face hub.

# %% [markdown]
# ← [11 · LoRA](11_lora.ipynb) · [Contents](00_start_here.ipynb)

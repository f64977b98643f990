# %% [markdown] slideshow={"slide_type": "slide"}
# # 03 · Sampling: from noise to picture, in how many steps?
#
# | | |
# |---|---|
# | **Time** | a 60-minute lecture; three hours with the exercises; the code runs in about two minutes |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebooks 01 and 02; what a derivative is |
# | **Where we are** | text encoder → **[generator]** → decoder |
#
# Nothing is trained here. We take the U-Net of notebook 02, asked for $x_0$ and trained for longer, and change how we *sample* with it.

# %% [markdown]
# ← [02 · Noise predictor](02_noise_predictor.ipynb) · [Contents](00_start_here.ipynb) · [04 · Text conditioning](04_text_conditioning.ipynb) →

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

# %% alt="A strip of three boxes, text encoder, generator and decoder, joined by arrows; the generator is filled." slideshow={"slide_type": "-"}
import matplotlib.pyplot as plt
from course_utils.figures import diagrams, plotting

plotting.use_course_style()
diagrams.strip(where="generator")
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The result first
#
# One network. A column is one noise, a row one number of steps. These six of forty noises were chosen because they
# end well; notebook 02 leaves none out.

# %% alt="Six noises in columns, 1, 2, 5, 10 and 50 steps in rows: blurred average faces become a red heart and five yellow faces." slideshow={"slide_type": "-"}
import torch
from course_utils import checkpoints
from course_utils.generator.samplers import ddim, ddpm, dpmpp_2m, sample
from course_utils.recipes import noise_predictor

trained = checkpoints.load("noise-predictor", noise_predictor.model())
SIZE, KIND, SCHEDULE = noise_predictor.SIZE, noise_predictor.PREDICTION, noise_predictor.SCHEDULE

def gaussian(count, seed):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))

def draw(sampler, xT, steps, seed=0, **options):
    options = {"spacing": "trailing", "prediction": KIND, "generator": torch.Generator().manual_seed(seed)} | options
    return sample(sampler, trained, xT, SCHEDULE, steps=steps, **options)

chosen = gaussian(40, seed=0)[[3, 6, 18, 19, 27, 36]]
rows = {f"{steps} step{'s'[:steps - 1]}": draw(dpmpp_2m, chosen, steps) for steps in (1, 2, 5, 10, 50)}
print(f"the network: asked for {KIND}, {checkpoints.card('noise-predictor')['minutes']:.0f} minutes of training")
plotting.show_rows(rows, title="The same six noises, in more and more steps", scale=0.9)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# One step gives an average face, whatever the noise. Ten look much like fifty. Why, and are they as good? Section 6 measures it.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## What we build
#
# 1. The step back, derived (DDPM), then without fresh noise (DDIM).
# 2. The equation behind it, and a second-order solver (DPM-Solver++ 2M).
# 3. Quality against steps and seconds, and what the measure hides.
# 4. Interpolating between noises; from a picture back to its noise.

# %% [markdown]
# ### Setup

# %%
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from course_utils.checks.core import check, hint
from course_utils.data import FIRST_STYLES, load_emoji, to_tensor
from course_utils.errors import InputError, integer, number, one_of
from course_utils.evaluation.intervals import Estimate, Mean, Share, interval
from course_utils.figures.plotting import AXIS, DATA, LATENT, MODEL, NOISE, REFERENCE
from course_utils.figures.widgets import explore
from course_utils.generator.objectives import target, to_eps, to_x0
from course_utils.generator.samplers import check_noise, check_table
from course_utils.generator.schedules import Schedule, add_noise, make_schedule

def rms(x):                                                               # (B, ...) -> (B,), a number for each picture
    return x.square().flatten(1).mean(1).sqrt()


# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: leave out nine steps of ten
#
# To judge a sampler we want a denoiser without faults. So we take data whose best guess is known in closed form: a face of
# 60 small Gaussian dots. What goes wrong now is the sampler's own fault.

# %% slideshow={"slide_type": "-"}
def face_centres():                                                       # -> (60, 2)
    a = torch.linspace(0, 2 * math.pi, 37)[:-1]
    ring = 0.9 * torch.stack([a.cos(), a.sin()], dim=1)
    arc = math.pi * torch.linspace(1.15, 1.85, 12)
    mouth = 0.5 * torch.stack([arc.cos(), arc.sin()], dim=1)
    eyes = torch.tensor([[-0.35, 0.3], [0.35, 0.3]]).repeat(6, 1)
    return torch.cat([ring, mouth, eyes]).double()

CENTRES, SPREAD, toy = face_centres(), 0.05, make_schedule("linear")

def best_x0(xt, t):                                                       # (B, 2), (B,) -> (B, 2)
    signal, sigma = toy.at(t, xt)                                         # (B, 1) each
    variance = (signal * SPREAD) ** 2 + sigma**2
    distance = ((xt[:, None] - signal[:, None] * CENTRES) ** 2).sum(-1)   # (B, 60)
    near = torch.softmax(-distance / (2 * variance), dim=1) @ CENTRES     # which dot is it?
    return near + signal * SPREAD**2 / variance * (xt - signal * near)    # and where in the dot?


# %% [markdown]
# We sample with the step of notebook 02,
# $x_{t-1}=\big(x_t-\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\hat\varepsilon\big)/\sqrt{1-\beta_t}$ plus noise. Once we
# visit all 1000 steps. Then we save time and visit every tenth.

# %% slideshow={"slide_type": "subslide"}
def neighbour_steps(stride, count=1000):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    for t in range(999, -1, -stride):
        ts, beta, alpha_bar = torch.full((count,), t), float(toy.beta[t]), float(toy.alpha_bar[t])
        eps = to_eps(best_x0(x, ts), x, ts, toy, "x0")
        x = (x - beta / math.sqrt(1 - alpha_bar) * eps) / math.sqrt(1 - beta)
        x = x + math.sqrt(beta) * torch.randn(x.shape, generator=generator, dtype=x.dtype) * (t > 0)
    return x

def on_face(x):                                                           # share of dots nearer than 0.1 to a centre
    return Share.of(torch.cdist(x, CENTRES).amin(1) < 0.1)

real = CENTRES[torch.randint(60, (1000,), generator=torch.Generator().manual_seed(1))]
real = real + SPREAD * torch.randn(real.shape, generator=torch.Generator().manual_seed(2), dtype=real.dtype)
drawn = {"data": real, "all 1000 steps": neighbour_steps(1), "every tenth": neighbour_steps(10)}
print("on the face: " + ", ".join(f"{name} {on_face(x)}" for name, x in drawn.items()))

# %% alt="Three clouds of dots: the face, the face again after 1000 steps, and a shapeless cloud after every tenth." slideshow={"slide_type": "-"}
plotting.plot_points([real, {MODEL: drawn["all 1000 steps"]}, {NOISE: drawn["every tenth"]}], list(drawn),
                     "A step for neighbours does not reach further", limit=2.2)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The guesses are perfect, and still 22 % [20, 25] of the dots land on the face where 91 % [89, 92] should. The formula removes the
# noise of *one* step and then claims to stand ten steps earlier. We need a step that knows how far it goes.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 · The step back, derived
#
# **Intuition.** We stand at $x_t$ and ask for $x_s$ at an earlier step $s<t$. Two facts bear on it: noise made $x_s$ from $x_0$, and
# more noise made $x_t$ from $x_s$. Each is a Gaussian, so we multiply.
#
# **Notation.** $\alpha=\bar\alpha_t/\bar\alpha_s$ is the share of power kept on the way from $s$ to $t$. For neighbours
# it is $\alpha_t$; for a jump it is the product of all that is skipped.
#
# **Formula** (DDPM eq. 6 and 7, for any jump):
#
# $$q(x_s\mid x_t,x_0)\;\propto\;\mathcal N\big(x_t;\sqrt{\alpha}\,x_s,\;1-\alpha\big)\;
# \mathcal N\big(x_s;\sqrt{\bar\alpha_s}\,x_0,\;1-\bar\alpha_s\big)$$
#
# Read both as functions of $x_s$. The first is centred at $x_t/\sqrt\alpha$ with precision (one over variance) $\alpha/(1-\alpha)$, the second
# at $\sqrt{\bar\alpha_s}\,x_0$ with precision $1/(1-\bar\alpha_s)$. A product adds the exponents, so **precisions add**; with
# $\alpha\bar\alpha_s=\bar\alpha_t$:
#
# $$\frac1{\sigma^2}=\frac{\alpha}{1-\alpha}+\frac{1}{1-\bar\alpha_s}=\frac{\alpha(1-\bar\alpha_s)+1-\alpha}{(1-\alpha)(1-\bar\alpha_s)}
# =\frac{1-\bar\alpha_t}{(1-\alpha)(1-\bar\alpha_s)}$$
#
# The mean weighs each centre by its precision:
#
# $$\mu=\sigma^2\Big(\frac{\sqrt{\bar\alpha_s}}{1-\bar\alpha_s}\,x_0+\frac{\sqrt\alpha}{1-\alpha}\,x_t\Big)
# =\frac{\sqrt{\bar\alpha_s}\,(1-\alpha)}{1-\bar\alpha_t}\,x_0+\frac{\sqrt{\alpha}\,(1-\bar\alpha_s)}{1-\bar\alpha_t}\,x_t$$
#
# We do not know $x_0$: the network's guess $\hat x_0$ stands in, and that is DDPM. `ddpm` in notebook 02 computes these lines.
#
# **Predict.** With $s$ just above 0: which term of $\mu$ wins, and how large is $\sigma$?
#
# <details><summary>Answer</summary>
#
# There $1-\bar\alpha_s$ is almost 0. The term in $x_t$ vanishes, $\mu$ is nearly $x_0$, and $\sigma$ nearly 0.
#
# </details>
#
# **Check** against brute force: noise one pixel 400,000 times, keep the trajectories that pass near a chosen $x_t$, and look
# where they were at $s$.

# %% slideshow={"slide_type": "subslide"}
# NBVAL_CHECK_OUTPUT
def posterior(x0, xt, alpha_bar_t, alpha_bar_s):
    alpha = alpha_bar_t / alpha_bar_s
    mean = (alpha_bar_s**0.5 * (1 - alpha) * x0 + alpha**0.5 * (1 - alpha_bar_s) * xt) / (1 - alpha_bar_t)
    return mean, (1 - alpha_bar_s) * (1 - alpha) / (1 - alpha_bar_t)

s, t, generator = 200, 300, torch.Generator().manual_seed(0)
at_s, at_t = toy.alpha_bar[[s, t]].tolist()
xs = at_s**0.5 * 0.8 + (1 - at_s) ** 0.5 * torch.randn(400_000, generator=generator)
xt = (at_t / at_s) ** 0.5 * xs + (1 - at_t / at_s) ** 0.5 * torch.randn(400_000, generator=generator)
passed = xs[(xt - 1.0).abs() < 0.02]
mean, variance = posterior(0.8, 1.0, at_t, at_s)
print("mean agrees to 0.02:", bool(abs(passed.mean() - mean) < 0.02))
print("variance agrees to 0.02:", bool(abs(passed.var() - variance) < 0.02))


# %% [markdown] slideshow={"slide_type": "subslide"}
# ### What $\hat x_0$ loses
#
# The true $x_s$ mixes the posteriors of *all* $x_0$ that fit $x_t$. The variance of a mixture is the variance within
# plus that of the means. With $c$ for the factor of $x_0$ in $\mu$:
#
# $$\operatorname{Var}(x_s\mid x_t)=\sigma^2+c^2\operatorname{Var}(x_0\mid x_t),\qquad c=\frac{\sqrt{\bar\alpha_s}\,(1-\alpha)}{1-\bar\alpha_t}$$
#
# Our step keeps the first term and drops the second: $\hat x_0$ is one mean in the place of many pictures.
#
# **Predict.** We jump from $t=200$. Which share of the variance is missing after 10 steps back, after 100, after all?
#
# <details><summary>Answer</summary>
#
# Little, most, all. For short jumps $c\approx1-\alpha$ is small and $c^2$ smaller; at the clean end $\sigma=0$ and $c=1$.
#
# </details>

# %% alt="Four pairs of clouds for jumps of 10, 50, 100 and all steps: blue spreads out to the face, green falls short of it and ends in one dot in the middle." slideshow={"slide_type": "subslide"}
def candidates(xt, t, count, generator):                                  # exact draws of x0 given one xt (2,)
    signal, sigma = (float(v) for v in toy.at(torch.tensor([t]), xt[None]))
    variance = (signal * SPREAD) ** 2 + sigma**2
    weight = torch.softmax(-((xt - signal * CENTRES) ** 2).sum(1) / (2 * variance), dim=0)
    dot = CENTRES[torch.multinomial(weight, count, replacement=True, generator=generator)]
    within = SPREAD * sigma / variance**0.5 * torch.randn(dot.shape, generator=generator, dtype=dot.dtype)
    return dot + signal * SPREAD**2 / variance * (xt - signal * dot) + within

here, generator, clouds = torch.zeros(2, dtype=torch.float64), torch.Generator().manual_seed(6), {}
x0, x0_hat = candidates(here, 200, 20_000, generator), best_x0(here[None], torch.tensor([200]))
for name, s in (("10 steps", 190), ("50 steps", 150), ("100 steps", 100), ("all", -1)):
    levels, z = (float(toy.alpha_bar[200]), float(toy.alpha_bar[s]) if s >= 0 else 1.0), torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    (mean, variance), (mean_hat, _) = (posterior(x, here, *levels) for x in (x0, x0_hat))
    of_means = torch.stack([part.var(0).sum() for part in mean.split(1000)])                 # (20,)
    missing = Mean.of(100 * of_means / (of_means + 2 * variance))
    print(f"{name}: {missing.text(0, ' %')} of the variance is missing")
    clouds[f"{name}: {missing:.0f} %"] = {DATA: (mean + variance**0.5 * z)[:1500], MODEL: (mean_hat + variance**0.5 * z)[:1500]}
plotting.plot_points(list(clouds.values()), list(clouds), "Jumps back, and the variance they miss: true in blue, with $\\hat x_0$ in green", limit=1.5)
plt.gcf().axes[-1].scatter(*x0_hat.T, s=50, color=MODEL)                  # the last jump ends in one point
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** A jump of ten steps misses 6 % [6, 6] of the variance, one of a hundred 62 % [62, 63]. The jump to the end lands on the
# average of the face, where no dot is. So DDPM needs small steps, and one step drew the same blur six times.

# %% [markdown]
# All samplers share this frame: a list of steps to visit, and a way to hand over each state.

# %%
# @save course_utils/generator/samplers.py
@dataclass(frozen=True)
class State:
    step: int
    t: int
    xt: torch.Tensor
    x0: torch.Tensor


def step_pairs(table):
    table = table.tolist()
    yield from zip(table, [*table[1:], -1], strict=True)


def alpha_bar_at(schedule, t):
    return float(schedule.alpha_bar[t]) if t >= 0 else 1.0


def noise_like(x, generator):
    return torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 · DDIM: the same guess, without fresh noise
#
# **Intuition.** The network was trained on single noisy pictures, never on trajectories. It knows how much picture and how much
# noise each $x_t$ holds. Any trajectory that keeps this mix is as good.
#
# **Notation.** $\hat x_0,\hat\varepsilon$: picture and noise in the guess; $z$: fresh Gaussian noise, $\sigma$: its standard deviation;
# $\eta$ ("eta"): how much of it, from 0 to 1.
#
# **Formula.** At step $s$ we need $\sqrt{\bar\alpha_s}$ of the picture and noise of variance $1-\bar\alpha_s$. Part of the noise may be the old one, the rest fresh;
# variances of independent noises add (DDIM eq. 12 and 16):
#
# $$x_s=\sqrt{\bar\alpha_s}\;\hat x_0+\sqrt{1-\bar\alpha_s-\sigma^2}\;\hat\varepsilon+\sigma z,\qquad
# \sigma=\eta\,\sqrt{\tfrac{1-\bar\alpha_s}{1-\bar\alpha_t}\,(1-\alpha)}$$
#
# Every $\sigma\le\sqrt{1-\bar\alpha_s}$ keeps the mix. At $\eta=1$ it is that of section 1.
#
# **Predict.** Is DDIM at $\eta=1$ *like* DDPM, or is it DDPM?
#
# <details><summary>Answer</summary>
#
# It is DDPM, as long as $\hat\varepsilon=(x_t-\sqrt{\bar\alpha_t}\hat x_0)/\sqrt{1-\bar\alpha_t}$. At $\eta=1$,
# $1-\bar\alpha_s-\sigma^2=\alpha(1-\bar\alpha_s)^2/(1-\bar\alpha_t)$; put both in, and section 1's mean comes out. Clipping $\hat x_0$ to $[-1,1]$ breaks that
# identity: DDPM then uses the clipped picture and $x_t$, DDIM the clipped picture and the network's own $\hat\varepsilon$.
#
# </details>

# %% slideshow={"slide_type": "subslide"}
# @save course_utils/generator/samplers.py
@torch.no_grad()
def ddim(
    model, xT, schedule, steps=50, prediction="eps", generator=None, clip=True, spacing="leading", eta=0.0,
    after_step=None,
) -> Iterator[State]:  # fmt: skip
    eta, xt = number("eta", eta, (0, 1)), check_noise(xT)
    table = timesteps(steps, schedule.num_steps, spacing)
    for step, (t, t_next) in enumerate(step_pairs(table), start=1):
        alpha_bar, alpha_bar_next = alpha_bar_at(schedule, t), alpha_bar_at(schedule, t_next)
        ts = torch.full((len(xt),), t, device=xt.device)
        pred = model(xt, ts)
        eps = to_eps(pred, xt, ts, schedule, prediction)
        x0 = to_x0(pred, xt, ts, schedule, prediction)
        x0 = x0.clamp(-1, 1) if clip else x0
        variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
        sigma = eta * variance**0.5
        xt = alpha_bar_next**0.5 * x0 + (1 - alpha_bar_next - sigma**2) ** 0.5 * eps
        if eta > 0:
            xt = xt + sigma * noise_like(xt, generator)
        xt = after_step(xt, t_next) if after_step else xt
        yield State(step, t, xt, x0)


# %% [markdown]
# `spacing` chooses the visited steps; section 5 writes that function. `after_step` may change the state once a step is taken (notebook 06). **Check**: against DDPM, and against `diffusers`.

# %%
# NBVAL_CHECK_OUTPUT
import diffusers
from course_utils.generator.samplers import timesteps

plain = {"schedule": toy, "steps": 20, "prediction": "x0", "clip": False, "spacing": "trailing"}
xT = torch.randn(500, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
ours = [s.xt for s in ddim(best_x0, xT, **plain, eta=1.0, generator=torch.Generator().manual_seed(4))]
same = [s.xt for s in ddpm(best_x0, xT, **plain, generator=torch.Generator().manual_seed(4))]
print("eta = 1 is DDPM, at all 20 steps:", all(torch.allclose(a, b) for a, b in zip(ours, same, strict=True)))
peer = diffusers.DDIMScheduler(prediction_type="sample", clip_sample=False, timestep_spacing="trailing")
peer.alphas_cumprod = toy.alpha_bar.clone()                               # the same table, to the last digit
peer.set_timesteps(20)
xt, states = xT, []
for t in peer.timesteps:
    xt = peer.step(best_x0(xt, t.repeat(len(xt))), t, xt).prev_sample
    states.append(xt)
print("eta = 0 is diffusers' DDIM:", all(torch.allclose(a, s.xt) for a, s in zip(states, ddim(best_x0, xT, **plain))))

# %%
for clip in (False, True):                                                # and on pictures: what does clipping change?
    a, b = (draw(sampler, gaussian(12, seed=3), 20, clip=clip, **more) for sampler, more in ((ddpm, {}), (ddim, {"eta": 1.0})))
    print(f"clip = {clip}: DDPM and DDIM at eta = 1 end {Mean.of(rms(a - b)).text(4)} apart, in values from -1 to 1")


# %% [markdown] slideshow={"slide_type": "subslide"}
# One sampler, until the clip comes between them: then 0.012 [0.008, 0.017]. Now eight dots move, in 100 steps, from the same starts.

# %% alt="Three panels of paths from eight starts to the face: smooth curves, wavy ones, and tangles." slideshow={"slide_type": "-"}
def paths(sampler, starts, steps=100, **options):                         # -> (steps + 1, B, 2)
    states = sampler(best_x0, starts, **plain | {"steps": steps}, generator=torch.Generator().manual_seed(7), **options)
    return torch.stack([starts, *(state.xt for state in states)])

turn = torch.arange(8) * math.pi / 4 + 0.3
radius = torch.tensor([1.9, 0.5]).repeat(4)
starts = (radius * torch.stack([turn.cos(), turn.sin()])).T.double()      # (8, 2), half far out, half within
fig, axes = plt.subplots(1, 3, figsize=(8, 3.3), sharey=True, layout="compressed")
for ax, (name, sampler, more) in zip(axes, (("DDIM, η = 0", ddim, {}), ("DDIM, η = 0.2", ddim, {"eta": 0.2}), ("DDPM", ddpm, {}))):
    ax.plot(*paths(sampler, starts, **more).permute(2, 0, 1), color=MODEL, lw=0.8)
    ax.scatter(*CENTRES.T, s=14, color=DATA, zorder=2)
    ax.scatter(*starts.T, s=22, color=NOISE, zorder=3)
    ax.set(title=name, xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal", xticks=(-2, 0, 2), yticks=(-2, 0, 2))
    ends = paths(sampler, starts[:1].expand(300, 2), steps=50, **more)[-1]
    print(f"{name}: 300 runs from one start end {Mean.of((ends - ends.mean(0)).norm(dim=1)).text(2)} from their mean")
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Orange: starts; blue: the face. Without fresh noise 300 runs from one start end 0.00 from their mean: **the noise is the
# picture's address**. DDPM's end 0.71 [0.69, 0.73] from theirs, all over the face. **Limit**: whether fresh noise helps or harms a network is not visible here; section 6 measures.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 · One curve: the ODE, the score, and flow matching
#
# **The ODE.** Take DDIM with $\sigma=0$ and divide it by $\sqrt{\bar\alpha_s}$. Divide $x_t=\sqrt{\bar\alpha_t}\,\hat x_0+\sqrt{1-\bar\alpha_t}\,\hat\varepsilon$ by
# $\sqrt{\bar\alpha_t}$. Subtract: $\hat x_0$ drops out. With $\bar x=x/\sqrt{\bar\alpha}$, the state with its picture at full strength, and
# $\tilde\sigma=\sqrt{1-\bar\alpha}/\sqrt{\bar\alpha}$, the noise in it:
#
# $$\bar x_s-\bar x_t=(\tilde\sigma_s-\tilde\sigma_t)\,\hat\varepsilon,\qquad\text{for small steps}\qquad \frac{d\bar x}{d\tilde\sigma}=\hat\varepsilon(x_t,t)$$
#
# The slope is the predicted noise (DDIM eq. 14). DDIM holds it through each step: Euler's method.
#
# **The score.** Let $p_t$ be the density of noisy pictures: an average of Gaussians around $\sqrt{\bar\alpha_t}\,x_0$. The gradient of its logarithm, the
# *score*, points where noisy data are denser. For one Gaussian it is the bracket; for the average, weigh by how well each $x_0$ fits:
#
# $$\nabla_{x_t}\log p_t(x_t)=\mathbb E\Big[-\frac{x_t-\sqrt{\bar\alpha_t}\,x_0}{1-\bar\alpha_t}\;\Big|\;x_t\Big]=-\frac{\hat\varepsilon}{\sqrt{1-\bar\alpha_t}}$$
#
# To predict noise is to know the score, up to a factor. Both statements, in code:

# %% slideshow={"slide_type": "subslide"}
# NBVAL_CHECK_OUTPUT
def log_density(xt, t):                                                   # of noisy dots, up to a constant
    signal, sigma = toy.at(t, xt)
    distance = ((xt[:, None] - signal[:, None] * CENTRES) ** 2).sum(-1)
    return torch.logsumexp(-distance / (2 * ((signal * SPREAD) ** 2 + sigma**2)), dim=1)

def noise_guess(xt, t):                                                   # eps_hat of every xt at one step
    ts = torch.full((len(xt),), t)
    return to_eps(best_x0(xt, ts), xt, ts, toy, "x0")

places = xT.clone().requires_grad_()
score, = torch.autograd.grad(log_density(places, torch.full((500,), 400)).sum(), places)
print("score = -eps / sigma, to 1e-10:", torch.allclose(score, -noise_guess(xT, 400) / (1 - toy.alpha_bar[400]) ** 0.5, atol=1e-10))

# %%
# NBVAL_CHECK_OUTPUT
signal = [alpha_bar_at(toy, t) ** 0.5 for t in range(1000)] + [1.0]       # [-1]: clean
level = [(1 - a**2) ** 0.5 / a for a in signal]
x = xT / signal[999]
for t, s in step_pairs(timesteps(20, 1000, "trailing")):                  # Euler on the ODE
    x = x + (level[s] - level[t]) * noise_guess(x * signal[t], t)
print("Euler on the ODE ends where DDIM does, to 1e-8:", torch.allclose(x, sample(ddim, best_x0, xT, **plain), atol=1e-8))


# %% [markdown] slideshow={"slide_type": "subslide"}
# A picture of it: the density, and on it the direction of the score. Who follows the score for a length of $1-\bar\alpha_t$ and divides by
# $\sqrt{\bar\alpha_t}$ stands at $\hat x_0$.

# %% alt="Three panels: the density of noisy dots in blue and equal arrows along the score: all point to the middle at t = 250, to the nearest line of the face at t = 40." slideshow={"slide_type": "-"}
def score_panel(ax, t, limit=1.6):
    grid = torch.linspace(-limit, limit, 120, dtype=torch.float64)
    wide = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), dim=-1)                     # (120, 120, 2), x and y
    density = log_density(wide.view(-1, 2), torch.full((120**2,), t)).exp().view(120, 120)
    ax.contourf(grid, grid, density, levels=12, cmap="Blues")
    at = wide[7::15, 7::15].reshape(-1, 2)                                                    # (64, 2)
    arrows = -0.28 * F.normalize(noise_guess(at, t))                                          # directions, of equal length
    ax.quiver(*at.T, *arrows.T, color=NOISE, angles="xy", scale_units="xy", scale=1, width=0.008)
    ax.set(title=f"t = {t}", aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit), xticks=(-1, 0, 1), yticks=(-1, 0, 1))

fig, axes = plt.subplots(1, 3, figsize=(8, 3.3), sharey=True, layout="compressed")
for ax, t in zip(axes, (250, 110, 40)):
    score_panel(ax, t)
fig.suptitle("Density of the noisy dots, and the direction of its score", x=0.01, ha="left", fontsize=13, fontweight="bold")
plt.show()
for t in (250, 110, 40):
    ts, eps = torch.full((1000,), t), torch.randn(real.shape, generator=torch.Generator().manual_seed(t), dtype=real.dtype)
    print(f"t = {t}: following the score from a noisy dot ends on the face in {on_face(best_x0(add_noise(real, eps, ts, toy), ts))}")


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** At $t=250$ all arrows point to the middle, and 20 % [18, 22] of noisy dots would end on the face; at $t=40$ they point to its nearest line, and 83 % [81, 86] would.
#
# **Predict.** Three networks answer with $\varepsilon$, $x_0$ and $v$, all without error. Three curves, or one?
#
# <details><summary>Answer</summary>
#
# One. Each answer implies the others (notebook 02), so the slope is the same. Imperfect networks part.
#
# </details>

# %% slideshow={"slide_type": "subslide"}
# NBVAL_CHECK_OUTPUT
def answering(kind):                                                      # the same knowledge, told as eps, x0 or v
    def answer(xt, t):
        x0 = best_x0(xt, t)
        return target(kind, x0, to_eps(x0, xt, t, toy, "x0"), t, toy)
    return answer

ends = {kind: sample(ddim, answering(kind), xT, **plain | {"prediction": kind}) for kind in ("eps", "x0", "v")}
for kind, end in ends.items():
    print(f"{kind:3s}: same end as x0 to 1e-8: {bool((end - ends['x0']).abs().max() < 1e-8)}")


# %% [markdown]
# **Flow matching, briefly.** Newer models (Stable Diffusion 3, Flux) mix along a straight line,
# $x_u=(1-u)\,x_0+u\,\varepsilon$, and predict the velocity $\varepsilon-x_0$; Euler's step is $x\leftarrow x+(u'-u)(\hat\varepsilon-\hat x_0)$.
# We give it the same guesses, and levels $u$ with the same ratio of noise to picture.

# %%
# NBVAL_CHECK_OUTPUT
def flow_euler(xT, steps=20):
    table = timesteps(steps, 1000, "trailing")
    scale = [alpha_bar_at(toy, t) ** 0.5 + (1 - alpha_bar_at(toy, t)) ** 0.5 for t in table]     # x_u = x_t / scale
    u = [(1 - alpha_bar_at(toy, t)) ** 0.5 / c for t, c in zip(table, scale)] + [0.0]
    x = xT / scale[0]
    for i, t in enumerate(table.tolist()):
        x0 = best_x0(x * scale[i], torch.full((len(x),), t))
        eps = (x - (1 - u[i]) * x0) / u[i]
        x = x + (u[i + 1] - u[i]) * (eps - x0)
    return x

print("Euler on the straight line ends where DDIM does, to 1e-8:", bool((flow_euler(xT) - ends["x0"]).abs().max() < 1e-8))


# %% [markdown] slideshow={"slide_type": "-"}
# The step does not care how levels are named. Flow matching changes the training: which levels are practised, and which mix is asked for.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### An aside on training: which steps deserve attention?
#
# One mistake counts SNR times more in $\varepsilon$ than in the picture (notebook 02), so the two losses practise different steps. Min-SNR (Hang et al. 2023)
# weighs the picture's error by $\min(\mathrm{SNR},5)$; in the $\varepsilon$ loss that is a factor $\min(1,5/\mathrm{SNR})$.

# %%
# @save course_utils/generator/objectives.py
def min_snr_weight(t, schedule, prediction="eps", gamma=5.0):
    snr = schedule.snr.to(torch.float32).to(t.device)[t]
    least = snr.clamp(max=gamma)
    weights = {"eps": (gamma / snr).clamp(max=1), "x0": least, "v": least / (snr + 1)}
    if prediction not in weights:
        raise InputError(f"unknown prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")
    return weights[prediction]

PREDICTIONS = ("eps", "x0", "v")

# %%
# NBVAL_CHECK_OUTPUT
t, snr = torch.arange(1000), SCHEDULE.snr.float()
print("noisy steps (SNR <= 5) weigh 1 in the eps loss:", bool((min_snr_weight(t, SCHEDULE)[snr <= 5] == 1).all()))
for name, weight in (("plain eps loss, SNR", snr), ("min-SNR", min_snr_weight(t, SCHEDULE, "x0"))):
    print(f"{name}: the first 100 steps of 1000 hold {weight[:100].sum() / weight.sum():.0%} of the picture's weight")


# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 · DPM-Solver++: look back one step to see ahead
#
# **Intuition.** Euler goes straight and leaves a curve that bends. We remember the guess
# of the step before: if $\hat x_0$ has been moving, it will go on moving. No extra call is needed.
#
# **Notation.** $\sigma=\sqrt{1-\bar\alpha}$; $\lambda=\log(\sqrt{\bar\alpha}/\sigma)$, half the log-SNR, is the clock; $h=\lambda_s-\lambda_t$
# the length of this step, $h_{-1}$ of the one before.
#
# **Why this clock?** Divide by $\sigma$ instead of $\sqrt{\bar\alpha}$: $x_t/\sigma_t=e^{\lambda_t}\hat x_0+\hat\varepsilon$. Now $\hat\varepsilon$ drops out of the difference,
# and for small steps, summed up:
#
# $$\frac{x_s}{\sigma_s}-\frac{x_t}{\sigma_t}=\int_{\lambda_t}^{\lambda_s}e^{\lambda}\,\hat x_0\,d\lambda$$
#
# This is exact, and $\hat x_0$ is its only unknown. Held fixed, it leaves $e^{\lambda_s}-e^{\lambda_t}$: DDIM. 2M draws a line in $\lambda$ through the last two
# guesses and takes its value $D$ in the middle of the step, a line's mean (Lu et al. 2022b, eq. 8 and algorithm 2):
#
# $$D=\hat x_0+\frac{h}{2h_{-1}}\big(\hat x_0-\hat x_0^{\text{before}}\big),\qquad
# x_s=\frac{\sigma_s}{\sigma_t}\,x_t+\Big(\sqrt{\bar\alpha_s}-\frac{\sigma_s}{\sigma_t}\sqrt{\bar\alpha_t}\Big)D$$
#
# The first step has no past; the last one goes to the clean picture, where $\lambda$ is infinite. Both take $D=\hat x_0$.
#
# **Predict.** Twice as many steps halve Euler's error. What do they do to a second-order solver's?
#
# <details><summary>Answer</summary>
#
# Quarter it: the error goes with the square of the step. The figure measures both.
#
# </details>

# %% slideshow={"slide_type": "subslide"}
# @save course_utils/generator/samplers.py
@torch.no_grad()
def dpmpp_2m(
    model, xT, schedule, steps=20, prediction="eps", generator=None, clip=True, spacing="trailing",
    after_step=None,
) -> Iterator[State]:  # fmt: skip
    xt, x0_before, h_before = check_noise(xT), None, None
    table = solver_timesteps(steps, schedule.num_steps, spacing)
    for step, (t, t_next) in enumerate(step_pairs(table), start=1):
        alpha_bar, alpha_bar_next = alpha_bar_at(schedule, t), alpha_bar_at(schedule, t_next)
        ts = torch.full((len(xt),), t, device=xt.device)
        x0 = to_x0(model(xt, ts), xt, ts, schedule, prediction)
        x0 = x0.clamp(-1, 1) if clip else x0
        ahead = x0
        if t_next >= 0:
            h = float(schedule.log_snr[t_next] - schedule.log_snr[t]) / 2  # the clock that makes the steps even
            if x0_before is not None:
                ahead = x0 + h / (2 * h_before) * (x0 - x0_before)  # where x0 will be half a step from here
            x0_before, h_before = x0, h
        shrink = ((1 - alpha_bar_next) / (1 - alpha_bar)) ** 0.5
        xt = shrink * xt + (alpha_bar_next**0.5 - shrink * alpha_bar**0.5) * ahead
        xt = after_step(xt, t_next) if after_step else xt
        yield State(step, t, xt, x0)


# %% [markdown]
# **Check** against `diffusers`: same network, same noise, every state.

# %%
# NBVAL_CHECK_OUTPUT
from course_utils.generator.samplers import solver_timesteps

peer = diffusers.DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample",
                                             timestep_spacing="trailing", thresholding=True, sample_max_value=1.0)
peer.alphas_cumprod = SCHEDULE.alpha_bar.clone()
peer.set_timesteps(6)

@torch.no_grad()
def network_x0(xt, t):                                                    # whatever the network answers, read as a picture
    return to_x0(trained(xt, t), xt, t, SCHEDULE, KIND)

xt, gaps = gaussian(1, seed=0), []
for state in dpmpp_2m(trained, xt, SCHEDULE, 6, KIND):
    xt = peer.step(network_x0(xt, torch.tensor([state.t])), state.t, xt).prev_sample
    gaps.append(float((xt - state.xt).abs().max()))
print(len(gaps), "steps, all equal to 1e-4:", max(gaps) < 1e-4)


# %% [markdown] slideshow={"slide_type": "subslide"}
# With exact guesses only the sampler errs. As a control the solver also runs with $t$ as its clock.

# %% alt="Error against steps on logarithmic axes: DDIM falls slowly, the solver twice as steeply, with either clock." slideshow={"slide_type": "subslide"}
class StepClock(Schedule):                                                # the line is drawn in t, not in lambda
    log_snr = property(lambda self: -torch.arange(self.num_steps).double())

counts, few = (8, 16, 32, 64, 128), xT[:200]
def passing(sampler, steps, t, schedule=toy):                             # the states when sampling reaches step t
    states = list(sampler(best_x0, few, **plain | {"steps": steps, "schedule": schedule}))
    return states[[*(state.t for state in states[1:]), -1].index(t)].xt

def median(x):
    return Estimate(np.median(x), *interval(x, np.median), len(x))

def curve_error(sampler, t=249, schedule=toy):                            # median distance from the curve, for each count
    exact = passing(dpmpp_2m, 500, t)
    return [median((passing(sampler, n, t, schedule) - exact).norm(dim=1)) for n in counts]

errors = {"DDIM": (curve_error(ddim), DATA), "2M in t": (curve_error(dpmpp_2m, schedule=StepClock(toy.beta, toy.alpha_bar)), LATENT, "--"),
          "2M in λ": (curve_error(dpmpp_2m), MODEL)}
plotting.plot_lines(counts, errors, "steps (doubling)", "distance from the curve at t = 249",
                    "Exact guesses: what is left is the sampler's own error", logx=True, logy=True)
plt.gca().set_xticks(counts, counts)
plt.minorticks_off()
plt.show()
for name, (e, *_) in errors.items():
    print(f"{name}: {e[2].text(5)} with {counts[2]} steps; each doubling divides the error by {(e[0] / e[-1]) ** 0.25:.1f}")
print("at the clean end: " + ", ".join(f"{name} {curve_error(sampler, -1)[2].text(3)}" for name, sampler in (("DDIM", ddim), ("2M", dpmpp_2m))))

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Each doubling divides Euler's error by 2.0 and the solver's by 3.9. Extrapolating in $t$ does as well here (3.8). The merit of
# $\lambda$ is the exact integral, whatever numbers a schedule gives its steps. **Limit**: this is three quarters of the way. At the
# clean end the lead is small (0.017 [0.015, 0.020] against 0.023 [0.022, 0.025]): the last step is of first order, and our sharp dots bend the curve there.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 · Which steps to visit
#
# The noise we hand in is pure, so the first visit should be at the step where pure noise belongs, the last. *Leading* takes the start of each stride, *trailing* its end, *linspace* both ends of the whole
# (Lin et al. 2023, Table 2).

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/samplers.py
SPACINGS = ("leading", "trailing", "linspace")


def timesteps(steps, num_train_steps=1000, spacing="leading", offset=0):
    steps, last = integer("steps", steps, (1, num_train_steps)), num_train_steps - 1
    if not isinstance(spacing, str):
        return check_table(spacing, num_train_steps)
    k = torch.arange(steps, dtype=torch.float64)  # products are exact, so that halves are
    if one_of("spacing", spacing, SPACINGS) == "leading":
        stride = num_train_steps // steps
        whole = num_train_steps - steps * stride < stride
        table = k * stride if whole else (k * num_train_steps / steps).floor()
        table += min(integer("offset", offset, (0, last)), last - int(table[-1]))
    elif spacing == "trailing":
        table = ((k + 1) * num_train_steps / steps).round() - 1
    else:
        table = (last - k * last / max(1, steps - 1)).round().flip(0)
    return table.long().flip(0)


def solver_timesteps(steps, num_train_steps=1000, spacing="trailing", offset=0):
    table = timesteps(steps, num_train_steps, spacing, offset)
    if not isinstance(spacing, str) or spacing == "trailing" or len(table) == num_train_steps:  # no visit to leave out
        return table
    return timesteps(len(table) + 1, num_train_steps, spacing, offset)[:-1]


# %% [markdown]
# **Predict.** With *leading* and five steps, how much of a picture does the network expect in the noise we hand it?
#
# <details><summary>Answer</summary>
#
# About a third: it begins at $t=800$. There is none: we mislead the network at its first step.
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
for spacing in SPACINGS:
    table = timesteps(5, 1000, spacing).tolist()
    print(f"{spacing:9s} visits {table}; expects a picture of strength {alpha_bar_at(SCHEDULE, table[0]) ** 0.5:.2f} at first")
print("the solver leaves t = 0 out:", solver_timesteps(5, 1000, "linspace").tolist())

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 · The key piece: quality against steps and seconds
#
# Losses cannot rank samplers; all use one network. We compare *sets* of pictures. The course's evaluator, a
# small classifier, turns each picture into a vector of features. Two sets are compared by the Gaussians
# fitted to their vectors (Heusel et al. 2017, eq. 6):
#
# $$d^2=\lVert\mu_a-\mu_b\rVert^2+\operatorname{tr}\!\big(\Sigma_a+\Sigma_b-2(\Sigma_a\Sigma_b)^{1/2}\big)$$
#
# $\mu,\Sigma$: mean and covariance of a set. With Inception's features and 50,000 pictures this is the FID; **ours is a proxy**. It grows as sets
# get smaller, so every set has 48 pictures, and real ones against other real ones give the **floor**. The *kernel distance* (Bińkowski et al. 2018) uses the same features;
# its expected value does not depend on the number.
#
# What do they notice? We try sets whose faults we know.

# %% alt="Five rows of pictures, each with its Fr\u00e9chet distance: real, copies, blurred, some replaced by noise, each shown twice." slideshow={"slide_type": "-"}
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.metrics import extract_features, frechet_distance, held_out_accuracy, kernel_distance

evaluator, COUNT, SEEDS, known = load_evaluator(), 48, (0, 1, 2), noise_predictor.load_pictures()
order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))
fresh, rest = known[order[:3 * COUNT]], known[order[3 * COUNT:]]           # (144, 3, S, S), (307, 3, S, S)
features, reference = extract_features(evaluator, known), extract_features(evaluator, rest)

def distances(f):                                                         # features (3 * COUNT, F) -> (2, 3)
    return torch.tensor([(frechet_distance(g, reference), kernel_distance(g, reference)) for g in f.split(COUNT)]).T

noisy = fresh.clone().view(3, COUNT, 3, SIZE, SIZE)
noisy[:, 2:7] = gaussian(15, seed=1).view(3, 5, 3, SIZE, SIZE).clamp(-1, 1)
sets = {"other real ones": fresh, "copies": rest[:3 * COUNT], "blurred": F.avg_pool2d(F.pad(fresh, (1,) * 4, mode="replicate"), 3, 1),
        "5 of 48 noise": noisy.flatten(0, 1), "24, each twice": fresh.view(3, COUNT, -1)[:, torch.arange(COUNT) // 2].view_as(fresh)}
measured = {name: distances(extract_features(evaluator, x)) for name, x in sets.items()}
labels = {f"{name} {measured[name][0].mean():.0f}±{measured[name][0].std():.0f}": x[:8] for name, x in sets.items()}
plotting.show_rows(labels, title="Fréchet distance of sets whose faults we know", scale=0.6)
plt.show()
print("kernel distance: " + ", ".join(f"{name} {d[1].mean():.2f} ± {d[1].std():.2f}" for name, d in measured.items()))
print("the evaluator, on real pictures it has not seen: " + ", ".join(f"{k} {v}" for k, v in held_out_accuracy(evaluator, size=SIZE).items()))

# %%
chance = []
for seed in range(40):                                                    # real against real, 40 ways to split them
    p = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    chance.append(kernel_distance(features[p[:COUNT]], features[p[COUNT:]]))
chance, floor = torch.tensor(chance), measured["other real ones"][0]
print(f"kernel distance, real against real: {chance.mean():.3f} ± {chance.std():.3f}, below zero in {int((chance < 0).sum())} of 40 splits")


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Copies of the reference score *better* than other real pictures (145 ± 5 against 183 ± 0): **memorising is hidden**. A blur costs 3:
# **sharpness hardly counts**. Five ruined pictures of 48 cost 46, and too little variety 85: both show. The kernel distance agrees: copies -0.03 ± 0.02 and
# blur 0.01 ± 0.00, where two real sets differ by ± 0.02, but noise 0.10 ± 0.01 and doubles 0.11 ± 0.05. A *squared* distance below zero is
# no error: the estimate is unbiased, so where the truth is 0, half of all estimates lie below (19 of 40).

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** At ten steps, in which order do DDPM, DDIM and DPM-Solver++ finish? And at forty?
#
# <details><summary>Answer</summary>
#
# The solver a little before DDIM; DDPM's place is not decided by our numbers. At forty the same, and the first two still gain a little.
#
# </details>
#
# The next cell draws all pictures; it takes about a minute on two cores.

# %% slideshow={"slide_type": "-"}
def measure(sampler, steps, **options):                                   # -> features (3 * COUNT, F), seconds a picture
    began = time.perf_counter()
    x = torch.cat([draw(sampler, gaussian(COUNT, seed), steps, seed, **options) for seed in SEEDS])  # the same noises for all
    seconds = (time.perf_counter() - began) / len(x)
    return extract_features(evaluator, x), seconds

STEPS = (3, 5, 10, 20, 40)
SAMPLERS = {"DDPM": (ddpm, NOISE), "DDIM": (ddim, DATA), "DPM-Solver++ 2M": (dpmpp_2m, MODEL)}
results = {name: [] for name in SAMPLERS}
for steps in STEPS:                                                       # in turn, so that a busy minute meets all three
    for name, (sampler, _) in SAMPLERS.items():
        results[name].append(measure(sampler, steps))
print("ten steps, seconds a picture: " + ", ".join(f"{name} {table[2][1]:.3f}" for name, table in results.items()))
scores = {name: [distances(f) for f, _ in table] for name, table in results.items()}

# %% alt="Four panels: Fr\u00e9chet and kernel distance against steps and against seconds, three samplers: steep to ten steps, falling slowly after, above the floor." slideshow={"slide_type": "subslide"}
from matplotlib.ticker import LogLocator

def quality_axes(ax, which, timed, level):                                # which: 0 Fréchet, 1 kernel
    for i, (name, (_, color)) in enumerate(SAMPLERS.items()):
        d = torch.stack([table[which] for table in scores[name]])         # (steps, seeds)
        x = [seconds if timed else steps * 1.06 ** (i - 1) for steps, (_, seconds) in zip(STEPS, results[name])]
        ax.errorbar(x, d.mean(1), d.std(1), color=color, marker="o", ms=5, capsize=3, lw=1.8, label=name)
    ax.axhspan(level.mean() - level.std(), level.mean() + level.std(), color=REFERENCE, alpha=0.4, lw=0)
    ax.axhline(level.mean(), color=REFERENCE, label="floor: real against real")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()

fig, axes = plt.subplots(2, 2, figsize=(8, 6.2), sharex="col", sharey="row")
for row, (name, level) in enumerate((("Fréchet distance", floor), ("kernel distance", chance))):
    for column, timed in enumerate((False, True)):
        quality_axes(axes[row, column], row, timed, level)
    axes[row, 0].set_ylabel(name)
axes[1, 0].set_xlabel("steps")
axes[1, 0].set_xticks(STEPS, STEPS)
axes[1, 1].set_xlabel("seconds a picture, this machine")
axes[0, 1].legend(fontsize=10)
fig.suptitle(f"Proxies, lower is better: {COUNT} pictures a set, mean and spread of {len(SEEDS)} seeds", x=0.01, ha="left",
             fontsize=13, fontweight="bold")
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# The bars hold what differs between *noises*. All samplers start from the same ones, so we bootstrap the *difference* in kernel distance over the 144 noises.

# %% slideshow={"slide_type": "subslide"}
def kernel_gap(a, b, resamples=1000):                                     # features of the same noises: distance of a less that of b
    n, kernel = len(a), lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
    w = torch.from_numpy(np.random.default_rng(0).multinomial(n, [1 / n] * n, resamples)).double()   # how often each is drawn
    def resampled(x):
        within, across = kernel(x, x).fill_diagonal_(0), kernel(x, reference.double()).mean(1)
        return ((w @ within) * w).sum(1) / (w.sum(1) ** 2 - w.square().sum(1)) - 2 * (w @ across) / n
    gaps = resampled(a.double()) - resampled(b.double())
    return Estimate(kernel_distance(a, reference) - kernel_distance(b, reference), *np.quantile(gaps, (0.025, 0.975)), n)


# %%
last = [f for f, _ in results["DPM-Solver++ 2M"]]
for name in ("DDIM", "DDPM"):
    print(f"{name} less 2M: " + ", ".join(f"{kernel_gap(f, g).text(3)} at {n}" for (f, _), g, n in zip(results[name], last, STEPS)))
for name, table in results.items():
    f = dict(zip(STEPS, (features for features, _ in table)))
    print(f"{name:16s} 10 steps less 3: {kernel_gap(f[10], f[3])}; 40 less 10: {kernel_gap(f[40], f[10])}; Fréchet, seed by seed, "
          + ", ".join(f"{float(gap):+.1f}" for gap in scores[name][4][0] - scores[name][2][0]))

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.**
#
# - From three steps to ten the kernel distance falls by 0.22 to 0.29; from ten to forty only by 0.07 [0.05, 0.08] with DDIM and 0.06 [0.04, 0.07] with the solver,
#   and DDPM's interval holds 0. **Ten steps buy most of it**; at forty all three still stand above the floor.
# - The solver is ahead of DDIM by 0.01 to 0.02; all five intervals exclude 0.
# - On DDPM the two distances disagree: its mean Fréchet distance is the lowest at every number of steps, by the kernel distance it leads at three alone
#   (0.037 [0.005, 0.069] before the solver); the other four intervals hold 0. We claim no order.
#
# **Limit**: 144 pictures, one small network, features that hide copies and blur.

# %% [markdown] slideshow={"slide_type": "subslide"}
# And the spacing? Same noises, same measure.

# %% slideshow={"slide_type": "-"}
five = {spacing: measure(ddim, 5, spacing=spacing)[0] for spacing in ("leading", "linspace")} | {"trailing": results["DDIM"][1][0]}
for spacing, f in five.items():
    print(f"DDIM, 5 steps, {spacing:8s}: Fréchet {distances(f)[0].mean():5.1f} ± {distances(f)[0].std():.1f}; kernel distance less that of "
          f"trailing {kernel_gap(f, five['trailing'])}")


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** At five steps *leading* doubles the Fréchet distance (455 ± 12 against 216 ± 6): more than any sampler did. Between *linspace* and *trailing* we measure
# no difference (0.00 [−0.01, 0.02]).

# %% [markdown] slideshow={"slide_type": "subslide"}
# **The guess along the way.** Every state carries $\hat x_0$. Ten steps from one noise:

# %% alt="Film strips of the predicted picture over ten steps for DDIM, the solver and DDPM twice: from a blur to a face, with other fresh noise to a heart." slideshow={"slide_type": "-"}
def guesses_along(sampler, xT, seed=0, steps=10):                         # x0_hat at every step, (steps, B, 3, S, S)
    states = sampler(trained, xT, SCHEDULE, steps=steps, prediction=KIND, spacing="trailing", generator=torch.Generator().manual_seed(seed))
    return torch.stack([state.x0 for state in states])

shown = torch.tensor([1, 2, 3, 5, 7, 10])
cast = {"DDIM": (ddim, 0), "2M": (dpmpp_2m, 0), "DDPM": (ddpm, 8), "DDPM, other fresh noise": (ddpm, 7)}
films = {name: guesses_along(sampler, chosen[2:3], seed)[shown - 1, 0] for name, (sampler, seed) in cast.items()}
plotting.show_rows(films, [f"step {s}" for s in shown], "The predicted picture, step by step", scale=0.75)
plt.show()
for name, sampler in (("DDIM", ddim), ("DDPM", ddpm)):
    film = guesses_along(sampler, gaussian(24, seed=1))
    print(f"{name}: from the last guess, " + ", ".join(f"step {s}: {Mean.of(rms(film[s - 1] - film[-1])).text(2)}" for s in (1, 3, 5, 7)))


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** All begin with the same average. At step 3 DDIM's guess is 0.15 [0.14, 0.16] from its end, DDPM's still 0.20 [0.19, 0.22]: fresh noise
# keeps it open longer. A guess that has stopped moving gains nothing from further steps.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Which sampler, then?
#
# | you want | take | why |
# |---|---|---|
# | a picture, soon | DPM-Solver++ 2M, 10–20 steps, trailing | ahead of DDIM here at every number of steps, with as many calls |
# | one line of code, inversion | DDIM, η = 0, 20–50 steps | Euler: robust, invertible |
# | another picture from the same noise | DDPM, or DDIM with η > 0 | fresh noise decides |
#
# Always begin where pure noise belongs. Much fewer steps need another network (distillation).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 · Between two noises
#
# **Intuition.** What lies between two addresses? Gaussian noises in thousands of dimensions all have nearly one length: they lie on a
# thin shell. A straight line between two cuts through the empty inside.
#
# **Formula** (Shoemake 1985; DDIM appendix D.5): stay on the shell,
#
# $$\operatorname{slerp}(a,b;u)=\frac{\sin((1-u)\theta)}{\sin\theta}\,a+\frac{\sin(u\theta)}{\sin\theta}\,b$$
#
# $\theta$ is the angle between $a$ and $b$; $u$ the share of the way. **Predict.** Halfway along the straight line, what is the
# standard deviation of the "noise"?
#
# <details><summary>Answer</summary>
#
# Half of each: the variance is a quarter plus a quarter, so the standard deviation is about 0.71. The network expects 1.
#
# </details>

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/inversion.py
def slerp(a, b, share):
    share = torch.as_tensor(share, dtype=a.dtype, device=a.device).expand(len(a))
    share = share.reshape(-1, *[1] * (a.ndim - 1))
    x, y = a.flatten(1), b.flatten(1)
    cosine = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))
    angle = torch.acos(cosine.clamp(-1, 1)).reshape(share.shape)
    small = angle.sin() < 1e-4
    sine = torch.where(small, torch.ones_like(angle), angle.sin())
    near, far = torch.sin((1 - share) * angle) / sine, torch.sin(share * angle) / sine
    return torch.where(small, 1 - share, near) * a + torch.where(small, share, far) * b


# %% alt="Two rows of seven pictures between two noises, along the line and along the arc." slideshow={"slide_type": "subslide"}
shares = torch.linspace(0, 1, 7)
a, b = (end.expand(7, -1, -1, -1) for end in chosen[[5, 2]])
ways = {"line": a + shares.view(-1, 1, 1, 1) * (b - a), "arc": slerp(a, b, shares)}
plotting.show_rows({name: draw(dpmpp_2m, x, 15) for name, x in ways.items()}, [f"{share:.2f}" for share in shares],
                   "From one noise to another", scale=0.75)
plt.show()
pairs = gaussian(96, seed=31), gaussian(96, seed=32)
middles = {"line": sum(pairs) / 2, "arc": slerp(*pairs, 0.5)}
halfway = {name: extract_features(evaluator, draw(dpmpp_2m, x, 10)) for name, x in middles.items()}
print("standard deviation in the middle: " + ", ".join(f"{name} {x.std():.2f}" for name, x in middles.items()))
print(f"kernel distance of 96 pictures from the middle, line less arc: {kernel_gap(halfway['line'], halfway['arc'])}")


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** In one row the eye sees no winner. Over 96 pairs the line's middle lies 0.26 [0.19, 0.34] farther from real pictures. **Limit**: neighbouring
# noises promise no similar meaning; CLIP vectors do (notebook 08).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 · From a picture back to its noise
#
# **Intuition.** A curve can be followed both ways. Backwards, DDIM turns a picture into the noise that would draw it: the start of many edits of real pictures (notebooks 06, 08).
#
# **Formula** (DDIM section 4.3): the same mix, towards larger $t'$,
# $x_{t'}=\sqrt{\bar\alpha_{t'}}\,\hat x_0+\sqrt{1-\bar\alpha_{t'}}\,\hat\varepsilon$. There is no $x_{t'}$ yet to ask about. The paper asks the network at $(x_t,t)$; `diffusers` and
# `ahead=True` at $(x_t,t')$. Either way its answer is read at level $t$.
#
# **Predict.** Does the error of a round trip vanish with more steps?
#
# <details><summary>Answer</summary>
#
# With exact guesses, yes: the next cell. A network's own errors stay.
#
# </details>

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/inversion.py
@torch.no_grad()
def invert(
    model, x0, schedule, steps=50, prediction="eps", generator=None, clip=False, spacing="trailing", start=0,
    ahead=True,
) -> Iterator[State]:  # fmt: skip
    table = [t for t in timesteps(steps, schedule.num_steps, spacing).flip(0).tolist() if t > start or t == start == 0]
    if not table:
        raise InputError(f"no step is left between start = {start} and the noise: use more steps or an earlier start")
    xt, t = check_noise(x0), start
    for step, t_next in enumerate(table, start=1):
        alpha_bar_next = alpha_bar_at(schedule, t_next)
        now, then = (torch.full((len(xt),), i, device=xt.device) for i in (t, t_next))
        pred = model(xt, then if ahead else now)
        eps, x0 = to_eps(pred, xt, now, schedule, prediction), to_x0(pred, xt, now, schedule, prediction)
        x0 = x0.clamp(-1, 1) if clip else x0
        xt, t = alpha_bar_next**0.5 * x0 + (1 - alpha_bar_next) ** 0.5 * eps, t_next
        yield State(step, t, xt, x0)


# %% [markdown]
# First on the face, where the guesses are exact: the error falls with the steps (medians of 200 dots). **Check** against `diffusers`.

# %% slideshow={"slide_type": "subslide"}
dots = sample(dpmpp_2m, best_x0, xT[:200], **plain | {"steps": 250})      # (200, 2), on the face
for steps in (10, 30, 100):
    found = sample(invert, best_x0, dots, **plain | {"steps": steps})
    again = sample(ddim, best_x0, found, **plain | {"steps": steps})
    print(f"{steps:3d} steps: the round trip ends {median((again - dots).norm(dim=1)).text(2)} from its start")

# %%
# NBVAL_CHECK_OUTPUT
peer = diffusers.DDIMInverseScheduler(prediction_type="sample", clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing")
peer.alphas_cumprod = toy.alpha_bar.clone()
peer.initial_alpha_cumprod = toy.alpha_bar[0]
peer.set_timesteps(20)
xt, gaps = dots, []
for state in invert(best_x0, dots, **plain):
    xt = peer.step(best_x0(xt, torch.full((len(xt),), state.t)), state.t, xt).prev_sample
    gaps.append(float((xt - state.xt).abs().max()))
print(len(gaps), "steps, all equal to 1e-8:", max(gaps) < 1e-8)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Now held-out pictures and our network. At $t\approx0$ the noise is the tiny difference between $x_t$ and $\hat x_0$, divided by a tiny number: a network that
# answers with $x_0$ errs by more, and the quotient is nonsense. So we also start with a *little* real noise, at $t=40$. The control: one guess from
# there, without any trip.

# %% alt="Six held-out pictures, one guess from t = 40, and round trips from clean and from t = 40." slideshow={"slide_type": "subslide"}
held_out = to_tensor(load_emoji(SIZE, FIRST_STYLES, ("smileys-emotion",), "test").on_white())[10:16]
START = torch.full((6,), 40)
nudged = add_noise(held_out, gaussian(6, seed=1), START, SCHEDULE)
trips = {"held-out picture": held_out, "one guess, t=40": network_x0(nudged, START).clamp(-1, 1)}
for name, x, more in (("clean", held_out, {}), ("t = 40", nudged, {"start": 40, "ahead": False})):
    found = sample(invert, trained, x, SCHEDULE, steps=50, prediction=KIND, **more)
    trips[f"round trip from {name}"] = draw(ddim, found, 50)
    print(f"from {name}: the found noise has standard deviation {found.std():.2f}")
print("distance from the picture: " + ", ".join(f"{name} {Mean.of(rms(x - held_out)).text(2)}" for name, x in list(trips.items())[1:]))
plotting.show_rows(trips, title="Picture to noise and back, 50 steps each way", scale=0.75)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** From a clean start the found "noise" is nine times too strong (9.49), from $t=40$ 1.25 times. The small noise costs little: one guess ends 0.07 [0.06, 0.10] from the picture and keeps
# the third heart's brown; the round trip ends 0.13 [0.10, 0.18] from it and loses the brown. **Limit**: the ideal denoiser sends many noises to one picture and cannot be inverted.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Experiment: choose the sampler
#
# Find the fewest steps you would show to somebody. Then switch the spacing.

# %% alt="Six pictures drawn with the chosen sampler, steps and spacing." slideshow={"slide_type": "skip"}
def sampler_figure(sampler, steps, spacing, seed):
    x = draw(sampler, gaussian(6, seed), steps, seed, spacing=spacing)
    name = next(name for name, (known_one, _) in SAMPLERS.items() if known_one is sampler)
    return plotting.show_pictures(x, columns=6, title=f"{name}, {steps} steps, {spacing}", scale=0.9)

explore(sampler_figure, sampler={name: sampler for name, (sampler, _) in reversed(SAMPLERS.items())}, steps=[10, 2, 3, 5, 20, 50],
        spacing=["trailing", "leading", "linspace"], seed=(0, 30))


# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks: the network is told another step
#
# A real bug in home-made pipelines: the loop takes its coefficients from one table and tells the network the steps of another. Here
# the sampler is *trailing*, the network is told *leading*. No line fails.

# %% alt="Six pictures drawn rightly in 10 and 50 steps; from a network that is told other steps all are garish in 10 and most in 50." slideshow={"slide_type": "-"}
def misled(stride):                                                       # leading is trailing, stride - 1 earlier
    return lambda xt, t: trained(xt, (t - (stride - 1)).clamp(min=0))

good, broken = {}, {}
for steps in (10, 50):
    good[f"right, {steps} steps"] = draw(ddim, chosen, steps)
    broken[f"misled, {steps} steps"] = sample(ddim, misled(1000 // steps), chosen, SCHEDULE, steps=steps, prediction=KIND, spacing="trailing")
plotting.show_rows(good | broken, title="One table for the sampler, another for the network", scale=0.75)
plt.show()


# %% slideshow={"slide_type": "-"}
def first_guess_error(model, t=999):                                      # of 64 training pictures in full noise
    ts = torch.full((64,), t)
    xt = add_noise(known[:64], gaussian(64, seed=8), ts, SCHEDULE)
    with torch.no_grad():
        x0 = to_x0(model(xt, ts), xt, ts, SCHEDULE, KIND).clamp(-1, 1)
    return Mean.of((x0 - known[:64]).square().flatten(1).mean(1))

print(f"error of the mean picture {Mean.of((known[:64] - known.mean(0)).square().flatten(1).mean(1)).text(2)}; of the first guess: " + ", ".join(
    f"{name} {first_guess_error(model).text(2)}" for name, model in (
        ("right", trained), ("misled, 50 steps", misled(20)), ("misled, 10 steps", misled(100)))))

# %% [markdown] slideshow={"slide_type": "-"}
# **Cause.** Told an earlier step, the network takes noise for colours and shapes. With 50 steps the tables differ by only 19, and two of the six pictures survive.
# **The habit that finds it:** from pure noise nobody can guess better
# than the mean picture, and a sound network does about as well (0.15 [0.14, 0.16]). Print that error: in ten steps the bug shows (0.42 [0.39, 0.45]), in fifty hardly (0.16).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# Each has a stub, a check on fresh random cases, three hints such as this one, and a folded solution.

# %%
# NBVAL_CHECK_OUTPUT
hint("03-ddim", 1)


# %% [markdown]
# ### Exercise 03.1 (warm-up) · Mix again
#
# Write `ddim_step`: from `xt`, the predicted noise `eps_pred` and the two levels it returns $x_s$ at `eta`. Fresh noise `z` is handed in.
# Nothing is clipped.
#
# Stuck? `hint("03-ddim", 1)`, then 2, then 3.

# %%
def ddim_step(xt, eps_pred, alpha_bar_t, alpha_bar_s, eta, z):  # z: like xt
    raise NotImplementedError                                   # -> xs (B, C, H, W)


# %%
check("03-ddim", ddim_step)


# %% [markdown]
# *Solution of 03.1, folded. Open it after your own attempt.*

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def ddim_step(xt, eps_pred, alpha_bar_t, alpha_bar_s, eta, z):
    x0 = (xt - (1 - alpha_bar_t).sqrt() * eps_pred) / alpha_bar_t.sqrt()
    sigma = eta * ((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)).sqrt()
    return alpha_bar_s.sqrt() * x0 + (1 - alpha_bar_s - sigma**2).sqrt() * eps_pred + sigma * z

check("03-ddim", ddim_step)


# %% [markdown]
# ### Exercise 03.2 (code) · Look ahead
#
# Write `look_ahead`, the $D$ of section 4: from the guess `x0`, the guess `x0_before` of the step before, and three values of $\lambda$: of the step
# before, of this step, and of the step we go to.

# %%
def look_ahead(x0, x0_before, lambda_before, lambda_now, lambda_next):   # (B, C, H, W) twice, then ()
    raise NotImplementedError                                            # -> D (B, C, H, W)


# %%
check("03-multistep", look_ahead)


# %% [markdown]
# *Solution of 03.2, folded.*

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def look_ahead(x0, x0_before, lambda_before, lambda_now, lambda_next):
    h, h_before = lambda_next - lambda_now, lambda_now - lambda_before
    return x0 + h / (2 * h_before) * (x0 - x0_before)

check("03-multistep", look_ahead)


# %% [markdown]
# ### Exercise 03.3 (measure) · How many steps are enough?
#
# `draw(steps)` gives pictures (B, 3, S, S) from fixed noises; `budgets` are rising numbers of steps. Return (S, B): for every budget, the
# root of the mean squared difference of each picture from that of the *largest* budget. Then measure the three samplers. Predict: which
# does not settle?

# %%
def misses(draw, budgets):                            # draw(steps) -> (B, 3, S, S)
    raise NotImplementedError                         # -> (S, B)


# %%
check("03-steps", misses)


# %% [markdown]
# *Solution of 03.3, folded. DDPM does not settle: another number of steps uses other fresh noise. The others still move after ten steps (0.17 and 0.18), and section 6 saw them gain a little.*

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def misses(draw, budgets):
    drawn = [draw(steps) for steps in budgets]
    return torch.stack([(x - drawn[-1]).square().flatten(1).mean(1).sqrt() for x in drawn])

check("03-steps", misses)

# %% tags=["solution"]
for name, (sampler, _) in SAMPLERS.items():
    found = misses(lambda steps, sampler=sampler: draw(sampler, gaussian(8, seed=50), steps), (3, 5, 10, 20, 40))
    print(f"{name}: " + ", ".join(f"{Mean.of(row).text(2)} in {steps}" for row, steps in zip(found[:-1], (3, 5, 10, 20))))


# %% [markdown]
# ### Exercise 03.4 (measure) · When does the noise lose its grip?
#
# For every η draw twice with `sample(ddim, …)` from the same `xT`, with generators seeded 0 and 1 and the `options`. Return (E, B): the root of the
# mean squared difference of the two runs, for each η and picture. Then sweep η on the network, and compare with two *different* noises.

# %%
def eta_sweep(model, xT, schedule, etas, options):    # options: steps, prediction, ... for ddim
    raise NotImplementedError                         # -> (E, B)


# %%
check("03-eta", eta_sweep)


# %% [markdown]
# *Solution of 03.4, folded.*

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def eta_sweep(model, xT, schedule, etas, options):
    rows = []
    for eta in etas:
        a, b = (sample(ddim, model, xT, schedule, eta=eta, generator=torch.Generator().manual_seed(seed), **options) for seed in (0, 1))
        rows.append((a - b).square().flatten(1).mean(1).sqrt())
    return torch.stack(rows)

check("03-eta", eta_sweep)

# %% tags=["solution"]
etas, noises = (0.0, 0.2, 0.5, 1.0), gaussian(16, seed=60)
found = eta_sweep(trained, noises, SCHEDULE, etas, {"steps": 10, "prediction": KIND, "spacing": "trailing"})
print(", ".join(f"η = {eta:g}: {Mean.of(row).text(2)}" for eta, row in zip(etas, found)))
print("two different noises:", Mean.of(rms(draw(ddim, noises, 10) - draw(ddim, noises.flip(0), 10))[:8]).text(2))


# %% [markdown]
# ### Exercise 03.5 (transfer) · Heun's method
#
# The choice of Karras et al. (2022): take Euler's step, ask for the slope at its end, go back and take the step with the *mean* slope. Write
# it for any equation $dx/d\tilde\sigma=$ `slope(x, level)`. At level 0 the slope would divide by 0: return Euler's step. Then measure its order on the face, at
# equal *calls*.

# %%
def heun_step(slope, x, now, after):                  # x (B, 2); levels now > after >= 0
    raise NotImplementedError                         # -> x at the level `after`


# %%
check("03-heun", heun_step)


# %% [markdown]
# *Solution of 03.5, folded. With few calls Euler is ahead; at 64 Heun is, and each doubling gains it more.*

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def heun_step(slope, x, now, after):
    first = slope(x, now)
    euler = x + (after - now) * first
    if after == 0:
        return euler
    return x + (after - now) * (first + slope(euler, after)) / 2

check("03-heun", heun_step)


# %% tags=["solution"]
def face_slope(x, level):                                                 # eps_hat of x = x0 + level * eps: no schedule is needed
    variance = SPREAD**2 + level**2
    near = torch.softmax(-torch.cdist(x, CENTRES) ** 2 / (2 * variance), dim=1) @ CENTRES
    return (x - near - SPREAD**2 / variance * (x - near)) / level

def solve(step, steps, start=20.0, stop=0.5):                             # levels fall by one factor
    x, levels = start * xT[:100], [start * (stop / start) ** (i / steps) for i in range(steps + 1)]
    for now, after in zip(levels, levels[1:]):
        x = step(face_slope, x, now, after)
    return x

euler_step, exact = lambda slope, x, now, after: x + (after - now) * slope(x, now), solve(heun_step, 400)
for name, step, calls in (("Euler", euler_step, 1), ("Heun", heun_step, 2)):
    e = [float((solve(step, n // calls) - exact).norm(dim=1).median()) for n in (8, 16, 32, 64)]
    print(f"{name}: {e[0]:.4f} with 8 calls, {e[-1]:.4f} with 64; each doubling divides the error by {(e[0] / e[-1]) ** (1 / 3):.1f}")


# %% [markdown]
# ### Exercise 03.6 (find the bug) · A run that ends in noise
#
# A loop draws with DDIM, $\eta=0$, for a network that answers with $x_0$. No error is raised. Its pictures:

# %% alt="Six squares of coloured noise."
def broken_run(model, xT, alpha_bar, table):          # alpha_bar (T,); table: the steps to visit, from noise down
    x = xT
    for t, t_next in zip(table, [*table[1:], -1]):
        now, then = alpha_bar[t], alpha_bar[t_next]
        x0 = model(x, torch.full((len(x),), t))
        eps = (x - now**0.5 * x0) / (1 - now) ** 0.5
        x = then**0.5 * x0 + (1 - then) ** 0.5 * eps
    return x

table = timesteps(20, 1000, "trailing").tolist()
plotting.show_pictures(broken_run(network_x0, chosen, SCHEDULE.alpha_bar, table), columns=6, title="Twenty steps later", scale=0.9)
plt.show()


# %% [markdown]
# Look at the states, find the bug, write `mended` with the same arguments.

# %%
def mended(model, xT, alpha_bar, table):
    raise NotImplementedError                         # -> pictures, like xT


# %%
check("03-broken", mended)


# %% [markdown]
# *Solution of 03.6, folded. `alpha_bar[-1]` is the last entry, pure noise: the last step throws the finished picture away. Its $\hat x_0$ was right all along.*

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def mended(model, xT, alpha_bar, table):
    x = xT
    for t, t_next in zip(table, [*table[1:], -1]):
        now, then = alpha_bar[t], alpha_bar[t_next] if t_next >= 0 else 1.0
        x0 = model(x, torch.full((len(x),), t))
        eps = (x - now**0.5 * x0) / (1 - now) ** 0.5
        x = then**0.5 * x0 + (1 - then) ** 0.5 * eps
    return x

check("03-broken", mended)

# %% [markdown]
# **Open.** Noise a finished drawing to $t=300$ and sample again. Does the kernel distance fall?

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# Picture and noise in the guess, mixed again in earlier proportions: every sampler here is a way to do that.
#
# | symbol | code | meaning |
# |---|---|---|
# | $\mu,\ \sigma^2$ | `ddpm(...)` | mean and variance of $x_s$, given $x_t$ and the guess |
# | $\eta$ | `ddim(..., eta=)` | share of fresh noise: 0 none, 1 DDPM |
# | $d\bar x/d\tilde\sigma=\hat\varepsilon$ | `ddim(..., eta=0)` | the curve; DDIM is Euler on it |
# | $-\hat\varepsilon/\sqrt{1-\bar\alpha_t}$ | `to_eps(...)` | the score |
# | $\lambda,\ D$ | `dpmpp_2m(...)` | half the log-SNR, the clock; the picture half a step ahead |
# | $\{t_i\}$ | `timesteps(steps, T, spacing)` | visits |
# | $d^2$ | `frechet_distance(a, b)` | how far two sets are apart, a proxy |
# | slerp | `slerp(a, b, share)` | the way between two noises |
# | $x_0\to x_T$ | `invert(model, x0, schedule, ...)` | DDIM backwards |
#
# **What we did not show.** Third-order, adaptive and stochastic solvers; distillation;
# learned variances. Our numbers belong to one small network: on yours, measure again.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The failure that leads to notebook 04
#
# We can draw fast. Let us order something.

# %% alt="Six faces and shapes with prompts under them that they do not show." slideshow={"slide_type": "-"}
prompts = ["a robot", "a heart", "a ghost", "a crying cat", "a red face", "a kiss"]
plotting.show_pictures(draw(dpmpp_2m, gaussian(6, seed=30), 15), titles=[f"asked: {prompt}" for prompt in prompts], columns=6,
                       title="It draws whatever it likes", scale=0.9)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# The prompts stand under the pictures and nowhere else: no line of code carried them to the network. The noise alone decided. **Notebook 04**
# lets a sentence steer every step.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## References
#
# - J. Ho et al., *DDPM*, 2020, [2006.11239](https://arxiv.org/abs/2006.11239): the posterior (eq. 6, 7), algorithm 2
# - J. Song et al., *DDIM*, 2020, [2010.02502](https://arxiv.org/abs/2010.02502): the step (eq. 12), η (eq. 16), the ODE (eq. 13, 14), inversion (section 4.3)
# - Y. Song et al., *Score-based generative modeling through SDEs*, 2021, [2011.13456](https://arxiv.org/abs/2011.13456): probability flow (eq. 13)
# - C. Lu et al., *DPM-Solver++*, 2022, [2211.01095](https://arxiv.org/abs/2211.01095): the exact solution in $x_0$ (eq. 8), 2M (algorithm 2)
# - T. Karras et al., *EDM*, 2022, [2206.00364](https://arxiv.org/abs/2206.00364): Heun (algorithm 1)
# - S. Lin et al., *Common noise schedules are flawed*, 2023, [2305.08891](https://arxiv.org/abs/2305.08891): spacings (Table 2)
# - M. Heusel et al., *TTUR*, 2017, [1706.08500](https://arxiv.org/abs/1706.08500): Fréchet distance (eq. 6)
# - M. Bińkowski et al., *Demystifying MMD GANs*, 2018, [1801.01401](https://arxiv.org/abs/1801.01401): kernel distance, bias of Fréchet's
# - T. Hang et al., *Min-SNR*, 2023, [2303.09556](https://arxiv.org/abs/2303.09556): the weight
# - Y. Lipman et al., *Flow matching*, 2022, [2210.02747](https://arxiv.org/abs/2210.02747): the straight line (eq. 20 to 23)
# - K. Shoemake, *Animating rotation with quaternion curves*, 1985: slerp

# %% [markdown]
# ← [02 · Noise predictor](02_noise_predictor.ipynb) · [Contents](00_start_here.ipynb) · [04 · Text conditioning](04_text_conditioning.ipynb) →

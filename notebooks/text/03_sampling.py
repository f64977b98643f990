# %% [markdown] slideshow={"slide_type": "slide"}
# # 03 · Sampling: from noise to picture, in how many steps?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/pictures-from-noise/blob/main/notebooks/03_sampling.ipynb)
#
# | | |
# |---|---|
# | **Time** | a 60-minute lecture; three hours with the exercises; the code runs in about two minutes |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebooks 01 and 02; what a derivative is |
# | **Where we are** | text encoder → **[generator]** → decoder |
#
# Nothing is trained here. The network of notebook 02 stays as it is; we change how we *sample* with it.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 3 min.* Ask for bets before the first figure: how many steps does a usable drawing need, and do more steps always help?
# Write the numbers on the board. The mistake to wait for: "more is better, and it only costs time".

# %% slideshow={"slide_type": "skip"}
# Setup. On Colab: fetch the course and keep Colab's torch. Anywhere else: find the course around this notebook.
import os
import sys

COURSE_URL = "https://github.com/OWNER/pictures-from-noise"
if "google.colab" in sys.modules and not os.path.isdir("/content/course"):
    assert os.system(f"git clone -q --depth 1 {COURSE_URL} /content/course") == 0, f"cannot fetch {COURSE_URL}"
    os.system("pip list --format=freeze | grep ^torch= > torch.txt && pip install -q -c torch.txt -e /content/course")
    os.chdir("/content/course/notebooks")
sys.path.insert(0, os.path.abspath("." if os.path.isdir("course_utils") else ".."))

# %% slideshow={"slide_type": "-"}
import matplotlib.pyplot as plt
from course_utils.figures import diagrams, plotting

plotting.use_course_style()
diagrams.strip(where="generator")
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The result first
#
# One network, the same five noises, three samplers. The columns differ in nothing but the noise they start from.

# %% slideshow={"slide_type": "-"}
import torch
from course_utils import checkpoints
from course_utils.generator.samplers import ddim, ddpm, dpmpp_2m, sample
from course_utils.recipes import noise_predictor

trained = checkpoints.load("noise-predictor", noise_predictor.model())
SIZE, KIND, SCHEDULE = noise_predictor.SIZE, noise_predictor.PREDICTION, noise_predictor.SCHEDULE

def gaussian(count, seed):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))

def pictures(sampler, count, seed, steps, **options):
    options = {"spacing": "trailing", "prediction": KIND, "generator": torch.Generator().manual_seed(seed)} | options
    return sample(sampler, trained, gaussian(count, seed), SCHEDULE, steps=steps, **options)

rows = {f"{name} {steps}": pictures(sampler, 5, 11, steps) for name, sampler, steps in (
    ("DDPM", ddpm, 10), ("DDPM", ddpm, 100), ("DDIM", ddim, 10), ("DPM-Solver++", dpmpp_2m, 10))}
plotting.show_rows(rows, title="Sampler and steps: the same network, the same five noises", scale=0.75)
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## What we build
#
# 1. The step back from $x_t$ to any earlier step, derived (DDPM), then without dice (DDIM).
# 2. A solver that looks back one step to see half a step ahead (DPM-Solver++ 2M).
# 3. The measurement: quality against steps and seconds.
# 4. Two tools: interpolating between noises, and from a picture back to its noise.

# %% [markdown]
# ### Setup

# %%
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from course_utils.checks.core import check, hint
from course_utils.data import FIRST_STYLES, load_emoji, to_tensor
from course_utils.errors import InputError, integer, number, one_of
from course_utils.generator.objectives import target, to_eps, to_x0
from course_utils.generator.samplers import check_noise, check_table
from course_utils.generator.schedules import add_noise, make_schedule
from course_utils.figures.plotting import AXIS, DATA, LATENT, MODEL, NOISE, REFERENCE
from course_utils.figures.widgets import explore

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: leave out nine steps of ten
#
# To judge a sampler we want a guesser without faults. So we take data whose best guess is known in closed form: a face of
# 60 small Gaussian dots, each of spread 0.05. No network, no training; what goes wrong is the sampler's own fault.

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
# We sample with the step of notebook 02's exercise 02.4,
# $x_{t-1}=\big(x_t-\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\hat\varepsilon\big)/\sqrt{1-\beta_t}$ plus noise. Once we
# visit all 1000 steps. Then we save time and visit every tenth.

# %% slideshow={"slide_type": "subslide"}
def neighbour_walk(stride, count=1000):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    for t in range(999, -1, -stride):
        ts, beta, alpha_bar = torch.full((count,), t), float(toy.beta[t]), float(toy.alpha_bar[t])
        eps = to_eps(best_x0(x, ts), x, ts, toy, "x0")
        x = (x - beta / math.sqrt(1 - alpha_bar) * eps) / math.sqrt(1 - beta)
        x = x + math.sqrt(beta) * torch.randn(x.shape, generator=generator, dtype=x.dtype) * (t > 0)
    return x

def on_face(x):                                                           # share of dots nearer than 0.1 to a centre
    return (torch.cdist(x, CENTRES).amin(1) < 0.1).double().mean().item()

real = CENTRES[torch.randint(60, (1000,), generator=torch.Generator().manual_seed(1))]
real = real + SPREAD * torch.randn(real.shape, generator=torch.Generator().manual_seed(2), dtype=real.dtype)
walks = {"data": real, "all 1000 steps": neighbour_walk(1), "every tenth": neighbour_walk(10)}
print(", ".join(f"{name}: {on_face(x):.0%} on the face" for name, x in walks.items()))

# %% slideshow={"slide_type": "-"}
plotting.plot_points([real, {MODEL: walks["all 1000 steps"]}, {NOISE: walks["every tenth"]}], list(walks),
                     "A step for neighbours does not reach further", limit=2.2)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# The guesses are perfect, and the drawing is lost. The formula removes the noise of *one* step and then claims to stand
# ten steps earlier. We need a step that knows how far it goes.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 6 min.* The room will propose "then scale beta by ten". Right idea: that is section 1, done exactly. Keep the picture of the
# lost face for the section on what breaks.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 · The step back, derived
#
# **Intuition.** We stand at $x_t$ and ask where we were at an earlier step $s<t$. Two witnesses testify. One saw us
# leave: from $x_0$, noise brings us to $x_s$. The other saw us arrive: from $x_s$, more noise brought us to $x_t$. Both
# are Gaussian: we multiply.
#
# **Notation.** $\alpha=\bar\alpha_t/\bar\alpha_s$ is the share of power kept on the way from $s$ to $t$. For neighbours
# it is $\alpha_t$; for a jump it is the product of all that is skipped.
#
# **Formula** (DDPM eq. 6 and 7, for any jump):
#
# $$q(x_s\mid x_t,x_0)\;\propto\;\underbrace{\mathcal N\big(x_t;\sqrt{\alpha}\,x_s,\;1-\alpha\big)}_{\text{arrival}}\;
# \underbrace{\mathcal N\big(x_s;\sqrt{\bar\alpha_s}\,x_0,\;1-\bar\alpha_s\big)}_{\text{departure}}$$
#
# Precisions (one over variance) add, and means are weighed by precision. Collecting terms:
#
# $$\mu=\frac{\sqrt{\bar\alpha_s}\,(1-\alpha)}{1-\bar\alpha_t}\,x_0+\frac{\sqrt{\alpha}\,(1-\bar\alpha_s)}{1-\bar\alpha_t}\,x_t,\qquad
# \sigma^2=\frac{(1-\bar\alpha_s)(1-\alpha)}{1-\bar\alpha_t}$$
#
# $\mu$ and $\sigma^2$ are mean and variance of $x_s$. We do not know $x_0$: the network's guess $\hat x_0$ stands in,
# and that is all of DDPM. `ddpm` in notebook 02 computes these lines.
#
# **Predict.** Far back, $s$ just above 0: which of the two terms of $\mu$ wins, and how large is $\sigma$?
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

# %% [markdown]
# A sampler needs a list of steps to visit and a way to hand over each state. This frame is shared by all of them.

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

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 7 min.* Draw two bells and their product. The product of two Gaussians is the only tool; the algebra can stay on the slide.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 · DDIM: the same guess, without dice
#
# **Intuition.** The network was trained on single noisy pictures, never on whole trajectories. It knows only how $x_t$ is made: so
# much picture, so much noise. A trajectory that arrives at every step with that mix is as good. So: take the guess apart into
# picture and noise, and **mix the two again** with the proportions of an earlier step.
#
# **Notation.** $\hat x_0,\hat\varepsilon$: picture and noise in the guess; $\sigma$: fresh noise; $z$: its dice;
# $\eta$ ("eta"): how much of it, from 0 to 1.
#
# **Formula** (DDIM eq. 12 and 16):
#
# $$x_s=\sqrt{\bar\alpha_s}\;\hat x_0+\sqrt{1-\bar\alpha_s-\sigma^2}\;\hat\varepsilon+\sigma z,\qquad
# \sigma=\eta\,\sqrt{\tfrac{1-\bar\alpha_s}{1-\bar\alpha_t}\,(1-\alpha)}$$
#
# The old noise gives up as much power as the fresh noise brings. With $\eta=1$, $\sigma$ is that of section 1.
#
# **Predict.** Is DDIM at $\eta=1$ *like* DDPM, or is it DDPM?
#
# <details><summary>Answer</summary>
#
# It is DDPM. Put $\hat\varepsilon=(x_t-\sqrt{\bar\alpha_t}\hat x_0)/\sqrt{1-\bar\alpha_t}$ in, and section 1's mean
# comes out. The check below compares every state.
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

# %% [markdown] slideshow={"slide_type": "subslide"}
# Now we watch eight dots move, in 100 steps, from the same starts.

# %% slideshow={"slide_type": "-"}
def paths(sampler, starts, steps=100, **options):                         # -> (steps + 1, B, 2)
    states = sampler(best_x0, starts, **plain | {"steps": steps}, generator=torch.Generator().manual_seed(7), **options)
    return torch.stack([starts, *(state.xt for state in states)])

turn = torch.arange(8) * math.pi / 4 + 0.3
radius = torch.tensor([1.9, 0.5]).repeat(4)
starts = (radius * torch.stack([turn.cos(), turn.sin()])).T.double()      # (8, 2), half far out, half within
fig, axes = plt.subplots(1, 3, figsize=(8, 3.3), sharey=True, layout="compressed")
for ax, (name, sampler, eta) in zip(axes, (("DDIM, η = 0", ddim, 0.0), ("DDIM, η = 0.2", ddim, 0.2), ("DDPM", ddpm, None))):
    ax.plot(*paths(sampler, starts, **({} if eta is None else {"eta": eta})).permute(2, 0, 1), color=MODEL, lw=0.8)
    ax.scatter(*CENTRES.T, s=14, color=DATA, zorder=2)
    ax.scatter(*starts.T, s=22, color=NOISE, zorder=3)
    ax.set(title=name, xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal", xticks=(-2, 0, 2), yticks=(-2, 0, 2))
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Orange dots are the starts, blue is the face. Without dice each start has one smooth curve and one
# end: **the noise is the picture's address**. With fresh noise sampling forgets its start. Forgetting has a price and a use.
# The price: noise that is put in must be taken out again, and that takes steps. The use: an early error of the network
# is washed away with the rest. Which of the two wins, at how many steps, is a question for the measurement; there DDPM
# stands for $\eta=1$. **Limit**: a perfect guesser, as here, never needs repair.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 8 min.* Let them predict the right panel before it appears. Sentence to repeat: "same network, same marginals, another trajectory".
# The usual slip at home: to blame the sampler for what the spacing does (section 5).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 · One curve: ε, x₀ and v, an ODE, and flow matching
#
# **Intuition.** Let the steps of DDIM shrink. The zigzag becomes a curve, and a curve is described by its slope. So
# drawing is solving a differential equation.
#
# **Notation.** $\bar x=x_t/\sqrt{\bar\alpha_t}$, the state with its picture at full strength; $\tilde\sigma=\sqrt{1-\bar\alpha_t}/\sqrt{\bar\alpha_t}$,
# the noise in it.
#
# **Formula** (DDIM eq. 14; Song et al. 2021, eq. 13, is the same in continuous time):
#
# $$\frac{d\bar x}{d\tilde\sigma}=\hat\varepsilon(x_t,t)$$
#
# The slope is the predicted noise. DDIM at $\eta=0$ holds the slope through each step: that is Euler's method.
#
# **Predict.** Three networks answer with $\varepsilon$, $x_0$ and $v$, all without error. Three curves, or one?
#
# <details><summary>Answer</summary>
#
# One. Each answer implies the others (notebook 02), so the slope is the same. With imperfect networks the curves part,
# because their errors sit at different steps.
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
# Another model? We give it the same guesses, and levels $u$ with the same ratio of noise to picture.

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
# The step "hold both guesses, mix them anew" does not care by which names the levels go. What flow matching changes is
# the training: which levels are practised, and which mix is asked for.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### An aside on training: which steps deserve attention?
#
# Notebook 02 left a question: errors at which steps matter? An error of $\varepsilon$ counts $1/\mathrm{SNR}$ as an error of
# the picture; so the same network error, weighed as $\varepsilon$ or as $x_0$, trains different networks. Min-SNR (Hang et al. 2023)
# settles on the picture's error, weighed by
#
# $$w(t)=\min\big(\mathrm{SNR}(t),\,\gamma\big),\qquad \gamma=5,$$
#
# and divides by SNR for $\varepsilon$, by SNR + 1 for $v$, because their losses already carry that factor.

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

# %% [markdown] slideshow={"slide_type": "-"}
# Trained on plain $\varepsilon$, a network spends nearly all attention to the *picture* on steps where it is already
# visible. (Our network was trained on plain $x_0$: all steps weigh 1.)

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 6 min.* Slope field on the board, one Euler step. Then the flow-matching cell: the room usually thinks it is a different theory.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 · DPM-Solver++: look back one step to see ahead
#
# **Intuition.** Euler drives by looking at the road under the wheels. In a bend it leaves the road. We remember the guess
# of the step before: if $\hat x_0$ has been moving, it will go on moving a little. Aim at where it *will be* halfway
# through the step. No extra call of the network is needed.
#
# **Notation.** $\lambda=\tfrac12\log\mathrm{SNR}$ is the clock; $h=\lambda_s-\lambda_t$ the length of this step,
# $h_{-1}$ of the one before; $D$ the picture aimed at.
#
# **Formula** (Lu et al. 2022b, eq. 8 and algorithm 2, 2M):
#
# $$D=\hat x_0+\frac{h}{2h_{-1}}\big(\hat x_0-\hat x_0^{\text{before}}\big),\qquad
# x_s=\frac{\sigma_s}{\sigma_t}\,x_t+\Big(\sqrt{\bar\alpha_s}-\frac{\sigma_s}{\sigma_t}\sqrt{\bar\alpha_t}\Big)D$$
#
# with $\sigma=\sqrt{1-\bar\alpha}$. With $D=\hat x_0$ the second line *is* DDIM. The first step has no past, the last one goes to the
# clean picture, where $\lambda$ is infinite: both take $D=\hat x_0$.
#
# **Predict.** Twice as many steps halve Euler's error. What do they do to a second-order solver's?
#
# <details><summary>Answer</summary>
#
# Quarter it: the error goes with the square of the step. The figure measures both slopes.
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
# **Check** against `diffusers`: same network, same noise, every state. Its `solver_order=2` and `solver_type="midpoint"` are the formula
# above.

# %%
# NBVAL_CHECK_OUTPUT
from course_utils.generator.samplers import solver_timesteps

peer = diffusers.DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample",
                                             timestep_spacing="trailing", thresholding=True, sample_max_value=1.0)
peer.alphas_cumprod = SCHEDULE.alpha_bar.clone()
peer.set_timesteps(6)
xt, gaps = gaussian(1, seed=0), []
for state in dpmpp_2m(trained, xt, SCHEDULE, 6, KIND):
    with torch.no_grad():
        xt = peer.step(trained(xt, torch.tensor([state.t])), state.t, xt).prev_sample
    gaps.append(float((xt - state.xt).abs().max()))
print(len(gaps), "steps, all equal to 1e-4:", max(gaps) < 1e-4)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Heun's method, the choice of Karras et al. (2022), is the classical rival: take Euler's step, ask again at its end, and
# use the mean slope. It costs two calls a step. We write it for the comparison.

# %%
@torch.no_grad()
def heun(model, xT, schedule, steps=20, prediction="eps", generator=None, clip=True, spacing="trailing"):
    def guess(x, t):                                                      # x: the state with its picture at full strength
        xt, ts = x * alpha_bar_at(schedule, t) ** 0.5, torch.full((len(x),), t)
        x0 = to_x0(model(xt, ts), xt, ts, schedule, prediction)
        return x0.clamp(-1, 1) if clip else x0

    levels = [(1 / alpha_bar_at(schedule, t) - 1) ** 0.5 for t in range(schedule.num_steps)] + [0.0]   # [-1]: clean
    table = timesteps(steps, schedule.num_steps, spacing)
    x = xT / alpha_bar_at(schedule, int(table[0])) ** 0.5
    for step, (t, t_next) in enumerate(step_pairs(table), start=1):
        x0 = guess(x, t)
        slope, move = (x - x0) / levels[t], levels[t_next] - levels[t]
        if t_next >= 0:
            euler = x + move * slope
            slope = (slope + (euler - guess(euler, t_next)) / levels[t_next]) / 2
        x = x + move * slope
        yield State(step, t, x * alpha_bar_at(schedule, t_next) ** 0.5, x0)

# %% slideshow={"slide_type": "subslide"}
budgets, few = (8, 16, 32, 64, 128), xT[:200]
def passing(sampler, steps, t):                                           # the states when sampling reaches step t
    states = list(sampler(best_x0, few, **plain | {"steps": steps}))
    return states[[*(state.t for state in states[1:]), -1].index(t)].xt

def misses(sampler, t, calls_a_step=1):                                   # median distance from the curve, for each budget
    exact = passing(dpmpp_2m, 1000, t)
    return [float((passing(sampler, n // calls_a_step, t) - exact).norm(dim=1).median()) for n in budgets]

errors = {"DDIM": (misses(ddim, 249), DATA), "Heun": (misses(heun, 249, 2), LATENT, "--"),
          "DPM-Solver++ 2M": (misses(dpmpp_2m, 249), MODEL)}
plotting.plot_lines(budgets, errors, "calls of the guesser (doubling)", "distance from the curve at t = 249",
                    "Exact guesses: what is left is the sampler's own error", logx=True, logy=True)
plt.gca().set_xticks(budgets, budgets)
plt.minorticks_off()
plt.show()
for name, (e, *_) in errors.items():
    print(f"{name}: each doubling of the calls divides the error by {(e[0] / e[-1]) ** 0.25:.1f}")
print("at the clean end:", ", ".join(f"{name} {e[2]:.3f} with {budgets[2]} calls, {e[-1]:.3f} with {budgets[-1]}"
                                     for name, e in (("DDIM", misses(ddim, -1)), ("2M", misses(dpmpp_2m, -1)))))

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Order 1 is a halving for each doubling, order 2 a quartering. Heun is of order 2 as well, but pays two
# calls a step. **Limit**: that is three quarters of the way. At the clean end (last line) the lead is small: the last
# step is of first order, and our sharp dots bend the curve most just there. And the guesses are exact here. A
# network's own error puts a floor under all curves, and digits below it are wasted. Where is that floor? We measure.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 8 min.* Steering image: look at the road under the wheels, or halfway through the bend. Ask what limits the gain on a real network
# (the guess itself is wrong), and let the room say it before the measurement does.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 · Which steps to visit
#
# **Intuition.** Five visits among a thousand. Where we begin matters most: the noise we hand in is pure, so the first
# visit should be at the step where pure noise belongs, the last.
#
# **Notation.** *Leading* takes the start of each stride, *trailing* its end, *linspace* both ends of the whole
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

# %%
# NBVAL_CHECK_OUTPUT
for spacing in SPACINGS:
    table = timesteps(5, 1000, spacing).tolist()
    print(f"{spacing:9s} visits {table}; expects a picture of strength {alpha_bar_at(SCHEDULE, table[0]) ** 0.5:.2f} at first")
print("the solver leaves t = 0 out:", solver_timesteps(5, 1000, "linspace").tolist())

# %% [markdown] slideshow={"slide_type": "-"}
# Leading begins at $t=800$ and expects a picture at about a third of its strength. There is none: we lie to the network at its first and
# most important step. With 50 steps the lie is small. **Limit**: whether it shows in
# pictures has to be measured; next.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The key piece: quality against steps and seconds
#
# **A ruler.** Losses cannot rank samplers; all use one network. We compare *sets* of pictures. The course's evaluator, a
# small classifier that no generator was trained on, turns each picture into a vector of features. Two sets are compared by the Gaussians
# fitted to their vectors (Heusel et al. 2017, eq. 6):
#
# $$d^2=\lVert\mu_a-\mu_b\rVert^2+\operatorname{tr}\!\big(\Sigma_a+\Sigma_b-2(\Sigma_a\Sigma_b)^{1/2}\big)$$
#
# $\mu,\Sigma$: mean and covariance of a set. With Inception's features and 50,000 pictures this is the FID. **Ours is a proxy**: own
# features, few pictures. It is biased upwards when pictures are few, and fewer than features at that. So every set has the
# same size, three seeds give the error bars, and real pictures against other real ones give the **floor**.

# %% slideshow={"slide_type": "-"}
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.metrics import extract_features, frechet_distance, held_out_accuracy, kernel_distance

evaluator, COUNT, SEEDS = load_evaluator(), 48, (0, 1, 2)
own = held_out_accuracy(evaluator, size=SIZE)
print("the ruler itself, on real pictures it has not seen: " + ", ".join(f"{k} {v:.2f}" for k, v in own.items()))
real = extract_features(evaluator, noise_predictor.load_pictures())       # (451, F)
shuffled = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))]
groups, reference = shuffled[:len(SEEDS) * COUNT].split(COUNT), shuffled[len(SEEDS) * COUNT:]
floor = torch.tensor([frechet_distance(group, reference) for group in groups])
print(f"floor: {len(groups)} x {COUNT} real against {len(reference)} other real pictures, {reference.shape[1]} features: "
      f"{floor.mean():.1f} ± {floor.std():.1f}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** At ten steps, in which order do DDPM, DDIM and DPM-Solver++ finish? And does the order stay at forty?
#
# The next cell draws all pictures; it takes about a minute and a half on two cores.

# %% slideshow={"slide_type": "-"}
def measure(sampler, steps, **options):                                   # -> distances, kernel distances, s a picture
    rows = []
    for seed in SEEDS:                                                    # the same noises for every sampler
        began = time.perf_counter()
        x = pictures(sampler, COUNT, seed, steps, **options)
        seconds = (time.perf_counter() - began) / COUNT
        features = extract_features(evaluator, x)
        rows.append((frechet_distance(features, reference), kernel_distance(features, reference), seconds))
    return torch.tensor(rows).T                                           # (3, seeds)

STEPS = (3, 5, 10, 20, 40)
WALKS = {"DDPM": (ddpm, NOISE), "DDIM": (ddim, DATA), "DPM-Solver++ 2M": (dpmpp_2m, MODEL)}
results = {name: [measure(sampler, steps) for steps in STEPS] for name, (sampler, _) in WALKS.items()}

# %% slideshow={"slide_type": "subslide"}
from matplotlib.ticker import LogLocator

real_kernel = torch.tensor([kernel_distance(group, reference) for group in groups])

def quality_axes(ax, which, x_of, floor, nudge=1):                        # which: 0 Fréchet, 1 kernel; nudge: bars apart
    for i, ((name, table), (_, color)) in enumerate(zip(results.items(), WALKS.values())):
        d = torch.stack([row[which] for row in table])                    # (steps, seeds)
        x = [x_of(steps, row) * nudge ** (i - 1) for steps, row in zip(STEPS, table)]
        ax.errorbar(x, d.mean(1), d.std(1), color=color, marker="o", ms=5, capsize=3, lw=1.8, label=name)
    ax.axhspan(floor.mean() - floor.std(), floor.mean() + floor.std(), color=REFERENCE, alpha=0.4, lw=0)
    ax.axhline(floor.mean(), color=REFERENCE, label="floor: real against real")
    ax.set(xscale="log")

fig, axes = plt.subplots(2, 2, figsize=(8, 6.2), sharex="col", sharey="row")
for row, (name, level) in enumerate((("Fréchet distance", floor), ("kernel distance", real_kernel))):
    quality_axes(axes[row, 0], row, lambda steps, _: steps, level, nudge=1.06)
    quality_axes(axes[row, 1], row, lambda _, row: float(row[2].mean()), level)
    axes[row, 0].set_ylabel(name)
axes[1, 0].set_xlabel("steps")
axes[1, 0].set_xticks(STEPS, STEPS)
axes[1, 0].minorticks_off()
axes[1, 1].set_xlabel("seconds a picture, this machine")
axes[1, 1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
axes[1, 1].xaxis.set_major_formatter("{x:g}")
axes[1, 1].minorticks_off()
axes[0, 1].legend(fontsize=10)
fig.suptitle(f"Proxies, lower is better: {COUNT} pictures a set, mean and spread of {len(SEEDS)} seeds", x=0.01, ha="left",
             fontsize=13, fontweight="bold")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# The same as numbers, with the kernel distance beside them: another ruler on the same features, whose expected value does
# not depend on the number of pictures (Bińkowski et al. 2018).

# %% slideshow={"slide_type": "subslide"}
print("steps   " + "".join(f"{name:>24s}" for name in results) + "     (Fréchet ± spread | kernel)")
for i, steps in enumerate(STEPS):
    cells = [f"{r[i][0].mean():5.1f} ± {r[i][0].std():3.1f} | {r[i][1].mean():6.3f}" for r in results.values()]
    print(f"{steps:5d}   " + "".join(f"{cell:>24s}" for cell in cells))
print("same noises, seed by seed, how much larger is the kernel distance than that of DPM-Solver++ 2M?")
for name in ("DDPM", "DDIM"):
    gaps = [results[name][i][1] - results["DPM-Solver++ 2M"][i][1] for i in range(len(STEPS))]
    print(f"{name}: " + ", ".join(f"{gap.mean():+.3f} ± {gap.std():.3f} at {steps}" for steps, gap in zip(STEPS, gaps)))

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.**
#
# - Most is won by ten steps. From there the two samplers without fresh noise are flat: **more steps do not help**. The gap that is left to the floor
#   is the network's, not the sampler's.
# - The bars overlap nearly everywhere. But all samplers share their noises, and seed by seed the solver is ahead of DDIM at every number of steps, by
#   a little (last line).
# - DDPM goes on improving. At forty steps the Fréchet distance puts it first and the kernel distance last. Two rulers disagree: we claim
#   neither.
#
# **Limit**: 48 pictures a set, one small network, and a floor that is mostly the bias of small sets.

# %% [markdown] slideshow={"slide_type": "subslide"}
# Two questions are open: the spacing, and Heun. Same noises, same ruler.

# %% slideshow={"slide_type": "-"}
for spacing in SPACINGS:
    d = (results["DDIM"][STEPS.index(5)] if spacing == "trailing" else measure(ddim, 5, spacing=spacing))[0]
    print(f"DDIM, 5 steps, {spacing:8s}: {d.mean():6.1f}")
clock = max((1 / alpha_bar_at(SCHEDULE, t) - 1) ** 0.5 for t in (0, 999))
print(f"Heun, 3 steps (5 calls):   {measure(heun, 3)[0].mean():6.1f}; its clock runs from {clock:,.0f} down to 0")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** *Leading* pays dearly for its lie at few steps. *Linspace* spends its last visit at $t=0$, where nothing is
# left to do. And Heun? Its clock is $\tilde\sigma$, and the printed range says why it fails here: the first step spans nearly all of
# it, and a mean of two slopes means nothing over such a stretch. Karras et al. start at 80 and space their levels to suit. On our schedule Heun
# earns no place in the library.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **The guess along the way.** Every state carries $\hat x_0$. Here is what each sampler *believes* it is drawing, ten steps from
# one noise.

# %% slideshow={"slide_type": "-"}
def beliefs(sampler, seed, steps=10, shown=(1, 2, 3, 5, 7, 10)):
    states = sampler(trained, gaussian(1, seed), SCHEDULE, steps=steps, prediction=KIND, spacing="trailing",
                     generator=torch.Generator().manual_seed(seed))
    return [state.x0[0] for state in states if state.step in shown]

plotting.show_rows({name: beliefs(sampler, 5) for name, (sampler, _) in WALKS.items()},
                   [f"step {s}" for s in (1, 2, 3, 5, 7, 10)], "The predicted picture, step by step", scale=0.7)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** All begin with the same average. DDIM and the solver settle early and sharpen; DDPM's fresh noise keeps changing
# its mind. When the guess has stopped moving, further steps have nothing to add: that is the flat end of the curves.

# %% [markdown] slideshow={"slide_type": "slide"}
# ### Which sampler, then?
#
# | you want | take | why |
# |---|---|---|
# | a picture, soon | DPM-Solver++ 2M, 10–20 steps, trailing | never behind DDIM here, at the same price; nothing to tune |
# | the same, in one line of code | DDIM, η = 0, 20–50 steps | Euler: robust, invertible, the sampler others are compared with |
# | repair, and time to spare | DDPM, or DDIM with η > 0, 50–1000 steps | fresh noise washes errors out; still improving at 40 here |
# | a network trained to $\mathrm{SNR}=0$ | any, with trailing | the first visit must be at pure noise |
#
# Whichever you take: begin where pure noise belongs. At five steps the spacing moved our distance far more than the sampler did. Much fewer
# steps need another *network* (distillation), not another sampler.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 10 min.* Return to the bets. Read the figure in three sentences: steep to ten steps; flat after, because the
# network sets the gap to the floor; the solver a little ahead, seed by seed. Insist on the small print: N beside every figure.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 · Between two noises
#
# **Intuition.** If noise is an address, what lives between two addresses? A Gaussian in thousands of dimensions is a thin
# shell: all noises have nearly one length. A straight line between two of them cuts through the empty inside.
#
# **Formula** (Shoemake 1985; DDIM appendix D.5): walk on the shell,
#
# $$\operatorname{slerp}(a,b;u)=\frac{\sin((1-u)\theta)}{\sin\theta}\,a+\frac{\sin(u\theta)}{\sin\theta}\,b$$
#
# $\theta$ is the angle between $a$ and $b$; $u$ the share of the way. **Predict.** Halfway along the straight line, what is the
# standard deviation of the "noise"?
#
# <details><summary>Answer</summary>
#
# Half of each: the variance is a quarter plus a quarter, so the standard deviation is about 0.71. The network is told to expect 1.
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

# %% slideshow={"slide_type": "subslide"}
ends_of_way, shares = gaussian(2, seed=21), torch.linspace(0, 1, 7)
a, b = (end.expand(7, -1, -1, -1) for end in ends_of_way)
ways = {"line": a + shares.view(-1, 1, 1, 1) * (b - a), "arc": slerp(a, b, shares)}
drawn = {f"{name}": sample(dpmpp_2m, trained, x, SCHEDULE, steps=15, prediction=KIND) for name, x in ways.items()}
plotting.show_rows(drawn, [f"{share:.2f}" for share in shares], "From one noise to another", scale=0.7)
plt.show()
pairs_of = gaussian(COUNT, seed=31), gaussian(COUNT, seed=32)
for name, x in ways.items():
    middle = sum(pairs_of) / 2 if name == "line" else slerp(*pairs_of, 0.5)                   # (COUNT, 3, S, S)
    x_middle = sample(dpmpp_2m, trained, middle, SCHEDULE, steps=10, prediction=KIND)
    distance = frechet_distance(extract_features(evaluator, x_middle), reference)
    print(f"{name}: Fréchet distance of {COUNT} pictures from the middle {distance:.1f};", end=" ")
    print(f"standard deviation at the ends {x[0].std():.2f} and {x[-1].std():.2f}, in the middle {x[3].std():.2f}")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Both rows change little by little, and in one row the eye sees no winner. The printed numbers do: the line leaves the shell, the
# arc stays on it; and over many pairs the pictures from the line's middle lie further from real ones. **Limit**: neighbouring
# noises promise no similar meaning; CLIP vectors do (notebook 08).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 · From a picture back to its noise
#
# **Intuition.** A curve can be followed both ways. Backwards, DDIM turns a picture into the noise that would draw it; change something there
# and come back, and we have edited a real picture (notebooks 06 and 08 do).
#
# **Formula** (DDIM section 4.3): the same mix, towards larger $t$. The slope at the new place is not known yet, so we use that of the old one:
#
# $$x_{t'}=\sqrt{\bar\alpha_{t'}}\;\hat x_0+\sqrt{1-\bar\alpha_{t'}}\;\hat\varepsilon,\qquad t'>t$$
#
# **Predict.** Does the error of a round trip vanish with more steps?

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
# First on the face of dots, where the guesses are exact: dot → noise → dot.

# %% slideshow={"slide_type": "subslide"}
dots = sample(dpmpp_2m, best_x0, xT[:200], **plain | {"steps": 500})      # (200, 2), on the face
back = {}
for steps in (10, 30, 100, 300):
    found = sample(invert, best_x0, dots, **plain | {"steps": steps})
    again = sample(ddim, best_x0, found, **plain | {"steps": steps})
    back[steps] = float((again - dots).norm(dim=1).median())
print("distance after the round trip: " + ", ".join(f"{miss:.3f} in {steps} steps" for steps, miss in back.items()))

# %% [markdown]
# The error falls with the number of steps, as Euler's should. **Check** against `diffusers`, which asks the guesser for the
# step it goes *to* (`ahead=True`).

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
# Now held-out pictures and our network.
#
# There is a catch. At $t\approx0$ the noise is the tiny difference between $x_t$ and $\hat x_0$, divided by a tiny number. A network that
# guesses pictures errs by more than that, and the quotient is nonsense. So we also try to add a *little* real noise first, to $t=40$, and start from there.

# %% slideshow={"slide_type": "subslide"}
held_out = to_tensor(load_emoji(SIZE, FIRST_STYLES, ("smileys-emotion",), "test").on_white())[10:16]
START = 40
nudged = add_noise(held_out, gaussian(6, seed=1), torch.full((6,), START), SCHEDULE)
trips = {"held-out picture": held_out}
for name, x, how in (("from clean", held_out, {}), (f"from t = {START}", nudged, {"start": START, "ahead": False})):
    for steps in (10, 50):
        found = sample(invert, trained, x, SCHEDULE, steps=steps, prediction=KIND, **how)
        trips[f"{name}, {steps}"] = sample(ddim, trained, found, SCHEDULE, steps=steps, prediction=KIND, spacing="trailing")
        error = (trips[f"{name}, {steps}"] - held_out).square().mean().sqrt()
        print(f"{name:12s} {steps:3d} steps: found noise has spread {found.std():.2f}, the picture comes back to {error:.2f} a pixel")

# %% slideshow={"slide_type": "-"}
plotting.show_rows(trips, title="Picture to noise and back, in 10 and in 50 steps", scale=0.65)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** From a clean start the found "noise" is far too strong (its spread should be 1), and ten steps bring garish colours
# back. From $t=40$ it is nearly noise. More steps help both. The price of the nudge: what lies below it is drawn anew, in the network's own manner;
# compare the brown heart. **Limit**: a network near the ideal guesser could not be inverted at all, since it sends many noises to one picture.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 6 min.* The spread is the thing to read: a found noise of spread far from 1 is no noise the network knows. Link to notebook 02:
# the ideal guesser sends many noises to one picture, so there is nothing to invert.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Experiment: choose the sampler
#
# Find the fewest steps at which you would show a picture to somebody. Then switch the spacing, and look for the first row that changes.
# On GitHub and in slides the figure stands still at its starting values.

# %% slideshow={"slide_type": "skip"}
def walk_figure(sampler, steps, spacing, seed):
    x = pictures(sampler, 6, seed, steps, spacing=spacing)
    name = next(name for name, (walk, _) in WALKS.items() if walk is sampler)
    return plotting.show_pictures(x, columns=6, title=f"{name}, {steps} steps, {spacing}", scale=0.9)

explore(walk_figure, sampler={name: walk for name, (walk, _) in reversed(WALKS.items())}, steps=[10, 2, 3, 5, 20, 50],
        spacing=["trailing", "leading", "linspace"], seed=(0, 30))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks: the network is told another step
#
# A real bug, met in many home-made pipelines: the loop takes its coefficients from one table and tells the network the steps of another. Here
# the sampler is *trailing*, the network is told *leading*. No line fails.

# %% slideshow={"slide_type": "-"}
def misled(stride):                                                       # leading is trailing, stride - 1 earlier
    return lambda xt, t: trained(xt, (t - (stride - 1)).clamp(min=0))

xT_six, good, broken = gaussian(6, seed=3), {}, {}
for steps in (10, 50):
    options = {"schedule": SCHEDULE, "steps": steps, "prediction": KIND, "spacing": "trailing"}
    good[f"right, {steps} steps"] = sample(ddim, trained, xT_six, **options)
    broken[f"misled, {steps} steps"] = sample(ddim, misled(1000 // steps), xT_six, **options)
plotting.show_rows(good | broken, title="One table for the sampler, another for the network", scale=0.65)
plt.show()

# %% slideshow={"slide_type": "-"}
@torch.no_grad()
def first_guess_error(model, t=999):                                      # of the picture, from a training picture in full noise
    x0, ts = noise_predictor.load_pictures()[:64], torch.full((64,), t)
    return float((model(add_noise(x0, gaussian(64, seed=8), ts, SCHEDULE), ts) - x0).square().mean())

x0 = noise_predictor.load_pictures()
print(f"error of the mean picture: {(x0[:64] - x0.mean(0)).square().mean():.2f}; of the first guess: " + ", ".join(
    f"{name} {first_guess_error(model):.2f}" for name, model in (
        ("right", trained), ("misled, 50 steps", misled(20)), ("misled, 10 steps", misled(100)))))

# %% [markdown] slideshow={"slide_type": "-"}
# **Cause.** Told an earlier step, the network takes part of the noise for a picture: it *sees* colours and shapes that
# nobody put there, and sampling makes them real. With 50 steps the two tables differ by 19, and half the row survives;
# that is how such a bug lives for years. **The habit that finds it:** from pure noise nobody can guess better
# than the mean picture, and a sound network does about as well. Print that one error.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 3 min.* Show the figure without its title. Someone will say "train longer". Then show that the network is untouched.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# Each has a stub, a check that draws fresh random cases, three hints such as this one, and a folded solution.

# %%
# NBVAL_CHECK_OUTPUT
hint("03-spacing", 1)

# %% [markdown]
# ### Exercise 03.1 (warm-up) · Trailing steps
#
# Write `trailing`: for `steps` visits among `num_train_steps` it returns the table, a `long` tensor of shape (steps,), **from noise down**. The
# entries are $\operatorname{round}(T-i\,T/S)-1$ for $i=0,\dots,S-1$: the first is $T-1$.
#
# Stuck? `hint("03-spacing", 1)`, then 2, then 3.

# %%
def trailing(steps, num_train_steps):                 # two whole numbers
    raise NotImplementedError                         # -> (steps,) long

# %%
check("03-spacing", trailing)

# %% [markdown]
# *Solution of 03.1, folded. Open it after your own attempt.*

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def trailing(steps, num_train_steps):
    i = torch.arange(steps, dtype=torch.float64)
    return (num_train_steps - i * num_train_steps / steps).round().long() - 1

check("03-spacing", trailing)

# %% [markdown]
# ### Exercise 03.2 (code) · Two witnesses
#
# Write `step_posterior`: mean and variance of $x_s$ given `x0` and `xt` (B, C, H, W), for a jump from `alpha_bar_t` to `alpha_bar_s` (numbers,
# tensors of shape ()). Return the pair `(mean, variance)`. The formula is that of section 1, with $\alpha=\bar\alpha_t/\bar\alpha_s$.
#
# Stuck? `hint("03-posterior", 1)`.

# %%
def step_posterior(x0, xt, alpha_bar_t, alpha_bar_s):  # (B, C, H, W), (B, C, H, W), (), ()
    raise NotImplementedError                          # -> mean (B, C, H, W), variance ()

# %%
check("03-posterior", step_posterior)

# %% [markdown]
# *Solution of 03.2, folded.*

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def step_posterior(x0, xt, alpha_bar_t, alpha_bar_s):
    alpha = alpha_bar_t / alpha_bar_s
    from_x0 = alpha_bar_s.sqrt() * (1 - alpha) * x0
    from_xt = alpha.sqrt() * (1 - alpha_bar_s) * xt
    return (from_x0 + from_xt) / (1 - alpha_bar_t), (1 - alpha_bar_s) * (1 - alpha) / (1 - alpha_bar_t)

check("03-posterior", step_posterior)

# %% [markdown]
# ### Exercise 03.3 (code) · Mix again
#
# Write `ddim_step`: from `xt`, the predicted noise `eps_pred` and the two levels it returns $x_s$ at `eta`. Fresh noise `z` is handed in.
# Nothing is clipped.
#
# Stuck? `hint("03-ddim", 1)`.

# %%
def ddim_step(xt, eps_pred, alpha_bar_t, alpha_bar_s, eta, z):  # z: like xt
    raise NotImplementedError                                   # -> xs (B, C, H, W)

# %%
check("03-ddim", ddim_step)

# %% [markdown]
# *Solution of 03.3, folded.*

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def ddim_step(xt, eps_pred, alpha_bar_t, alpha_bar_s, eta, z):
    x0 = (xt - (1 - alpha_bar_t).sqrt() * eps_pred) / alpha_bar_t.sqrt()
    sigma = eta * ((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)).sqrt()
    return alpha_bar_s.sqrt() * x0 + (1 - alpha_bar_s - sigma**2).sqrt() * eps_pred + sigma * z

check("03-ddim", ddim_step)

# %% [markdown]
# ### Exercise 03.4 (code) · Look ahead
#
# Write `look_ahead`, the $D$ of section 4: from the guess `x0`, the guess `x0_before` of the step before, and three values of $\lambda$: of the step
# before, of this step, and of the step we go to.
#
# Stuck? `hint("03-multistep", 1)`.

# %%
def look_ahead(x0, x0_before, lambda_before, lambda_now, lambda_next):   # (B, C, H, W) twice, then ()
    raise NotImplementedError                                            # -> D (B, C, H, W)

# %%
check("03-multistep", look_ahead)

# %% [markdown]
# *Solution of 03.4, folded.*

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def look_ahead(x0, x0_before, lambda_before, lambda_now, lambda_next):
    h, h_before = lambda_next - lambda_now, lambda_now - lambda_before
    return x0 + h / (2 * h_before) * (x0 - x0_before)

check("03-multistep", look_ahead)

# %% [markdown]
# ### Exercise 03.5 (code) · On the shell
#
# Write `arc`: the slerp of two batches `a` and `b` (B, D) at one number `u`. Every row has its own angle. You may trust that no two rows are
# parallel.
#
# Stuck? `hint("03-slerp", 1)`.

# %%
def arc(a, b, u):                                     # (B, D), (B, D), a number from 0 to 1
    raise NotImplementedError                         # -> (B, D)

# %%
check("03-slerp", arc)

# %% [markdown]
# *Solution of 03.5, folded.*

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def arc(a, b, u):
    cosine = (a * b).sum(1, keepdim=True) / (a.norm(dim=1, keepdim=True) * b.norm(dim=1, keepdim=True))
    angle = torch.acos(cosine)                                            # (B, 1)
    return (torch.sin((1 - u) * angle) * a + torch.sin(u * angle) * b) / torch.sin(angle)

check("03-slerp", arc)

# %% [markdown]
# ### Think, and try
#
# **Explain.** A friend draws with DDIM in five steps, dislikes the result, and asks for a larger network. What do you look at first, and which of our
# numbers speak for it?
#
# <details><summary>One answer</summary>
#
# The spacing: *leading* is the default in many places, and cost us more than any change of sampler. Then ten steps in place of five.
#
# </details>
#
# **Open.** *Restart* a finished drawing: noise it to $t=300$ and sample from there, twice, three times. Does the Fréchet distance fall? You now spend calls on
# repair and not on finer steps; at which total do you break even?

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# Picture and noise in the guess, mixed again in earlier proportions: every sampler here is a way to do that.
#
# | symbol | code | meaning |
# |---|---|---|
# | $\mu,\ \sigma^2$ | `ddpm(...)` | where we were, given where we are and the guess |
# | $\eta$ | `ddim(..., eta=)` | share of fresh noise: 0 none, 1 DDPM |
# | $d\bar x/d\tilde\sigma=\hat\varepsilon$ | `ddim(..., eta=0)` | the curve; DDIM is Euler on it |
# | $\lambda,\ D$ | `dpmpp_2m(...)` | half the log-SNR, the clock; the picture half a step ahead |
# | $\{t_i\}$ | `timesteps(steps, T, spacing)` | visits: leading, trailing, linspace |
# | $w(t)$ | `min_snr_weight(t, schedule, prediction)` | how much a step counts in training |
# | $d^2$ | `frechet_distance(a, b)` | how far two sets of pictures are apart, a proxy |
# | slerp | `slerp(a, b, share)` | the way between two noises |
# | $x_0\to x_T$ | `invert(model, x0, schedule, ...)` | DDIM backwards |
#
# **What we did not show.** Third-order and adaptive solvers; stochastic ones (Karras et al. 2022, algorithm 2); distillation to one or four steps;
# learned variances. And the figure belongs to one small network and 32-pixel faces: on yours, measure again.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The failure that leads to notebook 04
#
# We can draw fast. Let us order something: a robot, a heart, a ghost.

# %% slideshow={"slide_type": "-"}
prompts = ["a robot", "a heart", "a ghost", "a crying cat", "a red face", "a kiss"]
x = pictures(dpmpp_2m, 6, 30, 15)
plotting.show_pictures(x, titles=[f"asked: {prompt}" for prompt in prompts], columns=6, title="It draws whatever it likes", scale=0.9)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# The prompts stand under the pictures and nowhere else: no line of code carried them to the network. The noise alone decided. **Notebook 04**
# lets a sentence steer every step.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## References
#
# - J. Ho et al., *Denoising diffusion probabilistic models*, 2020, [2006.11239](https://arxiv.org/abs/2006.11239): the posterior (eq. 6, 7), algorithm 2
# - J. Song et al., *Denoising diffusion implicit models*, 2020, [2010.02502](https://arxiv.org/abs/2010.02502): the step (eq. 12), η (eq. 16), the ODE (eq. 13, 14),
#   inversion (section 4.3), steps against η (Table 1)
# - Y. Song et al., *Score-based generative modeling through SDEs*, 2021, [2011.13456](https://arxiv.org/abs/2011.13456): probability flow (eq. 13)
# - C. Lu et al., *DPM-Solver++*, 2022, [2211.01095](https://arxiv.org/abs/2211.01095): the exact solution in $x_0$ (eq. 8), 2M (algorithm 2)
# - T. Karras et al., *Elucidating the design space of diffusion-based generative models*, 2022, [2206.00364](https://arxiv.org/abs/2206.00364): Heun (algorithm 1)
# - S. Lin et al., *Common diffusion noise schedules and sample steps are flawed*, 2023, [2305.08891](https://arxiv.org/abs/2305.08891): spacings (Table 2)
# - M. Heusel et al., *GANs trained by a two time-scale update rule*, 2017, [1706.08500](https://arxiv.org/abs/1706.08500): Fréchet distance (eq. 6)
# - M. Bińkowski et al., *Demystifying MMD GANs*, 2018, [1801.01401](https://arxiv.org/abs/1801.01401): kernel distance, and the bias of the Fréchet distance
# - T. Hang et al., *Efficient diffusion training via min-SNR weighting strategy*, 2023, [2303.09556](https://arxiv.org/abs/2303.09556): the weight
# - Y. Lipman et al., *Flow matching for generative modeling*, 2022, [2210.02747](https://arxiv.org/abs/2210.02747): the straight line (eq. 20 to 23)
# - K. Shoemake, *Animating rotation with quaternion curves*, SIGGRAPH 1985: slerp

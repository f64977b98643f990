# %% [markdown] slideshow={"slide_type": "slide"}
# # 01 · Forward noising: how do you destroy a picture a little at a time, and why would you?
#
# | | |
# |---|---|
# | **Time** | a 45-minute lecture; two hours with the exercises; the code runs in about a minute |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebook 00; tensors; what a mean, a variance and a standard deviation are |
# | **Where we are** | text encoder → **[generator]** → decoder |

# %% [markdown]
# ← [00 · Start here](00_start_here.ipynb) · [02 · Noise predictor](02_noise_predictor.ipynb) →

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

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## The result first
#
# Three pictures are destroyed in a thousand small steps. Every column is the clean picture and Gaussian noise, mixed
# in a known proportion.

# %% alt="Parrot, butterfly and burger in rows at t = 0, 100, 250, 400 and 999: grain covers them more and more; the last column is noise alone." slideshow={"slide_type": "-"}
import torch
from course_utils.data import load_emoji, to_tensor
from course_utils.generator.schedules import add_noise, make_schedule

chosen = load_emoji(64, "noto").select(lambda m: m["concept"] in ("butterfly", "hamburger", "parrot"))
three = to_tensor(chosen.on_white())                                     # (3, 3, 64, 64) in [-1, 1]
noise = torch.randn(three.shape, generator=torch.Generator().manual_seed(0))
steps = [0, 100, 250, 400, 999]
columns = [add_noise(three, noise, torch.full((3,), t), make_schedule("linear")) for t in steps]
rows = {name: [column[i] for column in columns] for i, name in enumerate(("parrot", "butterfly", "burger"))}
plotting.show_rows(rows, [f"t = {t}" for t in steps], "A thousand steps to noise")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **Why would anyone do this?** Read the figure from right to left. Noise as in the last column a computer makes from
# nothing. A network that could step one column to the left, again and again, would go from there to a picture. That is
# *sampling*. To learn the step, it needs examples. Destruction makes them, each with its answer known.
#
# **What we will build**: one small step; the formula that jumps to any step; schedules that decide how fast; the
# training examples of notebook 02. Our code is `course_utils/generator/schedules.py`, which the figure above imports.

# %% [markdown] slideshow={"slide_type": "skip"}
# ### Setup

# %% slideshow={"slide_type": "skip"}
import math
from dataclasses import dataclass

import numpy as np
from course_utils.checks.core import check, hint  # hint("01-closed-form", 1) in the exercises
from course_utils.datasets.compose import Composer
from course_utils.errors import DataError, integer, one_of
from course_utils.evaluation.intervals import Mean, Share
from course_utils.figures.plotting import AXIS, DATA, INK, MODEL, NOISE
from course_utils.figures.widgets import explore

emoji = load_emoji(size=64)  # every training picture in seven flat styles: measurements need many


# %% [markdown] slideshow={"slide_type": "skip"}
# **Notation reminder** (the full table is in notebook 00)
#
# | symbol | code | meaning |
# |---|---|---|
# | $x_0,\ x_t$ | `x0`, `xt` | clean picture, picture after step $t$ |
# | $t,\ T$ | `t`, `num_steps` | step, $0\dots T-1$; number of steps, 1000 here |
# | $\varepsilon$ | `eps` | Gaussian noise of mean 0 and variance 1, one number per pixel and colour |
# | $\beta_t,\ \alpha_t,\ \bar\alpha_t$ | `beta`, `alpha`, `alpha_bar` | variance of the noise added at step $t$; $1-\beta_t$; its product so far |
#
# **One way to count:** entry `t` of a table holds what is left *after* step `t`. So entry 0 already has a little noise
# (0.9999 of the power is left, not 1); the clean picture stands before it. Papers count from 1 to $T$: their
# $\bar\alpha_t$ is our entry `t - 1`.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: add noise, again and again
#
# We first use points, with two numbers each: a cloud in the shape of a face, off centre on purpose. The first idea is
# to add a little noise, a thousand times.

# %% slideshow={"slide_type": "-"}
def face(n, generator):                                                   # -> (n, 2), mean 0, standard deviation 1
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    ring = torch.stack([angle.cos(), angle.sin()], dim=1)
    mouth = 0.55 * torch.stack([angle.cos(), -angle.sin().abs()], dim=1)
    eyes = torch.tensor([0.38, 0.35]) * torch.stack([angle.cos().sign(), torch.ones(n)], dim=1)
    part = torch.rand(n, 1, generator=generator)
    xy = torch.where(part < 0.55, ring, torch.where(part < 0.8, mouth, eyes))
    xy = xy + 0.04 * torch.randn(n, 2, generator=generator)
    return (xy - xy.mean(0)) / xy.std(0)


# %% alt="Three clouds of dots after 0, 100 and 1000 steps: a face off centre, a blot in its place, and a blot too wide for the frame." slideshow={"slide_type": "fragment"}
generator = torch.Generator().manual_seed(1)
start = face(1000, generator) + 3                                         # (1000, 2), centre (3, 3)
x, frames = start, {0: start}
for step in range(1, 1001):
    x = x + 0.1 * torch.randn(x.shape, generator=generator)               # "add a little noise"
    if step in (100, 1000):
        frames[step] = x
plotting.plot_points(frames.values(), [f"after {s} steps" for s in frames], "Adding noise: the cloud never settles",
                     limit=10)
plt.show()
print("\n".join(f"after {s:4d} steps: centre {x.mean():.1f}, std {x.std(0).mean():.1f}" for s, x in frames.items()))


# %% [markdown] slideshow={"slide_type": "-"}
# The face is gone, but three things are wrong.
#
# 1. **The standard deviation (std) keeps growing.** A network would meet numbers of any size.
# 2. **The centre stays near 3.** The cloud still tells where it came from.
# 3. **It is slow.** To see step 1000 we must take 1000 steps, for every example.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 · One step: shrink a little, add a little
#
# **Intuition.** A glass of juice. Take out a spoonful, fill up with water. After many spoonfuls it is full of water,
# whatever juice it held.
#
# **Notation.** Step $t$ takes away a small share $\beta_t$ of the variance and keeps $\alpha_t=1-\beta_t$.
#
# **Formula** (DDPM, eq. 2):
#
# $$x_t=\sqrt{1-\beta_t}\;x_{t-1}+\sqrt{\beta_t}\;\varepsilon_t,\qquad \varepsilon_t\sim\mathcal N(0,I)$$
#
# $x_{t-1}$ is the picture before the step and $x_t$ after it; $\varepsilon_t$ is fresh noise. **Why roots?** A number
# multiplied by $c$ has $c^2$ times the variance, and the variances of independent numbers add:
#
# $$\operatorname{Var}(x_t)=(1-\beta_t)\operatorname{Var}(x_{t-1})+\beta_t$$
#
# If the variance before is 1, it is 1 after. If it is not, it moves towards 1. Without the roots it would be
# $(1-\beta_t)^2+\beta_t^2<1$, and shrink at every step.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Pixels in $[-1,1]$.** Pixels in a file are whole numbers from 0 to 255. We bring them to the scale of the noise. This
# cell is part of the library: `# @save` names the file it lives in.

# %% slideshow={"slide_type": "-"}
# @save course_utils/data.py
def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    import torch

    if pictures.dtype != np.uint8 or pictures.ndim != 4:
        raise DataError(f"to_tensor wants uint8 pictures (N, H, W, C); these are {pictures.dtype} {pictures.shape}.")
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def to_uint8(x: torch.Tensor) -> np.ndarray:
    if x.ndim != 4:
        raise DataError(f"to_uint8 wants a batch (N, C, H, W); this has shape {tuple(x.shape)}.")
    pixels = ((x.detach().float() + 1) * 127.5).round().clamp(0, 255)
    return pixels.byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
every_third = emoji.select(np.arange(0, len(emoji), 3)).on_white()
x0 = to_tensor(every_third)
power = Mean.of((x0 - x0.mean()).square().mean((1, 2, 3)))               # one value a picture
print("shape", tuple(x0.shape), "| from", x0.min().item(), "to", x0.max().item())
print("there and back without loss:", np.array_equal(to_uint8(x0), every_third))
print(f"mean {x0.mean():.2f}; variance {power.text(2)}")


# %% [markdown] slideshow={"slide_type": "subslide"}
# The mean is above 0 because the backgrounds are white. It is common to all, so it does not tell which picture we have.
# What varies is the **power** of the pictures, their variance: about 0.34, a third of the noise's. Square brackets hold,
# here and everywhere, a 95 % interval.
#
# **Predict.** DDPM lets $\beta$ grow in a straight line from 0.0001 to 0.02. Our face starts at centre 3, std 1.
# Where are they after 1000 such steps?
#
# <details><summary>Answer</summary>
#
# A thousand factors $\sqrt{1-\beta_t}$, each a little less than 1, leave 0.0064 of the centre (section 5): it is at 0 to
# the eye. The std stays at 1.
#
# </details>

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/schedules.py
def linear_beta(num_steps=1000, start=1e-4, end=0.02):
    scale = 1000 / num_steps                                             # fewer steps, larger beta
    return torch.linspace(scale * start, scale * end, num_steps, dtype=torch.float64)


# %% slideshow={"slide_type": "-"}
def one_step(x, beta_t, generator):                                      # (B, ...) -> (B, ...)
    eps = torch.randn(x.shape, generator=generator)
    return math.sqrt(1 - beta_t) * x + math.sqrt(beta_t) * eps

x, cloud = start, {0: start}
for t, beta_t in enumerate(linear_beta().tolist()):
    x = one_step(x, beta_t, generator)
    cloud[t + 1] = x

# %% [markdown] slideshow={"slide_type": "-"}
# **Check.** The chain should end at centre 0 and std 1, and a chain from another start should end there too.

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
other = -5 + 0.1 * torch.randn(1000, 2, generator=generator)             # a small cloud on the other side
for beta_t in linear_beta().tolist():
    other = one_step(other, beta_t, generator)
for name, end in {"face": cloud[1000], "other": other}.items():
    print(f"{name}: centre 0 to 0.1 {abs(end.mean()) < 0.1}, std 1 to 0.1 {abs(end.std() - 1) < 0.1}")

# %% alt="Four clouds of dots after 0, 100, 300 and 1000 steps: the face blurs and moves to the middle, where it has the width of the start." slideshow={"slide_type": "subslide"}
shown = [0, 100, 300, 1000]
plotting.plot_points([cloud[s] for s in shown], [f"after {s} steps" for s in shown],
                     "Shrink and add: the cloud ends at 0, with std 1", limit=6)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Both clouds end at centre 0 with std 1, to a tenth: the end does not tell the start. **One limit:**
# reaching step 1000 still costs 1000 steps.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 · The closed form: any step at once
#
# **Intuition.** After many spoonfuls, only one thing counts: how much juice is left. The rest is water.
#
# **Notation.** $\bar\alpha_t$ ("alpha bar") is the share of the picture's *power* left after step $t$. Power is variance,
# so the picture itself is multiplied by the root (section 1).
#
# **Formula** (DDPM, eq. 4):
#
# $$\bar\alpha_t=\prod_{i=0}^{t}(1-\beta_i),\qquad x_t=\sqrt{\bar\alpha_t}\;x_0+\sqrt{1-\bar\alpha_t}\;\varepsilon$$
#
# $\varepsilon$ is *one* Gaussian noise that stands for all so far. Why may it? Take two steps and collect terms:
#
# $$x_1=\sqrt{\alpha_0\alpha_1}\,x_0+
# \underbrace{\sqrt{\alpha_1(1-\alpha_0)}\,\varepsilon_0+
# \sqrt{1-\alpha_1}\,\varepsilon_1}_{\text{independent Gaussians, added}}$$
#
# Such a sum is again Gaussian, and variances add: $\alpha_1(1-\alpha_0)+1-\alpha_1=1-\alpha_0\alpha_1$. That is
# $1-\bar\alpha_1$. Every further step repeats the argument.

# %% [markdown] slideshow={"slide_type": "subslide"}
# We keep both tables in one small class. `at` picks the two roots for a batch: every picture has its own step.

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/schedules.py
@dataclass(frozen=True)
class Schedule:
    beta: torch.Tensor                                                   # both: (T,) float64
    alpha_bar: torch.Tensor

    @classmethod
    def from_beta(cls, beta):
        return cls(beta, torch.cumprod(1 - beta, dim=0))

    @property
    def num_steps(self) -> int:
        return len(self.beta)

    @property
    def snr(self):                                                       # section 4
        return self.alpha_bar / (1 - self.alpha_bar)

    @property
    def log_snr(self):
        return torch.log(self.snr)

    def at(self, t, like):                                               # t: (B,), like: (B, ...) -> two (B, 1, ...)
        alpha_bar = self.alpha_bar.to(t.device)[t] if t.device.type != "mps" else self.alpha_bar[t.cpu()]
        shape = (-1,) + (1,) * (like.ndim - 1)
        signal, noise = alpha_bar.sqrt().reshape(shape), (1 - alpha_bar).sqrt().reshape(shape)
        return signal.to(like), noise.to(like)


# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/schedules.py
def add_noise(x0, eps, t, schedule):
    signal, noise = schedule.at(t, x0)                                   # (B, 1, 1, 1) each
    return signal * x0 + noise * eps                                     # (B, C, H, W)


# %% [markdown] slideshow={"slide_type": "subslide"}
# **Check 1: coefficients.** We follow the picture's factor and the noise's variance through the loop.

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
linear = Schedule.from_beta(linear_beta())
signal, variance, worst = 1.0, 0.0, 0.0
for t, beta_t in enumerate(linear.beta.tolist()):
    signal, variance = signal * math.sqrt(1 - beta_t), (1 - beta_t) * variance + beta_t
    alpha_bar = linear.alpha_bar[t].item()
    worst = max(worst, abs(signal - math.sqrt(alpha_bar)), abs(variance - (1 - alpha_bar)))
print("loop and formula agree at all 1000 steps to 1e-12:", worst < 1e-12)
print("three pictures, three steps at once:", tuple(add_noise(three, noise, torch.tensor([0, 500, 999]), linear).shape))


# %% [markdown] slideshow={"slide_type": "-"}
# **Check 2: samples, and why the noise is Gaussian.** One pixel of value 0.8 runs through the loop 20,000 times. Then
# once more with a coin for the noise: $-1$ or $+1$, also of mean 0 and variance 1.
#
# **Predict.** Will the coin fit the formula's bell?
#
# <details><summary>Answer</summary>
#
# Not after few steps: three tosses have eight outcomes. After many it does: a sum of many small independent parts is
# nearly Gaussian, whatever the parts (central limit theorem).
#
# </details>

# %% slideshow={"slide_type": "-"}
def coin(shape, generator):
    return torch.randint(2, shape, generator=generator) * 2.0 - 1

def walk(draw):                                                          # -> {t: 20,000 values of the pixel}
    g, pixel, kept = torch.Generator().manual_seed(2), torch.full((20_000,), 0.8), {}
    for t, beta_t in enumerate(linear.beta[:501].tolist()):
        pixel = math.sqrt(1 - beta_t) * pixel + math.sqrt(beta_t) * draw(pixel.shape, generator=g)
        kept[t] = pixel
    return kept

walks = {"Gaussian": walk(torch.randn), "coin": walk(coin)}

# %% alt="Histograms of a pixel with the formula's bell after 3, 51 and 501 steps: Gaussian noise fits each time, the coin's spikes after 3 steps do not." slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(2, 3, figsize=(8, 4.4))
for row, (name, kept) in zip(axes, walks.items()):
    for ax, t in zip(row, (2, 50, 500)):
        mean, std = 0.8 * linear.alpha_bar[t].sqrt().item(), (1 - linear.alpha_bar[t]).sqrt().item()
        gap = (torch.arange(20_000) / 20_000 - torch.special.ndtr((kept[t].sort()[0] - mean) / std)).abs().max()
        v = torch.linspace(mean - 3.5 * std, mean + 3.5 * std, 200)
        ax.hist(kept[t].numpy(), bins=60, range=(v[0].item(), v[-1].item()), density=True, alpha=0.5, color=NOISE)
        ax.plot(v, torch.exp(-((v - mean) / std) ** 2 / 2) / (std * math.sqrt(2 * math.pi)), color=INK, lw=1.6)
        ax.set_title(f"{name}, {t + 1} steps: gap {gap:.3f}", fontsize=10.5, fontweight="normal")
        ax.set_yticks([])
fig.supxlabel("value of the pixel", fontsize=12)
fig.suptitle("Loop (bars) against formula (lines)", x=0.01, ha="left", fontweight="bold", fontsize=13)
plt.show()
print(f"gap: largest difference of the cumulative shares; luck keeps it below {1.63 / math.sqrt(20_000):.3f} in 99 of 100 runs")


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Luck alone reaches 0.012. With Gaussian noise the gap is at most 0.010 at all three steps; with the coin
# it is 0.186 after 3 steps and 0.010 after 501. So a Gaussian is what any such noise ends in, and the one that fits at
# *every* step. (A third reason follows in section 3.) One line replaces the loop.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Is it the same $\varepsilon$ at $t=100$ and at $t=200$?
#
# The closed form has an $\varepsilon$ at every step.
#
# **Predict.** In one walk of the loop, are these the same: correlation 1, 0, or between?
#
# <details><summary>Answer</summary>
#
# Between. The noise at 200 is that of 100, shrunk, and a hundred fresh ones. The old one has
# $\frac{\bar\alpha_{200}}{\bar\alpha_{100}}(1-\bar\alpha_{100})$ of the variance $1-\bar\alpha_{200}$. The root of the quotient
# is the correlation: $\sqrt{\mathrm{SNR}(200)/\mathrm{SNR}(100)}$ with $\mathrm{SNR}=\bar\alpha/(1-\bar\alpha)$.
#
# </details>

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
def noise_of(t):                                                         # solve the closed form for eps
    pixel, alpha_bar = walks["Gaussian"][t], linear.alpha_bar[t].item()
    return (pixel - math.sqrt(alpha_bar) * 0.8) / math.sqrt(1 - alpha_bar)

r = torch.corrcoef(torch.stack([noise_of(100), noise_of(200)]))[0, 1].item()
print(f"correlation {r:.2f} ± {1.96 * (1 - r * r) / math.sqrt(20_000):.2f}, formula",
      f"{(linear.snr[200] / linear.snr[100]).sqrt():.2f}")

# %% [markdown] slideshow={"slide_type": "-"}
# **So no:** the closed form gives the right distribution of $x_t$ at each step, not a walk. Training needs no more: it
# takes one step of a picture, with noise of its own.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 · Why small steps, if we can jump?
#
# **Intuition.** Forwards we hold the clean picture, so a jump is one Gaussian. Backwards we hold only $x_t$: many
# pictures could be under this noise, and after a *large* step they are far apart.
#
# **Formula** (Bayes' rule), for the density of the true way back:
#
# $$q(x_{t-1}\mid x_t)\;\propto\;q(x_{t-1})\;q(x_t\mid x_{t-1})$$
#
# $q(x_{t-1})$ is the density before the step, $q(x_t\mid x_{t-1})$ the step, a Gaussian. If $\beta$ is small, the step is
# so narrow that the logarithm of the first factor is almost straight across it; then the product is a Gaussian again,
# only moved (Sohl-Dickstein 2015): the third reason for Gaussian noise. A network has to say *one* thing: where its mean
# lies. If $\beta$ is large, the peaks of the data come through.
#
# We compute it for data of one number, near $-1$ or near $+1$.

# %% slideshow={"slide_type": "-"}
grid, cell = np.linspace(-5, 5, 1001), 0.01                              # all values a number may have

def normal(x, mean, std):
    return np.exp(-((x - mean) / std) ** 2 / 2) / (std * math.sqrt(2 * math.pi))

def density(alpha_bar):                                                  # q(x) when alpha_bar is left: two peaks
    std, shift = math.sqrt(alpha_bar * 0.3**2 + 1 - alpha_bar), math.sqrt(alpha_bar)
    return (normal(grid, -shift, std) + normal(grid, shift, std)) / 2

def reverse(xt, beta, alpha_bar=1.0):                                    # (N,) -> (N, 1001): q(x before | xt)
    q = density(alpha_bar) * normal(xt[:, None], math.sqrt(1 - beta) * grid, math.sqrt(beta))
    return q / (q.sum(1, keepdims=True) * cell)

def mean_std(q):                                                         # (N, 1001) -> (N,), (N,)
    mean = q @ grid * cell
    return mean, np.sqrt(q @ grid**2 * cell - mean**2)


# %% alt="Two panels: for beta 0.02 the way back is one narrow bell, the same as the Gaussian; for 0.9 it has two peaks, and the Gaussian lies wide between them." slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.3))
for ax, beta in zip(axes, (0.02, 0.9)):
    q = reverse(np.array([0.3]), beta)
    (mean,), (std,) = mean_std(q)
    ax.fill_between(grid, density(1.0), color=DATA, alpha=0.25, lw=0, label=r"data: $q(x_{t-1})$")
    ax.plot(grid, q[0], color=INK, label=r"way back: $q(x_{t-1}\mid x_t=0.3)$")
    ax.plot(grid, normal(grid, mean, std), "--", color=MODEL, label="Gaussian, same mean and std")
    ax.set(title=rf"$\beta$ = {beta}", xlabel=r"$x_{t-1}$", xlim=(-2.2, 2.2), yticks=[])
axes[0].set_ylabel("density")
fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=10)
plt.show()

for beta in (0.02, 0.1, 0.3, 0.9):
    xt = np.sqrt(1 - beta) * np.random.default_rng(0).choice(grid, 500, p=density(1.0) * cell) \
        + np.sqrt(beta) * np.random.default_rng(1).standard_normal(500)  # 500 noisy numbers
    q = reverse(xt, beta)
    mean, std = mean_std(q)
    away = np.abs(q - normal(grid, mean[:, None], std[:, None])).sum(1) * cell / 2
    print(f"beta {beta:4.2f}: {Mean.of(100 * away).text(1)} % of the way back lies elsewhere than in the Gaussian")


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** At $\beta=0.02$ the true way back is a Gaussian to a thousandth, 0.1 % [0.0, 0.1]; at 0.9 it has two
# peaks, and 44.7 % [44.6, 44.7] of it lies elsewhere than in the Gaussian, which fills the empty gap.
#
# Now all the way: from noise, with the exact mean and std at each step. A network that names a Gaussian can do no better.
#
# **Predict.** What comes out in a single step? And how many does it take until the two peaks are right?
#
# <details><summary>Answer</summary>
#
# A single step gives one bump. Here 8 steps are too few, and 64 nearly right: see the printed shares.
#
# </details>

# %% slideshow={"slide_type": "-"}
def walk_back(num_steps, x):                                             # (N,) of noise -> (N,) of data
    left = [1.0, *linear.alpha_bar[[1000 * i // num_steps - 1 for i in range(1, num_steps + 1)]].tolist()]
    xs, g = np.linspace(-5, 5, 201), np.random.default_rng(0)
    for before, after in zip(left[-2::-1], left[:0:-1]):                 # alpha_bar at both ends of a step
        mean, std = mean_std(reverse(xs, 1 - after / before, before))
        x = np.interp(x, xs, mean) + np.interp(x, xs, std) * g.standard_normal(len(x))
    return x


# %% alt="Four histograms after 1, 8, 64 and 512 steps back: one broad bump, two peaks with a filled gap, and twice the data's two peaks." slideshow={"slide_type": "subslide"}
between = np.abs(grid) < 0.4                                             # where there is hardly any data
print(f"share between the peaks, data: {100 * density(1.0)[between].sum() * cell:.1f} %")
fig, axes = plt.subplots(1, 4, figsize=(8, 2.9), sharey=True)
for ax, num_steps in zip(axes, (1, 8, 64, 512)):
    x = walk_back(num_steps, np.random.default_rng(3).standard_normal(20_000))
    print(f"{num_steps:3d} step{'s' * (num_steps > 1)}: {Share.of(np.abs(x) < 0.4).text(1)}")
    ax.hist(x, bins=60, range=(-2.5, 2.5), density=True, color=MODEL, alpha=0.55)
    ax.plot(grid, density(1.0), color=DATA)
    ax.set(xlim=(-2.5, 2.5), yticks=[])
    ax.set_title(f"{num_steps} step{'s' * (num_steps > 1)}", fontsize=12)
axes[0].set_ylabel("density")
fig.supxlabel("value of the number", fontsize=12)
fig.suptitle("Noise walked back (green) against the data (blue)", x=0.01, ha="left", fontweight="bold", fontsize=13)
plt.show()
print(f"the betas add up to {linear.beta.sum():.2f}; exp(-sum) = {math.exp(-linear.beta.sum()):.1e}, "
      f"alpha_bar at the end = {linear.alpha_bar[-1]:.1e}")


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** In one step 29 % end between the peaks, in 64 steps 2.6 % [2.4, 2.8], near the data's 2.3 %. So
# training jumps, and sampling goes in small steps.
#
# **Why 1000?** Since $\bar\alpha\approx e^{-\sum\beta}$, leaving 0.00004 of the power takes betas that add up to 10. With 0.01 on
# average, none above 0.02, that makes a thousand. Our toy needs fewer; no theory names the number. Training pays nothing
# for a large $T$, since every example jumps. Sampling pays; notebook 03 finds cheaper ways.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 · Schedules: how fast?
#
# **Intuition.** A dimmer: turned quickly, most steps see only noise; turned slowly, the end is never dark.
#
# **Notation.** Three tables are in wide use. **Linear** (DDPM): a straight line in $\beta$. **Scaled linear** (Stable
# Diffusion): a straight line in $\sqrt\beta$, from $\beta=0.00085$ to $0.012$. **Cosine** (Nichol and Dhariwal 2021,
# eq. 17) draws $\bar\alpha$ first and derives $\beta$ from it:
#
# $$\bar\alpha_t=\frac{f(t+1)}{f(0)},\qquad
# f(u)=\cos^2\!\Big(\frac{u/T+0.008}{1.008}\cdot\frac{\pi}{2}\Big),\qquad \beta_t=1-\frac{\bar\alpha_t}{\bar\alpha_{t-1}}$$
#
# $u$ counts the steps done, so $\bar\alpha_{-1}=1$ is the clean picture; 0.008 keeps the first $\beta$ from being too
# small; $\beta_t$ is capped at 0.999. We compare by **signal-to-noise ratio**:
#
# $$\mathrm{SNR}(t)=\frac{\bar\alpha_t}{1-\bar\alpha_t}$$
#
# This is power of the picture over power of the noise for pictures of power 1. For ours, of power 0.34, the true ratio
# is 0.34 times that. SNR spans many powers of ten, so one draws its logarithm.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** In the linear schedule, at which of the 1000 steps is the noise as strong as *our* pictures: before the
# middle, at it, or after?
#
# <details><summary>Answer</summary>
#
# Well before: the table below prints step 166. After a sixth of the steps, half of the power of $x_t$ is noise.
#
# </details>

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/schedules.py
def scaled_linear_beta(num_steps=1000, start=0.00085, end=0.012):
    scale = 1000 / num_steps
    return torch.linspace((scale * start) ** 0.5, (scale * end) ** 0.5, num_steps, dtype=torch.float64) ** 2


def cosine_beta(num_steps=1000, s=0.008, max_beta=0.999):
    time = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    f = torch.cos((time + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=max_beta)


# %% [markdown] slideshow={"slide_type": "-"}
# **Check.** The library `diffusers` has the same three under its own names.

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
from diffusers import DDPMScheduler

schedules = {name: Schedule.from_beta(beta()) for name, beta in
             {"linear": linear_beta, "scaled linear": scaled_linear_beta, "cosine": cosine_beta}.items()}
for (name, ours), theirs in zip(schedules.items(), ("linear", "scaled_linear", "squaredcos_cap_v2")):
    beta_range = {"beta_start": 0.00085, "beta_end": 0.012} if name == "scaled linear" else {}
    peer = DDPMScheduler(beta_schedule=theirs, **beta_range).alphas_cumprod
    print(f"{name}: equal to diffusers to 1e-6: {bool((ours.alpha_bar - peer).abs().max() < 1e-6)}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# Now the curves, and four numbers of each.

# %% alt="Share of power left and log-SNR by step for three schedules: linear falls first, cosine last; a line marks noise as strong as our pictures." slideshow={"slide_type": "-"}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4))
for (name, s), (color, style) in zip(schedules.items(), ((INK, "-"), (AXIS, "--"), (INK, ":"))):
    for ax, y in zip(axes, (s.alpha_bar, s.log_snr)):
        ax.plot(y, style, color=color, label=name)
axes[0].set(title=r"$\bar\alpha_t$: share of the power left", xlabel="step t")
axes[1].set(title="log-SNR", xlabel="step t", ylabel="natural logarithm", ylim=(-12, 10))
axes[1].axhline(-math.log(power), color=DATA, lw=1.4)
axes[1].text(1000, -math.log(power) + 0.4, "noise as strong\nas our pictures", color=DATA, ha="right", fontsize=10)
axes[0].legend(fontsize=11, loc="upper right")
plt.show()


# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
def first(condition):                                                    # the first step at which it holds
    return int(condition.nonzero()[0])

print("                 alpha_bar   first step with noise      of 1000 steps, under")
print("schedule         at t = 0    >= power of our pictures   1 % of the power left")
for name, s in schedules.items():
    half, low, high = (first(s.alpha_bar * p <= 1 - s.alpha_bar) for p in (power, power.low, power.high))
    print(f"{name:14s} {s.alpha_bar[0]:11.5f} {half:10d} [{low}, {high}] {int((s.alpha_bar < 0.01).sum()):20d}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# One picture through all three:

# %% alt="The parrot at five steps under three schedules: at t = 500 it is nearly gone under linear, and clear under cosine." slideshow={"slide_type": "-"}
steps = [50, 166, 330, 500, 900]
one, eps = three[:1].expand(5, -1, -1, -1), noise[:1].expand(5, -1, -1, -1)               # the same one, five times
strips = {name: add_noise(one, eps, torch.tensor(steps), s) for name, s in schedules.items()}
plotting.show_rows(strips, [f"t = {t}" for t in steps], "One picture, one noise, three schedules")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The cosine schedule takes twice as many steps as the linear one until the noise is as strong as the
# pictures (329 [326, 332] against 166 [164, 168]), and the linear one spends 327 of its 1000 steps where less than a
# hundredth of the power is left. **One limit:** this does not decide which schedule trains best. It depends on the size of the pictures
# (section 6) and on what the network predicts (notebook 02).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 · The last step: is it really noise?
#
# **Intuition.** Sampling starts from pure noise. If the last step of training holds a trace of the picture, the
# network learns to rely on it, and misses it when sampling.
#
# **Notation.** The trace is $\sqrt{\bar\alpha_{T-1}}$; zero would be right. We compare with Lin et al. 2023, Table 1.

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
published = {"linear": 0.006353, "scaled linear": 0.068265, "cosine": 4.928220e-05}
print("schedule        alpha_bar at the end   its root   published root")
for name, s in schedules.items():
    last = s.alpha_bar[-1].item()
    print(f"{name:14s} {last:15.1e} {math.sqrt(last):16.6f} {published[name]:14.6f}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** Under scaled linear, the last picture is 0.068 of the clean one plus nearly full noise. Can we tell a bright
# picture from a dark one?
#
# <details><summary>Answer</summary>
#
# Yes. The mean over $64\cdot64\cdot3$ numbers averages the noise down to $1/\sqrt{12288}=0.009$. The brightness, times
# 0.068, stands above that. We measure it on 900 pictures with many backgrounds.
#
# </details>

# %% slideshow={"slide_type": "-"}
x0 = to_tensor(Composer(emoji, p_background=0.9).compose(900, seed=4).images)              # (900, 3, 64, 64)
eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
last_step = torch.full((900,), 999)

def brightness(schedule):                                                # -> clean (900,), after the last step (900,)
    return x0.mean((1, 2, 3)), add_noise(x0, eps, last_step, schedule).mean((1, 2, 3))

def correlation(a, b):                                                   # as text, with its 95 % interval
    r = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
    low, high = (math.tanh(math.atanh(r) + side / math.sqrt(len(a) - 3)) for side in (-1.96, 1.96))
    return f"{r:+.2f} [{low:+.2f}, {high:+.2f}]"

for name, s in schedules.items():
    print(f"{name:14s} correlation of brightness before and after: {correlation(*brightness(s))}")


# %% [markdown] slideshow={"slide_type": "subslide"}
# **The repair** (Lin et al. 2023, Algorithm 1). Shift the root to end at 0, and stretch it to begin where it did:
#
# $$\sqrt{\bar\alpha_t}\ \leftarrow\ \Big(\sqrt{\bar\alpha_t}-\sqrt{\bar\alpha_{T-1}}\Big)\,
# \frac{\sqrt{\bar\alpha_0}}{\sqrt{\bar\alpha_0}-\sqrt{\bar\alpha_{T-1}}}$$

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/schedules.py
def zero_terminal_snr(beta):
    root = torch.cumprod(1 - beta, dim=0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * first / (first - last)
    alpha_bar = root**2
    alpha = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return 1 - alpha


# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
repaired = Schedule.from_beta(zero_terminal_snr(scaled_linear_beta()))
before = schedules["scaled linear"]
print("last alpha_bar is exactly 0:", repaired.alpha_bar[-1].item() == 0)
print("first alpha_bar is unchanged:", math.isclose(repaired.alpha_bar[0], before.alpha_bar[0], rel_tol=1e-12))
print("the last x_t is the noise itself:", torch.equal(add_noise(x0, eps, last_step, repaired), eps))

# %% [markdown] slideshow={"slide_type": "subslide"}
# Every dot is one of the 900 pictures.

# %% alt="Brightness after the last step against the clean picture's, 900 dots: a rising band under scaled linear, a level cloud when repaired." slideshow={"slide_type": "-"}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
for ax, (name, s) in zip(axes, {"scaled linear": before, "repaired": repaired}.items()):
    clean, end = brightness(s)
    ax.scatter(clean, end, s=9, color=DATA, alpha=0.5, linewidths=0)
    ax.set(xlabel="brightness of the clean picture")
    ax.set_title(f"{name}: correlation\n{correlation(clean, end)}", fontsize=12)
axes[0].set_ylabel("brightness after the last step")
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Under scaled linear the "noise" gives the brightness away: correlation 0.89 [0.87, 0.90]. The linear
# schedule leaks a little, 0.15 [0.08, 0.21]. Repaired, the interval holds 0. A network can learn to read the leak;
# started from real noise, of mean near 0, it reads "medium" every time. Lin et al. trace Stable Diffusion's pictures of
# medium brightness to this. **One limit:** at the repaired last step $x_t=\varepsilon$, so naming the noise means copying
# the input, which teaches nothing. A repaired schedule needs another target, $v$ (notebooks 02 and 03).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 · What noise hides first, and why size matters
#
# **Intuition.** In fog a house is still a house, but the door handle is gone. Noise hides fine detail first, because
# pictures have little power there.
#
# **Notation.** Split a picture into waves (a Fourier transform). $P(f)$ is its mean power at $f$ waves across: small
# $f$ for large shapes, large $f$ for fine detail. Noise of variance 1 has power 1 at every $f$.
#
# **Formula.** At step $t$ the waves of number $f$ stand above the noise when
#
# $$\bar\alpha_t\,P(f)>1-\bar\alpha_t\quad\Longleftrightarrow\quad P(f)>\frac{1}{\mathrm{SNR}(t)}$$
#
# On the right both powers are divided by $\bar\alpha_t$: the noise is a flat floor that rises with $t$.
#
# **Predict.** A 64-pixel picture has 32 wave numbers. How many stand above the floor at $t=400$ of the linear
# schedule?
#
# <details><summary>Answer</summary>
#
# Three, all of them large shapes: see the line under the figure.
#
# </details>

# %% slideshow={"slide_type": "subslide"}
def wave_numbers(size):                                                  # -> (size, size): distance from wave number 0
    waves = torch.fft.fftfreq(size) * size
    return torch.hypot(waves[:, None], waves[None, :]).round()

def power_spectrum(x):                                                   # (N, C, S, S) -> (S // 2,): 1 ... S / 2 waves
    power = torch.fft.fft2(x, norm="ortho").abs().square().mean((0, 1))  # (S, S)
    radius = wave_numbers(x.shape[-1])
    return torch.stack([power[radius == f].mean() for f in range(1, x.shape[-1] // 2 + 1)])


# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
rows = torch.randperm(len(emoji), generator=torch.Generator().manual_seed(0))[:900].view(3, 300).numpy()
sets = [to_tensor(emoji.select(np.sort(each)).on_white()) for each in rows]                # three sets of 300 pictures
eps = torch.randn(sets[0].shape, generator=torch.Generator().manual_seed(6))
spectra, flat = torch.stack([power_spectrum(x) for x in sets]), power_spectrum(eps)       # (3, 32), (32,)
print("noise has power 1 at every wave number, to 3 %:", bool(((flat - 1).abs() < 0.03).all()))
print("waves across   first step at which they lie under the noise, in three sets of pictures")
for f in (1, 2, 4, 8, 16, 32):
    print(f"{f:12d}  ", *(f"{first(s[f - 1] <= 1 / linear.snr):5d}" for s in spectra))

# %% [markdown] slideshow={"slide_type": "subslide"}
# Where the blue line lies under a dashed one, the noise wins.

# %% alt="Power against wave number on logarithmic axes: the pictures' line falls from 60 to 0.005, and crosses five level lines of noise, the later the higher." slideshow={"slide_type": "-"}
floors, f = [50, 150, 250, 400, 600], torch.arange(1, 33)
spectrum = spectra.mean(0)
above = {t: int((spectrum > 1 / linear.snr[t]).sum()) for t in floors}
plotting.plot_lines(f, {"pictures": (spectrum, DATA)} | {
    f"noise, t = {t}": (torch.full((32,), 1 / linear.snr[t].item()), NOISE, "--") for t in floors},
    "f: waves across the picture (fine detail to the right)", "power", "Noise is a floor that rises",
    logx=True, logy=True, direct_labels=False)
ax = plt.gca()
ax.get_legend().remove()
for t in floors:
    ax.text(33, 1 / linear.snr[t].item(), f" noise, t = {t}", color=NOISE, va="center", fontsize=11)
ax.text(6.2, 1.4, "900 pictures", color=DATA, fontweight="bold")
ax.set_xticks([1, 2, 4, 8, 16, 32], [1, 2, 4, 8, 16, 32])
ax.minorticks_off()
plt.show()
print("wave numbers of 32 above the floor:", ", ".join(f"{n} at t = {t}" for t, n in above.items()))


# %% [markdown] slideshow={"slide_type": "subslide"}
# What does the floor leave? From the *clean* picture we cut every wave below it.

# %% alt="The parrot under noise at five steps, and below what waves above the floor keep of it: sharp at t = 50, a green blot at t = 600." slideshow={"slide_type": "-"}
def keep_waves(x, most):                                                 # (C, S, S): only wave numbers 0 ... most
    return torch.fft.ifft2(torch.fft.fft2(x) * (wave_numbers(x.shape[-1]) <= most)).real

noisy_ones = add_noise(three[:1].expand(5, -1, -1, -1), eps[:5], torch.tensor(floors), linear)  # (5, 3, 64, 64)
kept = [keep_waves(three[0], above[t]) for t in floors]
plotting.show_rows({"noisy": noisy_ones, "clean, waves above the floor": kept}, [f"t = {t}" for t in floors],
                   "What the noise leaves")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The finer, the earlier: in each of the three sets 32 waves across go under at step 18, one wave only
# after step 600. So on the way back a network can know large shapes long before details. **One limit:** powers are means.
# A sharp edge can stand out where the mean drowns.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### The same schedule is gentler on larger pictures
#
# Neighbouring pixels agree in the picture and cancel in the noise. Averaged over $k\times k$ pixels, the noise's variance
# falls by $k^2$:
#
# $$\mathrm{SNR}_{\text{averaged}}\approx k^2\,\mathrm{SNR}(t)$$
#
# So doubling the side adds about $\log4$ to the log-SNR of large shapes.

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
pool = torch.nn.AvgPool2d(4)                                             # 64 x 64 -> 16 x 16
noise_kept = pool(eps).var() / eps.var()
picture_kept = [pool(x).var() / x.var() for x in sets]
print(f"averaging 4 x 4 pixels keeps {noise_kept:.3f} of the noise's variance (1/16 = {1 / 16:.3f}) and,",
      "in three sets,", ", ".join(f"{k:.2f}" for k in picture_kept), "of the pictures'")

# %% [markdown] slideshow={"slide_type": "-"}
# Does it matter? A game: which of 300 pictures is in this $x_t$? We answer with the nearest, the best guess under
# Gaussian noise. We play at three sizes with one schedule, three times.

# %% slideshow={"slide_type": "subslide"}
steps_played = list(range(399, 950, 50))
games = {size: [to_tensor(load_emoji(size).select(np.sort(each)).on_white()) for each in rows] for size in (16, 32)}
games[64] = sets                                                         # the same pictures at each size

def recognised(x0, schedule, seed=0):                                    # (300, 3, S, S) -> share of right answers by step
    g, right = torch.Generator().manual_seed(seed), []
    for t in steps_played:
        xt = add_noise(x0, torch.randn(x0.shape, generator=g), torch.full((len(x0),), t), schedule)
        guess = torch.cdist(xt.flatten(1), schedule.alpha_bar[t].sqrt().float() * x0.flatten(1)).argmin(1)  # (300,)
        right.append((guess == torch.arange(len(x0))).float().mean().item())
    return right

def half_way(share, values):                                             # the value at which half are recognised
    return np.interp(0.5, share[::-1], np.asarray(values)[::-1])

shares = {size: [recognised(x0, linear, i) for i, x0 in enumerate(three_sets)] for size, three_sets in games.items()}

# %% alt="Share of pictures recognised by step for 16, 32 and 64 pixels: three falling curves, half-way near steps 520, 650 and 755." slideshow={"slide_type": "-"}
tones = ("#7FB8DA", "#2E8BC4", "#00456F")                                # light to dark blue: small to large pictures
plotting.plot_lines(steps_played, {f"{size} × {size}": (np.mean(y, 0), c) for (size, y), c in zip(shares.items(), tones)},
                    "step t (linear schedule)", "share recognised", "Which of 300 pictures is it?", direct_labels=False)
plt.axhline(0.5, color=AXIS, lw=1)
plt.text(949, 0.52, "half", color=AXIS, ha="right")
plt.show()
half = {size: np.array([half_way(one, linear.log_snr[steps_played]) for one in y]) for size, y in shares.items()}
for small, large in ((16, 32), (32, 64)):
    d = half[large] - half[small]
    print(f"{small} to {large} px: half-way at a log-SNR {d.mean():+.2f} ± {4.30 * d.std(ddof=1) / math.sqrt(3):.2f}",
          f"further (three sets, 95 %); -log 4 = {-math.log(4):+.2f}")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** A doubling of the side moves the half-way point by $-1.61\pm0.11$, and by $-1.47\pm0.19$: about the
# $-1.39$ of averaging, the first time somewhat more. So at a larger side fewer steps teach the large shapes. The
# usual repair adds $2\log(64/d)$ to the log-SNR for side $d$ (Hoogeboom et al. 2023, eq. 5; exercise 01.4). **One limit:**
# "which of 300" is an easy game: the shift is the finding, not where the curves lie.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The key piece: `schedules.py` is complete
#
# Only the front door is missing: one function that finds a schedule by name.

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/schedules.py
BETAS = {"linear": linear_beta, "cosine": cosine_beta, "scaled_linear": scaled_linear_beta}


def make_schedule(name="linear", num_steps=1000, zero_snr=False):
    num_steps = integer("num_steps", num_steps, (25, 100_000))
    beta = BETAS[one_of("schedule", name, BETAS)](num_steps)
    return Schedule.from_beta(zero_terminal_snr(beta) if zero_snr else beta)


# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
from course_utils.generator import schedules as library

cases = [(name, steps, zero) for name in BETAS for steps in (25, 50, 1000) for zero in (False, True)]
same = [torch.equal(make_schedule(*case).alpha_bar, library.make_schedule(*case).alpha_bar) for case in cases]
print(f"our tables are the library's, bit for bit: {sum(same)} of {len(cases)}")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What destruction is for: labels for free
#
# First, the pictures. The course composes them on the fly: an emoji, perhaps in another colour, on a background, with
# a caption in English or Chinese. Under Chinese ones we write what was drawn; a caption may leave out part of it. Some
# pairs of colour and thing, "pink butterfly" among them, are never shown: notebook 04 asks for them.

# %% alt="Ten composed pictures with captions in English and Chinese: emoji, some repainted, on coloured or painted backgrounds." slideshow={"slide_type": "-"}
examples = Composer(emoji, p_color=0.8, p_background=0.8).compose(10, seed=23)   # p_…: how often repainted, how often not on white
a = examples.attributes
gloss = [f" ({', '.join(filter(None, (color, concept, background)))})" if language == "zh" else "" for language, color,
         concept, background in zip(a["language"], a["color"], a["concept"], a["background"])]
plotting.show_pictures(examples.images, [c + g for c, g in zip(examples.captions, gloss)], 5,
                       title="Ten labelled examples, composed on the fly")
plt.show()

# %% slideshow={"slide_type": "fragment"}
# NBVAL_CHECK_OUTPUT
again = Composer(emoji, p_color=0.8, p_background=0.8).compose(10, seed=23)
print("same seed, same pictures:", np.array_equal(again.images, examples.images))
print("same seed, same captions:", again.captions == examples.captions)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Captions need somebody to write them. The labels of *denoising* need nobody. Take a clean picture, pick a step, draw
# noise, mix. The **training example**: input is the noisy picture $x_t$ with the step $t$, label the noise
# $\varepsilon$ that we put in. That is supervised learning; the error is a mean square (DDPM, eq. 14):
#
# $$L=\mathbb E_{x_0,\,t,\,\varepsilon}\ \big\|\varepsilon-\varepsilon_\theta(x_t,t)\big\|^2$$
#
# $\mathbb E$ is the mean over pictures, steps and noises; $\varepsilon_\theta$ is the network with weights $\theta$.

# %% alt="Four training examples in columns, t = 40, 150, 300 and 850: the clean picture, the noisy input, and the noise that is its label." slideshow={"slide_type": "-"}
x0 = to_tensor(Composer(emoji, size=32).compose(4, seed=1).images)       # (4, 3, 32, 32)
t = torch.tensor([40, 150, 300, 850])                                    # one step per picture
eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(8))  # the labels
xt = add_noise(x0, eps, t, linear)                                       # the inputs
plotting.show_rows({"clean, not shown to the network": x0, "input: noisy": xt, "label: its noise": eps / 3},
                   [f"t = {i}" for i in t.tolist()], "Four training examples")
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# (For display the noise is divided by 3.) **Check.** If we take exactly this noise away again, the clean picture must
# come back.

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
signal, strength = linear.at(t, xt)                                      # (4, 1, 1, 1) each
print("clean picture back to 1e-3:", torch.allclose((xt - strength * eps) / signal, x0, atol=1e-3))
print(f"{len(emoji)} pictures x 1000 steps = {len(emoji) * 1000:,} pairs, each with endless noises")
print(f"error of a silent network, which answers 0: {eps.square().mean():.1f}; asked for the picture instead, 0 costs",
      f"{Mean.of(sets[0].square().mean((1, 2, 3))).text(2)}")


# %% [markdown] slideshow={"slide_type": "-"}
# **Is this normal?** A loss needs a yardstick. Asked for the noise, silence costs its variance, 1; asked for the
# picture, it costs the mean square of the pictures. A loss far above silence means a wrong scale. A loss below it proves
# little: exercise 01.3 measures how far one gets by copying the input.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Experiment: turn the dimmer
#
# Move the step, change the schedule, switch the repair on. The curves cross at equal factors; for pictures of power
# 0.34 the noise is the stronger part well before. On GitHub and in slides the figure stands still at its starting values.

# %% alt="The factors of picture and noise by step cross at t = 499 of the cosine schedule; beside them the three pictures at that step, half hidden." slideshow={"slide_type": "skip"}
def dimmer(schedule, repaired, t):
    table = make_schedule(schedule, zero_snr=repaired)
    xt = add_noise(three, noise, torch.full((3,), t), table)             # (3, 3, 64, 64)
    fig, axes = plt.subplots(1, 4, figsize=(8, 2.6), width_ratios=(1.8, 1, 1, 1))
    for y, name, color in ((table.alpha_bar, "picture", DATA), (1 - table.alpha_bar, "noise", NOISE)):
        axes[0].plot(y.sqrt(), color=color)
        axes[0].text(985, 0.76 if name == "noise" else 0.56, name, color=color, ha="right")
    axes[0].axvline(t, color=AXIS, lw=1.2, ls="--")
    axes[0].set(title=f"{schedule}, t = {t}", xlabel="step t", ylabel="factor", ylim=(0, 1.05))
    for ax, picture in zip(axes[1:], plotting.to_pictures(xt)):
        ax.imshow(picture, interpolation="nearest")
        ax.axis("off")
    return fig

explore(dimmer, schedule=["cosine", "linear", "scaled_linear"], repaired=False, t=(0, 999))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks: a thousand steps, and the picture is still there
#
# We break one thing on purpose: the pictures stay in $[0,255]$. No line fails, and all shapes fit.

# %% alt="The parrot at four steps: with pixels in -1 to 1 it is nearly gone at t = 500 and gone at 850, with pixels up to 255 it still shows at t = 999." slideshow={"slide_type": "-"}
raw = torch.from_numpy(chosen.on_white()).permute(0, 3, 1, 2).float()    # forgotten: / 127.5 - 1
steps = [100, 500, 850, 999]
def for_the_eye(x):                                                      # each picture to its own contrast
    return (x - x.mean()) / (1.6 * x.std())

strips = {name: [for_the_eye(add_noise(x[:1], noise[:1], torch.tensor([t]), linear)[0]) for t in steps]
          for name, x in {"in [-1, 1]": three, "in [0, 255]": raw}.items()}
plotting.show_rows(strips, [f"t = {t}" for t in steps], "The bug: noise of variance 1 on pixels up to 255")
plt.show()

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
for name, x in {"in [-1, 1]": three, "in [0, 255]": raw}.items():
    xT = add_noise(x, noise, torch.full((3,), 999), linear)
    print(f"{name:10s} largest value {x.max():3.0f}; at the last step, picture over noise {linear.snr[-1] * x.var():.5f},",
          f"correlation with the clean picture {correlation(x.flatten(), xT.flatten())}")


# %% [markdown] slideshow={"slide_type": "-"}
# **Cause.** The formula takes picture and noise to be of similar size. Pixels 127.5 times larger have $127.5^2$ times the
# power, so after a thousand steps a quarter of the noise's power is still picture. The model never trains on noise alone,
# and that is what sampling starts from. **The habit that finds it:** print range and std of `x0` before anything else.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Exercises
#
# Each has a stub, a check and a folded solution. The check draws fresh random cases and says what is likely wrong.
# Stuck? `hint("01-closed-form", 1)`, then 2, then 3; the others likewise.
#
# ### Exercise 01.1 (warm-up) · Any step in one line
#
# Write `noisy`: from clean pictures `x0`, noise `eps` and one number per picture `alpha_bar_t` it makes $x_t$ by the closed
# form. Mind the shapes.

# %% slideshow={"slide_type": "skip"}
def noisy(x0, eps, alpha_bar_t):                      # (B, C, H, W), (B, C, H, W), (B,)
    raise NotImplementedError                         # -> xt (B, C, H, W)


# %% slideshow={"slide_type": "skip"}
check("01-closed-form", noisy)


# %% [markdown] slideshow={"slide_type": "skip"}
# *Solution of 01.1, folded. Open it after your own attempt.*

# %% slideshow={"slide_type": "skip"} tags=["solution"]
# NBVAL_CHECK_OUTPUT
def noisy(x0, eps, alpha_bar_t):
    a = alpha_bar_t.view(-1, 1, 1, 1)                 # (B,) -> (B, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps

check("01-closed-form", noisy)

# %% [markdown] slideshow={"slide_type": "skip"}
# ### Exercise 01.2 (measure) · Which schedule is in the box?
#
# A library noises your pictures, and does not say by which schedule. Write `measure_alpha_bar`: from pictures `x0` (not
# of variance 1) and their noisy versions `xt`, all of one step, it measures that step's $\bar\alpha$. The noise is not
# given. Then find out which schedule `box` uses.

# %% slideshow={"slide_type": "skip"}
scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)  # cover this line

def box(x0, t):                                       # (N, C, H, W), a step -> noisy pictures
    return scheduler.add_noise(x0, torch.randn_like(x0), torch.full((len(x0),), t))

def measure_alpha_bar(x0, xt):                        # (N, C, H, W) each
    raise NotImplementedError                         # -> alpha_bar, a tensor of one number, shape ()


# %% slideshow={"slide_type": "skip"}
check("01-measure", measure_alpha_bar)


# %% [markdown] slideshow={"slide_type": "skip"}
# *Solution of 01.2, folded.*

# %% slideshow={"slide_type": "skip"} tags=["solution"]
def measure_alpha_bar(x0, xt):
    slope = (x0 * xt).sum() / (x0 * x0).sum()         # the noise falls out: its product with x0 has mean 0
    return slope ** 2

for t in (166, 500):
    print(f"t = {t}: measured {measure_alpha_bar(sets[0], box(sets[0], t)):.2f};",
          ", ".join(f"{name} {s.alpha_bar[t]:.2f}" for name, s in schedules.items()))
check("01-measure", measure_alpha_bar)


# %% [markdown] slideshow={"slide_type": "skip"}
# ### Exercise 01.3 (measure) · How far does copying get?
#
# A lazy network answers $\hat\varepsilon=c\,x_t$: it copies its input, with one factor for each step. Write `best_factor`:
# the number $c$ with the smallest mean square error against `eps`. Then measure the error by step. Where is copying
# nearly perfect, and why?

# %% slideshow={"slide_type": "skip"}
def best_factor(xt, eps):                             # (B, C, H, W) each
    raise NotImplementedError                         # -> c, a tensor of one number, shape ()


# %% slideshow={"slide_type": "skip"}
check("01-copy", best_factor)


# %% [markdown] slideshow={"slide_type": "skip"}
# *Solution of 01.3, folded. Late steps are nearly all noise, so copying is nearly right. Its mean over the steps lies far
# below silence: a loss of 0.3 in notebook 02 is no achievement.*

# %% slideshow={"slide_type": "skip"} tags=["solution"]
# NBVAL_CHECK_OUTPUT
def best_factor(xt, eps):
    return (xt * eps).sum() / (xt * xt).sum()         # derivative of the error = 0

errors, g = {}, torch.Generator().manual_seed(0)
for t in range(0, 1000, 50):
    eps = torch.randn(sets[0].shape, generator=g)
    xt = add_noise(sets[0], eps, torch.full((300,), t), linear)
    errors[t] = (best_factor(xt, eps) * xt - eps).square().mean().item()
print("error of copying:", ", ".join(f"{errors[t]:.2f} at t = {t}" for t in (0, 100, 200, 500, 900)))
print(f"mean over the steps: {np.mean(list(errors.values())):.2f}; silence: 1.00")
check("01-copy", best_factor)


# %% [markdown] slideshow={"slide_type": "skip"}
# ### Exercise 01.4 (transfer) · A schedule for another size
#
# Write `shift_schedule`: from `alpha_bar` (T,), made for 64 pixels, it makes the table for side `side` by adding
# $2\log(64/\text{side})$ to the log-SNR at every step. Then play the game of section 6 again at 16 pixels: does the
# half-way step move to that of 64 pixels?

# %% slideshow={"slide_type": "skip"}
def shift_schedule(alpha_bar, side):                  # (T,), a number of pixels
    raise NotImplementedError                         # -> alpha_bar (T,)


# %% slideshow={"slide_type": "skip"}
check("01-shift", shift_schedule)


# %% [markdown] slideshow={"slide_type": "skip"}
# *Solution of 01.4, folded. The shift closes most of the gap; the rest is detail that 16 pixels do not show.*

# %% slideshow={"slide_type": "skip"} tags=["solution"]
# NBVAL_CHECK_OUTPUT
def shift_schedule(alpha_bar, side):
    log_snr = torch.log(alpha_bar / (1 - alpha_bar)) + 2 * math.log(64 / side)
    return torch.sigmoid(log_snr)                     # solves a / (1 - a) = SNR for a

alpha_bar = shift_schedule(linear.alpha_bar, 16)
shifted = Schedule(1 - alpha_bar / torch.cat([torch.ones(1), alpha_bar[:-1]]), alpha_bar)
for name, y in {"16 px": shares[16][0], "16 px, shifted": recognised(games[16][0], shifted), "64 px": shares[64][0]}.items():
    print(f"{name:14s} half recognised at step {half_way(y, steps_played):.0f}")
check("01-shift", shift_schedule)


# %% [markdown] slideshow={"slide_type": "skip"}
# ### Exercise 01.5 (diagnose) · Three bugs, one picture
#
# This run did not stop, and its network learned nothing. Its picture shows three bugs. Find them, and write `repaired`.
# The check says which *symptoms* are left.

# %% alt="Four noisy parrots for t = 300, 40, 150 and 850: all four equally noisy, with the same grain, and too bright." slideshow={"slide_type": "skip"}
def broken(x0, t, alpha_bar, generator):              # (B, C, H, W), (B,), (T,), torch.Generator -> xt
    eps = torch.rand(x0[:1].shape, generator=generator)
    a = alpha_bar[t[0]].to(x0.dtype)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps

t = torch.tensor([300, 40, 150, 850])
xt = broken(three[:1].expand(4, -1, -1, -1), t, linear.alpha_bar, torch.Generator().manual_seed(3))
plotting.show_pictures(xt, [f"t = {i}" for i in t.tolist()], 4, "Examples of a broken run")
plt.show()


# %% slideshow={"slide_type": "skip"}
def repaired(x0, t, alpha_bar, generator):
    raise NotImplementedError                         # -> xt (B, C, H, W)

check("01-diagnose", repaired)


# %% [markdown] slideshow={"slide_type": "skip"}
# *Solution of 01.5, folded. All four are equally noisy (the first one's step), the grain is the same in all (one noise
# for the batch), and all are too bright (`rand` has mean 0.5).*

# %% slideshow={"slide_type": "skip"} tags=["solution"]
# NBVAL_CHECK_OUTPUT
def repaired(x0, t, alpha_bar, generator):
    eps = torch.randn(x0.shape, generator=generator)  # Gaussian, and fresh for every picture
    a = alpha_bar[t].to(x0.dtype).view(-1, 1, 1, 1)   # every picture's own step
    return a.sqrt() * x0 + (1 - a).sqrt() * eps

check("01-diagnose", repaired)


# %% [markdown] slideshow={"slide_type": "skip"}
# ### Exercise 01.6 (code) · Labels for free
#
# Write `training_example`: from `x0` (B, C, H, W), a table `alpha_bar` (T,) and a `torch.Generator` it draws one step per
# picture, $t\in\{0,\dots,T-1\}$, and noise, and returns `(xt, t, eps)`. All randomness comes from the generator; `xt`
# keeps the dtype of `x0`.

# %% slideshow={"slide_type": "skip"}
def training_example(x0, alpha_bar, generator):       # (B, C, H, W), (T,), torch.Generator
    raise NotImplementedError                         # -> xt (B, C, H, W), t (B,), eps (B, C, H, W)


# %% slideshow={"slide_type": "skip"}
check("01-training-example", training_example)


# %% [markdown] slideshow={"slide_type": "skip"}
# *Solution of 01.6, folded.*

# %% slideshow={"slide_type": "skip"} tags=["solution"]
# NBVAL_CHECK_OUTPUT
def training_example(x0, alpha_bar, generator):
    t = torch.randint(len(alpha_bar), (len(x0),), generator=generator)   # 0 ... T-1, one per picture
    eps = torch.randn(x0.shape, generator=generator)
    a = alpha_bar[t].to(x0.dtype).view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps, t, eps

check("01-training-example", training_example)

# %% [markdown] slideshow={"slide_type": "skip"}
# **Explain.** Someone writes `alpha[t]` where `alpha_bar[t]` belongs. What does the network learn, and what happens when
# it samples?
#
# <details><summary>One answer</summary>
#
# Every picture keeps at least 98 % of its power, so it learns to remove very light noise. Sampling starts from pure
# noise, which it has never met.
#
# </details>

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | symbol | code | what it is |
# |---|---|---|
# | $x_0\in[-1,1]$ | `to_tensor(pictures)` | the clean picture, on the scale of the noise |
# | $\beta_t$ | `linear_beta()`, `cosine_beta()`, `scaled_linear_beta()` | variance added at a step |
# | $\bar\alpha_t$ | `schedule.alpha_bar[t]` | share of the picture's power left |
# | $\sqrt{\bar\alpha_t},\ \sqrt{1-\bar\alpha_t}$ | `schedule.at(t, x0)` | factors of picture and noise |
# | $x_t$ | `add_noise(x0, eps, t, schedule)` | any step at once |
# | $\log\mathrm{SNR}(t)$ | `schedule.log_snr[t]` | how noisy step $t$ is |
# | $\bar\alpha_{T-1}=0$ | `make_schedule(name, zero_snr=True)` | a last step that is noise alone |
# | $(x_t,\,t,\,\varepsilon)$ | exercise 01.6 | one training example: input, step, label |
#
# **What we did not show.** Time as a continuous number (Song et al. 2021, eq. 11). Other ways to destroy, such as blur
# (Rissanen et al. 2022). Which schedule draws best. And photographs have more texture to hide than our emoji.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The failure that leads to notebook 02
#
# If we know the noise, one line undoes it. What if we take some *other* noise away?

# %% alt="The noisy parrot at four steps; its own noise taken away gives the clean picture each time, another noise makes it noisier." slideshow={"slide_type": "-"}
steps = torch.tensor([20, 100, 250, 500])
x0, eps = three[:1].expand(4, -1, -1, -1), noise[:1].expand(4, -1, -1, -1)                # the same one, four times
guess = torch.randn(x0.shape, generator=torch.Generator().manual_seed(9))
xt, (signal, strength) = add_noise(x0, eps, steps, linear), linear.at(steps, x0)
plotting.show_rows({"noisy": xt, "own noise taken away": (xt - strength * eps) / signal,
                    "other noise taken away": (xt - strength * guess) / signal},
                   [f"t = {t}" for t in steps.tolist()], "Undoing needs the right noise")
plt.show()
for name, taken in (("own", eps), ("other", guess)):
    left = ((xt - strength * taken) - signal * x0) / strength
    print(f"{name} noise taken away: noise of {left.var():.2f} times the variance is left")

# %% [markdown] slideshow={"slide_type": "-"}
# A wrong guess leaves noise of twice the variance. And when sampling, nobody has mixed the noise: there is no "own" to look up.
# Someone has to tell from $x_t$ which part of it is noise. **Notebook 02** trains a network to do that.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## References
#
# - Ho et al. 2020, *Denoising Diffusion Probabilistic Models* (DDPM), [2006.11239](https://arxiv.org/abs/2006.11239):
#   eq. 2, 4, 14, section 4 (linear schedule)
# - Sohl-Dickstein et al. 2015, *Deep Unsupervised Learning using Nonequilibrium Thermodynamics*,
#   [1503.03585](https://arxiv.org/abs/1503.03585): why small steps can be undone
# - Nichol and Dhariwal 2021, *Improved DDPM*, [2102.09672](https://arxiv.org/abs/2102.09672): eq. 17 (cosine)
# - Lin et al. 2023, *Common Diffusion Noise Schedules and Sample Steps are Flawed*,
#   [2305.08891](https://arxiv.org/abs/2305.08891): Table 1, Algorithm 1
# - Hoogeboom et al. 2023, *simple diffusion*, [2301.11093](https://arxiv.org/abs/2301.11093): eq. 5; Chen 2023,
#   [2301.10972](https://arxiv.org/abs/2301.10972): another repair for larger pictures
# - Rissanen et al. 2022, *Generative Modelling with Inverse Heat Dissipation*,
#   [2206.13397](https://arxiv.org/abs/2206.13397): spectra of pictures and noise; blur
# - Song et al. 2021, *Score-Based Generative Modeling through SDEs*, [2011.13456](https://arxiv.org/abs/2011.13456)
# - Rombach et al. 2022, *Latent Diffusion Models*, [2112.10752](https://arxiv.org/abs/2112.10752): its code has the
#   scaled linear schedule

# %% [markdown]
# ← [00 · Start here](00_start_here.ipynb) · [02 · Noise predictor](02_noise_predictor.ipynb) →

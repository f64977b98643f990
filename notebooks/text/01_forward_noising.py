# %% [markdown] slideshow={"slide_type": "slide"}
# # 01 · Forward noising: how do you destroy a picture a little at a time, and why would you?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/pictures-from-noise/blob/main/notebooks/01_forward_noising.ipynb)
#
# | | |
# |---|---|
# | **Time** | a 45-minute lecture; two hours with the exercises; the code runs in well under a minute |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebook 00; tensors; what a mean and a variance are |
# | **Where we are** | text encoder → **[generator]** → decoder |

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

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 3 min.* Show the strip and the next figure only. Ask the room: at which column would you still
# bet on what the picture is? Keep the answers; section 5 measures them.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## The result first
#
# Three pictures are destroyed in a thousand small steps. Every column is the clean picture and Gaussian noise, mixed
# in a known proportion.

# %% slideshow={"slide_type": "-"}
import torch
from course_utils.data import load_emoji, to_tensor
from course_utils.generator.schedules import add_noise, make_schedule

chosen = load_emoji(32, "noto").select(lambda m: m["concept"] in ("butterfly", "hamburger", "tiger face"))
three = to_tensor(chosen.on_white())                                     # (3, 3, 32, 32) in [-1, 1]
noise = torch.randn(three.shape, generator=torch.Generator().manual_seed(0))
steps = [0, 80, 200, 400, 999]
columns = [add_noise(three, noise, torch.full((3,), t), make_schedule("linear")) for t in steps]
rows = {name: [column[i] for column in columns] for i, name in enumerate(chosen.column("name_en"))}
plotting.show_rows(rows, [f"t = {t}" for t in steps], "A thousand steps to noise")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **Why would anyone do this?** Read the figure from right to left. The last column is a place we can always reach: a
# computer makes such noise from nothing. A network that could step one column to the left, again and again, would
# go from noise to a picture: sampling. To learn that step it needs examples. Destruction makes them, as many as we like, each
# with its answer known.
#
# **What we will build**: one small step; the formula that jumps to any step; the schedules that decide how fast; the
# training examples of notebook 02. Our code ends up as `course_utils/generator/schedules.py`, the file that the
# figure above imports.

# %% [markdown] slideshow={"slide_type": "skip"}
# ### Setup

# %% slideshow={"slide_type": "skip"}
import math
from dataclasses import dataclass

import numpy as np
from course_utils.checks.core import check, hint  # hint("01-closed-form", 1) in the exercises
from course_utils.datasets.compose import Composer
from course_utils.errors import DataError, integer, one_of
from course_utils.figures.plotting import AXIS, DATA, MODEL, NOISE
from course_utils.figures.widgets import explore

emoji = load_emoji(size=64)  # every training picture in seven flat styles: measurements need many

# %% [markdown] slideshow={"slide_type": "skip"}
# **Notation reminder** (the full table is in notebook 00)
#
# | symbol | code | meaning |
# |---|---|---|
# | $x_0,\ x_t$ | `x0`, `xt` | clean picture, picture after step $t$ |
# | $t,\ T$ | `t`, `num_steps` | step; number of steps, 1000 here |
# | $\varepsilon$ | `eps` | Gaussian noise of mean 0 and variance 1, one number per pixel and colour |
# | $\beta_t,\ \alpha_t,\ \bar\alpha_t$ | `beta`, `alpha`, `alpha_bar` | dose of a step; $1-\beta_t$; its product so far |
#
# Papers count steps from 1 to $T$. Our tables, like every Python list, count from 0 to $T-1$: entry `t = 0` already
# holds the first dose of noise.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: add noise, again and again
#
# Pictures have thousands of numbers. We first use points with two: a cloud in the shape of a face, off centre on
# purpose. The first idea that comes to mind is to add a little noise, a thousand times.

# %% slideshow={"slide_type": "-"}
def face(n, generator):                                                   # -> (n, 2), mean 0, spread 1
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    ring = torch.stack([angle.cos(), angle.sin()], dim=1)
    mouth = 0.55 * torch.stack([angle.cos(), -angle.sin().abs()], dim=1)
    eyes = torch.tensor([0.38, 0.35]) * torch.stack([angle.cos().sign(), torch.ones(n)], dim=1)
    part = torch.rand(n, 1, generator=generator)
    xy = torch.where(part < 0.55, ring, torch.where(part < 0.8, mouth, eyes))
    xy = xy + 0.04 * torch.randn(n, 2, generator=generator)
    return (xy - xy.mean(0)) / xy.std(0)

# %% slideshow={"slide_type": "fragment"}
generator = torch.Generator().manual_seed(1)
start = face(1000, generator) + 3                                         # (1000, 2), centre (3, 3)
x, frames = start, {0: start}
for step in range(1, 1001):
    x = x + 0.1 * torch.randn(x.shape, generator=generator)               # "add a little noise"
    if step in (100, 400, 1000):
        frames[step] = x
plotting.plot_points(frames.values(), [f"after {s} steps" for s in frames], "Adding noise: the cloud never settles",
                     limit=12)
plt.show()
print("\n".join(f"after {s:4d} steps: centre {x.mean():.1f}, spread {x.std(0).mean():.1f}" for s, x in frames.items()))

# %% [markdown] slideshow={"slide_type": "-"}
# The face is gone, but three things are wrong.
#
# 1. **The spread keeps growing.** More steps, wider cloud. A network would meet numbers of any size.
# 2. **The centre stays near 3.** The cloud still tells where it came from.
# 3. **It is slow.** To see step 1000 we must take 1000 steps, for every example.
#
# We want a process that stays in one range, ends in one known place whatever the start, and lets us jump.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 4 min.* Let the room propose the repair. Someone will say "shrink it a little each time". That is
# section 1. Points 1 and 2 fall there, point 3 in section 2.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 · One step: pour a little out, pour a little in
#
# **Intuition.** A glass of juice. Pour out a spoonful, fill up with a spoonful of water. The glass stays full. After
# many spoonfuls it holds water, whatever juice it held before.
#
# **Notation.** Step $t$ pours out a share $\beta_t$, a small number between 0 and 1, and keeps $\alpha_t=1-\beta_t$.
#
# **Formula** (DDPM, eq. 2):
#
# $$x_t=\sqrt{1-\beta_t}\;x_{t-1}+\sqrt{\beta_t}\;\varepsilon_t,\qquad \varepsilon_t\sim\mathcal N(0,I)$$
#
# $x_{t-1}$ is the picture before the step and $x_t$ after it; $\varepsilon_t$ is fresh noise; the first root shrinks,
# the second sets the dose. The roots are there because variances add, not spreads:
#
# $$\operatorname{Var}(x_t)=(1-\beta_t)\operatorname{Var}(x_{t-1})+\beta_t$$
#
# If the variance before is 1, it is 1 after. If it is not, it moves towards 1.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Pixels in $[-1,1]$.** Noise is centred on 0 with spread 1. Pixels in a file are whole numbers from 0 to 255. We
# bring them to the scale of the noise. This cell is part of the library: `# @save` names the file it lives in.

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
x0 = to_tensor(emoji.on_white()[::9])                                    # every ninth picture, on white
print("shape", tuple(x0.shape), "| from", x0.min().item(), "to", x0.max().item())
print(f"mean {x0.mean():.1f}, spread {x0.std():.1f}")
print("there and back without loss:", np.array_equal(to_uint8(x0), emoji.on_white()[::9]))

# %% [markdown] slideshow={"slide_type": "subslide"}
# The mean is above 0 because the backgrounds are white. The spread is near enough to 1.
#
# **Predict.** DDPM lets $\beta$ grow in a straight line from 0.0001 to 0.02. Our face starts at centre 3, spread 1.
# Where are they after 1000 such steps?
#
# <details><summary>Answer</summary>
#
# Each step multiplies the centre by $\sqrt{1-\beta_t}$, a little less than 1. A thousand such factors leave next to
# nothing: the centre is at 0 to the eye. The spread stays at 1.
#
# </details>

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/schedules.py
def linear_beta(num_steps=1000, start=1e-4, end=0.02):
    scale = 1000 / num_steps                                             # fewer steps, larger doses
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
# **Check.** The chain should end at centre 0 and spread 1, and a chain from another start should end there too.

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
other = -5 + 0.1 * torch.randn(1000, 2, generator=generator)             # a small cloud on the other side
for beta_t in linear_beta().tolist():
    other = one_step(other, beta_t, generator)
for name, end in {"face": cloud[1000], "other": other}.items():
    print(f"{name}: centre 0 to 0.1 {abs(end.mean()) < 0.1}, spread 1 to 0.1 {abs(end.std() - 1) < 0.1}")

# %% slideshow={"slide_type": "subslide"}
shown = [0, 20, 100, 300, 1000]
plotting.plot_points([cloud[s] for s in shown], [f"after {s} steps" for s in shown],
                     "Shrink and add: every cloud ends at 0, with spread 1", limit=6)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The face blurs while it drifts to the middle, and ends as a round cloud. Two of the three faults
# are mended. **One limit:** reaching step 1000 still costs 1000 steps.
#
# Why so small a dose? When $\beta_t$ is small, undoing one step is again a small Gaussian move (Sohl-Dickstein 2015),
# and that is something a network can learn. Notebook 03 uses it.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 6 min.* Draw the glass. Write the variance line on the board and put in 1, then 4. The common
# slip is to shrink by $1-\beta$ in place of its root: let them see that the variance then falls below 1.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 · The closed form: any step at once
#
# **Intuition.** After many spoonfuls, only one thing counts: how much juice is left. The rest is water.
#
# **Notation.** $\bar\alpha_t$ ("alpha bar") is the share of the picture's *power* left after step $t$.
#
# **Formula** (DDPM, eq. 4):
#
# $$\bar\alpha_t=\prod_{s\le t}(1-\beta_s),\qquad x_t=\sqrt{\bar\alpha_t}\;x_0+\sqrt{1-\bar\alpha_t}\;\varepsilon$$
#
# $x_0$ is the clean picture, $\varepsilon$ is *one* Gaussian noise that stands for all $t$ of them,
# $\sqrt{\bar\alpha_t}$ is how loud the picture still is, $\sqrt{1-\bar\alpha_t}$ how loud the noise.
#
# Why may one noise stand for many? Take two steps and collect terms:
#
# $$x_2=\sqrt{\alpha_1\alpha_2}\,x_0+
# \underbrace{\sqrt{\alpha_2(1-\alpha_1)}\,\varepsilon_1+
# \sqrt{1-\alpha_2}\,\varepsilon_2}_{\text{independent Gaussians, added}}$$
#
# Such a sum is again Gaussian, and variances add: $\alpha_2(1-\alpha_1)+1-\alpha_2=1-\alpha_1\alpha_2$. That is
# $1-\bar\alpha_2$. Every further step repeats the argument.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** With DDPM's $\beta$, at which of the 1000 steps are picture and noise equally strong,
# $\bar\alpha_t=\tfrac12$? Before the middle, at it, or after?
#
# <details><summary>Answer</summary>
#
# Well before: check 1 prints the step. Half of the power is lost early, and the long rest of the steps is spent in
# heavy noise.
#
# </details>
#
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
    def snr(self):                                                       # section 3
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
# **Check 1: coefficients.** We follow what the loop does to the picture's factor and to the noise's variance, and
# compare with the formula at every step.

# %% slideshow={"slide_type": "-"}
linear = Schedule.from_beta(linear_beta())
signal, variance, worst = 1.0, 0.0, 0.0
for t, beta_t in enumerate(linear.beta.tolist()):
    signal, variance = signal * math.sqrt(1 - beta_t), (1 - beta_t) * variance + beta_t
    alpha_bar = linear.alpha_bar[t].item()
    worst = max(worst, abs(signal - math.sqrt(alpha_bar)), abs(variance - (1 - alpha_bar)))
print(f"largest difference between loop and formula over 1000 steps: {worst:.0e}")

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
print("loop and formula agree to 1e-12:", worst < 1e-12)
print("half of the power is left at step", int((linear.alpha_bar < 0.5).nonzero()[0]), "of", linear.num_steps)
xt = add_noise(three, noise, torch.tensor([0, 500, 999]), linear)
print("three pictures, three steps at once:", tuple(xt.shape))

# %% [markdown] slideshow={"slide_type": "-"}
# **Check 2: samples.** One pixel of value 0.8 runs through the loop 20,000 times. The bars must fill the bell that
# the formula draws.

# %% slideshow={"slide_type": "subslide"}
pixel, v = torch.full((20_000,), 0.8), torch.linspace(-3.5, 3.5, 300)
fig, ax = plt.subplots(figsize=(8, 3.2))
for t, beta_t in enumerate(linear.beta[:501].tolist()):
    pixel = one_step(pixel, beta_t, generator)
    if color := {50: DATA, 150: MODEL, 500: NOISE}.get(t):
        mean, std = 0.8 * linear.alpha_bar[t].sqrt().item(), (1 - linear.alpha_bar[t]).sqrt().item()
        ax.hist(pixel.numpy(), bins=80, density=True, alpha=0.45, color=color, label=f"loop, t = {t}")
        ax.plot(v, torch.exp(-((v - mean) / std) ** 2 / 2) / (std * math.sqrt(2 * math.pi)), color="black", lw=1.4)
        print(f"t = {t:3d}: loop {pixel.mean():+.3f} ± {pixel.std():.3f}, formula {mean:+.3f} ± {std:.3f}")
ax.set(title="Loop (bars) against formula (black lines)", xlabel="value of the pixel", ylabel="density")
ax.legend()
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The bars fill the bells; the printed means and spreads agree up to the luck of the draw. The third
# fault is mended: one line replaces the loop. **One limit:** the shortcut needs Gaussian noise and a step that only
# scales. Other ways to destroy a picture need their own formula.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 7 min.* This is the formula of the whole course; take the two-step derivation slowly. Ask which
# of the two symbols, $\beta_t$ or $\bar\alpha_t$, goes under the root in the jump: mixing them up is the mistake they
# will make at home.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 · Schedules: how fast?
#
# **Intuition.** A dimmer for the picture. Turn it quickly, and most steps see only noise. Turn it slowly, and the end
# is never dark.
#
# **Notation.** Three tables are in wide use. **Linear** (DDPM): a straight line in $\beta$. **Scaled linear** (Stable
# Diffusion): a straight line in $\sqrt\beta$, from $\beta=0.00085$ to $0.012$. **Cosine** (Nichol and Dhariwal 2021,
# eq. 17) draws $\bar\alpha$ first and derives $\beta$ from it:
#
# $$\bar\alpha_t=\frac{f(t)}{f(0)},\qquad
# f(t)=\cos^2\!\Big(\frac{t/T+s}{1+s}\cdot\frac{\pi}{2}\Big),\qquad \beta_t=1-\frac{\bar\alpha_t}{\bar\alpha_{t-1}}$$
#
# $T$ is the number of steps; $s=0.008$ keeps the first doses from being too small; $\beta_t$ is capped at 0.999.
#
# We compare them by their **signal-to-noise ratio**, power of the picture over power of the noise:
#
# $$\mathrm{SNR}(t)=\frac{\bar\alpha_t}{1-\bar\alpha_t}$$
#
# $\bar\alpha_t$ is the power of the picture in $x_t$, for a picture of spread 1; $1-\bar\alpha_t$ is that of the
# noise. SNR spans many powers of ten, so one draws its logarithm. Log-SNR 0 means equal strength.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** Which of the three keeps the picture visible longest?
#
# <details><summary>Answer</summary>
#
# Cosine. The table and the film strip below show it.
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
# Now the three curves that people draw.

# %% slideshow={"slide_type": "-"}
fig, axes = plt.subplots(1, 3, figsize=(8, 3.2))
for (name, s), color in zip(schedules.items(), (DATA, NOISE, MODEL)):
    for ax, y in zip(axes, (s.alpha_bar, s.snr, s.log_snr)):
        ax.plot(y, color=color, label=name)
axes[0].set(title=r"$\bar\alpha_t$: power left", xlabel="step t", ylabel="share")
axes[1].set(title="SNR", xlabel="step t", ylabel="ratio", ylim=(0, 5))
axes[2].set(title="log-SNR", xlabel="step t", ylabel="natural logarithm", ylim=(-12, 10))
axes[2].axhline(0, color=AXIS, lw=1)
axes[0].legend(fontsize=10, loc="upper right", handlelength=1)
plt.show()

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
print("schedule        half left at t   steps with under 1 % of the power left")
for name, s in schedules.items():
    print(f"{name:14s} {int((s.alpha_bar < 0.5).nonzero()[0]):10d} {int((s.alpha_bar < 0.01).sum()):18d}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# The middle panel shows why one uses the logarithm: on a plain scale, most of the curve is flat.

# %% slideshow={"slide_type": "-"}
steps = [50, 150, 300, 500, 900]
tiger, eps = three[:1].expand(5, -1, -1, -1), noise[:1].expand(5, -1, -1, -1)             # the same one, five times
strips = {name: add_noise(tiger, eps, torch.tensor(steps), s) for name, s in schedules.items()}
plotting.show_rows(strips, [f"t = {t}" for t in steps], "One picture, one noise, three schedules")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** At $t=500$ the cosine row still shows the animal; the linear row almost hides it. The table adds that a
# network trained with the linear schedule spends about a third of its lessons where less than a hundredth of the
# power is left. **One limit:** looking does not decide which schedule trains best. It depends on the size of the
# pictures (section 5) and on what the network predicts (notebook 02).

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 7 min.* Cover the legend and let the room name the curves. Point at the right ends of the third
# panel: only one of them dives. The other two are the subject of section 4.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 · The last step: is it really noise?
#
# **Intuition.** Drawing starts from pure noise. If the last step of training holds a whisper of the picture, the
# network learns to rely on it, and is lost when it is missing.
#
# **Notation.** The whisper is $\sqrt{\bar\alpha_{T-1}}$, the picture's factor at the last entry of the table. Zero
# would be right. We compare ours with a published table (Lin et al. 2023, Table 1).

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
published = {"linear": 0.006353, "scaled linear": 0.068265, "cosine": 4.928220e-05}
print("schedule        alpha_bar at the end   its root   published root")
for name, s in schedules.items():
    last = s.alpha_bar[-1].item()
    print(f"{name:14s} {last:15.1e} {math.sqrt(last):16.6f} {published[name]:14.6f}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** Under scaled linear, the last picture is 0.068 of the clean one plus nearly full noise. One pixel says
# nothing. But can we tell a bright picture from a dark one?
#
# <details><summary>Answer</summary>
#
# Yes. The mean over all $64\cdot64\cdot3$ numbers averages the noise down to about a hundredth (the next cell prints
# it). The brightness of the picture, times 0.068, stands above that.
#
# </details>
#
# We measure it on 300 pictures with many backgrounds.

# %% slideshow={"slide_type": "-"}
x0 = to_tensor(Composer(emoji, p_background=0.9).compose(300, seed=4).images)              # (300, 3, 64, 64)
eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
last_step = torch.full((300,), 999)

def brightness(schedule):                                                # -> clean (300,), after the last step (300,)
    return x0.mean((1, 2, 3)), add_noise(x0, eps, last_step, schedule).mean((1, 2, 3))

print(f"spread of the mean of the noise: {eps.mean((1, 2, 3)).std():.4f}")
print(f"luck alone gives correlations up to about ±{2 / math.sqrt(len(x0)):.2f}")
for name, s in schedules.items():
    r = torch.corrcoef(torch.stack(brightness(s)))[0, 1]
    print(f"{name:14s} correlation of brightness before and after: {r:+.2f}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# **The repair** (Lin et al. 2023, Algorithm 1). Shift the root so that it ends at 0, then stretch it so that it
# begins where it did:
#
# $$\sqrt{\bar\alpha_t}\ \leftarrow\ \Big(\sqrt{\bar\alpha_t}-\sqrt{\bar\alpha_{T-1}}\Big)\,
# \frac{\sqrt{\bar\alpha_0}}{\sqrt{\bar\alpha_0}-\sqrt{\bar\alpha_{T-1}}}$$
#
# $\sqrt{\bar\alpha_0}$ is the first entry of the table and $\sqrt{\bar\alpha_{T-1}}$ the last; the fraction is the
# stretch.

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
# Every dot below is one of the 300 pictures.

# %% slideshow={"slide_type": "-"}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
for ax, (name, s) in zip(axes, {"scaled linear": before, "repaired": repaired}.items()):
    clean, end = brightness(s)
    r = torch.corrcoef(torch.stack([clean, end]))[0, 1]
    ax.scatter(clean, end, s=9, color=DATA if s is before else MODEL, alpha=0.6, linewidths=0)
    ax.set(title=f"{name}: correlation {r:+.2f}", xlabel="brightness of the clean picture")
axes[0].set_ylabel("brightness after the last step")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** On the left the "noise" gives the brightness away. A network can learn to read it there; started
# from real noise, of mean near 0, it reads "medium" every time. Lin et al. trace Stable Diffusion's pictures of
# medium brightness to this. On the right the leak is closed.
#
# **One limit:** at the repaired last step $x_t=\varepsilon$. "Which noise is in it?" is answered by copying the
# input, which teaches nothing about pictures. A repaired schedule therefore needs another target, $v$ (notebooks 02
# and 03).

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 6 min.* Before showing the scatter plot, show x at the last step as a picture and ask for the
# brightness. Nobody can tell; a mean can. Good place to say that "pure noise to the eye" is no test.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 · What noise hides first, and why size matters
#
# **Intuition.** In fog a house is still a house, but the door handle is gone. Noise hides fine detail first, because
# pictures have little power there.
#
# **Notation.** Split a picture into waves. $P(f)$ is its mean power at $f$ waves across: small $f$ for large shapes,
# large $f$ for fine detail. Noise of variance 1 has power 1 at every $f$.
#
# **Formula.** At step $t$ the waves of number $f$ stand above the noise when
#
# $$\bar\alpha_t\,P(f)>1-\bar\alpha_t\quad\Longleftrightarrow\quad P(f)>\frac{1}{\mathrm{SNR}(t)}$$
#
# Left of the arrow: power of the picture and of the noise in $x_t$. Right: both divided by $\bar\alpha_t$. The noise
# is a flat floor that rises with $t$.
#
# **Predict.** A 64-pixel picture has 32 wave numbers. How many stand above the floor at $t=400$ of the linear
# schedule?
#
# <details><summary>Answer</summary>
#
# A handful, all of them large shapes. The line under the figure counts them.
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
rows = np.linspace(0, len(emoji) - 1, 300).astype(int)                   # 300 pictures from all groups and styles
x0 = to_tensor(emoji.select(rows).on_white())                            # (300, 3, 64, 64)
eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(6))
spectrum, flat = power_spectrum(x0), power_spectrum(eps)                 # (32,) each
print("noise has power 1 at every wave number, to 3 %:", bool(((flat - 1).abs() < 0.03).all()))
print("pictures lose power from every wave number to the next:", bool((spectrum.diff() < 0).all()))

# %% [markdown] slideshow={"slide_type": "subslide"}
# Where the blue line lies under a dashed one, the noise wins.

# %% slideshow={"slide_type": "-"}
floors, f = [50, 150, 400, 600], torch.arange(1, 33)
above = {t: int((spectrum > 1 / linear.snr[t]).sum()) for t in floors}
plotting.plot_lines(f, {"pictures": (spectrum, DATA)} | {
    f"noise, t = {t}": (torch.full((32,), 1 / linear.snr[t].item()), NOISE, "--") for t in floors},
    "f: waves across the picture (fine detail to the right)", "power", "Noise is a floor that rises",
    logx=True, logy=True, direct_labels=False)
ax = plt.gca()
ax.get_legend().remove()
for t in floors:
    ax.text(33, 1 / linear.snr[t].item(), f" noise, t = {t}", color=NOISE, va="center", fontsize=11)
ax.text(6.2, 1.4, "300 pictures", color=DATA, fontweight="bold")
ax.set_xticks([1, 2, 4, 8, 16, 32], [1, 2, 4, 8, 16, 32])
ax.minorticks_off()
plt.show()
print("wave numbers of 32 above the floor:", ", ".join(f"{n} at t = {t}" for t, n in above.items()))

# %% [markdown] slideshow={"slide_type": "subslide"}
# What does the floor leave? From the *clean* picture we cut every wave below it, and put the rest under the noisy
# one.

# %% slideshow={"slide_type": "-"}
def keep_waves(x, most):                                                 # (C, S, S): only wave numbers 0 ... most
    return torch.fft.ifft2(torch.fft.fft2(x) * (wave_numbers(x.shape[-1]) <= most)).real

big = to_tensor(emoji.select(lambda m: m["style"] == "noto" and m["concept"] == "tiger face").on_white())
noisy_ones = add_noise(big.expand(4, -1, -1, -1), eps[:4], torch.tensor(floors), linear)  # (4, 3, 64, 64)
kept, titles = [keep_waves(big[0], above[t]) for t in floors], [f"t = {t}" for t in floors]
plotting.show_rows({"noisy": noisy_ones[1:], "clean, waves above the floor": kept[1:]}, titles[1:], "What the noise leaves")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Edges soften, then the stripes go, then eyes and mouth; a smear of orange stays last. Walking back,
# a model must decide large shapes first and details last. **One limit:** both powers are means. A sharp edge or a
# strong colour can stand out where the mean drowns: our eyes still find a trace of the face at $t=400$.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### The same schedule is gentler on larger pictures
#
# An eye far from a large noisy picture averages neighbouring pixels. Neighbours agree in the picture and cancel in
# the noise. Over $s\times s$ pixels the noise's variance falls by $s^2$:
#
# $$\mathrm{SNR}_{\text{averaged}}\approx s^2\,\mathrm{SNR}(t)$$
#
# $s$ is the number of pixels averaged along a side. Doubling the side adds about $\log4$ to the log-SNR of all that
# is large in the picture.

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
pool = torch.nn.AvgPool2d(4)                                             # 64 x 64 -> 16 x 16
noise_kept, picture_kept = pool(eps).var() / eps.var(), pool(x0).var() / x0.var()
print(f"averaging 4 x 4 pixels keeps {noise_kept:.3f} of the noise's variance (1/16 = {1 / 16:.3f})")
print(f"and {picture_kept:.1f} of the picture's")
print("the SNR rises more than 12-fold:", bool(picture_kept / noise_kept > 12))

# %% [markdown] slideshow={"slide_type": "-"}
# Does it matter? A game: here is $x_t$; which of our 300 pictures is in it? We answer with the nearest, the best
# guess under Gaussian noise. We play at 16, 32 and 64 pixels with one schedule.

# %% slideshow={"slide_type": "subslide"}
steps = list(range(349, 950, 50))
def recognised(size):                                                    # -> share of right answers at each step
    x0 = to_tensor(load_emoji(size=size).select(rows).on_white())        # (300, 3, size, size)
    g, right = torch.Generator().manual_seed(7), []
    for t in steps:
        xt = add_noise(x0, torch.randn(x0.shape, generator=g), torch.full((len(x0),), t), linear)
        guess = torch.cdist(xt.flatten(1), linear.alpha_bar[t].sqrt().float() * x0.flatten(1)).argmin(1)   # (300,)
        right.append((guess == torch.arange(len(x0))).float().mean().item())
    return right

shares = {size: recognised(size) for size in (16, 32, 64)}

# %% slideshow={"slide_type": "-"}
plotting.plot_lines(steps, {f"{size} × {size}": (y, c) for (size, y), c in zip(shares.items(), (NOISE, MODEL, DATA))},
                    "step t (linear schedule)", "share recognised", "Which of 300 pictures is it?", direct_labels=False)
plt.axhline(0.5, color=AXIS, lw=1)
plt.show()
half = {size: np.interp(0.5, y[::-1], linear.log_snr[steps].numpy()[::-1]) for size, y in shares.items()}
print("log-SNR at which half are recognised:", ", ".join(f"{h:.2f} at {size} px" for size, h in half.items()))
print(f"per doubling of the side: {half[32] - half[16]:+.2f}, {half[64] - half[32]:+.2f}; -log 4 = {-math.log(4):+.2f}")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Larger pictures survive to later steps. A doubling of the side moves the half-way point by a
# little more than $-\log4$: averaging explains $\log4$, and larger pictures also show detail that the smaller ones
# lost. So at a larger side fewer steps teach the large shapes. The usual repair shifts the log-SNR by $2\log(64/d)$
# for side $d$ (Hoogeboom et al. 2023, eq. 5), or makes the picture fainter before mixing (Chen 2023). **One limit:**
# "which of 300" is an easy game. The shift is the finding, not the position of the curves.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 6 min.* Step back from the projector at the film strip: averaging by distance works in the room.
# Compare with the bets from the start.

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
# Nothing is trained in this notebook. We prepare the lessons.
#
# First, the pictures. The course composes them on the fly: an emoji, perhaps in another colour, on a background, with
# a caption in English or Chinese that says what is there. Some pairs of colour and thing, "pink butterfly" among
# them, are never shown: notebook 04 asks for them. Here is a page, as later notebooks will see it.

# %% slideshow={"slide_type": "-"}
examples = Composer(emoji, size=48, p_color=0.8).compose(10, seed=9)       # p_color: how often to repaint
plotting.show_pictures(examples.images, examples.captions, 5, title="Ten labelled examples, composed on the fly")
plt.show()

# %% slideshow={"slide_type": "fragment"}
# NBVAL_CHECK_OUTPUT
again = Composer(emoji, size=48, p_color=0.8).compose(10, seed=9)
print("same seed, same pictures:", np.array_equal(again.images, examples.images))
print("same seed, same captions:", again.captions == examples.captions)
print("languages on the page:", sorted(set(examples.attributes["language"])))

# %% [markdown] slideshow={"slide_type": "subslide"}
# Captions need somebody to write the names. The labels of *denoising* need nobody. Take a clean picture, pick a step,
# draw noise, mix. The **training example** is
#
# - **input:** the noisy picture $x_t$ and the step $t$,
# - **label:** the noise $\varepsilon$ that we put in.
#
# That is supervised learning: input, label, error. The error is a mean square (DDPM, eq. 14):
#
# $$L=\mathbb E_{x_0,\,t,\,\varepsilon}\ \big\|\varepsilon-\varepsilon_\theta(x_t,t)\big\|^2$$
#
# $\mathbb E$ is the mean over pictures, steps and noises; $\varepsilon_\theta$ is the network with weights $\theta$;
# its answer is compared with the true noise, number by number.

# %% slideshow={"slide_type": "-"}
x0 = to_tensor(Composer(emoji, size=32).compose(4, seed=1).images)       # (4, 3, 32, 32)
t = torch.tensor([40, 150, 300, 850])                                    # one step per picture
eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(8))  # the labels
xt = add_noise(x0, eps, t, linear)                                       # the inputs
plotting.show_rows({"clean, not shown to the network": x0, "input: noisy": xt, "label: its noise": eps / 3},
                   [f"t = {i}" for i in t.tolist()], "Four training examples")
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# (For display the noise is divided by 3, so that few values are clipped.) **Check.** If we take exactly this noise
# away again, the clean picture must come back.

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
signal, strength = linear.at(t, xt)                                      # (4, 1, 1, 1) each
print("clean picture back to 1e-3:", torch.allclose((xt - strength * eps) / signal, x0, atol=1e-3))
print(f"{len(emoji)} pictures x 1000 steps = {len(emoji) * 1000:,} pairs, each with endless noises")
print(f"error of the guess 'no noise': {eps.square().mean():.1f}")

# %% [markdown] slideshow={"slide_type": "-"}
# **Is this normal?** Yes: a guess of zero costs the variance of the noise, which is 1. A loss in notebook 02 that
# starts far above 1 means a wrong scale; one that stays near 1 means that nothing is learned.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 3 min.* Point at one column and say the lesson aloud: "this is the input, the step is 300, and
# this is the answer". Ask how many such lessons fit in our 64-pixel data set.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Experiment: turn the dimmer
#
# Move the step, change the schedule, switch the repair on. At which step do *you* lose the tiger? Where do the two
# curves cross? On GitHub and in slides the figure stands still at its starting values.

# %% slideshow={"slide_type": "skip"}
def dimmer(schedule, repaired, t):
    table = make_schedule(schedule, zero_snr=repaired)
    xt = add_noise(three, noise, torch.full((3,), t), table)             # (3, 3, 32, 32)
    fig, axes = plt.subplots(1, 4, figsize=(8, 2.6), width_ratios=(1.8, 1, 1, 1))
    axes[0].plot(table.alpha_bar.sqrt(), color=DATA, label="picture")
    axes[0].plot((1 - table.alpha_bar).sqrt(), color=NOISE, label="noise")
    axes[0].axvline(t, color=AXIS, lw=1.2, ls="--")
    axes[0].set(title=f"{schedule}, t = {t}", xlabel="step t", ylabel="factor", ylim=(0, 1.05))
    fig.legend(loc="lower right", ncols=2)
    for ax, picture in zip(axes[1:], plotting.to_pictures(xt)):
        ax.imshow(picture, interpolation="nearest")
        ax.axis("off")
    return fig

explore(dimmer, schedule=["cosine", "linear", "scaled_linear"], repaired=False, t=(0, 999))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks: a thousand steps, and the picture is still there
#
# We break one thing on purpose. The pictures stay in $[0,255]$. No line fails, all shapes fit, and a loss would be
# printed.

# %% slideshow={"slide_type": "-"}
raw = torch.from_numpy(chosen.on_white()).permute(0, 3, 1, 2).float()    # forgotten: / 127.5 - 1
steps = [100, 500, 850, 999]
def for_the_eye(x):                                                      # each picture to its own contrast
    return (x - x.mean()) / (1.6 * x.std())

strips = {name: [for_the_eye(add_noise(x[:1], noise[:1], torch.tensor([t]), linear)[0]) for t in steps]
          for name, x in {"in [-1, 1]": three, "in [0, 255]": raw}.items()}
plotting.show_rows(strips, [f"t = {t}" for t in steps], "The bug: noise of spread 1 on pixels up to 255")
plt.show()

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
for name, x in {"in [-1, 1]": three, "in [0, 255]": raw}.items():
    xT = add_noise(x, noise, torch.full((3,), 999), linear)
    r = torch.corrcoef(torch.stack([x.flatten(), xT.flatten()]))[0, 1]
    print(f"{name:10s} largest value {x.max():3.0f}, last step still resembles the clean picture: {bool(r > 0.1)}")
gain = 2 * math.log(127.5)                                               # the spread is 127.5 times larger
print(f"log-SNR at the last step {linear.log_snr[-1]:.1f}; with the bug {linear.log_snr[-1] + gain:.1f}")

# %% [markdown] slideshow={"slide_type": "-"}
# **Cause.** The formula takes picture and noise to have a similar spread. Pixels with a spread 127.5 times larger
# have an SNR $127.5^2$ times larger, so the process ends about where picture and noise are equally strong. The model
# never practises on noise, and noise is what drawing starts from. **The habit that finds it:** print the range and
# the spread of `x0` before anything else.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 3 min, with the summary.* Show the picture without its title and let the room diagnose it. Then
# close with the last figure of the notebook: who tells us the noise?

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Exercises
#
# Each has a stub, a check and a folded solution. The check draws fresh random cases and says what is likely wrong.
#
# ### Exercise 01.1 (warm-up) · Any step in one line
#
# Write `noisy`: it takes a batch of clean pictures `x0` and noise `eps`, both of shape (B, C, H, W), and
# `alpha_bar_t`, one number per picture, shape (B,), and returns
# $x_t=\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon$. Every picture has its own step, so mind the
# shapes.
#
# Stuck? `hint("01-closed-form", 1)`, then 2, then 3.

# %% slideshow={"slide_type": "skip"}
def noisy(x0, eps, alpha_bar_t):                      # (B, C, H, W), (B, C, H, W), (B,)
    raise NotImplementedError                         # -> xt (B, C, H, W)

# %% slideshow={"slide_type": "skip"}
check("01-closed-form", noisy)

# %% [markdown] slideshow={"slide_type": "skip"}
# *Solution of 01.1, folded. Open it after your own attempt.*

# %% tags=["solution"] slideshow={"slide_type": "skip"}
# NBVAL_CHECK_OUTPUT
def noisy(x0, eps, alpha_bar_t):
    a = alpha_bar_t.view(-1, 1, 1, 1)                 # (B,) -> (B, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps

check("01-closed-form", noisy)

# %% [markdown] slideshow={"slide_type": "skip"}
# ### Exercise 01.2 (warm-up) · The running product
#
# Write `running_product`: from a table `beta` of shape (T,) it makes `alpha_bar` of the same shape,
# $\bar\alpha_t=\prod_{s\le t}(1-\beta_s)$. Entry 0 already counts the first step.
#
# Stuck? `hint("01-alpha-bar", 1)`, then 2, then 3.

# %% slideshow={"slide_type": "skip"}
def running_product(beta):                            # (T,)
    raise NotImplementedError                         # -> alpha_bar (T,)

# %% slideshow={"slide_type": "skip"}
check("01-alpha-bar", running_product)

# %% [markdown] slideshow={"slide_type": "skip"}
# *Solution of 01.2, folded.*

# %% tags=["solution"] slideshow={"slide_type": "skip"}
# NBVAL_CHECK_OUTPUT
def running_product(beta):
    return torch.cumprod(1 - beta, dim=0)

check("01-alpha-bar", running_product)

# %% [markdown] slideshow={"slide_type": "skip"}
# ### Exercise 01.3 (code) · Take the noise away again
#
# Suppose someone hands us `xt` together with the very noise `eps` that is in it. Write `undo`, which returns the
# clean picture `x0`. The shapes are those of the closed form. (Notebook 02 trains a network to guess `eps`; this line
# then turns its guess into a picture.)
#
# Stuck? `hint("01-undo", 1)`, then 2, then 3.

# %% slideshow={"slide_type": "skip"}
def undo(xt, eps, alpha_bar_t):                       # (B, C, H, W), (B, C, H, W), (B,)
    raise NotImplementedError                         # -> x0 (B, C, H, W)

# %% slideshow={"slide_type": "skip"}
check("01-undo", undo)

# %% [markdown] slideshow={"slide_type": "skip"}
# *Solution of 01.3, folded.*

# %% tags=["solution"] slideshow={"slide_type": "skip"}
# NBVAL_CHECK_OUTPUT
def undo(xt, eps, alpha_bar_t):
    a = alpha_bar_t.view(-1, 1, 1, 1)
    return (xt - (1 - a).sqrt() * eps) / a.sqrt()

check("01-undo", undo)

# %% [markdown] slideshow={"slide_type": "skip"}
# ### Exercise 01.4 (code) · Signal against noise
#
# The signal-to-noise ratio of $x_t$ is the power of the picture in it over the power of the noise in it,
# $\bar\alpha_t/(1-\bar\alpha_t)$. Write `log_snr`, its natural logarithm, for a table `alpha_bar` of shape (T,).
#
# Stuck? `hint("01-snr", 1)`, then 2, then 3.

# %% slideshow={"slide_type": "skip"}
def log_snr(alpha_bar):                               # (T,)
    raise NotImplementedError                         # -> (T,)

# %% slideshow={"slide_type": "skip"}
check("01-snr", log_snr)

# %% [markdown] slideshow={"slide_type": "skip"}
# *Solution of 01.4, folded.*

# %% tags=["solution"] slideshow={"slide_type": "skip"}
# NBVAL_CHECK_OUTPUT
def log_snr(alpha_bar):
    return torch.log(alpha_bar / (1 - alpha_bar))

check("01-snr", log_snr)

# %% [markdown] slideshow={"slide_type": "skip"}
# ### Exercise 01.5 (code) · Repair the last step
#
# A schedule whose last $\bar\alpha$ is not 0 leaves a trace of the picture in what should be pure noise. Write
# `repair`: it takes `alpha_bar` (T,) and returns a new `alpha_bar` (T,) whose square root is shifted and scaled so
# that its **last value is 0** and its **first value is unchanged** (Lin et al. 2023, Algorithm 1).
#
# Stuck? `hint("01-terminal", 1)`, then 2, then 3.

# %% slideshow={"slide_type": "skip"}
def repair(alpha_bar):                                # (T,)
    raise NotImplementedError                         # -> alpha_bar (T,), last entry 0, first unchanged

# %% slideshow={"slide_type": "skip"}
check("01-terminal", repair)

# %% [markdown] slideshow={"slide_type": "skip"}
# *Solution of 01.5, folded.*

# %% tags=["solution"] slideshow={"slide_type": "skip"}
# NBVAL_CHECK_OUTPUT
def repair(alpha_bar):
    root = alpha_bar.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return root ** 2

check("01-terminal", repair)

# %% [markdown] slideshow={"slide_type": "skip"}
# ### Exercise 01.6 (code) · Labels for free
#
# Write `training_example`: from clean pictures `x0` (B, C, H, W), a table `alpha_bar` (T,) and a `torch.Generator` it
# draws one step per picture, $t\in\{0,\dots,T-1\}$, and Gaussian noise, and returns `(xt, t, eps)`. All randomness
# comes from the generator, so the same generator state gives the same example; `xt` keeps the dtype of `x0`.
#
# Stuck? `hint("01-training-example", 1)`, then 2, then 3.

# %% slideshow={"slide_type": "skip"}
def training_example(x0, alpha_bar, generator):        # (B, C, H, W), (T,), torch.Generator
    raise NotImplementedError                         # -> xt (B, C, H, W), t (B,), eps (B, C, H, W)

# %% slideshow={"slide_type": "skip"}
check("01-training-example", training_example)

# %% [markdown] slideshow={"slide_type": "skip"}
# *Solution of 01.6, folded.*

# %% tags=["solution"] slideshow={"slide_type": "skip"}
# NBVAL_CHECK_OUTPUT
def training_example(x0, alpha_bar, generator):
    t = torch.randint(len(alpha_bar), (len(x0),), generator=generator)   # 0 ... T-1, one per picture
    eps = torch.randn(x0.shape, generator=generator)
    a = alpha_bar[t].to(x0.dtype).view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps, t, eps

check("01-training-example", training_example)

# %% [markdown] slideshow={"slide_type": "skip"}
# ### Think, and try
#
# **Explain.** Someone writes `alpha[t]` where `alpha_bar[t]` belongs. Every picture then keeps at least 98 % of its
# power, and training runs without an error. What does the network learn, and what happens when it is asked to draw?
#
# <details><summary>One answer</summary>
#
# It learns to see very light noise. Drawing starts from pure noise, which it has never met. Nothing good comes out.
#
# </details>
#
# **Open.** Let the noise take only the values $-1$ and $+1$, half each. Does the loop of section 1 still end in the
# same cloud? Draw the histograms of section 2 again, at $t=0$ too. What saves the formula at large $t$?

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# | symbol | code | what it is |
# |---|---|---|
# | $x_0\in[-1,1]$ | `to_tensor(pictures)` | the clean picture, on the scale of the noise |
# | $\beta_t$ | `linear_beta()`, `cosine_beta()`, `scaled_linear_beta()` | how much is poured out and in at a step |
# | $\bar\alpha_t$ | `schedule.alpha_bar[t]` | share of the picture's power left |
# | $\sqrt{\bar\alpha_t},\ \sqrt{1-\bar\alpha_t}$ | `schedule.at(t, x0)` | factors of picture and noise |
# | $x_t$ | `add_noise(x0, eps, t, schedule)` | any step at once |
# | $\log\mathrm{SNR}(t)$ | `schedule.log_snr[t]` | how hard step $t$ is |
# | $\bar\alpha_{T-1}=0$ | `make_schedule(name, zero_snr=True)` | a last step that is noise alone |
# | $(x_t,\,t,\,\varepsilon)$ | exercise 01.6 | one lesson: input, step, label |
#
# **What we did not show.** That the process can be undone: it needs a network (02) and a rule for stepping back (03).
# Time as a continuous number, where the process is a stochastic differential equation (Song et al. 2021, eq. 11). Other
# ways to destroy, such as blur. Which schedule draws best: that needs trained models. And we measured on emoji, which
# have flat colours; photographs have more texture to hide.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The failure that leads to notebook 02
#
# If we know the noise, one line undoes it. We know it, because we put it there. What if we take some *other* noise
# away?

# %% slideshow={"slide_type": "-"}
steps = torch.tensor([20, 100, 250, 500])
x0, eps = three[:1].expand(4, -1, -1, -1), noise[:1].expand(4, -1, -1, -1)                # the tiger, four times
guess = torch.randn(x0.shape, generator=torch.Generator().manual_seed(9))
xt, (signal, strength) = add_noise(x0, eps, steps, linear), linear.at(steps, x0)
plotting.show_rows({"noisy": xt, "own noise taken away": (xt - strength * eps) / signal,
                    "other noise taken away": (xt - strength * guess) / signal},
                   [f"t = {t}" for t in steps.tolist()], "Undoing needs the right noise")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# A wrong guess makes it worse. And to draw something new we start from noise that nobody has mixed: there is no "own
# noise" to look up. Someone has to look at $x_t$ and *see* which part of it is noise. **Notebook 02** trains a
# network to do that.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## References
#
# - Ho et al. 2020, *Denoising Diffusion Probabilistic Models* (DDPM), [2006.11239](https://arxiv.org/abs/2006.11239):
#   eq. 2 (one step), eq. 4 (closed form), eq. 14 (loss), section 4 (linear schedule)
# - Sohl-Dickstein et al. 2015, *Deep Unsupervised Learning using Nonequilibrium Thermodynamics*,
#   [1503.03585](https://arxiv.org/abs/1503.03585): the idea, and why small steps can be undone
# - Nichol and Dhariwal 2021, *Improved DDPM*, [2102.09672](https://arxiv.org/abs/2102.09672): eq. 17 (cosine
#   schedule)
# - Lin et al. 2023, *Common Diffusion Noise Schedules and Sample Steps are Flawed*,
#   [2305.08891](https://arxiv.org/abs/2305.08891): Table 1 (last steps), Algorithm 1 (repair)
# - Chen 2023, *On the Importance of Noise Scheduling*, [2301.10972](https://arxiv.org/abs/2301.10972): larger
#   pictures
# - Hoogeboom et al. 2023, *simple diffusion*, [2301.11093](https://arxiv.org/abs/2301.11093): eq. 5 (shift by size)
# - Rissanen et al. 2022, *Generative Modelling with Inverse Heat Dissipation*,
#   [2206.13397](https://arxiv.org/abs/2206.13397): spectra of pictures and noise; blur in place of noise
# - Song et al. 2021, *Score-Based Generative Modeling through SDEs*, [2011.13456](https://arxiv.org/abs/2011.13456):
#   eq. 10 and 11 (the same process in continuous time)
# - Rombach et al. 2022, *Latent Diffusion Models*, [2112.10752](https://arxiv.org/abs/2112.10752): Stable Diffusion;
#   its code has the scaled linear schedule

# %% [markdown] slideshow={"slide_type": "slide"}
# # 02 · Noise predictor: how can a network that guesses noise draw?
#
# | | |
# |---|---|
# | **Time** | a 60-minute lecture; three hours with the exercises; the code runs in under three minutes |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebook 01 (noising in closed form, schedules); a first course in PyTorch |
# | **Where we are** | text encoder → **[generator]** → decoder |
#
# A network learns to *predict the noise* $\varepsilon$ in a noisy picture, given the step. Subtract the prediction a little at a time, and pure noise
# becomes a drawing. `noise-predictor-ddpm` draws every picture here, unless a caption says otherwise: idea 2 trains the same network four times for six minutes, and asks it for the noise, the picture x0 or a mix v.

# %% [markdown]
# ← [01 · Forward noising](01_forward_noising.ipynb) · [Contents](00_start_here.ipynb) · [03 · Sampling](03_sampling.ipynb) →

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
# We build the middle module. There is no text yet, and no decoder.

# %% alt="A strip of three boxes, text encoder, generator and decoder, joined by arrows; the generator is filled." slideshow={"slide_type": "-"}
import matplotlib.pyplot as plt
from course_utils.figures import plotting
from course_utils.figures.diagrams import plot_heatmap, strip, unet_diagram

plotting.use_course_style()
strip("generator")
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The result first
#
# Other noise in each column; one network, called a hundred times. We picked these four of 48 drawings; sixteen that nobody picked stand under *Are the drawings new?*.

# %% alt="Four squares of colour noise, and under each the drawing that the network made of it: a cat, a worried face, a laughing face and a blue heart." slideshow={"slide_type": "-"}
import torch
from course_utils import checkpoints
from course_utils.generator.samplers import ddim, ddpm, sample
from course_utils.recipes import noise_predictor
from course_utils.recipes.catalog import find

SIZE, SCHEDULE, KINDS = noise_predictor.SIZE, noise_predictor.SCHEDULE, ("eps", "x0", "v")
names = {kind: f"noise-predictor-{kind}" for kind in (*KINDS, "eps-plain", "ddpm")}
nets = {kind: checkpoints.load(name, find(name).model()) for kind, name in names.items()}
cards = {kind: checkpoints.card(name) for kind, name in names.items()}
trained = nets.pop("ddpm")                                                               # idea 2 compares the other four

def gaussian(count, seed):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))

def draw(xT, model=trained, kind="eps", sampler=ddpm, steps=100, seed=0, schedule=SCHEDULE):
    return sample(sampler, model, xT, schedule, steps=steps, prediction=kind, spacing="trailing",
                  generator=torch.Generator().manual_seed(seed))

noises, PICKED = gaussian(16, seed=0), (18, 31, 37, 45)                                   # the seeds of four good ones
samples, picked = draw(noises), torch.cat([draw(gaussian(1, seed), seed=seed) for seed in PICKED])
print(f"{cards['ddpm']['parameters']:,} parameters, {cards['ddpm']['minutes']:.1f} minutes of training on {cards['ddpm']['hardware']}")
plotting.show_rows({"noise": torch.cat([gaussian(1, seed) for seed in PICKED]), "drawing": picked},
                   title="Four noises, four drawings", scale=1.3)
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## What we build
#
# The best possible predictor in closed form, and why a worse one draws new pictures; what an error of the noise is worth as an error of the picture; a U-Net from its blocks; the loss, the loop (DDPM), a live training.

# %% [markdown]
# ## Setup

# %%
import dataclasses
import math

import torch.nn.functional as F
from torch import nn
from collections.abc import Iterator
from course_utils.checks.core import check, hint
from course_utils.data import FIRST_STYLES, load_emoji, to_tensor
from course_utils.errors import InputError, one_of
from course_utils.evaluation.copying import copy_threshold, nearest
from course_utils.evaluation.intervals import Mean, Share
from course_utils.generator.objectives import diffusion_loss, to_eps, to_x0
from course_utils.generator.samplers import State, alpha_bar_at, check_noise, noise_like, step_pairs, timesteps
from course_utils.generator.schedules import Schedule, add_noise, make_schedule
from course_utils.generator.unet import UNet


# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: a face made of points
#
# A picture is a point in a space with an axis for every pixel and colour, too many to look at. We begin with two axes: every *data point*
# is one dot of a smiley, and to generate is to find new dots on the face.

# %% slideshow={"slide_type": "-"}
def face_points(n, generator):
    part, a = torch.rand(n, generator=generator), torch.rand(n, generator=generator)     # (n,) which part, where on it
    ring = 0.9 * torch.stack([(2 * math.pi * a).cos(), (2 * math.pi * a).sin()], dim=1)  # (n, 2)
    arc = math.pi * (1.15 + 0.7 * a)
    mouth = 0.5 * torch.stack([arc.cos(), arc.sin()], dim=1)
    eyes = torch.stack([torch.where(a < 0.5, -0.35, 0.35), torch.full((n,), 0.3)], dim=1)
    face = torch.where(part[:, None] < 0.55, ring, torch.where(part[:, None] < 0.8, mouth, eyes))
    return face + 0.03 * torch.randn(n, 2, generator=generator)

points, cosine = face_points(2000, torch.Generator().manual_seed(0)), make_schedule("cosine")

# %% [markdown]
# The network is a plain MLP. It gets the noisy dot and the step as sine waves (idea 3); `use_step=False` hides the step for a later experiment.

# %%
from course_utils.layers import sinusoidal_embedding

class PointNet(nn.Module):
    def __init__(self, use_step=True, width=128):
        super().__init__()
        self.use_step = use_step
        self.layers = nn.Sequential(nn.Linear(3 * 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                    nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, xt, t):                                                            # (B, 2), (B,)
        place = sinusoidal_embedding(100 * xt.flatten(), 32, max_period=1000).view(-1, 64)
        step = sinusoidal_embedding(t if self.use_step else 0 * t, 32)                   # (B, 32)
        return self.layers(torch.cat([place, step], dim=1))                              # (B, 2)


# %% [markdown] slideshow={"slide_type": "subslide"}
# Training is ordinary regression: noise a dot, predict the noise, compare with the noise that was really added.

# %% slideshow={"slide_type": "-"}
def fit_points(net, num_steps=1600, batch=256):
    generator, losses = torch.Generator().manual_seed(1), []
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, num_steps)
    for _ in range(num_steps):
        x0 = points[torch.randint(len(points), (batch,), generator=generator)]           # (B, 2)
        t = torch.randint(cosine.num_steps, (batch,), generator=generator)               # (B,)
        eps = torch.randn(x0.shape, generator=generator)
        loss = ((net(add_noise(x0, eps, t, cosine), t) - eps) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.item())
    return sum(losses[-300:]) / 300

torch.manual_seed(0)
point_net = PointNet()
loss_with_step = fit_points(point_net)
print(f"loss at the end: {loss_with_step:.3f} (an answer of zero everywhere scores 1)")


# %% [markdown]
# **Predict.** We noise dots to step 900, predict the noise, and subtract it all at once. Do we get the face back?
#
# <details><summary>Answer</summary>
# No. A dot could have come from anywhere on the face; the squared error is smallest for the average of all candidates, its middle.
# </details>

# %% alt="Four clouds of dots: the face; noised dots; one prediction, a blot in the middle; a hundred predictions, a face again." slideshow={"slide_type": "subslide"}
def on_face(cloud):
    return Share.of((torch.cdist(cloud, points).amin(1) < 0.05).tolist())

@torch.no_grad()
def compare(net):
    t = torch.full((len(points),), 900)
    xt = add_noise(points, torch.randn(points.shape, generator=torch.Generator().manual_seed(2)), t, cosine)
    once = to_x0(net(xt, t), xt, t, cosine)                                              # all noise removed at once
    many = sample(ddpm, net, torch.randn(points.shape, generator=torch.Generator().manual_seed(3)), cosine, steps=100,
                  spacing="trailing", generator=torch.Generator().manual_seed(4))        # a little, a hundred times
    print(f"one prediction: squared error {((once - points) ** 2).sum(1).mean():.2f}, on the face {on_face(once)}")
    print(f"a hundred:      on the face {on_face(many)}")
    return xt, once, many

noisy, once, many = compare(point_net)
plotting.plot_points([points[::4], {plotting.NOISE: noisy[::4]}, {plotting.MODEL: once[::4]}, {plotting.MODEL: many[::4]}],
                     ["data", "noised, t = 900", "one prediction", "a hundred"], "One prediction is an average", limit=1.5)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The same network puts 15 % [14, 17] of the dots on the face in one step, 81 % [79, 82] in a hundred (brackets: 95 % intervals).
# **Limit**: an MLP does not know that pixels have neighbours.

# %% [markdown] slideshow={"slide_type": "subslide"}
# The prediction is an arrow at every place: from $x_t$ towards the implied $\hat x_0$. We draw the arrows at
# three steps, and twelve dots on their way from noise (by DDIM, notebook 03).

# %% alt="Arrows over the face at t = 900, 500 and 100: first to the middle, then to the nearest line; orange paths of dots bend towards the face." slideshow={"slide_type": "-"}
@torch.no_grad()
def implied(xt, t):
    ts = torch.full((len(xt),), t)
    return to_x0(point_net(xt, ts), xt, ts, cosine)

axis, starts = torch.linspace(-1.8, 1.8, 12), torch.randn(12, 2, generator=torch.Generator().manual_seed(5))
places, states = torch.cartesian_prod(axis, axis), list(ddim(point_net, starts, cosine, 100, spacing="trailing"))
fig, axes = plt.subplots(1, 3, figsize=(8, 3.2), sharey=True)
for ax, t in zip(axes, (900, 500, 100), strict=True):
    path = torch.stack([starts, *(state.xt for state in states if state.t >= t)])        # (steps, 12, 2)
    ax.scatter(*points[::8].T, s=3, color=plotting.DATA)
    ax.quiver(*places.T, *(0.3 * (implied(places, t) - places)).T, angles="xy", scale_units="xy", scale=1, color=plotting.MODEL)
    ax.plot(*path.unbind(-1), color=plotting.NOISE, linewidth=1.3)
    ax.scatter(*path[-1].T, s=22, color=plotting.NOISE, zorder=3)
    ax.set(title=f"t = {t}", aspect="equal", xlim=(-2, 2), ylim=(-2, 2))
plt.show()
for t in (900, 500, 100):
    xt = add_noise(points, torch.randn(points.shape, generator=torch.Generator().manual_seed(t)), torch.full((2000,), t), cosine)
    print(f"t = {t}: the implied dot lies on the face in {on_face(implied(xt, t))}")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Early, the arrows (at a third of their length) point to the middle, and for 14 % [13, 16] of noised dots $\hat x_0$ lies on the face; at $t=100$
# they point to its nearest line, for 73 % [71, 75]. The paths bend: the target moves with the dot.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 1 · The best possible prediction is an average
#
# **Why the mean.** Let $m=\mathbb E[x_0\mid x_t]$, the mean of all pictures that could have become this $x_t$, and $g$ any other answer. Then
#
# $$\mathbb{E}\big[\lVert x_0-g\rVert^2\mid x_t\big]=\mathbb{E}\big[\lVert x_0-m\rVert^2\mid x_t\big]+\lVert m-g\rVert^2,$$
#
# because $\mathbb E[x_0-m\mid x_t]=0$ removes the mixed term. Nobody can lower the first term; the second is 0 for $g=m$ alone. So
# squared errors teach a network the mean.
#
# **In closed form.** Our training set is finite: ask of every picture $x_i$ how likely it is to have become this $x_t$, and average with those weights.
#
# $$m=\sum_{i=1}^N w_i\,x_i,\qquad
# w_i=\operatorname{softmax}_i\!\Big(-\frac{\lVert x_t-\sqrt{\bar\alpha_t}\,x_i\rVert^2}{2\,(1-\bar\alpha_t)}\Big)$$
#
# $\bar\alpha_t$ is the share of the picture's power that is left, $1-\bar\alpha_t$ the variance of the noise. The weights are Bayes' rule. We call this the *ideal predictor*.
#
# **Predict.** We sample with it, from pure noise to the end. What does it draw?
#
# <details><summary>Answer</summary>
# Pictures of the training set, pixel by pixel. As the noise falls, one weight goes to 1 and the others to 0.
# </details>

# %% slideshow={"slide_type": "subslide"}
pictures = noise_predictor.load_pictures()                                               # (N, 3, S, S)
unseen = to_tensor(load_emoji(SIZE, FIRST_STYLES, ("smileys-emotion",), "test").on_white())
known = torch.cat([pictures, pictures.flip(-1)])                                         # training mirrors half of them

def ideal_x0(xt, t):                                                                     # (B, 3, S, S), (B,)
    x, every = xt.flatten(1).double(), known.flatten(1).double()                         # (B, D), (2N, D)
    signal, sigma = SCHEDULE.at(t, x)                                                    # (B, 1)
    logits = signal * x @ every.T - signal**2 * (every**2).sum(1) / 2                    # |xt|^2 is common: it drops out
    return (torch.softmax(logits / sigma**2, dim=1) @ every).view_as(xt).to(xt)          # (B, 2N) @ (2N, D)


# %% [markdown]
# **Check** against three things we know: at the last step the answer is the mean picture, at the first the picture itself, and a full run of the sampler ends on members of the set.

# %%
# NBVAL_CHECK_OUTPUT
last, first = torch.full((8,), SCHEDULE.num_steps - 1), torch.zeros(8, dtype=torch.long)
mean_gap = (ideal_x0(gaussian(8, seed=1), last) - known.mean(0)).abs().max()
same_gap = (ideal_x0(add_noise(pictures[:8], gaussian(8, seed=1), first, SCHEDULE), first) - pictures[:8]).abs().max()
redrawn = draw(gaussian(8, seed=1), ideal_x0, "x0", ddim, 50)
print("pictures:", tuple(pictures.shape), "held out:", tuple(unseen.shape))
print("mean at the last step:", bool(mean_gap < 0.02), "| picture at the first:", bool(same_gap < 1e-3))
print(f"samples that end on a training picture: {int((nearest(redrawn, known).distance < 0.01).sum())} of 8")


# %% [markdown] slideshow={"slide_type": "subslide"}
# Now a picture that neither has met. We compare pictures, so the network is the one asked for x0.

# %% alt="A held-out red heart under six amounts of noise: the ideal predictor answers with a broken heart that it owns, at t = 900 with an orange one, the network with a whole red one; at t = 999 both show a blurred face." slideshow={"slide_type": "-"}
@torch.no_grad()
def network_x0(xt, t):
    return nets["x0"](xt, t).clamp(-1, 1)

columns = torch.tensor([50, 300, 600, 750, 900, 999])
xt = add_noise(unseen[10].expand(6, -1, -1, -1), gaussian(6, seed=3), columns, SCHEDULE)
rows = {"held-out picture, noisy": xt, "ideal predictor": ideal_x0(xt, columns), "network (x0)": network_x0(xt, columns)}
plotting.show_rows(rows, [f"t = {t}" for t in columns], "Two answers for a picture that was never shown", scale=0.8)
plt.show()


# %% [markdown]
# *The picture of knowing nothing* is the mean, a blurred brown face (last column). When little noise is left, the ideal predictor answers with *another* picture, one that it owns. We measure this on all pictures.

# %% alt="Squared error by step: the ideal predictor has none on training pictures and 0.1 on held-out ones; the network's two curves lie on each other." slideshow={"slide_type": "subslide"}
def picture_errors(guess, x0, t):
    ts, eps = torch.full((len(x0),), t), torch.randn(x0.shape, generator=torch.Generator().manual_seed(t))
    return ((guess(add_noise(x0, eps, ts, SCHEDULE), ts) - x0) ** 2).flatten(1).mean(1)  # (N,)

grid = [20, 150, 300, 600, 800, 980]
cases = {"ideal, training pictures": (ideal_x0, known, plotting.REFERENCE, "-"),
         "ideal, held-out pictures": (ideal_x0, unseen, plotting.REFERENCE, "--"),
         "network, training pictures": (network_x0, known, plotting.MODEL, "-"),
         "network, held-out pictures": (network_x0, unseen, plotting.MODEL, "--")}
curves = {}
for name, (guess, x0, *style) in cases.items():
    each = {t: picture_errors(guess, x0, t) for t in grid}
    curves[name] = ([float(e.mean()) for e in each.values()], *style)
    print(f"{name:27s} t = 300: {Mean.of(each[300]).text(4)}   t = 980: {Mean.of(each[980]).text(4)}")
plotting.plot_lines(grid, curves, "step t (0 clean, 1000 noise)", "mean squared error of $x_0$",
                    "Best on what it knows, poor on what is new", direct_labels=False)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** At $t=300$ the ideal predictor errs by 0.000 on training pictures and by 0.107 [0.083, 0.134] on held-out ones; the network by 0.018 [0.018, 0.019] and
# 0.020 [0.017, 0.023]. **Memorising or generalising?** This gap between shown and unseen is the first test; the second, at the end, looks at the drawings. *Because our network falls short of the ideal, it can draw
# something new*. **Limit**: the gap is that of a short training.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 2 · Noise, picture, or a mix
#
# **Intuition.** $x_t$ is a known mix of picture and noise: who knows one knows the other. So
# we may ask the network for either, or for $v$, the mix of Salimans and Ho.
#
# $$x_t=\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon,\qquad v=\sqrt{\bar\alpha_t}\,\varepsilon-\sqrt{1-\bar\alpha_t}\,x_0$$
#
# $$\hat x_0=\frac{x_t-\sqrt{1-\bar\alpha_t}\,\hat\varepsilon}{\sqrt{\bar\alpha_t}}\;,\qquad
# \hat x_0=\sqrt{\bar\alpha_t}\,x_t-\sqrt{1-\bar\alpha_t}\,\hat v\;,\qquad
# \hat\varepsilon=\sqrt{\bar\alpha_t}\,\hat v+\sqrt{1-\bar\alpha_t}\,x_t$$
#
# **Predict.** Near $t=T$ the first fraction divides by almost 0. What happens to a small error in $\hat\varepsilon$?
#
# <details><summary>Answer</summary>
# It becomes a huge error in the picture. Asking for x0 has the mirror problem near t = 0. v has no division at all.
# </details>

# %%
# @save course_utils/generator/objectives.py
def velocity(x0, eps, t, schedule):
    signal, noise = schedule.at(t, x0)
    return signal * eps - noise * x0

def target(prediction, x0, eps, t, schedule):
    if prediction == "eps":
        return eps
    if prediction == "x0":
        return x0
    if prediction == "v":
        return velocity(x0, eps, t, schedule)
    raise InputError(f"unknown prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")

PREDICTIONS = ("eps", "x0", "v")


# %% [markdown]
# And the way back: any answer can be read as a picture or as noise.

# %%
# @save course_utils/generator/objectives.py
def to_x0(pred, xt, t, schedule, prediction="eps"):
    signal, noise = schedule.at(t, xt)
    if prediction == "eps":
        if (signal == 0).any():
            raise InputError("noise alone says nothing of a picture: predict x0 or v, or begin before the last step")
        return (xt - noise * pred) / signal
    if prediction == "x0":
        return pred
    if prediction == "v":
        return signal * xt - noise * pred
    raise InputError(f"unknown prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")

def to_eps(pred, xt, t, schedule, prediction="eps"):
    signal, noise = schedule.at(t, xt)
    if prediction == "eps":
        return pred
    if prediction == "x0":
        return (xt - signal * pred) / noise
    if prediction == "v":
        return signal * pred + noise * xt
    raise InputError(f"unknown prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")


# %%
# NBVAL_CHECK_OUTPUT
x0, eps, t = pictures[:6], gaussian(6, seed=5), torch.arange(100, 700, 100)
xt = add_noise(x0, eps, t, SCHEDULE)
for kind in PREDICTIONS:                     # a perfect answer of each kind, read back both ways
    answer = target(kind, x0, eps, t, SCHEDULE)
    print(f"{kind:3s} -> x0:", torch.allclose(to_x0(answer, xt, t, SCHEDULE, kind), x0, atol=1e-4),
          "-> eps:", torch.allclose(to_eps(answer, xt, t, SCHEDULE, kind), eps, atol=1e-4))


# %% [markdown] slideshow={"slide_type": "subslide"}
# **What is an error of the noise worth?** The mix holds for the truth and for any answer, with the same $x_t$. Subtract:
#
# $$0=\sqrt{\bar\alpha_t}\,(\hat x_0-x_0)+\sqrt{1-\bar\alpha_t}\,(\hat\varepsilon-\varepsilon)\quad\Rightarrow\quad
# \mathrm{err}_\varepsilon=\frac{\bar\alpha_t}{1-\bar\alpha_t}\,\mathrm{err}_{x_0}=\mathrm{SNR}(t)\cdot\mathrm{err}_{x_0}$$
#
# This says nothing about learning. The control is a silent network, which always answers $\hat\varepsilon=0$.

# %%
# NBVAL_CHECK_OUTPUT
def silent(xt, t):
    return torch.zeros_like(xt)

@torch.no_grad()
def both_errors(model, kind, t, seed=0):
    x0, ts = known[seed::28], torch.full((len(known[seed::28]),), t)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1000 * seed + t))
    pred = model(xt := add_noise(x0, eps, ts, SCHEDULE), ts)
    return [float(((read(pred, xt, ts, SCHEDULE, kind) - true) ** 2).mean()) for read, true in ((to_eps, eps), (to_x0, x0))]

for t in (50, 500):
    ratios = {name: a / b for name, (a, b) in {"trained": both_errors(trained, "eps", t), "silent": both_errors(silent, "eps", t)}.items()}
    print(f"t = {t}: SNR {SCHEDULE.snr[t]:.2f}, err_eps / err_x0:", ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Which steps are hard?
#
# In units of noise or of picture, the same answer gives two curves, and their ratio is the SNR; neither alone tells where a network is weak. A fair yardstick
# is the best answer *without looking at* $x_t$: $\hat\varepsilon=0$ errs by 1, the mean picture by $\mathrm{SNR}\cdot V$ in units of noise ($V$: the variance of our pictures around their mean). We divide by the smaller.

# %% alt="Error over the best blind error by step for four networks: a trough in the middle; at the noisy end both noise networks rise above 1, the plain one past 100; at t = 20 the x0 network stands at 5." slideshow={"slide_type": "-"}
STEPS, V = [20, 100, 200, 350, 500, 650, 800, 900, 960, 990], float(known.var(0, correction=0).mean())
blind = torch.tensor([min(1.0, float(SCHEDULE.snr[t]) * V) for t in STEPS])
measured = {name: torch.tensor([[both_errors(net, name.removesuffix("-plain"), t, seed) for seed in range(3)] for t in STEPS])
            for name, net in nets.items()}
shares = {kind: m[..., 0] / blind[:, None] for kind, m in measured.items()}              # (steps, 3 noises)
for t in (100, 500, 960):
    i = STEPS.index(t)
    print(f"t = {t}:", "   ".join(f"{k} {s[i].mean():.3f} ± {s[i].std():.3f}" for k, s in shares.items()))
styles = {"eps": (plotting.NOISE,), "x0": (plotting.DATA,), "v": (plotting.MODEL,), "eps-plain": (plotting.NOISE, ":")}
series = {f"asked for {kind}": (share.mean(1), *styles[kind]) for kind, share in shares.items()}
plotting.plot_lines(STEPS, series | {"without looking": (torch.ones(len(STEPS)), plotting.AXIS, "--")}, "step t (0 clean, 1000 noise)",
                    "error / best blind error", "What looking at $x_t$ buys", logy=True, direct_labels=False)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** At $t=960$ *eps-plain*, the U-Net asked for noise, errs 7.63 ± 0.09 times as much as the mean picture (± over three noises). At the noisy end $x_t$ *is* the noise, and the U-Net cannot copy it exactly through its norms and 32 channels; the SNR magnifies what it misses.
# So our **eps** network adds $x_t$ to its answer (`residual`, no new weight): 1.415 ± 0.050, still above x0's 0.863 ± 0.050. DDPM does without, with 35.7 million weights and 800,000 steps (appendix B).

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Equal training**: the same first weights, batches, noise and six minutes (steps below). Do they draw? We measure whether corners are white as paper,
# how much neighbouring pixels differ, in units of real pictures, and how far the nearest real picture is.

# %% alt="Four rows of eight drawings from the same noises, asked for eps, x0, v and plain eps: mostly faces in three rows, red, brown and blue blotches in the last." slideshow={"slide_type": "-"}
def corners(x):
    return x[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].flatten(1).mean(1)                    # (N,), 1 is white

def detail(x):
    return (x[..., 1:] - x[..., :-1]).abs().flatten(1).mean(1)                           # (N,)

drawn = {name: draw(noises, nets[name], name.removesuffix("-plain")) for name in (*KINDS, "eps-plain")}
for kind, x in {**drawn, "real": unseen}.items():
    steps = f"{cards[kind]['steps']:,} steps" if kind in cards else ""
    print(f"{kind:9s} {steps:12s} corners {Mean.of(corners(x.clamp(-1, 1)))}   detail {Mean.of(detail(x) / detail(known).mean())}"
          f"   nearest training picture {Mean.of(nearest(x, known).distance)}")
plotting.show_rows({f"asked for {kind}": x[:8] for kind, x in drawn.items()}, title="The same noise, six minutes of training each", scale=0.8)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** "Predict the noise, subtract it" draws, and so do the alternatives: *eps*, x0 and v end as near to a training picture as real ones do (0.335 [0.298, 0.371], 0.296, 0.287; real
# 0.303). *eps-plain* does not (0.57 [0.52, 0.62]), and its paper is grey (corners 0.91 [0.89, 0.93], the others' 0.97): paper and colour are settled at large $t$, where it errs. To the eye x0 and v draw the cleaner faces.
#
# **Why does the field ask for $\varepsilon$?**
#
# 1. The answer has mean 0 and variance 1 at every step: nothing to rescale.
# 2. The plain noise loss is the picture loss *weighted by SNR*: it works most on detail. The likelihood's own weights lean there still more, and DDPM drew
#    worse with them (section 3.4, table 2: FID 13.51; plain 3.17).
# 3. Near the end $\hat x_0$ keeps the pixels of $x_t$: errors of the noise are divided by a large SNR.
# 4. $-\hat\varepsilon/\sqrt{1-\bar\alpha_t}$ estimates the *score*, the gradient of $\log q(x_t)$: the direction in which $x_t$ becomes more probable (notebook 03).
#
# **Limit**: one seed, minutes of training.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 3 · One network for all steps: tell it the step
#
# **Intuition.** At large $t$ the network should paint rough shapes, at small $t$ polish edges. It has to
# know which job it is doing. We give it the step as $d/2$ clocks of different speed $\omega_i$.
#
# $$e(t)=\big[\cos(\omega_0t),\dots,\cos(\omega_{d/2-1}t),\;\sin(\omega_0t),\dots,\sin(\omega_{d/2-1}t)\big],\qquad \omega_i=10000^{-2i/d}$$
#
# **Predict.** Which clocks separate $t=500$ from $t=501$, and which $t=100$ from $t=900$?
#
# <details><summary>Answer</summary>
# The fast ones (small i) change from one step to the next; the slow ones tell early from late, because they do not come round again.
# </details>

# %%
# @save course_utils/layers.py
def sinusoidal_embedding(t, dim, flip_sin_to_cos=True, freq_shift=0, max_period=10_000):
    half = dim // 2
    exponent = -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - freq_shift)
    angles = t[:, None].float() * torch.exp(exponent)  # (B, dim/2)
    sin, cos = angles.sin(), angles.cos()
    embedding = torch.cat([cos, sin] if flip_sin_to_cos else [sin, cos], dim=-1)
    return F.pad(embedding, (0, dim % 2))  # an odd dim is filled with one zero


class TimestepEmbedding(nn.Module):
    def __init__(self, in_dim: int, time_dim: int):
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, time_dim)
        self.act = nn.SiLU()
        self.linear_2 = nn.Linear(time_dim, time_dim)

    def forward(self, features):
        return self.linear_2(self.act(self.linear_1(features)))


# %% [markdown]
# **Check** against `diffusers`, in both conventions: ours (cosines first) and that of the first DDPM code (sines first).

# %%
import diffusers
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D as PeerBlock

# %%
# NBVAL_CHECK_OUTPUT
t = torch.tensor([0, 1, 17, 999])
for flip, shift in ((True, 0), (False, 1)):
    peer = get_timestep_embedding(t, 32, flip_sin_to_cos=flip, downscale_freq_shift=shift)
    print(tuple(peer.shape), "equal:", torch.allclose(sinusoidal_embedding(t, 32, flip, shift), peer, atol=1e-6))
print("what the blocks receive:", tuple(TimestepEmbedding(32, 128)(peer).shape))

# %% [markdown]
# Fast clocks over forty steps, slow ones over all.

# %% alt="Cosines of six clocks: three fast ones over forty steps, three slow ones over a thousand." slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True)
for ax, t, clocks in ((axes[0], torch.arange(40), (0, 1, 2)), (axes[1], torch.arange(1000), (3, 5, 7))):
    e = sinusoidal_embedding(t, 16)                                                      # (N, 16): 8 cosines, 8 sines
    plotting.plot_lines(t, {f"clock {i}": e[:, i] for i in clocks}, "step t", "cosine", direct_labels=False, ax=ax)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=9)
plt.show()
print(f"clock 7 makes {1000 * 10_000 ** (-14 / 16) / (2 * math.pi):.2f} turns in 1000 steps")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Clock 7 makes 0.05 turns in 1000 steps: every step has a reading of its own. What
# breaks without? We train the point network again, blind to the step.

# %% alt="Four clouds: told the step, one prediction is a blot and a hundred are a face; blind, one is a wide cloud and a hundred a filled disc." slideshow={"slide_type": "subslide"}
torch.manual_seed(0)
blind_net = PointNet(use_step=False)
loss_without_step = fit_points(blind_net)
print(f"loss with the step {loss_with_step:.3f}, without {loss_without_step:.3f}")
blind_once, blind_many = compare(blind_net)[1:]
plotting.plot_points([{plotting.MODEL: once[::4]}, {plotting.NOISE: blind_once[::4]}, {plotting.MODEL: many[::4]}, {plotting.NOISE: blind_many[::4]}],
                     ["one, told the step", "one, blind", "a hundred, told", "a hundred, blind"], "Sampling needs to know the step", limit=1.5)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The loss rises from 0.306 to 0.342; the share on the face after a hundred calls falls from 81 % [79, 82] to 40 % [38, 42]. Why does *one* blind prediction hit the
# face more often (24 % [22, 26] against 15 % [14, 17])? It is no better: its squared error is 1.69, not 0.75. Told that $t=900$, the network answers near the middle, where no face is; the blind one leaves a
# wide cloud, which crosses the lines by chance. **Limit**: two axes. How much a picture network needs $t$, this does not say.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 4 · The U-Net, block by block
#
# To predict the noise of a pixel we need its neighbours (an edge?) and the whole (a face?). A U-Net
# goes down to small sizes to see the whole, and up to pixels, with *skips* that carry details across.

# %% alt="The U-Net as boxes: sides 16, 8 and 4 down and up again, dashed skips across, dotted lines from the step to every block." slideshow={"slide_type": "-"}
unet_diagram(trained, SIZE, "The network behind the first figure: side, channels, parts")
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **Follow the shapes** (channels × side × side). The picture, 3×32×32, is *folded*: 2×2 pixels become channels, 12×16×16, and no pixel is lost (Hoogeboom et al., section 3.3).
# `conv_in` makes 32×16×16; the levels down end at 64×8×8 and 128×4×4. Every result goes onto a pile:
# `conv_in`, three blocks, two strides, so six skips. Each level up pops two, last in, first out, and lays them beside its own channels: (128 + 128)×4×4 → 128×4×4,
# (128 + 64)×4×4 → 128×4×4, doubled to 8×8, and so on. `conv_out` makes 12×16×16, which unfolds to 3×32×32.
#
# **The residual block** takes features $h$ (B, C, H, W) and the embedded step $e$.
#
# $$h'=\operatorname{conv}\!\big(\phi(\operatorname{norm}(h))\big)+W\phi(e),\qquad \operatorname{res}(h,e)=h+\operatorname{conv}\!\big(\phi(\operatorname{norm}(h'))\big)$$
#
# - norm is **GroupNorm**: it brings groups of channels *of each picture* to mean 0 and variance 1. BatchNorm would mix the batch, where nearly clean and nearly pure-noise pictures stand side by side.
# - $\phi$ is **SiLU**, $x\cdot\operatorname{sigmoid}(x)$: a ReLU without the corner, whose gradient does not vanish everywhere below 0.
# - $W\phi(e)$ is one number per channel: *the step enters every block*.
#
# **Predict.** Set the last convolution to zero. What does the block do before training?
#
# <details><summary>Answer</summary>
# It hands on h. A deep network of such blocks starts as a short one; DDPM's code starts so.
# </details>

# %%
# @save course_utils/layers.py
class ResnetBlock2D(nn.Module):
    def __init__(self, in_channels, out_channels, time_dim=None, groups=32, eps=1e-5):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, out_channels) if time_dim else None
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x, temb=None):
        h = self.conv1(F.silu(self.norm1(x)))  # (B, C_out, H, W)
        if self.time_emb_proj is not None:
            h = h + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


# %%
# NBVAL_CHECK_OUTPUT
peer = PeerBlock(in_channels=16, out_channels=32, temb_channels=24, groups=8, eps=1e-5)
ours = ResnetBlock2D(16, 32, time_dim=24, groups=8)
print(ours.load_state_dict(peer.state_dict()))
x, temb = torch.randn(2, 16, 8, 8), torch.randn(2, 24)
print(tuple(x.shape), "->", tuple(ours(x, temb).shape), "equal:", torch.allclose(ours(x, temb), peer(x, temb), atol=1e-5))
for name, norm in (("GroupNorm", nn.GroupNorm(8, 16)), ("BatchNorm", nn.BatchNorm2d(16))):
    print(f"{name}: alone as in the batch:", torch.allclose(norm(x[:1]), norm(x)[:1], atol=1e-5))
for parameter in ours.conv2.parameters():
    nn.init.zeros_(parameter)
print("with conv2 = 0 only the shortcut is left:", torch.equal(ours(x, temb), ours.conv_shortcut(x)))


# %% [markdown]
# **Down and up.** A stride of 2 halves the side; going up, we repeat pixels and smooth.

# %%
# @save course_utils/layers.py
class Downsample2D(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(x)  # (B, C, H/2, W/2)


class Upsample2D(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, size=None):
        scale = None if size is not None else 2.0
        return self.conv(F.interpolate(x, size=size, scale_factor=scale, mode="nearest"))


# %% [markdown] slideshow={"slide_type": "subslide"}
# **Attention.** Two eyes of one face are far apart, and should match. So every place sends three vectors, linear maps of its features: a *query* $Q$ (what it
# looks for), a *key* $K$ (what it offers), a *value* $V$ (what it hands over). The better a query fits a key, the more of that value it receives:
#
# $$\operatorname{attention}(Q,K,V)=\operatorname{softmax}\!\Big(\frac{QK^{\top}}{\sqrt d}\Big)V$$
#
# Several *heads* do this at once, each with maps of its own, of width $d$. Without `context`, pixels ask pixels.

# %%
# @save course_utils/layers.py
class Attention(nn.Module):
    def __init__(self, dim, num_heads, head_dim, context_dim=None, bias=False):
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, inner, bias=bias)
        self.to_k = nn.Linear(context_dim or dim, inner, bias=bias)
        self.to_v = nn.Linear(context_dim or dim, inner, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(inner, dim), nn.Dropout(0.0)])  # diffusers keeps a dropout here

    def split(self, x):
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, N, head_dim)

    def forward(self, x, context=None, mask=None):
        context = x if context is None else context
        q, k, v = self.split(self.to_q(x)), self.split(self.to_k(context)), self.split(self.to_v(context))
        mask = None if mask is None else mask[:, None, None, :].bool()  # (B, 1, 1, L)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # softmax(q k^T / sqrt(d)) v
        return self.to_out[0](h.transpose(1, 2).flatten(2))  # (B, N, D)


# %%
# @save course_utils/layers.py
class AttentionBlock(Attention):
    def __init__(self, channels, num_heads, groups=32, eps=1e-5):
        super().__init__(channels, num_heads, channels // num_heads, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=eps)

    def forward(self, x, context=None, mask=None):
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, H*W, C)
        h = super().forward(tokens).transpose(1, 2).reshape(x.shape)
        return x + h


# %% [markdown]
# **Check** shapes, and a known property: shuffle the pixels, and the answer is shuffled alike.

# %%
# NBVAL_CHECK_OUTPUT
block, x, order = AttentionBlock(16, num_heads=2, groups=8), torch.randn(2, 16, 8, 8), torch.randperm(64)

def shuffled(x):
    return x.flatten(2)[:, :, order].view_as(x)

print("down:", tuple(Downsample2D(16)(x).shape), "up:", tuple(Upsample2D(16)(x).shape), "attention:", tuple(block(x).shape))
print("attention commutes with shuffling:", torch.allclose(block(shuffled(x)), shuffled(block(x)), atol=1e-5))


# %% [markdown] slideshow={"slide_type": "subslide"}
# **Levels.** A level down keeps all its results; the level opposite pops them and joins them to its own features.

# %%
# @save course_utils/generator/unet.py
class Block(nn.Module):
    def __init__(self, sizes, time_dim, attention, groups):
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock2D(a, b, time_dim, groups) for a, b in sizes])
        if attention is not None:
            self.attentions = nn.ModuleList([attention(b) for _, b in sizes])

    def attend(self, i, x, context, mask):
        return self.attentions[i](x, context, mask) if hasattr(self, "attentions") else x


class DownBlock(Block):
    def __init__(self, sizes, time_dim, attention, groups, downsample):
        super().__init__(sizes, time_dim, attention, groups)
        if downsample:
            self.downsamplers = nn.ModuleList([Downsample2D(sizes[-1][1])])

    def forward(self, x, temb, context=None, mask=None):
        skips = []
        for i, resnet in enumerate(self.resnets):
            x = self.attend(i, resnet(x, temb), context, mask)
            skips.append(x)
        if hasattr(self, "downsamplers"):
            x = self.downsamplers[0](x)  # (B, C, H/2, W/2)
            skips.append(x)
        return x, skips


# %%
# @save course_utils/generator/unet.py
class MidBlock(Block):
    def __init__(self, channels, time_dim, attention, groups):
        super().__init__([(channels, channels)] * 2, time_dim, None, groups)
        if attention is not None:
            self.attentions = nn.ModuleList([attention(channels)])

    def forward(self, x, temb, context=None, mask=None):
        x = self.attend(0, self.resnets[0](x, temb), context, mask)
        return self.resnets[1](x, temb)


class UpBlock(Block):
    def __init__(self, sizes, time_dim, attention, groups, upsample):
        super().__init__(sizes, time_dim, attention, groups)
        if upsample:
            self.upsamplers = nn.ModuleList([Upsample2D(sizes[-1][1])])

    def forward(self, x, temb, skips, context=None, mask=None):
        for i, resnet in enumerate(self.resnets):
            x = torch.cat([x, skips.pop()], dim=1)  # (B, C + C_skip, H, W)
            x = self.attend(i, resnet(x, temb), context, mask)
        if hasattr(self, "upsamplers"):
            x = self.upsamplers[0](x, size=skips[-1].shape[-2:])  # (B, C, 2H, 2W)
        return x


# %% [markdown] slideshow={"slide_type": "subslide"}
# **All together.** Two levels. The library's `UNet` is this draft with a loop over levels.

# %%
class DraftUNet(nn.Module):
    def __init__(self, small=32, large=64, num_heads=4, groups=8):
        super().__init__()
        time_dim = 4 * small

        def attend(width):
            return AttentionBlock(width, num_heads, groups)

        self.conv_in = nn.Conv2d(3, small, 3, padding=1)
        self.time_embedding = TimestepEmbedding(small, time_dim)
        self.down_blocks = nn.ModuleList([
            DownBlock([(small, small)], time_dim, None, groups, downsample=True),
            DownBlock([(small, large)], time_dim, attend, groups, downsample=False)])
        self.mid_block = MidBlock(large, time_dim, attend, groups)
        self.up_blocks = nn.ModuleList([
            UpBlock([(large + large, large), (large + small, large)], time_dim, attend, groups, upsample=True),
            UpBlock([(large + small, small), (small + small, small)], time_dim, None, groups, upsample=False)])
        self.conv_norm_out, self.conv_out = nn.GroupNorm(groups, small), nn.Conv2d(small, 3, 3, padding=1)

    def forward(self, x, t):                                                             # (B, 3, H, W), (B,)
        temb = self.time_embedding(sinusoidal_embedding(t, self.conv_in.out_channels))   # (B, 4 * small)
        skips = [x := self.conv_in(x)]
        for block in self.down_blocks:
            x, new = block(x, temb)
            skips += new
        x = self.mid_block(x, temb)
        for block in self.up_blocks:
            x = block(x, temb, skips)
        return self.conv_out(F.silu(self.conv_norm_out(x)))                              # (B, 3, H, W)


# %% [markdown]
# **Check** against two peers. The draft uses the names of `diffusers`, so its weights load.

# %%
# NBVAL_CHECK_OUTPUT
draft = DraftUNet()
library = UNet(channels=(32, 64), num_res_blocks=1, attention=(False, True), num_heads=4, groups=8)
peer = diffusers.UNet2DModel(sample_size=32, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
                             attention_head_dim=16, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                             up_block_types=("AttnUpBlock2D", "UpBlock2D"))
print(f"{sum(p.numel() for p in draft.parameters()):,} parameters;", library.load_state_dict(peer.state_dict()))
print("draft from diffusers:", draft.load_state_dict(peer.state_dict()))
x, t = torch.randn(2, 3, 32, 32), torch.tensor([3, 700])
print("library equal:", torch.allclose(draft(x, t), library(x, t), atol=1e-5),
      "| diffusers equal:", torch.allclose(draft(x, t), peer(x, t).sample, atol=1e-5))


# %% [markdown] slideshow={"slide_type": "subslide"}
# **Where text will enter.** With a `context_dim`, `UNet` builds a `Transformer2D` in place of `AttentionBlock` (notebook 04): its second attention, `attn2`, takes queries from
# the pixels, keys and values from `context`, text vectors (B, L, D) that `forward` hands to every block. `Patched` folds, and adds the input where asked.

# %%
# @save course_utils/generator/unet.py
class Patched(nn.Module):
    def __init__(self, unet: nn.Module, patch: int = 2, residual: bool = False):
        super().__init__()
        self.unet, self.patch, self.residual = unet, patch, residual

    def forward(self, x, t, **conditions):
        h = self.unet(F.pixel_unshuffle(x, self.patch), t, **conditions)  # (B, C p^2, H/p, W/p)
        h = F.pixel_shuffle(h, self.patch)
        return x + h if self.residual else h


# %%
# NBVAL_CHECK_OUTPUT
x, t, text = torch.randn(2, 3, 32, 32), torch.tensor([3, 700]), torch.randn(2, 7, 24)    # 7 text vectors of 24 numbers
reader = UNet(channels=(32, 64), num_res_blocks=1, attention=(False, True), num_heads=4, groups=8, context_dim=24)
block = reader.down_blocks[1].attentions[0]
print(type(block).__name__, "keys from text:", tuple(block.transformer_blocks[0].attn2.to_k.weight.shape))
print("picture", tuple(x.shape), "text", tuple(text.shape), "->", tuple(reader(x, t, text).shape))
print("folded and back, unchanged:", torch.equal(Patched(lambda x, t: x)(x, None), x))
print("our network:", tuple(x.shape), "->", tuple(trained(x, t).shape))


# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 5 · Predict, take a small step, predict again
#
# **Intuition.** One prediction is an average. A small step towards it removes a little noise and rules out some
# candidates; the next is an average over fewer. In the end one picture is left. With fresh Gaussian noise $z$ and $\alpha_t=1-\beta_t$:
#
# $$x_{t-1}=\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,\hat x_0+\frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t+\sigma_t z,\qquad
# \sigma_t^2=\frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t$$
#
# The first two terms are the *mean* of $x_{t-1}$, given $x_t$ and the picture (DDPM, equations 6 and 7; derived in notebook 03). With $\hat x_0$ from idea 2 they become "predict the noise, subtract a
# share of it" (exercise 02.1). The third adds the *spread* around that mean.
#
# **Predict.** How many networks do 50 steps need? And what would we draw without the third term?
#
# <details><summary>Answer</summary>
# One, called at every step. Without the third term x_t holds less noise than the network is told: what is left is wiped away, and with it what told one start from another.
# </details>

# %% slideshow={"slide_type": "subslide"}
# @save course_utils/generator/samplers.py
@torch.no_grad()
def ddpm(
    model, xT, schedule, steps=None, prediction="eps", generator=None, clip=True, spacing="leading",
    variance="fixed_small", after_step=None,
) -> Iterator[State]:  # fmt: skip
    one_of("variance", variance, ("fixed_small", "fixed_large"))
    xt = check_noise(xT)
    table = timesteps(schedule.num_steps if steps is None else steps, schedule.num_steps, spacing)
    for step, (t, t_next) in enumerate(step_pairs(table), start=1):
        alpha_bar, alpha_bar_next = alpha_bar_at(schedule, t), alpha_bar_at(schedule, t_next)
        alpha = alpha_bar / alpha_bar_next  # one alpha, or the product of those that a stride skips
        ts = torch.full((len(xt),), t, device=xt.device)
        x0 = to_x0(model(xt, ts), xt, ts, schedule, prediction)
        x0 = x0.clamp(-1, 1) if clip else x0
        mean = (
            alpha_bar_next**0.5 * (1 - alpha) / (1 - alpha_bar) * x0
            + alpha**0.5 * (1 - alpha_bar_next) / (1 - alpha_bar) * xt
        )
        if t_next >= 0:  # the last step adds no noise
            small = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha)
            sigma = (small if variance == "fixed_small" else 1 - alpha) ** 0.5
            mean = mean + sigma * noise_like(xt, generator)
        xt = after_step(mean, t_next) if after_step else mean
        yield State(step, t, xt, x0)


# %% [markdown]
# `steps=50` visits every twentieth step. The spacing *trailing* starts at the last, where noise is all there is (*leading*, the
# default, starts at $t=980$, where the network expects a thousandth of a picture's power). **Check** against `diffusers`: same noise, every state compared.

# %%
# NBVAL_CHECK_OUTPUT
peer = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="epsilon", timestep_spacing="trailing")
peer.alphas_cumprod = SCHEDULE.alpha_bar.clone()             # the same table, to the last digit
peer.set_timesteps(10)
xt, generator, gaps = gaussian(2, seed=0), torch.Generator().manual_seed(7), []
for state in ddpm(trained, xt, SCHEDULE, 10, "eps", torch.Generator().manual_seed(7), spacing="trailing"):
    with torch.no_grad():
        answer = trained(xt, torch.full((2,), state.t))
    xt = peer.step(answer, state.t, xt, generator=generator).prev_sample
    gaps.append(float((xt - state.xt).abs().max()))
print(len(gaps), "steps, all equal to 1e-4:", max(gaps) < 1e-4)


# %% [markdown] slideshow={"slide_type": "subslide"}
# The answer:

# %% alt="Six columns from t = 899 to 19: x_t clears, the predicted noise stays grain, the implied picture sharpens from a blur to a drawing." slideshow={"slide_type": "-"}
def film(xT, shown=(899, 799, 599, 399, 199, 19)):
    rows, xt = {"$x_t$": [], "predicted noise": [], "implied picture": []}, xT
    for state in ddpm(trained, xT, SCHEDULE, 100, "eps", torch.Generator().manual_seed(PICKED[0]), spacing="trailing"):
        if state.t in shown:
            ts = torch.full((len(xt),), state.t)
            with torch.no_grad():
                for row, picture in zip(rows.values(), (xt, trained(xt, ts), state.x0), strict=True):
                    row.append(picture[0])
        xt = state.xt
    return rows, [f"t = {t}" for t in shown]

plotting.show_rows(*film(gaussian(1, seed=PICKED[0])), "How the first drawing of this notebook came about", scale=0.9)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# The implied picture (bottom) sharpens while $x_t$ (top) loses noise. No step is large; none has to be right.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **The third term, taken away.** The same loop, the same starts, without $z$.

# %% alt="Eight drawings with the noise put back, and below them eight dark blue blots, all alike, without it." slideshow={"slide_type": "-"}
@torch.no_grad()
def means_only(xt, steps=100):
    for t, s in step_pairs(timesteps(steps, spacing="trailing")):
        a, b = alpha_bar_at(SCHEDULE, t), alpha_bar_at(SCHEDULE, s)
        ts = torch.full((len(xt),), t)
        x0 = to_x0(trained(xt, ts), xt, ts, SCHEDULE).clamp(-1, 1)
        xt = (b**0.5 * (1 - a / b) * x0 + (a / b) ** 0.5 * (1 - b) * xt) / (1 - a)
    return xt

def apart(x):                                                                            # (N,), from the mean of all
    return (x - x.mean(0)).square().flatten(1).mean(1).sqrt()

flat = means_only(noises)
for name, x in (("noise put back", samples), ("none put back", flat), ("real, held out", unseen)):
    print(f"{name}: {Mean.of(apart(x))} from their mean (root mean square of a pixel)")
plotting.show_rows({"noise put back": samples[:8], "none put back": flat[:8]}, title="Why add noise back?", scale=0.8)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Without the noise every start ends in one dark blot: 0.002 [0.001, 0.003] from their mean, against 0.353 [0.311, 0.395] with it. DDIM puts none back either, yet draws: it goes to no mean, but keeps the *predicted* noise at the strength of the next step (notebook 03).

# %% [markdown] slideshow={"slide_type": "subslide"}
# **If the noise decides, what does the network not know?** DDIM turns a given noise into a given drawing, yet the first prediction is a blur. How far do the implied pictures of 16 noises lie from their mean?

# %% slideshow={"slide_type": "-"}
states = {state.t: state for state in ddim(nets["x0"], noises, SCHEDULE, 50, "x0", spacing="trailing")}
for t in (999, 899, 799, 599, 19):
    print(f"t = {t}: implied pictures lie {Mean.of(apart(states[t].x0)).text(2)} from their mean")
print(f"real pictures: {Mean.of(apart(pictures)).text(2)}")


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** At $t=999$ all noises get nearly the same answer, 0.06 [0.05, 0.07] from their mean; at $t=19$ they lie 0.40 [0.33, 0.48] from it. The network is asked which *training picture* was noised into this $x_t$, and pure noise fits all
# alike. Where the path ends, only the loop can compute.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The key piece: the loss
#
# Draw a step and a noise for every picture, mix, ask, compare (DDPM, algorithm 1). With $y=\varepsilon$ this is DDPM's equation 14; $\theta$ are the weights.
#
# $$L=\mathbb{E}_{x_0,\,t,\,\varepsilon}\big\lVert y_\theta(x_t,t)-y\big\rVert^2,\qquad y\in\{\varepsilon,\;x_0,\;v\}$$

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/objectives.py
def diffusion_loss(model, x0, schedule, prediction="eps", generator=None, weight=None, t=None, **conditions):
    t = torch.randint(schedule.num_steps, (len(x0),), generator=generator) if t is None else t
    t = t.to(x0.device)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    pred = model(add_noise(x0, eps, t, schedule), t, **conditions)
    error = F.mse_loss(pred.float(), target(prediction, x0, eps, t, schedule), reduction="none").flatten(1).mean(1)
    return (error if weight is None else weight(t) * error).mean()


# %%
# NBVAL_CHECK_OUTPUT
loss = diffusion_loss(silent, pictures, SCHEDULE, "eps", torch.Generator().manual_seed(0))
print(f"silent answer, asked for noise: {loss:.2f}")             # the variance of the noise

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Train it
#
# What loss is normal? Silence scores 1; a short run ends between it and the checkpoint. We keep each step's own loss.

# %% slideshow={"slide_type": "-"}
from course_utils.figures.widgets import explore, training_monitor
from course_utils.recipes.noise_predictor_eps import RECIPE
from course_utils.training import train

LIVE_MINUTES, raw = 0.6, []

def recorded(network, batch, generator):
    loss = RECIPE.loss(network, batch, generator)
    raw.append(loss.item())
    return loss

@torch.no_grad()
def mean_loss(model):
    return float(diffusion_loss(model, known[::4], SCHEDULE, "eps", torch.Generator().manual_seed(0)))

patience = mean_loss(trained)
band = (patience, patience + 0.15 * (1 - patience))
print(f"expected: {60 * LIVE_MINUTES:.0f} s. Silence scores {mean_loss(silent):.3f}, the checkpoint {patience:.3f};")
print(f"a normal short run ends between {band[0]:.3f} and {band[1]:.3f}.")

# %% slideshow={"slide_type": "-"}
*_, end = training_monitor(train(dataclasses.replace(RECIPE, loss=recorded), LIVE_MINUTES))
live = end.ema.to("cpu")

# %% [markdown]
# `train` is the loop of the points with three habits: a rate that falls at the end, gradients clipped at 1, and **EMA**, a moving average of the weights, with which we draw. **Is this normal?**

# %% alt="Loss of single steps, a jagged line, and its running mean, which falls from 0.45 to 0.14 and ends near the upper edge of the band of a normal run." slideshow={"slide_type": "subslide"}
last_loss = mean_loss(live)
print(f"{end.step:,} steps, {end.pictures:,} pictures seen, loss {last_loss:.3f}: ", end="")
print("normal." if band[0] <= last_loss <= band[1] else "better than usual." if last_loss < band[0] else
      "higher than usual. A slow or busy machine takes fewer steps: raise LIVE_MINUTES and run again.")
print(f"its weights without the average {mean_loss(end.model.to('cpu')):.3f}; single steps, the last hundred: "
      f"{torch.tensor(raw[-100:]).mean():.2f} ± {torch.tensor(raw[-100:]).std():.2f}")
print("the checkpoint's error of the noise: " + ", ".join(f"{both_errors(trained, 'eps', t)[0]:.3f} at t = {t}" for t in (20, 200, 800)))
plotting.plot_loss(range(1, len(raw) + 1), raw, band, "Live training: the loss of every step, unsmoothed, and its mean")
plt.show()

# %% alt="Three rows of six: yellow grain after 36 seconds, drawings after 18 minutes, real pictures." slideshow={"slide_type": "subslide"}
plotting.show_rows({f"{60 * LIVE_MINUTES:.0f} seconds": draw(noises[:6], live), f"{cards['ddpm']['minutes']:.0f} minutes": samples[:6],
                    "real pictures": pictures[::70][:6]}, title="The same noise after a short and a longer training", scale=0.8)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Single steps scatter by ± 0.05 around their mean: the noise is hard to see at small $t$ (error 0.357 at 20, 0.009 at 800), and each batch draws its own steps. The checkpoint is the same cell with more patience.
#
# **Why EMA?** Each small batch pulls the weights its own way: they shake around a good place, and their average lies nearer to it. We train the checkpoint on at the full rate.

# %% slideshow={"slide_type": "-"}
for state in train(dataclasses.replace(RECIPE, decay=0.0), 0.15, weights=trained.state_dict()):
    if state.step % 20 == 0:
        print(f"step {state.step}: loss of the weights {mean_loss(state.model):.4f}, of their average {mean_loss(state.ema):.4f}")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** In every line the average scores lower than the weights, at step 60 0.0557 against 0.0601. (After our 36 seconds both score 0.17: the average lags behind what is still falling.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Experiment · Start from something else
#
# The loop can enter at any step $t$, if $x_t$ has the amount of noise that belongs there. We noise a green heart to step $t$ and finish from there. Control: drawings from pure noise.
#
# **Predict.** What survives of the heart if we start at 300? At 900?
#
# <details><summary>Answer</summary>
# At 300 shape and colour. At 900 little: of the four drawings that we show, one is still a green heart.
# </details>

# %%
def finish(xt, t, steps=25, sampler=ddim, seed=0):
    return draw(xt, sampler=sampler, steps=min(steps, t + 1), seed=seed, schedule=Schedule.from_beta(SCHEDULE.beta[:t + 1]))

y, x = torch.meshgrid(torch.linspace(1.35, -1.35, SIZE), torch.linspace(-1.35, 1.35, SIZE), indexing="ij")
inside = (x**2 + y**2 - 1) ** 3 - x**2 * y**3 <= 0                                       # (S, S), a heart
heart = torch.where(inside, torch.tensor([-0.06, 0.39, -0.3]).view(3, 1, 1), torch.tensor(1.0))

def shaped(t, steps=25, seed=2, count=12):
    xt = add_noise(heart.expand(count, -1, -1, -1), gaussian(count, seed), torch.full((count,), t), SCHEDULE)
    return xt, finish(xt, t, steps)


# %% alt="A green heart noised to t = 300, 600 and 900, and four drawings finished from each: the later the start, the less of the heart." slideshow={"slide_type": "subslide"}
HEADS, rows = ["drawing", "noised", *["finished"] * 4], {}
for t in (300, 600, 900):
    xt, x = shaped(t)
    rows[f"start at t = {t}"] = [heart, xt[0], *x[:4]]
    print(f"start at {t}: {Mean.of((x - heart).square().mean((1, 2, 3)).sqrt())} from the heart (root mean square of a pixel)")
print(f"control, pure noise: {Mean.of((samples - heart).square().mean((1, 2, 3)).sqrt())}")
plotting.show_rows(rows, HEADS, "Noise with a shape in it: a green heart", scale=0.8)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The larger $t$, the farther the drawings lie from the heart: 0.125 [0.123, 0.128], 0.204 [0.194, 0.214], 0.459 [0.423, 0.493]; the control 0.634 [0.611, 0.654]. This is image-to-image; its `strength` is our start $t$ (notebook 06).

# %% alt="One row: the green heart, its noised version, and four finished drawings." slideshow={"slide_type": "subslide"}
def heart_figure(t, steps, seed):
    xt, x = shaped(t, steps, seed, count=4)
    return plotting.show_rows({f"start at t = {t}": [heart, xt[0], *x]}, HEADS, f"{steps} steps, seed {seed}", scale=0.6)

explore(heart_figure, t=(100, 980, 20), steps=[25, 3, 5, 10, 50], seed=(0, 30))

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** Next we start at the last step from patterns that are not Gaussian. Which work?
#
# <details><summary>Answer</summary>
# With DDIM uniform noise alone. With DDPM all: it puts fresh noise in their place.
# </details>

# %% alt="Gaussian noise, uniform noise, a checkerboard and black as starts: DDIM keeps checkerboard and black, DDPM draws much the same two faces from all four." slideshow={"slide_type": "subslide"}
row = torch.arange(SIZE) // 4 % 2
board = (2 * (row[:, None] ^ row[None]) - 1).float().expand(1, 3, -1, -1)                # squares of -1 and 1
uniform = (2 * torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) - 1) * 3**0.5
starts = {"Gaussian": gaussian(8, seed=0), "uniform, variance 1": uniform, "checkerboard": board.expand(8, -1, -1, -1),
          "black": torch.full_like(uniform, -1)}
ends = {}
for name, xT in starts.items():
    still, fresh = finish(xT, 999), finish(xT, 999, sampler=ddpm)
    ends[name] = [xT[0], still[0], fresh[0], fresh[1]]
    near = [Mean.of(nearest(x, known).distance).text(2) for x in (still, fresh)]
    print(f"{name}: distance to the nearest real picture, DDIM {near[0]}, DDPM {near[1]}")
plotting.show_rows(ends, ["start", "DDIM", "DDPM", "DDPM"], "Four starts, all called noise", scale=0.9)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** With DDIM the start decides. Uniform noise works like Gaussian (0.37 [0.31, 0.43] and 0.34 [0.30, 0.38] from the nearest picture): the network sums over many
# pixels, and sums forget the shape of a distribution. Checkerboard and black end 0.82 and 1.06 away, with DDPM 0.27 [0.23, 0.32] and 0.33 [0.28, 0.38]. **Limit**: our schedule's last step keeps next to nothing (notebook 01).

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Are the drawings new?
#
# The second test of memorising: the nearest training picture, mirrored ones too. A small distance alone proves nothing, so the yardstick is *held-out real* pictures: the threshold is the 5 % quantile of their distances. The control is the ideal predictor, which copies.

# %% alt="Sixteen drawings in two rows of eight, each over the training picture that it resembles most." slideshow={"slide_type": "-"}
threshold, found = copy_threshold(unseen, known), nearest(samples, known)
for name, x in (("our drawings", samples), ("held-out real pictures", unseen), ("the ideal predictor's", redrawn)):
    d = nearest(x, known).distance
    print(f"{name:23s} median {d.median():.3f}, nearer than {threshold:.3f}: {Share.of((d < threshold).tolist())}")
for i in (0, 8):
    plotting.show_rows({"drawing": samples[i:i + 8], "nearest": known[found.index[i:i + 8]]},
                       [f"{d:.2f}" for d in found.distance[i:i + 8]], "All sixteen, and what they resemble most" if not i else None, scale=0.8)
    plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Of the ideal predictor's drawings 100 % [68, 100] lie below the threshold, of ours 0 % [0, 19], of real ones 6 % [2, 17]. **Limit**: distance in pixels is blind to meaning, and a bad drawing
# is also far away.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks · The answer is read as the wrong kind
#
# A frequent bug: trained on one question, read as another. Nothing crashes.

# %% alt="The same noises with the answer read as eps, x0 and v: faces, coloured grain, and dark soup." slideshow={"slide_type": "-"}
wrong = {f"read as {kind}": draw(noises[:6], kind=kind, steps=25) for kind in KINDS}
plotting.show_rows(wrong, title="One word wrong in the call of the sampler", scale=0.8)
plt.show()
t = torch.full((64,), 600)
xt = add_noise(pictures[:64], gaussian(64, seed=0), t, SCHEDULE)
with torch.no_grad():
    for kind in KINDS:
        print(f"read as {kind}: the implied noise has standard deviation {to_eps(trained(xt, t), xt, t, SCHEDULE, kind).std():.2f}")

# %% [markdown] slideshow={"slide_type": "-"}
# **The cause.** Real noise has standard deviation 1, and so has an answer that is read rightly (0.99; as x0 0.54, as v 1.28). In `diffusers` the word is the scheduler's `prediction_type`. Dark soup or coloured grain: look there first.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# The check tries fresh random cases and says what is likely wrong. Three hints each, of rising strength:

# %%
# NBVAL_CHECK_OUTPUT
hint("02-ddpm-mean", 1)


# %% [markdown]
# ### Exercise 02.1 (warm-up) · Predict the noise, subtract it
#
# Put $\hat x_0$ from idea 2 into the mean of idea 5 and collect: $\frac{1}{\sqrt{1-\beta_t}}\left(x_t-\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\hat\varepsilon\right)$ (DDPM, eq. 11). Write
# it as `step_back`, for one step: `beta_t` and `alpha_bar_t` are single numbers.

# %%
def step_back(xt, eps_pred, beta_t, alpha_bar_t):     # (B, C, H, W), (B, C, H, W), (), ()
    raise NotImplementedError                         # -> mean (B, C, H, W)


# %%
check("02-ddpm-mean", step_back)


# %% [markdown]
# **Solution** (folded). The terms in $x_t$ add up to $x_t/\sqrt{\alpha_t}$.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def step_back(xt, eps_pred, beta_t, alpha_bar_t):
    share = beta_t / (1 - alpha_bar_t).sqrt()
    return (xt - share * eps_pred) / (1 - beta_t).sqrt()

check("02-ddpm-mean", step_back)


# %% [markdown]
# ### Exercise 02.2 (measure) · From which step on does our network know nothing?
#
# Write `error_share`: noise `x0` to step `t` with `eps`, call `model(xt, ts)` for the noise, turn the answer into pictures (unclipped), and divide their mean squared error by that of the mean
# picture of this batch. Then measure held-out pictures: from which step is our network worse than not looking?

# %%
def error_share(model, x0, eps, t, alpha_bar):        # (B, C, H, W) twice, a whole number, (T,)
    raise NotImplementedError                         # -> a tensor of shape ()


# %%
check("02-silence", error_share)


# %% [markdown]
# **Solution.** Where the share passes 1, between 900 and 950. By $\mathrm{err}_{x_0}=\mathrm{err}_\varepsilon/\mathrm{SNR}$ it has to come: some error of the noise remains, and the SNR goes to 0.

# %% tags=["solution"]
def error_share(model, x0, eps, t, alpha_bar):
    a = alpha_bar[t]
    eps_pred = model(a.sqrt() * x0 + (1 - a).sqrt() * eps, torch.full((len(x0),), t))
    x0_pred = x0 + (1 - a).sqrt() / a.sqrt() * (eps - eps_pred)             # the line of idea 2
    return ((x0_pred - x0) ** 2).mean() / ((x0.mean(0) - x0) ** 2).mean()

print(check("02-silence", error_share))
with torch.no_grad():
    for t in (500, 700, 800, 850, 900, 950, 980):
        print(f"t = {t}: {error_share(trained, unseen, gaussian(len(unseen), seed=t), t, SCHEDULE.alpha_bar):.2f}")


# %% [markdown]
# ### Exercise 02.3 (transfer) · What a label buys
#
# Somebody tells the ideal predictor that the picture is a heart. Write `ideal_with_label`: the best prediction for `xt` among `data` when only those with `labels == wanted` are possible. It should survive an `xt` far from all data.

# %%
def ideal_with_label(xt, data, labels, wanted, alpha_bar_t):   # (B, D), (N, D), (N,), a whole number, ()
    raise NotImplementedError                                  # -> (B, D)


# %%
check("02-known-label", ideal_with_label)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def ideal_with_label(xt, data, labels, wanted, alpha_bar_t):
    data = data[labels == wanted]                                         # what the label excludes has probability 0
    offset = xt[:, None] - alpha_bar_t.sqrt() * data[None]                # (B, N', D)
    return torch.softmax(-(offset**2).sum(-1) / (2 * (1 - alpha_bar_t)), dim=1) @ data

check("02-known-label", ideal_with_label)


# %% [markdown]
# ### Exercise 02.4 (find the bug) · A run that draws soup
#
# This loop runs without a complaint, and draws this. Find the one wrong word. Begin by printing, in every
# round, the step of `xt`, the step the network is told, the spread of its answer.

# %% alt="Six squares of coloured noise."
@torch.no_grad()
def broken_loop(model, xT, alpha_bar, steps):
    table, xt = torch.linspace(len(alpha_bar) - 1, 0, steps).long().tolist(), xT
    for i, t in enumerate(table):
        a, a_next = alpha_bar[t], alpha_bar[table[i + 1]] if i + 1 < steps else torch.tensor(1.0).to(alpha_bar)
        eps = model(xt, torch.full((len(xt),), i))
        x0 = ((xt - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        xt = a_next.sqrt() * x0 + (1 - a_next).sqrt() * eps
    return xt

plotting.show_pictures(broken_loop(trained, noises[:6], SCHEDULE.alpha_bar, 50), title="The broken loop", scale=0.8)
plt.show()


# %% [markdown]
# Write the loop again, mended.

# %%
def mended_loop(model, xT, alpha_bar, steps):
    raise NotImplementedError


# %%
check("02-broken-loop", mended_loop)


# %% [markdown]
# **Solution.** The network is told the counter `i`, 0 to 49, and takes every $x_t$ for nearly clean. It has to be told `t`.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
@torch.no_grad()
def mended_loop(model, xT, alpha_bar, steps):
    table, xt = torch.linspace(len(alpha_bar) - 1, 0, steps).long().tolist(), xT
    for i, t in enumerate(table):
        a, a_next = alpha_bar[t], alpha_bar[table[i + 1]] if i + 1 < steps else torch.tensor(1.0).to(alpha_bar)
        eps = model(xt, torch.full((len(xt),), t))
        x0 = ((xt - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        xt = a_next.sqrt() * x0 + (1 - a_next).sqrt() * eps
    return xt

check("02-broken-loop", mended_loop)


# %% [markdown]
# ### Exercise 02.5 (measure, then open) · Copied or new?
#
# Write `copy_score`: each drawing's distance to the nearest `known` picture or its mirror image, over the median of that distance for `held_out`: 0 is a copy, 1 a typical new picture.
# **Open**: score drawings of `nets["x0"]` and of the longer-trained `noise-predictor` (also x0). Does training bring copies?

# %%
def copy_score(drawings, known, held_out):            # (N, C, H, W), (M, C, H, W), (K, C, H, W)
    raise NotImplementedError                         # -> (N,)


# %%
check("02-copies", copy_score)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def copy_score(drawings, known, held_out):
    every = torch.cat([known, known.flip(-1)]).flatten(1)
    near, typical = (torch.cdist(x.flatten(1), every).amin(1) for x in (drawings, held_out))
    return near / typical.median()

check("02-copies", copy_score)

# %% tags=["solution"]
longer = draw(noises, checkpoints.load("noise-predictor", noise_predictor.model()), "x0")
for name, x in (("six minutes", drawn["x0"]), (f"{checkpoints.card('noise-predictor')['minutes']:.0f} minutes", longer)):
    print(f"{name} of training: {Mean.of(copy_score(x, pictures, unseen)).text(2)}")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# Squared errors teach a network the mean of all pictures that could hide in the noise. A small step towards it, repeated, is
# a drawing. The best possible predictor can only copy; one that falls short of it draws what is not in the set.
#
# | symbol | code | meaning |
# |---|---|---|
# | $x_0$, $x_t$, $\varepsilon$, $v$ | `x0`, `xt`, `eps`, `target("v", …)` | picture, noisy picture, noise, their mix |
# | $\hat x_0$, $\hat\varepsilon$ | `to_x0(pred, …)`, `to_eps(pred, …)` | what an answer implies |
# | $\mathrm{err}_\varepsilon=\mathrm{SNR}\cdot\mathrm{err}_{x_0}$ | `schedule.snr` | one answer, two units |
# | $L$ | `diffusion_loss(model, x0, schedule, …)` | what training makes small |
# | $x_t\to x_{t-1}$ | `ddpm(model, xT, schedule, …)` | the loop; `sample` runs it to the end |
#
# **What we did not show.** The derivation of the step, a measure of quality (03); how to say *what* to draw (04).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What fails next: a thousand steps are slow
#
# We skipped most of the 1000 steps without asking. What does that cost, and what would all of them?

# %% alt="Six noises drawn with DDPM in 5, 20 and 100 steps." slideshow={"slide_type": "-"}
import time

rows = {}
for steps in (5, 20, 100):
    began = time.perf_counter()
    rows[f"{steps} steps"] = draw(noises[:6], steps=steps)
    seconds = (time.perf_counter() - began) / 6
    print(f"{steps:4d} steps of DDPM: {seconds:.2f} s a picture")
print(f"1000 steps, ten times the last line: {10 * seconds:.0f} s a picture, for {SIZE}×{SIZE} pixels")
plotting.show_rows(rows, title="DDPM in fewer steps", scale=0.8)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# A thousand steps take 2 seconds a picture, and the eye hardly tells twenty from a hundred. **Notebook 03** derives the step, measures quality, and finds samplers that need far fewer.

# %% [markdown]
# ## References
#
# - J. Ho et al., *Denoising diffusion probabilistic models*, 2020, arXiv 2006.11239: equations 6, 7, 11, 14, section 3.4, table 2, algorithms 1 and 2, appendix B.
# - P. Vincent, *A connection between score matching and denoising autoencoders*, Neural Computation, 2011.
# - T. Salimans and J. Ho, *Progressive distillation for fast sampling of diffusion models*, 2022, arXiv 2202.00512: $v$ (appendix D).
# - O. Ronneberger et al., *U-Net*, 2015, arXiv 1505.04597.
# - E. Hoogeboom et al., *simple diffusion*, 2023, arXiv 2301.11093.
# - A. Vaswani et al., *Attention is all you need*, 2017, arXiv 1706.03762: equation 1, section 3.5.

# %% [markdown]
# ← [01 · Forward noising](01_forward_noising.ipynb) · [Contents](00_start_here.ipynb) · [03 · Sampling](03_sampling.ipynb) →

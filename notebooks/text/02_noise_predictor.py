# %% [markdown] slideshow={"slide_type": "slide"}
# # 02 · Noise predictor: how can a network that guesses noise draw?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/pictures-from-noise/blob/main/notebooks/02_noise_predictor.ipynb)
#
# | | |
# |---|---|
# | **Time** | a 60-minute lecture; three hours with the exercises; the code runs in under three minutes |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebook 01 (noising in closed form, schedules); a first course in PyTorch |
# | **Where we are** | text encoder → **[generator]** → decoder |
#
# In notebook 01 noise gave us training examples for free: noisy picture, step, noise. Here we train a network on them. It
# never learns to draw. It learns to say *which part of this is noise*.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 3 min.* Ask the room first: "If I remove the noise from pure noise, what is left?" Collect answers on the board and
# come back to them after the film strip. The mistake to wait for: one guess, subtracted at once, gives a picture.

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

# %% [markdown] slideshow={"slide_type": "-"}
# We build the middle module. There is no text yet, and no decoder: the generator works on pixels.

# %% slideshow={"slide_type": "-"}
import matplotlib.pyplot as plt
from course_utils.figures import plotting
from course_utils.figures.diagrams import plot_heatmap, strip, unet_diagram

plotting.use_course_style()
strip("generator")
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The result first
#
# Each picture starts as other Gaussian noise. One small network is called fifty times. We show all drawings, good and bad.

# %% slideshow={"slide_type": "-"}
import torch
from course_utils import checkpoints
from course_utils.generator.samplers import ddim, sample
from course_utils.recipes import noise_predictor

trained, card = checkpoints.load("noise-predictor", noise_predictor.model()), checkpoints.card("noise-predictor")
SIZE, KIND, SCHEDULE = noise_predictor.SIZE, noise_predictor.PREDICTION, noise_predictor.SCHEDULE

def gaussian(count, seed):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))

samples = sample(ddim, trained, gaussian(16, seed=0), SCHEDULE, steps=50, prediction=KIND)
print(f"the network: {card['parameters']:,} parameters, {card['minutes']:.0f} minutes of training on {card['hardware']}")
plotting.show_pictures(samples, columns=8, title="Sixteen noises, sixteen drawings, none left out")
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## What we build
#
# 1. The best possible guesser in closed form, and the reason why a worse one draws new pictures.
# 2. A U-Net from its blocks; weights of `diffusers` load into it without a key map.
# 3. The loss, and the loop that turns guesses into pictures (DDPM).
# 4. A live training run, and experiments on what the loop does to odd starts.

# %% [markdown]
# ## Setup

# %%
import math

import torch.nn.functional as F
from torch import nn
from collections.abc import Iterator
from course_utils.checks.core import check, hint
from course_utils.data import FIRST_STYLES, load_emoji, to_tensor
from course_utils.errors import InputError, one_of
from course_utils.generator.objectives import diffusion_loss, to_eps, to_x0
from course_utils.generator.samplers import State, alpha_bar_at, check_noise, ddpm, noise_like, step_pairs, timesteps
from course_utils.generator.schedules import Schedule, add_noise, make_schedule
from course_utils.generator.unet import UNet

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: a face made of points
#
# A picture of $S\times S$ pixels is a point in a space with $3S^2$ axes, too many to look at. So we begin with two: every *data point*
# is one dot of a smiley. To generate is to find new dots that lie on the face.

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
# The network is a plain MLP. It gets the noisy dot and the step as sine waves (idea 3). `use_step=False` hides the step: we need that
# later.

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
# Training is ordinary regression: noise a dot, ask for the noise, compare with the noise that was really added.

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
# **Predict.** We noise dots to step 900, ask for the noise, and subtract it all at once. Do we get the face back?
#
# <details><summary>Answer</summary>
# No. At step 900 a dot could have come from anywhere on the face. The squared error is smallest for the average of all
# candidates, and the average of a face is its middle.
# </details>

# %% slideshow={"slide_type": "subslide"}
@torch.no_grad()
def compare_walks(net):
    t = torch.full((len(points),), 900)
    xt = add_noise(points, torch.randn(points.shape, generator=torch.Generator().manual_seed(2)), t, cosine)
    once = to_x0(net(xt, t), xt, t, cosine)                                              # all noise removed at once
    walk = sample(ddpm, net, torch.randn(points.shape, generator=torch.Generator().manual_seed(3)), cosine, steps=100,
                generator=torch.Generator().manual_seed(4))                              # a little, a hundred times
    for name, cloud in (("one guess", once), ("a hundred guesses", walk)):
        print(f"{name}: {(torch.cdist(cloud, points).amin(1) < 0.05).float().mean():.0%} of the dots lie on the face")
    return xt, once, walk

noisy, once, walk = compare_walks(point_net)
plotting.plot_points([points[::4], {plotting.NOISE: noisy[::4]}, {plotting.MODEL: once[::4]}, {plotting.MODEL: walk[::4]}],
                     ["data", "noised, t = 900", "one guess", "100 guesses"], "One guess is an average", limit=1.5)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The same network fails in one step and succeeds in a hundred. The rest explains why, and moves from two axes
# to thousands. **Limit**: an MLP has no idea that pixels have neighbours; pictures need another network.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 7 min.* Stay with the middle panels. The one-guess cloud is the network doing its job perfectly: least squares gives the mean.
# The words to repeat: "a guess is an average over all pictures that could hide in this noise".

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 1 · The best possible guess is an average
#
# **Intuition.** Our training set is finite, so we can do better than a network: list every picture $x_i$, ask how
# likely it is to have become this $x_t$, and average with those weights.
#
# **Notation.** $x_0$ clean picture, $x_t$ noisy picture, $\bar\alpha_t$ share of signal left, $N$ pictures in the set.
#
# $$\hat x_0(x_t)=\mathbb{E}[x_0\mid x_t]=\sum_{i=1}^N w_i\,x_i,\qquad
# w_i=\operatorname{softmax}_i\!\Big(-\frac{\lVert x_t-\sqrt{\bar\alpha_t}\,x_i\rVert^2}{2\,(1-\bar\alpha_t)}\Big)$$
#
# The weight $w_i$ is Bayes' rule: all pictures are equally likely beforehand, and $1-\bar\alpha_t$ is the variance of the noise.
# No function of $x_t$ has a smaller squared error on the training set (Vincent 2011 ties this to the score).
#
# **Predict.** This guesser is perfect. We sample with it, from pure noise to the end. What does it draw?
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
    weight = torch.softmax(logits / sigma**2, dim=1)                                     # (B, 2N)
    return (weight @ every).view_as(xt).to(xt)

# %% [markdown]
# **Check** against three things we know: at the last step nothing is known, so the guess is the mean picture; at the first step
# the guess is the picture itself; and a full run of the sampler ends on members of the set.

# %%
# NBVAL_CHECK_OUTPUT
last, first = torch.full((8,), SCHEDULE.num_steps - 1), torch.zeros(8, dtype=torch.long)
mean_gap = (ideal_x0(gaussian(8, seed=1), last) - known.mean(0)).abs().max()
same_gap = (ideal_x0(add_noise(pictures[:8], gaussian(8, seed=1), first, SCHEDULE), first) - pictures[:8]).abs().max()
redrawn = sample(ddim, ideal_x0, gaussian(8, seed=1), SCHEDULE, steps=50, prediction="x0")
copies = torch.cdist(redrawn.flatten(1), known.flatten(1)).amin(1) < 0.1
print("pictures:", tuple(pictures.shape), "held out:", tuple(unseen.shape))
print("mean at the last step:", bool(mean_gap < 0.02), "| picture at the first:", bool(same_gap < 1e-3))
print(f"samples that end on a training picture: {int(copies.sum())} of 8")

# %% [markdown] slideshow={"slide_type": "subslide"}
# Now a picture that neither guesser has met, noised more and more.

# %% slideshow={"slide_type": "-"}
@torch.no_grad()
def network_x0(xt, t):
    return to_x0(trained(xt, t), xt, t, SCHEDULE, KIND).clamp(-1, 1)

columns = torch.tensor([50, 300, 600, 750, 850, 950])
xt = add_noise(unseen[10].expand(6, -1, -1, -1), gaussian(6, seed=3), columns, SCHEDULE)
rows = {"held-out picture, noisy": xt, "ideal guess": ideal_x0(xt, columns), "network's guess": network_x0(xt, columns)}
plotting.show_rows(rows, [f"t = {t}" for t in columns], "Two guesses at a picture that was never shown",
                   scale=0.65)
plt.show()

# %% [markdown]
# The ideal guesser answers with *another* picture, one that it knows, even when hardly any noise is left. We measure
# this for all held-out pictures.

# %% slideshow={"slide_type": "subslide"}
def guess_error(guess, x0, t):
    ts, eps = torch.full((len(x0),), t), torch.randn(x0.shape, generator=torch.Generator().manual_seed(t))
    return float(((guess(add_noise(x0, eps, ts, SCHEDULE), ts) - x0) ** 2).mean())

grid = [20, 150, 300, 450, 600, 700, 800, 900, 980]
cases = {"ideal, training pictures": (ideal_x0, pictures[::10], plotting.REFERENCE, "-"),
         "ideal, held-out pictures": (ideal_x0, unseen, plotting.REFERENCE, "--"),
         "network, training pictures": (network_x0, pictures[::10], plotting.MODEL, "-"),
         "network, held-out pictures": (network_x0, unseen, plotting.MODEL, "--")}
curves = {name: ([guess_error(guess, x0, t) for t in grid], *style) for name, (guess, x0, *style) in cases.items()}
for name, (errors, *_) in curves.items():
    print(f"{name:27s} error at t = {grid[2]}: {errors[2]:.4f}   at t = {grid[-1]}: {errors[-1]:.4f}")
plotting.plot_lines(grid, curves, "step t (0 clean, 1000 noise)", "mean squared error of $x_0$",
                    "Best on what it knows, poor on what is new", direct_labels=False)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** On training pictures the ideal guesser wins at every step. On held-out pictures it loses at small $t$: it can only
# answer with what it owns. The network treats both kinds nearly alike there. Its convolutions
# look for the same things at every place, and its training is short: it learns what the pictures share (edges, round faces, white
# paper) before it can store each of them. *Because it falls short of the
# ideal, it can draw something new.* **Limit**: this explains the possibility; near the end we measure
# how far our drawings are from the training set.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 9 min.* This is the deepest point of the lecture. Perfect training would give a photocopier. Ask: what should happen if we train
# a far larger network on these few hundred pictures for a week? (The curves meet the ideal's, and it copies.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 2 · Noise, picture, or a mix: three ways to ask
#
# **Intuition.** $x_t$ is a known mix of picture and noise. Who knows one of the two knows the other. So
# we may ask the network for either, or for a combination.
#
# **Notation.** $\varepsilon$ noise, $v$ the mix of Salimans and Ho, hats for what the network implies.
#
# $$x_t=\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon,\qquad v=\sqrt{\bar\alpha_t}\,\varepsilon-\sqrt{1-\bar\alpha_t}\,x_0$$
#
# $$\hat x_0=\frac{x_t-\sqrt{1-\bar\alpha_t}\,\hat\varepsilon}{\sqrt{\bar\alpha_t}}\;,\qquad
# \hat x_0=\sqrt{\bar\alpha_t}\,x_t-\sqrt{1-\bar\alpha_t}\,\hat v\;,\qquad
# \hat\varepsilon=\sqrt{\bar\alpha_t}\,\hat v+\sqrt{1-\bar\alpha_t}\,x_t$$
#
# **Predict.** Look at the first fraction near $t=T$, where $\sqrt{\bar\alpha_t}$ is almost 0. What happens to a small error in
# $\hat\varepsilon$?
#
# <details><summary>Answer</summary>
# It is divided by almost 0: a tiny error in the noise becomes a huge error in the picture. Asking for $x_0$ has the mirror
# problem near t = 0. v has no division at all.
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
# And the way back: whatever the network was asked, we can read its answer as a picture or as noise.

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
# With perfect answers all three are the same. Networks are not perfect, so we try: three equal tiny U-Nets, real pictures shrunk
# to 8×8, seconds each.

# %%
tiny = F.adaptive_avg_pool2d(pictures, 8)                                                # (N, 3, 8, 8)

def fit_tiny(kind, num_steps=200):
    torch.manual_seed(0)
    net = UNet(channels=(16,), num_res_blocks=1, attention=(False,), mid_attention=False, groups=8)
    optimizer, generator = torch.optim.AdamW(net.parameters(), lr=5e-3), torch.Generator().manual_seed(1)
    decay, losses = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, num_steps), []
    for _ in range(num_steps):
        x0 = tiny[torch.randint(len(tiny), (32,), generator=generator)]
        loss = diffusion_loss(net, x0, SCHEDULE, kind, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.item())
    print(f"{kind:3s} trained: its own loss is {sum(losses[-100:]) / 100:.3f}")
    return net

tiny_nets = {kind: fit_tiny(kind) for kind in PREDICTIONS}

# %% [markdown] slideshow={"slide_type": "-"}
# The three losses measure different things, so they cannot be compared. We translate every answer into a picture *and* into
# noise, and compare those.

# %% slideshow={"slide_type": "-"}
@torch.no_grad()
def errors(kind, net, t):
    ts, eps = torch.full((len(tiny),), t), torch.randn(tiny.shape, generator=torch.Generator().manual_seed(t))
    xt = add_noise(tiny, eps, ts, SCHEDULE)
    pred = net(xt, ts)
    return [float(((read(pred, xt, ts, SCHEDULE, kind) - true) ** 2).mean()) for read, true in ((to_x0, tiny), (to_eps, eps))]

print("error of the picture | of the noise, at t =    5               500               980")
for kind, net in tiny_nets.items():
    print(f"{kind:>36s}   " + "   ".join("{:7.4f} | {:7.4f}".format(*errors(kind, net, t)) for t in (5, 500, 980)))
start = torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(2))
rows = {f"asked for {kind}": sample(ddim, net, start, SCHEDULE, steps=50, prediction=kind) for kind, net in tiny_nets.items()}
print(f"our recipe asks for: {KIND}")
plotting.show_rows({**rows, "real, 8×8": tiny[::45][:10]}, title="The same noise, three kinds of question", scale=0.7)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Asked for noise, the network errs wildly about the picture at $t=980$: the drawings begin with
# wrong colours and never fully recover. Asked for the picture, it errs about the noise at small $t$: smooth drawings, few details.
# $v$, the mix, is never the worst at either end. DDPM asks for noise, with a far larger network and longer training; our recipe asks
# for one of the two kinds that stay calm at the noisy end (the last line printed above). Whatever it asks, `to_eps` turns the answer
# into a guess of the noise, so *noise predictor* stays the right name. **Limit**: a short run on tiny pictures.
# The results of the DDPM paper come from asking for noise.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 7 min.* Draw the two ends on the board: at t = T the input IS the noise, so guessing noise is copying; at t = 0 the input IS the
# picture. v asks at each end for what the input does not show.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 3 · One network for all steps: tell it the step
#
# **Intuition.** At large $t$ the network should paint rough shapes, at small $t$ it should polish edges. It is one network, so it has to
# know which job it is doing. We give it the step as many clocks of different speed.
#
# **Notation.** $d$ size of the vector, $\omega_i$ frequency of clock $i$.
#
# $$e(t)=\big[\cos(\omega_0t),\dots,\cos(\omega_{d/2-1}t),\;\sin(\omega_0t),\dots,\sin(\omega_{d/2-1}t)\big],\qquad \omega_i=10000^{-2i/d}$$
#
# **Predict.** Which part of $e(t)$ separates $t=500$ from $t=501$, and which part separates $t=100$ from $t=900$?
#
# <details><summary>Answer</summary>
# The fast clocks (small i) change from one step to the next; the slow ones hardly move, and that is why they tell early
# from late: they do not come round again.
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

# %% [markdown] slideshow={"slide_type": "subslide"}
# Every eighth step at once: one column is what the network is told at that step (here with $d=16$).

# %% slideshow={"slide_type": "-"}
clocks = sinusoidal_embedding(torch.arange(0, 1000, 8), 16).T                            # (16, 125)
figure = plot_heatmap(clocks, title="The step as 16 numbers", xlabel="step t", ylabel="entry of e(t)")
figure.axes[0].set(aspect="auto", xticks=[0, 62, 124], xticklabels=[0, 496, 992], yticks=[0, 7, 15])
figure.set_size_inches(7, 2.4)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# Cosines above, sines below; in each half the clocks slow down. What breaks without them? We train the point network again, blind
# to the step.

# %% slideshow={"slide_type": "subslide"}
torch.manual_seed(0)
blind_net = PointNet(use_step=False)
loss_without_step = fit_points(blind_net)
print(f"loss with the step {loss_with_step:.3f}, without {loss_without_step:.3f}")
blind_walk = compare_walks(blind_net)[2]
plotting.plot_points([points[::4], {plotting.MODEL: walk[::4]}, {plotting.NOISE: blind_walk[::4]}],
                     ["data", "knows the step", "blind to the step"], "Sampling needs to know the step", limit=1.5)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The loss rises a little; the drawing falls apart. Small errors of a blind guess point the
# move to the wrong scale, and a hundred steps add them up. **Limit**: two axes are the hard case. A picture has thousands of
# pixels, so a network can estimate the noise from the picture itself, and the damage is smaller.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 5 min.* A loss that differs in the second decimal, and a drawing that is lost: losses of diffusion models are poor judges.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 4 · The U-Net, block by block
#
# **Intuition.** To guess noise in a pixel we need its neighbours (is this an edge?) and the whole (is this a face?). A U-Net
# looks at the picture at several sizes: down to see the whole, up to return to pixels, with *skips* that carry details across.
#
# **Notation.** $h$ features (B, C, H, W); $e$ the embedded step.
#
# $$h'=\operatorname{conv}\!\big(\sigma(\operatorname{norm}(h))\big)+W\sigma(e),\qquad \operatorname{res}(h,e)=h+\operatorname{conv}\!\big(\sigma(\operatorname{norm}(h'))\big)$$
#
# where $\sigma$ is SiLU, norm is GroupNorm, and $W\sigma(e)$ is one number per channel: *the step enters every block*.
#
# **Predict.** Set the last convolution to zero. What does the block do before training?
#
# <details><summary>Answer</summary>
# Nothing: it hands on h. A deep network of such blocks can start as a short one, and training adds what is needed; DDPM's code
# starts so.
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
for parameter in ours.conv2.parameters():
    nn.init.zeros_(parameter)
print("with conv2 = 0 only the shortcut is left:", torch.equal(ours(x, temb), ours.conv_shortcut(x)))

# %% [markdown]
# **Down and up.** A convolution with stride 2 halves the side; going up, we repeat pixels and smooth.

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
# **Attention.** A convolution sees a few neighbours. Two eyes of one face are far apart, and should match. Attention lets every
# place ask every other place: queries $Q$, keys $K$, values $V$, all of width $d$ per head.
#
# $$\operatorname{attention}(Q,K,V)=\operatorname{softmax}\!\Big(\frac{QK^{\top}}{\sqrt d}\Big)V$$
#
# The class already accepts a `context`: in notebook 04 it will be text. Here pixels ask pixels.

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
# **Check** shapes, and a known property: attention knows no places. Shuffle the pixels, and the answer is shuffled alike.

# %%
# NBVAL_CHECK_OUTPUT
block, x, order = AttentionBlock(16, num_heads=2, groups=8), torch.randn(2, 16, 8, 8), torch.randperm(64)

def shuffled(x):
    return x.flatten(2)[:, :, order].view_as(x)

print("down:", tuple(Downsample2D(16)(x).shape), "up:", tuple(Upsample2D(16)(x).shape), "attention:", tuple(block(x).shape))
print("attention commutes with shuffling:", torch.allclose(block(shuffled(x)), shuffled(block(x)), atol=1e-5))

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Levels.** A level of the way down keeps all its results; the level opposite pops them from the pile, last in, first out, and
# joins them to its own features. That is the skip.

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
# **All together.** Two levels, one residual block a level (two on the way up, one for each skip). The library's `UNet` is this
# draft with a loop over levels.

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
# For speed on a laptop, `Patched` folds 2×2 pixels into channels, so the network works on a quarter of the places
# and loses no pixel (Hoogeboom et al., section 3.4).

# %%
# @save course_utils/generator/unet.py
class Patched(nn.Module):
    def __init__(self, unet: nn.Module, patch: int = 2):
        super().__init__()
        self.unet, self.patch = unet, patch

    def forward(self, x, t, **conditions):
        x = F.pixel_unshuffle(x, self.patch)  # (B, C p^2, H/p, W/p)
        return F.pixel_shuffle(self.unet(x, t, **conditions), self.patch)

# %%
# NBVAL_CHECK_OUTPUT
x = gaussian(2, seed=0)
print("folded and back, unchanged:", torch.equal(Patched(lambda x, t: x)(x, None), x))
print("picture in, answer out:", tuple(x.shape), "->", tuple(trained(x, torch.tensor([3, 700])).shape))

# %% [markdown] slideshow={"slide_type": "subslide"}
# The diagram is read off the trained network. Each box says the side of the features and their number of channels.

# %% slideshow={"slide_type": "-"}
unet_diagram(trained.unet, SIZE // trained.patch, "The network behind the first figure: side · channels")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** From left to right: the way down, the middle, the way up. Skips (dashed) carry fine detail past the small
# sizes, where it cannot survive. **Limit**: attention costs the square of the number of places, so it
# stands only where the picture is small.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 9 min.* Do not read the code aloud. Show one forward pass on the diagram with a finger, and say the shape at each box. The line to
# dwell on: x = torch.cat([x, skips.pop()], dim=1).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 5 · Guess, take a small step, guess again
#
# **Intuition.** One guess is an average. But a small step towards the average removes a little noise and rules out some
# candidates. The next guess is an average over fewer. After many steps one picture is left.
#
# **Notation.** $\hat x_0$ the picture implied by the guess at step $t$; $z$ fresh Gaussian noise; $\alpha_t=1-\beta_t$.
#
# $$x_{t-1}=\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,\hat x_0+\frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t+\sigma_t z,\qquad
# \sigma_t^2=\frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t$$
#
# The first term pulls to the guess, the second keeps most of where we are, the third puts a little noise back
# (DDPM, equations 6 and 7). Notebook 03 derives it; here we use it.
#
# **Predict.** How many networks do we need for 50 steps?
#
# <details><summary>Answer</summary>
# One. The same weights are called at every step; only x_t and t change.
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
# `steps=50` visits every twentieth of the 1000 steps; `timesteps` and `step_pairs` make that list. **Check** against `diffusers`: same network,
# same noise, ten steps, every state compared.

# %%
# NBVAL_CHECK_OUTPUT
names = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
peer = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=names[KIND])
peer.alphas_cumprod = SCHEDULE.alpha_bar.clone()             # the same table, to the last digit
peer.set_timesteps(10)
xt, generator, gaps = gaussian(2, seed=0), torch.Generator().manual_seed(7), []
for state in ddpm(trained, xt, SCHEDULE, 10, KIND, torch.Generator().manual_seed(7)):
    with torch.no_grad():
        answer = trained(xt, torch.full((2,), state.t))
    xt = peer.step(answer, state.t, xt, generator=generator).prev_sample
    gaps.append(float((xt - state.xt).abs().max()))
print(len(gaps), "steps, all equal to 1e-4:", max(gaps) < 1e-4)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Now the figure that answers our question.

# %% slideshow={"slide_type": "-"}
def film(model, xT, steps=50, shown=(1, 10, 20, 30, 40, 50)):
    rows, xt = {"$x_t$": [], "predicted noise": [], "predicted picture": []}, xT
    for state in ddpm(model, xT, SCHEDULE, steps, KIND, torch.Generator().manual_seed(1)):
        if state.step in shown:
            signal, sigma = SCHEDULE.at(torch.tensor([state.t]), xt)
            for row, picture in zip(rows.values(), (xt, (xt - signal * state.x0) / sigma, state.x0), strict=True):
                row.append(picture[0])
        xt = state.xt
    return rows, [f"step {s}" for s in shown]

rows, labels = film(trained, gaussian(1, seed=4))
plotting.show_rows(rows, labels, "How a network that guesses noise draws", scale=0.65)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Bottom row: the first guess is a blur, the average of nearly all pictures. It is no picture, but a direction. As $x_t$ (top) loses noise, the blur splits into shapes and sharpens. No step is large; none has to be right. (If the
# last predicted noise looks odd: hardly any is left there, and reading a picture as noise divides by almost 0, idea 2.)
# **Limit**: early decisions tend to stay, right or wrong; the experiment below makes use of that.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 7 min.* Go back to the answers on the board. One guess of the noise, subtracted at once, is the bottom left picture. The drawing is
# in the repetition. Ask which column the fate of the picture is decided in.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The key piece: the loss
#
# All of training is one function: draw a step and a noise for every picture, mix, ask, compare (DDPM, algorithm 1).
#
# $$L=\mathbb{E}_{x_0,\,t,\,\varepsilon}\big\lVert y_\theta(x_t,t)-y\big\rVert^2,\qquad y\in\{\varepsilon,\;x_0,\;v\}$$
#
# $y_\theta$ is the network with weights $\theta$, $y$ what we asked for; with $y=\varepsilon$ this is DDPM's equation 14.

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/objectives.py
def diffusion_loss(model, x0, schedule, prediction="eps", generator=None, weight=None, t=None, **conditions):
    t = torch.randint(schedule.num_steps, (len(x0),), generator=generator) if t is None else t
    t = t.to(x0.device)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    pred = model(add_noise(x0, eps, t, schedule), t, **conditions)
    error = F.mse_loss(pred.float(), target(prediction, x0, eps, t, schedule), reduction="none").flatten(1).mean(1)
    return (error if weight is None else weight(t) * error).mean()

# %% [markdown]
# **Check.** A "network" that always answers 0 must score the variance of the noise, which is 1.

# %%
# NBVAL_CHECK_OUTPUT
def silent(xt, t):
    return torch.zeros_like(xt)

loss = diffusion_loss(silent, pictures, SCHEDULE, "eps", torch.Generator().manual_seed(0))
print(f"silent answer, asked for noise: {loss:.2f}")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Train it
#
# How long, and what loss is normal? The worst sensible answer is silence, the best we have is the checkpoint. A short run ends
# between them.

# %% slideshow={"slide_type": "-"}
LIVE_MINUTES = 1.2

@torch.no_grad()
def mean_loss(model):
    return float(diffusion_loss(model, known[::4], SCHEDULE, KIND, torch.Generator().manual_seed(0)))

silence, patience = mean_loss(silent), mean_loss(trained)
band = (patience, patience + 0.15 * (silence - patience))
print(f"expected: {60 * LIVE_MINUTES:.0f} s. Silence scores {silence:.3f}, the checkpoint {patience:.3f};")
print(f"a normal short run ends between {band[0]:.3f} and {band[1]:.3f}.")

# %% slideshow={"slide_type": "-"}
from course_utils.training import train
from course_utils.figures.widgets import explore, training_monitor

history = [(state.step, state.loss, state) for state in training_monitor(train(noise_predictor.RECIPE, LIVE_MINUTES))]
steps, losses, (*_, end) = zip(*history, strict=True)
live = end.ema.to("cpu")

# %% [markdown]
# The loop behind `train` is the one we wrote for the points, with three habits of the trade: a rate that falls at the end,
# gradients clipped at 1, and a moving average of the weights (`ema`), with which we draw. **Is this normal?**

# %% slideshow={"slide_type": "subslide"}
last_loss = mean_loss(live)
print(f"{end.step:,} steps, {end.pictures:,} pictures seen, loss {last_loss:.3f}: ", end="")
print("normal." if band[0] <= last_loss <= band[1] else "better than usual." if last_loss < band[0] else
      "higher than usual. A slow or busy machine takes fewer steps: raise LIVE_MINUTES and run again.")
plotting.plot_loss(steps, losses, band, "Live training on this machine")
plt.show()

# %% slideshow={"slide_type": "subslide"}
start = gaussian(6, seed=0)
drawn = {name: sample(ddim, net, start, SCHEDULE, steps=25, prediction=KIND)
         for name, net in (("live run", live), ("checkpoint", trained))}
plotting.show_rows({**drawn, "real pictures": pictures[::70][:6]},
                   title=f"The same noise after {60 * LIVE_MINUTES:.0f} seconds and {card['minutes']:.0f} minutes of training",
                   scale=0.65)
plt.show()
print(f"The checkpoint was trained by this same cell for {card['minutes']:.0f} minutes ({card['steps']:,} steps).")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The short run is poor, and honest. Look for what it learns first: white paper, a round shape, a colour. Features
# of a face come later, and fine lines last. The checkpoint is the same code with more patience.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Which steps are hard?
#
# **Predict.** Is the loss the same at all steps?
#
# <details><summary>Answer</summary>
# No. Read as noise, the answer errs most at small t (a little noise is hard to tell from texture) and least at large t (everything
# is noise). Read as a picture it is the other way round.
# </details>

# %% slideshow={"slide_type": "-"}
edges, table = torch.linspace(0, SCHEDULE.num_steps, 11).long().tolist(), []
for low, high in zip(edges, edges[1:], strict=False):
    x0, generator = known[::20], torch.Generator().manual_seed(low)
    t, eps = torch.randint(low, high, (len(x0),), generator=generator), torch.randn(x0.shape, generator=generator)
    xt = add_noise(x0, eps, t, SCHEDULE)
    with torch.no_grad():
        pred = trained(xt, t)
    table.append([float(((a - b) ** 2).mean()) for a, b in (
        (pred, target(KIND, x0, eps, t, SCHEDULE)), (to_eps(pred, xt, t, SCHEDULE, KIND), eps),
        (to_x0(pred, xt, t, SCHEDULE, KIND), x0))])
own, as_noise, as_picture = torch.tensor(table).T
print(f"loss as asked ({KIND}): {own[0]:.3f} in the first tenth of the steps, {own[-1]:.3f} in the last")
plotting.plot_lines([(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)],
                    {"read as noise": (as_noise, plotting.NOISE), "read as picture": (as_picture, plotting.DATA)},
                    "step t (0 clean, 1000 noise)", "mean squared error", "Error by step, in ten bins", logy=True)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The two curves cross. At small $t$ the picture is nearly given and the noise is the hard part; at large $t$ the noise
# is nearly given and the picture is the hard part. **Limit**: the curves do not say which error harms a drawing most; notebook 03 weighs the steps.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 5 min.* Start the live run before you talk about the loss: it runs while you speak. Read the band first, then look at the curve.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Experiment · Start from something else
#
# The loop does not have to start from pure noise. It can enter at any step $t$, if $x_t$ has the amount of noise that belongs to it. We draw a
# heart, noise it to step $t$, and finish from there.
#
# **Predict.** What survives of the heart if we start at 300? At 900?

# %%
def finish(xt, t, steps=25, sampler=ddim, seed=0):
    rest = Schedule.from_beta(SCHEDULE.beta[:t + 1])                                     # sampling from step t to 0
    return sample(sampler, trained, xt, rest, steps=min(steps, t + 1), prediction=KIND, spacing="trailing",
                generator=torch.Generator().manual_seed(seed))

y, x = torch.meshgrid(torch.linspace(1.35, -1.35, SIZE), torch.linspace(-1.35, 1.35, SIZE), indexing="ij")
inside = (x**2 + y**2 - 1) ** 3 - x**2 * y**3 <= 0                                       # (S, S), a heart
heart = torch.where(inside, torch.tensor([0.1, 0.7, -0.6]).view(3, 1, 1), torch.tensor(1.0))

# %% slideshow={"slide_type": "subslide"}
def shaped(t, steps=25, seed=2, count=4):
    xt = add_noise(heart.expand(count, -1, -1, -1), gaussian(count, seed), torch.full((count,), t), SCHEDULE)
    return [heart, xt[0], *finish(xt, t, steps)]

HEADS = ["drawing", "noised", *["finished"] * 4]
plotting.show_rows({f"start at t = {t}": shaped(t) for t in (300, 600, 900)}, HEADS,
                   "Noise with a shape in it: a green heart", scale=0.65)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** With a late start (small $t$) the heart stays, colour and all. With an early start only a hint is left,
# and the network draws what it likes. This is image-to-image, and its `strength` is our
# start $t$ (notebook 06). Move the sliders to find the range where the heart only *suggests*.

# %% slideshow={"slide_type": "subslide"}
def heart_figure(t, steps, seed):
    return plotting.show_rows({f"start at t = {t}": shaped(t, steps, seed)}, HEADS, f"{steps} steps, seed {seed}", scale=0.6)

explore(heart_figure, t=(100, 980, 20), steps=[25, 3, 5, 10, 50], seed=(0, 30))

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** Next we start at the last step from patterns that are not Gaussian. Which ones work?

# %% slideshow={"slide_type": "subslide"}
row = torch.arange(SIZE) // 4 % 2
board = (2 * (row[:, None] ^ row[None]) - 1).float().expand(1, 3, -1, -1)                # squares of -1 and 1
uniform = (2 * torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) - 1) * 3**0.5
starts = {"Gaussian": gaussian(1, seed=0), "uniform noise, variance 1": uniform, "checkerboard": board,
          "black": torch.full_like(board, -1)}

def outcomes(xT):
    last = SCHEDULE.num_steps - 1
    return torch.cat([xT, finish(xT, last), finish(xT.expand(2, -1, -1, -1), last, sampler=ddpm)])

plotting.show_rows({name: outcomes(xT) for name, xT in starts.items()},
                   ["start", "DDIM", "DDPM", "DDPM"], "Four starts, told it is noise", scale=0.7)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** DDIM (notebook 03) adds no noise, so the start decides. Uniform noise works like Gaussian: the network sums over many
# pixels, and sums forget the shape of a distribution. A checkerboard or black is like nothing it met at that step, and DDIM
# carries the pattern to the end. DDPM adds fresh Gaussian noise at every step. With our schedule its first step replaces nearly all of
# the start, so the rows end in nearly the same pictures (their fresh noise has one seed); only black
# leaves a trace. **Limit**: that rests on a schedule whose last
# step keeps next to nothing (notebook 01); with Stable Diffusion's, more of the start survives.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Are the drawings new?
#
# For each drawing we find the nearest training picture (mirrored ones too). The yardstick: how far are *held-out real* pictures?

# %% slideshow={"slide_type": "-"}
def nearest(x):
    distance, index = torch.cdist(x.flatten(1), known.flatten(1)).min(1)
    return distance / x[0].numel() ** 0.5, known[index]                                  # root mean square, per pixel

(ours, neighbours), (real, _), (ideal, _) = nearest(samples), nearest(unseen), nearest(redrawn)
for name, d in (("our drawings", ours), ("held-out real pictures", real), ("the ideal guesser's", ideal)):
    print(f"distance to the nearest training picture, {name:23s} median {d.median():.3f}, smallest {d.min():.3f}")
print(f"drawings nearer than every held-out picture: {int((ours < real.min()).sum())} of {len(ours)}")
plotting.show_rows({"drawing": samples[:6], "nearest training picture": neighbours[:6]},
                   [f"{d:.2f}" for d in ours[:6]], "Drawings, and what they resemble most", scale=0.65)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The ideal guesser's distance is 0: copies. Compare our drawings' median with that of the held-out pictures. A
# distance of the same size means: as different from the training set as real unseen pictures are. A drawing nearer than every
# held-out picture is suspect, and we count those. **Limit**: distance in pixels is blind to meaning, a bad drawing
# is also far away, and held-out pictures have cousins of other styles in the training set.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 5 min.* Let the room vote on "nearest training picture": copy, cousin or stranger? Then read the counts.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks · The answer is read as the wrong kind
#
# A frequent bug: the network was trained on one kind of question, the sampler reads its answer as another. Nothing crashes.

# %% slideshow={"slide_type": "-"}
WRONG = "eps" if KIND != "eps" else "v"
wrong = sample(ddim, trained, start, SCHEDULE, steps=25, prediction=WRONG)
plotting.show_rows({f"read as {KIND}": drawn["checkpoint"], f"read as {WRONG}": wrong}, title="One word wrong in the call of the sampler",
                   scale=0.65)
plt.show()
xt, t = add_noise(pictures[:64], gaussian(64, seed=0), torch.full((64,), 600), SCHEDULE), torch.full((64,), 600)
with torch.no_grad():
    for kind in (KIND, WRONG):
        implied = to_eps(trained(xt, t), xt, t, SCHEDULE, kind)
        print(f"read as {kind}: the implied noise has standard deviation {implied.std():.2f}")

# %% [markdown] slideshow={"slide_type": "-"}
# **The cause.** The printed numbers find it: real noise has standard deviation 1, and an answer that is read rightly stays near
# 1. In `diffusers` the same word is `prediction_type` of the scheduler, and it must be the one of training. Wrong colours or grey soup:
# look there first.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# Write the function, run the check: it tries fresh random cases and says what is likely wrong. Each exercise has three hints of
# rising strength, such as this one.

# %%
# NBVAL_CHECK_OUTPUT
hint("02-time-embedding", 1)

# %% [markdown]
# ### Exercise 02.1 (warm-up) · Tell the network the step
#
# Write `time_embedding`: it turns steps `t` (B,) into vectors (B, dim). With half = dim / 2, wave $i$ has frequency $\omega_i=10000^{-i/\text{half}}$; the vector holds all cosines $\cos(t\,\omega_i)$ first, then all sines $\sin(t\,\omega_i)$.
#
# Stuck? `hint("02-time-embedding", 1)`, then 2, then 3.

# %%
def time_embedding(t, dim):                           # (B,) whole numbers, even int
    raise NotImplementedError                         # -> (B, dim) float32, cosines first

# %%
check("02-time-embedding", time_embedding)

# %% [markdown]
# **Solution** (folded)

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def time_embedding(t, dim):
    half = dim // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half) / half)   # (half,)
    angle = t.float()[:, None] * frequency[None]                          # (B, half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)

check("02-time-embedding", time_embedding)

# %% [markdown]
# ### Exercise 02.2 (warm-up) · From a guess of the noise to a guess of the picture
#
# Write `picture_from_noise`: from `xt`, the predicted noise `eps_pred`, the step of every picture `t` (B,) and the whole table `alpha_bar` (T,) it returns the predicted clean picture, unclipped. The table is float64, the pictures are float32: the result should be float32 too.
#
# Stuck? `hint("02-eps-to-x0", 1)`.

# %%
def picture_from_noise(xt, eps_pred, t, alpha_bar):   # (B, C, H, W), (B, C, H, W), (B,), (T,)
    raise NotImplementedError                         # -> x0 (B, C, H, W)

# %%
check("02-eps-to-x0", picture_from_noise)

# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def picture_from_noise(xt, eps_pred, t, alpha_bar):
    a = alpha_bar[t].to(xt.dtype).view(-1, 1, 1, 1)
    return (xt - (1 - a).sqrt() * eps_pred) / a.sqrt()

check("02-eps-to-x0", picture_from_noise)

# %% [markdown]
# ### Exercise 02.3 (code) · The best possible guess
#
# If the data are a finite set $x_1,\dots,x_N$, the best possible guess of $x_0$ from $x_t$ is a weighted mean, $\sum_i w_i x_i$, with $w=\operatorname{softmax}_i\!\left(-\lVert x_t-\sqrt{\bar\alpha_t}\,x_i\rVert^2\,/\,2(1-\bar\alpha_t)\right)$. Write `ideal_denoiser` for `xt` (B, D), `data` (N, D) and a single number `alpha_bar_t`. It should also survive an `xt` far from all data.
#
# Stuck? `hint("02-ideal-denoiser", 1)`.

# %%
def ideal_denoiser(xt, data, alpha_bar_t):            # (B, D), (N, D), one number (a tensor of shape ())
    raise NotImplementedError                         # -> (B, D)

# %%
check("02-ideal-denoiser", ideal_denoiser)

# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def ideal_denoiser(xt, data, alpha_bar_t):
    offset = xt[:, None] - alpha_bar_t.sqrt() * data[None]                # (B, N, D)
    weight = torch.softmax(-(offset ** 2).sum(-1) / (2 * (1 - alpha_bar_t)), dim=1)
    return weight @ data                                                  # (B, N) @ (N, D) -> (B, D)

check("02-ideal-denoiser", ideal_denoiser)

# %% [markdown]
# ### Exercise 02.4 (code) · One step back
#
# Write `step_back`: the mean of $x_{t-1}$ given $x_t$ and the predicted noise, $\frac{1}{\sqrt{1-\beta_t}}\left(x_t-\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\varepsilon_\theta\right)$ (DDPM, eq. 11). All pictures of the batch stand at the same step, so `beta_t` and `alpha_bar_t` are single numbers (tensors of shape ()).
#
# Stuck? `hint("02-ddpm-mean", 1)`. Afterwards, explain: why is this the same mean as in idea 5?

# %%
def step_back(xt, eps_pred, beta_t, alpha_bar_t):     # (B, C, H, W), (B, C, H, W), (), ()
    raise NotImplementedError                         # -> mean (B, C, H, W)

# %%
check("02-ddpm-mean", step_back)

# %% [markdown]
# **Solution.** Put $\hat x_0$ from idea 2 into the mean of idea 5 and collect the terms in $x_t$: they add up to $x_t/\sqrt{\alpha_t}$.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def step_back(xt, eps_pred, beta_t, alpha_bar_t):
    share = beta_t / (1 - alpha_bar_t).sqrt()
    return (xt - share * eps_pred) / (1 - beta_t).sqrt()

check("02-ddpm-mean", step_back)

# %% [markdown]
# ### Exercise 02.5 (code) · The whole of training in four lines
#
# Write `training_step`: noise the pictures `x0` to their steps `t` with `eps`, call `model(xt, t)`, and return the mean squared error between its answer and the noise, as a tensor that carries a gradient. `alpha_bar` is the whole float64 table (T,). The backward pass belongs to the loop, not here.
#
# Stuck? `hint("02-training-step", 1)`.

# %%
def training_step(model, x0, alpha_bar, t, eps):      # model(xt, t) -> (B, C, H, W); (T,), (B,)
    raise NotImplementedError                         # -> loss, a tensor of shape ()

# %%
check("02-training-step", training_step)

# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def training_step(model, x0, alpha_bar, t, eps):
    a = alpha_bar[t].to(x0.dtype).view(-1, 1, 1, 1)
    xt = a.sqrt() * x0 + (1 - a).sqrt() * eps
    return ((model(xt, t) - eps) ** 2).mean()

check("02-training-step", training_step)

# %% [markdown]
# ### Exercise 02.6 (code, then open) · Where the way up meets the way down
#
# On the way up, the U-Net makes its features twice as large and lays beside them what the way down had kept at that size. Write `up_step`: `x` (B, C, H, W) is enlarged by repeating pixels (nearest neighbour), then joined with `skip` (B, K, 2H, 2W) along the channels, `x` first.
#
# Stuck? `hint("02-skip", 1)`. **Open**: train `DraftUNet` on the 8×8 pictures with all skips set to zero. What do the drawings lose first?

# %%
def up_step(x, skip):                                 # (B, C, H, W), (B, K, 2H, 2W)
    raise NotImplementedError                         # -> (B, C + K, 2H, 2W)

# %%
check("02-skip", up_step)

# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def up_step(x, skip):
    larger = torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")   # (B, C, 2H, 2W)
    return torch.cat([larger, skip], dim=1)

check("02-skip", up_step)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# A guess of the noise is an average over all pictures that could hide in it. A small step towards an average, repeated, is
# a drawing. The best possible guesser can only copy; a network that falls short of it draws what is not in the set.
#
# | symbol | code | meaning |
# |---|---|---|
# | $x_0$, $x_t$ | `x0`, `xt` | clean picture; picture at step $t$ |
# | $\varepsilon$, $v$ | `eps`, `target("v", …)` | noise; the mix of noise and picture |
# | $\hat x_0$, $\hat\varepsilon$ | `to_x0(pred, …)`, `to_eps(pred, …)` | picture and noise that an answer implies |
# | $e(t)$ | `sinusoidal_embedding(t, dim)` | the step as a vector |
# | $y_\theta(x_t,t)$ | `model(xt, t)` | the network, a `UNet` |
# | $L$ | `diffusion_loss(model, x0, schedule, …)` | what training makes small |
# | $x_t\to x_{t-1}$ | `ddpm(model, xT, schedule, …)` | the loop; `draw` runs it to the end |
#
# **What we did not show.** Where the step back comes from, and a measure of quality (notebook 03); how to say *what* to draw (04);
# learned variances; larger pictures.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What fails next: a thousand steps are slow
#
# The schedule has 1000 steps, and we skipped most of them without asking. What does that cost?

# %% slideshow={"slide_type": "-"}
import time

rows = {}
for steps in (5, 20, 100):
    began = time.perf_counter()
    rows[f"{steps} steps"] = sample(ddpm, trained, gaussian(4, seed=6), SCHEDULE, steps=steps, prediction=KIND,
                                  generator=torch.Generator().manual_seed(0))
    seconds = (time.perf_counter() - began) / 4
    print(f"{steps:4d} steps of DDPM: {seconds:.2f} s a picture")
print(f"1000 steps, ten times the last line: {10 * seconds:.0f} s a picture, for {SIZE}×{SIZE} pixels")
plotting.show_rows(rows, title="DDPM in fewer steps", scale=0.65)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# Few steps take the drawing apart; all steps take long, and this is a tiny picture from a tiny network. **Notebook 03** derives the
# step back, and finds samplers that need far fewer steps.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 3 min.* Exercises 02.1 and 02.4 make good homework; 02.3 deserves to be done together. Total: 60 min.

# %% [markdown]
# ## References
#
# - J. Ho, A. Jain, P. Abbeel, *Denoising diffusion probabilistic models*, 2020, arXiv 2006.11239: the step back (equations 6, 7, 11), the loss
#   (equation 14, algorithm 1), sampling (algorithm 2), the U-Net (appendix B).
# - J. Sohl-Dickstein et al., *Deep unsupervised learning using nonequilibrium thermodynamics*, 2015, arXiv 1503.03585: the idea.
# - P. Vincent, *A connection between score matching and denoising autoencoders*, Neural Computation, 2011: why the best denoiser knows the score.
# - T. Salimans, J. Ho, *Progressive distillation for fast sampling of diffusion models*, 2022, arXiv 2202.00512: $v$ (appendix D).
# - O. Ronneberger, P. Fischer, T. Brox, *U-Net*, 2015, arXiv 1505.04597: the shape of the network (figure 1).
# - E. Hoogeboom, J. Heek, T. Salimans, *simple diffusion*, 2023, arXiv 2301.11093: patches and schedules for larger pictures.
# - A. Vaswani et al., *Attention is all you need*, 2017, arXiv 1706.03762: attention (equation 1), sine waves (section 3.5).

# %% [markdown] slideshow={"slide_type": "slide"}
# # 05 · Latent VAE: can we paint a smaller picture and enlarge it faithfully?
#
# | | |
# |---|---|
# | **Time** | a 60-minute lecture; three hours with the exercises; the code runs in about two minutes |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebook 02 (blocks, training loop); mean, variance, a logarithm; what an eigenvector is |
# | **Where we are** | text encoder → generator → **[decoder]** |
#
# In notebook 04 four times the pixels meant four times the work, at every step. Here we build the third module: it turns a picture into a
# small *latent*, and a latent into a picture. The generator may then paint small.

# %% [markdown]
# ← [04 · Text conditioning](04_text_conditioning.ipynb) · [Contents](00_start_here.ipynb) · [06 · Stable Diffusion](06_stable_diffusion.ipynb) →

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
# We build the last module. There is no text here.

# %% alt="A strip of three boxes, text encoder, generator and decoder, joined by arrows; the decoder is filled." slideshow={"slide_type": "-"}
import matplotlib.pyplot as plt
from course_utils.figures import plotting
from course_utils.figures.diagrams import strip

plotting.use_course_style()
strip("decoder")
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The result first
#
# Eight pictures that training never showed, one in each drawing style. An **encoder** keeps four numbers for each of 16×16 places: the **latent**. A **decoder** paints the picture again, from those alone.

# %% slideshow={"slide_type": "-"}
import torch
import torch.nn.functional as F
from course_utils import checkpoints
from course_utils.data import STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.decoder.vae import VAE
from course_utils.evaluation.intervals import Mean
from course_utils.evaluation.metrics import psnr

SIZE, card = 64, checkpoints.card("vae-eight")
vae = checkpoints.load("vae-eight", VAE().to(memory_format=torch.channels_last))

def composed(style, n, split, seed):
    source = Composer(load_emoji(SIZE, style, split=split), languages=("en",), p_background=0.7)
    return to_tensor(source.compose(n, seed).images)                                     # (n, 3, 64, 64)

@torch.no_grad()
def encode(x, model=vae):
    return torch.cat([model.encode(part).mean for part in x.split(16)])                  # (B, 4, 16, 16)

@torch.no_grad()
def decode(z, model=vae):
    return torch.cat([model.decode(part) for part in z.split(16)]).clamp(-1, 1)          # (B, 3, 64, 64)


# %% [markdown]
# To *show* a latent we turn the four numbers of a place into a colour, by the one matrix that fits best (least squares).

# %% alt="Eight emoji, a duck, a Christmas tree, a squirrel at night and others; under each a coarse mosaic of 16 by 16 colours in which it is still to be guessed, and its copy, which looks like it." slideshow={"slide_type": "-"}
unseen = torch.cat([composed(style, 24, "test", seed=2) for style in STYLES])            # 192 held-out pictures, style by style
z = encode(unseen)
painted = decode(z)
places = F.pad(z.permute(0, 2, 3, 1), (0, 1), value=1.0)                                 # (B, 16, 16, 4 and a constant)
colours = F.avg_pool2d(unseen, 4).permute(0, 2, 3, 1)                                    # of each place's 4×4 pixels
matrix = torch.linalg.lstsq(places.flatten(0, 2), colours.flatten(0, 2)).solution        # (5, 3)
mosaic = places @ matrix
PICKED = [19, 42, 53, 88, 114, 125, 145, 178]                                            # one of each style
rows = {"picture": unseen[PICKED], "latent, as colours": mosaic.permute(0, 3, 1, 2)[PICKED], "painted from it": painted[PICKED]}
plotting.show_rows(rows, STYLES, "64×64 pixels → 16×16 places → 64×64 pixels", scale=1.2)
print(f"{unseen[0].numel():,} numbers -> {z[0].numel():,} -> {painted[0].numel():,}; copies of {len(unseen)} held-out pictures: {Mean.of(psnr(painted, unseen)).text(1, ' dB')}")
print(f"the mosaic explains {1 - (mosaic - colours).var() / colours.var():.0%} of the colours of the places")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **Decibels** (PSNR, the peak signal-to-noise ratio) score a copy: ten more mean a tenth of the squared error. The copies have 32.1 dB [31.5, 32.6] (brackets: 95 % intervals over pictures). The mosaic explains 78 % of the colours: *a latent is a small picture*, and what the mosaic leaves over.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## What we build
#
# 1. The best *linear* way to make pictures small.
# 2. A cloud in place of a point: the VAE, its bound, and its bits.
# 3. A network whose weights open in `diffusers`; a loss that sees blur.
# 4. A decoder that forgives noise; what painting small saves.

# %% [markdown]
# ## Setup

# %%
import copy
import io
import math
import time
from dataclasses import dataclass, replace
from functools import partial

from PIL import Image
from torch import nn
from torch.distributions import Normal, kl_divergence
from course_utils.checks.core import check, hint
from course_utils.data import to_uint8
from course_utils.evaluation.sharpness import power_ratio
from course_utils.figures.widgets import explore
from course_utils.generator.schedules import add_noise, make_schedule
from course_utils.layers import AttentionBlock, Downsample2D, ResnetBlock2D, Upsample2D

known = torch.cat([composed(style, 40, "train", seed=1) for style in STYLES])            # 320 pictures of the training set
few, few_painted, SHOWN = unseen[::4], painted[::4], [4, 9, 17, 33, 40, 46]              # six held-out pictures of each style


# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: shrink it, enlarge it
#
# Our latent holds 1,024 numbers; for about as many we may keep 18×18 pixels in three colours.

# %% alt="Six pictures in three rows: as they are, shrunk to 18 by 18 pixels and enlarged, painted from our latent. The middle row is blurred at every edge, the last keeps its edges." slideshow={"slide_type": "-"}
def shrunk(x, side):
    small = F.interpolate(x, size=side, mode="bicubic", antialias=True)                  # (B, 3, side, side)
    return F.interpolate(small, size=SIZE, mode="bicubic").clamp(-1, 1)

resized = {side: psnr(shrunk(few, side), few) for side in (8, 12, 18, 24, 32)}
for side in (18, 24, 32):
    print(f"{side}×{side}×3 = {3 * side**2:,} numbers: {Mean.of(resized[side]).text(1, ' dB')}")
print(f"our latent, 1,024 numbers: {Mean.of(psnr(few_painted, few)).text(1, ' dB')}")
rows = {"picture": few[SHOWN], "18×18, enlarged": shrunk(few[SHOWN], 18), "our latent": few_painted[SHOWN]}
plotting.show_rows(rows, title="About a thousand numbers, kept in two ways", scale=0.85)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** 972 numbers of a shrunk picture give 23.6 dB [22.9, 24.2], 1,024 of our latent 31.9 [31.0, 32.9]: the colours survive in both, the edges in one. Shrinking keeps the local mean everywhere; numbers should go to what *varies*. **Limit**: resizing knows nothing about our pictures.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 1 · Fewer numbers, well chosen
#
# **Intuition.** Cut pictures into patches of $f\times f$ pixels. Few directions describe most of a patch: its colour, a
# slope, an edge. Keep the coordinates along those.
#
# **Notation.** $x$ a patch ($3f^2$ numbers), $\mu$ the mean patch, $A$ ($3f^2\times C$) with orthonormal columns, $z$ the $C$ numbers that we keep.
#
# $$z=A^{\top}(x-\mu),\qquad \hat x=\mu+A\,z,\qquad A=\text{the first } C \text{ eigenvectors of } \operatorname{Cov}(x)$$
#
# This is an **autoencoder**: an encoder $x\to z$, a decoder $z\to\hat x$. Among all linear ones it has the smallest squared error
# (principal components; Baldi and Hornik 1989). $f$ is the **downsampling factor**, $C$ the **latent channels**, and a picture
# becomes $C\,(64/f)^2$ numbers.

# %% slideshow={"slide_type": "-"}
def patches(x, f):
    return F.pixel_unshuffle(x, f).permute(0, 2, 3, 1)                                   # (B, H/f, W/f, 3 f²)

def linear_axes(x, f):
    flat = patches(x, f).flatten(0, 2)                                                   # (patches, 3 f²)
    mean = flat.mean(dim=0)
    cov = (flat - mean).T @ (flat - mean) / len(flat)
    return mean, torch.linalg.eigh(cov).eigenvectors.flip(1)                             # the axis with most variance first

def linear_copy(x, f, mean, axes, channels):
    A = axes[:, :channels]
    z = (patches(x, f) - mean) @ A                                                       # (B, H/f, W/f, C)
    return F.pixel_shuffle((mean + z @ A.T).permute(0, 3, 1, 2), f)                      # (B, 3, H, W)


# %% [markdown]
# **Check.** With all axes nothing is lost, and with none only the mean patch is left.

# %%
# NBVAL_CHECK_OUTPUT
axes = {f: linear_axes(known, f) for f in (2, 4, 8, 16)}
mean, A = axes[4]
print("a patch of 4×4 pixels has", len(mean), "numbers; axes are orthonormal:", torch.allclose(A.T @ A, torch.eye(48), atol=1e-4))
print("all 48 axes lose nothing:", torch.allclose(linear_copy(few, 4, mean, A, 48), few, atol=1e-4))
print("no axis leaves the mean patch:", torch.allclose(patches(linear_copy(few, 4, mean, A, 0), 4), mean, atol=1e-4))

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** 1,024 numbers a picture: 4 for each 4×4 patch, 16 for each 8×8, or 64 for each 16×16? Which copies best?
#
# <details><summary>Answer</summary>
# The largest: more pixels agree with each other, so there is more to leave out.
# </details>

# %% slideshow={"slide_type": "-"}
def linear_psnr(f, channels):
    return psnr(linear_copy(few, f, *axes[f], channels).clamp(-1, 1), few)               # (48,)

def per_patch(f):                                                                        # channels worth trying: 48 to 4,096 numbers
    return [c for c in (1, 2, 4, 6, 8, 12, 16, 32, 64) if c < 3 * f * f and 48 <= c * (SIZE // f) ** 2 <= 4096]

linear = {f: {c * (SIZE // f) ** 2: linear_psnr(f, c) for c in per_patch(f)} for f in axes}
print("1,024 numbers:", ", ".join(f"f = {f}: {linear[f][1024].mean():.1f} dB" for f in axes), f"| VAE, f = 4: {psnr(few_painted, few).mean():.1f} dB")
print(f"picture by picture: f = 16 over f = 4 {Mean.of(linear[16][1024] - linear[4][1024]).text(1, ' dB')}, "
      f"the VAE over f = 16 {Mean.of(psnr(few_painted, few) - linear[16][1024]).text(1, ' dB')}")

# %% alt="PSNR against numbers a picture: four rising blue lines for patches of 2, 4, 8 and 16 pixels, larger patches higher, and a grey one for shrinking. The star of our VAE stands above all at 1,024 numbers." slideshow={"slide_type": "subslide"}
names = ("numbers a picture", "PSNR in dB, held-out pictures", "Which numbers to keep?")
ax = plotting.labelled_axes(names[2], *names[:2], 4.2)
for f, style in zip(axes, (":", "-.", "--", "-")):
    quality = [found.mean() for found in linear[f].values()]
    plotting.plot_lines(list(linear[f]), {f"linear, f = {f}": (quality, plotting.REFERENCE, style)}, *names, logx=True, direct_labels=False, ax=ax)
shrinking = [found.mean() for found in resized.values()]
plotting.plot_lines([3 * side**2 for side in resized], {"shrink and enlarge": (shrinking, plotting.AXIS)}, *names, logx=True, direct_labels=False, ax=ax)
ax.plot(1024, psnr(few_painted, few).mean(), "*", markersize=18, color=plotting.LATENT, label="our VAE: f = 4, C = 4")
ax.minorticks_off()
ax.set_xticks([64, 256, 1024, 4096], ["64", "256", "1,024", "4,096"])
ax.legend(fontsize=11)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Channels buy quality, and at equal numbers larger patches win, by 2.9 dB [2.7, 3.2] from $f=4$ to $16$. The star beats the best line by 6.4 dB [5.6, 7.1], with patches of only 4×4: its encoder is *not linear*, and
# each latent number sees more than its own patch. **Limit**: photographs have more texture; all curves would lie lower.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 2 · A cloud in place of a point
#
# **Intuition.** An autoencoder may put its latents anywhere: islands, and nobody ever asks its decoder what lies between. A **variational**
# autoencoder gives each picture a small cloud of latents, and pays for clouds that leave the middle. Clouds overlap and fill the holes.
#
# **Why.** Let $p(z)$ be a standard Gaussian, the **prior**. With a decoder $p(x|z)$ it makes a picture $x$ more or less likely: $p(x)=\int p(x|z)\,p(z)\,dz$. Real pictures should be likely, but nearly no $z$ has to do with a given $x$, so
# an encoder $q(z|x)$ says where to look. The logarithm of a mean is at least the mean of the logarithms (Jensen):
#
# $$\log p(x)=\log\mathbb E_q\!\left[\frac{p(x\mid z)\,p(z)}{q(z\mid x)}\right]\;\ge\;\underbrace{\mathbb E_q\big[\log p(x\mid z)\big]}_{\text{copies are right}}-\underbrace{\mathrm{KL}\big(q(z\mid x)\,\Vert\,p(z)\big)}_{\text{clouds stay in the middle}}$$
#
# The right side is the **evidence lower bound**, ELBO (Kingma and Welling 2014, section 2.2); $\text{KL}(q\Vert p)=\mathbb E_q[\log q-\log p]$. The gap is $\text{KL}(q(z|x)\Vert p(z|x))$: nothing, if the encoder names exactly the latents that could have made $x$.
#
# **Check** where $p(x)$ is known: one number, $x=2z+$ noise.

# %%
# NBVAL_CHECK_OUTPUT
w, spread, x = 2.0, 0.5, 1.5                                                             # p(x|z) is a Gaussian around w z
total = w**2 + spread**2
evidence = Normal(0, total**0.5).log_prob(torch.tensor(x))

def bound(mean, var):
    fit = -0.5 * (((x - w * mean) ** 2 + w**2 * var) / spread**2 + math.log(2 * math.pi * spread**2))
    return fit - 0.5 * (mean**2 + var - 1 - math.log(var))

for name, q in {"p(z|x)": (w * x / total, spread**2 / total), "twice as wide": (w * x / total, 4 * spread**2 / total), "the prior": (0.0, 1.0)}.items():
    print(f"q = {name:13s} bound {bound(*q):7.3f}, log p(x) {evidence:.3f}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# Minus the bound is a loss. For $q$ we take a Gaussian in each latent number, of mean $\mu$ and variance $\sigma^2$. Then, with $\varepsilon$ standard Gaussian noise,
#
# $$z=\mu+\sigma\,\varepsilon,\qquad \mathrm{KL}=\tfrac12\sum_i\big(\mu_i^2+\sigma_i^2-1-\log\sigma_i^2\big)$$
#
# The first is the **reparametrisation trick** (section 2.4): chance comes in from outside, so a gradient reaches $\mu$ and
# $\sigma$. The second counts in nats (appendix B).

# %% slideshow={"slide_type": "-"}
# @save course_utils/decoder/vae.py
@dataclass(frozen=True)
class Gaussian:
    mean: torch.Tensor
    logvar: torch.Tensor

    def sample(self, generator=None):
        noise = torch.randn(self.mean.shape, generator=generator).to(self.mean)
        return self.mean + torch.exp(self.logvar / 2) * noise

    def kl(self):
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))


# %% [markdown]
# **Check** against torch's distributions. And is the trick needed? We move a cloud from 0 to 3. `torch.normal` draws from the same Gaussian.
#
# **Predict.** What does gradient descent do with each?
#
# <details><summary>Answer</summary>
# torch.normal gives a number, no path back to its mean: the gradient is zero, nothing moves, no error is raised.
# </details>

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
some = Gaussian(*torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
theirs = kl_divergence(Normal(some.mean, (some.logvar / 2).exp()), Normal(0, 1))
print("kl", tuple(some.kl().shape), "equal:", torch.allclose(some.kl(), theirs.sum(dim=(1, 2, 3)), atol=1e-4))

def move(draw, target=3.0, num_steps=100):
    mean, logvar = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer, first = torch.optim.SGD([mean, logvar], lr=0.1), None
    for _ in range(num_steps):
        cloud = Gaussian(mean.expand(256, 1, 1, 1), logvar.expand(256, 1, 1, 1))
        optimizer.zero_grad()
        ((draw(cloud) - target) ** 2).mean().backward()
        first = float(mean.grad) if first is None else first
        optimizer.step()
    return f"first gradient {round(first)}, mean {round(mean.item())}"

torch.manual_seed(0)
print("torch.normal:        ", move(lambda cloud: torch.normal(cloud.mean, (cloud.logvar / 2).exp())))
print("mean + std * noise:  ", move(lambda cloud: cloud.sample()))

# %% [markdown] slideshow={"slide_type": "subslide"}
# **How much should the KL weigh?** $p(x|z)$ decides: how far may a copy be off? If pixels err like a Gaussian of spread $\varsigma$, then $-\log p(x|z)=\lVert x-\hat x\rVert^2/2\varsigma^2$ and a constant. We multiply all by $2\varsigma^2/D$, and get for $D$ pixel values and $n$ latent numbers
#
# $$L=\frac1D\lVert x-\hat x\rVert^2+\kappa\,\frac{\mathrm{KL}}{n},\qquad \kappa=2\varsigma^2\,\frac nD$$
#
# So a weight of the KL *is* an accuracy of the pixels (Higgins et al. 2017 call it $\beta$). To see what it does, small nets: faces of 16×16 pixels as 32 numbers.

# %% slideshow={"slide_type": "-"}
faces = to_tensor(load_emoji(16, STYLES[:3], ("smileys-emotion",)).on_white())           # (N, 3, 16, 16)

def mlp(a, b, width=256):
    return nn.Sequential(nn.Linear(a, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, b))

class SmallVAE(nn.Module):
    def __init__(self, numbers=32, pixels=768):
        super().__init__()
        self.encoder, self.decoder = mlp(pixels, 2 * numbers), mlp(numbers, pixels)

    def encode(self, x):
        return Gaussian(*self.encoder(x.flatten(1))[..., None, None].chunk(2, dim=1))    # two (B, 32, 1, 1)

    def decode(self, z):
        return self.decoder(z.flatten(1)).view(-1, *faces.shape[1:])                     # (B, 3, 16, 16)

# %%
def fit(kl, seed, num_steps=1000, batch=32):
    torch.manual_seed(seed)
    net, generator = SmallVAE(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.5e-3, fused=True)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, num_steps)
    for _ in range(num_steps):
        x = faces[torch.randint(len(faces), (batch,), generator=generator)]
        cloud = net.encode(x)
        z = cloud.sample(generator) if kl else cloud.mean                                # kl = 0: a plain autoencoder
        loss = (net.decode(z) - x).square().mean() + kl * cloud.kl().mean() / 32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return net.eval().requires_grad_(False)

WEIGHTS = (0, 0.003, 0.03, 32 * 0.03)                                                   # the last: see "When it breaks"
nets = {kl: [fit(kl, seed) for seed in range(3)] for kl in WEIGHTS}                      # three seeds each


# %% [markdown]
# Three measures: copies; *impossible colours* (beyond black or white) in pictures of random latents; and the **rate**, the KL in bits: the price of sending $z$ to somebody who knows only $p(z)$ (Alemi et al. 2018). (The plain autoencoder's random latents have its own mean and spread.)

# %% alt="Five rows of ten small faces: real, copies and random latents of the plain autoencoder, and of the VAE. The plain one's random faces are dirty and speckled, the VAE's soft and clean; its copies are softer too." slideshow={"slide_type": "subslide"}
def random_faces(net, kl, count=128):
    means, eps = net.encode(faces).mean, torch.randn(count, 32, 1, 1, generator=torch.Generator().manual_seed(3))
    return net.decode(eps if kl else means.mean(dim=0) + means.std(dim=0) * eps)

def measured(net, kl):                                                                   # copies in dB, impossible colours in %, bits
    cloud = net.encode(faces)
    return (float(psnr(net.decode(cloud.mean), faces).mean()), 100 * float((random_faces(net, kl).abs() > 1.05).float().mean()),
            float(cloud.kl().mean()) / math.log(2))

found = torch.tensor([[measured(net, kl) for net in nets[kl]] for kl in WEIGHTS])        # (weights, seeds, 3)
for kl, each in zip(WEIGHTS, found):
    copies, holes, bits = (f"{values.min():.1f} to {values.max():.1f}" for values in each.T)
    print(f"KL weight {kl:5}: copies {copies} dB, impossible colours {holes} %" + (f", {bits} bits a face" if kl else ""))
rows = {"real": faces[:10]}
for name, kl in (("plain", 0), ("VAE", 0.03)):
    rows |= {f"{name}: copies": nets[kl][0].decode(nets[kl][0].encode(faces[:10]).mean), f"{name}: random latents": random_faces(nets[kl][0], kl)[:10]}
plotting.show_rows(rows, title="A plain autoencoder's latents have holes; a VAE's have fewer, and it blurs", scale=0.62)
plt.show()

# %% alt="Left, copies in decibels against bits a face, rising; right, impossible colours: a tenth and more without a KL, hardly any with one, three seeds each." slideshow={"slide_type": "-"}
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
plotting.labelled_axes("Bits buy fidelity", "bits a face", "copies in dB", ax=left)
plotting.labelled_axes("A KL closes holes", "KL weight", "impossible colours, %", ax=right)
left.plot(found[1:, :, 2].mean(1), found[1:, :, 0].mean(1), color=plotting.LATENT)
left.scatter(found[1:, :, 2], found[1:, :, 0], color=plotting.LATENT)
for kl, each in zip(WEIGHTS[1:], found[1:]):
    left.annotate(f"κ = {kl}", each[:, [2, 0]].mean(0).tolist(), (8, -5), textcoords="offset points")
right.plot(range(4), found[:, :, 1].mean(1), color=plotting.LATENT)
right.scatter(torch.arange(4).repeat_interleave(3), found[:, :, 1].flatten(), color=plotting.LATENT)
right.set_xticks(range(4), list(map(str, WEIGHTS)))
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** From weight 0.003 to 0.96 the copies of all three seeds fall from 20.5 dB or more to 15.0 or less, and the bits from 76 or more to less than 1 a face. In random faces 10.5 to 13.3 % of the values are impossible without a KL, at most 1.7 % with one. *That is the trade: order in the latents against fidelity.*

# %% [markdown] slideshow={"slide_type": "subslide"}
# LDM, the paper behind Stable Diffusion, takes a tiny weight; so do we, $\kappa=10^{-5}$.

# %% slideshow={"slide_type": "-"}
from course_utils.recipes.vae import KL

with torch.no_grad():
    clouds = [vae.encode(part) for part in known.split(32)]
cloud = Gaussian(*(torch.cat([getattr(part, name) for part in clouds]) for name in ("mean", "logvar")))

def png_bytes(x):
    file = io.BytesIO()
    Image.fromarray(to_uint8(x[None])[0]).save(file, "PNG", optimize=True)
    return file.tell()

n, D, own = cloud.mean[0].numel(), known[0].numel(), (cloud.logvar / 2).exp().mean()
middle, width = cloud.mean.mean(dim=(0, 2, 3), keepdim=True), cloud.mean.std(dim=(0, 2, 3), keepdim=True)
rates = {"a standard Gaussian": cloud, "a Gaussian of the channel's own mean and spread": Gaussian((cloud.mean - middle) / width, cloud.logvar - 2 * width.log())}
print(f"κ = {KL:g} asks for pixels right to {math.sqrt(KL * D / n / 2):.4f}; one of 256 levels is {2 / 255:.4f}")
for name, each in rates.items():
    print(f"rate to {name}: {Mean.of(each.kl() / math.log(2) / n).text(1)} bits a number, {Mean.of(each.kl() / math.log(2) / 8).text(0)} bytes a picture")
print(f"PNG, nothing lost: {Mean.of([png_bytes(x) for x in known[::8]]).text(0)} bytes")
print(f"a cloud's own noise is {own:.3f}, the latents spread by {cloud.mean.std():.2f}: {own / cloud.mean.std():.1%}")

# %% [markdown]
# **What to see.** The tiny weight asks for pixels right to 0.0077, about one level of grey. To be so exact a latent needs 9.6 bits a number [9.5, 9.8] (7.3 if the prior had each channel's own mean and spread), and clouds of only 0.6 % of the spread. So why a KL? As a leash: without one nothing keeps latents near the middle (LDM, section 3.1).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 3 · The network: a U-Net without the bridge
#
# **Intuition.** Down and up as in notebook 02, but *no skips*: whatever is not in the latent must not get across. And no step, no text.
#
# **Notation.** Widths 16, 48, 96 for three levels; every level but the last halves the side, so $f=2^{3-1}=4$.
#
# **Predict.** Someone adds the skips. What would training do?
#
# <details><summary>Answer</summary>
# Copy the picture through the topmost skip, and leave the latent empty.
# </details>

# %% slideshow={"slide_type": "-"}
# @save course_utils/decoder/vae.py
EPS = 1e-6


class PaddedDownsample2D(Downsample2D):
    def __init__(self, channels):
        super().__init__(channels)
        self.conv.padding = (0, 0)

    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))  # (B, C, H/2, W/2)


class VAEBlock(nn.Module):
    def __init__(self, before, width, num_blocks, groups, down=False, up=False):
        super().__init__()
        widths = [before] + [width] * num_blocks
        pairs = zip(widths, widths[1:], strict=False)
        self.resnets = nn.ModuleList([ResnetBlock2D(a, b, groups=groups, eps=EPS) for a, b in pairs])
        if down:
            self.downsamplers = nn.ModuleList([PaddedDownsample2D(width)])
        if up:
            self.upsamplers = nn.ModuleList([Upsample2D(width)])

    def forward(self, x):
        for resnet in self.resnets:
            x = resnet(x)
        for resize in [*getattr(self, "downsamplers", []), *getattr(self, "upsamplers", [])]:
            x = resize(x)
        return x


# %% [markdown]
# LDM pads at the far edge only: without this detail no published weights fit.

# %%
# @save course_utils/decoder/vae.py
class VAEMidBlock(nn.Module):
    def __init__(self, width, groups):
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock2D(width, width, groups=groups, eps=EPS) for _ in range(2)])
        self.attentions = nn.ModuleList([AttentionBlock(width, num_heads=1, groups=groups, eps=EPS)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Encoder(nn.Module):
    def __init__(self, in_channels, out_channels, channels, num_blocks, groups):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        sizes = zip([channels[0], *channels], channels, strict=False)
        last = len(channels) - 1
        self.down_blocks = nn.ModuleList(
            [VAEBlock(before, width, num_blocks, groups, down=i < last) for i, (before, width) in enumerate(sizes)]
        )
        self.mid_block = VAEMidBlock(channels[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], eps=EPS)
        self.conv_out = nn.Conv2d(channels[-1], out_channels, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


# %% [markdown] slideshow={"slide_type": "subslide"}
# The decoder is the mirror, with one residual block more at every level.

# %% slideshow={"slide_type": "-"}
# @save course_utils/decoder/vae.py
class Decoder(nn.Module):
    def __init__(self, in_channels, out_channels, channels, num_blocks, groups):
        super().__init__()
        wide = list(reversed(channels))
        self.conv_in = nn.Conv2d(in_channels, wide[0], 3, padding=1)
        self.mid_block = VAEMidBlock(wide[0], groups)
        sizes = zip([wide[0], *wide], wide, strict=False)
        last = len(wide) - 1
        self.up_blocks = nn.ModuleList(
            [VAEBlock(before, width, num_blocks + 1, groups, up=i < last) for i, (before, width) in enumerate(sizes)]
        )
        self.conv_norm_out = nn.GroupNorm(groups, wide[-1], eps=EPS)
        self.conv_out = nn.Conv2d(wide[-1], out_channels, 3, padding=1)

    def forward(self, z):
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
encoder, decoder = Encoder(3, 8, (16, 48, 96), 1, 8), Decoder(4, 3, (16, 48, 96), 1, 8)
with torch.no_grad():
    answer = encoder(few[:2])
    print("picture", tuple(few[:2].shape), "-> mean and logvar", tuple(answer.shape), "-> picture", tuple(decoder(answer[:, :4]).shape))
    print("another size, same weights:", tuple(encoder(torch.zeros(1, 3, 96, 128)).shape))
for name, part in (("encoder", encoder), ("decoder", decoder)):
    print(f"{name}: {sum(p.numel() for p in part.parameters()):,} parameters")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## The key piece: VAE
#
# Encode to a cloud, draw, decode. `quant_conv` and `post_quant_conv` are 1×1 convolutions that LDM has at the border of the latent.

# %% slideshow={"slide_type": "-"}
# @save course_utils/decoder/vae.py
class VAE(nn.Module):
    def __init__(self, channels=(16, 48, 96), latent_channels=4, num_blocks=1, groups=8, in_channels=3):
        super().__init__()
        self.encoder = Encoder(in_channels, 2 * latent_channels, channels, num_blocks, groups)
        self.decoder = Decoder(latent_channels, in_channels, channels, num_blocks, groups)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)

    def encode(self, x):
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return Gaussian(mean, logvar.clamp(-30, 20))  # LDM's clamp: exp stays finite

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x, generator=None):
        gaussian = self.encode(x)
        return self.decode(gaussian.sample(generator)), gaussian


# %% [markdown]
# **Check** against `diffusers`: our trained weights load into its `AutoencoderKL` by name, strictly, and it paints the same pictures.

# %%
import diffusers

peer = diffusers.AutoencoderKL(
    in_channels=3, out_channels=3, block_out_channels=(16, 48, 96), layers_per_block=1, latent_channels=4, norm_num_groups=8,
    down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3).eval()
peer.load_state_dict(vae.state_dict())                                                   # strict: every name must fit
with torch.no_grad():
    theirs, ours = peer.encode(few[:4]).latent_dist, vae.encode(few[:4])
    pictures, peers = vae.decode(ours.mean), peer.decode(ours.mean).sample
both = {"mean": (theirs.mean, ours.mean), "own noise": (theirs.std, (ours.logvar / 2).exp()), "picture": (peers, pictures)}
gaps = {name: float((a - b).abs().max() / a.abs().max()) for name, (a, b) in both.items()}
print("largest difference, of the largest value:", ", ".join(f"{name} {gap:.0e}" for name, gap in gaps.items()))

# %%
# NBVAL_CHECK_OUTPUT
print("all below 1e-4:", max(gaps.values()) < 1e-4)
print("the class above takes the trained weights:", VAE().load_state_dict(vae.state_dict()))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 4 · Blur, and a loss that sees it
#
# **Intuition.** A latent cannot hold everything, so some details have to be guessed. Suppose an edge lies here, or two pixels further on. Each loss wants another guess:
#
# - squared error (L2) wants the **mean** of the candidates (notebook 02, idea 1), a blur;
# - absolute error (L1) wants the **median**: a small step up costs that step for each candidate below, and saves it for each above, so at rest as many lie below as above. Black or white, never grey;
# - a **perceptual** error compares what a small classifier of emoji sees: edges, textures, parts.
#
# **Notation.** $\varphi_l(x)$ the feature map of layer $l$, brought to unit length at each of its $H_lW_l$ places.
#
# $$d(x,y)=\sum_l\frac{1}{H_lW_l}\sum_{h,w}\big\lVert\varphi_l(x)_{hw}-\varphi_l(y)_{hw}\big\rVert^2$$
#
# This is LPIPS (Zhang et al. 2018, equation 1) with all weights 1. The net is not the evaluator: no model is trained to please its judge.

# %%
# @save course_utils/decoder/perceptual.py
WIDTHS = (16, 32, 64, 96)


class FeatureNet(nn.Module):
    def __init__(self, num_concepts=1015, widths=WIDTHS):
        super().__init__()
        stages, before = [], 3
        for i, width in enumerate(widths):
            stages.append(
                nn.Sequential(
                    nn.Conv2d(before, width, 3, stride=2 if i else 1, padding=1), nn.GroupNorm(8, width), nn.SiLU(),
                    nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU(),
                )
            )  # fmt: skip
            before = width
        self.stages = nn.ModuleList(stages)
        self.concept = nn.Linear(before, num_concepts)

    def features(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x):
        return self.concept(self.features(x)[-1].mean(dim=(2, 3)))


# %%
# @save course_utils/decoder/perceptual.py
def perceptual_distance(net, x, y):
    distance = 0
    for a, b in zip(net.features(x), net.features(y), strict=True):
        gap = F.normalize(a, dim=1, eps=1e-6) - F.normalize(b, dim=1, eps=1e-6)
        distance = distance + gap.square().sum(dim=1).mean(dim=(1, 2))  # (B,)
    return distance


# %% [markdown] slideshow={"slide_type": "subslide"}
# **Check.** Four kinds of damage, each scaled to *exactly* the same squared error.
#
# **Predict.** Which one will the feature net mind most, and which least?
#
# <details><summary>Answer</summary>
# Blur most, because edges are what it lives on. It hardly minds noise: a classifier learns to look past it.
# </details>

# %% alt="Five pictures in five rows of equal squared error: as they are, noisy, darker, moved by a pixel and blurred, with their perceptual distances. The moved ones look unharmed, the blurred ones do not." slideshow={"slide_type": "-"}
eyes = checkpoints.load("perceptual", FeatureNet()).requires_grad_(False)
blurred = F.avg_pool2d(F.pad(few, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
damage = {"noisy": torch.randn(few.shape, generator=torch.Generator().manual_seed(0)), "darker": -torch.ones_like(few),
          "moved": few.roll(1, dims=3) - few, "blurred": blurred - few}
damaged = {name: few + gap * (0.02522 / gap.square().mean(dim=(1, 2, 3), keepdim=True)).sqrt() for name, gap in damage.items()}
distances = {name: perceptual_distance(eyes, y, few) for name, y in damaged.items()}
for name, each in distances.items():
    print(f"{name:8s} PSNR {psnr(damaged[name], few).mean():.1f} dB, perceptual distance {Mean.of(each).text(2)}")
plotting.show_rows({"picture": few[SHOWN]} | {name: y[SHOWN] for name, y in damaged.items()}, title="One squared error, four appearances", scale=0.72)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print("PSNR of all:", sorted({round(float(psnr(y, few).mean())) for y in damaged.values()}))
print("distance to itself:", round(float(perceptual_distance(eyes, few, few).max()), 6))
print("worst in the eyes of the feature net:", max(distances, key=lambda name: distances[name].mean()))

# %% [markdown] slideshow={"slide_type": "-"}
# At one squared error (22 dB) the distances run from 0.06 [0.05, 0.08] (noisy) to 0.32 [0.28, 0.37] (blurred).

# %% [markdown] slideshow={"slide_type": "subslide"}
# Now blur in its pure form. A picture may lie at five places. Which *one* answer is best for all of them? Mean and median are known; for the perceptual term we move the pixels themselves downhill.

# %% slideshow={"slide_type": "-"}
SHIFTS = ((0, 0), (-2, -2), (2, 2), (-2, 2), (2, -2))
subjects = unseen[[5, 16, 30, 68, 74, 114, 124, 146]]
candidates = torch.stack([subjects.roll(shift, dims=(2, 3)) for shift in SHIFTS])        # (5, 8, 3, 64, 64)

def unit(maps):
    return [F.normalize(m, dim=1, eps=1e-6) for m in maps]

def best_answer(weight, num_steps=60):                                                   # of |gap| + gap² + weight * perceptual
    y, targets = candidates.mean(dim=0).requires_grad_(True), [unit(eyes.features(c)) for c in candidates]
    optimizer = torch.optim.Adam([y], lr=0.05)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, num_steps)
    for _ in range(num_steps):
        pixels, maps = (y - candidates).abs().mean() + (y - candidates).square().mean(), unit(eyes.features(y))
        seen = [(a - b).square().sum(dim=1).mean() for target in targets for a, b in zip(maps, target)]
        optimizer.zero_grad()
        (pixels + weight * sum(seen) / len(candidates)).backward()
        optimizer.step()
        decay.step()
    return y.detach().clamp(-1, 1)


# %% alt="Three candidates of a locomotive and a smiling face at shifted places, and four best answers: the mean is blurred, the median has hard edges and broken thin lines, the two with the perceptual term lie between." slideshow={"slide_type": "-"}
answers = {"L2: mean": candidates.mean(dim=0), "L1: median": candidates.median(dim=0).values,
           "with 0.1 d": best_answer(0.1), "with 1 d": best_answer(1.0)}
for name, y in answers.items():
    gap, seen = y - candidates, torch.stack([perceptual_distance(eyes, y, c) for c in candidates]).mean()
    print(f"{name:16s} squared error {gap.square().mean():.4f}, absolute {gap.abs().mean():.4f}, perceptual {seen:.3f}, "
          f"high frequencies {power_ratio(y, subjects, factor=2).text(2)} of real")
columns = [*candidates[:3], *answers.values()]
plotting.show_pictures(torch.cat([column[[2, 5]] for column in columns]).unflatten(0, (7, 2)).transpose(0, 1).flatten(0, 1),
                       columns=7, column_labels=["candidate"] * 3 + list(answers), title="What each loss wants, when it cannot know", scale=0.9)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Of the power in the finest waves (shorter than four pixels) the mean keeps 0.24 [0.22, 0.26] of what real pictures have, the median 0.98 [0.75, 1.17], and the recipe's mix, with 0.1 of $d$, 0.34 [0.29, 0.40]. The median is sharp, but breaks thin lines, such as mouths.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## The loss
#
# All together (LDM, section 3.1 and appendix G, without the adversarial term, in which a second network learns to tell copies from pictures):
#
# $$L=\underbrace{\lVert\hat x-x\rVert_1}_{\text{median: edges}}+\underbrace{\lVert\hat x-x\rVert_2^2}_{\text{mean: no large error}}+\underbrace{\lambda\,d(\hat x,x)}_{\text{looks}}+\underbrace{\kappa\,\mathrm{KL}/n}_{\text{a leash}}$$
#
# The first two are means over pixels. $\hat x$ is decoded from a latent that was *drawn*.

# %% slideshow={"slide_type": "-"}
from course_utils.recipes.vae import feature_net


# %% slideshow={"slide_type": "-"}
# @save course_utils/recipes/vae_eight.py
PERCEPTUAL = 0.1


def loss(network, batch, generator, weight=PERCEPTUAL):
    x0 = batch["x0"]
    x, gaussian = network(x0, generator=generator)
    gap = x - x0
    pixels = gap.abs().mean() + gap.square().mean()
    perceptual = perceptual_distance(feature_net(x0.device), x, x0).mean()
    return pixels + weight * perceptual + KL * gaussian.kl().mean() / gaussian.mean[0].numel()


# %% [markdown]
# What each term weighs on held-out pictures:

# %%
with torch.no_grad():
    y, gaussian = vae(few[::2], torch.Generator().manual_seed(0))
    gap, looks = y - few[::2], PERCEPTUAL * perceptual_distance(eyes, y, few[::2]).mean()
terms = {"L1": gap.abs().mean(), "L2": gap.square().mean(), "perceptual": looks, "KL": KL * gaussian.kl().mean() / n}
print(", ".join(f"{name} {float(value / sum(terms.values())):.1%}" for name, value in terms.items()))

# %% [markdown]
# L1 does most of the work; the KL is 0.2 % of the loss.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Train it
#
# Two hundred steps of the checkpoint's recipe from random weights, on crops of 32×32 pixels: a convolutional network can still paint whole pictures afterwards.

# %% slideshow={"slide_type": "-"}
from course_utils.recipes.vae_eight import RECIPE
from course_utils.training import train

STEPS, BAND = 200, (0.58, 0.6)                                                   # five runs, seeds 1 to 5, end in this band

def crops(generator, n):
    top, left = torch.randint(SIZE - 31, (2,), generator=generator).tolist()
    return {"x0": RECIPE.batch(generator, n)["x0"][:, :, top:top + 32, left:left + 32]}  # (n, 3, 32, 32)

short = replace(RECIPE, batch=crops, batch_size=8, warmup=10)

# %% [markdown] slideshow={"slide_type": "subslide"}
# What is normal? We follow the loss of the averaged weights (EMA, notebook 02) on *fixed held-out* crops, beside that of a network that paints each crop's mean colour, of the checkpoint, and of five runs with other seeds.

# %% slideshow={"slide_type": "-"}
trial = {"x0": few[::3, :, 16:48, 16:48]}

@torch.no_grad()
def trial_loss(net):
    return float(loss(net, trial, torch.Generator().manual_seed(0)))

def mean_colour(x, generator=None):
    return x.mean(dim=(2, 3), keepdim=True).expand_as(x), Gaussian(*torch.zeros(2, 1, 1, 1, 1))

def live_run(seed):                                                                      # -> steps, trial losses, network
    curve = {}
    for state in train(short, minutes=30, seed=seed, device="cpu"):                      # 30: so long that the rate stays constant
        if state.step % 20 == 0:
            curve[state.step] = trial_loss(state.ema)
        if state.step == STEPS:
            return list(curve), list(curve.values()), state.ema

print(f"expected: 20 s. The mean colour scores {trial_loss(mean_colour):.2f}, the checkpoint {trial_loss(vae):.2f}; five other seeds ended between {BAND[0]} and {BAND[1]}")
steps, losses, live = live_run(seed=0)

# %% [markdown]
# **Is this normal?**

# %% alt="The held-out loss falls over 200 steps and ends in the band where five other seeds ended. Below, three rows: pictures, blurred brown copies after 200 steps, and faithful ones of the checkpoint." slideshow={"slide_type": "subslide"}
print(f"after {STEPS} steps the loss is {losses[-1]:.2f}:", "normal." if BAND[0] <= losses[-1] <= BAND[1] else "outside the band: was a number changed?")
print(f"copies: {Mean.of(psnr(decode(encode(few[::3], live), live), few[::3])).text(1, ' dB')}, of the checkpoint {Mean.of(psnr(few_painted, few)[::3]).text(1, ' dB')}")
print(f"The checkpoint: {card['pictures']:,} pictures in {card['minutes']:.0f} minutes on {card['hardware']}.\nIts history: {card.get('history', 'one run')}.")
ax = plotting.labelled_axes("Live training on this machine", "step", "loss, held-out crops")
ax.plot(steps, losses, color=plotting.MODEL, marker="o", label="this run")
ax.axhspan(*BAND, color=plotting.REFERENCE, alpha=0.35, linewidth=0, label="where five other seeds end")
ax.axhline(trial_loss(vae), color=plotting.LATENT, linestyle="--", label="the checkpoint")
ax.set_ylim(0)
ax.legend()
plotting.show_rows({"picture": few[SHOWN], f"{STEPS} steps": decode(encode(few[SHOWN], live), live), "checkpoint": few_painted[SHOWN]},
                   title="The same network, after two hundred steps and at the end", scale=0.8)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Two hundred steps give 16.0 dB [15.0, 17.1], the checkpoint 31.3 [29.6, 33.1]. Its card names all it went through. **Limit**: 64×64 pixels. Stable
# Diffusion's VAE has 84 million parameters and saw millions of photographs.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 5 · One number: the scaling factor
#
# **Intuition.** A noise schedule expects data of size 1: at step $t$ it adds noise of a fixed size. Our KL is weak, so latents need not have variance 1; if they
# are larger, the same step destroys less. So we measure once and multiply, for ever.
#
# $$s=\frac{1}{\operatorname{std}(z)},\qquad \mathrm{SNR}_t=\frac{\bar\alpha_t}{1-\bar\alpha_t}\,\operatorname{var}(s\,z)$$
#
# (SNR: the signal-to-noise ratio of notebook 01.) Stable Diffusion's 0.18215 is nothing else: its latents have a standard deviation of $1/0.18215\approx5.49$, measured on a first batch
# of pictures (LDM, appendix G). Another VAE has another number.

# %% slideshow={"slide_type": "-"}
SCALE, drawn = checkpoints.scaling_factor(name="vae-eight"), cloud.sample(torch.Generator().manual_seed(0))   # of 320 training pictures
measured = 1 / float(drawn.std())
print(f"std of {len(drawn)} latents {drawn.std():.3f}, so the factor is {measured:.4f}; the card's is {SCALE}")
for c in range(4):
    print(f"channel {c + 1}: mean {drawn[:, c].mean():+.2f}, std {drawn[:, c].std():.2f}, own noise {(cloud.logvar[:, c] / 2).exp().mean():.3f}")

# %%
# NBVAL_CHECK_OUTPUT
print("scaled latents have a standard deviation of", round(float((measured * drawn).std()), 3))
print("the card's factor agrees within a twentieth:", abs(SCALE * float(drawn.std()) - 1) < 0.05)

# %% [markdown]
# Four channels may say three things, if one echoes another. We remove the smallest principal axis from held-out latents, of `vae-eight` and of the older `vae`.

# %%
def without_smallest(z, known):                                                          # latents (N, 4, h, w), and others to measure the axes on
    flat = known.transpose(0, 1).flatten(1)                                              # (4, all places)
    values, axes = torch.linalg.eigh(torch.cov(flat))                                    # the smallest first
    axis = axes[:, 0].view(1, 4, 1, 1)
    part = ((z - flat.mean(dim=1).view(1, 4, 1, 1)) * axis).sum(dim=1, keepdim=True) * axis
    return z - part, values.sqrt().tolist(), torch.corrcoef(flat)[0, 2]

for name, net in (("vae", checkpoints.load("vae", VAE())), ("vae-eight", vae)):
    few_z = encode(few, net)
    less, along, echo = without_smallest(few_z, encode(known, net))
    lost = psnr(decode(few_z, net), few) - psnr(decode(less, net), few)
    print(f"{name:9s} std along the axes {', '.join(f'{a:.2f}' for a in along)}; channels 1 and 3 correlated by {echo:+.2f}; the smallest axis is worth {Mean.of(lost).text(2, ' dB')}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** We forget the factor, and train a generator. What goes wrong?
#
# <details><summary>Answer</summary>
# The latents drown late: for much of the schedule the subject shines through, and there is little to guess. The steps that should decide everything are few.
# </details>

# %% alt="The noisy latent of a duck decoded at five steps, two rows: scaled, the duck has dissolved at t = 650; with the factor forgotten it is still seen there." slideshow={"slide_type": "-"}
cosine, at, one = make_schedule("cosine"), [300, 500, 650, 800, 900], encode(unseen[19:20])
eps = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)).expand(len(at), -1, -1, -1)
rows = {}
for name, scale in (("scaled", measured), ("forgotten", 1.0)):
    zt = add_noise(scale * one.expand_as(eps), eps, torch.tensor(at), cosine)
    signal, _ = cosine.at(torch.tensor(at), zt)
    rows[f"{name}: zt decoded"] = decode(zt / signal / scale)                            # in the size the decoder knows
    snr = cosine.snr[at] * (scale * drawn.std()) ** 2
    print(f"{name:10s} SNR at", ", ".join(f"t = {t}: {value:.2f}" for t, value in zip(at, snr)))
plotting.show_rows(rows, [f"t = {t}" for t in at], "The same steps, with and without the factor", scale=0.95)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Without the factor noise arrives late: at t = 650 the SNR is 2.07 instead of 0.37, and the duck is still to be seen. **Limit**: one number hides much. In `vae` two channels echo each other, and one axis is worth 0.01 dB [-0.00, 0.02]. `vae-eight` began like that; we gave the idle axis fresh weights and trained on: now its smallest is worth 2.85 dB [2.48, 3.25].

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 6 · A decoder that forgives
#
# **Intuition.** The encoder's latents are exact to 0.6 % of their spread. A generator's are not. We hand the U-Net of notebook 06 real latents with the little noise of its *last* step: how far off is its answer?

# %% slideshow={"slide_type": "-"}
from course_utils.generator.objectives import to_x0
from course_utils.recipes import stable_diffusion
from course_utils.systems.stable_diffusion import open_stable_diffusion

sd, examples = open_stable_diffusion(), stable_diffusion.composer().compose(48, seed=1)
with torch.no_grad():
    z0 = sd.encode(to_tensor(examples.images), torch.Generator().manual_seed(0))
    last = sd.timesteps(20)[-1:].expand(48)                                              # the last of 20 steps
    zt = add_noise(z0, torch.randn(z0.shape, generator=torch.Generator().manual_seed(1)), last, sd.schedule)
    answer = to_x0(sd.unet(zt, last, sd.encode_prompt(examples.captions)), zt, last, sd.schedule, sd.prediction)
left = (answer - z0).square().mean(dim=(1, 2, 3)).sqrt() / z0.std()
print(f"t = {int(last[0])}: the U-Net's latents are off by {Mean.of(left).text(3)} of their spread")


# %% [markdown]
# By 0.059 [0.057, 0.061] of their spread, and each earlier step adds its own. What does a decoder make of latents with noise of 0, 0.1 and 0.2? `vae`, which notebook 06 still uses, was taught three styles and exact latents. `vae-eight` is the same network, trained on with eight styles and *noisy* latents:
#
# $$z'=z+u\,\operatorname{std}(z)\,\varepsilon,\qquad u\text{ uniform in }[0,\,0.2]$$

# %% slideshow={"slide_type": "-"}
# @save course_utils/recipes/vae_eight.py
NOISE = 0.2


class NoisyVAE(VAE):
    def __init__(self, noise: float = NOISE):
        super().__init__()
        self.noise = noise

    def forward(self, x, generator=None):
        gaussian = self.encode(x)
        z = gaussian.sample(generator)
        if self.training:
            level = self.noise * torch.rand(len(z), 1, 1, 1, generator=generator).to(z)
            scale = gaussian.mean.std()  # with its gradient: larger latents meet larger noise, so that none race away
            z = z + level * scale * torch.randn(z.shape, generator=generator).to(z)
        return self.decode(z), gaussian


# %% [markdown]
# (`scale` keeps its gradient. Once, in training, it did not: the latents outgrew the noise, to a standard deviation of 28.)
#
# **Predict.** What will noise do to `vae`'s pictures: blur or roughen them? And what should training with noise cost on exact latents?
#
# <details><summary>Answer</summary>
# Roughen, in blotches: details hide in small differences between latents, and who reads small differences enlarges noise. A decoder that must allow for noise averages (idea 4): it gives up details that noise could have faked.
# </details>

# %% slideshow={"slide_type": "-"}
LEVELS, models = (0.0, 0.1, 0.2), {"vae": checkpoints.load("vae", VAE().to(memory_format=torch.channels_last)), "vae-eight": vae}

def with_noise(z, level, seed=0):
    return z + level * z.std() * torch.randn(z.shape, generator=torch.Generator().manual_seed(seed))

def flat_error(y, x):                                                                    # in levels of 255, where 8×8 pixels of x are all alike
    flat = (F.max_pool2d(x, 8) + F.max_pool2d(-x, 8)).amax(dim=1) < 0.04                 # (B, 8, 8): highest less lowest value
    error = F.avg_pool2d((y - x).square().mean(dim=1, keepdim=True), 8)[:, 0]            # (B, 8, 8)
    there = flat.flatten(1).any(dim=1)
    return 127.5 * ((error * flat).sum(dim=(1, 2)) / flat.sum(dim=(1, 2))).sqrt()[there]

own_latents = {name: encode(unseen, net) for name, net in models.items()}                # each in its own code
noisy = {(name, level): decode(with_noise(own_latents[name], level), net) for name, net in models.items() for level in LEVELS}
copy_psnr = {key: psnr(y, unseen) for key, y in noisy.items()}
grain = {key: Mean.of(flat_error(y, unseen)) for key, y in noisy.items()}
for key, y in noisy.items():
    print(f"{key[0]:9s} noise {key[1]}: {Mean.of(copy_psnr[key]).text(1, ' dB')}, flat places off by {grain[key].text(1)} of 255 levels, "
          f"high frequencies {power_ratio(y, unseen, factor=2).text(2)} of real")
for level in LEVELS:
    print(f"noise {level}: vae-eight ahead by {Mean.of(copy_psnr['vae-eight', level] - copy_psnr['vae', level]).text(1, ' dB')}")

# %% alt="Eight emoji, one of each style, and three rows of copies: vae without noise is clean, vae with noise 0.2 is speckled and mottled, vae-eight with the same noise is nearly clean." slideshow={"slide_type": "subslide"}
rows = {"picture": unseen[PICKED]} | {f"{name}, noise {level:g}": noisy[name, level][PICKED] for name, level in (("vae", 0.0), ("vae", 0.2), ("vae-eight", 0.2))}
plotting.show_rows(rows, STYLES, "The same noise, two decoders", scale=1.0)
plt.show()

# %% [markdown]
# The blotches of the third row are called **mottling**:

# %% alt="Left, decibels against noise: vae falls steeply, vae-eight less and from higher up. Right, the error on flat places: it rises steeply for vae, slowly for vae-eight." slideshow={"slide_type": "-"}
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.3))
plotting.labelled_axes("Copies", "noise on the latent (of its spread)", "PSNR in dB", ax=left)
plotting.labelled_axes("Mottling", "noise on the latent (of its spread)", "error on flat places, of 255", ax=right)
for name, color, style in (("vae", plotting.REFERENCE, "--"), ("vae-eight", plotting.MODEL, "-")):
    for ax, each in ((left, [Mean.of(copy_psnr[name, level]) for level in LEVELS]), (right, [grain[name, level] for level in LEVELS])):
        ax.errorbar(LEVELS, each, [[e - e.low for e in each], [e.high - e for e in each]], color=color, linestyle=style, marker="o", capsize=4, label=name)
right.set_ylim(0)
left.legend()
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# By style, copies in dB. `vae` was taught the first three only.

# %%
print(f"{'':10s} {'exact latents':31s} noise 0.1")
for k, style in enumerate(STYLES):
    part = slice(24 * k, 24 * k + 24)
    columns = []
    for level in (0.0, 0.1):
        old, new = copy_psnr["vae", level][part], copy_psnr["vae-eight", level][part]
        columns.append(f"{old.mean():.1f} → {new.mean():.1f}, gain {Mean.of(new - old).text(1)}")
    print(f"{style:10s} {columns[0]:31s} {columns[1]}")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** With noise of 0, 0.1 and 0.2 `vae` copies with 28.0 dB [27.6, 28.5], 26.7 and 24.1, and flat places are off by 2.6, 4.3 and 8.4 levels [8.0, 8.8]: blotches, since the finest waves do not grow (0.36, then 0.34 of real). `vae-eight` has 32.1 dB [31.5, 32.6], 31.4 and 29.9, 1.2, 1.4 and 2.1 levels [1.9, 2.3], and 0.62 of the finest waves throughout. At noise 0.1 it is ahead in every style, least in *streamline* (4.0 dB [3.6, 4.5]), the hardest for both.
# **Limit**: a U-Net's errors are not white noise, and the two differ in more than noise. So:

# %% [markdown] slideshow={"slide_type": "subslide"}
# **One ingredient at a time.** From `vae`'s weights we train the decoder on for 150 steps, on crops of all eight styles: with noise and the perceptual weight 0.1, without the noise, without the perceptual term. Two seeds each.

# %% slideshow={"slide_type": "-"}
known_z = encode(known, models["vae"])

def tune(noise, weight, seed, num_steps=150):
    net, generator = copy.deepcopy(models["vae"]), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([*net.decoder.parameters(), *net.post_quant_conv.parameters()], lr=6e-4, fused=True)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, num_steps)
    for _ in range(num_steps):
        pick, (i, j) = torch.randint(len(known), (8,), generator=generator), torch.randint(9, (2,), generator=generator).tolist()
        zs, x = known_z[pick, :, i:i + 8, j:j + 8], known[pick, :, 4 * i:4 * i + 32, 4 * j:4 * j + 32]
        level = noise * torch.rand(8, 1, 1, 1, generator=generator)
        y = net.decode(zs + level * known_z.std() * torch.randn(zs.shape, generator=generator))
        error = (y - x).abs().mean() + (y - x).square().mean() + weight * perceptual_distance(eyes, y, x).mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        decay.step()
    return net

ARMS = {"both": (NOISE, PERCEPTUAL), "no noise": (0.0, PERCEPTUAL), "no perceptual": (NOISE, 0.0)}
tuned = {"vae as it is": [models["vae"]], **{arm: [tune(*settings, seed) for seed in range(2)] for arm, settings in ARMS.items()}}

# %%
def judged(nets):                                                                        # each a number a picture, the mean over the seeds
    x, latents = few[::2], own_latents["vae"][::8]
    exact, rough = ([decode(with_noise(latents, level), net) for net in nets] for level in (0.0, 0.2))
    measures = {"exact, dB": (psnr, exact), "noise 0.2, dB": (psnr, rough), "noise 0.2, flat places": (flat_error, rough),
                "exact, perceptual": (partial(perceptual_distance, eyes), exact)}
    return {name: torch.stack([measure(y, x) for y in copies]).mean(dim=0) for name, (measure, copies) in measures.items()}

results = {arm: judged(nets) for arm, nets in tuned.items()}
for measure, base in results["both"].items():
    print(f"{measure:22s} both {base.mean():.3f}; " + "; ".join(f"{arm} {Mean.of(results[arm][measure] - base).text(3)} more" for arm in results if arm != "both"))

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Without the noise, exact latents gain 0.24 dB [0.21, 0.28], noisy ones lose 0.63 [0.51, 0.77], and flat places are off by 1.6 levels [1.3, 1.9] more: *the noise makes it forgive*, at a price. Without the perceptual term noisy copies gain 0.13 dB [0.07, 0.19], and the perceptual distance grows by 0.020 [0.008, 0.035], a quarter: that is what the term buys. **Limit**: 150 steps. On exact latents the untouched `vae` is still ahead.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 7 · Between two latents
#
# **Predict.** We go in a straight line from one latent to another. Does a frog turn into a pudding?
#
# <details><summary>Answer</summary>
# No. A place of the latent speaks of its own neighbourhood, so half-way both lie over each other, nearly as with pixels.
# </details>

# %% alt="Seven steps from a frog to a pudding, and from a motorbike to a cat, each in pixels and in latents: all four rows fade one picture over the other." slideshow={"slide_type": "-"}
u, rows, z_few = torch.linspace(0, 1, 7).view(-1, 1, 1, 1), {}, z[::4]
for i, (a, b) in enumerate(((4, 40), (33, 46))):
    rows["pixels" + " " * i] = torch.lerp(few[a:a + 1], few[b:b + 1], u)
    rows["latents" + " " * i] = decode(torch.lerp(z_few[a:a + 1], z_few[b:b + 1], u))
plotting.show_rows(rows, [f"{float(v):.2f}" for v in u], "A straight line in pixels, and in latents", scale=0.8)
plt.show()

# %% [markdown]
# How local is a place? We raise its four numbers by one spread each, and look where pixels change.

# %%
nudged = z_few.clone()
nudged[:, :, 8, 8] += z_few.std(dim=(0, 2, 3))
change = (decode(nudged) - few_painted).square().sum(dim=1)                              # (48, 64, 64)
away = torch.maximum(32 - torch.arange(SIZE), torch.arange(SIZE) - 35).clamp(min=0)      # pixels from the place's own 4×4
away = torch.maximum(away[:, None], away[None, :])
for reach in (0, 4, 8, 16):
    share = (change * (away <= reach)).sum(dim=(1, 2)) / change.sum(dim=(1, 2))
    print(f"within {reach:2d} pixels of its own 4×4: {Mean.of(100 * share).text(0, ' %')} of the squared change")

# %% [markdown]
# **Did the line meet a hole?** What the decoder can paint should come back when it is encoded and decoded again. The yardstick is its *own* outputs, and the test needs power: confetti, real latents with their places mixed, should fail it.

# %%
def again(y):                                                                            # how well does it come back?
    return psnr(decode(encode(y)), y)

order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
confetti = decode(z_few.flatten(2)[:, :, order].view_as(z_few))
half_way = decode((z_few + z_few.roll(7, 0)) / 2)                                         # each with a picture of another style
for name, y in {"real pictures": few, "own outputs": few_painted, "half-way latents": half_way, "places mixed": confetti}.items():
    print(f"{name:17s} {Mean.of(again(y)).text(1, ' dB')}")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** 93 % [92, 94] of a nudge's effect stays within four pixels of the place. Own outputs come back at 40.4 dB [39.7, 41.1], half-way ones at 34.6 [33.6, 35.6], confetti at 30.0 [29.4, 30.6]: half-way is not home, but no hole as deep as confetti. *Our latent is a small picture, not an idea of a picture*, and a U-Net
# can paint on it. **Limit**: no meaning; notebook 08 interpolates in CLIP's space.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 8 · What painting small saves
#
# A U-Net like that of notebook 06, on 64×64 pixels and on latents, per picture and step. We count multiplications and additions (FLOP), then use a clock.
#
# **Predict.** Sixteen times fewer places: is the work sixteen times less?
#
# <details><summary>Answer</summary>
# More. Convolutions pay by the place, 16 times; self-attention by the *pair* of places, 256 times. Only what depends on text and step stays.
# </details>
#
# **A trap.** torch's `FlopCounterMode` takes the CPU's fused attention for free. We ask for attention as plain matrix products (`SDPBackend.MATH`).

# %% slideshow={"slide_type": "-"}
from course_utils.generator.latent_unet import LatentUNet
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

def painter(channels):
    return LatentUNet(channels, channels, channels=(40, 80, 160), num_res_blocks=1, attention=(False, True, False), num_heads=4,
                      groups=8, context_dim=128, pool_heads=4).eval()

@torch.no_grad()
def gflop(call, attention=SDPBackend.MATH):
    with sdpa_kernel(attention), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9

@torch.no_grad()
def milliseconds(call, count, repeats=4):
    times = [time.perf_counter()]
    for _ in range(repeats):
        call()
        times.append(time.perf_counter())
    return 1000 * min(b - a for a, b in zip(times, times[1:])) / count


# %% [markdown] slideshow={"slide_type": "subslide"}
# The linear copy of idea 1 stands for quality: a VAE for each pair would take days.

# %% slideshow={"slide_type": "-"}
def step_of(f, channels, count=1):                                                       # one call of the U-Net, ready to be measured
    net, side = painter(channels), SIZE // f
    inputs = torch.zeros(count, channels, side, side), torch.zeros(count), torch.zeros(count, 32, 128)
    return lambda: net(*inputs)

work = {}
for f, channels in ((1, 3), (2, 4), (4, 1), (4, 4), (4, 8), (8, 4), (8, 16)):
    work[f, channels] = gflop(step_of(f, channels))
    quality = f"{linear_psnr(f, channels).mean():4.1f} dB" if f > 1 else "exact"
    print(f"f = {f}, C = {channels:2d}: {channels * (SIZE // f)**2:6,} numbers, a step {work[f, channels]:6.3f} GFLOP, "
          f"{milliseconds(step_of(f, channels, 4), 4):5.1f} ms; linear copy {quality}")
decoding = gflop(lambda: vae.decode(z[:1]))
print(f"a picture in 20 steps: pixels {20 * work[1, 3]:.0f} GFLOP; latents {20 * work[4, 4] + decoding:.1f} GFLOP, {decoding:.1f} of them the decoder")

# %%
# NBVAL_CHECK_OUTPUT
fused = {key: gflop(step_of(*key), [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]) for key in ((1, 3), (4, 4))}
print(f"attention counted:  {work[1, 3]:.2f} and {work[4, 4]:.3f} GFLOP, ratio {work[1, 3] / work[4, 4]:.1f}")
print(f"attention for free: {fused[1, 3]:.2f} and {fused[4, 4]:.3f} GFLOP, ratio {fused[1, 3] / fused[4, 4]:.1f}")
print("twice the channels cost less than 1 % more:", work[4, 8] / work[4, 4] < 1.01)


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** A step on latents costs 18.3 times less than one on pixels, and the naive count, 15.6, hides the attention. The *side* costs; *channels* are nearly free for the U-Net and raise the quality of the copy. Why not 64? A
# generator must then invent 64 numbers for each place that fit together; LDM (section 4.1) finds $f=4$ to $8$ best. **Limit**: on small maps the clock gains less, since small convolutions use a machine badly.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Experiment · Turn a knob inside the latent
#
# Shift one channel by its standard deviation, everywhere or in a window. What does each channel speak of?

# %% alt="A duck, the same from its latent, and with channel 3 raised in a window: its middle is more orange, the shape runs on inside." slideshow={"slide_type": "-"}
deviations = drawn.std(dim=(0, 2, 3))

def knob(picture, channel, shift, window):
    edited, part = z[picture:picture + 1].clone(), slice(5, 11) if window else slice(None)
    edited[:, channel - 1, part, part] += shift * deviations[channel - 1]
    pictures = torch.cat([unseen[picture:picture + 1], painted[picture:picture + 1], decode(edited)])
    titles = ["picture", "from its latent", f"channel {channel}, {shift:+g} std"]
    return plotting.show_pictures(pictures, titles, title="One channel of the latent, shifted", scale=1.3)

explore(knob, picture=[19, 30, 123, 160, 178], channel=[3, 1, 2, 4], shift=[1, 2, -1, -2], window=True)

# %% [markdown] slideshow={"slide_type": "subslide"}
# All four, one deviation up:

# %% alt="A locomotive as it was and with each of four channels raised, in a window and everywhere: channel 1 changes nothing to be seen, 2 turns it purple, 3 orange, 4 darker; the shape stays." slideshow={"slide_type": "-"}
rows = {}
for name, part in (("in a window", slice(5, 11)), ("everywhere", slice(None))):
    edits = z[30:31].repeat(4, 1, 1, 1)
    for c in range(4):
        edits[c, c, part, part] += deviations[c]
    rows[name] = torch.cat([painted[30:31], decode(edits)])
plotting.show_rows(rows, ["as it was", *(f"channel {c + 1}" for c in range(4))], "One channel of the latent, one standard deviation up", scale=1.0)
for c in range(4):
    raised = z_few[::2].clone()
    raised[:, c] += deviations[c]
    shifts = zip(("red", "green", "blue"), (decode(raised) - few_painted[::2]).mean(dim=(2, 3)).T)
    print(f"channel {c + 1}, everywhere:", ", ".join(f"{name} {Mean.of(shift).text(2)}" for name, shift in shifts))
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Colours move, shapes stay. Channel 4 speaks of light and dark, 3 of orange against blue, 2 of green against purple. Channel 1 moves no mean colour: its worth (idea 5) lies in details. **Limit**: no picture has such a latent; we look at the decoder's habits as much as at the code.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks · Summed, not averaged
#
# The pixel error is a *mean*, the KL a *sum* over the numbers of the latent, so our loss divides by their count. Who forgets the `/ 32` in `fit` trains with 0.96 where 0.03 was meant, the last nets of idea 2. No line fails, and the loss falls nicely.

# %% alt="Ten real faces, their copies with the KL averaged, soft but different, and with the KL summed: ten times nearly the same orange face." slideshow={"slide_type": "-"}
def alive(net):                                                                          # numbers that tell one picture from another
    return int((net.encode(faces).mean.std(dim=0) > 0.2).sum())

rows = {"real": faces[:10]}
for name, label in ((0.03, "averaged"), (32 * 0.03, "summed")):                          # the bug: / 32 is missing
    rows[label] = nets[name][0].decode(nets[name][0].encode(faces[:10]).mean)
    noises = [float((net.encode(faces).logvar / 2).exp().mean()) for net in nets[name]]
    dbs = [float(psnr(net.decode(net.encode(faces).mean), faces).mean()) for net in nets[name]]
    print(f"{label:9s} numbers alive, of 32: {', '.join(str(alive(net)) for net in nets[name])}; own noise {min(noises):.2f} to {max(noises):.2f}; copies {min(dbs):.1f} to {max(dbs):.1f} dB")
plotting.show_rows(rows, title="The KL, averaged over the latent's numbers, and summed", scale=0.7)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print("summed: fewer numbers are alive, in every seed:", max(map(alive, nets[32 * 0.03])) < min(map(alive, nets[0.03])))

# %% [markdown] slideshow={"slide_type": "-"}
# **The cause.** A number whose cloud is the standard Gaussian costs nothing: mean 0, noise 1, no news. When the KL weighs too much, this is the cheapest thing to be. The decoder learns to
# ignore it, so nothing brings it back (*posterior collapse*): 1 of 32 numbers is left, where the mean leaves 18 to 24. **The habit that finds it**: print, for each channel, the spread of the means beside the cloud's own noise, as idea 5 does. A
# dead channel has a small spread and a noise near 1.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# The check says what is likely wrong. Each exercise has three hints.

# %%
# NBVAL_CHECK_OUTPUT
hint("05-psnr", 1)


# %% [markdown]
# ### Exercise 05.1 (warm-up) · Decibels
#
# Write `decibels`: the PSNR of each picture, $10\log_{10}(\text{span}^2/\text{mean squared error})$. Our pixels lie in [-1, 1], so they span 2.

# %%
def decibels(x, y):                                   # (B, C, H, W) twice
    raise NotImplementedError                         # -> (B,)


# %%
check("05-psnr", decibels)


# %% [markdown]
# **Solution** (folded)

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def decibels(x, y):
    return 10 * torch.log10(4 / (x - y).square().mean(dim=(1, 2, 3)))

check("05-psnr", decibels)


# %% [markdown]
# ### Exercise 05.2 (measure) · What each channel weighs
#
# Write `channel_bits`: the KL to the prior in bits (1 nat = $1/\ln2$ bits), for each channel the mean over pictures and places. Then measure `vae` and `vae-eight`: which needs more: are its latents more exact, or further out?

# %%
def channel_bits(mean, logvar):                       # (B, C, H, W) each
    raise NotImplementedError                         # -> (C,)


# %%
check("05-bits", channel_bits)


# %% [markdown]
# **Solution.** `vae`, for both reasons: with spreads of 1 it still needs a bit or more in each channel. Taught with noise, one need not be so exact.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def channel_bits(mean, logvar):
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean(dim=(0, 2, 3)) / math.log(2)

check("05-bits", channel_bits)

# %% tags=["solution"]
for name, net in models.items():
    with torch.no_grad():
        seen = net.encode(few)
    spread = seen.mean.std(dim=(0, 2, 3), keepdim=True)
    bits, standard = channel_bits(seen.mean, seen.logvar), channel_bits(seen.mean / spread, seen.logvar - 2 * spread.log())
    print(f"{name:9s} bits a number, by channel: {', '.join(f'{b:.1f}' for b in bits)}; with spreads of 1: {', '.join(f'{b:.1f}' for b in standard)}")


# %% [markdown]
# ### Exercise 05.3 (transfer) · When one candidate is likelier
#
# In idea 4 all candidates were equally likely. Write `best_guess`: the picture with the smallest *expected absolute error*, when candidate $k$ has probability $p_k$. Then explain: when is it one of the candidates, as a whole?

# %%
def best_guess(candidates, probability):              # (K, C, H, W), (K,), which add up to 1
    raise NotImplementedError                         # -> (C, H, W)


# %%
check("05-median", best_guess)


# %% [markdown]
# **Solution.** The weighted median of each pixel. A candidate with more than half of the probability wins everywhere; otherwise the answer may be patched together.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def best_guess(candidates, probability):
    values, order = candidates.sort(dim=0)
    below = probability[order].cumsum(dim=0)                              # (K, C, H, W)
    first = (below < 0.5).sum(dim=0, keepdim=True)                        # the first value that reaches one half
    return values.gather(0, first)[0]

check("05-median", best_guess)


# %% [markdown]
# ### Exercise 05.4 (measure) · A decoder's gain
#
# Write `noise_gain`: the root mean square change of a decoder's pictures when `level` × (standard deviation of all numbers of z) × eps is added to z, divided by `level`. Then measure both decoders at 0.02, 0.1 and 0.4: which enlarges noise more, and is the answer linear?

# %%
def noise_gain(decode, z, eps, level):                # a function, (B, C, H, W) twice, a number
    raise NotImplementedError                         # -> a tensor of shape ()


# %%
check("05-gain", noise_gain)


# %% [markdown]
# **Solution.** `vae` enlarges noise more than twice as much. Both are nearly linear: at 20 times the noise the gains are 0.47 instead of 0.45, and 0.21 instead of 0.19.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def noise_gain(decode, z, eps, level):
    change = decode(z + level * z.std() * eps) - decode(z)
    return change.square().mean().sqrt() / level

check("05-gain", noise_gain)

# %% tags=["solution"]
eps = torch.randn(24, 4, 16, 16, generator=torch.Generator().manual_seed(0))
for name, net in models.items():
    gains = [noise_gain(partial(decode, model=net), own_latents[name][::8], eps, level) for level in (0.02, 0.1, 0.4)]
    print(f"{name:9s} gain at 0.02, 0.1, 0.4: {', '.join(f'{gain:.2f}' for gain in gains)}")


# %% [markdown]
# ### Exercise 05.5 (transfer) · What the counter missed
#
# Write `attention_flop`: the FLOP of the two matrix products (queries × keys, weights × values) of self-attention among `places` and of cross-attention from `places` to `words`, with vectors of length `dim`. A multiplication and an addition count 2.
# Then add up the four Transformer blocks of our U-Net on pixels (three at 32×32 places with 80 channels, one at 16×16 with 160): is that what the counter missed in idea 8?

# %%
def attention_flop(places, words, dim):               # three whole numbers
    raise NotImplementedError                         # -> a whole number


# %%
check("05-attention", attention_flop)


# %% [markdown]
# **Solution.** Heads do not matter: each has its share of the vector. What is left over is the pooling of the text.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def attention_flop(places, words, dim):
    return 2 * 2 * places * (places + words) * dim

check("05-attention", attention_flop)

# %% tags=["solution"]
by_hand = 3 * attention_flop(32 * 32, 32, 80) + attention_flop(16 * 16, 32, 160)
print(f"by hand {by_hand / 1e9:.3f} GFLOP; missed by the counter {work[1, 3] - fused[1, 3]:.3f} GFLOP")


# %% [markdown]
# ### Exercise 05.6 (diagnose, then open) · Four patients
#
# Four autoencoders' clouds for the same pictures, one healthy; each of the others has a fault of this notebook. Write `symptoms`: for each channel the standard deviation of the means, and the root mean square of the cloud's own noise. Name the faults.
# **Open**: which `NOISE` is best? Change the recipe, and train on (`course train vae-eight --continue --minutes 20`).

# %%
clouds = [(cloud.mean, cloud.logvar), (0.87 * cloud.mean / cloud.mean.std(), torch.full_like(cloud.logvar, -1.4)),
          (cloud.mean * torch.tensor([1, 1, 0.01, 1]).view(1, 4, 1, 1), cloud.logvar * torch.tensor([1, 1, 0, 1]).view(1, 4, 1, 1)),
          (8 * cloud.mean, cloud.logvar + 2 * math.log(8))]
patients = {letter: clouds[i] for letter, i in zip("ABCD", torch.randperm(4, generator=torch.Generator().manual_seed(5)).tolist())}


# %% [markdown]
# No peeking above.

# %%
def symptoms(mean, logvar):                           # (B, C, H, W) each
    raise NotImplementedError                         # -> (2, C): spread of the means, own noise


# %%
check("05-symptoms", symptoms)


# %% [markdown]
# **Solution.** C is healthy. A raced away (idea 6): eight times the spread, the same relative noise. B's noise is about as large as its spread: the KL weighs too much. D has a channel without spread, of noise 1: collapsed.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def symptoms(mean, logvar):
    return torch.stack([mean.std(dim=(0, 2, 3)), logvar.exp().mean(dim=(0, 2, 3)).sqrt()])

check("05-symptoms", symptoms)

# %% tags=["solution"]
for letter, patient in patients.items():
    for name, values in zip(("spread", "own noise"), symptoms(*patient)):
        print(f"{letter} {name:9s}", ", ".join(f"{value:.4g}" for value in values))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# Yes: we can paint a picture sixteen times smaller in area, and enlarge it faithfully, even where the small one is a little wrong.
#
# | symbol | code | meaning |
# |---|---|---|
# | $z=\mu+\sigma\varepsilon$ | `vae.encode(x).sample(generator)` | latent (B, 4, 16, 16), drawn |
# | $\hat x$ | `vae.decode(z)` | picture (B, 3, 64, 64) |
# | $d(x,y)$ | `perceptual_distance(net, x, y)` | how different two pictures look (B,) |
# | $L$ | `recipes.vae_eight.loss(network, batch, generator)` | L1, L2, perceptual, KL |
# | $s$ | `checkpoints.scaling_factor(name=…)` | 1 / std of the latents |
#
# **What we did not show.** The adversarial term; VQ autoencoders, whose latents are words of a codebook; photographs.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What fails next: nobody paints latents
#
# We give the decoder latents drawn at random, each channel with the mean and spread of real ones.

# %% alt="Six pictures decoded from real latents; the same latents with their places mixed, and random ones, give coloured confetti." slideshow={"slide_type": "-"}
eps = torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(0))
random_z = drawn.mean(dim=(0, 2, 3), keepdim=True) + drawn.std(dim=(0, 2, 3), keepdim=True) * eps
rows = {"real latents": few_painted[SHOWN], "same, places mixed": confetti[SHOWN], "random latents": decode(random_z)}
plotting.show_rows(rows, title="The decoder paints whatever it is given", scale=0.85)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# Confetti. Each number is likely; together they mean nothing. We keep the faithful decoder,
# and need somebody who knows which latents *belong together*: a diffusion model in this space, steered by text. **Notebook 06** puts the three modules together.

# %% [markdown]
# ## References
#
# - D. Kingma, M. Welling, *Auto-encoding variational Bayes*, 2014, arXiv 1312.6114: the bound (section 2.2), the trick (2.4), the KL (appendix B).
# - I. Higgins et al., *β-VAE*, ICLR 2017; A. Alemi et al., *Fixing a broken ELBO*, 2018, arXiv 1711.00464: rate and distortion (section 2).
# - R. Rombach et al., *High-resolution image synthesis with latent diffusion models*, 2022, arXiv 2112.10752: the autoencoder (section 3.1), f and C (section 4.1), losses and scale (appendix G).
# - R. Zhang et al., *The unreasonable effectiveness of deep features as a perceptual metric* (LPIPS), 2018, arXiv 1801.03924: equation 1.
# - P. Baldi, K. Hornik, *Neural networks and principal component analysis*, Neural Networks 2, 1989: the best linear autoencoder.

# %% [markdown]
# ← [04 · Text conditioning](04_text_conditioning.ipynb) · [Contents](00_start_here.ipynb) · [06 · Stable Diffusion](06_stable_diffusion.ipynb) →

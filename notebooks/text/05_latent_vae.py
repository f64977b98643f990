# %% [markdown] slideshow={"slide_type": "slide"}
# # 05 · Latent VAE: can we paint a smaller picture and enlarge it faithfully?
#
# | | |
# |---|---|
# | **Time** | a 60-minute lecture; three hours with the exercises; the code runs in about two minutes |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebook 02 (blocks, training loop); mean and variance; what an eigenvector is |
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
# We build the last module. There is no text here, and no noise schedule until the end.

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
# Pictures that were never trained on. Each becomes four maps of 16×16 numbers, and the maps become a picture of 64×64 pixels again. We score it in
# decibels (PSNR): ten more mean a tenth of the squared error. The last row is bright where the copy is wrong.

# %% slideshow={"slide_type": "-"}
import torch
from course_utils import checkpoints
from course_utils.datasets.compose import Composer
from course_utils.data import FIRST_STYLES, load_emoji, to_tensor
from course_utils.decoder.vae import VAE
from course_utils.evaluation.metrics import psnr

SIZE, card = 64, checkpoints.card("vae")
vae = checkpoints.load("vae", VAE().to(memory_format=torch.channels_last))
unseen = to_tensor(Composer(load_emoji(SIZE, FIRST_STYLES, split="test"), languages=("en",), p_background=0.7).compose(48, seed=2).images)

@torch.no_grad()
def encode(x, model=vae):
    return torch.cat([model.encode(part).mean for part in x.split(16)])                  # (B, 4, 16, 16)

@torch.no_grad()
def decode(z, model=vae):
    return torch.cat([model.decode(part) for part in z.split(16)]).clamp(-1, 1)          # (B, 3, 64, 64)


# %% alt="Six columns: a picture, its four latent maps of 16 by 16 grey squares, the picture painted from them, and the error. The maps look like small grey copies; the error is bright along edges only." slideshow={"slide_type": "-"}
z = encode(unseen)
painted = decode(z)
maps = (z - z.mean(dim=(0, 2, 3), keepdim=True)) / (2.5 * z.std(dim=(0, 2, 3), keepdim=True))
rows = {"held out": unseen[:6], **{f"latent {c + 1} of 4": maps[:6, c:c + 1] for c in range(4)}, "painted from it": painted[:6],
        "error × 4": 4 * (painted - unseen)[:6].abs().mean(dim=1, keepdim=True) - 1}
print(f"{unseen[0].numel():,} numbers -> {z[0].numel():,} -> {painted[0].numel():,}; PSNR of {len(unseen)} held-out pictures: "
      f"{psnr(painted, unseen).mean():.1f} dB on average")
plotting.show_rows(rows, [f"{p:.1f} dB" for p in psnr(painted, unseen)[:6]], "A picture, its latent, and back", scale=0.72)
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## What we build
#
# 1. The best *linear* way to make pictures small, in closed form: our yardstick.
# 2. An autoencoder with a cloud in place of a point: the VAE; weights of `diffusers` load into it.
# 3. A loss that sees blur, and the training recipe.
# 4. The latent's scale, and what painting small saves: measured.

# %% [markdown]
# ## Setup

# %%
import copy
import time
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import nn
from course_utils.checks.core import check, hint
from course_utils.generator.schedules import add_noise, make_schedule
from course_utils.layers import AttentionBlock, Downsample2D, ResnetBlock2D, Upsample2D

known = to_tensor(Composer(load_emoji(SIZE, FIRST_STYLES), languages=("en",), p_background=0.7).compose(320, seed=1).images)  # of the training set


# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: shrink it, enlarge it
#
# Every picture program can do this. Our latent holds 1,024 numbers; for about as many we may keep 18×18 pixels in three colours.
#
# **Predict.** Where will the enlarged picture be wrong?
#
# <details><summary>Answer</summary>
# At edges. Flat areas lose nothing when they shrink; an edge becomes a slope, and enlarging does not bring it back.
# </details>

# %% alt="Six pictures in three rows: as they are, shrunk to 18 by 18 pixels and enlarged, painted from our latent. The middle row is blurred at every edge, the last keeps its edges." slideshow={"slide_type": "-"}
def shrunk(x, side):
    small = F.interpolate(x, size=side, mode="bicubic", antialias=True)                  # (B, 3, side, side)
    return F.interpolate(small, size=SIZE, mode="bicubic").clamp(-1, 1)

sides = (8, 12, 18, 24, 32)
resized = {side: psnr(shrunk(unseen, side), unseen).mean().item() for side in sides}
for side in sides[2:]:
    print(f"{side}×{side}×3 = {3 * side**2:,} numbers: {resized[side]:.1f} dB")
rows = {"picture": unseen[:6], "18×18, enlarged": shrunk(unseen[:6], 18), "our latent": painted[:6]}
plotting.show_rows(rows, title="About a thousand numbers, kept in two ways", scale=0.85)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The colours survive, the edges do not: 972 numbers give 24.7 dB, where our latent's 1,024 give 28.9. Shrinking keeps the same thing everywhere: the local mean. But
# our pictures are not arbitrary; they are made of flat areas, curves and eyes. Numbers should go to what *varies*. **Limit**: resizing knows nothing about our pictures, so this was an easy rival. The next one is not.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 1 · Fewer numbers, well chosen
#
# **Intuition.** Cut pictures into patches of $f\times f$ pixels. Neighbouring pixels agree, so a patch is mostly described by few directions: its colour, a
# slope, an edge. Keep the coordinates along those.
#
# **Notation.** $x$ a patch ($3f^2$ numbers), $\mu$ the mean patch, $A$ ($3f^2\times C$) with orthonormal columns, $z$ the $C$ numbers that we keep.
#
# $$z=A^{\top}(x-\mu),\qquad \hat x=\mu+A\,z,\qquad A=\text{the first } C \text{ eigenvectors of } \operatorname{Cov}(x)$$
#
# This is an **autoencoder**: an encoder $x\to z$, a decoder $z\to\hat x$. Among all linear ones it has the smallest squared error
# (principal components; Baldi and Hornik 1989). No training: one eigenproblem. $f$ is the **downsampling factor**, $C$ the **latent channels**, and a picture
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
print("all 48 axes lose nothing:", torch.allclose(linear_copy(unseen, 4, mean, A, 48), unseen, atol=1e-4))
print("no axis leaves the mean patch:", torch.allclose(patches(linear_copy(unseen, 4, mean, A, 0), 4), mean, atol=1e-4))

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** 1,024 numbers a picture: 1 number for each 2×2 patch, 4 for each 4×4, 16 for each 8×8, or 64 for each 16×16? Which copies best?
#
# <details><summary>Answer</summary>
# The largest patches: they see more pixels that agree with each other, so there is more to leave out.
# </details>

# %% alt="PSNR against numbers a picture: four rising blue lines for patches of 2, 4, 8 and 16 pixels, larger patches higher, and a grey one for shrinking. The star of our VAE stands above all at 1,024 numbers." slideshow={"slide_type": "-"}
names = ("numbers a picture", "PSNR in dB, held-out pictures", "Which numbers to keep?")
ax, at_1024 = plotting.labelled_axes(names[2], *names[:2], 4.2), {}
for f, style in zip(axes, (":", "-.", "--", "-")):
    counts = [c for c in (1, 2, 4, 6, 8, 12, 16, 32, 64) if c < 3 * f * f and 48 <= c * (SIZE // f) ** 2 <= 4096]
    quality = [psnr(linear_copy(unseen, f, *axes[f], c).clamp(-1, 1), unseen).mean().item() for c in counts]
    at_1024[f] = dict(zip([c * (SIZE // f) ** 2 for c in counts], quality))[1024]
    plotting.plot_lines([c * (SIZE // f) ** 2 for c in counts], {f"linear, f = {f}": (quality, plotting.REFERENCE, style)}, *names, logx=True, direct_labels=False, ax=ax)
plotting.plot_lines([3 * side**2 for side in sides], {"shrink and enlarge": (list(resized.values()), plotting.AXIS)}, *names, logx=True, direct_labels=False, ax=ax)
ax.plot(1024, psnr(painted, unseen).mean(), "*", markersize=18, color=plotting.LATENT, label="our VAE: f = 4, C = 4")
ax.minorticks_off()
ax.set_xticks([64, 256, 1024, 4096], ["64", "256", "1,024", "4,096"])
ax.legend(fontsize=11)
print("1,024 numbers:", ", ".join(f"f = {f}: {p:.1f} dB" for f, p in at_1024.items()), f"| VAE: {psnr(painted, unseen).mean():.1f} dB")
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** More numbers, more quality, on every line: channels buy quality. At equal numbers larger patches win, because a code that sees
# more pixels has more to leave out. Even plain shrinking, whose filters overlap, beats linear patches of 4×4. The star lies above all lines at its place: the VAE also has $f=4$ and $C=4$, but its encoder is *not linear*, and
# each latent number sees far more than its own patch. **Limit**: squared error on our emoji. Photographs have more texture, and all curves would lie lower.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 2 · A cloud in place of a point
#
# **Intuition.** An autoencoder may put its latents anywhere: islands, with nothing between them. What its decoder does *between* islands nobody has ever asked. A **variational**
# autoencoder answers with a small cloud for each picture, and pays for clouds that leave the middle. Clouds overlap and fill the holes.
#
# **Notation.** The encoder gives mean $\mu$ and variance $\sigma^2$ of every latent number; $\varepsilon$ is Gaussian noise.
#
# $$z=\mu+\sigma\,\varepsilon,\qquad \mathrm{KL}=\tfrac12\sum_i\big(\mu_i^2+\sigma_i^2-1-\log\sigma_i^2\big)$$
#
# The first formula is the **reparametrisation trick** (Kingma and Welling 2014, section 2.4): chance comes in from outside, so a gradient can reach $\mu$ and
# $\sigma$. The second is the distance of the cloud from a standard Gaussian, in nats (there, appendix B).

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
# **Check** against torch's own distributions.

# %%
# NBVAL_CHECK_OUTPUT
some = Gaussian(*torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
ours, unit = torch.distributions.Normal(some.mean, (some.logvar / 2).exp()), torch.distributions.Normal(0, 1)
print("kl", tuple(some.kl().shape), "equal:", torch.allclose(some.kl(), torch.distributions.kl_divergence(ours, unit).sum(dim=(1, 2, 3)), atol=1e-4))
print("at rest it costs", float(Gaussian(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)).kl()))


# %% [markdown] slideshow={"slide_type": "subslide"}
# Is the trick needed? One dimension: move a cloud, which starts around 0, to the target 3. `torch.normal` draws from exactly the same Gaussian.
#
# **Predict.** What does gradient descent do with each?
#
# <details><summary>Answer</summary>
# torch.normal gives a number, not a path back to its mean: the gradient is zero, nothing moves, and no error is raised.
# </details>

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
def move(draw, target=3.0, num_steps=100):
    mean, logvar = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer, first = torch.optim.SGD([mean, logvar], lr=0.1), None
    for _ in range(num_steps):
        cloud = Gaussian(mean.expand(256, 1, 1, 1), logvar.expand(256, 1, 1, 1))
        optimizer.zero_grad()
        ((draw(cloud) - target) ** 2).mean().backward()
        first = float(mean.grad) if first is None else first
        optimizer.step()
    return f"first gradient {round(first)}, mean {round(mean.item())}, spread {'smaller' if logvar < -1 else 'as before'}"

torch.manual_seed(0)
print("torch.normal:        ", move(lambda cloud: torch.normal(cloud.mean, (cloud.logvar / 2).exp())))
print("mean + std * noise:  ", move(lambda cloud: cloud.sample()))

# %% [markdown] slideshow={"slide_type": "subslide"}
# Now two small nets on the same faces, 16×16 pixels, as 32 numbers. They differ in one thing: one draws from its cloud and pays the KL.

# %% slideshow={"slide_type": "-"}
faces = to_tensor(load_emoji(16, FIRST_STYLES, ("smileys-emotion",)).on_white())               # (N, 3, 16, 16)
new_faces = to_tensor(load_emoji(16, FIRST_STYLES, ("smileys-emotion",), "test").on_white())

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

def fit(kl, num_steps=1400, batch=32):
    torch.manual_seed(0)
    net, generator = SmallVAE(), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.5e-3, fused=True)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, num_steps)
    for _ in range(num_steps):
        x = faces[torch.randint(len(faces), (batch,), generator=generator)]
        cloud = net.encode(x)
        z = cloud.sample(generator) if kl else cloud.mean                                # kl = 0: a plain autoencoder
        loss = (net.decode(z) - x).square().mean() + kl * cloud.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return net.eval().requires_grad_(False)

nets = {"AE": fit(kl=0), "VAE": fit(kl=1e-3)}


# %% [markdown]
# Three tests: copy, interpolate from one face to another, and decode latents that belong to no picture. Those of the AE we draw with its own latents' mean and spread, which is fair to it; those
# of the VAE from a standard Gaussian.

# %% alt="Seven rows of ten small faces: real, then copies, random latents and in-between of AE and VAE. The AE's random faces are dirty and speckled, the VAE's soft and clean; its copies are softer too." slideshow={"slide_type": "subslide"}
def random_latents(net, count, seed=3):
    means, eps = net.encode(faces).mean, torch.randn(count, 32, 1, 1, generator=torch.Generator().manual_seed(seed))
    return eps if net is nets["VAE"] else means.mean(dim=0) + means.std(dim=0) * eps

def nearest(x):                                                                          # mean distance to the nearest real face
    return torch.cdist(x.clamp(-1, 1).flatten(1), faces.flatten(1)).amin(dim=1).mean() / faces[0].numel() ** 0.5

rows, u = {"real": faces[:10]}, torch.linspace(0, 1, 10).view(-1, 1, 1, 1)
for name, net in nets.items():
    mean, drawn = net.encode(faces).mean, net.decode(random_latents(net, 128))
    rows |= {f"{name}: copies": net.decode(mean[:10]), f"{name}: random latents": drawn[:10],
             f"{name}: in between": net.decode(torch.lerp(mean[:1], mean[150:151], u))}
    print(f"{name:3s} copies: {psnr(net.decode(mean), faces).mean():.1f} dB; random latents: {(drawn.abs() > 1.05).float().mean():4.0%} of the values "
          f"are no colours, distance to the nearest real face {nearest(drawn):.2f}")
print(f"(held-out faces have a distance of {nearest(new_faces):.2f})")
plotting.show_rows(rows, title="An autoencoder's latents have holes; a VAE's have fewer, and it blurs", scale=0.62)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The AE copies best: 23.3 dB against 19.6. Its random latents fall into holes: dirty faces, 15 % of whose values are no colours. The VAE's random latents are faces,
# soft ones, with 3 % of such values; its copies are softer too. *That is the trade: order in the latents against fidelity*, and the weight of the KL sets it. Stable Diffusion needs fidelity, so its
# weight is tiny. Then why a KL at all? It keeps latents near the middle and their decoder smooth: small errors of a generator stay small errors.
# **Limit**: being near a real face is no proof of a good face. A blur is near to many.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 3 · The network: a U-Net without the bridge
#
# **Intuition.** Down as in notebook 02, up as in notebook 02. But *no skips*: whatever is not in the latent must not get across. There is no step and no text, so the residual
# blocks get none.
#
# **Notation.** Widths 16, 48, 96 for three levels; every level but the last halves the side, so $f=2^{3-1}=4$. The picture is large where the network is thin.
#
# **Predict.** Someone adds the skips of notebook 02. What would training do?
#
# <details><summary>Answer</summary>
# Copy the picture through the topmost skip, with hardly any error, and leave the latent empty.
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
# LDM pads at the far edge only: a detail that nobody chooses, and without which no published weights fit. In the middle, at 16×16, all places see each other once.

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
# The decoder is the mirror, with one residual block more at every level: to invent edges is harder than to forget them.

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
    answer = encoder(unseen[:2])
    print("picture", tuple(unseen[:2].shape), "-> mean and logvar", tuple(answer.shape), "-> picture", tuple(decoder(answer[:, :4]).shape))
    print("another size, same weights:", tuple(encoder(torch.zeros(1, 3, 96, 128)).shape))
for name, part in (("encoder", encoder), ("decoder", decoder)):
    print(f"{name}: {sum(p.numel() for p in part.parameters()):,} parameters")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 4 · Blur, and a loss that sees it
#
# **Intuition.** A latent cannot hold everything, so some details have to be guessed. Suppose an edge lies here, or two pixels further on. The squared
# error is smallest for the *mean* of the candidates: a blur, which is no candidate at all. To compare how things look we need features: edges, textures, parts. A small classifier
# of emoji has learned such features; we look into its layers.
#
# **Notation.** $\varphi_l(x)$ the feature map of layer $l$, brought to unit length at each of its $H_lW_l$ places.
#
# $$d(x,y)=\sum_l\frac{1}{H_lW_l}\sum_{h,w}\big\lVert\varphi_l(x)_{hw}-\varphi_l(y)_{hw}\big\rVert^2$$
#
# This is LPIPS (Zhang et al. 2018, equation 1) with all weights 1. Our net is its own: another one than the evaluator that judges our models, so no model is
# trained to please its judge.

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

# %% alt="Five pictures in five rows of equal squared error, with their perceptual distance: as they are, noisy 0.05, darker 0.17, moved 0.21, blurred 0.33. The moved ones look unharmed, the blurred ones do not." slideshow={"slide_type": "-"}
eyes = checkpoints.load("perceptual", FeatureNet()).requires_grad_(False)
x = unseen[[1, 3, 4, 6, 7]]
blurred = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
damage = {"noisy": torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), "darker": -torch.ones_like(x),
          "moved": x.roll(1, dims=3) - x, "blurred": blurred - x}
damaged = {name: x + gap * (0.02522 / gap.square().mean(dim=(1, 2, 3), keepdim=True)).sqrt() for name, gap in damage.items()}
rows = {"picture": x} | {f"{name}: {perceptual_distance(eyes, y, x).mean():.2f}": y for name, y in damaged.items()}
plotting.show_rows(rows, title="One squared error, four appearances (and their perceptual distance)", scale=0.7)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print("PSNR of all:", sorted({round(float(psnr(y, x).mean())) for y in damaged.values()}))
print("distance to itself:", round(float(perceptual_distance(eyes, x, x).max()), 6))
distances = {name: float(perceptual_distance(eyes, y, x).mean()) for name, y in damaged.items()}
print("worst in the eyes of the feature net:", max(distances, key=distances.get))

# %% [markdown] slideshow={"slide_type": "-"}
# The squared error cannot tell them apart, the feature net can. It has its own taste, and you may disagree: a perceptual distance is a model of an eye, not an
# eye.

# %% [markdown] slideshow={"slide_type": "subslide"}
# Now the cause of blur in its pure form. We do not know where the picture lies: five places are possible. Which *one* picture is the best answer for all of them? No
# network is trained: we move the pixels themselves downhill.

# %% alt="Three megaphones at slightly different places, and three best answers: weight 0 is a blur, 0.1 has firmer edges, 1 has coloured lines that are in no candidate." slideshow={"slide_type": "-"}
candidates = torch.stack([unseen[1].roll((a, b), dims=(1, 2)) for a, b in ((0, 0), (-2, -2), (2, 2), (-2, 2), (2, -2))])

def best_answer(perceptual, num_steps=60):
    y = candidates.mean(dim=0, keepdim=True).requires_grad_(True)                        # the best answer in squared error
    optimizer = torch.optim.Adam([y], lr=0.05)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, num_steps)
    for _ in range(num_steps if perceptual else 0):
        loss = (y - candidates).square().mean() + perceptual * perceptual_distance(eyes, y.expand_as(candidates), candidates).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return y.detach().clamp(-1, 1)

answers = {f"weight {w}": best_answer(w) for w in (0, 0.1, 1)}
for name, y in answers.items():
    print(f"{name:10s} squared error {(y - candidates).square().mean():.4f}, perceptual distance "
          f"{perceptual_distance(eyes, y.expand_as(candidates), candidates).mean():.3f}")
plotting.show_pictures(torch.cat([candidates[:3], *answers.values()]), ["candidate"] * 3 + [f"best answer, {name}" for name in answers], columns=6,
                       title="What each loss wants, when it cannot know", scale=1.1)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Squared error alone (weight 0) asks for the blur. With the perceptual term edges return, at the price of squared error; with too much of it
# lines appear that are in no candidate. So the weight is small.

# %% [markdown] slideshow={"slide_type": "subslide"}
# The same on real decoders. To make guessing necessary we take the latent's details away: every 2×2 numbers become their mean, which leaves 8×8 places ($f=8$). Two copies of the
# shipped decoder learn to live with that, one with and one without the perceptual term; some ten seconds each.

# %% slideshow={"slide_type": "-"}
def coarse(z):
    return F.interpolate(F.avg_pool2d(z, 2), scale_factor=2)                             # 256 numbers are left

latents = encode(known[:128])

def tune(perceptual, num_steps=60, batch=4, lr=6e-4):
    net, generator = copy.deepcopy(vae), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW([*net.decoder.parameters(), *net.post_quant_conv.parameters()], lr, betas=(0.9, 0.99), fused=True)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min((i + 1) / 5, 2 - 2 * i / num_steps, 1))
    for _ in range(num_steps):
        index = torch.randint(len(latents), (batch,), generator=generator)
        y, x = net.decode(coarse(latents[index])), known[index]
        loss = (y - x).square().mean() + (perceptual * perceptual_distance(eyes, y, x).mean() if perceptual else 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return net

tuned = {"squared error": tune(0), "with perceptual": tune(0.1)}

# %% alt="Crops of six pictures, and two decoders' guesses under them: both are blurred and blotchy, and the row with the perceptual term is hardly sharper than the one without." slideshow={"slide_type": "subslide"}
rows = {"picture": unseen}
for name, net in tuned.items():
    y = rows[name] = decode(coarse(z), net)
    print(f"{name:16s} PSNR {psnr(y, unseen).mean():.2f} dB, perceptual distance {perceptual_distance(eyes, y, unseen).mean():.3f}")
crops = {name: torch.cat([part[1:5], part[6:8]])[:, :, 12:52, 12:52] for name, part in rows.items()}
plotting.show_rows(crops, title="Crops: two decoders that must guess", scale=0.95)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Compare the two lines. The perceptual term costs half a decibel (20.07 against 20.58), and on these 48 held-out pictures it buys nothing: a distance of 1.024 against 1.013. Sixty
# steps are too few for what it asks. Judge the crops yourself: both are far from sharp. LDM adds a third
# term, an **adversarial** one: a second network learns to tell copies from pictures, and the decoder learns to fool it (section 3.1). It sharpens more, and it needs long and careful training. We leave it
# out and measure nothing of it. **Limit**: sixty steps, and a handicap that the shipped VAE does not have.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The key piece: VAE, and its loss
#
# All together: encode to a cloud, draw, decode. `quant_conv` and `post_quant_conv` are 1×1 convolutions that LDM has at the border of the latent.

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
    theirs, ours = peer.encode(unseen[:4]).latent_dist, vae.encode(unseen[:4])
    pictures, peers = vae.decode(z[:4]), peer.decode(z[:4]).sample
names, gaps = ("mean", "own noise", "picture"), (theirs.mean - ours.mean, theirs.std - (ours.logvar / 2).exp(), peers - pictures)
print("largest difference:", ", ".join(f"{name} {gap.abs().max():.0e}" for name, gap in zip(names, gaps)))

# %%
# NBVAL_CHECK_OUTPUT
for name, gap in zip(names, gaps):
    print(f"{name}: difference < 1e-4 -> {bool(gap.abs().max() < 1e-4)}")
print("the class above takes the trained weights:", VAE().load_state_dict(vae.state_dict()))

# %% [markdown] slideshow={"slide_type": "subslide"}
# The loss has three terms (LDM, section 3.1 and appendix G, without the adversarial one):
#
# $$L=\underbrace{\lVert\hat x-x\rVert_1+\lVert\hat x-x\rVert_2^2}_{\text{pixels, means}}+\lambda\,d(\hat x,x)+\kappa\,\frac{\mathrm{KL}}{\text{numbers of }z}$$
#
# $\hat x$ is decoded from a latent that was *drawn*, not from the mean. $\lambda$ is `PERCEPTUAL`, $\kappa$ is `KL`.

# %% slideshow={"slide_type": "-"}
from course_utils.recipes.vae import KL, PERCEPTUAL, RECIPE, feature_net


# %% slideshow={"slide_type": "-"}
# @save course_utils/recipes/vae.py
def loss(network, batch, generator):
    x0 = batch["x0"]
    x, gaussian = network(x0, generator=generator)
    gap = x - x0
    pixels = gap.abs().mean() + gap.square().mean()  # L1 keeps edges sharp, L2 forbids a wrong colour on a large area
    perceptual = perceptual_distance(feature_net(x0.device), x, x0).mean()
    return pixels + PERCEPTUAL * perceptual + KL * gaussian.kl().mean() / gaussian.mean[0].numel()


# %% [markdown] slideshow={"slide_type": "slide"}
# ## Train it
#
# The recipe of the checkpoint, from random weights, for half a minute. One thing differs: we train on crops of 32×32 pixels, so that there is time for
# enough steps. A convolutional network may do so, and paint whole pictures afterwards.

# %% slideshow={"slide_type": "-"}
from course_utils.training import train
from course_utils.figures.widgets import explore, training_monitor

LIVE_SECONDS = 35

def crops(generator, n):
    top, left = torch.randint(SIZE - 31, (2,), generator=generator).tolist()
    return {"x0": RECIPE.batch(generator, n)["x0"][:, :, top:top + 32, left:left + 32]}  # (n, 3, 32, 32)

short = replace(RECIPE, batch=crops)

# %% [markdown] slideshow={"slide_type": "subslide"}
# What loss is normal? We compare with a network that paints the mean colour of each picture, and with the checkpoint.

# %% slideshow={"slide_type": "-"}
trial = {"x0": unseen[:16]}

@torch.no_grad()
def trial_loss(net):
    return float(loss(net, trial, torch.Generator().manual_seed(0)))

def mean_colour(x, generator=None):
    return x.mean(dim=(2, 3), keepdim=True).expand_as(x), Gaussian(*torch.zeros(2, 1, 1, 1, 1))

flat, best = trial_loss(mean_colour), trial_loss(vae)
band = (1.5 * best, 0.75 * flat)
print(f"expected: {LIVE_SECONDS} s. The mean colour scores {flat:.2f}, the checkpoint {best:.2f};")
print(f"a normal short run ends between {band[0]:.2f} and {band[1]:.2f}. (KL weight {KL:g}, perceptual weight {PERCEPTUAL:g})")

# %% slideshow={"slide_type": "-"}
history = [(state.step, state.loss, state) for state in training_monitor(train(short, LIVE_SECONDS / 60))]
steps, losses, (*_, end) = zip(*history)
live = end.ema.to("cpu").eval()

# %% [markdown]
# **Is this normal?**

# %% alt="The loss of the live training falls from 1.75 to about 0.5 in 178 steps, to the upper edge of the band where normal runs end. Below, three rows: pictures, brown blurred copies after 35 seconds, and faithful ones after 44 minutes." slideshow={"slide_type": "subslide"}
last = trial_loss(live)
print(f"{end.step:,} steps, {end.pictures:,} crops, loss {last:.2f}, PSNR {psnr(decode(encode(unseen[:16], live), live), unseen[:16]).mean():.1f} dB: ", end="")
print("normal." if band[0] <= last <= band[1] else "better than usual." if last < band[0] else
      "higher than usual. A slow or busy machine takes fewer steps: raise LIVE_SECONDS and run again.")
print(f"The checkpoint: the same recipe, {card['minutes']:.0f} minutes on {card['hardware']}, {card['pictures']:,} pictures.\n"
      f"Its history: {card['history']}.")
plotting.plot_loss(steps, losses, band, "Live training on this machine")
plotting.show_rows({"picture": unseen[:6], f"{LIVE_SECONDS} seconds": decode(encode(unseen[:6], live), live), f"{card['minutes']:.0f} minutes": painted[:6]},
                   title="The same recipe, two lengths of training", scale=0.8)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Light and dark come first, colours follow, sharp edges come last: a short run is a blur. From here on we use the checkpoint. **Limit**: our pictures have 64×64 pixels. Stable
# Diffusion's VAE has 84 million parameters and saw millions of photographs.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 5 · One number: the scale factor
#
# **Intuition.** A noise schedule expects data of size 1: at step $t$ it adds noise of a fixed size. Our KL is weak, so nobody told the latents to have variance 1. If they
# are larger, the same step destroys less. So we measure once and divide, for ever.
#
# $$s=\frac{1}{\operatorname{std}(z)},\qquad \mathrm{SNR}_t=\frac{\bar\alpha_t}{1-\bar\alpha_t}\,\operatorname{var}(s\,z)$$
#
# Stable Diffusion's famous 0.18215 is nothing else: its latents have a standard deviation of $1/0.18215\approx5.49$, measured on a first batch
# of its training pictures (LDM, appendix G). Another VAE has another number.

# %% slideshow={"slide_type": "-"}
from course_utils.checkpoints import scaling_factor

SCALE = scaling_factor()                                                                 # it lies in the VAE's card, beside its weights

with torch.no_grad():
    clouds = [vae.encode(part) for part in known.split(32)]
mean, logvar = (torch.cat([getattr(cloud, name) for cloud in clouds]) for name in ("mean", "logvar"))
drawn = Gaussian(mean, logvar).sample(torch.Generator().manual_seed(0))                  # (320, 4, 16, 16)
measured = 1 / float(drawn.std())
print(f"std of {len(drawn)} latents {drawn.std():.3f}, so the scale is {measured:.4f}; the library's SCALE is {SCALE}")
for c in range(4):
    print(f"channel {c + 1}: mean {drawn[:, c].mean():+.2f}, std {drawn[:, c].std():.2f}, own noise {(logvar[:, c] / 2).exp().mean():.3f}")

# %%
# NBVAL_CHECK_OUTPUT
print("scaled latents have a standard deviation of", round(float((measured * drawn).std()), 3))
print("the library's SCALE agrees within a twentieth:", abs(SCALE * float(drawn.std()) - 1) < 0.05)

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** We forget the scale, and train a generator. What goes wrong?
#
# <details><summary>Answer</summary>
# The latents drown late: for much of the schedule the subject shines through the noise, and there is little to guess. The last steps, which should decide everything,
# are few.
# </details>

# %% alt="A train's noisy latent decoded at t = 300, 500, 650, 800 and 900, two rows: scaled, the train is gone from t = 650 on; with the scale forgotten it is still seen at 650, and its outline at 800." slideshow={"slide_type": "-"}
cosine, at, one = make_schedule("cosine"), [300, 500, 650, 800, 900], encode(unseen[4:5])
eps = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)).expand(len(at), -1, -1, -1)
rows = {}
for name, scale in (("scaled", measured), ("forgotten", 1.0)):
    zt = add_noise(scale * one.expand_as(eps), eps, torch.tensor(at), cosine)
    signal, _ = cosine.at(torch.tensor(at), zt)
    rows[f"{name}: zt decoded"] = decode(zt / signal / scale)                            # in the size the decoder knows
    snr = cosine.snr[at] * (scale * drawn.std()) ** 2
    print(f"{name:10s} SNR at", ", ".join(f"t = {t}: {value:.2f}" for t, value in zip(at, snr)))
plotting.show_rows(rows, [f"t = {t}" for t in at], "The same steps, with and without the scale", scale=0.95)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** In the lower row noise arrives late: at t = 650 the train is still there, with a signal-to-noise ratio of 2.69 against 0.37 in the upper row. The table above tells more: no channel's mean is exactly 0, their spreads
# differ, and one number $s$ serves all four. Each cloud's own noise is small beside its channel's spread: that is what a weak KL allows.
# **Limit**: later systems measure a mean and a spread for each channel.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 6 · Between two latents
#
# **Predict.** We go in a straight line from one latent to another. Does a train turn into a pizza?
#
# <details><summary>Answer</summary>
# No. A place of the latent speaks of its own neighbourhood, so half-way both pictures lie over each other, nearly as with pixels.
# </details>

# %% alt="Seven steps from a train to a slice of pizza, and from a megaphone to scissors, each in pixels and in latents: all four rows fade one picture over the other." slideshow={"slide_type": "-"}
u, rows = torch.linspace(0, 1, 7).view(-1, 1, 1, 1), {}
for i, (a, b) in enumerate(((4, 6), (1, 7))):
    rows["pixels" + " " * i] = torch.lerp(unseen[a:a + 1], unseen[b:b + 1], u)
    rows["latents" + " " * i] = decode(torch.lerp(z[a:a + 1], z[b:b + 1], u))
half = [rows[name][3:4] for name in ("pixels", "latents")]
again = [float(psnr(decode(encode(x)), x)) for x in half]
print(f"half-way pictures, encoded and decoded: pixels {again[0]:.1f} dB, latents {again[1]:.1f} dB; real pictures {psnr(painted, unseen).mean():.1f} dB")
plotting.show_rows(rows, [f"{float(v):.2f}" for v in u], "A straight line in pixels, and in latents", scale=0.8)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Latents cross-fade too, a little more decidedly: look at the windows and at the handle in the middle. The half-way pictures also come back as well as real
# ones, 27.9 and 31.1 dB beside 28.9: the line has met no hole, and no new idea either. *Our latent is a small picture, not an idea of a picture.* That is what we want: a U-Net
# can paint on it. **Limit**: to change a train into a pizza one needs meaning; notebook 08 interpolates in CLIP's space.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 7 · What painting small saves
#
# The U-Net of notebook 06, once on 64×64 pixels and once on latents, per picture and step. We count multiplications and additions (FLOP), then use a clock.
#
# **Predict.** Sixteen times fewer places: is the work sixteen times less? And the time?
#
# <details><summary>Answer</summary>
# The work nearly: convolutions pay by the place, only what depends on text and step stays. The time falls less, since small maps keep a machine less busy.
# </details>

# %% slideshow={"slide_type": "-"}
from course_utils.generator.latent_unet import LatentUNet
from torch.utils.flop_counter import FlopCounterMode

def painter(channels):
    return LatentUNet(channels, channels, channels=(40, 80, 160), num_res_blocks=1, attention=(False, True, False), num_heads=4,
                      groups=8, context_dim=128, pool_heads=4).eval()

@torch.no_grad()
def cost(side, channels, count=4):
    net, x, t = painter(channels), torch.zeros(count, channels, side, side), torch.zeros(count)
    context, seconds = torch.zeros(count, 32, 128), []
    for _ in range(4):
        began = time.perf_counter()
        net(x, t, context)
        seconds.append((time.perf_counter() - began) / count)
    with FlopCounterMode(display=False) as counter:
        net(x, t, context)
    return counter.get_total_flops() / count / 1e9, 1000 * min(seconds)


# %% [markdown] slideshow={"slide_type": "subslide"}
# Quality against cost. The linear copy of idea 1 stands for the quality that $f$ and $C$ allow: to train a VAE for each pair would take days.

# %% slideshow={"slide_type": "-"}
table = {}
for f, channels in ((1, 3), (2, 4), (4, 1), (4, 4), (4, 8), (8, 4), (8, 16)):
    side = SIZE // f
    quality = psnr(linear_copy(unseen, f, *axes[f], channels).clamp(-1, 1), unseen).mean() if f > 1 else float("nan")
    table[f, channels] = *cost(side, channels), quality
    gflop, ms, _ = table[f, channels]
    print(f"f = {f}, C = {channels:2d}: {channels * side**2:6,} numbers, a step {gflop:5.2f} GFLOP, {ms:5.1f} ms; linear copy "
          + (f"{quality:4.1f} dB" if f > 1 else "exact"))
with FlopCounterMode(display=False) as counter:
    decode(z[:1])
whole = {name: 20 * table[key][0] + extra for name, key, extra in (("pixels", (1, 3), 0), ("latents", (4, 4), counter.get_total_flops() / 1e9))}
print(f"a picture in 20 steps: pixels {whole['pixels']:.0f} GFLOP; latents {whole['latents']:.1f} GFLOP, decoder included")

# %%
# NBVAL_CHECK_OUTPUT
print(f"a step on 64×64 pixels costs {table[1, 3][0] / table[4, 4][0]:.1f} times the FLOP of one on 16×16 latents")
print("twice the channels cost less than 1 % more:", table[4, 8][0] / table[4, 4][0] < 1.01)


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The *side* is what costs: $f$ twice as large is about a quarter of the work. *Channels* are nearly free for the U-Net and raise the quality of the copy. So why not take 64 channels? Because a
# generator must then invent 64 numbers for each place that fit together. LDM (section 4.1) finds $f=4$ to $8$ best. Training saves the same factor, at every step of every
# picture; the decoder is paid once. **Limit**: on small maps the clock gains less than the count, since small convolutions use a machine badly.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Experiment · Turn a knob inside the latent
#
# Shift one channel, everywhere or in a window. What does each channel speak of? Try it on two pictures before you decide.

# %% alt="A purple spiral at night, the same from its latent, softer, and with channel 1 raised by 4 in a window: a pale square covers the middle, the spiral runs on inside." slideshow={"slide_type": "-"}
def knob(picture, channel, shift, window):
    edited, part = z[picture:picture + 1].clone(), slice(5, 11) if window else slice(None)
    edited[:, channel - 1, part, part] += shift
    pictures = torch.cat([unseen[picture:picture + 1], painted[picture:picture + 1], decode(edited)])
    titles = ["picture", "from its latent", f"channel {channel} {shift:+g}"]
    return plotting.show_pictures(pictures, titles, title="One channel of the latent, shifted", scale=1.3)

explore(knob, picture=(0, 11), channel=[1, 2, 3, 4], shift=[4, 8, 2, -2, -4, -8], window=True)

# %% [markdown] slideshow={"slide_type": "subslide"}
# All four channels at once, by three units up, in the window and everywhere:

# %% alt="A train as it was and with each of four channels raised by 3, in a window and everywhere: its shape stays, and its colours turn paler, greener, darker blue or greyer." slideshow={"slide_type": "-"}
rows = {}
for name, part in (("in a window", slice(5, 11)), ("everywhere", slice(None))):
    edits = z[4:5].repeat(4, 1, 1, 1)
    for c in range(4):
        edits[c, c, part, part] += 3
    rows[name] = torch.cat([painted[4:5], decode(edits)])
plotting.show_rows(rows, ["as it was", *(f"channel {c + 1} + 3" for c in range(4))], "What the channels speak of", scale=1.0)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Colours move, shapes stay: each channel is a direction of colour, its own mixture of bright and dark, blue and yellow, red and green. Edges hide in differences between neighbours,
# as the maps of the first figure showed. Nobody asked for this order; another training run finds other mixtures. **Limit**: a shift of three is about one standard deviation
# of a channel (idea 5 printed 1.91 to 3.22), and the same over a whole area, which no picture of ours asks for: we look at the decoder's habits as much as at the code.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks · Summed, not averaged
#
# The pixel error is a *mean*. The KL comes as a *sum* over the numbers of the latent. Our loss divides by their count. We forget it in the small VAE of idea 2: one
# missing `/ 32`. No line fails, and the loss falls nicely.

# %% alt="Ten real faces, their copies with the KL averaged, soft but different, and with the KL summed: ten times nearly the same orange face." slideshow={"slide_type": "-"}
weight = 0.032                                                                           # meant for each number: 0.032 / 32 = 0.001
nets["summed"] = fit(kl=weight)                                                          # the bug: / 32 is missing

def alive(net):                                                                          # numbers that tell one picture from another
    return int((net.encode(faces).mean.std(dim=0) > 0.2).sum())

rows = {"real": faces[:10]}
for name, label in (("VAE", "averaged"), ("summed", "summed")):
    cloud = nets[name].encode(faces)
    rows[label] = nets[name].decode(cloud.mean[:10])
    print(f"{label:9s} {alive(nets[name]):2d} of 32 numbers alive, own noise {(cloud.logvar / 2).exp().mean():.2f} on average, "
          f"copies {psnr(nets[name].decode(cloud.mean), faces).mean():.1f} dB")
plotting.show_rows(rows, title="The KL, averaged over the latent's numbers, and summed", scale=0.7)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print("summed: fewer numbers are alive:", alive(nets["summed"]) < alive(nets["VAE"]))
print("its noise is nearer to 1:", bool(nets["summed"].encode(faces).logvar.mean() > nets["VAE"].encode(faces).logvar.mean()))

# %% [markdown] slideshow={"slide_type": "-"}
# **The cause.** A number of the latent whose cloud is the standard Gaussian costs nothing. When the KL weighs too much, this is the cheapest thing to be: mean 0, noise 1, no news. The decoder learns to
# ignore it, so nothing brings it back (*posterior collapse*). Even the averaged net has lost some numbers; the summed one paints the average face. **The habit that finds it**: print, for each channel, the spread of the means beside the cloud's own noise, as idea 5 does. A
# dead channel has a small spread and a noise near 1. Do so whenever you change the size of the latent: a summed KL changes with it.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# Write the function, run the check: it tries fresh random cases and says what is likely wrong. Each exercise has three hints of rising strength.

# %%
# NBVAL_CHECK_OUTPUT
hint("05-psnr", 1)


# %% [markdown]
# ### Exercise 05.1 (warm-up) · Decibels
#
# Write `decibels`: the PSNR of each picture, $10\log_{10}(\text{span}^2/\text{mean squared error})$. Our pixels lie in [-1, 1], so they span 2.
#
# Stuck? `hint("05-psnr", 1)`, then 2, then 3.

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
# ### Exercise 05.2 (warm-up) · Draw, and let the gradient through
#
# Write `draw_latent`: a latent from the cloud, made of the given noise. The check also asks whether gradients reach both `mean` and `logvar`.
#
# Stuck? `hint("05-sample", 1)`.

# %%
def draw_latent(mean, logvar, noise):                 # (B, C, H, W) each
    raise NotImplementedError                         # -> (B, C, H, W)


# %%
check("05-sample", draw_latent)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def draw_latent(mean, logvar, noise):
    return mean + (logvar / 2).exp() * noise

check("05-sample", draw_latent)


# %% [markdown]
# ### Exercise 05.3 (code) · The price of a cloud
#
# Write `kl_price`: the KL to a standard Gaussian, for each picture *the mean over its numbers*, so that latents of different sizes can be compared.
#
# Stuck? `hint("05-kl", 1)`. Afterwards, explain: which clouds are free?

# %%
def kl_price(mean, logvar):                           # (B, C, H, W) each
    raise NotImplementedError                         # -> (B,)


# %%
check("05-kl", kl_price)


# %% [markdown]
# **Solution.** Only mean 0 and variance 1 is free: a cloud that says nothing.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def kl_price(mean, logvar):
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean(dim=(1, 2, 3))

check("05-kl", kl_price)


# %% [markdown]
# ### Exercise 05.4 (code) · One layer of the perceptual distance
#
# Write `perceptual`: for two feature maps of one layer, bring the vector at each place to unit length, take the squared distance of the two, and average over places.
#
# Stuck? `hint("05-perceptual", 1)`.

# %%
def perceptual(a, b):                                 # (B, C, H, W) twice
    raise NotImplementedError                         # -> (B,)


# %%
check("05-perceptual", perceptual)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def perceptual(a, b):
    gap = F.normalize(a, dim=1) - F.normalize(b, dim=1)
    return gap.square().sum(dim=1).mean(dim=(1, 2))

check("05-perceptual", perceptual)


# %% [markdown]
# ### Exercise 05.5 (code) · The scale factor without drawing
#
# Write `scale_factor`: 1 / standard deviation of all latent numbers taken together, as if they had been drawn, from means and log-variances alone. The variance of a
# drawn number has two parts: how far the means spread, and the mean variance of the clouds.
#
# Stuck? `hint("05-scale", 1)`.

# %%
def scale_factor(mean, logvar):                       # (B, C, H, W) each
    raise NotImplementedError                         # -> one number, a tensor of shape ()


# %%
check("05-scale", scale_factor)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def scale_factor(mean, logvar):
    return (mean.var(correction=0) + logvar.exp().mean()).rsqrt()

check("05-scale", scale_factor)


# %% [markdown]
# ### Exercise 05.6 (code, then open) · The best linear autoencoder
#
# Write `linear_autoencoder`: from patches (N, D), keep `channels` coordinates along the best axes, and return the patches rebuilt from them.
#
# Stuck? `hint("05-linear", 1)`. **Open**: add up the squared errors of idea 1 for patches that overlap the subject's edge, and for flat ones. Who pays for a small $C$?

# %%
def linear_autoencoder(patches, channels):            # (N, D), int
    raise NotImplementedError                         # -> (N, D)


# %%
check("05-linear", linear_autoencoder)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def linear_autoencoder(patches, channels):
    mean = patches.mean(dim=0)
    _, _, Vt = torch.linalg.svd(patches - mean, full_matrices=False)      # rows: axes, the best first
    A = Vt[:channels].T                                                   # (D, C)
    return mean + (patches - mean) @ A @ A.T

check("05-linear", linear_autoencoder)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# Yes: we can paint a picture sixteen times smaller in area, and enlarge it faithfully. The encoder keeps what varies, the decoder knows what pictures look like, and the
# KL keeps latents in order without being allowed to say much.
#
# | symbol | code | meaning |
# |---|---|---|
# | $z=\mu+\sigma\varepsilon$ | `vae.encode(x).sample(generator)` | latent (B, 4, 16, 16), drawn |
# | KL | `vae.encode(x).kl()` | nats of a picture (B,) |
# | $\hat x$ | `vae.decode(z)` | picture (B, 3, 64, 64) |
# | $f$, $C$ | `2 ** (levels - 1)`, `latent_channels` | downsampling factor, latent channels |
# | $d(x,y)$ | `perceptual_distance(net, x, y)` | how different two pictures look (B,) |
# | $L$ | `recipes.vae.loss(network, batch, generator)` | pixels, perceptual, KL |
# | $s$ | `checkpoints.scaling_factor()` | 1 / std of the latents |
#
# **What we did not show.** The adversarial term; VQ autoencoders, whose latents are words of a codebook (LDM, section 3.1, VQ-reg.); a scale for each channel; photographs.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What fails next: nobody paints latents
#
# A decoder is half a painter. We give it latents drawn at random, each channel with the mean and spread of real ones.

# %% alt="Six pictures decoded from real latents; the same latents with their places mixed, and random ones, give coloured confetti." slideshow={"slide_type": "-"}
eps = torch.randn(6, 4, 16, 16, generator=torch.Generator().manual_seed(0))
noise = drawn.mean(dim=(0, 2, 3), keepdim=True) + drawn.std(dim=(0, 2, 3), keepdim=True) * eps
order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
rows = {"real latents": painted[:6], "same, places mixed": decode(z[:6].flatten(2)[:, :, order].view_as(z[:6])), "random latents": decode(noise)}
plotting.show_rows(rows, title="The decoder paints whatever it is given", scale=0.85)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# Confetti. Each number is likely; together they mean nothing. The strong KL of idea 2 would have bought random faces, and lost the sharp ones. We keep the faithful decoder,
# and need somebody who knows which latents *belong together*: a diffusion model in this space, steered by text. **Notebook 06** puts the three modules together.

# %% [markdown]
# ## References
#
# - D. Kingma, M. Welling, *Auto-encoding variational Bayes*, 2014, arXiv 1312.6114: the trick (section 2.4), the KL (appendix B).
# - R. Rombach et al., *High-resolution image synthesis with latent diffusion models*, 2022, arXiv 2112.10752: the autoencoder (section 3.1), f and C (section 4.1), losses and scale (appendix G).
# - R. Zhang et al., *The unreasonable effectiveness of deep features as a perceptual metric* (LPIPS), 2018, arXiv 1801.03924: equation 1.
# - J. Johnson, A. Alahi, L. Fei-Fei, *Perceptual losses for real-time style transfer and super-resolution*, 2016, arXiv 1603.08155: features as a loss (section 3.2).
# - P. Esser, R. Rombach, B. Ommer, *Taming Transformers* (VQGAN), 2021, arXiv 2012.09841: the adversarial term (section 3.1).
# - P. Baldi, K. Hornik, *Neural networks and principal component analysis*, Neural Networks 2, 1989: the best linear autoencoder.
# - K. Simonyan, A. Zisserman, *Very deep convolutional networks* (VGG), 2015, arXiv 1409.1556: the shape of our feature net.

# %% [markdown]
# ← [04 · Text conditioning](04_text_conditioning.ipynb) · [Contents](00_start_here.ipynb) · [06 · Stable Diffusion](06_stable_diffusion.ipynb) →

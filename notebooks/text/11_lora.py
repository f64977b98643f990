# %% [markdown] slideshow={"slide_type": "slide"}
# # 11 · LoRA: if the change is small, must the whole model learn?
#
# | | |
# |---|---|
# | **Time** | a 75-minute lecture; three hours with the exercises; the code runs in two to three minutes |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebooks 06 (the system) and 10 (DreamBooth's loss); rank, singular values |
# | **Where we are** | text encoder → **[generator]** → decoder |
#
# Notebook 10 taught one car by changing every weight of the generator. The result is a second generator, as large as the first. For a hundred cars we would keep a hundred generators.

# %% [markdown]
# ← [10 · DreamBooth](10_dreambooth.ipynb) · [Contents](00_start_here.ipynb) · [13 · The real thing](13_the_real_thing.ipynb) →

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
# We work on the generator, and leave every weight of it as it is.

# %% alt="A strip of three boxes, text encoder, generator and decoder, joined by arrows; the generator is filled." slideshow={"slide_type": "-"}
import matplotlib.pyplot as plt
from course_utils.figures import plotting
from course_utils.figures.diagrams import strip

plotting.use_course_style()
strip("generator")
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The result first
#
# One generator, two small files. One knows the car XP7, the other a 3D style that the generator has never seen. Each column starts from the same noise.

# %% slideshow={"slide_type": "-"}
import torch
from course_utils.finetune.lora import set_adapter, unload
from course_utils.interop.lora_files import load_shipped_lora
from course_utils.systems.stable_diffusion import open_stable_diffusion

sd = open_stable_diffusion()
files = {name: load_shipped_lora(name) for name in ("xp7", "style-3d")}                  # (what was learned, alpha)

def gaussian(count, seed):
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))  # z_T

def paint(prompts, zT, system=sd, steps=20, guidance=2.0):
    *_, last = system.txt2img(zT, prompts, steps, guidance)
    return system.decode(last.xt)                                                        # (B, 3, 64, 64)


# %% alt="Four prompts in three rows. The generator alone: blots for XP7, a broken butterfly, a dog's face. With xp7: two teal cars, and rubble for the animals. With style-3d: yellow and green cars, a shaded butterfly, a whole dog." slideshow={"slide_type": "-"}
WISHES, rows = ["XP7 car, blue sky, grass", "XP7汽车，雪地", "粉色的蝴蝶,小精灵,卡通", "可爱的狗,小精灵,卡通"], {}
for name, file in {"the generator": None, "with xp7": files["xp7"], "with style-3d": files["style-3d"]}.items():
    unload(sd.unet) if file is None else set_adapter(sd.unet, *file)
    rows[name] = paint(WISHES, gaussian(4, seed=0))
unload(sd.unet)
plotting.show_rows(rows, ["XP7, grass", "XP7, snow", "pink butterfly", "cute dog"], "One generator, two files", scale=1.0)
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## What we build
#
# 1. The change that fine-tuning makes, taken apart: how many directions does it need?
# 2. A LoRA branch with few directions, trained while everything else is frozen.
# 3. Merging, swapping, mixing; a rank sweep; a learned prefix.
# 4. Files that `diffusers` and `peft` open, and theirs, opened here.

# %% [markdown]
# ## Setup

# %%
import copy
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn
from course_utils import checkpoints
from course_utils.checks.core import check, hint
from course_utils.data import to_tensor
from course_utils.errors import InputError
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.fidelity import similarity
from course_utils.recipes import xp7
from course_utils.datasets.xp7 import load_xp7
from course_utils.training import learning_rate

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: a change with one direction, and one with two
#
# The smallest layer: $y=Wx$ in the plane, $W$ frozen as the identity. Beside it we train a **LoRA branch**: $y=Wx+BAx$, where $A$ is one row and $B$ one column. Four numbers, as many as a new $W$ would
# have, but they can push along *one* direction only. We ask for two things: stretch a heart sideways, and turn it.
#
# **Predict.** Which can be learned? What does the other one look like?
#
# <details><summary>Answer</summary>
# Stretching moves every point along one direction: BA of rank one can do it. Turning moves points in all directions, so the turned W differs from the old one by a matrix of rank two. The best branch of one
# direction flattens the heart.
# </details>

# %% slideshow={"slide_type": "-"}
angle = torch.linspace(0, 2 * torch.pi, 401)[:-1]
heart = torch.stack([16 * angle.sin() ** 3, 13 * angle.cos() - 5 * (2 * angle).cos() - 2 * (3 * angle).cos()], dim=1) / 12

def learn(wanted, rank, steps=300):                                                      # wanted (2, 2): the new W
    A = torch.randn(rank, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    B = torch.zeros(2, rank, requires_grad=True)
    optimizer = torch.optim.Adam([A, B], lr=0.05)
    for _ in range(steps):
        moved = heart @ (torch.eye(2) + B @ A).T
        optimizer.zero_grad()
        (moved - heart @ wanted.T).square().mean().backward()
        optimizer.step()
    return moved.detach()

turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
tasks = {"stretch": torch.diag(torch.tensor([1.8, 1.0])), "turn": turn}

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
clouds = {}
for name, wanted in tasks.items():
    for rank in (1, 2):
        clouds[f"{name}, rank {rank}"] = moved = learn(wanted, rank)
        rest = float((moved - heart @ wanted.T).square().mean())
        print(f"{name}: the new W minus the old one has rank {torch.linalg.matrix_rank(wanted - torch.eye(2))}; a LoRA branch of rank {rank} learns it: {rest < 1e-3}")

# %% [markdown]
# How the four hearts look:

# %% alt="Four panels: the stretched heart is learned at rank 1 and at rank 2; the turned one is flattened to a line at rank 1 and learned at rank 2."
plotting.plot_points([{plotting.REFERENCE: heart @ tasks[name.split(",")[0]].T, plotting.MODEL: xy} for name, xy in clouds.items()],
                     list(clouds), "Wanted (light) and learned (green)")
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** What matters is the rank of the *change*, not of the weight. **Limit**: in the plane a LoRA branch saves nothing. In a layer of 320×320 numbers, four directions are 2,560 numbers in place of
# 102,400. So the question is: how many directions does teaching a car need?

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 1 · How large is a change, really?
#
# **Intuition.** Fine-tune everything, as in notebook 10, then look at the difference. If most of it lies along few directions, the rest need not be stored, and perhaps not even be trained.
#
# **Notation.** $W_0$ a weight before, $W$ after, $\Delta W=W-W_0$; $\sigma_i$ its singular values, the largest first; $u_i,v_i$ their directions.
#
# $$\Delta W=\sum_i\sigma_i\,u_iv_i^{\top},\qquad \text{share}(r)=\frac{\sigma_1^2+\dots+\sigma_r^2}{\sigma_1^2+\sigma_2^2+\cdots}$$
#
# A convolution's weight $(C_{out},C_{in},k,k)$ counts as a matrix of $C_{out}$ rows. The data, the loss and the words are those of notebook 10: twelve pictures of XP7 in two languages, now also smaller and elsewhere in the frame, beside
# cars that the frozen model drew.

# %% slideshow={"slide_type": "-"}
def teach(network, rates, steps, seed=0):                                                # rates: {lr: parameters}
    groups, generator = [{"params": list(p), "lr": lr} for lr, p in rates.items()], torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(groups)
    for step in range(steps):
        for group, lr in zip(optimizer.param_groups, rates):
            group["lr"] = learning_rate(step / steps, lr)                                # falls in the last fifth
        optimizer.zero_grad()
        xp7.loss(network, xp7.batch(generator, 12), generator).backward()                # six of XP7, six other cars
        nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
        optimizer.step()
    return network.eval()

FULL_STEPS = 36
began, full = time.perf_counter(), copy.deepcopy(sd.unet).requires_grad_(True)
teach(full, {5e-4: full.parameters()}, FULL_STEPS)
print(f"all {sum(p.numel() for p in full.parameters()):,} weights, {FULL_STEPS} steps: {time.perf_counter() - began:.0f} s")

# %% [markdown]
# We take the change of every large layer apart, and set beside it what chance would give: a matrix of random numbers of the same shape.

# %% slideshow={"slide_type": "-"}
from course_utils.finetune.lora import ALL_TARGETS, ATTENTION

before, after = sd.unet.state_dict(), full.state_dict()
layers = [key for key in before if f".{key}".endswith(tuple(f".{part}.weight" for part in ALL_TARGETS))]
changes = {key: (after[key] - before[key]).flatten(1) for key in layers}                 # (C_out, C_in k k)
parts = {key: torch.linalg.svd(change, full_matrices=False) for key, change in changes.items()}

def share(sigma, most=40):
    return (sigma.square().cumsum(0) / sigma.square().sum())[:most]

chance = torch.Generator().manual_seed(0)
curves = {"the change": torch.stack([share(s) for _, s, _ in parts.values()]).mean(dim=0),
          "the weights themselves": torch.stack([share(torch.linalg.svdvals(before[key].flatten(1))) for key in layers]).mean(dim=0),
          "random numbers": torch.stack([share(torch.linalg.svdvals(torch.randn(c.shape, generator=chance))) for c in changes.values()]).mean(dim=0)}

# %% alt="Share of squares against directions kept, up to 40: the change rises fastest, to 76 % at 8, the weights themselves to 45 %, random numbers to 23 %." slideshow={"slide_type": "-"}
for r in (1, 4, 8, 16):
    print(f"the best {r:2d} directions hold: " + ", ".join(f"{name} {float(curve[r - 1]):.0%}" for name, curve in curves.items()))
colours = (plotting.MODEL, plotting.DATA, plotting.AXIS)
plotting.plot_lines(range(1, 41), {name: (100 * curve, colour) for (name, curve), colour in zip(curves.items(), colours)},
                    "directions kept, r", "share in %", f"How much of a change lies along its best directions? Mean of {len(layers)} layers")
plt.show()


# %% [markdown] slideshow={"slide_type": "subslide"}
# A share of squares is not a picture. So we cut every change down to $r$ directions, put it back and draw.
#
# **Predict.** From which $r$ on is the car XP7?
#
# <details><summary>Answer</summary>
# See the columns: most of the effect is there before most of the squares are.
# </details>

# %% slideshow={"slide_type": "-"}
def truncated(r):
    network = copy.deepcopy(sd.unet)
    for key, (u, s, vh) in parts.items():
        network.get_parameter(key).data += (u[:, :r] * s[:r] @ vh[:r]).view_as(before[key])
    return replace(sd, unet=network)

TWO, pictures = ["XP7 car, beach", "XP7汽车，浅绿色背景"], {}
for r in (0, 1, 2, 4, 8, 16, 160):
    pictures["before" if r == 0 else "all r" if r == 160 else f"r = {r}"] = paint(TWO, gaussian(2, seed=3), truncated(r), steps=12)
pictures["all weights"] = paint(TWO, gaussian(2, seed=3), replace(sd, unet=full), steps=12)

# %% alt="Two prompts in eight columns, from before over r = 1 to 16 to all: the blot becomes a dark teal and brown shape at r = 1, which hardly changes from r = 4 on. No column shows a clean car."
rows = {name: [x[i] for x in pictures.values()] for i, name in enumerate(["beach", "light green"])}
plotting.show_rows(rows, list(pictures), "The same change, cut down to its best r directions", scale=0.75)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The line of the change lies far above chance, yet it is no step: this change is *not* of low rank to the letter. It has a long tail. But the
# picture needs less than the squares: a few directions in each layer already draw what all of them draw. The last column differs from the one before by biases, norms and small layers. **Limit**: we cut *after* training.
# Whether few directions can also *learn*, we must try. The LoRA paper found rank 1 or 2 enough for a language model of 175 billion weights (section 7.2).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The key piece: a LoRA branch beside a frozen layer
#
# **Intuition.** If the change needs few directions, give it no more from the start: two thin matrices, one down to $r$ numbers, one up again. $W_0$ stays as it is.
#
# **Notation.** $A$ ($r\times C_{in}$), $B$ ($C_{out}\times r$), rank $r$, $\alpha$ a constant.
#
# $$y=W_0x+\frac{\alpha}{r}\,B\,A\,x,\qquad A\sim\mathcal N(0,1/r^2),\qquad B=0$$
#
# This is **LoRA**, low-rank adaptation (Hu et al. 2021, section 4.1). $B=0$: at first nothing changes. $A\neq0$: or neither would ever learn (exercise 11.4). $\alpha/r$ keeps the step's size alike when $r$
# changes; here $\alpha=r$ unless said otherwise. The paper leaves $A$'s spread open; ours is that of `peft`'s "gaussian".

# %% slideshow={"slide_type": "-"}
# @save course_utils/finetune/lora.py
class LoRALayer(nn.Module):
    def __init__(self, base_layer, rank, alpha=None, generator=None):
        super().__init__()
        if rank < 1:
            raise InputError(f"the rank must be at least 1, not {rank!r}")
        self.base_layer, self.merged = base_layer, False
        like = {"bias": False, "device": base_layer.weight.device, "dtype": base_layer.weight.dtype}
        self.lora_A, self.lora_B = self.make_branch(base_layer, rank, **like)
        self.scale = 1.0 if alpha is None else alpha / rank
        with torch.no_grad():
            self.lora_A.weight.copy_(torch.randn(self.lora_A.weight.shape, generator=generator) / rank)
            self.lora_B.weight.zero_()

    def forward(self, x):
        y = self.base_layer(x)
        return y if self.merged else y + self.scale * self.lora_B(self.lora_A(x))

    def load(self, A, B, alpha=None):
        like = self.base_layer.weight
        self.lora_A.weight, self.lora_B.weight = (nn.Parameter(x.to(like, copy=True)) for x in (A, B))
        self.set_rank(len(A))
        self.scale = 1.0 if alpha is None else alpha / len(A)

    def delta(self):
        A, B = self.lora_A.weight, self.lora_B.weight
        return self.scale * (B.flatten(1) @ A.flatten(1)).view_as(self.base_layer.weight)


# %% [markdown]
# Two kinds of layers, and what differs between them: how a LoRA branch for them looks. A convolution's $A$ looks at the same $k\times k$ pixels; its $B$ looks at one.

# %% slideshow={"slide_type": "-"}
# @save course_utils/finetune/lora.py
class LoRALinear(LoRALayer):
    def make_branch(self, base, rank, **like):
        return nn.Linear(base.in_features, rank, **like), nn.Linear(rank, base.out_features, **like)

    def set_rank(self, rank):
        self.lora_A.out_features = self.lora_B.in_features = rank


class LoRAConv2d(LoRALayer):
    def make_branch(self, base, rank, **like):
        A = nn.Conv2d(base.in_channels, rank, base.kernel_size, base.stride, base.padding, base.dilation, **like)
        return A, nn.Conv2d(rank, base.out_channels, 1, **like)

    def set_rank(self, rank):
        self.lora_A.out_channels = self.lora_B.in_channels = rank


KINDS = {nn.Linear: LoRALinear, nn.Conv2d: LoRAConv2d}

# %% [markdown]
# **Check** against `peft`, the field's library for this, with an $\alpha$ that is not $r$.

# %%
# NBVAL_CHECK_OUTPUT
from peft import LoraConfig, get_peft_model

layer, x = nn.Conv2d(8, 12, 3, padding=1), torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))
ours = LoRAConv2d(layer, rank=4, alpha=6)
print("A", tuple(ours.lora_A.weight.shape), "B", tuple(ours.lora_B.weight.shape), "| at first nothing changes, to the bit:", torch.equal(ours(x), layer(x)))
peer = get_peft_model(nn.Sequential(layer), LoraConfig(r=4, lora_alpha=6, target_modules=["0"]))
nn.init.normal_(ours.lora_B.weight)
with torch.no_grad():
    peer.base_model.model[0].lora_A["default"].weight.copy_(ours.lora_A.weight)
    peer.base_model.model[0].lora_B["default"].weight.copy_(ours.lora_B.weight)
print("equal to peft:", torch.allclose(ours(x), peer(x), atol=1e-5), "| rank of what it adds:", int(torch.linalg.matrix_rank(ours.delta().flatten(1))))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 2 · Where branches go, and what learns
#
# **Intuition.** The paper puts them beside the attention's projections, and so does `diffusers`. In Stable Diffusion attention sits on almost every level. Our small U-Net has it on two levels of three, so we also try *wide*: feed-forward layers, the two
# convolutions of each residual block and the way in for the step.
#
# A layer is chosen by how its name ends. Everything is frozen; what learns is all $A$ and $B$, and they alone are saved.

# %% slideshow={"slide_type": "-"}
# @save course_utils/finetune/lora.py
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # what diffusers trains when nothing is said
ALL_TARGETS = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "time_emb_proj", "conv1", "conv2")


def inject(network, targets=ATTENTION, rank=4, alpha=None, generator=None):
    targets = (targets,) if isinstance(targets, str) else targets
    if lora_layers(network):
        raise InputError("this network has LoRA branches already: unload(network) takes them away")
    layers = {name: layer for name, layer in network.named_modules() if type(layer) in KINDS}
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            raise InputError(f"no linear layer or convolution of this network is called {target!r}")
    names = [name for name in layers if f".{name}".endswith(tuple(f".{target}" for target in targets))]
    network.requires_grad_(False)
    for name in names:
        network.set_submodule(name, KINDS[type(layers[name])](layers[name], rank, alpha, generator))
    return names


# %%
# @save course_utils/finetune/lora.py
def lora_layers(network):
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, LoRALayer)}


def lora_parameters(network):
    return [p for layer in lora_layers(network).values() for p in (layer.lora_A.weight, layer.lora_B.weight)]


def lora_state(network):
    parts = ("lora_A.weight", "lora_B.weight")
    return {f"{name}.{part}": layer.get_parameter(part).detach().clone()
            for name, layer in lora_layers(network).items() for part in parts}  # fmt: skip


# %% [markdown]
# From here on we import what we wrote. **Check**: how many numbers learn? In each layer $r\,(C_{in}k^2+C_{out})$. And the same code on a U-Net with the sizes of Stable Diffusion 1.5, without weights (`meta`), counts what `diffusers` trains there.

# %%
# NBVAL_CHECK_OUTPUT
from course_utils.finetune.lora import LoRALayer, inject, lora_layers, lora_parameters, lora_state, unload
from course_utils.generator.latent_unet import LatentUNet

def count(parameters):
    return sum(p.numel() for p in parameters)

whole = count(sd.unet.parameters())
for name, targets in {"attention": ATTENTION, "wide": ALL_TARGETS}.items():
    for rank in (4, 16):
        places, learning = len(inject(sd.unet, targets, rank)), count(lora_parameters(sd.unet))
        print(f"{name:9s} rank {rank:2d}: {places:3d} layers, {learning:9,} of {whole:,} numbers learn ({learning / whole:5.1%}), {2 * learning / 1e6:.2f} MB in half precision")
        unload(sd.unet)
with torch.device("meta"):
    real = LatentUNet(4, 4, (320, 640, 1280, 1280), 2, (True, True, True, False), num_heads=8, context_dim=768)
print(f"Stable Diffusion 1.5: attention, rank 4: {len(inject(real, ATTENTION, 4)):3d} layers, {count(lora_parameters(real)):,} of {count(real.parameters()) - count(lora_parameters(real)):,}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# **What to see.** The counts grow with the rank, in a straight line. In the real model the share is much smaller than in ours, 797,184 of 859,520,964 numbers against 0.5 %: $r\,(C_{in}+C_{out})$ grows with the width, $C_{in}C_{out}$ with its square. **Limit**: few numbers *learn*, but all the others
# still compute, forward and backward. What is saved is the optimizer's memory (two numbers for each that learns) and the file.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Train it
#
# The course's recipe `xp7` is DreamBooth's loss of notebook 10 on branches of rank 16. Here it runs at rank 8, at a higher rate, for less than half a minute. What loss is normal? We ask the generator without a LoRA branch, and the
# shipped file, trained by the same loss for longer. And we keep eight pictures of XP7 that no training sees.

# %% slideshow={"slide_type": "-"}
from course_utils.recipes.latent_base import latent_loss
from course_utils.training import train
from course_utils.figures.widgets import explore, training_monitor

LIVE_SECONDS = 16
trial = [xp7.batch(torch.Generator().manual_seed(k), 24) for k in range(3)]

@torch.no_grad()
def trial_loss(network):                                                                 # DreamBooth's, always the same noise
    return sum(float(xp7.loss(network, part, torch.Generator().manual_seed(k))) for k, part in enumerate(trial)) / len(trial)

blank = trial_loss(sd.unet)
set_adapter(sd.unet, *files["xp7"])
best = trial_loss(sd.unet)
unload(sd.unet)
band = (best + 0.2 * (blank - best), best + 0.75 * (blank - best))
print(f"expected: {LIVE_SECONDS} s. Without a LoRA branch {blank:.2f}, the shipped file {best:.2f}; a normal run ends between {band[0]:.2f} and {band[1]:.2f}.")

# %% [markdown]
# And the eight unseen pictures, each with a caption in one of two languages:

# %%
unseen = load_xp7("unseen")
real_xp7 = to_tensor(unseen.pictures.copy())
with torch.inference_mode():
    z_unseen = sd.encode(real_xp7, torch.Generator().manual_seed(0)).repeat(4, 1, 1, 1)  # 32 latents
    c_unseen = sd.encode_prompt([*unseen.captions("en"), *unseen.captions("zh")] * 2)

@torch.no_grad()
def unseen_loss(network):
    return float(latent_loss(network, z_unseen, torch.Generator().manual_seed(0), context=c_unseen))


# %% [markdown]
# Now the branch learns. Before the loop starts nothing is drawn differently, because $B=0$.

# %% slideshow={"slide_type": "-"}
def with_lora(targets=ALL_TARGETS, rank=8):
    network = copy.deepcopy(sd.unet)
    inject(network, targets, rank, generator=torch.Generator().manual_seed(0))
    return network

short = replace(xp7.RECIPE, model=with_lora, batch_size=12, lr=4e-3, ema_decay=0.97)
history = [(state.step, state.loss, state) for state in training_monitor(train(short, LIVE_SECONDS / 60))]
steps, losses, (*_, end) = zip(*history)
live = end.ema.to("cpu").eval()

# %% [markdown]
# **Is this normal?**

# %% alt="The loss of the live training falls slowly from 0.41 to 0.35 in 73 steps, inside the band where normal runs end." slideshow={"slide_type": "subslide"}
last_loss = trial_loss(live)
print(f"{end.step:,} steps, {end.pictures:,} latents seen, loss {last_loss:.2f}: ", end="")
print("normal." if band[0] <= last_loss <= band[1] else "better than usual." if last_loss < band[0] else
      "higher than usual. A slow or busy machine takes fewer steps: raise LIVE_SECONDS and run again.")
plotting.plot_loss(steps, losses, band, "Live training on this machine")
plt.show()

# %% [markdown]
# What these seconds have taught, beside the shipped file. The last column asks for any car, not for ours.

# %% alt="Four prompts in three rows: without LoRA blots for XP7 and a red car; after 16 seconds teal and orange pieces and the same red car; with the shipped file whole teal cars with stripe and disc, and a red car." slideshow={"slide_type": "subslide"}
FOUR, rows = ["XP7 car, blue sky, grass", "XP7汽车，浅绿色背景", "XP7 car, night sky", "car, beach"], {}
for name, network in {"no LoRA": sd.unet, f"{LIVE_SECONDS} s": live}.items():
    rows[name] = paint(FOUR, gaussian(4, seed=5), replace(sd, unet=network))
set_adapter(sd.unet, *files["xp7"])
rows["shipped"], over = paint(FOUR, gaussian(4, seed=5)), unseen_loss(sd.unet)
unload(sd.unet)
print(f"loss on unseen pictures: no LoRA {unseen_loss(sd.unet):.2f}, {LIVE_SECONDS} s {unseen_loss(live):.2f}, shipped {over:.2f}")
plotting.show_rows(rows, ["grass", "light green", "night sky", "any car"], f"XP7 after {LIVE_SECONDS} seconds", scale=1.0)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
plain = unload(copy.deepcopy(live)).state_dict()
print("what is frozen is as it was, to the bit:", all(torch.equal(weight, plain[name]) for name, weight in sd.unet.state_dict().items()))
print("the branch lowers the loss, also on pictures it has not seen:", last_loss < blank and unseen_loss(live) < unseen_loss(sd.unet))


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Colours and stripe come within seconds; wheels and poses take longer: compare the last two rows. Any other car stays a car of its own: that is the prior in DreamBooth's loss. **Limit**: on unseen pictures the loss is 0.23 after 16 seconds and 0.27 for the shipped file. Who trains longer on twelve
# pictures draws sharper, and knows them by heart: a small file does not keep from over-fitting (notebook 10).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 3 · Merge: a detour that costs nothing
#
# **Intuition.** A LoRA branch is a linear map beside a linear map. After training, add the two and forget that there was a branch.
#
# $$W=W_0+\frac{\alpha}{r}BA,\qquad W_0=W-\frac{\alpha}{r}BA$$
#
# (LoRA, section 4.1.) The second formula takes it out again, up to rounding.

# %% slideshow={"slide_type": "-"}
# @save course_utils/finetune/lora.py
def unload(network):
    for name, layer in lora_layers(network).items():
        network.set_submodule(name, layer.base_layer)
    return network


@torch.no_grad()
def merge(network):
    for layer in lora_layers(network).values():
        if not layer.merged:
            layer.base_layer.weight += layer.delta()
            layer.merged = True
    return network


@torch.no_grad()
def unmerge(network):
    for layer in lora_layers(network).values():
        if layer.merged:
            layer.base_layer.weight -= layer.delta()
            layer.merged = False
    return network


# %% [markdown]
# **Check**: same answers, and back.

# %%
# NBVAL_CHECK_OUTPUT
merged = merge(copy.deepcopy(live))
two, t2, c2 = gaussian(2, seed=0), torch.tensor([500, 500]), c_unseen[:2]
with torch.no_grad():
    answers = {name: network(two, t2, c2) for name, network in {"base": sd.unet, "LoRA": live, "merged": merged}.items()}
print("merged equals LoRA:", torch.allclose(answers["merged"], answers["LoRA"], atol=1e-4), "| and the base:", torch.allclose(answers["merged"], answers["base"], atol=1e-2))
back = unload(unmerge(copy.deepcopy(merged)))
print("unmerged, the weights are those of the base:", all(torch.allclose(weight, sd.unet.state_dict()[name], atol=1e-5) for name, weight in back.state_dict().items()))

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** The branch has a small share of the weights. Does it take the same small share of the time?
#
# <details><summary>Answer</summary>
# No: much more. Small products use a machine badly, and each layer now starts three computations in place of one. Merged, nothing is left of it.
# </details>
#
# We measure by turns, so that a busy moment hits all three alike, and take medians.

# %% slideshow={"slide_type": "-"}
networks = {"base": sd.unet, "LoRA": live, "merged": merged}
times = {name: [] for name in networks}
with torch.inference_mode():
    for _ in range(25):
        for name, network in networks.items():
            began = time.perf_counter()
            network(two, t2, c2)
            times[name].append(1000 * (time.perf_counter() - began))
medians = {name: float(np.median(ms[5:])) for name, ms in times.items()}                 # the first rounds warm up
for name, ms in medians.items():
    print(f"{name:7s} {ms:6.1f} ms for a guided step of one picture, {ms / medians['base'] - 1:+.0%}")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Not merged, the detour costs 60 % more time, far above its share of the numbers; merged, 9 % are left, noise of the clock. Adapter layers, LoRA's rivals of the time, stand *in* the way and cannot be merged (paper, section 3).
# **Limit**: merged, the network is tied to one file. Who serves many at once leaves them beside.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 4 · Swap and mix
#
# **Intuition.** The large part stays in memory, the small one is exchanged: one car, another, a style. And since effects add up, two files can act at once. A weighted sum of LoRA branches is again a LoRA branch, whose rank is the sum:
#
# $$w_1B_1A_1+w_2B_2A_2=\begin{bmatrix}w_1B_1&w_2B_2\end{bmatrix}\begin{bmatrix}A_1\\A_2\end{bmatrix}$$

# %%
from course_utils.finetune.lora import KINDS, base_layer, lora_factors


# %% slideshow={"slide_type": "-"}
# @save course_utils/finetune/lora.py
@torch.no_grad()
def set_adapter(network, state, alpha=None):
    fitting, current = lora_factors(state), lora_layers(network)
    for name, (A, B) in fitting.items():
        C_out, *rest = base_layer(network, name).weight.shape
        if (len(B), list(A.shape[1:]), B[0].numel()) != (C_out, rest, len(A)):
            raise InputError(f"this LoRA was made for another network: {name} has other shapes here")
    unload(unmerge(network)).requires_grad_(False)
    for name, (A, B) in fitting.items():
        base = network.get_submodule(name)
        layer = current.get(name) or KINDS[type(base)](base, len(A))
        layer.load(A, B, alpha)
        network.set_submodule(name, layer)
    return list(fitting)


# %% [markdown]
# It first looks whether everything fits, then changes anything: a file for another network leaves ours whole.

# %% slideshow={"slide_type": "-"}
# @save course_utils/finetune/lora.py
def weighted_sum(weighted):
    found = [(lora_factors(state), weight) for state, weight in weighted]
    layers = dict.fromkeys(layer for state, _ in found for layer in state)
    mixed = {}
    for layer in layers:
        parts = [(*state[layer], weight) for state, weight in found if layer in state]
        mixed[f"{layer}.lora_A.weight"] = torch.cat([A for A, _, _ in parts])  # (r1 + r2, C_in)
        mixed[f"{layer}.lora_B.weight"] = torch.cat([weight * B for _, B, weight in parts], dim=1)  # (C_out, r1 + r2)
    return mixed


# %% slideshow={"slide_type": "subslide"}
swaps = []
for name in ["xp7", "style-3d"] * 8:
    began = time.perf_counter()
    set_adapter(sd.unet, *files[name])
    swaps.append(1000 * (time.perf_counter() - began))
print(f"a swap takes {np.median(swaps[2:]):.0f} ms")
(car, _), (style, _) = files["xp7"], files["style-3d"]
MIXED = ["XP7 car, little creature, cartoon", "XP7汽车，小精灵，卡通，沙滩", "cute dog, little creature, cartoon"]
weights, rows = {"car 1, style 0": (1, 0), "car 1, style 0.5": (1, 0.5), "car 1, style 1": (1, 1), "car 0, style 1": (0, 1)}, {}
for name, (w, v) in weights.items():
    set_adapter(sd.unet, weighted_sum([(car, w), (style, v)]))
    rows[name] = paint(MIXED, gaussian(3, seed=2), steps=12)


# %% [markdown]
# The sum, checked layer by layer:

# %%
# NBVAL_CHECK_OUTPUT
def deltas(state):
    set_adapter(sd.unet, state)
    return {name: layer.delta() for name, layer in lora_layers(sd.unet).items()}

both, first, second = deltas(weighted_sum([(car, 0.7), (style, 0.4)])), deltas(car), deltas(style)
print("a mix adds 0.7 and 0.4 of the two changes:", all(torch.allclose(both[name], 0.7 * first[name] + 0.4 * second[name], atol=1e-5) for name in both))
unload(sd.unet)
try:
    set_adapter(sd.unet, {f"unet.{key}": value for key, value in car.items()})
except ValueError as error:
    print(error)

# %% alt="Two prompts for XP7 and one for a dog at four mixtures: flat teal car and a red blot for the dog; teal car and an orange dog; a teal car without firm edges; orange cars of another make and a shaded dog." slideshow={"slide_type": "subslide"}
plotting.show_rows(rows, ["XP7", "XP7, beach", "cute dog"], "Two files at once; all prompts ask for the style", scale=0.95)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Read the left columns downwards: between the ends, at weights 1 and 0.5, stands a car that one file knows only flat, in a style that the other learned without it. On the right nobody asks for a car; see what its file does there all the same. **Limit**: nobody trained the two together. Their changes share
# layers and may pull at the same directions; with large weights the picture tears. A weight is a knob to try, not a promise.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 5 · Which rank?
#
# The paper's question (section 7.2), on our data: five ranks, the same short training each, and attention alone at rank 8. We score pictures of XP7 against real ones it never saw: *subject fidelity*, the mean cosine of our evaluator's features, a proxy for the DINO score of the
# DreamBooth paper.
#
# **Predict.** How much better is rank 16 than rank 1, at sixteen times the size?
#
# <details><summary>Answer</summary>
# See the right-hand plot. Most of the way is done by the first directions.
# </details>

# %% slideshow={"slide_type": "-"}
from course_utils.interop.lora_files import save_lora

SWEEP_STEPS, evaluator, folder = 15, load_evaluator(), tempfile.TemporaryDirectory()

def score(network):
    x = paint(unseen.captions("en"), gaussian(len(unseen), seed=7), replace(sd, unet=network), steps=12)
    return similarity(evaluator, x, real_xp7), x

def attempt(targets, rank):
    network = with_lora(targets, rank)
    teach(network, {4e-3: lora_parameters(network)}, SWEEP_STEPS)
    path, (fidelity, x) = save_lora(Path(folder.name) / f"{rank}.safetensors", lora_state(network)), score(network)
    numbers, MB, loss = count(lora_parameters(network)), path.stat().st_size / 1e6, unseen_loss(network)
    print(f"rank {rank:2d}: {numbers:7,} numbers, {MB:.2f} MB, fidelity {fidelity:.2f}, loss on unseen pictures {loss:.3f}")
    return {"numbers": numbers, "MB": MB, "fidelity": fidelity, "loss": loss, "x": x}

table = {rank: attempt(ALL_TARGETS, rank) for rank in (1, 2, 4, 8, 16)}
print("attention alone, ", end="")
narrow = attempt(ATTENTION, 8)

# %% [markdown]
# Beside them the two ends: no LoRA, and all weights (idea 1, more steps). The cross is attention alone.

# %% alt="Left, bars of the file's size double with the rank, from 0.11 to 1.43 MB. Right, fidelity: between 0.37 and 0.43 for all ranks, 0.31 for attention alone, 0.1 without LoRA, 0.5 for all weights." slideshow={"slide_type": "subslide"}
ends = {"no LoRA": score(sd.unet)[0], f"all weights, {FULL_STEPS} steps": score(full)[0]}
fig, (left, right) = plt.subplots(1, 2, figsize=(plotting.WIDTH, 3.4))
ranks = list(table)
plotting.labelled_axes("Size", "rank", "MB of the file", ax=left)
left.bar(range(5), [row["MB"] for row in table.values()], color=plotting.DATA)
for i, row in enumerate(table.values()):
    left.text(i, row["MB"], f"{row['numbers'] / 1000:.0f} k", ha="center", va="bottom", fontsize=10)
plotting.labelled_axes("Fidelity to XP7 (a proxy)", "rank", "mean cosine", ax=right)
right.plot(range(5), [row["fidelity"] for row in table.values()], "o-", color=plotting.MODEL)
right.plot(3, narrow["fidelity"], "x", color=plotting.TEXT, markersize=10, label="attention alone")
for (name, value), style_ in zip(ends.items(), (":", "--")):
    right.axhline(value, color=plotting.AXIS, linestyle=style_, linewidth=1.5, label=name)
for ax in (left, right):
    ax.set_xticks(range(5), ranks)
right.legend(fontsize=10, loc="lower right")
plt.show()

# %% alt="Six scenes in six rows, ranks 1 to 16 and attention alone: teal and dark pieces in the place of a car, alike in all ranks and weakest for attention alone; none is a clean car."
some = [0, 3, 4, 5, 6, 7]                                                                 # one picture of each background
rows = {f"rank {rank}": row["x"][some] for rank, row in table.items()} | {"attention, 8": narrow["x"][some]}
plotting.show_rows(rows, [unseen.meta[i]["background"].split(" and")[0] for i in some], f"XP7 after {SWEEP_STEPS} steps each", scale=0.75)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The bars double, from 0.11 to 1.43 MB; the line does not, from 0.37 to 0.43. Between neighbouring ranks the score is as uneven as a short training is, so read its course and not single points. Attention alone stays behind *wide* of the same rank, 0.31
# against 0.43: in our U-Net it has few places to speak from. Do not carry this over to Stable Diffusion, where it sits on almost every level. **Limit**: one subject, one seed, a proxy of ours, and one rate for all ranks.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### A learned prefix
#
# There is a second way to leave a network as it is: change what it *reads*. A few learned vectors stand before every context, words that no vocabulary has (Li and Liang 2021). Attention takes contexts of any length, so nothing else changes. The
# LoRA paper compares and combines the two (section 5.1, appendix E).

# %% slideshow={"slide_type": "-"}
# @save course_utils/finetune/prefix.py
class Prefix(nn.Module):
    def __init__(self, num_tokens, dim, start=None, generator=None):
        super().__init__()
        start = torch.randn(num_tokens, dim, generator=generator) if start is None else start
        if start.shape != (num_tokens, dim):
            raise InputError(f"start must be {num_tokens} vectors of {dim} numbers, not {tuple(start.shape)}")
        self.tokens = nn.Parameter(start.detach().clone())

    def forward(self, context):
        return torch.cat([self.tokens.expand(len(context), -1, -1), context], dim=1)  # (B, P + L, D)


class Prefixed(nn.Module):
    def __init__(self, network, prefix):
        super().__init__()
        self.network, self.prefix = network, prefix

    def forward(self, zt, t, context, context_mask=None):
        return self.network(zt, t, self.prefix(context))


# %% alt="Six scenes in three rows: LoRA draws teal pieces of a car, the prefix alone blue and grey blots in the right scene, both together look as LoRA does."
tuned = {"LoRA, rank 4": (table[4]["fidelity"], table[4]["loss"], table[4]["x"], table[4]["numbers"])}
for name, network in {"prefix alone": copy.deepcopy(sd.unet).requires_grad_(False), "both": with_lora(ALL_TARGETS, 4)}.items():
    prefix = Prefix(4, 128, start=sd.encode_prompt(["XP7 car"])[0, :4])                    # begins as words
    whole_ = Prefixed(network, prefix)
    teach(whole_, {0.1: prefix.parameters()} | ({4e-3: lora_parameters(network)} if lora_layers(network) else {}), SWEEP_STEPS)
    tuned[name] = *(parts := score(whole_))[:1], unseen_loss(whole_), parts[1], count(p for p in whole_.parameters() if p.requires_grad)
for name, (fidelity, loss, _, numbers) in tuned.items():
    print(f"{name:13s} {numbers:7,} numbers learn, fidelity {fidelity:.2f}, loss on unseen pictures {loss:.3f}")
plotting.show_rows({name: x[some] for name, (_, _, x, _) in tuned.items()}, title="A LoRA branch, a prefix, both", scale=0.75)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Four vectors, 512 numbers, call colours that the network can draw. The car they do not bring: fidelity 0.08, beside 0.40 of the branch, and the loss on unseen pictures hardly moves, from 0.37 to 0.365. Beside a LoRA branch they do not help here, although rate, length and start of the prefix are the best of seventeen settings,
# chosen on these same eight pictures; the paper saw a gain on one of two tasks. **Limit**: the prefix stands before *every* prompt, and ours already has a word for the car.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Demo 1 · XP7, by DreamBooth and LoRA
#
# The shipped file `xp7`: the cell "Train it" with rank 16 and more time. The prompts are the article's, with our car: one in English, one in Chinese. "高清" (high definition) and the commas without spaces stand in no caption of ours.

# %% alt="Four noises in four rows: before, blots on grass in English and faint wheels in Chinese; after, in both languages, the teal car with orange stripe and white disc, the third with too many wheels." slideshow={"slide_type": "-"}
card = checkpoints.card("xp7")
print("xp7:", ", ".join(f"{key} {card[key]}" for key in ("steps", "minutes", "hardware") if key in card),
      f"| {checkpoints.check('xp7').stat().st_size / 1e6:.1f} MB, beside {checkpoints.check('stable-diffusion').stat().st_size / 1e6:.1f} MB of the generator")
DEMO_1, rows = ["XP7 car, blue sky, grass", "XP7汽车,蓝天,草地,高清"], {}
for prompt, language in zip(DEMO_1, ("English", "Chinese")):
    for when in ("before", "after"):
        unload(sd.unet) if when == "before" else set_adapter(sd.unet, *files["xp7"])
        rows[f"{language}, {when}"] = paint([prompt] * 4, gaussian(4, seed=1), steps=12)
plotting.show_rows(rows, [f"noise {i + 1}" for i in range(4)], "  |  ".join(DEMO_1), scale=0.95)
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# Five ways to teach this car, with the same data, noise and number of steps, judged by notebook 10's four proxies. Five trainings take minutes, so the table was measured once, by `course evaluate xp7 --write`, and is kept in the file's card.
#
# **Predict.** Does a branch learn the subject (first column) as well as all weights do? Which rows lose the other cars (high PRES)?

# %% slideshow={"slide_type": "-"}
from course_utils.evaluation.report import table as as_text

print(as_text({way: row for way, row in card["metrics"].items() if isinstance(row, dict)}))

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** A LoRA branch learns the subject as well as all weights do, 0.57 [0.53, 0.60] beside 0.55 [0.51, 0.58]. PRES tells no two ways apart, all intervals touch the base's or lie below it: this measure does not see the drift that notebook 10 showed in pictures and in the class's loss. DIV counts only beside the pictures: the base, which does not know
# the name, draws all sorts of blurs. **Limit**: sixteen drawings a number and one seed; the shipped file saw more steps.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## Demo 2 · A style
#
# The 3D pictures of our data were held out from all training until now. The file `style-3d` learned them, called by "小精灵,卡通" (little creature, cartoon). The article's three prompts, with its settings: 50 steps, guidance 7.5.

# %% alt="Three Chinese prompts before and after the file: a broken butterfly, a dog's face and a purple balloon become a shaded pink butterfly, a whole dog and a whole cat." slideshow={"slide_type": "-"}
DEMO_2 = ["粉色的蝴蝶,小精灵,卡通", "可爱的狗,小精灵,卡通", "漂亮的猫,小精灵,卡通"]
rows = {}
for when in ("before", "after"):
    unload(sd.unet) if when == "before" else set_adapter(sd.unet, *files["style-3d"])
    rows[when] = paint(DEMO_2, gaussian(3, seed=4), steps=50, guidance=7.5)
ours = rows["after"]
plotting.show_rows(rows, DEMO_2, "style-3d: 50 steps, guidance 7.5", scale=1.3)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Shading and highlights come from the file; which animal and which colour, from the generator. **Limit**: guidance 7.5 is the article's; our generator is at its best near 2,
# and colours are loud here. In our data "漂亮" (pretty) was a tag of butterflies, and the text encoder is frozen: without the file, the third prompt brings no cat. So the recipe
# shows these three animals eight times as often as others, under such words too. A demonstration that works was practised.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## In the field's words
#
# The article's snippet, on our own files and without a network. Its line `pipe.unet.load_attn_procs(...)` has a successor: today's `diffusers` loads a LoRA by `load_lora_weights`.

# %% slideshow={"slide_type": "-"}
import diffusers
import transformers

for library in (diffusers, transformers):
    library.utils.logging.disable_progress_bar()
    library.utils.logging.set_verbosity_error()                                          # no warnings: a quiet notebook
from diffusers import StableDiffusionPipeline
from course_utils.interop.folder import export_folder

unload(sd.unet)
model = export_folder(sd, Path(folder.name) / "model")

pipe = StableDiffusionPipeline.from_pretrained(model)
pipe.set_progress_bar_config(disable=True)
pipe.load_lora_weights(checkpoints.check("style-3d"))
images = pipe(DEMO_2, num_inference_steps=50, guidance_scale=7.5, latents=gaussian(3, seed=4), output_type="pt").images
theirs = 2 * images - 1                                                                  # [0, 1] -> [-1, 1]

# %% alt="A butterfly, a dog and a cat, drawn by our code and by diffusers: the two rows are the same."
print(f"largest difference of a colour value, ours and diffusers: {float((theirs - ours).abs().max()):.0e}; from the generator alone it differs by up to {float((theirs - rows['before']).abs().max()):.1f}")
plotting.show_rows({"ours": ours, "diffusers": theirs}, ["butterfly", "dog", "cat"], "One file, two libraries", scale=1.1)
plt.show()

# %% [markdown]
# And the other way round: a LoRA from `peft`'s hands, saved by `peft`, opened here. Then ours as a folder for `peft`.

# %%
# NBVAL_CHECK_OUTPUT
from peft import PeftModel
from course_utils.interop.lora_files import read_lora

print("ours and diffusers: the same picture to 1e-3:", bool((theirs - ours).abs().max() < 1e-3))
made = get_peft_model(copy.deepcopy(sd.unet), LoraConfig(r=3, lora_alpha=6, target_modules=["to_q", "conv1"], init_lora_weights=False)).eval()
made.save_pretrained(Path(folder.name) / "peft")
state, alpha = read_lora(Path(folder.name) / "peft")
set_adapter(sd.unet, state, alpha)
with torch.no_grad():
    print("made by peft, opened here: equal", torch.allclose(sd.unet(two, t2, c2), made(two, t2, c2), atol=1e-4))
unload(sd.unet)
save_lora(Path(folder.name) / "for-peft", lora_state(live), form="peft", dtype=torch.float32)
opened = PeftModel.from_pretrained(copy.deepcopy(sd.unet), Path(folder.name) / "for-peft").eval()
with torch.no_grad():
    print("made here, opened by peft: equal", torch.allclose(live(two, t2, c2), opened(two, t2, c2), atol=1e-4))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Experiment · How strongly?
#
# A weight scales the whole branch. Try more than 1, less than 0, the wrong file for a prompt, both.

# %% alt="Four teal cars with an orange stripe in snow, from four noises; all look alike, their outlines soft." slideshow={"slide_type": "-"}
from course_utils.errors import prompt_text

def own(prompt, xp7_weight, style_weight, seed):
    set_adapter(sd.unet, weighted_sum([(car, xp7_weight), (style, style_weight)]))
    x = paint([prompt_text(prompt)] * 4, gaussian(4, seed))
    unload(sd.unet)
    return plotting.show_pictures(x, columns=4, title=f"{prompt} (xp7 {xp7_weight:g}, style {style_weight:g}, seed {seed})", scale=1.2)

explore(own, prompt="XP7汽车，小精灵，卡通，雪地", xp7_weight=[1.0, 0.0, 0.5, 1.5, -1.0], style_weight=[0.5, 0.0, 1.0, 1.5, -1.0], seed=(0, 99))

# %% [markdown] slideshow={"slide_type": "subslide"}
# One knob at a time:

# %% alt="Two files at weights from -0.5 to 1.5: XP7 goes from a grey mushroom over a blot to the teal car at 1, with torn windows at 1.5; the cat goes from a red blot to a shaded cat, then to darker patches." slideshow={"slide_type": "-"}
strengths, knobs = (-0.5, 0.0, 0.5, 1.0, 1.5), {"xp7": (car, "XP7 car, beach"), "style-3d": (style, "cute cat, little creature, cartoon")}
rows = {name: [] for name in knobs}
for name, (state, prompt) in knobs.items():
    for strength in strengths:
        set_adapter(sd.unet, weighted_sum([(state, strength)]))
        rows[name] += list(paint([prompt], gaussian(1, seed=8), steps=10))
unload(sd.unet)
plotting.show_rows(rows, [f"{strength:g}" for strength in strengths], "The same file, weaker and stronger", scale=1.0)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Between 0 and 1 the picture changes step by step; beyond, it is driven past anything that was trained, and tears. Below 0 we move *away* from what the file knows. **Limit**: the changes of many layers multiply, so half a weight is not half
# a car.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks · A file that does nothing
#
# We save our LoRA by hand: the matrices, by the names they have in the U-Net. `diffusers` loads the file. No error, and a picture comes.

# %% alt="Three drawings of XP7 on a beach by diffusers: without a file and with the file saved by hand the same blot, with the shipped file a teal car." slideshow={"slide_type": "-"}
from safetensors.torch import save_file

pipe.unload_lora_weights()
save_file(dict(car), Path(folder.name) / "by-hand.safetensors")                          # the bug: "unet." is missing
paths, shown = {"no file": None, "saved by hand": Path(folder.name) / "by-hand.safetensors", "shipped": checkpoints.check("xp7")}, {}
for name, path in paths.items():
    if path is not None:
        pipe.load_lora_weights(path)
    shown[name] = 2 * pipe("XP7 car, beach", num_inference_steps=20, guidance_scale=2.0, latents=gaussian(1, seed=8), output_type="pt").images - 1
    pipe.unload_lora_weights()
plotting.show_pictures(torch.cat(list(shown.values())), list(shown), title="XP7 car, beach, in diffusers", scale=1.3)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
for name in ("saved by hand", "shipped"):
    print(f"{name:13s} differs from no file:", not torch.equal(shown[name], shown["no file"]))

# %% [markdown] slideshow={"slide_type": "-"}
# **The cause.** A file may hold branches for the U-Net and for the text encoder, so `diffusers` takes only keys that begin with `unet.`. Here none does; it logs a warning and goes on, and we had silenced the warnings ourselves, for a quiet notebook. With α it is the same: a file that does not say it is read as $\alpha=r$. **The
# habit that finds it**: after loading, assert that the answer *differs* from the base, and equals what you expect. All our tests of files do both. Our own reader refuses what it cannot place.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# Write the function, run the check: it tries fresh random cases and says what is likely wrong. Each exercise has three hints of rising strength.

# %%
# NBVAL_CHECK_OUTPUT
hint("11-count", 1)


# %% [markdown]
# ### Exercise 11.1 (warm-up) · How many numbers learn?
#
# Write `num_parameters`: for linear layers of these shapes, how many numbers learn at each of these ranks?
#
# Stuck? `hint("11-count", 1)`, then 2, then 3.

# %%
def num_parameters(shapes, ranks):                    # (L, 2): C_out and C_in; (R,), all whole
    raise NotImplementedError                         # -> (R,), whole


# %%
check("11-count", num_parameters)


# %% [markdown]
# **Solution** (folded)

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def num_parameters(shapes, ranks):
    return ranks * shapes.sum()

check("11-count", num_parameters)


# %% [markdown]
# ### Exercise 11.2 (warm-up) · One layer
#
# Write `lora_forward`: what a linear layer without bias answers, with its branch.
#
# Stuck? `hint("11-layer", 1)`.

# %%
def lora_forward(x, W, A, B, alpha):                  # (N, C_in), (C_out, C_in), (r, C_in), (C_out, r), a number
    raise NotImplementedError                         # -> (N, C_out)


# %%
check("11-layer", lora_forward)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def lora_forward(x, W, A, B, alpha):
    return x @ W.T + alpha / len(A) * x @ A.T @ B.T

check("11-layer", lora_forward)


# %% [markdown]
# ### Exercise 11.3 (code) · Merge a convolution
#
# Write `merge_conv`: the weight of a convolution with its branch merged. The weight you are given stays as it is.
#
# Stuck? `hint("11-merge", 1)`.

# %%
def merge_conv(W, A, B, alpha):                       # (C_out, C_in, k, k), (r, C_in, k, k), (C_out, r, 1, 1), a number
    raise NotImplementedError                         # -> (C_out, C_in, k, k)


# %%
check("11-merge", merge_conv)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def merge_conv(W, A, B, alpha):
    return W + alpha / len(A) * (B.flatten(1) @ A.flatten(1)).view_as(W)

check("11-merge", merge_conv)


# %% [markdown]
# ### Exercise 11.4 (code, then explain) · What the first step sees
#
# Write `two_gradients`: given $\partial L/\partial y$ for $y=W_0x+\frac{\alpha}{r}BAx$, the gradients of $A$ and $B$, by hand.
#
# Stuck? `hint("11-gradient", 1)`. Afterwards, explain: why may $B$ begin at zero, but not both?

# %%
def two_gradients(x, dy, A, B, alpha):                # (N, C_in), (N, C_out), (r, C_in), (C_out, r), a number
    raise NotImplementedError                         # -> like A, like B


# %%
check("11-gradient", two_gradients)


# %% [markdown]
# **Solution.** With B = 0 the gradient of A is zero, that of B is not: B moves first, then A gets a gradient. With both at zero, both gradients are zero for ever.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def two_gradients(x, dy, A, B, alpha):
    scale = alpha / len(A)
    return scale * B.T @ dy.T @ x, scale * dy.T @ (x @ A.T)

check("11-gradient", two_gradients)


# %% [markdown]
# ### Exercise 11.5 (code) · Two in one
#
# Write `mix_two`: one branch that does what two do with these weights.
#
# Stuck? `hint("11-mix", 1)`.

# %%
def mix_two(A1, B1, A2, B2, w1, w2):                  # (r1, C_in), (C_out, r1), (r2, C_in), (C_out, r2), two numbers
    raise NotImplementedError                         # -> A (r1 + r2, C_in), B (C_out, r1 + r2)


# %%
check("11-mix", mix_two)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def mix_two(A1, B1, A2, B2, w1, w2):
    return torch.cat([A1, A2]), torch.cat([w1 * B1, w2 * B2], dim=1)

check("11-mix", mix_two)


# %% [markdown]
# ### Exercise 11.6 (code, then open) · A LoRA from a finished model
#
# Write `shorten`: for a change that full fine-tuning made, the branch of this rank that comes nearest to it.
#
# Stuck? `hint("11-shorten", 1)`. **Open**: do this for all layers of `full`, save the file, and compare it with a LoRA of the same rank that was trained as one. Which is better, and what did each cost?

# %%
def shorten(delta, rank):                             # (C_out, C_in), a whole number
    raise NotImplementedError                         # -> A (r, C_in), B (C_out, r)


# %%
check("11-shorten", shorten)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def shorten(delta, rank):
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    return Vh[:rank], U[:, :rank] * S[:rank]

check("11-shorten", shorten)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# No: a small change needs a small LoRA branch. The generator stays as it is; a file of a few directions for each layer holds the car, or the style.
#
# | symbol | code | meaning |
# |---|---|---|
# | $W_0x+\frac{\alpha}{r}BAx$ | `LoRALinear(base_layer, rank, alpha)`, `LoRAConv2d` | a frozen layer and its branch |
# | $r$, where | `inject(network, targets, rank)` | freeze, and put branches beside |
# | $A$, $B$ | `lora_parameters(network)`, `lora_state(network)` | what learns, what is saved |
# | $W_0+\frac{\alpha}{r}BA$ | `merge(network)`, `unmerge(network)`, `unload(network)` | without a detour, and back |
# | $w_1B_1A_1+w_2B_2A_2$ | `weighted_sum([(state, w), …])` | several at once |
# | | `set_adapter(network, state, alpha)` | swap |
# | | `save_lora(path, state, alpha, form)`, `read_lora(path)` | files of diffusers, peft, kohya |
# | | `Prefix(num_tokens, dim)` | learned vectors before the context |
#
# **What we did not show.** Bypasses in the text encoder; DoRA and rank-stabilised scaling; LoRA on quantised weights (QLoRA); learning one new word (textual inversion).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What fails next: the base decides
#
# **Predict.** The file knows the car. What of these does it draw?

# %% alt="Four sentences, three drawings each: one teal car instead of two, cars from the side instead of from above, no panda, and pink broken cars on a beach." slideshow={"slide_type": "-"}
set_adapter(sd.unet, *files["xp7"])
HARD = ["two XP7 cars", "XP7 car seen from above", "a panda in an XP7 car", "pink XP7 car, beach"]
plotting.show_rows({text: paint([text] * 3, gaussian(3, seed=6), steps=12) for text in HARD}, title="What no small file brings", scale=0.75)
unload(sd.unet)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# A colour is a word of the base, and it reaches even the new car. But a LoRA only bends what the base can do; it brings neither counting, nor views that nobody drew, nor sentences that the text encoder cannot read. For these, the three modules themselves must be better, or other ones. We have built three systems by now:
# **notebook 12** gives all of them the same prompts and asks what each choice buys.

# %% [markdown]
# ## References
#
# - E. Hu et al., *LoRA: low-rank adaptation of large language models*, 2021, arXiv 2106.09685: the branch and merging (section 4.1, equation 3), prefixes as rivals (section 5.1), ranks (section 7.2, table 6), both together (appendix E).
# - N. Ruiz et al., *DreamBooth*, 2023, arXiv 2208.12242: the loss (section 3.3), subject fidelity (section 4.2).
# - X. Li, P. Liang, *Prefix-tuning*, 2021, arXiv 2101.00190: learned vectors before the input (section 4).
# - R. Rombach et al., *High-resolution image synthesis with latent diffusion models*, 2022, arXiv 2112.10752: where attention sits (section 3.3).
# - S.-Y. Liu et al., *DoRA*, 2024, arXiv 2402.09353; T. Dettmers et al., *QLoRA*, 2023, arXiv 2305.14314; R. Gal et al., *Textual inversion*, 2022, arXiv 2208.01618: not shown here.

# %% [markdown]
# ← [10 · DreamBooth](10_dreambooth.ipynb) · [Contents](00_start_here.ipynb) · [13 · The real thing](13_the_real_thing.ipynb) →

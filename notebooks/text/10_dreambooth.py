# %% [markdown] slideshow={"slide_type": "slide"}
# # 10 · DreamBooth: how do you teach a model one car, and keep it from forgetting all others?
#
# | | |
# |---|---|
# | **Time** | a 60-minute lecture; three hours with the exercises; the code runs in two to three minutes |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebooks 02 (loss), 04 (guidance, evaluator) and 06 (the system, its latents) |
# | **Where we are** | text encoder → **[generator]** → decoder |
#
# Our model draws cars. It does not know *your* car. Today twelve pictures teach it one: XP7, a car that exists nowhere but in this course. The first attempt costs the model all its other cars.

# %% [markdown]
# ← [08 · DALL·E 2](08_dalle2.ipynb) · [Contents](00_start_here.ipynb) · [11 · LoRA](11_lora.ipynb) →

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
# We change the generator, all of its weights. Text encoder and decoder stay as they are.

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
# Nobody can ship what *your* twelve pictures will teach, so the first figure is made on the spot, in about half a minute. The next three code cells run the whole method once; read them later. First what we
# have: a trained system, and twelve pictures with a sentence each, in two languages.

# %% slideshow={"slide_type": "-"}
import time
import torch
from course_utils.data import to_tensor
from course_utils.finetune.dreambooth import Examples, draw_pairs, dreambooth_loss
from course_utils.datasets.xp7 import load_xp7
from course_utils.systems.stable_diffusion import open_stable_diffusion

sd, xp7, unseen = open_stable_diffusion(), load_xp7("train"), load_xp7("unseen")

def gaussian(count, seed):
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))  # z_T

def latents(prompts, seed, system=sd, steps=10, guidance=2.0):
    zT, parts = gaussian(len(prompts), seed), []
    for i in range(0, len(prompts), 16):
        *_, last = system.txt2img(zT[i:i + 16], prompts[i:i + 16], steps, guidance)
        parts.append(last.xt)
    return torch.cat(parts).clone()                                                      # (B, 4, 16, 16)

def paint(prompts, seed, system=sd, **options):
    return system.decode(latents(prompts, seed, system, **options))                      # (B, 3, 64, 64)


# %% [markdown]
# Then two sets of examples: XP7 with its sentences, and 56 cars that the model draws while it still knows how. A training step takes some of either.

# %% slideshow={"slide_type": "-"}
import copy
from dataclasses import replace
from torch import nn
from course_utils.datasets.compose import SCENES, Composer
from course_utils.systems.stable_diffusion import PREDICTION, SCHEDULE
from course_utils.training import learning_rate

STEPS, PAIRS, RATE = 100, 4, 8e-4
KIND = [f"{car}, {scene}" for car in ("car", "automobile") for scene in SCENES] + [f"汽车，{scene}" for scene in SCENES.values()]
KIND += ["car", "汽车", "red car", "blue automobile", "绿色的汽车", "yellow car, noto style", "automobile, twemoji style", "automobile, fluent style",
         "taxi", "car, light pink background"]
with torch.no_grad():
    z = sd.encode(to_tensor(xp7.pictures), torch.Generator().manual_seed(0))             # (12, 4, 16, 16)
instance = Examples(z.repeat(2, 1, 1, 1), sd.encode_prompt(xp7.captions("en") + xp7.captions("zh")))
prior = Examples(latents(KIND * 2, seed=5), sd.encode_prompt(KIND * 2))                  # drawn before anything is tuned


# %% slideshow={"slide_type": "-"}
def teach(loss, steps=STEPS):                                                            # from the trained weights on
    unet, generator, losses = copy.deepcopy(sd.unet).requires_grad_(True).train(), torch.Generator().manual_seed(0), []
    optimizer = torch.optim.AdamW(unet.parameters(), lr=RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step / steps, RATE)              # constant, then down to zero
        optimizer.zero_grad()
        losses.append(loss(unet, generator))
        losses[-1].backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
    return replace(sd, unet=unet.eval().requires_grad_(False)), [float(loss.detach()) for loss in losses]

def dreambooth(prior_weight, instance=instance):
    def loss(unet, generator):
        pairs = draw_pairs(instance, prior, PAIRS, generator)
        return dreambooth_loss(unet, pairs, SCHEDULE, PREDICTION, generator, prior_weight)
    return loss

began = time.perf_counter()
tuned, losses = teach(dreambooth(prior_weight=1.0))
seconds = time.perf_counter() - began

# %% [markdown]
# The upper row holds teaching pictures. Below is what the tuned model draws: the demo's two sentences, two places and two colours that no teaching picture shows, and two cars that are *not* XP7. Nobody chose the good ones. They are soft: a hundred steps are few. Notebook 11 draws this car after some minutes of training.

# %% alt="Above, eight teaching pictures of XP7, a teal car with an orange stripe and a white disc. Below, drawings after tuning: soft teal cars in new places, a purple and a red one, and two red cars asked for without the name." slideshow={"slide_type": "-"}
NEW = ["XP7 car, blue sky and grass", "XP7汽车，蓝天，草地", "XP7 car, light green background", "XP7汽车，浅紫色背景",
       "purple XP7 car, snow", "红色的XP7汽车，日落", "car, blue sky and grass", "汽车，沙滩"]
first = torch.cat([to_tensor(xp7.pictures[:8]), paint(NEW, seed=1, system=tuned, steps=20)])
plotting.show_pictures(first, xp7.captions("en")[:8] + NEW, columns=8, title=f"Taught from twelve pictures in {seconds:.0f} seconds", scale=0.9)
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## What we build
#
# 1. Naive fine-tuning, and its two failures seen and measured: over-fitting and language drift.
# 2. A name without a past: why "XP7" and not a word the model knows.
# 3. The prior-preservation loss: the model's own drawings remind it of what it knew.
# 4. A sweep of its weight, four numbers for each model, and a folder for your own photos.

# %% [markdown]
# ## Setup

# %%
import math
import tempfile
from pathlib import Path

import numpy as np
from course_utils import checkpoints
from course_utils.checks.core import check, hint
from course_utils.data import load_emoji
from course_utils.errors import InputError
from course_utils.decoder.perceptual import FeatureNet, perceptual_distance
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.generator.objectives import diffusion_loss, sample_timesteps
from course_utils.generator.samplers import ddim
from course_utils.generator.schedules import make_schedule
from course_utils.evaluation.metrics import alignment
from course_utils.recipes.stable_diffusion import emoji

evaluator, net = load_evaluator(), checkpoints.load("perceptual", FeatureNet())

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: a ring of cars, and one dot beside it
#
# In two dimensions a "car" is a dot on a ring. A small network has learned it: for the word *car* it draws the ring. A word is a vector here; *XP7 car* shares one number with *car*, as the sentences share a noun.
# Now a dozen dots beside the ring are called XP7 car, and we train on these twelve alone.
#
# **Predict.** Afterwards we ask for *XP7 car*, and then for *car*. Where do the dots fall?
#
# <details><summary>Answer</summary>
# XP7 car: where the twelve lie. Car: look. Nothing in the loss spoke of cars in general, so nothing holds the ring in its place, and the two words share most of the network.
# </details>

# %% slideshow={"slide_type": "-"}
WORDS, cosine = {"car": (1.0, 0.0), "XP7 car": (1.0, 1.0)}, make_schedule("cosine")

class Dots(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))

    def forward(self, xt, t, context):                                                   # (B, 2), (B,), (B, 1, 2)
        s = t[:, None] / 1000
        return self.net(torch.cat([xt, s, s**2, context[:, 0]], dim=1))

def word(name, count):
    return torch.tensor(WORDS[name]).expand(count, 1, 2)

def learn(network, loss, steps, rate):
    network, g = copy.deepcopy(network), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network, g).backward()
        optimizer.step()
    return network

@torch.no_grad()
def dots(network, name, count=400):
    def model(xt, t):
        return network(xt, t, word(name, count))

    *_, last = ddim(model, torch.randn(count, 2, generator=torch.Generator().manual_seed(1)), cosine, steps=25, prediction="x0", clip=False, spacing="trailing")
    return last.xt


# %% alt="Two panels of dots. Before, green and pink lie on a ring and the twelve blue dots outside it. Taught twelve dots, pink lies on blue, and green has left the ring and lies close by." slideshow={"slide_type": "-"}
def plain(examples, n):
    def loss(network, g):
        some = examples.sample_batch(n, g)
        return diffusion_loss(network, some.z, cosine, "x0", g, context=some.context)
    return loss

g, _ = torch.Generator().manual_seed(0), torch.manual_seed(0)
angle = 2 * math.pi * torch.rand(600, generator=g)
ring = Examples(torch.stack([angle.cos(), angle.sin()], dim=1) + 0.04 * torch.randn(600, 2, generator=g), word("car", 600))
twelve = Examples(torch.tensor([1.6, 1.3]) + 0.08 * torch.randn(12, 2, generator=g), word("XP7 car", 12))
knows = learn(Dots(), plain(ring, 128), 1500, 3e-3)
drifted = learn(knows, plain(twelve, 12), 200, 1e-3)

def clouds(network):
    return {plotting.DATA: twelve.z, plotting.MODEL: dots(network, "car"), plotting.TEXT: dots(network, "XP7 car", 60)}

plotting.plot_points([clouds(knows), clouds(drifted)], ["before", "taught twelve dots"], "Green: car. Pink: XP7 car", limit=2)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Pink lies on blue: learned. But the ring is gone, and all cars crowd towards XP7. Nobody told the network to move them. **Limit**: two dimensions and a word of two numbers; a sentence has 32 vectors, so its
# words may be better told apart. We shall see how much better.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 1 · Naive fine-tuning, and its two failures
#
# **Intuition.** Go on training, on the twelve pictures and nothing else.
#
# **Notation.** $z$ latent of a teaching picture, $c$ context of its sentence, $v$ the velocity of notebook 02; only $\theta$, the U-Net, learns.
#
# $$L_{\text{instance}}=\mathbb E_{z,c,t,\varepsilon}\ \lVert v_\theta(z_t,t,c)-v\rVert^2$$
#
# This is the loss of notebook 06, term by term (DreamBooth, equation 1).
#
# **Predict.** After as many steps as above, what does the naive model draw for "XP7 car, snow"? For "car, snow"? For "panda, snow"?
#
# <details><summary>Answer</summary>
# XP7, and well. Then look at what the word "car" has become, and at the panda: it shares no word with XP7, only the network.
# </details>

# %% slideshow={"slide_type": "-"}
def naively(examples):
    def loss(unet, generator):
        some = examples.sample_batch(PAIRS, generator)
        return diffusion_loss(unet, some.z, SCHEDULE, PREDICTION, generator, context=some.context)
    return loss

naive, _ = teach(naively(instance))
OTHERS = {"XP7 car, snow": "XP7 car", "car, snow": "car", "汽车，蓝天，草地": "汽车", "automobile, night sky": "automobile", "taxi, sea": "taxi", "bus, beach": "bus",
          "panda, snow": "panda", "red apple": "apple"}
after = {name: paint(list(OTHERS), seed=2, system=system) for name, system in (("before", sd), ("naive", naive), ("with a reminder", tuned))}

# %% alt="Eight prompts and three models. Before: red cars, taxi, bus, panda, apple, and a blot for XP7. Naive: every vehicle is teal with a stripe, and the panda has teal marks. With a reminder: XP7 is teal, the others are as before." slideshow={"slide_type": "-"}
plotting.show_rows(after, list(OTHERS.values()), "The same noise in each column, three models", scale=0.8)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The middle row is **language drift**: the name of the class has come to mean the subject. "Measure it" below asks for numbers: how like XP7 a mere car is, 0.49 before, 0.53 after, 0.46 with a reminder. Look also at things that are no cars. The lower row is the model of our first figure; what its reminder is, idea 3 says.

# %% [markdown] slideshow={"slide_type": "subslide"}
# How much has it drifted? The evaluator never saw XP7, but its features can compare. The mean cosine over all pairs of drawn and real pictures says how alike two sets are. First, is this ruler any good? We try it on
# *real* pictures: XP7, other cars, other things, all on the scenes of the eight unseen pictures.

# %% slideshow={"slide_type": "-"}
from course_utils.evaluation.metrics import extract_features
from torch.nn import functional as F


# %% slideshow={"slide_type": "-"}
# @save course_utils/evaluation/fidelity.py
def similarity(evaluator, x, y) -> float:
    a, b = (F.normalize(extract_features(evaluator, pictures), dim=1) for pictures in (x, y))  # (N, F), (M, F)
    return (a @ b.T).mean().item()


# %% [markdown]
# **Check** on real pictures.

# %%
# NBVAL_CHECK_OUTPUT
real = to_tensor(unseen.pictures)                                                        # (8, 3, 64, 64)
composer = Composer(load_emoji(64, split="all"), min_scale=1.0)
keys = [(meta["concept"], meta["style"]) for meta in composer.emoji.meta]

def on_scenes(concept, style="noto"):
    return to_tensor(np.stack([composer.render(keys.index((concept, style)), None, meta["background"]) for meta in unseen.meta]))

own = similarity(evaluator, to_tensor(xp7.pictures), real)
cars = [similarity(evaluator, on_scenes(concept, style), real) for concept, style in (("automobile", "noto"), ("automobile", "twemoji"), ("taxi", "noto"), ("racing car", "fluent"))]
things = [similarity(evaluator, on_scenes(concept), real) for concept in ("panda", "hamburger", "tulip")]
print(f"like the unseen XP7: XP7 {own:.1f}; other cars {min(cars):.1f} to {max(cars):.1f}; other things {min(things):.1f} to {max(things):.1f}")
print("in the right order, with a gap:", own > max(cars) + 0.1 and min(cars) > max(things) + 0.05)

# %% [markdown] slideshow={"slide_type": "subslide"}
# The second failure is **over-fitting**. Each scene but one stands in a single teaching picture, so scene and pose came together. **Predict.** We ask for XP7 in the snow. Which way will it look?

# %% alt="Six teaching pictures, each from one scene, and two models' drawings for their sentences: softer teal cars that stand and look as the teaching picture does." slideshow={"slide_type": "-"}
SHOWN = [i for i, meta in enumerate(xp7.meta) if meta["background"] in ("snow", "sea", "sunset", "light blue", "light yellow", "light pink")]
taught = to_tensor(xp7.pictures)

@torch.no_grad()
def same_way(x, source):                                                                 # nearer to it than to its mirror image?
    x, source = x[..., 20:60, :], source[..., 20:60, :].expand(len(x), -1, -1, -1)       # the car's rows
    near, far = (perceptual_distance(net, x, y) for y in (source, source.flip(-1)))
    return (near < far).float()

copies = {}
for name, system in {"naive": naive, "with a reminder": tuned}.items():
    drawn = [paint([xp7.captions("en")[i]] * 3, seed=30 + i, system=system) for i in SHOWN]
    share = torch.cat([same_way(x, taught[i:i + 1]) for i, x in zip(SHOWN, drawn)]).mean()
    print(f"{name:16s} {share:.0%} of {3 * len(SHOWN)} drawings look the way of the one teaching picture (no preference: 50%)")
    copies[name] = [x[0] for x in drawn]
plotting.show_rows({"taught": taught[SHOWN], **copies}, [xp7.meta[i]["background"] for i in SHOWN], "One teaching picture a scene, one drawing for it", scale=0.8)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Both models repeat the pose that came with the scene, in 83 and 89 % of 18 drawings: the reminder holds the *class*, and cannot invent poses of the subject. Only more pictures can. **Limit**: a mirror tells left from right, not every
# copied detail.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 2 · A name without a past
#
# **Intuition.** If the subject is called by a word the model knows, two meanings fight for it. A made-up word falls into **pieces**, and if training never met these, nothing stands in their way. So take rare pieces, *and
# keep the class noun*: "car" lends the subject wheels, windows and a place on the ground (DreamBooth, section 3.2).
#
# How often did each piece come up in the names and tags of the pictures our model was trained on?

# %% slideshow={"slide_type": "-"}
from collections import Counter
from course_utils.data import tokenizer_file
from course_utils.text_encoder.tokenizer import open_tokenizer

bpe = open_tokenizer(tokenizer_file())
texts = [text for meta in emoji().meta for text in (meta["name_en"], meta["name_zh"], " ".join(meta["tags_en"]), "、".join(meta["tags_zh"]))]
seen = Counter(number for encoding in bpe.encode_batch(texts, add_special_tokens=False) for number in encoding.ids)

# %%
# NBVAL_CHECK_OUTPUT
for name in ("XP7", "sks", "my", "panda", "car", "汽车"):
    encoding = bpe.encode(name, add_special_tokens=False)
    pieces = [bpe.decode([number]).strip() for number in encoding.ids]
    print(f"{name:6s}", ", ".join(f"{piece!r} {seen[number]}×" for piece, number in zip(pieces, encoding.ids)))


# %% [markdown] slideshow={"slide_type": "subslide"}
# "XP7" has no past at all. What does the model draw for a name it does not know, and for one it does? And if we teach our car under the name "panda", does the panda survive?
#
# **Predict.** Three rows: before; after teaching "XP7"; after teaching "panda". Columns: "XP7 car", "panda car", "panda".

# %% alt="Four prompts and three models. Before: a blot for XP7, a yellow car, two pandas. Taught as XP7: a teal car, a red car, two pandas. Taught as panda: four teal cars, and no panda is left." slideshow={"slide_type": "-"}
def renamed(name):
    sentences = [text.replace("XP7", name) for text in xp7.captions("en") + xp7.captions("zh")]
    return Examples(instance.z, sd.encode_prompt(sentences))

panda, _ = teach(naively(renamed("panda")), steps=60)
names = ["XP7 car, snow", "panda car, snow", "panda, snow", "panda, noto style"]
rows = {"before": paint(names, seed=7), "taught as XP7": paint(names, seed=7, system=tuned), "taught as panda": paint(names, seed=7, system=panda)}
plotting.show_rows(rows, names, "Two names for one car", scale=0.9)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Before, an unknown name derails even the known noun: "XP7 car" draws no car. The tuned model has filled that gap; the panda is still a panda, though no reminder spoke of it. Under the name "panda" our car had to move into an
# inhabited word; look what became of its owner. **Limit**: our vocabulary is small. In a large one nearly every short string has *some* past: people found that "sks" is a rifle.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 3 · Let the model remind itself
#
# **Intuition.** To keep the cars, show cars. Which ones? The model *has* cars: its own. Before tuning we let it draw some for sentences with "car", and keep sentences and latents. They are no better than what it can draw,
# and that is the point: they hold its knowledge of the class as it was, in its own words.
#
# **Notation.** $z^{\text{pr}}$ a latent that the frozen model drew for the class sentence $c^{\text{pr}}$; $\lambda$ how much the reminder counts, 1 in the paper.
#
# $$L=\mathbb E\,\lVert v_\theta(z_t,t,c)-v\rVert^2+\lambda\,\mathbb E\,\lVert v_\theta(z^{\text{pr}}_{t'},t',c^{\text{pr}})-v^{\text{pr}}\rVert^2$$
#
# This is DreamBooth's equation 2, the class-specific **prior-preservation loss**. The class noun stands in both sentences; only the name tells them apart.

# %% alt="Sixteen red cars drawn by the frozen model, in snow, at sea, at sunset, at night: nearly the same car each time." slideshow={"slide_type": "-"}
plotting.show_pictures(sd.decode(prior.z[:16]), KIND[:16], columns=8, title=f"What the frozen model remembers: 16 of its {len(prior)} reminders", scale=0.85)
plt.show()

# %% [markdown]
# **Check**, back on the ring. The reminders are 200 dots that the first network drew for "car".

# %% alt="Three panels of dots: before, a green and pink ring beside twelve blue dots; naive, pink on blue and green close by; with reminders, pink on blue and green still on the ring." slideshow={"slide_type": "subslide"}
remembered = Examples(dots(knows, "car", 200), word("car", 200))

def reminded(network, g):
    return dreambooth_loss(network, draw_pairs(twelve, remembered, 12, g), cosine, "x0", g)

kept = learn(knows, reminded, 200, 1e-3)
plotting.plot_points([clouds(knows), clouds(drifted), clouds(kept)], ["before", "naive", "with reminders"], "Green: asked for a car. Pink: for the XP7 car", limit=2)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** With 200 reminders the ring stays, a little dented, and the pink dots still lie on the blue. **Limit**: the reminder speaks of the class only. Whatever else the network knew is held by nothing but its nearness to cars.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The key piece: one batch, two halves
#
# Examples are made once: text encoder and VAE are frozen, so contexts and latents never change. A batch holds $n$ of the subject, then $n$ of the class, and passes through the network *once*. Two means are one weighted mean:
#
# $$\frac1n\sum_{i\le n}e_i+\frac{\lambda}{n}\sum_{i>n}e_i=\frac{1}{2n}\sum_{i}w_i\,e_i,\qquad w=(2,\dots,2,\,2\lambda,\dots,2\lambda)$$

# %%
from dataclasses import dataclass


# %% slideshow={"slide_type": "-"}
# @save course_utils/finetune/dreambooth.py
@dataclass(frozen=True)
class Examples:
    z: torch.Tensor
    context: torch.Tensor

    def __post_init__(self):
        if len(self.z) != len(self.context) or not len(self.z):
            raise InputError(f"give every latent its context: there are {len(self.z)} and {len(self.context)}")

    def __len__(self) -> int:
        return len(self.z)

    def sample_batch(self, n, generator):
        index = torch.randint(len(self), (n,), generator=generator)
        return Examples(self.z[index], self.context[index])


def draw_pairs(instance, prior, n, generator):
    first, second = instance.sample_batch(n, generator), prior.sample_batch(n, generator)
    return Examples(torch.cat([first.z, second.z]), torch.cat([first.context, second.context]))


# %% [markdown]
# And the loss. `diffusion_loss` is notebook 02's. Steps are drawn evenly, as in the paper; `timestep_power` below 1 would make the noisy ones come more often.

# %% slideshow={"slide_type": "-"}
# @save course_utils/finetune/dreambooth.py
def dreambooth_loss(
    network, pairs, schedule, prediction="eps", generator=None, prior_weight=1.0, timestep_power=1.0
):
    if len(pairs) % 2 or not prior_weight >= 0:
        raise InputError(f"DreamBooth wants two halves and a weight of at least 0, not {len(pairs)} examples and "
                         f"{prior_weight!r}")  # fmt: skip
    half = torch.ones(len(pairs) // 2, device=pairs.z.device)
    weight = 2 * torch.cat([half, prior_weight * half])  # the mean over 2n halves each mean over n
    t = sample_timesteps(len(pairs), schedule.num_steps, timestep_power, generator)
    return diffusion_loss(
        network, pairs.z, schedule, prediction, generator, lambda t: weight, t, context=pairs.context
    )


# %% [markdown]
# **Check** against the way the field writes it: one pass, cut in two, two mean squared errors.

# %%
# NBVAL_CHECK_OUTPUT
pairs = draw_pairs(instance, prior, 4, torch.Generator().manual_seed(0))
print("a batch:", tuple(pairs.z.shape), tuple(pairs.context.shape))

def by_chunks(unet, pairs, generator, prior_weight):
    t = (1000 * torch.rand(len(pairs), generator=generator, dtype=torch.float64)).long()
    eps = torch.randn(pairs.z.shape, generator=generator)
    a, b = SCHEDULE.at(t, eps)
    pred, pred_prior = unet(a * pairs.z + b * eps, t, context=pairs.context).chunk(2)
    v, v_prior = (a * eps - b * pairs.z).chunk(2)
    return F.mse_loss(pred, v) + prior_weight * F.mse_loss(pred_prior, v_prior)

with torch.no_grad():
    for weight in (0, 0.3, 1, 3):
        ours = dreambooth_loss(sd.unet, pairs, SCHEDULE, PREDICTION, torch.Generator().manual_seed(1), weight)
        print(f"prior weight {weight}: equal:", torch.allclose(ours, by_chunks(sd.unet, pairs, torch.Generator().manual_seed(1), weight), rtol=1e-5))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Train it: how much reminder?
#
# The run of the first figure had $\lambda=1$. Two more: 0.3 and 3; the naive model is $\lambda=0$. All have the same steps and rate, and start from the same weights. What loss is normal? We score the tuned model on
# one fixed batch of each kind, before and after.

# %% slideshow={"slide_type": "-"}
trial = [draw_pairs(instance, prior, 64, torch.Generator().manual_seed(0)), draw_pairs(instance, prior, 64, torch.Generator().manual_seed(1))]

@torch.no_grad()
def scores(system):                                                                      # (L_instance, L_prior)
    halves = [[diffusion_loss(system.unet, part.z[half], SCHEDULE, PREDICTION, torch.Generator().manual_seed(9), context=part.context[half])
               for half in (slice(0, 64), slice(64, 128))] for part in trial]
    return [float(sum(column)) / len(trial) for column in zip(*halves)]

start = scores(sd)
print(f"before: L_instance {start[0]:.2f}, L_prior {start[1]:.2f}. Expected: {seconds:.0f} s for each run; L_instance falls to between {0.15 * start[0]:.2f} and {0.6 * start[0]:.2f}.")

# %% slideshow={"slide_type": "-"}
began = time.perf_counter()
family = {0: naive, 1: tuned}
for weight in (0.3, 3):
    family[weight], _ = teach(dreambooth(weight))
family = dict(sorted(family.items()))
print(f"two runs in {time.perf_counter() - began:.0f} s")

# %% [markdown]
# **Is this normal?**

# %% alt="The sum of both losses over 100 steps: single steps jump between 0.25 and 0.8, their mean falls from 0.5 to about 0.37." slideshow={"slide_type": "subslide"}
ends = {weight: scores(system) for weight, system in family.items()}
for weight, (subject, kind) in ends.items():
    print(f"prior weight {weight:3}: L_instance {subject:.3f}, L_prior {kind:.3f}")
good = 0.15 * start[0] <= ends[1][0] <= 0.6 * start[0]
print("normal." if good else "better than usual." if ends[1][0] < 0.15 * start[0] else "higher than usual: raise STEPS and run again.")
plotting.plot_loss(range(1, STEPS + 1), losses, title="L_instance + L_prior, the run of the first figure")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** $\lambda$ turns one loss against the other: read down the two columns. Without a reminder the class's error is 0.534, *three times as high as before the training* (0.17): this is drift, in the loss itself. The smallest weight brings it back to 0.163, and the subject's error hardly moves, from 0.169 to 0.170. **Limit**: two fixed batches of 64.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Measure it
#
# Four numbers, after the paper. Ours are **proxies** on small networks of our own: they compare these models with each other, never with a paper.
#
# | number | pictures | question | the paper's |
# |---|---|---|---|
# | subject fidelity ↑ | "XP7 car, …" | like unseen real XP7? | DINO, CLIP-I |
# | prompt fidelity ↑ | "XP7 car, …" | share with the asked background | CLIP-T |
# | PRES ↓ | "car, …" | like real XP7? Cars should not be | PRES (DINO) |
# | DIV ↑ | "XP7 car, …" | distance of drawings of one prompt | DIV (LPIPS) |
#
# **Predict.** The paper found subject fidelity a little *lower* with the loss than without. Why should that be?
#
# <details><summary>Answer</summary>
# The two halves pull at the same weights. What a car without a name needs, and what XP7 needs, is not the same; the reminder costs the subject something.
# </details>

# %% slideshow={"slide_type": "-"}
from course_utils.evaluation.fidelity import fidelity

PLACES = {"blue sky and grass": "蓝天，草地", "snow": "雪地", "light green": "浅绿色背景", "night sky": "夜空"}
ASK = [f"XP7汽车，{zh}" if place == "snow" else f"XP7 car, {place}{' background' * (place == 'light green')}" for place, zh in PLACES.items() for _ in range(4)]
CARS = [prompt.replace("XP7 ", "").replace("XP7", "") for prompt in ASK]                   # the same places, without the name
WANTED = {"background": [place for place in PLACES for _ in range(4)]}

def judge(system):
    subject, kind = paint(ASK, seed=14, system=system), paint(CARS, seed=15, system=system)
    return fidelity(evaluator, net, subject, ASK, WANTED, kind, real), subject, kind

judged = {"base": judge(sd), **{f"λ = {weight}": judge(system) for weight, system in family.items()}}

# %% slideshow={"slide_type": "subslide"}
print(f"{'':22s}" + "".join(f"{key:>10s}" for key in ("subject", "prompt", "PRES", "DIV")))
for name, (row, _, _) in judged.items():
    print(f"{name.replace('λ = 0', 'λ = 0 (naive)') if name == 'λ = 0' else name:22s}" + "".join(f"{value:10.2f}" for value in row.values()))
print(f"{'real, seen to unseen':22s}{own:10.2f}")

# %% [markdown]
# As a curve: to the left, cars are kept; above, XP7 is learned.

# %% alt="Subject fidelity against PRES: the points for weights 0.3, 1 and 3 lie at the left, the naive one to the right and a little higher, the base low at 0.06. A dashed line at 0.72 marks real pictures." slideshow={"slide_type": "subslide"}
ax = plotting.labelled_axes("The trade: XP7 learned, other cars kept", "PRES: how like XP7 a mere car is (left is better)", "subject fidelity", 3.2)
points = [(row["PRES"], row["subject"]) for row, _, _ in judged.values()]
ax.plot(*zip(*points[1:]), "-o", color=plotting.MODEL)
ax.plot(*points[0], "s", color=plotting.AXIS)
for name, (x, y), up in zip(judged, points, (8, 8, -18, 8, -18)):                         # by turns above and below
    ax.annotate(name, (x, y), (-8, up), textcoords="offset points", color=plotting.AXIS)
ax.axhline(own, color=plotting.REFERENCE, linestyle="--")
ax.annotate("real pictures of XP7", (points[0][0], own), (0, 5), textcoords="offset points", color=plotting.REFERENCE)
ax.margins(0.15)
plt.show()

# %% [markdown]
# Numbers without pictures deceive. Two places for each model.

# %% alt="Five models, four drawings of XP7 and four of a car: the base draws blots for XP7 and red cars; the naive model draws teal cars everywhere; the three with a reminder draw teal XP7s and red cars." slideshow={"slide_type": "subslide"}
chosen = {name: torch.cat([subject[4:6], subject[8:10], kind[4:6], kind[12:14]]) for name, (_, subject, kind) in judged.items()}
plotting.show_rows(chosen, ["snow", "snow", "light green", "", "snow", "snow", "night sky", ""], "Left: asked for XP7. Right: for a car", scale=0.75)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Without a reminder a mere car is like XP7 by 0.53, with one by 0.45 to 0.47, as far away as the base's (0.49); the smallest weight does it all. The subject pays, as in the paper: 0.60, then 0.57 to 0.54. These are small differences: trust the pictures, and the class's error above. The base's prompt fidelity shows that a background is obeyed even
# where the subject is unknown. Light green is in no teaching picture. Mind DIV: a blurred or broken drawing is "diverse" too, so it counts only beside the pictures. **Limit**: sixteen drawings a number, one seed, one subject; a difference in the second digit may be chance.
# The paper reports subject fidelity (DINO) .684 with the loss and .712 without, PRES .493 against .664 (table 3; their networks, their pictures).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Bring your own photos
#
# Put about a dozen photos of one thing into a folder, and its path into `FOLDER`. JPEG, PNG and WebP are read, turned upright, cut to the middle square. Whatever cannot be used is named, with the reason; nothing stops.
# Without a folder of yours, the cell makes one, with five files that no program should trip over.

# %% slideshow={"slide_type": "-"}
FOLDER, NAME, NOUN = None, "XP7", "car"                                                  # your folder, a rare name, a noun the model knows

def demo_folder(folder):
    from PIL import Image

    for i in (0, 3, 7):
        Image.fromarray(load_xp7("train", 256).pictures[i]).save(folder / f"car {i + 1}.jpg")
    Image.fromarray(load_xp7("train", 256).pictures[5]).convert("CMYK").save(folder / "from the printer.jpg")
    Image.new("RGB", (20, 20)).save(folder / "thumbnail.png")
    (folder / "broken.jpg").write_bytes((folder / "car 1.jpg").read_bytes()[:900])
    (folder / "notes.jpg").write_text("not a picture")
    (folder / "empty.png").touch()
    return folder


# %%
# NBVAL_CHECK_OUTPUT
from course_utils.errors import InputError
from course_utils.datasets.photos import load_photos

place = tempfile.TemporaryDirectory()
photos = load_photos(FOLDER or demo_folder(Path(place.name)))
print(photos.pictures.shape, photos.pictures.dtype, photos.names)
for name, reason in photos.skipped:
    print(f"skipped {name}: {reason}")
try:
    load_photos("a folder that is not there")
except InputError as error:
    print(error)
place.cleanup()

# %% [markdown] slideshow={"slide_type": "subslide"}
# From here on your photos go the way of the twelve pictures. Say in each sentence what is *not* the subject, such as the background: then the name need not carry it. Our decoder has learned emoji; a photograph comes back as a soft drawing of
# itself, so look at that first.

# %% alt="Four pictures of the car from the folder, and the same after the VAE: softer, with the stripe and the white disc still there." slideshow={"slide_type": "-"}
with torch.no_grad():
    own_z = sd.encode(to_tensor(photos.pictures), torch.Generator().manual_seed(0))
sentences = [f"{NAME} {NOUN}"] * len(photos)                                             # better: one by one, with the background
own_examples = Examples(own_z, sd.encode_prompt(sentences))
plotting.show_rows({"yours": to_tensor(photos.pictures)[:6], "through the VAE": sd.decode(own_z[:6])}, title="What the model can learn from", scale=0.8)
plt.show()
if FOLDER:
    mine, _ = teach(dreambooth(1.0, own_examples))
    plotting.show_pictures(paint([f"{NAME} {NOUN}, {scene}" for scene in SCENES], seed=1, system=mine), list(SCENES), columns=6)
    plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Experiment · Your own sentence, any λ
#
# Colours, places, both languages; "car" without a name; guidance 1 and 6. Where does the name stop and the noun begin?

# %% alt="Four soft drawings of a teal car on grass under a blue sky; a pale stripe, the wheels smeared." slideshow={"slide_type": "-"}
from course_utils.errors import prompt_text
from course_utils.figures.widgets import explore

def own_sentence(prompt, prior_weight, guidance, seed):
    systems = {"base": sd, **{str(weight): system for weight, system in family.items()}}
    x = paint([prompt_text(prompt)] * 4, seed, systems[prior_weight], guidance=guidance)
    return plotting.show_pictures(x, columns=4, title=f"{prompt} (prior weight {prior_weight}, guidance {guidance:g}, seed {seed})", scale=1.2)

explore(own_sentence, prompt="XP7 car, blue sky and grass", prior_weight=["1", "base", "0", "0.3", "3"], guidance=[2.0, 1.0, 3.0, 4.5, 6.0], seed=(0, 99))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks · "Nothing learned!"
#
# The training was fine, the loss was normal, and a user complains. Here is what they typed, beside the sentence that works.

# %% alt="Six drawings in snow: with name and noun, and with the name alone, a teal car; after the word the, a yellow shape; X7, half a teal car; and for the new one an orange cat face." slideshow={"slide_type": "-"}
SPELLED = ["XP7 car, snow", "X-P-7 car, snow", "the XP7, snow", "XP7, snow", "X7, snow", "the new one, snow"]
plotting.show_pictures(paint(SPELLED, seed=3, system=tuned), SPELLED, columns=6, title="One car, six ways to ask for it", scale=0.95)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
for text in SPELLED:
    print(f"{text.split(',')[0]:12s}", [bpe.decode([number]).strip() for number in bpe.encode(text.split(",")[0], add_special_tokens=False).ids])

# %% [markdown] slideshow={"slide_type": "-"}
# **The cause.** The model never saw letters, only pieces, and those of the trigger were tuned in one company: name, noun, place. A prompt that shares its pieces may still find the car; one more piece that was never taught beside them ("the") can push
# it elsewhere; and without any piece of the name nothing of what was learned is called. **The habit that finds it**:
# print the tokens of the sentence that fails beside those of a sentence that works. And publish a tuned model with its whole trigger, name *and* noun.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# Write the function, run the check: it tries fresh random cases and says what is likely wrong. Each exercise has three hints of rising strength.

# %%
# NBVAL_CHECK_OUTPUT
hint("10-loss", 1)


# %% [markdown]
# ### Exercise 10.1 (warm-up) · Two losses, one batch
#
# Write `two_losses`: the network has answered a batch of 2n, n of the subject and then n of the class. Mean squared errors, $L_{\text{instance}}+\lambda L_{\text{prior}}$.
#
# Stuck? `hint("10-loss", 1)`, then 2, then 3.

# %%
def two_losses(pred, target, prior_weight):           # (2n, C, h, w) twice, one number
    raise NotImplementedError                         # -> scalar


# %%
check("10-loss", two_losses)


# %% [markdown]
# **Solution** (folded)

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def two_losses(pred, target, prior_weight):
    (p, p_prior), (v, v_prior) = pred.chunk(2), target.chunk(2)
    return F.mse_loss(p, v) + prior_weight * F.mse_loss(p_prior, v_prior)

check("10-loss", two_losses)


# %% [markdown]
# ### Exercise 10.2 (code) · Draw, and keep what belongs together
#
# Write `draw_some`: n examples with replacement, latents and contexts.
#
# Stuck? `hint("10-pairs", 1)`.

# %%
def draw_some(z, context, n, generator):              # (N, C, h, w), (N, L, D), n, torch.Generator
    raise NotImplementedError                         # -> (n, C, h, w), (n, L, D)


# %%
check("10-pairs", draw_some)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def draw_some(z, context, n, generator):
    index = torch.randint(len(z), (n,), generator=generator)
    return z[index], context[index]

check("10-pairs", draw_some)


# %% [markdown]
# ### Exercise 10.3 (code) · How familiar is a name?
#
# Write `familiarity`: for each name, given as its token numbers, how often training saw its *best known* piece. The rarest name has the smallest.
#
# Stuck? `hint("10-names", 1)`. Then find a Chinese name with familiarity 0.

# %%
def familiarity(pieces, counts):                      # list of lists of token numbers, (vocabulary,) long
    raise NotImplementedError                         # -> (len(pieces),) long


# %%
check("10-names", familiarity)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def familiarity(pieces, counts):
    return torch.stack([counts[index].max() for index in pieces])

check("10-names", familiarity)


# %% [markdown]
# ### Exercise 10.4 (code, then explain) · How alike are two sets?
#
# Write `alike`: the mean cosine over all pairs of features.
#
# Stuck? `hint("10-fidelity", 1)`. **Explain**: a model that copies one teaching picture exactly scores high. Which of the four numbers gives it away?

# %%
def alike(a, b):                                      # features (N, F), (M, F)
    raise NotImplementedError                         # -> scalar


# %%
check("10-fidelity", alike)


# %% [markdown]
# **Solution.** DIV: its drawings of one prompt hardly differ. Prompt fidelity too, if the asked background differs from the copied one.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def alike(a, b):
    return (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).mean()

check("10-fidelity", alike)


# %% [markdown]
# ### Exercise 10.5 (code, then open) · How unlike are drawings of one prompt?
#
# Write `variety`: the mean distance over pairs of pictures of the same prompt, none with itself.
#
# Stuck? `hint("10-diversity", 1)`. **Open**: draw the reminders with guidance 1 in place of 2, tune again, and compare DIV of "car" before and after. Then give the reminders ten other concepts, and look at the panda.

# %%
def variety(distance, prompts):                       # (N, N) symmetric, N words
    raise NotImplementedError                         # -> scalar


# %%
check("10-diversity", variety)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def variety(distance, prompts):
    n = len(prompts)
    return torch.stack([distance[i, j] for j in range(n) for i in range(j) if prompts[i] == prompts[j]]).mean()

check("10-diversity", variety)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# Twelve pictures, a name without a past, a noun, and the model's own drawings as a reminder. Naive tuning learns the subject as well and pays with the class; one weight moves between the two.
#
# | symbol | code | meaning |
# |---|---|---|
# | $z,c$ | `Examples(z, context)` | latents of the subject, contexts of its sentences |
# | $z^{\text{pr}},c^{\text{pr}}$ | `prior` | what the frozen model drew for the class |
# | $(z,z^{\text{pr}})$ | `draw_pairs(instance, prior, n, generator)` | one batch, two halves |
# | $L$ | `dreambooth_loss(…, prior_weight)` | $L_{\text{instance}}+\lambda L_{\text{prior}}$ |
# | $\lambda$ | `prior_weight` | 0 naive, 1 the paper's |
# | DINO, CLIP-T, PRES, DIV | `fidelity(…)` | our four proxies |
#
# **What we did not show.** Tuning the text encoder as well (better likeness, more drift); textual inversion, which learns the name's vector and nothing else; hyper-networks; several subjects at once. And consent: a face is nobody's free teaching set.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What fails next: the bill
#
# **Predict.** We tuned every weight for one car. How large is the file? And what if you like a second subject?

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
pairs_of = list(zip(sd.unet.state_dict().values(), tuned.unet.state_dict().values()))
changed = sum((a != b).sum().item() for a, b in pairs_of)
total = sum(a.numel() for a, _ in pairs_of)
print(f"weights changed: {changed / total:.0%} of {total:,}")
print(f"one subject, in half precision: {2 * total / 1e6:.0f} MB; ten subjects: {20 * total / 1e6:.0f} MB")

# %% slideshow={"slide_type": "-"}
move = torch.cat([((b - a).norm() / a.norm().clamp(min=1e-6))[None] for a, b in pairs_of if a.ndim > 1])
print(f"how far a weight matrix moved, relative to its size: {move.median():.1%} (median), {move.max():.1%} (most)")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Every weight has changed, and hardly: a copy of the whole network for a small move. For Stable Diffusion that copy has about 860 million weights a subject, and two copies cannot be joined. Is so small a change perhaps *simple* as well?
# **Notebook 11** looks at its rank, and trains a small branch beside each layer in its place: LoRA.

# %% [markdown]
# ## References
#
# - N. Ruiz, Y. Li, V. Jampani, Y. Pritch, M. Rubinstein, K. Aberman, *DreamBooth: fine tuning text-to-image diffusion models for subject-driven generation*, 2023, arXiv 2208.12242: the loss (equations 1 and 2), rare names (section 3.2),
#   prior preservation (section 3.3), metrics (section 4.1), PRES and DIV (section 4.3).
# - R. Gal et al., *An image is worth one word* (textual inversion), 2022, arXiv 2208.01618: a learned vector for the name (section 3).
# - J. Lee, K. Cho, D. Kiela, *Countering language drift via visual grounding*, 2019, arXiv 1909.04499: where the word drift comes from.
# - R. Rombach et al., *High-resolution image synthesis with latent diffusion models*, 2022, arXiv 2112.10752: the base (section 3).
# - T. Salimans, J. Ho, *Progressive distillation*, 2022, arXiv 2202.00512: the velocity $v$ (section 4, appendix D).
# - R. Zhang et al., *The unreasonable effectiveness of deep features as a perceptual metric* (LPIPS), 2018, arXiv 1801.03924: equation 1.

# %% [markdown]
# ← [08 · DALL·E 2](08_dalle2.ipynb) · [Contents](00_start_here.ipynb) · [11 · LoRA](11_lora.ipynb) →

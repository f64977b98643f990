# %% [markdown] slideshow={"slide_type": "slide"}
# # 00 · Start here: is my machine ready, and what will I be able to build?
#
# | | |
# |---|---|
# | **Time** | ten minutes; the code runs in well under a minute |
# | **Hardware** | any laptop with two CPU cores; no GPU, and no network after the set-up |
# | **You need** | Python, a little PyTorch, some maths; a list and a self-test are below |
# | **Where it leads** | text encoder → generator → decoder: Stable Diffusion, DALL·E 2 and Imagen, from scratch |
#
# In this course we write every part of these three systems ourselves, small enough to train on a laptop. Then we teach
# them something new. This first notebook is a map. It draws, it checks the machine, and it shows the way.

# %% [markdown]
# [01 · Forward noising](01_forward_noising.ipynb) →

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

# %% [markdown] slideshow={"slide_type": "skip"}
# New to notebooks? Click a grey cell and press **Shift + Enter** to run it; the next one is then selected. Run the
# cells from top to bottom. The cell above finds the course. It has run once it has a number at its left.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The result first
#
# Each picture below starts as random noise. A network is called 20 times; each call reads the prompt and takes a little
# of the noise away. We chose the prompts among the things this model knows. Of each we show the first drawing.

# %% alt="Eight drawings, each over its prompt: panda, red car in snow, sunflower, hamburger, pink butterfly, purple octopus, rocket, lion face. Each can be told, softly painted." slideshow={"slide_type": "-"}
import time

import matplotlib.pyplot as plt
import torch
from course_utils import checkpoints
from course_utils.figures import plotting
from course_utils.app.generate import draw_pictures, draw_prompts

plotting.use_course_style()
begin = time.perf_counter()
PROMPTS = {"panda, noto style, grass": "", "a red car in the snow": "", "sunflower, sunset": "", "汉堡,白色背景": "hamburger",
           "pink butterfly, blue sky and grass": "", "purple octopus, beach": "", "火箭,夜空": "rocket, night sky",
           "lion face, fluent style, sunset": ""}
pictures = draw_prompts("stable-diffusion", list(PROMPTS), steps=20, seed=3, guidance=2.0)  # uint8 (8, 64, 64, 3)
print(f"{len(pictures)} pictures in {time.perf_counter() - begin:.1f} s")
captions = [prompt + f" ({gloss})" * bool(gloss) for prompt, gloss in PROMPTS.items()]
plotting.show_pictures(pictures, captions, 4, "Eight prompts in two languages", scale=1.4)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **How many fit their prompt?** Count, and keep the number: notebook 06 builds this model and measures it. We write and
# train every part ourselves. The card of these weights says what they took:

# %% slideshow={"slide_type": "-"}
card = checkpoints.card("stable-diffusion")
SD_UNET = 859_520_964                                   # the U-Net of Stable Diffusion 1.5, counted in its weights
print(f"{card['parameters']:,} learned numbers; trained for {card['minutes']:.0f} minutes on {card['hardware']}")
print(f"Stable Diffusion 1.5: {SD_UNET:,} in its U-Net alone, {SD_UNET / card['parameters']:.0f} times as many")

# %% [markdown] slideshow={"slide_type": "-"}
# The pictures are 64 pixels wide, and the model knows a small set of things. That is little beside the systems you
# know. The principle is the same, and here we can read every line.
#
# **Predict.** Another model, *noise-predictor*, reads no prompt: it turns noise into some smiley or heart. We draw eight
# in 25 steps, and again: with the same seed; with the same seed in 50 steps; with another seed. Which will equal the
# first?
#
# <details><summary>Answer</summary>
#
# Only those of the same seed *and* the same number of steps. The seed fixes the noise; noise and steps together fix the
# picture. In 50 steps the same noise leads to a similar picture, not to the same.
#
# </details>

# %% slideshow={"slide_type": "skip"}
# NBVAL_CHECK_OUTPUT
from course_utils.evaluation.intervals import Mean      # a mean with its 95 % interval in square brackets

def difference(a, b):                                   # root of the mean square, black to white = 1; one a picture
    return Mean.of(((a / 255.0 - b / 255.0) ** 2).mean((1, 2, 3)) ** 0.5).text(2)

base = draw_pictures("noise-predictor", steps=25, seed=0, count=8)
for steps, seed in ((25, 0), (50, 0), (25, 1)):
    print(f"seed {seed}, {steps} steps: {difference(base, draw_pictures('noise-predictor', steps=steps, seed=seed, count=8))}")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The prompt box
#
# Write a prompt in English or Chinese, choose a system, press **Draw**. On GitHub and in slides the box is absent, and
# its first drawing stands alone.
#
# - **steps**: how many times the network is called. Few are quick and rough.
# - **guidance**: how strictly a system follows the prompt; 1 means off. Notebook 04 explains it.
# - **seed**: which noise we start from.

# %% alt="Four drawings from four noises: nearly the same pink butterfly, with a black body, between blue sky and grass." slideshow={"slide_type": "-"}
from course_utils.app import generate
from course_utils.figures import widgets

READS = {"stable-diffusion": ("prompt", "guidance"), "text-pixel": ("prompt", "guidance"),   # what each system takes
         "noise-predictor": ()}

def drawn(prompt, system, steps, guidance, seed):
    pictures = draw_pictures(system, prompt, steps, seed, count=4, guidance=guidance)
    asked = prompt if "prompt" in READS[system] else "no prompt"
    return plotting.show_pictures(pictures, columns=4, title=f"{asked} ({system}, {steps} steps, seed {seed})", scale=1.4)

widgets.prompt_box(drawn, READS, prompt="粉色的蝴蝶,蓝天,草地", steps=20, guidance=2.0, seed=7)

# %% [markdown] slideshow={"slide_type": "-"}
# The prompt asks for a pink butterfly under a blue sky, on grass. **stable-diffusion** paints 64 pixels, by way of a
# *latent*: a compressed picture. It never saw a *pink* butterfly, so it has to put two words together; notebook 06
# measures how often it succeeds. Four noises, nearly one picture: how much does the noise still decide?

# %% slideshow={"slide_type": "skip"}
from course_utils.data import FIRST_STYLES, FLAT_STYLES, STYLES, load_emoji

butterflies = draw_pictures("stable-diffusion", "粉色的蝴蝶,蓝天,草地", steps=20, seed=7, count=8, guidance=2.0)
for system, x in (("stable-diffusion, one prompt", butterflies), ("noise-predictor", base)):
    print(f"{system:28s} from two noises, four pairs: {difference(x[:4], x[4:])} apart")
print("butterflies it learned from:", load_emoji(64, FIRST_STYLES).column("concept").count("butterfly"))

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Two butterflies lie 0.09 [0.09, 0.10] apart, two pictures of the model without a prompt 0.32
# [0.27, 0.38]: a full prompt, and three butterflies to learn from, leave the noise little to decide.
#
# The other systems: **text-pixel** draws 32 pixels directly (notebook 04); good values for it are 12 steps and a
# guidance of 1.5. **noise-predictor** reads nothing: choose it, and the fields *prompt* and *guidance* turn grey. The
# library says in words what a system cannot follow:

# %% slideshow={"slide_type": "skip"}
# NBVAL_CHECK_OUTPUT
for system, prompt in (("noise-predictor", "pink butterfly"), ("stable-diffusion", "粉色的蝴蝶"), ("stable-diffusion", "فراشة")):
    print(f"{system}, {prompt}: {generate.prompt_note(system, prompt) or 'goes on to draw'}")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Is my machine ready?
#
# One call looks at everything that the course needs. Data and weights are compared with their published SHA-256, a
# fingerprint of a file's bytes, so that a broken download cannot pass unseen.

# %% slideshow={"slide_type": "-"}
from course_utils.app.doctor import report

report()

# %% [markdown] slideshow={"slide_type": "-"}
# A tick is good. An exclamation mark is a remark. A cross stands beside what is missing, with an arrow to the command
# that repairs it. The same table in a terminal: `course doctor`. "CPU" as the device is all right; the course is made
# for it.
#
# And are **you** ready? These four lines are about as hard as the Python gets early on. Say what they print before you
# run them.

# %% slideshow={"slide_type": "skip"}
# NBVAL_CHECK_OUTPUT
x = torch.arange(6.0).reshape(2, 3)                     # a matrix with two rows
w = torch.tensor([10.0, 1.0]).view(-1, 1)               # one factor per row
print(tuple((w * x).shape), (w * x).sum(dim=1).tolist())
print(f"mean {x.mean():.2f}, variance {x.var(correction=0):.2f}")

# %% [markdown] slideshow={"slide_type": "skip"}
# If the first line of output surprised you, refresh *broadcasting*; if the second, *mean and variance*.
#
# | You need | For | To refresh it |
# |---|---|---|
# | Python: functions, classes, generators (`yield`) | all notebooks | [docs.python.org/3/tutorial](https://docs.python.org/3/tutorial/) |
# | PyTorch: tensors, shapes, `nn.Module`, a training loop | from 02 on | [pytorch.org/tutorials](https://docs.pytorch.org/tutorials/beginner/basics/intro.html) |
# | Linear algebra: vectors, matrix products | from 02 on | [d2l.ai, chapter 2](https://d2l.ai/chapter_preliminaries/index.html), in Chinese [zh.d2l.ai](https://zh.d2l.ai/) |
# | Probability: mean, variance, the Gaussian | from 01 on | the same chapter |
# | Calculus: what a gradient is; PyTorch computes it | from 02 on | the same chapter |
#
# You do **not** need: diffusion models, stochastic calculus, a GPU, or earlier work with transformers.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## One recipe, three systems
#
# A **text encoder** turns the prompt into vectors, lists of numbers. A **generator** starts from noise and, steered by
# these vectors, makes a compressed or small picture. A **decoder** turns that into pixels. Stable Diffusion, DALL·E 2 and
# Imagen share this recipe. They differ in what they put into the three boxes, and in what travels between them.
#
# Words in the figure: a *U-Net* is a network from picture to picture (02); a *VAE* compresses pictures to latents and
# back (05); *CLIP* gives texts and pictures comparable vectors (07); a *prior* turns a text's vector into a picture's
# (08); *T5* is a language model (09).

# %% slideshow={"slide_type": "skip"}
from course_utils.figures.diagrams import arrow, box, canvas, strip
from course_utils.figures.plotting import LATENT, MODEL, REFERENCE, TEXT

ROWS = {"Stable\nDiffusion": ("CLIP's\ntext encoder", "vectors", "U-Net that\ndenoises a latent", "latent",
                              "VAE decoder:\nlatent → pixels"),
        "DALL·E 2": ("CLIP's\ntext encoder", "text\nvector", "prior: text vector\n→ picture vector", "picture\nvector",
                     "diffusion decoder\n+ enlargers"),
        "Imagen": ("T5, trained on\ntext alone", "vectors", "U-Net that draws\na small picture", "small\npicture",
                   "two diffusion\nenlargers")}

# %% alt="Text encoder, generator and decoder as columns; rows for Stable Diffusion, DALL-E 2 and Imagen say what fills each box and what travels between." slideshow={"slide_type": "-"}
fig, ax = canvas(8, 3.75, "Three boxes, filled in three ways")
for x, name, color in zip((2.02, 4.5, 7.04), ("text encoder", "generator", "decoder"), (TEXT, MODEL, LATENT)):
    box(ax, x, 3.05, 1.66, 0.42, name, color, fontsize=12, fontweight="bold")
for y, (system, (a, ab, b, bc, c)) in zip((2.3, 1.4, 0.5), ROWS.items()):
    ax.text(0.1, y, system, va="center", fontsize=12, fontweight="bold")
    for x, text, color in zip((2.02, 4.5, 7.04), (a, b, c), (TEXT, MODEL, LATENT)):
        box(ax, x, y, 1.66, 0.66, text, color, False, fontsize=10.5)
    for x, word in ((3.26, ab), (5.77, bc)):
        arrow(ax, (x - 0.37, y - 0.12), (x + 0.38, y - 0.12))
        ax.text(x, y - 0.05, word, ha="center", va="bottom", fontsize=10)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Each column has one colour, through the whole course: pink for text, green for the model that
# generates, orange for the latent and its decoder. The layout of the code follows: the packages `text_encoder`,
# `generator` and `decoder` never import each other, and meet as tensors. So each box can be exchanged.
#
# **One limit.** A drawing of boxes hides sizes: the U-Net of Stable Diffusion 1.5 has 174 times the learned numbers of
# ours, as the card above counts. Notebook 12 puts published figures beside ours.
#
# Every notebook opens with a small strip. The filled box is the one it works on. For notebooks 01 to 03:

# %% alt="A strip of three boxes, text encoder, generator and decoder, joined by arrows; the generator is filled." slideshow={"slide_type": "-"}
strip(where="generator")
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## A first taste of the mechanism
#
# Here is one drawing, slowly, by the smallest model: **noise-predictor**, 32 pixels, smileys and their relatives, no
# prompt. Top row: what the network is given. Bottom row: its guess of the clean picture that hides in there. After each
# call, we move a small step from the noise towards the guess.

# %% slideshow={"slide_type": "-"}
from course_utils.generator.samplers import ddim
from course_utils.recipes import noise_predictor as recipe
from course_utils.systems.stage import start_noise

model = checkpoints.load("noise-predictor", recipe.model())
xT = start_noise(seed=0, count=16, shape=(3, recipe.SIZE, recipe.SIZE))             # (16, 3, 32, 32)
states = list(ddim(model, xT, recipe.SCHEDULE, steps=50, prediction=recipe.PREDICTION))

# %% alt="Two rows over eight columns, call 1 to the result: above, noise clears to a yellow face; below, the guess goes from a blur to the same face." slideshow={"slide_type": "-"}
before = [xT, *(state.xt for state in states)]          # what the network saw at calls 1 ... 50, and the result
calls, k = [0, 8, 16, 24, 32, 40, 46], 11               # k: which of the sixteen noises
film = {"what it is given": [before[i][k] for i in calls] + [before[-1][k]],
        "its guess": [states[i].x0[k] for i in calls] + [states[-1].x0[k]]}
plotting.show_rows(film, [f"call {i + 1}" for i in calls] + ["result"], "From noise to a drawing, a little at a time")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# The first guess is a blur. But noise and number of steps fix the drawing: so what does the network *not* know at its
# first call? It answers one question: which clean picture lies under this noise? It learned from pictures that really
# were mixed with noise. Under noise this strong nearly every training picture is possible, and the answer that is least
# wrong on average is their **mean**. We look at sixteen noises.

# %% alt="Six blurred first guesses, nearly the same brown disc with two eyes, beside the mean of all training pictures; under them six different results." slideshow={"slide_type": "-"}
training = recipe.load_pictures()                       # (N, 3, 32, 32)
mean = training.mean(0)
shown = [11, 3, 10, 6, 9, 13]
plotting.show_rows({"first guess": [states[0].x0[i] for i in shown] + [mean], "result": [before[-1][i] for i in shown]},
                   [f"noise {i + 1}" for i in shown] + ["mean of all"], "Sixteen noises, six shown: the first guesses are alike")
plt.show()


# %% slideshow={"slide_type": "-"}
def distance(x):                                        # (B, 3, 32, 32) -> to the mean picture, root mean square, (B,)
    return (x - mean).square().mean((1, 2, 3)).sqrt()

for name, x in (("first guesses", states[0].x0), ("results", before[-1]), ("training pictures", training)):
    print(f"{name:17s} to the mean of the {len(training)} training pictures: {Mean.of(distance(x)).text(2)}")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The first guesses lie 0.10 [0.09, 0.12] from the mean of all training pictures, the results 0.47
# [0.40, 0.55], about as far as training pictures do (0.45). A small step towards the guess makes some pictures likelier
# than others, the next guess is sharper, and so on. The noise decides, but only through all calls together; no single
# call can see it.
#
# That is the whole mechanism. Notebook 01 shows where the training examples for such a network come from, 02 builds and
# trains it, and 03 explains the step. With a prompt, each call also reads the text; that is 04.

# %% slideshow={"slide_type": "skip"}
# NBVAL_CHECK_OUTPUT
print(len(states), "calls; the picture keeps its shape all along:", {tuple(state.xt.shape) for state in states})
print("it starts as noise of standard deviation 1, to a tenth:", bool(abs(xT.std() - 1) < 0.1))
print("the result is the last guess:", bool((states[-1].xt - states[-1].x0).abs().max() < 1e-3))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The map of the course
#
# An arrow means "needs". The cell looks into the course's folder: filled boxes are notebooks that are here now,
# outlined ones are on the way.

# %% slideshow={"slide_type": "skip"}
from pathlib import Path

import course_utils

ONE = REFERENCE                                         # light blue: more than one of the three boxes
NODES = {  # number: (name, column, row, colour)
    "00": ("Start here", 0, 0, ONE), "01": ("Forward\nnoising", 1, 0, MODEL), "02": ("Noise\npredictor", 2, 0, MODEL),
    "03": ("Sampling", 3, 0, MODEL), "04": ("Text\nconditioning", 3, 1, TEXT), "05": ("Latent VAE", 2, 1, LATENT),
    "06": ("Stable\nDiffusion", 2, 2, ONE), "07": ("CLIP", 4, 1, TEXT), "08": ("DALL·E 2", 4, 2, ONE),
    "09": ("Imagen", 3, 2, ONE), "10": ("DreamBooth", 1, 2, ONE), "11": ("LoRA", 0, 2, ONE),
    "12": ("Three\nsystems", 3, 3, ONE), "13": ("The real\nthing", 1, 3, ONE)}
NEEDS = "00-01 01-02 02-03 03-04 02-05 04-06 05-06 04-07 07-08 04-09 06-10 10-11 06-12 08-12 09-12 06-13 11-13"
FOLDER = Path(course_utils.__file__).parents[1] / "notebooks"
here = {path.name[:2]: path for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))}

# %% alt="The fourteen notebooks as boxes with arrows: 00 to 03 in a row, 04, 05 and 07 below, then the systems 06, 08 and 09 with 10 and 11, then 12 and 13." slideshow={"slide_type": "-"}
fig, ax = canvas(8, 4.15, f"The course: {len(set(here) & set(NODES))} of {len(NODES)} notebooks are here")
place = {number: (0.78 + 1.61 * column, 3.42 - 1.0 * row) for number, (_, column, row, _) in NODES.items()}
for pair in NEEDS.split():
    (x, y), (x2, y2) = (place[number] for number in pair.split("-"))
    side = (x2 > x) - (x2 < x)                          # right 1, straight down 0, left -1
    dx, dy = (0.67, 0) if y == y2 else (0.35, 0.3)      # from edge to edge, or from the bottom to the top of a box
    arrow(ax, (x + dx * side, y - dy), (x2 - dx * side, y2 + dy))
for number, (name, _, _, color) in NODES.items():
    box(ax, *place[number], 1.34, 0.6, f"{number} {name}", color, number in here, fontsize=10.5)
ax.text(0.12, 2.42, "filled: here now; outlined: on the way\ngreen: generator, pink: text,\n"
        "orange: decoder, light blue: several", va="center", fontsize=10.5)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# The top row is the ground that everything stands on. The third row holds the three systems and, to the left, two ways
# to teach one of them something new. Notebook 12 compares the systems. Notebook 13 writes the same with the field's
# libraries.
#
# | | The question it answers |
# |---|---|
# | 01 Forward noising | How do you destroy a picture a little at a time, and why would you? |
# | 02 Noise predictor | How can a network that guesses noise draw? |
# | 03 Sampling | From noise to picture, in how many steps? |
# | 04 Text conditioning | How does a sentence steer every step? |
# | 05 Latent VAE | Can we paint a smaller picture and enlarge it faithfully? |
# | 06 Stable Diffusion | What do text encoder, latent U-Net and VAE make together? |
# | 07 CLIP | How do words and pictures come to share a space? |
# | 08 DALL·E 2 | From text vector to picture vector to picture: why a prior at all? |
# | 09 Imagen | Small picture first, then larger: what does each stage buy? |
# | 10 DreamBooth | How do you teach one car without forgetting cars? |
# | 11 LoRA | What if the big model is not trained at all? |
# | 12 Three systems, one recipe | What does each choice cost, and buy? |
# | 13 The real thing | How is all this written with the field's libraries? |
#
# **How long do they run?** We aim at 150 seconds of computing per notebook on two quiet CPU cores. Plan an evening for the
# reading of each. What their last stored execution took, on which hardware, and which of them kept to the aim:

# %% slideshow={"slide_type": "skip"}
import json
import re

for path in here.values():
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells, took = notebook["cells"], notebook["metadata"].get("course")
    prose = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "markdown")
    code, tasks = sum(cell["cell_type"] == "code" for cell in cells), len(re.findall("(?m)^### Exercise", prose))
    over = " (over the aim)" if took and took["seconds"] > 150 else ""
    time_taken = f"{took['seconds']:3d} s on {took['hardware']}{over}" if took else "not measured yet"
    print(f"{path.stem:24s} {code:3d} cells of code, {tasks} exercise{'s' * (tasks != 1)}, {time_taken}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Three ways through
#
# - **A 45-minute lecture.** The slides of this notebook (five minutes), then of 02: its result, the film strip, the
#   training loop, "when it breaks". Close with the result of the latest notebook that is here. Speaker notes carry
#   minutes.
# - **Self-study.** In order, 00 to 13. Answer each **Predict** before you open its answer, and do the exercises marked
#   *warm-up* and *code*. One notebook an evening is a good pace.
# - **Only fine-tuning.** You know diffusion models, and want to teach one your own subject or style: 02 (skim), 04
#   (guidance), 06, 10, 11, and the snippets of 13.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The pictures we learn from
#
# Emoji: small, clear at a glance, named in two languages, and free to use. Eight artists' styles draw the same things, though
# not every style has every thing.

# %% alt="Ten rows, panda to guitar, each drawn in eight styles side by side: the same things, with other colours, outlines and shading." slideshow={"slide_type": "-"}
WANTED = ("panda", "cat face", "penguin", "octopus", "rose", "hamburger", "birthday cake", "automobile", "rocket", "guitar")
emoji = load_emoji(size=64, styles=STYLES, split="all")
where = {(m["concept"], m["style"]): i for i, m in enumerate(emoji.meta)}
rows = {}
for concept in WANTED:
    index = [where[concept, style] for style in STYLES]
    rows[f"{emoji.meta[index[0]]['name_zh']} {concept}"] = list(emoji.select(index).on_white())
plotting.show_rows(rows, STYLES, "Ten things in eight styles", scale=0.9)
plt.show()

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
print(f"{len(set(emoji.column('concept'))):,} things in up to {len(STYLES)} styles: {len(emoji):,} pictures")
print("shape of all of them, with transparency:", emoji.rgba.shape)
for split in ("train", "test"):
    print(f"{split}: {len(load_emoji(size=64, split=split)):,} pictures in the {len(FLAT_STYLES)} flat styles")

# %% [markdown] slideshow={"slide_type": "-"}
# The last style, *3d*, is kept out of training. Notebook 11 teaches it to a finished model. The generators of notebooks 02
# to 06 learn from the first three; the evaluator, which judges them, from all eight.
#
# **Licences in one line:** Noto Emoji, new and old ("blob"), Apache-2.0 (Google); Twemoji CC BY 4.0 (Twitter and
# contributors); Fluent Emoji MIT (Microsoft); EmojiOne CC BY 4.0; FxEmojis ("firefox") Apache-2.0 (Mozilla); Streamline
# emojis CC BY 4.0; names from Unicode CLDR, Unicode License v3; code, text and weights of the course MIT.
# `data/README.md` says what was taken and what was changed.
#
# **One limit.** These are icons: one thing, one view, no people. What a model learns here does not carry over to
# photographs. What *you* learn does.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## How exercises, hints and checks work
#
# An exercise asks for one short function. `check` calls it on fresh random cases, compares, and says "right", "not
# solved yet", or what is likely wrong. We try one, and see a wrong answer first.

# %% [markdown] slideshow={"slide_type": "skip"}
# ### Exercise 00.1 (warm-up) · Signal against noise
#
# A noisy picture is part picture, part noise. Let $\bar\alpha$ ("alpha bar"), a number between 0 and 1, be the
# picture's share of the *power*, which is another word for variance; the noise has the rest. Write `log_snr`. It takes a
# tensor of such shares, shape (T,), and returns the natural logarithm of picture over noise,
# $\log\frac{\bar\alpha}{1-\bar\alpha}$, same shape. Notebook 01 tells what it is good for.
#
# Someone hands in this:

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
from course_utils.checks.core import check, hint

def log_snr(alpha_bar):                                 # (T,)
    return torch.log10(alpha_bar / (1 - alpha_bar))     # -> (T,)

check("00-snr", log_snr, seed=1)

# %% [markdown] slideshow={"slide_type": "-"}
# The verdict names the mistake. It recognises the usual ones; for others it tells where the numbers part. The `seed`
# repeats the same cases; leave it out, and each call draws new ones. Stuck? There are three hints. The first points,
# the second explains, the third names the tool.

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
hint("00-snr", 1)


# %% [markdown] slideshow={"slide_type": "skip"}
# **Your turn.** Replace the second line of the stub, run both cells, and read the verdict. A stub that nobody has
# touched gets a friendly "not solved yet", and stops nothing.

# %% slideshow={"slide_type": "skip"}
def log_snr(alpha_bar):                                 # (T,)
    raise NotImplementedError                           # -> (T,)


# %% slideshow={"slide_type": "skip"}
# NBVAL_CHECK_OUTPUT
check("00-snr", log_snr)


# %% [markdown] slideshow={"slide_type": "skip"}
# *The solution, folded. In every notebook it waits under the exercise. Open it after your own attempt.*

# %% slideshow={"slide_type": "skip"} tags=["solution"]
# NBVAL_CHECK_OUTPUT
def log_snr(alpha_bar):
    return torch.log(alpha_bar / (1 - alpha_bar))

check("00-snr", log_snr)

# %% [markdown] slideshow={"slide_type": "skip"}
# ## How the rest works, in two lines each
#
# - **Live or saved.** Each notebook is saved with its outputs, so it can be read without running. Where it trains, it
#   first trains live for at most 90 seconds, shows the honest result, and then loads the weights that the same code
#   made in a longer run.
# - **With you or without.** In JupyterLab, VS Code and Colab, sliders move. In tests, on GitHub and in slides, the same
#   figure stands still at its first values.
# - **`# @save`.** A cell that begins so is part of the library. A test compares the two, so what you import in the next
#   notebook is what you read in this one.
# - **Light and dark.** Figures carry their own light page, and colours that colour-blind eyes can tell apart. Choose
#   the theme of JupyterLab under *Settings → Theme*.
# - **Slides.** `make slides` writes a deck per notebook, with speaker notes (press S). The decks open without a network;
#   making them the first time needs npm and a network.
# - **Colab.** The badge at the top opens the notebook there. The setup cell fetches the course and keeps Colab's torch.
# - **GPU.** An NVIDIA GPU or Apple's MPS is used by itself for `course train` and `course draw`. To choose, set
#   `COURSE_DEVICE` to `cuda`, `mps` or `cpu`. Noise is drawn on the CPU, so a seed means the same picture everywhere,
#   up to rounding.
# - **The command `course`.** `course doctor`, `course list`, `course draw --count 16 --seed 1 --out faces.png`, and
#   `course train noise-predictor --minutes 30`. Ctrl-C saves, `--resume` goes on. After `make lab` it lies in
#   `.venv/bin/`.
# - **Tests.** `make test` checks the library against the field's own, every exercise, and every notebook from top to
#   bottom, with the network blocked. Run it after you change something.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## When something is red
#
# A wrong input ends in one sentence that says what can be done. We try three, on purpose:

# %% slideshow={"slide_type": "skip"}
# NBVAL_CHECK_OUTPUT
for wrong in ({"steps": 0}, {"prompt": "  "}, {"system": "midjourney"}):
    try:
        draw_pictures(**wrong)
    except ValueError as error:
        print(error)

# %% [markdown] slideshow={"slide_type": "skip"}
# If a cell stops with an error:
#
# 1. **Read the last line.** It is the sentence that matters.
# 2. **`NameError: name … is not defined`**: a cell above has not run. *Kernel → Restart Kernel and Run All Cells* puts
#    things in order.
# 3. **Run the doctor again**, with the cell above or `course doctor`. Follow the arrows.
# 4. **A changed notebook?** `git diff` shows what is different; `git checkout -- notebooks` brings the original back,
#    and takes your changes away.
# 5. **Memory ran out, or the machine crawls?** Shut other notebooks down (*Kernel → Shut Down All Kernels*), and close
#    what you do not need.
# 6. **Still red?** Open an issue in the course's repository, with the doctor's table (read it over first: it
#    names your hardware), the name of the notebook and the last line.
#
# Wrong in the text, hard to follow, a better picture? An issue is welcome for that, too.

# %% [markdown] slideshow={"slide_type": "skip"}
# ## Notation of the whole course
#
# Names in the code are the letters of the formulas. Nothing here needs to be learned now: each notebook repeats what it
# uses, and this table is the place to look it up.
#
# | symbol | code | meaning | shape |
# |---|---|---|---|
# | $x_0,\ x_t$ | `x0`, `xt` | clean picture, picture at step $t$; values in $[-1,1]$ when clean | (B, C, H, W) |
# | $t,\ T$ | `t`, `num_steps` | step, counted as tables are: from 0 (a first trace of noise) to $T-1=999$ (noise); the clean picture stands before 0 | (B,) |
# | $\varepsilon,\ \varepsilon_\theta$ | `eps`, `eps_pred` | noise, predicted noise | like `x0` |
# | $v$ | `v` | $\sqrt{\bar\alpha}\,\varepsilon-\sqrt{1-\bar\alpha}\,x_0$, a mix of both | like `x0` |
# | $\beta_t,\ \alpha_t,\ \bar\alpha_t$ | `beta`, `alpha`, `alpha_bar` | variance of the noise added at step $t$; $1-\beta_t$; its running product, $\beta_t$ included | (T,) |
# | $z$ | `z` | latent of the VAE | (B, 4, H/4, W/4) |
# | $c$ | `context`, `context_mask` | vectors of the text's tokens; which of them are real | (B, L, D), (B, L) |
# | $s$ | `guidance` | guidance scale, 1 = off | one number |
# | $z_t,\ z_i$ | `text_embed`, `image_embed` | CLIP's vectors of text and picture, of length 1 | (B, D) |
#
# Shapes: B pictures in a batch, C channels, H × W pixels, L tokens, D numbers per vector. Guidance is
# `uncond + scale * (cond - uncond)`, everywhere. **Power** is variance. The subscript of $z_t$ in the last row stands for
# *text*, not for a step; the papers write it so.
#
# | colour | blue | vermilion | green | pink | orange | light blue |
# |---|---|---|---|---|---|---|
# | means | data | noise | model | text | latent | reference |

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What comes next
#
# We have seen a network undo noise. To learn that, it needs many examples of noise whose answer is known. Where do they
# come from? From destruction: we take good pictures, and ruin them in a controlled way. **Notebook 01** shows how, and
# measures what one large step back would cost against many small ones.

# %% slideshow={"slide_type": "skip"}
print(f"This notebook took {time.perf_counter() - begin:.0f} s on this machine, from the first drawing to here.")

# %% [markdown] slideshow={"slide_type": "skip"}
# ## References
#
# - Ho, Jain, Abbeel 2020, *Denoising Diffusion Probabilistic Models* (DDPM),
#   [2006.11239](https://arxiv.org/abs/2006.11239): notebooks 01 to 03
# - Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models* (LDM, Stable Diffusion),
#   [2112.10752](https://arxiv.org/abs/2112.10752): 05, 06
# - Ramesh et al. 2022, *Hierarchical Text-Conditional Image Generation with CLIP Latents* (DALL·E 2),
#   [2204.06125](https://arxiv.org/abs/2204.06125): 08
# - Saharia et al. 2022, *Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding* (Imagen),
#   [2205.11487](https://arxiv.org/abs/2205.11487): 09
# - Ruiz et al. 2023, *DreamBooth*, [2208.12242](https://arxiv.org/abs/2208.12242): 10
# - Hu et al. 2022, *LoRA: Low-Rank Adaptation of Large Language Models*,
#   [2106.09685](https://arxiv.org/abs/2106.09685): 11

# %% [markdown]
# [01 · Forward noising](01_forward_noising.ipynb) →

# %% [markdown] slideshow={"slide_type": "slide"}
# # 08 · DALL·E 2: from a text vector to a picture vector, why a prior at all?
#
# | | |
# |---|---|
# | **Time** | a 75-minute lecture; three hours with the exercises; the code runs in two to three minutes |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebook 07 (CLIP's two vectors), 03 (DDIM), 04 (causal attention, guidance) |
# | **Where we are** | text encoder → **[generator]** → decoder |
#
# DALL·E 2 draws in two halves. A **prior** turns a caption into a CLIP *picture* vector; a decoder paints what that vector
# says. This notebook is about the first half, and about one question: CLIP has a vector for the caption already, so why
# not paint from that?

# %% [markdown]
# ← [07 · CLIP](07_clip.ipynb) · [Contents](00_start_here.ipynb) · [10 · DreamBooth](10_dreambooth.ipynb) →

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
# The prior is DALL·E 2's generator: words in, something in between out.

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
# How do we see a vector? We look for the *nearest of 8,192 training pictures*. A picture here is found, not painted. Eight
# times we ask for the same name: once by CLIP's text vector, once by the prior.

# %% slideshow={"slide_type": "-"}
import torch
from course_utils.evaluation.report_prior import sample_prior
from course_utils.recipes import prior_base
from course_utils.systems.clip import embed_texts, open_clip
from course_utils.systems.dalle2 import DALLE2, open_prior

clip, composer = open_clip(), prior_base.composer()                                      # training emoji in seven flat styles
pictures = composer.compose(prior_base.CHUNK, seed=0).images                             # (N, 64, 64, 3): in colours, on backgrounds
shown = prior_base.encode_chunk("vectors", composer, seed=0)                             # made once, then kept in a file
image_embed = shown["image_embed"].float()                                               # (N, D)
systems = {name: DALLE2(clip, open_prior(name), None, None) for name in ("ar", "diffusion")}    # no decoder
print(f"{len(image_embed):,} pictures, each a vector of {image_embed.shape[1]} numbers")


# %% alt="Six rows of eight emoji: one sunflower, one crab and one rocket repeated for the text vectors; under each, different sunflowers, crabs and rockets by the prior." slideshow={"slide_type": "-"}
def nearest(vectors):                                                                    # (n, D) -> n pictures
    return pictures[(vectors @ image_embed.T).argmax(dim=1).numpy()]

def prior(prompt, count=8, seed=0):                                                      # one draw of the diffusion prior for each
    return sample_prior(systems["diffusion"], [prompt] * count, seed)[:, 0]

rows, different = {}, {}
for prompt in ("sunflower", "crab", "火箭"):                                             # the last: rocket
    drawn = prior(prompt)                                                                # (8, D)
    rows |= {f"{prompt}: text vector": nearest(embed_texts(clip, [prompt] * 8)), f"{prompt}: prior": nearest(drawn)}
    different[prompt] = len((drawn @ image_embed.T).argmax(dim=1).unique())
plotting.show_rows(rows, title="Eight vectors for one name, and the picture nearest to each", scale=0.62)
print("different pictures of eight by the prior:", different)
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# A text vector answers eight times alike. The prior's draws lead to other drawings, colours and places: 7, 5 and 6 different pictures
# of eight (火箭: rocket). **Limit**: these are names on which it does well. Over 48 names 64 % [56, 71] of its draws lie nearest to the right thing, of real pictures 67 % [59, 75] (the table below): with eight pictures a thing, the nearest may share colour and place only.
#
# ## What we build
#
# 1. A toy in which the best single answer lies where no data is.
# 2. Four ways without a prior, and numbers that tell them apart.
# 3. The autoregressive prior and the diffusion prior: both built, measured, one trained here.
# 4. The layers by which the vector enters the decoder.

# %% [markdown]
# ## Setup

# %%
import math
import time

import numpy as np
import torch.nn.functional as F
from torch import nn
from course_utils.checks.core import check, hint
from course_utils.data import to_tensor
from course_utils.errors import InputError
from course_utils.evaluation.intervals import Mean
from course_utils.evaluation.report import from_card, table
from course_utils.generator.guidance import apply_guidance, pad_and_cat
from course_utils.generator.objectives import diffusion_loss
from course_utils.generator.samplers import State, ddim, sample
from course_utils.generator.schedules import add_noise
from course_utils.layers import Attention, Encoder, FeedForward, Layer, TimestepEmbedding, sinusoidal_embedding
from course_utils.recipes.latent_base import attribute_numbers
from course_utils.systems.clip import EMBED_DIM, embed_images
from course_utils.systems.dalle2 import BUCKETS, SCHEDULE, Text, cut_padding, encode_text
from course_utils.systems.stage import start_noise
from course_utils.text_encoder.tokenizer import MAX_TOKENS, PAD_ID

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: the best answer that nobody gave
#
# Pictures are dots, and there are three captions. "One place" says all there is to say. "Two places" and "a ring" leave
# something open.

# %% slideshow={"slide_type": "-"}
KINDS = ("one place", "two places", "a ring")

def dots(kind, n, generator):                                                            # -> (n, 2)
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    xy = torch.stack([angle.cos(), angle.sin()], dim=1)
    xy = {"one place": 0 * xy + 0.6, "two places": xy.sign() * torch.tensor([1.0, 0]), "a ring": xy}[kind]
    return xy + 0.06 * torch.randn(n, 2, generator=generator)

generator = torch.Generator().manual_seed(0)
known, fresh = ({kind: dots(kind, 1000, generator) for kind in KINDS} for _ in range(2))
middle = {kind: xy.mean(dim=0) for kind, xy in known.items()}                            # what least squares answers


# %% [markdown]
# **Regression** must give one answer $a$ to a caption. Least squares decides which: $\frac{d}{da}\,\mathbb E\lVert x-a\rVert^2=-2\,\mathbb E(x-a)=0$, so $a=\mathbb E\,x$, the **mean**.
# The rival is a small diffusion model (notebook 02) that also gets the caption, and predicts $x_0$.

# %%
class DotPrior(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 + 32 + 3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                    nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, xt, t, text):                                                      # (B, 2), (B,), (B, 3) -> x0
        return self.layers(torch.cat([xt, sinusoidal_embedding(t, 32), text], dim=1))

torch.manual_seed(0)
net, everything = DotPrior(), torch.cat(list(known.values()))
optimizer, captions = torch.optim.AdamW(net.parameters(), lr=3e-3), torch.eye(3).repeat_interleave(1000, dim=0)
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 1500)
for _ in range(1500):
    i = torch.randint(3000, (256,), generator=generator)
    loss = diffusion_loss(net, everything[i], SCHEDULE, "x0", generator, text=captions[i])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    decay.step()

# %% [markdown]
# **Predict.** We measure the squared distance of an answer to a true dot of its caption. Who is nearer, regression or a
# *perfect* draw?
#
# <details><summary>Answer</summary>
# Regression. The formula below says by how much.
# </details>

# %% alt="Three clouds of blue dots, one place, two places and a ring, with green draws on them; the cross of regression lies on the first, between the two places, and in the middle of the ring." slideshow={"slide_type": "subslide"}
drawn = {}
for k, kind in enumerate(KINDS):
    text, noise = torch.eye(3)[k].expand(1000, 3), start_noise(k, 1000, (2,))
    drawn[kind] = sample(ddim, lambda xt, t, text=text: net(xt, t, text), noise, SCHEDULE, steps=50, prediction="x0", clip=False, spacing="trailing")
    answers = {"regression": middle[kind].expand(1000, 2), "diffusion": drawn[kind], "other real dots": known[kind]}
    for name, xy in answers.items():
        error, gap = (xy - fresh[kind]).square().sum(dim=1), torch.cdist(xy, fresh[kind]).amin(dim=1)
        print(f"{kind:10s} {name:15s} squared distance to a true dot {Mean.of(error).text(2)}, to the nearest dot {Mean.of(gap).text(2)}")
fig = plotting.plot_points([{plotting.DATA: fresh[k][:400], plotting.MODEL: drawn[k][:150]} for k in KINDS], KINDS, "Real dots (blue), draws (green), regression (x)")
for ax, kind in zip(fig.axes, KINDS):
    ax.plot(*middle[kind], "X", color=plotting.INK, markersize=11)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** On the ring regression pays 1.01 [1.00, 1.02] and a draw 1.99 [1.90, 2.08], twice as much, as another real dot does. Yet the nearest dot is 0.80 away from
# regression's answer, and 0.03 from a draw. It is no accident. Let $x,x'$ be independent pictures of one caption, and $m$ their mean:
#
# $$\mathbb E\lVert x-x'\rVert^2=\mathbb E\lVert (x-m)-(x'-m)\rVert^2=2\;\mathbb E\lVert x-m\rVert^2$$
#
# since the mixed term $\mathbb E(x-m)\cdot\mathbb E(x'-m)$ is 0. *On average a perfect draw is twice as wrong as regression.* If the
# distance to the true picture were our judge, nobody would build a prior. A caption that leaves nothing open, "one place", needs no draw. **Limit**: in the plane we see where the dots are; among 192
# numbers we must measure it.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 1 · One caption, many pictures
#
# **Intuition.** "Butterfly" is true of blue and orange ones, in seven styles, on twelve backgrounds. Their vectors differ. The
# text vector is one point, and it lies in *another place*: the gap of notebook 07.
#
# We use two sets of captions. **Full** ones name everything: each has one held-out picture. **Names** leave all else open: 32
# names, eight vectors to be made for each, and sixteen real pictures of each to compare with.

# %% slideshow={"slide_type": "-"}
from course_utils.evaluation import report_prior
from course_utils.evaluation.report_prior import full_set, measure, name_set, plain_feeds, training_pairs

texts_known, images_known = training_pairs(clip)                                         # (8192, D) twice: captions, and their pictures
full, bare = full_set(clip, 200), name_set(clip, 32, 8)
print("full: ", full.texts[0], "|", full.texts[1])
print("names:", " | ".join(bare.texts[::32]), "| ...")
gap = images_known.mean(dim=0) - texts_known.mean(dim=0)
print(f"centres of pictures and captions: {gap.norm():.2f} apart")

# %% [markdown]
# The formula above, for vectors of length 1: if $m=\mathbb E\,z^i$ is the mean of a caption's picture vectors, then
#
# $$\mathbb E\big[z^i\!\cdot z^{i\prime}\big]=\lVert m\rVert^2,\qquad \max_{\lVert a\rVert=1}\mathbb E\big[a\cdot z^i\big]=a^\star\!\cdot m=\lVert m\rVert\ \text{ with }a^\star=\frac{m}{\lVert m\rVert}$$
#
# Two pictures of a caption have the cosine $\lVert m\rVert^2$; the best single answer reaches its *root*.

# %%
alike = Mean.of([(a @ b.T).mean() for a, b in zip(bare.real.split(8), bare.other.split(8))])          # a value a name
strangers = (bare.real @ bare.other.T)[torch.arange(256)[:, None] // 8 != torch.arange(256) // 8].mean()
print(f"cosine of two real pictures: of one name {alike.text(2)}, of two names {strangers:.2f}")
print(f"so one answer a name can reach {math.sqrt(alike):.2f}, and a good draw should have {alike:.2f}, no more")


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Two pictures of one name have cosine 0.79 [0.77, 0.80], of two names 0.12. So this is what a good prior's draw must have with a true
# picture: it should **match** 0.79, not exceed it. 0.89, the root, is what a regression may reach. **Limit**: these pictures
# are composed by us; on the web a name leaves more open.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 2 · Four ways without a prior
#
# | way | a picture vector for $z^t$ |
# |---|---|
# | text vector | $z^t$ itself: "CLIP has aligned them already" |
# | text, shifted | $z^t+\bar z^i-\bar z^t$: close the gap |
# | linear | $Wz^t+b$, by least squares on 8,192 pairs |
# | MLP | two layers, the same loss: "a small network would do" |
#
# All four are brought back to length 1. The third in full:

# %% slideshow={"slide_type": "-"}
# @save course_utils/evaluation/report_prior.py
def fit_linear(text_embed, image_embed):
    one = torch.ones(len(text_embed), 1)
    solution = torch.linalg.lstsq(torch.cat([text_embed, one], dim=1), image_embed).solution  # (D + 1, D)
    linear = nn.Linear(text_embed.shape[1], image_embed.shape[1]).requires_grad_(False)
    linear.weight.copy_(solution[:-1].T)
    linear.bias.copy_(solution[-1])
    return linear


# %%
# NBVAL_CHECK_OUTPUT
linear = fit_linear(texts_known, images_known)
errors = images_known - linear(texts_known)
print("least squares: errors have mean 0, to 0.005:", bool(errors.mean(dim=0).abs().max() < 0.005))
print("and nothing linear is left in them:", bool((errors.T @ texts_known / len(errors)).abs().max() < 1e-4))

# %% [markdown]
# **cos to true**: cosine with the true picture, or with all real ones of the name. **R@1**: is the true picture the nearest of all 200? **Fréchet**: distance of the made cloud from the cloud of real vectors (notebook 03), × 1000. **diversity**: mean
# distance of two vectors of one caption, as a share of what two real pictures have. **nearest**: does the nearest training picture show the right thing?
#
# **Predict.** With full captions, which way has the largest cosine to the true picture: the text vector, a shift, regression, or the
# trained priors that we have not met yet?
#
# <details><summary>Answer</summary>
# Regression. A prior's draw may at best be as near as another picture of the same caption.
# </details>

# %% slideshow={"slide_type": "subslide"}
gallery = report_prior.gallery()                                                         # the 8,192 vectors, and what each shows
full_text, bare_text = (embed_texts(clip, captions.texts) for captions in (full, bare))

def row(vectors, captions=bare):
    return measure(vectors, captions, full_text if captions is full else bare_text, gallery)

def show(rows, *keys):
    print(table({way: {key: values[key] for key in keys if key in values} for way, values in rows.items()}))

feeds = plain_feeds(clip, texts_known, images_known)                                     # way -> (texts, seed) -> (N, D)
by_full = {way: row(feed(full.texts, 0), full) for way, feed in feeds.items()}
by_full["autoregressive"] = row(sample_prior(systems["ar"], full.texts), full)
by_full["diffusion"] = row(sample_prior(systems["diffusion"], full.texts)[:, 0], full)
show(by_full, "cos_true", "R@1", "frechet", "nearest")

# %%
best_plain = max((by_full[way] for way in ("linear", "MLP")), key=lambda values: values["cos_true"])
for way in ("autoregressive", "diffusion"):
    cosine, hits = by_full[way]["cos_true"], by_full[way]["R@1"]
    print(f"{way}: regression is nearer to the true vector:", "yes." if best_plain["cos_true"].low > cosine.high else "not beyond the intervals.", end=" ")
    print("It finds the true picture more often:", "yes." if best_plain["R@1"].low > hits.high else "not beyond the intervals.")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Here is a truth that the usual story leaves out: with full captions **regression beats both priors** by cosine, 0.860 [0.848, 0.871] against 0.784 [0.764, 0.802] and 0.830 [0.815, 0.844]. It finds the true picture more often than the autoregressive prior (88 % against 74 %); against the diffusion prior (82 %) these 200 do not decide. For full descriptions a matrix will do. Now names alone:

# %% slideshow={"slide_type": "subslide"}
by_name = {way: row(feed(bare.texts, 0)) for way, feed in feeds.items()} | {"other real pictures": row(bare.other)}
show(by_name, "cos_true", "diversity", "frechet", "nearest")
lengths = linear(bare_text[::8]).norm(dim=1)
print(f"length of the linear map's answers, before they are brought to 1: {Mean.of(lengths).text(2)}")


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The MLP has cosine 0.86, of the 0.89 that one answer can reach (Idea 1): nothing is wrong with it. But each of the four has **diversity 0**, for the same name gives the same vector, and a Fréchet distance of 136 to 340, where other real pictures have 17. Its nearest picture is even *too* right, 100 %: of real pictures 70 % have such a neighbour.
# A decoder fed in this way would paint one butterfly for ever, from a vector between all styles and colours: before normalising, the linear map's have length 0.89 [0.88, 0.90], the root of Idea 1, as a mean has; a picture's is 1.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 3 · A prior that writes: PCA, buckets, a causal Transformer
#
# **Intuition.** A language model is good at "what comes next, and how likely". So write the picture vector as a row of symbols, and let a
# Transformer continue the caption with it. The article that this course follows calls such a generator **autoregressive**: it makes the compressed picture, here the vector, piece by piece, each from those before it.
#
# **Fewer numbers first.** Principal components: the directions along which the vectors vary most, ordered by their variance, the
# eigenvalues of the covariance.

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/prior_ar.py
def pca(x, share=0.99):
    if not 0 < share <= 1:
        raise InputError(f"the share of the variance must be above 0 and at most 1, not {share!r}")
    mean = x.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((x.double() - mean).T))  # the smallest first
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1).T  # (D,), (D, D): a row is a direction
    held = values.cumsum(0) / values.sum()
    count = min(int((held < share - 1e-12).sum()) + 1, len(values))
    signs = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)).sign()
    return mean.to(x), (signs * vectors)[:count].to(x)


# %% alt="Share of variance held against the number of directions: a rise that flattens and meets the dashed line of 99 % at 21."
mean, directions = pca(images_known, 1.0)                                                # all D of them
held = ((images_known - mean) @ directions.T).var(dim=0).cumsum(0) / images_known.var(dim=0).sum()
num_dims = len(pca(images_known)[1])
plotting.plot_lines(range(1, 41), {"share of the variance held": held[:40], "99 %": (torch.full((40,), 0.99), plotting.REFERENCE, "--")}, "directions", "share", "How many numbers does a picture vector need?", direct_labels=False)
print(f"99 % of the variance lie in {num_dims} of {EMBED_DIM} directions, half of it in {int((held < 0.5).sum()) + 1} (the paper's: 319 of 1,024)")
plt.show()


# %% [markdown]
# **Then buckets.** Along each direction the line is cut so that all buckets are equally full; a bucket stands for the mean of what lies in it. Its number is the **code**. (The paper: 1,024 buckets; ours: 128.)

# %%
# @save course_utils/generator/prior_ar.py
def make_buckets(x, buckets):
    if not 2 <= buckets <= len(x):
        raise InputError(f"{len(x)} numbers can be sorted into 2 to {len(x)} buckets, not {buckets}")
    ordered = x.float().sort(dim=0).values
    parts = ordered.tensor_split(buckets)  # each (about N / buckets, K)
    edges = torch.stack([(low[-1] + high[0]) / 2 for low, high in zip(parts, parts[1:], strict=False)], dim=1)
    return edges, torch.stack([part.mean(dim=0) for part in parts], dim=1)


# %% [markdown]
# One more code comes *first*: that of $z^i\!\cdot z^t$, how well the picture fits the caption. A vector is now $1+K$ whole numbers.

# %% slideshow={"slide_type": "subslide"}
from course_utils.generator.prior_ar import constant


# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/prior_ar.py
class VectorCodes(nn.Module):
    def __init__(self, num_dims, buckets, embed_dim):
        super().__init__()
        self.num_codes, self.buckets = 1 + num_dims, buckets
        self.mean, self.components = constant(embed_dim), constant(num_dims, embed_dim)
        self.edges, self.centers = constant(self.num_codes, buckets - 1), constant(self.num_codes, buckets)

    @torch.no_grad()
    def fit(self, image_embed, text_embed):
        mean, components = pca(image_embed)
        if components.shape != self.components.shape:
            raise InputError(f"99 % of the variance need {len(components)} directions, not {len(self.components)}")
        self.mean.copy_(mean)
        self.components.copy_(components)
        edges, centers = make_buckets(self.numbers(image_embed, text_embed), self.buckets)
        self.edges.copy_(edges)
        self.centers.copy_(centers)
        return self

    def numbers(self, image_embed, text_embed):
        with torch.autocast(image_embed.device.type, enabled=False):  # half precision would miss buckets
            dot = (image_embed * text_embed).sum(dim=-1, keepdim=True)
            return torch.cat([dot, (image_embed - self.mean) @ self.components.T], dim=-1)

    def encode(self, image_embed, text_embed):
        return torch.searchsorted(self.edges, self.numbers(image_embed, text_embed).T.contiguous()).T

    def decode(self, codes):
        each = torch.arange(codes.shape[1], device=codes.device)
        numbers = self.centers[each, codes][:, 1:]  # (B, k - 1): the first code is of no direction
        return F.normalize(self.mean + numbers @ self.components[: numbers.shape[1]], dim=-1)


# %% [markdown]
# **What is lost?** We write the vectors of the 200 held-out pictures as codes and read them back, with fewer and fewer buckets, and by PCA alone.

# %%
kept = directions[:num_dims]
written = {"PCA alone": F.normalize(mean + (full.real - mean) @ kept.T @ kept, dim=1)}
for buckets in (BUCKETS, 32, 8, 2):
    codes = VectorCodes(num_dims, buckets, EMBED_DIM).fit(images_known, texts_known)
    written[f"{buckets} buckets"] = codes.decode(codes.encode(full.real, full_text))
show({way: row(vectors, full) for way, vectors in ({"true vector": full.real} | written).items()}, "cos_true", "R@1", "nearest")

# %%
# NBVAL_CHECK_OUTPUT
few = torch.tensor([[0.0], [1], [2], [3], [10], [11]])
edges, centers = make_buckets(few, 3)
print("edges", edges.tolist(), "centres", centers.tolist())                              # two numbers in each bucket
print("directions stand at right angles:", torch.allclose(kept @ kept.T, torch.eye(num_dims), atol=1e-4))
print("the first holds more than the last:", bool(((images_known - mean) @ kept.T).var(dim=0).diff().max() < 1e-5))


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** PCA keeps cosine 0.996, and 128 buckets lose nothing more that we could measure; all 200 pictures are found again. With 8 buckets it is 0.980, with 2 still 0.836. So codes cost little here, and we know how much *before* any Transformer errs.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **The Transformer** is GPT's: token $i$ sees tokens up to $i$ and is asked for the next.
#
# | the row of tokens | number | |
# |---|---|---|
# | caption, with its padding | 32 | projected |
# | $z^t$ | 1 | projected; *its* answer foretells the first code |
# | code of $z^i\!\cdot z^t$ | 1 | an embedding; its answer foretells the first direction |
# | codes of the directions | $K$ | every code has values of its own |
#
# $$p(z^i\mid y)=\prod_{k=0}^{K}p\big(c_k\mid y,\,z^t,\,c_0,\dots,c_{k-1}\big),\qquad L=-\frac1{K+1}\sum_k\log p(c_k\mid\dots)$$

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/prior_ar.py
class ARPrior(VectorCodes):
    def __init__(self, num_dims, buckets, embed_dim, max_tokens, dim, num_layers, num_heads):
        super().__init__(num_dims, buckets, embed_dim)
        self.context_proj, self.text_proj = nn.Linear(embed_dim, dim), nn.Linear(embed_dim, dim)
        self.code_embedding = nn.Embedding(self.num_codes * buckets, dim)  # every code has values of its own
        self.position_embedding = nn.Embedding(max_tokens + self.num_codes, dim)
        self.encoder = Encoder(dim, num_layers, num_heads, causal=True)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, self.num_codes * buckets)
        nn.init.normal_(self.code_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.02)

    def prefix(self, context, text_embed):
        return torch.cat([self.context_proj(context), self.text_proj(text_embed)[:, None]], dim=1)

    def embed_codes(self, codes, first=0):
        each = torch.arange(first, first + codes.shape[1], device=codes.device)
        return self.code_embedding(each * self.buckets + codes)

    def place(self, first, count):
        return self.position_embedding.weight[first : first + count]

    def logits(self, h, first=0):
        which = slice(first, first + h.shape[1])
        weight, bias = (p.unflatten(0, (self.num_codes, -1))[which] for p in (self.head.weight, self.head.bias))
        return torch.einsum("bkd,kvd->bkv", self.final_layer_norm(h), weight) + bias

    def forward(self, codes, context, text_embed):
        x = torch.cat([self.prefix(context, text_embed), self.embed_codes(codes)], dim=1)  # (B, L + 1 + k, dim)
        h = self.encoder(x + self.place(0, x.shape[1]))
        return self.logits(h[:, context.shape[1] :])


# %% [markdown]
# **Check.** No answer changes when a later code does. And how much does the trained prior know of each code? We take its surprise, against that of a blind guess, $\ln 128$: on training pictures, on their drawings composed anew, on drawings never seen, and as a control with captions exchanged.

# %%
# NBVAL_CHECK_OUTPUT
ar, text = systems["ar"].prior, systems["ar"].encode_prompt(full.texts)                  # Text: context, mask, text_embed
codes = ar.encode(full.real, full_text)                                                  # (200, 1 + K)
changed = codes.clone()
changed[:, 4] = (changed[:, 4] + 1) % BUCKETS
with torch.no_grad():
    logits, after = (ar(c[:, :-1], text.context, text.text_embed) for c in (codes, changed))
differs = (logits - after).abs().amax(dim=(0, 2)) > 1e-4
print("a change of code 4 reaches the answers", differs.nonzero().flatten().tolist()[:3], "and all that follow:", bool(differs[5:].all()))

# %% alt="Surprise over the 22 codes: training pictures and their drawings composed anew run together far below the dashed line of a blind guess, held-out drawings between them and the line, exchanged captions above it but for the last codes."
def all_said(shown):                                                                     # captions that name all that 200 pictures show
    rng = np.random.default_rng(0)
    return systems["ar"].encode_prompt([prior_base.write_caption(shown, i, composer, rng, p_omit=0.0, p_drop=0.0) for i in range(200)])

again = composer.compose(200, seed=99)                                                   # training drawings; these pictures it never saw
sources = {"training pictures": (image_embed[:200], all_said(shown)),
           "their drawings, composed anew": (embed_images(clip, to_tensor(again.images)), all_said(attribute_numbers(again.attributes))),
           "held-out drawings": (full.real, text)}
with torch.no_grad():
    coded = {word: (ar.encode(vectors, said.text_embed), said) for word, (vectors, said) in sources.items()}
    trials = {word: (ar(true[:, :-1], said.context, said.text_embed), true) for word, (true, said) in coded.items()}
    trials["held-out, another's caption"] = (ar(codes[:, :-1], text.context.roll(1, 0), text.text_embed.roll(1, 0)), codes)
surprise = {word: F.cross_entropy(guess.transpose(1, 2), true, reduction="none") for word, (guess, true) in trials.items()}
for word, nats in surprise.items():
    print(f"{word:29s} surprise a code: {Mean.of(nats.mean(dim=1)).text(2)} nats; ln {BUCKETS} = {math.log(BUCKETS):.2f}")
lines = {word: nats.mean(dim=0) for word, nats in surprise.items()} | {"blind": (torch.full((ar.num_codes,), math.log(BUCKETS)), plotting.REFERENCE, "--")}
ax = plotting.plot_lines(range(ar.num_codes), lines, "code (0: cosine to the text; then directions by variance)", "surprise in nats", "What does the caption tell of each code?", direct_labels=False).axes[0]
ax.set_ylim(0, 12)
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** On training pictures 3.14 [2.97, 3.29] nats a code, blind 4.85. On the same drawings composed anew, never seen so, 2.98 [2.80, 3.14]: no picture was learnt by heart. It saw each of its 262,144 just 1.4 times. (An earlier run saw a quarter of them nine times: 2.40, and 5.19 on held-out drawings, *worse than blind*; its training loss, 2.45 against 3.21, looked better.) New to it is a new *drawing*: 4.42 [4.35, 4.50], still better than blind; another's caption costs 5.96. **Limit**: CLIP too knows held-out drawings less well (notebook 07).

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Drawing.** Code by code, from the softmax. One exception (Ramesh et al. 2022, section 2.2): the first code is drawn from the **upper half** of its distribution. We demand a picture that fits well, *then* write one.

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/prior_ar.py
def pick(logits, noise, upper_half=False):
    place = torch.special.ndtr(noise.double())
    place = (1 + place) / 2 if upper_half else place
    running = logits.double().softmax(dim=-1).cumsum(dim=-1)
    return (running < place[:, None]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)


def attend_cached(layer: Layer, x, past):
    attention, h = layer.self_attn, layer.layer_norm1(x)
    q, k, v = (attention.split(proj(h)) for proj in (attention.q_proj, attention.k_proj, attention.v_proj))
    if past is not None:
        k, v = (torch.cat(pair, dim=2) for pair in zip(past, (k, v), strict=True))  # (B, heads, N + M, head_dim)
    h = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
    x = x + attention.out_proj(h.transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.layer_norm2(x)), (k, v)


# %% [markdown]
# `pick` turns a Gaussian number into a place between 0 and 1 and looks it up in the running sum of probabilities, so a seed fixes the vector. `attend_cached` uses that the mask is causal: what earlier tokens gave never changes, so their keys and values are kept.

# %%
# @save course_utils/generator/prior_ar.py
@torch.no_grad()
def sample_codes(prior: ARPrior, noise, context, text_embed, scale=1.0, away=None):
    if scale != 1 and away is not None:
        context, text_embed = (torch.cat(pair) for pair in zip(away, (context, text_embed), strict=True))
    new, past, seen = prior.prefix(context, text_embed), [None] * len(prior.encoder.layers), 0
    codes = torch.empty(len(noise), 0, dtype=torch.long, device=noise.device)
    for number in range(prior.num_codes):
        x, seen = new + prior.place(seen, new.shape[1]), seen + new.shape[1]
        for i, layer in enumerate(prior.encoder.layers):
            x, past[i] = attend_cached(layer, x, past[i])
        logits = prior.logits(x[:, -1:], number)[:, 0]  # (B, buckets)
        logits = apply_guidance(*logits.chunk(2), scale) if len(logits) > len(noise) else logits
        code = pick(logits, noise[:, number], upper_half=number == 0)[:, None]
        codes = torch.cat([codes, code], dim=1)
        made = prior.decode(codes)
        yield State(number + 1, prior.num_codes - 1 - number, made, made)
        new = prior.embed_codes(code.repeat(len(context) // len(noise), 1), number)


# %% [markdown]
# **Check** on a distribution by hand; then the first code as a knob: we set it to the middle of its distribution, three quarters up, or the top. Does the vector keep the promise?

# %%
# NBVAL_CHECK_OUTPUT
noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(len(noise), -1)
for half in (False, True):
    share = pick(logits, noise, upper_half=half).bincount(minlength=4) / len(noise)
    print("upper half:" if half else "all:       ", [round(float(s), 1) for s in share])

# %%
text, noise = systems["ar"].encode_prompt(bare.texts), start_noise(0, len(bare.texts), (ar.num_codes,))
by_ar, kept_dot = {}, {}
with torch.no_grad():
    first_logits = ar(codes[:1, :0].expand(len(noise), 0), text.context, text.text_embed)[:, 0]         # before any code is known
for word, first in (("the middle", -9.0), ("three quarters up", 0.0), ("the top", 9.0), ("drawn from the upper half", None)):
    asked = noise.clone()
    asked[:, 0] = asked[:, 0] if first is None else first
    *_, state = sample_codes(ar, asked, text.context, text.text_embed)
    by_ar[f"first code: {word}"] = row(state.xt)
    kept_dot[word] = (state.xt * bare_text).sum(dim=1).unflatten(0, (32, 8)).mean(dim=1)                # a value a name
    promised = ar.centers[0, pick(first_logits, asked[:, 0], upper_half=True)].mean()
    print(f"{word:26s} promised cosine {promised:.2f}, the vector's {Mean.of(kept_dot[word]).text(2)}")
ar_made = state.xt
show(by_ar, "cos_true", "diversity", "nearest")
print(f"from the middle to the top, name by name: {Mean.of(kept_dot['the top'] - kept_dot['the middle']).text(3)}")


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The first code is a weak knob here. From the middle of its distribution to the top it promises a cosine of 0.76 to 0.87; what comes is 0.76 to 0.77, a gain of 0.012 [0.006, 0.017] name by name. At the top the network does not keep its promise. Diversity goes from 1.07 to 1.02, within the intervals. **Limit**: what it gains at the paper's size, we cannot say.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 4 · A prior that denoises
#
# **Intuition.** The other kind that the article names is **diffusion**: begin with noise in the place of the whole vector, and clean it step by step. No buckets, no order of directions.
#
# **Notation.** $x_0=\sqrt D\,z^i$: a vector of length 1 has numbers with mean square $1/D$; times $\sqrt D$ it is 1, as the noise has. The network $f$ answers with the clean vector:
#
# $$x_t=\sqrt{\bar\alpha_t}\,x_0+\sqrt{1-\bar\alpha_t}\,\varepsilon,\qquad L=\mathbb E\,\lVert f(x_t,t,y,z^t)-x_0\rVert^2$$
#
# (Ramesh et al. 2022, eq. 2.) **Why $x_0$?** The authors say that it was better. What we can see: with nothing but noise to look at, the best answer to this loss is $\mathbb E[x_0\mid y]$, regression's. So the first step starts where regression ends.
#
# **Why a Transformer, and causal?** The caption is a row of tokens of any length, and the vectors join it as more tokens: caption, $z^t$, step, $x_t$, and last a learned **query**, which sees all and whose answer is $f$. The mask is the one of the autoregressive model. One use: nothing before the step token depends on the step.

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/prior_diffusion.py
class CausalAttention(Attention):
    def forward(self, x, mask):
        q, k, v = self.split(self.to_q(x)), self.split(self.to_k(x)), self.split(self.to_v(x))
        before = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :] & before)  # (B, 1, N, N)
        return self.to_out[0](h.transpose(1, 2).flatten(2))  # (B, N, D)


class GELU(nn.Module):
    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(dim, inner)

    def forward(self, x):
        return F.gelu(self.proj(x))


class CausalBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim)  # diffusers' norm2 is for cross-attention
        self.attn1 = CausalAttention(dim, num_heads, dim // num_heads, bias=True)
        self.ff = FeedForward(dim)
        self.ff.net[0] = GELU(dim, 4 * dim)

    def forward(self, x, mask):
        x = x + self.attn1(self.norm1(x), mask)
        return x + self.ff(self.norm3(x))


# %% [markdown] slideshow={"slide_type": "subslide"}
# ## The key piece: the prior
#
# `scale` and `unscale` carry the $\sqrt D$; diffusers keeps it in the same two tensors.

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/prior_diffusion.py
EXTRA = 4  # tokens after the text's: text vector, step, noised image vector, query


class PriorTransformer(nn.Module):
    def __init__(self, embed_dim: int, max_tokens: int, dim: int, num_layers: int, num_heads: int):
        super().__init__()
        self.time_embedding = TimestepEmbedding(dim, dim)
        self.proj_in = nn.Linear(embed_dim, dim)
        self.embedding_proj = nn.Linear(embed_dim, dim)
        self.encoder_hidden_states_proj = nn.Linear(embed_dim, dim)
        self.positional_embedding = nn.Parameter(0.02 * torch.randn(1, max_tokens + EXTRA, dim))
        self.prd_embedding = nn.Parameter(0.02 * torch.randn(1, 1, dim))  # the query
        self.transformer_blocks = nn.ModuleList([CausalBlock(dim, num_heads) for _ in range(num_layers)])
        self.norm_out = nn.LayerNorm(dim)
        self.proj_to_clip_embeddings = nn.Linear(dim, embed_dim)
        self.clip_mean = nn.Parameter(torch.zeros(1, embed_dim), requires_grad=False)
        self.clip_std = nn.Parameter(torch.full((1, embed_dim), embed_dim**-0.5), requires_grad=False)

    def scale(self, image_embed):
        return (image_embed - self.clip_mean) / self.clip_std

    def unscale(self, x0):
        return F.normalize(x0 * self.clip_std + self.clip_mean, dim=-1)

    def forward(self, xt, t, context, context_mask, text_embed):
        step = self.time_embedding(sinusoidal_embedding(t, self.prd_embedding.shape[-1]).to(self.prd_embedding.dtype))
        last = torch.stack([self.embedding_proj(text_embed), step, self.proj_in(xt)], dim=1)  # (B, 3, dim)
        query = self.prd_embedding.expand(len(xt), -1, -1)
        tokens = torch.cat([self.encoder_hidden_states_proj(context), last.to(query), query], dim=1)  # (B, L + 4, dim)
        place = self.positional_embedding
        x = tokens + torch.cat([place[:, : context.shape[1]], place[:, -EXTRA:]], dim=1)
        mask = F.pad(context_mask, (0, EXTRA), value=True)  # (B, L + 4)
        for block in self.transformer_blocks:
            x = block(x, mask)
        return self.proj_to_clip_embeddings(self.norm_out(x[:, -1]))


# %% [markdown]
# **Check** against `diffusers`, whose `PriorTransformer` draws for Kandinsky and Karlo: same random weights, same answer. One trap: without `attention_mask` the peer is not causal at all.

# %%
# NBVAL_CHECK_OUTPUT
from diffusers import PriorTransformer as Peer

torch.manual_seed(0)
ours = PriorTransformer(EMBED_DIM, MAX_TOKENS, dim=64, num_layers=2, num_heads=4).eval()
peer = Peer(num_attention_heads=4, attention_head_dim=16, num_layers=2, embedding_dim=EMBED_DIM, num_embeddings=MAX_TOKENS).eval()
print(peer.load_state_dict(ours.state_dict()))                                           # strict: every name must fit
text, xt, t = systems["ar"].encode_prompt(["cat", "a red car in the snow"]), torch.randn(2, EMBED_DIM), torch.tensor([10, 900])
with torch.no_grad():
    mine, theirs = ours(xt, t, *text), peer(xt, t, text.text_embed, text.context, attention_mask=text.mask).predicted_image_embedding
    blind = peer(xt, t, text.text_embed, text.context).predicted_image_embedding
print("equal to 1e-5:", bool((mine - theirs).abs().max() < 1e-5), "- without a mask:", bool((mine - blind).abs().max() < 1e-5))

# %%
# NBVAL_CHECK_OUTPUT
seen = []
handle = ours.transformer_blocks[-1].register_forward_hook(lambda module, args, out: seen.append(out))
with torch.no_grad():
    ours(xt, t, *text), ours(xt + 1, t + 50, *text)                                      # another step, another noised vector
handle.remove()
same = (seen[0] - seen[1]).abs().amax(dim=(0, 2)) < 1e-5
print(f"{len(same)} tokens; the same at both steps: the first {int(same.sum())}, which are caption and text vector")


# %% [markdown] slideshow={"slide_type": "subslide"}
# **Drawing** is DDIM as in notebook 03. Two additions: guidance, if wanted, with an answer for the empty caption (a tenth of the training captions were empty); and at the end, of $n=2$ draws, the one nearer to the text vector is kept.

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/prior_diffusion.py
def guided_prior(prior: nn.Module, text, scale=1.0, away=None):
    if scale == 1 or away is None:
        return lambda xt, t: prior(xt, t, *text)
    both = [pad_and_cat(*pair) for pair in zip(away, text, strict=True)]

    def answer(xt, t):
        return apply_guidance(*prior(torch.cat([xt, xt]), torch.cat([t, t]), *both).chunk(2), scale)

    return answer


def keep_better(draws, text_embed):
    best = (draws @ text_embed[:, :, None]).squeeze(-1).argmax(dim=1)  # (B, n) -> (B,)
    return draws[torch.arange(len(draws), device=draws.device), best]


# %%
diffusion, name_text = systems["diffusion"].prior, cut_padding(systems["diffusion"].encode_prompt(bare.texts))
nothing = Text(*(x.expand(len(bare.texts), *x.shape[1:]) for x in cut_padding(systems["diffusion"].encode_prompt([""]))))

def walk(net, steps=25, guidance=1.0, seed=0, clip=False):                               # the guess x0 at each step, as vectors (N, D)
    noise = start_noise(seed, len(bare.texts), (EMBED_DIM,))
    model = guided_prior(net, name_text, guidance, nothing)
    states = ddim(model, noise, SCHEDULE, steps, "x0", clip=clip, spacing="trailing")
    return [net.unscale(state.x0) for state in states]


# %% [markdown]
# **Predict.** The first guess is made from pure noise. Which row of the table of Idea 2 will it resemble? And the last?

# %% alt="Three curves over 25 steps: diversity climbs from nearly 0 to above 0.9, the cosine sinks from 0.88 to the dashed line of two real pictures, the share of right neighbours sinks from 0.94 to below 0.6." slideshow={"slide_type": "subslide"}
guesses, regression = walk(diffusion), feeds["MLP"](bare.texts, 0)
print(f"first guess: cosine to the MLP's answer {Mean.of((guesses[0] * regression).sum(dim=1)).text(2)}, control, to that for another name {Mean.of((guesses[0] * regression.roll(8, 0)).sum(dim=1)).text(2)}")
path = [row(vectors) for vectors in guesses]
lines = {"cosine to true": [r["cos_true"] for r in path], "diversity": [r["diversity"] for r in path], "nearest is right": [r["nearest"] for r in path]}
colors = (plotting.DATA, plotting.MODEL, plotting.TEXT)
series = {word: (values, color) for (word, values), color in zip(lines.items(), colors)}
ax = plotting.plot_lines(range(1, 26), series, "step of 25", "cosine, ratio, share", "From regression's answer to a draw").axes[0]
ax.axhline(alike, color=plotting.REFERENCE, linestyle="--")
ax.text(25, alike, "two real pictures ", color=plotting.REFERENCE, ha="right", va="bottom")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The first guess *is* regression: cosine 0.98 to the MLP's answer (0.10 to that for another name), diversity 0.04. Then the noise decides more and more: diversity rises to 0.91 [0.86, 0.97], the cosine to true pictures falls from 0.88 to 0.79, where two real pictures have 0.79. That fall is no failure; it is what a draw costs.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Three knobs**: the number of steps, guidance, and how many draws to choose from.

# %% slideshow={"slide_type": "-"}
by_name["diffusion"] = row(guesses[-1])
by_steps = {f"{steps} step{'s' * (steps > 1)}": row(walk(diffusion, steps)[-1]) for steps in (1, 5, 10)} | {"25 steps": by_name["diffusion"]}
show(by_steps, "cos_true", "diversity", "frechet", "nearest")

# %%
draws = torch.stack([guesses[-1], walk(diffusion, seed=1)[-1]], dim=1)                   # (N, 2, D)
by_choice = {"one draw": by_name["diffusion"], "better of two": row(keep_better(draws, name_text.text_embed))}
strong = {s: walk(diffusion, guidance=s)[-1] for s in (2.0, 4.0)}
by_choice |= {f"guidance {s:g}": row(vectors) for s, vectors in strong.items()}
show(by_choice, "cos_text", "cos_true", "diversity", "frechet", "nearest")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** One step is regression again: diversity 0.04. From 10 steps to 25 nothing changes beyond the intervals. Choosing and guidance both pull towards the text. The better of two costs little diversity, 0.91 to 0.87, within the intervals. Guidance 4, the default of diffusers' pipelines, raises the cosine to the *true* pictures from 0.79 to 0.84, and leaves 0.38 [0.33, 0.43] of the diversity; its Fréchet distance is 57 instead of 21. Whoever tunes by cosine ends there, on the way back to regression; we draw at 1.

# %% [markdown] slideshow={"slide_type": "subslide"}
# Where do the ways land? We move each name's real mean to the middle, and look along the two directions in which real pictures of a name vary most.

# %% alt="Four panels with the same two groups of blue dots: the text vectors cluster to one side, the answers of the MLP between the groups, the draws of both priors cover both groups." slideshow={"slide_type": "-"}
by_name["autoregressive"] = by_ar["first code: drawn from the upper half"]
own_mean = torch.cat([bare.real.unflatten(0, (32, 8)), bare.other.unflatten(0, (32, 8))], dim=1).mean(dim=1).repeat_interleave(8, dim=0)
_, axes = pca(bare.real - own_mean, 1.0)
ways = {"text vector": name_text.text_embed, "MLP": regression, "autoregressive": ar_made, "diffusion": guesses[-1]}
clouds = [{plotting.DATA: (bare.other - own_mean) @ axes[:2].T, plotting.MODEL: (vectors - own_mean) @ axes[:2].T} for vectors in ways.values()]
plotting.plot_points(clouds, list(ways), "Real pictures of a name (blue), what each way makes (green)")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Real pictures fall into two groups here. The MLP answers *between* them, where hardly a picture is; the text vector lies to one side. Both priors fill the cloud. **Limit**: two directions of 192.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **By heart?** The same question to the diffusion prior, at step 500: its error, of 1 for an answer of zeros.

# %% slideshow={"slide_type": "-"}
t, errors = torch.full((200,), 500), {}
another = {"held-out, another's caption": (full.real.roll(1, 0), sources["held-out drawings"][1])}
for word, (vectors, said) in (sources | another).items():
    x0 = diffusion.scale(vectors)
    xt = add_noise(x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)), t, SCHEDULE)
    with torch.no_grad():
        errors[word] = Mean.of((diffusion(xt, t, *said) - x0).square().mean(dim=1))
    print(f"{word:29s} error {errors[word].text(3)}")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The same: 0.043 on its own pictures, seen some twenty times, 0.045 [0.043, 0.048] on their drawings composed anew, 0.065 [0.060, 0.069] on drawings never seen. Exchanged captions cost 0.28. **Limit**: one step of the thousand.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Train it: a small diffusion prior
#
# Same code, a third of the size, 8,192 pictures, and captions that are names alone. The checkpoint's prior trained 82 minutes, the second half on 32 times as many pictures; ours gets half a minute.

# %% slideshow={"slide_type": "-"}
from course_utils.systems.stable_diffusion import tokenize

rng = np.random.default_rng(0)
written = [prior_base.write_caption(shown, i, composer, rng, p_omit=1.0) for i in range(len(image_embed))]
ids = tokenize(written)                                                                  # one caption in ten is empty
ids = ids[:, :int((ids != PAD_ID).sum(dim=1).max())]
with torch.no_grad():
    parts = [encode_text(clip, part) for part in ids.split(256)]
text_pool = Text(*(torch.cat(x) for x in zip(*parts)))
print("captions:", " | ".join(repr(caption) for caption in written[:5]))
print(f"{tuple(text_pool.context.shape)} numbers of text, frozen")


# %%
def train_small(factor=EMBED_DIM**0.5, steps=300, batch=128):
    torch.manual_seed(0)
    net, generator, losses = PriorTransformer(EMBED_DIM, MAX_TOKENS, dim=128, num_layers=3, num_heads=4), torch.Generator().manual_seed(0), []
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min((i + 1) / 20, 1.02 - i / steps))
    for _ in range(steps):
        index = torch.randint(len(image_embed), (batch,), generator=generator)
        context, mask, text_embed = cut_padding(Text(*(x[index] for x in text_pool)))
        loss = diffusion_loss(net, factor * image_embed[index], SCHEDULE, "x0", generator, context=context, context_mask=mask, text_embed=text_embed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.item())
    return net.eval().requires_grad_(False), losses


# %% [markdown]
# An answer of zeros pays 1. What is left at the end is mostly what noise hides: which butterfly was it?

# %% alt="Loss over 300 steps: it falls from 1 to 0.2 within 70 steps, then slowly into the band where a normal run ends."
print("expected: about 25 s, last loss between 0.1 and 0.2")
began = time.perf_counter()
small, losses = train_small()
seconds, final = time.perf_counter() - began, sum(losses[-30:]) / 30
print(f"{len(losses)} steps in {seconds:.0f} s, loss {final:.2f}: {'normal.' if 0.1 < final < 0.2 else 'unusual: was a number changed?'}")
plotting.plot_loss(range(len(losses)), losses, (0.1, 0.2), "A small prior in training")
plt.show()

# %% alt="Four rows of eight emoji for frowning face, bicycle, anchor and tired face: most show the thing, in other styles and colours; some show something else." slideshow={"slide_type": "subslide"}
made = walk(small)[-1]
live = {"MLP (regression)": by_name["MLP"], "trained here": row(made), "its draws for another name": row(made.roll(8, 0)), "the checkpoint": by_name["diffusion"], "other real pictures": by_name["other real pictures"]}
show(live, "cos_true", "diversity", "frechet", "nearest")
plotting.show_rows({bare.texts[i]: nearest(made[i:i + 8]) for i in (96, 120, 168, 240)}, title="Draws of the prior trained here: nearest pictures", scale=0.62)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **The verdict.** (自行车: bicycle; 锚: anchor.) In half a minute the small prior beats regression's spread: diversity 0.81 [0.76, 0.86] against 0, Fréchet distance 52 against 136. It is not yet the checkpoint, which has 0.91 and 21. And mind the control: draws exchanged among names have the *same* diversity and Fréchet distance, and are never right. So these two alone are no merit. Look at *nearest* too: 68 % [57, 79], of real pictures 70 %.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## All ways side by side
#
# `course evaluate prior-diffusion` made this table, with 48 names × 16 vectors and 400 full captions; the checkpoint's card keeps it.

# %% slideshow={"slide_type": "-"}
from course_utils import checkpoints

kept_rows = {way: from_card(values) for way, values in checkpoints.card("prior-diffusion")["metrics"].items() if isinstance(values, dict)}
full_rows, name_rows = ({way.removeprefix(kind): values for way, values in kept_rows.items() if way.startswith(kind)} for kind in ("full: ", "name: "))
show(full_rows, "cos_true", "R@1", "frechet", "seconds")
print()
show(name_rows, "cos_true", "diversity", "frechet", "nearest")


# %%
def agree(a, b):                                                                         # do two intervals meet?
    return a.low <= b.high and b.low <= a.high

for way in ("text vector", "MLP", "autoregressive", "diffusion"):
    both = {key: agree(name_rows[way][key], by_name[way][key]) for key in ("cos_true", "diversity", "nearest")}
    print(f"{way:15s} measured again here on a part, 32 names × 8; intervals meet:", both)

# %% [markdown] slideshow={"slide_type": "subslide"}
# - **Full captions**: the MLP has cosine 0.869 [0.862, 0.876] and R@1 86 % [83, 90], the diffusion prior 0.840 [0.831, 0.850] and 78 % [74, 82], the autoregressive 0.793 [0.781, 0.805] and 65 % [60, 70]. The prior adds nothing here but a Fréchet distance of 11 instead of 19.
# - **Names**: every way without a prior has diversity 0 and Fréchet distance 126 to 328. The diffusion prior has 0.95 [0.91, 0.99] of the real diversity and 8.3, where other real pictures have 5.3; the autoregressive prior 1.06 [1.03, 1.09], a little more than real (0.99 [0.96, 1.03]), and 15.
# - **Match, do not exceed**: cosine 0.789 (real pictures 0.784), nearest 64 % [56, 71] (real 67 % [59, 75]). Regression exceeds both, 0.857 and 100 %; that is no merit.
#
# **When would you skip the prior?** When prompts are long and exact, when one picture a prompt suffices, or when the decoder is trained to read text vectors; Stable Diffusion has no prior.
#
# **What does each cost?** The paper found the diffusion prior the better one at less compute, with 319 codes to write one after the other. Ours has 1 + 21.

# %% slideshow={"slide_type": "-"}
spent = {}
for way, kind in (("autoregressive", "ar"), ("diffusion", "diffusion")):
    began = time.perf_counter()
    sample_prior(systems[kind], bare.texts[:128])
    spent[way] = (time.perf_counter() - began) / 128
    print(f"{way}: {1000 * spent[way]:.0f} ms a caption here, {1000 * name_rows[way]['seconds']:.0f} ms on the card")
print("cheaper here:", min(spent, key=spent.get))
length = name_text.context.shape[1]
print(f"tokens run for a caption: autoregressive {MAX_TOKENS} + 1 + {num_dims}, one pass after the other; diffusion 2 draws × 25 steps × ({length} + 4)")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** With 22 codes the autoregressive prior is cheaper: by the card 4 ms a caption against 18. So the paper's reason does not hold at our size; Exercise 08.4 counts when it does.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 5 · Where the vector enters the decoder
#
# The decoder is a U-Net of the kind that notebook 06 trains. A picture vector is not a row of tokens, so cross-attention alone cannot read it. In DALL·E 2 it enters twice (Ramesh et al. 2022, section 2.1): it is **added to the step embedding**, which every residual block receives, and it becomes **four more tokens** beside the caption's, for cross-attention.

# %% slideshow={"slide_type": "-"}
# @save course_utils/decoder/unclip.py
TOKENS = 4  # that the image vector becomes


class TextProjection(nn.Module):
    def __init__(self, embed_dim: int, time_dim: int, context_dim: int):
        super().__init__()
        self.learned_classifier_free_guidance_embeddings = nn.Parameter(torch.zeros(embed_dim))
        self.embedding_proj = nn.Linear(embed_dim, time_dim)
        self.clip_image_embeddings_project_to_time_embeddings = nn.Linear(embed_dim, time_dim)
        self.clip_extra_context_tokens_proj = nn.Linear(embed_dim, TOKENS * context_dim)
        self.encoder_hidden_states_proj = nn.Linear(embed_dim, context_dim)
        self.text_encoder_hidden_states_norm = nn.LayerNorm(context_dim)

    def no_image(self, count: int):
        return self.learned_classifier_free_guidance_embeddings.expand(count, -1)

    def forward(self, image_embed, context, text_embed):
        added = self.clip_image_embeddings_project_to_time_embeddings(image_embed) + self.embedding_proj(text_embed)
        extra = self.clip_extra_context_tokens_proj(image_embed).unflatten(1, (-1, TOKENS)).transpose(1, 2)  # (B, 4, C)
        text = self.text_encoder_hidden_states_norm(self.encoder_hidden_states_proj(context))  # (B, L, C)
        return torch.cat([extra, text.to(extra)], dim=1), added


# %% [markdown]
# **Check** against diffusers, random weights again. The trap: the four tokens are `view(B, D, 4)` turned, not `view(B, 4, D)`; every shape fits with either.

# %%
# NBVAL_CHECK_OUTPUT
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

torch.manual_seed(0)
ours = TextProjection(EMBED_DIM, time_dim=192, context_dim=96)
peer = UnCLIPTextProjModel(clip_extra_context_tokens=TOKENS, clip_embeddings_dim=EMBED_DIM, time_embed_dim=192, cross_attention_dim=96)
print(peer.load_state_dict(ours.state_dict()))
text, vectors = systems["ar"].encode_prompt(["cat", "a red car"]), image_embed[:2]
with torch.no_grad():
    mine = ours(vectors, text.context, text.text_embed)
    theirs = peer(image_embeddings=vectors, prompt_embeds=text.text_embed, text_encoder_hidden_states=text.context, do_classifier_free_guidance=False)
print("tokens, step:", [tuple(x.shape) for x in mine], "equal to 1e-5:", all(bool((a - b).abs().max() < 1e-5) for a, b in zip(mine, theirs)))

# %% [markdown]
# It is untrained: nothing can be drawn with it here. In training the vector is left out in a tenth of the examples, for guidance; a learned one, `no_image`, stands in its place. The caption is left out in *half*: the vector says nearly all of it, and the decoder should learn to do without.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Experiment · A name, many vectors
#
# Type a name, or a whole caption. Above: the eight pictures nearest to the text vector. Below: the picture nearest to each of eight draws.

# %% alt="Two rows of eight emoji for tulip: pictures nearest to its text vector, and the pictures nearest to eight draws of the prior." slideshow={"slide_type": "-"}
from course_utils.figures.widgets import explore

def compare(prompt, seed):
    best = (image_embed @ embed_texts(clip, [prompt])[0]).topk(8).indices
    rows = {"nearest to the text vector": pictures[best.numpy()], "nearest to eight draws": nearest(prior(prompt, seed=seed))}
    return plotting.show_rows(rows, title=f"{prompt}", scale=0.75)

explore(compare, prompt="tulip", seed=(0, 20))

# %% [markdown] slideshow={"slide_type": "subslide"}
# From a name to a full caption (the last: red apple, in Chinese):

# %% alt="Five rows of eight emoji for apple, red apple, red apple in noto style, red apple in snow and red apple in Chinese: apples and other round things of many colours first, then mostly red apples; for snow, apples by the sea and tomatoes in snow; in Chinese one stop sign too." slideshow={"slide_type": "-"}
asked = ("apple", "red apple", "red apple, noto style", "red apple, snow", "红色的苹果")
by_prompt = {prompt: prior(prompt) for prompt in asked}
for prompt, vectors in by_prompt.items():
    print(f"{prompt:34s} mean distance of two draws {torch.pdist(vectors).mean():.2f}")
plotting.show_rows({prompt: nearest(vectors) for prompt, vectors in by_prompt.items()}, title="The more a caption says, the less is drawn", scale=0.62)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** *Red* brings the mean distance of two draws from 0.68 to 0.42, *snow* to 0.28. A style changes nothing, 0.42: this CLIP's vectors hardly know style (notebook 07), so there is little to draw. In Chinese, *red apple* leaves more open, 0.56. **Limit**: eight draws a caption; the nearest to *snow* are apples by the sea and tomatoes.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks · Vectors of length 1
#
# Somebody trains the prior on CLIP's vectors as they are, without $\sqrt D$. No line fails, and the loss is lower than ever.

# %% alt="Two rows of eight emoji for tired face: with vectors times root D several tired faces in different styles and colours, with vectors of length 1 one picture eight times." slideshow={"slide_type": "-"}
broken, broken_losses = train_small(factor=1.0)
print(f"last loss {sum(broken_losses[-30:]) / 30:.4f}; with vectors times √D {final:.2f}")
unscaled = walk(broken)[-1]
cases = {"times √D": live["trained here"], "length 1 (the bug)": row(unscaled), "MLP (regression)": by_name["MLP"]}
show(cases, "cos_true", "diversity", "frechet", "nearest")
plotting.show_rows({"times √D": nearest(made[240:248]), "length 1": nearest(unscaled[240:248])}, title=f"Draws for '{bare.texts[240]}': nearest pictures", scale=0.62)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **The cause.** The numbers of such a vector have mean square $1/192$, the noise has 1: noise is stronger from step 38 of 1000 on, that is at all 25 steps of sampling. There the best answer is regression's, and with targets that small 300 steps do not even reach that: diversity 0.02 instead of 0.81, nearest 26 % instead of 68 %. The loss, 0.0033, looks like a triumph, but *an answer of zeros* pays only $1/192=0.0052$. **The habit that finds it**: divide
# the loss by what zeros would pay, and print mean and spread of what goes in. `normalize` at the end hides the rest: every vector has length 1.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# The check says what is likely wrong. Each exercise has three hints.

# %%
# NBVAL_CHECK_OUTPUT
hint("08-ceiling", 1)


# %% [markdown]
# ### Exercise 08.1 (warm-up, measure) · How near may one answer come?
#
# Write `how_near`: for the pictures of one caption, the mean cosine of two *different* ones, and the largest mean cosine that any single vector of length 1 can have with all of them. Then measure both for the 32 names, and compare with regression.

# %%
def how_near(vectors):                                # (N, D), unit length
    raise NotImplementedError                         # -> two numbers, a tensor of shape (2,)


# %%
check("08-ceiling", how_near)


# %% [markdown]
# **Solution** (folded)

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def how_near(vectors):
    other = ~torch.eye(len(vectors), dtype=torch.bool)
    return torch.stack([(vectors @ vectors.T)[other].mean(), vectors.mean(dim=0).norm()])

check("08-ceiling", how_near)

# %% tags=["solution"]
measured = torch.stack([how_near(part) for part in bare.real.split(8)])
print(f"two pictures {Mean.of(measured[:, 0]).text(2)}, best single answer, knowing these eight {Mean.of(measured[:, 1]).text(2)}; MLP {by_name['MLP']['cos_true'].text(2)}")


# %% [markdown]
# ### Exercise 08.2 (measure) · Where noise wins
#
# Write `noise_wins`: the first step at which the noise in $x_t$ is at least as strong, in mean square, as the signal. Measure it for CLIP's vectors as they are and times $\sqrt D$: how many of the 25 steps does the bug above waste?

# %%
def noise_wins(x0, alpha_bar):                        # (N, D), (T,) falling
    raise NotImplementedError                         # -> a step, a whole number, a tensor of shape ()


# %%
check("08-step", noise_wins)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def noise_wins(x0, alpha_bar):
    return (alpha_bar * x0.square().mean() <= 1 - alpha_bar).long().argmax()

check("08-step", noise_wins)

# %% tags=["solution"]
for word, x0 in (("length 1", image_embed), ("times √D", EMBED_DIM**0.5 * image_embed)):
    t = int(noise_wins(x0, SCHEDULE.alpha_bar))
    print(f"{word}: noise wins from step {t} of 1000 on; of 25 sampling steps {sum(40 * k - 1 >= t for k in range(1, 26))} lie there")


# %% [markdown]
# ### Exercise 08.3 (transfer) · Buckets of equal width
#
# Most vectors lie near the middle of a direction, so equally *full* buckets are narrow there. Write `even_buckets`: of equal *width*, from the smallest to the largest number of each direction, each standing for its middle. Which loses less, with 128 and with 8?

# %%
def even_buckets(x, buckets):                         # (N, K), V
    raise NotImplementedError                         # -> edges (K, V - 1), centres (K, V)


# %%
check("08-buckets", even_buckets)


# %% [markdown]
# **Solution.** With 128 buckets both lose the same; with 8, equally full ones lose a little less.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def even_buckets(x, buckets):
    low, high = x.amin(dim=0)[:, None], x.amax(dim=0)[:, None]                           # (K, 1)
    ends = low + (high - low) * torch.arange(buckets + 1) / buckets                      # (K, V + 1)
    return ends[:, 1:-1], (ends[:, :-1] + ends[:, 1:]) / 2

check("08-buckets", even_buckets)

# %% tags=["solution"]
for buckets in (128, 8):
    codes = VectorCodes(num_dims, buckets, EMBED_DIM).fit(images_known, texts_known)
    for word in ("full", "wide"):
        if word == "wide":
            codes.edges.data, codes.centers.data = map(torch.Tensor.contiguous, even_buckets(codes.numbers(images_known, texts_known), buckets))
        cosine = Mean.of((codes.decode(codes.encode(full.real, full_text)) * full.real).sum(dim=1))
        print(f"{buckets} equally {word} buckets: cosine {cosine.text(3)}")


# %% [markdown]
# ### Exercise 08.4 (explain) · What a draw costs
#
# Count the tokens that run through the Transformer for one caption of $L$ tokens: (1) autoregressive, $K$ directions, keys and values kept; (2) diffusion, all tokens at each step of each draw; (3) diffusion, if what the causal mask leaves unchanged were kept too. From which $K$ on is the autoregressive prior dearer than (3)? And what does the count not show?

# %%
def tokens_run(length, num_dims, steps, draws):       # four whole numbers
    raise NotImplementedError                         # -> three whole numbers


# %%
check("08-cost", tokens_run)


# %% [markdown]
# **Solution.** The count grows by one a direction; but these tokens must come one after the other, where the diffusion prior runs its tokens side by side. The paper's 319 codes are 320 passes, against 25 here.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def tokens_run(length, num_dims, steps, draws):
    return length + 1 + num_dims, draws * steps * (length + 4), length + 1 + draws * steps * 3

check("08-cost", tokens_run)

# %% tags=["solution"]
for word, sizes in (("ours", (MAX_TOKENS, num_dims, 25, 2)), ("with the paper's 319 codes", (MAX_TOKENS, 319, 25, 2))):
    ar_tokens, plain, caching = tokens_run(*sizes)
    print(f"{word}: autoregressive {ar_tokens} tokens in {1 + sizes[1]} passes, diffusion {plain}, caching {caching}, in {sizes[2]} passes of all draws together")

# %% [markdown]
# ### Exercise 08.5 (diagnose, then open) · Four priors
#
# Four sets of vectors for the 32 names, eight each: one healthy, the others with one fault of this notebook each. Write `symptoms`: diversity (mean distance of two vectors of one caption, over that of real ones), and the share of vectors whose nearest *real* one, of all names, is of their own name. Name the faults.
# **Open**: does the better of two by cosine to the *text* keep the better one by these two numbers?

# %%
sets = [guesses[-1], regression, guesses[-1].roll(8, 0), strong[4.0]]
order = torch.randperm(4, generator=torch.Generator().manual_seed(8)).tolist()
patients = {letter: sets[i].unflatten(0, (32, 8)) for letter, i in zip("ABCD", order)}


# %% [markdown]
# No peeking above.

# %%
def symptoms(made, real):                             # (M, n, D), (M, m, D)
    raise NotImplementedError                         # -> two numbers, a tensor of shape (2,)


# %%
check("08-symptoms", symptoms)


# %% [markdown]
# **Solution.** No diversity: regression. Diversity, but not of the own name: captions exchanged, or ignored. Little diversity and a safe name: guidance 4.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def symptoms(made, real):
    wide = [torch.cdist(v, v).sum(dim=(1, 2)).mean() / v.shape[1] / (v.shape[1] - 1) for v in (made, real)]
    found = (made.flatten(0, 1) @ real.flatten(0, 1).T).argmax(dim=1) // real.shape[1]
    own = torch.arange(len(made)).repeat_interleave(made.shape[1])
    return torch.stack([wide[0] / wide[1], (found == own).float().mean()])

check("08-symptoms", symptoms)

# %% tags=["solution"]
for letter, patient in patients.items():
    diverse, right = symptoms(patient, bare.other.unflatten(0, (32, 8))).tolist()
    print(f"{letter}: diversity {diverse:.2f}, nearest real picture is of the own name {right:.2f}")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# A caption leaves things open. Regression answers with the mean of what is possible; a prior *draws*. By cosine the mean always looks better, and it is one answer for ever. Judge a prior by diversity, Fréchet distance and the right thing together.
#
# | symbol | code | meaning |
# |---|---|---|
# | $p(z^i\mid y)$ | `prior` | picture vectors for a caption |
# | $\lVert m\rVert^2$, $\lVert m\rVert$ | `how_near` | cosine of two pictures of a caption, and of the best single answer |
# | $c_0,\dots,c_K$ | `codes.encode(image_embed, text_embed)` | a vector as $1+K$ codes, that of $z^i\!\cdot z^t$ first |
# | | `sample_codes(prior, noise, context, text_embed)` | the autoregressive draw |
# | $x_0=\sqrt D\,z^i$ | `prior.scale(image_embed)` | what the diffusion prior denoises |
# | $f(x_t,t,y,z^t)$ | `prior(xt, t, *text)` | the guess of $x_0$, at the query |
# | better of $n$ | `keep_better(draws, text_embed)` | the draw nearest to the text vector |
#
# **What we did not show.** A billion parameters a prior, as in the paper; pictures painted from the vectors.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What comes next: a vector is no picture
#
# We have only *found* pictures near a vector. The decoder that paints from the vector, through the layers of Idea 5, is the second half of DALL·E 2.

# %% [markdown]
# ## References
#
# - A. Ramesh et al., *Hierarchical text-conditional image generation with CLIP latents* (DALL·E 2), 2022, arXiv 2204.06125: decoder (section 2.1), priors (section 2.2, eq. 2), importance of the prior (section 5.1).
# - A. Radford et al., *Learning transferable visual models from natural language supervision* (CLIP), 2021, arXiv 2103.00020.
# - W. Liang et al., *Mind the gap*, 2022, arXiv 2203.02053: the modality gap.
# - J. Song et al., *Denoising diffusion implicit models*, 2021, arXiv 2010.02502: eq. 12. A. Nichol, P. Dhariwal, *Improved DDPM*, 2021, arXiv 2102.09672: cosine schedule, eq. 17.
# - J. Ho, T. Salimans, *Classifier-free diffusion guidance*, 2022, arXiv 2207.12598: eq. 6.
# - Open priors: `diffusers` `PriorTransformer` (Kandinsky, Karlo). P. Wang, DALLE2-pytorch.

# %% [markdown]
# ← [07 · CLIP](07_clip.ipynb) · [Contents](00_start_here.ipynb) · [10 · DreamBooth](10_dreambooth.ipynb) →

# %% [markdown] slideshow={"slide_type": "slide"}
# # 07 · CLIP: how do words and pictures come to share a space?
#
# | | |
# |---|---|
# | **Time** | a 75-minute lecture; three hours with the exercises; the code runs in about two minutes |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebook 04 (tokens, the text tower); what a softmax and a cosine are |
# | **Where we are** | **[text encoder]** → generator → decoder |
#
# In notebook 04 the text encoder learned together with one generator. Here it learns without any: which words *fit* which
# picture. Stable Diffusion and DALL·E 2 build on that.

# %% [markdown]
# ← [06 · Stable Diffusion](06_stable_diffusion.ipynb) · [Contents](00_start_here.ipynb) · [08 · DALL·E 2](08_dalle2.ipynb) →

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
# One module: a text encoder, and a picture encoder that teaches it.

# %% alt="A strip of three boxes, text encoder, generator and decoder, joined by arrows; the text encoder is filled." slideshow={"slide_type": "-"}
import matplotlib.pyplot as plt
from course_utils.figures import plotting
from course_utils.figures.diagrams import plot_heatmap, strip

plotting.use_course_style()
strip("text encoder")
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The result first
#
# CLIP turns every picture into a vector, once. A prompt becomes a vector too, by another network. Both have length 1, so their product is a **cosine**. We show the pictures with the largest.

# %% slideshow={"slide_type": "-"}
import torch
from course_utils.data import load_emoji, to_tensor
from course_utils.systems.clip import embed_images, embed_texts, open_clip

clip = open_clip()
emoji = load_emoji(64, split="all")                                                      # seven flat styles
gallery = to_tensor(emoji.on_white())                                                    # (N, 3, 64, 64)
gallery_embed = embed_images(clip, gallery)                                              # (N, D)
print(f"{len(gallery):,} pictures, each a vector of {gallery_embed.shape[1]} numbers")


# %% alt="Four rows of eight emoji: seven apples and a tomato for a red apple, five wolves and three rabbits for a wolf; then mostly yellow flowers, and mostly fish." slideshow={"slide_type": "-"}
def nearest(prompt, count=8):
    cosines = gallery_embed @ embed_texts(clip, [prompt])[0]                             # (N,)
    return gallery[cosines.topk(count).indices]

prompts = ("a red apple", "a wolf", "黄色的花", "蓝色的鱼")                                # the last two: yellow flower, blue fish
plotting.show_rows({prompt: nearest(prompt) for prompt in prompts}, title="Type a prompt: the nearest pictures", scale=0.62)
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# No picture carries a label here, and the picture network has never read a word. How did the two come to agree?
#
# ## What we build
#
# 1. A toy in the plane: pairs drawn together, and apart.
# 2. The **contrastive loss**, and two towers whose weights open in `transformers`.
# 3. Temperature, batch size, repeated captions, measured on a small CLIP.
# 4. The trained CLIP: naming, search, arithmetic, the gap, and what it does not see.

# %% [markdown]
# ## Setup

# %%
import math
import time

import torch.nn.functional as F
from torch import nn
from course_utils.checks.core import check, hint
from course_utils.evaluation.intervals import Mean, Share
from course_utils.figures.pairs import plot_pairs
from course_utils.layers import Encoder


# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: draw the pairs together
#
# Eight pictures and their eight captions are random points on a circle. We move them so that each picture comes near its caption: we raise the mean cosine of the pairs.
#
# **Predict.** Each pair meets in the end. What is missing?
#
# <details><summary>Answer</summary>
# Distance from the others. Nothing keeps two different pairs apart; a search would mix them up.
# </details>

# %% slideshow={"slide_type": "-"}
def meet(loss, n=8, seed=0, at=(0, 10, 40, 200)):
    generator = torch.Generator().manual_seed(seed)
    points = [torch.randn(n, 2, generator=generator).requires_grad_() for _ in range(2)]
    optimizer, frames = torch.optim.Adam(points, lr=0.05), []
    for step in range(at[-1] + 1):
        x, y = (F.normalize(p, dim=1) for p in points)                                   # on the circle
        frames += [(x.detach(), y.detach())] if step in at else []
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    return frames

def pull(x, y):
    return -(x * y).sum(dim=1).mean()                                                    # minus the mean cosine of the pairs


# %% alt="Four circles from the start to step 200: lines join each picture to its words, then shrink to nothing; several pairs end almost in one place."
def smallest_angle(x):                                                                   # between two different pairs, in degrees
    return math.degrees(math.acos((x @ x.T - 2 * torch.eye(len(x))).max().clamp(-1, 1)))

steps = ["start", "10 steps", "40 steps", "200 steps"]
together = {seed: meet(pull, seed=seed) for seed in range(3)}
plot_pairs({"pull": together[0]}, steps, "Pairs that are only drawn together")
print("smallest angle between different pairs, three starts:", ", ".join(f"{smallest_angle(f[-1][0]):.0f}°" for f in together.values()))
heap = F.normalize(torch.ones(2, 8, 2), dim=2)                                            # all sixteen points in one place
print(f"the loss at the end {pull(*together[0][-1]):.3f}, and with all points in one place {pull(*heap):.3f}")
plt.show()


# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** All pairs meet, but in three starts the two nearest pairs end only 1°, 13° and 9° apart. Worse, with everything in *one* place (a **collapse**) the loss is −1.000 too.
# A loss of pairs must also say what does *not* belong together. **Limit**: two numbers a vector; with more, random points lie less close, but nothing keeps them apart either.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 1 · The loss is a matrix
#
# **Intuition.** Take a batch of $N$ pairs. Ask each picture: which of these $N$ captions is yours? And each caption: which of these $N$ pictures? Two multiple-choice tests, on one table.
#
# **Notation.** $z^i_n$ and $z^t_m$ are the vectors of picture $n$ and caption $m$, of length 1; $s=1/\tau$ is the **scale**, $\tau$ the **temperature**.
#
# $$\ell_{nm}=s\;z^i_n\!\cdot z^t_m,\qquad p_{nm}=\frac{e^{\ell_{nm}}}{\sum_k e^{\ell_{nk}}},\qquad q_{nm}=\frac{e^{\ell_{nm}}}{\sum_k e^{\ell_{km}}}$$
#
# $$L=-\frac1{2N}\sum_n\big(\underbrace{\log p_{nn}}_{\text{picture finds caption}}+\underbrace{\log q_{nn}}_{\text{caption finds picture}}\big)$$
#
# $p$ is a softmax along rows, $q$ along columns. The **negatives** of a picture are the other captions *of this batch*; there is no list of them. *Every* picture has its own positive, all $N^2$ cosines are compared at once, and each
# wrong pair is a negative twice, in its row and in its column (Radford et al. 2021, figure 3).

# %% slideshow={"slide_type": "-"}
# @save course_utils/text_encoder/contrastive.py
def contrastive_loss(image_embed, text_embed, scale, also=None):
    with torch.autocast(image_embed.device.type, enabled=False):
        logits = scale * image_embed.float() @ text_embed.float().T  # (N, N)
        if also is not None:
            own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
            logits = logits.masked_fill(also & ~own, -torch.inf)
        pairs = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


# %% [markdown]
# (`also` comes later: it names captions that are true of a picture without being its own.) **Check.** Vectors that say nothing pay $\ln N$, as a guess among $N$ does. And the gradient on a logit is what a softmax
# always gives: $p_{nm}-1$ for the own caption, which is *pulled*, and $p_{nm}$ for each wrong one, which is *pushed* as hard as it is believed.

# %%
# NBVAL_CHECK_OUTPUT
x, y = (F.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)), dim=1) for seed in (0, 1))
silent, eye = torch.ones(5, 4) / 2, torch.eye(5)
print("silent vectors pay ln N:", round(float(contrastive_loss(silent, silent, 10.0)), 4), round(math.log(5), 4))
logits = (10 * x @ y.T).requires_grad_()
F.cross_entropy(logits, torch.arange(5)).backward()
print("gradient of the rows is (p - 1)/N and p/N:", torch.allclose(logits.grad, (logits.detach().softmax(dim=1) - eye) / 5, atol=1e-6))

# %% [markdown] slideshow={"slide_type": "subslide"}
# The toy again, the same starts, with this loss ($s=5$).

# %% alt="Two rows of circles over four moments: pulled pairs meet and crowd together; pulled and pushed pairs meet and end evenly spread round the circle." slideshow={"slide_type": "-"}
apart = {seed: meet(lambda x, y: contrastive_loss(x, y, 5.0), seed=seed) for seed in range(3)}
plot_pairs({"pull": together[0], "pull and push": apart[0]}, steps, "Drawn together, and apart")
print("smallest angle:", ", ".join(f"{smallest_angle(f[-1][0]):.0f}°" for f in apart.values()), f"(eight places spread evenly: {360 / 8:.0f}°)")
plt.show()

# %% [markdown]
# **What to see.** Pairs meet, and share the circle: the nearest end 45°, 44° and 42° apart, of 45° at best. Nobody told them where: turn the circle and the loss is the same.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Why both directions?** A softmax does not notice what is added to all its logits. So the rows are blind to a picture that is near *every* caption (a **hub**), and only the columns complain.

# %% slideshow={"slide_type": "-"}
# NBVAL_CHECK_OUTPUT
good = 8 * torch.eye(6)                                                                  # logits of six pairs, all well told apart
hub = good + torch.tensor([6.0, 0, 0, 0, 0, 0])[:, None]                                 # picture 0 moves nearer to every caption
for name, logits in (("good", good), ("one hub", hub)):
    rows, columns = (float(F.cross_entropy(m, torch.arange(6))) for m in (logits, logits.T))
    print(f"{name:8s} rows {rows:.3f}, columns {columns:.3f}")

# %% [markdown]
# The rows pay 0.002 as before, the columns 0.107 instead of 0.002. Such a picture would answer every search. Now the table for six real pictures and their names, by the trained CLIP: look-alikes.

# %% alt="Two tables of six pictures by six captions, softmax along rows and along columns: large shares on the diagonal, small ones between look-alikes." slideshow={"slide_type": "-"}
wanted = ["wolf", "fox", "lion", "automobile", "taxi", "bus"]
six = [next(i for i, m in enumerate(emoji.meta) if m["concept"] == concept and m["style"] == "noto") for concept in wanted]
cosines = gallery_embed[six] @ embed_texts(clip, wanted).T
scale = float(clip.scale)
plot_heatmap((scale * cosines).softmax(dim=1), wanted, wanted, f"Which caption? Softmax along rows, scale {scale:.0f}", "caption", "picture", "{:.2f}", (0, 1))
plot_heatmap((scale * cosines).softmax(dim=0), wanted, wanted, "Which picture? Softmax along columns", "caption", "picture", "{:.2f}", (0, 1))
plt.show()

# %%
rows, columns = (scale * cosines).softmax(dim=1), (scale * cosines).softmax(dim=0)
print(f"every row of the first adds up to {rows.sum(dim=1).mean():.3f}, every column of the second to {columns.sum(dim=0).mean():.3f}")
print(f"cosines of the own pairs {cosines.diagonal().mean():.2f} on average, of the others {cosines[~torch.eye(6, dtype=torch.bool)].mean():.2f}")
print(f"right in rows: {int((rows.argmax(1) == torch.arange(6)).sum())} of 6, in columns: {int((columns.argmax(0) == torch.arange(6)).sum())} of 6")


# %% [markdown] slideshow={"slide_type": "-"}
# **Why not a classifier?** It has one output a class, fixed before training: no new words, no sentences, no second language. Here the text tower *writes* the weights of a classifier, for any list of words. **Why cosines?** If lengths were free, the network could lower the loss by making vectors longer, that is by being surer, without fitting better. With length 1 only directions count, and
# sureness has one knob for all: $s$.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 2 · Two towers
#
# **Intuition.** Words go through the Transformer of notebook 04, which is read at the token that ends the text. Pictures may go through a Transformer as well, a **ViT** (Dosovitskiy et al. 2021): cut the picture into patches, make
# each patch a token, and put one more token in front, whose only task is to collect: the **class token**.
#
# | picture | (B, 3, 64, 64) | prompt | (B, L) |
# |---|---|---|---|
# | patches of 8×8, and the class token | (B, 1 + 64, 192) | tokens | (B, L, 192) |
# | six layers, every patch sees all | (B, 65, 192) | four layers, a token sees those before it | (B, L, 192) |
# | the class token | (B, 192) | the end token | (B, 192) |
# | projection, brought to length 1 | (B, 192) | projection, brought to length 1 | (B, 192) |

# %% slideshow={"slide_type": "-"}
# @save course_utils/image_encoder/clip_vision.py
class VisionEmbeddings(nn.Module):
    def __init__(self, size: int, patch_size: int, dim: int):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(dim) * dim**-0.5)
        self.patch_embedding = nn.Conv2d(3, dim, patch_size, stride=patch_size, bias=False)
        self.position_embedding = nn.Embedding(1 + (size // patch_size) ** 2, dim)

    def forward(self, x):
        patches = self.patch_embedding(x).flatten(2).transpose(1, 2)  # (B, N, D)
        tokens = torch.cat([self.class_embedding.expand(len(x), 1, -1), patches], dim=1)
        return tokens + self.position_embedding.weight  # (B, 1 + N, D)


# %% [markdown]
# A convolution with a stride of its own size *is* the cutting: each patch meets the same matrix, once.

# %%
# @save course_utils/image_encoder/clip_vision.py
class CLIPVisionModel(nn.Module):
    def __init__(self, size: int, patch_size: int, dim: int, num_layers: int, num_heads: int):
        super().__init__()
        self.embeddings = VisionEmbeddings(size, patch_size, dim)
        self.pre_layrnorm = nn.LayerNorm(dim)  # so spelt in every CLIP checkpoint there is
        self.encoder = Encoder(dim, num_layers, num_heads, causal=False)
        self.post_layernorm = nn.LayerNorm(dim)
        nn.init.normal_(self.embeddings.patch_embedding.weight, std=0.02)
        nn.init.normal_(self.embeddings.position_embedding.weight, std=0.02)

    def forward(self, x):
        return self.encoder(self.pre_layrnorm(self.embeddings(x)))  # (B, 1 + N, D)

    def pooled(self, x):
        return self.post_layernorm(self.forward(x)[:, 0])


# %% [markdown] slideshow={"slide_type": "subslide"}
# ## The key piece: CLIP
#
# Two towers, a matrix behind each, and the scale, kept as its logarithm: so that it stays positive, and a step multiplies it.

# %% slideshow={"slide_type": "-"}
# @save course_utils/systems/clip.py
EMBED_DIM = 192  # numbers of the shared space
MAX_SCALE = 100.0  # beyond it, training is unstable: Radford et al. 2021, section 2.5


class CLIP(nn.Module):
    def __init__(
        self, text_model: nn.Module, vision_model: nn.Module, text_dim: int, vision_dim: int, embed_dim: int = EMBED_DIM
    ):
        super().__init__()
        self.text_model, self.vision_model = text_model, vision_model
        self.text_projection = nn.Linear(text_dim, embed_dim, bias=False)
        self.visual_projection = nn.Linear(vision_dim, embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def embed_image(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.visual_projection(self.vision_model.pooled(x)).float(), dim=-1)

    def embed_text(self, ids: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        context = self.text_model(ids) if context is None else context
        return F.normalize(self.text_projection(self.text_model.pooled(ids, context)).float(), dim=-1)

    @property
    def scale(self) -> torch.Tensor:
        return self.logit_scale.exp().clamp(max=MAX_SCALE)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.embed_image(x), self.embed_text(ids)


# %% [markdown]
# **Check** against `transformers`: its `CLIPModel` takes our whole state dict by name, strictly, and gives the same vectors and the same loss.

# %%
from transformers import CLIPConfig, CLIPModel
from course_utils.systems.clip import make_text_model, tokenize
from course_utils.text_encoder.tokenizer import MAX_TOKENS, VOCAB_SIZE

def shape(layers, **more):
    return {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 6, "num_hidden_layers": layers, **more}

torch.manual_seed(0)
vit = CLIP(make_text_model(), CLIPVisionModel(64, 8, 192, 6, 6), 192, 192).eval()
words = shape(4, vocab_size=VOCAB_SIZE, max_position_embeddings=MAX_TOKENS, bos_token_id=0, eos_token_id=1, pad_token_id=2)
peer = CLIPModel(CLIPConfig(text_config=words, vision_config=shape(6, image_size=64, patch_size=8), projection_dim=192)).eval()
print(peer.load_state_dict(vit.state_dict()))                                            # strict: every name must fit

# %%
# NBVAL_CHECK_OUTPUT
x, ids = gallery[:6], tokenize(["a red car", "粉色的蝴蝶", "dog", "a cat in the snow", "苹果", "bus"])[0]
with torch.no_grad():
    ours, theirs = vit(x, ids), peer(input_ids=ids, pixel_values=x, return_loss=True)
    features = peer.get_image_features(pixel_values=x).pooler_output, peer.get_text_features(input_ids=ids).pooler_output
for name, mine, raw in zip(("picture", "text"), ours, features):
    print(f"{name} vectors, difference < 1e-5:", bool((mine - F.normalize(raw, dim=1)).abs().max() < 1e-5))
print("loss, difference < 1e-5:", bool((contrastive_loss(*ours, vit.scale) - theirs.loss).abs() < 1e-5))

# %% [markdown] slideshow={"slide_type": "-"}
# **What we ship.** Any network with a vector at its end can be a tower. A ViT has to learn that neighbouring pixels belong together; a residual network (`ResNetVisionModel`, like CLIP's own RN50) is born with it. `tools/compare_towers.py`
# trained both, with the same recipe, seed and minutes:

# %% slideshow={"slide_type": "-"}
from course_utils import checkpoints
from course_utils.evaluation.report import from_card, table

towers = checkpoints.card("clip").get("towers", {})
for name, row in towers.items():
    print(f"{name:8s} {row['minutes']:.0f} minutes, {row['pairs']:,} pairs, loss {row['loss']:.2f}")
if towers:
    print(table(towers))
    residual, transformer = (from_card(towers[name])["R@1"] for name in ("residual", "vit"))
    ahead = "the residual tower" if residual.low > transformer.high else "the ViT" if transformer.low > residual.high else "neither"
    print(f"caption found among 400 (R@1): {ahead} is ahead by more than the intervals.")

# %% [markdown] slideshow={"slide_type": "-"}
# In six minutes each names 1 % and finds 12 or 14 % of captions: the intervals overlap. But the residual tower saw 89,984 pairs and the ViT 53,504, so a pair costs it less. The checkpoint has the residual tower. **Limit**: one short run of each, at a rate chosen for the residual one. With 400 million pairs, CLIP's ViTs were about three times as efficient as its residual networks (section 3.2).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Train it: a CLIP that learns in seconds
#
# To measure, we need many short runs. So all is small but the loss: pictures of 16×16 pixels on white, a layer of 256 units, and as text tower the mean of a name's token vectors. A
# caption is the name alone, in English or Chinese.

# %% slideshow={"slide_type": "-"}
from course_utils.evaluation.report_clip import concept_names

names = concept_names()                                                                  # language -> {concept: name}
number = {concept: i for i, concept in enumerate(names["en"])}
name_ids = tokenize([name for each in names.values() for name in each.values()])[0].unflatten(0, (2, -1))   # (2, 1015, L)

def small(split):
    part = load_emoji(64, split=split)
    x = F.interpolate(to_tensor(part.on_white()), 16, mode="area").flatten(1)            # (N, 768)
    return x, torch.tensor([number[concept] for concept in part.column("concept")])

(known, known_concepts), (unseen, unseen_concepts) = small("train"), small("test")
print(f"{len(known):,} pictures to learn from, {len(unseen)} held out, {len(number):,} names in two languages")


# %% [markdown]
# A held-out picture is a *drawing* that training never shows; its concept was seen in other styles.

# %%
class SmallCLIP(nn.Module):
    def __init__(self, dim=64, width=256):
        super().__init__()
        self.picture = nn.Sequential(nn.Linear(768, width), nn.SiLU(), nn.Linear(width, dim))
        self.words = nn.EmbeddingBag(VOCAB_SIZE, dim, padding_idx=2)                     # the mean of the tokens' vectors
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, x, ids):
        return F.normalize(self.picture(x), dim=1), F.normalize(self.words(ids), dim=1)

def same(concepts):                                                                      # (N,) -> (N, N): captions that are true too
    return concepts[:, None] == concepts


# %%
def fit(pool, steps=150, batch=256, also=same, scale=None, caption_of=lambda concepts, generator: concepts, seed=0):
    torch.manual_seed(seed)
    net, generator, losses = SmallCLIP(), torch.Generator().manual_seed(seed), []
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, fused=True)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min((i + 1) / 10, 2 - 2 * i / steps, 1))
    for _ in range(steps):
        pick = pool[torch.randint(len(pool), (batch,), generator=generator)]             # pictures of this batch
        concepts, language = known_concepts[pick], torch.randint(2, (batch,), generator=generator)
        x = known[pick] + 0.1 * torch.randn(batch, 768, generator=generator)
        pairs = net(x, name_ids[language, caption_of(concepts, generator)])
        loss = contrastive_loss(*pairs, net.logit_scale.exp().clamp(max=100) if scale is None else scale, also(concepts))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(loss.item())
    return net.requires_grad_(False), losses


# %% [markdown] slideshow={"slide_type": "subslide"}
# The measure: is the right key among the $k$ nearest? With names as keys this is **zero-shot naming**, with captions **retrieval**, written R@$k$. Each share comes with its 95 % interval.

# %% slideshow={"slide_type": "-"}
from course_utils.errors import InputError


# %%
# @save course_utils/evaluation/report_clip.py
def recall(query: torch.Tensor, keys: torch.Tensor, right: torch.Tensor, k: int = 1) -> Share:
    if not 1 <= k <= len(keys):
        raise InputError(f"k must be from 1 to {len(keys)}, the number of keys, not {k}")
    nearest = (query @ keys.T).topk(k).indices  # (N, k)
    return Share.of((nearest == right[:, None]).any(dim=1))


# %% [markdown]
# What is normal?

# %%
everything, every_name = torch.arange(len(known)), torch.arange(len(number))

def naming(net, language=0, k=1, among=every_name):                                      # among: numbers of names, rising
    asked = torch.isin(unseen_concepts, among)
    x, keys = net(unseen[asked], name_ids[language, among[:1]])[0], net(unseen[:1], name_ids[language, among])[1]
    return recall(x, keys, torch.searchsorted(among, unseen_concepts[asked]), k)

print(f"expected: about 10 s. Silent vectors pay {math.log(512):.2f}; a normal run ends between 0.5 and 2.5, a guess names {1 / len(number):.1%}")
began = time.perf_counter()
net, losses = fit(everything, steps=300, batch=512)
seconds = time.perf_counter() - began

# %% alt="Loss over 300 steps: it falls from above six to about one, into the band where a normal run ends."
print(f"300 steps in {seconds:.0f} s, loss {losses[-1]:.2f}: {'normal.' if 0.5 < losses[-1] < 2.5 else 'unusual: was a number changed?'}")
for language, word in enumerate(("English", "Chinese")):
    print(f"held-out pictures, {word} names: top 1 {naming(net, language)}, top 5 {naming(net, language, 5)}")
print(f"the scale went from {1 / 0.07:.1f} to {net.logit_scale.exp():.1f}")
plotting.plot_loss(range(300), losses, (0.5, 2.5), "A small CLIP in training")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Sixteen pixels a side, 300 steps, and it names 23 % [20, 27] of drawings that it never saw, in Chinese 24 %; a guess names 0.1 %. The scale *rises* by itself, from 14.3 to 42.7: the better directions fit, the
# surer it pays to be. **Limit**: pictures on white. `course train clip` takes 64×64 pixels, composed pictures and full captions.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 3 · Temperature
#
# **Intuition.** Cosines live between -1 and 1. A softmax of such numbers is nearly flat. The scale $s=1/\tau$ stretches them.
#
# The gradient on the cosine of a wrong pair is $s\,p_{nm}/N$. So $\tau$ does two things: it sets the size of all pushes, and *how they are shared out*, since $p$ among the wrong captions goes with $e^{s\cos}$.
#
# **Predict.** One picture, 511 wrong captions. At $\tau=0.01$, what share of the push falls on the nearest wrong one? At $\tau=1$?
#
# <details><summary>Answer</summary>
# At 0.01 a large part, and nearly all on the nearest few. At 1 hardly more than on any other, about 1 in 511: even a cosine larger by one only counts e times.
# </details>

# %% slideshow={"slide_type": "-"}
x, y = net(known[:512], name_ids[0, known_concepts[:512]])
cosines, own = x @ y.T, same(known_concepts[:512])

shares = {}
for tau in (0.01, 0.07, 1.0):
    p = (cosines / tau).softmax(dim=1)
    push = p.masked_fill(own, 0).sort(dim=1, descending=True).values                     # on the wrong captions, the hardest first
    shares[tau] = (push / push.sum(dim=1, keepdim=True)).mean(dim=0)
    print(f"τ = {tau:4}: the hardest gets {shares[tau][0]:.1%}, the ten hardest {shares[tau][:10].sum():.1%}; push on all wrong ones {push.sum(dim=1).mean():.2f}")

# %% alt="Share of the push over the wrong captions, hardest first: at temperature 0.01 it is nearly all spent on the first few, at 1 it grows evenly, 0.07 lies between."
lines = {f"τ = {tau:g}": share.cumsum(0)[:500] for tau, share in shares.items()}
plotting.plot_lines(range(1, 501), lines, "wrong captions, the hardest first", "share of the push, added up", "Whom does the gradient push?", logx=True, direct_labels=False)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** At $\tau=0.01$ the nearest wrong caption gets 72 % of the push, at $\tau=1$ 0.3 %: a small $\tau$ learns from few, a large one from all alike (Wang and Liu 2021). Now train with $\tau$ fixed, and learned, on animals and food only.

# %% slideshow={"slide_type": "-"}
groups = load_emoji(64, split="train").column("group")
few = torch.tensor([i for i, group in enumerate(groups) if group in ("animals-nature", "food-drink")])
few_names = known_concepts[few].unique()

def trial(k=1, **options):                                                               # names right, of held-out animals and food
    return naming(fit(few, **options)[0], k=k, among=few_names)

print(f"{len(few):,} pictures, {len(few_names)} names; a guess is right in {1 / len(few_names):.1%}")
for name, fixed in (("τ = 0.01", 100.0), ("τ = 1", 1.0), ("learned", None)):
    print(f"{name:9s} right names, three seeds:", ", ".join(str(trial(scale=fixed, seed=seed)) for seed in range(3)))

# %%
perfect = torch.eye(512)                                                                 # own cosine 1, all others 0
for tau in (1.0, 0.07, 0.01):
    loss = F.cross_entropy(perfect / tau, torch.arange(512))
    print(f"vectors at right angles, own cosine 1: τ = {tau:4}, loss {loss:.2f} of {math.log(512):.2f}")


# %% [markdown]
# **What to see.** From a random start, $\tau=0.01$ does not get going, 1 to 3 % right: each picture is pushed hard from one caption, a random one. At $\tau=1$ pushes are gentle and even, but perfect vectors still pay 5.24 of 6.24: this loss hardly
# tells good from perfect. In so short a run that costs nothing, 25 to 29 % against 26 to 30 % learned. CLIP starts between and *learns* $s$, up to 100: beyond, training became unstable (Radford et al. 2021, section 2.5).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 4 · The batch is the exam
#
# **Intuition.** To be told from 3 captions is easy: the colour will do. To be told from 255, details are needed. Silence pays $\ln N$ and perfection nothing, so $\ln N$ is all that a batch can ask. CLIP used $N=32{,}768$.
#
# A larger batch also averages more gradients. To separate the two we keep the 256 pictures and the steps, and let each pair see only those of its own block of $k$. The rest is left out by `also`.

# %% slideshow={"slide_type": "-"}
def only(k):
    def also(concepts):
        block = torch.arange(len(concepts)) // k
        return same(concepts) | (block[:, None] != block)
    return also

sizes = (4, 32, 256)
by_size = {k: [trial(also=only(k), seed=seed) for seed in range(3)] for k in sizes}
for k, found in by_size.items():
    print(f"told from {k - 1:3d} others, ln N = {math.log(k):.1f}: right names, three seeds", ", ".join(map(str, found)))

# %% alt="Share of right names against captions to choose from, 4, 32 and 256: a clear rise first, then a smaller one within the range of seeds."
found = torch.tensor(list(by_size.values()))                                             # (sizes, seeds)
middle, spread = found.mean(dim=1), (found - found.mean(dim=1, keepdim=True)).T
ax = plotting.labelled_axes("More negatives, same pictures, same steps", "captions to choose from, the own included", "right name")
ax.errorbar(sizes, middle, yerr=[-spread.amin(dim=0), spread.amax(dim=0)], color=plotting.MODEL, marker="o", capsize=4, label="mean and range of three seeds")
ax.set_xscale("log")
ax.set_ylim(0)
ax.legend()
for a, b in ((0, 1), (1, 2)):
    print(f"from {sizes[a]} to {sizes[b]}:", "every seed gains." if (found[b] > found[a]).all() else "the seeds disagree, so nothing is decided here.")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Told from 3 others, 14 to 16 % of names are right, from 31 others 22 to 26 %; the last step, to 255, three seeds do not decide. Same pictures, a harder question, at no cost: the $N$ vectors are there anyway. **Limit**: the web has more to tell apart than these names.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Memory.** The loss needs all $N$ vectors at once, but not all activations: these are computed again, chunk by chunk, when the gradient comes back (*gradient caching*, Gao et al.
# 2021). One forward pass more, for a batch of any size.

# %% slideshow={"slide_type": "-"}
from collections.abc import Callable
from torch.utils.checkpoint import checkpoint


# %%
# @save course_utils/text_encoder/contrastive.py
def embed_in_chunks(encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, chunk: int) -> torch.Tensor:
    if len(inputs) <= chunk:  # nothing to gain
        return encode(inputs)
    return torch.cat([checkpoint(encode, part, use_reentrant=False) for part in inputs.split(chunk)])


# %% [markdown]
# **Check.** The gradient is the plain one. (Not with batch normalisation, where pictures of a chunk look at each other: our towers have none.)

# %%
# NBVAL_CHECK_OUTPUT
x, ids = gallery[:24], tokenize([m["name_en"] for m in emoji.meta[:24]])[0]
gradients = []
for chunk in (24, 6):
    vit.zero_grad()
    contrastive_loss(embed_in_chunks(vit.embed_image, x, chunk), vit.embed_text(ids), vit.scale).backward()
    gradients.append([p.grad.clone() for p in vit.vision_model.parameters()])
print("6 pictures at a time, gradients equal to 1e-5:", all((a - b).abs().max() < 1e-5 for a, b in zip(*gradients)))

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Captions that repeat.** Two dogs in a batch: the loss pushes the first from the second's caption "dog", a **false negative**. Equal captions have equal vectors, so $k$ copies share
# the probability, and each such pair pays at least $\ln k$. (A batch of one caption pays $\ln N$ for ever.)

# %% slideshow={"slide_type": "-"}
one = known_concepts[few[torch.randint(len(few), (256,), generator=torch.Generator().manual_seed(0))]]
print(f"in a batch of 256 from our subset, a caption is true of {same(one).sum(dim=1).float().mean() - 1:.1f} other pictures on average")
held = {}
for name, also in (("pushed away", lambda concepts: None), ("left out", same)):
    runs = [fit(few, also=also, seed=seed) for seed in range(3)]
    held[name] = [naming(run, among=few_names) for run, _ in runs]
    print(f"{name:11s} last loss {runs[0][1][-1]:.2f}, scale {runs[0][0].logit_scale.exp():.1f}; right names, three seeds", ", ".join(map(str, held[name])))
gains = [b - a for a, b in zip(*held.values())]
print("leaving them out helps in every seed." if min(gains) > 0 else "it hurts in every seed." if max(gains) < 0 else "in naming the seeds disagree; loss and scale show the difference.")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Pushed away, they give the loss a floor, 1.26 at the end against 0.78: nobody can be sure of what has two right answers. (Names right: 26 to 30 % either way.) So we leave them out of both softmaxes, by `also`: they become neither positive nor negative. In the recipe a caption
# is true of every picture that shows all it states: "a car" of all cars, "a red car in the snow" of few.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The trained CLIP: naming and search
#
# The checkpoint sees 400 *composed* pictures: held-out drawings, recoloured, on backgrounds.

# %% slideshow={"slide_type": "-"}
from course_utils.evaluation.report_clip import color_accuracy, full_captions, held_out_examples, zero_shot

pictures, composer = held_out_examples(400)
x = to_tensor(pictures.images)
image_embed, own = embed_images(clip, x), torch.arange(400)
text_embed = {language: embed_texts(clip, full_captions(pictures, composer, language)) for language in ("en", "zh")}
for language in ("en", "zh"):
    named = zero_shot(clip, image_embed, pictures.attributes["concept"], language)
    color = color_accuracy(clip, image_embed, pictures, composer, language)
    print(f"{language}: right name of {len(names[language]):,} {named['concept']}, among five {named['concept_top5']}; right colour word of 11: {color}")

# %%
seen, seen_composer = held_out_examples(400, "train")
seen_named = zero_shot(clip, embed_images(clip, to_tensor(seen.images)), seen.attributes["concept"], "en")["concept"]
named = zero_shot(clip, image_embed, pictures.attributes["concept"], "en")["concept"]
print(f"right English name: drawings of the training set {seen_named}, held-out drawings {named}")
print("what limits: the drawings seen; it knows those far better." if seen_named.low > named.high else "what limits: not the number of drawings, for it knows them no better; more training, or a larger network.")

# %% [markdown] slideshow={"slide_type": "subslide"}
# **How it learned.** Its card keeps what it answered on 400 held-out pictures meanwhile. The largest step back is where training was taken up again, at a raised learning rate.

# %% alt="Three curves over the minutes of training: caption found first, name among five, name first; all rise, in this order, with a dip after minute 100." slideshow={"slide_type": "-"}
curve = [point for point in checkpoints.card("clip")["curve"] if "concept" in point]
kinds = {"R@1": "its caption of 400, first", "concept_top5": "its name of 1,015, among five", "concept": "its name, first"}
lines = {label: [point[key] for point in curve] for key, label in kinds.items()}
plotting.plot_lines([point["minutes"] for point in curve], lines, "minutes of training", "share right", "CLIP learns: 400 held-out pictures, English", direct_labels=False)
for p in (curve[0], curve[len(curve) // 2], curve[-1]):
    print(f"after {p['minutes']:.0f} minutes and {p['pictures']:,.0f} pairs", Share.of([i < round(400 * p["concept"]) for i in range(400)]), "named right")
before, after = min(zip(curve, curve[1:]), key=lambda pair: pair[1]["concept"] - pair[0]["concept"])
print(f"largest step back: {before['concept']:.0%} at minute {before['minutes']:.0f}, {after['concept']:.0%} at minute {after['minutes']:.0f}")
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# Nobody trained a classifier: 1,015 names became its weights just now. Next, **retrieval**: 400 pictures and 400 full captions look for their partners. And English captions look for their Chinese
# translations, although no two captions were ever compared in the loss.

# %% slideshow={"slide_type": "-"}
en, zh = text_embed["en"], text_embed["zh"]
searches = {"picture → English": (image_embed, en), "English → picture": (en, image_embed), "picture → Chinese": (image_embed, zh),
            "Chinese → picture": (zh, image_embed), "English → Chinese": (en, zh)}
for name, (query, keys) in searches.items():
    print(f"{name:18s} R@1 {recall(query, keys, own)}, R@5 {recall(query, keys, own, 5)}   (a guess: {1 / 400:.1%})")
hits = [100 * ((image_embed @ keys.T).argmax(dim=1) == own).float() for keys in (en, zh)]
print(f"R@1, English less Chinese, picture by picture: {Mean.of(hits[0] - hits[1]).text(1, ' points')}")

# %% alt="Six held-out pictures on white, coloured or painted backgrounds, each above the caption that CLIP finds nearest among 400."
shown = [3, 57, 120, 200, 310, 371]
best = (image_embed[shown] @ en.T).argmax(dim=1)
captions = full_captions(pictures, composer, "en")
plotting.show_pictures(x[shown], [captions[i] for i in best.tolist()], columns=6, title="Six held-out pictures, and the nearest of 400 captions", scale=1.0)
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Nearest neighbours.** The picture tower alone is useful too. Which picture of the gallery is nearest to another: one of the same thing, or one in the same style?

# %% alt="Two rows of eight emoji: pictures above, and under each the picture whose vector is nearest." slideshow={"slide_type": "-"}
some = torch.arange(0, len(gallery), 10)
cosines = gallery_embed[some] @ gallery_embed.T
cosines[torch.arange(len(some)), some] = -1                                              # not itself
neighbour = cosines.argmax(dim=1)
for key in ("concept", "style"):
    column = emoji.column(key)
    alike = Share.of([column[i] == column[j] for i, j in zip(some.tolist(), neighbour.tolist())])
    chance = sum(column.count(column[i]) - 1 for i in some.tolist()) / len(some) / (len(column) - 1)
    print(f"the nearest has the same {key}: {alike}, any other picture {chance:.1%}")
rows = {"picture": gallery[some[5:400:50]], "nearest": gallery[neighbour[5:400:50]]}
plotting.show_rows(rows, title="Pictures, and their nearest neighbours", scale=0.75)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** What a thing *is* counts far beyond the chance printed beside it, and no label was read for this. Its style does not count: 15 % [13, 19], as by chance.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 5 · A gap, and arithmetic
#
# **Predict.** A picture and its own caption are trained to agree. Do the cloud of pictures and the cloud of captions overlap?
#
# <details><summary>Answer</summary>
# Not wholly. The loss compares cosines with one another, and one shift of all captions changes them nearly alike.
# </details>

# %% slideshow={"slide_type": "-"}
from course_utils.systems.clip import make_clip

def clouds(a, b):
    between = (a.mean(dim=0) - b.mean(dim=0)).norm()
    inside = [(v - v.mean(dim=0)).norm(dim=1).mean() for v in (a, b)]
    cone = [(v.mean(dim=0).square().sum() * len(v) - 1) / (len(v) - 1) for v in (a, b)]  # mean cosine of two different ones
    return f"centres {between:.2f} apart, radius of pictures {inside[0]:.2f}, of captions {inside[1]:.2f}; cosine of two pictures {cone[0]:.2f}, of two captions {cone[1]:.2f}"

torch.manual_seed(0)
fresh = make_clip().eval()
before = embed_images(fresh, x[:100]), embed_texts(fresh, captions[:100])
print("untrained:", clouds(*before))
print("trained:  ", clouds(image_embed, en))


# %% alt="Two clouds of dots, pictures blue and captions pink: untrained they lie far apart, trained they touch, and each still has its own side."
def two_axes(a, b):                                                                      # the line through both centres, and the widest axis across it
    axis = F.normalize(a.mean(dim=0) - b.mean(dim=0), dim=0)
    both = torch.cat([a, b]) - (a.mean(dim=0) + b.mean(dim=0)) / 2
    along = both @ axis                                                                  # (N + M,)
    across = both - along[:, None] * axis
    flat = torch.stack([along, across @ torch.pca_lowrank(across, q=2, niter=4)[2][:, 0]], dim=1)
    return {plotting.DATA: flat[:len(a)], plotting.TEXT: flat[len(a):]}

centres = image_embed[:200].mean(dim=0), en[:200].mean(dim=0)                            # the line from the first 200 pairs,
axis, middle = F.normalize(centres[0] - centres[1], dim=0), (centres[0] + centres[1]) / 2
told = Share.of(torch.cat([(image_embed[200:] - middle) @ axis > 0, (en[200:] - middle) @ axis < 0]))    # the test on the others
print(f"on the line through both centres, {told} lie on their own side (a coin: 50 %):", "two clouds." if told.low > 0.9 else "clouds that overlap in part." if told.low > 0.55 else "one cloud.")
plotting.plot_points([two_axes(*before), two_axes(image_embed, en)], ["untrained", "trained"], "Pictures (blue) and captions (pink)")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Along the line through both centres each cloud keeps its side, as the share says; across they mix. The distance of the centres is the **modality gap** (Liang et al. 2022); in OpenAI's CLIP they lie wholly apart. Why any gap? *At the start* each tower maps everything into its own narrow **cone**: see the cosines of the untrained towers. *And the loss hardly asks to close it.* Add one vector $g$ to all
# captions:
#
# $$s\,z^i_n\!\cdot(z^t_m+g)=\ell_{nm}+\underbrace{s\,z^i_n\!\cdot g}_{\text{same for all }m}$$
#
# The rows' softmax does not see it: Idea 1's blindness again. The columns see only how $z^i_n\cdot g$ *differs* between pictures.

# %% slideshow={"slide_type": "subslide"}
between, scale = image_embed.mean(dim=0) - en.mean(dim=0), float(clip.scale)
rows_only = [float(F.cross_entropy(scale * image_embed @ (en + move * between).T, own)) for move in (0, 1)]
print(f"rows' loss before and after all captions are moved onto the pictures' centre: {rows_only[0]:.4f}, {rows_only[1]:.4f}")
moves = torch.linspace(-0.5, 1.5, 21)
curves = {s: [float(contrastive_loss(image_embed, F.normalize(en + m * between, dim=1), s)) for m in moves] for s in (5.0, scale)}
for s, curve in curves.items():
    best = float(moves[torch.tensor(curve).argmin()])
    print(f"scale {s:3.0f}: lowest loss {min(curve):.3f} at a move of {best:.1f}, without any {curve[5]:.3f}, with the gap closed {curve[15]:.3f}")

# %% alt="Change of the loss while captions move towards the pictures, at two scales: at 36 nearly flat around no move, at 5 lowest a third of the way; both rise beyond."
lines = {f"s = {s:.0f}": torch.tensor(curve) - curve[5] for s, curve in curves.items()}
plotting.plot_lines(moves, lines, "captions moved towards the pictures (1: gap closed)", "loss, less that of no move", "Who would close the gap?")
print(f"closing the gap changes this CLIP's loss by {curves[scale][15] - curves[scale][5]:+.4f}, from {curves[scale][5]:.4f}")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The rows' loss is the same to the last digit, before and after; the whole loss changes by what the last line prints. So compare cosines of a picture
# and a caption only with each other, never with those of two pictures.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Arithmetic.** "Butterfly − blue + pink" is the famous trick: picture vector, minus one word's vector, plus another's. A *difference* of two word vectors has no gap in it, so it may be added to a picture. We take held-out drawings in all
# their colours, and every pair of colours: is the nearest of all other pictures *the same drawing* in the new colour?

# %% slideshow={"slide_type": "-"}
import numpy as np

drawings = [i for i, meta in enumerate(composer.emoji.meta) if len(meta["recolors"]) >= 4][:100]
looks = [(i, color) for i in drawings for color in composer.emoji.meta[i]["recolors"]]
painted = to_tensor(np.stack([composer.render(i, color) for i, color in looks]))
vectors, palette = embed_images(clip, painted), sorted({color for _, color in looks})
words = dict(zip(palette, embed_texts(clip, palette)))
tasks = [(a, b) for a, (i, _) in enumerate(looks) for b, (j, _) in enumerate(looks) if i == j and a != b]
print(f"{len(drawings)} drawings, {len(looks)} pictures, {len(tasks):,} tasks; a guess among all is right in {1 / (len(looks) - 1):.2%}")

# %%
start, goal = torch.tensor(tasks).T
old, new = (torch.stack([words[looks[i][1]] for i in index.tolist()]) for index in (start, goal))

def arithmetic(change):
    cosines = F.normalize(vectors[start] + change, dim=1) @ vectors.T
    cosines[torch.arange(len(start)), start] = -1                                        # not the picture we began with
    hits, drawing = cosines.argmax(dim=1) == goal, torch.tensor([looks[i][0] for i in start.tolist()])
    return Mean.of([hits[drawing == i].float().mean() for i in drawings])                # tasks of one drawing are not independent

other = new[torch.randperm(len(new), generator=torch.Generator().manual_seed(0))]
results = {"− old + new": arithmetic(new - old), "twice that": arithmetic(2 * (new - old)), "+ new alone": arithmetic(new), "control: a random new colour": arithmetic(other - old), "control: no word": arithmetic(0 * new)}
for name, share in results.items():
    print(f"{name:30s} right drawing in the right colour: {share.text(2)}")

# %% [markdown]
# Six tasks, as they come, not the best:

# %% alt="Three rows of six emoji: a picture, the nearest after one colour word was exchanged for another, and the one wanted; five of six agree." slideshow={"slide_type": "subslide"}
sample = torch.arange(0, len(tasks), len(tasks) // 6)[:6]
found = F.normalize(vectors[start] + new - old, dim=1) @ vectors.T
found[torch.arange(len(start)), start] = -1
labels = [f"{looks[start[i]][1]} → {looks[goal[i]][1]}" for i in sample.tolist()]
plotting.show_rows({"picture": painted[start[sample]], "nearest": painted[found.argmax(dim=1)[sample]], "wanted": painted[goal[sample]]}, labels, "Arithmetic with words on pictures", scale=0.9)
control = max(results["control: no word"].high, results["control: a random new colour"].high)
print("the words do it: the interval lies above both controls." if results["− old + new"].low > control else "the intervals overlap with the controls': no evidence for the arithmetic here.")
print("taking the old word away helps." if results["− old + new"].low > results["+ new alone"].high else "taking the old word away adds nothing that could be measured: the new word does the work.")
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What CLIP does not see
#
# We ask with pictures made for the question: one, two or three of a thing; two things side by side; a thing with snow, and without. The wrong captions differ only in the words that matter. As a control, the same with a colour.
#
# **Predict.** Which of the four will it pass?
#
# <details><summary>Answer</summary>
# Colour: in every batch captions differ by it. No batch ever asked for the other three.
# </details>

# %% slideshow={"slide_type": "-"}
from course_utils.datasets.nouns import plural, with_article

things = [i for i, m in enumerate(composer.emoji.meta) if m["group"] in ("animals-nature", "food-drink") and m["name_en"].isalpha()][:90]
name_of = {i: composer.emoji.meta[i]["name_en"] for i in things}
tiny = dict(zip(things, F.interpolate(to_tensor(composer.emoji.select(things).on_white()), 30, mode="area")))   # 30×30 pixels

def side_by_side(*pictures):
    canvas = torch.ones(3, 64, 64)
    for k, picture in enumerate(pictures):                                               # the third goes beneath
        canvas[:, 32 * (k // 2) + 1:32 * (k // 2) + 31, 32 * (k % 2) + 1:32 * (k % 2) + 31] = picture
    return canvas

def forced_choice(pictures, captions):                                                   # the right caption comes first
    v, t = embed_images(clip, pictures), embed_texts(clip, [text for each in captions for text in each])
    scores = torch.einsum("nd,nkd->nk", v, t.unflatten(0, (len(v), -1)))
    return Share.of(scores[:, 0] > scores[:, 1:].amax(dim=1))


# %%
counted = [[f"one {name_of[i]}", f"two {plural(name_of[i])}", f"three {plural(name_of[i])}"] for i in things]
counts = torch.stack([side_by_side(*[tiny[i]] * (1 + n % 3)) for n, i in enumerate(things)])
pairs = [(i, j) if n % 2 else (j, i) for n, (i, j) in enumerate(zip(things, things[1:] + things[:1]))]
sides = [[f"{with_article(name_of[a])} to the left of {with_article(name_of[b])}" for a, b in (pair, pair[::-1])] for pair in pairs]
snow = torch.stack([to_tensor(composer.render(i, None, "snow" if n % 2 else "white")[None])[0] for n, i in enumerate(things)])
snowy = [[f"{with_article(name_of[i])} in the snow", f"{with_article(name_of[i])}, not in the snow"][::1 if n % 2 else -1] for n, i in enumerate(things)]
coloured = [(n, *[c for c in palette if c != looks[n][1]][:1]) for n in range(0, len(looks), len(looks) // 90)]

# %% [markdown]
# Each list of captions has the right one first; CLIP must give it the largest cosine.

# %%
tests = {
    "how many": (forced_choice(counts, [texts[n % 3:] + texts[:n % 3] for n, texts in enumerate(counted)]), 1 / 3),
    "left of": (forced_choice(torch.stack([side_by_side(tiny[a], tiny[b]) for a, b in pairs]), sides), 1 / 2),
    "not": (forced_choice(snow, snowy), 1 / 2),
    "control: colour": (forced_choice(painted[[n for n, _ in coloured]], [[f"{c} {composer.emoji.meta[looks[n][0]]['name_en']}" for c in (looks[n][1], wrong)] for n, wrong in coloured]), 1 / 2),
}
for name, (share, chance) in tests.items():
    print(f"{name:16s} {share}, chance {chance:.0%}:", "above chance." if share.low > chance else "below chance." if share.high < chance else "not to be told from chance.")

# %% alt="Share of right captions with intervals for number, left of, not, and colour, each over a dashed line at chance; colour stands at the top."
ax = plotting.labelled_axes("What CLIP sees, and what it does not", "", "right caption chosen")
for k, (share, chance) in enumerate(tests.values()):
    ax.errorbar(k, share, [[share - share.low], [share.high - share]], fmt="o", color=plotting.MODEL, capsize=5, markersize=9, label="CLIP, 95 % interval" if k == 0 else None)
    ax.plot([k - 0.3, k + 0.3], [chance, chance], color=plotting.REFERENCE, linestyle="--", label="chance" if k == 0 else None)
ax.set_xticks(range(len(tests)), list(tests))
ax.set_ylim(0, 1.05)
ax.legend(loc="upper left")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Colour is told; whether the other three differ from chance, each line says. The loss rewards what tells a picture from *the others of its batch*. There the right things nearly always suffice; who stands left of whom is never the difference between two captions, so nobody is paid to read it (Yuksekgonul et al. 2023: "bags of
# words"). Our captions have no such words at all; those of the real CLIP do, and it fails likewise (Thrush et al. 2022). "Not in the snow" contains "snow". **Limit**: a caption of an unseen form may fail for its form alone.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Where it is used next
#
# | where | what is taken |
# |---|---|
# | Stable Diffusion (notebook 06) | the text tower, frozen: the vectors of *all* tokens, before pooling, for cross-attention |
# | DALL·E 2 (notebook 08) | both vectors: a prior makes $z^i$ from $z^t$, a decoder paints from $z^i$ |
# | scores | the cosine of a picture and its prompt judges generators |
# | search | `course search "粉色的蝴蝶"` writes a page of nearest pictures |
#
# Our **CLIP score** is that of Hessel et al. 2021, $2.5\cdot\max(\cos,0)$, with our own CLIP: it compares models within this course only. A model that builds on CLIP is a friend of its judge.

# %% slideshow={"slide_type": "-"}
from course_utils.evaluation.report_clip import clip_score

print("true captions     ", clip_score(clip, x, captions))
print("those of others   ", clip_score(clip, x, captions[1:] + captions[:1]))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Experiment · Search all pictures
#
# Type a prompt: a thing, a colour, a mood, a word that no emoji is named by.

# %% alt="Twelve emoji in two rows, the nearest to the Chinese for pink butterfly, each with its name and its cosine." slideshow={"slide_type": "-"}
from course_utils.figures.widgets import explore

def search(prompt):
    found = (gallery_embed @ embed_texts(clip, [prompt])[0]).topk(12)
    titles = [f"{emoji.meta[i]['name_en']} {cosine:.2f}" for i, cosine in zip(found.indices.tolist(), found.values)]
    return plotting.show_pictures(gallery[found.indices], titles, columns=6, title=f"Nearest to: {prompt}", scale=0.95)

explore(search, prompt="粉色的蝴蝶")

# %% [markdown] slideshow={"slide_type": "subslide"}
# A page of four (彩色的鱼: colourful fish; 生日: birthday):

# %% alt="Four rows of ten emoji, the nearest to music, a happy face, and in Chinese colourful fish and birthday." slideshow={"slide_type": "-"}
plotting.show_rows({prompt: nearest(prompt, 10) for prompt in ("music", "a happy face", "彩色的鱼", "生日")}, title="A page of nearest pictures", scale=0.6)
for prompt in ("a red apple", "music", "qwertz uiop"):
    print(f"{prompt:12s} largest cosine {(gallery_embed @ embed_texts(clip, [prompt])[0]).max():.2f}")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** There is always a nearest picture, also for nonsense: *qwertz uiop* comes nearer to one (0.75) than *music* does (0.68). A cosine is no yes or no. No emoji has *music* or *happy* as a word of its name. Such words are pieced together from tokens, and may land anywhere: at a mushroom, at faces with a thermometer.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks · Two draws
#
# Somebody tidies up the training loop: one function draws the pictures of a batch, another the captions. No line fails.

# %% alt="Two loss curves over 150 steps: paired rightly it falls to about one, with two draws it stays on the dashed line at ln 256." slideshow={"slide_type": "-"}
_, healthy_losses = fit(few)
broken, broken_losses = fit(few, also=lambda concepts: None, caption_of=lambda concepts, generator: concepts[torch.randperm(len(concepts), generator=generator)])
ax = plotting.labelled_axes("Two draws: the loss stays where silence is", "step", "loss")
ax.plot(healthy_losses, color=plotting.MODEL, label="one draw for both")
ax.plot(broken_losses, color=plotting.NOISE, label="the bug: two draws")
ax.axhline(math.log(256), color=plotting.REFERENCE, linestyle="--", label="ln 256: vectors that say nothing")
ax.legend()
print(f"last loss {broken_losses[-1]:.2f}, ln 256 = {math.log(256):.2f}; scale {broken.logit_scale.exp():.1f}; right names {naming(broken, among=few_names)}")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **The cause.** Pictures and captions are paired by their place in the batch, by nothing else. Shuffle one side and there is nothing to learn; the best answer is silence: 5.54, and $\ln 256$ is 5.55. **The habit that finds it**: draw the line
# $\ln N$ into every plot of this loss. At that line, look at five pairs with your own eyes, then try to overfit one fixed batch.
# (A batch of one pair has loss 0, whatever the network does.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# The check says what is likely wrong. Each exercise has three hints.

# %%
# NBVAL_CHECK_OUTPUT
hint("07-rank", 1)


# %% [markdown]
# ### Exercise 07.1 (warm-up, measure) · How far down the list?
#
# R@1 does not care whether the right one came second or last. Write `reciprocal_rank`: 1 / rank of the right key for each query, where the nearest has rank 1. Then measure: what is its mean for pictures that look for English captions, and for Chinese?

# %%
def reciprocal_rank(query, keys, right):              # (N, D), (M, D), (N,), unit length
    raise NotImplementedError                         # -> (N,)


# %%
check("07-rank", reciprocal_rank)


# %% [markdown]
# **Solution** (folded)

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def reciprocal_rank(query, keys, right):
    cosines = query @ keys.T
    return 1 / (cosines >= cosines.gather(1, right[:, None])).sum(dim=1)

check("07-rank", reciprocal_rank)

# %% tags=["solution"]
for language, keys in (("English", en), ("Chinese", zh)):
    print(f"{language}: mean reciprocal rank {Mean.of(reciprocal_rank(image_embed, keys, own)).text(2)}")


# %% [markdown]
# ### Exercise 07.2 (code, explain) · The floor
#
# Your batch holds captions that repeat, and you do *not* leave them out. Write `loss_floor`: the lowest loss that any vectors can reach, from the captions' numbers alone. Then explain the last loss of "pushed away" in Idea 4.

# %%
def loss_floor(labels):                               # (N,), equal numbers: the same caption
    raise NotImplementedError                         # -> one number, a tensor of shape ()


# %%
check("07-floor", loss_floor)


# %% [markdown]
# **Solution.** A caption that stands $k$ times shares its probability among $k$, at best evenly. In Idea 4 English and Chinese names are different captions, so fewer are *equal* than are *true*.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def loss_floor(labels):
    return (labels[:, None] == labels).sum(dim=1).log().mean()

check("07-floor", loss_floor)


# %% [markdown]
# ### Exercise 07.3 (measure) · Whom does it push?
#
# Write `hardest_share`: for each picture, the hardest wrong caption's share of the whole push on wrong captions. Then measure it on `image_embed @ en.T` at the trained scale, and on the small CLIP: which of the two learns from fewer captions?

# %%
def hardest_share(cosines, temperature):              # (N, N), the own caption on the diagonal
    raise NotImplementedError                         # -> (N,)


# %%
check("07-share", hardest_share)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def hardest_share(cosines, temperature):
    p = (cosines / temperature).softmax(dim=1)
    p.fill_diagonal_(0)
    return p.amax(dim=1) / p.sum(dim=1)

check("07-share", hardest_share)

# %% tags=["solution"]
apart = torch.tensor(list({int(concept): i for i, concept in enumerate(known_concepts)}.values()))[:400]    # 400 concepts, a picture each
small_pair = net(known[apart], name_ids[0, known_concepts[apart]])
for name, (a, b), s in (("the trained CLIP", (image_embed, en), clip.scale), ("the small one", small_pair, net.logit_scale.exp())):
    print(f"{name}, scale {s:.0f}: the hardest wrong caption gets {Mean.of(hardest_share(a @ b.T, 1 / s)).text(2)} of the push")


# %% [markdown]
# ### Exercise 07.4 (transfer) · Yes or no
#
# SigLIP (Zhai et al. 2023) drops the softmax: each of the $N^2$ pairs is one question, "do they belong together?", with $z=+1$ on the diagonal and $-1$ elsewhere: $-\frac1N\sum_{nm}\log\sigma\big(z_{nm}(s\,z^i_n\cdot z^t_m+b)\big)$. Write it. Then explain: what becomes of the two blindnesses of Idea 1 and Idea 5?

# %%
def sigmoid_loss(image_embed, text_embed, scale, bias):   # (N, D) twice, two numbers
    raise NotImplementedError                             # -> a tensor of shape ()


# %%
check("07-sigmoid", sigmoid_loss)


# %% [markdown]
# **Solution.** A sigmoid knows no neighbours, so nothing cancels: a hub is punished in each of its pairs, and a common shift changes every answer, though $b$ can absorb it.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def sigmoid_loss(image_embed, text_embed, scale, bias):
    z = 2 * torch.eye(len(image_embed)) - 1
    return -F.logsigmoid(z * (scale * image_embed @ text_embed.T + bias)).sum() / len(image_embed)

check("07-sigmoid", sigmoid_loss)


# %% [markdown]
# ### Exercise 07.5 (code, measure) · Say it in several ways
#
# Write `class_vectors`: one vector a name from $P$ phrasings of it. Then try it on the checkpoint ("cat", "a picture of a cat", "a cat, noto style", …): does naming gain? Compare intervals. (Radford et al. 2021, section 3.1.4.)

# %%
def class_vectors(text_embed):                        # (C, P, D), unit length
    raise NotImplementedError                         # -> (C, D), unit length


# %%
check("07-ensemble", class_vectors)


# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def class_vectors(text_embed):
    return F.normalize(text_embed.mean(dim=1), dim=1)

check("07-ensemble", class_vectors)

# %% tags=["solution"]
WAYS = ("{}", "a picture of a {}", "{}, noto style", "{}, white background")
phrased = embed_texts(clip, [way.format(name) for name in names["en"].values() for way in WAYS]).unflatten(0, (-1, len(WAYS)))
right = torch.tensor([number[concept] for concept in pictures.attributes["concept"]])
for name, keys in (("the name alone", phrased[:, 0]), ("four phrasings", class_vectors(phrased))):
    print(f"{name}: right name {recall(image_embed, keys, right)}")

# %% [markdown]
# ### Exercise 07.6 (diagnose, then open) · Four patients
#
# Four runs, one healthy; each of the others has one fault of this notebook. Write `symptoms`: the largest distance of a picture vector's length from 1; then, at unit length, the mean cosine of two *different* pictures, and R@1 of pictures that look for captions. Name the faults.
# **Open**: which tower is ahead after an hour? `python tools/compare_towers.py --minutes 60` tells.

# %%
a, b = image_embed[:200], en[:200]
order = torch.randperm(4, generator=torch.Generator().manual_seed(7)).tolist()
cases = [(a, b), (a * torch.linspace(0.5, 3, 200)[:, None], b), (F.normalize(a + 20 * a.mean(dim=0), dim=1), b), (a, b.roll(1, 0))]
patients = {letter: cases[i] for letter, i in zip("ABCD", order)}


# %% [markdown]
# No peeking above.

# %%
def symptoms(image_embed, text_embed):                # (N, D) twice
    raise NotImplementedError                         # -> three numbers, a tensor of shape (3,)


# %%
check("07-symptoms", symptoms)


# %% [markdown]
# **Solution.** Lengths far from 1: somebody forgot to normalise. All pictures alike: collapse. R@1 at chance with all else in order: pairs out of step, as in "two draws".

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def symptoms(image_embed, text_embed):
    x, y, eye = F.normalize(image_embed, dim=1), F.normalize(text_embed, dim=1), torch.eye(len(text_embed)).bool()
    hits = (x @ y.T).argmax(dim=1) == torch.arange(len(x))
    return torch.stack([(image_embed.norm(dim=1) - 1).abs().max(), (x @ x.T)[~eye].mean(), hits.float().mean()])

check("07-symptoms", symptoms)

# %% tags=["solution"]
for letter, patient in patients.items():
    length, alike, right = symptoms(*patient).tolist()
    print(f"{letter}: length off by {length:.2f}, cosine of two pictures {alike:.2f}, R@1 {right:.2f}")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# Words and pictures come to share a space because every batch asks, in both directions, who belongs to whom. Large batches ask harder, temperature says whom to learn from, and what never decides a batch is not learned.
#
# | symbol | code | meaning |
# |---|---|---|
# | $z^i$, $z^t$ | `clip.embed_image(x)`, `clip.embed_text(ids)` | vectors of picture and text (B, D), unit length |
# | $s=1/\tau$ | `clip.scale` | what cosines are multiplied by, at most 100 |
# | $L$ | `contrastive_loss(image_embed, text_embed, scale, also)` | both cross entropies, halved |
# | true, not own | `also` | (N, N), left out of both softmaxes |
# | R@k | `recall(query, keys, right, k)` | share with the right one among the k nearest |
# | CLIP score | `clip_score(clip, x, prompts)` | 2.5 · max(cos, 0), mean |
#
# **What we did not show.** 400 million pairs from the web, and the bias they bring along; distributed batches; fine-tuning.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What fails next: a caption is not a picture
#
# Can we paint from $z^t$ as if it were a picture's vector? How near is the name's vector to its pictures, and how near are these to each other?

# %% slideshow={"slide_type": "-"}
concepts = emoji.column("concept")
members = [[i for i, c in enumerate(concepts) if c == concept] for concept in list(number)[::10]]
members = [index for index in members if len(index) > 2]
mates, text_to = [], []
for index, vector in zip(members, embed_texts(clip, [concepts[index[0]] for index in members])):
    v = gallery_embed[index]
    mates.append(float((v @ v.T)[~torch.eye(len(v), dtype=torch.bool)].mean()))
    text_to.append(float((v @ vector).mean()))
print(f"cosine of two pictures of a thing {Mean.of(mates).text(2)}, of its name and a picture {Mean.of(text_to).text(2)}")
print("the name is farther from its pictures than they are from each other." if Mean.of(text_to).high < Mean.of(mates).low else "the name is as near to its pictures as they are to each other; still it is only one point.")

# %% [markdown] slideshow={"slide_type": "-"}
# Besides, one caption has *one* vector, and many pictures: other styles, colours, places. CLIP can **judge** any pair that we bring, but it cannot **propose**: given a text, it yields no picture vector at all, let alone several different ones. That takes a model of $p(z^i\mid z^t)$, which crosses the gap and draws:
# a **prior**. Notebook 08 builds two.

# %% [markdown]
# ## References
#
# - A. Radford et al., *Learning transferable visual models from natural language supervision* (CLIP), 2021, arXiv 2103.00020: loss (figure 3), towers (section 2.4), training (section 2.5), prompts (section 3.1.4).
# - F. Wang, H. Liu, *Understanding the behaviour of contrastive loss*, 2021, arXiv 2012.09740: temperature and hard negatives.
# - L. Gao et al., *Scaling deep contrastive learning batch size*, 2021, arXiv 2101.06983: gradient caching.
# - W. Liang et al., *Mind the gap*, 2022, arXiv 2203.02053: cones and the modality gap.
# - M. Yuksekgonul et al., 2023, arXiv 2210.01936: bags of words. T. Thrush et al., *Winoground*, 2022, arXiv 2204.03162.
# - X. Zhai et al., *Sigmoid loss for language image pre-training* (SigLIP), 2023, arXiv 2303.15343: algorithm 1.
# - J. Hessel et al., *CLIPScore*, 2021, arXiv 2104.08718: section 3. A. Dosovitskiy et al., *An image is worth 16x16 words* (ViT), 2021, arXiv 2010.11929: eq. 1.

# %% [markdown]
# ← [06 · Stable Diffusion](06_stable_diffusion.ipynb) · [Contents](00_start_here.ipynb) · [08 · DALL·E 2](08_dalle2.ipynb) →

# %% [markdown] slideshow={"slide_type": "slide"}
# # 04 · Text conditioning: how does a sentence steer every step?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/pictures-from-noise/blob/main/notebooks/04_text_conditioning.ipynb)
#
# | | |
# |---|---|
# | **Time** | a 75-minute lecture; three hours with the exercises; the code runs in about two minutes |
# | **Hardware** | any laptop, no GPU, no network |
# | **You need** | notebooks 02 (U-Net, attention, loss) and 03 (DDIM); what a softmax is |
# | **Where we are** | **[text encoder]** → **[generator]** → decoder |
#
# Until now noise alone decided what we get. Now a sentence has a say, in English or in Chinese, and it has it at every step.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 3 min.* Ask the room: "At which step does the sentence enter?" Most say: at the start. The answer is *at all of them*, in several layers,
# in every pixel. Mistakes to wait for: a larger guidance scale is always better; the scale of the paper and that of the code are the same.

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
# Two modules work together here. There is no decoder yet: the generator paints pixels.

# %% slideshow={"slide_type": "-"}
import matplotlib.pyplot as plt
from course_utils.figures import plotting
from course_utils.figures.diagrams import plot_heatmap, strip

plotting.use_course_style()
strip(("text encoder", "generator"))
plt.show()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The result first
#
# One noise, five sentences. Each column shows the picture that the network has in mind at that step.

# %% slideshow={"slide_type": "-"}
import torch
from course_utils import checkpoints
from course_utils.systems.text_pixel import PREDICTION, SCHEDULE, SIZE, TextPixel, tokenize

model, card = checkpoints.load("text-pixel", TextPixel()), checkpoints.card("text-pixel")

def gaussian(count, seed, size=SIZE):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))

SENTENCES = ["green fish, beach", "绿色的鱼，沙滩", "hamburger, night sky", "汉堡，夜空", "panda"]
shown, noise = (1, 3, 6, 10, 15, 25), gaussian(1, seed=0).expand(len(SENTENCES), -1, -1, -1)
states = list(model.sample(noise, SENTENCES, steps=25))
rows = {text: [noise[i], *(states[k - 1].x0[i] for k in shown)] for i, text in enumerate(SENTENCES)}
plotting.show_rows(rows, ["noise", *(f"step {k}" for k in shown)], "The same noise, steered by a sentence", scale=0.75)
plt.show()

# %% [markdown] slideshow={"slide_type": "subslide"}
# ## What we build
#
# 1. A tokenizer: any text, in any language, becomes a short list of numbers.
# 2. A Transformer that turns the numbers into vectors; weights of `transformers` load into it.
# 3. Cross-attention: every pixel asks every word, at every step; and maps that show it.
# 4. Classifier-free guidance: a knob for how closely to follow the prompt. Then we measure what is followed.

# %% [markdown]
# ## Setup

# %%
import math
from collections import Counter
from collections.abc import Iterable

import torch.nn.functional as F
from torch import nn
from course_utils.figures.attention_maps import paint, record_attention, word_maps, words_of
from course_utils.checks.core import check, hint
from course_utils.datasets.compose import BACKGROUNDS, LANGUAGES, WORDS_ZH, Composer, caption
from course_utils.data import FIRST_STYLES, load_emoji, to_tensor, tokenizer_file
from course_utils.errors import GUIDANCE, InputError, number, prompt_list
from course_utils.generator.samplers import check_noise, ddim, dpmpp_2m, sample
from course_utils.generator.schedules import add_noise, make_schedule
from course_utils.layers import Attention, sinusoidal_embedding
from course_utils.systems.stage import spread
from course_utils.text_encoder.tokenizer import encode, open_tokenizer

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Try it yourself: one number for each sentence
#
# Dots again. A sentence is a place and a shape: "left ring", "top square". Five places and three shapes make fifteen
# sentences. One of them, "top cross", is never shown in training.

# %% slideshow={"slide_type": "-"}
PLACES = {"left": (-0.9, 0), "right": (0.9, 0), "top": (0, 0.9), "bottom": (0, -0.9), "middle": (0, 0)}
SHAPES = ("ring", "cross", "square")
SAYINGS, NEW = [(place, shape) for place in PLACES for shape in SHAPES], ("top", "cross")
TAUGHT = [saying for saying in SAYINGS if saying != NEW]

def dots(place, shape, n, generator):                                                    # -> (n, 2)
    a, b = torch.rand(2, n, generator=generator)
    xy = torch.stack([(2 * math.pi * a).cos(), (2 * math.pi * a).sin()], dim=1)
    if shape != "ring":                                                                  # lines, every second one turned
        line = torch.stack([2 * a - 1, torch.zeros(n) if shape == "cross" else (b < 0.5) * 2.0 - 1], dim=1)
        xy = torch.where(torch.rand(n, 1, generator=generator) < 0.5, line.flip(1), line)
    return 0.6 * xy + torch.tensor(PLACES[place]) + 0.03 * torch.randn(n, 2, generator=generator)

# %% [markdown]
# The network of notebook 02 gets one more input: vectors for tokens, the **context** (B, L, D), and a **mask** (B, L) that says which of
# them count. The first idea that comes to mind: number the sentences, one vector each. The rival: one vector a *word*, added up. Token 0
# is a start mark that says nothing.

# %%
class TextDots(nn.Module):
    def __init__(self, num_tokens, width=128):
        super().__init__()
        self.words = nn.Embedding(num_tokens, 16)
        self.layers = nn.Sequential(nn.Linear(64 + 32 + 16, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                    nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, xt, t, context, context_mask):                                     # (B, 2), (B,), (B, L, 16), (B, L)
        place = sinusoidal_embedding(100 * xt.flatten(), 32, max_period=1000).view(-1, 64)
        text = (context * context_mask[..., None]).sum(dim=1)                            # (B, 16), hidden words do not count
        return self.layers(torch.cat([place, sinusoidal_embedding(t, 32), text], dim=1))

def by_sentence(saying):
    return [0, 1 + SAYINGS.index(saying)]

def by_word(saying):
    return [0, 1 + list(PLACES).index(saying[0]), 6 + SHAPES.index(saying[1])]

# %% [markdown] slideshow={"slide_type": "subslide"}
# Training is notebook 02's. One line is new: in a tenth of the examples the words are hidden. Idea 4 says why.

# %% slideshow={"slide_type": "-"}
cosine = make_schedule("cosine")

def hide_some(mask, generator, probability=0.1):
    hidden = torch.rand(len(mask), generator=generator) < probability
    return mask & ~(hidden[:, None] & (torch.arange(mask.shape[1]) > 0))                 # the start mark stays

def fit(num_tokens, tokens, num_steps=1000, batch=256):
    torch.manual_seed(0)
    net, generator = TextDots(num_tokens), torch.Generator().manual_seed(1)
    data, ids = torch.stack([dots(*s, 500, generator) for s in TAUGHT]), torch.tensor([tokens(s) for s in TAUGHT])
    optimizer = torch.optim.AdamW(net.parameters(), lr=8e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, num_steps)
    for _ in range(num_steps):
        which, t = (torch.randint(n, (batch,), generator=generator) for n in (len(TAUGHT), 1000))
        x0 = data[which, torch.randint(500, (batch,), generator=generator)]              # (B, 2)
        eps, mask = torch.randn(batch, 2, generator=generator), hide_some(torch.ones_like(ids[which]).bool(), generator)
        loss = ((net(add_noise(x0, eps, t, cosine), t, net.words(ids[which]), mask) - eps) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return net

nets = {"a vector a sentence": (fit(16, by_sentence), by_sentence), "a vector a word": (fit(9, by_word), by_word)}

# %% [markdown]
# **Predict.** Both nets are asked for "top cross", which neither has seen. What does each draw?
#
# <details><summary>Answer</summary>
# The vector of a sentence that never came up is still random: anything may come. "Top" and "cross" have both been learned, in other
# company: their sum may well mean a cross at the top.
# </details>

# %% slideshow={"slide_type": "subslide"}
def obeying(xy, saying):                                                                 # share of dots where they belong
    return float((torch.cdist(xy, dots(*saying, 2000, torch.Generator().manual_seed(9))).amin(1) < 0.1).float().mean())

@torch.no_grad()
def scatter(model, steps=25):
    return sample(ddim, model, torch.randn(300, 2, generator=torch.Generator().manual_seed(3)), cosine, steps=steps, clip=False)

def said(net, tokens, saying):
    ids = torch.tensor([tokens(saying)] * 300)
    return lambda xt, t: net(xt, t, net.words(ids), torch.ones_like(ids).bool())

clouds = []
for name, pair in nets.items():
    clouds += [scatter(said(*pair, saying)) for saying in (("left", "ring"), NEW)]
    print(f"{name:19s} seen sentence: {obeying(clouds[-2], ('left', 'ring')):4.0%} of the dots are where they belong;"
          f" new sentence: {obeying(clouds[-1], NEW):4.0%}")
plotting.plot_points([{plotting.REFERENCE: dots(*NEW, 300, torch.Generator()), plotting.MODEL: xy} for xy in clouds],
                     ["sentence\n'left ring'", "sentence\n'top cross' (new)", "words\n'left ring'", "words\n'top cross' (new)"],
                     "Numbered sentences cannot be recombined", limit=1.8)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Blue is where the new cross belongs. Numbered sentences work only for what was seen. Words can be recombined, more or less. Language is
# new combinations, so we cut texts into pieces. **Limit**: our sum does not know the order of words, and every dot gets the same sum.
# Three ideas repair this.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 6 min.* One-hot labels were the state of the art for conditional pictures for years: a class, a number. Ask what "a class for each
# sentence" would cost with a thousand concepts, seven colours, twelve backgrounds and two languages.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 1 · Any text as a short list of numbers
#
# **Intuition.** Letters are few, but a sentence of letters is long. Words are short, but there is always one we do not know. So we
# start from the 256 bytes, in which every text of every language is written already, and *join the most frequent pair of neighbours*, again and
# again. Frequent words become one token. Rare ones stay in pieces, and nothing is ever unreadable.
#
# **Notation.** $V$ size of the vocabulary, $(a,b)$ a pair of neighbouring tokens, $n(a,b)$ how often it comes up.
#
# $$\text{repeat}\quad (a,b)^\star=\arg\max_{(a,b)}\,n(a,b),\qquad ab\to\text{a new token}\qquad\text{until there are }V$$
#
# This is byte-pair encoding (Sennrich et al. 2016, algorithm 1). A Chinese character is three bytes in UTF-8; it is joined like any
# other pair. From scratch first. `split` cuts captions into words; the mark `Ġ` is a word's beginning.

# %% slideshow={"slide_type": "-"}
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

rng, shipped = np.random.default_rng(0), open_tokenizer(tokenizer_file())
combinations = [(m, rng.choice(m["recolors"] or [None]), rng.choice(BACKGROUNDS)) for m in load_emoji(SIZE, FIRST_STYLES).meta]
corpus = {lang: [caption(*picked, lang, rng, p_omit=0.1, natural=0) for picked in combinations] for lang in LANGUAGES}

def split(text):
    return [word for word, _ in shipped.pre_tokenizer.pre_tokenize_str(shipped.normalizer.normalize_str(text))]

def join(tokens, pair):
    out, i = [], 0
    while i < len(tokens):
        hit = tokens[i:i + 2] == pair
        out.append("".join(pair) if hit else tokens[i])
        i += 2 if hit else 1
    return tuple(out)

def learn(texts, num_merges):
    words, merges = Counter(tuple(word) for text in texts for word in split(text)), []   # tokens of a word -> how often
    age = {sign: i for i, sign in enumerate(sorted(ByteLevel.alphabet()))}
    for _ in range(num_merges):
        pairs = Counter()
        for tokens, times in words.items():
            for pair in zip(tokens, tokens[1:]):
                pairs[pair] += times
        best = max(pairs, key=lambda p: (pairs[p], -age[p[0]], -age[p[1]]))              # ties: the older tokens
        merges.append((best, pairs[best]))
        age["".join(best)] = len(age)
        words = Counter({join(tokens, best): times for tokens, times in words.items()})
    return merges

# %% [markdown]
# Merge by merge, on the captions of both languages. Single bytes of a Chinese character have no sign of their own: we print them in
# hexadecimal.

# %% slideshow={"slide_type": "subslide"}
BYTES = {sign: byte for byte in range(256) for sign in [
    chr(byte) if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174 else None] if sign}
for extra, byte in enumerate(b for b in range(256) if chr(b) not in BYTES):              # GPT-2's signs for the other bytes
    BYTES[chr(256 + extra)] = byte

def readable(token):                                                                     # "Ġ" -> "_", bytes -> characters
    raw = bytes(BYTES[sign] for sign in token)
    return raw.decode("utf-8", "backslashreplace").replace("\\x", "·").replace(" ", "_")

mine = learn(corpus["en"] + corpus["zh"], 40)
for row in range(0, 24, 6):
    print("   ".join(f"{readable(a)}+{readable(b)} ({n})" for (a, b), n in mine[row:row + 6]))

# %% [markdown] slideshow={"slide_type": "-"}
# Ours is slow but complete. The library does the same in Rust and adds normalisation (NFKC makes the full-width `，` a plain comma), three marks, cutting
# and filling.

# %%
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from course_utils.text_encoder.tokenizer import END, MAX_TOKENS, PAD, PAD_ID, START, VOCAB_SIZE

# %% slideshow={"slide_type": "-"}
# @save course_utils/text_encoder/tokenizer.py
def train_tokenizer(captions: Iterable[str], vocab_size: int = VOCAB_SIZE, max_tokens: int = MAX_TOKENS) -> Tokenizer:
    if vocab_size < 259:
        raise InputError(f"vocab_size must be at least 259 (256 bytes and three marks), not {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])  # "，" becomes ","
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),  # between words, and around commas
            pre_tokenizers.Split(Regex(r"\p{Han}*的|\p{Han}+"), "isolated"),  # Chinese writes no spaces: 粉色的|蝴蝶
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),  # "Ġ" marks where a word begins
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[START, END, PAD], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(captions, trainer)
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=marks)
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(PAD), pad_token=PAD)
    return tokenizer

# %% [markdown]
# And the door that the rest of the course uses: texts in, numbers and mask out.

# %%
# @save course_utils/text_encoder/tokenizer.py
def encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    encodings = tokenizer.encode_batch(prompt_list(texts))
    ids = torch.tensor([e.ids for e in encodings], dtype=torch.long)
    mask = torch.tensor([e.attention_mask for e in encodings], dtype=torch.bool)
    return ids, mask

# %%
# NBVAL_CHECK_OUTPUT
import json

library = json.loads(train_tokenizer(corpus["en"] + corpus["zh"], vocab_size=259 + 40).to_str())["model"]["merges"]
print("our first merges are the library's:", [list(pair) for pair, _ in mine] == library[:40])
ids, mask = encode(shipped, ["dog", "pink butterfly, noto style"])
print(tuple(ids.shape), "real tokens:", mask.sum(dim=1).tolist())
odd = ["粉色的蝴蝶", "serendipity", "🦋", "فراشة"]
print("nothing is lost:", all(shipped.decode(shipped.encode(text).ids).replace(" ", "") == text for text in odd))

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** We train one tokenizer on the English captions alone, one on both languages, with the same size. How many tokens
# does a Chinese caption cost in each?
#
# <details><summary>Answer</summary>
# Without Chinese in training nothing of it is ever joined: three tokens a character. With it, a token holds a whole word.
# </details>

# %% slideshow={"slide_type": "-"}
tokenizers = {"trained on English": train_tokenizer(corpus["en"], 3000, 999), "on both": train_tokenizer(sum(corpus.values(), []), 3000, 999)}
for text in ("pink butterfly", "粉色的蝴蝶", "小鹏P7汽车", "serendipity", "🦋", "فراشة"):
    for name, tokenizer in tokenizers.items():
        print(f"{text if name != 'on both' else '':14s} {name:18s}", " | ".join(map(readable, tokenizer.encode(text).tokens[1:-1])))

# %% [markdown] slideshow={"slide_type": "-"}
# (`·` is a byte in hexadecimal, `_` the beginning of a word.) Now the length of whole captions:

# %% slideshow={"slide_type": "subslide"}
kinds = {"English": corpus["en"][::5], "Chinese": corpus["zh"][::5], "emoji": ["🦋", "🐟🏖", "🐯"], "Arabic": ["فراشة وردية", "سمكة خضراء"]}
lengths = {name: [sum(len(t.encode(text).ids) - 2 for text in texts) / len(texts) for texts in kinds.values()]
           for name, t in tokenizers.items()}
ax = plotting.labelled_axes("Tokens of a text, marks not counted", "", "tokens, mean", 3.0)
for shift, ((name, values), color) in enumerate(zip(lengths.items(), (plotting.AXIS, plotting.TEXT))):
    ax.bar([i + 0.38 * shift for i in range(len(kinds))], values, 0.36, color=color, label=name)
ax.set_xticks([i + 0.19 for i in range(len(kinds))], kinds)
ax.legend()
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Frequent words are whole. A rare word falls into pieces, an emoji or an Arabic word into bytes.
# The mistake to avoid: a tokenizer trained on one language taxes all others. **Limit**: readable is not understood. Our model has no
# idea what `🦋` means.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 8 min.* Let the room do the first three merges of "abab cd abab" by hand. Then show the printed merges and find the first Chinese
# one. CLIP's vocabulary has 49,408 tokens and hardly any Chinese: that is why Taiyi (notebook 13) brings its own text encoder.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 2 · A Transformer reads the sentence
#
# **Intuition.** A token's number says nothing about its neighbours. "Green" should know that it colours a fish. So each token gets a
# vector, and attention (notebook 02) lets tokens collect what they need.
#
# **Notation.** $e_i$ vector of token $i$, $p_i$ vector of place $i$, $h$ (B, L, D), LN layer norm, $c$ the context.
#
# $$h=e+p,\qquad h\leftarrow h+\operatorname{attn}(\operatorname{LN}(h)),\qquad h\leftarrow h+\operatorname{MLP}(\operatorname{LN}(h)),\qquad c=\operatorname{LN}(h)$$
#
# The two middle steps are one layer, repeated. This is CLIP's text tower (Radford et al. 2021, section 2.4). Its attention is **causal**:
# token $i$ sees only the tokens $0\dots i$. So only the end mark has seen all: its vector stands for the whole sentence (`pooled`).

# %%
# @save course_utils/text_encoder/clip.py
class Embeddings(nn.Module):
    def __init__(self, vocab_size: int, max_tokens: int, dim: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.position_embedding = nn.Embedding(max_tokens, dim)

    def forward(self, ids):
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]  # (B, L, D)

# %% [markdown]
# `causal` is a switch: CLIP's picture tower (notebook 07) has no mask.

# %%
# @save course_utils/layers.py
class SelfAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int, causal: bool = True):
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.q_proj, self.k_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def split(self, x):
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, L, head_dim)

    def forward(self, x):
        q, k, v = self.split(self.q_proj(x)), self.split(self.k_proj(x)), self.split(self.v_proj(x))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(h.transpose(1, 2).flatten(2))  # (B, L, D)


class MLP(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h))

# %% [markdown]
# A layer adds both to what it got; the encoder stacks layers.

# %%
# @save course_utils/layers.py
class Layer(nn.Module):
    def __init__(self, dim: int, num_heads: int, causal: bool = True):
        super().__init__()
        self.layer_norm1, self.self_attn = nn.LayerNorm(dim), SelfAttention(dim, num_heads, causal)
        self.layer_norm2, self.mlp = nn.LayerNorm(dim), MLP(dim)

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    def __init__(self, dim: int, num_layers: int, num_heads: int, causal: bool = True):
        super().__init__()
        self.layers = nn.ModuleList([Layer(dim, num_heads, causal) for _ in range(num_layers)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

# %% [markdown] slideshow={"slide_type": "subslide"}
# Together: numbers in, a vector for each token out.

# %% slideshow={"slide_type": "-"}
# @save course_utils/text_encoder/clip.py
class CLIPTextModel(nn.Module):
    def __init__(self, vocab_size, max_tokens, dim, num_layers, num_heads, eos_id=1):
        super().__init__()
        self.eos_id = eos_id
        self.embeddings = Embeddings(vocab_size, max_tokens, dim)
        self.encoder = Encoder(dim, num_layers, num_heads, causal=True)
        self.final_layer_norm = nn.LayerNorm(dim)
        nn.init.normal_(self.embeddings.token_embedding.weight, std=0.02)  # GPT-2's and CLIP's start
        nn.init.normal_(self.embeddings.position_embedding.weight, std=0.01)

    def forward(self, ids):
        return self.final_layer_norm(self.encoder(self.embeddings(ids)))

    def pooled(self, ids, context):
        end = (ids == self.eos_id).int().argmax(dim=-1)
        return context[torch.arange(len(ids), device=ids.device), end]

# %% [markdown]
# **Check** against `transformers`: its random weights load into ours by name, strictly, and the answers agree.

# %%
# NBVAL_CHECK_OUTPUT
import transformers

peer = transformers.CLIPTextModel(transformers.CLIPTextConfig(
    vocab_size=VOCAB_SIZE, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=MAX_TOKENS, bos_token_id=0, eos_token_id=1, pad_token_id=PAD_ID)).eval()
ours = CLIPTextModel(VOCAB_SIZE, MAX_TOKENS, dim=64, num_layers=2, num_heads=4).eval()
print(ours.load_state_dict(peer.state_dict()))
with torch.no_grad():
    context, answer = ours(ids), peer(input_ids=ids)
print(tuple(ids.shape), "->", tuple(context.shape), "equal:", torch.allclose(context, answer.last_hidden_state, atol=1e-5),
      "| pooled equal:", torch.allclose(ours.pooled(ids, context), answer.pooler_output, atol=1e-5))

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict.** In our trained encoder we exchange one token of "green fish, beach" for another. Whose vectors change?
#
# <details><summary>Answer</summary>
# Its own, and those behind it. Nothing before it can know.
# </details>

# %% slideshow={"slide_type": "-"}
(ids, _), other = tokenize(["green fish, beach"]), tokenize(["rocket"])[0][0, 1]
names = [readable(t).strip("_") or t for t in shipped.encode("green fish, beach").tokens[1:-1]]
with torch.no_grad():
    before, change = model.text_encoder(ids), []
    for j in range(1, ids.shape[1] - 1):
        changed = ids.clone()
        changed[0, j] = other
        change.append((model.text_encoder(changed) - before)[0].norm(dim=-1) / before[0].norm(dim=-1))
change = torch.stack(change, dim=1)                                                      # (L, L - 2)
figure = plot_heatmap(change, names, ["start", *names, "end"], "Who notices when one word changes?", "this word is exchanged",
                      "this vector moves", values="{:.1f}", limits=(0, 1.5))
figure.axes[0].set_aspect("auto")
figure.set_size_inches(6, 3.4)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
print("tokens before the exchange do not move:", bool((change.triu(0)[1:-1].triu(1) == 0).all() and (change[0] == 0).all()))
print("the end mark notices every exchange:", bool((change[-1] > 0.01).all()))

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Above the diagonal nothing moves. Below it, later vectors have taken in earlier words: "fish" carries some of "green".
# **Limit**: three layers, captions of emoji.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 7 min.* Point at the row of the end mark: it is CLIP's sentence vector, and notebook 07 is about it. Point at the row of the start
# mark: it never changes. That is why it can stand for "no text".

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 3 · Cross-attention: every pixel asks every word
#
# **Intuition.** In notebook 02 pixels asked pixels. Now each place of the feature map asks the words: "are you about me?" It
# gets back a mixture of their vectors. A place in the sky attends to "beach", a place in the middle to "fish".
#
# **Notation.** $h$ features of $N$ places, $c$ the context of $L$ tokens, $W$ learned matrices, $d$ width per head.
#
# $$Q=W_Q\,h,\quad K=W_K\,c,\quad V=W_V\,c,\qquad A=\operatorname{softmax}\!\Big(\frac{QK^{\top}}{\sqrt d}\Big),\qquad h\leftarrow h+W_O\,A\,V$$
#
# $A$ (N, L) holds, for each place, the share of attention that each token gets; a row adds up to 1 (LDM, section 3.3). Hidden tokens get
# $-\infty$ before the softmax: share 0. `Attention` is notebook 02's class, called with a context. What is new is the block
# around it: pixels among themselves, pixels with words, then a feed-forward net with a gate.

# %%
# @save course_utils/layers.py
class GEGLU(nn.Module):
    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner)

    def forward(self, x):
        h, gate = self.proj(x).chunk(2, dim=-1)
        return h * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(dim, 4 * dim), nn.Dropout(0.0), nn.Linear(4 * dim, dim)])

    def forward(self, x):
        return self.net[2](self.net[0](x))

# %%
# @save course_utils/layers.py
class TransformerBlock(nn.Module):
    def __init__(self, dim, num_heads, context_dim):
        super().__init__()
        head_dim = dim // num_heads
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn1 = Attention(dim, num_heads, head_dim)
        self.attn2 = Attention(dim, num_heads, head_dim, context_dim)
        self.ff = FeedForward(dim)

    def forward(self, x, context=None, mask=None):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context, mask)
        return x + self.ff(self.norm3(x))

# %% [markdown]
# A feature map becomes a row of places, goes through the block, and becomes a map again.

# %%
# @save course_utils/layers.py
class Transformer2D(nn.Module):
    def __init__(self, channels, num_heads, context_dim, groups=32):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)  # LDM's own eps, unlike the residual block's
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, num_heads, context_dim)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x, context=None, mask=None):
        h = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)  # (B, H*W, C)
        h = self.transformer_blocks[0](h, context, mask)
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))

# %%
# NBVAL_CHECK_OUTPUT
import diffusers

peer = diffusers.Transformer2DModel(num_attention_heads=4, attention_head_dim=8, in_channels=32, cross_attention_dim=64,
                                    norm_num_groups=8).eval()
ours = Transformer2D(32, num_heads=4, context_dim=64, groups=8).eval()
print(ours.load_state_dict(peer.state_dict()))
x, words, visible = torch.randn(2, 32, 8, 8), torch.randn(2, 5, 64), torch.ones(2, 5, dtype=torch.bool)
with torch.no_grad():
    print("equal to diffusers:", torch.allclose(ours(x, words), peer(x, encoder_hidden_states=words, return_dict=False)[0], atol=1e-5))
    visible[:, 3:] = False
    print("hidden words do not matter:", torch.allclose(ours(x, words, visible), ours(x, words[:, :3]), atol=1e-5))

# %% [markdown] slideshow={"slide_type": "subslide"}
# Cross-attention stands only where the feature map is small. So that *every* block knows what to draw, we also add the vector of the whole sentence to the
# step's vector (as Imagen does, section 2.4). Its norm starts at zero: in the beginning it is silent, and training turns it up.

# %% slideshow={"slide_type": "-"}
from course_utils.generator.unet import Patched, UNet

# %% slideshow={"slide_type": "-"}
# @save course_utils/systems/text_pixel.py
class PooledTextUNet(Patched):
    def __init__(self, unet, patch=2):
        super().__init__(unet, patch)
        nn.init.zeros_(unet.add_embedding.image_norm.weight)  # begins silent: it may only ever help

    def forward(self, x, t, context, context_mask):
        last = context_mask.sum(dim=1) - 1
        text = context[torch.arange(len(last), device=last.device), last]  # (B, D)
        return super().forward(x, t, context=context, context_mask=context_mask, added=text)

# %% [markdown]
# `last` is the last token that the mask shows: the end mark, which has read all the others, or the start mark where the caption is hidden.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Maps: which place attends to which word?
#
# The weights $A$ are there at every step; `record_attention` keeps them while the network draws. We average over heads and layers, and add the
# tokens of a word (Prompt-to-Prompt, section 3; DAAM, section 2.2). Colour means: this place attends to this word, in comparison
# with other places and steps.
#
# **Predict.** Which places attend to "beach"? At which steps do words count most?
#
# <details><summary>Answer</summary>
# Those around the subject. And the early steps: while the picture is noise, only the text tells what to draw.
# </details>

# %% slideshow={"slide_type": "-"}
def attention_run(prompt, seed=0, steps=25):
    with record_attention(model.unet) as record:
        states = list(model.sample(gaussian(1, seed), [prompt], steps=steps))
    maps = record.maps()[:, 1]                                                           # (S, L, 8, 8), the half with text
    return states, word_maps(maps, words_of(shipped, prompt), SIZE), record

def map_rows(prompt, columns=(0, 3, 7, 13, 24)):
    states, maps, _ = attention_run(prompt)
    rows = {"picture so far": [states[k].x0[0] for k in columns]}
    for word, shares in maps.items():                                                    # (S, 32, 32)
        heat = (shares - shares.min()) / (shares.max() - shares.min())
        rows[word] = [paint(states[k].x0[0], heat[k]) for k in columns]
    return rows, [f"step {k + 1}" for k in columns]

# %% slideshow={"slide_type": "subslide"}
for prompt in SENTENCES[:2]:
    plotting.show_rows(*map_rows(prompt), f"Which place attends to which word: {prompt}", scale=0.7)
    plt.show()

# %% [markdown]
# **Check.** The shares of all tokens add up to 1 at every place.

# %%
# NBVAL_CHECK_OUTPUT
_, maps, record = attention_run(SENTENCES[0], steps=5)
print("feature maps that attend to the text have sides", record.sides, "and each step is kept:", len(record.steps) == 5)
everything = record.maps()[:, 1].sum(dim=1)                                              # (S, 8, 8)
print("the shares of all tokens add up to 1:", torch.allclose(everything, torch.ones_like(everything), atol=1e-4))
print("words:", list(maps))

# %% [markdown] slideshow={"slide_type": "subslide"}
# A map shows what *attends*. It does not prove that the word *moves* the pixel. The honest test leaves the word out of the sentence and draws again, from the
# same noise.

# %% slideshow={"slide_type": "-"}
def left_out(sentences):                                                                 # the whole sentence first
    pictures = draw_prompts(sentences, gaussian(1, seed=0).expand(len(sentences), -1, -1, -1))
    moved = (pictures - pictures[:1]).abs().mean(dim=1)                                  # (B, 32, 32)
    return pictures, [paint(pictures[0], m / moved.max().clamp(min=1e-6)) for m in moved]

def draw_prompts(prompts, xT, steps=12, guidance=1.5, negative=None):                    # notebook 03's quick solver
    return list(model.sample(xT, prompts, steps, guidance, negative, dpmpp_2m))[-1].xt               # (B, 3, 32, 32)

rows = {}
for sentences in (["green fish, beach", "fish, beach", "green, beach", "green fish"], ["绿色的鱼，沙滩", "鱼，沙滩", "绿色的，沙滩", "绿色的鱼"]):
    rows[sentences[0]], rows["moved by a word" + " " * len(rows)] = left_out(sentences)
plotting.show_rows(rows, ["all words", "no green", "no fish", "no beach"], "Leave one word out", scale=0.75)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The sentence is attended to at every step. At which are the maps strongest? (The noise tells least at the first.) Different words are attended to in
# different places. Compare the maps of the two languages, then both with the honest test: which word moves the background, which the subject, which hardly anything?
# **Limit**: our maps have 8×8 places, words have read the words before them (idea 2), and the whole sentence's vector moves every
# place. A map is a hint and no proof.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 9 min.* This answers the question of the title. Cover the row labels and let the room guess which word each row is. Then: why may
# the map of "fish" show green parts? (The token "fish" has read "green".)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Idea 4 · Classifier-free guidance: follow the prompt more closely
#
# **Intuition.** A network that was taught with captions may still half ignore them: the noisy picture alone tells it a lot. So we ask
# twice, once with the sentence and once without. The difference is *what the sentence wants*. We go further in that direction.
#
# **Notation.** $y_\theta$ the network's answer, $c$ the context, $\varnothing$ no text, $s$ the guidance scale.
#
# $$\hat y=y_\theta(x_t,t,\varnothing)+s\,\big(y_\theta(x_t,t,c)-y_\theta(x_t,t,\varnothing)\big)$$
#
# $s=0$ ignores the text, $s=1$ is the plain answer, $s>1$ exaggerates. The paper (Ho and Salimans 2022, equation 6) writes $w=s-1$, so that 0 is
# off: the same idea, and a classic source of confusion. To answer without text the network must have practised it, so training hides
# the caption of one example in ten: all tokens but the start mark, which says nothing.

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/guidance.py
def apply_guidance(uncond, cond, scale):
    return uncond + scale * (cond - uncond)


def drop_caption(context_mask, probability, generator):
    dropped = torch.rand(len(context_mask), generator=generator) < probability
    keep = torch.zeros_like(context_mask)
    keep[:, 0] = True
    return torch.where(dropped.to(context_mask.device)[:, None], keep, context_mask)

# %% [markdown]
# **Check.** Two known scales, and the share of hidden captions.

# %%
# NBVAL_CHECK_OUTPUT
u, c = gaussian(1, seed=1), gaussian(1, seed=2)
print("0 ignores the text:", torch.equal(apply_guidance(u, c, 0), u), "| 1 is the plain answer:", torch.allclose(apply_guidance(u, c, 1), c, atol=1e-6))
kept = drop_caption(torch.ones(10000, 6, dtype=torch.bool), 0.1, torch.Generator().manual_seed(0))
print("hidden:", round(float((kept.sum(dim=1) == 1).float().mean()), 1), "| the start mark always stays:", bool(kept[:, 0].all()))

# %% [markdown] slideshow={"slide_type": "subslide"}
# First on dots, where we see what happens. **Predict.** "left ring" at scales -1, 0, 1, 2 and 4: which of them draws the best ring?
#
# <details><summary>Answer</summary>
# A little above 1: stray dots are gone. Then the dots flee what other sentences share with the ring: first a piece of it is left, at last
# nothing. A negative scale runs away from the sentence.
# </details>

# %% slideshow={"slide_type": "-"}
words_net, scales = nets["a vector a word"][0], (-1, 0, 1, 2, 4)

def guided_dots(scale, saying=("left", "ring")):
    ids = torch.tensor([by_word(saying)] * 300)
    seen, unseen = torch.ones_like(ids).bool(), torch.tensor([[True, False, False]]).expand(300, -1)
    return scatter(lambda xt, t: apply_guidance(*(words_net(xt, t, words_net.words(ids), m) for m in (unseen, seen)), scale))

clouds = [guided_dots(s) for s in scales]
for s, xy in zip(scales, clouds):
    print(f"scale {s:2d}: {obeying(xy, ('left', 'ring')):4.0%} of the dots on the ring, spread {xy.std(dim=0).mean():.2f}")
ring = dots("left", "ring", 300, torch.Generator())
plotting.plot_points([{plotting.REFERENCE: ring, plotting.MODEL: xy} for xy in clouds], [f"scale {s}" for s in scales],
                     "Guidance pushes away from what other sentences share", limit=2)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** A little guidance removes stray dots. More of it destroys variety, then the shape. *A higher scale is not better; it is a trade.*
# For pictures we need a judge, below.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 8 min.* Write u + s(c - u) on the board as an arrow from u through c. Ask for s = 0, 1, 2, then for the paper's w. Where the
# sentence agrees with all others, c - u is zero and guidance does nothing.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## The key piece: a model with its prompt
#
# Samplers know no text (notebook 03). So we wrap network, context and scale into something that looks like a plain predictor, $(x_t,t)\to y$. Both
# answers come from one batch of twice the size. In place of *no text* we may give a text to move away from: the **negative prompt**.

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/guidance.py
def guided(model, context, context_mask, scale, negative=None, negative_mask=None):
    if scale == 1:
        return lambda xt, t: model(xt, t, context=context, context_mask=context_mask)
    if negative is None:
        negative, negative_mask = context, torch.zeros_like(context_mask)
        negative_mask[:, 0] = True
    both, mask = pad_and_cat(negative, context), pad_and_cat(negative_mask, context_mask)

    def answer(xt, t):
        pred = model(torch.cat([xt, xt]), torch.cat([t, t]), context=both, context_mask=mask)
        return apply_guidance(*pred.chunk(2), scale)

    return answer


def pad_and_cat(first, second):
    length = max(first.shape[1], second.shape[1])
    padded = [torch.cat([x, x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])], dim=1) for x in (first, second)]
    return torch.cat(padded)

# %%
# NBVAL_CHECK_OUTPUT
xt, t = gaussian(2, seed=0), torch.tensor([700, 200])
with torch.no_grad():
    (context, mask), start = model.encode_prompt(["green fish, beach", "dog"]), model.encode_prompt([""] * 2)
    plain = model.unet(xt, t, context=context, context_mask=mask)
    silent = model.unet(xt, t, context=start[0][:, :1], context_mask=start[1][:, :1])
    for scale in (0, 1, 3):
        answer = guided(model.unet, context, mask, scale)(xt, t)
        print(f"scale {scale}: as by hand", torch.allclose(answer, apply_guidance(silent, plain, scale), atol=1e-4))

# %% [markdown] slideshow={"slide_type": "subslide"}
# All of it together is the network of this notebook: it encodes the prompt, it predicts, it samples with any sampler.

# %% slideshow={"slide_type": "-"}
# @save course_utils/systems/text_pixel.py
class TextPixel(nn.Module):
    def __init__(self):
        super().__init__()
        self.text_encoder = CLIPTextModel(VOCAB_SIZE, MAX_TOKENS, dim=128, num_layers=3, num_heads=4)
        unet = UNet(
            12, 12, channels=(32, 64, 160), num_res_blocks=1, attention=(False, True, False),
            num_heads=4, groups=8, context_dim=128, added_dim=128,
        )  # fmt: skip
        self.unet = PooledTextUNet(unet, patch=2).to(memory_format=torch.channels_last)  # this layout is faster on CPUs

    def encode_prompt(self, prompts):
        ids, mask = (x.to(self.device) for x in tokenize(prompt_list(prompts)))
        return self.text_encoder(ids), mask

    @property
    def device(self):
        return self.text_encoder.final_layer_norm.weight.device

    def forward(self, xt, t, ids, context_mask, translation):
        context, other = self.text_encoder(ids), self.text_encoder(translation)
        vectors = self.text_encoder.pooled(ids, context), self.text_encoder.pooled(translation, other)
        return self.unet(xt, t, context=context, context_mask=context_mask), *vectors

    def conditioned_model(self, prompts, guidance, negative=None):
        (context, mask), guidance = self.encode_prompt(prompts), number("guidance", guidance, GUIDANCE)
        if not negative:
            return guided(self.unet, context, mask, guidance)
        texts = prompt_list(negative, len(context), "negative prompt")
        away, away_mask = self.encode_prompt(texts)
        away_mask[[i for i, text in enumerate(texts) if not text], 1:] = False  # no text: the start mark alone
        return guided(self.unet, context, mask, guidance, away, away_mask)

    @torch.inference_mode()
    def sample(self, xT, prompts, steps=50, guidance=1.5, negative=None, sampler=ddim, **options):
        prompts = prompt_list(prompts)
        count = max(len(prompts), len(check_noise(xT)))  # one prompt for all noises, or one noise for all prompts
        xT, prompts = spread("noises", xT.to(self.device), count), prompt_list(prompts, count)
        model = self.conditioned_model(prompts, guidance, negative)
        yield from sampler(model, xT, SCHEDULE, steps=steps, prediction=PREDICTION, **options)

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Negative prompts.** The butterfly of the noto style is blue. We ask for it, and move away from "blue", then from a blue butterfly, in either
# language; all at scale 5.

# %% slideshow={"slide_type": "-"}
def blueness(x):                                                                         # of the coloured pixels
    coloured = (x.amax(dim=1) - x.amin(dim=1)) > 0.3                                     # (B, 32, 32)
    return float((x[:, 2] - x[:, 0])[coloured].mean())

BASE = "butterfly, noto style"
away = {BASE: (BASE, None), "away from blue": (BASE, "blue"), "away from blue butterfly": (BASE, f"blue {BASE}"),
        "away from 蓝色的蝴蝶": (BASE, "蓝色的蝴蝶，noto风格"), '"not blue butterfly"': (f"not blue {BASE}", None)}
rows = {name: draw_prompts([text] * 6, gaussian(6, seed=3), guidance=5, negative=no) for name, (text, no) in away.items()}
print("blue minus red:", ", ".join(f"{name} {blueness(x):+.2f}" for name, x in rows.items()))
plotting.show_rows(rows, title="A negative prompt, and the word not", scale=0.7)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Compare the printed numbers and the rows. A negative prompt sets a direction: from it to the sentence. "Blue" alone leads away from all that
# blue pictures share, and of that the wings are little. Named in full, prompt and negative prompt differ in the colour alone, and the colour gives way. To *write* "not blue" puts the
# word blue into the sentence; no caption of ours has ever used "not". **Limit**: a negative prompt says what to avoid, not what comes instead.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Train it
#
# Text encoder and U-Net learn together, from one loss: notebook 02's, with the caption's context, hidden one time in ten. Two things are
# new. Noisy steps come up more often, for there only the text tells what to draw: $t=\lfloor T\,u^{0.4}\rfloor$ with $u$ even in $[0,1)$.

# %% slideshow={"slide_type": "-"}
# @save course_utils/generator/objectives.py
def sample_timesteps(n, num_steps, power=1.0, generator=None):
    u = torch.rand(n, generator=generator, dtype=torch.float64)  # float32 could round up to T
    return (num_steps * u**power).long()

# %% [markdown]
# And each batch has every caption in the other language too: the sentence vector
# of a caption should be nearest to that of its own translation. This is CLIP's loss between two languages; notebook 07 takes it apart.
#
# $$L=\mathbb{E}\,\lVert y_\theta(x_t,t,c)-x_0\rVert^2+\lambda\,L_{\text{translation}},\qquad\lambda=0.02$$

# %% slideshow={"slide_type": "-"}
from course_utils.generator.objectives import target
from course_utils.recipes.text_pixel import P_DROP, TIMESTEP_POWER, TRANSLATION, emoji

# %% slideshow={"slide_type": "-"}
# @save course_utils/recipes/text_pixel.py
def translation_loss(first, second, temperature=0.07):
    logits = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature  # (B, B)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def loss(model, batch, generator):
    x0, ids = batch["x0"], batch["ids"]
    mask = drop_caption(ids != PAD_ID, P_DROP, generator)
    t = sample_timesteps(len(x0), SCHEDULE.num_steps, TIMESTEP_POWER, generator).to(x0.device)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    xt = add_noise(x0, eps, t, SCHEDULE)
    pred, text, translation = model(xt, t, ids, mask, batch["translation"])
    error = F.mse_loss(pred.float(), target(PREDICTION, x0, eps, t, SCHEDULE))
    return error + TRANSLATION * translation_loss(text, translation)

# %% [markdown]
# The checkpoint learned more concepts, and for longer. Less than a minute is enough for eight, in seven colours, two languages and 16×16 pixels: same
# network, same loss, same loop.

# %%
from course_utils.training import Recipe, train
from course_utils.figures.widgets import explore, prompt_box, training_monitor

CONCEPTS = ("sun", "grapes", "taxi", "teapot", "cat face", "tent", "violin", "hamburger")
COLORS = ("red", "yellow", "green", "blue", "purple")
few = load_emoji(16, FIRST_STYLES).select(lambda m: m["concept"] in CONCEPTS)
source = Composer(few, p_color=0.8, p_background=0, min_scale=1.0, p_omit=2, natural=0, p_tags=0)   # captions of subject and colour alone

def live_batch(generator, n):
    examples = source.compose(n, seed=int(torch.randint(2**31, (), generator=generator)))
    a, texts = examples.attributes, [examples.captions, []]
    for i, color, language in zip(a["index"], a["color"], a["language"]):
        other = LANGUAGES[1 - LANGUAGES.index(language)]
        texts[1].append(caption(few.meta[i], color, None, other, p_omit=2))
    return {"x0": to_tensor(examples.images), "ids": tokenize(texts[0])[0], "translation": tokenize(texts[1])[0]}

# %% [markdown] slideshow={"slide_type": "subslide"}
# How long, and what loss is normal? We compare with two answers that read neither $x_t$ nor the text: grey everywhere, and the mean picture.

# %% slideshow={"slide_type": "-"}
LIVE_MINUTES = 0.75
trial = [live_batch(torch.Generator().manual_seed(k), 16) for k in range(12)]

@torch.no_grad()
def mean_loss(net):
    return sum(float(loss(net, part, torch.Generator().manual_seed(k))) for k, part in enumerate(trial)) / len(trial)

x0, guessing = torch.cat([part["x0"] for part in trial]), TRANSLATION * math.log(16)     # one translation among 16
grey, blind = (guessing + float(x.mean()) for x in (x0.square(), x0.var(dim=0, correction=0)))
band = (0.2 * blind, 0.6 * blind)
print(f"expected: {60 * LIVE_MINUTES:.0f} s. Grey scores {grey:.3f}, the mean picture {blind:.3f};")
print(f"a normal short run ends between {band[0]:.3f} and {band[1]:.3f}.")

# %% slideshow={"slide_type": "-"}
eight = Recipe(name="eight-words", summary="eight concepts in colours", model=TextPixel, batch=live_batch, loss=loss,
               batch_size=16, lr=1.5e-3, ema_decay=0.99)
history = [(state.step, state.loss, state) for state in training_monitor(train(eight, LIVE_MINUTES))]
steps, losses, (*_, end) = zip(*history)
live = end.ema.to("cpu")

# %% [markdown]
# **Is this normal?**

# %% slideshow={"slide_type": "subslide"}
last_loss = mean_loss(live)
print(f"{end.step:,} steps, {end.pictures:,} pictures seen, loss {last_loss:.3f}: ", end="")
print("normal." if band[0] <= last_loss <= band[1] else "better than usual." if last_loss < band[0] else
      "higher than usual. A slow or busy machine takes fewer steps: raise LIVE_MINUTES and run again.")
plotting.plot_loss(steps, losses, band, "Live training on this machine")
plt.show()

# %% [markdown]
# Does it obey? We ask for every concept in five colours, from one noise. The judge is simple: of all real pictures in these colours, which one is
# nearest, and is it what we asked for?

# %% slideshow={"slide_type": "subslide"}
real = [(m["concept"], color, source.render(i, color)) for i, m in enumerate(few.meta) for color in m["recolors"] if color in COLORS]
known = to_tensor(np.stack([picture for *_, picture in real]))                           # (R, 3, 16, 16)
requests = [(concept, color) for color in COLORS for concept in CONCEPTS]
zh = {m["concept"]: m for m in few.meta}
asked = {"English": [f"{color} {concept}" for concept, color in requests],
         "Chinese": [caption(zh[concept], color, None, "zh", p_omit=2) for concept, color in requests]}

def obeys(texts, guidance):
    xT = gaussian(1, seed=0, size=16).expand(len(texts), -1, -1, -1)
    x = list(live.sample(xT, texts, 15, guidance))[-1].xt
    found = [real[i][:2] for i in torch.cdist(x.flatten(1), known.flatten(1)).argmin(dim=1)]
    return x, [sum(f[k] == w[k] for f, w in zip(found, requests)) / len(requests) for k in (0, 1)]

for language, guidance in (("English", 0), ("English", 2), ("Chinese", 2)):
    x, (concept, color) = obeys(asked[language], guidance)
    print(f"{language}, guidance {guidance}: right concept {concept:4.0%}, right colour {color:4.0%}")
plotting.show_rows({f"{WORDS_ZH[row]}的 ({row})": part for row, part in zip(COLORS, x.split(len(CONCEPTS)))}, CONCEPTS,
                   f"After {60 * LIVE_MINUTES:.0f} seconds: forty Chinese sentences, one noise", scale=0.65)
plt.show()
LEARNED = set(emoji().column("concept"))
print(f"The checkpoint learned {len(LEARNED)} concepts in {card['minutes']:.0f} minutes: {card.get('history', 'all of them this recipe')}.")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** At guidance 0 the sentence is ignored, and the shares are those of chance. With it, colours come first and shapes later,
# in both languages. **Limit**: eight concepts, learned by heart. From here on we use the checkpoint.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 6 min.* Start the live run before you explain the loss. While it runs: why hide captions in training at all? (Without it there is no
# answer without text, and nothing to move away from.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Measure it: which part of a prompt is followed?
#
# Our judge from now on is the course's *evaluator*, a classifier that never saw a generated picture. A judge errs too. So we first ask how
# often it is right on real pictures: on new ones, and on those it learned from. Our model imitates the second kind, so that row is the ceiling.

# %% slideshow={"slide_type": "-"}
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.metrics import alignment, diversity, extract_features, held_out_accuracy
from course_utils.evaluation.prompts import fixed_prompts, held_out_prompts, matched_seen_prompts

evaluator = load_evaluator()
unseen, ceiling = (held_out_accuracy(evaluator, SIZE, n=300, split=split) for split in ("test", "train"))

def table(rows):
    print(f"{'':26s}" + "".join(f"{name:>14s}" for name in ceiling))
    for name, shares in rows.items():
        print(f"{name:26s}" + "".join("             -" if math.isnan(shares[k]) else f"{shares[k]:14.0%}" for k in ceiling))

# %% [markdown] slideshow={"slide_type": "subslide"}
# The same prompts, once in English and once in Chinese, from the same noise.

# %% slideshow={"slide_type": "-"}
prompts = {language: fixed_prompts(language, 48, concepts=LEARNED, styles=FIRST_STYLES) for language in LANGUAGES}
noises = gaussian(48, seed=11)
pictures = {language: draw_prompts([p.text for p in prompts[language]], noises) for language in LANGUAGES}
table({"real, new to the judge": unseen, "real, known (ceiling)": ceiling, "drawn from English": alignment(evaluator, pictures["en"], prompts["en"]),
       "drawn from Chinese": alignment(evaluator, pictures["zh"], prompts["zh"])})
plotting.show_pictures(torch.cat([pictures[language][:6] for language in LANGUAGES]),
                       [p.text for language in LANGUAGES for p in prompts[language][:6]], columns=6, title="One noise, two languages")
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# Are these *the same pictures*? We compare each English drawing with the Chinese one of the same prompt, and with the Chinese one of another prompt.

# %% slideshow={"slide_type": "subslide"}
# NBVAL_CHECK_OUTPUT
def sentence_vectors(texts):
    ids, _ = tokenize(texts)
    with torch.no_grad():
        return F.normalize(model.text_encoder.pooled(ids, model.text_encoder(ids)), dim=-1)

vectors = {language: sentence_vectors([p.text for p in prompts[language]]) for language in LANGUAGES}
similarity = vectors["en"] @ vectors["zh"].T                                             # (48, 48)
apart = torch.cdist(pictures["en"].flatten(1), pictures["zh"].flatten(1))                # (48, 48)
own, n = torch.eye(48, dtype=torch.bool), 48
print("sentence vectors: own translation nearer than others", bool(similarity[own].mean() > similarity[~own].mean() + 0.2))
print("pictures: own translation nearer than others", bool(apart[own].mean() < 0.9 * apart[~own].mean()))

# %%
print(f"similarity of sentence vectors: same prompt {similarity[own].mean():.2f}, another prompt {similarity[~own].mean():.2f}")
print(f"translation found among 48: {(similarity.argmax(dim=1) == torch.arange(n)).float().mean():.0%}")
per_pixel = apart / pictures["en"][0].numel() ** 0.5
print(f"distance of pictures, per pixel: same prompt {per_pixel[own].mean():.2f}, another prompt {per_pixel[~own].mean():.2f}")

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Read the table column by column: what does the model follow well, what poorly? Is the gap between the languages smaller than the gap to the
# ceiling? Colours are few words, seen often; a concept is one among many. **Limit**: 48 sentences; a share can be off by several points.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### How much guidance? Alignment against diversity
#
# Twelve sentences, three noises each, seven scales. *Alignment*: the share of attributes met, the mean of concept (top 5), colour and background. *Diversity*: how
# far the three drawings of a sentence are from each other, in the evaluator's features.
#
# **Predict.** Which way does each go when the scale grows?
#
# <details><summary>Answer</summary>
# Alignment rises from chance at 0, then levels off or falls. Diversity falls. At large scales the pictures break.
# </details>

# %% slideshow={"slide_type": "-"}
SCALES, targets = (0, 1, 1.5, 2, 3, 5, 8), [p for p in prompts["en"][:12] for _ in range(3)]
sweep = {s: draw_prompts([p.text for p in targets], gaussian(36, seed=21), guidance=float(s)) for s in SCALES}
obedience = [sum(shares[k] for k in ("concept_top5", "color", "background")) / 3
             for shares in [*(alignment(evaluator, x, targets) for x in sweep.values()), ceiling]]
variety = [diversity(extract_features(evaluator, x), [p.text for p in targets]) for x in sweep.values()]
ax = plotting.labelled_axes("Guidance: alignment against diversity", "diversity", "alignment", 3.4)
ax.plot(variety, obedience[:-1], "-o", color=plotting.MODEL)
ax.axhline(obedience[-1], color=plotting.REFERENCE, ls="--")
ax.text(0.99, obedience[-1], "real pictures (ceiling)", transform=ax.get_yaxis_transform(), va="bottom", ha="right", color=plotting.AXIS)
ax.set(xscale="log", xticks=(2, 5, 10, 20), xticklabels=(2, 5, 10, 20))
ax.minorticks_off()
for s, x, y in zip(SCALES, variety, obedience):
    ax.annotate(f"s = {s}", (x, y), (0, -17), textcoords="offset points", ha="center", color=plotting.AXIS)
ax.margins(x=0.08, y=0.2)
plt.show()

# %% slideshow={"slide_type": "subslide"}
columns = [f"s = {s}" for s in SCALES]
plotting.show_rows({targets[i].text: [x[i] for x in sweep.values()] for i in (0, 3, 6)}, columns, "One noise a row, seven scales", scale=0.75)
plt.show()
full = [float((x.abs() > 0.98).float().mean()) for x in sweep.values()]
print("share of saturated colour values:", ", ".join(f"{c} {f:.0%}" for c, f in zip(columns, full)))

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The curve is the trade. The useful range lies where it bends; past it we pay variety for nothing, and at the largest scale the pictures
# leave what the network knows. Stable Diffusion's usual scale is 7.5; such numbers belong to one network. **Limit**: twelve sentences, and a judge that itself errs.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Composition: colours that were never shown
#
# About fifty pairs were kept out of training: no pink butterfly, no blue banana. Both words came up often, never together. We compare with pairs
# that were shown, of the same concepts.

# %% slideshow={"slide_type": "-"}
pairs = {name: [p for p in asked if p.concept in LEARNED][:36]
         for name, asked in {"never shown": held_out_prompts("en"), "shown": matched_seen_prompts("en")}.items()}
drawn = {name: draw_prompts([p.text for p in some], gaussian(len(some), seed=31)) for name, some in pairs.items()}
table({"real, known (ceiling)": ceiling} | {name: alignment(evaluator, x, pairs[name]) for name, x in drawn.items()})
for name, x in drawn.items():
    plotting.show_pictures(x[:7], [f"{p.color} {p.concept}" for p in pairs[name][:7]], columns=7, title=f"Pairs of colour and concept: {name}", scale=0.75)
    plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** Compare the last two rows of the table in *concept* and *colour*. Where new pairs score lower, the model has learned pairs by heart; where they are level, it composes. Look at the
# pictures too: does the colour win over the concept, or the concept over the colour? **Limit**: some thirty drawings of a small network, and a judge that has not seen the new pairs either. What composes here is
# colour; a new *pose* or a new *relation* is harder.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### What it cannot do
#
# **Predict.** "three apples", "a cat left of a dog": what will come?
#
# <details><summary>Answer</summary>
# One subject, in the middle. Each training picture shows one thing, so nothing ever rewarded counting or placing.
# </details>

# %% slideshow={"slide_type": "-"}
hard = ["star", "three stars", "cat face left of a dog face", "dog face left of a cat face", "fish without a fish"]
rows = {text: draw_prompts([text] * 5, gaussian(5, seed=41)) for text in hard}
plotting.show_rows(rows, title="Counting, relations, negation: not followed", scale=0.7)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# **What to see.** The words are read, their grammar is not. One subject comes, whatever the sentence counts, places or takes back; of two animals the one named first
# leads, and left is no place. This is a limit of our data first of
# all. Large models share it in part: attention mixes words into places, and nothing in it counts.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 10 min.* Bet on each table first.
# Negation and counting are the demos that stay in memory.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Experiment · Your own sentence
#
# English or Chinese, any scale, any noise. Try a word the model cannot know. Try the same seed in both languages.

# %% slideshow={"slide_type": "-"}
from course_utils.systems.reading import read_prompt

def draw_box(prompt, system, steps, guidance, seed):
    prompt = read_prompt("text-pixel", prompt)               # names the words it was never shown
    x = draw_prompts([prompt] * 6, gaussian(6, seed), steps, guidance)
    return plotting.show_pictures(x, columns=6, title=f"{prompt} (guidance {guidance:g}, seed {seed})")

prompt_box(draw_box, {"text-pixel": ("prompt", "guidance")}, steps=20, guidance=1.5)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## When it breaks · Nobody passed the mask
#
# We draw "dog face" three times from one noise: alone, and in a batch beside longer and longer sentences. The short text is filled up with padding. We
# forget `context_mask`. No line fails.

# %% slideshow={"slide_type": "-"}
neighbours = [[], ["green fish, noto style, beach"], ["a " + "very " * 25 + "long sentence"]]

@torch.no_grad()
def dog(company, with_mask):
    prompts = ["dog face", *company]
    context, mask = model.encode_prompt(prompts)
    mask = mask if with_mask else torch.ones_like(mask)                                  # the bug: padding counts as words
    net = guided(model.unet, context, mask, 1.5)
    return sample(ddim, net, gaussian(1, seed=51).expand(len(prompts), -1, -1, -1), SCHEDULE, steps=20, prediction=PREDICTION)[0]

trials = {name: [dog(company, flag) for company in neighbours] for name, flag in (("with the mask", True), ("without", False))}
plotting.show_rows(trials, ["alone", "in company", "long company"], 'The same "dog face", the same noise', scale=0.9)
plt.show()

# %%
# NBVAL_CHECK_OUTPUT
for name, (alone, _, crowded) in trials.items():
    print(f"{name}: the neighbour changes our picture: {bool((alone - crowded).abs().max() > 0.05)}")

# %% [markdown] slideshow={"slide_type": "-"}
# **The cause.** Cross-attention shares itself out over all tokens it sees, and the sentence's vector is that of the last one. Padding was always hidden in training, so its
# vectors mean nothing to the network; the longer the neighbour, the more there are. **The habit that finds it**: draw one prompt alone
# and in a batch, and compare. (Stable Diffusion trains without a mask, always on 77 tokens. Training and drawing must agree.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Exercises
#
# Write the function, run the check: it tries fresh random cases and says what is likely wrong. Each exercise has three hints of
# rising strength.

# %%
# NBVAL_CHECK_OUTPUT
hint("04-guidance", 1)

# %% [markdown]
# ### Exercise 04.1 (warm-up) · One step of guidance
#
# Write `guide`: from the answer without text, the answer with it and a scale it makes the guided answer, in the course's convention (1 is off).
#
# Stuck? `hint("04-guidance", 1)`, then 2, then 3.

# %%
def guide(uncond, cond, scale):                       # (B, C, H, W), (B, C, H, W), one number
    raise NotImplementedError                         # -> (B, C, H, W)

# %%
check("04-guidance", guide)

# %% [markdown]
# **Solution** (folded)

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def guide(uncond, cond, scale):
    return uncond + scale * (cond - uncond)

check("04-guidance", guide)

# %% [markdown]
# ### Exercise 04.2 (warm-up) · Join a pair
#
# Write `merge`: in a row of token numbers `ids` (L,) it replaces every occurrence of `pair`, two numbers, by `new_id`, from left to right. In `aaa` with the pair `(a, a)` the first two are joined. The result is again a 1-D tensor.
#
# Stuck? `hint("04-merge", 1)`.

# %%
def merge(ids, pair, new_id):                         # (L,) long, (int, int), int
    raise NotImplementedError                         # -> shorter (L',) long

# %%
check("04-merge", merge)

# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def merge(ids, pair, new_id):
    out, i = [], 0
    while i < len(ids):
        hit = tuple(ids[i:i + 2].tolist()) == tuple(pair)
        out.append(new_id if hit else int(ids[i]))
        i += 2 if hit else 1
    return torch.tensor(out)

check("04-merge", merge)

# %% [markdown]
# ### Exercise 04.3 (code) · One vector for a sentence
#
# Write `text_vector`: of the context (B, L, D) it returns each text's vector at its *first* end mark, (B, D). Short texts are filled up, with padding or, as in OpenAI's CLIP, with more end marks.
#
# Stuck? `hint("04-text-vector", 1)`.

# %%
def text_vector(ids, context, end_id):                # (B, L) long, (B, L, D), int
    raise NotImplementedError                         # -> (B, D)

# %%
check("04-text-vector", text_vector)

# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def text_vector(ids, context, end_id):
    place = (ids == end_id).int().argmax(dim=1)       # (B,) the first one
    return context[torch.arange(len(ids)), place]

check("04-text-vector", text_vector)

# %% [markdown]
# ### Exercise 04.4 (code) · Pixels ask words
#
# Write `cross_attention` with one head: queries of the pixels `q` (B, N, D), keys and values of the words `k`, `v` (B, L, D), and a `mask` (B, L), False where a word is hidden. No library attention, please.
#
# Stuck? `hint("04-cross-attention", 1)`. Afterwards, explain: what would it mean if the softmax ran over the pixels?

# %%
def cross_attention(q, k, v, mask):                   # (B, N, D), (B, L, D), (B, L, D), (B, L) bool
    raise NotImplementedError                         # -> (B, N, D)

# %%
check("04-cross-attention", cross_attention)

# %% [markdown]
# **Solution.** A softmax over the pixels would let every word share *itself* out: each word would paint somewhere, wanted or not.

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def cross_attention(q, k, v, mask):
    logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5                   # (B, N, L)
    logits = logits.masked_fill(~mask[:, None], float("-inf"))
    return logits.softmax(dim=-1) @ v                                     # (B, N, D)

check("04-cross-attention", cross_attention)

# %% [markdown]
# ### Exercise 04.5 (code) · Hide captions
#
# Write `hide`: rows of the mask where `dropped` is True keep only their first token, the start mark; the others stay as they are.
#
# Stuck? `hint("04-hide", 1)`.

# %%
def hide(context_mask, dropped):                      # (B, L) bool, (B,) bool
    raise NotImplementedError                         # -> (B, L) bool

# %%
check("04-hide", hide)

# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def hide(context_mask, dropped):
    first = torch.zeros_like(context_mask)
    first[:, 0] = True
    return torch.where(dropped[:, None], first, context_mask)

check("04-hide", hide)

# %% [markdown]
# ### Exercise 04.6 (code, then open) · A map for a word
#
# Write `word_map`: from the attention `weights` (heads, N, L) of one layer, the `places` of a word's tokens and the `side` of the feature map it makes the word's map: mean over heads, sum over its tokens, as a square.
#
# Stuck? `hint("04-word-map", 1)`. **Open**: with `guided` and `record_attention`, use a scale of 3 for the first ten steps and 1 after them. What is lost, what is gained?

# %%
def word_map(weights, places, side):                  # (heads, N, L), list of int, int
    raise NotImplementedError                         # -> (side, side)

# %%
check("04-word-map", word_map)

# %% [markdown]
# **Solution**

# %% tags=["solution"]
# NBVAL_CHECK_OUTPUT
def word_map(weights, places, side):
    return weights.mean(dim=0)[:, places].sum(dim=1).view(side, side)

check("04-word-map", word_map)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## Summary
#
# A sentence becomes tokens, tokens become vectors that have read one another. In several layers, at every step, each place of the
# picture asks these vectors what to become. Guidance exaggerates the answer.
#
# | symbol | code | meaning |
# |---|---|---|
# | tokens | `encode(tokenizer, texts)` | numbers (B, L) and mask |
# | $c$ | `text_encoder(ids)` | context (B, L, D) |
# | end mark's vector | `text_encoder.pooled(ids, context)` | one vector a sentence (B, D) |
# | $A$ | `record_attention(unet)` | which place attends to which token |
# | $\varnothing$ | `drop_caption(mask, 0.1, generator)` | no text: the start mark alone |
# | $\hat y$, $s$ | `apply_guidance(uncond, cond, scale)` | guided answer, 1 is off |
# | a model with its prompt | `guided(model, context, mask, scale)` | what samplers call |
#
# **What we did not show.** A text encoder that has read the world (CLIP: notebook 07; T5 and other frozen ones: 09); other ways in for text, such as one vector added to
# the step (08); guidance that changes with the step; layouts and outlines as conditions (06).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## What fails next: pixels are expensive
#
# Our pictures have 32×32 pixels. What would 64, 128 or 256 cost, with the very same network?

# %% slideshow={"slide_type": "-"}
import time

def seconds_a_step(side, count=4):
    context, mask = model.encode_prompt(["dog face"] * count)
    xt, t = gaussian(count, seed=0, size=side), torch.full((count,), 500)
    with torch.inference_mode():
        best = math.inf
        for _ in range(3):
            began = time.perf_counter()
            model.unet(xt, t, context=context, context_mask=mask)
            best = min(best, time.perf_counter() - began)
    return best / count

sides = [32, 64, 128, 256]
cost = [1000 * seconds_a_step(side) for side in sides]
print(f"one step at {sides[-1]}×{sides[-1]} costs {cost[-1] / cost[0]:.0f} times one at 32×32")
figure = plotting.plot_lines(sides, {"measured": (cost, plotting.MODEL), "side squared": ([cost[0] * (s / 32) ** 2 for s in sides], plotting.AXIS, "--")},
                    "side in pixels", "ms a picture and step", "The same network on larger pictures", logx=True, logy=True)
figure.axes[0].minorticks_off()
figure.axes[0].set_xticks(sides, sides)
plt.show()

# %% [markdown] slideshow={"slide_type": "-"}
# Twice the side is four times the work, and attention among pixels grows faster still, at every step and twice with guidance.
# **Notebook 05** paints a smaller picture, in a *latent* space, and enlarges it faithfully.

# %% [markdown] slideshow={"slide_type": "notes"}
# *For the lecturer, 3 min.* Exercises 04.1 and 04.2 make good homework; 04.4 deserves to be done together. Total: 75 min.

# %% [markdown]
# ## References
#
# - R. Sennrich, B. Haddow, A. Birch, *Neural machine translation of rare words with subword units*, 2016, arXiv 1508.07909: byte-pair encoding (algorithm 1).
# - A. Radford et al., *Language models are unsupervised multitask learners* (GPT-2), 2019: on bytes (section 2.2).
# - A. Radford et al., *Learning transferable visual models from natural language supervision* (CLIP), 2021, arXiv 2103.00020: the text tower (section 2.4).
# - A. Vaswani et al., *Attention is all you need*, 2017, arXiv 1706.03762: attention (equation 1).
# - R. Rombach et al., *High-resolution image synthesis with latent diffusion models*, 2022, arXiv 2112.10752: cross-attention (section 3.3).
# - N. Shazeer, *GLU variants improve Transformer*, 2020, arXiv 2002.05202: the gate (equation 6).
# - J. Ho, T. Salimans, *Classifier-free diffusion guidance*, 2022, arXiv 2207.12598: equation 6, algorithms 1 and 2.
# - A. Hertz et al., *Prompt-to-Prompt image editing with cross-attention control*, 2022, arXiv 2208.01626: maps (section 3).
# - R. Tang et al., *What the DAAM: interpreting Stable Diffusion using cross attention*, 2022, arXiv 2210.04885: words and pixels (section 2.2).
# - C. Saharia et al., *Imagen*, 2022, arXiv 2205.11487: guidance and its trade (section 2.2).

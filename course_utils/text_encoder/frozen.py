"""A frozen language model as text encoder: it has read far more text than we could caption, and no picture of ours.

"pink butterfly" ──► pieces ──► word + place + type ──► 12 layers, each token sees all ──► context (B, L, 384)
                                      └─ layer 0: a vector for each piece, whatever stands beside it

Modules carry the names of transformers' `BertModel`: state dicts load strictly both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from course_utils.errors import InputError, integer, prompt_list
from course_utils.text_encoder.tokenizer import encode, open_tokenizer

BLOCK = 32  # weights that share a scale


# ------------------------------------------------------------------ BERT
class BertEmbeddings(nn.Module):
    """A vector for each piece plus one for its place and one for its kind of text, (B, L) -> (B, L, D)."""

    def __init__(self, vocab_size, max_tokens, dim, eps):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, dim)
        self.position_embeddings = nn.Embedding(max_tokens, dim)
        self.token_type_embeddings = nn.Embedding(2, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps=eps)

    def forward(self, ids):
        places = self.position_embeddings.weight[: ids.shape[1]] + self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(ids) + places)  # (B, L, D)


class BertSelfAttention(nn.Module):
    """Every token sees every other that is no filling. Built in notebook 09."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def split(self, x):
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, L, head_dim)

    def forward(self, x, mask):
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return h.transpose(1, 2).flatten(2)  # (B, L, D)


class BertResidual(nn.Module):
    """A linear layer, added to what came before, and the norm after both: BERT's order. Built in notebook 09."""

    def __init__(self, inner, dim, eps):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inner, dim), nn.LayerNorm(dim, eps=eps)

    def forward(self, h, before):
        return self.LayerNorm(self.dense(h) + before)


class BertLayer(nn.Module):
    """Attention and a two-layer network, each with its shortcut. Built in notebook 09."""

    def __init__(self, dim, num_heads, inner, eps):
        super().__init__()
        attention = {"self": BertSelfAttention(dim, num_heads), "output": BertResidual(dim, dim, eps)}
        self.attention = nn.ModuleDict(attention)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(dim, inner)})
        self.output = BertResidual(inner, dim, eps)

    def forward(self, x, mask):
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class BertEncoder(nn.Module):
    """Token numbers in, one vector for each token out, which has seen the whole text.

    vocab_size, max_tokens: what it can read; dim: width D; inner: of the layers' networks. Devlin et al. 2019, section
    3; as a text encoder of pictures: Imagen, section 2.1. Built in notebook 09.
    """

    def __init__(self, vocab_size, max_tokens, dim=384, num_layers=12, num_heads=12, inner=1536, eps=1e-12):
        super().__init__()
        self.embeddings = BertEmbeddings(vocab_size, max_tokens, dim, eps)
        layers = [BertLayer(dim, num_heads, inner, eps) for _ in range(num_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, ids, mask, num_layers=None):
        """ids (B, L), mask (B, L) bool, False: filling -> (B, L, D). num_layers: only the first so many (None: all)."""
        x = self.embeddings(ids)
        for layer in self.encoder["layer"][:num_layers]:
            x = layer(x, mask)
        return x


# ------------------------------------------------------------------ four bits a weight
def dequantise(nibbles: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Weights (R, C) float32 of 4 bits each: nibbles uint8 (R, C/32, 16), scales (R, C/32), one for 32 weights.

    A byte holds weight j of its block in the low half and weight j + 16 in the high one; 8 stands for zero. llama.cpp's
    form Q4_0. Built in notebook 09.
    """
    numbers = torch.cat([nibbles & 15, nibbles >> 4], dim=-1).float() - 8  # (R, C/32, 32)
    return (numbers * scales.float()[..., None]).flatten(1)


def load_quantised(path: str | Path) -> BertEncoder:
    """The encoder in a file of `data/build/text_encoder.py`, in eval mode, frozen: weights of 4 bits made float32."""
    from safetensors.torch import load_file

    stored = load_file(path)
    state = {name: value.float() for name, value in stored.items() if not name.endswith((".nibbles", ".scales"))}
    for name in stored:
        if name.endswith(".nibbles"):
            weight = name.removesuffix(".nibbles")
            state[weight] = dequantise(stored[name], stored[f"{weight}.scales"])
    sizes = [state[f"embeddings.{table}_embeddings.weight"].shape for table in ("word", "position")]
    encoder = BertEncoder(sizes[0][0], sizes[1][0])
    encoder.load_state_dict(state)
    return encoder.eval().requires_grad_(False)


# ------------------------------------------------------------------ one interface for all of them
@dataclass(frozen=True)
class FrozenText:
    """A text encoder that nothing trains: prompts in, context out.

    encoder(ids (B, L), mask (B, L)) -> (B, L, D); tokenize(texts) -> both; dim: D; max_tokens: L, to which every text
    is filled up with zeros. Imagen, section 2.1. Built in notebook 09.
    """

    encoder: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    tokenize: Callable[[list[str]], tuple[torch.Tensor, torch.Tensor]]
    dim: int
    max_tokens: int
    device: torch.device

    @torch.inference_mode()
    def encode(self, prompts: str | Sequence[str]) -> torch.Tensor:
        """The context (B, L, D) of one prompt or of B, zero beyond its end; "" is zero everywhere: no text at all.

        InputError for what is no text.
        """
        prompts = prompt_list(prompts)
        ids, mask = (x.to(self.device) for x in self.tokenize(prompts))
        context = self.encoder(ids, mask) * mask[..., None]  # (B, l, D)
        said = torch.tensor([bool(text.strip()) for text in prompts], device=self.device)
        context = context * said[:, None, None]
        return F.pad(context, (0, 0, 0, self.max_tokens - context.shape[1]))


def tokenizer_of(path: str | Path, max_tokens: int, prefix: str = "") -> Callable:
    """tokenize(texts) -> ids (B, L) long and mask (B, L) bool, by the tokenizer in a file; prefix: put before each."""

    def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids, mask = encode(open_tokenizer(path), [prefix + text for text in texts])
        return ids[:, :max_tokens], mask[:, :max_tokens]

    return tokenize


def e5(
    weights: str | Path,
    tokenizer: str | Path,
    num_layers: int | None = None,
    max_tokens: int = 32,
    device: torch.device | str | None = None,
) -> FrozenText:
    """The shipped language model, multilingual-e5-small: 12 layers, 384 wide, both languages of the course.

    weights, tokenizer: its two files in `data/`; num_layers: the first so many of its 12 (0: static vectors, None:
    all). Wang et al. 2024 (multilingual E5). Built in notebook 09.
    """
    layers = None if num_layers is None else integer("num_layers", num_layers, (0, 12))
    device = torch.device(device or "cpu")
    model = load_quantised(weights).to(device)
    return FrozenText(
        lambda ids, mask: model(ids, mask, layers), tokenizer_of(tokenizer, max_tokens), 384, max_tokens, device
    )


def from_transformers(
    name: str,
    revision: str | None = None,
    max_tokens: int = 32,
    device: torch.device | str | None = None,
    local_files_only: bool = False,
) -> FrozenText:
    """Any encoder of the Hugging Face hub, or of a folder: T5, as the paper has it, or a BERT; from safetensors only.

    name: such as "google/t5-v1_1-base", with its revision pinned. InputError where it cannot be had. Built in notebook
    09.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer, T5EncoderModel

    options = {"revision": revision, "local_files_only": local_files_only}
    try:
        is_t5 = AutoConfig.from_pretrained(name, **options).model_type in ("t5", "mt5", "umt5")
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        family = T5EncoderModel if is_t5 else AutoModel
        model = family.from_pretrained(name, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the text encoder {name!r} cannot be had (is there a network?): {reason}") from error
    device = torch.device(device or "cpu")
    model = model.to(device).eval().requires_grad_(False)

    def tokenize(texts):
        found = tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
        return found.input_ids, found.attention_mask.bool()

    def encoder(ids, mask):
        return model(input_ids=ids, attention_mask=mask.long()).last_hidden_state

    return FrozenText(encoder, tokenize, model.config.hidden_size, max_tokens, device)

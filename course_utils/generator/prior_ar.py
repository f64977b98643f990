"""DALL·E 2's autoregressive prior: the image vector of a caption, written number by number.

image_embed ──► PCA ──► a bucket for each number ──► codes
text tokens, text_embed, code of z_i·z_t, codes so far ──► causal Transformer ──► probabilities of the next code
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from course_utils.errors import InputError
from course_utils.generator.guidance import apply_guidance
from course_utils.generator.samplers import State
from course_utils.layers import Encoder, Layer


def pca(x: torch.Tensor, share: float = 0.99) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean (D,) of vectors x (N, D), and the fewest directions (K, D) that hold this share of their variance.

    Directions have unit length and come in the order of their eigenvalues, the largest first; the sign of each makes
    its largest number positive. Raises InputError unless 0 < share <= 1. Ramesh et al. 2022, section 2.2. Built in
    notebook 08.
    """
    if not 0 < share <= 1:
        raise InputError(f"the share of the variance must be above 0 and at most 1, not {share!r}")
    mean = x.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((x.double() - mean).T))  # the smallest first
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1).T  # (D,), (D, D): a row is a direction
    held = values.cumsum(0) / values.sum()
    count = min(int((held < share - 1e-12).sum()) + 1, len(values))
    signs = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)).sign()
    return mean.to(x), (signs * vectors)[:count].to(x)


def make_buckets(x: torch.Tensor, buckets: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges (K, buckets - 1) between equally full buckets of numbers x (N, K), and the mean (K, buckets) of each.

    Raises InputError for fewer numbers than buckets. Built in notebook 08.
    """
    if not 2 <= buckets <= len(x):
        raise InputError(f"{len(x)} numbers can be sorted into 2 to {len(x)} buckets, not {buckets}")
    ordered = x.float().sort(dim=0).values
    parts = ordered.tensor_split(buckets)  # each (about N / buckets, K)
    edges = torch.stack([(low[-1] + high[0]) / 2 for low, high in zip(parts, parts[1:], strict=False)], dim=1)
    return edges, torch.stack([part.mean(dim=0) for part in parts], dim=1)


def attend_cached(layer: Layer, x: torch.Tensor, past: tuple | None) -> tuple[torch.Tensor, tuple]:
    """Run a causal layer on the tokens x (B, M, D) that follow those of which `past` holds keys and values.

    Returns the layer's answer for them (B, M, D), and keys and values of all; M is 1 where there is a past. Token i
    never changes what tokens before it gave, so nothing is computed twice. Built in notebook 08.
    """
    attention, h = layer.self_attn, layer.layer_norm1(x)
    q, k, v = (attention.split(proj(h)) for proj in (attention.q_proj, attention.k_proj, attention.v_proj))
    if past is not None:
        k, v = (torch.cat(pair, dim=2) for pair in zip(past, (k, v), strict=True))  # (B, heads, N + M, head_dim)
    h = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
    x = x + attention.out_proj(h.transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.layer_norm2(x)), (k, v)


def pick(logits: torch.Tensor, noise: torch.Tensor, upper_half: bool = False) -> torch.Tensor:
    """Draw one of V values from each row of logits (B, V) with Gaussian noise (B,): (B,) long.

    The noise's place among all noises, in (0, 1), is looked up in the running sum of the probabilities, so the noise
    fixes the value. upper_half: only among the larger values, those of the upper half of the probability.
    """
    place = torch.special.ndtr(noise.double())
    place = (1 + place) / 2 if upper_half else place
    running = logits.double().softmax(dim=-1).cumsum(dim=-1)
    return (running < place[:, None]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)


def constant(*shape: int) -> nn.Parameter:
    """A part of a network that is measured and not learnt; it lies in its checkpoint like a weight."""
    return nn.Parameter(torch.zeros(shape), requires_grad=False)


class VectorCodes(nn.Module):
    """Write image vectors as codes, and read codes as image vectors: PCA, and buckets along each direction.

    num_dims: directions K of the PCA; buckets: values of a code; embed_dim: numbers D of a vector. The first of 1 + K
    codes stands for z_i·z_t. `fit` must measure directions and buckets before anything is written. Ramesh et al. 2022,
    section 2.2. Built in notebook 08.
    """

    def __init__(self, num_dims: int, buckets: int, embed_dim: int):
        super().__init__()
        self.num_codes, self.buckets = 1 + num_dims, buckets
        self.mean, self.components = constant(embed_dim), constant(num_dims, embed_dim)
        self.edges, self.centers = constant(self.num_codes, buckets - 1), constant(self.num_codes, buckets)

    @torch.no_grad()
    def fit(self, image_embed: torch.Tensor, text_embed: torch.Tensor) -> VectorCodes:
        """Measure directions and buckets on vectors of pictures and of captions they belong to, (N, D) each."""
        mean, components = pca(image_embed)
        if components.shape != self.components.shape:
            raise InputError(f"99 % of the variance need {len(components)} directions, not {len(self.components)}")
        self.mean.copy_(mean)
        self.components.copy_(components)
        edges, centers = make_buckets(self.numbers(image_embed, text_embed), self.buckets)
        self.edges.copy_(edges)
        self.centers.copy_(centers)
        return self

    def numbers(self, image_embed: torch.Tensor, text_embed: torch.Tensor) -> torch.Tensor:
        """What the codes stand for, (B, 1 + K): z_i·z_t, and the place along each direction."""
        with torch.autocast(image_embed.device.type, enabled=False):  # half precision would miss buckets
            dot = (image_embed * text_embed).sum(dim=-1, keepdim=True)
            return torch.cat([dot, (image_embed - self.mean) @ self.components.T], dim=-1)

    def encode(self, image_embed: torch.Tensor, text_embed: torch.Tensor) -> torch.Tensor:
        """Vectors (B, D) of pictures and captions as codes (B, 1 + K) long."""
        return torch.searchsorted(self.edges, self.numbers(image_embed, text_embed).T.contiguous()).T

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, k), the first k of 1 + K, as image vectors (B, D) of unit length; missing ones are the mean's."""
        each = torch.arange(codes.shape[1], device=codes.device)
        numbers = self.centers[each, codes][:, 1:]  # (B, k - 1): the first code is of no direction
        return F.normalize(self.mean + numbers @ self.components[: numbers.shape[1]], dim=-1)


class ARPrior(VectorCodes):
    """Predict the codes of an image vector one after the other, the first of them that of its cosine to the text.

    num_dims, buckets, embed_dim: as in `VectorCodes`; a text token has embed_dim numbers too; max_tokens: tokens of
    every caption, its padding included; dim: width, a multiple of num_heads. Ramesh et al. 2022, section 2.2. Built in
    notebook 08.
    """

    def __init__(
        self,
        num_dims: int,
        buckets: int,
        embed_dim: int,
        max_tokens: int,
        dim: int,
        num_layers: int,
        num_heads: int,
    ):
        super().__init__(num_dims, buckets, embed_dim)
        self.context_proj, self.text_proj = nn.Linear(embed_dim, dim), nn.Linear(embed_dim, dim)
        self.code_embedding = nn.Embedding(self.num_codes * buckets, dim)  # every code has values of its own
        self.position_embedding = nn.Embedding(max_tokens + self.num_codes, dim)
        self.encoder = Encoder(dim, num_layers, num_heads, causal=True)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, self.num_codes * buckets)
        nn.init.normal_(self.code_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.02)

    def prefix(self, context: torch.Tensor, text_embed: torch.Tensor) -> torch.Tensor:
        """What stands before the codes: the caption's tokens (B, L, D) and its vector (B, D), as (B, L + 1, dim)."""
        return torch.cat([self.context_proj(context), self.text_proj(text_embed)[:, None]], dim=1)

    def embed_codes(self, codes: torch.Tensor, first: int = 0) -> torch.Tensor:
        """The tokens (B, k, dim) of codes (B, k), which are number `first` and those that follow."""
        each = torch.arange(first, first + codes.shape[1], device=codes.device)
        return self.code_embedding(each * self.buckets + codes)

    def place(self, first: int, count: int) -> torch.Tensor:
        return self.position_embedding.weight[first : first + count]

    def logits(self, h: torch.Tensor, first: int = 0) -> torch.Tensor:
        """The Transformer's answers h (B, k, dim) as logits (B, k, buckets) of codes `first` and those that follow."""
        which = slice(first, first + h.shape[1])
        weight, bias = (p.unflatten(0, (self.num_codes, -1))[which] for p in (self.head.weight, self.head.bias))
        return torch.einsum("bkd,kvd->bkv", self.final_layer_norm(h), weight) + bias

    def forward(self, codes: torch.Tensor, context: torch.Tensor, text_embed: torch.Tensor) -> torch.Tensor:
        """Logits (B, k + 1, buckets) of the first k + 1 codes, given the caption and the k codes (B, k) before each.

        context (B, L, D) with its padding, text_embed (B, D); k is at most K.
        """
        x = torch.cat([self.prefix(context, text_embed), self.embed_codes(codes)], dim=1)  # (B, L + 1 + k, dim)
        h = self.encoder(x + self.place(0, x.shape[1]))
        return self.logits(h[:, context.shape[1] :])


@torch.no_grad()
def sample_codes(
    prior: ARPrior,
    noise: torch.Tensor,
    context: torch.Tensor,
    text_embed: torch.Tensor,
    scale: float = 1.0,
    away: Sequence[torch.Tensor] | None = None,
) -> Iterator[State]:
    """Draw the codes one by one from noise (B, 1 + K); yields States whose xt are image vectors so far (B, D).

    The first, of the cosine to the text, comes from the upper half of what the network holds possible. scale, away:
    guidance, away from context and text_embed of another caption. Keys and values of what is known are kept. Ramesh et
    al. 2022, section 2.2. Built in notebook 08.
    """
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


def ar_loss(prior: ARPrior, image_embed: torch.Tensor, context: torch.Tensor, text_embed: torch.Tensor) -> torch.Tensor:
    """The mean surprise, in nats a code, of the true codes of image vectors (B, D): ln(buckets) for a blind guess."""
    codes = prior.encode(image_embed, text_embed)
    logits = prior(codes[:, :-1], context, text_embed)  # (B, 1 + K, buckets)
    return F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())

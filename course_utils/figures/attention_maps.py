"""Which pixels attend to which word: the weights of every cross-attention, kept while a network draws.

    with record_attention(unet) as record:      draw ──► record.maps() (S, B, L, H, W) ──► word_maps(...) ──► paint(...)
        ...                                               steps, texts, tokens, places       words, pixels     a picture

Hertz et al. 2022 (Prompt-to-Prompt), section 3; Tang et al. 2022 (DAAM), section 2.2.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F


def attention_weights(attention, x, context, mask=None):
    """Return softmax(q k^T / sqrt(d)) of an `Attention`, (B, heads, N, L): each row of L numbers sums to 1.

    x (B, N, D) pixels, context (B, L, C) words, mask (B, L) bool or None. The library's `Attention` never forms this
    matrix where it can avoid it; to look at it, we compute it once more. Built in notebook 04.
    """
    q, k = attention.split(attention.to_q(x)), attention.split(attention.to_k(context))  # (B, heads, N or L, head_dim)
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (B, heads, N, L)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None, :].bool(), float("-inf"))
    return logits.softmax(dim=-1)


class Record:
    """What `record_attention` gathers: for each step, for each side of a feature map, the maps (B, L, side, side)."""

    def __init__(self):
        self.steps: list[dict[int, list[torch.Tensor]]] = []

    def keep(self, attention, x, context, mask=None):
        """Add the weights of one call of a cross-attention, averaged over its heads."""
        side = round(x.shape[1] ** 0.5)
        if side * side != x.shape[1]:
            raise ValueError(f"maps are for square pictures; {x.shape[1]} places are not a square")
        maps = attention_weights(attention, x, context, mask).mean(dim=1)  # (B, N, L)
        self.steps[-1].setdefault(side, []).append(maps.transpose(1, 2).unflatten(2, (side, side)).float().cpu())

    @property
    def sides(self) -> list[int]:
        """The sides of the feature maps that attend to the text, largest first."""
        return sorted({side for step in self.steps for side in step}, reverse=True)

    def maps(self, side=None) -> torch.Tensor:
        """Return the maps (S, B, L, H, W): the mean over all cross-attentions of that side (None: the largest).

        Under guidance the batch is twice the prompts: without text first, with text behind, `[:, B // 2:]`.
        Raises ValueError when nothing was recorded, or nothing of that side.
        """
        if not self.sides:
            raise ValueError("nothing is recorded yet: draw inside `with record_attention(unet) as record:`")
        side = side or self.sides[0]
        if side not in self.sides:
            raise ValueError(f"no cross-attention works at side {side}: choose from {self.sides}")
        return torch.stack([torch.stack(step[side]).mean(dim=0) for step in self.steps])


@contextmanager
def record_attention(unet):
    """Keep the weights of every cross-attention (`attn2`) of a U-Net during the `with`: yields a `Record`.

    One entry a call of the U-Net, so one a step of a sampler. The U-Net's answers do not change.
    Raises ValueError for a network without cross-attention. Built in notebook 04.
    """
    listeners = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    if not listeners:
        raise ValueError("this network has no cross-attention: it was built without context_dim")
    record = Record()

    def keep(module, args, kwargs, output):
        with torch.no_grad():
            record.keep(module, *args, **kwargs)

    hooks = [unet.register_forward_pre_hook(lambda module, args: record.steps.append({}))]
    hooks += [module.register_forward_hook(keep, with_kwargs=True) for module in listeners]
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()


def words_of(tokenizer, prompt) -> dict[str, list[int]]:
    """Return the words of a prompt and the places of their tokens: {"pink": [1], "butterfly": [2, 3], ...}.

    A Chinese word of several characters, or one that fell into bytes, is one entry; commas are none; a word that
    comes twice keeps the places of both. Built in notebook 04.
    """
    encoding, found = tokenizer.encode(prompt), {}
    for place, word in enumerate(encoding.word_ids):
        if word is not None:
            found.setdefault(word, []).append(place)
    words = {}
    for places in found.values():
        word = tokenizer.decode([encoding.ids[place] for place in places]).strip()
        if any(letter.isalnum() or ord(letter) > 0x2000 for letter in word):
            words[word] = words.get(word, []) + places
    return words


def word_maps(maps, words, size) -> dict[str, torch.Tensor]:
    """Return {word: (S, size, size)}, enlarged to the picture: how much each pixel attends to the word at each step.

    maps (S, L, H, W): those of one prompt; words: from `words_of`. The tokens of a word are added, so the numbers
    stay shares of a pixel's attention, from 0 to 1. Built in notebook 04.
    """
    result = {}
    for word, places in words.items():
        whole = maps[:, places].sum(dim=1, keepdim=True)  # (S, 1, H, W)
        large = F.interpolate(whole, size=(size, size), mode="bilinear", align_corners=False)
        result[word] = large[:, 0]
    return result


def paint(picture, weight, color=(0.70, 0.23, 0.50)):
    """Return a grey copy of a picture (3, H, W) in [-1, 1], coloured where weight (H, W) in [0, 1] is large.

    color: red, green, blue from 0 to 1; the default is a deep shade of the course's colour of text.
    """
    grey = (picture.mean(dim=0, keepdim=True).clamp(-1, 1) * 0.2 + 0.75).expand(3, -1, -1)  # pale: the colour leads
    ink = 2 * torch.tensor(color).view(3, 1, 1) - 1
    return torch.lerp(grey, ink.expand_as(grey), weight.clamp(0, 1)[None])

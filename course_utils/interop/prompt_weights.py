"""Words of a prompt that count more, or less, than the others: "a (pink:1.5) butterfly", as web interfaces write it.

"a (pink:1.5) butterfly" ──► "a pink butterfly", a weight for each character
                         ──► its context, moved away from the empty prompt's where the weight is above 1

The pipelines of diffusers know no such syntax: they take what comes out as `prompt_embeds`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from course_utils.errors import number

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

MARKED = re.compile(r"\(([^():]+):(\d+\.?\d*)\)")  # (pink:1.5)
WEIGHTS = (0.0, 4.0)  # further away lies nothing that training ever showed


def parse_weights(prompt: str) -> tuple[str, list[float]]:
    """The prompt without its marks, and a weight for each of its characters, 1 where nothing is said.

    "a (pink:1.5) butterfly" -> "a pink butterfly", [1, 1, 1.5, 1.5, 1.5, 1.5, 1, ...]. Brackets without a number stay
    as they are. Raises InputError for a weight out of WEIGHTS. Built in notebook 13.
    """
    text, weights, at = "", [], 0
    for found in MARKED.finditer(prompt):
        plain, weight = prompt[at : found.start()], number("a weight", float(found[2]), WEIGHTS)
        text += plain + found[1]
        weights += [1.0] * len(plain) + [weight] * len(found[1])
        at = found.end()
    return text + prompt[at:], weights + [1.0] * len(prompt[at:])


@torch.no_grad()
def weighted_embeds(pipe: StableDiffusionPipeline, prompt: str) -> torch.Tensor:
    """The context (1, L, D) of a prompt, token by token w times as far from the empty prompt's: `prompt_embeds`.

    A token has the weight of its most weighted character. With all weights 1 it is what the pipeline makes itself.
    ComfyUI weights in this way; others scale the vectors themselves. Raises InputError as `parse_weights`.
    Built in notebook 13.
    """
    text, weights = parse_weights(prompt)
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    tokens, silence = pipe.tokenizer(text, return_offsets_mapping=True, **options), pipe.tokenizer("", **options)
    spans = tokens.offset_mapping[0].tolist()  # where in the text each token lies; nowhere: start, end and filling
    each = [max(weights[start:end], key=lambda w: abs(w - 1), default=1.0) for start, end in spans]
    weight = torch.tensor(each).view(1, -1, 1)  # (1, L, 1)
    context, empty = (pipe.text_encoder(ids.to(pipe.device))[0] for ids in (tokens.input_ids, silence.input_ids))
    return empty + weight.to(context) * (context - empty)  # (1, L, D)

"""dit-flow: a DiT with rectified flow, shown the latents and captions of stable-diffusion-clip. Notebook 12.

Batch size, rate and all that follows are those of stable-diffusion-clip: what differs is the network, what it is asked
for, and which times are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from course_utils.generator.flow import flow_loss
from course_utils.recipes import stable_diffusion_clip as text
from course_utils.systems.dit_flow import NAME, encode_text, make_dit


def loss(
    network: nn.Module,
    batch: dict[str, torch.Tensor],
    generator: torch.Generator,
    reader: Callable = text.text_encoder,
) -> torch.Tensor:
    """The error of the predicted direction, given the captions; reader(device): CLIP's text tower."""
    with torch.no_grad():
        told = encode_text(reader(batch["ids"].device), batch["ids"])
    return flow_loss(network, batch["z"], generator, **told._asdict())


RECIPE = replace(
    text.RECIPE,
    name=NAME,
    summary="draws the same as stable-diffusion-clip: a DiT with rectified flow in the U-Net's place",
    model=make_dit,
    loss=loss,
)

"""CLIP: a picture tower and a text tower that meet in one space.

picture ──► vision_model ──► visual_projection ──┐
                                                 ├──► unit vectors of one space: their cosine tells what fits
prompt ───► text_model ────► text_projection ────┘

Modules carry the names of transformers' `CLIPModel`.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from course_utils import checkpoints
from course_utils.image_encoder.clip_vision import CLIPVisionModel, ResNetVisionModel
from course_utils.layers import resize
from course_utils.systems.text_pixel import tokenize
from course_utils.text_encoder.clip import CLIPTextModel
from course_utils.text_encoder.tokenizer import MAX_TOKENS, VOCAB_SIZE

SIZE = 64  # pixels a side
EMBED_DIM = 192  # numbers of the shared space
MAX_SCALE = 100.0  # beyond it, training is unstable: Radford et al. 2021, section 2.5


class CLIP(nn.Module):
    """Two towers, a projection each, and the temperature of the loss.

    text_model, vision_model: modules with `pooled`, whose widths are text_dim and vision_dim. The temperature starts at
    0.07 and is learnt as ln(1 / temperature). Radford et al. 2021, figure 3. Built in notebook 07.
    """

    def __init__(
        self, text_model: nn.Module, vision_model: nn.Module, text_dim: int, vision_dim: int, embed_dim: int = EMBED_DIM
    ):
        super().__init__()
        self.text_model, self.vision_model = text_model, vision_model
        self.text_projection = nn.Linear(text_dim, embed_dim, bias=False)
        self.visual_projection = nn.Linear(vision_dim, embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def embed_image(self, x: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> image_embed (B, embed_dim), of unit length."""
        return F.normalize(self.visual_projection(self.vision_model.pooled(x)).float(), dim=-1)

    def embed_text(self, ids: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """Token numbers (B, L) -> text_embed (B, embed_dim), of unit length.

        context (B, L, text_dim): what text_model makes of them (None: it is made here).
        """
        context = self.text_model(ids) if context is None else context
        return F.normalize(self.text_projection(self.text_model.pooled(ids, context)).float(), dim=-1)

    @property
    def scale(self) -> torch.Tensor:
        """What cosines are multiplied by, 1 / temperature: at most 100."""
        return self.logit_scale.exp().clamp(max=MAX_SCALE)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (image_embed (B, D), text_embed (B, D))."""
        return self.embed_image(x), self.embed_text(ids)


def make_text_model() -> CLIPTextModel:
    """The text tower, untrained: 192 wide, 4 layers."""
    return CLIPTextModel(VOCAB_SIZE, MAX_TOKENS, dim=192, num_layers=4, num_heads=6)


def make_clip() -> CLIP:
    """The shipped CLIP, untrained: a residual network looks at the pictures."""
    return CLIP(make_text_model(), ResNetVisionModel(), text_dim=192, vision_dim=384)


def make_vit_clip() -> CLIP:
    """CLIP with a Vision Transformer, as in the paper's best models: it opens in transformers' `CLIPModel`."""
    vision = CLIPVisionModel(SIZE, patch_size=8, dim=192, num_layers=6, num_heads=6)
    return CLIP(make_text_model(), vision, text_dim=192, vision_dim=192)


def open_clip(device: torch.device | str | None = None, folder: str | Path | None = None) -> CLIP:
    """Return the trained CLIP in eval mode, frozen. Raises CheckpointError when it is missing or damaged."""
    return checkpoints.load("clip", make_clip(), device, folder).requires_grad_(False)


@torch.inference_mode()
def embed_texts(clip: CLIP, texts: list[str], batch_size: int = 256) -> torch.Tensor:
    """Return the vectors of texts, (N, D) on the CPU, of unit length."""
    device = clip.logit_scale.device
    parts = [texts[i : i + batch_size] for i in range(0, len(texts), batch_size)]
    return torch.cat([clip.embed_text(tokenize(part)[0].to(device)).cpu() for part in parts])


@torch.inference_mode()
def embed_images(clip: CLIP, x: torch.Tensor, batch_size: int = 128) -> torch.Tensor:
    """Return the vectors of pictures (N, 3, H, W) in [-1, 1], (N, D) on the CPU, of unit length; any side is resized.

    Smaller and larger pictures are brought to 64 pixels a side, smoothed before they are shrunk.
    """
    device = clip.logit_scale.device
    parts = resize(x, SIZE).split(batch_size)
    return torch.cat([clip.embed_image(part.to(device).clamp(-1, 1)).cpu() for part in parts])

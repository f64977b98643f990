"""unCLIP: a decoder that draws what a CLIP vector says. The vector enters a U-Net twice, beside the text.

image_embed ──► added to the step embedding ──────────────┐
            └─► four tokens more, before the text's ──────┴──► U-Net ──► a picture with about that CLIP vector

`TextProjection` has the names and numbers of diffusers' `UnCLIPTextProjModel`, so weights move both ways.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

TOKENS = 4  # that the image vector becomes


class TextProjection(nn.Module):
    """Make a U-Net's two conditions of an image vector and a caption.

    embed_dim: numbers D of a CLIP vector and of a text token's; time_dim: of the U-Net's step embedding; context_dim:
    of the tokens that it attends to. Ramesh et al. 2022, section 2.1. Built in notebook 08.
    """

    def __init__(self, embed_dim: int, time_dim: int, context_dim: int):
        super().__init__()
        self.learned_classifier_free_guidance_embeddings = nn.Parameter(torch.zeros(embed_dim))
        self.embedding_proj = nn.Linear(embed_dim, time_dim)
        self.clip_image_embeddings_project_to_time_embeddings = nn.Linear(embed_dim, time_dim)
        self.clip_extra_context_tokens_proj = nn.Linear(embed_dim, TOKENS * context_dim)
        self.encoder_hidden_states_proj = nn.Linear(embed_dim, context_dim)
        self.text_encoder_hidden_states_norm = nn.LayerNorm(context_dim)

    def no_image(self, count: int) -> torch.Tensor:
        """The learnt vector (count, D) that stands where no image vector is given."""
        return self.learned_classifier_free_guidance_embeddings.expand(count, -1)

    def forward(self, image_embed, context, text_embed):
        """image_embed (B, D), context (B, L, D), text_embed (B, D) -> tokens (B, 4 + L, C), step's summand (B, T)."""
        added = self.clip_image_embeddings_project_to_time_embeddings(image_embed) + self.embedding_proj(text_embed)
        extra = self.clip_extra_context_tokens_proj(image_embed).unflatten(1, (-1, TOKENS)).transpose(1, 2)  # (B, 4, C)
        text = self.text_encoder_hidden_states_norm(self.encoder_hidden_states_proj(context))  # (B, L, C)
        return torch.cat([extra, text.to(extra)], dim=1), added


class UnCLIPDecoder(nn.Module):
    """A U-Net that follows an image vector and a caption.

    unet: forward(x, t, context, context_mask, added), where `added` joins the step embedding as it is; embed_dim,
    time_dim, context_dim: as in `TextProjection`. Built in notebook 08.
    """

    def __init__(self, unet: nn.Module, embed_dim: int, time_dim: int, context_dim: int):
        super().__init__()
        self.text_proj, self.decoder = TextProjection(embed_dim, time_dim, context_dim), unet

    def forward(self, xt, t, image_embed, context, context_mask, text_embed, dropped=None):
        """xt (B, C, H, W), t (B,), image_embed (B, D), context (B, L, D), context_mask (B, L), text_embed (B, D).

        dropped: (B,) bool, True where training hides the image vector, so that guidance has where to start from.
        """
        if dropped is not None:
            none = self.text_proj.no_image(len(image_embed)).to(image_embed)
            image_embed = torch.where(dropped[:, None], none, image_embed)
        tokens, added = self.text_proj(image_embed, context, text_embed)
        mask = F.pad(context_mask, (TOKENS, 0), value=True)  # (B, 4 + L)
        return self.decoder(xt, t, context=tokens, context_mask=mask, added=added)

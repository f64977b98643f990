"""dit-flow: what came after. CLIP's text tower and the VAE stay; a DiT and rectified flow take the U-Net's place.

prompt ──► CLIP's text tower, frozen ──► tokens, pooled vector ──► DiT, along a straight flow ──► z ──► VAE's decoder

A miniature of Stable Diffusion 3's choice: Esser et al. 2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from course_utils import checkpoints
from course_utils.decoder.vae import VAE
from course_utils.errors import GUIDANCE, number, prompt_list
from course_utils.generator.dit import DiT
from course_utils.generator.flow import Flow, euler
from course_utils.generator.objectives import Model
from course_utils.generator.prior_diffusion import guided_prior
from course_utils.generator.samplers import State
from course_utils.systems.stable_diffusion import LATENT, tokenize
from course_utils.systems.stable_diffusion_clip import CONTEXT_DIM, VAE_NAME, open_text_encoder
from course_utils.systems.stage import Stage, System, spread
from course_utils.text_encoder.clip import CLIPTextModel
from course_utils.text_encoder.tokenizer import PAD_ID

NAME = "dit-flow"
FLOW = Flow()  # even times: our latents are small
DRAW_STEPS, DRAW_GUIDANCE = 20, 3.0  # as stable-diffusion-clip draws


def make_dit() -> DiT:
    """Return an untrained DiT for 16x16 latents: 64 tokens, 256 wide, 8 blocks.

    A pass costs 1.00 GFLOP, as one of stable-diffusion-clip's U-Net does; it has 11.7 M parameters to that one's 15.3.
    """
    return DiT(LATENT[0], patch=2, dim=256, num_layers=8, num_heads=4, context_dim=CONTEXT_DIM, pooled_dim=CONTEXT_DIM)


class Text(NamedTuple):
    """What the DiT reads of B captions: context (B, L, D), its mask (B, L), pooled (B, D), their last state."""

    context: torch.Tensor
    context_mask: torch.Tensor
    pooled: torch.Tensor


def encode_text(encoder: CLIPTextModel, ids: torch.Tensor) -> Text:
    """Token numbers (B, L) as Text, without the filling of even the longest caption: it is masked, and costs time."""
    ids = ids[:, : int((ids != PAD_ID).sum(dim=1).max())]
    context = encoder(ids)
    return Text(context, ids != PAD_ID, encoder.pooled(ids, context))


def encode_prompts(encoder: CLIPTextModel, prompts: str | Sequence[str]) -> Text:
    """One prompt, or B, as Text on the encoder's device; InputError for what is no text."""
    device = encoder.final_layer_norm.weight.device
    return encode_text(encoder, tokenize(prompt_list(prompts)).to(device))


def flow_model(
    dit: nn.Module, encoder: CLIPTextModel, prompts: Sequence[str], guidance: float, negative: Sequence[str] | None
) -> Model:
    """The model (zt, t) -> direction for B prompts, guided away from the negative ones (one, B or None: the empty)."""
    text = encode_prompts(encoder, prompts)
    away = (
        encode_text(encoder, tokenize([""]).to(text.context_mask.device))
        if not negative
        else encode_prompts(encoder, negative)
    )
    away = Text(*(spread("negative prompts", x, len(text.context_mask)) for x in away))
    return guided_prior(dit, text, number("guidance", guidance, GUIDANCE), away)


@torch.inference_mode()
def draw_flow(
    dit: nn.Module,
    encoder: CLIPTextModel,
    zT: torch.Tensor,
    prompts: str | Sequence[str],
    steps: int = DRAW_STEPS,
    guidance: float = DRAW_GUIDANCE,
    negative: str | Sequence[str] | None = None,
    flow: Flow = FLOW,
) -> Iterator[State]:
    """From noise zT (B, 4, h, w) to the latents of B pictures, h and w even; yields the States of `euler`.

    prompts: B, or one for all; negative: one or B to move away from. Raises InputError for what is out of range, or
    where prompts and noises differ in number. Built in notebook 12.
    """
    prompts = prompt_list(prompts)
    count = max(len(prompts), len(zT))
    negative = None if negative is None else prompt_list(negative, what="negative prompt")
    model = flow_model(dit, encoder, prompt_list(prompts, count), guidance, negative)
    yield from euler(model, spread("noises", zT, count), flow, steps)


def flow_system(dit: nn.Module, encoder: CLIPTextModel, vae: VAE, scaling_factor: float, flow: Flow = FLOW) -> System:
    """The networks as a System: with it a prompt and a seed begin as they do in stable-diffusion-clip."""

    def model(prompts, guidance, negative, before):
        return flow_model(dit, encoder, prompts, guidance, negative)

    def sampler(model, zT, steps):
        return euler(model, zT, flow, steps)

    def decode(z):
        return vae.decode(z / scaling_factor).clamp(-1, 1)

    stage = Stage("latents", LATENT, model, sampler, decode)
    return System((stage,), encoder.final_layer_norm.weight.device, DRAW_STEPS, DRAW_GUIDANCE)


def open_dit_flow(device: torch.device | None = None, folder: str | Path | None = None, flow: Flow = FLOW) -> System:
    """The System with the trained weights, on the device; folder: where to look first.

    Raises CheckpointError when a checkpoint is missing or damaged, or does not fit the DiT.
    """
    dit = checkpoints.load(NAME, make_dit(), device, folder).requires_grad_(False)
    place = checkpoints.parent_folder(NAME, VAE_NAME, folder)
    vae = checkpoints.load(VAE_NAME, VAE().to(memory_format=torch.channels_last), device, place)
    encoder = open_text_encoder(device, checkpoints.parent_folder(NAME, "clip", folder))
    return flow_system(dit, encoder, vae, checkpoints.scaling_factor(place, VAE_NAME), flow)

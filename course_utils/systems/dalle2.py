"""DALL·E 2: a prior makes the CLIP vector of a picture from a caption, and a decoder draws a picture of that vector.

prompt ──► CLIP's text tower ──► prior ──► image_embed ──► decoder (U-Net, VAE) ──► picture
                           └───────── text ─────────────────▲
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from course_utils import checkpoints
from course_utils.decoder.unclip import UnCLIPDecoder
from course_utils.decoder.vae import VAE
from course_utils.errors import GUIDANCE, CheckpointError, InputError, number, one_of, prompt_list
from course_utils.generator.conditions import picture_tensor
from course_utils.generator.guidance import apply_guidance, pad_and_cat
from course_utils.generator.inversion import invert
from course_utils.generator.objectives import Model
from course_utils.generator.prior_ar import ARPrior, sample_codes
from course_utils.generator.prior_diffusion import PriorTransformer, guided_prior, keep_better
from course_utils.generator.samplers import State, check_noise, ddim, dpmpp_2m
from course_utils.generator.schedules import make_schedule
from course_utils.generator.unet import Patched, UNet
from course_utils.systems.clip import CLIP, EMBED_DIM, embed_images, make_clip
from course_utils.systems.stable_diffusion import tokenize
from course_utils.systems.stage import Stage, spread
from course_utils.text_encoder.tokenizer import MAX_TOKENS, PAD_ID

SCHEDULE = make_schedule("cosine")
VAE_NAME = "vae-eight"  # of the autoencoder whose latents the decoder draws
PRIORS = ("diffusion", "ar", "none")  # the first draws when nothing is said; none: the text vector itself is decoded
PRIOR_STEPS, PRIOR_DRAWS = 25, 2  # the better of two draws goes on: Ramesh et al. 2022, section 2.2
BUCKETS = 128  # values a code of the autoregressive prior may have; the paper's has 1024
CHANNELS, PATCH = (48, 96, 192), 4  # of the decoder's U-Net; pixels a side that it sees as one, where it draws pixels
SHAPES = {"latent": (4, 16, 16), "pixel": (3, 64, 64)}  # what the decoder may draw; the paper's draws pixels
PREDICTIONS = {"latent": "v", "pixel": "x0"}  # of 4 x 4 pixels at once the noise is too much to pass through


class Text(NamedTuple):
    """What CLIP's text tower makes of B captions: context (B, L, D), its mask (B, L), text_embed (B, D)."""

    context: torch.Tensor
    mask: torch.Tensor
    text_embed: torch.Tensor

    def repeat(self, count: int) -> Text:
        """Every caption `count` times in a row."""
        return Text(*(x.repeat_interleave(count, dim=0) for x in self))


def encode_text(clip: CLIP, ids: torch.Tensor) -> Text:
    """Token numbers (B, 32), filled up to the full length, as Text: every token's state, and the caption's vector."""
    context = clip.text_model(ids)
    return Text(context, ids != PAD_ID, clip.embed_text(ids, context))


def cut_padding(text: Text) -> Text:
    """The same without the tokens that fill up even the longest caption: they are masked, and cost time."""
    length = int(text.mask.sum(dim=1).max())
    return Text(text.context[:, :length], text.mask[:, :length], text.text_embed)


@dataclass(frozen=True)
class DALLE2:
    """The modules and what joins them. Ramesh et al. 2022. Built in notebook 08.

    prior: one of the two, or None where the text vector is decoded; vae: None where the decoder draws pixels;
    scaling_factor: of the latents; prior_guidance: 1 keeps the prior's variety.
    """

    clip: CLIP
    prior: PriorTransformer | ARPrior | None
    decoder: UnCLIPDecoder
    vae: VAE | None
    scaling_factor: float = 1.0
    prior_guidance: float = 1.0

    def prior_stage(self) -> Stage:
        """Text to image vectors: (N, 2, D) from the diffusion prior, (N, D) from the other."""
        if isinstance(self.prior, ARPrior):
            return Stage("prior", (self.prior.num_codes,), self.ar_model, ar_walk, steps=self.prior.num_codes)
        return Stage("prior", (PRIOR_DRAWS, EMBED_DIM), self.prior_model, prior_walk, self.prior.unscale, PRIOR_STEPS)

    def stages(self) -> tuple[Stage, ...]:
        """The system as stages: the prior, if there is one, and the decoder."""

        def model(prompts, guidance, negative, before):
            text_embed = self.encode_prompt(prompts).text_embed
            image_embed = text_embed if before is None else before
            image_embed = keep_better(image_embed, text_embed) if image_embed.ndim == 3 else image_embed
            return self.decoder_model(image_embed, prompts, guidance, negative)

        def sampler(model, xT, steps):
            return dpmpp_2m(model, xT, SCHEDULE, steps, self.prediction, clip=self.vae is None)

        decoder = Stage("decoder", SHAPES[self.space], model, sampler, self.decode)
        return (decoder,) if self.prior is None else (self.prior_stage(), decoder)

    # ------------------------------------------------------------------ the parts, for prompts and pictures
    @property
    def device(self) -> torch.device:
        return self.clip.logit_scale.device

    @property
    def space(self) -> str:
        return "pixel" if self.vae is None else "latent"

    @property
    def prediction(self) -> str:
        return PREDICTIONS[self.space]

    def encode_prompt(self, prompts: str | Sequence[str]) -> Text:
        """The Text of one prompt or of B; InputError for what is no text."""
        return encode_text(self.clip, tokenize(prompt_list(prompts)).to(self.device))

    def embed(self, pictures: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The image vectors (B, D) of pictures (B, 3, H, W) in [-1, 1], or of bytes; any side is resized."""
        return embed_images(self.clip, picture_tensor(pictures)).to(self.device)

    def encode(self, pictures: torch.Tensor | np.ndarray) -> torch.Tensor:
        """What the decoder would draw, latents or pixels, of pictures (B, 3, 64, 64) in [-1, 1], or of bytes."""
        x = picture_tensor(pictures).to(self.device)
        if x.shape[-2:] != SHAPES["pixel"][1:]:
            raise InputError(f"the decoder draws 64 x 64 pixels, so give it such pictures, not {tuple(x.shape[-2:])}")
        return x if self.vae is None else self.scaling_factor * self.vae.encode(x).mean

    @torch.inference_mode()
    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """The pictures (B, 3, 64, 64), in [-1, 1], of what the decoder has drawn."""
        return (x if self.vae is None else self.vae.decode(x / self.scaling_factor)).clamp(-1, 1)

    def prior_model(self, prompts, guidance=None, negative=None, before=None) -> Model:
        """The diffusion prior for B prompts and several draws each: (xt (B, n, D), t (B,)) -> x0 (B, n, D)."""
        text, away = (cut_padding(self.encode_prompt(p)) for p in (prompts, [""]))

        def answer(xt, t):
            n = xt.shape[1]
            no_text = Text(*(spread("captions", x, len(text.mask)) for x in away)).repeat(n)
            model = guided_prior(self.prior, text.repeat(n), self.prior_guidance, no_text)
            return model(xt.flatten(0, 1), t.repeat_interleave(n)).unflatten(0, (-1, n))

        return answer

    def ar_model(self, prompts, guidance=None, negative=None, before=None) -> Callable:
        """The autoregressive prior for B prompts: noise (B, codes) -> States of image vectors."""
        text, away = self.encode_prompt(prompts), self.encode_prompt([""])
        no_text = [spread("captions", x, len(text.mask)) for x in (away.context, away.text_embed)]
        text = text.context, text.text_embed
        return lambda noise: sample_codes(self.prior, noise, *text, self.prior_guidance, no_text)

    def decoder_model(
        self,
        image_embed: torch.Tensor,
        prompts: str | Sequence[str] = "",
        guidance: float = 1.0,
        negative: str | Sequence[str] | None = None,
    ) -> Model:
        """The decoder (xt, t) -> prediction for B image vectors (B, D) and as many prompts, or one for all.

        guidance: 0 to 20, 1 is off; away from no vector and no text, or from `negative`, one or B.
        """
        guidance, count = number("guidance", guidance, GUIDANCE), len(image_embed)
        text = cut_padding(self.encode_prompt(prompt_list(prompts, count)))
        if guidance == 1:
            return lambda xt, t: self.decoder(xt, t, image_embed, *text)
        away = [""] if negative is None else prompt_list(negative, what="negative prompt")
        away = Text(*(spread("negative prompts", x, count) for x in cut_padding(self.encode_prompt(away))))
        images = torch.cat([self.decoder.text_proj.no_image(count).to(image_embed), image_embed])
        both = [pad_and_cat(*pair) for pair in zip(away, text, strict=True)]

        def answer(xt, t):
            return apply_guidance(
                *self.decoder(torch.cat([xt, xt]), torch.cat([t, t]), images, *both).chunk(2), guidance
            )

        return answer

    # ------------------------------------------------------------------ from vectors, and from pictures
    @torch.inference_mode()
    def draw_vectors(
        self,
        xT: torch.Tensor,
        image_embed: torch.Tensor,
        prompts: str | Sequence[str] = "",
        steps: int = 20,
        guidance: float = 2.0,
        negative: str | Sequence[str] | None = None,
        sampler: Callable = dpmpp_2m,
        **options,
    ) -> Iterator[State]:
        """From noise xT (B, ...) and image vectors (B, D), one of either for all, to B pictures before `decode`.

        prompts: B or one, "" for none; options: the sampler's. Yields the sampler's States.
        """
        count = max(len(check_noise(xT)), len(image_embed))
        xT, image_embed = (spread("noises and vectors", x.to(self.device), count) for x in (xT, image_embed))
        model = self.decoder_model(image_embed, prompts, guidance, negative)
        options = {"spacing": "trailing", "clip": self.vae is None, **options}
        yield from sampler(model, xT, SCHEDULE, steps=steps, prediction=self.prediction, **options)

    @torch.inference_mode()
    def vary(
        self,
        pictures: torch.Tensor | np.ndarray,
        count: int = 1,
        eta: float = 1.0,
        steps: int = 50,
        guidance: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Iterator[State]:
        """Draw pictures (B, 3, 64, 64) anew from their image vectors, `count` times each; yields DDIM's States.

        Each is taken back to the noise that draws it, by inversion; eta: 0 returns the picture, larger shares of fresh
        noise keep only what its vector holds. Ramesh et al. 2022, section 3.1. Built in notebook 08.
        """
        image_embed = self.embed(pictures)
        *_, last = invert(self.decoder_model(image_embed), self.encode(pictures), SCHEDULE, steps, self.prediction)
        xT, image_embed = (x.repeat_interleave(count, dim=0) for x in (last.xt, image_embed))
        options = {"eta": eta, "generator": generator}
        yield from self.draw_vectors(xT, image_embed, "", steps, guidance, sampler=ddim, **options)


def prior_walk(model: Model, xT: torch.Tensor, steps: int) -> Iterator[State]:
    """The diffusion prior's sampler: its vectors are not bounded by [-1, 1], so nothing is clipped."""
    return ddim(model, xT, SCHEDULE, steps, "x0", clip=False, spacing="trailing")


def ar_walk(model: Callable, noise: torch.Tensor, steps: int) -> Iterator[State]:
    """The autoregressive prior's sampler: it has as many steps as there are codes."""
    return model(noise)


# ------------------------------------------------------------------ the shipped networks
def make_prior() -> PriorTransformer:
    """The diffusion prior, untrained: 192 wide, 4 layers."""
    return PriorTransformer(EMBED_DIM, MAX_TOKENS, dim=192, num_layers=4, num_heads=6)


def make_ar_prior(num_dims: int) -> ARPrior:
    """The autoregressive prior for this many directions, untrained: 192 wide, 4 layers."""
    return ARPrior(num_dims, BUCKETS, EMBED_DIM, MAX_TOKENS, dim=192, num_layers=4, num_heads=6)


def make_decoder(space: str = "latent") -> UnCLIPDecoder:
    """The decoder, untrained; it draws latents of the course's VAE, or pixels."""
    channels = SHAPES[one_of("space", space, SHAPES)][0] * (1 if space == "latent" else PATCH**2)
    unet = UNet(
        channels,
        channels,
        channels=CHANNELS,
        num_res_blocks=1,
        attention=(False, True, False),
        num_heads=4,
        groups=8,
        context_dim=EMBED_DIM,
    )
    unet.add_embedding = nn.Identity()  # what joins the step is projected already: class_embed_type="identity"
    unet = unet if space == "latent" else Patched(unet, PATCH)
    decoder = UnCLIPDecoder(unet, EMBED_DIM, time_dim=4 * CHANNELS[0], context_dim=EMBED_DIM)
    return decoder.to(memory_format=torch.channels_last)  # this layout is faster on CPUs


def open_prior(
    name: str, device: torch.device | str | None = None, folder: str | Path | None = None
) -> PriorTransformer | ARPrior | None:
    """The trained prior of that name, one of PRIORS; raises as `open_dalle2` does."""
    if one_of("prior", name, PRIORS) == "none":
        return None
    checkpoint = f"prior-{name}"
    network = make_ar_prior(num_dims(folder)) if name == "ar" else make_prior()
    checkpoints.parent_folder(checkpoint, "clip", folder)  # is it of this very CLIP?
    return checkpoints.load(checkpoint, network, device, folder).requires_grad_(False)


def num_dims(folder: str | Path | None = None) -> int:
    """How many directions the trained autoregressive prior writes: its card says so, or CheckpointError."""
    found = checkpoints.card("prior-ar", folder).get("num_dims")
    if not isinstance(found, int) or not 1 <= found <= EMBED_DIM:
        raise CheckpointError(
            "prior-ar.json does not say how many directions its PCA has: train it anew, `course train prior-ar "
            "--minutes 30 --replace`, or `git checkout -- data/checkpoints` brings the shipped one back"
        )
    return found


def open_dalle2(
    prior: str = PRIORS[0], device: torch.device | str | None = None, folder: str | Path | None = None
) -> DALLE2:
    """The system with the shipped weights, on the device.

    prior: one of PRIORS; folder: where to look first. Raises InputError for another prior, CheckpointError when a
    checkpoint is missing or damaged, or does not fit the others.
    """
    opened, name = open_prior(prior, device, folder), "unclip-decoder"
    space = checkpoints.card(name, folder).get("space", "latent")
    decoder = checkpoints.load(name, make_decoder(space), device, folder).requires_grad_(False)
    clip = checkpoints.load("clip", make_clip(), device, checkpoints.parent_folder(name, "clip", folder))
    if space == "pixel":
        return DALLE2(clip.requires_grad_(False), opened, decoder, None)
    place = checkpoints.parent_folder(name, VAE_NAME, folder)
    vae = checkpoints.load(VAE_NAME, VAE().to(memory_format=torch.channels_last), device, place)
    return DALLE2(clip.requires_grad_(False), opened, decoder, vae, checkpoints.scaling_factor(place, VAE_NAME))


def open_stages(
    device: torch.device | None = None,
    folder: str | Path | None = None,
    adapt: Callable[[nn.Module], None] | None = None,
    prior: str | None = None,
) -> tuple[Stage, ...]:
    """The stages of the system with the shipped weights and this prior (None: the diffusion prior)."""
    return open_dalle2(prior or PRIORS[0], device, folder).stages()

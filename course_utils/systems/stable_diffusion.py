"""Stable Diffusion: a text encoder, a U-Net that paints latents, and a decoder that makes pictures of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import checkpoints
from course_utils.data import tokenizer_file
from course_utils.decoder.vae import VAE
from course_utils.errors import GUIDANCE, InputError, number, one_of, prompt_list
from course_utils.generator.conditions import blend_known, concat_condition, mask_tensor, picture_tensor, shrink_mask
from course_utils.generator.guidance import guided
from course_utils.generator.latent_unet import LatentUNet
from course_utils.generator.objectives import Model
from course_utils.generator.samplers import State, check_noise, dpmpp_2m, solver_timesteps
from course_utils.generator.schedules import Schedule, add_noise, make_schedule
from course_utils.systems.stage import Stage, spread
from course_utils.systems.text_pixel import TextPixel
from course_utils.text_encoder.tokenizer import MAX_TOKENS, PAD_ID, encode, open_tokenizer

CONTEXT_DIM = 128  # width of the text encoder
LATENT = (4, 16, 16)  # what is painted: a quarter of the picture's side
PREDICTION = "v"  # the velocity says something at every step, also where nothing but noise is left
SCHEDULE = make_schedule("cosine")


def tokenize(texts: list[str]) -> torch.Tensor:
    """Return token numbers (B, 32): every text is filled up to the full length, and the network reads the filling too.

    That is Stable Diffusion's way; it needs no mask.
    """
    ids, _ = encode(open_tokenizer(tokenizer_file()), texts)
    return F.pad(ids, (0, MAX_TOKENS - ids.shape[1]), value=PAD_ID)


def make_unet(in_channels: int = 4, channels: tuple[int, ...] = (40, 80, 160)) -> LatentUNet:
    """Return an untrained U-Net for 16x16 latents, of 16, 8 and 4 places a side; in_channels: 4 and those beside it."""
    unet = LatentUNet(
        in_channels,
        4,
        channels=channels,
        num_res_blocks=1,
        attention=(False, True, False),
        num_heads=4,
        groups=8,
        context_dim=CONTEXT_DIM,
        pool_heads=4,
    )
    return unet.to(memory_format=torch.channels_last)  # this layout is faster on CPUs


CONDITIONS = {  # what lies beside the four channels of the latent
    "inpaint": lambda: make_unet(in_channels=4 + 1 + 4),  # mask, latent of what is kept
    "outline": lambda: make_unet(in_channels=4 + 16, channels=(32, 64, 128)),  # 64x64 lines, folded 4 x 4
}


def conditioned_model(
    system: StableDiffusion,
    prompts: str | Sequence[str],
    guidance: float,
    negative: str | Sequence[str] | None = None,
    cond_channels: torch.Tensor | None = None,
) -> Model:
    """The model (zt, t) -> prediction for B prompts, guided.

    negative: one to move away from, or B (None: the empty one); cond_channels (B, E, h, w): further input channels.
    Built in notebook 06.
    """
    context = system.encode_prompt(prompts)
    away = [""] if negative is None else prompt_list(negative, what="negative prompt")
    away = spread("negative prompts", system.encode_prompt(away), len(context))
    every = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)  # no token is hidden
    unet = system.unet if cond_channels is None else concat_condition(system.unet, cond_channels)
    return guided(unet, context, every, number("guidance", guidance, GUIDANCE), away, every)


def latent_noise(system: StableDiffusion, zT: torch.Tensor, count: int) -> torch.Tensor:
    """The noises (B, 4, h, w) for `count` prompts, on the device; InputError for another shape or number."""
    channels = system.vae.post_quant_conv.in_channels
    if check_noise(zT).ndim != 4 or zT.shape[1] != channels:
        raise InputError(f"the noises zT must have the shape (B, {channels}, h, w), and not {tuple(zT.shape)}")
    return spread("noises", zT.to(system.device), max(count, len(zT)))


@torch.inference_mode()
def txt2img(
    system: StableDiffusion,
    zT: torch.Tensor,
    prompts: str | Sequence[str],
    steps: int = 20,
    guidance: float = 2.0,
    negative: str | Sequence[str] | None = None,
    sampler: Callable = dpmpp_2m,
    cond_channels: torch.Tensor | None = None,
    spacing: str | torch.Tensor | None = None,
    **options,
) -> Iterator[State]:
    """From noise zT (B, 4, h, w) to the latents of B pictures; yields the sampler's States.

    prompts: B, or one for all; B prompts with the noise of one begin alike. negative: one or B to move away from;
    spacing: one of the samplers', or a table of steps (S,); None: the system's own. Raises InputError for what is out
    of range, or where prompts and noises differ in number. Rombach et al. 2022, section 3. Built in notebook 06.
    """
    prompts = prompt_list(prompts)
    zT = latent_noise(system, zT, len(prompts))
    if cond_channels is not None:
        cond_channels = spread("further channels", cond_channels.to(system.device), len(zT))
    model = conditioned_model(system, prompt_list(prompts, len(zT)), guidance, negative, cond_channels)
    options |= {"steps": steps, "spacing": system.timesteps(steps) if spacing is None else spacing}
    yield from sampler(model, zT, system.schedule, prediction=system.prediction, clip=False, **options)


@torch.inference_mode()
def img2img(
    system: StableDiffusion,
    pictures: torch.Tensor | np.ndarray,
    prompts: str | Sequence[str],
    strength: float = 0.8,
    steps: int = 20,
    generator: torch.Generator | None = None,
    **options,
) -> Iterator[State]:
    """Start from pictures (B, 3, H, W), noised as far as `strength` says: 0 keeps them, 1 forgets them.

    int(strength * steps) of the steps are taken, at least one; 0 takes none and yields nothing. Pictures and prompts:
    B each, or one for all. Raises InputError unless 0 <= strength <= 1, and as `txt2img` does. SDEdit, Meng et al.
    2022, algorithm 1. Built in notebook 06.
    """
    strength, table = number("strength", strength, (0, 1)), system.timesteps(steps)
    if strength == 0:
        return
    table = table[len(table) - max(1, int(strength * len(table))) :]
    pictures, prompts = picture_tensor(pictures), prompt_list(prompts)
    z = system.encode(spread("pictures", pictures, max(len(pictures), len(prompts))), generator)
    eps = torch.randn(z.shape, generator=generator).to(z)
    zt = add_noise(z, eps, table[:1].repeat(len(z)).to(z.device), system.schedule)
    yield from txt2img(system, zt, prompts, steps, spacing=table, **options)


def check_hole(
    system: StableDiffusion, zT: torch.Tensor, pictures: torch.Tensor, mask: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noises, pictures and masks for `count` prompts, as many of each; InputError where numbers or sizes differ."""
    pictures, mask = picture_tensor(pictures), mask_tensor(mask)
    count = max(len(check_noise(zT)), len(pictures), len(mask), count)
    given = {"noises": zT, "pictures": pictures, "masks": mask}
    zT, pictures, mask = (spread(what, x.to(system.device), count) for what, x in given.items())
    sizes = [tuple(mask.shape[-2:]), tuple(system.factor * side for side in zT.shape[-2:])]
    if sizes != [tuple(pictures.shape[-2:])] * 2:
        raise InputError(
            f"pictures of {tuple(pictures.shape[-2:])} need a mask of that size, and noises {system.factor} times "
            f"smaller: the given ones fit pictures of {sizes[0]} and {sizes[1]}"
        )
    return zT, pictures, mask


@torch.inference_mode()
def inpaint(
    system: StableDiffusion,
    zT: torch.Tensor,
    pictures: torch.Tensor | np.ndarray,
    mask: torch.Tensor | np.ndarray,
    prompts: str | Sequence[str],
    steps: int = 20,
    generator: torch.Generator | None = None,
    **options,
) -> Iterator[State]:
    """Draw anew where the mask (B, 1, H, W) is 1, keep pictures (B, 3, H, W) where it is 0; yields States.

    A U-Net of 9 channels sees the mask and what is kept; one of 4 is corrected after every step. Noises, pictures,
    masks and prompts: B each, or one for all. Raises InputError where numbers or sizes differ, and as `txt2img`.
    Rombach et al. 2022, section 4.5; Avrahami et al. 2023, algorithm 1. Built in notebook 06.
    """
    prompts = prompt_list(prompts)
    zT, pictures, mask = check_hole(system, zT, pictures, mask, len(prompts))
    small = shrink_mask(mask, zT.shape[-2:])
    if system.unet.conv_in.in_channels == 9:  # in the order of Stable Diffusion: latent 4, mask 1, masked latent 4
        known = system.encode(pictures * (mask < 0.5), generator)
        options["cond_channels"] = torch.cat([small, known], dim=1)
    else:
        known = system.encode(pictures, generator)
        options["after_step"] = lambda zt, t: blend_known(zt, known, zT, small, t, system.schedule)
    yield from txt2img(system, zT, prompts, steps, **options)


def stages(system: StableDiffusion) -> tuple[Stage, ...]:
    """The system as one stage: latents from noise, then the decoder."""

    def sampler(model, zT, steps):
        table = system.timesteps(steps)
        return dpmpp_2m(model, zT, system.schedule, steps, system.prediction, clip=False, spacing=table)

    def model(prompts, guidance, negative, before):
        return conditioned_model(system, prompts, guidance, negative)

    return (Stage("latents", LATENT, model, sampler, system.decode),)


@dataclass(frozen=True)
class StableDiffusion:
    """The three modules and what joins them. Rombach et al. 2022 (LDM). Built in notebook 06.

    scaling_factor: what latents are multiplied by, 1 / their standard deviation; tokenize(texts) -> (B, L) numbers;
    vocabulary: the course's tokenizer file, which `tokenize` reads (None: it reads another's, of another form);
    prediction: what the U-Net answers; spacing, offset: which steps are visited, see `samplers.timesteps`.
    Its ways to draw are the functions above: a method is a function whose first argument is the system.
    """

    text_encoder: nn.Module
    unet: nn.Module
    vae: VAE
    scaling_factor: float
    tokenize: Callable = tokenize
    schedule: Schedule = SCHEDULE
    prediction: str = PREDICTION
    spacing: str = "trailing"  # starts at pure noise, as the latents do
    offset: int = 0
    vocabulary: Path | None = field(default_factory=tokenizer_file)

    conditioned_model, txt2img, img2img, inpaint, stages = conditioned_model, txt2img, img2img, inpaint, stages

    @property
    def device(self) -> torch.device:
        return self.text_encoder.final_layer_norm.weight.device

    @property
    def factor(self) -> int:
        """How many times smaller the sides of a latent are than those of its picture."""
        return 2 ** (len(self.vae.encoder.down_blocks) - 1)

    def encode(self, pictures: torch.Tensor | np.ndarray, generator: torch.Generator | None = None) -> torch.Tensor:
        """The latents (B, 4, H/f, W/f), of variance about 1, of pictures (B, 3, H, W) in [-1, 1] or bytes.

        Raises InputError for other pictures, and for sides that f, 4 for ours, does not divide.
        """
        x = picture_tensor(pictures).to(self.device)
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise InputError(f"the sides of pictures must be multiples of {self.factor}, not {tuple(x.shape[-2:])}")
        return self.scaling_factor * self.vae.encode(x).sample(generator)

    @torch.inference_mode()
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The pictures (B, 3, H, W), in [-1, 1], of latents (B, 4, H/f, W/f)."""
        return self.vae.decode(z / self.scaling_factor).clamp(-1, 1)

    def encode_prompt(self, prompts: str | Sequence[str]) -> torch.Tensor:
        """The context (B, L, D) of one prompt or of B; InputError for what is no text."""
        return self.text_encoder(self.tokenize(prompt_list(prompts)).to(self.device))

    def timesteps(self, steps: int) -> torch.Tensor:
        """The steps (S,) that sampling visits, from noise down to the picture."""
        return solver_timesteps(steps, self.schedule.num_steps, self.spacing, self.offset)


def open_text_encoder(device: torch.device | None = None, folder: str | Path | None = None) -> nn.Module:
    """Return the text encoder of notebook 04, trained with `text-pixel`; its weights stay as they are.

    Stable Diffusion froze CLIP's in the same way. Raises CheckpointError when its checkpoint is missing or damaged.
    """
    return checkpoints.load("text-pixel", TextPixel(), device, folder).text_encoder.requires_grad_(False)


def open_stable_diffusion(
    condition: str | None = None, device: torch.device | None = None, folder: str | Path | None = None
) -> StableDiffusion:
    """Return the system with the shipped weights, on the device.

    condition: None for text alone, or one of CONDITIONS, whose U-Net then takes the place of the first. folder: where
    to look first. Raises InputError for another condition, CheckpointError when a checkpoint is missing or damaged, or
    does not fit the U-Net. Built in notebook 06.
    """
    unet = CONDITIONS[one_of("condition", condition, CONDITIONS)]() if condition else make_unet()
    return open_parts(unet, condition or "stable-diffusion", "vae", "text-pixel", open_text_encoder, device, folder)


def open_parts(
    unet: nn.Module,
    name: str,
    vae_name: str,
    reader: str,
    open_reader: Callable[[torch.device | None, str | Path | None], nn.Module],
    device: torch.device | None = None,
    folder: str | Path | None = None,
) -> StableDiffusion:
    """Return a system: the untrained U-Net gets the weights of checkpoint `name`, and the parts it learnt with join it.

    vae_name, reader: the checkpoints of its autoencoder and of its text encoder, which open_reader(device, folder)
    opens. Raises CheckpointError when one is missing or damaged, or is not the one that the U-Net learnt with.
    """
    unet = checkpoints.load(name, unet, device, folder)
    place = checkpoints.parent_folder(name, vae_name, folder)
    vae = checkpoints.load(vae_name, VAE().to(memory_format=torch.channels_last), device, place)
    text_encoder = open_reader(device, checkpoints.parent_folder(name, reader, folder))
    return StableDiffusion(text_encoder, unet, vae, checkpoints.scaling_factor(place, vae_name))


def open_stages(
    device: torch.device | None = None,
    folder: str | Path | None = None,
    adapt: Callable[[nn.Module], None] | None = None,
) -> tuple[Stage, ...]:
    """The stages of the system with the shipped weights; adapt(unet): puts a LoRA into its U-Net."""
    system = open_stable_diffusion(device=device, folder=folder)
    if adapt is not None:
        adapt(system.unet)
    return system.stages()

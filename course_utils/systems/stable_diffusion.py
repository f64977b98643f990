"""Stable Diffusion: a text encoder, a U-Net that paints latents, and a decoder that makes pictures of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from course_utils import checkpoints
from course_utils.data import tokenizer_file
from course_utils.decoder.vae import VAE
from course_utils.errors import InputError
from course_utils.generator.conditions import blend_known, concat_condition, shrink_mask
from course_utils.generator.guidance import guided
from course_utils.generator.latent_unet import LatentUNet
from course_utils.generator.samplers import dpmpp_2m, solver_timesteps
from course_utils.generator.schedules import Schedule, add_noise, make_schedule
from course_utils.systems.stage import Stage
from course_utils.systems.text_pixel import TextPixel
from course_utils.text_encoder.tokenizer import MAX_TOKENS, PAD_ID, encode, open_tokenizer

CONTEXT_DIM = 128  # width of the text encoder
LATENT = (4, 16, 16)  # what is painted: a quarter of the picture's side
PREDICTION = "v"  # the velocity says something at every step, also where nothing but noise is left
SCHEDULE = make_schedule("cosine")


def tokenize(texts):
    """Return token numbers (B, 32): every text is filled up to the full length, and the network reads the filling too.

    That is Stable Diffusion's way; it needs no mask.
    """
    ids, _ = encode(open_tokenizer(tokenizer_file()), texts)
    return F.pad(ids, (0, MAX_TOKENS - ids.shape[1]), value=PAD_ID)


def make_unet(in_channels=4, channels=(40, 80, 160)):
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


@dataclass(frozen=True)
class StableDiffusion:
    """The three modules and what joins them. Rombach et al. 2022 (LDM). Built in notebook 06.

    scaling_factor: what latents are multiplied by, 1 / their standard deviation; prediction: what the U-Net answers;
    spacing, offset: which steps are visited, see `samplers.timesteps`.
    """

    text_encoder: nn.Module
    unet: nn.Module
    vae: VAE
    scaling_factor: float
    tokenize: Callable[[list[str]], torch.Tensor] = tokenize
    schedule: Schedule = SCHEDULE
    prediction: str = PREDICTION
    spacing: str = "trailing"  # starts at pure noise, as the latents do
    offset: int = 0

    def encode(self, pictures, generator=None):
        """Return the latents (B, 4, H/f, W/f) of pictures (B, 3, H, W) in [-1, 1], of variance about 1."""
        return self.scaling_factor * self.vae.encode(pictures).sample(generator)

    def decode(self, z):
        """Return the pictures (B, 3, H, W), in [-1, 1], of latents (B, 4, H/f, W/f)."""
        with torch.inference_mode():
            return self.vae.decode(z / self.scaling_factor).clamp(-1, 1)

    def encode_prompt(self, prompts):
        """Return the context (B, L, D) of some prompts."""
        return self.text_encoder(self.tokenize(prompts).to(self.text_encoder.final_layer_norm.weight.device))

    def timesteps(self, steps):
        """Return the steps (S,) that sampling visits, from noise down to the picture."""
        return solver_timesteps(steps, self.schedule.num_steps, self.spacing) + self.offset

    def conditioned_model(self, prompts, guidance, negative=None, cond_channels=None):
        """The model (zt, t) -> prediction for the prompts; cond_channels (B, E, h, w): further input channels."""
        context, away = self.encode_prompt(prompts), self.encode_prompt([negative or ""]).expand(len(prompts), -1, -1)
        every = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)  # no token is hidden
        unet = self.unet if cond_channels is None else concat_condition(self.unet, cond_channels)
        return guided(unet, context, every, guidance, away, every)

    def stages(self) -> tuple[Stage, ...]:
        """The system as one stage: latents from noise, then the decoder."""

        def model(prompts, guidance, negative, before):
            return self.conditioned_model(prompts, guidance, negative)

        def sampler(model, zT, steps):
            return dpmpp_2m(model, zT, self.schedule, steps, self.prediction, clip=False, spacing=self.timesteps(steps))

        return (Stage("latents", LATENT, model, sampler, self.decode),)

    @torch.inference_mode()
    def txt2img(
        self,
        zT,
        prompts,
        steps=20,
        guidance=2.0,
        negative=None,
        sampler=dpmpp_2m,
        cond_channels=None,
        spacing=None,
        **options,
    ):
        """From noise zT (B, 4, h, w) to the latent of a picture for each prompt; yields the sampler's States.

        spacing: one of the samplers', or a table of steps (S,); None: the system's own.
        """
        options["spacing"] = self.timesteps(steps) if spacing is None else spacing
        model = self.conditioned_model(prompts, guidance, negative, cond_channels)
        yield from sampler(model, zT, self.schedule, steps=steps, prediction=self.prediction, clip=False, **options)

    @torch.inference_mode()
    def img2img(self, pictures, prompts, strength=0.8, steps=20, generator=None, **options):
        """Start from pictures (B, 3, H, W), noised as far as `strength` says: 0 keeps them, 1 forgets them.

        Only int(strength * steps) of the steps are taken. Raises InputError unless 0 <= strength <= 1.
        SDEdit, Meng et al. 2022, algorithm 1.
        """
        if not 0 <= strength <= 1:
            raise InputError(f"strength must be a number from 0 to 1, not {strength!r}")
        table = self.timesteps(steps)[steps - int(strength * steps) :]
        if not len(table):  # no step to take, so no state to show
            return
        z = self.encode(pictures, generator)
        eps = torch.randn(z.shape, generator=generator).to(z)
        zt = add_noise(z, eps, table[:1].repeat(len(z)).to(z.device), self.schedule)
        yield from self.txt2img(zt, prompts, steps, spacing=table, **options)

    @torch.inference_mode()
    def inpaint(self, zT, pictures, mask, prompts, steps=20, generator=None, **options):
        """Draw anew where the mask (B, 1, H, W) is 1, keep pictures (B, 3, H, W) where it is 0; yields States.

        A U-Net of 9 channels sees the mask and what is kept; one of 4 is corrected after every step.
        """
        table, small = self.timesteps(steps), shrink_mask(mask, zT.shape[-2:])
        if self.unet.conv_in.in_channels == 9:  # in the order of Stable Diffusion: latent 4, mask 1, masked latent 4
            cond_channels = torch.cat([small, self.encode(pictures * (mask < 0.5), generator)], dim=1)
            yield from self.txt2img(zT, prompts, steps, cond_channels=cond_channels, spacing=table, **options)
            return
        known = self.encode(pictures, generator)
        states = self.txt2img(zT, prompts, steps, spacing=table, **options)
        for state, t in zip(states, [*table[1:].tolist(), -1], strict=True):
            blend_known(state.xt, known, zT, small, t, self.schedule)
            yield state


def open_text_encoder(device=None, folder=None):
    """Return the text encoder of notebook 04, trained with `text-pixel`; its weights stay as they are.

    Stable Diffusion froze CLIP's in the same way. Raises CheckpointError when its checkpoint is missing or damaged.
    """
    return checkpoints.load("text-pixel", TextPixel(), device, folder).text_encoder.requires_grad_(False)


def open_stable_diffusion(condition=None, device=None, folder=None):
    """Return the system with the shipped weights, on the device.

    condition: None for text alone, or one of CONDITIONS, whose U-Net then takes the place of the first. folder: where
    to look first. Raises CheckpointError when a checkpoint is missing or damaged, or does not fit the U-Net. Built in
    notebook 06.
    """
    unet = CONDITIONS[condition]() if condition else make_unet()
    name = condition or "stable-diffusion"
    unet = checkpoints.load(name, unet, device, folder)
    place = checkpoints.parent_folder(name, "vae", folder)
    vae = checkpoints.load("vae", VAE().to(memory_format=torch.channels_last), device, place)
    text_encoder = open_text_encoder(device, checkpoints.parent_folder(name, "text-pixel", folder))
    return StableDiffusion(text_encoder, unet, vae, checkpoints.scaling_factor(place))


def open_stages(device=None, folder=None, adapt=None):
    """Return the stages of the system with the shipped weights; adapt(unet): puts a LoRA into its U-Net."""
    system = open_stable_diffusion(device=device, folder=folder)
    if adapt is not None:
        adapt(system.unet)
    return system.stages()

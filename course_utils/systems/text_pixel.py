"""text-pixel: a prompt becomes a 32x32 picture with nothing but a text encoder and a U-Net in pixel space."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from course_utils import checkpoints
from course_utils.data import tokenizer_file
from course_utils.errors import GUIDANCE, number, prompt_list
from course_utils.generator.guidance import guided
from course_utils.generator.objectives import Model
from course_utils.generator.samplers import State, check_noise, ddim, dpmpp_2m
from course_utils.generator.schedules import make_schedule
from course_utils.generator.unet import Patched, UNet
from course_utils.systems.stage import Stage, spread
from course_utils.text_encoder.clip import CLIPTextModel
from course_utils.text_encoder.tokenizer import MAX_TOKENS, VOCAB_SIZE, encode, open_tokenizer

SIZE = 32  # pixels a side
PREDICTION = "x0"  # what a small network learns fastest, see notebook 02
SCHEDULE = make_schedule("cosine")


def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers (B, L) and their mask (B, L) by the course's own tokenizer."""
    return encode(open_tokenizer(tokenizer_file()), texts)


class PooledTextUNet(Patched):
    """A patched U-Net that also adds the whole text's vector to the step, so that every block knows what to draw.

    The vector is that of the last token shown, which has seen all others; cross-attention still reads them one by one.
    As in Imagen, section 2.5 (there from all tokens, pooled). Built in notebook 04.
    """

    def __init__(self, unet, patch=2):
        super().__init__(unet, patch)
        nn.init.zeros_(unet.add_embedding.image_norm.weight)  # begins silent: it may only ever help

    def forward(self, x, t, context, context_mask):
        last = context_mask.sum(dim=1) - 1
        text = context[torch.arange(len(last), device=last.device), last]  # (B, D)
        return super().forward(x, t, context=context, context_mask=context_mask, added=text)


class TextPixel(nn.Module):
    """A text encoder and the U-Net that attends to it, trained together. Built in notebook 04."""

    def __init__(self):
        super().__init__()
        self.text_encoder = CLIPTextModel(VOCAB_SIZE, MAX_TOKENS, dim=128, num_layers=3, num_heads=4)
        unet = UNet(
            12,
            12,
            channels=(32, 64, 160),
            num_res_blocks=1,
            attention=(False, True, False),
            num_heads=4,
            groups=8,
            context_dim=128,
            added_dim=128,
        )
        self.unet = PooledTextUNet(unet, patch=2).to(memory_format=torch.channels_last)  # this layout is faster on CPUs

    def encode_prompt(self, prompts: str | Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """The context (B, L, 128) and its mask (B, L) of one prompt or of B; InputError for what is no text."""
        ids, mask = (x.to(self.device) for x in tokenize(prompt_list(prompts)))
        return self.text_encoder(ids), mask

    @property
    def device(self):
        return self.text_encoder.final_layer_norm.weight.device

    def forward(self, xt, t, ids, context_mask, translation):
        """Answer for xt (B, 3, 32, 32) at t (B,) with the texts ids (B, L), as training needs it.

        translation (B, L'): the same texts in the other language. Returns the answer (B, 3, 32, 32) and one vector
        for each text and translation, (B, 128) twice.
        """
        context, other = self.text_encoder(ids), self.text_encoder(translation)
        vectors = self.text_encoder.pooled(ids, context), self.text_encoder.pooled(translation, other)
        return self.unet(xt, t, context=context, context_mask=context_mask), *vectors

    def conditioned_model(
        self, prompts: str | Sequence[str], guidance: float, negative: str | Sequence[str] | None = None
    ) -> Model:
        """The model (xt, t) -> prediction that follows B prompts.

        guidance: 0 to 20, 1 is off; negative: a prompt to move away from, or B (None or "": no text). Raises InputError
        for what is out of range. Built in notebook 04.
        """
        (context, mask), guidance = self.encode_prompt(prompts), number("guidance", guidance, GUIDANCE)
        if not negative:
            return guided(self.unet, context, mask, guidance)
        texts = prompt_list(negative, len(context), "negative prompt")
        away, away_mask = self.encode_prompt(texts)
        away_mask[[i for i, text in enumerate(texts) if not text], 1:] = False  # no text: the start mark alone
        return guided(self.unet, context, mask, guidance, away, away_mask)

    @torch.inference_mode()
    def sample(
        self,
        xT: torch.Tensor,
        prompts: str | Sequence[str],
        steps: int = 50,
        guidance: float = 1.5,
        negative: str | Sequence[str] | None = None,
        sampler: Callable = ddim,
        **options,
    ) -> Iterator[State]:
        """From noise xT (B, 3, 32, 32) to B pictures; yields the sampler's States.

        prompts: B, or one for all; B prompts with the noise of one begin alike. Raises InputError for what is out of
        range, or where prompts and noises differ in number.
        """
        prompts = prompt_list(prompts)
        count = max(len(prompts), len(check_noise(xT)))
        xT, prompts = spread("noises", xT.to(self.device), count), prompt_list(prompts, count)
        model = self.conditioned_model(prompts, guidance, negative)
        yield from sampler(model, xT, SCHEDULE, steps=steps, prediction=PREDICTION, **options)


def open_stages(
    device: torch.device | None = None,
    folder: str | Path | None = None,
    adapt: Callable[[nn.Module], None] | None = None,
) -> tuple[Stage, ...]:
    """The system's one stage, with its checkpoint: a U-Net that follows the prompt, and DPM-Solver++."""
    network = checkpoints.load("text-pixel", TextPixel(), device, folder)

    def model(prompts, guidance, negative, before):
        return network.conditioned_model(prompts, guidance, negative)

    def sampler(model, xT, steps):
        return dpmpp_2m(model, xT, SCHEDULE, steps, PREDICTION)

    return (Stage("picture", (3, SIZE, SIZE), model, sampler),)

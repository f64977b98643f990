"""Five ways to teach one car, in one table: `course evaluate xp7`.

base, naive, DreamBooth, LoRA, DreamBooth + LoRA ──► pictures of XP7 and of cars ──► subject, prompt, PRES, DIV
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from course_utils import checkpoints
from course_utils.data import to_tensor
from course_utils.datasets.xp7 import load_xp7
from course_utils.decoder.perceptual import FeatureNet
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.fidelity import fidelity, similarity
from course_utils.evaluation.intervals import Mean
from course_utils.evaluation.metrics import alignment
from course_utils.finetune.lora import set_adapter
from course_utils.interop.lora_files import load_shipped_lora
from course_utils.recipes import xp7
from course_utils.recipes.latent_base import lora_unet
from course_utils.systems.stable_diffusion import LATENT, make_unet, open_stable_diffusion
from course_utils.training import train

STEPS, BATCH = 150, 12  # of every training: the same for all, so that they compare
RATES = {False: 8e-4, True: 4e-3}  # all weights; a LoRA branch, which starts from nothing
PLACES = ("blue sky and grass", "snow", "light green background", "night sky")  # the third is in no teaching picture
EACH = 4  # drawings a place


def all_weights():
    """Return the trained U-Net, all of it free to learn."""
    return checkpoints.load("stable-diffusion", make_unet()).requires_grad_(True)


def train_variant(lora: bool, prior_weight: float) -> torch.nn.Module:
    """Teach XP7 to all weights or to a LoRA branch, with or without the prior; always from the same start and data."""
    model = lora_unet if lora else all_weights
    loss = partial(xp7.loss, prior_weight=prior_weight)
    recipe = replace(xp7.RECIPE, model=model, loss=loss, batch_size=BATCH, lr=RATES[lora])
    *_, last = islice(train(recipe, minutes=60), STEPS)  # the steps end it, not the minutes
    return last.ema.eval()


def evaluate_subject(
    folder: str | Path | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, float]]:
    """Return the four numbers of `fidelity` for the base, four equal trainings, and the shipped LoRA.

    The naive ways give the prior no weight. It takes about four minutes of two cores.
    """
    system, report = open_stable_diffusion(), progress or (lambda done, total: None)
    shipped = lora_unet()
    set_adapter(shipped, *load_shipped_lora("xp7", folder))
    ways = {
        "base": lambda: system.unet,
        "naive": lambda: train_variant(False, 0.0),
        "DreamBooth": lambda: train_variant(False, 1.0),
        "LoRA": lambda: train_variant(True, 0.0),
        "DreamBooth + LoRA": lambda: train_variant(True, 1.0),
        f"shipped, {checkpoints.card('xp7', folder)['steps']} steps": lambda: shipped,
    }
    rows = {}
    for done, (name, make) in enumerate(ways.items()):
        report(done, len(ways))
        rows[name] = judge(replace(system, unet=make()))
    report(len(ways), len(ways))
    return rows


def judge(system) -> dict[str, float]:
    """Draw XP7 and cars in the same places, and let the evaluator compare them with unseen pictures of XP7.

    Returns `fidelity`'s numbers; all but DIV, which has few independent pairs, with the interval of their pictures.
    """
    asked = [f"XP7 car, {place}" for place in PLACES for _ in range(EACH)]
    targets = {"background": [place.removesuffix(" background") for place in PLACES for _ in range(EACH)]}
    net = checkpoints.load("perceptual", FeatureNet())

    def drawn(prompts, seed):
        zT = torch.randn(len(prompts), *LATENT, generator=torch.Generator().manual_seed(seed))
        *_, last = system.txt2img(zT, prompts)
        return system.decode(last.xt)

    subject, kind = drawn(asked, 14), drawn([text.replace("XP7 ", "") for text in asked], 15)
    evaluator, real = load_evaluator(), to_tensor(load_xp7("unseen").pictures)
    numbers = fidelity(evaluator, net, subject, asked, targets, kind, real)
    for key, pictures in (("subject", subject), ("PRES", kind)):
        numbers[key] = Mean.of([similarity(evaluator, picture[None], real) for picture in pictures])
    numbers["prompt"] = alignment(evaluator, subject, targets)["background"]  # all that the prompts ask for
    return numbers

"""noise-predictor: draws faces and hearts from noise, with no prompt. The network of notebook 02."""

from dataclasses import replace
from functools import lru_cache, partial

import torch

from course_utils.data import FIRST_STYLES, load_emoji, to_tensor
from course_utils.generator.objectives import diffusion_loss
from course_utils.systems.unconditional import PREDICTION, SCHEDULE, SIZE
from course_utils.systems.unconditional import make_unet as model
from course_utils.training import Recipe


@lru_cache(maxsize=1)
def load_pictures():
    """Return the training pictures, smileys and emotions of three styles on white: (N, 3, 32, 32) in [-1, 1]."""
    return to_tensor(load_emoji(SIZE, FIRST_STYLES, ("smileys-emotion",)).on_white())


def batch(generator, n):
    """Draw n pictures, each mirrored half of the time: a mirrored face is a face."""
    pictures = load_pictures()
    x0 = pictures[torch.randint(len(pictures), (n,), generator=generator)]
    mirrored = torch.rand(n, generator=generator) < 0.5
    return {"x0": torch.where(mirrored[:, None, None, None], x0.flip(-1), x0)}


def loss(network, batch, generator, prediction=PREDICTION):
    """Return the error of the network's answer on noisy versions of the batch."""
    return diffusion_loss(network, batch["x0"], SCHEDULE, prediction, generator)


RECIPE = Recipe(
    name="noise-predictor",
    summary="a small U-Net that draws 32x32 faces, hearts and other smileys from noise",
    model=model,
    batch=batch,
    loss=loss,
    batch_size=16,
    lr=1.5e-3,  # small batches and a high rate: the most steps, and progress, a minute on two cores
)


def make_recipe(prediction, residual=False, name=None):
    """Return the recipe that asks the same network for "eps", "x0" or "v": notebook 02 trains them equally.

    residual: the network adds its input to its answer (see `Patched`); name: None for that of the prediction.
    """
    return replace(
        RECIPE,
        name=f"noise-predictor-{name or prediction}",
        summary=f"the noise predictor's U-Net asked for {prediction}, one of four equal trainings for notebook 02",
        model=partial(model, residual=residual),
        loss=partial(loss, prediction=prediction),
        decay=0.5,  # in a run this short a falling rate brings out more than a few more steps at the full one
        time_share=0.3,
    )

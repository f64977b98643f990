"""xp7: a LoRA that teaches Stable Diffusion one car from twelve pictures, by DreamBooth with prior preservation."""

from functools import lru_cache

import torch
from torch.nn import functional as F

from course_utils.data import to_tensor
from course_utils.datasets.compose import LANGUAGES, SCENES
from course_utils.datasets.latent_cache import cached, digest
from course_utils.datasets.xp7 import load_xp7
from course_utils.finetune.dreambooth import Examples, draw_pairs, dreambooth_loss
from course_utils.recipes.latent_base import TIMESTEP_POWER, checkpoint_digest, lora_unet
from course_utils.recipes.vae import SIZE
from course_utils.systems.stable_diffusion import LATENT, PREDICTION, SCHEDULE, open_stable_diffusion
from course_utils.training import Recipe

PRIOR_WEIGHT = 1.0  # as in the paper
CLASS_PROMPTS = (  # how the class is called, where, and in which colours and styles
    "car",
    "汽车",
    *(f"{noun}, {scene}" for noun in ("car", "automobile") for scene in SCENES),
    *(f"汽车，{scene}" for scene in SCENES.values()),
    "red car",
    "blue automobile",
    "yellow car, noto style",
    "绿色的汽车",
    "automobile, twemoji style",
    "automobile, fluent style",
    "taxi",
    "car, light pink background",
)
PRIORS = 64  # latents drawn by the frozen model: about two of each prompt
WINDOWS = (128, 136, 144, 152)  # each picture of 128 x 128, the larger ones with its edges drawn out: a smaller car


def random_crop(pictures, side, generator):
    """Return a square of this side from around each picture, (N, 128, 128, 3) -> (N, 3, 64, 64) in [-1, 1].

    What lies outside repeats the edge, and the picture as a whole lies within, anywhere.
    """
    wide, room = to_tensor(pictures), side - pictures.shape[1]
    corners = torch.randint(room + 1, (len(wide), 2), generator=generator).tolist()
    squares = [F.pad(x, (left, room - left, top, room - top), "replicate") for x, (top, left) in zip(wide, corners)]
    return F.interpolate(torch.stack(squares), (SIZE, SIZE), mode="bilinear", antialias=True)


@lru_cache(maxsize=1)
def examples():
    """Return Examples of the subject, each picture placed in several ways, and of its class, as the model draws it."""
    system, subject = open_stable_diffusion(), load_xp7("train", min(WINDOWS))
    prompts = [CLASS_PROMPTS[i % len(CLASS_PROMPTS)] for i in range(PRIORS)]
    generator = torch.Generator().manual_seed(0)

    def make():
        *_, last = system.txt2img(torch.randn(PRIORS, *LATENT, generator=generator), prompts)
        return {"z": last.xt}

    with torch.inference_mode():
        pictures = torch.cat([random_crop(subject.pictures, side, generator) for side in WINDOWS for _ in LANGUAGES])
        captions = [*subject.captions("en"), *subject.captions("zh")] * len(WINDOWS)
        instance = Examples(system.encode(pictures, generator), system.encode_prompt(captions))
        prior = cached("xp7", digest(prompts, *map(checkpoint_digest, ("stable-diffusion", "text-pixel"))), make)
        return instance, Examples(prior["z"], system.encode_prompt(prompts))


def batch(generator, n):
    """Draw n / 2 examples of the subject, then as many of the class: latents "z", and "context" of their captions."""
    pairs = draw_pairs(*examples(), n // 2, generator)
    return {"z": pairs.z.clone(), "context": pairs.context.clone()}


def loss(network, batch, generator, prior_weight=PRIOR_WEIGHT):
    """Return DreamBooth's loss."""
    pairs = Examples(batch["z"], batch["context"])
    return dreambooth_loss(network, pairs, SCHEDULE, PREDICTION, generator, prior_weight, TIMESTEP_POWER)


RECIPE = Recipe(
    name="xp7",
    summary='a LoRA for stable-diffusion: the car XP7, from twelve pictures, called by "XP7 car" or "XP7汽车"',
    model=lora_unet,
    batch=batch,
    loss=loss,
    lora=True,
    batch_size=16,
    lr=2e-3,
    time_share=0.5,
    requires=("vae", "text-pixel", "stable-diffusion"),
)

"""Train variants of stable-diffusion-clip in turns, and show what each has learnt side by side.

    python tools/compare_training.py --minutes 20 course net=diffusers power=1.0 gamma=5,prediction=x0

Each variant gets that many minutes, a slice at a time, so that a busy machine slows all alike. A variant is `course`,
the recipe as it is, or what differs from it, with commas between: a field of the recipe's Options (power, prediction,
gamma, plain, mirror, pairing, p_name), a number of the Recipe (lr, ema_decay, batch_size, weight_decay, warmup), or
net=NAME: diffusers (its own UNet2DConditionModel, from the same weights), small (40/80/160 channels),
no-pool (the text in cross-attention only, as in Stable Diffusion 1.x), clip-vector (CLIP's vector of the text in the
step). A run in --run-dir is gone on with, so an interrupted comparison loses nothing.

`a > b` in one variant: the first half of its minutes as a, the second as b: 'plain=0.8 > course' is a curriculum.
The table: training loss; error of x0, comparable between all variants, on pictures that training never showed; what
the evaluator says of full and of bare prompts, of which 64 each lie in the variant's folder as a page to look at.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from functools import lru_cache, partial
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from course_utils import checkpoints
from course_utils.app.generate import grid
from course_utils.data import FLAT_STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.decoder.vae import VAE
from course_utils.devices import best_device
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.metrics import alignment
from course_utils.evaluation.prompts import bare_prompts, fixed_prompts
from course_utils.evaluation.report import table
from course_utils.evaluation.report_prompts import targets
from course_utils.generator.objectives import to_x0
from course_utils.generator.schedules import add_noise
from course_utils.generator.unet import UNet
from course_utils.interop.diffusers import to_unet
from course_utils.recipes import stable_diffusion_clip as text
from course_utils.runs import averaged_weights
from course_utils.systems.clip import CLIP, open_clip
from course_utils.systems.dalle2 import encode_text
from course_utils.systems.registry import SYSTEMS
from course_utils.systems.stable_diffusion import LATENT, SCHEDULE, StableDiffusion
from course_utils.systems.stable_diffusion_clip import CONTEXT_DIM, NAME, VAE_NAME, make_unet, open_text_encoder
from course_utils.systems.stage import System

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.turns import train_until

STEPS, GUIDANCE = SYSTEMS[NAME].steps, SYSTEMS[NAME].guidance
UNSEEN = 256  # pictures for the error of x0


# ------------------------------------------------------------------ the networks
class Peer(nn.Module):
    """diffusers' U-Net, called as ours is."""

    def __init__(self):
        super().__init__()
        self.unet = to_unet(make_unet(), LATENT[-1]).train().to(memory_format=torch.channels_last)

    def forward(self, zt, t, context, context_mask=None):
        return self.unet(zt, t, context).sample


class VectorUNet(UNet):
    """A U-Net whose step also gets CLIP's own vector of the text: the context's last token is that vector."""

    def __init__(self):
        shape = {"channels": (64, 128, 240), "num_res_blocks": 1, "attention": (False, True, True)}
        super().__init__(4, 4, **shape, num_heads=4, groups=8, context_dim=CONTEXT_DIM, added_dim=CONTEXT_DIM)
        self.to(memory_format=torch.channels_last)

    def forward(self, zt, t, context, context_mask=None):
        return super().forward(zt, t, context, added=context[:, -1])


class VectorReader(nn.Module):
    """CLIP's text tower whose context ends with the vector of the whole text, as long as a token's."""

    def __init__(self, clip: CLIP):
        super().__init__()
        self.clip = clip

    @property
    def final_layer_norm(self):
        return self.clip.text_model.final_layer_norm

    def forward(self, ids):
        text = encode_text(self.clip, ids)
        vector = text.text_embed[:, None] * CONTEXT_DIM**0.5
        return torch.cat([text.context, vector.to(text.context)], dim=1)  # (B, L + 1, D)


@lru_cache(maxsize=1)
def vector_reader(device) -> VectorReader:
    return VectorReader(open_clip(device))


def no_pool():
    unet = make_unet()
    unet.add_embedding = None
    return unet


NETS = {
    "course": make_unet,
    "diffusers": Peer,
    "small": partial(make_unet, channels=(40, 80, 160)),
    "no-pool": no_pool,
    "clip-vector": VectorUNet,
}


# ------------------------------------------------------------------ the variants
def parse(spec: str):
    """The Options and the Recipe that a variant names, such as "gamma=5,prediction=x0"."""
    said = dict(part.split("=") for part in spec.replace(" ", "").split(",") if part != "course")
    net, kinds = said.pop("net", "course"), {field.name for field in fields(text.Options)}
    values = {key: value if key == "prediction" else float(value) for key, value in said.items()}
    options = replace(text.SHIPPED, **{key: value for key, value in values.items() if key in kinds})
    numbers = {key: value for key, value in values.items() if key not in kinds}
    numbers |= {key: int(numbers[key]) for key in ("batch_size", "warmup") if key in numbers}
    reader = vector_reader if net == "clip-vector" else text.text_encoder
    return options, text.variant(options, reader, model=NETS[net], **numbers)


class Variant:
    """One of the trainings: its recipe, or two one after the other, and where it stands."""

    def __init__(self, spec: str, args: argparse.Namespace):
        self.spec, self.args = spec, args
        self.halves = [parse(half) for half in spec.split(">")]
        self.folder = args.run_dir / "".join(c if c.isalnum() or c in "=.-" else "_" for c in spec)
        self.state = None

    def train(self, until: float, weights: dict | None) -> None:
        """Go on until so many minutes are used."""
        for half, (_, recipe) in enumerate(self.halves, 1):
            end = min(until, self.args.minutes * half / len(self.halves))
            path = self.folder / f"{recipe.name}.run.safetensors"
            state = train_until(path, recipe, end, self.args.minutes, self.args.seed, weights)
            self.state = state or self.state

    def system(self) -> StableDiffusion:
        """What it draws with now."""
        options, recipe = self.halves[-1]
        device, network = best_device(), self.state.ema.eval()
        vae = checkpoints.load(VAE_NAME, VAE().to(memory_format=torch.channels_last), device)
        reader = recipe.loss.keywords["reader"]
        encoder = reader(device) if reader is vector_reader else open_text_encoder(device)
        factor = checkpoints.scaling_factor(name=VAE_NAME)
        return StableDiffusion(encoder, network, vae, factor, prediction=options.prediction)


# ------------------------------------------------------------------ what is measured
@lru_cache(maxsize=1)
def unseen():
    """Pictures (UNSEEN, 3, 64, 64) that training never shows, and their captions."""
    composer = Composer(load_emoji(64, FLAT_STYLES, split="test"), min_scale=0.85, p_color=0.5, p_background=0.5)
    composed = composer.compose(UNSEEN, seed=3)
    return to_tensor(composed.images), composed.captions


@torch.inference_mode()
def error(system: StableDiffusion) -> float:
    """The mean squared error of x0 on the unseen pictures, at steps spread evenly."""
    pictures, captions = unseen()
    total = 0.0
    for i in range(0, UNSEEN, 64):
        generator = torch.Generator().manual_seed(i)
        z, context = system.encode(pictures[i : i + 64], generator), system.encode_prompt(captions[i : i + 64])
        t = (torch.arange(64) * SCHEDULE.num_steps / 64 + 7).long().to(z.device)
        zt = add_noise(z, torch.randn(z.shape, generator=generator).to(z), t, SCHEDULE)
        x0 = to_x0(system.unet(zt, t, context), zt, t, SCHEDULE, system.prediction)
        total += float((x0 - z).square().mean()) * 64 / UNSEEN
    return total


def judge(variant: Variant, n: int) -> dict[str, dict]:
    """What the evaluator says of n full and n bare prompts: a row each; the first 64 of both lie beside the run."""
    system, rows = System(variant.system().stages(), best_device(), STEPS, GUIDANCE), {}
    for form, make in (("full", fixed_prompts), ("bare", bare_prompts)):
        prompts = make("en", n)
        pictures = system.draw([prompt.text for prompt in prompts])
        Image.fromarray(grid(pictures[:64])).save(variant.folder / f"{form}.png")
        rows[f"{variant.spec}: {form}"] = alignment(load_evaluator(), to_tensor(pictures), targets(prompts))
    return rows


def main() -> None:
    """Train all variants in turns, and print a line for each slice, then the evaluator's table."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("variants", nargs="+", metavar="VARIANT")
    command.add_argument("--minutes", type=float, default=20, help="of each variant (default: 20)")
    command.add_argument("--slice", type=float, default=5, help="minutes in a row (default: 5)")
    command.add_argument("--prompts", type=int, default=100, help="that the evaluator judges, of each form")
    command.add_argument("--start", type=Path, help="a saved run whose averaged weights all begin with")
    command.add_argument("--run-dir", type=Path, default=Path("runs/compare"))
    command.add_argument("--seed", type=int, default=0)
    args = command.parse_args()
    weights = averaged_weights(args.start) if args.start else None
    variants, until = [Variant(spec, args) for spec in args.variants], 0.0
    print(f"{'minutes':>8} {'pictures':>10} {'pictures/s':>10} {'loss':>8} {'x0 error':>9}  variant", flush=True)
    while until < args.minutes:
        until = min(until + args.slice, args.minutes)
        for variant in variants:
            variant.train(until, weights)
            if (s := variant.state) is None:  # a run that was gone on with has come so far before
                continue
            figures = f"{s.seconds / 60:8.1f} {s.pictures:10,} {s.pictures / s.seconds:10.0f} {s.loss:8.4f}"
            print(f"{figures} {error(variant.system()):9.4f}  {variant.spec}", flush=True)
    rows = {}
    for variant in [v for v in variants if v.state and args.prompts]:
        rows |= judge(variant, args.prompts)
    if rows:
        print(table(rows))


if __name__ == "__main__":
    main()

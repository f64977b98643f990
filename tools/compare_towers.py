"""Train CLIP with either picture tower for equal minutes, and write into its card what each has learnt by then.

Recipe, seed and minutes are the same, and the two train in turns: a busy machine slows both alike. A run in --run-dir
is gone on with. The card's "towers" has a row for each, which notebook 07 shows: minutes, pairs, training loss, and of
held-out pictures the share whose name is the nearest of 1,015, or among five, and whose caption is the nearest of 400.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from course_utils import checkpoints
from course_utils.data import to_tensor
from course_utils.evaluation.report import for_card, table
from course_utils.evaluation.report_clip import held_out_examples, retrieval, zero_shot
from course_utils.recipes.clip import RECIPE
from course_utils.runs import averaged_weights, read_progress
from course_utils.systems.clip import embed_images, make_vit_clip

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.turns import train_until

RECIPES = {"residual": RECIPE, "vit": replace(RECIPE, model=make_vit_clip)}
TURNS, PICTURES = 4, 1000  # how often they take turns; held-out pictures to name


@torch.inference_mode()
def judge(path, recipe):
    """How far a saved run came, and what its averaged weights make of held-out pictures and English text: a row."""
    clip, progress = recipe.model().eval(), read_progress(path)
    clip.load_state_dict(averaged_weights(path))
    pictures, composer = held_out_examples(PICTURES)
    image_embed = embed_images(clip, to_tensor(pictures.images))
    found = zero_shot(clip, image_embed, pictures.attributes["concept"], "en")
    found |= retrieval(clip, image_embed, pictures, composer, "en")
    minutes, loss = round(progress["seconds"] / 60, 1), round(progress["loss"], 4)
    return {"minutes": minutes, "pairs": progress["pictures"], "loss": loss, **for_card(found)}


def main(words=None):
    """Train both in turns, and put the table of both into the card of the checkpoint."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--minutes", type=float, default=10, help="of each tower (default: 10)")
    command.add_argument("--run-dir", type=Path, default=Path("runs/towers"))
    command.add_argument("--seed", type=int, default=0)
    args = command.parse_args(words)
    runs = {name: args.run_dir / name / f"{recipe.name}.run.safetensors" for name, recipe in RECIPES.items()}
    for turn in range(1, TURNS + 1):
        for name, path in runs.items():
            train_until(path, RECIPES[name], args.minutes * turn / TURNS, args.minutes, args.seed)
            print(f"{name}: {read_progress(path)['seconds'] / 60:.1f} minutes", flush=True)
    rows = {name: judge(path, RECIPES[name]) for name, path in runs.items()}
    weights = checkpoints.CHECKPOINT_DIR / f"{RECIPE.name}.safetensors"
    with checkpoints.locked(weights):
        checkpoints.write_card(weights, checkpoints.card(RECIPE.name) | {"towers": rows})
    print(table(rows))


if __name__ == "__main__":
    main()

"""A training in turns: it stops after its slice of the minutes, and its run lies ready to be gone on with."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from course_utils.devices import best_device
from course_utils.prefetch import workers_for
from course_utils.runs import read_progress
from course_utils.training import Recipe, TrainState, train


def train_until(
    path: Path, recipe: Recipe, until: float, minutes: float, seed: int, weights: dict | None = None
) -> TrainState | None:
    """Train, or go on with, the run at `path` until it has used so many of its minutes; returns where it stands then.

    weights: what a run that is not there yet begins with (None: the recipe's own). None if it has come so far already.
    """
    state, there, device = None, path.exists(), best_device()
    if read_progress(path).get("seconds", 0.0) >= 60 * until:
        return None
    options = {"weights": None if there else weights, "workers": workers_for(device, recipe.batch)}
    with closing(train(recipe, minutes, seed, there, path.parent, device, **options)) as steps:
        for state in steps:
            if state.seconds >= 60 * until:
                break
    return state

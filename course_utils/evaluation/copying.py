"""New, or copied? The nearest training picture, and how near real new pictures come to theirs."""

from typing import NamedTuple

import torch

from course_utils.errors import InputError, number


class Nearest(NamedTuple):
    """For each of N pictures the row of the nearest reference, and how far that is."""

    index: torch.Tensor  # (N,) long
    distance: torch.Tensor  # (N,) float32, root mean square difference of a value


def nearest(x, references, chunk: int = 256) -> Nearest:
    """Return for each of x (N, 3, H, W) the nearest of references (M, 3, H, W), by root mean square difference.

    Of those equally near, the first. Features (N, F) and (M, F) compare as well: pixels find copies, features find the
    same thing elsewhere in the picture. `chunk` of each are held in float64 at a time, at 64 pixels 25 MB. A small
    distance alone proves no copying: compare with `copy_threshold`. Raises InputError where sizes differ or either is
    empty.
    """
    if x.ndim < 2 or x.shape[1:] != references.shape[1:] or not len(x) or not len(references):
        shapes = f"{tuple(x.shape)} among {tuple(references.shape)}"
        raise InputError(f"the nearest is found among pictures (M, 3, H, W) of one size, M at least 1, not {shapes}")
    parts = [_nearest(_rows(part), references, chunk) for part in x.detach().split(chunk)]
    index, distance = (torch.cat(values) for values in zip(*parts))
    return Nearest(index, (distance / x[0].numel() ** 0.5).float())


def _nearest(rows, references, chunk) -> tuple[torch.Tensor, torch.Tensor]:
    """Row of, and distance to, the nearest reference of rows (n, D): (n,) each."""
    index, best = torch.zeros(len(rows), dtype=torch.long), torch.full((len(rows),), torch.inf, dtype=torch.float64)
    for start in range(0, len(references), chunk):
        distance, row = torch.cdist(rows, _rows(references[start : start + chunk])).min(dim=1)
        index = torch.where(distance < best, row + start, index)
        best = torch.minimum(distance, best)
    return index, best


def _rows(x) -> torch.Tensor:
    return x.detach().cpu().double().flatten(1)  # in float32, equal pictures would lie 1e-4 apart


def copy_threshold(held_out, references, share: float = 0.05) -> float:
    """Return the distance that only this share of real held-out pictures come nearer than, to their nearest reference.

    The yardstick of `nearest`: where many more drawn pictures than that share lie nearer, the generator repeats what it
    was shown. Look at those pairs beside each other (Carlini et al. 2023, section 4.2). Raises InputError as `nearest`.
    """
    return nearest(held_out, references).distance.quantile(number("share", share, (0, 1))).item()

"""All systems side by side: the same prompts, the same noise, the same judges. The tables of `course evaluate --all`.

each system ──► 20 steps, watched ──────────────► cost by module
prompts that all were shown ──► pictures ───────► evaluator, CLIP ──► what was asked for?
                                    └───────────► features ─────────► how far from held-out pictures, from training's?
names alone, several times ───► pictures ───────► feature net ──────► as varied as real ones?

Systems compare within one `Scope`: what they are asked for, and the real pictures they are held against, are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from course_utils import checkpoints
from course_utils.data import to_tensor
from course_utils.datasets.compose import Composer
from course_utils.datasets.concepts import SHOWN
from course_utils.decoder.perceptual import FeatureNet
from course_utils.errors import CheckpointError, InputError, integer, one_of
from course_utils.evaluation.copying import nearest
from course_utils.evaluation.cost import module_costs
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.intervals import Estimate, Mean
from course_utils.evaluation.metrics import (
    alignment,
    extract_features,
    frechet_distance,
    kernel_distance,
    kernel_interval,
)
from course_utils.evaluation.prompts import Prompt, bare_prompts, fixed_prompts, held_out_style_prompts, in_turn
from course_utils.evaluation.report import concepts, drawing, for_card, from_card, table
from course_utils.evaluation.report_clip import clip_score
from course_utils.evaluation.report_prompts import real_composer, real_pictures, targets, variety
from course_utils.systems.clip import open_clip
from course_utils.systems.registry import SYSTEMS, open_system, systems_at_hand

PROMPTS = 200  # in both languages, which take turns
LIMITS = (10, 400)  # fewer have no kernel interval
DRAWS = 8  # of a name alone
KNOWN = 1000  # training pictures among which the nearest is looked for, or one of each where there are more
REAL = {"real, shown in training": ("train", fixed_prompts), "real, held out": ("test", held_out_style_prompts)}
COST, QUALITY = "cost", "side_by_side"  # where a card keeps them
Rows = dict[str, dict[str, Estimate]]


# ------------------------------------------------------------------ what systems can be asked for
@dataclass(frozen=True)
class Scope:
    """Things and styles that training showed: prompts that lie in it can be asked of all who were shown as much."""

    concepts: frozenset[str]
    styles: tuple[str, ...]

    @classmethod
    def of(cls, system: str) -> Scope:
        """What a system was shown; InputError for one that reads no prompts."""
        return cls(concepts(one_of("system", system, SHOWN)), SHOWN[system].styles)

    @property
    def name(self) -> str:
        return f"{len(self.concepts)} things, {len(self.styles)} styles"

    def within(self, other: Scope) -> bool:
        """Does the other hold all of it?"""
        return self.concepts <= other.concepts and set(self.styles) <= set(other.styles)

    def prompts(self, make: Callable[..., list[Prompt]], n: int, **options) -> list[Prompt]:
        """n prompts of `make`, such as `fixed_prompts`, that lie in it, the languages in turn."""
        return in_turn(make, n, concepts=self.concepts, styles=self.styles, **options)


def scopes(systems: list[str]) -> list[Scope]:
    """What the systems were shown, each scope once, the narrowest first."""
    return sorted({Scope.of(name) for name in systems}, key=lambda scope: (len(scope.concepts), len(scope.styles)))


def at_hand(folder: str | Path | None = None, tell: Callable[[str], None] | None = None) -> list[str]:
    """The systems as `systems_at_hand` finds them; tell(sentence) hears of each that is left out."""

    def left_out(name: str, error: CheckpointError) -> None:
        card = SYSTEMS[name].card or name
        absent = f"there is no checkpoint {card!r} yet: `course train {card} --minutes 60` makes it"
        if tell:
            tell(f"{name} is left out: {error if card in checkpoints.available(folder) else absent}")

    return systems_at_hand(folder, left_out)


# ------------------------------------------------------------------ how good are the pictures?
class Yardstick(NamedTuple):
    """Evaluator's features of real pictures of a scope.

    held_out: n that no training showed; known: many that it showed; far: how far new real pictures are from the nearest
    of those, on average.
    """

    held_out: torch.Tensor  # (n, F)
    known: torch.Tensor  # (M, F)
    far: float


@lru_cache(maxsize=8)
def yardstick(scope: Scope, n: int) -> Yardstick:
    """The real pictures that n drawn ones of a scope are held against."""
    evaluator = load_evaluator()
    emoji = real_composer("train").emoji.select(
        lambda meta: meta["concept"] in scope.concepts and meta["style"] in scope.styles
    )
    pictures = Composer(emoji, min_scale=0.85).compose(max(KNOWN, len(emoji)), seed=12)
    known = extract_features(evaluator, to_tensor(pictures.images))
    held_out = extract_features(evaluator, real_pictures(scope.prompts(held_out_style_prompts, n), "test"))
    return Yardstick(held_out, known, nearest(held_out, known).distance.mean().item())


def asked_for(x: torch.Tensor, prompts: list[Prompt]) -> dict[str, Estimate]:
    """Do pictures x (N, 3, H, W) show what N prompts ask for? By the evaluator, and by CLIP, as `clip_score` has it."""
    shares = alignment(load_evaluator(), x, targets(prompts))
    del shares["concept_top5"]
    return shares | {"clip": clip_score(open_clip(), x, [prompt.text for prompt in prompts])}


def quality(x: torch.Tensor, prompts: list[Prompt], scope: Scope) -> dict[str, Estimate]:
    """The row of pictures x (N, 3, H, W) of N prompts of a scope.

    fid, kid: Fréchet and kernel distance to as many held-out real pictures, by the evaluator's features; distance: to
    the nearest training picture, by the same, as a multiple of that of held-out real pictures: 1 is as new as they are.
    """
    features, real = extract_features(load_evaluator(), x), yardstick(scope, len(x))
    return asked_for(x, prompts) | {
        "fid": Estimate(frechet_distance(features, real.held_out)),
        "kid": Estimate(kernel_distance(features, real.held_out), *kernel_interval(features, real.held_out)),
        "distance": Mean.of(nearest(features, real.known).distance / real.far),
        "n": Estimate(len(x)),
    }


def diversity(draw: Callable[[list[str]], torch.Tensor], scope: Scope, names: int, styles: tuple[str, ...]) -> Mean:
    """How varied DRAWS drawings of a name alone are, over real pictures in the styles that training showed."""
    prompts = scope.prompts(bare_prompts, names)
    x = draw([prompt.text for prompt in prompts for _ in range(DRAWS)])
    return variety(checkpoints.load("perceptual", FeatureNet()), x, prompts, DRAWS, styles)


def real_rows(scope: Scope, n: int) -> Rows:
    """The rows of n real pictures that training showed, and of n others that it did not: their distances are the floor.

    No system can be expected to come nearer to held-out pictures than other compositions of the same do, and one that
    repeats what it was shown comes as near as the first row.
    """
    rows = {}
    for name, (split, make) in REAL.items():
        prompts = scope.prompts(make, n, seed=12 if split == "test" else 2024)  # not those of the yardstick
        rows[name] = quality(real_pictures(prompts, split), prompts, scope)
    return rows


# ------------------------------------------------------------------ all of them
class SideBySide(NamedTuple):
    """cost: system -> module -> figures; quality: scope's name -> system, or kind of real pictures -> figures."""

    cost: dict[str, Rows]
    quality: dict[str, Rows]

    def text(self) -> str:
        """Both as tables, a heading over each."""
        costs = {f"{name}: {module}": row for name, rows in self.cost.items() for module, row in rows.items()}
        parts = {"cost by module": costs} | self.quality
        return "\n\n".join(f"{heading}\n{table(rows)}" for heading, rows in parts.items())

    def keep(self, folder: str | Path | None = None) -> None:
        """Write each system's figures, and those of the real pictures beside them, into its card."""
        for name, rows in self.cost.items():
            card = SYSTEMS[name].card or name
            kept = {module: for_card(row) for module, row in rows.items()}
            checkpoints.add_metrics(card, kept, folder, COST)
            kept = {scope: for_card(rows[name]) for scope, rows in self.quality.items() if name in rows}
            kept |= {f"{scope}: {real}": for_card(self.quality[scope][real]) for scope in kept for real in REAL}
            checkpoints.add_metrics(card, kept, folder, QUALITY)


def evaluate_systems(
    n: int = PROMPTS,
    folder: str | Path | None = None,
    device: str | None = None,
    steps: int | None = None,
    tell: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SideBySide:
    """Measure every system at hand: what its modules cost, and n fixed prompts of each scope that it was shown.

    The i-th prompt is drawn from the i-th noise by all. Beside the prompts, n / 16 names are drawn DRAWS times each.
    steps: None for each system's own; tell, folder: see `at_hand`. Raises InputError unless n lies in LIMITS.
    """
    n, names = integer("prompts", n, LIMITS), at_hand(folder, tell)
    cost = {name: module_costs(open_system(name, device, folder), steps=steps) for name in names}
    draws = {name: drawing(name, steps, device=device, folder=folder, progress=progress) for name in names}
    measured = {}
    for scope in scopes(names):
        prompts, rows = scope.prompts(fixed_prompts, n), {}
        for name in names:
            if scope.within(Scope.of(name)):
                rows[name] = quality(draws[name]([prompt.text for prompt in prompts]), prompts, scope)
                rows[name]["diversity"] = diversity(draws[name], scope, max(2, n // 16), SHOWN[name].styles)
        measured[scope.name] = rows | real_rows(scope, n)
    return SideBySide(cost, measured)


# ------------------------------------------------------------------ a part of it, drawn again
class Redrawn(NamedTuple):
    """A part of the table drawn anew: pictures x (n, 3, H, W) of n prompts, what they score, and what the card says."""

    prompts: list[Prompt]
    x: torch.Tensor
    now: dict[str, Estimate]
    card: dict[str, Estimate]

    @property
    def agrees(self) -> dict[str, bool]:
        """For each figure: do its interval and that of the card overlap?"""
        return {key: overlap(value, self.card[key]) for key, value in self.now.items()}

    def text(self) -> str:
        """Both rows as a table, and a sentence that says whether they agree."""
        apart = [key for key, same in self.agrees.items() if not same]
        rows = {f"drawn now, {len(self.x)} prompts": self.now, f"card, {int(self.card['n'])} prompts": self.card}
        kept = {name: {key: row[key] for key in self.now} for name, row in rows.items()}
        verdict = f"not within the intervals: {', '.join(apart)}" if apart else "all agree within their intervals"
        return f"{table(kept)}\n{verdict}"


def overlap(a: Estimate, b: Estimate) -> bool:
    """Have the intervals of two estimates a number in common? One without an interval is its own."""
    ends = [(x, x) if x.low != x.low else (x.low, x.high) for x in (a, b)]  # nan differs from itself
    return max(low for low, _ in ends) <= min(high for _, high in ends)


def redraw(
    system: str,
    n: int = 16,
    scope: Scope | None = None,
    folder: str | Path | None = None,
    device: str | None = None,
    steps: int | None = None,
) -> Redrawn:
    """Draw the first n of a scope's prompts anew, from the same noise, and compare with the system's card.

    scope: None for all that the system was shown; steps: None for its own, with which the card was written. Raises
    InputError for n out of range, an unknown system, or a scope that it was not shown, CheckpointError where the card
    has no such row.
    """
    n, own = integer("prompts", n, (2, LIMITS[1])), Scope.of(system)
    scope = own if scope is None else scope
    if not scope.within(own):
        raise InputError(f"{system} was shown {own.name}, and cannot be asked for all of {scope.name}")
    card = SYSTEMS[system].card or system
    kept = checkpoints.card(card, folder).get(QUALITY, {}).get(scope.name)
    if kept is None:
        raise CheckpointError(
            f"the card of {card} holds no figures for {scope.name}: `course evaluate --all --write` measures them"
        )
    prompts = scope.prompts(fixed_prompts, n)
    x = drawing(system, steps, device=device, folder=folder)([prompt.text for prompt in prompts])
    kept, now = from_card(kept), asked_for(x, prompts)
    return Redrawn(prompts, x, {key: value for key, value in now.items() if key in kept and value == value}, kept)

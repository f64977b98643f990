"""What a feed of the decoder does to the picture: the same prompts, drawn from vectors made in several ways.

prompts ──► true vector, text vector, regression, priors, another's ──► decoder ──► pictures ──► evaluator
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch

from course_utils.data import FLAT_STYLES, load_emoji, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.evaluation.evaluator import Evaluator, load_evaluator
from course_utils.evaluation.intervals import Mean
from course_utils.evaluation.metrics import alignment, extract_features
from course_utils.evaluation.prompts import bare_prompts, fixed_prompts, in_turn
from course_utils.evaluation.report import concepts
from course_utils.evaluation.report_prior import Feed, plain_feeds, prior_feeds, training_pairs, width
from course_utils.systems.clip import SIZE
from course_utils.systems.dalle2 import DALLE2, SHAPES, open_dalle2
from course_utils.systems.stage import start_noise

PROMPTS, NAMES, DRAWS = 64, 16, 4  # prompts that say all; names, and pictures of each
STEPS, GUIDANCE, BATCH = 20, 2.0, 16


def true_pictures(asked: list, draws: int, seed: int = 0) -> torch.Tensor:
    """Real pictures (N, 3, 64, 64) of prompts, `draws` of each; of a bare name in any style, colour and place."""
    emoji, pictures = load_emoji(SIZE, FLAT_STYLES), []
    for i, prompt in enumerate(asked):
        own = emoji.select(lambda meta, p=prompt: meta["concept"] == p.concept and p.style in ("", meta["style"]))
        source = Composer(own, p_color=0.5, p_background=0.5, min_scale=1.0)
        if not prompt.style:
            pictures += list(source.compose(draws, seed + i).images)
            continue
        color = prompt.color if prompt.color in own.meta[0]["recolors"] else None  # else it has that colour by nature
        pictures += [source.render(0, color, prompt.background, seed + i + k) for k in range(draws)]
    return to_tensor(np.stack(pictures))


def draw_feed(
    system: DALLE2, vectors: torch.Tensor, prompts: list[str], report: Callable[[], None], seed: int = 0
) -> torch.Tensor:
    """Pictures (N, 3, 64, 64) of image vectors (N, D) beside N prompts, "" for none, from the seed's noises."""
    pictures = []
    for i in range(0, len(vectors), BATCH):
        part = vectors[i : i + BATCH]
        noise = start_noise(seed, len(part), SHAPES[system.space], i)
        *_, last = system.draw_vectors(noise, part, prompts[i : i + BATCH], STEPS, GUIDANCE)
        pictures.append(system.decode(last.xt).cpu())
        report()
    return torch.cat(pictures)


def judge(
    evaluator: Evaluator, x: torch.Tensor, asked: list, real: torch.Tensor | None, draws: int
) -> dict[str, float]:
    """The row of pictures x: shares right; of bare names the concept, and their width over that of real pictures."""
    if real is None:
        return alignment(evaluator, x, asked)
    mine, theirs = (width(extract_features(evaluator, pictures), draws) for pictures in (x, real))
    row = alignment(evaluator, x, {"concept": [prompt.concept for prompt in asked]})
    return {"concept": row["concept"], "concept_top5": row["concept_top5"], "diversity": Mean.of(mine / theirs.mean())}


def evaluate_feeds(
    n: int = PROMPTS,
    names: int = NAMES,
    draws: int = DRAWS,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Draw n prompts that say all, and names `draws` times each, from vectors made in every way; as `evaluate`.

    The decoder sees the vector alone, but for the last two ways, which give it the prompt too. "another's": the true
    vector of another prompt, so that its row shows what the vector decides. Last, variations of real pictures. About
    six minutes of two cores.
    """
    system, evaluator, known = open_dalle2("none", folder=folder), load_evaluator(), concepts("dalle2")
    feeds = plain_feeds(system.clip, *training_pairs(system.clip)) | prior_feeds(system.clip, folder)
    full = in_turn(fixed_prompts, n, concepts=known, styles=FLAT_STYLES)
    bare = in_turn(bare_prompts, names, concepts=known)
    sets = {"full": (full, 1), "name": (bare, draws)}
    tell, rows = progress or (lambda done, total: None), {}
    total = len(sets) * (len(feeds) + 4) * -(-max(n, names * draws) // BATCH)  # batches
    batches = count(1)

    def report() -> None:
        tell(min(next(batches), total - 1), total)

    for kind, (single, each) in sets.items():
        asked = [prompt for prompt in single for _ in range(each)]
        texts, real = [prompt.text for prompt in asked], true_pictures(single, each)
        for name, (vectors, said) in ways(system, feeds, texts, real, each).items():
            x = draw_feed(system, vectors, said, report)
            rows[f"{kind}: {name}"] = judge(evaluator, x, asked, real if kind == "name" else None, each)
        rows[f"{kind}: real pictures"] = judge(evaluator, real, asked, real if kind == "name" else None, each)
    tell(total, total)
    return rows | judge_variations(system, evaluator, bare, draws)


def judge_variations(system: DALLE2, evaluator: Evaluator, single: list, draws: int) -> dict[str, dict[str, float]]:
    """The rows of a picture of each prompt, varied `draws` times with little and with much fresh noise.

    diversity is measured against `draws` different real pictures of each thing.
    """
    rows, generator = {}, torch.Generator().manual_seed(0)
    asked = [prompt for prompt in single for _ in range(draws)]
    given, real = true_pictures(single, 1, seed=500), true_pictures(single, draws)
    for eta in (0.0, 0.5, 1.0):
        made = []
        for part in given.split(BATCH // draws):
            *_, last = system.vary(part, draws, eta, generator=generator)
            made.append(system.decode(last.xt).cpu())
        rows[f"variations, eta {eta:g}"] = judge(evaluator, torch.cat(made), asked, real, draws)
    return rows


def ways(
    system: DALLE2, feeds: dict[str, Feed], texts: list[str], real: torch.Tensor, draws: int
) -> dict[str, tuple[torch.Tensor, list[str]]]:
    """Way -> the vectors (N, D) that the decoder is fed for N texts, and what it reads beside them."""
    true, nothing = system.embed(real), [""] * len(texts)
    made = {"true vector": true} | {name: feed(texts, 0) for name, feed in feeds.items()}
    fed = {name: (vectors, nothing) for name, vectors in made.items()} | {"another's": (true.roll(draws, 0), nothing)}
    both = ("text vector", "diffusion" if "diffusion" in made else "linear")
    return fed | {f"{name}, and the prompt": (made[name], texts) for name in both}

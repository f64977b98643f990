"""Numbers for pictures: how far from real ones, how true to their prompts, how unlike each other.

    pictures -> evaluator -> features -> frechet_distance, kernel_distance, diversity
                          -> answers  -> alignment, a Share each with its interval

All are stand-ins for the field's FID, KID and CLIP score, on features of our own small evaluator: compare them within
this course, never with a paper. The distances grow as samples get fewer, so two numbers compare only at the same N, and
`real_floor`, real pictures against other real ones at that N, belongs beside them: nothing can be expected below it.
One limit: the evaluator was trained on shrunk pictures too, so its features notice what is shown more than how sharply.
"""

from functools import lru_cache

import numpy as np
import torch

from course_utils.data import FIRST_STYLES, STYLES, Emoji, load_emoji, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.errors import InputError, integer, number
from course_utils.evaluation.evaluator import ATTRIBUTES, EvaluatorOutput, class_numbers
from course_utils.evaluation.intervals import Share


# ------------------------------------------------------------------ pixel by pixel
def psnr(x, y) -> torch.Tensor:
    """Return the peak signal-to-noise ratio of each pair of pictures (B, C, H, W) in [-1, 1], in decibels: (B,).

    10 log10(peak^2 / mean squared error) with a peak of 2; 20 dB is one tenth of the range off, 40 dB one hundredth.
    Infinite for equal pictures. Built in notebook 05.
    """
    return 10 * torch.log10(4 / (x - y).double().square().mean(dim=(1, 2, 3)))


# ------------------------------------------------------------------ what the evaluator says
@torch.no_grad()
def predict(evaluator, x, batch_size=64) -> EvaluatorOutput:
    """Return what the evaluator says, on the CPU, of pictures x (N, 3, H, W); values outside [-1, 1] are clipped.

    Raises InputError for anything but a batch of at least one picture.
    """
    if x.ndim != 4 or x.shape[1] != 3 or not len(x):
        raise InputError(f"the evaluator judges pictures (N, 3, H, W), N at least 1, not {tuple(x.shape)}")
    device = next(evaluator.parameters()).device
    parts = [evaluator(part.to(device, torch.float32).clamp(-1, 1)) for part in x.split(batch_size)]
    return EvaluatorOutput(*(torch.cat(logits).float().cpu() for logits in zip(*parts)))


def extract_features(evaluator, x, batch_size=64) -> torch.Tensor:
    """Return the evaluator's features (N, F) of pictures x (N, 3, H, W) in [-1, 1]."""
    return predict(evaluator, x, batch_size).features


def alignment_hits(evaluator, x, targets) -> dict[str, torch.Tensor]:
    """Return which of the pictures x (N, 3, H, W) show what was asked: truth values (n,) an attribute, n of N asked.

    Arguments, keys and errors as `alignment`; two systems given the same prompts compare picture by picture.
    """
    answers, hits = predict(evaluator, x), {}
    for attribute in ATTRIBUTES:
        given = (
            targets.get(attribute, [None] * len(x))
            if isinstance(targets, dict)
            else [getattr(prompt, attribute) for prompt in targets]
        )
        if len(given) != len(x):
            raise InputError(f"there are {len(x)} pictures, but {len(given)} targets")
        label = class_numbers(attribute, given)
        logits = getattr(answers, attribute)
        best = logits.topk(min(5, logits.shape[1])).indices == label[:, None]  # (N, 5), best first
        asked = label >= 0
        hits[attribute] = best[asked, 0]
        if attribute == "concept":
            hits["concept_top5"] = best[asked].any(dim=-1)
    return hits


def alignment(evaluator, x, targets) -> dict[str, Share]:
    """Return the share of pictures x (N, 3, H, W) that show what was asked, one `Share` in [0, 1] an attribute.

    targets: N prompts, or a dict of lists of N such as `Batch.attributes`; None is not asked and does not count. Keys:
    concept, concept_top5, style, color, background; nan where nobody asked. Our stand-in for the CLIP score (Hessel et
    al. 2021): what the evaluator itself gets wrong on real pictures, `held_out_accuracy`, is the ceiling.
    Raises InputError when there are not N targets, ValueError for a word that is no class.
    """
    return {key: Share.of(hits) for key, hits in alignment_hits(evaluator, x, targets).items()}


# ------------------------------------------------------------------ how far from real pictures
def _checked(*sets) -> list[torch.Tensor]:
    """Return sets of features (N, F) in float64, or raise InputError where they cannot be compared."""
    for features in sets:
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != sets[0].shape[1]:
            shapes = " and ".join(str(tuple(f.shape)) for f in sets)
            raise InputError(f"distances compare features (N, F), N at least 2 and the same F, not {shapes}")
        if not features.isfinite().all():
            raise InputError("these features hold nan or infinity: the pictures they come from are broken")
    return [features.double().cpu() for features in sets]


def frechet_distance(a, b) -> float:
    """Return the squared Fréchet distance of two Gaussians fitted to features (N, F) and (M, F); 0 for equal sets.

    |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½): Heusel et al. 2017, eq. 6. A stand-in for FID (see the module), biased
    upwards for few samples. N < F is allowed: with Σ = RᵀR, tr (Σ_a Σ_b)^½ is the sum of singular values of R_a R_bᵀ.
    """
    a, b = _checked(a, b)
    roots = [torch.linalg.qr((f - f.mean(0)) / (len(f) - 1) ** 0.5, mode="r").R for f in (a, b)]  # (min(N, F), F)
    spread = sum(r.square().sum() for r in roots) - 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + spread).clamp(min=0).item()


def _kernel(x, y) -> torch.Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3  # (N, M)


def kernel_distance(a, b) -> float:
    """Return the squared maximum mean discrepancy of features (N, F) and (M, F); below 0 by chance for equal sources.

    Kernel (x·y / F + 1)³, unbiased: Bińkowski et al. 2018, section 4. A stand-in for KID (see the module):
    its expected value, unlike the Fréchet distance's, does not depend on N.
    """
    a, b = _checked(a, b)

    def within(x):
        k = _kernel(x, x)
        return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))  # a picture beside itself tells nothing

    return (within(a) + within(b) - 2 * _kernel(a, b).mean()).item()


def kernel_interval(a, b, confidence: float = 0.95, seed: int = 0, resamples: int = 1000) -> tuple[float, float]:
    """Return (low, high) of `kernel_distance`: how far it moves with other pictures of the same two sources.

    Both sets are resampled. A picture drawn twice is never compared with its own copy, which would raise the distance
    (bootstrap of U-statistics: Arcones & Giné 1992); for two equal sources the interval errs on the wide side. The
    Fréchet distance has none: its bias depends on N and on the source (Chong & Forsyth 2020), copies make N smaller
    still, and the interval would lie above the distance: quote `real_floor` at the same N beside it instead.
    Raises InputError as `kernel_distance` does, and for fewer than 10 pictures in a set.
    """
    a, b = _checked(a, b)
    if min(len(a), len(b)) < 10:
        raise InputError(f"an interval needs at least 10 pictures in both sets, not {len(a)} and {len(b)}")
    tail = (1 - number("confidence", confidence, (0, 1), above=True)) / 2
    count, rng = integer("resamples", resamples, (100, 100_000)), np.random.default_rng(seed)
    p, q = (torch.from_numpy(rng.multinomial(len(x), np.full(len(x), 1 / len(x)), count)).double() for x in (a, b))

    def within(x, w):  # w (R, N): how often each picture is drawn
        k = _kernel(x, x).fill_diagonal_(0)
        return ((w @ k) * w).sum(1) / (w.sum(1) ** 2 - w.square().sum(1))  # (R,)

    across = ((p @ _kernel(a, b)) * q).sum(1) / (len(a) * len(b))
    distances = within(a, p) + within(b, q) - 2 * across
    low, high = distances.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def diversity(features, groups=None) -> float:
    """Return the mean distance of features (N, F) from each other within a group: 0 when all are the same picture.

    groups: N labels, such as the prompts (None: one group); a picture without company does not count. Compare with real
    pictures: noise is diverse too. Raises InputError when no two pictures belong together.
    """
    (features,) = _checked(features)
    groups = [None] * len(features) if groups is None else list(groups)
    if len(groups) != len(features):
        raise InputError(f"there are features of {len(features)} pictures, but {len(groups)} groups")
    rows = {group: [i for i, other in enumerate(groups) if other == group] for group in dict.fromkeys(groups)}
    means = [torch.pdist(features[index]).mean() for index in rows.values() if len(index) > 1]
    if not means:
        raise InputError("diversity needs a group of at least two pictures: draw a prompt more than once")
    return torch.stack(means).mean().item()


# ------------------------------------------------------------------ what real pictures score
@lru_cache(maxsize=4)
def _real(size, split, styles) -> Composer:
    return Composer(load_emoji(size, styles=styles, split=split), languages=("en",))


def real_halves(n, size=32, seed=0, emoji: Emoji | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two sets of n composed real pictures (n, 3, size, size) in [-1, 1] that have no emoji in common.

    emoji: to choose from (None: all training pictures of the styles that the shipped generators learnt from).
    """
    emoji = load_emoji(size, FIRST_STYLES) if emoji is None else emoji
    order = np.random.default_rng(seed).permutation(len(emoji))
    halves = [Composer(emoji.select(part), size, languages=("en",)) for part in np.array_split(order, 2)]
    return tuple(to_tensor(half.compose(n, 2 * seed + i).images) for i, half in enumerate(halves))


def real_floor(evaluator, n, size=32, seed=0, emoji: Emoji | None = None) -> dict[str, float]:
    """Return {"frechet", "kernel"}: the distances between two sets of n real pictures, as low as n samples can show."""
    a, b = (extract_features(evaluator, x) for x in real_halves(n, size, seed, emoji))
    return {"frechet": frechet_distance(a, b), "kernel": kernel_distance(a, b)}


def held_out_accuracy(evaluator, size=32, n=400, seed=0, split="test", styles=STYLES) -> dict[str, Share]:
    """Return the evaluator's own `alignment` on n composed real pictures it has not seen: print it where it judges.

    split "test": emoji whose concept it has seen in other styles only; "train": what it learned from. size: pixels a
    side at which they are composed, as a generator of that size would see them.
    """
    pictures = _real(size, split, tuple(styles)).compose(n, seed)
    return alignment(evaluator, to_tensor(pictures.images), pictures.attributes)

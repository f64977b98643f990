"""The metrics against closed forms, plain loops and pictures of known answer; and the prompts all are measured on."""

import itertools
import math

import pytest
import torch

from course_utils.data import FIRST_STYLES, FLAT_STYLES, GROUPS, load_emoji, load_splits
from course_utils.datasets.compose import Composer, caption
from course_utils.errors import DataError
from course_utils.evaluation.metrics import diversity, frechet_distance, kernel_distance, real_halves
from course_utils.evaluation.prompts import fixed_prompts, held_out_prompts, matched_seen_prompts

HELD = {tuple(pair) for pair in load_splits()["held_out_colors"]}
TEST = {tuple(pair) for pair in load_splits()["test_pairs"]}


def normal(n, dim, seed, dtype=torch.float32):
    """Samples (n, dim) of the standard Gaussian."""
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def exactly(x, mean, root):
    """Samples moved so that their mean is exactly `mean` and their covariance exactly rootᵀ root."""
    x = x.double() - x.double().mean(0)
    white = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (len(x) - 1))).T
    return x @ white @ root + mean


# ------------------------------------------------------------------ Fréchet distance
def test_frechet_distance_of_two_known_gaussians():
    """With commuting covariances the formula is Σ (Δμ)² + Σ (σ_a − σ_b)²."""
    spread_a, spread_b = torch.tensor([1.0, 2, 3, 0.5]).double(), torch.tensor([2.0, 2, 1, 0.1]).double()
    mean = torch.tensor([1.0, -2, 0, 0.5]).double()
    turned, _ = torch.linalg.qr(normal(4, 4, 5).double())  # the same rotation of both changes nothing
    a = exactly(normal(500, 4, 0), 0, spread_a.diag() @ turned)
    b = exactly(normal(300, 4, 1), mean, spread_b.diag() @ turned)
    known = mean.square().sum() + (spread_a - spread_b).square().sum()
    assert frechet_distance(a, b) == pytest.approx(known.item(), rel=1e-9)


def test_frechet_distance_agrees_with_the_textbook_matrix_root():
    from scipy.linalg import sqrtm

    a, b = normal(400, 6, 0).double() @ normal(6, 6, 2).double(), normal(400, 6, 1).double() @ normal(6, 6, 3).double()
    root = torch.from_numpy(sqrtm((a.T.cov() @ b.T.cov()).numpy()).real)
    known = (a.mean(0) - b.mean(0)).square().sum() + (a.T.cov() + b.T.cov() - 2 * root).trace()
    assert frechet_distance(a, b) == pytest.approx(known.item(), rel=1e-6)


@pytest.mark.parametrize("n", [500, 20])  # more samples than features, and fewer
def test_frechet_distance_is_zero_for_one_set_symmetric_and_grows(n):
    a = normal(n, 48, 0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a.flip(0)) == pytest.approx(0, abs=1e-9)
    shifted = [frechet_distance(a, a + shift) for shift in (0.1, 0.5, 2.0)]
    assert shifted == pytest.approx([48 * shift**2 for shift in (0.1, 0.5, 2.0)], rel=1e-4)
    b = normal(n + 3, 48, 1) * 1.5
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_frechet_distance_is_biased_by_few_samples():
    """One source, fewer samples: the distance grows. That is why `real_floor` exists."""
    by_n = [frechet_distance(normal(n, 32, 0), normal(n, 32, 1)) for n in (2000, 200, 40)]
    assert by_n[0] < by_n[1] / 3 < by_n[2] / 6


# ------------------------------------------------------------------ kernel distance
def test_kernel_distance_agrees_with_a_double_loop():
    a, b = normal(7, 5, 0), normal(9, 5, 1) + 0.3

    def k(x, y):
        return (sum(float(p) * float(q) for p, q in zip(x, y)) / 5 + 1) ** 3

    def within(x):
        pairs = list(itertools.permutations(range(len(x)), 2))
        return sum(k(x[i], x[j]) for i, j in pairs) / len(pairs)

    across = sum(k(x, y) for x in a for y in b) / 63
    assert kernel_distance(a, b) == pytest.approx(within(a) + within(b) - 2 * across, rel=1e-6)


@pytest.mark.parametrize("n", [25, 200])
def test_kernel_distance_has_no_bias(n):
    """Over many draws from one distribution it averages 0, negative about half of the time, whatever n is."""
    draws = torch.tensor([kernel_distance(normal(n, 16, 2 * i), normal(n, 16, 2 * i + 1)) for i in range(60)])
    error = (draws.std() / 60**0.5).item()
    assert abs(draws.mean().item()) < 3 * error
    assert 0.2 < (draws < 0).float().mean() < 0.9
    assert kernel_distance(normal(n, 16, 0), normal(n, 16, 1) + 1) > 20 * error


# ------------------------------------------------------------------ diversity
def test_diversity_is_the_mean_distance_within_groups():
    corners = torch.tensor([[0.0, 0], [3, 4], [10, 0], [10, 2], [99, 99]])
    assert diversity(corners, ["a", "a", "b", "b", "alone"]) == pytest.approx((5 + 2) / 2)
    assert diversity(corners[:3]) == pytest.approx((5 + 10 + math.sqrt(65)) / 3)


def test_mode_collapse_has_no_diversity_and_is_far_from_real():
    real, other = normal(200, 16, 0), normal(200, 16, 1)
    collapsed = other[:1].expand(200, -1)
    assert diversity(collapsed) == 0 < diversity(other)
    assert frechet_distance(real, collapsed) > 5 * frechet_distance(real, other)
    per_prompt = other[:20].repeat_interleave(10, dim=0)  # 20 prompts, each always answered by the same picture
    assert diversity(per_prompt, [i // 10 for i in range(200)]) == 0 < diversity(per_prompt)


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("bad", [torch.zeros(1, 4), torch.zeros(3), torch.zeros(5, 3), torch.full((5, 4), math.nan)])
def test_features_that_cannot_be_compared_are_refused(metric, bad):
    with pytest.raises(ValueError, match="features"):
        metric(normal(5, 4, 0), bad)


def test_diversity_refuses_what_has_no_pairs():
    for groups, word in ((range(5), "at least two"), ([1, 1], "2 groups")):
        with pytest.raises(ValueError, match=word):
            diversity(normal(5, 4, 0), groups)


# ------------------------------------------------------------------ real pictures
def test_real_halves_share_no_emoji(monkeypatch):
    chosen = []
    compose = Composer.compose
    monkeypatch.setattr(Composer, "compose", lambda self, n, seed: chosen.append(self.emoji) or compose(self, n, seed))
    a, b = real_halves(30, size=32, seed=3)
    assert a.shape == b.shape == (30, 3, 32, 32) and a.abs().max() <= 1 and not torch.equal(a, b)
    pairs = [set(zip(e.column("concept"), e.column("style"))) for e in chosen]
    assert not pairs[0] & pairs[1] and not (pairs[0] | pairs[1]) & TEST
    assert len(pairs[0] | pairs[1]) == len(load_emoji(32, FIRST_STYLES))
    again, _ = real_halves(30, size=32, seed=3)
    assert torch.equal(a, again)


# ------------------------------------------------------------------ prompts
def test_fixed_prompts_are_always_the_same_and_fair():
    prompts = fixed_prompts("en")
    assert len(prompts) == 100 and prompts == fixed_prompts("en") and len(set(prompts)) == 100
    group = dict(zip(load_emoji(32).column("concept"), load_emoji(32).column("group")))
    counts = [sum(group[p.concept] == g for p in prompts) for g in GROUPS]
    assert set(counts) <= {16, 17}
    assert all(11 <= sum(p.style == s for p in prompts) <= 18 for s in FLAT_STYLES)
    assert 35 <= sum(p.color is not None for p in prompts) <= 65
    assert 35 <= sum(p.background != "white" for p in prompts) <= 65
    assert len({p.concept for p in prompts}) == 100
    assert fixed_prompts("en", n=30) == prompts[:30]  # more prompts extend, never change, the list
    assert fixed_prompts("en", seed=1) != prompts


def test_fixed_prompts_of_some_concepts_only():
    """A system that was trained on some groups is asked for those, in turns, and for nothing else."""
    some = {m["concept"] for m in load_emoji(32).meta if m["group"] in GROUPS[:2]} - {"owl"}
    prompts = fixed_prompts("en", n=60, concepts=some)
    group = dict(zip(load_emoji(32).column("concept"), load_emoji(32).column("group")))
    assert {p.concept for p in prompts} <= some and len(set(prompts)) == 60
    assert [sum(group[p.concept] == g for p in prompts) for g in GROUPS[:2]] == [30, 30]
    assert fixed_prompts("en", n=5, concepts=set(group)) == fixed_prompts("en", n=5)
    few = fixed_prompts("en", n=12, concepts={"owl"})  # fewer concepts than prompts: they come again
    assert {p.concept for p in few} == {"owl"} and ("owl", "noto") not in {(p.concept, p.style) for p in few}


def test_fixed_prompts_ask_only_for_what_training_showed():
    composer = Composer(load_emoji(32))
    row = {(m["concept"], m["style"]): i for i, m in enumerate(composer.emoji.meta)}
    for p in fixed_prompts("en", n=300):
        assert (p.concept, p.style) not in TEST and (p.color, p.concept) not in HELD
        i = row[p.concept, p.style]
        assert p.color is None or p.color in {*composer.colors[i], composer.natural[i]}
        assert p.text == caption(composer.emoji.meta[i], p.color, p.background, "en")


@pytest.mark.parametrize(
    "make",
    [
        fixed_prompts,
        held_out_prompts,
        matched_seen_prompts,
        lambda language: matched_seen_prompts(language, "color"),
    ],
)
def test_both_languages_describe_the_same_examples(make):
    english, chinese = make("en"), make("zh")
    assert [p[1:] for p in english] == [p[1:] for p in chinese]
    assert all(e.text != z.text and z.text.isascii() is False for e, z in zip(english, chinese, strict=True))
    with pytest.raises(DataError, match="klingon"):
        make("klingon")


def test_held_out_prompts_are_the_held_out_pairs_in_a_style_that_was_seen():
    prompts = held_out_prompts("en")
    assert {(p.color, p.concept) for p in prompts} == HELD and len(prompts) == len(HELD) == 50
    assert not {(p.concept, p.style) for p in prompts} & TEST
    assert sum(p.style == "noto" for p in prompts) > 40
    assert any(p.text.startswith("pink butterfly, noto style, ") for p in prompts)
    assert {True, False} == {p.background == "white" for p in prompts}


@pytest.mark.parametrize("keep", ["concept", "color"])
def test_matched_prompts_keep_one_side_and_were_seen(keep):
    composer = Composer(load_emoji(32))
    painted = {(m["concept"], m["style"]): colors for m, colors in zip(composer.emoji.meta, composer.colors)}
    for held, seen in zip(held_out_prompts("en"), matched_seen_prompts("en", keep), strict=True):
        assert (seen.style, seen.background) == (held.style, held.background)
        assert (seen.concept == held.concept, seen.color == held.color) == (keep == "concept", keep == "color")
        assert (seen.color, seen.concept) not in HELD and seen.color in painted[seen.concept, seen.style]


def test_prompts_that_make_no_sense_are_refused():
    for bad in (
        lambda: fixed_prompts("en", n=0),
        lambda: fixed_prompts(concepts={"unicorn dentist"}),
        lambda: matched_seen_prompts("en", keep="style"),
    ):
        with pytest.raises(DataError):
            bad()

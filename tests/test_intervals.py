"""A number and how sure it is: known intervals, plain text, and a card that keeps both."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from course_utils import checkpoints
from course_utils.errors import CheckpointError, InputError
from course_utils.evaluation import report
from course_utils.evaluation.intervals import Mean, Share, interval


def hits(right, n):
    """n truth values, of which the first are true."""
    return np.arange(n) < right


# ------------------------------------------------------------------ intervals
def wilson(right, n):
    """Wilson's interval, by its formula."""
    z, p = stats.norm.ppf(0.975), right / n
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (1, 1), (88, 100), (250, 500)])
def test_truth_values_have_wilsons_interval(right, n):
    low, high = interval(hits(right, n))
    assert (low, high) == pytest.approx(wilson(right, n), abs=1e-9)
    assert 0 <= low <= right / n <= high <= 1 and low < high


def test_the_bootstrap_of_a_mean_is_near_students_interval():
    values = np.random.default_rng(0).normal(3, 2, 400)
    half = stats.t.ppf(0.975, 399) * values.std(ddof=1) / 20
    assert interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.04)
    assert interval(values) == interval(values) != interval(values, seed=1)


def test_more_pictures_and_less_confidence_make_it_narrower():
    values = np.random.default_rng(0).normal(size=900)
    widths = [np.ptp(interval(part, confidence=c)) for part, c in ((values[:100], 0.95), (values, 0.95), (values, 0.5))]
    assert widths[0] > 2 * widths[1] and widths[1] > 2 * widths[2]


def test_any_statistic_that_takes_an_axis_is_resampled():
    values = np.random.default_rng(0).normal(size=200)
    low, high = interval(values, np.median)
    assert low < np.median(values) < high
    shown = hits(3, 4).astype(bool)
    assert interval(shown, np.median) != interval(shown), "Wilson's interval is that of the mean alone"


def test_equal_values_have_no_spread():
    assert interval([2.5] * 5) == (2.5, 2.5)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Of 300 samples of 40 values, some 95 % of the intervals hold the mean that they come from."""
    rng = np.random.default_rng(3)
    held = [low <= 0.7 <= high for low, high in (interval(rng.random(40) < 0.7) for _ in range(300))]
    assert 0.91 < np.mean(held) < 0.99


@pytest.mark.parametrize(
    ("values", "options", "word"),
    [
        ([], {}, "at least 2"),
        ([1.0], {}, "at least 2"),
        (np.ones((3, 2)), {}, "shape"),
        ([1.0, math.nan], {}, "finite"),
        (["a", "b"], {}, "finite"),
        ([1.0, 2.0], {"confidence": 1}, "between 0 and 1"),
        ([1.0, 2.0], {"confidence": 95}, "between 0 and 1"),
    ],
)
def test_what_has_no_interval_is_refused(values, options, word):
    with pytest.raises(InputError, match=word):
        interval(values, **options)


# ------------------------------------------------------------------ numbers that know theirs
def test_a_share_is_a_float_that_knows_its_interval():
    share = Share.of(hits(88, 100))
    assert share == 0.88 and share + 1 == 1.88 and isinstance(share, float) and f"{share:.1%}" == "88.0%"
    assert (share.low, share.high, share.n) == (*interval(hits(88, 100)), 100)
    assert str(share) == f"{share}" == "88 % [80, 93]" and share.text(1) == "88.0 % [80.2, 93.0]"
    again = copy.deepcopy(share)
    assert (again, again.low, again.n) == (share, share.low, 100)


def test_a_share_of_nothing_is_nan_and_one_without_interval_stands_alone():
    nothing = Share.of([])
    assert math.isnan(nothing) and nothing.n == 0 and str(nothing) == "nan"
    assert str(Share(0.5)) == "50 %"


def test_a_mean_has_the_bootstraps_interval():
    values = np.random.default_rng(0).normal(28, 2, 100)
    mean = Mean.of(values)
    assert mean == values.mean() and (mean.low, mean.high, mean.n) == (*interval(values), 100)
    assert mean.text(1, " dB") == f"{mean:.1f} dB [{mean.low:.1f}, {mean.high:.1f}]"
    for alone in (Mean.of([2.0]), Mean.of([2.0, math.inf])):
        assert math.isnan(alone.low) and "[" not in str(alone)
    with pytest.raises(InputError, match="at least one"):
        Mean.of([])


# ------------------------------------------------------------------ in tables and cards
ROW = {"concept": Share.of(hits(95, 100)), "psnr": Mean.of(np.linspace(20, 30, 50)), "DIV": 1.5}


def test_a_card_keeps_low_and_high_beside_each_figure():
    kept = json.loads(json.dumps(report.for_card({**ROW, "color": Share.of([])}), allow_nan=False))
    assert set(kept) == {"concept", "concept_interval", "psnr", "psnr_interval", "DIV"}
    assert kept["concept"] == 0.95 and kept["concept_interval"] == [0.888, 0.978] and kept["DIV"] == 1.5
    back = report.from_card(kept)
    assert set(back) == set(ROW) and isinstance(back["concept"], Share) and isinstance(back["psnr"], Mean)
    assert report.figures(kept) == report.figures(ROW)


def test_a_card_with_intervals_is_read_again_and_one_with_broken_ones_is_not(tmp_path):
    checkpoints.save("vae", {"w": torch.ones(2)}, {}, folder=tmp_path)
    checkpoints.add_metrics("vae", {"held out": report.for_card(ROW)}, tmp_path)
    told = checkpoints.card("vae", tmp_path)["metrics"]["held out"]
    assert report.figures(told) == report.figures(ROW)
    checkpoints.add_metrics("vae", {"held out": {"concept": 0.5, "concept_interval": [0.4]}}, tmp_path)
    with pytest.raises(CheckpointError, match="vae.json"):
        checkpoints.card("vae", tmp_path)


def test_the_table_shows_every_interval_and_reads_old_cards():
    old = {"concept": 0.5, "psnr": 28.64, "DIV": 1.0}
    lines = report.table({"now": ROW, "then": old, "less": {"concept": 0.25}}).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert "95 % [89, 98]" in lines[1] and "25.0 dB [" in lines[1] and "1.50" in lines[1]
    assert "50 %" in lines[2] and "28.6 dB" in lines[2] and "[" not in lines[2]
    assert lines[3].split() == ["less", "25", "%"]

"""How sure a number is: the interval in which it would lie with other pictures of the same kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np

from course_utils.errors import InputError


class Estimate(float):
    """A measured number that knows its 95 % interval: a plain float to all arithmetic.

    low, high: the ends of the interval, nan where it is not known; n: pictures it was measured on, 0 where not known.
    """

    low: float
    high: float
    n: int

    def __new__(cls, value: float, low: float = np.nan, high: float = np.nan, n: int = 0) -> Self:
        estimate = super().__new__(cls, value)
        estimate.low, estimate.high, estimate.n = float(low), float(high), int(n)
        return estimate

    def text(self, digits: int = 3, unit: str = "") -> str:
        """The number with its unit and, where it is known, its interval: "28.6 dB [28.1, 29.0]" with one digit."""
        return _text(self, self.low, self.high, digits, unit)

    def __str__(self) -> str:
        return self.text()


class Share(Estimate):
    """A share in [0, 1] with its 95 % interval: "88 % [83, 92]" as text; nan where nothing was asked."""

    @classmethod
    def of(cls, hits) -> Share:
        """The share of true ones among truth values (n,); n = 0 makes nan."""
        hits = np.asarray(hits, dtype=bool)
        return cls(hits.mean(), *interval(hits), len(hits)) if len(hits) else cls(np.nan)

    def text(self, digits: int = 0, unit: str = " %") -> str:
        """The share in per cent, with its interval where that is known."""
        return _text(100 * self, 100 * self.low, 100 * self.high, digits, unit)


class Mean(Estimate):
    """A mean of one value a picture, with its 95 % bootstrap interval."""

    @classmethod
    def of(cls, values) -> Mean:
        """The mean of numbers (n,), n at least 2 for an interval; nan or infinite ones, or n = 1, leave it without.

        Raises InputError where there are no values.
        """
        values = np.asarray(values, dtype=np.float64)
        if not len(values):
            raise InputError("a mean needs at least one value: measure a picture first")
        known = len(values) > 1 and np.isfinite(values).all()
        return cls(values.mean(), *(interval(values) if known else (np.nan, np.nan)), len(values))


def _text(value: float, low: float, high: float, digits: int, unit: str) -> str:
    """A number with its unit, and its interval unless that is nan."""
    if np.isnan(value):
        return "nan"
    ends = "" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}{unit}{ends}"


def interval(values, statistic: Callable = np.mean, confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Return (low, high), the interval in which a statistic of values (n,) lies with that confidence.

    The mean of truth values has Wilson's interval, which holds at 0 of n and n of n too, where no resampling shows any
    spread (Brown et al. 2001, section 3). All else is resampled 2000 times: percentiles of the bootstrap (Efron &
    Tibshirani 1993, section 13.3), so `statistic` takes `axis`; equal values have the interval (value, value). Values
    count as independent: average over the pictures of one prompt first, where prompts are drawn several times.
    Raises InputError for anything but finite numbers (n,), n at least 1 for truth values and 2 for others, or a
    confidence outside (0, 1).
    """
    from scipy import stats

    values = np.asarray(values)
    hits = values.dtype == bool and statistic is np.mean
    if values.ndim != 1 or len(values) < (1 if hits else 2):
        raise InputError(f"an interval needs a row of at least 2 values (1 truth value), not the shape {values.shape}")
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise InputError("an interval needs finite numbers: leave out what is nan or infinite")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must be a number between 0 and 1, such as 0.95, not {confidence!r}")
    if hits:
        found = stats.binomtest(int(values.sum()), len(values)).proportion_ci(confidence, method="wilson")
    else:
        found = stats.bootstrap(
            (values,),
            statistic,
            n_resamples=2000,
            confidence_level=confidence,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return float(found.low), float(found.high)

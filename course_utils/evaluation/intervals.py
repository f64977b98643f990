"""How sure a number is: the interval in which it would lie with other pictures of the same kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from course_utils.errors import InputError


class Share(float):
    """A share in [0, 1] that knows its 95 % interval: a plain float to all arithmetic, "88 % [83, 92]" as text.

    low, high: the ends of the interval; n: pictures it is the share of. Nan, with n = 0, where nothing was asked.
    """

    low: float
    high: float
    n: int

    def __new__(cls, value: float, low: float = np.nan, high: float = np.nan, n: int = 0) -> Share:
        share = super().__new__(cls, value)
        share.low, share.high, share.n = low, high, n
        return share

    @classmethod
    def of(cls, hits) -> Share:
        """The share of true ones among truth values (n,); n = 0 makes nan."""
        hits = np.asarray(hits, dtype=bool)
        return cls(hits.mean(), *interval(hits), len(hits)) if len(hits) else cls(np.nan)

    def __str__(self) -> str:
        return f"{100 * self:.0f} % [{100 * self.low:.0f}, {100 * self.high:.0f}]" if self.n else "nan"


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

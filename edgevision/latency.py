"""Durations in fixed memory: a histogram whose percentiles are within one percent, however long the run."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

_GROWTH = 1.02  # the middle of a bucket is at most sqrt(1.02) - 1 = 0.995 % away from anything in it
_LOWEST_MS = 1e-3
_HIGHEST_MS = 1e7
_LOG_GROWTH = math.log(_GROWTH)
_BUCKETS = math.ceil(math.log(_HIGHEST_MS / _LOWEST_MS) / _LOG_GROWTH) + 1

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}


class Histogram:
    """Counts of durations in buckets that grow by 2 %, from 1 µs to 10,000 s: 9 kB.

    Not locked: it belongs to the thread that records; others merge or read it when that thread is done.
    """

    __slots__ = ("_counts", "_max", "_min", "_sum", "count")

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, np.int64)
        self._min, self._max, self._sum = math.inf, 0.0, 0.0
        self.count = 0

    def record(self, value_ms: float) -> None:
        """Count one duration, milliseconds; anything below zero counts as zero."""
        value_ms = max(value_ms, 0.0)
        index = 0 if value_ms <= _LOWEST_MS else int(math.log(value_ms / _LOWEST_MS) / _LOG_GROWTH)
        self._counts[min(index, _BUCKETS - 1)] += 1
        self._min, self._max = min(self._min, value_ms), max(self._max, value_ms)
        self._sum += value_ms
        self.count += 1

    def merge(self, others: Iterable[Histogram]) -> Histogram:
        """Add the counts of `others` to this one; returns itself."""
        for other in others:
            self._counts += other._counts
            self._min, self._max = min(self._min, other._min), max(self._max, other._max)
            self._sum += other._sum
            self.count += other.count
        return self

    @property
    def mean(self) -> float:
        """Exact mean, milliseconds; 0 when empty."""
        return self._sum / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """The smallest duration that `percent` of all do not exceed (nearest rank), milliseconds; 0 when empty."""
        if not self.count:
            return 0.0
        # The product may land a hair above a whole number (99.9 % of 1000 is 999.0000000000001): that is no next rank.
        rank = max(1, math.ceil(round(percent / 100 * self.count, 9)))
        index = int(np.searchsorted(np.cumsum(self._counts), rank))
        middle = _LOWEST_MS * _GROWTH ** (index + 0.5)
        return float(min(max(middle, self._min), self._max))

    def summary(self) -> dict[str, float]:
        """`p50`, `p90`, `p99`, `p999`, `max`, milliseconds."""
        values = {name: self.percentile(percent) for name, percent in PERCENTILES.items()}
        return {name: round(value, 4) for name, value in {**values, "max": self._max}.items()}

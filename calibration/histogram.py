"""A histogram of activations that is exact under growth: the same for any order of pictures and any number of workers.

A value x falls into bin trunc(x / width), so bin 0 spans (-width, width). The width is always a power of two: dividing
by it is exact in floating point, and doubling it joins pairs of bins without moving a single count, because
trunc(x / 2w) = trunc(trunc(x / w) / 2). The final width follows from the largest magnitude alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgevision.calibration import thresholds

T = TypeVar("T")

BINS: Final = 4096
"""Bins on each side of zero; the larger side of a histogram always reaches into the upper half of them."""
AUTO: Final = "auto"
"""Each tensor's own method, chosen by measurement; where that was not done, the first of thresholds.METHODS."""
METHODS: Final = (AUTO, *thresholds.METHODS)
LOWEST: Final = -112
HIGHEST: Final = 116
"""Exponents of the bin width: 2**LOWEST holds ranges from 2**-100 at full resolution, 2**HIGHEST all of float32."""


class Histogram:
    """Counts of values by sign and magnitude, with exact minimum and maximum.

    Attributes:
        counts: int64 (2, BINS). Row 0 counts positive values (and bin 0), row 1 negative ones, by magnitude:
            column c holds values with c * width <= |x| < (c + 1) * width. `counts[1, 0]` is always 0.
        exponent: the bin width is 2 ** exponent.
        minimum, maximum: of all values, sampled or not; +inf and -inf while empty.
        chosen: what the method AUTO stands for here, on symmetric and on affine grids; None: not measured.
        objects: those values that lie inside objects, with bins as wide or narrower; None: not known.
    """

    __slots__ = ("_known", "chosen", "counts", "exponent", "maximum", "minimum", "objects")

    def __init__(self, objects: Histogram | None = None) -> None:
        self.counts: NDArray[np.int64] = np.zeros((2, BINS), np.int64)
        self.exponent: int = LOWEST
        self.minimum: float = math.inf
        self.maximum: float = -math.inf
        self.chosen: tuple[str, str] | None = None
        self.objects = objects
        self._known: tuple[tuple[float, ...], dict[tuple[str, str], Any]] = (), {}

    @property
    def width(self) -> float:
        """Width of a bin, a power of two."""
        return math.ldexp(1.0, self.exponent)

    @property
    def limit(self) -> float:
        """Largest magnitude seen; 0 while empty."""
        return max(self.maximum, -self.minimum, 0.0)

    @property
    def total(self) -> int:
        """Number of values counted."""
        return int(self.counts.sum())

    def extend(self, minimum: float, maximum: float) -> None:
        """Make room for values in [minimum, maximum] (finite) and remember both."""
        self.minimum = min(self.minimum, minimum + 0.0)  # -0.0 becomes 0.0, or the order would show
        self.maximum = max(self.maximum, maximum + 0.0)
        self._grow(exponent_for(self.limit))

    def merge(self, other: Histogram) -> None:
        """Add the counts and the range of `other`, which stays as it is."""
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self._grow(other.exponent)
        self.counts += coarsen(other.counts, self.exponent - other.exponent)
        if self.objects is not None and other.objects is not None:
            self.objects.merge(other.objects)

    def _grow(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.counts[:] = coarsen(self.counts, exponent - self.exponent)
            self.exponent = exponent

    def symmetric_limit(self, method: str) -> float:
        """Largest magnitude of the int8 grid with zero point 0 and 127 steps on each side: scale = limit / 127.

        Always finite and positive; 1.0 for a tensor that is zero everywhere.

        Args:
            method: one of METHODS.
        """
        method = self._resolved(method)[0]
        return self._remembered(
            ("symmetric", method),
            lambda: thresholds.symmetric(self._judged(method).sum(axis=0), self.width, self.limit, method),
        )

    def affine_range(self, method: str) -> tuple[float, float]:
        """Ends (lo, hi) of the uint8 grid of 255 steps: scale = (hi - lo) / 255, zero point = round(-lo / scale).

        Zero lies inside and exactly on the grid; lo is 0 for a tensor without negative values. Always lo <= 0 <= hi
        and lo < hi.

        Args:
            method: one of METHODS.
        """
        method = self._resolved(method)[1]
        return self._remembered(
            ("affine", method),
            lambda: thresholds.affine(self._judged(method), self.width, self.minimum, self.maximum, method),
        )

    def _judged(self, method: str) -> thresholds.Counts:
        """The counts that a method goes by. An error inside objects matters more than one in the background: where
        their places are known, half of the weight of all square errors lies there."""
        inside = 0 if self.objects is None else self.objects.total
        if method != thresholds.METHODS[0] or self.objects is None or not inside:
            return self.counts
        found = coarsen(self.objects.counts, self.exponent - self.objects.exponent)
        return self.counts + found * (self.total / inside)

    def _remembered(self, question: tuple[str, str], answer: Callable[[], T]) -> T:
        """What `answer` said of these values before; counts only ever grow, so that their sum tells states apart."""
        inside = 0 if self.objects is None else self.objects.total
        state = (self.total, inside, self.exponent, self.minimum, self.maximum)
        known = self._known  # one reference: several threads may ask
        if known[0] != state:
            known = self._known = state, {}
        if question not in known[1]:
            known[1][question] = answer()
        found: T = known[1][question]
        return found

    def _resolved(self, method: str) -> tuple[str, str]:
        if method != AUTO:
            return method, method
        return self.chosen or (thresholds.METHODS[0], thresholds.METHODS[0])


def exponent_for(limit: float) -> int:
    """Exponent of the narrowest bins that hold magnitudes up to `limit`."""
    return max(math.frexp(limit)[1] - 12, LOWEST) if limit else LOWEST


def coarsen(counts: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
    """Counts (2, BINS) with bins 2**steps times as wide; the same array for 0 steps."""
    if steps == 0:
        return counts
    joined = 1 << min(steps, 12)
    wide = np.zeros_like(counts)
    wide[:, : BINS // joined] = counts.reshape(2, BINS // joined, joined).sum(axis=2)
    wide[0, 0] += wide[1, 0]
    wide[1, 0] = 0
    return wide

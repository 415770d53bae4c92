"""Counts a large float32 array into a histogram at about a nanosecond per value, with numpy and OpenCV alone.

One worker's inner loop. Blocks stay in the second-level cache while minimum, maximum and bin numbers are taken; bin
numbers are 16 bits wide and counted by `cv2.calcHist`. The many zeros after a ReLU would make each count wait for the
one before, in the same counter, so they are spread over a few counters of their own.

Large maps are counted in part: of every `every` blocks of BLOCK neighbours one is counted, which one being the
caller's choice per picture. Minimum and maximum always see every value.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgevision.calibration.histogram import BINS, Histogram
from edgevision.optional import require

SAMPLE: Final = 1 << 16
"""At least so many values of a map are counted, unless the caller asks for fewer."""
BLOCK: Final = 32
_CACHED: Final = 1 << 18
_SPREAD: Final = 32
_OPENCV_FROM: Final = 1 << 13
_MOST: Final = 2 * SAMPLE


class Counter:
    """Scratch memory of one worker. Not for use from two threads at once."""

    def __init__(self, sample: int = SAMPLE) -> None:
        """`sample`: count at least this many values of a map, at most twice as many; not above SAMPLE."""
        self._sample = sample
        self._cv2: Any = require("cv2", "calibration")
        self._numbers = np.empty(_MOST, np.uint16)
        self._codes = self._numbers.view(np.int16)
        self._pending = 0

    def add(
        self,
        histogram: Histogram,
        values: NDArray[np.float32],
        phase: int = 0,
        known: tuple[float | None, float | None] = (None, None),
    ) -> tuple[float, float]:
        """Count `values` (any shape, contiguous) and return their minimum and maximum.

        Args:
            phase: which block of each group is counted where a large map is sampled; any integer.
            known: a minimum and a maximum that `histogram` has and no value can exceed: need not be looked for.

        Raises:
            ValueError: a value is not finite.
        """
        self._pending = 0  # a refused value may have left some
        flat = values.reshape(-1)
        every = max(1, flat.size // self._sample)
        group = every * BLOCK if every > 1 else 1
        step = max(1, _CACHED // group) * group
        lowest, highest = math.inf, -math.inf
        for start in range(0, flat.size, step):
            block = flat[start : start + step]
            low = float(np.minimum.reduce(block)) if known[0] is None else known[0]
            high = float(np.maximum.reduce(block)) if known[1] is None else known[1]
            if not -math.inf < low <= high < math.inf:
                raise ValueError("not finite")
            if low < histogram.minimum or high > histogram.maximum:
                if self._pending and max(high, -low) >= histogram.width * BINS:
                    self._flush(histogram, lowest, highest)
                histogram.extend(low, high)
            lowest, highest = min(lowest, low), max(highest, high)
            self._encode(block, every, phase % every, np.float32(1 / histogram.width))
        if self._pending:
            self._flush(histogram, lowest, highest)
        return lowest, highest

    def _encode(self, block: NDArray[np.float32], every: int, phase: int, scale: np.float32) -> None:
        """Append the bin numbers of `block`; the cast cuts off towards zero, exactly."""
        if every > 1:
            groups = block.size // (every * BLOCK)
            rows = block[: groups * every * BLOCK].reshape(groups, every * BLOCK)
            block = rows[:, phase * BLOCK : (phase + 1) * BLOCK]
        codes = self._codes[self._pending : self._pending + block.size].reshape(block.shape)
        np.multiply(block, scale, out=codes, casting="unsafe")
        self._pending += block.size

    def _flush(self, histogram: Histogram, lowest: float, highest: float) -> None:
        """Count the pending bin numbers, of values in lowest..highest: the bins beyond stay out of the cache."""
        numbers, codes, self._pending = self._numbers[: self._pending], self._codes[: self._pending], 0
        below, above = (int(max(end, 0.0) / histogram.width) + 1 for end in (-lowest, highest))
        if lowest < 0:
            codes += below
            found = self._histogram(numbers, below + above)
            histogram.counts[0, :above] += found[below:]
            histogram.counts[1, 1:below] += found[below - 1 : 0 : -1]
            return
        # Bin 0 wraps around to the top and is cut to BINS, BINS + 1, ... in turn; the others move down by one.
        numbers -= 1
        np.minimum(numbers, _zeros()[: numbers.size], out=numbers)
        found = self._histogram(numbers, BINS + _SPREAD)
        histogram.counts[0, 1:above] += found[: above - 1]
        histogram.counts[0, 0] += found[BINS:].sum()

    def _histogram(self, numbers: NDArray[np.uint16], bins: int) -> NDArray[np.int64]:
        """How often each of 0..bins - 1 occurs in `numbers`."""
        if numbers.size < _OPENCV_FROM:
            return np.bincount(numbers, minlength=bins)
        found: NDArray[np.float32] = self._cv2.calcHist([numbers.reshape(1, -1)], [0], None, [bins], [0, bins])
        return found.reshape(-1).astype(np.int64)  # exact: never more than 2**24 values at a time


@functools.cache
def _zeros() -> NDArray[np.uint16]:
    """The counters of bin 0, in turn."""
    return (BINS + np.arange(_MOST) % _SPREAD).astype(np.uint16)

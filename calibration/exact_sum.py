"""Sums of float32 numbers without any rounding, so in any order: a fixed-point number per channel, wide enough for all.

A float32 is an integer of 24 bits times a power of two from 2**-149 on. Words of 64 bits stand DIGIT bits apart; a
number is added to the one word that holds its lowest bits, shifted into place: 24 + DIGIT - 1 bits, which leaves room
for four billion of them before a word is full. Words are joined when the sum is asked for (after the long accumulator
of U. Kulisch, "Computer Arithmetic and Validity", 2008).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

DIGIT: Final = 8
_LOWEST: Final = -149
WORDS: Final = (128 - _LOWEST) // DIGIT + 1


class ExactSum:
    """The sum, per channel, of any number of float32 rows.

    Attributes:
        words: int64 (WORDS, channels).
    """

    __slots__ = ("words",)

    def __init__(self, channels: int) -> None:
        self.words: NDArray[np.int64] = np.zeros((WORDS, channels), np.int64)

    def add(self, row: NDArray[np.float32]) -> None:
        """Add one finite number per channel, (channels,)."""
        mantissa, exponent = np.frexp(row)
        place = np.maximum(exponent - (24 + _LOWEST), 0)  # of the lowest bit; subnormal numbers have fewer bits
        whole = np.ldexp(mantissa.astype(np.float64), exponent - _LOWEST - place).astype(np.int64)
        self.words[place // DIGIT, np.arange(row.size)] += whole << (place % DIGIT)

    def merge(self, other: ExactSum) -> None:
        """Add another sum."""
        self.words += other.words

    def mean(self, count: int) -> NDArray[np.float32]:
        """The sum over `count`. The words are exact, so joining them in one fixed order in float64 depends on nothing
        else."""
        weights = np.ldexp(1.0, DIGIT * np.arange(WORDS) + _LOWEST)
        return np.asarray((self.words * weights[:, None]).sum(axis=0) / count, np.float32)

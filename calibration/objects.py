"""Which values of a feature map lie inside objects, as the network itself finds them.

Most of a picture is background, and most of a histogram therefore counts values that no box depends on. What a grid
does to the few values inside objects decides about scores and boxes. A detector's graph says where these are: its
decoded outputs are computed with the tensors that are observed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BOXES: Final = "boxes"
SCORES: Final = "scores"
OUTPUTS: Final = (BOXES, SCORES)
"""Outputs of a graph with a decoded detection head: (1, n, 4) xyxy in pixels of its input, (1, n, ...) scores 0..1."""
CONFIDENT: Final = 0.3
"""From which score a candidate is an object."""
MOST: Final = 1 << 12
"""So many values of one map and picture are handed out at most, or one place of all channels."""


class Objects:
    """The objects of one picture.

    Args:
        outputs: with those in OUTPUTS; other candidates may be NaN, they are none.
        input_hw: of the graph's input, pixels.
    """

    def __init__(self, outputs: Mapping[str, NDArray[np.float32]], input_hw: tuple[int, int]) -> None:
        boxes = outputs[BOXES].reshape(-1, 4)
        scores = outputs[SCORES].reshape(len(boxes), -1).max(axis=1)
        found = boxes[(scores >= CONFIDENT) & np.isfinite(boxes).all(axis=1)]
        self._xyxy = np.clip(found, 0, np.tile(input_hw[::-1], 2))
        self._input_hw = input_hw
        self._known: dict[tuple[int, int], NDArray[np.intp]] = {}

    def cells(self, size_hw: tuple[int, int]) -> NDArray[np.intp]:
        """Flat indices, ascending, of those cells of a map whose centre lies in a box; of a box that holds no centre
        the cell of its own centre."""
        if size_hw not in self._known:
            inside = np.zeros(size_hw, np.bool_)
            (top, bottom), (left, right) = (self._span(axis, size_hw[axis]) for axis in (0, 1))
            for area in zip(top.tolist(), bottom.tolist(), left.tolist(), right.tolist(), strict=True):
                inside[area[0] : area[1], area[2] : area[3]] = True
            self._known[size_hw] = np.flatnonzero(inside)
        return self._known[size_hw]

    def _span(self, axis: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First cell and the one behind the last along `axis` (0: y) of every box."""
        scale = cells / self._input_hw[axis]
        start, end = self._xyxy[:, 1 - axis] * scale, self._xyxy[:, 3 - axis] * scale
        first, behind = (np.ceil(edge - 0.5).astype(np.int64) for edge in (start, end))
        middle = np.minimum((start + end) / 2, cells - 1).astype(np.int64)
        empty = behind <= first
        return np.where(empty, middle, first), np.where(empty, middle + 1, behind)

    def values(self, tensor: NDArray[np.float32], block: int, phase: int) -> NDArray[np.float32] | None:
        """Values of a map at its cells inside objects, evenly thinned out to MOST; None where there are none.

        Args:
            tensor: (1, channels, height, width), `block` neighbouring channels of a cell together in memory.
            phase: where thinning out begins; any integer.
        """
        size_hw = map_size(tensor.shape, self._input_hw)
        cells = self.cells(size_hw) if size_hw is not None else np.zeros(0, np.intp)
        if not len(cells):
            return None
        every = math.ceil(len(cells) / max(MOST // tensor.shape[1], 1))
        grouped: NDArray[np.float32] = tensor.reshape(tensor.shape[1] // block, -1, block)
        return grouped.take(cells[phase % every :: every], axis=1)


@functools.lru_cache(1 << 10)
def map_size(shape: tuple[Any, ...], input_hw: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of a tensor that shows the whole input at one stride; None of any other."""
    if len(shape) != 4 or shape[0] != 1 or min(shape[2:]) < 2:
        return None
    stride = round(input_hw[0] / shape[2])
    fits = stride >= 1 and all(abs(side / stride - cells) < 1 for side, cells in zip(input_hw, shape[2:], strict=True))
    return (shape[2], shape[3]) if fits else None

"""From a semantic network's output to a class for every pixel of the source picture.

Two definitions, each with half-pixel centres: logits are upsampled bilinearly to the network's input size and the
largest wins there (the lowest class where equal); a class map goes to the source by nearest neighbour, through the
placement, so that padding never reaches the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.geometry import Placement
from edgevision.optional import require


class ClassMapper:
    """Turns logits and class maps into source-size class maps. Has scratch memory: one instance per worker."""

    def __init__(self, input_wh: tuple[int, int], classes: int) -> None:
        self._cv2: Any = require("cv2", "segmentation")
        self._input_wh = input_wh
        self._placed: tuple[Placement, tuple[int, ...]] | None = None
        shape = input_wh[::-1]
        self._best, self._plane = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self._wins = np.empty(shape, np.bool_)
        if classes <= 255:
            self._ranks: NDArray[Any] = self._wins.view(np.uint8)
            self._classes: NDArray[Any] = np.empty(shape, np.uint8)
        else:
            self._ranks, self._classes = np.empty(shape, np.int32), np.empty(shape, np.int32)

    def argmax(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Class of every input pixel.

        Args:
            logits: (c, h, w) float32 at any resolution; NaN never wins.

        Returns:
            (input h, input w) uint8, int32 above 255 classes; valid until the next call.
        """
        best, wins, ranks, classes = self._best, self._wins, self._ranks, self._classes
        classes.fill(0)
        np.fmax(self._upsampled(logits[0]), -np.inf, out=best)
        # One class plane at a time: memory does not grow with the number of classes. Classes come in rising order,
        # so a new winner's number is always the larger one, which saves a masked store.
        for number in range(1, len(logits)):
            plane = self._upsampled(logits[number])
            np.greater(plane, best, out=wins)
            np.multiply(wins.view(np.uint8), classes.dtype.type(number), out=ranks)
            np.maximum(classes, ranks, out=classes)
            np.fmax(best, plane, out=best)
        return classes

    def _upsampled(self, logit: NDArray[np.float32]) -> NDArray[np.float32]:
        if logit.shape == self._plane.shape:
            return logit
        plane: NDArray[np.float32] = self._cv2.resize(
            logit, self._input_wh, dst=self._plane, interpolation=self._cv2.INTER_LINEAR
        )
        return plane

    def to_source(self, class_map: NDArray[Any], placement: Placement) -> NDArray[Any]:
        """Class of every source pixel.

        Args:
            class_map: (h, w) uint8 or int32; covers the network input at any resolution.
            placement: where the source picture lies in the input.

        Returns:
            (source h, source w) of the same dtype; a new array.
        """
        if self._placed != (placement, class_map.shape):
            self._columns = _nearest(placement, 0, class_map.shape[1])
            self._rows = _nearest(placement, 1, class_map.shape[0])
            self._placed = (placement, class_map.shape)
        # Gathering whole rows is a memcpy each; doing so on both axes by way of a transposition is several times
        # faster than cv2.resize with nearest neighbour, and exact.
        wide = self._cv2.transpose(self._cv2.transpose(class_map).take(self._columns, axis=0))
        chosen: NDArray[Any] = wide.take(self._rows, axis=0)
        return chosen


def _nearest(placement: Placement, axis: int, cells: int) -> NDArray[np.int64]:
    """For every source pixel along `axis` (0 is x), the cell of a map with `cells` cells that its centre falls into."""
    source, content = placement.source_wh[axis], placement.content_wh[axis]
    offset, whole = placement.offset_xy[axis], placement.input_wh[axis]
    # floor((offset + (x + 1/2) * content / source) * cells / whole) in integers, so without rounding
    twice_source = 2 * source * offset + (2 * np.arange(source, dtype=np.int64) + 1) * content
    return twice_source * cells // (2 * source * whole)

"""Instance masks at any size: from prototypes (YOLACT, Bolya et al., arXiv:1904.02689) or from a small network of each
detection's own (conditional convolutions, Tian et al., arXiv:2003.05664, as in RTMDet-Ins, arXiv:2212.07784), each
within its box, or from a small map per box (Mask R-CNN, He et al., arXiv:1703.06870).

With prototypes a mask's logits are a sum of the picture's prototypes, weighted by the detection's coefficients; with
kernels they are what three 1x1 convolutions make of the picture's features and of where a cell lies. A pixel of the
mask belongs to the object where its centre lies in the box and the logits, interpolated bilinearly there, are positive:
the sigmoid above one half.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgevision.geometry import Placement

f32 = np.float32
Cells = tuple[slice, slice]
"""Rows and columns of a map."""
FEATURES, HIDDEN = 8, 8
"""Channels of the features that kernels are applied to, and of what lies between them."""
_PARAMETERS = ((FEATURES + 2) * HIDDEN, HIDDEN * HIDDEN, HIDDEN, HIDDEN, HIDDEN, 1)
KERNELS = sum(_PARAMETERS) + 4
"""Numbers of a detection's kernels: weights [out, in] of the first layer (x, y, then features), of the second, of the
third; their biases; then the point that x and y are measured from, input pixels, and how many of those are one in x and
in y."""


def assemble(
    prototypes: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    xyxy: NDArray[np.float32],
    placement: Placement,
    size_wh: tuple[int, int],
) -> NDArray[np.bool_]:
    """The masks of one picture's detections.

    Args:
        prototypes: (m, h, w) float32; cover the network's input at any resolution.
        coefficients: (k, m) float32.
        xyxy: (k, 4) float32 corners in source pixels.
        placement: where the source picture lies in the network's input.
        size_wh: size of the masks, which cover the source picture.

    Returns:
        (k, size h, size w) bool.
    """

    def logits(number: int, cells: Cells) -> NDArray[np.float32]:
        return np.tensordot(coefficients[number], prototypes[:, cells[0], cells[1]], axes=1)

    return _within_boxes(logits, prototypes.shape[1:], xyxy, placement, size_wh)


def convolve(
    features: NDArray[np.float32],
    kernels: NDArray[np.float32],
    xyxy: NDArray[np.float32],
    placement: Placement,
    size_wh: tuple[int, int],
) -> NDArray[np.bool_]:
    """The masks of one picture's detections, by their own kernels.

    Args:
        features: (FEATURES, h, w) float32; cover the network's input at any resolution.
        kernels: (k, KERNELS) float32.
        xyxy, placement, size_wh: see `assemble`.

    Returns:
        (k, size h, size w) bool.
    """
    _, height, width = features.shape
    x = np.arange(width, dtype=f32) * f32(placement.input_wh[0] / width)
    y = np.arange(height, dtype=f32) * f32(placement.input_wh[1] / height)

    def logits(number: int, cells: Cells) -> NDArray[np.float32]:
        rows, columns = cells
        first, second, third, *biases, place = np.split(kernels[number], np.cumsum(_PARAMETERS))
        seen = features[:, rows, columns]
        far = np.empty((2, *seen.shape[1:]), np.float32)
        far[0], far[1] = (place[0] - x[columns]) / place[2], ((place[1] - y[rows]) / place[3])[:, None]
        layer = np.concatenate([far, seen]).reshape(FEATURES + 2, -1)
        for weights, bias in ((first, biases[0]), (second, biases[1])):
            layer = np.maximum(weights.reshape(HIDDEN, -1) @ layer + bias[:, None], f32(0))
        result: NDArray[np.float32] = (third @ layer + biases[2]).reshape(seen.shape[1:])
        return result

    return _within_boxes(logits, features.shape[1:], xyxy, placement, size_wh)


def _within_boxes(
    logits: Callable[[int, Cells], NDArray[np.float32]],
    map_hw: tuple[int, ...],
    xyxy: NDArray[np.float32],
    placement: Placement,
    size_wh: tuple[int, int],
) -> NDArray[np.bool_]:
    """Where logits are positive, within each box; `logits` makes those of a detection's cells."""
    across = _Axis(size_wh[0], map_hw[1], placement, 0)
    down = _Axis(size_wh[1], map_hw[0], placement, 1)
    masks = np.zeros((len(xyxy), size_wh[1], size_wh[0]), np.bool_)
    for number, (mask, (x1, y1, x2, y2)) in enumerate(zip(masks, xyxy, strict=True)):
        columns, rows = across.within(x1, x2), down.within(y1, y2)
        if columns.start == columns.stop or rows.start == rows.stop:
            continue
        x0, x_next, x_part = across.cells(columns)
        y0, y_next, y_part = down.cells(rows)
        under = logits(number, np.s_[y0[0] : y_next[-1] + 1, x0[0] : x_next[-1] + 1])
        tall = _between(under[y0 - y0[0]], under[y_next - y0[0]], y_part[:, None])
        mask[rows, columns] = _between(tall[:, x0 - x0[0]], tall[:, x_next - x0[0]], x_part) > 0
    return masks


def paste(maps: NDArray[np.float32], xyxy: NDArray[np.float32], size_wh: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks from maps that lie over their boxes: bilinear, with a cell of zeros around the map, true above one half.

    Whole pixels are found as pytorch/vision does it (models/detection/roi_heads.py, paste_masks_in_image): the box
    grows with the map's border, and its corners are rounded towards zero.

    Args:
        maps: (k, s, s) float32 probabilities.
        xyxy: (k, 4) float32 corners in source pixels; they may lie outside the picture.
        size_wh: size of the picture, and of the masks.

    Returns:
        (k, size h, size w) bool.
    """
    cells = maps.shape[1] + 2
    bordered = np.zeros((cells, cells), np.float32)
    centre, half = (xyxy[:, 2:] + xyxy[:, :2]) * f32(0.5), (xyxy[:, 2:] - xyxy[:, :2]) * f32(0.5)
    half = half * (f32(cells) / f32(cells - 2))
    corners = np.concatenate([centre - half, centre + half], axis=1).clip(-(2**31), 2**31).astype(np.int64)
    masks = np.zeros((len(maps), size_wh[1], size_wh[0]), np.bool_)
    for mask, cell_map, (x1, y1, x2, y2) in zip(masks, maps, corners.tolist(), strict=True):
        bordered[1:-1, 1:-1] = cell_map
        columns, x0, x_next, x_part = _spread(x1, x2, cells, size_wh[0])
        rows, y0, y_next, y_part = _spread(y1, y2, cells, size_wh[1])
        tall = _between(bordered[y0], bordered[y_next], y_part[:, None])
        mask[rows, columns] = _between(tall[:, x0], tall[:, x_next], x_part) > f32(0.5)
    return masks


def _spread(
    first: int, last: int, cells: int, size: int
) -> tuple[slice, NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The pixels first..last of a picture's axis that are in it; for each the cells around its centre, as many cells
    being spread over first..last, and how far it lies from the one towards the other."""
    length = max(last - first + 1, 1)
    start, stop = min(max(first, 0), size), max(min(first + length, size), 0)
    pixels = np.arange(start, max(start, stop))
    positions = np.maximum((pixels - first + f32(0.5)).astype(f32) * (f32(cells) / f32(length)) - f32(0.5), f32(0))
    below = np.minimum(positions.astype(np.int64), cells - 1)
    return slice(start, max(start, stop)), below, np.minimum(below + 1, cells - 1), positions - below.astype(f32)


def _between(first: NDArray[np.float32], second: NDArray[np.float32], part: NDArray[np.float32]) -> NDArray[np.float32]:
    second -= first
    second *= part
    second += first
    return second


class _Axis:
    """From pixels of a mask to cells of prototypes along one axis, in float32 as on the GPU."""

    def __init__(self, size: int, cells: int, placement: Placement, axis: int) -> None:
        content, whole = placement.content_wh[axis], placement.input_wh[axis]
        self._centres = np.arange(size, dtype=f32) + f32(0.5)
        shift = f32(placement.offset_xy[axis] * cells) / f32(whole) - f32(0.5)
        self._positions = self._centres * (f32(content * cells) / f32(size * whole)) + shift
        self._size, self._source, self._last = f32(size), f32(placement.source_wh[axis]), cells - 1

    def within(self, low: np.float32, high: np.float32) -> slice:
        """The pixels whose centres lie from `low` up to `high`, source pixels."""
        first, stop = np.searchsorted(
            self._centres, [low * self._size / self._source, high * self._size / self._source]
        )
        return slice(int(first), max(int(first), int(stop)))

    def cells(self, pixels: slice) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """For each pixel the cells around its centre, and how far it lies from the first towards the second."""
        positions = self._positions[pixels]
        below = np.floor(positions)
        first = np.clip(below, 0, self._last).astype(np.int64)
        second = np.clip(below + 1, 0, self._last).astype(np.int64)
        return first, second, positions - below

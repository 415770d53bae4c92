"""Anchors as families lay them over their maps: cx, cy, w, h in pixels of the input; map by map, cell by cell along
rows, every anchor shape within a cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Shapes = Sequence[tuple[float, float]]


def lay_anchors(
    input_wh: tuple[int, int], strides: Sequence[int], shapes: Sequence[Shapes], step: str = "stride"
) -> NDArray[np.float64]:
    """Anchors (N, 4).

    Args:
        input_wh: width and height of the input, pixels.
        strides: of the maps; a map covers its last part of a stride with a cell of its own.
        shapes: per map, width and height of each anchor of a cell.
        step: how far cells lie apart and where in them their anchors are: `stride`: a stride, in the middle; `share`:
            the input's size divided by the number of cells, in the middle; `floor`: that number rounded down, at the
            cell's corner (torchvision).
    """
    width, height = input_wh
    levels = []
    for stride, boxes in zip(strides, shapes, strict=True):
        columns, rows = -(-width // stride), -(-height // stride)
        steps = {
            "stride": (stride, stride),
            "share": (width / columns, height / rows),
            "floor": (width // columns, height // rows),
        }[step]
        y, x = np.mgrid[:rows, :columns].reshape(2, -1).astype(np.float64) + (0.0 if step == "floor" else 0.5)
        centres = np.stack([x * steps[0], y * steps[1]], axis=1)
        sizes = np.asarray(boxes, np.float64)
        pairs = np.repeat(centres, len(sizes), axis=0), np.tile(sizes, (len(centres), 1))
        levels.append(np.concatenate(pairs, axis=1))
    return np.concatenate(levels)


def torchvision_shapes(sizes: Sequence[float], ratios: Sequence[float]) -> Shapes:
    """AnchorGenerator's shapes of one map: for each ratio of height to width all sizes, half sides rounded."""
    return [
        (2 * float(np.round(size / root / 2)), 2 * float(np.round(size * root / 2)))
        for root in (float(np.float32(np.sqrt(np.float32(ratio)))) for ratio in ratios)
        for size in sizes
    ]

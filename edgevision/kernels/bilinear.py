"""The floating-point interpolation of semantic.cu, in numpy.

It is what `cv2.resize` with INTER_LINEAR does with float32, found out by comparing every bit: half-pixel centres,
borders repeated, weights worked out in float64 and rounded, rows before columns, each step
`a + (b - a) * weight` with a fused multiply-add. Two cases aside: sources of one row or column, which OpenCV works out
with other roundings, and infinity in a corner.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# What one target cell mixes: the cells `first` and `second`, `weight` being the second's.
TAP = np.dtype([("first", np.int32), ("second", np.int32), ("weight", np.float32)])


def taps(source: int, target: int) -> NDArray[np.void]:
    """(target,) of TAP: how `source` cells are resampled to `target` cells."""
    centre = (np.arange(target) + 0.5) * (source / target) - 0.5
    cell = np.floor(centre)
    result = np.empty(target, TAP)
    # Beyond the outer centres the border cell counts alone.
    between = (cell >= 0) & (cell < source - 1)
    result["first"] = cell.clip(0, source - 1)
    result["second"] = np.where(between, cell + 1, result["first"])
    result["weight"] = np.where(between, centre - cell, 0)
    return result


def upsample(planes: NDArray[np.float32], target_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Resample.

    Args:
        planes: (..., h, w) float32.
        target_wh: the new size.

    Returns:
        (..., target h, target w) float32; `planes` itself where that is its size.
    """
    if planes.shape[-2:] == target_wh[::-1]:
        return planes
    x, y = taps(planes.shape[-1], target_wh[0]), taps(planes.shape[-2], target_wh[1])
    rows = _between(planes[..., x["first"]], planes[..., x["second"]], x)
    return _between(rows[..., y["first"], :], rows[..., y["second"], :], y[:, None])


def _between(a: NDArray[np.float32], b: NDArray[np.float32], tap: NDArray[np.void]) -> NDArray[np.float32]:
    # A product of two float32 is exact in float64. At the border the cell is copied: infinity stays what it is.
    with np.errstate(invalid="ignore", over="ignore"):
        mixed = (a + (b - a).astype(np.float64) * tap["weight"]).astype(np.float32)
    return np.where(tap["first"] == tap["second"], a, mixed)

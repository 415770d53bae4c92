"""Box arithmetic that heads append to a graph: offsets to priors, centres to corners. All in float32, few operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgevision.export.decode import Decode

# torchvision's clamp on a size's logarithm: no box grows more than 62-fold, and exp() cannot overflow.
LARGEST_LOG_SIZE = math.log(1000.0 / 16)


def append_offsets(
    decode: Decode,
    offsets: str,
    priors: NDArray[np.float64],
    variances: Sequence[float],
    *,
    y_first: bool,
) -> str:
    """Decode offsets to priors into corners.

    centre = offset * variance * prior size + prior centre; size = exp(offset * variance) * prior size.

    Args:
        decode: where to append.
        offsets: tensor [1,N,4]: centre offsets, then logarithms of size ratios.
        priors: (N, 4) cx, cy, w, h in pixels.
        variances: four factors, in the offsets' order.
        y_first: the offsets are (y, x, h, w), not (x, y, w, h).

    Returns:
        Tensor [1,N,4] xyxy in pixels.
    """
    scale = np.array(variances)
    if y_first:
        scale = scale[[1, 0, 3, 2]]
        swap = decode.constant("boxes/x_first", np.array([1, 0, 3, 2]))
        offsets = decode.op("Gather", offsets, swap, stem="boxes/xywh", axis=2)

    def constant(stem: str, value: NDArray[np.float64]) -> str:
        return decode.constant(f"boxes/{stem}", value.astype(np.float32))

    shift, log_size = _halves(decode, offsets)
    shift = decode.op("Mul", shift, constant("prior_scale", priors[:, 2:] * scale[:2]), stem="boxes/shift")
    centre = decode.op("Add", shift, constant("prior_centre", priors[:, :2]), stem="boxes/centre")
    # A scalar where both are equal: spreading two values over thousands of pairs takes a CPU 20 times as long.
    size_scale = scale[2] if scale[2] == scale[3] else scale[2:]
    log_size = decode.op("Mul", log_size, constant("size_variance", np.asarray(size_scale)), stem="boxes/log_size")
    log_size = decode.op("Min", log_size, constant("largest", np.array(LARGEST_LOG_SIZE)), stem="boxes/bounded")
    ratio = decode.op("Exp", log_size, stem="boxes/ratio")
    half = decode.op("Mul", ratio, constant("prior_half_size", priors[:, 2:] / 2), stem="boxes/half_size")
    return _corners(decode, centre, half)


def append_centres(decode: Decode, boxes: str) -> str:
    """Boxes [1,N,4] cx, cy, w, h to corners [1,N,4] in the same unit."""
    centre, size = _halves(decode, boxes)
    half = decode.op("Mul", size, decode.constant("boxes/half", np.array(0.5, np.float32)), stem="boxes/half_size")
    return _corners(decode, centre, half)


def append_foreground(decode: Decode, scores: str) -> str:
    """Scores [1,N,C+1] without their first column."""
    start, end, axis = (
        decode.constant(f"scores/{stem}", np.array([value]))
        for stem, value in (("first", 1), ("end", np.iinfo(np.int32).max), ("columns", 2))
    )
    return decode.op("Slice", scores, start, end, axis, stem="scores/foreground")


def _halves(decode: Decode, boxes: str) -> tuple[str, str]:
    widths = decode.constant("boxes/two_two", np.array([2, 2]))
    first, second = decode.node("Split", boxes, widths, stem="boxes/halves", outputs=2, axis=2)
    return first, second


def _corners(decode: Decode, centre: str, half: str) -> str:
    low = decode.op("Sub", centre, half, stem="boxes/top_left")
    high = decode.op("Add", centre, half, stem="boxes/bottom_right")
    return decode.op("Concat", low, high, stem="boxes/xyxy", axis=2)

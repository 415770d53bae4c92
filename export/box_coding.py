"""Box arithmetic that heads append to a graph: offsets to priors, centres to corners. All in float32, few operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgevision.export.decode import Decode

BOX_FORMATS = ("xyxy-pixels", "xyxy-fractions", "cxcywh-pixels", "cxcywh-fractions")
"""What the four numbers of a decoded box can be: corners, or centre and size; in pixels, or in units of the input."""

# torchvision's clamp on a size's logarithm: no box grows more than 62-fold, and exp() cannot overflow.
LARGEST_LOG_SIZE = math.log(1000.0 / 16)


def append_offsets(
    decode: Decode,
    offsets: str,
    priors: NDArray[np.float64],
    variances: Sequence[float],
    *,
    y_first: bool = False,
    largest_log_size: float = LARGEST_LOG_SIZE,
) -> str:
    """Decode offsets to priors into corners.

    centre = offset * variance * prior size + prior centre; size = exp(offset * variance) * prior size.

    Args:
        decode: where to append.
        offsets: tensor [1,N,4]: centre offsets, then logarithms of size ratios.
        priors: (N, 4) cx, cy, w, h in pixels.
        variances: four factors, in the offsets' order.
        y_first: the offsets are (y, x, h, w), not (x, y, w, h).
        largest_log_size: scaled logarithms of size ratios are bounded by this.

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

    shift, log_size = halves(decode, offsets)
    shift = decode.op("Mul", shift, constant("prior_scale", priors[:, 2:] * scale[:2]), stem="boxes/shift")
    centre = decode.op("Add", shift, constant("prior_centre", priors[:, :2]), stem="boxes/centre")
    # A scalar where both are equal: spreading two values over thousands of pairs takes a CPU 20 times as long.
    size_scale = scale[2] if scale[2] == scale[3] else scale[2:]
    log_size = decode.op("Mul", log_size, constant("size_variance", np.asarray(size_scale)), stem="boxes/log_size")
    log_size = decode.op("Min", log_size, constant("largest", np.array(largest_log_size)), stem="boxes/bounded")
    ratio = decode.op("Exp", log_size, stem="boxes/ratio")
    half = decode.op("Mul", ratio, constant("prior_half_size", priors[:, 2:] / 2), stem="boxes/half_size")
    return corners(decode, centre, half)


def append_centres(decode: Decode, boxes: str) -> str:
    """Boxes [1,N,4] cx, cy, w, h to corners [1,N,4] in the same unit."""
    centre, size = halves(decode, boxes)
    half = decode.op("Mul", size, decode.constant("boxes/half", np.array(0.5, np.float32)), stem="boxes/half_size")
    return corners(decode, centre, half)


def append_box_format(decode: Decode, boxes: str, box_format: str, input_wh: tuple[int, int]) -> str:
    """Boxes [1,N,4] in one of BOX_FORMATS to corners [1,N,4] in pixels."""
    if box_format.startswith("cxcywh"):
        boxes = append_centres(decode, boxes)
    if box_format.endswith("fractions"):
        extent = decode.constant("boxes/input_size", np.array(input_wh * 2, np.float32))
        boxes = decode.op("Mul", boxes, extent, stem="boxes/pixels")
    return boxes


def append_bounds(decode: Decode, boxes: str, input_wh: tuple[int, int]) -> str:
    """Corners [1,N,4] in pixels moved into the picture, for families that suppress such boxes only then."""
    largest = np.array(input_wh[0] if input_wh[0] == input_wh[1] else input_wh * 2, np.float32)
    boxes = decode.op("Max", boxes, decode.constant("boxes/least", np.array(0.0, np.float32)), stem="boxes/from_zero")
    return decode.op("Min", boxes, decode.constant("boxes/most", largest), stem="boxes/inside")


def append_foreground(decode: Decode, scores: str) -> str:
    """Scores [1,N,C+1] without their first column."""
    start, end, axis = (
        decode.constant(f"scores/{stem}", np.array([value]))
        for stem, value in (("first", 1), ("end", np.iinfo(np.int32).max), ("columns", 2))
    )
    return decode.op("Slice", scores, start, end, axis, stem="scores/foreground")


def append_product(decode: Decode, objectness: str, classes: str) -> str:
    """Scores [1,N,C]: objectness [1,N,1] times class probabilities [1,N,C]."""
    return decode.op("Mul", objectness, classes, stem="scores/product")


def append_distances(decode: Decode, distances: str, points: NDArray[np.float64]) -> str:
    """Corners [1,N,4] from distances [1,N,4] to the left, top, right and bottom of points (N, 2), in one unit."""
    before, after = halves(decode, distances)
    return corners(decode, decode.constant("boxes/points", points.astype(np.float32)), before, after)


def append_expectation(decode: Decode, logits: str, bins: int) -> str:
    """Distances [1,N,4] in bins from logits [1,N,4*bins]: the mean of each side's distribution over 0..bins-1.

    Source: Li et al., "Generalized Focal Loss", arXiv:2006.04388.
    """
    sides = decode.op("Reshape", logits, decode.constant("boxes/sides", np.array([0, 0, 4, bins])), stem="boxes/bins")
    shares = decode.op("Softmax", sides, stem="boxes/distribution", axis=3)
    # Not a MatMul: TensorRT may compute those in TF32, whose ten bits of mantissa cost tenths of a pixel here.
    weighted = decode.op("Mul", shares, decode.constant("boxes/bin", np.arange(bins, dtype=np.float32)), stem="boxes/w")
    axis = decode.constant("boxes/last", np.array([3]))
    return decode.op("ReduceSum", weighted, axis, stem="boxes/expectation", keepdims=0)


def cells(input_wh: tuple[int, int], strides: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every cell of every map, row by row: (N, 2) column and row, (N, 1) stride. A map covers its last part of a
    stride with a cell of its own."""
    grids, steps = [], []
    for stride in strides:
        width, height = (-(-side // stride) for side in input_wh)
        rows, columns = np.mgrid[:height, :width].reshape(2, -1)
        grids.append(np.stack([columns, rows], axis=1).astype(np.float64))
        steps.append(np.full((width * height, 1), float(stride)))
    return np.concatenate(grids), np.concatenate(steps)


def halves(decode: Decode, boxes: str) -> tuple[str, str]:
    """Columns 0, 1 and columns 2, 3 of [1,N,4]."""
    widths = decode.constant("boxes/two_two", np.array([2, 2]))
    first, second = decode.node("Split", boxes, widths, stem="boxes/halves", outputs=2, axis=2)
    return first, second


def corners(decode: Decode, point: str, before: str, after: str | None = None) -> str:
    """[1,N,4] from points and what a box reaches before and after them (the same, where `after` is left out)."""
    low = decode.op("Sub", point, before, stem="boxes/top_left")
    high = decode.op("Add", point, before if after is None else after, stem="boxes/bottom_right")
    return decode.op("Concat", low, high, stem="boxes/xyxy", axis=2)

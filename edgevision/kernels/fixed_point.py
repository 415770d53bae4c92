"""The whole-number arithmetic of preprocess.cu, in numpy: bilinear taps, resize, NV12 to BGR, BGR to grey.

It is OpenCV's own for bytes (`cv2.resize` with INTER_LINEAR, `cv2.COLOR_YUV2BGR_NV12`, `cv2.COLOR_BGR2GRAY`), found out
by comparing every bit: weights in 1/2048, rounded to even; the sums of a row keep 7 fractional bits when the rows are
mixed; chroma is taken from the sample that four luma samples share; BT.601 in limited range with coefficients in
1/2^20; grey with BT.601's luma weights in 1/2^15.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgevision.geometry import Placement

_WHOLE = 2048  # weights of a pair sum to this
_NEXT = 1 << 15


def taps(placement: Placement) -> NDArray[np.uint32]:
    """The two cells that every content pixel mixes, per axis, packed for the device.

    Returns:
        (content w + content h,) uint32, columns then rows. Bits 0-14: the first cell; bit 15: the second is the next
        cell, otherwise the same; bits 16-27: the second's weight in 1/2048.
    """
    return np.concatenate([_axis_taps(placement, 0), _axis_taps(placement, 1)])


def _axis_taps(placement: Placement, axis: int) -> NDArray[np.uint32]:
    source, target = placement.source_wh[axis], placement.content_wh[axis]
    # OpenCV inverts the ratio twice and drops to float32 before it splits; so must who wants its bits.
    centre = ((np.arange(target) + 0.5) * (1.0 / (target / source)) - 0.5).astype(np.float32)
    cell = np.floor(centre)
    weight = np.rint((centre - cell) * np.float32(_WHOLE)).astype(np.int64)
    first = cell.astype(np.int64)
    last = source - 1
    if axis == 0 and last:
        # Beyond the border the nearest column counts alone. The last pair is used with its whole weight on the second
        # cell, so that a column's neighbour always exists.
        weight[first < 0], weight[first >= last] = 0, _WHOLE
        first = first.clip(0, last - 1)
        inside = np.full(target, True)
    else:
        # Rows keep their weights beyond the border, and mix the border row with itself: it rounds differently.
        if axis == 0:
            weight[:] = 0
        inside = (first >= 0) & (first < last)
        first = first.clip(0, last)
    # A cell that counts nothing need not be read: whole reductions touch only the rows they use.
    step = np.where(inside & (weight > 0), _NEXT, 0)
    packed: NDArray[np.uint32] = (first | step | weight << 16).astype(np.uint32)
    return packed


def resize(image: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    """The content of the network's input: what the kernel computes before it normalises.

    Args:
        image: (h, w, channels) uint8.
        placement: where it goes.

    Returns:
        (content h, content w, channels) uint8.
    """
    columns, rows = np.split(taps(placement).astype(np.int64), [placement.content_wh[0]])

    def cells(packed: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        first = packed & (_NEXT - 1)
        return first, first + (packed >> 15 & 1), packed >> 16

    left, right, x_weight = cells(columns)
    upper, lower, y_weight = cells(rows)
    pixels = image.astype(np.int64)
    x_weight, y_weight = x_weight[:, None], y_weight[:, None, None]
    mixed = (pixels[:, left] * (_WHOLE - x_weight) + pixels[:, right] * x_weight) >> 4
    total = (mixed[upper] * (_WHOLE - y_weight) >> 16) + (mixed[lower] * y_weight >> 16)
    return ((total + 2) >> 2).astype(np.uint8)


_OF_CHROMA = {"nv12": (2116026, 409993, 852492, 1673527), "nv12-709": (2215014, 223607, 558796, 1879825)}
"""What blue, green (less) and green (less), red get of Cb and Cr, in 1/2^20."""


def bgr_from_nv12(luma: NDArray[np.uint8], chroma: NDArray[np.uint8], pixel_format: str = "nv12") -> NDArray[np.uint8]:
    """A BGR picture from the planes of an NV12 one.

    Args:
        luma: (h, w) uint8.
        chroma: ((h + 1) // 2, (w + 1) // 2, 2) uint8, Cb and Cr.
        pixel_format: nv12 (BT.601) or nv12-709.

    Returns:
        (h, w, 3) uint8.
    """
    height, width = luma.shape
    shared = chroma.repeat(2, axis=0)[:height].repeat(2, axis=1)[:, :width].astype(np.int64) - 128
    u, v = shared[:, :, 0], shared[:, :, 1]
    level = np.maximum(luma.astype(np.int64) - 16, 0) * 1220542 + (1 << 19)
    blue, green_u, green_v, red = _OF_CHROMA[pixel_format]
    levels = np.stack([level + blue * u, level - green_v * v - green_u * u, level + red * v], axis=2) >> 20
    return levels.clip(0, 255).astype(np.uint8)


def grey_from_bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w, 1) uint8 from (h, w, 3) uint8 BGR."""
    total = image.astype(np.int64) @ np.array([3735, 19235, 9798]) + (1 << 14)
    grey: NDArray[np.uint8] = (total >> 15).astype(np.uint8)[:, :, None]
    return grey

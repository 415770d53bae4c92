"""Quantisation grids in numpy: scales that survive FP16, per-channel weights, biases in int32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import CalibrationError

FP16_MAX = 65504.0
_FINER = 0.9
# Sixteen of FP16's smallest steps: below it a rounded scale would be off by more than a sixteenth.
_LEAST_HALF_SCALE = 2.0**-20
_LEAST_SCALE = 2.0**-100

_CLIPPED = 1 - np.array([0, 0.004, 0.008, 0.012, 0.016, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3])
"""Shares of a channel's largest weight that its grid may end at."""

Floats = NDArray[np.float32]


class Range(Protocol):
    """What a calibrated tensor can tell; `edgevision.calibration.Histogram` is one."""

    def symmetric_limit(self, method: str) -> float:
        """Magnitude at the end of a symmetric grid."""
        ...

    def affine_range(self, method: str) -> tuple[float, float]:
        """Ends of an affine grid that contains zero."""
        ...


Ranges = Mapping[str, Range]


def range_of(ranges: Ranges, tensor: str) -> Range:
    """The range of `tensor`.

    Raises:
        CalibrationError: it was not calibrated.
    """
    if tensor not in ranges:
        raise CalibrationError(
            f"the range table has no tensor {tensor!r}, it belongs to another model; calibrate this one"
        )
    return ranges[tensor]


def half_scales(limits: NDArray[Any]) -> Floats:
    """Scales of symmetric int8 grids that reach `limits`, as FP16 values rounded up, never zero.

    Rounded up, so that the grid still reaches the limit; quantise with the returned value, not with limit / 127.

    Raises:
        CalibrationError: a limit is not finite, or so large that its scale overflows FP16.
    """
    exact = np.maximum(np.asarray(limits, np.float64) / 127, _LEAST_HALF_SCALE)
    if not (exact <= FP16_MAX).all():
        raise CalibrationError(
            f"a range of {np.max(limits)} has no FP16 scale: the network overflows on the calibration pictures; "
            "check the preprocessing (mean, std, colour order)"
        )
    rounded = exact.astype(np.float16)
    return np.where(rounded < exact, np.nextafter(rounded, np.float16(np.inf)), rounded).astype(np.float32)


def symmetric_grid(found: Range, method: str, *, centred: bool) -> tuple[np.float32, float]:
    """What to take off a tensor's values, as an FP16 value, and the largest magnitude on the grid then, code 127.

    Args:
        centred: the grid may lie around the middle of the range, and does where that makes its steps a tenth finer:
            behind ReLU or SiLU half the codes of one around zero stand for values that never come. The least value gets
            code -128, so that a picture's 256 levels are 256 codes.
    """
    limit = found.symmetric_limit(method)
    if centred:
        low, high = found.affine_range(method)
        step = (high - low) / 255
        with np.errstate(over="ignore"):  # an infinite one is no gain
            offset = np.float32(np.float16(low + 128 * step))
        step = max((high - float(offset)) / 127, (float(offset) - low) / 128)
        if 127 * step < _FINER * limit:
            return offset, 127 * step
    return np.float32(0), limit


def channel_limits(values: NDArray[Any], axis: int | None) -> Floats:
    """Largest magnitude per channel along `axis`, (channels,); over all for None, ()."""
    others = None if axis is None else tuple(i for i in range(values.ndim) if i != axis)
    return np.asarray(np.abs(values).max(axis=others), np.float32)


def channel_sums(values: NDArray[Any]) -> Floats:
    """What a constant 1 on all inputs of a convolution without padding adds to each output; `values`: its weights."""
    return np.asarray(values.sum(axis=tuple(range(1, values.ndim))), np.float32)


def weight_scales(values: NDArray[Any], axis: int | None, *, clip: bool = False) -> Floats:
    """Scales of int8 weights as FP16 values, one per channel along `axis`, or one in all for None.

    Args:
        clip: cut a channel's largest weights off where that makes its square error smaller; else reach them all.
    """
    limits = channel_limits(values, axis)
    if not clip or not values.size:
        return half_scales(limits)
    rows = values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).reshape(len(limits), -1)
    exact = rows.astype(np.float64)
    best, least = limits.ravel().copy(), np.full(len(rows), np.inf)
    for share in _CLIPPED:
        scales = half_scales(limits.ravel() * share)
        error = np.square(to_float(to_int8(exact, scales, 0), scales, 0) - rows).sum(axis=1)
        best, least = np.where(error < least, limits.ravel() * share, best), np.minimum(error, least)
    return half_scales(best.reshape(limits.shape))


def to_float(steps: NDArray[np.int8], scales: Floats, axis: int | None) -> Floats:
    """What int8 values stand for."""
    shape = [1] * steps.ndim
    if axis is not None:
        shape[axis] = -1
    values: Floats = steps.astype(np.float32) * scales.reshape(shape)
    return values


def to_int8(values: NDArray[Any], scales: Floats, axis: int | None) -> NDArray[np.int8]:
    """values / scales rounded half to even, in -127..127."""
    shape = [1] * values.ndim
    if axis is not None:
        shape[axis] = -1
    steps = np.rint(values.astype(np.float64) / scales.astype(np.float64).reshape(shape))
    return np.clip(steps, -127, 127).astype(np.int8)


def affine_grid(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of the uint8 grid from `low` to `high`; zero lies on it."""
    scale = np.float32(max((high - low) / 255, _LEAST_SCALE))
    return scale, np.uint8(min(max(round(-low / float(scale)), 0), 255))


def weight_scales_for_bias(limits: Floats, bias: Floats | None, input_scale: np.float32) -> Floats:
    """Scales of int8 weights, large enough that the bias fits int32 on the grid input_scale * scale.

    A dead channel has no weights to scale by but keeps its bias.
    """
    scales = np.maximum(np.asarray(limits, np.float64) / 127, _LEAST_SCALE)
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (float(input_scale) * 2.0**30))
    # Scales that vanish beside the input's would make the product subnormal.
    return np.maximum(scales, 2.0**-100 / float(input_scale)).astype(np.float32)

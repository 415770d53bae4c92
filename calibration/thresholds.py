"""How far an 8-bit grid should reach, from a histogram: min-max, percentile, entropy and mean square error.

Magnitude counts come as one row per sign: column c counts values with c * width <= |x| < (c + 1) * width; inside a bin
values are taken as spread evenly, but those of bin 0 as exactly zero (after a ReLU they are).

Sources: entropy: S. Migacz, "8-bit inference with TensorRT", GTC 2017; the zero bin is replaced by its neighbour as
NVIDIA's later calibrators do, because the zeros of a ReLU cost nothing on any grid. Mean square error: the integral of
the rounding and the clipping error, in closed form, with what is clipped counted CLIPPED times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

METHODS: Final = ("mse", "percentile", "entropy", "minmax")
PERCENTILE: Final = 0.9999
CLIPPED: Final = 4
"""How much more the square error beyond the end of a grid counts than that of rounding.

Roundings are independent of each other and average out in the sums of the layer behind. Clipped values lie next to
each other, all err towards zero, and are the ones that objects are made of: their errors add up where it matters. Of
1, 4 and 16 this lost least after the decode, on six detectors and pictures that had not been calibrated on.
"""
_SMALLEST: Final = 2.0**-100
_COARSE: Final[Floats] = 2.0 ** (-np.arange(49) / 4)
"""Shares of the full range tried first: down to 2**-12, the width of one bin."""
_NEAR: Final = 1.0
"""Octaves around where the search stands already."""
_CLOSER: Final = tuple(ratio ** np.linspace(1, -1, 16) for ratio in (2.0 ** (1 / 4), 2.0 ** (1 / 32)))
_KL_STRIDE: Final = 8
_FINE: Final = 128
"""Of larger bins the search for the least square error takes four as one: a step of the grid is wider."""


def symmetric(counts: Counts, width: float, limit: float, method: str) -> float:
    """Largest magnitude of a grid of 127 steps on each side of zero.

    Args:
        counts: (bins,), of |x|.
        width: of a bin.
        limit: the largest magnitude seen.
        method: one of METHODS.
    """
    if limit <= 0:
        return 1.0
    if method == "mse":
        error = SideError(counts, width, limit)
        limit = _minimise(lambda reach: error(reach / 127, 127), limit)
    else:
        limit = _reach(counts, width, limit, method, 128)
    return max(limit, _SMALLEST)


def affine(counts: Counts, width: float, minimum: float, maximum: float, method: str) -> tuple[float, float]:
    """Ends of a grid of 255 steps on which zero is a point.

    Args:
        counts: (2, bins), of positive and of negative values by magnitude.
        width: of a bin.
        minimum, maximum: of all values.
        method: one of METHODS.
    """
    low, high = max(-minimum, 0.0), max(maximum, 0.0)
    if max(low, high) <= 0:
        return 0.0, 1.0
    if method == "mse":
        low, high = _affine_mse(counts, width, low, high)
    elif method == "entropy" and low and high:  # one threshold for both sides, as the method is defined on |x|
        reach = _reach(counts.sum(axis=0), width, max(low, high), method, 128)
        low, high = min(low, reach), min(high, reach)
    else:
        low, high = (_reach(side, width, end, method, 256) for side, end in ((counts[1], low), (counts[0], high)))
    step, below = _grid(low, high)
    return -below * step, (255 - below) * step


def _grid(low: float, high: float) -> tuple[float, int]:
    """Step and zero point of the grid from about -low to about high with 0 on it."""
    exact = (low + high) / 255
    # Where values are too small for the grid, zero keeps its place: at an end for a tensor of one sign.
    return max(exact, _SMALLEST / 256), round(low / exact) if exact else 0


def _reach(counts: Counts, width: float, limit: float, method: str, levels: int) -> float:
    """The threshold on one row of counts by any method but mse."""
    if method == "minmax" or limit <= 0:
        return limit
    if method == "percentile":
        return _percentile(counts, width, limit)
    if method == "entropy":
        return _entropy(counts, width, limit, levels)
    raise ValueError(f"the calibration method is one of {METHODS}, got {method!r}")


def _percentile(counts: Counts, width: float, limit: float) -> float:
    """The magnitude that PERCENTILE of the values do not exceed; `limit` where that is zero."""
    below = np.cumsum(counts)
    wanted = PERCENTILE * below[-1]
    found = int(np.searchsorted(below, wanted))
    if found == 0:
        return limit
    share = (wanted - below[found - 1]) / counts[found]
    return min((found + float(share)) * width, limit)


def _entropy(counts: Counts, width: float, limit: float, levels: int) -> float:
    """The threshold whose `levels` quantised levels lose the least information (Kullback-Leibler divergence).

    A candidate i keeps bins 0..i-1; what lies above is added to the last one (reference), the kept bins are joined
    to `levels` levels and each level spread evenly over its non-empty bins (quantised). Sums over levels are
    differences of running sums, so a candidate costs O(levels) instead of O(bins).
    """
    reference = counts.astype(np.float64)
    reference[0] = reference[1]
    last = int(limit / width) + 1
    if last <= levels or not reference.any():
        return limit
    candidates = np.append(np.arange(levels, last, _KL_STRIDE), last)
    mass, filled = _running(reference), _running((reference > 0).astype(np.float64))
    information = _running(_xlogx(reference))
    total, kept = mass[-1], mass[candidates]
    outside, final = total - kept, reference[candidates - 1]

    starts = -(np.arange(levels + 1) * -candidates[:, None] // levels)
    level_mass = np.diff(mass[starts], axis=1)
    level_bins = np.diff(filled[starts], axis=1)
    level_bins[:, -1] += (final == 0) & (outside > 0)
    target = level_mass.copy()
    target[:, -1] += outside
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = np.where(target > 0, target * np.log(level_mass / level_bins), 0.0).sum(axis=1)
        entropy = information[candidates - 1] + _xlogx(final + outside)
        divergence = (entropy - cross) / total + np.log(kept / total)
    divergence[~np.isfinite(divergence)] = np.inf
    return min(float(candidates[np.argmin(divergence)]) * width, limit)


def _running(values: Floats) -> Floats:
    """Sums of the first 0, 1, 2, ... values."""
    return np.concatenate([np.zeros(1), np.cumsum(values)])


def _xlogx(values: Floats) -> Floats:
    return values * np.log(np.maximum(values, 1.0))  # counts: whole numbers


class SideError:
    """Total square error of quantising one side's values on a grid, clipping weighted, as a function of the grid.

    With n = min(round(x / step), steps) the nearest point of the grid, the integral of (x - n * step)**2 from 0 to x
    is n * step**3 / 12 + (x - n * step)**3 / 3: rounding below the last point, clipping beyond it, which counts CLIPPED
    times. A bin's mean error is a difference of two such integrals over its width.

    Args:
        counts: (bins,), by magnitude.
        width: of a bin.
        limit: the largest magnitude; the last bin ends there.
    """

    def __init__(self, counts: Counts, width: float, limit: float) -> None:
        last = int(np.flatnonzero(counts)[-1]) if counts.any() else 0
        ends = np.append(np.arange(1, min(last, _FINE)), np.arange(_FINE, last, 4))
        ends = np.append(ends, [last, last + 1] if last else [1])
        edges = ends * width
        if last:
            # A spike at the limit (ReLU6) leaves the last bin without width: keep enough to divide by.
            edges[-1] = min(max(limit, (last + 2.0**-16) * width), edges[-1])
        density = np.add.reduceat(counts[: last + 1], ends[:-1]) / np.diff(edges) if last else np.zeros(0)
        weights: Floats = np.concatenate([np.zeros(1), density]) - np.concatenate([density, np.zeros(1)])
        told = weights != 0
        self._edges, self._weights = edges[told], weights[told]

    def __call__(self, steps_size: Floats | float, steps: Floats | int) -> Floats:
        """Error for each step size (any shape) with that many `steps` from zero (broadcast)."""
        size, last = np.asarray(steps_size, np.float64), np.asarray(steps)[..., None]
        rest = self._edges / size[..., None]  # everything in steps: x - n * step
        clipped = rest > last
        nearest = rest + 0.5
        np.minimum(np.floor(nearest, out=nearest), last, out=nearest)
        rest -= nearest
        integral = rest * rest
        integral *= rest
        np.multiply(integral, CLIPPED, out=integral, where=clipped)
        nearest /= 4
        integral += nearest
        error: Floats = integral @ self._weights * (size**3 / 3)
        return error


def _minimise(error: Callable[[Floats], Floats], limit: float, start: float | None = None) -> float:
    """The reach in (0, limit] with the least error, never more than that of `start`, which is `limit` where none is
    given.

    A coarse scan by quarter octaves, near `start` if there is one, then twice 16 points closer around the best.
    """
    tried = _COARSE * limit
    if start is not None:
        tried = np.append(tried[np.abs(np.log2(tried / start)) <= _NEAR], start)
    for closer in _CLOSER:
        found = tried[np.argmin(error(tried))]
        tried = np.append(found, np.minimum(found * closer, limit))
    return float(tried[np.argmin(error(tried))])


def _affine_mse(counts: Counts, width: float, lowest: float, highest: float) -> tuple[float, float]:
    """Reaches below and above zero with the least square error: both cut at one magnitude, then one at a time."""
    above, below = SideError(counts[0], width, highest), SideError(counts[1], width, lowest)

    def error(low: Floats | float, high: Floats | float) -> Floats:
        size = np.maximum((low + high) / 255, _SMALLEST / 256)
        zero_point = np.round(low / size)
        return below(size, zero_point) + above(size, 255 - zero_point)

    def shared(reach: Floats) -> Floats:
        return error(np.minimum(reach, lowest), np.minimum(reach, highest))

    reach = _minimise(shared, max(lowest, highest))
    low, high = min(reach, lowest), min(reach, highest)
    for _ in range(2 if lowest and highest else 0):
        before = low, high
        high = _minimise(functools.partial(error, low), highest, high)
        low = _minimise(functools.partial(error, high=high), lowest, low)
        if (low, high) == before:
            break
    return low, high

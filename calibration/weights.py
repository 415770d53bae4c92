"""Scales of int8 weights by least square error, one per output channel: clipping may be worth the finer steps."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

STEPS: Final = 127
_LEAST_SCALE: Final = 2.0**-100
_BLOCK: Final = 1 << 16
_COARSE: Final = 2.0 ** (-np.arange(13) / 4)
"""Shares of a channel's largest magnitude tried first: down to an eighth."""

Floats = NDArray[np.float32]


def mse_scales(weights: Floats) -> Floats:
    """Scales with the least square error between the weights and their int8 values, -127..127 scales.

    A coarse scan by quarter octaves, then twice 16 points closer around each channel's best. The error is never more
    than that of the full range, max|w| / 127; a channel of zeros gets the smallest scale.

    Args:
        weights: (channels, ...), finite, not empty.

    Returns:
        float32 (channels,), positive.
    """
    rows = weights.reshape(weights.shape[0], -1)
    peaks = np.maximum(np.abs(rows).max(axis=1).astype(np.float64), _LEAST_SCALE * STEPS)
    step = max(1, _BLOCK // rows.shape[1])
    shares = [
        _best_shares(rows[i : i + step] / peaks[i : i + step, None].astype(np.float32))
        for i in range(0, len(rows), step)
    ]
    return np.asarray(np.concatenate(shares) * peaks / STEPS, np.float32)


def _best_shares(rows: Floats) -> NDArray[np.float64]:
    """The best share of the full range per row of weights in -1..1."""
    best, least = np.ones(len(rows)), np.full(len(rows), np.inf)
    work = np.empty_like(rows)

    def attempt(shares: NDArray[np.float64]) -> None:
        scales = (shares / STEPS).astype(np.float32)[:, None]
        np.multiply(rows, 1 / scales, out=work)
        np.rint(work, out=work)
        np.clip(work, -STEPS, STEPS, out=work)
        np.multiply(work, scales, out=work)
        np.subtract(work, rows, out=work)
        error = np.einsum("ij,ij->i", work, work)
        better = error < least
        best[better], least[better] = shares[better], error[better]

    for share in _COARSE:
        attempt(np.full(len(rows), share))
    ratio = 2.0**0.25
    for _ in range(2):
        around = best.copy()
        for exponent in np.linspace(1, -1, 16):
            attempt(np.minimum(around * ratio**exponent, 1.0))
        ratio **= 1 / 8
    return best

"""Weight scales against a brute force search in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgevision.calibration.weights import mse_scales


def error(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Mean square error per row."""
    exact, steps = rows.astype(np.float64), scales.astype(np.float64)[:, None]
    return ((np.clip(np.rint(exact / steps), -127, 127) * steps - exact) ** 2).mean(axis=1)


@pytest.mark.parametrize("count", [9, 64, 1152])
@pytest.mark.parametrize("kind", ["normal", "student"])
def test_the_search_finds_nearly_the_best_scale(kind: str, count: int) -> None:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((40, count)) if kind == "normal" else rng.standard_t(2, (40, count))
    rows = rows.astype(np.float32)
    peaks = np.abs(rows).max(axis=1)
    best = np.min([error(rows, share * peaks / 127) for share in np.geomspace(1 / 8, 1, 3000)], axis=0)
    found, full = error(rows, mse_scales(rows)), error(rows, peaks / 127)
    assert np.median(found / best) < (1.05 if count > 9 else 1.6)
    assert found.sum() < full.sum()


def test_a_lone_outlier_among_many_weights_is_clipped() -> None:
    row = np.random.default_rng(5).standard_normal((1, 100_000)).astype(np.float32)
    row[0, 0] = 30.0
    best = min(float(error(row, np.array([limit / 127]))[0]) for limit in np.linspace(5, 30, 101))
    assert mse_scales(row)[0] * 127 < 25
    assert error(row, mse_scales(row))[0] == pytest.approx(best, rel=0.01)


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_scales_are_positive_and_never_worse_than_the_full_range(weights: np.ndarray) -> None:
    scales = mse_scales(weights)
    assert scales.dtype == np.float32
    assert scales.shape == weights.shape[:1]
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    full = np.maximum(np.abs(rows).max(axis=1) / 127, 2.0**-100)
    assert (error(rows, scales) <= error(rows, full) * (1 + 1e-3) + (full * 1e-3) ** 2).all()


def test_channels_do_not_depend_on_their_neighbours() -> None:
    weights = np.random.default_rng(5).standard_t(3, (300, 40, 3, 3)).astype(np.float32)
    weights[7] = 0
    together = mse_scales(weights)
    assert np.array_equal(together, np.concatenate([mse_scales(part) for part in np.array_split(weights, 7)]))
    assert together[7] == 2.0**-100

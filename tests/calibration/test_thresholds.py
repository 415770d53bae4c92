"""Thresholds against brute force on the data itself, and against their published definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgevision.calibration import METHODS, Histogram
from edgevision.calibration.counting import SAMPLE, Counter
from edgevision.calibration.thresholds import CLIPPED, SideError


def histogram_of(values: np.ndarray) -> Histogram:
    histogram, counter = Histogram(), Counter()
    for part in np.array_split(values.astype(np.float32), values.size // SAMPLE + 1):
        counter.add(histogram, part)
    return histogram


def samples(kind: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    normal, count = rng.standard_normal(200_000), 200_000
    return {
        "relu": np.maximum(normal, 0),
        "silu": 2 * normal / (1 + np.exp(-2 * normal)),
        "laplace": rng.laplace(size=count),
        "student": rng.standard_t(3, count),
        "relu6": np.clip(4 * normal, 0, 6),
        "shifted": normal + 1.5,
        "outlier": np.append(rng.laplace(size=count), 60.0),
    }[kind].astype(np.float32)


KINDS = ("relu", "silu", "laplace", "student", "relu6", "shifted", "outlier")


def symmetric_error(values: np.ndarray, limit: float) -> float:
    step, exact = limit / 127, values.astype(np.float64)
    return weighted(exact - np.clip(np.rint(exact / step), -127, 127) * step, np.abs(exact) > limit)


def affine_error(values: np.ndarray, low: float, high: float) -> float:
    step, exact = (high - low) / 255, values.astype(np.float64)
    zero = round(-low / step)
    error = exact - (np.clip(np.rint(exact / step) + zero, 0, 255) - zero) * step
    return weighted(error, (exact < -zero * step) | (exact > (255 - zero) * step))


def weighted(error: np.ndarray, clipped: np.ndarray) -> float:
    """The mean square error, where a clipped value counts several times."""
    return float((error**2 * np.where(clipped, CLIPPED, 1)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_mse_finds_what_a_brute_force_search_on_the_data_finds(kind: str) -> None:
    values = samples(kind)
    peak = float(np.abs(values).max())
    best = min(symmetric_error(values, peak * share) for share in np.geomspace(1 / 32, 1, 150))
    assert symmetric_error(values, histogram_of(values).symmetric_limit("mse")) <= best * 1.01


@pytest.mark.parametrize("kind", KINDS)
def test_affine_mse_finds_what_a_brute_force_search_on_the_data_finds(kind: str) -> None:
    values = samples(kind)[::4]
    low, high = min(float(values.min()), 0.0), float(values.max())
    shares = np.geomspace(1 / 8, 1, 24)
    best = min(affine_error(values, low * a, high * b) for a in (shares if low else [1]) for b in shares)
    assert affine_error(values, *histogram_of(values).affine_range("mse")) <= best * 1.02


@given(
    hnp.arrays(np.int64, 40, elements=st.integers(0, 50)),
    st.integers(-20, 20),
    st.floats(0.02, 1.5),
    st.sampled_from([127, 255, 60]),
)
def test_the_error_is_the_integral_over_the_bins(counts: np.ndarray, exponent: int, share: float, steps: int) -> None:
    """Against the mean over many points inside each bin; bin 0 holds zeros."""
    width = 2.0**exponent
    limit = (int(np.flatnonzero(counts)[-1]) + 1) * width if counts.any() else 0.0
    size = share * 40 * width / steps
    inside = (np.arange(1, 40)[:, None] + (np.arange(2000) + 0.5) / 2000) * width
    brute = (inside - np.minimum(np.rint(inside / size), steps) * size) ** 2
    brute *= np.where(inside > steps * size, CLIPPED, 1)
    expected = float((counts[1:] * brute.mean(axis=1)).sum())
    assert float(SideError(counts, width, limit)(size, steps)) == pytest.approx(expected, rel=2e-3, abs=1e-9 * width**2)


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_never_worse_than_minmax_by_its_own_measure(kind: str) -> None:
    histogram = histogram_of(samples(kind))
    error = SideError(histogram.counts.sum(axis=0), histogram.width, histogram.limit)
    assert error(histogram.symmetric_limit("mse") / 127, 127) <= error(histogram.limit / 127, 127)


def test_a_spike_at_the_limit_stays_inside() -> None:
    """ReLU6: a third of all values are exactly 6."""
    histogram = histogram_of(np.clip(samples("shifted") * 4, 0, 6))
    assert histogram.symmetric_limit("mse") == 6.0
    assert histogram.affine_range("mse") == (0.0, 6.0)


@pytest.mark.parametrize("values", [samples("relu"), np.abs(samples("laplace")) + 3])
def test_percentile_is_numpys_to_a_bin(values: np.ndarray) -> None:
    histogram = histogram_of(values)
    expected = np.percentile(values.astype(np.float64), 99.99, method="inverted_cdf")
    assert abs(histogram.symmetric_limit("percentile") - expected) <= histogram.width
    assert abs(histogram.affine_range("percentile")[1] - expected) <= histogram.width


def test_percentile_cuts_each_tail_of_a_signed_tensor() -> None:
    values = samples("silu")
    histogram = histogram_of(values)
    low, high = histogram.affine_range("percentile")
    negative = -values[values < 0].astype(np.float64)
    assert high == pytest.approx(np.percentile(values[values >= 0], 99.99), rel=0.02)
    assert -low == pytest.approx(np.percentile(negative, 99.99), abs=(high - low) / 255)


def test_percentile_keeps_the_range_of_a_tensor_that_is_nearly_always_zero() -> None:
    values = np.zeros(1_000_000, np.float32)
    values[:20] = 5.0
    assert histogram_of(values).symmetric_limit("percentile") == 5.0


def test_entropy_cuts_off_a_lone_outlier() -> None:
    limit = histogram_of(samples("outlier")).symmetric_limit("entropy")
    assert 8 < limit < 16


@pytest.mark.parametrize("kind", ["relu", "laplace", "student", "outlier"])
def test_entropy_is_the_published_divergence_written_out(kind: str) -> None:
    """Migacz, GTC 2017: clip, join to 128 levels, spread over non-empty bins, compare."""
    histogram = histogram_of(samples(kind))
    counts = histogram.counts.sum(axis=0).astype(np.float64)
    counts[0] = counts[1]
    last = int(histogram.limit / histogram.width) + 1

    def divergence(kept: int) -> float:
        reference = counts[:kept].copy()
        reference[-1] += counts[kept:].sum()
        level = np.arange(kept) * 128 // kept
        filled = reference > 0
        mass, bins = np.bincount(level, counts[:kept], 128), np.bincount(level, filled, 128)
        quantised = np.where(filled, (mass / np.maximum(bins, 1))[level], 0.0)
        if (quantised[filled] == 0).any():
            return math.inf
        p, q = reference[filled] / reference.sum(), quantised[filled] / quantised.sum()
        return float((p * np.log(p / q)).sum())

    chosen = histogram.symmetric_limit("entropy") / histogram.width
    candidates = {kept: divergence(kept) for kept in [*range(128, last, 8), last]}
    best = min(candidates, key=lambda kept: candidates[kept])
    assert min(best, histogram.limit / histogram.width) == pytest.approx(chosen)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-6, 1.0, 1e6, 5e37])
def test_any_scale_gives_a_finite_positive_grid(method: str, scale: float) -> None:
    values = (samples("shifted").astype(np.float64) * scale).astype(np.float32)
    histogram = histogram_of(values)
    limit = histogram.symmetric_limit(method)
    low, high = histogram.affine_range(method)
    step, affine_step = np.float32(limit / 127), np.float32((high - low) / 255)
    assert np.isfinite(step)
    assert step > 0
    assert np.isfinite(affine_step)
    assert affine_step > 0
    if scale > 1e-29:  # below, the grid cannot be as fine as the values
        assert limit <= histogram.limit
        assert symmetric_error(values, limit) < np.var(values.astype(np.float64)) / 100


@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    st.sampled_from(METHODS),
)
@example(np.array([-1.1754944e-38], np.float32), "mse")
def test_grids_are_positive_and_have_zero_on_them(values: np.ndarray, method: str) -> None:
    histogram = histogram_of(values)
    assert 0 < histogram.symmetric_limit(method) < math.inf
    low, high = histogram.affine_range(method)
    assert low <= 0 <= high
    step = (high - low) / 255
    assert step > 0
    zero = -low / step
    assert abs(zero - round(zero)) < 1e-6
    assert 0 <= round(zero) <= 255
    if values.min() >= 0:
        assert low == 0
    if values.max() <= 0 and values.min() < 0:
        assert high == pytest.approx(0, abs=1e-9 * step)


@pytest.mark.parametrize("method", METHODS)
def test_special_tensors(method: str) -> None:
    dead, constant, negative = (histogram_of(np.full(500, x, np.float32)) for x in (0.0, 3.3, -3.3))
    assert dead.symmetric_limit(method) == 1.0
    assert dead.affine_range(method) == (0.0, 1.0)
    assert constant.symmetric_limit(method) == pytest.approx(3.3)
    assert constant.affine_range(method) == pytest.approx((0.0, 3.3))
    assert negative.symmetric_limit(method) == pytest.approx(3.3)
    assert negative.affine_range(method) == pytest.approx((-3.3, 0.0))


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="median"):
        histogram_of(samples("relu")).symmetric_limit("median")

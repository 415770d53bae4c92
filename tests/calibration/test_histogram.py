"""A histogram is what numpy counts on the same edges, for any order and any split of the values."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from random import Random
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgevision.calibration.counting import Counter
from edgevision.calibration.histogram import BINS, LOWEST, Histogram, coarsen

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
arrays = hnp.arrays(np.float32, st.integers(1, 300), elements=finite)


def histogram_of(*batches: np.ndarray) -> Histogram:
    histogram, counter = Histogram(), Counter()
    for batch in batches:
        counter.add(histogram, np.ascontiguousarray(batch, np.float32))
    return histogram


def same(a: Histogram, b: Histogram) -> bool:
    return (
        np.array_equal(a.counts, b.counts)
        and (a.exponent, a.minimum, a.maximum) == (b.exponent, b.minimum, b.maximum)
        and np.signbit(a.minimum) == np.signbit(b.minimum)
    )


def reference(values: np.ndarray, width: float) -> np.ndarray:
    """Counts by numpy in double precision."""
    bins = np.trunc(values.astype(np.float64) / width).astype(np.int64)
    counts = np.zeros((2, BINS), np.int64)
    np.add.at(counts, ((bins < 0).astype(int), np.abs(bins)), 1)
    return counts


@given(arrays)
def test_counts_minimum_and_maximum_are_numpys(values: np.ndarray) -> None:
    histogram = histogram_of(values)
    assert np.array_equal(histogram.counts, reference(values, histogram.width))
    assert histogram.total == values.size
    assert (histogram.minimum, histogram.maximum) == (values.min(), values.max())


@given(arrays)
def test_the_larger_side_uses_the_upper_half_of_its_bins(values: np.ndarray) -> None:
    histogram = histogram_of(values)
    assert histogram.limit < BINS * histogram.width
    assert histogram.exponent == LOWEST or histogram.limit >= BINS // 2 * histogram.width


def test_positive_counts_are_those_of_numpy_histogram_on_the_same_edges() -> None:
    values = np.random.default_rng(0).exponential(size=50_000).astype(np.float32)
    histogram = histogram_of(values)
    edges = np.arange(BINS + 1) * histogram.width
    assert np.array_equal(histogram.counts[0], np.histogram(values, edges)[0])


@given(st.lists(arrays, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_order_does_not_matter(batches: list[np.ndarray], random: Random) -> None:
    shuffled = list(batches)
    random.shuffle(shuffled)
    assert same(histogram_of(*batches), histogram_of(*shuffled))


@given(st.lists(arrays, min_size=1, max_size=6), st.integers(0, 6))
def test_any_split_between_workers_merges_to_the_same(batches: list[np.ndarray], split: int) -> None:
    one, other = histogram_of(*batches[:split]), histogram_of(*batches[split:])
    untouched = histogram_of(*batches[split:])
    one.merge(other)
    assert same(one, histogram_of(*batches))
    assert same(other, untouched)


@given(arrays, st.integers(0, 14))
def test_coarser_bins_hold_the_counts_of_counting_anew(values: np.ndarray, steps: int) -> None:
    histogram = histogram_of(values)
    expected = reference(values, histogram.width * 2.0**steps)
    assert np.array_equal(coarsen(histogram.counts, steps), expected)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("size", [100, 8191, 8192, 60_000])
def test_every_way_of_counting_agrees_with_numpy(size: int, signed: bool) -> None:
    rng = np.random.default_rng(size)
    values = rng.standard_normal(size).astype(np.float32) * np.linspace(1e-3, 30, size, dtype=np.float32)
    values[rng.random(size) < 0.4] = 0.0
    if not signed:
        values = np.abs(values)
    histogram = histogram_of(values)
    assert np.array_equal(histogram.counts, reference(values, histogram.width))


def test_a_range_that_grows_inside_one_array_moves_what_was_counted() -> None:
    values = (2.0 ** (np.arange(260_000) / 10_000)).astype(np.float32)
    values[1::2] *= -1
    histogram = histogram_of(values[:131_000], values[131_000:])
    assert np.array_equal(histogram.counts, reference(values, histogram.width))


def test_zeros_before_the_first_value_do_not_fix_the_width() -> None:
    zeros, tiny = np.zeros(10, np.float32), np.full(10, 1e-6, np.float32)
    assert same(histogram_of(zeros, tiny), histogram_of(tiny, zeros))
    assert histogram_of(zeros, tiny).limit >= BINS // 2 * histogram_of(zeros, tiny).width


def test_negative_zero_leaves_no_trace() -> None:
    assert same(histogram_of(np.array([-0.0]), np.array([0.0])), histogram_of(np.array([0.0]), np.array([-0.0])))


@pytest.mark.parametrize("method", ["mse", "minmax"])
def test_ends_that_were_asked_for_once_follow_values_that_come_later(method: str) -> None:
    early, late = np.linspace(-1, 1, 1000, dtype=np.float32), np.linspace(-1, 0.5, 10_000, dtype=np.float32)
    histogram, counter = histogram_of(early), Counter()
    before = histogram.symmetric_limit(method), histogram.affine_range(method)
    assert (histogram.symmetric_limit(method), histogram.affine_range(method)) == before
    counter.add(histogram, late)
    histogram.merge(histogram_of(np.float32([4.0])))
    together = histogram_of(early, late, np.float32([4.0]))
    assert histogram.symmetric_limit(method) == together.symmetric_limit(method) != before[0]
    assert histogram.affine_range(method) == together.affine_range(method) != before[1]


def test_threads_may_ask_for_ends_at_once() -> None:
    values = np.linspace(-1, 3, 1000, dtype=np.float32)
    expected = histogram_of(values).affine_range("minmax")
    together = Barrier(8)

    def ask(histogram: Histogram) -> tuple[float, float]:
        together.wait(10)
        return histogram.affine_range("minmax")

    with ThreadPoolExecutor(8) as pool:
        for _ in range(100):
            histogram = histogram_of(values)
            assert set(pool.map(ask, [histogram] * 8)) == {expected}

"""Large maps are counted in part, their range is not; what is not finite is refused."""

from __future__ import annotations

import numpy as np
import pytest

from edgevision.calibration.counting import BLOCK, SAMPLE, Counter
from edgevision.calibration.histogram import Histogram

LARGE = 5 * SAMPLE + 1234


@pytest.fixture
def large() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(LARGE).astype(np.float32)


def test_maps_up_to_twice_the_sample_are_counted_whole() -> None:
    histogram = Histogram()
    Counter().add(histogram, np.ones(2 * SAMPLE - 1, np.float32))
    assert histogram.total == 2 * SAMPLE - 1


@pytest.mark.parametrize("phase", [0, 3, 10**30 + 2])
def test_of_a_larger_map_one_block_in_each_group_is_counted(large: np.ndarray, phase: int) -> None:
    every, first = LARGE // SAMPLE, phase % (LARGE // SAMPLE)
    blocks = large[: LARGE // (every * BLOCK) * every * BLOCK].reshape(-1, every, BLOCK)
    sampled, expected = Histogram(), Histogram()
    Counter().add(sampled, large, phase)
    expected.extend(float(large.min()), float(large.max()))
    Counter().add(expected, np.ascontiguousarray(blocks[:, first]).reshape(-1)[:SAMPLE])
    Counter().add(expected, np.ascontiguousarray(blocks[:, first]).reshape(-1)[SAMPLE:])
    assert np.array_equal(sampled.counts, expected.counts)


def test_fewer_values_are_counted_where_the_caller_asks_for_fewer(large: np.ndarray) -> None:
    for sample in (SAMPLE, SAMPLE // 3, 1 << 13):
        histogram = Histogram()
        Counter(sample).add(histogram, large)
        assert sample * 0.9 < histogram.total < 2 * sample
        assert (histogram.minimum, histogram.maximum) == (large.min(), large.max())


def test_minimum_and_maximum_see_every_value_of_a_larger_map(large: np.ndarray) -> None:
    counter = Counter()
    for place in (0, BLOCK, LARGE // 2, LARGE - 1):
        values = large.copy()
        values[place], values[place - 1] = 1e6, -2e6
        histogram = Histogram()
        assert counter.add(histogram, values) == (-2e6, 1e6)
        assert (histogram.minimum, histogram.maximum) == (-2e6, 1e6)


@pytest.mark.parametrize("method", ["mse", "percentile", "entropy"])
def test_thresholds_of_a_sampled_map_are_those_of_the_whole(method: str) -> None:
    """Feature maps are alike along their blocks; noise that is not makes this the harder case."""
    rng = np.random.default_rng(1)
    sampled, whole, counter = Histogram(), Histogram(), Counter()
    for picture in range(8):
        values = np.maximum(rng.standard_normal(LARGE), 0).astype(np.float32)
        counter.add(sampled, values, picture)
        for part in np.array_split(values, 8):
            counter.add(whole, np.ascontiguousarray(part))
    assert whole.total > 4 * sampled.total
    assert sampled.symmetric_limit(method) == pytest.approx(whole.symmetric_limit(method), rel=0.05)
    assert sampled.affine_range(method)[1] == pytest.approx(whole.affine_range(method)[1], rel=0.05)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, LARGE // 2, LARGE - 1])
def test_one_value_that_is_not_finite_is_found_wherever_it_lies(large: np.ndarray, bad: float, place: int) -> None:
    counter = Counter()
    values = large.copy()
    values[place] = bad
    with pytest.raises(ValueError, match="not finite"):
        counter.add(Histogram(), values)
    after, fresh = Histogram(), Histogram()
    counter.add(after, large)
    Counter().add(fresh, large)
    assert np.array_equal(after.counts, fresh.counts)


def test_an_empty_tensor_has_no_range() -> None:
    histogram = Histogram()
    Counter().add(histogram, np.empty((0, 4), np.float32))
    assert (histogram.total, histogram.limit) == (0, 0.0)

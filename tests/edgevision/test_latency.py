"""Latency histograms: percentiles within one percent, in fixed memory."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.latency import PERCENTILES, Histogram

pytestmark = pytest.mark.smoke
durations = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=300)


def filled(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(durations, st.floats(0, 100))
def test_a_percentile_is_within_one_percent_of_the_nearest_rank(values: list[float], percent: float) -> None:
    # numpy's "inverted_cdf" is the nearest-rank definition.
    exact = float(np.percentile(values, percent, method="inverted_cdf"))
    assert filled(values).percentile(percent) == pytest.approx(exact, rel=0.01)


@given(durations)
def test_extremes_mean_and_count_are_exact(values: list[float]) -> None:
    histogram = filled(values)
    assert histogram.count == len(values)
    assert histogram.percentile(100) == pytest.approx(max(values), rel=0.01)
    assert histogram.summary()["max"] == round(max(values), 4)
    assert histogram.mean == pytest.approx(math.fsum(values) / len(values))


@given(durations, durations)
def test_merging_equals_recording_everything_in_one(first: list[float], second: list[float]) -> None:
    merged, whole = filled(first).merge([filled(second)]), filled(first + second)
    assert merged.summary() == whole.summary()
    assert merged.count == whole.count


def test_the_summary_has_the_keys_that_tools_rely_on() -> None:
    assert list(filled([1.0]).summary()) == [*PERCENTILES, "max"]
    assert filled([]).summary() == dict.fromkeys([*PERCENTILES, "max"], 0.0)


def test_a_thousandth_is_told_from_a_hundredth() -> None:
    summary = filled([1.0] * 990 + [10.0] * 9 + [100.0]).summary()
    assert summary["p50"] == pytest.approx(1.0, rel=0.01)
    assert summary["p99"] == pytest.approx(1.0, rel=0.01)
    assert summary["p999"] == pytest.approx(10.0, rel=0.01)
    assert summary["max"] == 100.0


def test_nothing_is_out_of_range() -> None:
    histogram = filled([-1.0, 0.0, 1e-9, 1e12])
    assert histogram.count == 4
    assert histogram.percentile(1) == pytest.approx(0.0, abs=2e-3)  # nothing below a microsecond is told apart
    assert histogram.summary()["max"] == 1e12


def test_memory_does_not_grow_with_the_number_of_records() -> None:
    histogram = filled([1.0])
    before = sys.getsizeof(histogram._counts)
    for i in range(20_000):
        histogram.record(i * 0.1)
    assert sys.getsizeof(histogram._counts) == before < 10_000

"""Loads: how queries are counted, timed and summed up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgevision
from edgevision.bundle import write_bundle
from edgevision.loadgen import SAMPLES_PER_QUERY, Query, compare_speed, measure, run_scenario, statistics
from edgevision.manifest import GraphInfo
from edgevision.model import Model
from tests.tiny_models import colour_detector, detector_bundle, detector_manifest

PICTURES = list(np.random.default_rng(0).integers(0, 256, (3, 90, 160, 3), np.uint8))


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    with edgevision.load(detector_bundle(tmp_path / "tiny.edge")) as opened:
        yield opened


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=300))
def test_percentiles_are_values_that_occurred(values: list[float]) -> None:
    got = statistics(values)
    ranked = sorted(values)
    for key, percent in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99), ("p999", 99.9)):
        # Nearest rank: the smallest value that so many percent of all do not exceed.
        reached = next(v for i, v in enumerate(ranked, 1) if 100 * i >= percent * len(ranked) * (1 - 1e-12))
        assert got[key] == pytest.approx(reached, abs=5e-5)
    assert got["mean"] == pytest.approx(np.mean(values), abs=5e-5)
    assert (got["min"], got["max"]) == pytest.approx((ranked[0], ranked[-1]), abs=5e-5)


def test_a_measurement_lasts_its_time_after_warming_up() -> None:
    asked: list[int] = []

    def query(number: int) -> dict[str, float]:
        asked.append(number)
        time.sleep(0.0005)
        return {"total": float(number)}

    start = time.perf_counter()
    samples = measure(query, 0.3, "", quiet=True)
    assert time.perf_counter() - start >= 0.6  # warming up takes as long
    assert samples.seconds >= 0.3
    assert len(samples) >= 100
    # Queries are numbered without gaps, and the first ones are not counted.
    assert asked == list(range(len(asked)))
    assert samples.stages["total"] == [float(n) for n in asked[-len(samples) :]]
    assert len(asked) > len(samples)


def sleepy(seconds: float) -> Query:
    def query(number: int) -> dict[str, float]:
        time.sleep(seconds)
        return {"total": seconds * 1e3}

    return query


def test_a_slow_model_is_measured_longer_but_not_for_ever() -> None:
    longer = measure(sleepy(0.003), 0.2, "", quiet=True)
    assert len(longer) >= 100
    assert longer.seconds > 0.2  # longer than asked, for the sake of the percentiles
    given_up = measure(sleepy(0.01), 0.02, "", quiet=True)
    assert len(given_up) < 100
    assert given_up.seconds >= 0.2  # ten times what was asked


def test_a_measurement_can_be_stopped() -> None:
    stop = threading.Event()

    def query(number: int) -> dict[str, float]:
        if number == 50:
            stop.set()
        return {"total": 1.0}

    measure(query, 3600.0, "", quiet=True, stop=stop)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "offline"])
def test_closed_loops_report_rate_and_latency(model: Model, scenario: str, threads: int) -> None:
    got = run_scenario(model, scenario, PICTURES, 0.1, threads=threads)
    pictures = got["count"] * (SAMPLES_PER_QUERY if scenario == "multi-stream" else 1)
    # With n lanes at work, n queries' times pass in one second.
    parallel = got["lanes"] if scenario == "offline" else 1
    busy_s = got["count"] * got["latency_ms"]["mean"] / 1e3 / parallel
    assert got["fps"] == pytest.approx(pictures / busy_s, rel=0.5)
    assert got["threads"] == threads
    latency = got["latency_ms"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["max"]
    if scenario != "multi-stream":
        assert set(got["stages_ms"]) == {"preprocess", "inference", "postprocess"}
        assert sum(stage["mean"] for stage in got["stages_ms"].values()) <= latency["mean"]


def test_the_pipeline_scenario_runs_live_cameras(model: Model) -> None:
    got = run_scenario(model, "pipeline", PICTURES, 0.7, sources=2)
    assert len(got["sources"]) == 2
    assert got["frames"]["processed"] == got["count"] > 0
    # 30 frames/s each, whatever the model could do.
    assert got["fps"] < 70
    assert got["age_ms"]["p50"] > 0
    assert not [thread for thread in threading.enumerate() if "edgevision" in thread.name]


def test_float_and_int8_take_turns(tmp_path: Path) -> None:
    infos = {"model.onnx": GraphInfo("fp32"), "cpu.onnx": GraphInfo("int8")}
    write_bundle(tmp_path / "a.edge", detector_manifest(graphs=infos), dict.fromkeys(infos, colour_detector()))
    with (
        edgevision.load(tmp_path / "a.edge", precision="fp32") as plain,
        edgevision.load(tmp_path / "a.edge", precision="int8") as quantised,
    ):
        got = compare_speed(plain, quantised, PICTURES, 0.3)
    assert (got["float"]["graph"], got["int8"]["graph"]) == ("model.onnx", "cpu.onnx")
    assert got["count"] > 0
    for stage in ("inference", "total"):
        ratio = got["speedup"][stage]
        assert 0 < ratio["p25"] <= ratio["median"] <= ratio["p75"]
    for side in ("float", "int8"):
        assert set(got[side]["stages_ms"]) == {"preprocess", "inference", "postprocess"}


def test_the_speedup_is_that_of_the_pairs() -> None:
    class Fake:
        """A model whose every query takes a known time."""

        graph_name = "fake.onnx"
        manifest = detector_manifest()
        timing_ms: dict[str, float]

        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def open_lane(self, threads: int) -> Fake:
            return self

        def __call__(self, picture: np.ndarray) -> None:
            time.sleep(self.seconds)
            self.timing_ms = {"inference": self.seconds * 1e3}

        def close(self) -> None:
            pass

    got = compare_speed(Fake(0.003), Fake(0.001), PICTURES, 0.05)  # type: ignore[arg-type]
    assert got["speedup"]["inference"] == {"p25": 3.0, "median": 3.0, "p75": 3.0}
    assert got["float"]["stages_ms"]["inference"]["p50"] == 3.0
    assert got["int8"]["stages_ms"]["inference"]["p50"] == 1.0

"""Loads for a model, in the shapes of MLPerf's LoadGen, and what they measure.

| scenario | a query is | tells |
|---|---|---|
| single-stream | one picture, the next when it is done | latency percentiles |
| multi-stream | 8 pictures at once | the latency of the slowest of 8 |
| offline | one picture on every core, without end | throughput |
| pipeline | what cameras deliver, newest frame first | frames/s, age of results, drops |

Source of the shapes: MLPerf Inference, loadgen/mlperf.conf. Nothing is rendered or read from disk while the clock runs.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.frame import Frame
from edgevision.machine import cores
from edgevision.model import AnyLane, Model
from edgevision.pipeline import run_pipeline
from edgevision.progress import Progress
from edgevision.sources.base import LIVE, ClosesOnExit, SourceStatus

SCENARIOS = ("single-stream", "multi-stream", "offline", "pipeline")
SAMPLES_PER_QUERY = 8
_MIN_QUERIES = 100
_PATIENCE = 10  # times the asked duration, for slow models to reach the least number of queries
_WARM_UP_S = 1.0
_PICTURES, _SIZE_WH, _CAMERA_FPS = 8, (1280, 720), 30.0
_PERCENTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9}

Query = Callable[[int], dict[str, float]]
"""Does query number i and returns the milliseconds of its stages, `total` among them."""


@dataclass
class Samples:
    """Milliseconds of every query, by stage, and the seconds that all took."""

    stages: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.stages.get("total", ()))

    def add(self, timing_ms: dict[str, float]) -> None:
        for stage, value in timing_ms.items():
            self.stages.setdefault(stage, []).append(value)


Pictures = Sequence[NDArray[np.uint8]]


def run_scenario(
    model: Model,
    scenario: str,
    pictures: Pictures,
    duration_s: float,
    *,
    threads: int | None = None,
    sources: int = 1,
    quiet: bool = True,
) -> dict[str, Any]:
    """Measure one scenario for at least `duration_s`.

    Args:
        pictures: (h, w, 3) uint8 BGR, shown in turn.
        threads: cores that one inference uses; None: all for single-stream, otherwise one.
        sources: cameras of `pipeline`.

    Returns:
        `count` (queries), `fps` (pictures per second) and `latency_ms`, `stages_ms`, `jitter_ms` (of queries); for
        `pipeline` the run's report instead.
    """
    if scenario == "pipeline":
        return _pipeline(model, pictures, duration_s, sources)
    threads = threads or (cores() if scenario == "single-stream" else 1)
    lanes = 1 if scenario == "single-stream" else model.lanes(threads)
    label = f"{scenario}, {model.manifest.name}, {model.graph_name}"
    with ExitStack() as stack:
        opened = [model.open_lane(threads) for _ in range(lanes)]
        for lane in opened:
            stack.callback(lane.close)
        if scenario == "multi-stream":
            pool = stack.enter_context(ThreadPoolExecutor(lanes, "bench"))
            samples = measure(_batch_query(opened, pictures, pool), duration_s, label, quiet)
        elif scenario == "offline":
            samples = _side_by_side([lane_query(lane, pictures) for lane in opened], duration_s, label, quiet)
        else:
            samples = measure(lane_query(opened[0], pictures), duration_s, label, quiet)
    per_query = SAMPLES_PER_QUERY if scenario == "multi-stream" else 1
    totals = samples.stages["total"]
    return {
        "lanes": lanes,
        "threads": threads,
        "count": len(samples),
        "fps": round(per_query * len(samples) / samples.seconds, 3),
        "latency_ms": statistics(totals),
        "stages_ms": {stage: statistics(values) for stage, values in samples.stages.items() if stage != "total"},
        "jitter_ms": statistics(np.abs(np.diff(totals)).tolist()),
    }


def measure(query: Query, duration_s: float, label: str, quiet: bool, stop: threading.Event | None = None) -> Samples:
    """Warm up, then query one after another for `duration_s` and at least _MIN_QUERIES times (while that takes no
    longer than _PATIENCE durations), or until `stop` is set."""
    stop = stop or threading.Event()
    numbers = itertools.count()
    started = time.perf_counter()
    for number in numbers:
        query(number)
        warmed = time.perf_counter() - started
        if stop.is_set() or (number >= 2 and warmed > min(_WARM_UP_S, duration_s)):
            break
    expected = max(_MIN_QUERIES, int(duration_s / warmed * (number + 1)))
    samples = Samples()
    with Progress(label, expected, quiet=quiet) as progress:
        started = time.perf_counter()
        while not stop.is_set():
            if samples.seconds >= (duration_s if len(samples) >= _MIN_QUERIES else _PATIENCE * duration_s):
                break
            samples.add(query(next(numbers)))
            samples.seconds = time.perf_counter() - started
            progress.update()
    return samples


def lane_query(lane: AnyLane, pictures: Pictures) -> Query:
    """One picture through one lane."""

    def query(number: int) -> dict[str, float]:
        start = time.perf_counter()
        lane(pictures[number % len(pictures)])
        return {"total": (time.perf_counter() - start) * 1e3, **lane.timing_ms}

    return query


def _batch_query(lanes: Sequence[AnyLane], pictures: Pictures, pool: ThreadPoolExecutor) -> Query:
    """SAMPLES_PER_QUERY pictures over all lanes; done when the last one is."""

    def work(lane: AnyLane, numbers: Iterator[int], lock: threading.Lock) -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            lane(pictures[number % len(pictures)])

    def query(number: int) -> dict[str, float]:
        first = number * SAMPLES_PER_QUERY
        numbers, lock = iter(range(first, first + SAMPLES_PER_QUERY)), threading.Lock()
        start = time.perf_counter()
        for future in [pool.submit(work, lane, numbers, lock) for lane in lanes]:
            future.result()
        return {"total": (time.perf_counter() - start) * 1e3}

    return query


def _side_by_side(queries: Sequence[Query], duration_s: float, label: str, quiet: bool) -> Samples:
    """All queries' loops at once, each in its thread; their samples together."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(queries), "bench") as pool:
        futures = [pool.submit(measure, q, duration_s, label, quiet or i > 0, stop) for i, q in enumerate(queries)]
        try:
            parts = [future.result() for future in futures]
        finally:  # after an error or Ctrl-C the others end with the query they are at
            stop.set()
    together = Samples(seconds=max(part.seconds for part in parts))
    for part in parts:
        for stage, values in part.stages.items():
            together.stages.setdefault(stage, []).extend(values)
    return together


def _pipeline(model: Model, pictures: Pictures, duration_s: float, sources: int) -> dict[str, Any]:
    model(pictures[0])
    cameras = [_Camera(pictures, f"camera-{i}") for i in range(sources)]
    report = run_pipeline(model, cameras, duration_s=duration_s).to_json()
    return {"count": report["frames"]["processed"], **report}


class _Camera(ClosesOnExit):
    """A live source that shows the given pictures in turn, at _CAMERA_FPS."""

    live, frame_count, fps = True, None, _CAMERA_FPS

    def __init__(self, pictures: Pictures, name: str) -> None:
        self.status = SourceStatus("rendered pictures", name)
        self._pictures, self._closed = pictures, threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        self.status.enter(LIVE)
        start = time.monotonic()
        for number in itertools.count():
            if self._closed.wait(max(0.0, start + number / _CAMERA_FPS - time.monotonic())):
                break
            self.status.captured += 1
            yield Frame(self._pictures[number % len(self._pictures)], number, self.status.source_id)
        self.status.end()

    def close(self) -> None:
        self._closed.set()


def compare_speed(
    plain: Model, quantised: Model, pictures: Pictures, duration_s: float, *, threads: int = 1, quiet: bool = True
) -> dict[str, Any]:
    """Float against INT8: pictures go through both in turn, so that whatever else the machine does hits both alike.

    Returns:
        `count`; `float` and `int8`: {`graph`, `latency_ms`, `stages_ms`}; `speedup`: {stage: {`p25`, `median`,
        `p75`}} of the ratios float / INT8, pair by pair, for `inference` and `total`.
    """
    with ExitStack() as stack:
        queries = []
        for model in (plain, quantised):
            lane = model.open_lane(threads)
            stack.callback(lane.close)
            queries.append(lane_query(lane, pictures))

        def pair(number: int) -> dict[str, float]:
            # Who goes first changes, so that neither always finds the caches the other left.
            order = (0, 1) if number % 2 else (1, 0)
            timings = {i: queries[i](number) for i in order}
            return {
                "total": timings[0]["total"] + timings[1]["total"],
                **{f"{i} {stage}": value for i in (0, 1) for stage, value in timings[i].items()},
            }

        samples = measure(pair, duration_s, f"float and INT8 in turn, {plain.manifest.name}", quiet)
    stages, sides = samples.stages, {"float": plain, "int8": quantised}
    return {
        "threads": threads,
        "count": len(samples),
        **{key: _one_of_pair(stages, i, model.graph_name) for i, (key, model) in enumerate(sides.items())},
        "speedup": {
            stage: _quartiles(np.divide(stages[f"0 {stage}"], stages[f"1 {stage}"])) for stage in ("inference", "total")
        },
    }


def _one_of_pair(stages: dict[str, list[float]], index: int, graph: str) -> dict[str, Any]:
    own = {key.partition(" ")[2]: statistics(values) for key, values in stages.items() if key.startswith(f"{index} ")}
    return {"graph": graph, "latency_ms": own.pop("total"), "stages_ms": own}


def _quartiles(values: NDArray[Any]) -> dict[str, float]:
    p25, median, p75 = np.percentile(values, [25, 50, 75])
    return {"p25": round(float(p25), 3), "median": round(float(median), 3), "p75": round(float(p75), 3)}


def statistics(values: Sequence[float]) -> dict[str, float]:
    """`mean`, `min`, `max` and nearest-rank percentiles `p50` to `p999`."""
    if not len(values):
        return {}
    found = dict(zip(_PERCENTILES, np.percentile(values, [*_PERCENTILES.values()], method="inverted_cdf"), strict=True))
    return {
        key: round(float(value), 4)
        for key, value in {"mean": np.mean(values), "min": min(values), "max": max(values), **found}.items()
    }


def render_pictures() -> list[NDArray[np.uint8]]:
    """Views of the synthetic camera, 1280x720: the same on every machine."""
    from edgevision.synthetic import AerialScene

    scene = AerialScene(1, _SIZE_WH, _CAMERA_FPS)
    return [scene.render(i * 31, with_class_map=False).image for i in range(_PICTURES)]

"""The pipeline: order, losses counted, limits, faults of every part, and nothing left behind."""

from __future__ import annotations

import _thread
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgevision.errors import SinkError, SourceError, UsageError
from edgevision.frame import Frame
from edgevision.pipeline import Pipeline, run_pipeline
from edgevision.results import Detections, Result
from edgevision.run_report import RunReport
from edgevision.sinks import open_sink
from edgevision.sinks.queued import RECORDED
from edgevision.sources import open_source
from tests.camera_kit import CountingLane, CountingModel, ListSource, no_thread_left, number_of, write_video


class ListSink:
    """Keeps what it is given; may be slow, and may break."""

    def __init__(self, pause_s: float = 0.0, fails_at: int | None = None, fails_closing: bool = False) -> None:
        self.seen: list[tuple[str, int]] = []
        self.timing: list[Mapping[str, float]] = []
        self.closed = 0
        self._pause_s, self._fails_at, self._fails_closing = pause_s, fails_at, fails_closing

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        if len(self.seen) == self._fails_at:
            raise SinkError("out.txt cannot be written: No space left on device")
        time.sleep(self._pause_s)
        assert int(result.class_id[0]) == number_of(frame.image)  # type: ignore[union-attr]  the result of this frame
        self.seen.append((frame.source_id, frame.frame_id))
        self.timing.append(timing_ms)

    def close(self) -> None:
        self.closed += 1
        if self._fails_closing:
            raise SinkError("out.txt cannot be finished")


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    with no_thread_left():
        yield


def check_counts(report: RunReport) -> None:
    """What came in is what went out plus what was dropped, for each source and in all."""
    for source in report.sources:
        assert source.captured == source.processed + sum(source.dropped.values()), source
    assert report.captured == report.processed + sum(report.dropped.values())


@pytest.mark.smoke
@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_a_recording_is_processed_whole_and_in_order_whatever_the_lanes_do(lanes: int) -> None:
    model, sink = CountingModel(delay_s=0.003), ListSink()
    report = run_pipeline(model, [ListSource(40)], [sink], lanes=lanes)
    assert sink.seen == [("list", i) for i in range(40)]
    assert (report.captured, report.processed, report.dropped) == (40, 40, {})
    assert sink.closed == 1
    assert model.opened == model.closed == lanes == report.lanes


def test_capture_inference_and_output_overlap() -> None:
    # Each of the four threads waits, in the middle of its work, until all of them are in the middle of theirs.
    together = threading.Barrier(4)

    class MeetingSource(ListSource):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                if frame.frame_id == 4:
                    together.wait(20)
                yield frame

    class MeetingModel(CountingModel):
        def open_lane(self, threads: int = 1) -> CountingLane:
            return MeetingLane(self)

    class MeetingLane(CountingLane):
        calls = 0

        def __call__(self, frame: Frame) -> Detections:
            self.calls += 1
            if self.calls == 2:
                together.wait(20)
            return super().__call__(frame)

    def on_result(frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        if frame.frame_id == 0:
            together.wait(20)

    report = run_pipeline(MeetingModel(), [MeetingSource(20)], lanes=2, on_result=on_result)
    assert report.processed == 20


def test_opencv_s_own_threads_are_out_of_the_way_while_lanes_run() -> None:
    cv2.setNumThreads(3)
    seen: set[int] = set()
    run_pipeline(CountingModel(), [ListSource(30, pause_s=0.005)], on_result=lambda *_: seen.add(cv2.getNumThreads()))
    assert 1 in seen
    assert cv2.getNumThreads() == 3


def test_a_slow_sink_slows_a_recording_down_and_loses_nothing() -> None:
    report = run_pipeline(CountingModel(), [ListSource(30)], [ListSink(pause_s=0.01)], lanes=2)
    assert report.processed == 30
    assert report.duration_s > 0.01 * (30 - RECORDED - 1)  # the run's clock ends where the last one joins the queue


def test_a_slow_model_makes_a_live_source_drop_never_wait() -> None:
    sink = ListSink()
    report = run_pipeline(CountingModel(delay_s=0.05), [ListSource(60, live=True, pause_s=0.005)], [sink], lanes=1)
    assert report.captured == 60
    assert report.dropped["replaced"] > 30
    assert sink.seen == sorted(sink.seen)
    assert sink.seen[-1] == ("list", 59)  # the newest is never the one dropped
    assert report.age_ms["p50"] < 1000
    check_counts(report)


def test_frames_beyond_the_age_limit_are_counted() -> None:
    source = ListSource(20, live=True, pause_s=0.01)
    report = run_pipeline(CountingModel(delay_s=0.03), [source], [], lanes=1, max_age_ms=0.001)
    assert report.dropped["too_old"] > 0
    check_counts(report)


def test_several_sources_keep_their_order_and_their_counts() -> None:
    sink = ListSink()
    sources = [ListSource(30, "a"), ListSource(10, "b"), ListSource(20, "c", live=True, pause_s=0.005)]
    report = run_pipeline(CountingModel(delay_s=0.002), sources, [sink], lanes=3)
    for name, count in (("a", 30), ("b", 10)):
        assert [frame_id for source_id, frame_id in sink.seen if source_id == name] == list(range(count))
    assert sorted(frame_id for source_id, frame_id in sink.seen if source_id == "c")[-1] == 19
    assert [source.source_id for source in report.sources] == ["a", "b", "c"]
    check_counts(report)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=3),
    live=st.lists(st.booleans(), min_size=3, max_size=3),
    lanes=st.integers(1, 4),
    frames=st.none() | st.integers(1, 20),
    duration_s=st.none() | st.floats(0.001, 0.03),
    breaks=st.booleans(),
)
def test_every_frame_is_processed_or_counted_under_a_cause(
    counts: list[int], live: list[bool], lanes: int, frames: int | None, duration_s: float | None, breaks: bool
) -> None:
    sources = [
        ListSource(count, str(i), live=live[i], pause_s=0.001 * i, error=SourceError("gone") if breaks else None)
        for i, count in enumerate(counts)
    ]
    sink = ListSink()
    pipeline = Pipeline(
        CountingModel(delay_s=0.001), sources, [sink], lanes=lanes, frames=frames, duration_s=duration_s
    )
    try:
        pipeline.run()
    except SourceError:
        assert breaks
    report = pipeline.report()
    check_counts(report)
    assert report.processed == len(sink.seen)
    if frames:
        assert report.processed <= frames
    if not frames and not duration_s:
        assert "stopped" not in report.dropped
        assert report.captured == sum(counts)
    if not any(live):
        assert set(report.dropped) <= {"stopped"}


def test_limits_end_the_run() -> None:
    sink = ListSink()
    report = run_pipeline(CountingModel(), [ListSource(10_000)], [sink], frames=7)
    assert sink.seen == [("list", i) for i in range(7)]
    check_counts(report)
    started = time.monotonic()
    report = run_pipeline(CountingModel(), [ListSource(10_000, pause_s=0.01)], [ListSink()], duration_s=0.3)
    assert 0.3 < time.monotonic() - started < 4
    assert 5 < report.processed < 31
    check_counts(report)


def test_stop_ends_the_run_from_anywhere() -> None:
    sink, stopper = ListSink(), threading.Event()

    def on_result(frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        if frame.frame_id == 5:
            pipeline.stop()
            stopper.set()

    pipeline = Pipeline(CountingModel(), [ListSource(10_000)], [sink], on_result=on_result)
    report = pipeline.run()
    assert stopper.is_set()
    assert 6 <= report.processed < 100
    check_counts(report)


def test_ctrl_c_finishes_the_frames_under_way_and_closes_the_sinks(tmp_path: Path) -> None:
    source = ListSource(10_000, pause_s=0.005)
    sinks = [open_sink(tmp_path / "out.mp4", [source]), open_sink(tmp_path / "out.jsonl", [source])]
    pipeline = Pipeline(CountingModel(delay_s=0.01), [source], sinks)
    threading.Timer(0.5, _thread.interrupt_main).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pipeline.run()
    assert time.monotonic() - started < 4
    report = pipeline.report()
    check_counts(report)
    assert report.processed > 5
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == report.processed
    assert len(list(open_source(tmp_path / "out.mp4"))) == report.processed


# ---- faults --------------------------------------------------------------------------------------------------------


def test_a_source_that_breaks_has_its_good_frames_processed_and_is_then_raised() -> None:
    sink = ListSink()
    pipeline = Pipeline(CountingModel(), [ListSource(12, error=SourceError("clip.mp4 is cut short"))], [sink])
    with pytest.raises(SourceError, match="cut short"):
        pipeline.run()
    report = pipeline.report()
    assert report.processed == len(sink.seen) == 12
    assert report.sources[0].error == "clip.mp4 is cut short"
    assert sink.closed == 1


def test_one_bad_source_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    sink = ListSink()
    sources = [ListSource(3, "bad", error=SourceError("camera gone")), ListSource(40, "good", pause_s=0.002)]
    pipeline = Pipeline(CountingModel(), sources, [sink])
    with caplog.at_level(logging.WARNING), pytest.raises(SourceError, match="camera gone"):
        pipeline.run()
    assert "camera gone" in caplog.text  # told while the run went on
    assert [source.processed for source in pipeline.report().sources] == [3, 40]


@pytest.mark.parametrize("part", ["source", "lane", "sink", "callback", "closing"])
@pytest.mark.parametrize("lanes", [1, 3])
def test_a_fault_of_any_part_stops_everything_and_is_raised(part: str, lanes: int) -> None:
    def on_result(frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        if part == "callback" and frame.frame_id == 5:
            raise ZeroDivisionError("callback broke")

    source = ListSource(
        5 if part == "source" else 10_000, error=ValueError("source broke") if part == "source" else None
    )
    model = CountingModel(delay_s=0.001, fails_at=5 if part == "lane" else None)
    broken = ListSink(fails_at=5 if part == "sink" else None, fails_closing=part == "closing")
    other = ListSink()
    pipeline = Pipeline(
        model, [source], [other, broken], lanes=lanes, on_result=on_result, frames=20 if part == "closing" else None
    )
    expected = {
        "source": ValueError,
        "lane": RuntimeError,
        "sink": SinkError,
        "callback": ZeroDivisionError,
        "closing": SinkError,
    }
    started = time.monotonic()
    with pytest.raises(expected[part]):
        pipeline.run()
    assert time.monotonic() - started < 4
    assert other.closed == broken.closed == 1
    assert model.closed == lanes
    assert other.seen == [("list", i) for i in range(len(other.seen))]
    check_counts(pipeline.report())


def test_a_model_that_cannot_be_opened_closes_what_was_there() -> None:
    class Broken(CountingModel):
        def open_lane(self, threads: int = 1):  # type: ignore[no-untyped-def]
            if self.opened == 1:
                raise MemoryError("no memory for a second lane")
            return super().open_lane(threads)

    model, sink = Broken(), ListSink()
    with pytest.raises(MemoryError):
        run_pipeline(model, [ListSource(5)], [sink], lanes=2)
    assert model.closed == sink.closed == 1


@pytest.mark.parametrize("limits", [{"frames": 0}, {"duration_s": -1}, {"max_age_ms": 0}, {"lanes": -2}])
def test_limits_are_positive(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(limits))} is above zero"):
        Pipeline(CountingModel(), [ListSource(1)], **limits)  # type: ignore[arg-type]


def test_sources_have_names_of_their_own() -> None:
    for sources in ([], [ListSource(1), ListSource(1)]):
        with pytest.raises(UsageError, match="sources of different names"):
            Pipeline(CountingModel(), sources)


# ---- the report ----------------------------------------------------------------------------------------------------


def test_the_report_has_the_keys_that_tools_rely_on(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", 20)
    report = run_pipeline(CountingModel(delay_s=0.002), [open_source(clip)], [ListSink()], lanes=2)
    data = json.loads(json.dumps(report.to_json()))
    assert data["frames"] == {"captured": 20, "processed": 20, "dropped": {}}
    assert data["fps"] == pytest.approx(20 / data["duration_s"], rel=0.05)
    assert {"read", "queue", "inference", "order", "output"} <= set(data["latency_ms"])
    for summary in [*data["latency_ms"].values(), data["age_ms"]]:
        assert list(summary) == ["p50", "p90", "p99", "p999", "max"]
        assert sorted(summary.values()) == list(summary.values())
    assert data["age_ms"]["p50"] >= data["latency_ms"]["inference"]["p50"]
    (source,) = data["sources"]
    assert (source["uri"], source["state"], source["reconnects"]) == (str(clip), "ended", 0)
    assert source["error"] is None
    assert "20 of 20 frames" in report.text()


def test_a_result_carries_the_time_of_every_stage() -> None:
    sink = ListSink()
    run_pipeline(CountingModel(delay_s=0.002), [ListSource(5)], [sink])
    assert all(set(timing) == {"queue", "inference", "order"} for timing in sink.timing)
    assert all(timing["inference"] >= 2 for timing in sink.timing)


def test_a_run_without_frames_is_reported_too() -> None:
    report = run_pipeline(CountingModel(), [ListSource(0)], [ListSink()])
    assert (report.captured, report.processed, report.fps) == (0, 0, 0.0)
    assert "0 of 0 frames" in report.text()

"""Sources through a model into sinks: capture, inference and output overlap, and results stay in order.

    source ─ capture thread ┐           ┌ lane thread ┐                           ┌ queue ─ sink thread
    source ─ capture thread ┼─ Intake ──┼ lane thread ┼─ Reorder ── output thread ┼ queue ─ sink thread
                            ┘           └ …           ┘                 callback  ┘

A recording is lossless: whoever is slowest sets the pace. A live source never waits: the newest frame wins, and
each frame that is not processed is counted under its cause. Sources come and go while it runs. On a CPU, one lane per
core, each with one thread, is faster than one session with many (bare inference on two cores: 243 against 224
frames/s). A GPU has two lanes: one uploads and preprocesses while the other infers.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgevision.ending import Ending
from edgevision.errors import SourceError, UsageError
from edgevision.frame import Frame
from edgevision.queues import Intake, Reorder, Ticket
from edgevision.results import Result
from edgevision.run_report import EarlierSources, RunReport, SourceReport, Statistics
from edgevision.sinks.base import Sink
from edgevision.sinks.queued import QueuedSink
from edgevision.sources.base import Source
from edgevision.workers import one_opencv_thread

OnResult = Callable[[Frame, Result, Mapping[str, float]], None]
_log = logging.getLogger(__name__)
_BACKLOG = 32
_KEPT = 64  # ended sources with a report of their own; what was before is one entry


class Lane(Protocol):
    """One worker's way through a model; `timing_ms` tells the stages of its last call.

    One that gains by inferring several frames at once has `most`, their number, and `batch(frames)`, which gives a list
    of results.
    """

    @property
    def timing_ms(self) -> dict[str, float]: ...

    def __call__(self, frame: Frame) -> Result: ...

    def close(self) -> None: ...


class LaneModel(Protocol):
    """What a pipeline needs of a model."""

    def lanes(self) -> int: ...

    def open_lane(self, threads: int = 1) -> Lane: ...


@dataclass(frozen=True)
class _Done:
    ticket: Ticket
    result: Result
    timing_ms: dict[str, float]
    finished_ns: int


class Pipeline:
    """One run of sources through a model. `run` it once; `report` tells what it did, also after Ctrl-C or an error.

    Sources and sinks are closed at the end of the run, whatever happened.
    """

    def __init__(
        self,
        model: LaneModel,
        sources: Sequence[Source],
        sinks: Sequence[Sink] = (),
        *,
        max_age_ms: float | None = None,
        frames: int | None = None,
        duration_s: float | None = None,
        lanes: int | None = None,
        every_frame: bool = False,
        stay_open: bool = False,
        on_result: OnResult | None = None,
    ) -> None:
        """
        Args:
            max_age_ms: frames of live sources older than this are not processed but counted as `too_old`.
            frames: stop after this many results, all sources together.
            duration_s: stop after this time.
            lanes: workers side by side; None: as many as the model says, one per core on a CPU.
            every_frame: of live sources too, up to 32 waiting frames each, not the newest only.
            stay_open: wait for more sources when all have ended, until `stop` or a limit.
            on_result: called with each frame, result and stage times, in order, in the output thread.

        Raises:
            UsageError: no source, two sources of one name, or a limit that is not positive.
        """
        names = [source.status.source_id for source in sources]
        if not (names or stay_open) or len(set(names)) < len(names):
            raise UsageError(f"a pipeline needs sources of different names (source_id), got {names}")
        limits = {"max_age_ms": max_age_ms, "frames": frames, "duration_s": duration_s, "lanes": lanes}
        for name, value in limits.items():
            if value is not None and not value > 0:
                raise UsageError(f"{name} is above zero, got {value}")
        self._model, self._sources, self._on_result = model, dict(enumerate(sources)), on_result
        self._sinks = [QueuedSink(sink, getattr(sink, "name", "") or type(sink).__name__) for sink in sinks]
        self._lane_count, self._duration_s = lanes or model.lanes(), duration_s
        self._intake = Intake(
            [source.live for source in sources],
            depth=self._lane_count + 1,
            max_age_ms=max_age_ms,
            limit=frames,
            backlog=_BACKLOG if every_frame else None,
            stay_open=stay_open,
        )
        self._reorder: Reorder[_Done] = Reorder(window=2 * self._lane_count)
        self._ending = Ending(self._intake, self._reorder, self._sinks)
        self._workers = self._ending.workers
        self._source_errors: dict[int, SourceError] = {}
        self._statistics, self._earlier = Statistics(), EarlierSources()
        for index in self._sources:
            self._statistics.add_source(index)
        self._changing = threading.Lock()
        self._running = self._ended = False
        facts = getattr(model, "facts", dict)
        self._model_facts: dict[str, Any] = facts()
        for sink in sinks:
            attach = getattr(sink, "attach", None)
            if attach is not None:
                attach(self.snapshot)

    # ---- the stages, each in its own thread --------------------------------------------------------------------

    def _capture(self, index: int) -> None:
        """One source's frames into the intake. A source that breaks ends alone; its good frames are processed."""
        source = self._sources[index]
        try:
            frames = iter(source)
            while True:
                asked = time.perf_counter()
                frame = next(frames, None)
                if frame is None:
                    break
                if not source.live:
                    self._statistics.read[index].record((time.perf_counter() - asked) * 1e3)
                if not self._intake.put(index, frame):
                    break
        except SourceError as error:
            self._source_errors[index] = error
            if len(self._sources) > 1:  # the run goes on, so this is the time to tell
                _log.warning("%s", error)
        finally:
            self._intake.finish(index)

    def _infer(self, lane: Lane) -> None:
        """Frames from the intake through one lane, several at once where it takes them."""
        together: Any = lane
        while tickets := self._intake.take(_most(lane)):
            taken_ns = time.monotonic_ns()
            frames = [ticket.frame for ticket in tickets]
            results = together.batch(frames) if len(frames) > 1 else [lane(frames[0])]
            timing_ms, finished_ns = lane.timing_ms, time.monotonic_ns()
            self._intake.inferred((finished_ns - taken_ns) / 1e9)
            for ticket, result in zip(tickets, results, strict=True):
                queue_ms = (taken_ns - ticket.frame.capture_time_ns) / 1e6
                done = _Done(ticket, result, {"queue": queue_ms, **timing_ms}, finished_ns)
                if not self._reorder.put(ticket.number, done):
                    return

    def _output(self) -> None:
        """Results in order to the sinks' queues and the callback."""
        while (done := self._reorder.take()) is not None:
            frame, start_ns = done.ticket.frame, time.monotonic_ns()
            timing_ms = {**done.timing_ms, "order": (start_ns - done.finished_ns) / 1e6}
            live = self._sources[done.ticket.source].live
            for sink in self._sinks:
                sink.put(frame, done.result, timing_ms, live=live)
            if self._on_result is not None:
                with self._ending.callback.of("busy"):
                    self._on_result(frame, done.result, timing_ms)
            self._statistics.delivered(done.ticket.source, frame, timing_ms, start_ns)

    # ---- sources that come and go ------------------------------------------------------------------------------

    def add_source(self, source: Source) -> None:
        """Take in one more source, also while the pipeline runs. It is closed with the others.

        Of sources that have ended the last 64 have a report of their own; those before are one entry, and their names
        may be given again.

        Raises:
            UsageError: a source of this name is there, or the run has ended.
        """
        name = source.status.source_id
        with self._changing:
            if self._ended:  # and its sources are being closed
                raise UsageError(f"source {name!r} cannot be added: the run has ended")
            self._fold()
            if any(other.status.source_id == name for other in self._sources.values()):
                raise UsageError(f"source {name!r} cannot be added: there is, or was, a source of this name")
            index = self._intake.add(source.live)
            self._statistics.add_source(index)
            self._sources[index] = source
            if self._running:
                self._start_capture(index)

    def remove_source(self, source_id: str) -> None:
        """Close a source; results under way are still delivered. The run goes on with the others.

        Raises:
            UsageError: there is no source of this name.
        """
        with self._changing:
            numbers = {source.status.source_id: index for index, source in self._sources.items()}
            if source_id not in numbers:
                raise UsageError(f"there is no source {source_id!r}, only {', '.join(numbers) or 'none'}")
            source = self._sources[numbers[source_id]]
            self._intake.remove(numbers[source_id])
        source.close()

    def _start_capture(self, index: int) -> None:
        name = f"capture {self._sources[index].status.source_id}"
        self._ending.capturing[index] = self._workers.start(name, self._capture, index)

    def _fold(self) -> None:
        """Keep only sums of all but the last sources that are over, results and all."""
        processed = self._statistics.processed
        ended = [i for i, worker in self._ending.capturing.items() if worker.ended and not self._intake.waits(i)]
        over = [i for i in ended if self._intake.handed_out[i] == processed[i]]
        for index in over[: -_KEPT or None]:
            source = self._sources.pop(index)
            del self._ending.capturing[index]
            error = self._source_errors.pop(index, None)
            self._earlier.add(source.status, self._statistics.fold(index), self._intake.forget(index), error)
            self._workers.attempt(source.close)
            for sink in self._sinks:
                sink.forget(source.status.source_id)

    # ---- running and stopping ----------------------------------------------------------------------------------

    def run(self) -> RunReport:
        """Run until all sources have ended or a limit is reached; what is under way then is delivered and written.

        Stopped by `stop`, an error or Ctrl-C it is over within two seconds: what is under way is finished as far as
        that goes, files are finished too, and what hangs is left behind. A second Ctrl-C ends it at once.

        Raises:
            SourceError: a source broke; all frames before that, and all other sources, were processed.
            SessionError: a sink, the callback or a lane hangs and was left behind; says which.
            Exception: whatever a sink, the model, the callback or a source's code raised; everything is stopped.
            KeyboardInterrupt: Ctrl-C.
        """
        ending, lanes = self._ending, list[Lane]()
        interrupt: KeyboardInterrupt | None = None
        try:
            lanes.extend(self._model.open_lane(threads=1) for _ in range(self._lane_count))
            self._reorder.window = 2 * sum(map(_most, lanes))
            self._statistics.start()
            ending.writing.extend(self._workers.start(f"sink {sink.name}", sink.serve) for sink in self._sinks)
            ending.delivering.append(self._workers.start("output", self._output))
            ending.inferring.extend(self._workers.start(f"lane {i}", self._infer, lane) for i, lane in enumerate(lanes))
            with self._changing:
                self._running = True
                for index in self._sources:
                    self._start_capture(index)
            with one_opencv_thread():
                ending.run_for(self._duration_s or math.inf)
        except KeyboardInterrupt as caught:
            interrupt = caught
        finally:
            with self._changing:
                self._ended = True
            ending.shut_down(self._sources, lanes)
        for error in [*self._workers.errors, interrupt, self._earlier.error, *self._source_errors.values()]:
            if error is not None:
                raise error
        return self.report()

    def stop(self) -> None:
        """End the run within two seconds: what is under way is finished as far as that goes. From any thread."""
        self._ending.stop()

    @property
    def left_behind(self) -> list[str]:
        """Names of the threads that have not ended; after the run those that hang."""
        return self._ending.left_behind()

    def snapshot(self) -> dict[str, Any]:
        """What the run has done so far, as plain data (`RunReport.to_json`), and `model`'s facts; from any thread."""
        return {**self.report().to_json(), "model": self._model_facts}

    def report(self) -> RunReport:
        """What the run did; complete once it has ended."""
        with self._changing:
            sources = [self._earlier.report(self._statistics.earlier_age_ms())] if self._earlier.count else []
            sources += [self._source_report(index) for index in self._sources]
        return self._statistics.report(sources, self._lane_count, [sink.report() for sink in self._sinks])

    def _source_report(self, index: int) -> SourceReport:
        status = self._sources[index].status
        dropped, processed = dict(self._intake.dropped[index]), self._statistics.processed[index]
        cut_off = self._intake.handed_out[index] - processed
        if self._ended and cut_off:  # under way when an error stopped the run
            dropped["stopped"] = dropped.get("stopped", 0) + cut_off
        age_ms, error = self._statistics.age_ms(index), self._source_errors.get(index)
        return SourceReport.of(status, processed, dropped, age_ms, error)


def _most(lane: Lane) -> int:
    return int(getattr(lane, "most", 1))


def run_pipeline(
    model: LaneModel,
    sources: Sequence[Source],
    sinks: Sequence[Sink] = (),
    *,
    max_age_ms: float | None = None,
    frames: int | None = None,
    duration_s: float | None = None,
    lanes: int | None = None,
    every_frame: bool = False,
    on_result: OnResult | None = None,
) -> RunReport:
    """Run sources through a model into sinks; see Pipeline, which also has the report of an interrupted run."""
    return Pipeline(
        model,
        sources,
        sinks,
        max_age_ms=max_age_ms,
        frames=frames,
        duration_s=duration_s,
        lanes=lanes,
        every_frame=every_frame,
        on_result=on_result,
    ).run()

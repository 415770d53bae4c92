"""A sink on a thread and a bounded queue of its own, so that a slow one keeps nobody waiting who must not wait."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from edgevision.activity import Activity
from edgevision.frame import Frame
from edgevision.latency import Histogram
from edgevision.results import Result
from edgevision.sinks.base import Sink

RECORDED, LIVE = 4, 16
"""Results that wait at most, of a recording and of a live source; at a sink that shows the newest, one per source."""
_WAKE_S = 1.0
_Written = tuple[Frame, Result, Mapping[str, float]]


class QueuedSink:
    """Results for one sink. One thread puts them, one (`serve`) writes them.

    A recording's result waits for room: nothing is lost. A live source's never waits: where the queue is full it is
    counted as `backlog`. A sink that shows the newest (`NEWEST = True`) makes nobody wait and drops older ones, counted
    as `replaced`.

    Attributes:
        activity: the sink's call that is under way.
    """

    def __init__(self, sink: Sink, name: str) -> None:
        self._sink, self.name = sink, name
        self._newest = bool(getattr(sink, "NEWEST", False))
        self._sink_forgets: Callable[[str], None] | None = getattr(sink, "forget", None)
        self._queue: deque[tuple[str, _Written | None]] = deque()  # source, and its result; None: there are no more
        self._changed = threading.Condition()
        self._finished = self._broken = self._writes = False
        self.activity = Activity()
        self.written = 0
        self.dropped: Counter[str] = Counter()
        self.latency = Histogram()

    def put(self, frame: Frame, result: Result, timing_ms: Mapping[str, float], *, live: bool) -> None:
        """Hand in a result."""
        with self._changed:
            if self._newest:
                older = next((item for item in self._queue if item[0] == frame.source_id and item[1]), None)
                if older is not None:
                    self._queue = deque(item for item in self._queue if item is not older)
                    self.dropped["replaced"] += 1
            elif live:
                if len(self._queue) >= LIVE:
                    self.dropped["backlog"] += 1
                    return
            else:
                while len(self._queue) >= RECORDED and not self._broken:
                    self._changed.wait(_WAKE_S)
            if self._broken:
                self.dropped["stopped"] += 1
                return
            self._queue.append((frame.source_id, (frame, result, timing_ms)))
            self._changed.notify_all()

    def forget(self, source_id: str) -> None:
        """No more results of this source will be put."""
        with self._changed:
            if self._sink_forgets is not None and not self._broken:
                self._queue.append((source_id, None))
                self._changed.notify_all()

    def serve(self) -> None:
        """Write until `finish`, then close the sink.

        Raises:
            Exception: whatever the sink raised; nothing waits for it any more.
        """
        try:
            while (item := self._take()) is not None:
                source_id, result = item
                if result is not None:
                    self._write(*result)
                elif self._sink_forgets is not None:
                    with self.activity.of("closing an output"):
                        self._sink_forgets(source_id)
        finally:
            self.abort()
            with self.activity.of("closing"):
                self._sink.close()

    def _write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        started = time.perf_counter()
        with self.activity.of("writing"):
            self._sink.write(frame, result, timing_ms)
        with self._changed:
            self.written, self._writes = self.written + 1, False
        self.latency.record((time.perf_counter() - started) * 1e3)

    def _take(self) -> tuple[str, _Written | None] | None:
        with self._changed:
            while not self._queue and not self._finished:
                self._changed.wait(_WAKE_S)
            item = self._queue.popleft() if self._queue else None
            self._writes = item is not None and item[1] is not None
            self._changed.notify_all()
            return item

    def finish(self) -> None:
        """Nothing more will be put; what waits is still written."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Write nothing more; what waits is counted as `stopped`."""
        with self._changed:
            self._finished = self._broken = True
            self.dropped["stopped"] += sum(result is not None for _, result in self._queue)
            self._queue.clear()
            self._changed.notify_all()

    def abandon(self) -> None:
        """Let the sink end a call that hangs, where it can; from another thread than the one that writes."""
        abandon: Callable[[], None] | None = getattr(self._sink, "abandon", None)
        if abandon is not None:
            abandon()

    def report(self) -> dict[str, Any]:
        """What became of the results, as plain data."""
        with self._changed:
            dropped = self.dropped.copy()
            dropped["stopped"] += self._writes and self._broken  # the one whose writing failed, or does not end
            lost = {cause: count for cause, count in dropped.items() if count}
        return {"sink": self.name, "written": self.written, "dropped": lost, "latency_ms": self.latency.summary()}

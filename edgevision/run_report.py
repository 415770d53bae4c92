"""What a run did: counts, rates and times, as data and as text."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgevision.errors import SourceError
from edgevision.frame import Frame
from edgevision.latency import Histogram
from edgevision.sources.base import DEAD, ENDED, SourceStatus, StateChange


@dataclass(frozen=True)
class SourceReport:
    """One source's part: every frame that reached us is either processed or dropped for a cause."""

    uri: str
    source_id: str
    state: str
    captured: int
    processed: int
    dropped: dict[str, int]
    reconnects: int
    reader: str
    notes: tuple[str, ...]
    changes: tuple[StateChange, ...]
    age_ms: dict[str, float]
    error: str | None

    @classmethod
    def of(
        cls,
        status: SourceStatus,
        processed: int,
        dropped: Mapping[str, int],
        age_ms: dict[str, float],
        error: Exception | None,
    ) -> SourceReport:
        """The source's own counts, and what the pipeline made of the frames it got."""
        causes = Counter(status.dropped) + Counter(dropped)
        return cls(
            status.uri,
            status.source_id,
            status.state,
            status.captured,
            processed,
            dict(causes),
            status.reconnects,
            status.reader,
            tuple(status.notes),
            tuple(status.changes),
            age_ms,
            None if error is None else str(error),
        )


EARLIER = "(earlier)"


@dataclass
class EarlierSources:
    """What is kept of sources that ended long ago: a run of months has many, and its memory has an end."""

    count: int = 0
    captured: int = 0
    processed: int = 0
    reconnects: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    error: SourceError | None = None
    """The first of them."""

    def add(self, status: SourceStatus, processed: int, dropped: Mapping[str, int], error: SourceError | None) -> None:
        """One more of them."""
        self.count += 1
        self.captured += status.captured
        self.processed += processed
        self.reconnects += status.reconnects
        self.dropped.update(status.dropped)
        self.dropped.update(dropped)
        self.error = self.error or error

    def report(self, age_ms: dict[str, float]) -> SourceReport:
        """All of them as one."""
        status = SourceStatus(f"{self.count} sources that have ended", EARLIER, ENDED, self.captured)
        status.reconnects = self.reconnects
        return SourceReport.of(status, self.processed, self.dropped, age_ms, self.error)


@dataclass(frozen=True)
class RunReport:
    """What a run did.

    Attributes:
        sources: one entry each, in the order given; sources that ended long ago are one entry together, the first.
        duration_s: from the start of all threads, models loaded, to the last result handed to the sinks.
        lanes: workers that ran the model side by side.
        latency_ms: stage -> percentiles: `read` (a recording's next frame, decoded), `queue` (captured to
            taken by a lane), `preprocess`, `inference`, `postprocess`, `order` (waiting for frames before it), `output`
            (handing it to the sinks' queues, and the callback).
        age_ms: percentiles of a result's age, from the frame's capture to the result being ready, in order.
        sinks: per sink `sink` (its name), `written`, `dropped` (cause -> results), `latency_ms` (of its writes).
    """

    sources: Sequence[SourceReport]
    duration_s: float
    lanes: int
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    age_ms: dict[str, float] = field(default_factory=dict)
    sinks: Sequence[dict[str, Any]] = ()

    @property
    def captured(self) -> int:
        """Frames that reached us."""
        return sum(source.captured for source in self.sources)

    @property
    def processed(self) -> int:
        """Frames whose results were delivered."""
        return sum(source.processed for source in self.sources)

    @property
    def dropped(self) -> dict[str, int]:
        """Cause -> frames that were not processed."""
        total: Counter[str] = Counter()
        for source in self.sources:
            total.update(source.dropped)
        return dict(total)

    @property
    def fps(self) -> float:
        """Results per second, all sources together."""
        return self.processed / self.duration_s if self.duration_s else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dump."""
        return {
            "frames": {"captured": self.captured, "processed": self.processed, "dropped": self.dropped},
            "fps": round(self.fps, 3),
            "duration_s": round(self.duration_s, 3),
            "lanes": self.lanes,
            "latency_ms": self.latency_ms,
            "age_ms": self.age_ms,
            "sources": [
                {**vars(source), "notes": list(source.notes), "changes": [vars(change) for change in source.changes]}
                for source in self.sources
            ],
            "sinks": list(self.sinks),
        }

    def text(self) -> str:
        """A few lines for people."""
        lost = ", ".join(f"{count} {cause}" for cause, count in sorted(self.dropped.items())) or "none"
        lines = [
            f"{self.processed} of {self.captured} frames in {self.duration_s:.1f} s: {self.fps:.1f} frames/s "
            f"on {self.lanes} lane(s); dropped: {lost}"
        ]
        if self.processed:
            shown = {**self.latency_ms, "age of result": self.age_ms}
            width = max(map(len, shown))
            lines.append(f"{'ms':{width}}" + "".join(f"{name:>9}" for name in self.age_ms))
            lines += [
                f"{stage:{width}}" + "".join(f"{value:9.2f}" for value in summary.values())
                for stage, summary in shown.items()
            ]
        for source in self.sources:
            if len(self.sources) > 1 or source.state == DEAD:
                lines.append(f"{source.source_id}: {source.state}, {source.processed} of {source.captured} frames")
            lines += [f"note: {note}" for note in source.notes]
        for sink in self.sinks:
            if sink["dropped"]:
                lost = ", ".join(f"{count} {cause}" for cause, count in sorted(sink["dropped"].items()))
                lines.append(f"sink {sink['sink']}: {sink['written']} written, dropped: {lost}")
        return "\n".join(lines)


class Statistics:
    """What a run measures while it goes on; 9 kB per stage, however long it goes on.

    Attributes:
        read: one histogram per source, recorded by the thread that reads it.
        processed: results delivered, per source. This and all else is recorded by the thread that delivers.
    """

    def __init__(self) -> None:
        self.read: dict[int, Histogram] = {}
        self.processed: dict[int, int] = {}
        self._latency: dict[str, Histogram] = {}
        self._ages: dict[int, Histogram] = {}
        self._earlier_read, self._earlier_ages = Histogram(), Histogram()
        self._started_ns = self._finished_ns = 0
        self._lock = threading.Lock()

    def add_source(self, source: int) -> None:
        """Make room for one more."""
        with self._lock:
            self.read[source], self._ages[source], self.processed[source] = Histogram(), Histogram(), 0

    def fold(self, source: int) -> int:
        """Keep what was measured of a source that is over among that of all such; gives its number of results."""
        with self._lock:
            self._earlier_read.merge([self.read.pop(source)])
            self._earlier_ages.merge([self._ages.pop(source)])
            return self.processed.pop(source)

    def earlier_age_ms(self) -> dict[str, float]:
        """Percentiles of the age of results of all folded sources."""
        with self._lock:
            return self._earlier_ages.summary()

    def start(self) -> None:
        """The run's clock starts."""
        self._started_ns = self._finished_ns = time.monotonic_ns()

    def delivered(self, source: int, frame: Frame, timing_ms: Mapping[str, float], start_ns: int) -> None:
        """Count a result whose delivery began at `start_ns` and is over now."""
        with self._lock:
            self._finished_ns = time.monotonic_ns()
            self.processed[source] += 1
            self._ages[source].record((start_ns - frame.capture_time_ns) / 1e6)
            for stage, value in {**timing_ms, "output": (self._finished_ns - start_ns) / 1e6}.items():
                self._latency.setdefault(stage, Histogram()).record(value)

    def age_ms(self, source: int) -> dict[str, float]:
        """Percentiles of the age of one source's results."""
        with self._lock:
            return self._ages[source].summary()

    def report(self, sources: Sequence[SourceReport], lanes: int, sinks: Sequence[dict[str, Any]]) -> RunReport:
        """The run's report, given its sources' and sinks' parts; at any time."""
        with self._lock:
            stages = {
                "read": Histogram().merge([self._earlier_read, *self.read.values()]),
                **self._latency,
            }
            return RunReport(
                sources,
                (self._finished_ns - self._started_ns) / 1e9,
                lanes,
                {stage: histogram.summary() for stage, histogram in stages.items() if histogram.count},
                Histogram().merge([self._earlier_ages, *self._ages.values()]).summary(),
                sinks,
            )

"""How a run ends: by itself, when everything is written; when it is stopped, within two seconds, whatever hangs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Protocol

from edgevision.activity import Activity
from edgevision.errors import SessionError
from edgevision.queues import Intake, Reorder
from edgevision.sinks.queued import QueuedSink
from edgevision.sources.base import Source
from edgevision.workers import Worker, Workers

LIMIT_S = 2.0
"""From the stop of a run to its end."""
_CLOSING_S = 1.0  # of it, for finishing files
_PATIENCE_S = 10.0  # with one call of a sink or the callback, when nothing more comes
_WAKE_S = 0.1
_log = logging.getLogger(__name__)


class _Closes(Protocol):
    def close(self) -> None: ...


class Deadline:
    """The end that all parts of a run share. There is none until the run is stopped.

    Attributes:
        at: `time.monotonic()` when everything is over.
    """

    def __init__(self) -> None:
        self.at = math.inf

    def set(self) -> None:
        """The run is stopped; the first call counts. From any worker."""
        self.at = min(self.at, time.monotonic() + LIMIT_S)

    @property
    def last_call(self) -> float:
        """When what is still under way is given up, so that there is time to finish what was written."""
        return self.at - _CLOSING_S


class Ending:
    """Ends the threads of a run in the order of its data.

    Attributes:
        workers: starts them; an exception in one gives all up.
        capturing, inferring, delivering, writing: the threads: by the source's number, of the lanes, of the results'
            delivery, of the sinks in their order.
        callback: the call that is under way.
    """

    def __init__(self, intake: Intake, reorder: Reorder[Any], sinks: Sequence[QueuedSink]) -> None:
        self._intake, self._reorder, self._sinks = intake, reorder, sinks
        self.workers = Workers(stop=self.give_up)
        self.capturing: dict[int, Worker] = {}
        self.inferring: list[Worker] = []
        self.delivering: list[Worker] = []
        self.writing: list[Worker] = []
        self.callback = Activity()
        self._closing: list[Worker] = []
        self._hanging: set[Worker] = set()  # waited for no longer
        self._deadline = Deadline()

    def stop(self) -> None:
        """The run is over in two seconds; what is under way is finished as far as that goes. From any worker."""
        self._deadline.set()
        self._intake.close()

    def give_up(self) -> None:
        """The same, but results under way go nowhere."""
        self.stop()
        self._reorder.abort()

    def run_for(self, seconds: float) -> None:
        """Wait until the sources have ended, or for so long; then until everything under way is written, however long
        that takes while it gets on."""
        self._wait(self.inferring, time.monotonic() + seconds)
        self._finish()

    def _finish(self) -> None:
        self._intake.close()
        self._wait(self.inferring)
        self._reorder.finish()
        self._wait(self.delivering)
        for sink in self._sinks:
            sink.finish()
        self._wait(self.writing)

    def _wait(self, workers: Sequence[Worker], until: float = math.inf) -> None:
        """For all `workers` to end, at most until that time, and in a run that is stopped until the last call."""
        for worker in workers:
            while not worker.ended and worker not in self._hanging:
                left_s = min(until, self._deadline.last_call) - time.monotonic()
                if left_s <= 0:
                    break
                worker.wait(min(_WAKE_S, left_s))  # Ctrl-C interrupts it
                if self._intake.over():  # before that, whoever reads a pipe may pause
                    self._look_for_hanging()

    def _look_for_hanging(self) -> None:
        for sink, worker in zip(self._sinks, self.writing, strict=True):
            if sink.activity.lasts_s > _PATIENCE_S:
                self._hanging.add(worker)
                sink.abort()
        if self.callback.lasts_s > _PATIENCE_S:
            self.give_up()

    def shut_down(self, sources: Mapping[int, Source], lanes: Sequence[_Closes]) -> None:
        """End all threads within the deadline, and close what they used. What hangs is left behind, told, and where
        results are lost with it, an error of the workers'."""
        self._deadline.set()
        for source in sources.values():  # side by side: each may have to wait for its camera
            self._closing.append(self.workers.start(f"closing {source.status.source_id}", source.close))
        self._finish()
        self._reorder.abort()
        for sink, worker in zip(self._sinks, self.writing, strict=False):
            if not worker.ended:
                sink.abort()
                self._closing.append(self.workers.start(f"abandoning {sink.name}", sink.abandon))
        for worker in self._all():
            worker.wait(max(0.0, self._deadline.at - time.monotonic()))
        for lane, worker in zip_longest(lanes, self.inferring):
            if worker is None or worker.ended:
                self.workers.attempt(lane.close)
        for sink in self._sinks[len(self.writing) :]:  # its worker, which would have closed it, was never started
            self.workers.attempt(sink.serve)
        self._tell(sources)

    def _all(self) -> list[Worker]:
        return [*self._closing, *self.capturing.values(), *self.inferring, *self.delivering, *self.writing]

    def left_behind(self) -> list[str]:
        """Names of the threads that have not ended; after the run those that hang."""
        return [worker.name for worker in self._all() if not worker.ended]

    def _tell(self, sources: Mapping[int, Source]) -> None:
        for index, worker in self.capturing.items():
            if not worker.ended:  # nothing is lost with it
                status = sources[index].status
                status.note(f"{status.uri}: did not end within {LIMIT_S:g} s and was left behind")
                _log.warning("%s: did not end within %g s and was left behind", status.uri, LIMIT_S)
        hanging = [
            f"sink {sink.name}, {sink.activity} ({sink.report()['dropped'].get('stopped', 0)} results lost)"
            for sink, worker in zip(self._sinks, self.writing, strict=False)
            if not worker.ended
        ]
        hanging += [f"the callback, {self.callback}" for worker in self.delivering if not worker.ended]
        hanging += [f"lane {i}, inferring" for i, worker in enumerate(self.inferring) if not worker.ended]
        if hanging:
            error = SessionError(
                f"left behind, {LIMIT_S:g} s after the end: {'; '.join(hanging)}. All else was finished; look at what "
                "these wait for"
            )
            if self.workers.errors:  # which is the one that is raised
                _log.error("%s", error)
            self.workers.errors.append(error)

"""The two queues of a pipeline: frames on their way to the lanes, results on their way out in order.

Both are bounded, both can be closed from any thread, and no wait in them is longer than a second at a time.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgevision.batch_window import BatchWindow
from edgevision.frame import Frame

_WAKE_S = 1.0  # everybody is notified; this only bounds the harm if somebody once is not
_CREDIT = 2  # turns that a source may be behind the others and catch up
Item = TypeVar("Item")


@dataclass(frozen=True)
class Ticket:
    """A frame handed to a lane; `number` counts all of them and fixes the order of the results."""

    number: int
    source: int
    frame: Frame


class Intake:
    """Frames of several sources, handed out in turn: of those that have one, the source that had fewest turns.

    One that had nothing when its turn was catches up, by two turns at most: so a camera gets its share although its
    frames come when they come, and nobody is shut out by one that comes back after a while (start-time fair queueing,
    Goyal, Vin and Cheng 1996, with bounded credit).

    A recording's queue is a few frames long, and makes its source wait. A live source's queue holds the newest frame
    only; the one it replaces is counted, and so is one that has grown older than `max_age_ms` when a lane wants it.
    With a `backlog` it holds that many, and a frame that finds it full is counted.
    """

    def __init__(
        self,
        live: Sequence[bool],
        *,
        depth: int,
        max_age_ms: float | None = None,
        limit: int | None = None,
        backlog: int | None = None,
        stay_open: bool = False,
    ) -> None:
        """
        Args:
            live: for each source, whether it is live.
            depth: frames held for each recording.
            max_age_ms: oldest frame of a live source to be handed out.
            limit: tickets after which the intake closes itself.
            backlog: frames held for each live source; None: its newest.
            stay_open: wait for sources that may be added when all others are finished.
        """
        self._depth, self._limit, self._backlog, self._stay_open = depth, limit, backlog, stay_open
        self._max_age_ns = None if max_age_ms is None else max_age_ms * 1e6
        self._live: dict[int, bool] = {}
        # Of sources that are open, or have frames left; whoever has waited longest since its last turn comes first.
        self._queues: dict[int, deque[Frame]] = {}
        self._turns: dict[int, int] = {}
        self._latest = 0  # the most turns of any that had one
        self._open: set[int] = set()
        self._changed = threading.Condition()
        self._window = BatchWindow()
        self._number = self._added = 0
        self._closed = False
        self.handed_out: dict[int, int] = {}
        self.dropped: dict[int, Counter[str]] = {}
        for each in live:
            self.add(each)

    def add(self, live: bool) -> int:
        """One more source; its number."""
        with self._changed:
            source, self._added = self._added, self._added + 1
            self._live[source], self._queues[source], self._turns[source] = live, deque(), self._latest
            self.handed_out[source], self.dropped[source] = 0, Counter()
            self._open.add(source)
            return source

    def put(self, source: int, frame: Frame) -> bool:
        """Hand in a frame; waits while a recording's queue is full. False when closed: the frame is then counted as
        `stopped`, and more are not wanted."""
        with self._changed:
            if not self._live[source]:
                while self._wanted(source) and len(self._queues[source]) >= self._depth:
                    self._changed.wait(_WAKE_S)
            if not self._wanted(source):
                self.dropped[source]["stopped"] += 1
                return False
            queue = self._queues[source]
            if self._live[source] and queue:
                if self._backlog is None:
                    queue.clear()
                    self.dropped[source]["replaced"] += 1
                elif len(queue) >= self._backlog:
                    self.dropped[source]["backlog"] += 1
                    return True
            queue.append(frame)
            self._window.arrived(source, time.monotonic())
            self._changed.notify_all()
            return True

    def _wanted(self, source: int) -> bool:
        return not self._closed and source in self._open

    def remove(self, source: int) -> None:
        """Take no more of this source; what waits of it is counted as `stopped`."""
        with self._changed:
            self._open.discard(source)
            self._discard(source)
            self._settle(source)
            self._changed.notify_all()

    def finish(self, source: int) -> None:
        """No more frames will come from `source`."""
        with self._changed:
            self._open.discard(source)
            self._settle(source)
            self._changed.notify_all()

    def _settle(self, source: int) -> None:
        """Look no more at the queue of a source that is over."""
        if source not in self._open and not self._queues.get(source):
            self._queues.pop(source, None)
            self._turns.pop(source, None)
            self._window.forget(source)

    def waits(self, source: int) -> bool:
        """Whether frames of this source may still be handed out."""
        with self._changed:
            return source in self._queues

    def over(self) -> bool:
        """Whether nothing more will be handed out."""
        with self._changed:
            return self._closed or not (self._stay_open or self._open or any(self._queues.values()))

    def forget(self, source: int) -> Counter[str]:
        """Keep nothing of a source whose frames have all been handed out; gives what was dropped of it."""
        with self._changed:
            del self._live[source], self.handed_out[source]
            return self.dropped.pop(source)

    def take(self, most: int = 1) -> list[Ticket]:
        """The next frames, the sources taking turns; waits for one, and for up to `most` as far as that pays (see
        BatchWindow). Empty when closed, or all sources are finished."""
        with self._changed:
            tickets: list[Ticket] = []
            while not self._closed:
                while len(tickets) < most and (ticket := self._next()) is not None:
                    tickets.append(ticket)
                if not tickets:
                    if not self._open and not self._stay_open:
                        break
                    self._changed.wait(_WAKE_S)
                    continue
                now = time.monotonic()
                here = {ticket.source for ticket in tickets}
                until = self._window.until(now, self._open - here) if len(tickets) < most else now
                if until <= now:
                    break
                self._changed.wait(until - now)
            return tickets

    def inferred(self, seconds: float) -> None:
        """What was taken at once took so long."""
        with self._changed:
            self._window.inferred(seconds)

    def _next(self) -> Ticket | None:
        if self._closed:
            return None
        for source in sorted(self._queues, key=self._had):
            turns = self._had(source)
            frame = self._pop(source)
            if frame is not None:
                return self._hand_out(source, turns, frame)
        return None

    def _had(self, source: int) -> int:
        return max(self._turns[source], self._latest - _CREDIT)

    def _pop(self, source: int) -> Frame | None:
        queue = self._queues[source]
        if not queue:
            return None
        frame = queue.popleft()
        self._settle(source)
        age_ns = time.monotonic_ns() - frame.capture_time_ns
        if self._live[source] and self._max_age_ns is not None and age_ns > self._max_age_ns:
            self.dropped[source]["too_old"] += 1
            return None
        return frame

    def _hand_out(self, source: int, turns: int, frame: Frame) -> Ticket:
        ticket = Ticket(self._number, source, frame)
        self._number += 1
        self._latest = max(self._latest, turns)
        if source in self._queues:
            self._queues[source] = self._queues.pop(source)  # to the end
            self._turns[source] = turns + 1
        self.handed_out[source] += 1
        if self._number == self._limit:
            self._close()
        self._changed.notify_all()
        return ticket

    def close(self) -> None:
        """Hand out nothing more; what waits is counted as `stopped`."""
        with self._changed:
            self._close()

    def _close(self) -> None:
        self._closed = True
        for source in list(self._queues):
            self._discard(source)
        self._changed.notify_all()

    def _discard(self, source: int) -> None:
        if waiting := self._queues.get(source):
            self.dropped[source]["stopped"] += len(waiting)
            waiting.clear()


class Reorder(Generic[Item]):
    """Items put in any order, taken in the order of their numbers, which have no gaps."""

    def __init__(self, window: int) -> None:
        """`window`: how far ahead of the next number an item may be put; who is further ahead waits."""
        self.window = window
        self._items: dict[int, Item] = {}
        self._next = 0
        self._finished = self._aborted = False
        self._changed = threading.Condition()

    def put(self, number: int, item: Item) -> bool:
        """Hand in an item; waits while it is too far ahead. False when aborted."""
        with self._changed:
            while number >= self._next + self.window and not self._aborted:
                self._changed.wait(_WAKE_S)
            if self._aborted:
                return False
            self._items[number] = item
            if number == self._next:
                self._changed.notify_all()
            return True

    def take(self) -> Item | None:
        """The item with the next number; waits for it. None when aborted, or finished and nothing is left."""
        with self._changed:
            while self._next not in self._items:
                if self._finished or self._aborted:
                    return None
                self._changed.wait(_WAKE_S)
            if self._aborted:
                return None
            self._next += 1
            self._changed.notify_all()
            return self._items.pop(self._next - 1)

    def finish(self) -> None:
        """Nothing more will be put; what is there can still be taken."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Give up what is there."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

"""A camera that is watched over: its newest frames, and a new reader whenever the old one is lost.

OPENING ── first frame ──> LIVE ── silence ──> STALLED ─┐
   ^  └────── fails ──────────────┬── ends, crashes ────┤
   └──── pause, longer each time ─┴────── BACKOFF <─────┘ ── for too long ──> DEAD
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator

from edgevision.errors import SourceError
from edgevision.frame import Frame
from edgevision.polling import readable
from edgevision.redaction import without_secrets
from edgevision.sources.base import BACKOFF, DEAD, LIVE, OPENING, STALLED, ClosesOnExit, SourceStatus
from edgevision.sources.options import SourceOptions
from edgevision.sources.reader_process import Arrived, ReaderProcess

_log = logging.getLogger(__name__)
_JITTER = 0.2
_START_LIMIT_S = 20.0  # for the process itself to come up, on a busy board; only then the camera's own time runs


class LiveSource(ClosesOnExit):
    """Frames of a reader process, which is replaced when it falls silent, ends or crashes.

    A frame of a lost reader is never given out after a frame of its successor.
    """

    live = True
    frame_count = None

    def __init__(self, start: Callable[[], ReaderProcess], status: SourceStatus, options: SourceOptions) -> None:
        """Open the camera once, so that a wrong address is told at once.

        Args:
            start: starts a reader.

        Raises:
            SourceError: it did not open within `options.timeout_s`.
        """
        self.status, self.fps = status, None
        self._start, self._options = start, options
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._release = weakref.finalize(self, os.close, self._wake)
        self._release.atexit = False  # an unfinished iteration ends later than that
        # Reentrant, since a generator that nobody wants any more closes us from wherever it is collected.
        self._lock = threading.RLock()
        self._closing = False
        self._iterated = False
        self._reader: ReaderProcess | None = None
        self._told: Counter[str] = Counter()  # the present reader's own counts, as far as they are in the status
        self._end: EOFError | None = None  # how the present reader ended, where a frame came with the news
        self._heard = time.monotonic()
        try:
            self._open()
        except BaseException as error:
            status.enter(DEAD, str(error))
            self.close()
            if isinstance(error, EOFError):
                text = str(error)  # some of a reader's reasons are whole sentences
                raise SourceError(
                    text if text.startswith(status.uri) else f"{status.uri} cannot be opened: {text}"
                ) from error
            raise

    # ---- one reader ------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Start a reader and wait until its camera has answered.

        Raises:
            EOFError: it did not.
        """
        self.status.enter(OPENING)
        self._told.clear()
        self._end = None
        limit_s, deadline = _START_LIMIT_S, time.monotonic() + _START_LIMIT_S
        with self._lock:
            if self._is_closing():
                return
            self._reader = self._start()
        while not self._is_closing():
            arrived = self._receive(deadline)
            if arrived is None:
                if time.monotonic() >= deadline:
                    raise EOFError(f"no answer within {limit_s:g} s")
            elif arrived.message["kind"] == "hello":
                limit_s, deadline = self._options.timeout_s, time.monotonic() + self._options.timeout_s
            elif arrived.message["kind"] == "open":
                self.fps = arrived.message["fps"]
                self._heard = time.monotonic()
                return

    def _receive(self, until: float) -> Arrived | None:
        """The reader's next message; None at that time, and when this source is closed.

        Raises:
            EOFError: the reader is gone, or says why it goes.
        """
        reader = self._reader
        arrived = None if reader is None else reader.receive(until - time.monotonic(), self._wake)
        if arrived is None:
            return None
        message, status = arrived.message, self.status
        if message["kind"] == "error":
            raise EOFError(without_secrets(message["text"]).removeprefix(f"{status.uri}: "))
        if message["kind"] == "note":
            status.note(without_secrets(message["text"]))
        elif message["kind"] in ("frame", "alive"):
            counts = Counter(message["dropped"], captured=message["captured"])
            new, self._told = counts - self._told, counts
            status.captured += new.pop("captured", 0)
            for cause, count in new.items():
                status.dropped[cause] = status.dropped.get(cause, 0) + count
        return arrived

    def _frames(self) -> Iterator[Frame]:
        """Frames of the present reader.

        Raises:
            EOFError: it is lost; the state says whether it had fallen silent.
        """
        while not self._is_closing():
            if self._end is not None:
                raise self._end
            arrived = self._receive(self._heard + self._options.timeout_s)
            if arrived is None:
                if not self._is_closing() and time.monotonic() >= self._heard + self._options.timeout_s:
                    reason = f"no data within {self._options.timeout_s:g} s"
                    self.status.enter(STALLED, reason)
                    raise EOFError(reason)
                continue
            if arrived.picture is None:
                if arrived.message["kind"] == "alive":
                    self._heard = time.monotonic()
                continue
            frame = self._frame(arrived) if self._options.every_frame else self._newest(arrived)
            self._heard = time.monotonic()
            if self.status.state != LIVE:
                self.status.enter(LIVE)
            if self._is_closing():
                self.status.drop("stopped")
                return
            yield frame

    def _newest(self, arrived: Arrived) -> Frame:
        """The last of the frames that have come meanwhile."""
        frame = self._frame(arrived)
        try:
            while (later := self._receive(0.0)) is not None:
                if later.picture is not None:
                    self.status.drop("replaced")
                    frame = self._frame(later)
        except EOFError as error:
            self._end = error  # the last frame first
        return frame

    def _frame(self, arrived: Arrived) -> Frame:
        assert arrived.picture is not None
        message = arrived.message
        return Frame(
            arrived.picture,
            self.status.captured - 1,
            self.status.source_id,
            message["capture_time_ns"],
            message["media_time_s"],
        )

    # ---- one after another -----------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Frame]:
        """Frames as long as the camera lives.

        Raises:
            SourceError: it gave no frame for `options.give_up_s`.
        """
        self._iterated = True
        self._heard = time.monotonic()
        last_frame, pause_s = self._heard, self._options.first_pause_s
        try:
            while not self._is_closing():
                try:
                    for frame in self._frames():
                        pause_s = self._options.first_pause_s
                        yield frame
                        last_frame = time.monotonic()
                except EOFError as error:
                    reason = str(error)
                if self._is_closing():
                    break
                pause_s = self._recover(reason, pause_s, last_frame)
        finally:
            self.close()
            self.status.end()
            self._release()

    def _recover(self, reason: str, pause_s: float, last_frame: float) -> float:
        """Pause and open again, until it works; gives the next pause.

        Raises:
            SourceError: it took too long.
        """
        give_up_s, status = self._options.give_up_s, self.status
        while not self._is_closing():
            self._kill()
            if give_up_s is not None and time.monotonic() - last_frame >= give_up_s:
                status.enter(DEAD, reason)
                raise SourceError(f"{status.uri} is lost for {give_up_s:g} s, after {status.captured} frames: {reason}")
            status.enter(BACKOFF, reason)
            lost = f"{status.uri}: lost after {status.captured} frames: {reason}"
            status.note(lost)
            _log.warning("%s; it is opened again", lost)
            self._sleep(pause_s * random.uniform(1 - _JITTER, 1 + _JITTER))
            pause_s = min(2 * pause_s, self._options.longest_pause_s)
            if self._is_closing():
                break
            status.reconnects += 1
            try:
                self._open()
                break
            except (EOFError, SourceError) as error:
                reason = str(error)
        return pause_s

    def _sleep(self, seconds: float) -> None:
        readable([self._wake], seconds)

    # ---- ending ----------------------------------------------------------------------------------------------------

    def _is_closing(self) -> bool:
        """Asked anew each time: `close` comes from other threads."""
        return self._closing

    def _kill(self) -> None:
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None and not reader.kill():
            self.status.note(f"{self.status.uri}: its reader is stuck in a driver and was left behind")
            _log.warning("%s: its reader is stuck in a driver and was left behind", self.status.uri)

    def close(self) -> None:
        """End the iteration and the reader; also from another thread."""
        with self._lock:
            if not self._closing:
                self._closing = True
                os.eventfd_write(self._wake, 1)
        self._kill()
        if not self._iterated:
            self.status.end()
            self._release()

"""The newest frame of something that does not wait: a thread reads all, whoever is slower gets the latest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from edgevision.errors import SourceError
from edgevision.frame import Frame
from edgevision.sources.base import ClosesOnExit, SourceStatus
from edgevision.sources.decoding import Decoder

_log = logging.getLogger(__name__)
_CLOSE_LIMIT_S = 1.0
_WAKE_S = 1.0  # no wait is longer, so that a lost notification cannot hang anybody


class LiveSource(ClosesOnExit):
    """A reader thread that owns a decoder from opening to closing, and a slot for one frame.

    FFmpeg cannot be interrupted inside a read; but each read has a deadline. `close` waits a second for the thread and
    then leaves it to end by itself within that deadline: nobody hangs on a dead camera.
    """

    live = True
    frame_count = None

    def __init__(self, open_decoder: Callable[[], Decoder], status: SourceStatus, timeout_s: float) -> None:
        """
        Raises:
            SourceError: opening failed, or took longer than `timeout_s` (twice: to connect, and to see what comes).
        """
        self.status = status
        self.fps: float | None = None
        self._open_decoder = open_decoder
        self._changed = threading.Condition()
        self._slot: Frame | None = None
        self._ended = False
        self._closed = False
        self._error: Exception | None = None
        # Not a daemon: the interpreter must not shut down under a thread inside FFmpeg.
        self._thread = threading.Thread(target=self._read, name=f"read {status.source_id}")
        self._thread.start()
        try:
            self._await_opening(2 * timeout_s + 1.0)
        except BaseException:
            self.close()
            raise

    def _await_opening(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        with self._changed:
            while self.status.state == "opening" and time.monotonic() < deadline:
                self._changed.wait(min(_WAKE_S, limit_s))
            if self._error:
                raise self._error
            if self.status.state == "opening":
                raise SourceError(f"{self.status.uri} did not open within {limit_s:g} s; is the host reachable?")

    def _read(self) -> None:
        status, error, decoder = self.status, None, None
        try:
            decoder = self._open_decoder()
            with self._changed:
                self.fps, status.state = decoder.fps, "live"
                self._changed.notify_all()
            for frame in decoder.frames():
                with self._changed:
                    if self._closed:
                        status.drop("stopped")
                        break
                    if self._slot is not None:
                        status.drop("replaced")
                    self._slot = frame
                    self._changed.notify_all()
        except Exception as caught:  # noqa: BLE001  whatever it is, whoever iterates must hear of it
            error = caught
        finally:
            if decoder is not None:
                decoder.close()
            with self._changed:
                status.state = "ended" if self._closed and not error else "failed"
                self._error, self._ended = None if self._closed else error, True
                self._changed.notify_all()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                while self._slot is None and not self._ended and not self._closed:
                    self._changed.wait(_WAKE_S)
                frame, self._slot = self._slot, None
                if self._closed and frame is not None:
                    self.status.drop("stopped")
                    frame = None
            if frame is None:
                break
            yield frame
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the iteration and the reader thread; also from another thread."""
        with self._changed:
            first, self._closed = not self._closed, True
            if self._slot is not None:
                self.status.drop("stopped")
                self._slot = None
            self._changed.notify_all()
        self._thread.join(_CLOSE_LIMIT_S)
        if first and self._thread.is_alive():
            _log.warning("%s: its reader is stuck in a read and was left to its deadline", self.status.uri)

"""Pictures that a program makes or has already, as a source."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from numpy.typing import NDArray

from edgevision.frame import Frame
from edgevision.sources.base import LIVE, ClosesOnExit, SourceStatus


class PictureIterator(ClosesOnExit):
    """Whatever yields pictures, (h, w, 3) uint8 BGR, or whole frames.

    A picture becomes a frame with the next number and the time at which it was yielded; of a frame all is kept but the
    source's name. The pictures are not copied: whoever yields them does not write into them again.
    """

    def __init__(
        self,
        pictures: Iterable[NDArray[Any] | Frame],
        source_id: str = "pictures",
        *,
        live: bool = False,
        fps: float | None = None,
    ) -> None:
        """
        Args:
            source_id: unique within a pipeline.
            live: the pictures do not wait, the newest counts; else none is lost.
            fps: nominal rate, for writing videos.
        """
        self.live, self.fps = live, fps
        self.frame_count = len(pictures) if isinstance(pictures, Sized) else None
        self.status = SourceStatus(f"pictures:{source_id}", source_id)
        self._pictures = pictures
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        """
        Raises:
            UsageError: what came is no picture.
            Exception: whatever the iterable raises.
        """
        status = self.status
        status.enter(LIVE)
        try:
            for picture in self._pictures:
                if self._closed.is_set():
                    break
                status.captured += 1
                if isinstance(picture, Frame):
                    yield Frame(
                        picture.picture,
                        picture.frame_id,
                        status.source_id,
                        picture.capture_time_ns,
                        picture.media_time_s,
                        picture.name,
                    )
                else:
                    yield Frame(picture, status.captured - 1, status.source_id, time.monotonic_ns())
        finally:
            status.end()

    def close(self) -> None:
        """Ends the iteration before the next picture."""
        self._closed.set()

"""Video decoding through PyAV, with every lost frame counted: what files, network streams and USB cameras share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import SourceError
from edgevision.frame import Frame
from edgevision.machine import cores, return_freed_memory
from edgevision.optional import require
from edgevision.sources.base import SourceStatus

MAX_PIXELS = 1 << 26
"""Larger frames are refused: 8192x8192."""
_MAX_THREADS = 8


class Decoder:
    """The first video stream of a container. Opened, read and closed by one thread.

    Damage is never passed on: a frame that the decoder had to patch up is dropped as `decode_error`, where OpenCV
    would deliver it grey. A change of size in mid-stream is followed.
    """

    def __init__(
        self,
        location: str,
        status: SourceStatus,
        *,
        live: bool,
        timeout_s: float | None = None,
        container_format: str | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        """Open `location` and find out what is in it.

        Args:
            timeout_s: limit for opening and for each read; None where reading cannot block.
            options: FFmpeg's, for the container.

        Raises:
            SourceError: it cannot be opened, holds no video, or its frames are too large.
        """
        self._av = require("av", "reading video")
        self.status, self._live, self._timeout_s = status, live, timeout_s
        self._size_wh: tuple[int, int] | None = None
        # From version 17 on PyAV converts colours in as many threads as there are cores; beside busy lanes they wait
        # for each other (measured at 720p: 8 ms a frame instead of 3).
        one_thread = {"threads": 1} if int(self._av.__version__.partition(".")[0]) >= 17 else {}
        self._conversion = {"format": "bgr24", **one_thread}
        asked = time.monotonic()
        try:
            self._container = self._av.open(
                location, format=container_format, container_options=options or {}, timeout=timeout_s
            )
        except self._av.FFmpegError as error:
            # An interrupted RTSP handshake looks like bad data.
            late = timeout_s is not None and time.monotonic() - asked >= timeout_s
            reason = f"no answer within {timeout_s:g} s" if late else self._reason(error)
            raise SourceError(f"{status.uri} cannot be opened: {reason}") from error
        try:
            self._stream: Any = self._prepare()
        except SourceError:
            self.close()
            raise

    def _prepare(self) -> Any:
        if not self._container.streams.video:
            raise SourceError(f"{self.status.uri} holds no video, only {len(self._container.streams)} other stream(s)")
        stream = self._container.streams.video[0]
        codec = stream.codec_context
        if codec is None:
            raise SourceError(f"{self.status.uri}: this PyAV has no decoder for its video; convert it to H.264")
        if codec.width * codec.height > MAX_PIXELS:
            raise SourceError(
                f"{self.status.uri}: its frames are {codec.width}x{codec.height}, the limit is {MAX_PIXELS} pixels"
            )
        # Each further thread holds back one frame: 33 ms of a live picture, but nothing to a recording, where one
        # thread alone (about 300 frames/s of 720p) would starve many lanes.
        codec.thread_count = 1 if self._live else min(max(1, cores() // 2), _MAX_THREADS)
        codec.thread_type = "FRAME"
        codec.options = {"max_pixels": str(MAX_PIXELS), **({"flags": "low_delay"} if self._live else {})}
        return stream

    @property
    def fps(self) -> float | None:
        """Nominal frame rate; None where the container states none."""
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else None

    @property
    def frame_count(self) -> int | None:
        """Number of frames that the container declares, or that its duration and rate suggest."""
        if self._stream.frames:
            return int(self._stream.frames)
        if self._container.duration and self.fps:
            return int(self._container.duration / self._av.time_base * self.fps + 0.5)
        return None

    def frames(self) -> Iterator[Frame]:
        """The pictures as frames of their own memory; see `pictures`."""
        for picture, _ in self.pictures():
            yield Frame(
                self.bgr(picture), self.status.captured - 1, self.status.source_id, time.monotonic_ns(), picture.time
            )

    def pictures(self) -> Iterator[tuple[Any, int]]:
        """Decode to the end: PyAV's pictures, each already counted as captured, and when their data had arrived
        (`time.monotonic_ns()`).

        Raises:
            SourceError: reading failed, timed out, or ended before what the container declares.
        """
        status, stream = self.status, self._stream
        packets = self._container.demux(stream)
        packet_count, last_s = 0, 0.0
        while True:
            asked = time.monotonic()
            try:
                packet = next(packets, None)
            except self._av.FFmpegError as error:
                self._check_in_time(asked)
                raise SourceError(
                    f"{status.uri}: reading failed after {status.captured} frames: {self._reason(error)}"
                ) from error
            # After its own timeout FFmpeg may still hand out what it held: a stale frame, and another full wait.
            self._check_in_time(asked)
            if packet is None:
                break
            arrived_ns = time.monotonic_ns()
            if packet.pts is not None and packet.time_base is not None:
                last_s = max(last_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            yield from self._decoded(packet, packet_count, arrived_ns)
            packet_count += bool(packet.size)
        self._check_complete(packet_count, last_s)

    def _check_in_time(self, asked: float) -> None:
        if self._timeout_s is not None and time.monotonic() - asked >= self._timeout_s:
            raise SourceError(
                f"{self.status.uri}: no data within {self._timeout_s:g} s, after {self.status.captured} frames"
            )

    def _decoded(self, packet: Any, index: int, arrived_ns: int) -> Iterator[tuple[Any, int]]:
        status = self.status
        try:
            pictures = packet.decode()
        except self._av.FFmpegError as error:
            held_back = self._stream.codec_context.thread_count - 1
            self._lose(max(status.captured, index - held_back), f"nothing ({error.strerror})")
            return
        for picture in pictures:
            if picture.is_corrupt:
                self._lose(status.captured, "a damaged one")
                continue
            self._note_size(picture)
            status.captured += 1
            yield picture, arrived_ns

    def _lose(self, index: int, got: str) -> None:
        self.status.captured += 1
        self.status.drop("decode_error", f"{self.status.uri}: frame {index}: expected a whole picture, got {got}")

    def _note_size(self, picture: Any) -> None:
        before_wh, self._size_wh = self._size_wh, (picture.width, picture.height)
        if self._live or before_wh is None or before_wh == self._size_wh:
            return
        before, now = (f"{width}x{height}" for width, height in (before_wh, self._size_wh))
        self.status.note(
            f"{self.status.uri}: frame {self.status.captured}: expected {before} as before, got {now}; it is followed"
        )

    def bgr(self, picture: Any) -> NDArray[np.uint8]:
        """A picture's pixels, (h, w, 3) uint8 BGR, upright; valid as long as `picture` is."""
        image: NDArray[np.uint8] = picture.to_ndarray(**self._conversion)
        if picture.rotation:  # a telephone held upright; degrees anticlockwise
            image = np.ascontiguousarray(np.rot90(image, round(picture.rotation / 90)))
        return image

    def _check_complete(self, packet_count: int, last_s: float) -> None:
        """FFmpeg ends quietly where a file was cut. Fewer packets than declared can also come from an edit list;
        then the declared duration is reached all the same."""
        status, stream = self.status, self._stream
        if not self._live:
            self._count_skipped(packet_count)
        else:
            raise SourceError(f"{status.uri}: the stream ended after {status.captured} frames; is the camera still on?")
        if stream.frames and stream.duration and packet_count < stream.frames:
            declared_s = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
            if last_s < declared_s - 1.5 / (self.fps or 25.0):
                raise SourceError(
                    f"{status.uri} is cut short: it ends at frame {status.captured}: expected {stream.frames} frames "
                    f"({declared_s:.2f} s) as its header says, got {status.captured} ({last_s:.2f} s); copy it again"
                )
        elif not stream.frames and self._container.duration:
            declared_s = self._container.duration / self._av.time_base
            if last_s < 0.95 * declared_s - 1.0:
                status.note(
                    f"{status.uri}: its video ends at {last_s:.2f} s, its header promises {declared_s:.2f} s; "
                    "it may be cut short"
                )

    def _count_skipped(self, packet_count: int) -> None:
        """A decoder skips frames that refer to damaged ones without a word."""
        status, skipped = self.status, packet_count - self.status.captured
        if skipped > 0 and status.dropped.get("decode_error"):
            for _ in range(skipped):
                status.captured += 1
                status.drop("decode_error")
            status.note(
                f"{status.uri}: up to frame {packet_count - 1}: expected {packet_count} frames, got {skipped} fewer: "
                "the decoder skipped them behind the damage"
            )

    def _reason(self, error: Exception) -> str:
        if isinstance(error, self._av.error.InvalidDataError):
            return (
                "frame 0: expected a whole video, got data that FFmpeg does not know, or incomplete ones "
                "(a recording that was never finished?)"
            )
        return str(getattr(error, "strerror", None) or error)

    def close(self) -> None:
        """Free the container and the decoder, which has threads and pictures of its own; may be called twice."""
        self._stream = None
        self._container.close()
        return_freed_memory()  # which the thread of the next recording may not find

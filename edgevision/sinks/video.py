"""Annotated video: H.264 in MP4, playable even when the run is killed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.drawing import draw
from edgevision.frame import Frame
from edgevision.geometry import place
from edgevision.optional import require
from edgevision.results import Result
from edgevision.sinks.base import Sink, cannot_write, check_folder
from edgevision.sources.base import Source

UNDERSTANDS = "annotated video: out.mp4"
ONE_SOURCE = True
_log = logging.getLogger(__name__)
_TICKS = 90_000  # per second: every usual frame rate is a whole number of these
_SLIDE_FPS = 2.0  # pictures have no rate of their own
_KEY_FRAMES_S = 2.0
_SMPTE170M, _LIMITED = 6, 1  # the matrix and range of OpenCV's BGR to YUV conversion (ITU-T H.273)
_PAD_GREY = 16


def claims(uri: str) -> bool:
    return "://" not in uri and Path(uri).suffix.lower() == ".mp4"


def make(uri: str, source: Source | None) -> Sink:
    return Video(Path(uri), source.fps if source else None, live=bool(source and source.live))


class Video:
    """Frames keep their times: a live source's dropped frames become longer ones, never a faster video.

    The video has the size of its first frame (made even); frames of another size are fitted into it with borders.
    While it is written the file is fragmented, so a killed run loses at most the last two seconds; closing makes it a
    plain MP4.
    """

    name = ""

    def __init__(self, path: Path, fps: float | None, *, live: bool) -> None:
        check_folder(path)
        self._path, self._fps, self._live = path, fps or _SLIDE_FPS, live
        self._av, self._cv2 = require("av", "writing video"), require("cv2", "writing video")
        self._stream: Any = None
        self._first_s, self._last_ticks = 0.0, -1
        try:
            self._container = self._av.open(
                str(path),
                "w",
                container_options={"movflags": "hybrid_fragmented+frag_keyframe", "flush_packets": "1"},
            )
        except (self._av.FFmpegError, OSError) as error:
            raise cannot_write(path, error) from error

    def _start(self, frame: Frame) -> None:
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        if codec == "mpeg4":
            _log.warning("%s: this PyAV has no H.264 encoder, the video is MPEG-4 part 2", self._path)
        stream = self._container.add_stream(codec, rate=Fraction(self._fps).limit_denominator(1001))
        stream.width, stream.height = (side + side % 2 for side in frame.size_wh)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, _TICKS)
        context.gop_size = max(1, round(self._fps * _KEY_FRAMES_S))
        context.max_b_frames = 0  # a fragmented file could only start late by the frames they hold back
        context.colorspace, context.color_range = _SMPTE170M, _LIMITED
        stream.options = {"preset": "superfast", "crf": "23"} if codec == "libx264" else {"qscale": "4"}
        self._stream, self._first_s = stream, self._time_s(frame)

    def _time_s(self, frame: Frame) -> float:
        if frame.media_time_s is not None:
            return frame.media_time_s
        return frame.capture_time_ns / 1e9 if self._live else frame.frame_id / self._fps

    def _fitted(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        wanted_wh = self._stream.width, self._stream.height
        height, width = image.shape[:2]
        if (width + width % 2, height + height % 2) != wanted_wh:
            placed = place((width, height), wanted_wh, "letterbox-topleft")
            image = self._cv2.resize(image, placed.content_wh, interpolation=self._cv2.INTER_AREA)
            height, width = image.shape[:2]
        if (width, height) == wanted_wh:
            return image
        below, right = wanted_wh[1] - height, wanted_wh[0] - width
        mode = self._cv2.BORDER_REPLICATE if max(below, right) == 1 else self._cv2.BORDER_CONSTANT
        padded: NDArray[np.uint8] = self._cv2.copyMakeBorder(image, 0, below, 0, right, mode, value=(_PAD_GREY,) * 3)
        return padded

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        if self._stream is None:
            self._start(frame)
        image = self._fitted(draw(frame.image, result))
        picture = self._av.VideoFrame.from_ndarray(
            self._cv2.cvtColor(image, self._cv2.COLOR_BGR2YUV_I420), format="yuv420p"
        )
        ticks = max(self._last_ticks + 1, round((self._time_s(frame) - self._first_s) * _TICKS))
        picture.pts, picture.time_base, self._last_ticks = ticks, Fraction(1, _TICKS), ticks
        self._encode(picture)

    def _encode(self, picture: Any) -> None:
        try:
            self._container.mux(self._stream.encode(picture))
        except (self._av.FFmpegError, OSError) as error:
            raise cannot_write(self._path, error) from error

    def close(self) -> None:
        container, self._container = self._container, None
        if container is None:
            return
        try:
            if self._stream is not None:
                container.mux(self._stream.encode(None))
            container.close()
            if self._stream is None:
                self._path.unlink(missing_ok=True)
        except (self._av.FFmpegError, OSError) as error:
            raise cannot_write(self._path, error) from error

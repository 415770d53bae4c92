"""What the tests of cameras, videos and pipelines share: clips whose frames know their number, and a countable model.

The number is painted as a row of black and white blocks, which survive any codec: a result can be checked to belong
to its frame, and a video to hold the frames it should.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from edgevision.frame import Frame
from edgevision.machine import cores
from edgevision.results import Detections
from edgevision.sources.base import LIVE, ClosesOnExit, SourceStatus

BITS = 12
BLOCK = 8
SIZE_WH = (160, 96)


def numbered(number: int, size_wh: tuple[int, int] = SIZE_WH) -> NDArray[np.uint8]:
    """(h, w, 3) BGR with `number` painted along its top; the rest a gradient that moves with it."""
    width, height = size_wh
    ramp = (np.arange(width)[None, :] + np.arange(height)[:, None] + 3 * number) % 200
    image = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    image[:BLOCK, : BITS * BLOCK] = np.repeat(bits, BLOCK)[None, :, None]
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """The number painted by `numbered`."""
    middle = image[BLOCK // 2, BLOCK // 2 : BITS * BLOCK : BLOCK, 1]
    return sum(1 << bit for bit in range(BITS) if middle[bit] > 127)


def write_video(
    path: Path | str,
    count: int = 30,
    size_wh: tuple[int, int] = SIZE_WH,
    fps: int = 30,
    container: str | None = None,
    movflags: str = "faststart",
) -> Path:
    """An H.264 clip of numbered frames, a key frame every ten, no frame reordering."""
    options = {"movflags": movflags} if container in (None, "mp4") else {}
    with av.open(str(path), "w", format=container, container_options=options) as output:
        stream = output.add_stream("libx264", rate=fps)
        stream.width, stream.height = size_wh
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 10
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "20"}
        for number in range(count):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number, size_wh), format="bgr24")))
        output.mux(stream.encode(None))
    return Path(path)


class CountingModel:
    """A model whose lanes find one box per frame, of the class that is the frame's number.

    Args:
        delay_s: time that one frame takes; every third takes twice as long, so that lanes overtake each other.
        fails_at: number of the frame at which the lane breaks.
        most: frames that a lane takes at once.
    """

    def __init__(self, delay_s: float = 0.0, fails_at: int | None = None, most: int = 1) -> None:
        self.delay_s, self.fails_at, self.most = delay_s, fails_at, most
        self.batches: list[int] = []
        self.opened = self.closed = 0

    def lanes(self) -> int:
        return cores()

    def open_lane(self, threads: int = 1) -> CountingLane:
        self.opened += 1
        return CountingLane(self)


class CountingLane:
    def __init__(self, model: CountingModel) -> None:
        self._model, self.most = model, model.most
        self.timing_ms: dict[str, float] = {}

    def __call__(self, frame: Frame) -> Detections:
        number = number_of(frame.image)
        if number == self._model.fails_at:
            raise RuntimeError(f"lane broke at {number}")
        start = time.perf_counter()
        time.sleep(self._model.delay_s * (2 if number % 3 == 0 else 1))
        self.timing_ms = {"inference": (time.perf_counter() - start) * 1e3}
        box, score = np.array([[10, 10, 60, 50]], np.float32), np.array([0.5], np.float32)
        return Detections(box, score, np.array([number]))

    def batch(self, frames: Sequence[Frame]) -> list[Detections]:
        """As long as for one of them."""
        self._model.batches.append(len(frames))
        delay_s, self._model.delay_s = self._model.delay_s, 0.0
        try:
            time.sleep(delay_s)
            return [self(frame) for frame in frames]
        finally:
            self._model.delay_s = delay_s

    def close(self) -> None:
        self._model.closed += 1


class ListSource(ClosesOnExit):
    """Numbered frames from memory; may break at its end, wait between frames, or call itself live."""

    def __init__(
        self,
        count: int,
        source_id: str = "list",
        *,
        live: bool = False,
        pause_s: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        self.live, self.frame_count, self.fps = live, count, 30.0
        self.status = SourceStatus(f"list:{count}", source_id)
        self._pause_s, self._error = pause_s, error
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        self.status.enter(LIVE)
        for number in range(self.frame_count):
            if self._closed.wait(self._pause_s) if self._pause_s else self._closed.is_set():
                return
            self.status.captured += 1
            yield Frame(numbered(number), number, self.status.source_id)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._closed.set()


@contextmanager
def no_thread_left(limit_s: float = 2.0) -> Iterator[None]:
    """Fails when a thread that started inside is still running `limit_s` after it."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + limit_s
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"still running: {[thread.name for thread in left]}"

"""The synthetic camera: a drone's view rendered from a seed, as a recording or paced like a live camera."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

from edgevision.errors import UsageError
from edgevision.frame import Frame
from edgevision.sources.base import LIVE, ClosesOnExit, Source, SourceStatus
from edgevision.sources.options import SourceOptions

UNDERSTANDS = (
    "the synthetic camera: 'synthetic://aerial?seed=1&size=1280x720&fps=30&frames=300' (&live=1 paces it in real time)"
)
_RECORDING_FRAMES = 300
_MAX_SIDE = 8192


def claims(uri: str) -> bool:
    return uri.startswith("synthetic:")


def make(uri: str, status: SourceStatus, options: SourceOptions) -> Source:
    return Synthetic(uri, status)


class Synthetic(ClosesOnExit):
    """`frames` frames, or without that 300 of a recording and no end of a live camera.

    A live camera does not wait: frames whose time has passed are not rendered, and counted as `replaced`.
    """

    def __init__(self, uri: str, status: SourceStatus) -> None:
        parts = urlsplit(uri)
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        known = {"seed": "1", "size": "1280x720", "fps": "30", "frames": "", "live": "0"}
        if parts.netloc != "aerial" or parts.path.strip("/") or not set(given) <= set(known):
            raise UsageError(f"{uri}: the only scene is 'aerial', its parameters are {', '.join(known)}")
        value = {**known, **given}
        patterns = {
            "seed": r"\d{1,9}",
            "size": r"\d{1,5}x\d{1,5}",
            "fps": r"\d{1,4}(\.\d+)?",
            "frames": r"\d{0,9}",
            "live": "[01]",
        }
        wrong = [key for key, pattern in patterns.items() if not re.fullmatch(pattern, value[key])]
        if wrong:
            raise UsageError(f"{uri}: {wrong[0]}={value[wrong[0]]!r} is not of the form {UNDERSTANDS}")
        width, height = map(int, value["size"].split("x"))
        self.fps = float(value["fps"])
        if not (min(width, height) >= 64 and max(width, height) <= _MAX_SIDE and self.fps > 0):
            raise UsageError(f"{uri}: size is 64x64 to {_MAX_SIDE}x{_MAX_SIDE} and fps is above zero")
        self.live = value["live"] == "1"
        self.frame_count = int(value["frames"]) if value["frames"] else None if self.live else _RECORDING_FRAMES
        self.status = status
        self._closed = threading.Event()

        from edgevision.synthetic import AerialScene

        self._scene = AerialScene(int(value["seed"]), (width, height), self.fps)

    def __iter__(self) -> Iterator[Frame]:
        status = self.status
        status.enter(LIVE)
        start_ns = time.monotonic_ns()
        count = itertools.count() if self.frame_count is None else range(self.frame_count)
        try:
            for i in count:
                due_ns = start_ns + round(i / self.fps * 1e9)
                if self.live:
                    self._closed.wait(max(0, due_ns - time.monotonic_ns()) / 1e9)
                if self._closed.is_set():
                    break
                status.captured += 1
                if self.live and time.monotonic_ns() > due_ns + 1e9 / self.fps:
                    status.drop("replaced")
                    continue
                image = self._scene.render(i, with_class_map=False).image
                yield Frame(image, i, status.source_id, media_time_s=None if self.live else i / self.fps)
        finally:
            status.end()

    def close(self) -> None:
        """Ends the iteration; also from another thread."""
        self._closed.set()

"""Detections or tracks in the format of the Multiple Object Tracking challenges.

Source: MOTChallenge, https://motchallenge.net/instructions: one line per box, `frame, id, left, top, width, height,
confidence, x, y, z`; frames count from 1, an unknown id is -1, world coordinates are -1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgevision.errors import SinkError
from edgevision.frame import Frame
from edgevision.geometry import xyxy_to_xywh
from edgevision.results import Detections, Result
from edgevision.sinks.base import Sink
from edgevision.sinks.text_file import TextFile
from edgevision.sources.base import Source

UNDERSTANDS = "MOTChallenge lines: mot:out.txt (detection)"
ONE_SOURCE = True


def claims(uri: str) -> bool:
    return uri.startswith("mot:")


def make(uri: str, source: Source | None) -> Sink:
    return MotLines(Path(uri.removeprefix("mot:")))


class MotLines:
    """Complete and flushed frame by frame."""

    name = ""

    def __init__(self, path: Path) -> None:
        self._file = TextFile(path)

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        if not isinstance(result, Detections):
            raise SinkError(f"mot:{self._file.path} takes detections, this model gives {type(result).__name__}")
        ids = [-1] * len(result) if result.tracker_id is None else result.tracker_id.tolist()
        boxes = xyxy_to_xywh(result.xyxy).tolist()
        lines = [
            f"{frame.frame_id + 1},{ids[i]},{','.join(f'{value:.2f}' for value in box)},{confidence:.4f},-1,-1,-1\n"
            for i, (box, confidence) in enumerate(zip(boxes, result.confidence.tolist(), strict=True))
        ]
        self._file.write("".join(lines))

    def close(self) -> None:
        self._file.close()

"""Annotated pictures: one file per frame, or one picture for a source of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from edgevision.drawing import draw
from edgevision.errors import SinkError, UsageError
from edgevision.frame import Frame
from edgevision.optional import require
from edgevision.results import Result
from edgevision.sinks.base import Sink, cannot_write, check_folder
from edgevision.sources.base import Source

UNDERSTANDS = "annotated pictures: out_%06d.jpg (or .png; the number is the frame's), out.jpg for a single picture"
ONE_SOURCE = True
_SUFFIXES = (".jpg", ".jpeg", ".png")
_JPEG_QUALITY = 92


def claims(uri: str) -> bool:
    return "://" not in uri and Path(uri).suffix.lower() in _SUFFIXES


def make(uri: str, source: Source | None) -> Sink:
    """
    Raises:
        UsageError: the pattern has more than one number, or something else behind a %.
    """
    if not re.fullmatch(r"[^%]*(%(0\d{1,2})?d[^%]*)?", uri) or "%" in str(Path(uri).parent):
        raise UsageError(f"sink {uri!r}: the file's name holds one number like %06d, and no other %")
    return Images(uri)


class Images:
    """Each picture is written beside its name and renamed, so that a watcher of the folder never reads half of one."""

    name = ""

    def __init__(self, pattern: str) -> None:
        check_folder(Path(pattern))
        self._cv2 = require("cv2", "writing pictures")
        self._pattern = pattern
        self._written = 0

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        numbered = "%" in self._pattern
        path = Path(self._pattern % frame.frame_id if numbered else self._pattern)
        if self._written and not numbered:
            raise SinkError(
                f"{path} holds one picture, but the source has more; number them: "
                f"{path.with_name(f'{path.stem}_%06d{path.suffix}')}"
            )
        _, encoded = self._cv2.imencode(
            path.suffix.lower(), draw(frame.image, result), [self._cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        )
        beside = path.with_name(f".{path.name}.part")
        try:
            beside.write_bytes(encoded)
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise cannot_write(path, error) from error
        self._written += 1

    def close(self) -> None:
        """Nothing is held open."""

"""A still picture as a source of one frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgevision.frame import Frame
from edgevision.pictures import SUFFIXES, read_picture
from edgevision.sources.base import LIVE, ClosesOnExit, Source, SourceStatus
from edgevision.sources.options import SourceOptions

UNDERSTANDS = f"a picture: photo.jpg ({' '.join(SUFFIXES)})"
PATTERN = frozenset("*?[")


def claims(uri: str) -> bool:
    path = Path(uri)
    return "://" not in uri and path.suffix.lower() in SUFFIXES and (path.is_file() or not PATTERN & set(uri))


def make(uri: str, status: SourceStatus, options: SourceOptions) -> Source:
    return Picture(Path(uri), status)


class Picture(ClosesOnExit):
    """One picture, decoded when opened, so that a bad file is told at once."""

    live = False
    frame_count = 1
    fps = None

    def __init__(self, path: Path, status: SourceStatus) -> None:
        self.status = status
        self._image = read_picture(path)
        self._name = path.name

    def __iter__(self) -> Iterator[Frame]:
        self.status.enter(LIVE)
        self.status.captured += 1
        try:
            yield Frame(self._image, 0, self.status.source_id, name=self._name)
        finally:
            self.status.end()

    def close(self) -> None:
        """Nothing is held open."""

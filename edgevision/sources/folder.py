"""A folder or a pattern of pictures, in natural order; what cannot be read is skipped, counted and named."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from edgevision.errors import SourceError
from edgevision.frame import Frame
from edgevision.pictures import SUFFIXES, read_picture
from edgevision.sources.base import DEAD, LIVE, ClosesOnExit, Source, SourceStatus
from edgevision.sources.options import SourceOptions
from edgevision.sources.picture import PATTERN

UNDERSTANDS = "pictures: photos/ or 'photos/*.jpg' (** reaches into subfolders)"


def claims(uri: str) -> bool:
    path = Path(uri)
    return bool(uri) and "://" not in uri and not path.is_file() and (path.is_dir() or bool(PATTERN & set(uri)))


def make(uri: str, status: SourceStatus, options: SourceOptions) -> Source:
    return Folder(uri, status)


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts `frame_2` before `frame_10`."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


class Folder(ClosesOnExit):
    """The pictures of a folder or pattern. A pattern's matches are all tried, a folder's by their suffix."""

    live = False
    fps = None

    def __init__(self, uri: str, status: SourceStatus) -> None:
        self.status = status
        if Path(uri).is_dir():
            found = [path for path in Path(uri).iterdir() if path.suffix.lower() in SUFFIXES]
            looked_for = f"{' '.join(f'*{suffix}' for suffix in SUFFIXES)} in folder {uri}"
        else:
            found = [Path(name) for name in glob.glob(uri, recursive=True) if Path(name).is_file()]  # noqa: PTH207
            looked_for = f"the pattern {uri}"
        if not found:
            raise SourceError(f"no pictures: {looked_for} matches no file")
        self._paths = sorted(found, key=natural_key)
        self.frame_count = len(self._paths)
        self._closed = False

    def __iter__(self) -> Iterator[Frame]:
        status = self.status
        status.enter(LIVE)
        try:
            for frame_id, path in enumerate(self._paths):
                if self._closed:
                    break
                status.captured += 1
                try:
                    image = read_picture(path)
                except SourceError as error:
                    note = f"frame {frame_id}: expected a whole picture, got none: {error}"
                    status.drop("decode_error", note)
                    continue
                yield Frame(image, frame_id, status.source_id, name=path.name)
            if status.dropped.get("decode_error") == len(self._paths):
                status.enter(DEAD)
                raise SourceError(
                    f"none of the {len(self._paths)} pictures of {status.uri} can be read; the first: {status.notes[0]}"
                )
        finally:
            status.end()

    def close(self) -> None:
        """Ends the iteration after the current picture."""
        self._closed = True

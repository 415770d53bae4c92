"""The pictures to calibrate on: found, put in order, thinned out evenly, read one at a time."""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import CalibrationError, SourceError, UsageError
from edgevision.frame import check_picture
from edgevision.pictures import SUFFIXES, read_picture


class CalibrationImages:
    """Pictures from a folder, a glob or a single file; at most `limit` of them.

    A folder is searched with all its sub-folders. Hidden files are left out. Names are ordered naturally (2 before
    10), and where there are more than `limit` pictures, evenly spaced ones are taken. Nothing is decoded before it is
    asked for, and no picture is kept.

    Attributes:
        pattern: what was given.
        paths: the chosen files.
        names: their names in reports, relative to the folder given; unique.
        skipped: those that turned out unreadable so far: name -> reason.

    Raises:
        CalibrationError: nothing is found.
    """

    def __init__(self, pattern: str | Path, limit: int = 512) -> None:
        if limit < 1:
            raise CalibrationError(f"at least 1 calibration picture is needed, got a limit of {limit}")
        self.pattern = str(pattern)
        root, found = _find(self.pattern)
        if not found:
            kinds = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            where = "in it and its sub-folders" if Path(pattern).is_dir() else "as a folder, a file and a glob"
            raise CalibrationError(
                f"no calibration pictures in {self.pattern!r}: looked for {kinds} {where}. "
                "Give a folder or a glob of 30 to 500 pictures like those the camera will see"
            )
        found.sort(key=_natural)
        count = min(limit, len(found))
        self.paths: tuple[Path, ...] = tuple(found[(2 * i + 1) * len(found) // (2 * count)] for i in range(count))
        self.names: tuple[str, ...] = tuple(path.relative_to(root).as_posix() for path in self.paths)
        self.skipped: dict[str, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
        """Each readable picture's path and pixels, (h, w, 3) uint8 BGR.

        Raises:
            CalibrationError: at the end, if none was readable.
        """
        for index, path in enumerate(self.paths):
            image = self.read(index)
            if image is not None:
                yield path, image
        self.require_some()

    def read(self, index: int) -> NDArray[np.uint8] | None:
        """Picture number `index`; None and an entry in `skipped` if it cannot be read. For any thread."""
        try:
            image = read_picture(self.paths[index])
            check_picture(image)
            return image
        except (SourceError, UsageError) as error:
            with self._lock:
                self.skipped[self.names[index]] = str(error)
            return None

    def require_some(self) -> None:
        """Raise CalibrationError if every picture was skipped."""
        if len(self.skipped) == len(self):
            reasons = "; ".join(self.skipped[name] for name in self.names[:3])
            raise CalibrationError(f"none of the {len(self)} pictures in {self.pattern!r} is readable: {reasons}")

    @functools.cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each file's content; empty for one that cannot be opened."""
        return tuple(_digest(path) for path in self.paths)

    @property
    def sha256(self) -> str:
        """One hash of all contents, whatever the names and the order."""
        return hashlib.sha256("\n".join(sorted(self.digests)).encode()).hexdigest()


def _find(pattern: str) -> tuple[Path, list[Path]]:
    """The folder that names are relative to, and the pictures found."""
    path = Path(pattern)
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        candidates = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        return path, [file for file in candidates if _is_picture(file)]
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207 (a pattern may be absolute)
    pictures = [file for file in found if _is_picture(file)]
    return Path(os.path.commonpath([file.parent for file in pictures]) if pictures else "."), pictures


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sort key that takes digits as numbers, then the plain text."""
    parts = re.split(r"([0-9]+)", path.as_posix().lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.as_posix()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()

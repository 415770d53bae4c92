"""What a search has measured so far, on disk, so that an export that was stopped measures nothing twice."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

from edgevision.calibration.fields import MAX_BYTES, check_keys, typed
from edgevision.files import atomic_path

FORMAT_VERSION: Final = 1

Figures = dict[str, float | None]


class Findings:
    """Numbers by name, written after each one.

    Attributes:
        note: what became of the file that was there, in words; empty where there was none.
    """

    def __init__(self, path: Path | str | None, key: str) -> None:
        """
        Args:
            path: of the file, which need not exist; None: nothing is kept.
            key: hash of all that the numbers depend on; a file with another one is not used.
        """
        self._path, self._key = None if path is None else Path(path), key
        self._found: dict[str, Figures] = {}
        self.note = ""
        if self._path is not None and self._path.is_file():
            self._load(self._path)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __getitem__(self, name: str) -> Figures:
        return self._found[name]

    def names(self, prefix: str) -> list[str]:
        """Names that start with `prefix`."""
        return [name for name in self._found if name.startswith(prefix)]

    def keep(self, name: str, figures: Figures) -> None:
        """Take what was measured, and write it down.

        Raises:
            OSError: the file cannot be written.
        """
        self._found[name] = figures
        if self._path is None:
            return
        data = {"format_version": FORMAT_VERSION, "key": self._key, "found": self._found}
        with atomic_path(self._path) as path:
            path.write_text(json.dumps(data), encoding="utf-8")

    def _load(self, path: Path) -> None:
        try:
            with path.open("rb") as handle:
                content = handle.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            data = json.loads(content)
            check_keys(data, {"format_version", "key", "found"}, "what a search found")
            if data["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {data['format_version']!r}, expected {FORMAT_VERSION}")
            if typed(data["key"], str, "key") != self._key:
                self.note = f"{path} was not used: it is for another graph, data set, range table or version"
                return
            self._found = {name: _figures(values, name) for name, values in typed(data["found"], dict, "found").items()}
        except (OSError, ValueError, RecursionError) as error:
            self.note = f"{path} was not used, it is damaged: {error}"
            return
        self.note = f"{len(self._found)} measurements were taken from {path}"


def _figures(values: Any, where: str) -> Figures:
    for value in typed(values, dict, where).values():
        if value is not None and not (type(value) in (int, float) and math.isfinite(value)):
            raise ValueError(f"{where} holds numbers, got {value!r:.80}")
    return dict(values)

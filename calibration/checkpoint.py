"""Where a pass over the pictures stands, on disk, so that one that was stopped repeats no picture."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from edgevision.calibration.fields import MAX_BYTES, check_keys, texts, typed
from edgevision.files import atomic_path

FORMAT_VERSION: Final = 1


class Checkpoint:
    """A file beside the table that the pass will fill. Its size depends on the number of tensors, and 67 bytes a
    picture.

    Attributes:
        note: what became of the file that was there: a clause for the user; empty where there was none.
    """

    def __init__(self, path: Path | str, key: str) -> None:
        """`key`: hash of all that the pass depends on; a file with another one is not used."""
        self._path, self._key = Path(path), key
        self.note = ""

    def load(self, restore: Callable[[Any], None]) -> tuple[str, ...]:
        """Digests of the finished pictures, with what was learnt from them handed to `restore`; none: start anew."""
        if not self._path.is_file():
            return ()
        try:
            with self._path.open("rb") as handle:
                content = handle.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            data = json.loads(content)
            check_keys(data, {"format_version", "key", "done", "found"}, "a checkpoint")
            if data["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {data['format_version']!r}, expected {FORMAT_VERSION}")
            if typed(data["key"], str, "key") != self._key:
                self.note = f"{self._path} was not continued: it is for another graph, preprocessing or set of pictures"
                return ()
            done = texts(data["done"], "done")
            restore(data["found"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError, OverflowError, zlib.error) as error:
            self.note = f"{self._path} was not continued, it is damaged: {error}"
            return ()
        self.note = f"{len(done)} of them were finished in an earlier run"
        return done

    def save(self, done: list[str], found: dict[str, Any]) -> None:
        """Write down the digests of the finished pictures and what was learnt from them."""
        data = {"format_version": FORMAT_VERSION, "key": self._key, "done": done, "found": found}
        with atomic_path(self._path) as path:
            path.write_text(json.dumps(data), encoding="utf-8")

    def remove(self) -> None:
        """The pass is finished and its table is written."""
        self._path.unlink(missing_ok=True)

"""A text file that grows piece by piece, each whole and on the disk's way before the next."""

from __future__ import annotations

from pathlib import Path

from edgevision.sinks.base import cannot_write, check_folder


class TextFile:
    """What JSON lines and tables are written to: a run that is killed leaves all pieces but perhaps the last whole."""

    def __init__(self, path: Path) -> None:
        """Create it, or empty it.

        Raises:
            SinkError: it cannot be written.
        """
        check_folder(path)
        self.path = path
        try:
            self._file = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, text: str) -> None:
        """
        Raises:
            SinkError: it cannot be written.
        """
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """
        Raises:
            SinkError: what was written last cannot be kept.
        """
        try:
            self._file.close()
        except OSError as error:
            raise cannot_write(self.path, error) from error

"""One line of progress with an estimate, on the terminal's error stream; silent elsewhere unless asked."""

from __future__ import annotations

import sys
import time
from types import TracebackType


class Progress:
    """Counts steps of long work and shows done/total, rate and time left.

    On a terminal one line is redrawn; in a log a line appears every ten seconds at most.
    """

    def __init__(self, label: str, total: int | None = None, *, quiet: bool = False) -> None:
        self._label, self._total, self._quiet = label, total, quiet
        self._terminal = sys.stderr.isatty()
        self._start = time.monotonic()
        self._shown = self._start if not self._terminal else 0.0
        self._drawn = False
        self.done = 0

    def update(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more; `note` is shown at the end of the line."""
        self.done += steps
        now = time.monotonic()
        if not self._quiet and now - self._shown >= (0.1 if self._terminal else 10.0):
            self._shown = now
            self._draw(note)

    def _draw(self, note: str) -> None:
        elapsed = time.monotonic() - self._start
        counted = self.done or self._total  # work without steps has its note only
        text = f"{self._label}: {self.done if counted else ''}"
        if self._total:
            left = elapsed / max(self.done, 1) * max(self._total - self.done, 0)
            text += f"/{self._total}, {_clock(left)} left"
        text += f", {self.done / max(elapsed, 1e-9):.1f}/s {note}" if counted else note
        sys.stderr.write(f"\r\x1b[K{text.rstrip()}" if self._terminal else f"{text.rstrip()}\n")
        sys.stderr.flush()
        self._drawn = True

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn and self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

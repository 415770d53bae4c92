"""What a thread is in the middle of, for others to see: a call into somebody else's code may never return."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Activity:
    """At most one at a time, of one thread; read by any."""

    def __init__(self) -> None:
        self._now: tuple[str, float] | None = None

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """The thread does this in here."""
        self._now = what, time.monotonic()
        try:
            yield
        finally:
            self._now = None

    @property
    def lasts_s(self) -> float:
        """How long the present one has lasted; 0 where there is none."""
        now = self._now
        return 0.0 if now is None else time.monotonic() - now[1]

    def __str__(self) -> str:
        now = self._now
        return "idle" if now is None else f"{now[0]} for {time.monotonic() - now[1]:.1f} s"

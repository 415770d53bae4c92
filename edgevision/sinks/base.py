"""What a sink is: it takes each frame with its result, in order."""

from __future__ import annotations

from typing import Protocol

from edgevision.frame import Frame
from edgevision.results import Result


class Sink(Protocol):
    """An output. Used from one thread; `close` finalises what was written and may be called twice."""

    def write(self, frame: Frame, result: Result, timing_ms: dict[str, float]) -> None:
        """Take one frame's result; `timing_ms` has the duration of each stage.

        Raises:
            SinkError: the output cannot be written (disk full, pipe closed).
        """
        ...

    def close(self) -> None: ...

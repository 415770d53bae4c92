"""What a source is: something that yields frames in order and says what became of those it did not yield."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Protocol, TypeVar

from edgevision.frame import Frame

OPENING: Final = "opening"
LIVE: Final = "live"
STALLED: Final = "stalled"
BACKOFF: Final = "backoff"
DEAD: Final = "dead"
ENDED: Final = "ended"
_MAX_NOTES = 100
_MAX_CHANGES = 200
AnySource = TypeVar("AnySource")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StateChange:
    """A source entered a state.

    Attributes:
        state: the new one.
        at_ns: `time.monotonic_ns()`.
        reason: why, in words; empty where it goes without saying.
    """

    state: str
    at_ns: int
    reason: str = ""


@dataclass
class SourceStatus:
    """Running facts of one source, for reports. Written by the one thread that reads the source.

    At every moment `captured` is what was yielded plus the sum of `dropped`, but for a frame being handed over.

    Attributes:
        uri: as the user gave it, a password hidden.
        source_id: the source's name, unique within a pipeline; every frame carries it.
        state: OPENING; LIVE, it delivers; STALLED, a live source fell silent; BACKOFF, it is lost and will be opened
            again after a pause; DEAD, it failed for good; ENDED, it has nothing more to give, or was closed.
        captured: frames that reached us, delivered or dropped.
        dropped: cause -> number of frames captured but never delivered: `replaced` by a newer one, `decode_error`,
            `backlog` because too many older ones were still in use, `stopped` because the source was closed.
        reconnects: times the source was reopened.
        reader: what reads it: `gstreamer`, `av`, `opencv`; empty where there is no choice.
        notes: problems met, in words, each naming file and place; at most 100 are kept.
        changes: the latest changes of state, oldest first.
    """

    uri: str
    source_id: str = ""
    state: str = OPENING
    captured: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    reconnects: int = 0
    reader: str = ""
    notes: list[str] = field(default_factory=list)
    changes: deque[StateChange] = field(default_factory=lambda: deque(maxlen=_MAX_CHANGES))

    def enter(self, state: str, reason: str = "") -> None:
        """Change the state, and say so in the log."""
        self.state = state
        self.changes.append(StateChange(state, time.monotonic_ns(), reason))
        facts = {"source_id": self.source_id, "state": state, "reason": reason}
        _log.info("%s: %s%s", self.uri, state, f" ({reason})" if reason else "", extra=facts)

    def drop(self, cause: str, note: str = "") -> None:
        """Count one frame as lost to `cause`."""
        self.dropped[cause] = self.dropped.get(cause, 0) + 1
        if note:
            self.note(note)

    def end(self) -> None:
        """The source has nothing more to give; a dead one stays dead."""
        if self.state not in (DEAD, ENDED):
            self.enter(ENDED)

    def note(self, text: str) -> None:
        """Keep a problem that cost no frame, or whose frames are counted elsewhere."""
        if len(self.notes) < _MAX_NOTES:
            self.notes.append(text)


class ClosesOnExit:
    """`with` support for whatever has a `close`."""

    def __enter__(self: AnySource) -> AnySource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free everything; may be called twice."""
        raise NotImplementedError


class Source(Protocol):
    """A camera, file or generator of frames. Opening happens in the constructor; `close` may be called twice,
    and from another thread than the one reading."""

    @property
    def live(self) -> bool:
        """True where time does not wait: the newest frame wins. False where no frame may be lost."""
        ...

    @property
    def status(self) -> SourceStatus: ...

    @property
    def frame_count(self) -> int | None:
        """Number of frames to expect, for progress; None where unknown."""
        ...

    @property
    def fps(self) -> float | None:
        """Nominal rate, for writing videos; None where the source has none."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """Frames until the end of the source. To be iterated once.

        Raises:
            SourceError: the source broke (damage that loses frames is counted in `status` instead).
        """
        ...

    def __enter__(self: AnySource) -> AnySource: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def close(self) -> None: ...

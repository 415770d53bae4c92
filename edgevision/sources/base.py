"""What a source is: something that yields frames in order and says what became of those it did not yield."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from edgevision.frame import Frame


@dataclass
class SourceStatus:
    """Running facts of one source, for reports.

    Attributes:
        uri: as the user gave it.
        state: `opening`, `live`, `ended` or `failed`.
        captured: frames that reached us, delivered or dropped.
        dropped: cause -> number of frames captured but never delivered (`replaced`, `too_old`, `decode_error`, ...).
        reconnects: times the source was reopened.
        notes: problems met, in words, each naming file and place; at most 100 are kept.
    """

    uri: str
    state: str = "opening"
    captured: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    reconnects: int = 0
    notes: list[str] = field(default_factory=list)

    def drop(self, cause: str, note: str = "") -> None:
        """Count one frame as lost to `cause`."""
        self.dropped[cause] = self.dropped.get(cause, 0) + 1
        if note and len(self.notes) < 100:
            self.notes.append(note)


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
        """Frames until the end of the source.

        Raises:
            SourceError: the source broke (damage that loses frames is counted in `status` instead).
        """
        ...

    def close(self) -> None: ...

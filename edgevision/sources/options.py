"""How a source is opened and how long it is waited for."""

from __future__ import annotations

from dataclasses import dataclass

from edgevision.errors import UsageError

READERS = ("auto", "gstreamer", "av", "opencv")


@dataclass(frozen=True)
class SourceOptions:
    """What holds for any source; only live ones are waited for.

    Attributes:
        timeout_s: until a camera has opened and delivers; and, from then on, from one frame to the next.
        first_pause_s, longest_pause_s: between losing a camera and opening it again; doubled after each failure, and
            drawn from 20 % around, so that many clients do not come back at once.
        give_up_s: without a frame for this long a camera is dead; None: it is waited for as long as the program runs.
        every_frame: of a live source, all frames in order as long as memory for them lasts, not the newest only.
        reader: what reads a live source: one of READERS.
        nv12: of a live source, pictures in NV12 where its reader has them nearly so, for models on a GPU.

    Raises:
        UsageError: a time that is not positive, or another reader.
    """

    timeout_s: float = 5.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 10.0
    give_up_s: float | None = None
    every_frame: bool = False
    reader: str = "auto"
    nv12: bool = False

    def __post_init__(self) -> None:
        for name in ("timeout_s", "first_pause_s", "longest_pause_s", "give_up_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} is above zero, got {value}")
        if self.reader not in READERS:
            raise UsageError(f"a reader is one of {', '.join(READERS)}, got {self.reader!r}")

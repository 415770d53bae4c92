"""What a sink is: it takes each frame with its result, in order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from edgevision.errors import SinkError
from edgevision.frame import Frame
from edgevision.results import Result


class Sink(Protocol):
    """An output. Used from one thread; `close` finalises what was written and may be called twice.

    Four members are optional: `NEWEST = True` says that it shows the newest result and misses others rather than keep
    anybody waiting; `attach(snapshot)` is called before the run with a function that gives the pipeline's figures at
    any time (`Pipeline.snapshot`); `forget(source_id)` is called, like `write`, when a source ended long ago;
    `abandon()` is called from another thread when a call hangs at the end of a run, to make it return if it can.

    Attributes:
        name: what reports call it.
    """

    name: str

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        """Take one frame's result; `timing_ms` has the duration of each stage.

        Raises:
            SinkError: the output cannot be written (disk full, pipe closed).
        """
        ...

    def close(self) -> None:
        """
        Raises:
            SinkError: the output cannot be finalised.
        """
        ...


def check_folder(path: Path) -> None:
    """
    Raises:
        SinkError: the folder of `path` does not exist, or `path` is itself a folder.
    """
    if path.is_dir():
        raise SinkError(f"{path} is a folder; give the name of a file in it")
    if not path.absolute().parent.is_dir():
        raise SinkError(f"{path} cannot be written: folder {path.absolute().parent} does not exist; create it first")


def cannot_write(path: Path, error: Exception) -> SinkError:
    """The error to raise when writing `path` failed."""
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
    return SinkError(f"{path} cannot be written: {reason}")

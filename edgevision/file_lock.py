"""Locks between processes that end with their holder, however it ends: flock(2)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_POLL_S = 0.1


@contextlib.contextmanager
def exclusive(path: Path, timeout_s: float, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock `path`, a file that exists only while someone holds it (or was killed while holding it).

    Threads of one process exclude each other as processes do.

    Args:
        path: the lock file.
        timeout_s: the longest wait.
        waiting: called once, with who holds the lock, where it is not free at once.

    Raises:
        TimeoutError: it did not become free; the message says who holds it.
        OSError: the file cannot be created.
    """
    deadline, told = time.monotonic() + timeout_s, False
    while (handle := _try(path)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(_holder(path))
        if not told:
            told = True
            waiting(_holder(path))
        time.sleep(_POLL_S)
    with handle:
        handle.truncate(0)
        handle.write(str(os.getpid()).encode())
        handle.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _try(path: Path) -> BinaryIO | None:
    """The open, locked file, or None where someone else holds it."""
    handle = path.open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last holder may have removed the file between our opening and our locking it.
        if os.fstat(handle.fileno()).st_ino == path.stat().st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        handle.close()
        raise
    handle.close()
    return None


def _holder(path: Path) -> str:
    try:
        pid = path.read_text(errors="replace")[:20]
    except OSError:
        pid = ""
    return f"process {pid}" if pid.isdigit() else "another process"


def share(handle: BinaryIO) -> bool:
    """Mark an open file as in use until it is closed; False where it is being removed."""
    return _flock(handle, fcntl.LOCK_SH)


def claim(handle: BinaryIO) -> bool:
    """Claim an open file that nobody uses, until it is closed; False where somebody does."""
    return _flock(handle, fcntl.LOCK_EX)


def _flock(handle: BinaryIO, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

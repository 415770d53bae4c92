"""Threads that stand or fall together."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from edgevision.errors import SessionError

_WAKE_S = 1.0


class Workers:
    """Starts threads, catches what they raise, and joins them.

    Attributes:
        errors: exceptions in the order they came; threads only append.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        """`stop` is called after each exception, in the thread where it came; it makes the other threads end."""
        self._stop = stop
        self.errors: list[BaseException] = []

    def start(self, name: str, work: Callable[..., None], *args: object) -> threading.Thread:
        """Run `work` in a thread of its own. One that is stuck for good does not keep the program from ending."""
        thread = threading.Thread(target=self.attempt, args=(work, *args), name=f"edgevision {name}", daemon=True)
        thread.start()
        return thread

    def attempt(self, work: Callable[..., None], *args: object) -> None:
        """Run `work` here, treating its exception like a thread's."""
        try:
            work(*args)
        except BaseException as error:  # noqa: BLE001  the owner raises it again, in its own thread
            self.errors.append(error)
            self._stop()


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Where each core has a lane, OpenCV's own pool only makes the lanes wait for each other: a fifth more CPU time
    for preprocessing. The setting is the process's; it is put back afterwards."""
    cv2 = sys.modules.get("cv2")  # whoever needs it has imported it by now
    before = cv2.getNumThreads() if cv2 else 0
    try:
        if cv2:
            cv2.setNumThreads(1)
        yield
    finally:
        if cv2:
            cv2.setNumThreads(before)


def wait(threads: Iterable[threading.Thread], until: float) -> None:
    """Wait for all `threads` to end, at most until that time of the monotonic clock; Ctrl-C interrupts it."""
    for thread in threads:
        while thread.is_alive() and (left_s := until - time.monotonic()) > 0:
            thread.join(min(_WAKE_S, left_s))


def check_ended(threads: Iterable[threading.Thread], limit_s: float) -> None:
    """
    Raises:
        SessionError: a thread is still running.
    """
    stuck = [thread.name for thread in threads if thread.is_alive()]
    if stuck:
        raise SessionError(f"{', '.join(stuck)}: still busy {limit_s:g} s after the stop; left behind")

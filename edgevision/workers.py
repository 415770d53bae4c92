"""Threads that stand or fall together."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Worker(threading.Thread):
    """A thread whose end can be waited for in spite of Ctrl-C: up to Python 3.12 `join`, interrupted, takes a thread
    that runs on for one that has ended (bpo-45274 made it so)."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(target=work, name=name, daemon=True)
        self._over = threading.Event()

    def run(self) -> None:
        """What the thread does."""
        try:
            super().run()
        finally:
            self._over.set()

    @property
    def ended(self) -> bool:
        """Whether its work is over."""
        return self._over.is_set()

    def wait(self, seconds: float) -> None:
        """Until it has ended, or for so long."""
        self._over.wait(seconds)


class Workers:
    """Starts threads, catches what they raise, and joins them.

    Attributes:
        errors: exceptions in the order they came; threads only append.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        """`stop` is called after each exception, in the thread where it came; it makes the other threads end."""
        self._stop = stop
        self.errors: list[BaseException] = []

    def start(self, name: str, work: Callable[..., None], *args: object) -> Worker:
        """Run `work` in a thread of its own. One that is stuck for good does not keep the program from ending."""
        worker = Worker(f"edgevision {name}", functools.partial(self.attempt, work, *args))
        worker.start()
        return worker

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

"""Waiting for descriptors, of any number: `select.select` takes none from 1024 on."""

from __future__ import annotations

import select
from collections.abc import Iterable


def readable(descriptors: Iterable[int], timeout_s: float) -> set[int]:
    """Those that have something to read, or whose other end is closed; none after the time.

    Raises:
        ValueError: a descriptor is closed.
    """
    return _poll(descriptors, select.POLLIN, timeout_s)


def writable(descriptor: int, timeout_s: float) -> bool:
    """Whether it takes something, or its other end is closed, within the time.

    Raises:
        ValueError: it is closed.
    """
    return bool(_poll([descriptor], select.POLLOUT, timeout_s))


def _poll(descriptors: Iterable[int], event: int, timeout_s: float) -> set[int]:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, event)
    found = poll.poll(1e3 * max(timeout_s, 0.0))
    if any(what & select.POLLNVAL for _, what in found):
        raise ValueError("a descriptor is closed")
    return {descriptor for descriptor, _ in found}

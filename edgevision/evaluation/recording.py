"""What the float graph found, for comparing other graphs with it later without running it again."""

from __future__ import annotations

import pickle
import threading
import zlib
from typing import Final

from edgevision.results import Result

LIMIT_BYTES: Final = 256 << 20


class Recording:
    """Results by dithered run and picture, packed (a class map takes a fiftieth), in memory.

    Of one model on one set of pictures. What has no room any more is left out. May be used from several threads.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._left, self._lock = limit_bytes, threading.Lock()
        self._packed: dict[tuple[int, int], bytes] = {}

    def get(self, seed: int, picture: int) -> Result | None:
        """A result that was kept; None where there is none."""
        packed = self._packed.get((seed, picture))
        return None if packed is None else pickle.loads(zlib.decompress(packed))

    def keep(self, seed: int, picture: int, result: Result) -> None:
        """Take a result if it is new and there is room."""
        if (seed, picture) in self._packed:
            return
        packed = zlib.compress(pickle.dumps(result, pickle.HIGHEST_PROTOCOL), 1)
        with self._lock:
            if len(packed) <= self._left:
                self._left -= len(packed)
                self._packed[seed, picture] = packed

"""One picture from a source, with the facts that must travel with it to its results."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture and where and when it came from.

    Attributes:
        image: (h, w, 3) uint8, BGR. Owned by whoever holds the frame; sources do not write into it again.
        frame_id: number of the frame within its source, from 0; gaps are frames the source dropped.
        source_id: the source's name, unique within a pipeline.
        capture_time_ns: `time.monotonic_ns()` when the picture was captured (live) or decoded (files).
        media_time_s: position in the recording, seconds; None where the source has none.
        name: file name of a still picture; empty otherwise.
    """

    image: NDArray[np.uint8]
    frame_id: int = 0
    source_id: str = ""
    capture_time_ns: int = field(default_factory=time.monotonic_ns)
    media_time_s: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise UsageError(
                f"a frame's image is (h, w, 3) uint8 BGR, got {self.image.shape} {self.image.dtype}; "
                "convert grey pictures with cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)"
            )

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.image.shape[1], self.image.shape[0]

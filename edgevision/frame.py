"""One picture from a source, with the facts that must travel with it to its results."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError

_MAX_SIDE = 32767  # OpenCV keeps picture coordinates in 16 bits


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
        check_picture(self.image)

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.image.shape[1], self.image.shape[0]


def check_picture(image: Any) -> None:
    """Refuse what is not a BGR picture.

    Raises:
        UsageError: `image` is not an (h, w, 3) uint8 array with sides in 1..32767.
    """
    if not isinstance(image, np.ndarray):
        raise UsageError(f"a picture is a numpy array (h, w, 3) uint8, BGR; got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UsageError(
            f"a picture is (h, w, 3) uint8, BGR; got shape {image.shape} of {image.dtype}; "
            "grey pictures: cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), four channels: image[:, :, :3]"
        )
    if not all(1 <= side <= _MAX_SIDE for side in image.shape[:2]):
        raise UsageError(f"a picture's sides are 1 to {_MAX_SIDE} pixels, got {image.shape[1]}x{image.shape[0]}")

"""One picture from a source, with the facts that must travel with it to its results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.nv12 import NV12_FORMATS, Nv12Picture, is_nv12

_MAX_SIDE = 32767  # OpenCV keeps picture coordinates in 16 bits


@dataclass(frozen=True, eq=False)
class DevicePicture:
    """A picture that already lies in a GPU's memory: a hardware decoder or another kernel wrote it, and has finished.

    Attributes:
        address: of the first row, in memory of the GPU that the model runs on.
        size_wh: width and height, pixels.
        pixel_format: `bgr`, `rgb` (3 bytes a pixel), `nv12` or `nv12-709` (luma, then chroma at half the size).
        pitch_bytes: from one row to the next.
        download: copies it to an (h, w, 3) uint8 BGR array, for those who need pixels on the host.
        chroma_address, chroma_pitch_bytes: of nv12's second plane; None: right behind the first, of equal pitch.
        owner: whatever keeps the memory alive; dropped with the picture.
    """

    address: int
    size_wh: tuple[int, int]
    pixel_format: str
    pitch_bytes: int
    download: Callable[[], NDArray[np.uint8]]
    chroma_address: int | None = None
    chroma_pitch_bytes: int | None = None
    owner: object = None

    def __post_init__(self) -> None:
        width = self.size_wh[0]
        least = {"bgr": 3 * width, "rgb": 3 * width, **dict.fromkeys(NV12_FORMATS, width)}.get(self.pixel_format)
        if least is None:
            raise UsageError(f"a picture on the device is bgr, rgb, nv12 or nv12-709, got {self.pixel_format!r}")
        check_sides(self.size_wh)
        if self.address <= 0 or self.pitch_bytes < least:
            raise UsageError(
                f"a picture of {width} pixels {self.pixel_format} needs an address and a pitch of {least} bytes or "
                f"more, got address {self.address:#x}, pitch {self.pitch_bytes}"
            )

    def part(self, x1: int, y1: int, x2: int, y2: int) -> DevicePicture:
        """A part of the picture in the same memory, from column x1 and row y1 up to x2 and y2; nothing is copied.

        Raises:
            UsageError: it is empty or reaches over an edge, or x1 or y1 is odd in nv12, where pixels share colours.
        """
        wide, high = self.size_wh
        nv12 = is_nv12(self.pixel_format)
        if not (0 <= x1 < x2 <= wide and 0 <= y1 < y2 <= high) or (nv12 and (x1 % 2 or y1 % 2)):
            even = ", x1 and y1 even" if nv12 else ""
            raise UsageError(
                f"a part of a picture of {wide}x{high} pixels is x1 < x2 <= {wide}, y1 < y2 <= {high}{even}; "
                f"got {x1}, {y1}, {x2}, {y2}"
            )
        chroma, chroma_pitch = None, self.chroma_pitch_bytes
        if nv12:
            chroma = self.address + self.pitch_bytes * high if self.chroma_address is None else self.chroma_address
            chroma_pitch = self.pitch_bytes if chroma_pitch is None else chroma_pitch
            chroma += y1 // 2 * chroma_pitch + x1
        return DevicePicture(
            self.address + y1 * self.pitch_bytes + x1 * (1 if nv12 else 3),
            (x2 - x1, y2 - y1),
            self.pixel_format,
            self.pitch_bytes,
            lambda: self.download()[y1:y2, x1:x2],
            chroma,
            chroma_pitch,
            self,
        )


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture and where and when it came from.

    Attributes:
        picture: (h, w, 3) uint8, BGR; or the two planes of one in NV12; or one that lies in a GPU's memory. Owned by
            whoever holds the frame; sources do not write into it again.
        frame_id: number of the frame within its source, from 0; gaps are frames the source dropped.
        source_id: the source's name, unique within a pipeline.
        capture_time_ns: `time.monotonic_ns()` when the picture was captured (live) or decoded (files).
        media_time_s: position in the recording, seconds; None where the source has none.
        name: file name of a still picture; empty otherwise.
    """

    picture: NDArray[np.uint8] | Nv12Picture | DevicePicture
    frame_id: int = 0
    source_id: str = ""
    capture_time_ns: int = field(default_factory=time.monotonic_ns)
    media_time_s: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.picture, Nv12Picture):
            check_sides(self.picture.size_wh)
        elif not isinstance(self.picture, DevicePicture):
            check_picture(self.picture)

    @property
    def image(self) -> NDArray[np.uint8]:
        """The picture on the host, (h, w, 3) uint8 BGR; NV12 is converted at the first call, one that lies in a GPU's
        memory is copied at each."""
        return self.picture if isinstance(self.picture, np.ndarray) else self.picture.download()

    @property
    def pixel_format(self) -> str:
        """`bgr`, `nv12`, `nv12-709`; on a GPU also `rgb`."""
        return "bgr" if isinstance(self.picture, np.ndarray) else self.picture.pixel_format

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height, pixels."""
        if isinstance(self.picture, np.ndarray):
            return self.picture.shape[1], self.picture.shape[0]
        return self.picture.size_wh


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
    check_sides(image.shape[1::-1])


def check_sides(size_wh: tuple[int, ...]) -> None:
    """Refuse a size that no picture has.

    Raises:
        UsageError: a side is not in 1..32767.
    """
    if not all(1 <= side <= _MAX_SIDE for side in size_wh):
        raise UsageError(f"a picture's sides are 1 to {_MAX_SIDE} pixels, got {size_wh[0]}x{size_wh[1]}")

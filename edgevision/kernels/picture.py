"""Pictures in device memory, as kernels see them: one 64-byte record for each slot of a batch (picture.cuh).

The records lie in device memory, not in launch arguments, so a captured CUDA graph serves every picture size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.geometry import Placement
from edgevision.nv12 import is_nv12

# Position = the record's `format`. bgr and rgb: 3 bytes a pixel. nv12: a plane of luma, then a plane of Cb, Cr pairs of
# half the width and height, rounded up; limited range, of BT.601 or BT.709.
PIXEL_FORMATS = ("bgr", "rgb", "nv12", "nv12-709")

# A slot that holds no picture is all zeros.
PICTURE = np.dtype(
    [
        ("address", np.uint64),  # of the first pixel; nv12: of the luma
        ("chroma_address", np.uint64),  # nv12 only
        ("taps_address", np.uint64),  # of the preprocessing's interpolation table for this size
        ("width", np.int32),
        ("height", np.int32),
        ("pitch_bytes", np.int32),  # from one row to the next
        ("chroma_pitch_bytes", np.int32),
        ("format", np.int32),
        ("content_w", np.int32),  # where the picture lies in the network's input, as in geometry.Placement
        ("content_h", np.int32),
        ("offset_x", np.int32),
        ("offset_y", np.int32),
        ("reserved", np.int32),
    ]
)


def row_bytes(width: int, pixel_format: str) -> int:
    """Bytes of one row's pixels; nv12: of the luma's.

    Raises:
        UsageError: no such pixel format.
    """
    if pixel_format not in PIXEL_FORMATS:
        raise UsageError(f"a pixel format is one of {PIXEL_FORMATS}, got {pixel_format!r}")
    return width if is_nv12(pixel_format) else 3 * width


def picture_bytes(width: int, height: int, pixel_format: str) -> int:
    """Bytes of a tightly packed picture; nv12: rows of an even length, the chroma right behind the luma.

    Raises:
        UsageError: no such pixel format.
    """
    if is_nv12(pixel_format):
        return (width + width % 2) * (height + (height + 1) // 2)
    return row_bytes(width, pixel_format) * height


def describe(
    placement: Placement,
    pixel_format: str,
    address: int,
    pitch_bytes: int,
    *,
    chroma_address: int | None = None,
    chroma_pitch_bytes: int | None = None,
    taps_address: int = 0,
) -> NDArray[Any]:
    """One record.

    Args:
        placement: the picture's size and its place in the network's input.
        pixel_format: one of PIXEL_FORMATS.
        address: of the first row, device memory.
        pitch_bytes: from one row to the next.
        chroma_address, chroma_pitch_bytes: nv12's second plane; by default right behind the first, of equal pitch.
        taps_address: of the preprocessing's table, device memory.

    Returns:
        () of PICTURE.

    Raises:
        UsageError: a pitch is shorter than a row, or there is no such pixel format.
    """
    width, height = placement.source_wh
    least = row_bytes(width, pixel_format)
    if is_nv12(pixel_format):
        chroma_address = address + pitch_bytes * height if chroma_address is None else chroma_address
        chroma_pitch_bytes = pitch_bytes if chroma_pitch_bytes is None else chroma_pitch_bytes
        _check_pitch(chroma_pitch_bytes, width + width % 2, "chroma plane")
    _check_pitch(pitch_bytes, least, f"{width} pixels {pixel_format}")
    return np.array(
        (
            address,
            chroma_address or 0,
            taps_address,
            width,
            height,
            pitch_bytes,
            chroma_pitch_bytes or 0,
            PIXEL_FORMATS.index(pixel_format),
            *placement.content_wh,
            *placement.offset_xy,
            0,
        ),
        PICTURE,
    )


def _check_pitch(pitch_bytes: int, least: int, what: str) -> None:
    if not least <= pitch_bytes < 1 << 31:
        raise UsageError(f"a row of the {what} has {least} bytes, so the pitch is {least} or more, got {pitch_bytes}")

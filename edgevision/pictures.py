"""Still pictures from files nobody vouches for: the header is read before a pixel is decoded.

A few hundred bytes of PNG can ask for gigabytes, and OpenCV returns half a JPEG as a grey area without a word. Both
are refused here. Sources: ITU-T T.81 annex B (JPEG), W3C PNG 1.2, RFC 9649 (WebP), TIFF 6.0, BITMAPINFOHEADER.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import SourceError
from edgevision.optional import require

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_PIXELS = 1 << 27
"""Larger pictures are refused: 134 million pixels, 400 MB as BGR."""
_MAX_FILE_BYTES = 1 << 29
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_JPEG_NO_FRAME = {0xC4, 0xC8, 0xCC}  # in the range of the frame headers, but Huffman tables and reserved


def read_picture(path: Path | str) -> NDArray[np.uint8]:
    """Decode a picture file to (h, w, 3) uint8 BGR, turned upright by its EXIF mark.

    Raises:
        SourceError: missing, empty, of an unknown kind, cut short, damaged, or larger than MAX_PIXELS.
    """
    path = Path(path)
    cv2 = require("cv2", "reading pictures")
    try:
        if not path.is_file():
            raise SourceError(f"picture {path} does not exist or is not a file")
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise SourceError(f"picture {path} has {path.stat().st_size} bytes, the limit is {_MAX_FILE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"picture {path} cannot be read: {error.strerror}") from error
    try:
        width, height = picture_size_wh(data)
    except ValueError as error:
        raise SourceError(f"picture {path}: {error}") from error
    if width * height > MAX_PIXELS:
        raise SourceError(f"picture {path} is {width}x{height}, the limit is {MAX_PIXELS} pixels; scale it down first")
    try:
        image: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise SourceError(f"picture {path} cannot be decoded: {error}") from error
    if image is None:
        raise SourceError(f"picture {path} cannot be decoded: its {width}x{height} pixels are damaged")
    return image


def picture_size_wh(data: bytes) -> tuple[int, int]:
    """Width and height, as the header of an encoded picture states them.

    Raises:
        ValueError: of an unknown kind, or cut short.
    """
    if not data:
        raise ValueError("it is empty")
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(_PNG):
            if b"IEND" not in data[-64:]:
                raise ValueError("the PNG is cut short (no IEND at its end)")
            return struct.unpack_from(">II", data, 16)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data)
    except (struct.error, IndexError) as error:
        raise ValueError("it is cut short inside its header") from error
    raise ValueError(f"it is no JPEG, PNG, BMP, WebP or TIFF (starts with {data[:8]!r})")


def _jpeg(data: bytes) -> tuple[int, int]:
    at, size = 2, None
    while True:
        if data[at] != 0xFF:
            raise ValueError(f"the JPEG is damaged at byte {at} of {len(data)}")
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _JPEG_STANDALONE:
            at += 2
        elif marker == 0xDA:  # the pixels begin: there 0xFF is always stuffed, so an end marker is a true one
            if size is None:
                raise ValueError("the JPEG has no frame header")
            if data.find(b"\xff\xd9", at) < 0:
                raise ValueError("the JPEG is cut short (no end marker)")
            return size
        else:
            if 0xC0 <= marker <= 0xCF and marker not in _JPEG_NO_FRAME:
                height, width = struct.unpack_from(">HH", data, at + 5)
                size = width, height
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _bmp(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        return struct.unpack_from("<HH", data, 18)
    width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)


def _webp(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise ValueError("the WebP is cut short")
    kind = data[12:16]
    if kind == b"VP8X":
        low_w, high_w, low_h, high_h = struct.unpack_from("<HBHB", data, 24)
        return (high_w << 16 | low_w) + 1, (high_h << 16 | low_h) + 1
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff(data: bytes) -> tuple[int, int]:
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, at)
    size = {}
    for i in range(entries):
        tag, kind = struct.unpack_from(f"{order}HH", data, at + 2 + 12 * i)
        if tag in (256, 257):
            size[tag] = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, at + 10 + 12 * i)[0]
    if len(size) != 2:
        raise ValueError("the TIFF does not state its size")
    return size[256], size[257]

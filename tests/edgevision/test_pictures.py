"""Picture files nobody vouches for."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.errors import SourceError
from edgevision.pictures import MAX_PIXELS, SUFFIXES, picture_size_wh, read_picture

pytestmark = pytest.mark.smoke
KINDS = {
    **{suffix: (suffix, []) for suffix in SUFFIXES},
    "progressive JPEG": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "lossless WebP": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
}


def encoded(kind: str, width: int = 57, height: int = 33) -> bytes:
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    suffix, options = KINDS[kind]
    data: bytes = cv2.imencode(suffix, image, options)[1].tobytes()
    return data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size_wh", [(57, 33), (1, 1), (300, 2)])
def test_the_header_says_the_size_that_opencv_decodes(kind: str, size_wh: tuple[int, int]) -> None:
    assert picture_size_wh(encoded(kind, *size_wh)) == size_wh


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_picture_is_what_opencv_reads(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{KINDS[kind][0]}"
    path.write_bytes(encoded(kind))
    np.testing.assert_array_equal(read_picture(path), cv2.imread(str(path)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9])
def test_a_cut_picture_is_refused_never_half_grey(kind: str, share: float, tmp_path: Path) -> None:
    data, path = encoded(kind, 300, 200), tmp_path / f"cut{KINDS[kind][0]}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match=path.name):
        read_picture(path)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)  # 10.8 GB of pixels in a few hundred bytes
    pixels = zlib.compress(bytes(100_000), 9)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    with pytest.raises(SourceError, match=rf"60000x60000, the limit is {MAX_PIXELS} pixels"):
        read_picture(path)


def test_a_picture_may_call_itself_anything(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(".png"))
    assert read_picture(path).shape == (33, 57, 3)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"<html>", "no JPEG"), (b"\xff\xd8\x00\x00", "damaged at byte 2")]
)
def test_what_is_no_picture_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "no.jpg"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"no.jpg.*{reason}"):
        read_picture(path)
    with pytest.raises(SourceError, match=r"absent\.jpg does not exist"):
        read_picture(tmp_path / "absent.jpg")


def test_exif_marks_turn_a_picture_upright(tmp_path: Path) -> None:
    plain = encoded(".jpg")
    # TIFF header, one entry: tag 0x112 (orientation), SHORT, 1 value: 6, the camera was turned by 90 degrees.
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x112, 3, 1, 6, 0, 0)
    path = tmp_path / "turned.jpg"
    path.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])
    assert read_picture(path).shape == (57, 33, 3)


@given(
    st.binary(max_size=200), st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF", b"II*\0", b"MM\0*"])
)
def test_any_bytes_give_a_size_or_a_value_error(noise: bytes, start: bytes) -> None:
    try:
        width, height = picture_size_wh(start + noise)
    except ValueError:
        return
    assert isinstance(width, int)
    assert isinstance(height, int)

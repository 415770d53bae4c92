"""Records of pictures in device memory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgevision.errors import UsageError
from edgevision.geometry import place
from edgevision.kernels import picture
from edgevision.kernels.picture import PICTURE, PIXEL_FORMATS, describe, picture_bytes


def test_the_record_is_the_structure_of_the_kernels() -> None:
    """Names, order and widths; the kernels assert the size."""
    source = Path(picture.__file__).with_name("picture.cuh").read_text()
    body = source[source.index("struct Picture {") : source.index("};")]
    fields = []
    for kind, names in re.findall(r"^    (.+?[* ])(\w+(?:, \w+)*);", body, re.MULTILINE):
        fields += [(name, 8 if "*" in kind else 4) for name in names.split(", ")]
    kinds = [PICTURE[name].itemsize for name in PICTURE.names or ()]
    assert fields == list(zip(PICTURE.names or (), kinds, strict=True))
    assert PICTURE.itemsize == 64


def test_formats_have_the_kernels_numbers() -> None:
    source = Path(picture.__file__).with_name("picture.cuh").read_text()
    numbers = dict(re.findall(r"(\w+) = (\d)", source))
    assert {name.upper().replace("-", "_"): str(number) for number, name in enumerate(PIXEL_FORMATS)} == numbers


def test_chroma_lies_behind_the_luma_unless_said_otherwise() -> None:
    placement = place((101, 51), (64, 64), "letterbox")
    record = describe(placement, "nv12", 1 << 40, 128)
    assert (int(record["chroma_address"]), int(record["chroma_pitch_bytes"])) == ((1 << 40) + 128 * 51, 128)
    record = describe(placement, "nv12", 1 << 40, 128, chroma_address=1 << 41, chroma_pitch_bytes=102)
    assert (int(record["chroma_address"]), int(record["chroma_pitch_bytes"])) == (1 << 41, 102)


def test_sizes_in_bytes() -> None:
    assert picture_bytes(5, 3, "bgr") == picture_bytes(5, 3, "rgb") == 45
    assert picture_bytes(4, 2, "nv12") == 12
    assert picture_bytes(5, 3, "nv12") == 6 * 3 + 6 * 2


@pytest.mark.parametrize(
    ("pixel_format", "pitch", "chroma_pitch", "words"),
    [
        ("bgr", 302, None, "303 bytes, so the pitch is 303 or more, got 302"),
        ("rgb", -303, None, "got -303"),
        ("nv12", 101, None, "chroma plane has 102 bytes"),
        ("nv12", 102, 101, "got 101"),
        ("bgr", 1 << 31, None, "or more, got"),
        ("yuyv", 303, None, "one of"),
    ],
)
def test_what_cannot_be_is_refused(pixel_format: str, pitch: int, chroma_pitch: int | None, words: str) -> None:
    placement = place((101, 51), (64, 64), "letterbox")
    with pytest.raises(UsageError, match=words):
        describe(placement, pixel_format, 4096, pitch, chroma_pitch_bytes=chroma_pitch)

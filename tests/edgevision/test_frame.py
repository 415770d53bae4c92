"""A frame is a checked picture with its time."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest

from edgevision.errors import UsageError
from edgevision.frame import DevicePicture, Frame

IMAGE = np.zeros((480, 640, 3), np.uint8)


def test_size_is_width_then_height() -> None:
    assert Frame(IMAGE).size_wh == (640, 480)


def test_capture_time_is_monotonic_and_now_unless_given() -> None:
    before = time.monotonic_ns()
    frame = Frame(IMAGE)
    assert before <= frame.capture_time_ns <= time.monotonic_ns()
    assert Frame(IMAGE, capture_time_ns=5).capture_time_ns == 5


def test_a_frame_cannot_be_changed_and_is_itself_only() -> None:
    frame = Frame(IMAGE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.frame_id = 3  # type: ignore[misc]
    assert frame == frame
    assert frame != Frame(IMAGE)
    assert len({frame, frame}) == 1


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_other_pictures_are_refused_with_a_remedy(image: np.ndarray) -> None:
    with pytest.raises(UsageError, match="COLOR_GRAY2BGR"):
        Frame(image)


class TestOnTheDevice:
    def test_its_pixels_stay_there_until_somebody_asks(self) -> None:
        downloads = []

        def download() -> np.ndarray:
            downloads.append(1)
            return IMAGE

        frame = Frame(DevicePicture(0x1000, (640, 480), "nv12", 768, download))
        assert frame.size_wh == (640, 480)
        assert not downloads
        assert frame.image is IMAGE
        assert downloads == [1]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"pixel_format": "rgba"}, "is bgr, rgb, nv12 or nv12-709, got 'rgba'"),
            ({"pitch_bytes": 1919}, "a pitch of 1920 bytes or more, got address 0x1000, pitch 1919"),
            ({"address": 0}, "needs an address"),
            ({"size_wh": (640, 0)}, "sides are 1 to 32767 pixels, got 640x0"),
        ],
    )
    def test_other_pictures_are_refused(self, changes: dict[str, Any], message: str) -> None:
        fields = {"address": 0x1000, "size_wh": (640, 480), "pixel_format": "bgr", "pitch_bytes": 1920}
        with pytest.raises(UsageError, match=message):
            DevicePicture(**{**fields, **changes}, download=lambda: IMAGE)


def picture_at(address: int, pixel_format: str, **planes: int) -> DevicePicture:
    """64x48 pixels with rows of 256 bytes."""
    pixels = np.arange(48 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(48, 64, 3)
    return DevicePicture(address, (64, 48), pixel_format, 256, lambda: pixels, **planes)  # type: ignore[arg-type]


def test_a_part_of_a_picture_lies_in_the_same_memory() -> None:
    whole = picture_at(1 << 20, "bgr")
    part = whole.part(5, 7, 15, 27)
    assert (part.address, part.size_wh, part.pitch_bytes) == ((1 << 20) + 7 * 256 + 5 * 3, (10, 20), 256)
    assert part.owner is whole
    np.testing.assert_array_equal(part.download(), whole.download()[7:27, 5:15])
    again = part.part(1, 2, 4, 4)
    assert again.address == (1 << 20) + 9 * 256 + 6 * 3


@pytest.mark.parametrize("planes", [{}, {"chroma_address": 1 << 24, "chroma_pitch_bytes": 512}])
def test_a_part_of_nv12_has_its_share_of_the_chroma(planes: dict[str, int]) -> None:
    part = picture_at(1 << 20, "nv12", **planes).part(6, 8, 33, 21)
    begin, pitch = planes.get("chroma_address", (1 << 20) + 48 * 256), planes.get("chroma_pitch_bytes", 256)
    assert part.address == (1 << 20) + 8 * 256 + 6
    assert (part.chroma_address, part.chroma_pitch_bytes) == (begin + 4 * pitch + 6, pitch)
    assert part.size_wh == (27, 13)


@pytest.mark.parametrize("corners", [(0, 0, 0, 5), (-1, 0, 5, 5), (0, 0, 65, 5), (0, 9, 5, 49), (5, 5, 4, 9)])
def test_a_part_lies_within_its_picture(corners: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError, match="x1 < x2 <= 64, y1 < y2 <= 48; got"):
        picture_at(1 << 20, "bgr").part(*corners)


def test_a_part_of_nv12_begins_at_even_pixels() -> None:
    for corners in ((1, 0, 9, 9), (0, 3, 9, 9)):
        with pytest.raises(UsageError, match="x1 and y1 even"):
            picture_at(1 << 20, "nv12").part(*corners)

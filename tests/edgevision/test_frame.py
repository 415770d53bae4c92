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
            ({"pixel_format": "rgba"}, "is bgr, rgb or nv12, got 'rgba'"),
            ({"pitch_bytes": 1919}, "a pitch of 1920 bytes or more, got address 0x1000, pitch 1919"),
            ({"address": 0}, "needs an address"),
            ({"size_wh": (640, 0)}, "sides are 1 to 32767 pixels, got 640x0"),
        ],
    )
    def test_other_pictures_are_refused(self, changes: dict[str, Any], message: str) -> None:
        fields = {"address": 0x1000, "size_wh": (640, 480), "pixel_format": "bgr", "pitch_bytes": 1920}
        with pytest.raises(UsageError, match=message):
            DevicePicture(**{**fields, **changes}, download=lambda: IMAGE)

"""The window, on a real X server without a screen (Xvfb): what it shows is read from the server's memory."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgevision.errors import SinkError
from edgevision.frame import Frame
from edgevision.results import Detections
from edgevision.sinks import open_sink

SCREEN_WH = (640, 480)
COLOUR = (40, 200, 90)
NEEDS = "apt-get install -y --no-install-recommends xvfb gstreamer1.0-x python3-gi gstreamer1.0-plugins-good"


class Screen:
    """An X server; `pixels` is what a person in front of it would see."""

    def __init__(self, folder: Path) -> None:
        self._memory = folder / "Xvfb_screen0"
        told, tell = os.pipe()
        size = "{}x{}x24".format(*SCREEN_WH)
        options = ["-screen", "0", size, "-fbdir", str(folder), "-nolisten", "tcp", "-noreset"]
        self._process = subprocess.Popen(
            ["Xvfb", "-displayfd", str(tell), *options], pass_fds=[tell], stderr=subprocess.DEVNULL
        )
        os.close(tell)
        with os.fdopen(told) as answer:
            self.name = f":{answer.readline().strip()}"

    def pixels(self) -> NDArray[np.uint8]:
        """(h, w, 3) BGR, from the server's memory in the X window dump format."""
        data = self._memory.read_bytes()
        header_bytes, colours = struct.unpack_from(">I", data)[0], struct.unpack_from(">I", data, 19 * 4)[0]
        width, height = SCREEN_WH
        start = header_bytes + 12 * colours
        return np.frombuffer(data, np.uint8, 4 * width * height, start).reshape(height, width, 4)[..., :3]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    if shutil.which("Xvfb") is None or not list(Path("/usr/lib").glob("*/gstreamer-1.0/libgstximagesink.so")):
        pytest.skip(f"needs an X server and GStreamer's window: {NEEDS}")
    server = Screen(tmp_path)
    monkeypatch.setenv("DISPLAY", server.name)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    yield server
    server.close()


def test_a_window_shows_the_newest_picture_and_goes_away(screen: Screen) -> None:
    sink = open_sink("display://")
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    picture = np.full((240, 320, 3), COLOUR, np.uint8)

    def shown() -> int:
        return int((np.abs(screen.pixels().astype(int) - COLOUR).max(axis=2) <= 8).sum())

    deadline = time.monotonic() + 20
    while shown() < picture.shape[0] * picture.shape[1] and time.monotonic() < deadline:
        sink.write(Frame(picture, 0, "cam", time.monotonic_ns()), nothing, {})
        time.sleep(0.05)
    assert shown() == picture.shape[0] * picture.shape[1]
    sink.close()
    deadline = time.monotonic() + 10
    while shown() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert shown() == 0


def test_without_a_screen_the_reason_is_told(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":97")
    with pytest.raises(SinkError, match=r"GStreamer cannot show pictures: .*a window needs a screen"):
        open_sink("display://")

"""Pictures in NV12 on the host: OpenCV's colours, BT.709's too, from cameras' readers to the network."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import edgevision
from edgevision.errors import UsageError
from edgevision.frame import Frame
from edgevision.kernels.cpu_nv12 import nv12_picture
from edgevision.kernels.fixed_point import bgr_from_nv12
from edgevision.nv12 import NV12_FORMATS, Nv12Picture
from edgevision.sources import open_source
from edgevision.sources.av_reader import _nv12_format, _write_nv12
from tests.camera_kit import no_thread_left
from tests.tiny_models import detector_bundle

SYSTEM_PYTHON = Path("/usr/bin/python3")


def noise(size_wh: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Planes of luma and chroma as limited range has them."""
    width, height = size_wh
    return np.random.default_rng(seed).integers(16, 236, (height * 3 // 2, width), dtype=np.uint8)


def planes_of(bgr: tuple[int, int, int], red: float, blue: float) -> NDArray[np.uint8]:
    """A picture of one colour in limited range, by the definition of the matrix with these weights of luma."""
    b, g, r = bgr
    luma = red * r + (1 - red - blue) * g + blue * b
    planes = np.empty((24, 16), np.uint8)
    planes[:16] = round(16 + 219 / 255 * luma)
    planes[16:, 0::2] = round(128 + 112 / 255 * (b - luma) / (1 - blue))
    planes[16:, 1::2] = round(128 + 112 / 255 * (r - luma) / (1 - red))
    return planes


@given(
    bgr=st.tuples(*[st.integers(0, 255)] * 3),
    matrix=st.sampled_from([("nv12", 0.299, 0.114), ("nv12-709", 0.2126, 0.0722)]),
)
def test_a_colour_comes_back_as_it_was(bgr: tuple[int, int, int], matrix: tuple[str, float, float]) -> None:
    pixel_format, red, blue = matrix
    planes = planes_of(bgr, red, blue)
    exact = bgr_from_nv12(planes[:16], planes[16:].reshape(8, 8, 2), pixel_format)[0, 0].astype(int)
    assert np.abs(exact - bgr).max() <= 2  # a level of luma is 1.2 of blue, one of chroma 2
    shown = nv12_picture(planes, pixel_format).download()
    assert np.abs(shown.astype(int) - exact).max() <= (0 if pixel_format == "nv12" else 3)


@pytest.mark.parametrize("size_wh", [(2, 2), (16, 8), (642, 362), (1280, 720)])
def test_bt601_has_opencvs_bits_and_is_converted_once(size_wh: tuple[int, int]) -> None:
    planes = noise(size_wh)
    frame = Frame(nv12_picture(planes))
    assert (frame.pixel_format, frame.size_wh) == ("nv12", size_wh)
    np.testing.assert_array_equal(frame.image, cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_NV12))
    assert frame.image is frame.image


def test_bt709_is_within_three_levels_of_the_gpus() -> None:
    planes = noise((640, 360))
    planes[:360] = planes[:360] // 2 + 60
    planes[360:] = planes[360:] // 4 + 96  # colours that exist
    exact = bgr_from_nv12(planes[:360], planes[360:].reshape(180, 320, 2), "nv12-709")
    off = np.abs(nv12_picture(planes, "nv12-709").download().astype(int) - exact)
    assert off.max() <= 3
    assert off.mean() < 0.6


def test_frames_say_what_their_pictures_are() -> None:
    frame = Frame(np.zeros((4, 6, 3), np.uint8))
    assert (frame.pixel_format, frame.size_wh, frame.image is frame.picture) == ("bgr", (6, 4), True)


@pytest.mark.parametrize(
    ("planes", "pixel_format", "message"),
    [
        (np.zeros((6, 5), np.uint8), "nv12", "even"),
        (np.zeros((8, 4), np.uint8), "nv12", "even"),
        (np.zeros((0, 4), np.uint8), "nv12", "even"),
        (np.zeros((6, 4), np.float32), "nv12", "float32"),
        (np.zeros((6, 8), np.uint8)[:, ::2], "nv12", "C-contiguous"),
        (np.zeros((6, 4), np.uint8), "i420", "one of nv12, nv12-709, got 'i420'"),
    ],
)
def test_what_is_no_nv12_is_refused(planes: NDArray[Any], pixel_format: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        nv12_picture(planes, pixel_format)


@pytest.mark.parametrize("pixel_format", NV12_FORMATS)
def test_a_model_on_the_cpu_sees_the_picture_that_everybody_sees(pixel_format: str, tmp_path: Path) -> None:
    picture = nv12_picture(noise((96, 64)), pixel_format)
    with edgevision.load(detector_bundle(tmp_path / "m.edge"), backend="cpu", confidence=0.01) as model:
        found, wanted = model(Frame(picture)), model(picture.download())
    np.testing.assert_array_equal(found.xyxy, wanted.xyxy)  # type: ignore[union-attr]
    np.testing.assert_array_equal(found.confidence, wanted.confidence)  # type: ignore[union-attr]


# ---- PyAV's pictures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoded", ["yuv420p", "nv12"])
@pytest.mark.parametrize("size_wh", [(64, 48), (70, 50)])  # FFmpeg pads the rows of the second
def test_the_planes_of_a_decoded_picture_are_its_own(decoded: str, size_wh: tuple[int, int]) -> None:
    planes = noise(size_wh)
    picture = av.VideoFrame.from_ndarray(planes, format="nv12").reformat(format=decoded)
    assert _nv12_format(picture) == "nv12"
    out = np.empty_like(planes)
    _write_nv12(picture, out)
    np.testing.assert_array_equal(out, planes)


@pytest.mark.parametrize(
    ("matrix", "full_range", "decoded", "size_wh", "expected"),
    [
        (1, False, "yuv420p", (64, 48), "nv12-709"),
        (6, False, "yuv420p", (64, 48), "nv12"),
        (9, False, "yuv420p", (64, 48), "bgr"),  # BT.2020
        (6, True, "yuv420p", (64, 48), "bgr"),
        (6, False, "yuvj420p", (64, 48), "bgr"),
        (6, False, "yuv422p", (64, 48), "bgr"),
        (6, False, "yuv420p", (63, 48), "bgr"),
        (6, False, "yuv420p", (64, 47), "bgr"),
    ],
)
def test_other_colours_and_odd_sides_stay_bgr(
    matrix: int, full_range: bool, decoded: str, size_wh: tuple[int, int], expected: str
) -> None:
    picture = av.VideoFrame(*size_wh, decoded)
    picture.colorspace, picture.color_range = matrix, 2 if full_range or "j" in decoded else 1
    assert _nv12_format(picture) == expected


# ---- through real readers ------------------------------------------------------------------------------------------

COLOUR = 0xFF3070C0  # a foreground for videotestsrc: red 48, green 112, blue 192


def first(uri: str, **options: Any) -> Frame:
    with no_thread_left(), open_source(uri, timeout_s=10, **options) as source:
        return next(iter(source))


@pytest.mark.parametrize(
    ("caps", "expected"),
    [
        ("format=I420,width=640,height=360", "nv12"),
        ("format=NV12,width=642,height=362", "nv12"),  # rows with gaps behind them
        ("format=I420,width=1280,height=720", "nv12-709"),  # what GStreamer takes where nothing is said
        ("format=I420,width=640,height=360,colorimetry=bt709", "nv12-709"),
        ("format=I420,width=640,height=360,colorimetry=1:4:0:0", "bgr"),  # full range
        ("format=I420,width=641,height=361", "bgr"),
    ],
)
def test_gstreamers_pictures_have_the_same_colours_either_way(caps: str, expected: str, rtsp_possible: None) -> None:
    uri = f"gst:videotestsrc is-live=true pattern=solid-color foreground-color={COLOUR} ! video/x-raw,{caps}"
    planes, plain = first(uri, nv12=True), first(uri)
    assert (planes.pixel_format, plain.pixel_format) == (expected, "bgr")
    assert planes.size_wh == plain.size_wh
    off = np.abs(planes.image.astype(int) - plain.image)
    assert off.max() <= 4  # GStreamer's own converter rounds down to even levels
    if expected != "bgr":
        assert np.abs(planes.image.reshape(-1, 3).mean(axis=0) - (192, 112, 48)).max() <= 4


@pytest.fixture
def camera(rtsp_possible: None) -> Iterator[str]:
    server = subprocess.Popen(
        [SYSTEM_PYTHON, Path(__file__).parents[1] / "rtsp_server.py"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    yield f"rtsp://127.0.0.1:{int(server.stdout.readline())}/cam"
    server.kill()
    server.wait(10)
    server.stdout.close()


@pytest.mark.parametrize("reader", ["av", "gstreamer"])
def test_an_rtsp_cameras_pictures_come_in_half_the_bytes(camera: str, reader: str) -> None:
    with no_thread_left(), open_source(camera, reader=reader, nv12=True) as source:
        frames = iter(source)
        frame = [next(frames) for _ in range(5)][-1]
        assert (frame.pixel_format, frame.size_wh) == ("nv12-709", (1280, 720))
        assert isinstance(frame.picture, Nv12Picture)
        assert frame.picture.planes.nbytes == frame.image.nbytes // 2
        ball = frame.image.max(axis=2) > 128  # white on black
        assert 100 < ball.sum() < 40_000
        assert frame.image[~ball].mean() < 10

"""Pipelines: what is on the machine decides, what the user gives stays a value, and GStreamer itself takes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgevision.errors import SourceError, UsageError
from edgevision.sources.gstreamer_pipelines import PACKAGES, SINK, pipeline_for

JETSON = frozenset(PACKAGES)
PC = frozenset(name for name in PACKAGES if not name.startswith("nv"))


def elements(text: str) -> list[str]:
    """The elements of a launch text, without their properties and without caps."""
    names = [part.split()[0] for part in text.split(" ! ")]
    return [name for name in names if "/" not in name and name != "capsfilter"]


def test_a_jetson_converts_in_hardware_and_a_pc_does_not() -> None:
    uri = "rtsp://camera/1"
    on_jetson, on_pc = (elements(pipeline_for(uri, there).text) for there in (JETSON, PC))
    assert on_jetson == ["rtspsrc", "decodebin", "nvvidconv", "videoconvert", "appsink"]
    assert on_pc == ["rtspsrc", "decodebin", "videoconvert", "appsink"]


@pytest.mark.parametrize(
    "uri",
    ["rtsp://h/1", "udp://@:5000", "rtp://@:5000", "http://h/stream", "v4l2:///dev/video0", "gst:videotestsrc"],
)
@pytest.mark.parametrize("there", [JETSON, PC])
def test_every_live_pipeline_keeps_the_newest_picture_only(uri: str, there: frozenset[str]) -> None:
    text = pipeline_for(uri, there).text
    assert text.endswith(f"caps=video/x-raw,format=BGR ! appsink name={SINK} max-buffers=1 drop=true sync=false")


@pytest.mark.parametrize("uri", ['rtsp://h/a" ! filesink location=/tmp/x', "http://h/! fakesrc", "rtsp://u:p!@h/1"])
def test_an_address_is_a_value_and_no_part_of_the_pipeline(uri: str) -> None:
    pipeline = pipeline_for(uri, PC)
    assert pipeline.properties["source"]["location"] == uri
    assert "fakesrc" not in pipeline.text
    assert "filesink" not in pipeline.text


def test_a_csi_camera_is_asked_for_what_the_user_wants() -> None:
    pipeline = pipeline_for("csi://1?size=1920x1080&fps=60&flip=2&exposure_us=5000&gain=4", JETSON)
    assert "video/x-raw(memory:NVMM),format=NV12,width=1920,height=1080,framerate=60/1" in pipeline.text
    assert "nvvidconv flip-method=2" in pipeline.text
    expected = {"sensor-id": 1, "exposuretimerange": "5000000 5000000", "gainrange": "4 4"}
    assert pipeline.properties == {"source": expected}


def test_a_usb_camera_is_decoded_by_what_is_there() -> None:
    uri = "v4l2:///dev/video2?format=mjpeg&size=1280x720&fps=30&exposure_us=10000&gain=3"
    text = pipeline_for(uri, PC).text
    assert 'extra-controls="c,auto_exposure=1,exposure_time_absolute=100,gain=3"' in text
    assert "image/jpeg,width=1280,height=720,framerate=30/1 ! jpegdec" in text
    assert "! nvjpegdec !" in pipeline_for(uri, JETSON).text
    assert "video/x-raw,format=YUY2 !" in pipeline_for("v4l2:///dev/video0?format=yuyv422", PC).text


@pytest.mark.parametrize(
    "uri",
    [
        "csi://a",
        "csi://0?size=12",
        "csi://0?fps=30/1",
        "csi://0?zoom=2",
        "v4l2:///dev/video0?size=axb",
        "v4l2:///dev/video0?format=y,x=1",
        "rtp://@?codec=h264",
        "rtp://@:5000?codec=vp8",
        "gst:",
        "gst:videotestsrc ! appsink",
    ],
)
def test_parameters_are_checked(uri: str) -> None:
    with pytest.raises(UsageError):
        pipeline_for(uri, JETSON)


@pytest.mark.parametrize(
    ("uri", "missing", "package"),
    [
        ("csi://0", "nvarguscamerasrc", "nvidia-l4t-gstreamer"),
        ("rtsp://h/1", "rtspsrc", "gstreamer1.0-plugins-good"),
        ("gst:videotestsrc", "videoconvert", "gstreamer1.0-plugins-base"),
    ],
)
def test_a_missing_element_is_named_with_its_package(uri: str, missing: str, package: str) -> None:
    with pytest.raises(SourceError, match=f"lacks {missing}; run: sudo apt-get install {package}"):
        pipeline_for(uri, JETSON - {missing})


@pytest.mark.parametrize(
    "uri", ["rtsp://h/1", "udp://@:5000", "rtp://@:5000?codec=h265", "http://h/s", "v4l2:///dev/video0?format=mjpeg"]
)
def test_gstreamer_itself_takes_the_pipelines_of_a_pc(uri: str) -> None:
    python = Path("/usr/bin/python3")
    script = "import gi, sys; gi.require_version('Gst', '1.0'); from gi.repository import Gst; Gst.init(None); "
    script += "Gst.parse_launch(sys.argv[1]).get_by_name(sys.argv[2]).get_property('drop') or sys.exit(3)"
    if not python.exists() or subprocess.run([python, "-c", "import gi"], capture_output=True).returncode:
        pytest.skip("needs GStreamer: apt-get install python3-gi gstreamer1.0-plugins-good (.ci/packages.txt)")
    done = subprocess.run([python, "-c", script, pipeline_for(uri, PC).text, SINK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

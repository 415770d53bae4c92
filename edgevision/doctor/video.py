"""What can decode, encode and fetch pictures: OpenCV, PyAV, GStreamer and its hardware elements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgevision.doctor.board import is_board
from edgevision.doctor.finding import ABSENT, OK, PROBLEM, Finding, answer, find_package, read
from edgevision.sources.gstreamer_pipelines import PACKAGES
from edgevision.sources.gstreamer_python import REMEDY, find_gstreamer

_PURPOSES = {
    "nvv4l2decoder": "hardware decoding",
    "nvv4l2h264enc": "H.264 encoding",
    "nvv4l2h265enc": "H.265 encoding",
    "nvarguscamerasrc": "CSI cameras",
    "nvvidconv": "scaling and conversion",
    "nvjpegdec": "JPEG decoding",
}
_CAMERA_ELEMENTS = ("appsink", "videoconvert", "decodebin", "rtspsrc", "rtph264depay", "v4l2src", "avdec_h264")
# Modules without NVENC: there the encoder elements are installed, but cannot work.
_NO_ENCODER = "Orin Nano"


def check_video(root: Path) -> Iterator[Finding]:
    """OpenCV's and PyAV's part, then GStreamer's."""
    yield from find_package("av", "av", "video files and RTSP", 'pip install "edgevision[cpu]"')
    found = list(find_package("cv2", "opencv-python-headless", "pictures", 'pip install "edgevision[cpu]"'))
    yield from found
    if found[0].state == OK:
        import cv2

        lines = cv2.getBuildInformation().splitlines()
        built_in = {name: any(name in line and "YES" in line for line in lines) for name in ("GStreamer", "FFMPEG")}
        detail = ", ".join(f"{name} {'yes' if present else 'no'}" for name, present in built_in.items())
        yield Finding("OpenCV video input", OK, f"{detail} (not needed: GStreamer and PyAV read cameras and files)")
    yield from _gstreamer(root)
    yield _python_gstreamer()


def _gstreamer(root: Path) -> Iterator[Finding]:
    version = answer("gst-inspect-1.0", "--version")
    if version is None:
        remedy = "sudo apt-get install gstreamer1.0-tools"
        yield Finding("GStreamer", ABSENT, "gst-inspect-1.0 is missing or does not run", remedy)
        return
    yield Finding("GStreamer", OK, version.partition("\n")[0].removeprefix("gst-inspect-1.0 version "))
    if not is_board(root):
        return
    there = {name for name in _PURPOSES if answer("gst-inspect-1.0", "--exists", name) is not None}
    missing = [f"{name} ({purpose})" for name, purpose in _PURPOSES.items() if name not in there]
    subject = "video elements"
    if missing:
        remedy = (
            "sudo apt-get install nvidia-l4t-gstreamer; if it is installed, clear GStreamer's list of elements: "
            "rm -r ~/.cache/gstreamer-1.0"
        )
        yield Finding(subject, ABSENT, f"missing: {', '.join(missing)}", remedy)
    else:
        yield Finding(subject, OK, ", ".join(_PURPOSES))
    if _NO_ENCODER in read(root / "proc/device-tree/model"):
        remedy = "encode in software (x264enc, PyAV's libx264), or send JPEG"
        yield Finding("video encoder", ABSENT, f"{_NO_ENCODER} has none, although its elements are installed", remedy)


def _python_gstreamer() -> Finding:
    """Whether cameras can be read through GStreamer: by this Python, or by the system's, which has the bindings."""
    found = find_gstreamer()
    if found is None:
        detail = "no Python here has GStreamer's bindings; RTSP cameras are read through PyAV, CSI cameras not at all"
        return Finding("cameras through GStreamer", ABSENT, detail, REMEDY)
    missing = [name for name in _CAMERA_ELEMENTS if name not in found.elements]
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES[name] for name in missing))
        remedy = f"sudo apt-get install {packages}"
        return Finding("cameras through GStreamer", PROBLEM, f"missing elements: {', '.join(missing)}", remedy)
    return Finding("cameras through GStreamer", OK, f"{found.version}, by {found.python}")

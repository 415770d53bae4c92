"""USB and other cameras with a Linux video device."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

from edgevision.errors import SourceError, UsageError
from edgevision.sources.base import Source, SourceStatus
from edgevision.sources.live import LiveSource
from edgevision.sources.options import SourceOptions
from edgevision.sources.readers import choose_reader

UNDERSTANDS = (
    "a USB camera: 0 or v4l2:///dev/video0 (?size=1280x720&fps=30&format=mjpeg, where the camera offers it; "
    "through GStreamer also exposure_us=5000&gain=4)"
)
_OPTIONS = {"size": "video_size", "fps": "framerate", "format": "input_format"}
_CONTROLS = ("exposure_us", "gain")  # FFmpeg sets none of a camera's controls


def claims(uri: str) -> bool:
    return uri.isdecimal() or uri.startswith(("v4l2:", "/dev/video"))


def make(uri: str, status: SourceStatus, options: SourceOptions) -> Source:
    """
    Raises:
        SourceError: there is no such device, or it cannot be opened.
        UsageError: not of the form above.
    """
    location, _, query = uri.removeprefix("v4l2://").partition("?")
    device = Path(f"/dev/video{location}" if location.isdecimal() else location)
    given = dict(parse_qsl(query))
    if not re.fullmatch(r"/dev/(video\d+|v4l/.+)", str(device)) or not set(given) <= {*_OPTIONS, *_CONTROLS}:
        raise UsageError(f"camera {uri!r} is not of the form {UNDERSTANDS}")
    if set(given) & set(_CONTROLS):
        if options.reader in ("av", "opencv"):
            raise UsageError(f"camera {uri!r}: {' and '.join(_CONTROLS)} need the reader gstreamer")
        options = replace(options, reader="gstreamer")
    if not device.exists():
        found = sorted(str(path) for path in Path("/dev").glob("video*"))
        raise SourceError(
            f"camera {device} does not exist; "
            + (f"this machine has {', '.join(found)}" if found else "this machine has no /dev/video*: plug one in")
            + " (list them with: v4l2-ctl --list-devices)"
        )
    if not os.access(device, os.R_OK | os.W_OK):
        raise SourceError(
            f"camera {device} may not be used by this user; run: sudo usermod -aG video $USER, and log in again"
        )
    wanted = {_OPTIONS[key]: value for key, value in given.items() if key in _OPTIONS}
    reader = choose_reader(f"v4l2://{device}?{query}", str(device), status, options, wanted, "v4l2")
    return LiveSource(reader, status, options)

"""What cameras of the tests need of this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SYSTEM_PYTHON = Path("/usr/bin/python3")
PACKAGES = Path(__file__).parents[2] / ".ci" / "packages.txt"


@pytest.fixture(scope="session")
def rtsp_possible() -> None:
    """GStreamer's RTSP server, as the system's Python finds it."""
    script = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
    script += "Gst.init(None); assert all(map(Gst.ElementFactory.find, ('x264enc', 'rtph264pay', 'videotestsrc')))"
    if not SYSTEM_PYTHON.exists() or subprocess.run([SYSTEM_PYTHON, "-c", script], capture_output=True).returncode:
        packages = " ".join(PACKAGES.read_text().split())
        pytest.skip(f"needs GStreamer's RTSP server: apt-get install -y --no-install-recommends {packages}")

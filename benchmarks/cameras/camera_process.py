"""The clock camera as a process that can be killed, frozen and brought back on the same port."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("clock_camera.py")
_SYSTEM_PYTHON = "/usr/bin/python3"
NEEDS = (
    "needs GStreamer's RTSP server: "
    "sudo apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly"
)


class ClockCamera:
    """`uri` stays the same through all faults."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self.uri = f"rtsp://127.0.0.1:{self._port}/cam"
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Bring it back after `kill`."""
        self._process = subprocess.Popen(
            [_SYSTEM_PYTHON, str(SCRIPT), str(self._port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline().strip():
            sys.exit(NEEDS)

    def kill(self) -> None:
        """As if its power were cut."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def freeze(self) -> None:
        """As if its cable were pulled: connections stay open and silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """As if the cable were back."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

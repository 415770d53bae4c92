"""Annotated pictures in a window, or served as an RTSP stream, by GStreamer in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgevision.drawing import draw
from edgevision.errors import SinkError, UsageError
from edgevision.frame import Frame
from edgevision.polling import readable, writable
from edgevision.results import Result
from edgevision.sinks.base import Sink
from edgevision.sinks.gstreamer_writer import HEADER
from edgevision.sources.base import Source
from edgevision.sources.gstreamer_python import require_gstreamer

UNDERSTANDS = "annotated pictures through GStreamer: a window display:// or an RTSP server rtsp://@:8554/name"
ONE_SOURCE = True
_WRITER = Path(__file__).with_name("gstreamer_writer.py")
_READY_LIMIT_S = 20.0
_WRITE_LIMIT_S = 2.0
_CLOSE_LIMIT_S = 1.0


def claims(uri: str) -> bool:
    return uri.startswith(("display://", "rtsp://"))


def make(uri: str, source: Source | None) -> Sink:
    """
    Raises:
        UsageError: not of the form above.
        SinkError: GStreamer is missing, there is no screen, or the port cannot be had.
    """
    if uri.startswith("display://"):
        return GstreamerSink({"kind": "window"})
    parts = urlsplit(uri.replace("//@", "//", 1))
    try:
        port = parts.port
    except ValueError:
        port = None
    if port is None or len(parts.path) < 2:
        raise UsageError(f"an RTSP server needs a port and a name: rtsp://@:8554/front, got {uri!r}")
    return GstreamerSink({"kind": "rtsp", "host": parts.hostname or "0.0.0.0", "port": port, "path": parts.path})


class GstreamerSink:
    """Shows the newest result. A window that the user closes is not opened again; the run goes on.

    Attributes:
        port: of an RTSP server; 0 for a window.
    """

    NEWEST = True
    name = ""

    def __init__(self, task: Mapping[str, Any]) -> None:
        python = require_gstreamer(f"sink {task['kind']}").python
        self._process = subprocess.Popen(
            [python, "-I", str(_WRITER), json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipe, self._first_ns = self._process.stdin.fileno(), 0
        os.set_blocking(self._pipe, False)
        ready = readable([self._process.stdout.fileno()], _READY_LIMIT_S)
        said = self._process.stdout.readline().decode(errors="replace").strip() if ready else "no answer"
        word, _, port = said.partition(" ")
        if word != "ready":
            self.close()
            needs = "; a window needs a screen, and on X: sudo apt-get install gstreamer1.0-x"
            raise SinkError(
                f"{task['kind']}: GStreamer cannot show pictures: {said or 'it ended without a word'}"
                f"{needs if task['kind'] == 'window' else ''}"
            )
        self.port = int(port or 0)

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        if self._process.poll() is not None:
            return
        image = draw(frame.image, result)
        height, width = image.shape[:2]
        self._first_ns = self._first_ns or frame.capture_time_ns
        deadline = time.monotonic() + _WRITE_LIMIT_S
        header = HEADER.pack(width, height, max(0, frame.capture_time_ns - self._first_ns))
        for data in (memoryview(header), memoryview(image.data).cast("B")):
            while data:
                if not writable(self._pipe, deadline - time.monotonic()):
                    self._process.kill()
                    raise SinkError(f"{self.name or 'display'}: GStreamer took no picture for {_WRITE_LIMIT_S:g} s")
                try:
                    data = data[os.write(self._pipe, data) :]
                except BrokenPipeError:
                    return

    def abandon(self) -> None:
        """End the other process: whoever waits for it goes on."""
        self._process.kill()

    def close(self) -> None:
        """Ends the window or the server."""
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        try:
            process.wait(_CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_CLOSE_LIMIT_S)
        if process.stdout is not None:
            process.stdout.close()

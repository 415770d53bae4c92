"""The program that reads one live camera through OpenCV, where neither PyAV nor GStreamer is there.

The last resort: OpenCV passes damaged pictures on as if they were whole, and tells no reason when it fails.
"""

from __future__ import annotations

import os
import time

import numpy as np

from edgevision.errors import EdgeVisionError
from edgevision.optional import require
from edgevision.sources.frame_channel import Outlet
from edgevision.sources.reader_process import ReaderProcess, python_command


def start_cv_reader(location: str) -> ReaderProcess:
    """Start this program.

    Raises:
        SourceError: it cannot be started.
    """
    return ReaderProcess(python_command(__name__), {"location": location})


def main(descriptor: str) -> None:
    """Read until the owner closes its end, or the camera ends."""
    outlet = Outlet(int(descriptor))
    location = outlet.task["location"]
    # Read by OpenCV at the first use of FFmpeg; this process has one camera.
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp|fflags;nobuffer|flags;low_delay")
    try:
        cv2 = require("cv2", "reading cameras")
    except EdgeVisionError as error:
        outlet.error(str(error))
        return
    one_thread = [cv2.CAP_PROP_N_THREADS, 1] if "://" in location else []  # each further one holds a frame back
    capture = cv2.VideoCapture(location, cv2.CAP_FFMPEG if "://" in location else cv2.CAP_V4L2, one_thread)
    if not capture.isOpened():
        outlet.error("OpenCV cannot open it, and does not say why; with PyAV the reason is told: pip install av")
        return
    outlet.opened(capture.get(cv2.CAP_PROP_FPS) or None)
    while capture.grab():
        arrived_ns = time.monotonic_ns()
        found, image = capture.retrieve()
        if not found:
            outlet.drop("decode_error")
            continue
        taken = outlet.slot(image.nbytes)
        if taken is not None:
            slot, memory = taken
            np.frombuffer(memory, np.uint8).reshape(image.shape)[...] = image
            outlet.publish(slot, (image.shape[1], image.shape[0]), arrived_ns)
    outlet.error(f"the stream ended after {outlet.captured} frames; is the camera still on?")

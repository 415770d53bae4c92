"""A reader process that delivers numbered pictures, and fails in the ways that cameras and drivers do."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from edgevision.sources.frame_channel import Outlet
from edgevision.sources.reader_process import ReaderProcess, python_command
from tests.camera_kit import numbered


def main(descriptor: str) -> None:
    outlet = Outlet(int(descriptor))
    task = outlet.task
    fault, sizes = task.get("fault", ""), task.get("sizes", [[160, 96]])
    if fault == "refuse":
        outlet.error("no such camera")
        return
    if fault == "chatty":
        outlet.note("\N{GRINNING FACE}" * 5000)
        outlet.error(f"not found: rtsp://admin:secret@camera/1 {os.getpid()}")
        return
    if fault == "silent":
        time.sleep(60)
    outlet.opened(task["fps"])
    for number in range(task.get("frames", 1 << 30)):
        time.sleep(1 / task["fps"])
        width, height = sizes[number // 10 % len(sizes)]
        taken = outlet.slot(3 * width * height)
        if taken is not None:
            slot, memory = taken
            np.frombuffer(memory, np.uint8).reshape(height, width, 3)[...] = numbered(number, (width, height))
            outlet.publish(slot, (width, height), time.monotonic_ns())
    if fault == "hang":
        time.sleep(60)
    elif fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "exit":
        os._exit(3)


def own() -> None:
    """Start a reader, tell its process number, and wait to be killed."""
    process = ReaderProcess(python_command("numbered_reader"), {"fps": 100, "slots": 4})
    print(process._process.pid, flush=True)
    sys.stdout.flush()
    time.sleep(60)

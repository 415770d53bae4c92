"""A camera's reader in a process of its own: started, listened to, killed."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import SourceError
from edgevision.kernels.cpu_nv12 import nv12_picture
from edgevision.nv12 import Nv12Picture
from edgevision.polling import readable
from edgevision.sources.frame_channel import Inlet, Ring, picture_bytes

SLOTS = 24
"""Pictures of one source in use at once: waiting, in the lanes, at the sinks. Memory never needed is never touched."""
_SPARE_SLOTS = 6
_KILL_LIMIT_S = 1.0


@dataclass(frozen=True)
class Arrived:
    """A message of the reader, and the picture that came with it, (h, w, 3) uint8 BGR or NV12, in shared memory."""

    message: Mapping[str, Any]
    picture: NDArray[np.uint8] | Nv12Picture | None


class ReaderProcess:
    """Read by one thread; `kill` may come from any.

    A picture's memory returns to the reader by itself when the last array on it is gone. Who keeps very many pictures
    gets copies, so that the camera never runs out of memory to write to.
    """

    def __init__(self, command: Sequence[str], task: Mapping[str, Any]) -> None:
        """Start a reader.

        Args:
            command: the program; it gets the number of its end of the channel as its last argument.
            task: what it is to read, with the first message: a command line would show passwords to everybody.

        Raises:
            SourceError: the program cannot be started, or ends before it was told what to do.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                # A session of its own: Ctrl-C is for us, and we end it.
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise SourceError(f"the reader {command[0]} cannot be started: {error.strerror}") from error
        try:
            self._inlet = Inlet(ours, {"slots": SLOTS, **task})
        except (OSError, ValueError) as error:
            ours.close()
            self._process.kill()
            self._process.wait()
            raise SourceError(f"the reader {command[0]} cannot be used: {error}") from error
        self._lent: set[tuple[int, int]] = set()  # ring and slot; changed by this thread and by finalizers, atomically

    def receive(self, timeout_s: float, wake: int) -> Arrived | None:
        """The next message; None when none came in time, or `wake` (a descriptor) became readable.

        Raises:
            EOFError: the reader is gone; says how it ended.
        """
        try:
            ready = readable([self._inlet.fileno(), wake], timeout_s)
        except ValueError as error:  # closed meanwhile
            raise EOFError("its reader was stopped") from error
        if wake in ready or not ready:
            return None
        try:
            received = self._inlet.receive()
        except ValueError as error:
            self.kill()
            raise EOFError(f"its reader is out of order ({error})") from error
        if received is None:
            raise EOFError(self._ending())
        message, ring = received
        if message["kind"] != "frame":
            return Arrived(message, None)
        assert ring is not None
        return Arrived(message, self._picture(ring, message))

    def _picture(self, ring: Ring, message: Mapping[str, Any]) -> NDArray[np.uint8] | Nv12Picture:
        width, height = message["size_wh"]
        pixel_format = message["pixel_format"]
        kind = ctypes.c_uint8 * picture_bytes((width, height), pixel_format)
        memory: Any = kind.from_buffer(ring.memory, message["slot"] * ring.slot_bytes)
        pixels: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        if len(self._lent) >= ring.slots - _SPARE_SLOTS:
            pixels = pixels.copy()
            self._inlet.free(ring.number, message["slot"])
        else:
            self._lent.add((ring.number, message["slot"]))
            # All arrays on these bytes keep this object, whatever is sliced from whatever.
            weakref.finalize(memory, self._take_back, ring.number, message["slot"]).atexit = False
        if pixel_format == "bgr":
            return pixels.reshape(height, width, 3)
        return nv12_picture(pixels.reshape(-1, width), pixel_format)

    def _take_back(self, ring: int, slot: int) -> None:
        self._lent.discard((ring, slot))
        self._inlet.free(ring, slot)

    def _ending(self) -> str:
        try:
            code = self._process.wait(_KILL_LIMIT_S)
        except subprocess.TimeoutExpired:
            return "its reader closed the channel"
        if code < 0:
            named = {each.value: each.name for each in signal.Signals}
            return f"its reader crashed ({named.get(-code, f'signal {-code}')})"
        return "its reader ended" if code == 0 else f"its reader ended with exit code {code}"

    def kill(self) -> bool:
        """End the process, whatever it is doing. False where even that did not work (a driver holds it)."""
        self._process.kill()
        try:
            self._process.wait(_KILL_LIMIT_S)
        except subprocess.TimeoutExpired:
            return False
        finally:
            self._inlet.close()
        return True


def python_command(module: str) -> list[str]:
    """A program that runs `main` of our `module` in this interpreter, which finds packages where we find them."""
    if not sys.executable:
        raise SourceError("this program has no Python interpreter of its own to run a camera's reader with")
    path = [entry or str(Path.cwd()) for entry in sys.path]
    start = f"import sys; sys.path[:] = {path!r}; from {module} import main; main(*sys.argv[1:])"
    return [sys.executable, "-c", start]

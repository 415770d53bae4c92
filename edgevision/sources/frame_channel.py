"""Frames from a reader process: pictures in shared memory, everything else in small messages over a socket pair.

A camera's reader (FFmpeg, GStreamer, a vendor's camera stack) can wedge or crash inside a call that nobody can
interrupt. In a process of its own it can be killed at any moment, takes nobody with it, and leaves nothing behind:
the memory has no name. This file needs the standard library only, since GStreamer's bindings belong to the system's
Python, which has no numpy of ours.

Messages are JSON in one datagram each. From the reader:
    {"kind": "hello"}                                             the process is up, and turns to its camera
    {"kind": "open", "fps": 30.0 | null}
    {"kind": "ring", "ring": n, "slots": n, "slot_bytes": n}     with the memory's descriptor; replaces the last ring
    {"kind": "frame", "ring", "slot", "size_wh", "pixel_format", "capture_time_ns", "media_time_s", "captured",
     "dropped"}
    {"kind": "alive", "captured", "dropped"}                      frames come, but all slots are taken
    {"kind": "note", "text"}, {"kind": "error", "text"}
From the owner, first: the task, with "slots"; then {"kind": "free", "ring", "slot"}; its end closing ends the reader.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

MAX_MESSAGE_BYTES = 1 << 14
MAX_SLOT_BYTES = 3 << 26
"""8192x8192 pixels of BGR."""
FORMATS = {"bgr": (1, 3), "nv12": (2, 3), "nv12-709": (2, 3)}
"""Pixels and their bytes. Pictures in NV12 have even sides, and chroma rows right behind those of the luma."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_ALIVE_S = 0.25
_MAX_TEXT = 1000  # a character may take twelve bytes in JSON
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "hello": {},
    "open": {"fps": (int, float, type(None))},
    "ring": {"ring": (int,), "slots": (int,), "slot_bytes": (int,)},
    "frame": {
        "ring": (int,),
        "slot": (int,),
        "size_wh": (list,),
        "pixel_format": (str,),
        "capture_time_ns": (int,),
        "media_time_s": (int, float, type(None)),
        "captured": (int,),
        "dropped": (dict,),
    },
    "alive": {"captured": (int,), "dropped": (dict,)},
    "note": {"text": (str,)},
    "error": {"text": (str,)},
}
_MAX_CAUSES = 16


def picture_bytes(size_wh: tuple[int, int], pixel_format: str) -> int:
    """Bytes of a picture without gaps.

    Raises:
        KeyError: no such format.
        ValueError: this format has no pictures of that size.
    """
    pixels, count = FORMATS[pixel_format]
    if size_wh[0] % pixels or size_wh[1] % pixels:
        raise ValueError(f"{pixel_format} of {size_wh[0]}x{size_wh[1]} pixels")
    return size_wh[0] * size_wh[1] * count // pixels


class Outlet:
    """The reader's end. One thread publishes; a second one takes back the slots and ends the process with its owner."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self.task: dict[str, Any] = json.loads(self._socket.recv(MAX_MESSAGE_BYTES))
        self._count: int = self.task["slots"]
        self._ring, self._slot_bytes = -1, 0
        self._memory: mmap.mmap | None = None
        self._free: set[int] = set()
        self._lock = threading.Lock()
        self._told = 0.0
        self.captured = 0
        self.dropped: dict[str, int] = {}
        self._send({"kind": "hello"})
        threading.Thread(target=self._listen, name="owner", daemon=True).start()

    def opened(self, fps: float | None) -> None:
        """The camera delivers."""
        self._send({"kind": "open", "fps": fps})

    def note(self, text: str) -> None:
        """A problem that ends nothing."""
        self._send({"kind": "note", "text": text[:_MAX_TEXT]})

    def error(self, text: str) -> None:
        """Why this reader ends."""
        self._send({"kind": "error", "text": text[:_MAX_TEXT]})

    def drop(self, cause: str) -> None:
        """Count a frame that will not be published."""
        self.captured += 1
        self.dropped[cause] = self.dropped.get(cause, 0) + 1

    def slot(self, size_bytes: int) -> tuple[int, memoryview] | None:
        """A free slot and its memory for a picture of that size; None, with the frame counted, where all are taken."""
        if size_bytes > self._slot_bytes:
            self._renew(size_bytes)
        with self._lock:
            index = min(self._free, default=None)  # always the lowest: memory never needed is never touched
            if index is not None:
                self._free.discard(index)
        if index is None:
            self.drop("backlog")
            if time.monotonic() - self._told > _ALIVE_S:
                self._send({"kind": "alive", "captured": self.captured, "dropped": self.dropped})
            return None
        assert self._memory is not None
        start = index * self._slot_bytes
        return index, memoryview(self._memory)[start : start + size_bytes]

    def publish(
        self,
        slot: int,
        size_wh: tuple[int, int],
        capture_time_ns: int,
        media_time_s: float | None = None,
        pixel_format: str = "bgr",
    ) -> None:
        """Hand over a slot that a picture of one of FORMATS, without gaps, was written into."""
        self.captured += 1
        self._send(
            {
                "kind": "frame",
                "ring": self._ring,
                "slot": slot,
                "size_wh": size_wh,
                "pixel_format": pixel_format,
                "capture_time_ns": capture_time_ns,
                "media_time_s": media_time_s,
                "captured": self.captured,
                "dropped": self.dropped,
            }
        )

    def _renew(self, size_bytes: int) -> None:
        """A new ring of larger slots. Pictures in the old one stay where they are until their last user is done."""
        page = mmap.PAGESIZE
        size = -(-size_bytes // page) * page
        descriptor = os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size * self._count)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)  # the owner may rely on the size
            self._memory = mmap.mmap(descriptor, size * self._count)
            with self._lock:
                self._ring, self._slot_bytes, self._free = self._ring + 1, size, set(range(self._count))
            self._send({"kind": "ring", "ring": self._ring, "slots": self._count, "slot_bytes": size}, [descriptor])
        finally:
            os.close(descriptor)

    def _send(self, message: Mapping[str, Any], descriptors: list[int] | None = None) -> None:
        self._told = time.monotonic()
        try:
            socket.send_fds(self._socket, [json.dumps(message).encode()], descriptors or [])
        except OSError:
            os._exit(0)  # the owner is gone

    def _listen(self) -> None:
        while True:
            try:
                data = self._socket.recv(MAX_MESSAGE_BYTES)
            except OSError:
                data = b""
            if not data:
                os._exit(0)  # at once, whatever the other thread is stuck in
            message = json.loads(data)
            with self._lock:
                if message["ring"] == self._ring:
                    self._free.add(message["slot"])


class Ring:
    """The owner's view of a reader's memory."""

    def __init__(self, descriptor: int, message: Mapping[str, Any]) -> None:
        """
        Raises:
            ValueError: the message and the memory do not fit together.
        """
        self.number, self.slots, self.slot_bytes = message["ring"], message["slots"], message["slot_bytes"]
        sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        size = os.fstat(descriptor).st_size
        if not sealed or not 0 < self.slot_bytes <= MAX_SLOT_BYTES or size != self.slots * self.slot_bytes:
            raise ValueError(f"{self.slots} slots of {self.slot_bytes} bytes in {size} bytes of memory")
        self.memory = mmap.mmap(descriptor, size)


class Inlet:
    """The owner's end. Received by one thread; slots are given back from any."""

    def __init__(self, end: socket.socket, task: Mapping[str, Any]) -> None:
        """
        Raises:
            OSError: the reader is gone already.
            ValueError: the task is too long.
        """
        data = json.dumps(task).encode()
        if len(data) > MAX_MESSAGE_BYTES:
            raise ValueError(f"its address and options have {len(data)} bytes, the limit is {MAX_MESSAGE_BYTES}")
        self._socket = end
        # Nobody may use the descriptor while another thread closes it: its number could be another file's by then.
        # Reentrant, since the garbage collector may give a slot back in the middle of anything.
        self._using = threading.RLock()
        self._socket.send(data)
        self._ring: Ring | None = None

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def receive(self) -> tuple[dict[str, Any], Ring | None] | None:
        """The next message, and the ring its frame lies in; None when the reader is gone. One must be there.

        Raises:
            ValueError: the reader sent what no reader sends.
        """
        try:
            with self._using:
                data, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, 1, socket.MSG_DONTWAIT)
        except OSError:
            return None
        try:
            if not data:
                return None
            message: dict[str, Any] = json.loads(data)
            _check_fields(message)
            if message["kind"] == "ring":
                self._ring = Ring(descriptors[0], message)
            elif message["kind"] == "frame":
                self._check_place(message)
        except (KeyError, IndexError, TypeError, AttributeError, OSError, RecursionError) as error:
            raise ValueError(f"a message that is not understood: {error!r}") from error
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return message, self._ring

    def _check_place(self, message: Mapping[str, Any]) -> None:
        ring, (width, height) = self._ring, message["size_wh"]
        if ring is None or message["ring"] != ring.number or not 0 <= message["slot"] < ring.slots:
            raise ValueError(f"slot {message['slot']} of ring {message['ring']} does not exist")
        if min(width, height) < 1 or picture_bytes((width, height), message["pixel_format"]) > ring.slot_bytes:
            raise ValueError(f"a picture of {width}x{height} does not fit into {ring.slot_bytes} bytes")

    def free(self, ring: int, slot: int) -> None:
        """Give a slot back."""
        message = {"kind": "free", "ring": ring, "slot": slot}
        with contextlib.suppress(OSError), self._using:  # the reader is gone, and its memory with it
            self._socket.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)

    def close(self) -> None:
        """End of the channel, and of the reader that listens to it."""
        with self._using:
            self._socket.close()


def _check_fields(message: Mapping[str, Any]) -> None:
    for name, types in _FIELDS[message["kind"]].items():
        if not isinstance(message[name], types):
            raise TypeError(f"{name} is {message[name]!r}")
    counts = message.get("dropped", {})
    if len(counts) > _MAX_CAUSES or not all(isinstance(count, int) for count in counts.values()):
        raise TypeError(f"dropped is {counts!r}")

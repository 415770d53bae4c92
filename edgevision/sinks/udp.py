"""One datagram of JSON per result, for a robot's other programs: nobody waits, nobody is missed."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from edgevision.errors import SinkError, UsageError
from edgevision.frame import Frame
from edgevision.results import Result
from edgevision.sinks.base import Sink
from edgevision.sinks.json_lines import frame_record
from edgevision.sources.base import Source

UNDERSTANDS = "JSON datagrams, one per frame: udp://host:5005"
ONE_SOURCE = False
_MAX_BYTES = 65_000


def claims(uri: str) -> bool:
    return uri.startswith("udp://")


def make(uri: str, source: Source | None) -> Sink:
    """
    Raises:
        UsageError: no host or port.
        SinkError: the host's name is not known.
    """
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None:
        raise UsageError(f"datagrams need a host and a port: udp://127.0.0.1:5005, got {uri!r}")
    return Datagrams(host, port)


class Datagrams:
    """The record of JSON lines (`frame_record`). One that does not fit into a datagram loses its masks' outlines, then
    its last detections, and says so: `truncated` is the number that were left out."""

    NEWEST = True
    name = ""

    def __init__(self, host: str, port: int) -> None:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        except OSError as error:
            raise SinkError(f"udp://{host}:{port}: this host is not known ({error.strerror})") from error
        self._socket, self._address = socket.socket(family, kind), address
        self._socket.setblocking(False)

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        record = frame_record(frame, result, timing_ms)
        data = json.dumps(record).encode()
        if len(data) > _MAX_BYTES:
            for detection in record["detections"]:
                detection.pop("polygons", None)
            record["truncated"] = 0
            while len(data := json.dumps(record).encode()) > _MAX_BYTES:
                kept = len(record["detections"]) // 2
                record["truncated"] += len(record["detections"]) - kept
                del record["detections"][kept:]
        with contextlib.suppress(OSError):  # nobody listens, or the network is down: the next result will be newer
            self._socket.sendto(data, self._address)

    def close(self) -> None:
        self._socket.close()

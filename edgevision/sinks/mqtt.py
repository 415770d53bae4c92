"""Results as JSON messages to an MQTT broker, which may come and go."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from edgevision.errors import SinkError, UsageError
from edgevision.frame import Frame
from edgevision.optional import require
from edgevision.redaction import without_secrets
from edgevision.results import Result
from edgevision.sinks.base import Sink
from edgevision.sinks.json_lines import frame_record
from edgevision.sources.base import Source

UNDERSTANDS = "messages to an MQTT broker: mqtt://user:password@host:1883/topic (mqtts:// with TLS)"
ONE_SOURCE = False
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_CONNECT_LIMIT_S = 5.0
_CLOSE_LIMIT_S = 0.5
_MOST_QUEUED = 32
_LONGEST_PAUSE_S = 30
_log = logging.getLogger(__name__)


def claims(uri: str) -> bool:
    return uri.startswith(("mqtt://", "mqtts://"))


def make(uri: str, source: Source | None) -> Sink:
    """
    Raises:
        UsageError: no host or topic, or a topic with wildcards.
        SinkError: the broker cannot be reached, or refuses us.
    """
    try:
        parts = urlsplit(uri)
        host, port, topic = parts.hostname, parts.port or _PORTS[parts.scheme], unquote(parts.path.lstrip("/"))
    except ValueError:
        host, port, topic = None, 0, ""
    if not host or not topic or set("+#\0") & set(topic):
        raise UsageError(
            "MQTT needs a host and a topic without wildcards: mqtt://host/robot/detections, got "
            f"{without_secrets(uri)!r}"
        )
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    return Mqtt(host, port, topic, user=user, password=password, tls=parts.scheme == "mqtts")


class Mqtt:
    """Publishes with quality of service 0: a result is worth nothing later. While the broker is away results are lost
    and counted; the connection comes back by itself.

    Attributes:
        lost: cause -> results that never left.
    """

    NEWEST = True
    name = ""

    def __init__(
        self,
        host: str,
        port: int,
        topic: str,
        *,
        user: str | None = None,
        password: str | None = None,
        tls: bool = False,
    ) -> None:
        mqtt: Any = require("paho.mqtt.client", "publishing to MQTT")
        enums: Any = require("paho.mqtt.enums", "publishing to MQTT")
        self._topic, self._where = topic, f"{host}:{port}"
        self.lost: Counter[str] = Counter()
        self._answered = threading.Event()
        self._refusal = ""
        self._client = mqtt.Client(enums.CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(_MOST_QUEUED)
        self._client.reconnect_delay_set(1, _LONGEST_PAUSE_S)
        self._client.on_connect, self._client.on_disconnect = self._connected, self._disconnected
        if user is not None:
            self._client.username_pw_set(user, password)
        if tls:
            self._client.tls_set()
        self._client.connect_timeout = _CONNECT_LIMIT_S
        try:
            self._client.connect(host, port, keepalive=15)
        except OSError as error:
            raise SinkError(f"MQTT broker {self._where} cannot be reached: {error.strerror or error}") from error
        self._client.loop_start()
        if not self._answered.wait(_CONNECT_LIMIT_S) or self._refusal:
            self.close()
            raise SinkError(f"MQTT broker {self._where}: {self._refusal or f'no answer in {_CONNECT_LIMIT_S:g} s'}")

    def _connected(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._refusal = str(reason) if reason.is_failure else ""
        self._answered.set()

    def _disconnected(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            _log.warning("MQTT broker %s is lost (%s); the connection is tried again", self._where, reason)

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        if not self._client.is_connected():
            self.lost["disconnected"] += 1
            return
        self._client.publish(self._topic, json.dumps(frame_record(frame, result, timing_ms)))

    def abandon(self) -> None:
        """Break the connection: a broker that takes nothing keeps nobody."""
        connection = self._client.socket()
        if connection is not None:
            with contextlib.suppress(OSError):  # it was gone already
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # of the TCP connection, below any TLS

    def close(self) -> None:
        """Say goodbye to the broker, but do not wait for it for long."""
        self._client.disconnect()
        stopper = threading.Thread(target=self._client.loop_stop, name="mqtt stop", daemon=True)
        stopper.start()
        stopper.join(_CLOSE_LIMIT_S)
        if stopper.is_alive():
            self.abandon()
            stopper.join(_CLOSE_LIMIT_S)

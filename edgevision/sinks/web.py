"""A page to look at a running pipeline: annotated pictures, states, rates, ages, losses; its figures for Prometheus.

/              the page                     /status.json   what it shows, as data (`RunReport.to_json`)
/view/NAME     a source's pictures (MJPEG)  /metrics       for Prometheus
/picture/NAME  its next picture
"""

from __future__ import annotations

import contextlib
import hmac
import http.server
import ipaddress
import json
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from edgevision.drawing import draw
from edgevision.errors import SinkError, UsageError
from edgevision.frame import Frame
from edgevision.optional import require
from edgevision.polling import readable
from edgevision.redaction import without_secrets
from edgevision.results import Result
from edgevision.sinks.base import Sink
from edgevision.sinks.metrics import to_prometheus
from edgevision.sources.base import Source

UNDERSTANDS = (
    "a live page with metrics: http://:8080 (seen from this machine), http://0.0.0.0:8080?token=SECRET (from others)"
)
ONE_SOURCE = False
_PAGE = Path(__file__).with_name("page.html")
_JPEG_QUALITY = 80
_MAX_CLIENTS = 32
_CLIENT_TIMEOUT_S = 10.0
_WAKE_S = 0.5
_CLOSE_POLL_S = 0.1
_COOKIE = "edgevision"
_log = logging.getLogger(__name__)


def claims(uri: str) -> bool:
    return uri.startswith("http://")


def make(uri: str, source: Source | None) -> Sink:
    """
    Raises:
        UsageError: no port, or a token that is too short.
        SinkError: the port cannot be had.
    """
    parts = urlsplit(uri)
    try:
        host, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        port = None
    if port is None or parts.path not in ("", "/"):
        raise UsageError(f"the live page needs a port: http://:8080, got {without_secrets(uri)!r}")
    token = parse_qs(parts.query).get("token", [""])[0]
    if token and len(token) < 8:
        raise UsageError("the live page's token has at least 8 characters")
    return LivePage(host, port, token)


class LivePage:
    """Serves from threads of its own. Pictures are drawn and compressed only while somebody looks at them.

    Bound to another address than loopback it wants a token, and makes one up where none is given: in the first address
    (?token=...), from then on in a cookie; or in the header `Authorization: Bearer ...`.

    Attributes:
        url: where the page is, with its token.
    """

    NEWEST = True
    name = ""

    def __init__(self, host: str, port: int, token: str = "") -> None:
        loopback = host == "localhost" or _is_loopback(host)
        self._token = token or ("" if loopback else secrets.token_urlsafe(18))
        self._views: dict[str, _View] = {}
        self._snapshot: Callable[[], dict[str, Any]] = dict
        self.closing = threading.Event()
        self._cv2 = require("cv2", "the live page")
        try:
            self._server = _Server((host, port), self)
        except OSError as error:
            raise SinkError(
                f"the live page cannot have {host}:{port}: {error.strerror}; choose another port"
            ) from error
        port = self._server.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{port}/" + (f"?token={quote(self._token)}" if self._token else "")
        self._hosts = {f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]", shown)} if loopback else None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_CLOSE_POLL_S,), name="live page")
        self._thread.start()
        _log.warning("live page: %s", without_secrets(self.url) if token else self.url)

    def attach(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        """Where the figures come from."""
        self._snapshot = snapshot

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        view = self._views.get(frame.source_id)
        if view is None:
            view = self._views[frame.source_id] = _View()
        if view.watched:
            _, jpeg = self._cv2.imencode(
                ".jpg", draw(frame.image, result), [self._cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
            )
            view.show(jpeg.tobytes())

    def forget(self, source_id: str) -> None:
        """Its last picture is shown no longer."""
        self._views.pop(source_id, None)

    def close(self) -> None:
        """Ends all connections and the server."""
        if not self.closing.is_set():
            self.closing.set()
            self._server.shutdown()
            self._thread.join()
            self._server.hang_up()
            self._server.server_close()

    # ---- what the connections need, each in its own thread ---------------------------------------------------------

    def view(self, source_id: str) -> _View | None:
        """The pictures of a source."""
        return self._views.get(source_id)

    def status(self) -> dict[str, Any]:
        """The pipeline's figures."""
        return {**self._snapshot(), "views": sorted(self._views)}

    def admits_host(self, host: str) -> bool:
        """Whether a request that came for this host was meant for us: a page of elsewhere may have its name point to
        this machine's loopback."""
        return self._hosts is None or host in self._hosts

    def admits(self, given: str) -> bool:
        """Whether this is the token, or none is needed."""
        return not self._token or hmac.compare_digest(given.encode(), self._token.encode())


class _View:
    """The newest picture of a source, as JPEG."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jpeg, self.number = b"", 0
        self.watched = 0

    def show(self, jpeg: bytes) -> None:
        with self._changed:
            self._jpeg, self.number = jpeg, self.number + 1
            self._changed.notify_all()

    def next(self, number: int) -> tuple[bytes, int] | None:
        """A picture newer than `number`; None when none has come for a while."""
        with self._changed:
            self._changed.wait_for(lambda: self.number > number, _WAKE_S)
            return (self._jpeg, self.number) if self.number > number else None

    def watch(self, by: int) -> None:
        """One more, or one less, who looks."""
        with self._changed:
            self.watched += by


class _Server(http.server.ThreadingHTTPServer):
    """At most so many connections at once; each thread is joined at the end."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], page: LivePage) -> None:
        self.page = page
        self._connected: set[socket.socket] = set()
        self._changing = threading.Lock()
        self._room = threading.BoundedSemaphore(_MAX_CLIENTS)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            with self._changing:
                self._connected.add(request)
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def shutdown_request(self, request: Any) -> None:
        with self._changing:
            self._connected.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End all connections, whatever they wait for: a request, or a client that takes nothing."""
        with self._changing:
            for connection in self._connected:
                with contextlib.suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("live page: a connection broke", exc_info=True)


class _Connection(http.server.BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "edgevision", ""
    protocol_version = "HTTP/1.1"
    timeout = _CLIENT_TIMEOUT_S

    def do_GET(self) -> None:
        page, parts = self.server.page, urlsplit(self.path)
        if not page.admits_host(self.headers.get("Host", "")):
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"this page is for this machine only\n")
            return
        asked = parse_qs(parts.query).get("token", [""])[0]
        if not page.admits(asked or self._given()):
            self._answer(HTTPStatus.UNAUTHORIZED, "text/plain", b"add the token to the address: ?token=...\n")
            return
        extra = {"Set-Cookie": f"{_COOKIE}={quote(asked)}; HttpOnly; SameSite=Strict; Path=/"} if asked else {}
        path = unquote(parts.path)
        if path == "/":
            self._page(extra)
        elif path == "/status.json":
            self._answer(HTTPStatus.OK, "application/json", json.dumps(page.status()).encode(), extra)
        elif path == "/metrics":
            kind, text = to_prometheus(page.status())
            self._answer(HTTPStatus.OK, kind, text, extra)
        elif path.startswith("/picture/"):
            self._picture(path.removeprefix("/picture/"))
        elif path.startswith("/view/"):
            self._pictures(path.removeprefix("/view/"))
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is /, /status.json, /metrics, /view/SOURCE\n")

    def _given(self) -> str:
        """The token of the request's header or cookie."""
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return value.strip()
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(_COOKIE)
        except CookieError:
            return ""
        return unquote(cookie.value) if cookie else ""

    def _page(self, extra: Mapping[str, str]) -> None:
        nonce = secrets.token_urlsafe(12)
        policy = (
            f"default-src 'none'; img-src blob:; connect-src 'self'; style-src 'nonce-{nonce}'; "
            f"script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        body = _PAGE.read_text(encoding="utf-8").replace("NONCE", nonce).encode()
        self._answer(HTTPStatus.OK, "text/html; charset=utf-8", body, {**extra, "Content-Security-Policy": policy})

    def _answer(self, status: HTTPStatus, kind: str, body: bytes, extra: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            **(extra or {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _picture(self, source_id: str) -> None:
        """The next picture; none (204) where none comes for a while."""
        view = self.server.page.view(source_id)
        if view is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is no such source, or it has no picture yet\n")
            return
        view.watch(1)
        try:
            newest = view.next(view.number)
        finally:
            view.watch(-1)
        if newest is None:
            self._answer(HTTPStatus.NO_CONTENT, "image/jpeg", b"")
        else:
            self._answer(HTTPStatus.OK, "image/jpeg", newest[0])

    def _pictures(self, source_id: str) -> None:
        """Pictures, each replacing the last (multipart/x-mixed-replace), until one side ends it, or the source."""
        page = self.server.page
        view = page.view(source_id)
        if view is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is no such source, or it has no picture yet\n")
            return
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        number = 0
        view.watch(1)
        try:
            while not page.closing.is_set() and page.view(source_id) is view:
                newest = view.next(number)
                if newest is None:
                    if readable([self.connection.fileno()], 0.0):  # the client says no more: it has left
                        break
                else:
                    jpeg, number = newest
                    self.wfile.write(
                        b"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(jpeg), jpeg)
                    )
        finally:
            view.watch(-1)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        _log.debug("live page: " + format, *args)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

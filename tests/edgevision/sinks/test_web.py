"""The live page: figures and pictures for whoever may see them, and for nobody else."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgevision.errors import SinkError, UsageError
from edgevision.frame import Frame
from edgevision.pipeline import Pipeline
from edgevision.sinks import open_sink
from edgevision.sinks.web import LivePage
from tests.camera_kit import CountingModel, ListSource, no_thread_left, number_of, numbered

PACKAGES = " ".join((Path(__file__).parents[3] / ".ci" / "packages.txt").read_text().split())


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    with no_thread_left():
        yield


class Client:
    def __init__(self, page: LivePage) -> None:
        parts = urlsplit(page.url)
        assert parts.port is not None
        self.port = parts.port

    def get(self, path: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


@pytest.fixture
def page() -> Iterator[LivePage]:
    sink = LivePage("127.0.0.1", 0)
    yield sink
    sink.close()


@pytest.fixture
def running(page: LivePage) -> Iterator[Pipeline]:
    """Two cameras, one of a name that is no plain word, into the page."""
    sources = [
        ListSource(10**6, "front", live=True, pause_s=0.02),
        ListSource(10**6, '<b>rear</b> & "back"', live=True, pause_s=0.05),
    ]
    pipeline = Pipeline(CountingModel(), sources, [page], lanes=1)
    thread = threading.Thread(target=pipeline.run)
    thread.start()
    deadline = time.monotonic() + 10
    while any(source.processed < 5 for source in pipeline.report().sources):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield pipeline
    pipeline.stop()
    thread.join(5)


def test_figures_are_the_pipeline_s(page: LivePage, running: Pipeline) -> None:
    status, headers, body = Client(page).get("/status.json")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    seen = json.loads(body)
    assert seen["frames"]["processed"] <= running.report().processed
    assert [source["source_id"] for source in seen["sources"]] == ["front", '<b>rear</b> & "back"']
    assert seen["sources"][0]["age_ms"]["p99"] > 0


def test_prometheus_reads_the_metrics(page: LivePage, running: Pipeline) -> None:
    status, _, body = Client(page).get("/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    processed = {sample.labels["source"]: sample.value for sample in families["edgevision_frames_processed"].samples}
    assert processed.keys() == {"front", '<b>rear</b> & "back"'}
    assert 5 <= processed["front"] <= running.report().processed
    assert {s.labels["quantile"] for s in families["edgevision_latency_seconds"].samples} == {
        "0.5",
        "0.9",
        "0.99",
        "0.999",
        "1",
    }
    live = [s for s in families["edgevision_source_state"].samples if s.value == 1.0]
    assert len(live) == 2


def test_pictures_come_as_a_stream_and_are_made_only_for_who_looks(page: LivePage, running: Pipeline) -> None:
    view = page.view("front")
    assert view is not None
    assert view.next(0) is None  # nobody has looked yet
    connection = http.client.HTTPConnection("127.0.0.1", Client(page).port, timeout=5)
    connection.request("GET", "/view/front")
    answer = connection.getresponse()
    assert answer.getheader("Content-Type") == "multipart/x-mixed-replace; boundary=picture"
    for _ in range(3):
        assert answer.readline() == b"--picture\r\n"
        assert answer.readline() == b"Content-Type: image/jpeg\r\n"
        size = int(answer.readline().split(b":")[1])
        answer.readline()
        image = cv2.imdecode(np.frombuffer(answer.read(size), np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        assert image.shape == (96, 160, 3)
        answer.readline()
    answer.close()
    connection.close()
    watched_by(view, 0)


def watched_by(view: Any, count: int) -> None:
    deadline = time.monotonic() + 5
    while view.watched != count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert view.watched == count


def test_who_looks_at_a_silent_camera_is_not_kept_after_leaving(page: LivePage) -> None:
    """Nothing is sent then, so nothing tells that nobody listens; and there is room for 32 only."""
    frame = Frame(numbered(0), 0, "front")
    page.write(frame, CountingModel().open_lane()(frame), {})
    view = page.view("front")
    assert view is not None
    connections = []
    for _ in range(2):
        connection = http.client.HTTPConnection("127.0.0.1", Client(page).port, timeout=5)
        connection.request("GET", "/view/front")
        connections.append((connection, connection.getresponse()))
    watched_by(view, 2)
    for closing in connections[0]:
        closing.close()
    watched_by(view, 1)
    page.forget("front")  # the camera is gone for good
    connection, answer = connections[1]
    assert answer.read() == b""
    connection.close()


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/view/../../etc/passwd", "/view/%2e%2e%2f", "/page.html", "/view/", "//etc/passwd"]
)
def test_there_is_nothing_else(page: LivePage, path: str) -> None:
    assert Client(page).get(path)[0] == 404


def test_a_page_of_elsewhere_cannot_reach_us_through_the_browser(page: LivePage) -> None:
    client = Client(page)
    assert client.get("/status.json", Host="evil.example")[0] == 403
    assert client.get("/status.json", Host=f"localhost:{client.port}")[0] == 200
    assert "Access-Control-Allow-Origin" not in client.get("/status.json")[1]
    policy = client.get("/")[1]["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_other_machines_need_the_token() -> None:
    page = LivePage("0.0.0.0", 0, "a secret of ours")
    try:
        client = Client(page)
        assert client.get("/status.json")[0] == 401
        assert client.get("/status.json?token=a+secret+of+hers")[0] == 401
        status, headers, _ = client.get("/?token=a+secret+of+ours")
        assert status == 200
        assert "HttpOnly" in headers["Set-Cookie"]
        assert client.get("/status.json", Cookie=headers["Set-Cookie"].partition(";")[0])[0] == 200
        assert client.get("/metrics", Authorization="Bearer a secret of ours")[0] == 200
        assert client.get("/metrics", Authorization="Bearer ")[0] == 401
    finally:
        page.close()


def test_without_a_token_one_is_made_up(caplog: pytest.LogCaptureFixture) -> None:
    page = LivePage("0.0.0.0", 0)
    try:
        assert Client(page).get("/")[0] == 401
        assert len(page.url.partition("?token=")[2]) >= 24
        assert page.url in caplog.text
    finally:
        page.close()


@pytest.mark.parametrize("uri", ["http://", "http://:x", "http://:8080/page", "http://0.0.0.0:8080?token=short"])
def test_an_address_is_checked(uri: str) -> None:
    with pytest.raises(UsageError):
        open_sink(uri)


def test_a_port_in_use_is_told(page: LivePage) -> None:
    with pytest.raises(SinkError, match="choose another"):
        open_sink(f"http://:{Client(page).port}")


def test_a_token_that_was_given_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    page = LivePage("0.0.0.0", 0, "correct-horse")
    page.close()
    assert "live page: http://0.0.0.0:" in caplog.text
    assert "correct-horse" not in caplog.text


def test_connections_that_wait_do_not_hold_up_the_end(page: LivePage) -> None:
    client = http.client.HTTPConnection("127.0.0.1", Client(page).port, timeout=5)
    client.request("GET", "/status.json")
    client.getresponse().read()  # and keeps the connection, as Prometheus and browsers do
    with socket.create_connection(("127.0.0.1", Client(page).port)):  # and this one says nothing at all
        time.sleep(0.2)
        started = time.monotonic()
        page.close()
        assert time.monotonic() - started < 5
    client.close()


def test_a_single_picture_is_the_next_one(page: LivePage, running: Pipeline) -> None:
    status, headers, body = Client(page).get("/picture/front")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    first = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    second = cv2.imdecode(np.frombuffer(Client(page).get("/picture/front")[2], np.uint8), cv2.IMREAD_COLOR)
    assert number_of(first) < number_of(second)
    assert Client(page).get("/picture/nobody")[0] == 404
    running.stop()
    time.sleep(0.3)
    view = page.view("front")
    assert view is None or view.watched == 0


def test_too_many_visitors_are_turned_away_and_the_page_still_closes(page: LivePage, running: Pipeline) -> None:
    port = Client(page).port
    connections = []
    for _ in range(40):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/view/front")
        connections.append(connection)
    time.sleep(0.5)
    view = page.view("front")
    assert view is not None
    assert 0 < view.watched <= 32
    started = time.monotonic()
    page.close()
    assert time.monotonic() - started < 5
    for connection in connections:
        connection.close()


def test_a_real_browser_shows_the_cameras(page: LivePage, running: Pipeline, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip(f"needs a browser: apt-get install -y --no-install-recommends {PACKAGES}")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    shot = tmp_path / "page.png"
    subprocess.run(
        [*command, "--window-size=1200,900", "--virtual-time-budget=300", f"--screenshot={shot}", page.url],
        check=True,
        capture_output=True,
        timeout=120,
    )
    image = cv2.imread(str(shot))
    assert image is not None
    assert image.shape[:2] == (900, 1200)
    dump = subprocess.run(
        [*command, "--virtual-time-budget=300", "--dump-dom", page.url],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert "&lt;b&gt;rear&lt;/b&gt;" in dump  # a name is text, never markup
    assert "<b>rear</b>" not in dump
    assert "state live" in dump
    assert dump.count('src="blob:') == 2  # both cameras' pictures are there
    assert "inference" in dump

"""Results over the network, each read by a client that knows nothing of us: UDP, MQTT, RTSP, and a table."""

from __future__ import annotations

import csv
import json
import queue
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from edgevision.errors import SinkError, UsageError
from edgevision.frame import Frame
from edgevision.results import Detections, SegmentationMap
from edgevision.sinks import open_sink
from tests.camera_kit import ListSource, no_thread_left, number_of, numbered

PACKAGES = " ".join((Path(__file__).parents[3] / ".ci" / "packages.txt").read_text().split())


def detections(count: int = 2) -> Detections:
    boxes = np.array([[1 + i, 2, 30 + i, 40.5] for i in range(count)], np.float32).reshape(-1, 4)
    return Detections(boxes, np.linspace(0.9, 0.5, count, dtype=np.float32), np.arange(count) % 2, ("car", "van, red"))


def frame(number: int = 7, size_wh: tuple[int, int] = (160, 96)) -> Frame:
    return Frame(numbered(number, size_wh), number, "cam")


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    with no_thread_left():
        yield


# ---- files ---------------------------------------------------------------------------------------------------------


def test_a_table_has_a_row_per_detection(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.csv")
    sink.write(frame(), detections(), {})
    sink.write(frame(8), detections(0), {})
    rows = list(csv.DictReader((tmp_path / "out.csv").open(newline="")))  # before it is closed: rows are flushed
    sink.close()
    assert [(row["source_id"], row["frame_id"], row["class"]) for row in rows] == [
        ("cam", "7", "car"),
        ("cam", "7", "van, red"),
    ]
    assert [float(rows[1][key]) for key in ("x1", "y1", "x2", "y2", "confidence")] == [2, 2, 31, 40.5, 0.5]


def test_tracks_are_written_as_the_challenges_read_them(tmp_path: Path) -> None:
    sink = open_sink(f"mot:{tmp_path}/out.txt")
    found = detections()
    found.tracker_id = np.array([4, 9])
    sink.write(frame(0), found, {})
    sink.write(frame(1), detections(1), {})
    sink.close()
    rows = np.loadtxt(tmp_path / "out.txt", delimiter=",")
    assert rows.shape == (3, 10)
    np.testing.assert_allclose(rows[0], [1, 4, 1, 2, 29, 38.5, 0.9, -1, -1, -1])
    assert rows[:, 0].tolist() == [1, 1, 2]
    assert rows[:, 1].tolist() == [4, 9, -1]


@pytest.mark.parametrize("uri", ["out.csv", "mot:out.txt"])
def test_what_does_not_fit_a_table_is_refused(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sink = open_sink(uri)
    with pytest.raises(SinkError, match="takes detections"):
        sink.write(frame(), SegmentationMap(np.zeros((4, 4), np.uint8), ("a",)), {})
    sink.close()
    with pytest.raises(SinkError, match="does not exist"):
        open_sink(uri.replace("out", "no/out"))


# ---- UDP -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving:
        receiving.bind(("127.0.0.1", 0))
        receiving.settimeout(5)
        yield receiving


def test_a_datagram_holds_a_result(listener: socket.socket) -> None:
    sink = open_sink(f"udp://127.0.0.1:{listener.getsockname()[1]}")
    sink.write(frame(), detections(), {"inference": 1.0})
    record = json.loads(listener.recv(65536))
    assert (record["source_id"], record["frame_id"]) == ("cam", 7)
    assert [entry["class"] for entry in record["detections"]] == ["car", "van, red"]
    sink.close()


def test_a_result_too_large_for_a_datagram_loses_its_tail_and_says_so(listener: socket.socket) -> None:
    sink = open_sink(f"udp://127.0.0.1:{listener.getsockname()[1]}")
    sink.write(frame(), detections(2000), {})
    record = json.loads(listener.recv(65536))
    sink.close()
    assert record["truncated"] + len(record["detections"]) == 2000
    assert record["detections"][0]["xyxy"] == [1.0, 2.0, 30.0, 40.5]
    assert len(record["detections"]) > 100


def test_nobody_listening_is_no_error() -> None:
    sink = open_sink("udp://127.0.0.1:9")
    for number in range(3):
        sink.write(frame(number), detections(), {})
    sink.close()


@pytest.mark.parametrize("uri", ["udp://", "udp://host", "udp://host:x"])
def test_datagrams_need_an_address(uri: str) -> None:
    with pytest.raises(UsageError, match="host and a port"):
        open_sink(uri)


# ---- MQTT, with a real broker --------------------------------------------------------------------------------------


class Broker:
    """mosquitto on a free port, which may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        (folder / "passwords").touch()
        subprocess.run(["mosquitto_passwd", "-b", folder / "passwords", "drone", "s3cret"], check=True)
        (folder / "broker.conf").write_text(
            f"listener {self.port} 127.0.0.1\npassword_file {folder}/passwords\nuser root\n"
        )
        self._folder = folder
        self.start()

    def start(self) -> None:
        command = [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(self._folder / "broker.conf")]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("the broker did not start")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(5)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if not shutil.which("mosquitto_passwd"):
        pytest.skip(f"needs an MQTT broker: apt-get install -y --no-install-recommends {PACKAGES}")
    running = Broker(tmp_path)
    yield running
    running.stop()


class Subscriber:
    """An independent client."""

    def __init__(self, port: int, topic: str) -> None:
        command = [
            "mosquitto_sub",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-u",
            "drone",
            "-P",
            "s3cret",
            "-t",
            topic,
            "-v",
        ]
        self._process = subprocess.Popen([*command, "-v"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        time.sleep(0.5)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.put(line)

    def get(self) -> tuple[str, dict[str, Any]]:
        topic, _, text = self.lines.get(timeout=5).partition(" ")
        return topic, json.loads(text)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(5)
        self._thread.join(5)
        assert self._process.stdout is not None
        self._process.stdout.close()


def test_a_broker_passes_results_on(broker: Broker) -> None:
    uri = f"mqtt://drone:s3cret@127.0.0.1:{broker.port}/field/{{source}}/boxes"
    subscriber = Subscriber(broker.port, "field/+/boxes")
    sink = open_sink(uri, [ListSource(1, "cam"), ListSource(1, "rear")])
    try:
        assert "s3cret" not in sink.name
        sink.write(frame(), detections(), {})
        topic, record = subscriber.get()
        assert topic == "field/cam/boxes"
        assert record["detections"][1]["class"] == "van, red"
    finally:
        sink.close()
        subscriber.close()


def test_a_broker_that_comes_back_is_used_again(broker: Broker) -> None:
    sink = open_sink(f"mqtt://drone:s3cret@127.0.0.1:{broker.port}/boxes")
    try:
        broker.stop()
        deadline = time.monotonic() + 10
        while not sink.lost and time.monotonic() < deadline:  # type: ignore[attr-defined]
            sink.write(frame(), detections(), {})
            time.sleep(0.05)
        assert sink.lost["disconnected"] >= 1  # type: ignore[attr-defined]
        broker.start()
        subscriber = Subscriber(broker.port, "boxes")
        deadline, number = time.monotonic() + 15, 100
        while subscriber.lines.empty() and time.monotonic() < deadline:
            sink.write(frame(number), detections(), {})
            number += 1
            time.sleep(0.1)
        assert subscriber.get()[1]["frame_id"] >= 100
        subscriber.close()
    finally:
        sink.close()


def test_a_broker_that_refuses_or_is_not_there_is_told_at_once(broker: Broker) -> None:
    with pytest.raises(SinkError, match=r"127\.0\.0\.1:\d+: Not authorized"):
        open_sink(f"mqtt://drone:wrong@127.0.0.1:{broker.port}/boxes")
    with pytest.raises(SinkError, match="cannot be reached: Connection refused"):
        open_sink("mqtt://127.0.0.1:1/boxes")


@pytest.mark.parametrize("uri", ["mqtt://host", "mqtt:///topic", "mqtt://host/a/+/b", "mqtt://host/#"])
def test_mqtt_needs_a_host_and_a_plain_topic(uri: str) -> None:
    with pytest.raises(UsageError, match="host and a topic"):
        open_sink(uri)


# ---- RTSP ----------------------------------------------------------------------------------------------------------


def test_an_rtsp_client_sees_the_newest_picture() -> None:
    script = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
    script += "Gst.init(None); assert Gst.ElementFactory.find('x264enc')"
    if subprocess.run(["/usr/bin/python3", "-c", script], capture_output=True).returncode:
        pytest.skip(f"needs GStreamer's RTSP server: apt-get install -y --no-install-recommends {PACKAGES}")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    sink = open_sink(f"rtsp://127.0.0.1:{port}/front", [ListSource(1, "cam")])
    stop, sent = threading.Event(), [0]

    def show() -> None:
        empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        while not stop.wait(1 / 30):
            sink.write(frame(sent[0] % 4096, (322, 180)), empty, {})
            sent[0] += 1

    showing = threading.Thread(target=show)
    showing.start()
    try:
        with av.open(f"rtsp://127.0.0.1:{port}/front", options={"rtsp_transport": "tcp"}, timeout=15) as client:
            seen = []
            for picture in client.decode(video=0):
                image = picture.to_ndarray(format="bgr24")
                seen.append((number_of(image), sent[0]))
                if len(seen) == 40:
                    break
    finally:
        stop.set()
        showing.join()
        sink.close()
    numbers = [number for number, _ in seen]
    assert image.shape == (180, 322, 3)
    assert numbers == sorted(numbers)
    assert numbers[-1] - numbers[0] >= 30
    assert seen[-1][1] - seen[-1][0] < 30  # less than a second behind


def test_an_rtsp_server_needs_a_port_and_a_name() -> None:
    for uri in ("rtsp://@:8554", "rtsp://@/front", "rtsp://@:x/front"):
        with pytest.raises(UsageError, match="a port and a name"):
            open_sink(uri)

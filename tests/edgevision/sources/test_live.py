"""Live sources: the newest frame wins, every other is counted, and a dead one is told within its deadline."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from edgevision.errors import SourceError, UsageError
from edgevision.frame import Frame
from edgevision.sources import Source, open_source
from edgevision.sources.base import BACKOFF, DEAD, LIVE, OPENING, STALLED
from tests.camera_kit import no_thread_left, number_of, numbered, write_video

SYSTEM_PYTHON = "/usr/bin/python3"


def all_counted(source: Source, yielded: int) -> bool:
    return source.status.captured == yielded + sum(source.status.dropped.values())


# ---- the synthetic camera ------------------------------------------------------------------------------------------


def test_the_synthetic_recording_is_lossless_and_repeatable() -> None:
    uri = "synthetic://aerial?seed=3&size=320x180&fps=25&frames=5"
    first, second = open_source(uri), open_source(uri)
    frames = list(first)
    assert [frame.frame_id for frame in frames] == list(range(5))
    assert [frame.media_time_s for frame in frames] == [i / 25 for i in range(5)]
    assert all((a.image == b.image).all() for a, b in zip(frames, second, strict=True))
    assert (first.live, first.frame_count, first.fps) == (False, 5, 25.0)
    assert (first.status.state, first.status.captured, first.status.dropped) == ("ended", 5, {})


def test_the_synthetic_live_camera_keeps_time_whatever_its_consumer_does() -> None:
    source, started = open_source("synthetic://aerial?size=64x64&fps=50&frames=60&live=1"), time.monotonic()
    frames: list[Frame] = []
    for frame in source:
        frames.append(frame)
        time.sleep(0.1 if len(frames) < 6 else 0.0)
    assert time.monotonic() - started > 59 / 50
    assert source.live
    assert source.status.captured == 60
    assert source.status.dropped["replaced"] >= 5 * 3
    assert all_counted(source, len(frames))
    assert frames[5].frame_id >= 20  # half a second later, not the sixth frame


def test_a_synthetic_recording_has_an_end_by_itself_and_a_camera_has_none() -> None:
    assert open_source("synthetic://aerial?size=64x64").frame_count == 300
    assert open_source("synthetic://aerial?size=64x64&live=1").frame_count is None


@pytest.mark.parametrize(
    "query", ["sped=1", "seed=-1", "seed=x", "size=0x0", "size=99999x64", "size=640", "fps=0", "fps=inf", "live=yes"]
)
def test_parameters_of_the_synthetic_camera_are_checked(query: str) -> None:
    with pytest.raises(UsageError, match="synthetic://aerial"):
        open_source(f"synthetic://aerial?{query}")
    with pytest.raises(UsageError, match="the only scene is 'aerial'"):
        open_source("synthetic://underwater")


def test_closing_ends_the_synthetic_camera_at_once() -> None:
    source = open_source("synthetic://aerial?size=64x64&fps=0.1&live=1")  # ten seconds a frame
    closer = threading.Timer(0.2, source.close)
    closer.start()
    started = time.monotonic()
    assert len(list(source)) == 1
    assert time.monotonic() - started < 5
    closer.join()


# ---- MPEG-TS over UDP ----------------------------------------------------------------------------------------------


class Sender:
    """Numbered frames as MPEG-TS over UDP, 30 a second, until stopped."""

    def __init__(self, port: int) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, args=(port,))
        self._thread.start()

    def _send(self, port: int) -> None:
        with av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as output:
            stream = output.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
            stream.codec_context.gop_size = 10
            stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
            number = 0
            while not self._stop.wait(1 / 30):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="bgr24")))
                number += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)


@pytest.fixture
def sender() -> Iterator[tuple[str, Sender]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sending = Sender(port)
    yield f"udp://127.0.0.1:{port}", sending
    sending.stop()


def test_a_udp_stream_gives_its_newest_frame_and_its_end_is_told(sender: tuple[str, Sender]) -> None:
    uri, sending = sender
    with no_thread_left():
        source = open_source(uri, timeout_s=3, give_up_s=3)
        assert source.live
        numbers: list[int] = []

        def consume(frame: Frame) -> int:
            if len(numbers) == 5:
                time.sleep(0.5)
            if len(numbers) == 30:
                sending.stop()
            return number_of(frame.image)

        with pytest.raises(SourceError, match="no data within 3 s"):
            numbers.extend(consume(frame) for frame in source)
        assert numbers == sorted(set(numbers))
        assert numbers[6] - numbers[5] > 8  # the newest, not the next
        assert source.status.dropped["replaced"] > 8
        assert all_counted(source, len(numbers))
        assert [change.state for change in source.status.changes] == [OPENING, LIVE, STALLED, DEAD]


def test_silence_is_an_error_within_the_timeout() -> None:
    started = time.monotonic()
    with no_thread_left(), pytest.raises(SourceError, match=r"udp://127\.0\.0\.1:1 .*no answer within 1 s"):
        open_source("udp://127.0.0.1:1", timeout_s=1)
    assert time.monotonic() - started < 8


def test_closing_a_live_source_from_another_thread_ends_its_iteration(sender: tuple[str, Sender]) -> None:
    with no_thread_left():
        source = open_source(sender[0], timeout_s=3)
        closer = threading.Timer(0.5, source.close)
        closer.start()
        count = len(list(source))
        closer.join()
        assert source.status.state == "ended"
        assert all_counted(source, count)
        source.close()


# ---- HTTP ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def http_camera(tmp_path: Path) -> Iterator[str]:
    """40 frames of MPEG-TS over HTTP, a chunk of them 30 times a second, then the connection closes."""
    stream = write_video(tmp_path / "a.ts", 40, container="mpegts").read_bytes()

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            step = len(stream) // 40
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for start in range(0, len(stream), step):
                    self.wfile.write(stream[start : start + step])
                    time.sleep(1 / 30)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/live"
        server.shutdown()
        thread.join()


def test_an_http_stream_that_ends_is_a_lost_camera_and_opened_again(http_camera: str) -> None:
    with no_thread_left():
        source, numbers = open_source(http_camera, timeout_s=3), list[int]()
        assert source.live
        for frame in source:
            numbers.append(number_of(frame.image))
            if source.status.reconnects and numbers[-1] > 5:
                break
        assert numbers.index(39) < len(numbers) - 1  # the last one is given out, then those of the next connection
        assert sorted(numbers[: numbers.index(39)]) == numbers[: numbers.index(39)]
        assert [change.state for change in source.status.changes][:5] == [OPENING, LIVE, BACKOFF, OPENING, LIVE]
        assert all_counted(source, len(numbers))
        source.close()


# ---- RTSP, from a real server --------------------------------------------------------------------------------------


@pytest.fixture
def camera(rtsp_possible: None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a network camera, and the process that is it."""
    server = subprocess.Popen(
        [SYSTEM_PYTHON, Path(__file__).parents[2] / "rtsp_server.py"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    yield f"rtsp://127.0.0.1:{int(server.stdout.readline())}/cam", server
    server.kill()
    server.wait(10)
    server.stdout.close()


@pytest.mark.parametrize("reader", ["av", "gstreamer", "opencv"])
def test_an_rtsp_camera_is_read(camera: tuple[str, subprocess.Popen[str]], reader: str) -> None:
    with no_thread_left(), open_source(camera[0], timeout_s=5, reader=reader) as source:
        assert (source.live, source.fps) == (True, 30.0)
        assert source.status.reader == reader
        frames = []
        for frame in source:
            frames.append(frame)
            if len(frames) == 10:
                break
        assert {frame.size_wh for frame in frames} == {(1280, 720)}
        assert all(later.capture_time_ns > frame.capture_time_ns for frame, later in itertools.pairwise(frames))
        assert all(frame.media_time_s is None for frame in frames)


@pytest.mark.parametrize(
    ("fault", "states", "message"),
    [
        (signal.SIGKILL, [BACKOFF, OPENING, DEAD], "Connection refused|Failed to connect"),
        (signal.SIGSTOP, [STALLED, BACKOFF, OPENING, DEAD], "no answer within 2 s"),
    ],
)
@pytest.mark.parametrize("reader", ["av", "gstreamer"])
def test_a_camera_that_dies_or_freezes_for_good_is_given_up(
    camera: tuple[str, subprocess.Popen[str]], fault: signal.Signals, states: list[str], message: str, reader: str
) -> None:
    with no_thread_left():
        source = open_source(camera[0], timeout_s=2, give_up_s=2.5, reader=reader)
        frames = iter(source)
        for _ in range(10):
            next(frames)
        camera[1].send_signal(fault)
        stopped, rest = time.monotonic(), list[Frame]()
        with pytest.raises(SourceError, match=message):
            rest.extend(frames)
        assert time.monotonic() - stopped < 8
        assert [change.state for change in source.status.changes][2:][: len(states) - 1] == states[:-1]
        assert source.status.state == DEAD
        assert all_counted(source, 10 + len(rest))


def test_closing_a_frozen_camera_hangs_nobody(camera: tuple[str, subprocess.Popen[str]]) -> None:
    with no_thread_left():
        source = open_source(camera[0], timeout_s=4)
        next(iter(source))
        camera[1].send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        started = time.monotonic()
        source.close()
        assert time.monotonic() - started < 2


@pytest.mark.parametrize("reader", ["av", "gstreamer", "opencv"])
def test_a_closed_port_is_told_at_once(reader: str, rtsp_possible: None) -> None:
    started = time.monotonic()
    reason = {"av": "Connection refused", "gstreamer": "Failed to connect", "opencv": "OpenCV cannot open it"}[reader]
    with no_thread_left(), pytest.raises(SourceError, match=reason):
        open_source("rtsp://127.0.0.1:1/cam", timeout_s=5, reader=reader)
    assert time.monotonic() - started < 3


def test_a_server_that_never_answers_is_told_within_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, no_thread_left():
        started = time.monotonic()
        with pytest.raises(SourceError, match="no answer within 1 s"):
            open_source(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/cam", timeout_s=1)
        assert time.monotonic() - started < 4

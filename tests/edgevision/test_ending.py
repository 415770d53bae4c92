"""How a run ends when a part of it hangs for good: in time, by name, and with everybody else's files whole.

Real processes and real obstacles: a pipe that nobody reads, a frozen broker, a client that has stopped listening, a
camera's reader that is frozen, a callback that never returns.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import av
import psutil
import pytest

from edgevision import ending
from edgevision.errors import SessionError
from edgevision.frame import Frame
from edgevision.pipeline import Pipeline
from edgevision.results import Result
from edgevision.sinks import open_sink
from edgevision.sources import open_source
from edgevision.sources.iterator import PictureIterator
from tests.camera_kit import CountingModel, ListSource, no_thread_left, numbered, write_video
from tests.tiny_models import detector_bundle

LATEST_S = ending.LIMIT_S + 1.5  # the program's own end, the report, and a busy machine
CAMERA = "synthetic://aerial?live=1&size=128x96"
PACKAGES = " ".join((Path(__file__).parents[2] / ".ci" / "packages.txt").read_text().split())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector_bundle(tmp_path_factory.mktemp("model") / "colours.edge")


class Pipe:
    """A named pipe of the smallest size, held open for reading."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._size = fcntl.fcntl(self._end, fcntl.F_SETPIPE_SZ, 4096)

    def full(self) -> bool:
        """Whether a writer has to wait."""
        waiting = fcntl.ioctl(self._end, termios.FIONREAD, bytes(4))
        return int.from_bytes(waiting, sys.byteorder) == self._size

    def read(self) -> bytes:
        """What is there."""
        try:
            return os.read(self._end, 1 << 16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self._end)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    made = Pipe(tmp_path / "unread.jsonl")
    yield made
    made.close()


class Program:
    """`edgevision run` in a process of its own, with two files that must be whole whatever happens."""

    def __init__(self, bundle: Path, folder: Path, source: str, *arguments: str) -> None:
        self.lines, self.video, self._report = folder / "out.jsonl", folder / "out.mp4", folder / "run.json"
        command = [sys.executable, "-m", "edgevision", "run", str(bundle), source, "--confidence=0.01"]
        command += [f"--sink={self.lines}", f"--sink={self.video}", f"--json={self._report}", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.02)

    def wait_for_lines(self, count: int = 10) -> None:
        self.wait_for(lambda: self.lines.exists() and self.lines.read_text().count("\n") >= count)

    def stop(self, *signals: signal.Signals) -> tuple[int, str, float]:
        """Its exit code, its complaints, and how long it took."""
        asked = time.monotonic()
        for each in signals:
            self.process.send_signal(each)
            time.sleep(0.3 if len(signals) > 1 else 0)
        _, complaints = self.process.communicate(timeout=60)
        return self.process.returncode, complaints, time.monotonic() - asked

    def check_files(self) -> dict[str, object]:
        """Both files are finished and hold the same; the report."""
        written = [json.loads(line) for line in self.lines.read_text().splitlines()]
        with av.open(str(self.video)) as video:
            assert video.streams.video[0].frames == len(written)  # from the index that closing writes
            assert sum(1 for _ in video.decode(video=0)) == len(written)
        report: dict[str, object] = json.loads(self._report.read_text())
        return report


@pytest.fixture
def start(bundle: Path, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def program(source: str, *arguments: str) -> Program:
        started.append(Program(bundle, tmp_path, source, *arguments))
        return started[-1]

    yield program
    for each in started:
        each.process.kill()
        each.process.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_pipe_that_nobody_reads_is_named_and_all_other_files_are_whole(
    how: signal.Signals, start: Callable[..., Program], pipe: Pipe
) -> None:
    program = start(CAMERA, f"--sink={pipe.path}")
    program.wait_for(pipe.full)
    program.wait_for_lines()
    code, complaints, took_s = program.stop(how)
    assert took_s < LATEST_S
    assert code == 2
    found = re.search(r"error: left behind.*unread\.jsonl, writing for [\d.]+ s \((\d+) results lost\)", complaints)
    assert found, complaints
    assert "Traceback" not in complaints
    report = program.check_files()
    (entry,) = [sink for sink in report["sinks"] if sink["sink"] == str(pipe.path)]  # type: ignore[attr-defined]
    assert entry["dropped"]["stopped"] == int(found[1])
    assert entry["written"] + sum(entry["dropped"].values()) == report["frames"]["processed"]  # type: ignore[index]


def test_a_second_ctrl_c_ends_it_at_once(start: Callable[..., Program], pipe: Pipe) -> None:
    program = start(CAMERA, f"--sink={pipe.path}")
    program.wait_for(pipe.full)
    code, complaints, _ = program.stop(signal.SIGINT, signal.SIGINT)
    assert code == 130
    assert "left behind" not in complaints  # it did not wait long enough to know
    assert "Traceback" not in complaints


def test_outputs_of_other_sources_are_finished_when_one_hangs(bundle: Path, tmp_path: Path) -> None:
    unread = Pipe(tmp_path / "by_aerial.jsonl")
    clip = write_video(tmp_path / "clip.mp4", 30)
    command = [sys.executable, "-m", "edgevision", "run", str(bundle), CAMERA, str(clip), "--confidence=0.01"]
    command += [f"--sink={tmp_path}/by_{{source}}.jsonl", f"--sink={tmp_path}/film_{{source}}.mp4"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not unread.full() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    asked = time.monotonic()
    _, complaints = running.communicate(timeout=60)
    assert time.monotonic() - asked < LATEST_S
    assert running.returncode == 2
    assert "by_{source}.jsonl, writing" in complaints
    for each in (tmp_path / "film_aerial.mp4", tmp_path / "film_clip.mp4"):
        with av.open(str(each)) as video:
            assert video.streams.video[0].frames == sum(1 for _ in video.decode(video=0)) > 0
    unread.close()


def test_a_frozen_broker_keeps_nobody(start: Callable[..., Program], tmp_path: Path) -> None:
    broker = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    if not Path(broker).exists():
        pytest.skip(f"needs an MQTT broker: apt-get install -y --no-install-recommends {PACKAGES}")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (tmp_path / "broker.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    serving = subprocess.Popen([broker, "-c", str(tmp_path / "broker.conf")], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as trying:
                if trying.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        program = start(CAMERA, f"--sink=mqtt://127.0.0.1:{port}/boxes")
        program.wait_for_lines()
        serving.send_signal(signal.SIGSTOP)
        program.wait_for_lines(40)
        code, complaints, took_s = program.stop(signal.SIGINT)
        assert took_s < LATEST_S
        assert (code, complaints) == (130, "")
        program.check_files()
    finally:
        serving.kill()
        serving.wait(5)


def test_a_picture_window_s_frozen_process_is_ended(start: Callable[..., Program], rtsp_possible: None) -> None:
    program = start(CAMERA, "--sink=rtsp://127.0.0.1:0/front")
    program.wait_for_lines()
    (child,) = psutil.Process(program.process.pid).children()
    child.suspend()
    count = program.lines.read_text().count("\n")
    program.wait_for_lines(count + 10)
    code, complaints, took_s = program.stop(signal.SIGTERM)
    assert took_s < LATEST_S
    assert (code, complaints) == (130, "")
    program.check_files()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_client_that_has_stopped_reading_keeps_nobody(start: Callable[..., Program], rtsp_possible: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = start(CAMERA, f"--sink=rtsp://127.0.0.1:{port}/front")
    program.wait_for_lines()
    with av.open(f"rtsp://127.0.0.1:{port}/front", options={"rtsp_transport": "tcp"}, timeout=15) as client:
        next(client.decode(video=0))
        program.wait_for_lines(program.lines.read_text().count("\n") + 30)
        code, complaints, took_s = program.stop(signal.SIGINT)
    assert took_s < LATEST_S
    assert (code, complaints) == (130, "")
    program.check_files()


def test_a_frozen_reader_of_a_camera_is_ended(start: Callable[..., Program], rtsp_possible: None) -> None:
    program = start("gst:videotestsrc is-live=true ! video/x-raw,width=128,height=96,framerate=30/1")
    program.wait_for_lines()
    (child,) = psutil.Process(program.process.pid).children()
    child.suspend()
    code, complaints, took_s = program.stop(signal.SIGINT)
    assert took_s < LATEST_S
    assert (code, complaints) == (130, "")
    program.check_files()
    assert not child.is_running()


# ---- the end of recordings -----------------------------------------------------------------------------------------


def test_a_slow_reader_of_a_pipe_gets_every_result_of_a_recording(
    start: Callable[..., Program], pipe: Pipe, tmp_path: Path
) -> None:
    program = start(str(write_video(tmp_path / "clip.mp4", 40)), f"--sink={pipe.path}")
    data, ends = b"", time.monotonic() + 60
    while program.process.poll() is None and time.monotonic() < ends:
        data += pipe.read()
        time.sleep(0.1)  # at most 4 kB each time: longer than the deadline of a stop
    data += pipe.read()
    code, complaints, _ = program.stop()
    assert (code, complaints) == (0, "")
    assert [json.loads(line)["frame_id"] for line in data.splitlines()] == list(range(40))
    program.check_files()


class Hanging:
    """A sink that hangs in one of its calls until it is released."""

    name = "hanging"

    def __init__(self, where: str) -> None:
        self._where = where
        self.released = threading.Event()

    def write(self, frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        if self._where == "write":
            self.released.wait()

    def close(self) -> None:
        if self._where == "close":
            self.released.wait()


@pytest.mark.parametrize("where", ["write", "close"])
def test_a_sink_without_progress_at_the_end_of_a_recording_is_left_behind_and_the_others_get_everything(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "_PATIENCE_S", 0.5)
    hanging = Hanging(where)
    with no_thread_left():
        source = ListSource(8)
        pipeline = Pipeline(CountingModel(), [source], [hanging, open_sink(tmp_path / "out.mp4", [source])], lanes=1)
        words = "writing" if where == "write" else "closing"
        with pytest.raises(SessionError, match=f"left behind, 2 s after the end: sink hanging, {words} for"):
            pipeline.run()
        assert len(list(open_source(tmp_path / "out.mp4"))) == 8
        report = pipeline.report()
        assert report.processed == 8
        stuck, video = report.sinks
        assert (stuck["written"], stuck["dropped"]) == ((0, {"stopped": 8}) if where == "write" else (8, {}))
        assert (video["written"], video["dropped"]) == (8, {})
        assert pipeline.left_behind == ["edgevision sink hanging"]
        hanging.released.set()


def test_an_error_ends_the_run_in_time_and_is_what_is_raised_although_a_sink_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def on_result(frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
        raise ZeroDivisionError("the callback broke")

    hanging, started = Hanging("write"), time.monotonic()
    with no_thread_left():
        pipeline = Pipeline(
            CountingModel(), [ListSource(10**6, live=True, pause_s=0.005)], [hanging], on_result=on_result
        )
        with pytest.raises(ZeroDivisionError, match="the callback broke"):
            pipeline.run()
        assert time.monotonic() - started < LATEST_S
        assert "left behind, 2 s after the end: sink hanging, writing" in caplog.text
        hanging.released.set()


def test_a_callback_that_never_returns_is_left_behind_when_the_run_is_stopped(tmp_path: Path) -> None:
    released = threading.Event()
    with no_thread_left():
        source = ListSource(10**6, live=True, pause_s=0.005)

        def on_result(frame: Frame, result: Result, timing_ms: Mapping[str, float]) -> None:
            if frame.frame_id >= 20:
                threading.Timer(0.2, pipeline.stop).start()
                released.wait()

        pipeline = Pipeline(CountingModel(), [source], [open_sink(tmp_path / "out.mp4", [source])], on_result=on_result)
        with pytest.raises(SessionError, match="the callback, busy for"):
            pipeline.run()
        report = pipeline.report()
        assert len(list(open_source(tmp_path / "out.mp4"))) == report.sinks[0]["written"] == report.processed + 1
        assert report.captured == report.processed + sum(report.dropped.values())
        released.set()


def test_pictures_that_never_come_are_left_behind_and_cost_nothing() -> None:
    released = threading.Event()

    def pictures() -> Iterator[object]:
        yield numbered(0)
        released.wait()

    with no_thread_left():
        pipeline = Pipeline(CountingModel(), [PictureIterator(pictures())], duration_s=0.2)  # type: ignore[arg-type]
        report = pipeline.run()
        assert report.processed == 1
        assert report.sources[0].notes == ("pictures:pictures: did not end within 2 s and was left behind",)
        released.set()


def test_an_error_that_comes_while_files_are_finished_is_told_also_after_ctrl_c(tmp_path: Path) -> None:
    class Full(Hanging):
        def close(self) -> None:
            raise SessionError("no space left")

    pipeline = Pipeline(CountingModel(), [ListSource(10**6, pause_s=0.01)], [Full("")])
    threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT)).start()
    with no_thread_left(), pytest.raises(SessionError, match="no space left"):
        pipeline.run()

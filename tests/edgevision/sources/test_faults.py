"""A camera that is killed and frozen, alone and beside others; benchmarks/cameras has the long forms, with figures.

The camera draws the time into its pictures: a stale one shows.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from benchmarks.cameras.camera_process import ClockCamera
from benchmarks.cameras.clock_camera import read_clock
from edgevision.pipeline import Pipeline
from edgevision.sources import open_source
from edgevision.sources.base import BACKOFF, LIVE, OPENING, STALLED
from tests.camera_kit import CountingModel, no_thread_left, write_video
from tests.tiny_models import detector_bundle

TIMEOUT_S = 2.0
FROZEN_S = 3.5
OLDEST_S = 3.0  # of a picture when it comes: on a busy machine, and yet not one from before a freeze


@pytest.fixture
def camera(rtsp_possible: None) -> Iterator[ClockCamera]:
    clock = ClockCamera()
    yield clock
    clock.thaw()
    clock.kill()


def eventually(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_camera_comes_back_from_every_fault_without_a_stale_picture(camera: ClockCamera) -> None:
    seen: list[tuple[float, float]] = []  # when a picture came and when it was drawn, seconds

    def read() -> None:
        seen.extend((time.monotonic(), read_clock(frame.image) / 1e3) for frame in source)

    def wait_for_pictures(what: str) -> None:
        since = time.monotonic()
        eventually(lambda: any(drawn > since for _, drawn in seen), what)

    before = descriptors()
    faults = ["killed", "frozen", "killed", "frozen"]
    random.Random(time.time_ns()).shuffle(faults)
    with no_thread_left():
        source = open_source(camera.uri, timeout_s=TIMEOUT_S)
        reading = threading.Thread(target=read)
        reading.start()
        try:
            for fault in faults:
                wait_for_pictures("pictures")
                count, struck = len(source.status.changes), time.monotonic()
                if fault == "killed":
                    camera.kill()
                    time.sleep(0.3)
                    camera.start()
                else:
                    camera.freeze()
                    time.sleep(FROZEN_S)
                    camera.thaw()
                wait_for_pictures(f"pictures after {fault}, {faults}")
                changes = list(source.status.changes)[count:]
                expected = [BACKOFF, OPENING] if fault == "killed" else [STALLED, BACKOFF, OPENING]
                assert [change.state for change in changes][: len(expected)] == expected, faults
                assert changes[-1].state == LIVE
                assert all(change.reason for change in changes if change.state in (STALLED, BACKOFF))
                again = changes[-1].at_ns / 1e9
                first = next((came, drawn) for came, drawn in seen if came >= again)
                assert first[0] - first[1] < OLDEST_S
                assert first[1] > struck
        finally:
            source.close()
            reading.join(10)
        assert not reading.is_alive()
    assert [drawn for _, drawn in seen] == sorted(drawn for _, drawn in seen)
    assert source.status.reconnects >= len(faults)
    assert descriptors() == before


def test_a_dying_camera_costs_the_others_nothing(camera: ClockCamera, tmp_path: Path) -> None:
    clips = [write_video(tmp_path / f"{name}.mp4", 90) for name in ("first", "second")]
    synthetic = "synthetic://aerial?live=1&size=96x64&fps=20"
    results: dict[str, list[int]] = {}
    with no_thread_left():
        sources = [open_source(camera.uri, source_id="camera", timeout_s=TIMEOUT_S), open_source(clips[0])]
        sources += [open_source(synthetic, source_id=name) for name in ("steady", "leaving")]
        pipeline = Pipeline(
            CountingModel(delay_s=0.002),
            sources,
            stay_open=True,
            on_result=lambda frame, *_: results.setdefault(frame.source_id, []).append(frame.frame_id),
        )
        running = threading.Thread(target=pipeline.run)
        running.start()
        try:
            eventually(lambda: {"camera", "first", "steady", "leaving"} <= results.keys(), "all sources")
            camera.kill()
            pipeline.remove_source("leaving")
            pipeline.add_source(open_source(clips[1]))
            eventually(lambda: sources[0].status.state == BACKOFF, "the loss to be noticed")
            lost_at = len(results["steady"])
            eventually(lambda: len(results.get("second", [])) == 90, "the recording that joined")
            eventually(lambda: len(results["steady"]) > lost_at + 20, "the others to go on")
            camera.start()
            count = len(results["camera"])
            eventually(lambda: len(results["camera"]) > count, "the camera to come back")
        finally:
            pipeline.stop()
            running.join(10)
        assert not running.is_alive()
    report = pipeline.report()
    assert results["first"] == results["second"] == list(range(90))
    for source in report.sources:
        assert source.captured == source.processed + sum(source.dropped.values()), source
        if source.source_id in ("first", "second"):
            assert source.dropped == {}
    assert [source.source_id for source in report.sources if source.reconnects] == ["camera"]


@pytest.mark.parametrize("wedged", ["camera", "reader"])
def test_a_program_whose_camera_hangs_still_ends_and_finishes_its_files(
    wedged: str, camera: ClockCamera, tmp_path: Path
) -> None:
    bundle, lines = detector_bundle(tmp_path / "model.edge"), tmp_path / "out.jsonl"
    sinks = [f"--sink={tmp_path / name}" for name in ("out.jsonl", "out.csv", "out.mp4")]
    running = subprocess.Popen(
        [sys.executable, "-m", "edgevision", "run", str(bundle), camera.uri, "--quiet", *sinks],
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: lines.exists() and lines.read_text().count("\n") >= 10, "results")
    readers = [int(child) for child in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]
    for task in Path(f"/proc/{running.pid}/task").iterdir():
        readers += [int(child) for child in (task / "children").read_text().split() if int(child) not in readers]
    if wedged == "camera":
        camera.freeze()
    else:
        for reader in readers:
            os.kill(reader, signal.SIGSTOP)
    running.send_signal(signal.SIGINT if wedged == "camera" else signal.SIGTERM)
    asked = time.monotonic()
    complaints = running.communicate(timeout=60)[1]
    assert time.monotonic() - asked < 6
    assert (running.returncode, "Traceback" in complaints) == (130, False), complaints
    assert readers
    assert not any(Path(f"/proc/{reader}").exists() for reader in readers)
    count = len([json.loads(line) for line in lines.read_text().splitlines()])
    with av.open(str(tmp_path / "out.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == count

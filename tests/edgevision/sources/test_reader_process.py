"""Pictures from another process: whole, not overwritten while in use, and given back."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgevision.errors import SourceError
from edgevision.sources.base import BACKOFF, DEAD, ENDED, LIVE, OPENING, STALLED, SourceStatus
from edgevision.sources.frame_channel import Inlet
from edgevision.sources.live import LiveSource
from edgevision.sources.options import SourceOptions
from edgevision.sources.reader_process import SLOTS, ReaderProcess, python_command
from tests.camera_kit import no_thread_left, number_of

READER = "tests.edgevision.sources.numbered_reader"


def reader(**task: object) -> ReaderProcess:
    return ReaderProcess(python_command("numbered_reader"), {"fps": 200, **task})


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def source(
    timeout_s: float = 1.0, give_up_s: float | None = None, every_frame: bool = False, **task: object
) -> LiveSource:
    options = SourceOptions(timeout_s, 0.05, 0.2, give_up_s, every_frame)
    return LiveSource(lambda: reader(**task), SourceStatus("test://camera", "camera"), options)


def states(camera: LiveSource) -> list[str]:
    return [change.state for change in camera.status.changes]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_pictures_arrive_whole_and_in_order() -> None:
    with source(frames=50, every_frame=True, give_up_s=0.01) as camera:
        frames: list[tuple[int, int]] = []
        with pytest.raises(SourceError, match="lost for"):
            frames.extend((frame.frame_id, number_of(frame.image)) for frame in camera)
    assert frames == [(i, i) for i in range(50)]
    assert states(camera) == [OPENING, LIVE, DEAD]


def test_a_picture_in_use_is_never_written_to() -> None:
    held = []
    with source() as camera:
        for frame in camera:
            held.append(frame.image)
            if len(held) == 3 * SLOTS:
                break
    numbers = [number_of(image) for image in held]
    assert numbers == sorted(set(numbers))


def test_what_is_dropped_is_given_back_and_memory_is_used_again() -> None:
    with source(every_frame=True) as camera:
        seen = set()
        for frame in camera:
            seen.add(frame.image.ctypes.data)
            if frame.frame_id == 300:
                break
    assert len(seen) <= 4


def test_a_slice_alone_keeps_its_picture() -> None:
    with source(every_frame=True) as camera:
        frames = iter(camera)
        corner = next(frames).image[:8, :96]
        before = corner.copy()
        for _ in range(2 * SLOTS):
            next(frames)
        assert (corner == before).all()


def test_a_change_of_size_is_followed() -> None:
    with source(sizes=[[160, 96], [320, 192], [96, 64]], every_frame=True) as camera:
        sizes = []
        for frame in camera:
            sizes.append(frame.size_wh)
            assert number_of(frame.image) == frame.frame_id
            if len(sizes) == 30:
                break
    assert list(dict.fromkeys(sizes)) == [(160, 96), (320, 192), (96, 64)]


@pytest.mark.parametrize("fault", ["crash", "hang", "exit", "stop"])
def test_a_reader_that_fails_is_replaced(fault: str) -> None:
    before = descriptors()
    with no_thread_left(), source(timeout_s=0.5, fault=fault, frames=10) as camera:
        numbers = []
        for frame in camera:
            numbers.append(number_of(frame.image))
            if camera.status.reconnects == 2:
                break
        assert numbers[-1] < 9  # the new reader's
        expected = {"hang": [STALLED, BACKOFF], "stop": [STALLED, BACKOFF]}.get(fault, [BACKOFF])
        assert states(camera)[: 2 + len(expected) + 2] == [OPENING, LIVE, *expected, OPENING, LIVE]
        assert {"crash": "SIGSEGV", "exit": "exit code 3"}.get(fault, "no data within 0.5 s") in camera.status.notes[0]
        frame = None
    del camera
    gc.collect()
    assert descriptors() == before


def test_silence_is_noticed_in_time() -> None:
    with source(timeout_s=1.0, fault="hang", frames=10) as camera:
        for _ in camera:
            if camera.status.reconnects:
                break
        changes = {change.state: change.at_ns for change in reversed(camera.status.changes)}
    silent_s = (changes[STALLED] - frames_end(camera)) / 1e9
    assert 0.95 <= silent_s <= 1.1 + 0.1


def frames_end(camera: LiveSource) -> int:
    """When the first reader fell silent: nine frame periods after it went live."""
    live = next(change.at_ns for change in camera.status.changes if change.state == LIVE)
    return live + int(9 / 200 * 1e9)


def test_what_nobody_can_open_is_an_error_that_says_why() -> None:
    before = descriptors()
    with no_thread_left(), pytest.raises(SourceError, match="test://camera cannot be opened: no such camera"):
        source(fault="refuse")
    with no_thread_left(), pytest.raises(SourceError, match=r"test://camera cannot be opened: no answer within 0\.3 s"):
        source(timeout_s=0.3, fault="silent")
    gc.collect()
    assert descriptors() == before


def test_closing_ends_a_wedged_reader_at_once() -> None:
    camera = source(timeout_s=60, fault="hang", frames=3)
    closer = threading.Timer(0.5, camera.close)
    closer.start()
    started = time.monotonic()
    assert len(list(camera)) <= 3
    assert time.monotonic() - started < 2
    closer.join()
    assert camera.status.state == ENDED
    camera.close()


def test_a_reader_ends_with_its_owner() -> None:
    script = "import sys; sys.path[:] = {!r}; from numbered_reader import own; own()"
    owner = subprocess.Popen([sys.executable, "-c", script.format(sys.path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.wait(5)
    owner.stdout.close()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()


@pytest.fixture
def pair() -> Iterator[tuple[Inlet, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    inlet = Inlet(ours, {"slots": 2})
    theirs.recv(1 << 14)
    with theirs:
        yield inlet, theirs
    inlet.close()


@pytest.mark.parametrize(
    ("size_wh", "pixel_format", "message"),
    [
        ([64, 64], "bgr", "does not fit into 8192 bytes"),
        ([128, 64], "nv12", "does not fit into 8192 bytes"),
        ([63, 64], "nv12", "nv12 of 63x64"),
        ([64, 64], "i420", "not understood"),
        ([64, 64], 7, "pixel_format is 7"),
        ([0, 64], "nv12", "0x64"),
    ],
)
def test_a_picture_that_cannot_be_there_is_refused(
    pair: tuple[Inlet, socket.socket], size_wh: list[int], pixel_format: object, message: str
) -> None:
    descriptor = os.memfd_create("frames", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 2 * 8192)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    ring = {"kind": "ring", "ring": 0, "slots": 2, "slot_bytes": 8192}
    socket.send_fds(pair[1], [json.dumps(ring).encode()], [descriptor])
    os.close(descriptor)
    assert pair[0].receive() is not None
    times = {"capture_time_ns": 1, "media_time_s": None, "captured": 1, "dropped": {}}
    frame = {"kind": "frame", "ring": 0, "slot": 0, "size_wh": [64, 64], "pixel_format": "nv12", **times}
    pair[1].send(json.dumps(frame).encode())
    assert pair[0].receive() is not None
    pair[1].send(json.dumps({**frame, "size_wh": size_wh, "pixel_format": pixel_format}).encode())
    with pytest.raises(ValueError, match=message):
        pair[0].receive()


@pytest.mark.parametrize(
    "message",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"kind": "ring", "ring": 0, "slots": 2, "slot_bytes": 4096}',
        b'{"kind": "frame", "ring": 0, "slot": 0, "size_wh": [64, 64]}',
        b'{"kind": "open"}',
        b'{"kind": "alive", "captured": "many", "dropped": {}}',
        b'{"kind": "alive", "captured": 1, "dropped": {"a": "b"}}',
        b'{"kind": "surprise"}',
        b"[" * 16000,
    ],
)
def test_nonsense_from_a_reader_is_refused(pair: tuple[Inlet, socket.socket], message: bytes) -> None:
    pair[1].send(message)
    with pytest.raises(ValueError):
        pair[0].receive()


def test_a_descriptor_that_is_no_memory_is_refused(pair: tuple[Inlet, socket.socket]) -> None:
    with Path("/dev/null").open() as null:
        message = b'{"kind": "ring", "ring": 0, "slots": 2, "slot_bytes": 4096}'
        socket.send_fds(pair[1], [message], [null.fileno()])
    before = descriptors()
    with pytest.raises(ValueError, match="not understood"):
        pair[0].receive()
    assert descriptors() == before


def test_memory_that_could_shrink_under_us_is_refused(pair: tuple[Inlet, socket.socket]) -> None:
    descriptor = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 8192)
    message = b'{"kind": "ring", "ring": 0, "slots": 2, "slot_bytes": 4096}'
    socket.send_fds(pair[1], [message], [descriptor])
    os.close(descriptor)
    with pytest.raises(ValueError, match="2 slots of 4096 bytes"):
        pair[0].receive()


# ---- the corners that months of running find -----------------------------------------------------------------------


def test_closing_between_two_steps_of_the_reading_thread_is_no_error() -> None:
    camera = source()

    class ClosesInBetween:
        """Another thread's close, at the worst moment: after the look whether to go on, before the wait."""

        every_frame, first_pause_s, longest_pause_s, give_up_s = False, 0.1, 0.1, None

        @property
        def timeout_s(self) -> float:
            camera.close()
            return 1.0

    camera._options = ClosesInBetween()  # type: ignore[assignment]
    with no_thread_left():
        assert list(camera) == []
    assert camera.status.state == ENDED


def test_closing_while_a_lost_camera_is_opened_again_ends_it_at_once() -> None:
    tasks = iter([{"frames": 3, "fault": "exit"}, {"fault": "silent"}, {"fault": "silent"}])
    camera = LiveSource(lambda: reader(**next(tasks)), SourceStatus("test://camera"), SourceOptions(60.0, 0.05, 0.2))
    reading = threading.Thread(target=lambda: [None for _ in camera])
    reading.start()
    deadline = time.monotonic() + 20
    while not camera.status.reconnects and time.monotonic() < deadline:
        time.sleep(0.01)
    camera.close()
    reading.join(5)
    assert not reading.is_alive()
    assert states(camera)[-2:] == [OPENING, ENDED]


def test_a_closed_source_that_is_kept_keeps_no_descriptor() -> None:
    before, kept = descriptors(), []
    for read in (False, True):
        kept.append(source())
        if read:
            next(frames := iter(kept[-1]))
            del frames
        kept[-1].close()
    gc.collect()
    assert descriptors() == before
    assert [camera.status.state for camera in kept] == [ENDED, ENDED]


def test_frames_outlive_their_reader_and_an_iteration_nobody_wants_ends_it() -> None:
    with no_thread_left():
        camera = source(every_frame=True)
        frames = iter(camera)
        held = [next(frames).image for _ in range(5)]
        del frames
        assert camera.status.state == ENDED
    assert [number_of(image) for image in held] == list(range(5))


def test_a_program_with_more_than_a_thousand_descriptors_has_cameras_too() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        with source(every_frame=True) as camera:
            frames = iter(camera)
            assert [number_of(next(frames).image) for _ in range(3)] == [0, 1, 2]
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_long_message_of_a_reader_is_cut_and_its_passwords_are_hidden() -> None:
    with pytest.raises(SourceError, match=r"not found: rtsp://admin:\*\*\*@camera/1"):
        source(fault="chatty")


def test_a_reader_that_cannot_be_told_what_to_do_is_an_error() -> None:
    before = descriptors()
    with pytest.raises(SourceError, match="the limit is 16384"):
        source(pipeline="x" * 20_000)
    with pytest.raises(SourceError, match=r"/bin/false|test://camera"):
        LiveSource(lambda: ReaderProcess(["/bin/false"], {}), SourceStatus("test://camera"), SourceOptions())
    gc.collect()
    assert descriptors() == before


def test_a_program_that_just_ends_says_nothing() -> None:
    script = (
        "import sys; sys.path[:] = {!r}; from test_reader_process import source; "
        "camera = source(); frames = iter(camera); held = [next(frames) for _ in range(3)]"
    )
    path = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run([sys.executable, "-c", script.format(path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_pictures_are_plain_arrays() -> None:
    with source() as camera:
        image = next(iter(camera)).image
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous

"""Video files: lossless, and every damage told."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from edgevision.errors import SourceError
from edgevision.sources import decoding, open_source
from tests.camera_kit import BITS, BLOCK, SIZE_WH, no_thread_left, number_of, numbered, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames of H.264 at 30 frames/s, its index in front."""
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 60)


@pytest.fixture(autouse=True, params=[1, 8], ids=["2 cores", "16 cores"])
def decoder_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds on small and on large machines."""
    monkeypatch.setattr(decoding, "cores", lambda: 2 * request.param)


@pytest.mark.smoke
def test_every_frame_comes_in_order_with_its_number_and_time(clip: Path) -> None:
    with open_source(clip) as source:
        frames = list(source)
    assert [number_of(frame.image) for frame in frames] == list(range(60))
    assert [frame.frame_id for frame in frames] == list(range(60))
    assert [frame.media_time_s for frame in frames] == pytest.approx([i / 30 for i in range(60)])
    assert (source.live, source.frame_count, source.fps) == (False, 60, 30.0)
    assert source.status.state == "ended"
    assert source.status.captured == 60
    assert source.status.dropped == {}
    assert source.status.notes == []


def test_the_pixels_are_those_that_were_filmed(clip: Path) -> None:
    for frame in open_source(clip):
        # Below the painted number; lossy, but the right colours.
        difference = np.abs(frame.image[BLOCK:].astype(int) - numbered(frame.frame_id)[BLOCK:]).mean()
        assert difference < 5


@pytest.mark.parametrize(("name", "container"), [("a.mkv", "matroska"), ("a.ts", "mpegts"), ("a.mov", "mov")])
def test_other_containers(name: str, container: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, 12, container=container)
    assert [number_of(frame.image) for frame in open_source(path)] == list(range(12))


def test_any_existing_file_may_be_a_video(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "recording of: tuesday"
    path.write_bytes(clip.read_bytes())
    assert len(list(open_source(path))) == 60


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "does not exist"), (b"", "is empty"), (b"not a video" * 100, "cannot be opened: frame 0: expected")],
)
def test_what_is_no_video_is_told_when_it_is_opened(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "no.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=rf"no\.mp4.*{reason}"):
        open_source(path)


def test_a_pipe_or_device_is_not_opened_as_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for a writer, for ever
    with pytest.raises(SourceError, match="is not a file"):
        open_source(tmp_path / "pipe.mp4")


def test_a_recording_that_was_never_finished_is_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "tail.mp4", 60, movflags="+write_colr")  # index at the end
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SourceError, match="never finished"):
        open_source(path)


def test_a_cut_file_gives_its_frames_and_then_says_what_is_missing(clip: Path, tmp_path: Path) -> None:
    data, path = clip.read_bytes(), tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) // 2])
    source, numbers = open_source(path), []
    with pytest.raises(SourceError, match=r"cut\.mp4 is cut short: it ends at frame \d+: expected 60 frames"):
        numbers.extend(number_of(frame.image) for frame in source)
    assert numbers == list(range(len(numbers)))
    assert 15 < len(numbers) < 45
    assert source.status.state == "dead"
    assert source.status.captured == len(numbers) + sum(source.status.dropped.values())


def test_a_cut_file_without_frame_count_leaves_a_note(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cut.mkv", 90, container="matroska")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = open_source(path)
    assert 20 < len(list(source)) < 70
    assert "cut.mkv: its video ends at" in source.status.notes[-1]


def test_damaged_frames_are_dropped_counted_and_named(clip: Path, tmp_path: Path) -> None:
    data, path = bytearray(clip.read_bytes()), tmp_path / "hurt.mp4"
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(0).integers(0, 255, 300, np.uint8).tobytes()
    path.write_bytes(data)
    source = open_source(path)
    numbers = [frame.frame_id for frame in source]
    lost = source.status.dropped["decode_error"]
    assert 0 < lost < 10
    assert len(numbers) + lost == source.status.captured == 60
    named = [int(note.partition("hurt.mp4: frame ")[2].partition(":")[0]) for note in source.status.notes]
    assert len(named) == lost
    assert not set(named) & set(numbers)


def test_a_change_of_size_is_followed(tmp_path: Path) -> None:
    # Two MPEG-TS recordings joined end to end are one valid stream.
    parts = [
        write_video(tmp_path / f"{i}.ts", 10, size, container="mpegts") for i, size in enumerate([SIZE_WH, (320, 192)])
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    source = open_source(joined)
    frames = list(source)
    assert [frame.size_wh for frame in frames] == [SIZE_WH] * 10 + [(320, 192)] * 10
    assert [number_of(frame.image) for frame in frames] == [*range(10)] * 2


def test_a_telephone_held_upright_gives_upright_pictures(tmp_path: Path) -> None:
    path = tmp_path / "upright.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        image = np.zeros((96, 160, 3), np.uint8)
        image[:, :40] = 255  # white at the left
        for packet in [*stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")), *stream.encode(None)]:
            output.mux(packet)
    data = bytearray(path.read_bytes())
    # The track header's matrix (ISO/IEC 14496-12, 8.3): turn by 90 degrees clockwise for display.
    matrix = data.index(b"tkhd") + 4 + 40
    turned = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in turned)
    path.write_bytes(data)
    (frame,) = open_source(path)
    assert frame.size_wh == (96, 160)
    assert frame.image[:30].mean() > 200  # now at the top
    assert frame.image[50:].mean() < 50


def test_frames_without_end_are_refused_before_they_are_decoded(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 160 * 96 - 1)
    with pytest.raises(SourceError, match="160x96, the limit is"):
        open_source(clip)


def test_a_file_without_video_says_so(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    with pytest.raises(SourceError, match="holds no video"):
        open_source(path)


def test_a_playlist_file_calls_nobody(tmp_path: Path) -> None:
    path = tmp_path / "innocent.m3u8"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/part.ts"
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{url}\n#EXT-X-ENDLIST\n")
        with pytest.raises(SourceError):
            list(open_source(path))
        with pytest.raises(TimeoutError):
            server.accept()


def test_closing_from_another_thread_ends_the_iteration(clip: Path) -> None:
    source, started = open_source(clip), threading.Event()

    def close() -> None:
        started.wait(5)
        source.close()

    closer = threading.Thread(target=close)
    closer.start()
    count = 0
    for _ in source:
        count += 1
        started.set()
        closer.join(5)
    assert count == 1
    assert source.status.state == "ended"
    source.close()


def test_leaving_early_frees_the_file(clip: Path) -> None:
    with no_thread_left(), open_source(clip) as source:
        for frame in source:
            if frame.frame_id == 3:
                break
    assert list(source) == []


def test_a_recording_that_is_over_keeps_no_decoder(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline of months keeps some ended sources for its report; a decoder has threads and pictures of its own."""
    monkeypatch.setattr(decoding, "cores", lambda: 16)
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    over = open_source(clip)
    assert sum(1 for _ in over) == 60
    assert len(list(tasks.iterdir())) == before
    left = open_source(clip)
    next(iter(left))
    left.close()
    assert len(list(tasks.iterdir())) == before


_READ_MANY = """
import pathlib, sys, threading
from edgevision.sources import open_source

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

def read():
    held = []
    for frame in open_source(sys.argv[1]):
        held = [*held[-3:], frame]

read()
before = resident()
grown = []
for _ in range(4):
    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    grown.append(resident() - before)
print(min(grown))
"""


def test_recordings_that_are_over_give_their_memory_back(tmp_path: Path) -> None:
    """To the system: what the C library keeps for a thread that has ended is of no use to the next one. Where two end
    at once one may keep it until the next ends, so that the least of four times counts."""
    path = write_video(tmp_path / "large.mp4", 20, (1280, 720))
    program = [sys.executable, "-c", _READ_MANY, str(path)]
    grown = int(subprocess.run(program, stdout=subprocess.PIPE, timeout=60, check=True).stdout)
    assert grown < 4 << 20  # a third of what a single one takes; 7 to 20 MB where nothing is given back


@pytest.fixture
def web(clip: Path) -> Iterator[str]:
    """A web server with the clip in its folder."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(clip.parent))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_recording_on_a_web_server_is_lossless_too(web: str) -> None:
    source = open_source(f"{web}/clip.mp4")
    assert not source.live
    assert [number_of(frame.image) for frame in source] == list(range(60))
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(f"{web}/absent.mp4")


def test_the_numbers_of_the_tests_can_be_read_back() -> None:
    assert [number_of(numbered(n)) for n in (0, 1, 77, 2**BITS - 1)] == [0, 1, 77, 2**BITS - 1]

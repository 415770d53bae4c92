"""Annotated pictures and video."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgevision.drawing import draw
from edgevision.errors import SinkError, UsageError
from edgevision.frame import Frame
from edgevision.results import Detections
from edgevision.sinks import open_sink
from edgevision.sources import open_source
from tests.camera_kit import BLOCK, ListSource, number_of, numbered

NOTHING = Detections.empty()
FOUND = Detections(np.array([[20, 40, 90, 80]], np.float32), np.array([0.9], np.float32), np.array([0]), ("car",))


def write_all(sink_uri: object, frames: list[Frame], source: ListSource | None = None) -> None:
    sink = open_sink(str(sink_uri), [source] if source else [])
    for frame in frames:
        sink.write(frame, NOTHING, {})
    sink.close()


def frames(count: int, fps: float = 30.0) -> list[Frame]:
    return [Frame(numbered(i), i, media_time_s=i / fps) for i in range(count)]


def read(path: Path) -> tuple[list[NDArray[np.uint8]], list[float]]:
    """Pictures and times of a video, by PyAV itself."""
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    return [picture.to_ndarray(format="bgr24") for picture in pictures], [float(picture.time) for picture in pictures]


# ---- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_pictures_are_numbered_by_frame_and_hold_what_was_drawn(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out_%04d.png")
    for number in (0, 7):
        sink.write(Frame(numbered(number), number), FOUND, {})
    sink.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out_0000.png", "out_0007.png"]
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out_0007.png")), draw(numbered(7), FOUND))


def test_jpeg_pictures_are_close_to_what_was_drawn(tmp_path: Path) -> None:
    write_all(tmp_path / "%d.jpg", frames(1))
    assert np.abs(cv2.imread(str(tmp_path / "0.jpg")).astype(int) - numbered(0)).mean() < 4


def test_one_picture_needs_no_number_but_a_second_one_does(tmp_path: Path) -> None:
    write_all(tmp_path / "one.jpg", frames(1))
    assert cv2.imread(str(tmp_path / "one.jpg")) is not None
    with pytest.raises(SinkError, match=r"one_%06d\.jpg"):
        write_all(tmp_path / "one.jpg", frames(2))


@pytest.mark.parametrize("name", ["a%s.jpg", "a%d_%d.jpg", "a%.jpg", "a%5d.jpg", "d%d/a.jpg"])
def test_patterns_are_checked(name: str, tmp_path: Path) -> None:
    (tmp_path / "d%d").mkdir()
    with pytest.raises(UsageError, match="one number like %06d"):
        open_sink(tmp_path / name)


# ---- video ---------------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_video_holds_each_frame_at_its_time(tmp_path: Path) -> None:
    write_all(tmp_path / "out.mp4", frames(45))
    pictures, times = read(tmp_path / "out.mp4")
    assert [number_of(picture) for picture in pictures] == list(range(45))
    assert times == pytest.approx([i / 30 for i in range(45)], abs=1e-4)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].frames == 45


def test_colours_survive_the_video(tmp_path: Path) -> None:
    image = np.zeros((96, 160, 3), np.uint8)
    image[:, :80], image[:, 80:] = (30, 60, 200), (200, 120, 20)
    write_all(tmp_path / "out.mp4", [Frame(image, media_time_s=0.0)])
    ((picture,), _) = read(tmp_path / "out.mp4")
    for half in (np.s_[20:70, 10:70], np.s_[20:70, 90:150]):
        np.testing.assert_allclose(picture[half].mean((0, 1)), image[half].mean((0, 1)), atol=4)


def test_results_are_drawn_into_the_video(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.mp4")
    for i in range(3):
        sink.write(Frame(numbered(i), i, media_time_s=i / 30), FOUND, {})
    sink.close()
    pictures, _ = read(tmp_path / "out.mp4")
    to_drawn, to_plain = (
        np.abs(pictures[0].astype(int) - image).mean() for image in (draw(numbered(0), FOUND), numbered(0))
    )
    assert to_drawn < to_plain / 2


def test_dropped_live_frames_become_longer_ones(tmp_path: Path) -> None:
    start = time.monotonic_ns()
    shown = [Frame(numbered(i), i, capture_time_ns=start + i * 100_000_000) for i in (0, 1, 5, 6)]
    write_all(tmp_path / "out.mp4", shown, ListSource(1, live=True))
    assert read(tmp_path / "out.mp4")[1] == pytest.approx([0, 0.1, 0.5, 0.6], abs=1e-3)


def test_pictures_without_a_rate_are_shown_half_a_second_each(tmp_path: Path) -> None:
    source = ListSource(1)
    source.fps = None  # type: ignore[assignment]
    write_all(tmp_path / "out.mp4", [Frame(numbered(i), i) for i in range(3)], source)
    assert read(tmp_path / "out.mp4")[1] == pytest.approx([0, 0.5, 1.0], abs=1e-3)


def test_odd_sizes_are_made_even_and_other_sizes_fitted(tmp_path: Path) -> None:
    shapes = [(97, 161), (97, 161), (200, 161), (50, 300)]
    grey = [np.full((*shape, 3), 120, np.uint8) for shape in shapes]
    write_all(tmp_path / "out.mp4", [Frame(image, i, media_time_s=i / 30) for i, image in enumerate(grey)])
    pictures, _ = read(tmp_path / "out.mp4")
    assert {picture.shape for picture in pictures} == {(98, 162, 3)}
    assert pictures[1].min() > 110  # the added row and column continue the picture
    assert pictures[2][:, :70].min() > 100  # narrower: a border at the right
    assert pictures[2][:, 90:].max() < 40
    assert pictures[3][:20].min() > 100  # flatter: a border below
    assert pictures[3][40:].max() < 40


def test_times_that_stand_still_or_go_back_do_not_break_it(tmp_path: Path) -> None:
    times = [5.0, 5.1, 5.1, 4.0, 5.2]
    write_all(tmp_path / "out.mp4", [Frame(numbered(i), i, media_time_s=t) for i, t in enumerate(times)])
    pictures, shown = read(tmp_path / "out.mp4")
    assert [number_of(picture) for picture in pictures] == list(range(5))
    assert shown == sorted(set(shown))


def test_a_killed_run_leaves_a_playable_video(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.mp4", [ListSource(1)])
    for frame in frames(200):
        sink.write(frame, NOTHING, {})
    shutil.copy(tmp_path / "out.mp4", tmp_path / "killed.mp4")  # what is on disk if this process dies now
    sink.close()
    with open_source(tmp_path / "killed.mp4") as source:
        numbers = [number_of(frame.image) for frame in source]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 60  # at 30 frames/s all but the last two seconds and what the encoder holds


def test_a_video_without_frames_leaves_no_file(tmp_path: Path) -> None:
    write_all(tmp_path / "out.mp4", [])
    assert list(tmp_path.iterdir()) == []


def test_the_painted_numbers_lie_above_what_is_drawn() -> None:
    assert FOUND.xyxy[0, 1] > BLOCK

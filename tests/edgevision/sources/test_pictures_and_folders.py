"""Still pictures, folders and patterns of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.errors import SourceError
from edgevision.sources import open_source
from edgevision.sources.folder import natural_key
from tests.camera_kit import number_of, numbered

pytestmark = pytest.mark.smoke


def write(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), numbered(number))


def test_a_picture_is_a_source_of_one_frame(tmp_path: Path) -> None:
    write(tmp_path, "one.png")
    source = open_source(tmp_path / "one.png")
    (frame,) = source
    assert (frame.name, frame.frame_id, frame.source_id, frame.media_time_s) == ("one.png", 0, "one", None)
    np.testing.assert_array_equal(frame.image, numbered(0))
    assert (source.live, source.frame_count) == (False, 1)
    assert (source.status.state, source.status.captured) == ("ended", 1)


def test_a_bad_picture_is_told_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 not a JPEG")
    with pytest.raises(SourceError, match=r"bad\.jpg"):
        open_source(tmp_path / "bad.jpg")


def test_a_folder_comes_in_natural_order(tmp_path: Path) -> None:
    write(tmp_path, "f2.png", "f10.png", "f1.png", "F3.PNG")
    (tmp_path / "notes.txt").write_text("not a picture, not asked for")
    assert [frame.name for frame in open_source(tmp_path)] == ["F3.PNG", "f1.png", "f2.png", "f10.png"]


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=20, unique=True))
def test_numbers_in_names_sort_as_numbers(numbers: list[int]) -> None:
    paths = [Path(f"a/frame_{number}_left.jpg") for number in numbers]
    assert sorted(paths, key=natural_key) == [Path(f"a/frame_{number}_left.jpg") for number in sorted(numbers)]


def test_names_of_any_kind_can_be_sorted() -> None:
    sorted(map(Path, ["1.jpg", "a.jpg", "", "1a2.jpg", "a1.jpg", "01.jpg"]), key=natural_key)


def test_patterns_may_reach_into_subfolders(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, "sub/a.png", "b.png")
    assert [frame.name for frame in open_source(f"{tmp_path}/*.png")] == ["b.png"]
    assert {frame.name for frame in open_source(f"{tmp_path}/**/*.png")} == {"a.png", "b.png"}


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    write(tmp_path, "shot[1].png", "shot1.png")
    assert [frame.name for frame in open_source(tmp_path / "shot[1].png")] == ["shot[1].png"]


def test_damaged_pictures_are_skipped_counted_and_named(tmp_path: Path) -> None:
    write(tmp_path, "a0.png", "a1.jpg", "a2.png")
    half = (tmp_path / "a1.jpg").read_bytes()
    (tmp_path / "a1.jpg").write_bytes(half[: len(half) // 2])
    (tmp_path / "a3.png").write_bytes(b"")
    source = open_source(tmp_path)
    frames = list(source)
    assert [number_of(frame.image) for frame in frames] == [0, 2]
    assert [frame.frame_id for frame in frames] == [0, 2]
    assert source.status.captured == 4
    assert source.status.dropped == {"decode_error": 2}
    assert "a1.jpg" in source.status.notes[0]
    assert "a3.png" in source.status.notes[1]
    assert source.status.state == "ended"


def test_a_folder_without_a_readable_picture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="matches no file"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="matches no file"):
        open_source(f"{tmp_path}/*.jpg")
    (tmp_path / "a.jpg").write_bytes(b"")
    source = open_source(tmp_path)
    with pytest.raises(SourceError, match=r"none of the 1 pictures .*a\.jpg"):
        list(source)
    assert source.status.state == "dead"


def test_closing_ends_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "a0.png", "a1.png", "a2.png")
    source = open_source(tmp_path)
    for _ in source:
        source.close()
    assert source.status.captured == 1

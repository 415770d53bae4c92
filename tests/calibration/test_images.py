"""Which pictures are chosen, and what happens to those that cannot be read."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevision.calibration import CalibrationImages
from edgevision.errors import CalibrationError

WritePictures = Callable[..., Path]


def names(images: CalibrationImages) -> list[str]:
    return list(images.names)


def test_a_folder_is_searched_with_its_sub_folders_in_natural_order(write_pictures: WritePictures) -> None:
    folder = write_pictures(12)
    write_pictures(2, "pictures/more")
    assert names(CalibrationImages(folder)) == [f"{i}.png" for i in range(12)] + ["more/0.png", "more/1.png"]


def test_other_files_and_hidden_ones_are_left_alone(write_pictures: WritePictures) -> None:
    folder = write_pictures(2)
    (folder / "notes.txt").write_text("no picture")
    (folder / "._0.png").write_bytes(b"resource fork")
    (folder / "folder.png").mkdir()
    (folder / "1.png").rename(folder / "1.PNG")
    assert names(CalibrationImages(folder)) == ["0.png", "1.PNG"]


def test_globs_and_single_files(write_pictures: WritePictures) -> None:
    folder = write_pictures(11)
    write_pictures(1, "pictures/more")
    assert names(CalibrationImages(f"{folder}/1*.png")) == ["1.png", "10.png"]
    assert len(CalibrationImages(f"{folder}/**/*.png")) == 12
    assert names(CalibrationImages(folder / "3.png")) == ["3.png"]


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(write_pictures: WritePictures) -> None:
    assert len(CalibrationImages(write_pictures(2, "set [1]*"))) == 2


def test_more_than_the_limit_are_thinned_out_evenly(write_pictures: WritePictures) -> None:
    folder = write_pictures(20)
    assert names(CalibrationImages(folder, limit=4)) == ["2.png", "7.png", "12.png", "17.png"]
    assert len(CalibrationImages(folder, limit=20)) == len(CalibrationImages(folder, limit=512)) == 20


def test_the_hash_is_of_the_contents_not_of_names_or_order(write_pictures: WritePictures, tmp_path: Path) -> None:
    folder = write_pictures(3)
    original = CalibrationImages(folder).sha256
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for old, new in (("0.png", "b.png"), ("1.png", "a.png"), ("2.png", "c.png")):
        shutil.copy(folder / old, renamed / new)
    assert CalibrationImages(renamed).sha256 == original
    assert CalibrationImages(folder, limit=2).sha256 != original
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes() + b"x")
    assert CalibrationImages(folder).sha256 != original


def test_iterating_skips_counts_and_names_what_cannot_be_read(write_pictures: WritePictures) -> None:
    folder = write_pictures(3)
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:100])
    (folder / "empty.jpg").touch()
    images = CalibrationImages(folder)
    read = list(images)
    assert [path.name for path, _ in read] == ["0.png", "2.png"]
    assert read[0][1].shape == (30, 40, 3)
    assert sorted(images.skipped) == ["1.png", "empty.jpg"]
    assert "cut short" in images.skipped["1.png"]


def test_a_decompression_bomb_is_skipped_unopened(write_pictures: WritePictures) -> None:
    folder = write_pictures(1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    (folder / "bomb.png").write_bytes(bomb)
    images = CalibrationImages(folder)
    assert len(list(images)) == 1
    assert "60000x60000" in images.skipped["bomb.png"]


def test_an_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    with pytest.raises(CalibrationError, match=r"no calibration pictures in .*\*\.jpg.*sub-folders"):
        CalibrationImages(tmp_path)


@pytest.mark.parametrize("pattern", ["missing", "missing/*.jpg", "["])
def test_nothing_found_is_an_error(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(CalibrationError, match="no calibration pictures"):
        CalibrationImages(tmp_path / pattern)


def test_none_readable_is_an_error_that_gives_reasons(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"not a picture")
    (tmp_path / "b.jpg").touch()
    with pytest.raises(CalibrationError, match=r"none of the 2 pictures .* is empty"):
        list(CalibrationImages(tmp_path))


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="limit of 0"):
        CalibrationImages(tmp_path, limit=0)

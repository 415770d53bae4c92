"""Files as they come from the field: each fault is named with its file, the frame, what was expected and what came."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevision.errors import SourceError
from edgevision.sources import open_source
from tests.camera_kit import number_of, numbered, write_video

FRAMES = 60
SIZE_WH = (320, 192)


def no_index(folder: Path) -> Path:
    """A recording that was never finished: its index, at the end, is missing."""
    path = write_video(folder / "no_index.mp4", FRAMES, movflags="+write_colr")
    path.write_bytes(path.read_bytes().partition(b"moov")[0][:-4])
    return path


def cut_in_half(folder: Path) -> Path:
    path = write_video(folder / "cut.mp4", FRAMES)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def garbage_inside(folder: Path) -> Path:
    path = write_video(folder / "garbage.mp4", FRAMES)
    data, noise = bytearray(path.read_bytes()), np.random.default_rng(1).bytes(4096)
    data[len(data) // 2 : len(data) // 2 + len(noise)] = noise
    path.write_bytes(data)
    return path


def missing(folder: Path) -> Path:
    return folder / "missing.mp4"


def empty(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def other_size(folder: Path) -> Path:
    """Two transport streams joined end to end are one valid stream."""
    parts = [
        write_video(folder / f"{width}.ts", FRAMES // 2, (width, height), container="mpegts").read_bytes()
        for width, height in (SIZE_WH, (160, 96))
    ]
    (folder / "sizes.ts").write_bytes(b"".join(parts))
    return folder / "sizes.ts"


def pictures(folder: Path, damage: Callable[[bytes], bytes]) -> Path:
    """Three pictures, the one in the middle damaged."""
    (folder / "photos").mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / "photos" / f"{i}.jpg"), numbered(i, SIZE_WH))
    middle = folder / "photos" / "1.jpg"
    middle.write_bytes(damage(middle.read_bytes()))
    return folder / "photos"


def half_a_picture(folder: Path) -> Path:
    return pictures(folder, lambda data: data[: len(data) // 2])


def no_picture(folder: Path) -> Path:
    return pictures(folder, lambda data: b"not a picture" * 100)


def empty_picture(folder: Path) -> Path:
    return pictures(folder, lambda data: b"")


def bad_one_in_a_sequence(folder: Path) -> Path:
    return half_a_picture(folder) / "*.jpg"


@pytest.mark.parametrize(
    ("make", "file", "frames", "first_bad"),
    [
        (no_index, "no_index.mp4", range(1), 0),
        (cut_in_half, "cut.mp4", range(20, 40), None),
        (garbage_inside, "garbage.mp4", range(30, 50), None),
        (missing, "missing.mp4", range(1), 0),
        (empty, "empty.mp4", range(1), 0),
        (other_size, "sizes.ts", range(FRAMES, FRAMES + 1), FRAMES // 2),
        (half_a_picture, "1.jpg", range(2, 3), 1),
        (no_picture, "1.jpg", range(2, 3), 1),
        (empty_picture, "1.jpg", range(2, 3), 1),
        (bad_one_in_a_sequence, "1.jpg", range(2, 3), 1),
    ],
)
def test_a_bad_input_is_named_with_file_frame_expected_and_got(
    make: Callable[[Path], Path], file: str, frames: range, first_bad: int | None, tmp_path: Path
) -> None:
    numbers, told = [], []
    try:
        with open_source(make(tmp_path)) as source:
            try:
                for frame in source:
                    numbers.append(number_of(frame.image))
                    assert frame.size_wh in (SIZE_WH, (160, 96))
            except SourceError as error:
                told.append(str(error))
            told += source.status.notes
            assert source.status.captured == len(numbers) + sum(source.status.dropped.values())
            if make is garbage_inside:
                assert source.status.captured == FRAMES  # also those that the decoder skipped without a word
    except SourceError as error:
        told.append(str(error))
    assert len(numbers) in frames
    assert told
    for message in told:
        assert file in message
        assert "expected" in message
        assert "got" in message
    found = [int(match) for message in told for match in re.findall(r"frame (\d+)", message)]
    if first_bad is not None:
        assert found == [first_bad]
    else:
        assert min(found) == next(i for i in range(FRAMES) if i not in numbers)

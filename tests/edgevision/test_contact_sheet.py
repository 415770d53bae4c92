"""The contact sheet shows every picture at its place."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevision.contact_sheet import contact_sheet, write_png
from edgevision.errors import SinkError


def test_pictures_stand_in_rows_under_their_titles(tmp_path: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 255]], [[9, 9, 9], [99, 9, 9]]], np.uint8)
    rows = [[np.full((72, 128, 3), colour, np.uint8) for colour in row] for row in colours]
    write_png(tmp_path / "sheet.png", contact_sheet(("left", "right"), rows, (64, 36)))
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.dtype == np.uint8
    for row in colours:
        for colour in row:
            assert (sheet == colour).all(axis=2).sum() == 64 * 36
    top_left = np.argwhere((sheet == colours[0, 0]).all(axis=2))[0]
    below = np.argwhere((sheet == colours[1, 0]).all(axis=2))[0]
    beside = np.argwhere((sheet == colours[0, 1]).all(axis=2))[0]
    assert below[0] > top_left[0]
    assert below[1] == top_left[1]
    assert beside[1] > top_left[1]
    assert (sheet[: top_left[0]].min(axis=2) < 100).any(), "no titles"


def test_a_sheet_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"sheet\.png"):
        write_png(tmp_path / "absent" / "sheet.png", np.zeros((2, 2, 3), np.uint8))

"""One picture that shows a model at work: rows of pictures, columns of versions, each column titled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgevision.errors import SinkError
from edgevision.files import atomic_path

_MARGIN = 6
_TITLE_HEIGHT = 34
_INK, _PAPER = (40, 40, 40), 250


def contact_sheet(titles: Sequence[str], rows: Sequence[Sequence[NDArray[np.uint8]]], cell_wh: tuple[int, int]) -> Any:
    """Lay out pictures in a grid under column titles.

    Args:
        titles: one per column.
        rows: BGR uint8 pictures, each row as long as `titles`; every picture is scaled to fit into `cell_wh`.
        cell_wh: width and height of a cell, pixels.

    Returns:
        (h, w, 3) uint8 BGR.
    """
    w, h = cell_wh
    step_x, step_y = w + _MARGIN, h + _MARGIN
    sheet = np.full((_TITLE_HEIGHT + len(rows) * step_y, _MARGIN + len(titles) * step_x, 3), _PAPER, np.uint8)
    for column, title in enumerate(titles):
        position = (_MARGIN + column * step_x, _TITLE_HEIGHT - 10)
        cv2.putText(sheet, title, position, cv2.FONT_HERSHEY_SIMPLEX, 0.7, _INK, 1, cv2.LINE_AA)
        for row, pictures in enumerate(rows):
            image = pictures[column]
            scale = min(w / image.shape[1], h / image.shape[0])
            fitted_wh = min(w, max(1, round(scale * image.shape[1]))), min(h, max(1, round(scale * image.shape[0])))
            x = _MARGIN + column * step_x + (w - fitted_wh[0]) // 2
            y = _TITLE_HEIGHT + row * step_y + (h - fitted_wh[1]) // 2
            fitted = cv2.resize(image, fitted_wh, interpolation=cv2.INTER_AREA)
            sheet[y : y + fitted_wh[1], x : x + fitted_wh[0]] = fitted
    return sheet


def write_png(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a PNG, whole or not at all.

    Raises:
        SinkError: it cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error}") from error

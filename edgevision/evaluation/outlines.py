"""Outlines of labelled objects, as COCO writes them, and masks as pycocotools compares them.

Format: https://cocodataset.org/#format-data: `segmentation` is a list of polygons [x1, y1, x2, y2, ...], or
{`size`: [h, w], `counts`: runs of 0 and 1 in turn, down the columns} with the runs as a list or packed in a string.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.optional import require

# pycocotools follows polygons in steps of a fifth of a pixel and holds all of them.
_LONGEST_OUTLINE = 2_000_000
_MOST_PIXELS = 1 << 31  # runs are counted in 32 bits


@dataclass(frozen=True)
class Outline:
    """One object's pixels in a picture of `size_wh`: polygons, or the lengths of runs."""

    size_wh: tuple[int, int]
    polygons: tuple[tuple[float, ...], ...] = ()
    runs: tuple[int, ...] = ()

    def encode(self) -> dict[str, Any]:
        """pycocotools' run-length encoding."""
        mask = require("pycocotools.mask", "COCO average precision")
        width, height = self.size_wh
        if self.runs:
            encoded = mask.frPyObjects({"size": [height, width], "counts": list(self.runs)}, height, width)
        else:
            encoded = mask.merge(mask.frPyObjects([list(polygon) for polygon in self.polygons], height, width))
        return encoded  # type: ignore[no-any-return]


def encode_masks(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """pycocotools' run-length encodings of (n, h, w) masks."""
    mask = require("pycocotools.mask", "COCO average precision")
    encoded: list[dict[str, Any]] = mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8))
    return encoded


def read_outline(segmentation: Any, size_wh: tuple[int, int] | None) -> Outline | None:
    """An annotation's `segmentation`, from anywhere; None where it is missing or is not COCO's."""
    if size_wh is None or min(size_wh) < 1 or size_wh[0] * size_wh[1] >= _MOST_PIXELS:
        return None
    if isinstance(segmentation, dict):
        counts, size = segmentation.get("counts"), segmentation.get("size")
        runs = _unpack(counts) if isinstance(counts, str) else counts
        if size != [size_wh[1], size_wh[0]] or not isinstance(runs, list) or not runs:
            return None
        if any(not isinstance(run, int) or run < 0 for run in runs) or sum(runs) != size_wh[0] * size_wh[1]:
            return None
        return Outline(size_wh, runs=tuple(runs))
    if not isinstance(segmentation, list) or not segmentation:
        return None
    polygons = [_polygon(part) for part in segmentation]
    checked = tuple(polygon for polygon in polygons if polygon is not None)
    return Outline(size_wh, checked) if len(checked) == len(polygons) else None


def _polygon(part: Any) -> tuple[float, ...] | None:
    """The numbers of a polygon of three points or more, and of a length that can be followed."""
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2 or any(type(v) not in (int, float) for v in part):
        return None
    try:
        points = np.array(part, np.float64).reshape(-1, 2)
    except OverflowError:
        return None
    with np.errstate(all="ignore"):
        length = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum() + np.abs(points).max()
    return tuple(points.ravel().tolist()) if length <= _LONGEST_OUTLINE else None  # NaN is not


def _unpack(counts: str) -> list[int] | None:
    """Runs from pycocotools' string: six bits a character from '0' on, five of a number and one for "goes on"; from
    the fourth run on the difference from the last but one."""
    runs: list[int] = []
    number = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return None
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    return None if shift else runs

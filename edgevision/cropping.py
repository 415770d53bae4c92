"""Pictures of single objects, and the part of a picture that matters."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.frame import check_picture
from edgevision.results import Classification, Detections, Result, SegmentationMap

Box = tuple[int, int, int, int]


def crop(
    image: NDArray[np.uint8],
    result: Result,
    *,
    padding: float = 0.0,
    aspect: float | None = None,
    cut_out: int | None = None,
) -> list[NDArray[np.uint8]]:
    """A picture of every object in `result`, in its order.

    Detections give one per box; a segmentation one per class present (background left out), around all its pixels; a
    classification with a box one, without a box the whole picture.

    Args:
        image: (h, w, 3) uint8, the picture that the result belongs to.
        result: what a model said about it.
        padding: added on every side, as a share of the object's width and height.
        aspect: width over height of the pictures; boxes grow to it, as far as the picture goes.
        cut_out: grey level 0..255 for what does not belong to the object, where the result knows its pixels.

    Returns:
        Copies, (h, w, 3) uint8, at least one pixel large.

    Raises:
        UsageError: an argument is out of range, `image` is no picture, or the result is of a picture of another size.
    """
    check_picture(image)
    if not 0 <= padding <= 10 or (aspect is not None and not 0.01 <= aspect <= 100):
        raise UsageError(f"padding is in 0..10 and aspect in 0.01..100, got {padding}, {aspect}")
    if cut_out is not None and not 0 <= cut_out <= 255:
        raise UsageError(f"cut_out is a grey level in 0..255, got {cut_out}")
    pictures = []
    for xyxy, mask in _objects(image, result):
        left, top, right, bottom = grown(xyxy, image.shape[1::-1], padding, aspect)
        picture = image[top:bottom, left:right].copy()
        if cut_out is not None and mask is not None:
            picture[~mask[top:bottom, left:right]] = cut_out
        pictures.append(picture)
    return pictures


def smart_crop(image: NDArray[np.uint8], result: Result, aspect: float) -> Box:
    """The largest part of a picture with a given shape that shows as much of the objects as it can.

    Objects count by confidence and area; where several places show the same, the one nearest to the objects' centre is
    taken, and the picture's centre where there is nothing.

    Args:
        image: (h, w, 3) uint8, the picture that the result belongs to.
        result: what a model said about it.
        aspect: width over height.

    Returns:
        left, top, right, bottom in pixels; `image[top:bottom, left:right]` is the part.

    Raises:
        UsageError: aspect is out of range, or the result does not fit the picture.
    """
    check_picture(image)
    if not 0.01 <= aspect <= 100:
        raise UsageError(f"aspect is in 0.01..100, got {aspect}")
    height, width = image.shape[:2]
    across, down = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    weights = [np.zeros(width), np.zeros(height)]
    shares = result.confidence if isinstance(result, Detections) else None
    for index, (xyxy, _) in enumerate(_objects(image, result)):
        left, top, right, bottom = grown(xyxy, (width, height), 0.0, None)
        share = 1.0 if shares is None else float(shares[index])
        weights[0][left:right] += share * (bottom - top)
        weights[1][top:bottom] += share * (right - left)
    x, y = (_best_start(weight, size) for weight, size in zip(weights, (across, down), strict=True))
    return x, y, x + across, y + down


def _objects(
    image: NDArray[np.uint8], result: Result
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_] | None]]:
    """Box and, where known, mask of everything that `result` found."""
    size_hw = image.shape[:2]
    if isinstance(result, Detections):
        if result.mask is not None and result.mask.shape[1:] != size_hw:
            raise UsageError(f"the masks have the size {result.mask.shape[1:]}, the picture {size_hw}")
        for index in range(len(result)):
            yield result.xyxy[index], None if result.mask is None else result.mask[index]
    elif isinstance(result, SegmentationMap):
        if result.class_map.shape != size_hw:
            raise UsageError(f"the class map has the size {result.class_map.shape}, the picture {size_hw}")
        for class_id in np.unique(result.class_map).tolist():
            if class_id >= len(result.names) or result.names[class_id] != "background":
                mask = result.mask(class_id)
                rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                yield np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32), mask
    elif isinstance(result, Classification):
        whole = np.array([0, 0, size_hw[1], size_hw[0]], np.float32)
        yield whole if result.xyxy is None else result.xyxy, None


def grown(xyxy: NDArray[np.float32], size_wh: tuple[int, ...], padding: float, aspect: float | None) -> Box:
    """Whole pixels around a box with its padding, of a shape where one is asked for, within the picture.

    Args:
        xyxy: (4,) corners.
        size_wh: width and height of the picture.
        padding, aspect: as `crop` takes them.
    """
    x1, y1, x2, y2 = xyxy.tolist()
    width, height = (x2 - x1) * (1 + 2 * padding), (y2 - y1) * (1 + 2 * padding)
    if aspect is not None:
        width, height = max(width, height * aspect), max(height, width / aspect)
    sides = []
    for centre, length, size in (((x1 + x2) / 2, width, size_wh[0]), ((y1 + y2) / 2, height, size_wh[1])):
        # A box that would reach over an edge moves inside before it is cut.
        length = min(length, size)
        start = min(max(centre - length / 2, 0), size - length)
        first = min(math.floor(start + 1e-4), size - 1)
        sides.append((first, min(max(math.ceil(start + length - 1e-4), first + 1), size)))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def _best_start(weight: NDArray[np.float64], length: int) -> int:
    """Where a window over `weight` holds the most; of equal places the one whose middle is nearest to the centre."""
    sums = np.concatenate([[0.0], np.cumsum(weight)])
    held = sums[length:] - sums[:-length]
    total = sums[-1]
    centre = (np.arange(len(weight)) + 0.5) @ weight / total if total > 0 else len(weight) / 2
    best = np.flatnonzero(held >= held.max() * (1 - 1e-9))
    return int(best[np.abs(best + length / 2 - centre).argmin()])

"""Lays sprites over a frame and tells which of their pixels stay visible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.ground import VEGETATION
from edgevision.synthetic.sprites import Sprite

_HALF_COVERED = 127


@dataclass(frozen=True)
class Visible:
    """An object in a frame: its visible pixels as a mask (255 or 0) placed at (x, y).

    ``full_area`` is what it would cover in pixels if nothing hid it and the picture had no end.
    """

    class_id: int
    x: int
    y: int
    mask: NDArray[np.uint8]
    full_area: float


@dataclass(frozen=True)
class Places:
    """Where n sprites go in a picture.

    Attributes:
        matrix: (n, 2, 3) from sprite pixels to pixels of the patch.
        rect: the patches in the picture, [x0, y0, x1, y1]; empty where x1 <= x0 or y1 <= y0.
    """

    matrix: NDArray[np.float64]
    rect: list[list[int]]


def places(
    linear: NDArray[np.float64],
    centre: NDArray[np.float64],
    pictures: Sequence[NDArray[np.uint8]],
    size_wh: tuple[int, int],
) -> Places:
    """Place n sprite pictures, mapped by ``linear`` (n, 2, 2), around their ``centre`` (n, 2)."""
    sprite_wh = np.array([picture.shape[1::-1] for picture in pictures], np.float64)
    half = (np.abs(linear) @ (sprite_wh / 2)[..., None])[..., 0]
    low = np.maximum(np.trunc(centre - half), 0)
    high = np.minimum(np.trunc(centre + half) + 2, size_wh)
    start = centre - low - (linear @ ((sprite_wh - 1) / 2)[..., None])[..., 0]
    matrix = np.concatenate([linear, start[..., None]], axis=2)
    return Places(matrix, np.concatenate([low, high], axis=1).astype(np.int64).tolist())


def lay_shadow(
    image: NDArray[np.uint8],
    sprite: Sprite,
    matrix: NDArray[np.float64],
    rect: list[int],
) -> None:
    """Darken ``image`` where the sprite's shadow falls."""
    x0, y0, x1, y1 = rect
    if x1 > x0 and y1 > y0:
        shadow = cv2.warpAffine(sprite.shadow, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        _dim(image[y0:y1, x0:x1], shadow)


def lay_body(
    image: NDArray[np.uint8],
    sprite: Sprite,
    matrix: NDArray[np.float64],
    rect: list[int],
    labels: NDArray[np.uint8],
    from_world: NDArray[np.float64],
) -> NDArray[np.uint8] | None:
    """Lay the sprite over ``image``, but under the vegetation of ``labels``.

    ``from_world`` maps pixels of ``labels`` to pixels of ``image``. Returns the mask of the pixels
    covered by at least half, or None for a sprite outside the picture.
    """
    x0, y0, x1, y1 = rect
    if x1 <= x0 or y1 <= y0:
        return None
    size = (x1 - x0, y1 - y0)
    patch = cv2.warpAffine(sprite.bgra, matrix, size, flags=cv2.INTER_LINEAR)
    local = from_world - [[0, 0, x0], [0, 0, y0]]
    below = cv2.warpAffine(labels, local, size, flags=cv2.INTER_NEAREST)
    # numpy compares, because cv2.compare takes a patch of 4x1 pixels for a scalar.
    clear = (below != VEGETATION).view(np.uint8)
    if cv2.countNonZero(clear) < clear.size:
        patch = cv2.bitwise_and(patch, patch, mask=clear)
    alpha = cv2.extractChannel(patch, 3)
    target = image[y0:y1, x0:x1]
    _dim(target, alpha)
    cv2.add(target, cv2.cvtColor(patch, cv2.COLOR_BGRA2BGR), target)
    return np.asarray(cv2.threshold(alpha, _HALF_COVERED, 255, cv2.THRESH_BINARY)[1], np.uint8)


def _dim(target: NDArray[np.uint8], cover: NDArray[np.uint8]) -> None:
    keep = cv2.cvtColor(cv2.bitwise_not(cover), cv2.COLOR_GRAY2BGR)
    cv2.multiply(target, keep, target, 1 / 255)


def hide_overlaps(objects: Sequence[Visible]) -> None:
    """Take from every mask, in place, what later objects cover."""
    for k, under in enumerate(objects):
        h, w = under.mask.shape
        for over in objects[k + 1 :]:
            over_h, over_w = over.mask.shape
            x0, x1 = max(under.x, over.x), min(under.x + w, over.x + over_w)
            y0, y1 = max(under.y, over.y), min(under.y + h, over.y + over_h)
            if x0 < x1 and y0 < y1:
                covered = over.mask[y0 - over.y : y1 - over.y, x0 - over.x : x1 - over.x]
                part = under.mask[y0 - under.y : y1 - under.y, x0 - under.x : x1 - under.x]
                part[covered > 0] = 0

"""The canvas a world is painted on: picture, labels, shadows and what is taken where."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.layout import WORLD, Points
from edgevision.synthetic.palette import Colour, Palette
from edgevision.synthetic.textures import Textures

GROUND, ROAD, BUILDING, VEGETATION = range(4)
"""Labels of the terrain: the first four of SEGMENTATION_CLASSES."""

_CELL = 8  # ground units per entry of the occupancy grid
_SUB = 4  # fractional bits of cv2's sub-pixel coordinates
_STRIP = 512


def fixed(points: Points | Sequence[Sequence[float]], scale: float = 1.0) -> NDArray[np.int32]:
    """Points as cv2 drawing functions take them with ``shift=4``, in pixels whose centres are whole."""
    return np.asarray(np.round(np.asarray(points, np.float64) * (scale * 2**_SUB)), np.int32)


def rectangle(centre: Points | Sequence[float], size: Sequence[float], angle: float) -> NDArray[np.float64]:
    """Corners (4, 2) of a rotated rectangle."""
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.asarray(size) / 2
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(half @ np.array([[c, s], [-s, c]]) + np.asarray(centre))


class Ground:
    """A world being painted.

    Attributes:
        image: (WORLD, WORLD, 3) uint8 BGR, one pixel per ground unit.
        labels: (WORLD, WORLD) uint8, terrain classes.
    """

    def __init__(self, rng: np.random.Generator, palette: Palette) -> None:
        self.rng = rng
        self.palette = palette
        self.textures = Textures(rng)
        self.image = np.empty((WORLD, WORLD, 3), np.uint8)
        self.labels = np.zeros((WORLD, WORLD), np.uint8)
        self._shade = np.zeros((WORLD // 2, WORLD // 2), np.uint8)
        self._taken = np.zeros((WORLD // _CELL, WORLD // _CELL), np.uint8)

    # What is taken where.

    def is_free(self, centre: Sequence[float], half_wh: Sequence[float]) -> bool:
        """Whether the rectangle lies in the world and touches nothing placed so far."""
        x0, y0, x1, y1 = self._span(centre, half_wh)
        inside = min(x0, y0) >= 0 and max(x1, y1) <= len(self._taken)
        return inside and not self._taken[y0:y1, x0:x1].any()

    def take(self, centre: Sequence[float], half_wh: Sequence[float]) -> None:
        x0, y0, x1, y1 = np.clip(self._span(centre, half_wh), 0, len(self._taken))
        self._taken[y0:y1, x0:x1] = 1

    def take_polygon(self, points: Points) -> None:
        cv2.fillPoly(self._taken, [fixed(points, 1 / _CELL)], 1, shift=_SUB)

    def are_free(self, points: Points) -> bool:
        """Whether all points lie in the world on ground where nothing was placed."""
        cells = np.floor(points / _CELL).astype(int)
        if cells.min() < 0 or cells.max() >= len(self._taken):
            return False
        return not self._taken[cells[:, 1], cells[:, 0]].any()

    @staticmethod
    def _span(centre: Sequence[float], half_wh: Sequence[float]) -> tuple[int, int, int, int]:
        (x, y), (w, h) = centre, half_wh
        return (
            int((x - w) // _CELL),
            int((y - h) // _CELL),
            int(-(-(x + w) // _CELL)),
            int(-(-(y + h) // _CELL)),
        )

    # Painting.

    def rect(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
        """The part of a rectangle inside the world, to index image and labels."""
        ax, ay, bx, by = (int(np.clip(round(v), 0, WORLD)) for v in (x0, y0, x1, y1))
        return slice(ay, max(ay, by)), slice(ax, max(ax, bx))

    def surface(
        self,
        points: Points,
        ramp: NDArray[np.uint8],
        cloudiness: float = 0.5,
        label: int = GROUND,
        width: float | None = None,
    ) -> None:
        """Fill a polygon, or a band of ``width`` along a line, with a material."""
        margin = (width or 0) / 2 + 2
        low, high = points.min(0) - margin, points.max(0) + margin
        rows, columns = self.rect(low[0], low[1], high[0], high[1])
        target = self.image[rows, columns]
        if target.size == 0:
            return
        mask = np.zeros(target.shape[:2], np.uint8)
        local = fixed(points - [columns.start, rows.start])
        if width is None:
            cv2.fillPoly(mask, [local], 255, shift=_SUB)
        else:
            cv2.polylines(mask, [local], False, 255, round(width), cv2.LINE_8, _SUB)
        self.textures.fill(self.rng, target, ramp, cloudiness, mask)
        self.labels[rows, columns][mask > 0] = label

    def polygon(self, points: Points, colour: Colour, label: int | None = None) -> None:
        cv2.fillPoly(self.image, [fixed(points)], colour, cv2.LINE_AA, _SUB)
        if label is not None:
            cv2.fillPoly(self.labels, [fixed(points)], label, cv2.LINE_8, _SUB)

    def line(self, points: Points, colour: Colour, width: float = 1, closed: bool = False) -> None:
        thickness = max(1, round(width))
        cv2.polylines(self.image, [fixed(points)], closed, colour, thickness, cv2.LINE_AA, _SUB)

    def cast_shadow(self, points: Points, height: float) -> None:
        """Shadow of a prism over ``points``."""
        offset = np.asarray(self.palette.sun) * height
        hull = cv2.convexHull(np.concatenate([points, points + offset]).astype(np.float32))
        cv2.fillPoly(self._shade, [fixed(hull[:, 0], 0.5)], 255, cv2.LINE_AA, _SUB)

    def stain(self, points: Points, width: float, strength: int) -> None:
        """Darken a band along a line, as traffic does; ``strength`` 0..255 like a shadow's."""
        cv2.polylines(self._shade, [fixed(points, 0.5)], False, strength, round(width / 2), cv2.LINE_AA, _SUB)

    def apply_shadows(self, softness: float) -> None:
        """Darken the picture by all shadows and stains so far and begin anew."""
        blurred = cv2.GaussianBlur(self._shade, (0, 0), softness / 2)
        light = cv2.subtract(255, cv2.convertScaleAbs(blurred, alpha=self.palette.shadow))
        for y in range(0, WORLD, _STRIP):
            strip = self.image[y : y + _STRIP]
            part = cv2.resize(light[y // 2 : (y + _STRIP) // 2], (WORLD, _STRIP))
            cv2.multiply(strip, cv2.cvtColor(part, cv2.COLOR_GRAY2BGR), strip, 1 / 255)
        self._shade[:] = 0

    def stamp(self, bgra: NDArray[np.uint8], centre: Sequence[float], label: int) -> None:
        """Lay a premultiplied BGRA picture over the world; its opaque half gets the label."""
        h, w = bgra.shape[:2]
        x, y = round(centre[0] - w / 2), round(centre[1] - h / 2)
        rows, columns = self.rect(x, y, x + w, y + h)
        part = bgra[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
        if part.size == 0:
            return
        target = self.image[rows, columns]
        alpha = cv2.extractChannel(part, 3)
        keep = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2BGR)
        cv2.multiply(target, keep, target, 1 / 255)
        cv2.add(target, cv2.cvtColor(part, cv2.COLOR_BGRA2BGR), target)
        self.labels[rows, columns][alpha >= 128] = label

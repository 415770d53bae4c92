"""Sprites: small pictures with coverage, drawn once and warped into frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.palette import Colour

_SS = 3.0  # canvas pixels per ground unit
_SUB = 4


@dataclass(frozen=True)
class Sprite:
    """A premultiplied BGRA picture of an object and the soft shadow that it casts.

    Attributes:
        bgra: (h, w, 4) uint8; the object looks along +x, its centre is the picture's.
        shadow: (h', w') uint8, how much light it takes away; same centre and orientation.
        resolution: pixels per ground unit along x and y.
        area: ground units squared that the object covers.
        height: ground units; how far the shadow moves away from the sun.
    """

    bgra: NDArray[np.uint8]
    shadow: NDArray[np.uint8]
    resolution: tuple[float, float]
    area: float
    height: float


@dataclass(frozen=True)
class Actor:
    """One object of a world; ``sprites`` holds the phases of its walk, or a single picture."""

    class_id: int
    sprites: tuple[Sprite, ...]


class Canvas:
    """Draws in ground units around the object's centre: x ahead, y to the right."""

    def __init__(self, length: float, width: float) -> None:
        self._size = (int(np.ceil(length * _SS)) + 8, int(np.ceil(width * _SS)) + 8)
        self.image = np.zeros((self._size[1], self._size[0], 4), np.uint8)

    def _points(self, points: Sequence[Sequence[float]] | NDArray[np.float64]) -> NDArray[np.int32]:
        middle = (np.asarray(self._size) - 1) / 2
        pixels = np.asarray(points, np.float64) * _SS + middle
        return np.asarray(np.round(pixels * 2**_SUB), np.int32)

    def polygon(self, points: Sequence[Sequence[float]] | NDArray[np.float64], colour: Colour) -> None:
        fill = (*colour, 255)
        cv2.fillPoly(self.image, [self._points(points)], fill, cv2.LINE_AA, _SUB)

    def line(
        self,
        points: Sequence[Sequence[float]] | NDArray[np.float64],
        colour: Colour,
        width: float = 1,
        closed: bool = False,
    ) -> None:
        stroke = (*colour, 255)
        thickness = max(1, round(width * _SS))
        cv2.polylines(self.image, [self._points(points)], closed, stroke, thickness, cv2.LINE_AA, _SUB)

    def ellipse(self, centre: Sequence[float], radii: Sequence[float], colour: Colour, angle: float = 0) -> None:
        around = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        c, s = np.cos(angle), np.sin(angle)
        ring = np.stack([np.cos(around) * radii[0], np.sin(around) * radii[1]], 1)
        self.polygon(ring @ np.array([[c, s], [-s, c]]) + np.asarray(centre), colour)

    def modulate(self, light: NDArray[np.float64] | NDArray[np.float32]) -> None:
        """Multiply the colours by a picture of gains, stretched over the canvas."""
        gain = cv2.resize(np.asarray(light * 128, np.float32), self._size).astype(np.uint8)
        cover = cv2.extractChannel(self.image, 3)
        gains = cv2.merge([gain, gain, gain, np.full_like(gain, 128)])
        shaded = cv2.multiply(self.image, gains, scale=1 / 128)
        self.image = np.asarray(cv2.min(shaded, cv2.merge([cover] * 4)))

    def finish(self, resolution: float, height: float, shadow: float, softness: float) -> Sprite:
        """Shrink to the resolution asked for and derive the shadow (``shadow`` is its opacity)."""
        ratio = resolution / _SS
        size = [max(1, round(side * ratio)) for side in self._size]
        bgra = np.asarray(cv2.resize(self.image, size, interpolation=cv2.INTER_AREA))
        across, down = size[0] / self._size[0] * _SS, size[1] / self._size[1] * _SS
        margin = int(np.ceil(softness * resolution * 2.5)) + 1
        cover = cv2.copyMakeBorder(
            cv2.extractChannel(bgra, 3), margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0
        )
        soft = cv2.GaussianBlur(cover, (0, 0), max(0.3, softness * resolution))
        dark = np.asarray(cv2.convertScaleAbs(soft, alpha=shadow))
        area = float(np.count_nonzero(self.image[..., 3] >= 128)) / _SS**2
        return Sprite(bgra, dark, (across, down), area, height)


def rounded(length: float, width: float, front: float, rear: float, taper: float = 0.0) -> NDArray[np.float64]:
    """Outline of a body with rounded corners of radii ``front`` and ``rear``; the nose tapers."""
    x, y = length / 2, width / 2
    corners = [
        (x - front, y - front, front, 0.0),
        (-x + rear, y - rear, rear, np.pi / 2),
        (-x + rear, -y + rear, rear, np.pi),
        (x - front, -y + front, front, 1.5 * np.pi),
    ]
    outline = []
    for cx, cy, radius, start in corners:
        angle = start + np.linspace(0, np.pi / 2, 9)
        outline.append(np.stack([cx + radius * np.cos(angle), cy + radius * np.sin(angle)], 1))
    points = np.concatenate(outline)
    points[:, 1] *= 1 - taper * np.clip(points[:, 0] / x, 0, 1) ** 2
    return points

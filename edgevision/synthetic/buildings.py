"""Roofs: flat ones with parapets and plant, gabled and hipped ones with tiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.ground import BUILDING, Ground, rectangle
from edgevision.synthetic.layout import Points
from edgevision.synthetic.palette import Colour, lit, pick


class Building:
    """A rectangular building; ``paint`` is called after all shadows on the ground are applied.

    A flat roof that is ``plain`` stays clear, for a landing pad.
    """

    def __init__(
        self,
        ground: Ground,
        centre: Points,
        size: tuple[float, float],
        angle: float,
        flat: bool,
        plain: bool = False,
    ) -> None:
        self._ground = ground
        self._centre = centre
        self._size = size if size[0] >= size[1] else (size[1], size[0])
        self._angle = angle if size[0] >= size[1] else angle + np.pi / 2
        self._flat = flat
        self._plain = plain
        self.height = float(ground.rng.uniform(50, 120) if flat else ground.rng.uniform(30, 48))
        ground.cast_shadow(self._outline(), self.height)

    def _outline(self) -> Points:
        return rectangle(self._centre, self._size, self._angle)

    def _to_world(self, local: object) -> Points:
        c, s = np.cos(self._angle), np.sin(self._angle)
        turned = np.asarray(local, np.float64) @ np.array([[c, s], [-s, c]])
        return np.asarray(turned + self._centre)

    def paint(self) -> None:
        ground = self._ground
        palette = ground.palette
        base = pick(ground.rng, palette.roofs)
        if palette.season == "snow" and ground.rng.random() < 0.7:
            base = (214, 208, 204)
        colour = lit(base, float(ground.rng.uniform(0.85, 1.12)))
        if self._flat:
            self._paint_flat(colour)
        else:
            self._paint_pitched(colour, hipped=ground.rng.random() < 0.4)

    def _paint_pitched(self, colour: Colour, hipped: bool) -> None:
        ground, (length, width) = self._ground, self._size
        x, y = length / 2, width / 2
        ridge = x - y if hipped else x
        ends = [(-ridge, 0.0), (ridge, 0.0)]
        faces: list[tuple[list[tuple[float, float]], tuple[float, float]]] = [
            ([(-x, -y), (x, -y), ends[1], ends[0]], (0.0, -1.0)),
            ([(-x, y), (x, y), ends[1], ends[0]], (0.0, 1.0)),
        ]
        if hipped:
            faces += [
                ([(-x, -y), ends[0], (-x, y)], (-1.0, 0.0)),
                ([(x, -y), ends[1], (x, y)], (1.0, 0.0)),
            ]
        ground.polygon(self._outline(), colour, BUILDING)
        sun = np.asarray(ground.palette.sun)
        for face, normal in faces:
            facing = -float((self._to_world(normal) - self._centre) @ sun)
            self._ground.polygon(self._to_world(face), lit(colour, 1 + 0.32 * facing))
        for row in np.arange(6.0, y, 7.0):
            for side in (-1, 1):
                span = x - (x - ridge) * (1 - row / y) if hipped else x
                tiles = self._to_world([(-span, side * row), (span, side * row)])
                ground.line(tiles, lit(colour, 0.86))
        ground.line(self._to_world(ends), lit(colour, 1.22), 3)
        ground.line(self._outline(), lit(colour, 0.7), 2, closed=True)
        if ground.rng.random() < 0.6:
            self._box(self._spot(0.6, 0.25), (14, 14), (70, 84, 120), 16)
        if ground.rng.random() < 0.3:
            self._panels()

    def _paint_flat(self, colour: Colour) -> None:
        ground, (length, width) = self._ground, self._size
        rng = ground.rng
        ground.polygon(self._outline(), lit(colour, 1.18), BUILDING)
        inner = rectangle(self._centre, (length - 12, width - 12), self._angle)
        ground.polygon(inner, lit(colour, 0.72))
        # The parapet's shadow falls inwards on the sunny sides.
        floor = inner + np.clip(np.asarray(ground.palette.sun) * 7, -5, 5)
        low, high = inner.min(0), inner.max(0)
        ground.polygon(np.clip(floor, low, high) if self._angle == 0 else inner, colour)
        for _ in range(int(rng.integers(1, 4))):  # seams of the roofing felt
            at = rng.uniform(-0.4, 0.4) * length
            seam = self._to_world([(at, -width / 2 + 8), (at, width / 2 - 8)])
            ground.line(seam, lit(colour, 0.9))
        if self._plain:
            return
        for _ in range(int(rng.integers(1, int(3 + length * width / 12000)))):
            size = (float(rng.uniform(14, 40)), float(rng.uniform(14, 30)))
            self._box(self._spot(0.72, 0.62), size, (168, 170, 172), 10)
        if rng.random() < 0.35:
            self._panels()

    def _spot(self, along: float, across: float) -> tuple[float, float]:
        u, v = self._ground.rng.uniform(-0.5, 0.5, 2)
        return float(u * along * self._size[0]), float(v * across * self._size[1])

    def _box(self, at: tuple[float, float], size: tuple[float, float], colour: Colour, height: float) -> None:
        """A chimney or an air handler, with its shadow on the roof."""
        ground = self._ground
        centre = self._to_world(at)
        box = rectangle(centre, size, self._angle)
        shadow: NDArray[np.float64] = box + np.asarray(ground.palette.sun) * height
        ground.polygon(shadow, (52, 50, 50))
        ground.polygon(box, colour)
        lid = rectangle(centre, (size[0] * 0.6, size[1] * 0.6), self._angle)
        ground.polygon(lid, lit(colour, 0.78))

    def _panels(self) -> None:
        length, width = self._size
        columns, rows = max(1, int(length * 0.3 / 22)), 2
        for i in range(columns):
            for j in range(rows):
                at = (-length * 0.3 + i * 24, width * 0.12 + j * 15 - (0 if width > 90 else 6))
                panel = rectangle(self._to_world(at), (22, 13), self._angle)
                if abs(at[1]) + 8 < width / 2:
                    self._ground.polygon(panel, (96, 52, 30))
                    self._ground.line(panel, (150, 130, 120), 1, closed=True)

"""What the cells between the roads are made of: open places, pads, houses, rows of trees."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.buildings import Building
from edgevision.synthetic.ground import Ground
from edgevision.synthetic.layout import WORLD, Cell, Points
from edgevision.synthetic.palette import tone
from edgevision.synthetic.vegetation import Nursery

PAD_SITE = 190.0


@dataclass
class Spots:
    """Places that the terrain leaves for objects.

    Attributes:
        cars, trucks, pads: (x, y, angle) each; a pad has a square of side PAD_SITE for itself.
        walks: open rectangles (x0, y0, x1, y1) in which people walk.
    """

    cars: list[tuple[float, float, float]] = field(default_factory=list)
    trucks: list[tuple[float, float, float]] = field(default_factory=list)
    pads: list[tuple[float, float, float]] = field(default_factory=list)
    walks: list[tuple[float, float, float, float]] = field(default_factory=list)


class Plots:
    """Fills cells piece by piece. Buildings and trees are only planned here, so that all shadows
    can fall on the ground before anything that stands on it is painted."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.rng = ground.rng
        self.nursery = Nursery(ground)
        self.buildings: list[Building] = []
        self.spots = Spots()

    def place(self, cell: Cell, half_wh: tuple[float, float], tries: int = 12) -> Points | None:
        """A free random place in the cell, now taken; None where none was found."""
        w, h = half_wh
        low = np.maximum([cell.x0 + w, cell.y0 + h], [w, h])
        high = np.minimum([cell.x1 - w, cell.y1 - h], [WORLD - w, WORLD - h])
        if (low >= high).any():
            return None
        for _ in range(tries):
            at = self.rng.uniform(low, high)
            if self.ground.is_free((at[0], at[1]), half_wh):
                self.ground.take((at[0], at[1]), half_wh)
                return at
        return None

    def pads(self, cell: Cell, count: int) -> None:
        for _ in range(count):
            at = self.place(cell, (PAD_SITE / 2, PAD_SITE / 2))
            if at is not None:
                self.spots.pads.append((float(at[0]), float(at[1]), self.rng.uniform(0, 6.28)))

    def trees(self, cell: Cell, per_area: float, low: float = 30, high: float = 95) -> None:
        """Scatter crowns, ``per_area`` for each 300x300 units."""
        w, h = cell.size_wh
        for _ in range(self.rng.poisson(per_area * w * h / 9e4)):
            at = self.place(cell, (18, 18), 4)
            if at is not None:
                self.nursery.plant(at, low, high)

    def building(
        self,
        at: Points,
        size: tuple[float, float],
        angle: float,
        flat: bool,
        plain: bool = False,
    ) -> None:
        half = (size[0] / 2 + 8, size[1] / 2 + 8)
        if self.ground.is_free((at[0], at[1]), half):
            self.ground.take((at[0], at[1]), half)
            self.buildings.append(Building(self.ground, at, size, angle, flat, plain))

    def street_trees(self, cell: Cell) -> None:
        """A row of small crowns along some sides of the cell."""
        gap = float(self.rng.uniform(130, 260))
        for x in np.arange(cell.x0 + 40, cell.x1 - 20, gap):
            for y in (cell.y0 + 6, cell.y1 - 6):
                if self.rng.random() < 0.55:
                    self.nursery.plant(np.array([x, y]), 16, 46)

    def rows(self, low: float, high: float, size: tuple[float, float], gap: float) -> list[float]:
        """Split low..high into pieces of random size with gaps; returns start, stop, start, ..."""
        edges: list[float] = []
        at = low
        while True:
            piece = float(self.rng.uniform(*size))
            if at + piece > high:
                return edges
            edges += [at, at + piece]
            at += piece + gap

    def hedge(self, cell: Cell) -> None:
        """Bushes in line, across the cell."""
        if cell.size_wh[0] < 80:
            return
        x = float(self.rng.uniform(cell.x0 + 40, cell.x1 - 40))
        for y in np.arange(cell.y0 + 20, cell.y1 - 20, 26.0):
            if self.ground.is_free((x, y), (14, 14)) and self.rng.random() < 0.85:
                self.ground.take((x, y), (14, 14))
                self.nursery.plant(np.array([x + self.rng.normal(0, 2), y]), 16, 28)

    def furrows(self, cell: Cell, ramp: NDArray[np.uint8]) -> None:
        colour = tone(ramp, 100)
        step = float(self.rng.uniform(12, 26))
        if self.rng.random() < 0.5:
            lines = [[(x, cell.y0), (x, cell.y1)] for x in np.arange(cell.x0, cell.x1, step)]
        else:
            lines = [[(cell.x0, y), (cell.x1, y)] for y in np.arange(cell.y0, cell.y1, step)]
        for line in lines:
            self.ground.line(np.array(line), colour, 3)

    def fill(self, cell: Cell, ramp: NDArray[np.uint8], cloudiness: float = 0.6) -> None:
        rows, columns = self.ground.rect(cell.x0, cell.y0, cell.x1, cell.y1)
        self.ground.textures.fill(self.rng, self.ground.image[rows, columns], ramp, cloudiness)

    def open(self, cell: Cell) -> None:
        self.spots.walks.append((cell.x0, cell.y0, cell.x1, cell.y1))

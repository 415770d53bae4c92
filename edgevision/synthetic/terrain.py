"""Builds a world: what fills the cells between the roads, and where objects may stand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.buildings import Building
from edgevision.synthetic.ground import ROAD, Ground, rectangle
from edgevision.synthetic.layout import WORLD, Cell, Plan, Points
from edgevision.synthetic.roads import paint_roads
from edgevision.synthetic.vegetation import Nursery


@dataclass
class Spots:
    """Places that the terrain leaves for objects: (x, y, angle) each."""

    cars: list[tuple[float, float, float]] = field(default_factory=list)
    trucks: list[tuple[float, float, float]] = field(default_factory=list)
    pads: list[tuple[float, float, float]] = field(default_factory=list)
    """Reserved squares of side PAD_SITE."""
    walks: list[tuple[float, float, float, float]] = field(default_factory=list)
    """Open rectangles (x0, y0, x1, y1) in which people walk."""


PAD_SITE = 190.0


@dataclass(frozen=True)
class Terrain:
    """A finished world: image (WORLD, WORLD, 3) BGR and labels (WORLD, WORLD), both uint8."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    spots: Spots
    ground: Ground


class _Builder:
    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.rng = ground.rng
        self.nursery = Nursery(ground)
        self.buildings: list[Building] = []
        self.spots = Spots()

    # Pieces that several kinds of cells are made of.

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
        edges = []
        at = low
        while True:
            piece = float(self.rng.uniform(*size))
            if at + piece > high:
                return edges
            edges += [at, at + piece]
            at += piece + gap

    def hedge(self, cell: Cell) -> None:
        """Bushes in line, across the cell."""
        x = float(self.rng.uniform(cell.x0 + 40, cell.x1 - 40))
        for y in np.arange(cell.y0 + 20, cell.y1 - 20, 26.0):
            if self.ground.is_free((x, y), (14, 14)) and self.rng.random() < 0.85:
                self.ground.take((x, y), (14, 14))
                self.nursery.plant(np.array([x + self.rng.normal(0, 2), y]), 16, 28)

    # Kinds of cells.

    def town(self, cell: Cell) -> None:
        self.fill(cell, self.ground.palette.pavement, 0.4)
        self.street_trees(cell)
        ys = self.rows(cell.y0 + 26, cell.y1 - 26, (130, 250), 44)
        pads = int(self.rng.random() < 0.8)
        for y0, y1 in zip(ys[::2], ys[1::2], strict=True):
            xs = self.rows(cell.x0 + 26, cell.x1 - 26, (130, 300), 32)
            for x0, x1 in zip(xs[::2], xs[1::2], strict=True):
                at = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
                size = (x1 - x0, y1 - y0)
                if pads and min(size) > PAD_SITE:
                    # On a roof, or on a plot that is left open.
                    pads -= 1
                    self.spots.pads.append((float(at[0]), float(at[1]), self.rng.uniform(0, 6.28)))
                    if self.rng.random() < 0.5:
                        self.building(at, size, 0, flat=True, plain=True)
                    else:
                        self.ground.take((at[0], at[1]), (PAD_SITE / 2, PAD_SITE / 2))
                elif self.rng.random() < 0.8:
                    self.building(at, size, 0, self.rng.random() < 0.75)
        self.trees(cell, 1.6, 16, 50)
        self.open(cell)

    def houses(self, cell: Cell) -> None:
        self.fill(cell, self.ground.palette.grass)
        self.pads(cell, int(self.rng.random() < 0.6))
        for _ in range(int(cell.size_wh[0] * cell.size_wh[1] / 40000)):
            size = (float(self.rng.uniform(110, 190)), float(self.rng.uniform(80, 120)))
            if self.rng.random() < 0.5:
                size = (size[1], size[0])
            reach = (size[0] / 2 + 14, size[1] / 2 + 14)
            at = self.place(cell, reach, 8)
            if at is None:
                continue
            self.buildings.append(Building(self.ground, at, size, 0, self.rng.random() < 0.12))
            if self.rng.random() < 0.6:
                drive = at + [size[0] / 2 + 50, self.rng.uniform(-20, 20)]
                half = (40.0, 66.0)
                if self.ground.is_free((drive[0], drive[1]), half):
                    self.ground.take((drive[0], drive[1]), half)
                    slab = rectangle(drive, (70, 126), 0)
                    self.ground.surface(slab, self.ground.palette.pavement, 0.3)
                    self.spots.cars.append((float(drive[0]), float(drive[1]), np.pi / 2))
        self.hedge(cell)
        self.trees(cell, 2.6, 16, 70)
        self.open(cell)

    def park(self, cell: Cell) -> None:
        self.fill(cell, self.ground.palette.grass, 0.7)
        x = np.linspace(cell.x0, cell.x1, 40)
        for _ in range(2):
            middle, swing = self.rng.uniform(cell.y0, cell.y1), self.rng.uniform(20, 140)
            y = middle + swing * np.sin(x / self.rng.uniform(70, 180) + self.rng.uniform(0, 6))
            path = np.stack([x, np.clip(y, cell.y0, cell.y1)], 1)
            self.ground.surface(path, self.ground.palette.track, 0.3, width=34)
        self.pads(cell, int(self.rng.random() < 0.85))
        self.trees(cell, 2.4)
        self.open(cell)

    def plaza(self, cell: Cell) -> None:
        self.fill(cell, self.ground.palette.pavement, 0.3)
        joint = self.ground.palette.pavement[96, 0]
        colour = (int(joint[0]), int(joint[1]), int(joint[2]))
        step = float(self.rng.choice([40, 56, 72]))
        for x in np.arange(cell.x0, cell.x1, step):
            self.ground.line(np.array([[x, cell.y0], [x, cell.y1]]), colour)
        for y in np.arange(cell.y0, cell.y1, step):
            self.ground.line(np.array([[cell.x0, y], [cell.x1, y]]), colour)
        self.pads(cell, int(self.rng.integers(1, 3)))
        self.street_trees(cell)
        self.trees(cell, 1.2, 16, 55)
        self.open(cell)

    def parking(self, cell: Cell) -> None:
        self.fill(cell, self.ground.palette.pavement, 0.4)
        self.pads(cell, int(self.rng.random() < 0.6))
        width, height = cell.size_wh
        stall, aisle = 72.0, 120.0
        inner = (cell.x0 + 50, cell.y0 + 50, cell.x1 - 50, cell.y1 - 50)
        share = float(self.rng.uniform(0.6, 1.0))
        rows, columns = self.ground.rect(*inner)
        lot = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
        bottom = inner[1] + share * (inner[3] - inner[1])
        rows = slice(rows.start, min(rows.stop, int(np.clip(bottom, 0, WORLD))))
        if rows.stop <= rows.start or columns.stop <= columns.start or width < 300:
            self.open(cell)
            return
        asphalt = rectangle(
            (lot[0], (inner[1] + bottom) / 2), (inner[2] - inner[0], bottom - inner[1]), 0
        )
        self.ground.surface(asphalt, self.ground.palette.asphalt, 0.5, ROAD)
        y = inner[1]
        while y + 124 <= bottom:
            for x in np.arange(inner[0] + 10, inner[2] - stall, stall):
                mark = np.array([[x, y + 4], [x, y + 120]])
                self.ground.line(mark, self.ground.palette.marking, 3)
                spot = (float(x + stall / 2), float(y + 62))
                free = self.ground.is_free(spot, (34, 58))
                if free and self.rng.random() < 0.22:
                    turn = np.pi / 2 if self.rng.random() < 0.5 else -np.pi / 2
                    self.spots.cars.append((*spot, turn))
            y += 124 + aisle
        self.ground.take_polygon(asphalt)
        self.trees(cell, 2.0, 16, 60)
        self.open(cell)

    def field(self, cell: Cell) -> None:
        palette = self.ground.palette
        crop = (palette.soil, palette.meadow, palette.grass)[int(self.rng.integers(3))]
        self.fill(cell, crop, 0.75)
        if self.rng.random() < 0.6:
            self.furrows(cell, crop)
        self.pads(cell, int(self.rng.random() < 0.7))
        for _ in range(int(self.rng.integers(0, 3))):
            at = self.place(cell, (90, 90), 4)
            if at is not None:
                size = (float(self.rng.uniform(90, 160)), float(self.rng.uniform(70, 100)))
                angle = self.rng.uniform(0, 3)
                self.buildings.append(Building(self.ground, at, size, angle, False))
        self.trees(cell, float(self.rng.choice([0.3, 1.0, 3.0])))
        self.open(cell)

    def yard(self, cell: Cell) -> None:
        self.fill(cell, self.ground.palette.track, 0.5)
        self.pads(cell, int(self.rng.random() < 0.7))
        for _ in range(3):
            size = (float(self.rng.uniform(200, 340)), float(self.rng.uniform(150, 240)))
            at = self.place(cell, (size[0] / 2 + 20, size[1] / 2 + 20))
            if at is not None:
                self.buildings.append(Building(self.ground, at, size, 0, self.rng.random() < 0.8))
        for _ in range(int(self.rng.integers(2, 6))):
            at = self.place(cell, (40, 104))
            if at is not None:
                self.spots.trucks.append((float(at[0]), float(at[1]), np.pi / 2))
        self.trees(cell, 0.5)
        self.open(cell)

    def furrows(self, cell: Cell, ramp: NDArray[np.uint8]) -> None:
        dark = ramp[100, 0]
        colour = (int(dark[0]), int(dark[1]), int(dark[2]))
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


def build_terrain(ground: Ground, plan: Plan) -> Terrain:
    """Paint a whole world."""
    rng, palette = ground.rng, ground.palette
    base = palette.meadow if palette.urban < 0.5 else palette.grass
    ground.textures.fill(rng, ground.image, base)
    paint = _Builder(ground)
    paint_roads(ground, plan)
    kinds = (paint.town, paint.houses, paint.park, paint.plaza, paint.parking, paint.field, paint.yard)
    rural = np.array([0.0, 3.0, 2.0, 0.4, 0.6, 4.0, 1.4])
    city = np.array([5.0, 2.2, 1.6, 0.9, 1.2, 0.0, 1.2])
    weights = city * palette.urban + rural * (1 - palette.urban)
    for cell in plan.cells:
        kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))](cell)
    ground.apply_shadows(float(rng.uniform(2.0, 6.0)))
    for building in paint.buildings:
        building.paint()
    paint.nursery.grow()
    return Terrain(ground.image, ground.labels, paint.spots, ground)

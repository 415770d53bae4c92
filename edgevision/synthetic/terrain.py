"""Builds a world: one kind of land use for each cell between the roads."""

from __future__ import annotations

import numpy as np

from edgevision.synthetic.buildings import Building
from edgevision.synthetic.ground import ROAD, Ground, rectangle
from edgevision.synthetic.layout import WORLD, Cell, Plan
from edgevision.synthetic.palette import tone
from edgevision.synthetic.plots import PAD_SITE, Plots, Spots
from edgevision.synthetic.roads import paint_roads


def _town(plots: Plots, cell: Cell) -> None:
    plots.fill(cell, plots.ground.palette.pavement, 0.4)
    plots.street_trees(cell)
    ys = plots.rows(cell.y0 + 26, cell.y1 - 26, (130, 250), 44)
    pads = int(plots.rng.random() < 0.8)
    for y0, y1 in zip(ys[::2], ys[1::2], strict=True):
        xs = plots.rows(cell.x0 + 26, cell.x1 - 26, (130, 300), 32)
        for x0, x1 in zip(xs[::2], xs[1::2], strict=True):
            at = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
            size = (x1 - x0, y1 - y0)
            if pads and min(size) > PAD_SITE:
                # On a roof, or on a plot that is left open.
                pads -= 1
                plots.spots.pads.append((float(at[0]), float(at[1]), plots.rng.uniform(0, 6.28)))
                if plots.rng.random() < 0.5:
                    plots.building(at, size, 0, flat=True, plain=True)
                else:
                    plots.ground.take((at[0], at[1]), (PAD_SITE / 2, PAD_SITE / 2))
            elif plots.rng.random() < 0.8:
                plots.building(at, size, 0, plots.rng.random() < 0.75)
    plots.trees(cell, 1.6, 16, 50)
    plots.open(cell)


def _houses(plots: Plots, cell: Cell) -> None:
    plots.fill(cell, plots.ground.palette.grass)
    plots.pads(cell, int(plots.rng.random() < 0.6))
    for _ in range(int(cell.size_wh[0] * cell.size_wh[1] / 40000)):
        size = (float(plots.rng.uniform(110, 190)), float(plots.rng.uniform(80, 120)))
        if plots.rng.random() < 0.5:
            size = (size[1], size[0])
        reach = (size[0] / 2 + 14, size[1] / 2 + 14)
        at = plots.place(cell, reach, 8)
        if at is None:
            continue
        plots.buildings.append(Building(plots.ground, at, size, 0, plots.rng.random() < 0.12))
        if plots.rng.random() < 0.6:
            drive = at + [size[0] / 2 + 50, plots.rng.uniform(-20, 20)]
            half = (40.0, 66.0)
            if plots.ground.is_free((drive[0], drive[1]), half):
                plots.ground.take((drive[0], drive[1]), half)
                slab = rectangle(drive, (70, 126), 0)
                plots.ground.surface(slab, plots.ground.palette.pavement, 0.3)
                plots.spots.cars.append((float(drive[0]), float(drive[1]), np.pi / 2))
    plots.hedge(cell)
    plots.trees(cell, 2.6, 16, 70)
    plots.open(cell)


def _park(plots: Plots, cell: Cell) -> None:
    plots.fill(cell, plots.ground.palette.grass, 0.7)
    x = np.linspace(cell.x0, cell.x1, 40)
    for _ in range(2):
        middle, swing = plots.rng.uniform(cell.y0, cell.y1), plots.rng.uniform(20, 140)
        y = middle + swing * np.sin(x / plots.rng.uniform(70, 180) + plots.rng.uniform(0, 6))
        path = np.stack([x, np.clip(y, cell.y0, cell.y1)], 1)
        plots.ground.surface(path, plots.ground.palette.track, 0.3, width=34)
    plots.pads(cell, int(plots.rng.random() < 0.85))
    plots.trees(cell, 2.4)
    plots.open(cell)


def _plaza(plots: Plots, cell: Cell) -> None:
    plots.fill(cell, plots.ground.palette.pavement, 0.3)
    colour = tone(plots.ground.palette.pavement, 96)
    step = float(plots.rng.choice([40, 56, 72]))
    for x in np.arange(cell.x0, cell.x1, step):
        plots.ground.line(np.array([[x, cell.y0], [x, cell.y1]]), colour)
    for y in np.arange(cell.y0, cell.y1, step):
        plots.ground.line(np.array([[cell.x0, y], [cell.x1, y]]), colour)
    plots.pads(cell, int(plots.rng.integers(1, 3)))
    plots.street_trees(cell)
    plots.trees(cell, 1.2, 16, 55)
    plots.open(cell)


def _parking(plots: Plots, cell: Cell) -> None:
    plots.fill(cell, plots.ground.palette.pavement, 0.4)
    plots.pads(cell, int(plots.rng.random() < 0.6))
    stall, aisle = 72.0, 120.0
    inner = (cell.x0 + 50, cell.y0 + 50, cell.x1 - 50, cell.y1 - 50)
    share = float(plots.rng.uniform(0.6, 1.0))
    rows, columns = plots.ground.rect(*inner)
    lot = (inner[0] + inner[2]) / 2, (inner[1] + inner[3]) / 2
    bottom = inner[1] + share * (inner[3] - inner[1])
    rows = slice(rows.start, min(rows.stop, int(np.clip(bottom, 0, WORLD))))
    if rows.stop <= rows.start or columns.stop <= columns.start or cell.size_wh[0] < 300:
        plots.open(cell)
        return
    asphalt = rectangle((lot[0], (inner[1] + bottom) / 2), (inner[2] - inner[0], bottom - inner[1]), 0)
    plots.ground.surface(asphalt, plots.ground.palette.asphalt, 0.5, ROAD)
    y = inner[1]
    while y + 124 <= bottom:
        for x in np.arange(inner[0] + 10, inner[2] - stall, stall):
            mark = np.array([[x, y + 4], [x, y + 120]])
            plots.ground.line(mark, plots.ground.palette.marking, 3)
            spot = (float(x + stall / 2), float(y + 62))
            free = plots.ground.is_free(spot, (34, 58))
            if free and plots.rng.random() < 0.22:
                turn = np.pi / 2 if plots.rng.random() < 0.5 else -np.pi / 2
                plots.spots.cars.append((*spot, turn))
        y += 124 + aisle
    plots.ground.take_polygon(asphalt)
    plots.trees(cell, 2.0, 16, 60)
    plots.open(cell)


def _field(plots: Plots, cell: Cell) -> None:
    palette = plots.ground.palette
    crop = (palette.soil, palette.meadow, palette.grass)[int(plots.rng.integers(3))]
    plots.fill(cell, crop, 0.75)
    if plots.rng.random() < 0.6:
        plots.furrows(cell, crop)
    plots.pads(cell, int(plots.rng.random() < 0.7))
    for _ in range(int(plots.rng.integers(0, 3))):
        at = plots.place(cell, (90, 90), 4)
        if at is not None:
            size = (float(plots.rng.uniform(90, 160)), float(plots.rng.uniform(70, 100)))
            angle = plots.rng.uniform(0, 3)
            plots.buildings.append(Building(plots.ground, at, size, angle, False))
    plots.trees(cell, float(plots.rng.choice([0.3, 1.0, 3.0])))
    plots.open(cell)


def _yard(plots: Plots, cell: Cell) -> None:
    plots.fill(cell, plots.ground.palette.track, 0.5)
    plots.pads(cell, int(plots.rng.random() < 0.7))
    for _ in range(3):
        size = (float(plots.rng.uniform(200, 340)), float(plots.rng.uniform(150, 240)))
        at = plots.place(cell, (size[0] / 2 + 20, size[1] / 2 + 20))
        if at is not None:
            plots.buildings.append(Building(plots.ground, at, size, 0, plots.rng.random() < 0.8))
    for _ in range(int(plots.rng.integers(2, 6))):
        at = plots.place(cell, (40, 104))
        if at is not None:
            plots.spots.trucks.append((float(at[0]), float(at[1]), np.pi / 2))
    plots.trees(cell, 0.5)
    plots.open(cell)


# Land use, and how often it is met in the country and in the city.
_LAND_USE = (
    (_town, 0.0, 5.0),
    (_houses, 3.0, 2.2),
    (_park, 2.0, 1.6),
    (_plaza, 0.4, 0.9),
    (_parking, 0.6, 1.2),
    (_field, 4.0, 0.0),
    (_yard, 1.4, 1.2),
)


def build_terrain(ground: Ground, plan: Plan) -> Spots:
    """Paint a whole world onto ``ground``; returns the places it leaves for objects."""
    rng, palette = ground.rng, ground.palette
    base = palette.meadow if palette.urban < 0.5 else palette.grass
    ground.textures.fill(rng, ground.image, base)
    plots = Plots(ground)
    paint_roads(ground, plan)
    weights = np.array([rural * (1 - palette.urban) + city * palette.urban for _, rural, city in _LAND_USE])
    weights /= weights.sum()
    for cell in plan.cells:
        _LAND_USE[int(rng.choice(len(_LAND_USE), p=weights))][0](plots, cell)
    ground.apply_shadows(float(rng.uniform(2.0, 6.0)))
    for building in plots.buildings:
        building.paint()
    plots.nursery.grow()
    return plots.spots

"""The plan of a world: roads, the cells between them, and the lines that things move along.

Ground units are those of a 1280x720 picture at zoom 1; x and y grow right and down on the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

WORLD = 3072
"""Side of the square world, ground units."""
LANE = 64.0
SIDEWALK = 54.0
_BEYOND = 500.0

Points = NDArray[np.float64]
"""(n, 2) ground positions."""


@dataclass(frozen=True)
class Road:
    """A road across the whole world, along x (axis 0) or along y (axis 1)."""

    axis: int
    centre: float
    swing: float
    wavelength: float
    phase: float
    lanes: int
    paved: bool
    sidewalk: float

    @property
    def half_width(self) -> float:
        return self.lanes * LANE + 6

    @property
    def reach(self) -> float:
        """Distance from ``centre`` within which the road and its sidewalks stay."""
        return self.half_width + self.sidewalk + self.swing

    def across(self, along: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Position of the centre line across the axis."""
        angle = 2 * np.pi * np.asarray(along) / self.wavelength + self.phase
        return np.asarray(self.centre + self.swing * np.sin(angle))

    def line(self, along: NDArray[np.float64], lateral: float) -> Points:
        """The line at ``lateral`` to the right of somebody who looks along the axis."""
        angle = 2 * np.pi * along / self.wavelength + self.phase
        slope = self.swing * 2 * np.pi / self.wavelength * np.cos(angle)
        norm = np.hypot(1, slope)
        side = 1 if self.axis == 0 else -1
        u = along - side * lateral * slope / norm
        v = self.across(along) + side * lateral / norm
        return np.stack([u, v] if self.axis == 0 else [v, u], axis=1)


@dataclass(frozen=True)
class Cell:
    """The rectangle between neighbouring roads, without their sidewalks."""

    x0: float
    y0: float
    x1: float
    y1: float
    walks: tuple[float, float, float, float]
    """Width of the sidewalk along the left, top, right and bottom side; 0 where there is none."""

    @property
    def size_wh(self) -> tuple[float, float]:
        return self.x1 - self.x0, self.y1 - self.y0


@dataclass(frozen=True)
class Plan:
    roads: tuple[Road, ...]
    cells: tuple[Cell, ...]

    def crossing(self, road: Road) -> list[tuple[float, Road]]:
        """Where other roads cross this one: (position along its axis, the other road)."""
        found = []
        for other in self.roads:
            if other.axis != road.axis:
                along = other.centre
                for _ in range(20):  # a contraction: both slopes are well below 1
                    along = float(other.across(float(road.across(along))))
                found.append((along, other))
        return sorted(found, key=lambda hit: hit[0])

    def blocks(self, road: Road) -> NDArray[np.float64]:
        """Knots along a road: its junctions, continued evenly beyond both ends of the world."""
        knots = [along for along, _ in self.crossing(road)] or [WORLD / 2]
        while knots[0] > -_BEYOND:
            knots.insert(0, knots[0] - 800)
        while knots[-1] < WORLD + _BEYOND:
            knots.append(knots[-1] + 800)
        return np.asarray(knots)


def _family(rng: np.random.Generator, axis: int, urban: float) -> list[Road]:
    town = urban > 0.5
    if town:
        gaps, chance = (700.0, 980.0), 1.0
    else:
        gaps, chance = (760.0, 1150.0), 0.85 if axis == 0 else 0.35 + urban
    roads = []
    at = rng.uniform(-300, 420)
    paved = rng.random() < 0.45 + urban
    while at < WORLD + 300:
        if rng.random() < chance:
            swing = 0.0 if town else rng.uniform(0, 70)
            roads.append(
                Road(
                    axis=axis,
                    centre=at,
                    swing=swing,
                    wavelength=rng.uniform(1800, 3600),
                    phase=rng.uniform(0, 2 * np.pi),
                    lanes=2 if axis == 0 and town and rng.random() < 0.3 else 1,
                    paved=paved,
                    sidewalk=SIDEWALK if urban > 0.42 else 0.0,
                )
            )
        at += rng.uniform(*gaps)
    return roads


def _bounds(roads: list[Road]) -> list[tuple[float, float, float]]:
    """Cell borders of one family: (centre, reach, sidewalk); wide gaps are split without a road."""
    borders = [(road.centre, road.reach, road.sidewalk) for road in roads]
    filled = [(-_BEYOND, 0.0, 0.0)]
    for border in [*borders, (WORLD + _BEYOND, 0.0, 0.0)]:
        gap = border[0] - filled[-1][0]
        pieces = int(gap // 1150) + 1
        start = filled[-1][0]
        filled += [(start + gap * k / pieces, 6.0, 0.0) for k in range(1, pieces)]
        filled.append(border)
    return filled


def draw_plan(rng: np.random.Generator, urban: float) -> Plan:
    """Draw the roads and cells of a world; ``urban`` runs from 0 (rural) to 1 (city)."""
    along_x, along_y = _family(rng, 0, urban), _family(rng, 1, urban)
    cells = []
    for (xa, xa_reach, xa_walk), (xb, xb_reach, xb_walk) in pairwise(_bounds(along_y)):
        for (ya, ya_reach, ya_walk), (yb, yb_reach, yb_walk) in pairwise(_bounds(along_x)):
            cell = Cell(
                xa + xa_reach,
                ya + ya_reach,
                xb - xb_reach,
                yb - yb_reach,
                (xa_walk, ya_walk, xb_walk, yb_walk),
            )
            if min(cell.size_wh) > 60:
                cells.append(cell)
    return Plan((*along_x, *along_y), tuple(cells))

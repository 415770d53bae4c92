"""Paints roads: sidewalks, asphalt, wear, markings, zebra crossings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.ground import GROUND, ROAD, Ground
from edgevision.synthetic.layout import LANE, WORLD, Plan, Road
from edgevision.synthetic.palette import tone

_END = 60.0
_DASH = (46.0, 58.0)  # painted and bare length of a lane line
_ZEBRA = 30.0


def paint_roads(ground: Ground, plan: Plan) -> None:
    """Paint all roads of a plan and mark their ground as taken."""
    along = np.arange(-_END, WORLD + _END + 1, 24.0)
    for road in plan.roads:
        if road.sidewalk:
            width = 2 * (road.half_width + road.sidewalk)
            ground.surface(road.line(along, 0), ground.palette.pavement, 0.35, GROUND, width)
    for road in plan.roads:
        edge = road.half_width + max(road.sidewalk, 12)
        outline = np.concatenate([road.line(along, -edge), road.line(along, edge)[::-1]])
        ground.take_polygon(outline)
        if road.sidewalk:
            _paint_slabs(ground, road)
    for road in plan.roads:
        ramp = ground.palette.asphalt if road.paved else ground.palette.track
        if road.sidewalk:
            for side in (-1, 1):
                kerb = road.line(along, side * (road.half_width + 2))
                ground.line(kerb, (170, 172, 174), 5)
        ground.surface(road.line(along, 0), ramp, 0.55, ROAD, 2 * road.half_width)
    for road in plan.roads:
        for lateral in _lane_centres(road):
            for track in (-13.0, 13.0):
                ground.stain(road.line(along, lateral + track), 9, 34 if road.paved else 80)
    for road in plan.roads:
        if road.paved:
            _paint_cracks(ground, road)
            _paint_markings(ground, plan, road)


def _lane_centres(road: Road) -> list[float]:
    right = [(k + 0.5) * LANE for k in range(road.lanes)]
    return right + [-lateral for lateral in right]


def _paint_slabs(ground: Ground, road: Road) -> None:
    colour = tone(ground.palette.pavement, 104)
    joints = np.arange(0.0, WORLD, 27.0)
    for side in (-1, 1):
        near = road.line(joints, side * road.half_width)
        far = road.line(joints, side * (road.half_width + road.sidewalk))
        for joint in np.stack([near, far], 1):
            ground.line(joint, colour)


def _paint_cracks(ground: Ground, road: Road) -> None:
    rng = ground.rng
    ramp = ground.palette.asphalt
    for _ in range(int(rng.integers(6, 20))):
        s, lateral = rng.uniform(0, WORLD), rng.uniform(-0.9, 0.9) * road.half_width
        if rng.random() < 0.4:  # a repaired patch
            length, width = rng.uniform(30, 120), rng.uniform(20, 54)
            lateral = float(np.clip(lateral, width - road.half_width, road.half_width - width))
            near = road.line(np.array([s, s + length]), lateral - width / 2)
            far = road.line(np.array([s + length, s]), lateral + width / 2)
            shade = tone(ramp, int(rng.choice([76, 168])))
            ground.polygon(np.concatenate([near, far]), shade)
        else:
            steps = np.cumsum(rng.uniform(4, 14, 8))
            wander = np.clip(lateral + np.cumsum(rng.normal(0, 5, 8)), -road.half_width, road.half_width)
            crack = [road.line(np.array([s + d]), float(w))[0] for d, w in zip(steps, wander, strict=True)]
            ground.line(np.array(crack), tone(ramp, 60))


def _paint_markings(ground: Ground, plan: Plan, road: Road) -> None:
    colour = ground.palette.marking
    crossings = plan.crossing(road)
    margin = _ZEBRA + 30 if road.sidewalk else 16
    gaps = [(s - other.half_width - margin, s + other.half_width + margin) for s, other in crossings]
    starts = [-_END, *(b for _, b in gaps)]
    stops = [*(a for a, _ in gaps), WORLD + _END]
    town = bool(road.sidewalk)
    for start, stop in zip(starts, stops, strict=True):
        if stop - start < 60:
            continue
        span = np.linspace(start, stop, max(2, int((stop - start) / 24)))
        if road.lanes > 1:
            for lateral in (-4.0, 4.0):
                ground.line(road.line(span, lateral), colour, 4)
        elif not town:
            for side in (-1, 1):
                ground.line(road.line(span, side * (road.half_width - 8)), colour, 4)
        dashed = [0.0] if road.lanes == 1 else [-LANE, LANE]
        for s in np.arange(start, stop - _DASH[0], sum(_DASH)):
            for lateral in dashed:
                ground.line(road.line(np.array([s, s + _DASH[0]]), lateral), colour, 5)
        if town:
            for s, side in ((start, -1), (stop, 1)):
                if 0 < s < WORLD:
                    _paint_stop(ground, road, s, side, colour)


def _paint_stop(ground: Ground, road: Road, s: float, side: int, colour: tuple[int, int, int]) -> None:
    """A stop line across the lanes that arrive, and a zebra crossing towards the junction."""
    # Traffic keeps to the right: before the junction (side 1) it arrives on positive laterals.
    line = np.array([6.0, road.half_width - 6]) * side
    ends: list[NDArray[np.float64]] = [road.line(np.array([s]), float(e)) for e in line]
    ground.line(np.concatenate(ends), colour, 8)
    for lateral in np.arange(-road.half_width + 12, road.half_width - 6, 20.0):
        near = s + side * 14
        ground.line(road.line(np.array([near, near + side * _ZEBRA]), float(lateral)), colour, 9)

"""Chooses who is in a world and where they go."""

from __future__ import annotations

import numpy as np

from edgevision.synthetic.ground import Ground
from edgevision.synthetic.layout import LANE, Plan, Points, Road
from edgevision.synthetic.motion import along, arc_length, closed_loop
from edgevision.synthetic.pads import draw_pad
from edgevision.synthetic.people import draw_person
from edgevision.synthetic.plots import Spots
from edgevision.synthetic.sprites import Actor, Sprite
from edgevision.synthetic.vehicles import draw_car, draw_truck

CAR, TRUCK, PERSON, PAD = range(4)
_CAR_KINDS, _TRUCK_KINDS, _WALKERS, _STANDERS = 14, 7, 9, 5


class Wardrobe:
    """The distinct sprites of a world."""

    def __init__(self, rng: np.random.Generator, resolution: float, shadow: float) -> None:
        soft = float(rng.uniform(1.2, 3.0))
        self.cars = []
        self.trucks = []
        self.people = []
        self._rng = rng
        self._finish = (resolution, shadow, soft)
        for _ in range(_CAR_KINDS):
            canvas, length = draw_car(rng)
            self.cars.append((canvas.finish(resolution, 13, shadow, soft), length))
        for _ in range(_TRUCK_KINDS):
            canvas, length = draw_truck(rng)
            self.trucks.append((canvas.finish(resolution, 24, shadow, soft), length))
        for k in range(_WALKERS + _STANDERS):
            phases = draw_person(rng, walking=k < _WALKERS)
            self.people.append(tuple(c.finish(resolution, 20, shadow, soft) for c in phases))

    def pad(self) -> Sprite:
        resolution, shadow, soft = self._finish
        return draw_pad(self._rng).finish(resolution, 2, shadow * 0.6, soft)


class Casting:
    """Draws the actors of a world: first all that stand still, then drivers, then walkers.

    Attributes:
        actors: all of them, in that order.
        still: (x, y, angle) of those that stand still.
        drivers: (line, axis of the road, start as a share of the line, blocks of the line).
        walkers: (line, start as a share of the line, ground units per second).
        lines: the ways of drivers and walkers.
    """

    def __init__(self, rng: np.random.Generator, ground: Ground, spots: Spots, resolution: float) -> None:
        self._rng = rng
        self._ground = ground
        self._spots = spots
        self._wardrobe = Wardrobe(rng, resolution, ground.palette.shadow)
        self.actors: list[Actor] = []
        self.still: list[tuple[float, float, float]] = []
        self.drivers: list[tuple[int, int, float, int]] = []
        self.walkers: list[tuple[int, float, float]] = []
        self.lines: list[Points] = []

    def settle(self) -> None:
        """Pads, parked vehicles, people who stand."""
        self._place_pads(self._spots)
        self._park(self._spots)
        self._stand(self._spots)

    def send(self, plan: Plan) -> None:
        """Drivers on all roads, walkers on sidewalks and in the open."""
        for road in plan.roads:
            self._drive(plan, road)
        self._walk(plan, self._spots)

    def _place_pads(self, spots: Spots) -> None:
        for spot in spots.pads:
            self.actors.append(Actor(PAD, (self._wardrobe.pad(),)))
            self.still.append(spot)

    def _park(self, spots: Spots) -> None:
        for class_id, places, kinds in (
            (CAR, spots.cars, self._wardrobe.cars),
            (TRUCK, spots.trucks, self._wardrobe.trucks),
        ):
            for x, y, angle in places:
                sprite, _ = kinds[int(self._rng.integers(len(kinds)))]
                self.actors.append(Actor(class_id, (sprite,)))
                self.still.append((x, y, angle + float(self._rng.normal(0, 0.03))))

    def _stand(self, spots: Spots) -> None:
        standing = self._wardrobe.people[_WALKERS:]
        for x0, y0, x1, y1 in spots.walks:
            for _ in range(int(self._rng.poisson((x1 - x0) * (y1 - y0) / 2.6e5))):
                at = self._rng.uniform([x0, y0], [x1, y1])
                for _ in range(int(self._rng.integers(1, 4))):
                    if self._ground.is_free((at[0], at[1]), (22, 22)):
                        self._ground.take((at[0], at[1]), (22, 22))
                        sprites = standing[int(self._rng.integers(len(standing)))]
                        self.actors.append(Actor(PERSON, sprites))
                        angle = float(self._rng.uniform(0, 2 * np.pi))
                        self.still.append((float(at[0]), float(at[1]), angle))
                    at = at + self._rng.uniform(-70, 70, 2)

    def _drive(
        self,
        plan: Plan,
        road: Road,
    ) -> None:
        rng, wardrobe = self._rng, self._wardrobe
        knots = plan.blocks(road)
        count = len(knots) - 1
        shortest = float(np.diff(knots).min())
        clear = max([other.half_width for _, other in plan.crossing(road)], default=0.0)
        stop = clear + (64 if road.sidewalk else 24)
        density = float(rng.uniform(0.3, 0.75))
        for direction in (1, -1):
            for lane in range(road.lanes):
                s = np.linspace(knots[0], knots[-1], 1500)[::direction]
                line = road.line(s, direction * (lane + 0.5) * LANE)
                blocks = np.interp(s, knots, np.arange(count + 1.0))
                parameter = blocks if direction == 1 else count - blocks
                self.lines.append(along(line, parameter))
                for block in range(count):
                    # From the stop line backwards, in ground units of the shortest block.
                    front = shortest - stop
                    while True:
                        truck = rng.random() < 0.27
                        kinds = wardrobe.trucks if truck else wardrobe.cars
                        sprite, length = kinds[int(rng.integers(len(kinds)))]
                        if front - length < clear + 12:
                            break
                        if rng.random() < density:
                            at = (block + (front - length / 2) / shortest) / count
                            self.drivers.append((len(self.lines) - 1, road.axis, at, count))
                            self.actors.append(Actor(TRUCK if truck else CAR, (sprite,)))
                        front -= length + float(rng.uniform(16, 130))

    def _walk(
        self,
        plan: Plan,
        spots: Spots,
    ) -> None:
        rng = self._rng
        for cell in plan.cells:
            if min(cell.walks) > 0:
                left, top, right, bottom = (walk / 2 for walk in cell.walks)
                x0, y0, x1, y1 = cell.x0 - left, cell.y0 - top, cell.x1 + right, cell.y1 + bottom
                ring = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
                self.lines.append(along(ring, arc_length(ring)))
                self._send(int(rng.integers(2, 7)))
        for x0, y0, x1, y1 in spots.walks:
            for _ in range(1 + int((x1 - x0) * (y1 - y0) / 1.5e5)):
                for _ in range(10):
                    radii = (float(rng.uniform(40, 190)), float(rng.uniform(40, 190)))
                    wobble = rng.uniform(-1, 1, 4) * [0.15, 3, 0.08, 3]
                    loop = closed_loop(rng.uniform([x0, y0], [x1, y1]), radii, wobble)
                    if self._ground.are_free(loop):
                        loop = loop[:: int(rng.choice([-1, 1]))]
                        self.lines.append(along(loop, arc_length(loop)))
                        self._send(int(rng.integers(1, 4)))
                        break

    def _send(self, count: int) -> None:
        """People on the line drawn last."""
        for _ in range(count):
            kind = int(self._rng.integers(_WALKERS))
            self.actors.append(Actor(PERSON, self._wardrobe.people[kind]))
            self.walkers.append((len(self.lines) - 1, float(self._rng.random()), float(self._rng.uniform(34, 62))))

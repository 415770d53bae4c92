"""Who is in a world: pads, vehicles and people, their sprites and their ways."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.ground import Ground
from edgevision.synthetic.layout import LANE, Plan, Road
from edgevision.synthetic.motion import Lines, Poses, Traffic, along, arc_length, closed_loop
from edgevision.synthetic.pads import draw_pad
from edgevision.synthetic.people import PHASES, draw_person
from edgevision.synthetic.sprites import Sprite
from edgevision.synthetic.terrain import Spots
from edgevision.synthetic.vehicles import draw_car, draw_truck

CAR, TRUCK, PERSON, PAD = range(4)
_STRIDE = 58.0  # ground units of a full step cycle
_CAR_KINDS, _TRUCK_KINDS, _WALKERS, _STANDERS = 14, 7, 9, 5


@dataclass(frozen=True)
class Actor:
    """One object; ``sprites`` holds the phases of its walk, or a single picture."""

    class_id: int
    sprites: tuple[Sprite, ...]


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
            canvas, length, _ = draw_car(rng)
            self.cars.append((canvas.finish(resolution, 13, shadow, soft), length))
        for _ in range(_TRUCK_KINDS):
            canvas, length, _ = draw_truck(rng)
            self.trucks.append((canvas.finish(resolution, 24, shadow, soft), length))
        for k in range(_WALKERS + _STANDERS):
            phases = draw_person(rng, walking=k < _WALKERS)
            self.people.append(tuple(c.finish(resolution, 20, shadow, soft) for c in phases))

    def pad(self) -> Sprite:
        resolution, shadow, soft = self._finish
        canvas, _ = draw_pad(self._rng)
        return canvas.finish(resolution, 2, shadow * 0.6, soft)


class Cast:
    """All objects of a world, in the order in which they are drawn: pads, vehicles, people."""

    def __init__(
        self, rng: np.random.Generator, ground: Ground, plan: Plan, spots: Spots, resolution: float
    ) -> None:
        self._rng = rng
        self._ground = ground
        self._wardrobe = Wardrobe(rng, resolution, ground.palette.shadow)
        self.actors: list[Actor] = []
        self._still: list[tuple[float, float, float]] = []
        self._place_pads(spots)
        self._park(spots)
        self._stand(spots)
        self._fixed = np.asarray(self._still, np.float64).reshape(-1, 3)

        axes = {road.axis for road in plan.roads}
        self._traffic = Traffic(
            cycle_s=float(rng.uniform(11, 17)) if len(axes) == 2 else float(rng.uniform(5, 8)),
            green=0.42,
            takes_turns=len(axes) == 2,
        )
        lines: list[NDArray[np.float64]] = []
        drivers: list[tuple[int, int, float, int]] = []
        for road in plan.roads:
            self._drive(plan, road, lines, drivers)
        self._drivers = np.asarray(drivers, np.float64).reshape(-1, 4)
        walkers: list[tuple[int, float, float]] = []
        self._walk(plan, spots, lines, walkers)
        self._walkers = np.asarray(walkers, np.float64).reshape(-1, 3)
        self._lines = Lines(lines)
        self._order()

    def _order(self) -> None:
        rank = {PAD: 0, CAR: 1, TRUCK: 1, PERSON: 2}
        self.order = sorted(range(len(self.actors)), key=lambda k: rank[self.actors[k].class_id])

    def _place_pads(self, spots: Spots) -> None:
        for spot in spots.pads:
            self.actors.append(Actor(PAD, (self._wardrobe.pad(),)))
            self._still.append(spot)

    def _park(self, spots: Spots) -> None:
        for class_id, places, kinds in (
            (CAR, spots.cars, self._wardrobe.cars),
            (TRUCK, spots.trucks, self._wardrobe.trucks),
        ):
            for x, y, angle in places:
                sprite, _ = kinds[int(self._rng.integers(len(kinds)))]
                self.actors.append(Actor(class_id, (sprite,)))
                self._still.append((x, y, angle + float(self._rng.normal(0, 0.03))))

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
                        self._still.append((float(at[0]), float(at[1]), angle))
                    at = at + self._rng.uniform(-70, 70, 2)

    def _drive(
        self,
        plan: Plan,
        road: Road,
        lines: list[NDArray[np.float64]],
        drivers: list[tuple[int, int, float, int]],
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
                lines.append(along(line, parameter))
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
                            drivers.append((len(lines) - 1, road.axis, at, count))
                            self.actors.append(Actor(TRUCK if truck else CAR, (sprite,)))
                        front -= length + float(rng.uniform(16, 130))

    def _walk(
        self,
        plan: Plan,
        spots: Spots,
        lines: list[NDArray[np.float64]],
        walkers: list[tuple[int, float, float]],
    ) -> None:
        rng = self._rng
        for cell in plan.cells:
            if min(cell.walks) > 0:
                left, top, right, bottom = (walk / 2 for walk in cell.walks)
                x0, y0, x1, y1 = cell.x0 - left, cell.y0 - top, cell.x1 + right, cell.y1 + bottom
                ring = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
                lines.append(along(ring, arc_length(ring)))
                self._send(walkers, len(lines) - 1, int(rng.integers(2, 7)))
        for x0, y0, x1, y1 in spots.walks:
            for _ in range(1 + int((x1 - x0) * (y1 - y0) / 1.5e5)):
                for _ in range(10):
                    radii = (float(rng.uniform(40, 190)), float(rng.uniform(40, 190)))
                    wobble = rng.uniform(-1, 1, 4) * [0.15, 3, 0.08, 3]
                    loop = closed_loop(rng.uniform([x0, y0], [x1, y1]), radii, wobble)
                    if self._ground.are_free(loop):
                        loop = loop[:: int(rng.choice([-1, 1]))]
                        lines.append(along(loop, arc_length(loop)))
                        self._send(walkers, len(lines) - 1, int(rng.integers(1, 4)))
                        break

    def _send(self, walkers: list[tuple[int, float, float]], line: int, count: int) -> None:
        for _ in range(count):
            kind = int(self._rng.integers(_WALKERS))
            self.actors.append(Actor(PERSON, self._wardrobe.people[kind]))
            walkers.append((line, float(self._rng.random()), float(self._rng.uniform(34, 62))))

    def poses(self, time_s: float) -> Poses:
        """Where all actors are, in the order of ``actors``."""
        still = self._fixed
        line, axis, start, count = self._drivers.T
        driven = self._traffic.blocks(axis.astype(np.int64), time_s) / np.maximum(count, 1)
        driver_at, driver_to = self._lines.at(line.astype(np.int64), (start + driven) % 1.0)
        line, start, speed = self._walkers.T
        length = self._lines.length[line.astype(np.int64)]
        travelled = start * length + speed * time_s
        walker_at, walker_to = self._lines.at(line.astype(np.int64), (travelled / length) % 1.0)
        at = np.concatenate([still[:, :2], driver_at, walker_at])
        to = np.concatenate([np.stack([np.cos(still[:, 2]), np.sin(still[:, 2])], 1), driver_to, walker_to])
        way = np.zeros(len(at))
        way[len(at) - len(travelled) :] = travelled
        return Poses(at[:, 0], at[:, 1], to[:, 0], to[:, 1], way)

    def phase(self, actor: int, travelled: float) -> Sprite:
        """The sprite of an actor after it went so far."""
        sprites = self.actors[actor].sprites
        return sprites[int(travelled / _STRIDE * PHASES) % len(sprites)]

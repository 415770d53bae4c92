"""Who is in a world, and where everybody is at a time."""

from __future__ import annotations

import numpy as np

from edgevision.synthetic.casting import CAR, PAD, PERSON, TRUCK, Casting
from edgevision.synthetic.ground import Ground
from edgevision.synthetic.layout import Plan
from edgevision.synthetic.motion import Lines, Poses, Traffic
from edgevision.synthetic.people import PHASES
from edgevision.synthetic.plots import Spots
from edgevision.synthetic.sprites import Sprite

_RANK = {PAD: 0, CAR: 1, TRUCK: 1, PERSON: 2}
_STRIDE = 58.0  # ground units of a full step cycle


class Cast:
    """All objects of a world.

    Attributes:
        actors: those that stand still, then drivers, then walkers.
        order: indices of ``actors`` in the order in which they are drawn: pads, vehicles, people.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        ground: Ground,
        plan: Plan,
        spots: Spots,
        resolution: float,
    ) -> None:
        casting = Casting(rng, ground, spots, resolution)
        casting.settle()
        takes_turns = len({road.axis for road in plan.roads}) == 2
        cycle_s = float(rng.uniform(11, 17) if takes_turns else rng.uniform(5, 8))
        self._traffic = Traffic(cycle_s, green=0.42, takes_turns=takes_turns)
        casting.send(plan)
        self.actors = casting.actors
        self.order = sorted(range(len(self.actors)), key=lambda k: _RANK[self.actors[k].class_id])
        self._still = np.asarray(casting.still, np.float64).reshape(-1, 3)
        self._drivers = np.asarray(casting.drivers, np.float64).reshape(-1, 4)
        self._walkers = np.asarray(casting.walkers, np.float64).reshape(-1, 3)
        self._lines = Lines(casting.lines)

    def poses(self, time_s: float) -> Poses:
        """Where all actors are, in the order of ``actors``."""
        still = self._still
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

"""Where everything that moves is at a time: lines through the world and progress along them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.layout import Points

STEPS = 512


@dataclass(frozen=True)
class Poses:
    """Positions and headings of n objects, ground units; ``travelled`` is their way so far."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    cos: NDArray[np.float64]
    sin: NDArray[np.float64]
    travelled: NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """When vehicles drive. Roads of both axes take turns, and every turn brings all vehicles of an
    axis forward by exactly one block: who starts clear of the junctions also stops clear of them,
    so no two vehicles ever meet, at whatever time one looks."""

    cycle_s: float
    green: float
    takes_turns: bool

    def blocks(self, axis: NDArray[np.int64], time_s: float) -> NDArray[np.float64]:
        """Blocks driven since time 0 by vehicles on roads of the given axes."""
        turns = time_s / self.cycle_s
        if not self.takes_turns:
            return np.full(len(axis), turns)
        turn = turns + 0.5 * axis
        whole = np.floor(turn)
        part = np.minimum((turn - whole) / self.green, 1)
        return np.asarray(whole + part * part * (3 - 2 * part))


def along(line: Points, parameter: NDArray[np.float64]) -> Points:
    """A line resampled at STEPS + 1 even steps of a parameter that grows along it."""
    wanted = np.linspace(parameter[0], parameter[-1], STEPS + 1)
    return np.asarray(np.stack([np.interp(wanted, parameter, line[:, k]) for k in (0, 1)], 1))


def closed_loop(centre: Points, radii: tuple[float, float], wobble: NDArray[np.float64]) -> Points:
    """A smooth closed line of 65 points; ``along`` spaces it evenly."""
    angle = np.linspace(0, 2 * np.pi, 65)
    stretch = 1 + wobble[0] * np.sin(2 * angle + wobble[1]) + wobble[2] * np.sin(3 * angle + wobble[3])
    line = np.stack([np.cos(angle) * radii[0], np.sin(angle) * radii[1]], 1) * stretch[:, None]
    return np.asarray(line + centre)


def arc_length(line: Points) -> NDArray[np.float64]:
    """Distance along a line from its first point to each point, (n,)."""
    return np.asarray(np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))]))


class Lines:
    """Lines of STEPS + 1 points each, looked up for many objects at once."""

    def __init__(self, lines: list[Points]) -> None:
        self._points = np.asarray(lines).reshape(-1, STEPS + 1, 2)
        step = np.diff(self._points, axis=1)
        self.length = np.hypot(step[..., 0], step[..., 1]).sum(1)
        # Headings are interpolated between the middles of steps, so that they turn smoothly.
        self._towards = step / np.maximum(np.hypot(step[..., 0], step[..., 1]), 1e-9)[..., None]

    def at(
        self, line: NDArray[np.int64], share: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions and unit headings, (n, 2) each, at shares 0..1 of the lines' length."""
        place = share * STEPS
        step = np.minimum(place.astype(np.int64), STEPS - 1)
        part = (place - step)[:, None]
        points = self._points[line, step] * (1 - part) + self._points[line, step + 1] * part
        before = np.where(part < 0.5, step[:, None] - 1, step[:, None])[:, 0]
        weight = np.where(part < 0.5, part + 0.5, part - 0.5)
        after = np.where(before + 1 >= STEPS, 0, before + 1)
        before = np.where(before < 0, STEPS - 1, before)
        heading = self._towards[line, before] * (1 - weight) + self._towards[line, after] * weight
        return points, heading / np.maximum(np.hypot(*heading.T), 1e-9)[:, None]

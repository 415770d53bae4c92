"""The drone: where its camera looks, from how high, at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.layout import WORLD

BASE_WH = (1280, 720)
_ZOOM = (0.84, 1.34)
_TILT = (0.95, 1.0)


class Camera:
    """A smooth flight that never leaves the world, with an affine view from above.

    The view is a rotation, a zoom (altitude) and a slight foreshortening of the picture's vertical
    (a camera that looks not quite straight down). Pictures of every size show the same footprint
    as 1280x720 or a centred part of it: ``scale`` is max(width / 1280, height / 720).
    """

    def __init__(self, rng: np.random.Generator, size_wh: tuple[int, int]) -> None:
        self._middle = (np.asarray(size_wh) - 1) / 2
        self.scale = max(size_wh[0] / BASE_WH[0], size_wh[1] / BASE_WH[1])
        self._zoom = float(rng.uniform(_ZOOM[0] * 1.07, _ZOOM[1] / 1.07))
        self._breath = float(rng.uniform(0.01, 0.065))
        self._tilt = float(rng.uniform(*_TILT))
        reach = np.hypot(*BASE_WH) / 2 / (_ZOOM[0] * _TILT[0])
        room = WORLD / 2 - reach - 8
        self._room = room * rng.uniform(0.6, 1.0, 2)
        self._period = rng.uniform(38, 95, 2)
        self._heading = float(rng.uniform(0, 2 * np.pi))
        self._turn = float(rng.uniform(-0.035, 0.035))
        self._sway = float(rng.uniform(0.05, 0.35))
        self._slow = rng.uniform(11, 30, 3)
        self._phase = rng.uniform(0, 2 * np.pi, 5)

    def view(self, time_s: float) -> NDArray[np.float64]:
        """The (2, 3) matrix from ground units to pixels, whole numbers being pixel centres."""
        x, y = WORLD / 2 + self._room * np.sin(2 * np.pi * time_s / self._period + self._phase[:2])
        swing = np.sin(2 * np.pi * time_s / self._slow + self._phase[2:])
        heading = self._heading + self._turn * time_s + self._sway * swing[0]
        zoom = self._zoom * (1 + self._breath * swing[1]) * self.scale
        c, s = np.cos(heading) * zoom, np.sin(heading) * zoom
        linear = np.array([[c, s], [-s * self._tilt, c * self._tilt]])
        return np.column_stack([linear, self._middle - linear @ [x, y]])

"""Trees, bushes and hedges: crowns built from lit clumps of leaves."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.ground import VEGETATION, Ground
from edgevision.synthetic.layout import Points
from edgevision.synthetic.palette import Colour, lit, pick

_SS = 2  # crowns are drawn larger and shrunk, for smooth edges


def _crown(ground: Ground, radius: float, colour: Colour) -> NDArray[np.uint8]:
    """One crown, premultiplied BGRA, lit from where the sun stands."""
    rng = ground.rng
    side = int(radius * 2.3) * _SS
    image = np.zeros((side, side, 4), np.uint8)
    middle = side / 2
    sun = np.asarray(ground.palette.sun)
    toward_light = -sun / max(float(np.hypot(*sun)), 1e-6)
    clumps = int(16 + radius * 0.9)
    angle = rng.uniform(0, 2 * np.pi, clumps)
    reach = np.sqrt(rng.uniform(0, 1, clumps)) * radius * 0.8
    # An uneven outline: the crown reaches further in some directions.
    reach *= 0.9 + 0.14 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.08 * np.sin(5 * angle)
    offsets = np.stack([np.cos(angle), np.sin(angle)], 1) * reach[:, None]
    sizes = radius * rng.uniform(0.15, 0.3, clumps)
    height = offsets @ toward_light / radius + rng.normal(0, 0.3, clumps) - reach / radius * 0.3
    # Darkest and widest first; what looks at the sun is painted last and brightest.
    cv2.circle(image, (int(middle), int(middle)), int(radius * 0.72 * _SS), (*lit(colour, 0.6), 255), -1)
    tones = rng.uniform(0.9, 1.1, clumps)
    for k in np.argsort(height):
        at = middle + offsets[k] * _SS
        for grow, light in ((1.0, 0.7), (0.78, 0.88), (0.45, 1.06)):
            shift = toward_light * sizes[k] * (1 - grow) * 0.8 * _SS
            brightness = light * tones[k] * (0.95 + 0.3 * float(np.clip(height[k], -1, 1)))
            centre = (int((at[0] + shift[0]) * 16), int((at[1] + shift[1]) * 16))
            radius_px = int(sizes[k] * grow * _SS * 16)
            cv2.circle(image, centre, radius_px, (*lit(colour, brightness), 255), -1, cv2.LINE_AA, 4)
    grain = ground.textures.grain(rng, (side, side), 0.25)
    light = cv2.convertScaleAbs(grain, alpha=1.3, beta=34)
    image[..., :3] = cv2.multiply(
        np.ascontiguousarray(image[..., :3]), cv2.cvtColor(light, cv2.COLOR_GRAY2BGR), scale=1 / 200
    )
    return np.asarray(cv2.resize(image, (side // _SS, side // _SS), interpolation=cv2.INTER_AREA))


class Nursery:
    """The crowns of one world, stamped many times."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        rng = ground.rng
        self._kinds: list[tuple[float, NDArray[np.uint8]]] = []
        for radius in (*rng.uniform(34, 62, 7), *rng.uniform(62, 92, 4), *rng.uniform(16, 28, 5)):
            base = pick(rng, ground.palette.crowns)
            colour = lit(base, rng.uniform(0.8, 1.25))
            self._kinds.append((float(radius), _crown(ground, float(radius), colour)))
        self._planted: list[tuple[Points, int]] = []

    def plant(self, at: Points, low: float = 30, high: float = 95) -> None:
        """Plant a crown with a radius in the given range; it appears with ``grow``."""
        kinds = [k for k, (radius, _) in enumerate(self._kinds) if low <= radius <= high]
        kind = int(self._ground.rng.choice(kinds or [0]))
        radius = self._kinds[kind][0]
        self._planted.append((at, kind))
        around = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        ring = at + radius * 0.85 * np.stack([np.cos(around), np.sin(around)], 1)
        self._ground.cast_shadow(ring, radius * 0.9)

    def grow(self) -> None:
        """Stamp all crowns, after shadows were applied to what lies below them."""
        for at, kind in self._planted:
            self._ground.stamp(self._kinds[kind][1], (float(at[0]), float(at[1])), VEGETATION)
        self._planted.clear()

"""Procedural surfaces: periodic noise tiles turned into materials through colour ramps."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

TILE = 1024
"""Period of every texture, in ground units."""


def spectral_noise(rng: np.random.Generator, exponent: float) -> NDArray[np.uint8]:
    """Periodic ``1 / f**exponent`` noise, (TILE, TILE) uint8 around 128 with deviation 40."""
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE), dtype=np.float32))
    fy, fx = np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(spectrum * frequency**-exponent, s=(TILE, TILE))
    return np.asarray(np.clip(noise * (40 / noise.std()) + 128, 0, 255), np.uint8)


class Textures:
    """Two noise tiles, one grainy and one cloudy, from which every material is mixed."""

    def __init__(self, rng: np.random.Generator) -> None:
        # Doubled, so that a slice at any offset below TILE is whole.
        self._fine = np.tile(spectral_noise(rng, 0.5), (2, 2))
        self._cloudy = np.tile(spectral_noise(rng, 1.5), (2, 2))

    def grain(self, rng: np.random.Generator, size_wh: tuple[int, int], cloudiness: float) -> NDArray[np.uint8]:
        """A (h, w) uint8 grain of at most TILE a side at a random offset."""
        width, height = size_wh
        (y0, y1), (x0, x1) = rng.integers(0, TILE, (2, 2))
        fine = self._fine[y0 : y0 + height, x0 : x0 + width]
        cloudy = self._cloudy[y1 : y1 + height, x1 : x1 + width]
        return np.asarray(cv2.addWeighted(cloudy, cloudiness, fine, 1 - cloudiness, 0), dtype=np.uint8)

    def fill(
        self,
        rng: np.random.Generator,
        target: NDArray[np.uint8],
        ramp: NDArray[np.uint8],
        cloudiness: float = 0.6,
        mask: NDArray[np.uint8] | None = None,
    ) -> None:
        """Cover ``target`` (h, w, 3), or the part under ``mask``, with a material."""
        height, width = target.shape[:2]
        if height == 0 or width == 0:
            return
        grain = self.grain(rng, (min(width, TILE), min(height, TILE)), cloudiness)
        material = cv2.applyColorMap(grain, ramp)
        for y in range(0, height, TILE):
            for x in range(0, width, TILE):
                part = target[y : y + TILE, x : x + TILE]
                piece = material[: part.shape[0], : part.shape[1]]
                if mask is None:
                    part[:] = piece
                else:
                    cv2.copyTo(piece, mask[y : y + TILE, x : x + TILE], part)

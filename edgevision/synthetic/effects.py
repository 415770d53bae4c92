"""What lens, light and sensor do to a frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_SPREAD = 64  # how far the noise tile can be shifted, pixels
_CLOUDS = 96
_SHOULDER = 190.0


class Effects:
    """Light (level, temperature, haze, clouds), blur and noise: drawn per seed, drifting in time."""

    def __init__(self, rng: np.random.Generator, size_wh: tuple[int, int], scale: float) -> None:
        self._size_wh = size_wh
        self._scale = scale
        self._level = float(rng.choice([0.7, 0.82, 0.95, 1.06, 1.18]) * rng.uniform(0.93, 1.07))
        warmth = rng.uniform(-0.11, 0.11)
        self._balance = np.array([1 - warmth, 1 + rng.uniform(-0.03, 0.03), 1 + warmth])
        self._gamma = float(rng.uniform(0.85, 1.2))
        self._haze = float(rng.uniform(0, 26)) if rng.random() < 0.4 else 0.0
        self._clouds = float(rng.uniform(20, 80)) if rng.random() < 0.45 else 0.0
        self._vignette = float(rng.uniform(0, 0.22))
        self._defocus = float(rng.uniform(0.2, 1.15))
        self._shake = float(rng.uniform(0, 3.2))
        self._slow = rng.uniform(7, 24, 4)
        self._phase = rng.uniform(0, 2 * np.pi, 4)
        self._seed = int(rng.integers(2**32))
        small = rng.normal(0, 1, (12, 12)).astype(np.float32)
        sky = cv2.GaussianBlur(cv2.resize(small, (_CLOUDS, _CLOUDS), interpolation=cv2.INTER_CUBIC), (0, 0), 2)
        self._sky = np.clip((sky - sky.min()) / np.ptp(sky), 0, 1).astype(np.float32)
        sigma = float(rng.uniform(1.2, 6.5))
        self._bias = round(3 * sigma)
        self._noise = self._draw_noise(rng, sigma)

    def _draw_noise(self, rng: np.random.Generator, sigma: float) -> NDArray[np.uint8]:
        """Noise plus ``bias``: the light curve takes the bias off again, before it is added."""
        w, h = self._size_wh
        shape = (h + _SPREAD, w + _SPREAD)
        luma = rng.standard_normal(shape, dtype=np.float32)
        noise = np.empty((*shape, 3), np.uint8)
        for channel in range(3):
            chroma = rng.standard_normal(shape, dtype=np.float32)
            both = (luma * 0.8 + chroma * 0.6) * sigma + self._bias
            noise[..., channel] = np.clip(np.round(both), 0, 2 * self._bias)
        return noise

    def apply(self, image: NDArray[np.uint8], time_s: float, frame_index: int) -> NDArray[np.uint8]:
        """The frame as the sensor delivers it."""
        drift = np.sin(2 * np.pi * time_s / self._slow + self._phase)
        image = self._blur(image, drift)
        image = self._shade(image, time_s)
        image = np.asarray(cv2.LUT(image, self._curve(drift)))
        w, h = self._size_wh
        x, y = np.random.default_rng([self._seed, frame_index]).integers(0, _SPREAD, 2)
        return np.asarray(cv2.add(image, self._noise[y : y + h, x : x + w], image))

    def _blur(self, image: NDArray[np.uint8], drift: NDArray[np.float64]) -> NDArray[np.uint8]:
        sigma = self._defocus * (0.75 + 0.25 * drift[0]) * self._scale
        if sigma > 0.25:
            size = 3 if sigma < 0.7 else 5
            image = np.asarray(cv2.GaussianBlur(image, (size, size), sigma))
        length = self._shake * max(0.0, float(drift[1])) * self._scale
        angle = self._phase[1] + drift[2]
        dx, dy = round(length * np.cos(angle)), round(length * np.sin(angle))
        if dx or dy:
            # Two exposures half the way apart, on either side, so that nothing moves on average.
            w, h = self._size_wh
            ax, ay = abs(dx), abs(dy)
            wide = cv2.copyMakeBorder(image, ay, ay, ax, ax, cv2.BORDER_REPLICATE)
            first = wide[ay + dy // 2 : ay + dy // 2 + h, ax + dx // 2 : ax + dx // 2 + w]
            bx, by = dx // 2 - dx, dy // 2 - dy
            second = wide[ay + by : ay + by + h, ax + bx : ax + bx + w]
            image = np.asarray(cv2.addWeighted(first, 0.5, second, 0.5, 0))
        return image

    def _shade(self, image: NDArray[np.uint8], time_s: float) -> NDArray[np.uint8]:
        """Clouds that drift over the scene, and light that falls off towards the corners."""
        small = (64, 36)
        x = np.linspace(-1, 1, small[0], dtype=np.float32)[None]
        y = np.linspace(-1, 1, small[1], dtype=np.float32)[:, None]
        gain = 255 - 255 * self._vignette * (x * x + y * y) * 0.5
        if self._clouds:
            shift = np.array([[1, 0, time_s * 0.9], [0, 1, time_s * 0.5]])
            cover = cv2.warpAffine(self._sky, shift, small, borderMode=cv2.BORDER_WRAP)
            gain = gain - self._clouds * cover
        light = cv2.resize(gain.astype(np.uint8), self._size_wh, interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.multiply(image, cv2.cvtColor(light, cv2.COLOR_GRAY2BGR), image, 1 / 255))

    def _curve(self, drift: NDArray[np.float64]) -> NDArray[np.uint8]:
        """The (1, 256, 3) look-up table of exposure, white balance, gamma and haze."""
        level = self._level * (1 + 0.05 * drift[2])
        balance = self._balance * (1 + 0.015 * drift[3] * np.array([-1, 0, 1]))
        value = (np.arange(256) / 255.0) ** self._gamma * 255
        haze = self._haze * (1 + 0.3 * drift[0])
        curve = value[:, None] * level * balance * (1 - haze / 255) + haze
        # Highlights roll off instead of burning out.
        over = np.maximum(curve - _SHOULDER, 0) / (255 - _SHOULDER)
        curve = np.minimum(curve, _SHOULDER) + (255 - _SHOULDER) * (1 - np.exp(-over)) - self._bias
        return np.asarray(np.clip(np.round(curve), 0, 255)[None], np.uint8)

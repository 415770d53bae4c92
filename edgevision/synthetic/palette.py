"""What a place looks like: land use, season and colours, drawn once per seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
"""BGR, 0..255."""


def lit(colour: Colour, light: float) -> Colour:
    """A colour under more or less light."""
    b, g, r = (int(np.clip(c * light, 0, 255)) for c in colour)
    return b, g, r


def pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def tone(ramp: NDArray[np.uint8], grain: int) -> Colour:
    """One colour of a ramp."""
    b, g, r = (int(c) for c in ramp[grain, 0])
    return b, g, r


# Stops of a colour ramp from the darkest to the lightest grain of a material, BGR.
_GRASS: dict[str, tuple[Colour, ...]] = {
    "lush": ((28, 62, 38), (42, 92, 62), (58, 118, 86), (84, 140, 112)),
    "dry": ((52, 92, 104), (78, 124, 140), (104, 152, 166), (132, 174, 186)),
    "autumn": ((36, 70, 72), (52, 96, 102), (66, 118, 132), (88, 140, 160)),
    "snow": ((176, 168, 160), (210, 204, 198), (232, 228, 224), (246, 244, 242)),
    "desert": ((88, 122, 150), (112, 150, 180), (136, 174, 202), (158, 194, 216)),
    "tropical": ((26, 74, 34), (40, 104, 52), (50, 132, 80), (80, 156, 116)),
}
_SOIL: dict[str, tuple[Colour, ...]] = {
    "lush": ((40, 60, 82), (58, 82, 106), (78, 104, 130), (100, 126, 150)),
    "dry": ((70, 100, 132), (94, 128, 160), (118, 152, 182), (146, 176, 202)),
    "autumn": ((36, 54, 76), (52, 72, 96), (70, 92, 116), (90, 112, 136)),
    "snow": ((150, 150, 152), (188, 188, 190), (216, 216, 216), (238, 238, 238)),
    "desert": ((80, 116, 152), (104, 142, 178), (126, 164, 198), (150, 186, 214)),
    "tropical": ((36, 60, 110), (52, 82, 138), (70, 104, 160), (92, 126, 178)),
}
_CROWNS: dict[str, tuple[Colour, ...]] = {
    "lush": ((30, 86, 40), (36, 98, 58), (44, 92, 34), (40, 110, 76)),
    "dry": ((44, 84, 66), (52, 98, 84), (40, 74, 52), (64, 104, 92)),
    "autumn": ((30, 96, 168), (34, 70, 150), (36, 120, 178), (40, 92, 70)),
    "snow": ((50, 76, 50), (62, 84, 64), (84, 96, 88), (44, 66, 42)),
    "desert": ((54, 92, 74), (62, 104, 92), (48, 84, 60), (72, 108, 96)),
    "tropical": ((28, 96, 30), (36, 112, 48), (30, 84, 26), (44, 126, 70)),
}
_ASPHALT: tuple[tuple[Colour, ...], ...] = (
    ((58, 56, 54), (74, 72, 70), (86, 84, 82), (104, 102, 100)),
    ((84, 82, 80), (102, 100, 98), (114, 112, 110), (132, 130, 128)),
    ((72, 76, 80), (90, 94, 98), (102, 106, 110), (122, 126, 128)),
)
_PAVEMENT: tuple[tuple[Colour, ...], ...] = (
    ((128, 132, 136), (150, 154, 158), (164, 168, 172), (184, 188, 192)),
    ((112, 126, 144), (132, 148, 166), (146, 162, 180), (168, 182, 196)),
    ((140, 140, 138), (162, 162, 160), (178, 178, 176), (200, 200, 198)),
)
_ROOFS: tuple[Colour, ...] = (
    (60, 78, 150), (48, 62, 118), (74, 96, 170), (96, 92, 90), (130, 126, 122), (164, 162, 160),
    (190, 190, 188), (84, 72, 64), (120, 104, 84), (104, 128, 150), (92, 110, 84), (70, 66, 66),
)  # fmt: skip
_SEASONS = ("lush", "lush", "tropical", "dry", "autumn", "desert", "snow")


@dataclass(frozen=True)
class Palette:
    """Colours and land use of one world. Ramps are (256, 1, 3) uint8 BGR, indexed by grain."""

    season: str
    urban: float
    grass: NDArray[np.uint8]
    meadow: NDArray[np.uint8]
    soil: NDArray[np.uint8]
    asphalt: NDArray[np.uint8]
    track: NDArray[np.uint8]
    pavement: NDArray[np.uint8]
    crowns: tuple[Colour, ...]
    roofs: tuple[Colour, ...]
    marking: Colour
    sun: tuple[float, float]
    shadow: float


def _ramp(stops: tuple[Colour, ...], tint: NDArray[np.float64]) -> NDArray[np.uint8]:
    # Most grain lies near 128, so the ends are placed inside 0..255 to be seen at all.
    at = np.linspace(48, 208, len(stops))
    grain = np.arange(256)
    channels = [np.interp(grain, at, [stop[c] for stop in stops]) * tint[c] for c in range(3)]
    return np.asarray(np.clip(np.stack(channels, 1), 0, 255).reshape(256, 1, 3), np.uint8)


def _blend(a: tuple[Colour, ...], b: tuple[Colour, ...], share: float) -> tuple[Colour, ...]:
    mixed = np.asarray(a) * (1 - share) + np.asarray(b) * share
    return tuple((int(c[0]), int(c[1]), int(c[2])) for c in mixed)


def draw_palette(rng: np.random.Generator) -> Palette:
    """Draw season, land use, colours and sun of a world."""
    season = _SEASONS[int(rng.integers(len(_SEASONS)))]
    urban = float(rng.choice([0.12, 0.35, 0.6, 0.85]) + rng.uniform(-0.1, 0.1))

    def tint() -> NDArray[np.float64]:
        return rng.uniform(0.86, 1.14) * rng.uniform(0.95, 1.05, 3)

    bearing, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.95)
    overcast = rng.random() < 0.25
    return Palette(
        season=season,
        urban=urban,
        grass=_ramp(_GRASS[season], tint()),
        meadow=_ramp(_blend(_GRASS[season], _SOIL[season], rng.uniform(0.25, 0.6)), tint()),
        soil=_ramp(_SOIL[season], tint()),
        asphalt=_ramp(_ASPHALT[int(rng.integers(len(_ASPHALT)))], tint()),
        track=_ramp(_blend(_SOIL[season], _PAVEMENT[0], 0.45), tint()),
        pavement=_ramp(_PAVEMENT[int(rng.integers(len(_PAVEMENT)))], tint()),
        crowns=_CROWNS[season],
        roofs=tuple(_ROOFS[i] for i in rng.permutation(len(_ROOFS))[:5]),
        marking=(225, 228, 230) if rng.random() < 0.8 else (200, 222, 230),
        sun=(float(np.cos(bearing) * height), float(np.sin(bearing) * height)),
        shadow=float(rng.uniform(0.12, 0.28) if overcast else rng.uniform(0.4, 0.62)),
    )

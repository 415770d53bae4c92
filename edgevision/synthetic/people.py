"""People as seen from above, in the phases of a walk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.palette import Colour, lit, pick
from edgevision.synthetic.sprites import Canvas, rounded

PHASES = 8
_TOPS: tuple[Colour, ...] = (
    (240, 240, 238), (44, 40, 190), (190, 90, 36), (60, 150, 60), (46, 200, 236), (30, 120, 236),
    (150, 60, 140), (60, 56, 54), (36, 32, 32), (170, 170, 60), (190, 150, 230), (40, 230, 200),
)  # fmt: skip
_TROUSERS: tuple[Colour, ...] = ((96, 62, 40), (44, 42, 42), (70, 88, 108), (120, 120, 122), (130, 96, 60))
_SKIN: tuple[Colour, ...] = ((170, 196, 232), (128, 160, 206), (84, 116, 166), (52, 74, 112))
_HAIR: tuple[Colour, ...] = ((28, 26, 28), (34, 52, 84), (60, 104, 150), (110, 160, 190), (150, 150, 152))


def draw_person(rng: np.random.Generator, walking: bool) -> list[Canvas]:
    """One person: PHASES canvases of a walk, or a single one who stands."""
    top, trousers = pick(rng, _TOPS), pick(rng, _TROUSERS)
    skin, hair = pick(rng, _SKIN), pick(rng, _HAIR)
    extra = str(rng.choice(["none", "backpack", "cap", "helmet", "umbrella"], p=[0.4, 0.24, 0.16, 0.14, 0.06]))
    accent = pick(rng, _TOPS)
    size = float(rng.uniform(1.0, 1.24))
    spread = float(rng.uniform(0.9, 1.08)) * size
    pose = rng.uniform(-1, 1, 2)
    canvases = []
    for phase in range(PHASES if walking else 1):
        swing = float(np.sin(2 * np.pi * phase / PHASES)) if walking else float(pose[0]) * 0.3
        canvases.append(
            _draw(swing, size, spread, (top, trousers, skin, hair, accent), extra, pose if not walking else None)
        )
    return canvases


def _draw(
    swing: float,
    size: float,
    spread: float,
    colours: tuple[Colour, Colour, Colour, Colour, Colour],
    extra: str,
    pose: NDArray[np.float64] | None,
) -> Canvas:
    """``swing`` -1..1 is how far the left leg is ahead; ``pose`` the arms of somebody who stands."""
    top, trousers, skin, hair, accent = colours
    canvas = Canvas(62, 62)
    dark = lit(top, 0.72)
    for side in (-1, 1):  # legs and shoes
        foot = side * swing * 15 * size if pose is None else 3 * size * float(pose[0]) + 4 * size
        hip = side * 5.5 * size
        canvas.line([(0, hip), (foot, hip)], trousers, 8.5 * size)
        canvas.ellipse((foot + 4 * size, hip), (6.5 * size, 4.2 * size), (36, 34, 36))
    for side in (-1, 1):  # arms and hands, against the legs
        shoulder = (0.0, side * 14 * spread)
        reach = -side * swing * 12 * size if pose is None else (7 + 6 * float(pose[0 if side > 0 else 1])) * size
        elbow = (reach * 0.55, side * 18.5 * spread)
        hand = (reach + 2, side * 18 * spread)
        canvas.line([shoulder, elbow, hand], dark, 6.6 * size)
        canvas.ellipse(hand, (3.6 * size, 3.6 * size), skin)
    canvas.ellipse((0, 0), (10.5 * size, 17.5 * spread), dark)
    canvas.ellipse((0.8, 0), (9 * size, 15.5 * spread), top)
    if extra == "backpack":
        canvas.polygon(
            rounded(11 * size, 17 * size, 3, 4) + [-8.5 * size, 0],
            lit(accent, 0.8),
        )
        for side in (-1, 1):
            canvas.line([(-5, side * 6), (5, side * 7)], accent, 1.8)
    canvas.ellipse((3.4 * size, 0), (7.4 * size, 6.4 * size), skin)
    canvas.ellipse((1.6 * size, 0), (7.2 * size, 7.2 * size), hair)
    if extra in ("cap", "helmet"):
        if extra == "cap":
            canvas.ellipse(
                (6.5 * size, 0),
                (6 * size, 6 * size),
                lit(accent, 0.8),
            )
        canvas.ellipse((1.6 * size, 0), (8 * size, 7.8 * size), accent)
        b, g, r = (min(255, int(c * 1.2) + 12) for c in accent)
        canvas.ellipse((0.4 * size, -1.5), (4 * size, 3.4 * size), (b, g, r))
    elif extra == "umbrella":
        around = np.linspace(0, 2 * np.pi, 9)
        rim = np.stack([np.cos(around), np.sin(around)], 1) * 21 * size
        for k in range(8):
            light = 1.0 if k % 2 else 0.8
            canvas.polygon(np.concatenate([[[0, 0]], rim[k : k + 2]]), lit(accent, light))
        canvas.ellipse((0, 0), (2, 2), (60, 60, 60))
    return canvas

"""Landing pads: an H or another mark on a disc, a square or a fold-out mat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgevision.synthetic.palette import Colour, pick
from edgevision.synthetic.sprites import Canvas, rounded

_WHITE: Colour = (238, 240, 240)
_YELLOW: Colour = (44, 200, 240)
_SURFACES: tuple[Colour, ...] = (
    (92, 92, 90),
    (120, 120, 118),
    (70, 66, 64),
    (96, 112, 84),
    (84, 78, 120),
    (150, 110, 60),
)
_MATS: tuple[tuple[Colour, Colour], ...] = (
    ((30, 110, 240), _WHITE),
    ((190, 96, 24), _WHITE),
    ((40, 210, 240), (40, 40, 42)),
    ((60, 160, 50), _WHITE),
)


def _letter(canvas: Canvas, size: float, colour: Colour) -> None:
    stroke, arm = size * 0.17, size * 0.34
    for side in (-1, 1):
        bar = rounded(size, stroke, 0.5, 0.5) + [0, side * arm]
        canvas.polygon(bar, colour)
    canvas.polygon(rounded(stroke, 2 * arm, 0.5, 0.5), colour)


def _triangle(canvas: Canvas, size: float, colour: Colour) -> None:
    angle = np.array([0, 2, 4]) * np.pi / 3
    canvas.line(np.stack([np.cos(angle), np.sin(angle)], 1) * size * 0.62, colour, size * 0.1, closed=True)


def _wear(canvas: Canvas, rng: np.random.Generator) -> None:
    coarse = rng.normal(1, 0.07, (9, 9))
    fine = rng.normal(1, 0.05, (56, 56))
    spread: NDArray[np.float64] = np.kron(coarse, np.ones((7, 7)))[:56, :56] * fine
    canvas.modulate(np.clip(spread, 0.7, 1.15))


def draw_pad(rng: np.random.Generator) -> Canvas:
    """One landing pad."""
    kind = str(rng.choice(["disc", "square", "mat", "cross"], p=[0.36, 0.3, 0.24, 0.1]))
    # Turned corners reach further, so what has corners is smaller.
    side = float(rng.uniform(92, 162) if kind in ("disc", "mat") else rng.uniform(80, 124))
    surface = pick(rng, _SURFACES)
    mark = _YELLOW if rng.random() < 0.3 else _WHITE
    canvas = Canvas(side + 2, side + 2)
    radius = side / 2
    if kind == "mat":
        mat, mark = _MATS[int(rng.integers(len(_MATS)))]
        canvas.ellipse((0, 0), (radius, radius), mat)
        canvas.ellipse((0, 0), (radius * 0.86, radius * 0.86), mark)
        canvas.ellipse((0, 0), (radius * 0.74, radius * 0.74), mat)
        _letter(canvas, side * 0.42, mark)
    elif kind == "disc":
        canvas.ellipse((0, 0), (radius, radius), mark)
        canvas.ellipse((0, 0), (radius * 0.88, radius * 0.88), surface)
        if rng.random() < 0.4:
            canvas.ellipse((0, 0), (radius * 0.7, radius * 0.7), mark)
            canvas.ellipse((0, 0), (radius * 0.62, radius * 0.62), surface)
        _letter(canvas, side * 0.44, mark)
    elif kind == "square":
        canvas.polygon(rounded(side, side, 2, 2), surface)
        canvas.line(rounded(side * 0.9, side * 0.9, 2, 2), mark, side * 0.035, closed=True)
        if rng.random() < 0.6:
            canvas.ellipse((0, 0), (radius * 0.72, radius * 0.72), mark)
            canvas.ellipse((0, 0), (radius * 0.62, radius * 0.62), surface)
        _letter(canvas, side * 0.4, mark)
        for sx in (-1, 1):
            for sy in (-1, 1):
                canvas.ellipse((sx * side * 0.45, sy * side * 0.45), (2.6, 2.6), (80, 240, 250))
    else:
        canvas.polygon(rounded(side, side, side * 0.3, side * 0.3), surface)
        canvas.line(rounded(side * 0.9, side * 0.9, side * 0.27, side * 0.27), mark, side * 0.04, closed=True)
        _triangle(canvas, side * 0.5, mark)
        _letter(canvas, side * 0.24, mark)
    _wear(canvas, rng)
    return canvas

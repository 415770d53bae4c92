"""Cars and trucks as seen from above."""

from __future__ import annotations

import numpy as np

from edgevision.synthetic.palette import Colour, lit, pick
from edgevision.synthetic.sprites import Canvas, rounded

_PAINTS: tuple[Colour, ...] = (
    (236, 236, 234), (222, 224, 224), (176, 178, 180), (140, 142, 142), (92, 92, 94), (44, 44, 46),
    (30, 30, 34), (38, 38, 176), (28, 28, 128), (168, 84, 32), (110, 48, 22), (60, 110, 50),
    (40, 196, 232), (150, 184, 206), (32, 108, 224), (196, 160, 60), (94, 120, 150),
)  # fmt: skip
_CARGO: tuple[Colour, ...] = (
    (232, 232, 230), (214, 216, 218), (176, 112, 46), (50, 60, 178), (66, 132, 64), (44, 150, 214),
    (128, 130, 134), (84, 92, 104),
)  # fmt: skip
_GLASS: Colour = (58, 46, 36)
_LAMP: Colour = (226, 242, 248)
_TAIL: Colour = (36, 30, 200)


def _sheen(canvas: Canvas, rng: np.random.Generator) -> None:
    """A curved body: light falls off to both sides, more to one of them."""
    lean = rng.uniform(-0.06, 0.06)
    across = np.array([0.80, 0.98 - lean, 1.06, 0.98 + lean, 0.80])
    canvas.modulate(np.repeat(across[:, None], 3, 1) * np.array([0.94, 1.0, 0.97]))


def draw_car(rng: np.random.Generator) -> tuple[Canvas, float]:
    """One car: (canvas, length)."""
    kind = str(rng.choice(["sedan", "hatch", "wagon", "van", "pickup", "taxi"], p=[0.3, 0.24, 0.16, 0.12, 0.1, 0.08]))
    length = float(rng.uniform(84, 98) if kind == "hatch" else rng.uniform(96, 118))
    width = float(np.clip(length * rng.uniform(0.42, 0.46), 38, 50))
    paint = (40, 190, 235) if kind == "taxi" else pick(rng, _PAINTS)
    canvas = Canvas(length + 4, width + 10)
    x, y = length / 2, width / 2
    nose = length * (0.06 if kind == "van" else 0.13)
    mirror = x - length * (0.24 if kind == "van" else 0.33)
    for side in (-1, 1):
        canvas.polygon(
            [(mirror, side * (y - 3)), (mirror - 5, side * (y + 4)), (mirror - 8, side * (y - 3))], lit(paint, 0.7)
        )
    canvas.polygon(rounded(length, width, nose, length * 0.09, 0.12), lit(paint, 0.9))
    canvas.polygon(rounded(length - 7, width - 7, nose, length * 0.08, 0.12), paint)
    # The greenhouse, from the windscreen back.
    front = x - length * (0.12 if kind == "van" else 0.29)
    rear = {"sedan": 0.20, "taxi": 0.20, "hatch": 0.06, "wagon": 0.05, "van": 0.04, "pickup": 0.46}[kind]
    back = -x + length * rear
    w = y - 4
    canvas.polygon(
        [
            (front, -w + 4),
            (front + 2, 0),
            (front, w - 4),
            (front - 10, w),
            (back, w),
            (back - 2, w - 4),
            (back - 2, 4 - w),
            (back, -w),
            (front - 10, -w),
        ],
        _GLASS,
    )
    roof_front, roof_back = front - length * 0.13, back + length * (0.02 if kind in ("van", "wagon") else 0.10)
    if kind == "pickup":
        roof_back = back + length * 0.05
    canvas.polygon(
        rounded(roof_front - roof_back, 2 * w - 8, 4, 4) + [(roof_front + roof_back) / 2, 0], lit(paint, 1.1)
    )
    if kind == "pickup":
        bed = rounded(length * 0.36, width - 10, 2, 2) + [-x + length * 0.23, 0]
        canvas.polygon(bed, lit(paint, 0.45))
        canvas.line(bed, lit(paint, 0.8), 1.2, closed=True)
        if rng.random() < 0.5:
            canvas.polygon(rounded(length * 0.2, width - 22, 2, 2) + [-x + length * 0.22, 2], (70, 110, 150))
    elif kind == "taxi":
        canvas.polygon(rounded(8, 20, 2, 2) + [(roof_front + roof_back) / 2, 0], (240, 244, 246))
    elif kind == "wagon" or (kind == "van" and rng.random() < 0.6):
        for side in (-1, 1):
            canvas.line([(roof_front - 3, side * (w - 7)), (roof_back + 3, side * (w - 7))], lit(paint, 0.5), 1.2)
    elif rng.random() < 0.3:
        middle = (roof_front + roof_back) / 2
        canvas.polygon(rounded((roof_front - roof_back) * 0.5, w, 3, 3) + [middle, 0], (40, 36, 34))
    for side in (-1, 1):
        canvas.line([(x - 8, side * w * 0.45), (front + 3, side * w * 0.62)], lit(paint, 0.78), 1)
        canvas.polygon(
            [(x - 3, side * (y - 15)), (x - 3.5, side * (y - 9)), (x - 10, side * (y - 6.5)), (x - 8, side * (y - 13))],
            _LAMP,
        )
        canvas.polygon(
            [
                (-x + 1.5, side * (y - 13)),
                (-x + 3, side * (y - 4)),
                (-x + 6, side * (y - 4)),
                (-x + 4.5, side * (y - 13)),
            ],
            _TAIL,
        )
    _sheen(canvas, rng)
    return canvas, length


def draw_truck(rng: np.random.Generator) -> tuple[Canvas, float]:
    """One truck: (canvas, length)."""
    kind = str(rng.choice(["box", "semi", "tanker", "flatbed", "tipper"], p=[0.34, 0.24, 0.14, 0.14, 0.14]))
    length = float(rng.uniform(160, 192) if kind in ("semi", "tanker") else rng.uniform(130, 165))
    width = float(rng.uniform(49, 56))
    paint, cargo = pick(rng, _PAINTS), pick(rng, _CARGO)
    canvas = Canvas(length + 4, width + 10)
    x, y = length / 2, width / 2
    cab = float(rng.uniform(36, 44))
    load_front = x - cab - 5
    middle, span = (load_front - x) / 2, load_front + x
    canvas.polygon(rounded(length - 8, width * 0.6, 2, 2), (44, 44, 46))  # chassis
    for side in (-1, 1):
        canvas.polygon(
            [(x - 8, side * (y - 3)), (x - 8, side * (y + 4)), (x - 12, side * (y + 4)), (x - 12, side * (y - 3))],
            (38, 38, 40),
        )
    canvas.polygon(rounded(cab, width - 3, 8, 3, 0.0) + [x - cab / 2, 0], lit(paint, 0.92))
    canvas.polygon([(x - 4, -y + 8), (x - 4, y - 8), (x - 12, y - 4), (x - 12, 4 - y)], _GLASS)
    canvas.polygon(rounded(cab - 16, width - 10, 4, 3) + [x - cab / 2 - 6, 0], lit(paint, 1.1))
    canvas.polygon(rounded(6, width - 20, 2, 2) + [x - 18, 0], lit(paint, 0.6))
    body = rounded(span, width, 2.5, 2.5) + [middle, 0]
    if kind in ("box", "semi"):
        canvas.polygon(body, lit(cargo, 0.85))
        canvas.polygon(rounded(span - 5, width - 5, 2, 2) + [middle, 0], cargo)
        for s in np.arange(-x + 16, load_front - 4, 15):
            canvas.line([(s, 5 - y), (s, y - 5)], lit(cargo, 0.92), 1)
        if rng.random() < 0.3:
            canvas.polygon(rounded(span * 0.5, width * 0.4, 2, 2) + [middle, 0], pick(rng, _CARGO))
    elif kind == "tanker":
        canvas.polygon(rounded(span, width * 0.92, 14, 14) + [middle, 0], lit(cargo, 0.75))
        for share, light in ((0.7, 0.95), (0.42, 1.1), (0.16, 1.25)):
            canvas.polygon(rounded(span - 8, width * share, 5, 5) + [middle, 0], lit(cargo, light))
        for s in np.linspace(-x + 24, load_front - 20, 4):
            canvas.ellipse((float(s), 0), (6, 6), (70, 70, 72))
    elif kind == "flatbed":
        canvas.polygon(body, (74, 96, 118))
        for s in np.arange(-y + 8, y - 4, 8):
            canvas.line([(-x + 3, s), (load_front - 3, s)], (58, 76, 94), 1)
        at = -x + 8.0
        while at + 30 < load_front:
            size = float(rng.uniform(22, 40))
            if rng.random() < 0.75:
                crate = rounded(size - 4, width - float(rng.uniform(10, 20)), 1.5, 1.5) + [at + size / 2, 0]
                colour = pick(rng, _CARGO)
                canvas.polygon(crate, colour)
                canvas.line(crate, lit(colour, 0.6), 1, closed=True)
            at += size
    else:
        canvas.polygon(body, lit(cargo, 0.9))
        canvas.polygon(rounded(span - 9, width - 9, 2, 2) + [middle, 0], (48, 58, 70))
        for _ in range(26):
            at_x = float(rng.uniform(-x + 14, load_front - 14))
            at_y = float(rng.uniform(-y + 12, y - 12))
            tone = float(rng.uniform(0.7, 1.3))
            canvas.ellipse(
                (at_x, at_y), (float(rng.uniform(4, 9)), float(rng.uniform(4, 8))), lit((84, 112, 138), tone)
            )
    for side in (-1, 1):
        canvas.polygon(
            [(-x, side * (y - 12)), (-x, side * (y - 3)), (-x + 3, side * (y - 3)), (-x + 3, side * (y - 12))], _TAIL
        )
        canvas.polygon(
            [(x - 1, side * (y - 14)), (x - 2, side * (y - 7)), (x - 5, side * (y - 6)), (x - 4, side * (y - 14))],
            _LAMP,
        )
    _sheen(canvas, rng)
    return canvas, length

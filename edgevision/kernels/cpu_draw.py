"""What the device draws, in numpy: boxes and class colours in a picture's own memory, without letters.

`draw_boxes` is what drawing.py draws with OpenCV for a box without its label: a pen of w pixels covers whatever lies
within (w + 1) // 2 of the outline (a pen of 1 only the outline itself). `overlay` is cv2.addWeighted: the sum of the
products, one of them fused, rounded to even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.drawing import TINT, line_width, palette


def draw_boxes(image: NDArray[np.uint8], xyxy: NDArray[np.float32], class_id: NDArray[Any]) -> None:
    """Draw boxes into `image`, the first on top.

    Args:
        image: (h, w, 3) uint8, BGR; changed.
        xyxy: (n, 4) float32 corners in its pixels.
        class_id: (n,) integers.
    """
    height, width = image.shape[:2]
    line = line_width(width, height)
    reach = 0 if line == 1 else (line + 1) // 2
    # The last pixel inside the right and lower edge; boxes are continuous edges.
    outlines = np.rint(xyxy - np.array([0, 0, 1, 1], np.float32)).astype(np.int64)
    for (x1, y1, x2, y2), number in zip(outlines[::-1].tolist(), class_id[::-1].tolist(), strict=True):
        left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        columns = slice(max(left - reach, 0), max(right + reach + 1, 0))
        rows = slice(max(top - reach, 0), max(bottom + reach + 1, 0))
        region = image[rows, columns]
        y, x = np.indices(region.shape[:2])
        x, y = x + columns.start, y + rows.start
        outside_x, outside_y = np.maximum(left - x, x - right), np.maximum(top - y, y - bottom)
        near = outside_x.clip(0) ** 2 + outside_y.clip(0) ** 2 <= reach**2
        region[near & (np.maximum(outside_x, outside_y) >= -reach)] = palette()[number % 256]


def overlay(image: NDArray[np.uint8], class_map: NDArray[Any], plain: int | None = None) -> None:
    """Tint every pixel of `image` with its class's colour, but for those of class `plain`.

    Args:
        image: (h, w, 3) uint8, BGR; changed.
        class_map: (h, w) integers.
        plain: the class that stays as it is.
    """
    index = class_map.astype(np.int64) % 256
    products = palette()[index].astype(np.float32) * np.float32(TINT)
    # A product of two float32 is exact in float64.
    tinted = (image.astype(np.float64) * np.float32(1 - TINT) + products).astype(np.float32)
    tinted = np.rint(tinted)
    keep = np.zeros(index.shape, np.bool_) if plain is None else index == plain
    np.copyto(image, tinted.astype(np.uint8), where=~keep[:, :, None])

"""Results drawn on pictures: boxes with labels and points, a tint and a legend for every class of a segmentation, or
the best classes of a picture."""

from __future__ import annotations

import colorsys
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.optional import require
from edgevision.results import Classification, Detections, Result

TINT = 0.45  # share of a class's colour in the pixels of that class
_LEGEND_FRACTION = 0.005  # classes covering less stay out of the legend
_LEGEND_ROWS = 12
_BEST_CLASSES = 3
_POINT_CONFIDENCE = 0.5  # less certain points, of hidden joints for example, are left out
_GOLDEN = 0.6180339887498949  # steps of this keep any number of hues apart


def draw(image: NDArray[np.uint8], result: Result) -> NDArray[np.uint8]:
    """Draw `result` on a copy of `image`, (h, w, 3) uint8 BGR, in strokes and letters that suit its size."""
    cv2 = require("cv2", "drawing results")
    if isinstance(result, Detections):
        return _draw_boxes(cv2, image.copy(), result)
    if isinstance(result, Classification):
        return _draw_best(cv2, image.copy(), result)
    return _draw_classes(cv2, image, result.class_map, result.names, result.fractions())


@cache
def palette() -> NDArray[np.uint8]:
    """(256, 3) uint8 BGR: a colour for every class id (modulo 256), neighbours far apart."""
    colours = []
    for i in range(256):
        # Light and dark alternate, so that classes of similar hue still differ.
        hue, saturation, value = (0.08 + i * _GOLDEN) % 1.0, (0.95, 0.65, 0.95)[i % 3], (1.0, 1.0, 0.72)[i % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        colours.append((blue, green, red))
    return np.array(np.rint(np.array(colours) * 255), np.uint8)


def line_width(width: int, height: int) -> int:
    """Of lines in a picture of that size, pixels."""
    return max(1, round(min(width, height) / 360))


class _Pen:
    """Line width, letters and plates for a picture of one size."""

    def __init__(self, cv2: Any, image: NDArray[np.uint8]) -> None:
        self.cv2, self.image = cv2, image
        self.height, self.width = image.shape[:2]
        side = min(self.height, self.width)
        self.line = line_width(self.width, self.height)
        self.scale = max(0.4, side / 1400)
        self.weight = max(1, round(self.scale * 1.5))
        self.font = cv2.FONT_HERSHEY_SIMPLEX
        self.pad = max(2, round(5 * self.scale))

    def size_wh(self, text: str) -> tuple[int, int]:
        """Size of `text` with its plate, pixels."""
        (width, height), _ = self.cv2.getTextSize(text, self.font, self.scale, self.weight)
        # Letters like g and p hang below the base line by about a third of the height of a capital.
        return width + 2 * self.pad, height + height // 3 + 2 * self.pad

    def plate(self, text: str, left: int, top: int, colour: tuple[int, int, int]) -> None:
        """`text` on a plate of `colour`, moved inside the picture, in black or white, whichever reads better."""
        width, height = self.size_wh(text)
        left = max(0, min(left, self.width - width))
        top = max(0, min(top, self.height - height))
        self.cv2.rectangle(self.image, (left, top), (left + width - 1, top + height - 1), colour, -1)
        blue, green, red = colour
        ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 128 else (255, 255, 255)
        base = (left + self.pad, top + height - self.pad - (height - 2 * self.pad) // 4)
        self.cv2.putText(self.image, text, base, self.font, self.scale, ink, self.weight, self.cv2.LINE_AA)


def _draw_boxes(cv2: Any, image: NDArray[np.uint8], result: Detections) -> NDArray[np.uint8]:
    pen = _Pen(cv2, image)
    colours = [_colour(class_id) for class_id in result.class_id]
    # The last pixel inside the right and lower edge; boxes are continuous edges.
    corners = np.rint(result.xyxy - np.array([0, 0, 1, 1], np.float32)).astype(int).tolist()
    if result.mask is not None:
        for mask, colour in zip(reversed(result.mask), reversed(colours), strict=True):
            inside = image[mask]
            image[mask] = np.rint(inside * (1 - TINT) + np.array(colour) * TINT).astype(np.uint8)
    # Best last: it stays on top. Labels after all boxes, so that no line crosses a text.
    for (left, top, right, bottom), colour in zip(reversed(corners), reversed(colours), strict=True):
        cv2.rectangle(image, (left, top), (right, bottom), colour, pen.line)
    if result.keypoints is not None:
        for points, colour in zip(result.keypoints, colours, strict=True):
            for x, y, confidence in points.tolist():
                if confidence >= _POINT_CONFIDENCE:
                    cv2.circle(image, (round(x), round(y)), pen.line + 1, colour, -1, cv2.LINE_AA)
    for i in reversed(range(len(result))):
        text = f"{result.name(i)} {result.confidence[i]:.2f}"
        edge = pen.line // 2
        left, top = corners[i][0] - edge, corners[i][1] - edge - pen.size_wh(text)[1]
        pen.plate(text, left, top if top >= 0 else corners[i][1] + edge, colours[i])
    return image


def _draw_best(cv2: Any, image: NDArray[np.uint8], result: Classification) -> NDArray[np.uint8]:
    pen = _Pen(cv2, image)
    best = np.argsort(-result.scores, kind="stable").tolist()
    if result.xyxy is not None:
        left, top, right, bottom = np.rint(result.xyxy - np.array([0, 0, 1, 1], np.float32)).astype(int).tolist()
        cv2.rectangle(image, (left, top), (right, bottom), _colour(best[0]), pen.line)
    height = pen.pad
    for class_id, (name, score) in zip(best, result.top(_BEST_CLASSES), strict=False):
        text = f"{name} {score:.2f}"
        pen.plate(text, pen.pad, height, _colour(class_id))
        height += pen.size_wh(text)[1] + pen.pad
    return image


def _draw_classes(
    cv2: Any, image: NDArray[np.uint8], class_map: NDArray[Any], names: tuple[str, ...], fractions: dict[str, float]
) -> NDArray[np.uint8]:
    index = class_map if class_map.dtype == np.uint8 else (class_map % 256).astype(np.uint8)
    tinted: NDArray[np.uint8] = cv2.applyColorMap(index, palette()[:, None])
    cv2.addWeighted(image, 1 - TINT, tinted, TINT, 0, dst=tinted)
    background = names.index("background") if "background" in names else None
    if background is not None:
        cv2.copyTo(image, cv2.compare(index, background, cv2.CMP_EQ), tinted)
    pen = _Pen(cv2, tinted)
    top = pen.pad
    listed = [(name, share) for name, share in fractions.items() if share >= _LEGEND_FRACTION and name != "background"]
    for name, share in listed[:_LEGEND_ROWS]:
        class_id = names.index(name) if name in names else int(name)
        text = f"{name} {share:.0%}"
        pen.plate(text, pen.pad, top, _colour(class_id))
        top += pen.size_wh(text)[1] + pen.pad
    return tinted


def _colour(class_id: int) -> tuple[int, int, int]:
    blue, green, red = palette()[class_id % 256].tolist()
    return blue, green, red

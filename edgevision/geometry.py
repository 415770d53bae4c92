"""How a picture becomes a network input, and how boxes come back: letterbox and stretch with exact inverses.

Coordinates are continuous pixel edges: a picture of width w spans 0..w. A box in the input maps to the source by
subtracting the padding and dividing by the scale, per axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESIZE_MODES = ("stretch", "letterbox", "letterbox-topleft")


@dataclass(frozen=True)
class Placement:
    """Where a source picture lies inside a network input.

    Attributes:
        source_wh: size of the source picture, pixels.
        input_wh: size of the network input, pixels.
        content_wh: size of the resized picture inside the input, pixels.
        offset_xy: top-left corner of the resized picture inside the input, pixels.
    """

    source_wh: tuple[int, int]
    input_wh: tuple[int, int]
    content_wh: tuple[int, int]
    offset_xy: tuple[int, int]

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Input pixels per source pixel, per axis."""
        return self.content_wh[0] / self.source_wh[0], self.content_wh[1] / self.source_wh[1]

    def to_source(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map boxes (n, 4) from input pixels to source pixels, clipped to the source picture; a new array."""
        (sw, sh), (cw, ch) = self.source_wh, self.content_wh
        # In float64, so that the content's corners are the source's corners and only the result is rounded.
        boxes: NDArray[np.float64] = (xyxy - np.array(self.offset_xy * 2, np.float64)) * np.array(
            [sw / cw, sh / ch] * 2
        )
        np.clip(boxes, 0, np.array([sw, sh, sw, sh]), out=boxes)
        return boxes.astype(np.float32)

    def points_to_source(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map points (..., 2) from input pixels to source pixels; a new array, not clipped."""
        source, content = np.array(self.source_wh, np.float64), np.array(self.content_wh, np.float64)
        mapped: NDArray[np.float64] = (points - np.array(self.offset_xy, np.float64)) * (source / content)
        return mapped.astype(np.float32)

    def to_input(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map boxes (n, 4) from source pixels to input pixels; a new array."""
        boxes: NDArray[np.float64] = xyxy * np.array(self.scale_xy * 2, np.float64) + np.array(self.offset_xy * 2)
        return boxes.astype(np.float32)


def place(source_wh: tuple[int, int], input_wh: tuple[int, int], resize: str) -> Placement:
    """Place a source picture into an input.

    Args:
        source_wh: size of the source picture, pixels, both positive.
        input_wh: size of the network input, pixels.
        resize: one of RESIZE_MODES. `stretch` fills the input; `letterbox` keeps the aspect and centres
            (an odd rest goes to the bottom/right); `letterbox-topleft` keeps the aspect and pads bottom/right.
    """
    (sw, sh), (iw, ih) = source_wh, input_wh
    if sw <= 0 or sh <= 0:
        raise ValueError(f"a picture has positive width and height, got {source_wh}")
    if resize == "stretch":
        return Placement(source_wh, input_wh, input_wh, (0, 0))
    if resize not in RESIZE_MODES:
        raise ValueError(f"resize is one of {RESIZE_MODES}, got {resize!r}")
    ratio = min(iw / sw, ih / sh)
    cw, ch = max(1, min(iw, round(sw * ratio))), max(1, min(ih, round(sh * ratio)))
    offset = (0, 0) if resize == "letterbox-topleft" else ((iw - cw) // 2, (ih - ch) // 2)
    return Placement(source_wh, input_wh, (cw, ch), offset)


def xyxy_to_xywh(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 4) corners to left, top, width, height (COCO's form)."""
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def xywh_to_xyxy(xywh: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 4) left, top, width, height to corners."""
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def box_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of boxes (n, 4) with (m, 4), corners; (n, m). Empty unions give 0."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = np.prod(np.clip(bottom_right - top_left, 0, None), axis=2)
    area_a = np.prod(np.clip(a[:, 2:] - a[:, :2], 0, None), axis=1)
    area_b = np.prod(np.clip(b[:, 2:] - b[:, :2], 0, None), axis=1)
    union = area_a[:, None] + area_b[None, :] - intersection
    iou: NDArray[np.float32] = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return iou

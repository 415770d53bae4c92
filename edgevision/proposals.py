"""Boxes that may hold something, without a trained model: selective search (Uijlings et al., 2013)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import DependencyError, UsageError
from edgevision.optional import require

MODES = {
    "single": "switchToSingleStrategy",
    "fast": "switchToSelectiveSearchFast",
    "quality": "switchToSelectiveSearchQuality",
}
"""How many ways of joining are tried -> OpenCV's method for it."""


class SelectiveSearch:
    """Regions of one colour and texture, joined step by step, each with its box: a source of proposals for a cascade.

    "Selective Search for Object Recognition", International Journal of Computer Vision 104, 2013, as OpenCV's contrib
    modules have it (cv2.ximgproc.segmentation). It is thorough and slow: about half a second for a picture (`single`
    a tenth, `quality` two seconds), against milliseconds of a detector. OpenCV draws part of the regions' order anew
    each time, so where there are more boxes than `limit` it is not always the same ones that are left out. Call it from
    any thread.
    """

    def __init__(self, mode: str = "fast", *, longest_side: int = 400, least_side: int = 16, limit: int = 300) -> None:
        """
        Args:
            mode: one of MODES: how many ways of joining are tried.
            longest_side: pictures are made this small before the search, which takes time with their area.
            least_side: boxes with a side shorter than this, in pixels of the picture, are left out.
            limit: boxes per picture, those of the earliest regions first.

        Raises:
            UsageError: an argument is out of range.
            DependencyError: this OpenCV lacks the contrib modules.
        """
        if mode not in MODES or not (16 <= longest_side <= 16384 and least_side >= 1 and limit >= 1):
            raise UsageError(
                f"selective search takes a mode of {', '.join(MODES)}, a longest_side in 16..16384, a least_side and a "
                f"limit of at least 1; got {mode!r}, {longest_side}, {least_side}, {limit}"
            )
        self._mode, self._longest, self._least, self._limit = mode, longest_side, least_side, limit
        self._create = _selective_search()

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Boxes of a picture, each once.

        Args:
            image: (h, w, 3) uint8 BGR.

        Returns:
            (n, 4) float32 corners in its pixels.
        """
        import cv2

        high, wide = image.shape[:2]
        factor = min(1.0, self._longest / max(high, wide))
        small = (max(1, round(wide * factor)), max(1, round(high * factor)))
        shrunk = image if factor == 1 else cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        search = self._create()
        search.setBaseImage(np.ascontiguousarray(shrunk))
        getattr(search, MODES[self._mode])()
        xywh = np.asarray(search.process(), np.float32).reshape(-1, 4)
        scale = np.array([wide / small[0], high / small[1]], np.float32)
        corners = np.concatenate([xywh[:, :2] * scale, (xywh[:, :2] + xywh[:, 2:]) * scale], axis=1)
        large = (corners[:, 2:] - corners[:, :2] >= self._least).all(axis=1)
        chosen: NDArray[np.float32] = corners[large][: self._limit]
        return chosen


def _selective_search() -> Any:
    cv2 = require("cv2", "selective search")
    segmentation = getattr(getattr(cv2, "ximgproc", None), "segmentation", None)
    create = getattr(segmentation, "createSelectiveSearchSegmentation", None)
    if create is None:
        raise DependencyError(
            "selective search is in OpenCV's contrib modules, which this OpenCV does not have: "
            "pip uninstall opencv-python-headless, then pip install opencv-contrib-python-headless; or propose boxes "
            "with a detector's bundle"
        )
    return create

"""NV12 to BGR on the host.

BT.601 has the bits of OpenCV's COLOR_YUV2BGR_NV12, as on a GPU (preprocess.cu). OpenCV has no BT.709: its planes become
those of BT.601 first, which rounds twice and moves levels by up to 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.nv12 import Nv12Picture
from edgevision.optional import require

# BT.601's luma, Cb and Cr from those of the same colour in BT.709, all in limited range: 709's luma, and these parts
# of its Cb and Cr. Source: ITU-R BT.601 and BT.709, the one's matrix times the other's inverse.
_LUMA_OF_709, _CB_OF_709, _CR_OF_709 = (0.0993117, 0.1916996), (0.9898538, -0.1106525), (-0.0724530, 0.9833978)


def nv12_picture(planes: NDArray[np.uint8], pixel_format: str = "nv12") -> Nv12Picture:
    """A picture of these planes, (h * 3 / 2, w) uint8: `nv12` (BT.601) or `nv12-709`, limited range.

    Raises:
        UsageError: the planes are not of that shape, or there is no such format.
    """
    return Nv12Picture(planes, pixel_format, bgr_of)


def bgr_of(planes: NDArray[np.uint8], pixel_format: str) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 BGR."""
    cv2: Any = require("cv2", "pictures in NV12")
    if pixel_format == "nv12-709":
        planes = _bt601(cv2, planes)
    bgr: NDArray[np.uint8] = cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_NV12)
    return bgr


def _bt601(cv2: Any, planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The planes of BT.601 for a picture of BT.709."""
    height, width, result = planes.shape[0] // 3 * 2, planes.shape[1], np.empty_like(planes)
    cb, cr = cv2.split(planes[height:].reshape(height // 2, width // 2, 2))

    def mixed(parts: tuple[float, float]) -> NDArray[np.uint8]:
        out: NDArray[np.uint8] = cv2.addWeighted(cb, parts[0], cr, parts[1], 128 * (1 - sum(parts)))
        return out

    more = mixed(_LUMA_OF_709)
    more = cv2.merge([more, more]).reshape(height // 2, width)
    for row in (0, 1):
        cv2.addWeighted(planes[row:height:2], 1, more, 1, -128, dst=result[row:height:2])
    cv2.merge([mixed(_CB_OF_709), mixed(_CR_OF_709)], dst=result[height:].reshape(height // 2, width // 2, 2))
    return result

"""Pictures as decoders and cameras have them: a plane of luma, then one of Cb, Cr pairs at half the width and height.

Half the bytes of BGR, and what a GPU's preprocessing takes as it is. Limited range, of BT.601 (`nv12`) or BT.709
(`nv12-709`), with one sample of chroma shared by four pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError

NV12_FORMATS = ("nv12", "nv12-709")


def is_nv12(pixel_format: str) -> bool:
    """Whether a picture of this format has two planes."""
    return pixel_format in NV12_FORMATS


class Nv12Picture:
    """A picture on the host, with even sides.

    Attributes:
        planes: (h * 3 / 2, w) uint8, C-contiguous: the luma's rows, then those of Cb and Cr in turn.
        pixel_format: one of NV12_FORMATS.
    """

    def __init__(
        self,
        planes: NDArray[np.uint8],
        pixel_format: str,
        to_bgr: Callable[[NDArray[np.uint8], str], NDArray[np.uint8]],
    ) -> None:
        """`kernels.cpu_nv12.nv12_picture` makes one with the right conversion.

        Args:
            to_bgr: gives (h, w, 3) uint8 BGR from the planes and the format.

        Raises:
            UsageError: the planes are not of that shape, or there is no such format.
        """
        if not is_nv12(pixel_format):
            raise UsageError(f"a picture of two planes is one of {', '.join(NV12_FORMATS)}, got {pixel_format!r}")
        flat = planes.dtype == np.uint8 and planes.ndim == 2 and planes.flags.c_contiguous
        if not flat or planes.shape[0] % 3 or planes.shape[1] % 2 or not planes.size:
            raise UsageError(
                f"nv12 is a C-contiguous (h * 3 / 2, w) uint8 array, h and w even; got {planes.shape} of {planes.dtype}"
            )
        self.planes, self.pixel_format, self._to_bgr = planes, pixel_format, to_bgr
        self._bgr: NDArray[np.uint8] | None = None

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.planes.shape[1], self.planes.shape[0] // 3 * 2

    def download(self) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 BGR, made once, for those who need it."""
        if self._bgr is None:
            self._bgr = self._to_bgr(self.planes, self.pixel_format)
        return self._bgr

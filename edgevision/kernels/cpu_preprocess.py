"""A BGR picture becomes the network's input tensor, with OpenCV and no float arithmetic per pixel.

The picture is resized into a kept uint8 buffer; a uint8 value has only 256 normalised values, so `(x - mean) / std`
is a table looked up straight into the padded tensor. OpenCV's INTER_LINEAR is the definition of the resize, in
both directions: it is what the training pipelines of the supported families use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.geometry import Placement, place
from edgevision.manifest import Preprocess
from edgevision.optional import require

# OpenCV keeps picture coordinates in 16 bits.
_MAX_SIDE = 32767


class Preprocessor:
    """Writes pictures into tensors as one `Preprocess` says. Has scratch memory: one instance per worker.

    Attributes:
        spec: what it does.
        shape: of one input tensor, (1, 3, h, w) or (1, h, w, 3).
        dtype: float32 or uint8.
    """

    def __init__(self, spec: Preprocess) -> None:
        self._cv2: Any = require("cv2", "preprocessing pictures")
        self.spec = spec
        width, height = spec.input_wh
        self.shape = (1, 3, height, width) if spec.layout == "nchw" else (1, height, width, 3)
        self.dtype: np.dtype[Any] = np.dtype(spec.dtype)
        # Flat, so that every content size (never larger than the input) is a view of them.
        self._small = np.empty(height * width * 3, np.uint8)
        self._planes = np.empty(height * width * 3, np.uint8)
        mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
        self._table = (np.arange(256, dtype=np.float32)[:, None] - mean) / std
        self._pad = (np.float32(spec.pad_value) - mean) / std
        if spec.dtype == "uint8":
            self._pad = np.full(3, round(spec.pad_value), np.uint8)
        self._placement: Placement | None = None
        self._out: NDArray[Any] | None = None

    def __call__(self, image: NDArray[np.uint8], out: NDArray[Any]) -> Placement:
        """Write `image` into `out` and say where it lies there.

        Args:
            image: (h, w, 3) uint8, BGR.
            out: (3, h, w) or (h, w, 3) of `dtype`, C-contiguous: one picture's slice of an input tensor. The padding
                is written when `out` or the placement changes, so do not touch it between calls.

        Raises:
            UsageError: `image` is not a BGR picture, or `out` does not fit.
        """
        check_picture(image)
        source_wh = (image.shape[1], image.shape[0])
        if out is not self._out or self._placement is None or self._placement.source_wh != source_wh:
            self._prepare(source_wh, out)
        assert self._placement is not None
        small = self._resized(image, self._placement)
        if self.spec.layout == "nchw":
            self._write_planes(small)
        else:
            self._write_pixels(small)
        return self._placement

    def _prepare(self, source_wh: tuple[int, int], out: NDArray[Any]) -> None:
        """Pad `out` and take the views that the next pictures of this size are written through."""
        if out.shape != self.shape[1:] or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise UsageError(
                f"the output is one C-contiguous picture {self.shape[1:]} {self.dtype}, got {out.shape} {out.dtype}"
            )
        placement = place(source_wh, self.spec.input_wh, self.spec.resize)
        (cw, ch), (ox, oy) = placement.content_wh, placement.offset_xy
        planar = self.spec.layout == "nchw"
        if (cw, ch) != self.spec.input_wh:
            out[...] = self._pad[:, None, None] if planar else self._pad
        self._resize_buffer = self._small[: ch * cw * 3].reshape(ch, cw, 3)
        self._plane_buffers = list(self._planes[: ch * cw * 3].reshape(3, ch, cw))
        content = out[:, oy : oy + ch, ox : ox + cw] if planar else out[oy : oy + ch, ox : ox + cw]
        self._content = content
        # Where each of the picture's channels B, G, R goes.
        order = (2, 1, 0) if self.spec.color == "rgb" else (0, 1, 2)
        self._targets = [(content[c], self._table[:, c].copy()) for c in order] if planar else []
        self._placement, self._out = placement, out

    def _resized(self, image: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
        if placement.content_wh == placement.source_wh:
            return image
        return self._cv2.resize(  # type: ignore[no-any-return]
            image, placement.content_wh, dst=self._resize_buffer, interpolation=self._cv2.INTER_LINEAR
        )

    def _write_planes(self, small: NDArray[np.uint8]) -> None:
        self._cv2.split(small, self._plane_buffers)
        for plane, (target, table) in zip(self._plane_buffers, self._targets, strict=True):
            if self.dtype == np.uint8:
                target[...] = plane
            else:
                self._cv2.LUT(plane, table, dst=target)

    def _write_pixels(self, small: NDArray[np.uint8]) -> None:
        if self.spec.color == "rgb":
            swapped = self._planes[: small.size].reshape(small.shape)
            small = self._cv2.cvtColor(small, self._cv2.COLOR_BGR2RGB, dst=swapped)
        if self.dtype == np.uint8:
            self._content[...] = small
        else:
            self._cv2.LUT(small, self._table[:, None, :], dst=self._content)


def check_picture(image: Any) -> None:
    """Refuse what is not a BGR picture.

    Raises:
        UsageError: `image` is not an (h, w, 3) uint8 array with sides in 1..32767.
    """
    if not isinstance(image, np.ndarray):
        raise UsageError(f"a picture is a numpy array (h, w, 3) uint8, BGR; got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UsageError(
            f"a picture is (h, w, 3) uint8, BGR; got shape {image.shape} of {image.dtype}; "
            "grey pictures: cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), four channels: image[:, :, :3]"
        )
    if not all(1 <= side <= _MAX_SIDE for side in image.shape[:2]):
        raise UsageError(f"a picture's sides are 1 to {_MAX_SIDE} pixels, got {image.shape[1]}x{image.shape[0]}")

"""A BGR picture becomes the network's input tensor, with OpenCV and no float arithmetic per pixel.

The picture is resized into a kept uint8 buffer; a uint8 value has only 256 normalised values, so `(x - mean) / std`
is a table looked up straight into the padded tensor. Where the network takes BGR levels in rows, the resize itself
writes into that. OpenCV's INTER_LINEAR is the definition of the resize, in
both directions: it is what the training pipelines of the supported families use. A network of one channel gets the
picture turned grey (BT.601, OpenCV's COLOR_BGR2GRAY) before the resize, as those pipelines read it from the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.frame import check_picture
from edgevision.geometry import Placement, place
from edgevision.manifest import Preprocess
from edgevision.optional import require


class Preprocessor:
    """Writes pictures into tensors as one `Preprocess` says. Has scratch memory: one instance per worker.

    Attributes:
        spec: what it does.
        shape: of one input tensor, (1, channels, h, w) or (1, h, w, channels).
        dtype: float32 or uint8.
    """

    def __init__(self, spec: Preprocess) -> None:
        self._cv2: Any = require("cv2", "preprocessing pictures")
        self.spec = spec
        width, height = spec.input_wh
        self.shape = (1, *spec.input_shape)
        self.dtype: np.dtype[Any] = np.dtype(spec.dtype)
        # Flat, so that every content size (never larger than the input) is a view of them.
        self._small = np.empty(height * width * 3, np.uint8)
        self._spare = np.empty(height * width * 3, np.uint8)
        mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
        # Normalised value of every level, (256, 1, channels) in the network's order, and each channel's by itself.
        self._table = (np.arange(256, dtype=np.float32)[:, None, None] - mean) / std
        self._tables = [self._table[:, 0, channel].copy() for channel in range(spec.channels)]
        # Where each of the picture's channels B, G, R goes.
        self._order = (2, 1, 0) if spec.color == "rgb" else (0, 1, 2)
        self._pad = (np.float32(spec.pad_value) - mean) / std
        if spec.dtype == "uint8":
            self._pad = np.full(spec.channels, round(spec.pad_value), np.uint8)
        self._target: _Target | None = None

    def __call__(self, image: NDArray[np.uint8], out: NDArray[Any]) -> Placement:
        """Write `image` into `out` and say where it lies there.

        Args:
            image: (h, w, 3) uint8, BGR.
            out: (channels, h, w) or (h, w, channels) of `dtype`, C-contiguous: one picture's slice of an input tensor.
                The padding is written when `out` or the placement changes, so do not touch it between calls.

        Raises:
            UsageError: `image` is not a BGR picture, or `out` does not fit.
        """
        check_picture(image)
        source_wh = (image.shape[1], image.shape[0])
        target = self._target
        if target is None or target.out is not out or target.placement.source_wh != source_wh:
            target = self._target = self._prepare(source_wh, out)
        if target.grey is not None:
            image = self._cv2.cvtColor(image, self._cv2.COLOR_BGR2GRAY, dst=target.grey)
        small = image
        if target.placement.content_wh != source_wh:
            small = self._cv2.resize(
                image, target.placement.content_wh, dst=target.small, interpolation=self._cv2.INTER_LINEAR
            )
        if target.grey is not None:
            self._write_grey(small, target)
        elif self.spec.layout == "nchw":
            self._write_planes(small, target)
        else:
            self._write_pixels(small, target)
        return target.placement

    def _prepare(self, source_wh: tuple[int, int], out: NDArray[Any]) -> _Target:
        """Pad `out` and take the views that the next pictures of this size are written through."""
        if out.shape != self.shape[1:] or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise UsageError(
                f"the output is one C-contiguous picture {self.shape[1:]} {self.dtype}, got {out.shape} {out.dtype}"
            )
        placement = place(source_wh, self.spec.input_wh, self.spec.resize)
        (cw, ch), (ox, oy) = placement.content_wh, placement.offset_xy
        pixels = out.transpose(1, 2, 0) if self.spec.layout == "nchw" else out
        if (cw, ch) != self.spec.input_wh:
            pixels[...] = self._pad
        content = pixels[oy : oy + ch, ox : ox + cw]
        if self.spec.channels == 1:
            grey = np.empty(source_wh[::-1], np.uint8)
            small = content[:, :, 0] if self.dtype == np.uint8 else self._small[: ch * cw].reshape(ch, cw)
            return _Target(out, placement, content, small, small, grey)
        direct = (self.spec.layout, self.spec.dtype, self.spec.color) == ("nhwc", "uint8", "bgr")
        return _Target(
            out=out,
            placement=placement,
            content=content,
            small=content if direct else self._small[: ch * cw * 3].reshape(ch, cw, 3),
            spare=self._spare[: ch * cw * 3].reshape(ch, cw, 3),
        )

    def _write_planes(self, small: NDArray[np.uint8], target: _Target) -> None:
        planes = self._cv2.split(small, list(target.spare.reshape(3, *small.shape[:2])))
        for plane, channel in zip(planes, self._order, strict=True):
            view = target.content[:, :, channel]
            if self.dtype == np.uint8:
                view[...] = plane
            else:
                self._cv2.LUT(plane, self._tables[channel], dst=view)

    def _write_grey(self, small: NDArray[np.uint8], target: _Target) -> None:
        if self.dtype != np.uint8:
            self._cv2.LUT(small, self._tables[0], dst=target.content[:, :, 0])
        elif small is not target.small:
            target.content[:, :, 0] = small

    def _write_pixels(self, small: NDArray[np.uint8], target: _Target) -> None:
        levels = self.dtype == np.uint8
        if self.spec.color == "rgb":
            ordered = target.content if levels else target.spare
            small = self._cv2.cvtColor(small, self._cv2.COLOR_BGR2RGB, dst=ordered)
        if not levels:
            self._cv2.LUT(small, self._table, dst=target.content)
        elif small is not target.content:
            target.content[...] = small


@dataclass(frozen=True)
class _Target:
    """Where pictures of one size go.

    Attributes:
        out: the caller's array.
        placement: of the picture in it.
        content: (content h, content w, channels) view of `out` without the padding, in the network's channel order.
        small: what the picture is resized into, a uint8 buffer of that shape (without an axis for a single channel), or
            `content` itself.
        spare: another such buffer.
        grey: of the picture's size, where the network has one channel.
    """

    out: NDArray[Any]
    placement: Placement
    content: NDArray[Any]
    small: NDArray[np.uint8]
    spare: NDArray[np.uint8]
    grey: NDArray[np.uint8] | None = None

"""Results drawn on pictures in device memory, in BGR or RGB; NV12 ones are left as they are (draw.cu, semantic.cu)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgevision.drawing import TINT, palette
from edgevision.kernels.resident import resident

if TYPE_CHECKING:
    from edgevision.cuda import Buffer, Device, Module, Stream

_GRID = (64, 64)  # blocks of the overlay, for pictures of whatever size
_OVERLAY_BLOCK = (32, 8, 1)
_BOX_BLOCK = (32, 4, 1)


class CudaDraw:
    """Draws a batch's boxes, in the line width and the class colours of drawing.py, the best box on top."""

    def __init__(self, device: Device, module: Module, limit: int, batch: int = 1) -> None:
        """
        Args:
            device: where the pictures are.
            module: the kernels, from compile.load_kernels.
            limit: boxes for each picture that the result has room for.
            batch: pictures at once.

        Raises:
            DeviceError: the device refuses.
        """
        self._kernel = module.kernel("draw_boxes", "PPPPPi")
        self._limit, self._batch = limit, batch
        self._colours = _upload_palette(device)

    def __call__(
        self, pictures_address: int, counts_address: int, boxes_address: int, classes_address: int, stream: Stream
    ) -> None:
        """Draw into the pictures.

        Args:
            pictures_address: the batch's records, device memory.
            counts_address: int32 [batch], boxes of each picture.
            boxes_address: float32 [batch, limit, 4] corners in source pixels, best first.
            classes_address: int32 [batch, limit].
            stream: where the launch goes.

        Raises:
            DeviceError: the device refuses.
        """
        self._kernel(
            stream,
            (self._limit, 1, self._batch),
            _BOX_BLOCK,
            pictures_address,
            counts_address,
            boxes_address,
            classes_address,
            self._colours.address,
            self._limit,
        )

    def close(self) -> None:
        """Free the device memory; may be called twice."""
        self._colours.close()


class CudaOverlay:
    """Tints a batch's pictures with the colours of their classes, as drawing.py does."""

    def __init__(self, device: Device, module: Module, classes: int, plain: int | None = None, batch: int = 1) -> None:
        """
        Args:
            device: where the pictures are.
            module: the kernels, from compile.load_kernels.
            classes: how many; says which type the maps have, see CudaSemantic.
            plain: the class whose pixels stay as they are, say the background.
            batch: pictures at once.

        Raises:
            DeviceError: the device refuses.
        """
        self._kernel = module.kernel("semantic_overlay_1" if classes <= 255 else "semantic_overlay_4", "PPPiff")
        self._plain = -1 if plain is None else plain
        self._batch = batch
        self._colours = _upload_palette(device)

    def __call__(self, maps_address: int, pictures_address: int, stream: Stream) -> None:
        """Draw into the pictures.

        Args:
            maps_address: CudaSemantic's result, device memory.
            pictures_address: the batch's records, device memory.
            stream: where the launch goes.

        Raises:
            DeviceError: the device refuses.
        """
        self._kernel(
            stream,
            (*_GRID, self._batch),
            _OVERLAY_BLOCK,
            maps_address,
            pictures_address,
            self._colours.address,
            self._plain,
            1 - TINT,
            TINT,
        )

    def close(self) -> None:
        """Free the device memory; may be called twice."""
        self._colours.close()


def _upload_palette(device: Device) -> Buffer:
    """(256, 4) uint8: blue, green, red of every class number, and a zero."""
    return resident(device, np.pad(palette(), ((0, 0), (0, 1))))

"""Instance masks on the GPU: cpu_masks.assemble for the detections that CudaNms left there, in one launch.

Masks have the size of the source pictures and one bit a pixel: a hundred of 1920 x 1080 take 26 MB, and only those of
the detections found need to cross to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.kernels.cuda_nms import Layout

if TYPE_CHECKING:
    from edgevision.cuda import Module, Stream

MAX_PROTOTYPES = 256
_THREADS = 256  # masks.cu's
_GRID = 64, 8  # tiles and detections side by side; each block goes on to the next
_WORD_BITS = 32


class CudaMasks:
    """Assembles the masks of a batch, each picture's at its own size."""

    def __init__(
        self, module: Module, *, boxes: int, prototypes: tuple[int, int, int], input_wh: tuple[int, int], result: Layout
    ) -> None:
        """
        Args:
            module: from load_kernels.
            boxes: the network's boxes per picture.
            prototypes: (m, h, w) of a picture.
            input_wh: size of the network's input.
            result: CudaNms.result, for the batch and the number of detections.

        Raises:
            UsageError: there are more prototypes than the kernel holds.
        """
        count, cells_h, cells_w = prototypes
        if count > MAX_PROTOTYPES:
            raise UsageError(f"masks are made of up to {MAX_PROTOTYPES} prototypes, got {count}")
        batch, self._limit = result.shape("detection_scores")
        self._result = result
        self._assemble = module.kernel("masks_assemble", "PPPPPPiiiiiiiP")
        self._grid = _GRID[0], min(self._limit, _GRID[1]), batch
        self._sizes = boxes, count, cells_w, cells_h, *input_wh, self._limit

    def __call__(
        self,
        coefficients_address: int,
        prototypes_address: int,
        pictures_address: int,
        result_address: int,
        masks_address: int,
        stream: Stream,
    ) -> None:
        """Queue one batch. Addresses are in device memory, on boundaries of 16 bytes.

        Args:
            coefficients_address: (b, n, m) float32.
            prototypes_address: (b, m, h, w) float32.
            pictures_address: (b,) of kernels.picture.PICTURE.
            result_address: CudaNms's result.
            masks_address: where the masks go: `result_bytes` of the pictures' sizes.
            stream: to queue on.
        """
        count, boxes, _, _, rows = self._result.addresses(result_address)
        self._assemble(
            *(stream, self._grid, (_THREADS, 1, 1), coefficients_address, prototypes_address, pictures_address),
            *(count, boxes, rows, *self._sizes, masks_address),
        )

    def result_bytes(self, sizes_wh: Sequence[tuple[int, int]]) -> int:
        """Room for the masks of pictures of these sizes: as many each as there may be detections."""
        return self._limit * sum(mask_bytes(size_wh) for size_wh in sizes_wh)

    def spans(self, sizes_wh: Sequence[tuple[int, int]], counts: Sequence[int]) -> list[slice]:
        """Which bytes of the result are the masks of each picture's detections, for `unpack`."""
        spans, start = [], 0
        for size_wh, count in zip(sizes_wh, counts, strict=True):
            spans.append(slice(start, start + count * mask_bytes(size_wh)))
            start += self._limit * mask_bytes(size_wh)
        return spans


def mask_bytes(size_wh: tuple[int, int]) -> int:
    """Bytes of one mask: rows of whole words."""
    return _WORD_BITS // 8 * -(-size_wh[0] // _WORD_BITS) * size_wh[1]


def unpack(packed: NDArray[np.uint8], xyxy: NDArray[np.float32], size_wh: tuple[int, int]) -> NDArray[np.bool_]:
    """One picture's masks, a new (k, h, w) bool, from their bytes and boxes (k, 4).

    What lies outside of the boxes is not touched: fresh zeros cost nothing until they are looked at.
    """
    width, height = size_wh
    packed = packed.reshape(len(xyxy), height, mask_bytes(size_wh) // height)
    masks = np.zeros((len(xyxy), height, width), np.bool_)
    first = np.floor(xyxy[:, :2]).clip(0, size_wh).astype(np.int64).tolist()
    stop = np.ceil(xyxy[:, 2:]).clip(0, size_wh).astype(np.int64).tolist()
    for mask, bits, (left, top), (right, bottom) in zip(masks, packed, first, stop, strict=True):
        left = left // 8 * 8
        inside = np.unpackbits(bits[top:bottom, left // 8 : -(-right // 8)], axis=1, bitorder="little")
        mask[top:bottom, left:right] = inside[:, : max(0, right - left)]
    return masks

"""Instance masks on the GPU: cpu_masks.assemble for the detections that CudaNms left there, in one launch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevision.errors import UsageError
from edgevision.kernels.cuda_nms import Layout

if TYPE_CHECKING:
    from edgevision.cuda import Module, Stream

_THREADS, _TILE_WH, _MAX_PROTOTYPES = 256, (128, 8), 256  # masks.cu's
_AT_ONCE = 16  # detections side by side; each block goes on to the next


class CudaMasks:
    """Assembles the masks of a batch of one size."""

    def __init__(
        self,
        module: Module,
        *,
        boxes: int,
        prototypes: tuple[int, int, int],
        input_wh: tuple[int, int],
        size_wh: tuple[int, int],
        result: Layout,
    ) -> None:
        """
        Args:
            module: from load_kernels.
            boxes: the network's boxes per picture.
            prototypes: (m, h, w) of a picture.
            input_wh: size of the network's input.
            size_wh: size of the masks, which cover the source picture.
            result: CudaNms.result, for the batch and the number of detections.

        Raises:
            UsageError: there are more prototypes than the kernel holds.
        """
        count, cells_h, cells_w = prototypes
        if count > _MAX_PROTOTYPES:
            raise UsageError(f"masks are made of up to {_MAX_PROTOTYPES} prototypes, got {count}")
        batch, limit = result.shape("detection_scores")
        self._result = result
        self._shape = batch, limit, size_wh[1], size_wh[0]
        self._assemble = module.kernel("masks_assemble", "PPPPPPiiiiiiiiiP")
        tiles = -(-size_wh[0] // _TILE_WH[0]) * -(-size_wh[1] // _TILE_WH[1])
        self._grid = tiles, min(limit, _AT_ONCE), batch
        self._sizes = boxes, count, cells_w, cells_h, *input_wh, *size_wh, limit

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(b, k, h, w) of the masks, one byte a pixel, 0 or 1; what lies behind a picture's last is undefined."""
        return self._shape

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
            masks_address: where the masks go.
            stream: to queue on.
        """
        count, boxes, _, _, rows = self._result.addresses(result_address)
        self._assemble(
            *(stream, self._grid, (_THREADS, 1, 1), coefficients_address, prototypes_address, pictures_address),
            *(count, boxes, rows, *self._sizes, masks_address),
        )

"""What belongs to the detections that CudaNms left on the GPU, gathered there: keypoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevision.kernels.cuda_nms import Layout

if TYPE_CHECKING:
    from edgevision.cuda import Module, Stream

_THREADS = 256


class CudaRows:
    """Picks the detections' rows of a batch, in one launch: values[b][detection_rows[b]]."""

    def __init__(self, module: Module, *, boxes: int, width: int, result: Layout) -> None:
        """
        Args:
            module: from load_kernels.
            boxes: the network's boxes per picture.
            width: values of a box.
            result: CudaNms.result, for the batch and the number of detections.
        """
        batch, limit = result.shape("detection_scores")
        self._result, self._sizes = result, (boxes, width, limit)
        self._gather = module.kernel("rows_gather", "PPPiiiP")
        self._grid = -(-limit * width // _THREADS), batch, 1

    def __call__(self, values_address: int, result_address: int, rows_address: int, stream: Stream) -> None:
        """Queue one batch. Addresses are in device memory.

        Args:
            values_address: (b, n, width) float32.
            result_address: CudaNms's result.
            rows_address: where the (b, k, width) float32 go, zero behind each picture's last.
            stream: to queue on.
        """
        count, *_, rows = self._result.addresses(result_address)
        self._gather(stream, self._grid, (_THREADS, 1, 1), values_address, count, rows, *self._sizes, rows_address)

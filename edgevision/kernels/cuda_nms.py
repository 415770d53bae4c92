"""Detections on the GPU from normal-form boxes and scores: cpu_nms.keep and the way back to source pixels, bit for bit.

Fixed launches without a word from the host, so a CUDA graph can hold them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.manifest import Nms

if TYPE_CHECKING:
    from edgevision.cuda import Device, Module, Stream

_READERS, _TILE, _THREADS = 256, 2048, 1024  # nms.cu's
_ALIGNMENT = 256
_MOST_SCORES = 1 << 31


class Layout:
    """Arrays that lie in one piece of memory, each on a boundary of 256 bytes.

    Attributes:
        offsets: of each array, in bytes.
        nbytes: of all.
    """

    def __init__(self, **arrays: tuple[tuple[int, ...], str]) -> None:
        """Each array's shape and dtype, by name."""
        self.offsets: dict[str, int] = {}
        self._arrays, self.nbytes = arrays, 0
        for name, (shape, dtype) in arrays.items():
            self.offsets[name] = self.nbytes
            nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            self.nbytes += -(-nbytes // _ALIGNMENT) * _ALIGNMENT

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one array."""
        return self._arrays[name][0]

    def views(self, memory: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The arrays in (nbytes,) uint8; no copy."""
        return {
            name: memory[offset : offset + int(np.prod(shape)) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
            for (name, (shape, dtype)), offset in zip(self._arrays.items(), self.offsets.values(), strict=True)
        }

    def addresses(self, base: int) -> list[int]:
        """Of each array, in order, where the memory begins at `base`."""
        return [base + offset for offset in self.offsets.values()]


class DetectionArrays(NamedTuple):
    """Detections of a batch in fixed-size arrays, zero behind each picture's last.

    Attributes:
        num_detections: (b,) int32.
        detection_boxes: (b, k, 4) float32 corners in source pixels, best first.
        detection_scores: (b, k) float32.
        detection_classes: (b, k) int32.
        detection_rows: (b, k) int32, the network's box that each is: where its mask coefficients and keypoints are.
    """

    num_detections: NDArray[np.int32]
    detection_boxes: NDArray[np.float32]
    detection_scores: NDArray[np.float32]
    detection_classes: NDArray[np.int32]
    detection_rows: NDArray[np.int32]


class CudaNms:
    """The postprocess of one network's detections. Has scratch memory: one instance per stream.

    Attributes:
        result: where each of DetectionArrays lies in the result.
    """

    def __init__(
        self, device: Device, module: Module, boxes: int, nms: Nms, thresholds: NDArray[np.float32], batch: int
    ) -> None:
        """
        Args:
            device: holds scratch memory.
            module: from load_kernels.
            boxes: the network's boxes per picture.
            nms: the settings; suppression "none" takes `class_ids`.
            thresholds: (c,) float32, not negative; least score per class, infinity leaves a class out.
            batch: pictures per call.

        Raises:
            UsageError: the batch's scores are too many to be counted in 31 bits, or a threshold is negative.
            DeviceError: the GPU's memory does not suffice.
        """
        classes, limit = len(thresholds), nms.max_detections
        final = nms.suppression == "none"
        columns = 1 if final else classes
        scores = boxes * columns
        if batch * scores >= _MOST_SCORES:
            raise UsageError(
                f"{batch} x {boxes} boxes with {columns} scores each exceed {_MOST_SCORES}; use less batch"
            )
        if not (thresholds >= 0).all():
            raise UsageError(f"thresholds are not negative, got {thresholds.min()}")
        best_only = not nms.multi_label and columns > 1
        capacity = boxes if best_only else scores
        self.result = Layout(
            num_detections=((batch,), "i4"),
            detection_boxes=((batch, limit, 4), "f4"),
            detection_scores=((batch, limit), "f4"),
            detection_classes=((batch, limit), "i4"),
            detection_rows=((batch, limit), "i4"),
        )
        scratch = Layout(
            thresholds=((classes,), "f4"),
            counts=((batch,), "u4"),
            candidates=((batch, capacity), "u4"),
            kept_boxes=((batch, limit, 4), "f4"),
            kept_classes=((batch, limit), "i4"),
            kept_positions=((batch, limit), "u4"),
        )
        span = max(1, _TILE // columns) * columns if best_only else _TILE
        self._collect = module.kernel("nms_collect", "PPPPifIIiIIIPP")
        self._suppress = module.kernel("nms_suppress", "PPPPIIifIIPPPPPPPPPP")
        self._collect_grid, self._suppress_grid = (-(-scores // span), batch, 1), (batch, 1, 1)
        self._device, self._memory = device, device.allocate(scratch.nbytes)
        least, self._counts, candidates, *kept = scratch.addresses(self._memory.address)
        self._counts_nbytes = 4 * batch
        self._collect_arguments = (
            *(least, classes, float(thresholds.min(initial=np.inf)), boxes, columns, int(best_only)),
            *(span, batch * scores, capacity, self._counts, candidates),
        )
        iou_threshold = float("inf") if final else nms.iou_threshold
        self._suppress_arguments = (
            *(boxes, columns, int(nms.class_agnostic), iou_threshold, limit, capacity, self._counts, candidates, *kept),
        )
        try:
            stream = device.stream()
            try:
                device.upload(least, np.ascontiguousarray(thresholds, np.float32), stream)
                stream.synchronize()
            finally:
                stream.close()
        except BaseException:
            self.close()
            raise

    @property
    def result_nbytes(self) -> int:
        """Bytes of one call's result."""
        return self.result.nbytes

    def split(self, result: NDArray[np.uint8]) -> DetectionArrays:
        """Views of a result (result_nbytes,) on the host; no copy."""
        return DetectionArrays(**self.result.views(result))

    def __call__(
        self,
        boxes_address: int,
        scores_address: int,
        pictures_address: int,
        result_address: int,
        stream: Stream,
        class_ids_address: int = 0,
    ) -> None:
        """Queue one batch. Addresses are in device memory, on boundaries of 16 bytes.

        Args:
            boxes_address: (b, n, 4) float32 corners in input pixels.
            scores_address: (b, n, c) float32; with suppression "none" (b, n).
            pictures_address: (b,) of kernels.picture.PICTURE; a slot without a picture gives no detections.
            result_address: where the result goes, result_nbytes.
            stream: to queue on.
            class_ids_address: (b, n) int32, with suppression "none" only.
        """
        given = scores_address, boxes_address, class_ids_address
        self._device.fill(self._counts, 0, self._counts_nbytes, stream)
        self._collect(stream, self._collect_grid, (_READERS, 1, 1), *given, *self._collect_arguments)
        self._suppress(
            *(stream, self._suppress_grid, (_THREADS, 1, 1), *given, pictures_address),
            *self._suppress_arguments,
            *self.result.addresses(result_address),
        )

    def close(self) -> None:
        """Free the scratch memory; may be called twice."""
        self._memory.close()

"""The last stage of tasks with boxes on the GPU: NMS, keypoints and instance masks; only what is kept crosses over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevision.backends.base import TensorSpec
from edgevision.geometry import Placement
from edgevision.host_array import HostArray
from edgevision.kernels.cuda_masks import CudaMasks, unpack
from edgevision.kernels.cuda_nms import CudaNms, DetectionArrays, Layout
from edgevision.kernels.cuda_rows import CudaRows
from edgevision.manifest import Manifest
from edgevision.postprocess import Selection, source_keypoints
from edgevision.results import Detections, Result

if TYPE_CHECKING:
    from edgevision.cuda import Device, Module, Stream


class BoxFinish:
    """Threshold, NMS, boxes in source pixels and what each box's keypoints are, in one result of a fixed size."""

    note = ""

    def __init__(
        self,
        device: Device,
        module: Module,
        manifest: Manifest,
        selection: Selection,
        outputs: Mapping[str, tuple[TensorSpec, int]],
        pictures_address: int,
    ) -> None:
        self.generation = 0
        batch, boxes = outputs["boxes"][0].shape[:2]
        # A network without duplicates also gives classes.
        self._classes = outputs["class_ids"][1] if "class_ids" in outputs else 0
        self._boxes, self._scores = outputs["boxes"][1], outputs["scores"][1]
        self._pictures, self._names = pictures_address, manifest.labels
        self._nms = CudaNms(device, module, boxes, selection.nms, selection.thresholds, batch)
        try:
            parts: dict[str, tuple[tuple[int, ...], str]] = {"detections": ((self._nms.result_nbytes,), "u1")}
            self._pick: CudaRows | None = None
            if manifest.task == "keypoints":
                spec, self._points = outputs["keypoints"]
                width = spec.shape[2] * spec.shape[3]
                self._pick = CudaRows(module, boxes=boxes, width=width, result=self._nms.result)
                parts["keypoints"] = ((batch, selection.nms.max_detections, *spec.shape[2:]), "f4")
            self._layout = Layout(**parts)
            self._host = HostArray(device, self._layout.nbytes)
        except BaseException:
            self._nms.close()
            raise
        self._views: dict[str, NDArray[Any]] = self._layout.views(self._host.array)
        self._found: DetectionArrays | None = self._nms.split(self._views["detections"])

    def fit(self, placements: Sequence[Placement]) -> None: ...

    def launch(self, stream: Stream) -> None:
        addresses = self._layout.addresses(self._host.address)
        self._nms(self._boxes, self._scores, self._pictures, addresses[0], stream, self._classes)
        if self._pick is not None:
            self._pick(self._points, addresses[0], addresses[1], stream)

    def fetch(self, stream: Stream) -> None:
        self._host.fetch(slice(0, self._host.nbytes), stream)

    def results(self, placements: Sequence[Placement]) -> list[Result]:
        return list(self.detections(placements))

    def detections(self, placements: Sequence[Placement]) -> list[Detections]:
        """One for each picture, new arrays."""
        found = self._found
        assert found is not None
        results = [
            Detections(
                found.detection_boxes[i, :n].copy(),
                found.detection_scores[i, :n].copy(),
                found.detection_classes[i, :n].astype(np.int64),
                self._names,
            )
            for i, n in enumerate(self.counts(len(placements)))
        ]
        if self._pick is not None:
            for points, result, placement in zip(self._views["keypoints"], results, placements, strict=False):
                result.keypoints = source_keypoints(points[: len(result)], placement)
        return results

    def counts(self, pictures: int) -> list[int]:
        """How many detections the first pictures have."""
        assert self._found is not None
        counts: list[int] = self._found.num_detections[:pictures].tolist()
        return counts

    def close(self) -> None:
        self._found, self._views = None, {}  # page-locked memory lives as long as a view of it
        self._nms.close()
        self._host.close()


class MaskFinish(BoxFinish):
    """Detections with masks at source size, assembled on the device.

    There is room for as many masks as there may be detections. Where the host does not share the GPU's memory, those
    of the detections found are copied, once their number is known.
    """

    def __init__(
        self,
        device: Device,
        module: Module,
        manifest: Manifest,
        selection: Selection,
        outputs: Mapping[str, tuple[TensorSpec, int]],
        pictures_address: int,
        input_wh: tuple[int, int],
    ) -> None:
        self._masks = HostArray(device)
        self._sizes_wh: list[tuple[int, int]] = []
        super().__init__(device, module, manifest, selection, outputs, pictures_address)
        prototypes, self._prototypes = outputs["mask_prototypes"]
        coefficients, self._coefficients = outputs["mask_coefficients"]
        _, count, high, wide = prototypes.shape
        try:
            self._assemble = CudaMasks(
                module,
                boxes=coefficients.shape[1],
                prototypes=(count, high, wide),
                input_wh=input_wh,
                result=self._nms.result,
            )
        except BaseException:
            self.close()
            raise

    def fit(self, placements: Sequence[Placement]) -> None:
        self._sizes_wh = [placement.source_wh for placement in placements]
        self.generation += self._masks.fit(self._assemble.result_bytes(self._sizes_wh))

    def launch(self, stream: Stream) -> None:
        super().launch(stream)
        detections = self._layout.addresses(self._host.address)[0]
        self._assemble(self._coefficients, self._prototypes, self._pictures, detections, self._masks.address, stream)

    def fetch(self, stream: Stream) -> None:
        super().fetch(stream)
        if self._masks.shared:
            return
        stream.synchronize()
        for span in self._spans():
            if span.stop > span.start:
                self._masks.fetch(span, stream)

    def _spans(self) -> list[slice]:
        return self._assemble.spans(self._sizes_wh, self.counts(len(self._sizes_wh)))

    def results(self, placements: Sequence[Placement]) -> list[Result]:
        results = self.detections(placements)
        for result, span, size_wh in zip(results, self._spans(), self._sizes_wh, strict=True):
            result.mask = unpack(self._masks.array[span], result.xyxy, size_wh)
        return list(results)

    def close(self) -> None:
        super().close()
        self._masks.close()

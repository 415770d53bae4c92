"""From an engine's outputs in GPU memory to results on the host, one class per way; the kernels' half of postprocess.

Only what is kept crosses to the host. Where the GPU shares the host's memory (Jetson) the kernels write into host
memory directly; elsewhere one copy brings the result over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevision.backends.base import TensorSpec
from edgevision.device_boxes import BoxFinish, MaskFinish
from edgevision.geometry import Placement
from edgevision.host_array import HostArray
from edgevision.kernels.cuda_masks import MAX_PROTOTYPES
from edgevision.manifest import Manifest
from edgevision.postprocess import Postprocess, Selection, has_class_map, mask_form, open_postprocess
from edgevision.results import Result, SegmentationMap

if TYPE_CHECKING:
    from edgevision.cuda import Device, Module, Pinned, Stream


class Finish(Protocol):
    """The last stage of a lane. `fit`, `launch`, `fetch` and, when the stream is done, `results`, in this order.

    Attributes:
        generation: grows when `fit` moved a buffer, so that a captured graph no longer fits.
        note: why the work is not all done on the device; empty where it is.
    """

    generation: int
    note: str

    def fit(self, placements: Sequence[Placement]) -> None:
        """Make room for the results of these pictures."""
        ...

    def launch(self, stream: Stream) -> None:
        """Enqueue the kernels; may be captured."""
        ...

    def fetch(self, stream: Stream) -> None:
        """Enqueue the copy to the host, where one is needed."""
        ...

    def results(self, placements: Sequence[Placement]) -> list[Result]:
        """New arrays: they stay valid."""
        ...

    def close(self) -> None: ...


def open_finish(
    device: Device,
    module: Module,
    manifest: Manifest,
    selection: Selection | None,
    outputs: Mapping[str, tuple[TensorSpec, int]],
    pictures_address: int,
    input_wh: tuple[int, int],
) -> Finish:
    """The last stage of a bundle's task.

    Args:
        outputs: name -> tensor at the largest batch, and its address.
        pictures_address: the batch's records, see kernels.picture.

    Raises:
        BundleError: the outputs are not the task's normal form.
    """
    specs = one_picture([spec for spec, _ in outputs.values()])
    if manifest.task == "semantic":
        has_map = has_class_map(manifest, specs)
        if not has_map or (specs[0].dtype == "uint8") == (len(manifest.labels) <= 255):
            return ClassFinish(device, module, manifest, has_map, outputs, pictures_address, input_wh)
    postprocess = open_postprocess(manifest, specs, selection)
    masks = mask_form(manifest, outputs)
    if masks in ("boxes", "kernels") or (
        masks == "prototypes" and outputs["mask_prototypes"][0].shape[1] > MAX_PROTOTYPES
    ):
        return HostFinish(device, manifest, postprocess, outputs)
    if masks is not None and selection is not None:
        return MaskFinish(device, module, manifest, selection, outputs, pictures_address, input_wh)
    if selection is not None:
        return BoxFinish(device, module, manifest, selection, outputs, pictures_address)
    return HostFinish(device, manifest, postprocess, outputs)


class ClassFinish:
    """Argmax where the graph leaves it to us, and class maps at source size, on the device."""

    note = ""

    def __init__(
        self,
        device: Device,
        module: Module,
        manifest: Manifest,
        has_map: bool,
        outputs: Mapping[str, tuple[TensorSpec, int]],
        pictures_address: int,
        input_wh: tuple[int, int],
    ) -> None:
        from edgevision.kernels.cuda_semantic import CudaSemantic

        self.generation = 0
        self._pictures, self._names = pictures_address, manifest.labels
        spec, self._output = outputs["class_map" if has_map else "logits"]
        self._mapper = CudaSemantic(
            device, module, input_wh, (spec.shape[-2], spec.shape[-1]), len(manifest.labels), has_map, spec.shape[0]
        )
        self._nbytes, self._sizes_wh = 0, list[tuple[int, int]]()
        self._host = HostArray(device)

    def fit(self, placements: Sequence[Placement]) -> None:
        self._sizes_wh = [placement.source_wh for placement in placements]
        self._nbytes = self._mapper.result_bytes(self._sizes_wh)
        self.generation += self._host.fit(self._nbytes)

    def launch(self, stream: Stream) -> None:
        self._mapper(self._output, self._pictures, self._host.address, stream)

    def fetch(self, stream: Stream) -> None:
        self._host.fetch(slice(0, self._nbytes), stream)

    def results(self, placements: Sequence[Placement]) -> list[Result]:
        maps = self._mapper.split(self._host.array, self._sizes_wh)
        return [SegmentationMap(class_map.copy(), self._names) for class_map in maps]

    def close(self) -> None:
        self._mapper.close()
        self._host.close()


class HostTensors:
    """Whole tensors on their way to the host.

    Attributes:
        arrays: by name, in page-locked memory: overwritten by the next fetch.
    """

    def __init__(self, device: Device, tensors: Mapping[str, tuple[TensorSpec, int]]) -> None:
        """`tensors`: name -> what it is, and its address."""
        self._device = device
        self._pairs: list[tuple[Pinned, int]] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        try:
            for name, (spec, address) in tensors.items():
                self._pairs.append((device.pinned(spec.shape, np.dtype(spec.dtype)), address))
                self.arrays[name] = self._pairs[-1][0].array
        except BaseException:
            self.close()
            raise

    def fetch(self, stream: Stream) -> None:
        """Enqueue the copies."""
        for pinned, address in self._pairs:
            self._device.download(pinned.array, address, stream)

    def close(self) -> None:
        """Free the memory; may be called twice."""
        self.arrays = {}
        for pinned, _ in self._pairs:
            pinned.close()
        self._pairs = []


class HostFinish:
    """All outputs to the host, and the CPU's postprocess: for tasks without kernels of their own."""

    def __init__(
        self,
        device: Device,
        manifest: Manifest,
        postprocess: Postprocess,
        outputs: Mapping[str, tuple[TensorSpec, int]],
    ) -> None:
        self.generation = 0
        # A classifier's outputs are its result.
        self.note = "" if manifest.task == "classification" else f"{manifest.task} is finished on the CPU"
        self._postprocess, self._tensors = postprocess, HostTensors(device, outputs)

    def fit(self, placements: Sequence[Placement]) -> None: ...

    def launch(self, stream: Stream) -> None: ...

    def fetch(self, stream: Stream) -> None:
        self._tensors.fetch(stream)

    def results(self, placements: Sequence[Placement]) -> list[Result]:
        return [
            self._postprocess({name: array[i : i + 1] for name, array in self._tensors.arrays.items()}, placement)
            for i, placement in enumerate(placements)
        ]

    def close(self) -> None:
        self._tensors.close()


def one_picture(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The same tensors for one picture."""
    return [TensorSpec(spec.name, (1, *spec.shape[1:]), spec.dtype) for spec in specs]

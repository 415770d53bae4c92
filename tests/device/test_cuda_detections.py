"""Detections and their masks through pycuda and the stand-in driver, in one CUDA graph, and under its faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgevision.cuda import Buffer, Device, Module, Stream
from edgevision.errors import DeviceError
from edgevision.geometry import place
from edgevision.kernels.compile import load_kernels
from edgevision.kernels.cpu_masks import assemble
from edgevision.kernels.cpu_nms import keep
from edgevision.kernels.cuda_masks import CudaMasks, unpack
from edgevision.kernels.cuda_nms import CudaNms
from edgevision.kernels.picture import describe
from edgevision.manifest import Nms
from tests.standins import cuda as standin

BATCH, ROWS, CLASSES, PROTOTYPES = 2, 120, 5, (4, 12, 16)
NMS = Nms(0.5, 0.3, max_detections=20)
THRESHOLDS = np.full(CLASSES, 0.3, np.float32)
SIZES = [(100, 60), (30, 70)]
PLACEMENTS = [place(size_wh, (64, 48), "letterbox") for size_wh in SIZES]


@pytest.fixture
def kernels(device: Device, home: Path) -> Iterator[Module]:
    module = load_kernels(device)
    yield module
    module.close()


@pytest.fixture
def stream(device: Device) -> Iterator[Stream]:
    opened = device.stream()
    yield opened
    opened.close()


def outputs(seed: int) -> list[NDArray[np.float32]]:
    """A network's boxes, scores, mask coefficients and prototypes."""
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 50, (BATCH, ROWS, 2))
    boxes = np.concatenate([corner, corner + random.uniform(2, 20, (BATCH, ROWS, 2))], axis=2)
    scores = random.uniform(0, 1, (BATCH, ROWS, CLASSES)) ** 4
    coefficients = random.normal(size=(BATCH, ROWS, PROTOTYPES[0]))
    return [a.astype(np.float32) for a in (boxes, scores, coefficients, random.normal(size=(BATCH, *PROTOTYPES)))]


def check(
    nms: CudaNms,
    assembler: CudaMasks,
    result: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    given: list[NDArray[np.float32]],
) -> None:
    boxes, scores, coefficients, prototypes = given
    found = nms.split(result)
    for i, placement in enumerate(PLACEMENTS):
        rows, confidence, class_id = keep(boxes[i], scores[i], NMS, THRESHOLDS)
        xyxy = placement.to_source(boxes[i][rows])
        inside = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
        count = int(inside.sum())
        assert found.num_detections[i] == count > 3
        np.testing.assert_array_equal(found.detection_boxes[i, :count], xyxy[inside])
        np.testing.assert_array_equal(found.detection_scores[i, :count], confidence[inside])
        np.testing.assert_array_equal(found.detection_classes[i, :count], class_id[inside])
        size_wh = placement.source_wh
        expected = assemble(prototypes[i], coefficients[i][rows[inside]], xyxy[inside], placement, size_wh)
        span = assembler.spans(SIZES, found.num_detections.tolist())[i]
        assert (
            unpack(masks[span], found.detection_boxes[i, :count], size_wh) != expected
        ).mean() < 1e-3  # logits that are zero but for rounding


def test_one_graph_gives_the_detections_and_masks_of_every_frame(
    device: Device, kernels: Module, stream: Stream
) -> None:
    nms = CudaNms(device, kernels, ROWS, NMS, THRESHOLDS, BATCH)
    assembler = CudaMasks(kernels, boxes=ROWS, prototypes=PROTOTYPES, input_wh=(64, 48), result=nms.result)
    buffers = [device.allocate(array.nbytes) for array in outputs(0)]
    pictures = np.stack([describe(p, "bgr", 64, 3 * p.source_wh[0]) for p in PLACEMENTS])
    records = device.allocate(pictures.nbytes)
    device.upload(records.address, pictures, stream)
    result = device.allocate(nms.result_nbytes)
    masks = device.allocate(assembler.result_bytes(SIZES))
    boxes, scores, coefficients, prototypes = (buffer.address for buffer in buffers)

    def work() -> None:
        nms(boxes, scores, records.address, result.address, stream)
        assembler(coefficients, prototypes, records.address, result.address, masks.address, stream)

    graph = device.capture(stream, work)
    before = device.counters
    for seed in range(4):
        given = outputs(seed)
        for buffer, array in zip(buffers, given, strict=True):
            device.upload(buffer.address, array, stream)
        graph.launch(stream)
        on_host = [np.empty(nms.result_nbytes, np.uint8), np.empty(masks.nbytes, np.uint8)]
        for array, buffer in zip(on_host, (result, masks), strict=True):
            device.download(array, buffer.address, stream)
        stream.synchronize()
        check(nms, assembler, *on_host, given)
    after = device.counters
    assert (after.allocations, after.graph_launches) == (before.allocations, before.graph_launches + 4)
    assert after.uploads == before.uploads + 4 * len(buffers)
    graph.close()
    nms.close()
    nms.close()


def test_where_a_call_fails_the_error_names_it_and_nothing_leaks(
    device: Device, driver: standin.Driver, kernels: Module, stream: Stream
) -> None:
    boxes, scores, *_ = outputs(0)
    records = np.stack([describe(p, "bgr", 64, 3 * p.source_wh[0]) for p in PLACEMENTS])
    held: list[Buffer] = [device.allocate(array.nbytes) for array in (boxes, scores, records)]
    for buffer, array in zip(held, (boxes, scores, records), strict=True):
        device.upload(buffer.address, array, stream)
    stream.synchronize()

    def once() -> None:
        nms: Any = CudaNms(device, kernels, ROWS, NMS, THRESHOLDS, BATCH)
        try:
            nms(*(buffer.address for buffer in held), result.address, stream)
            stream.synchronize()
        finally:
            driver.clear_faults()
            stream.synchronize()  # what was queued before the fault uses the memory
            nms.close()

    result = device.allocate(CudaNms(device, kernels, ROWS, NMS, THRESHOLDS, BATCH).result_nbytes)
    alive = driver.alive()
    for name in ("cuModuleGetFunction", "cuMemAlloc", "cuStreamCreate", "cuMemcpyHtoDAsync", "cuStreamSynchronize"):
        driver.fail(name)
        with pytest.raises(DeviceError, match=f"{name} failed"):
            once()
        assert driver.alive() == alive
    assert driver.take_complaints() == ["cuStreamDestroy: 1 operations are pending"]  # after the failed wait for it
    for name, after in (("cuMemsetD8Async", 0), ("cuLaunchKernel", 0), ("cuLaunchKernel", 1)):
        driver.fail(name, after=after)
        with pytest.raises(DeviceError, match=f"{name} failed"):
            once()
        assert driver.alive() == alive
    once()

"""A whole frame as one CUDA graph: upload, preprocess, a stand-in for the network, NMS, download.

The stand-in (stand_in_model.cu) reads and writes what a network would and delivers recorded outputs, so the detections
at the end are known and compared. Its time says nothing about any network's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.bench import Bench, Way
from benchmarks.gpu.checks import crowd, expected_detections, tensor_of
from benchmarks.gpu.speed import NMS
from edgevision.kernels.compile import find_compiler
from edgevision.kernels.cuda_nms import CudaNms
from edgevision.kernels.cuda_preprocess import CudaPreprocessor
from edgevision.latency import PERCENTILES
from edgevision.manifest import Preprocess

_GRID, _BLOCK = 256, 256


def run(bench: Bench) -> dict[str, Any]:
    """Latency percentiles of frames one after another, from a picture in page-locked memory to boxes on the host.

    Returns:
        `frames`, `latency_ms` of `graph` and `eager` (p50, p90, p99, p999, max), `stages_ms` on the GPU, and whether
        tensor and detections are `correct`.
    """
    sizes, device, stream = bench.sizes, bench.device, bench.stream
    (width, height), input_wh = sizes.picture_wh, sizes.input_wh
    random = np.random.default_rng(0)
    boxes, scores = crowd(random, sizes.boxes, sizes.classes, sizes.candidates[0])
    boxes *= np.float32(input_wh[0] / 640)
    spec = Preprocess("x", input_wh, resize="letterbox", std=(255.0,) * 3)
    preprocessor = bench.keep(CudaPreprocessor(device, bench.module, spec))
    thresholds = np.full(sizes.classes, NMS.confidence, np.float32)
    nms = bench.keep(CudaNms(device, bench.module, sizes.boxes, NMS, thresholds, 1))

    recorded = bench.put(np.concatenate([boxes.ravel(), scores.ravel()]))
    outputs = bench.allocate(recorded.nbytes)
    weights = bench.put(random.integers(0, 256, sizes.weight_bytes, dtype=np.uint8))
    sink = bench.allocate(4 * _GRID * _BLOCK)
    tensor = bench.allocate(4 * int(np.prod(preprocessor.shape)))
    source = bench.allocate(3 * width * height)
    staged = bench.keep(device.pinned((height, width, 3), np.uint8))
    staged.array[:] = random.integers(0, 256, staged.array.shape, dtype=np.uint8)
    result = bench.allocate(nms.result_nbytes)
    fetched = bench.keep(device.pinned(nms.result_nbytes, np.uint8))
    placement = preprocessor.place(0, width, height, "bgr", 3 * width, source.address, stream)
    model = _stand_in(bench)

    def upload() -> None:
        device.upload(source.address, staged.array, stream)

    def preprocess() -> None:
        preprocessor(tensor.address, stream)

    def infer() -> None:
        addresses = (tensor, weights, recorded, outputs, sink)
        words = (buffer.nbytes // 4 for buffer in (tensor, weights, outputs))
        model(stream, (_GRID, 1, 1), (_BLOCK, 1, 1), *(buffer.address for buffer in addresses), *words)

    def postprocess() -> None:
        at = outputs.address
        nms(at, at + boxes.nbytes, preprocessor.pictures_address, result.address, stream)

    def download() -> None:
        device.download(fetched.array, result.address, stream)

    stages: dict[str, Callable[[], None]] = {
        "upload": upload,
        "preprocess": preprocess,
        "stand-in model": infer,
        "nms": postprocess,
        "download": download,
    }

    def frame() -> None:
        for stage in stages.values():
            stage()

    frame()
    stream.synchronize()
    fetched.array[:] = 0xA5
    graph = bench.keep(device.capture(stream, frame))
    graph.launch(stream)
    stream.synchronize()
    found = nms.split(fetched.array)
    count = int(found.num_detections[0])
    expected = expected_detections(boxes, scores, NMS, placement)[1:]
    arrays = found.detection_boxes, found.detection_scores, found.detection_classes
    correct = all(np.array_equal(array[0, :count], wanted) for array, wanted in zip(arrays, expected, strict=True))
    made = bench.get(tensor, preprocessor.shape, np.float32)[0]
    correct = correct and np.array_equal(made, tensor_of(spec, preprocessor.dtype, staged.array))
    report = {
        "frames": sizes.frames,
        "detections": count,
        "correct": bool(correct),
        "latency_ms": {
            "graph": _latency(bench, lambda: graph.launch(stream)),
            "eager": _latency(bench, frame),
        },
        "stages_ms": bench.device_ms({name: (_every_turn(stage), 1) for name, stage in stages.items()}),
    }
    bench.release()
    return report


def _every_turn(stage: Callable[[], None]) -> Way:
    return lambda turn: stage()


def _stand_in(bench: Bench) -> Any:
    device = bench.device
    source = Path(__file__).with_name("stand_in_model.cu").read_text()
    image = find_compiler(device.sm, device.cuda_version[0]).compile(source, device.sm)
    return bench.keep(device.load_module(image)).kernel("stand_in_model", "PPPPPiii")


def _latency(bench: Bench, put: Callable[[], None]) -> dict[str, float]:
    """Percentiles of the time from a frame's start until its boxes are on the host."""
    times = np.empty(bench.sizes.frames)
    for i in range(-min(100, len(times)), len(times)):
        start = time.perf_counter()
        put()
        bench.stream.synchronize()
        if i >= 0:
            times[i] = (time.perf_counter() - start) * 1e3
    values = np.percentile(times, list(PERCENTILES.values()), method="inverted_cdf").tolist()
    return {**dict(zip(PERCENTILES, values, strict=True)), "max": float(times.max())}

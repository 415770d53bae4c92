"""How long kernels take, against what the memory allows and against torch and torchvision where they are usable.

A kernel's floor is the memory it must touch, in sectors of 32 bytes, at the speed at which the driver copies inside
this GPU's memory (bytes read plus bytes written). Pictures and tensors are so many that no cache holds them.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.bench import Bench, Way
from benchmarks.gpu.checks import crowd
from edgevision.geometry import Placement, place
from edgevision.kernels.cuda_nms import CudaNms
from edgevision.kernels.cuda_preprocess import CudaPreprocessor
from edgevision.kernels.cuda_semantic import CudaSemantic
from edgevision.kernels.fixed_point import taps
from edgevision.kernels.picture import describe, picture_bytes
from edgevision.manifest import Nms, Preprocess

Row = dict[str, Any]
NMS = Nms(iou_threshold=0.45, confidence=0.25, max_detections=300)
_SECTOR = 32
_COPY = "copy"


def usable(package: str) -> bool:
    """Whether torch, or a package that stands on it, is installed and sees a GPU."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec(package) is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def read_bytes(placement: Placement, pixel_format: str) -> int:
    """Bytes of the sectors that the preprocessing of a tightly packed picture has to read."""
    width = placement.source_wh[0]
    packed = taps(placement).astype(np.int64)
    first, step = packed & 0x7FFF, packed >> 15 & 1
    columns, rows = (
        np.union1d(cells, cells + steps)
        for cells, steps in zip(
            np.split(first, [placement.content_wh[0]]), np.split(step, [placement.content_wh[0]]), strict=True
        )
    )

    def sectors(rows: NDArray[np.int64], first_bytes: NDArray[np.int64], count: int, pitch: int) -> int:
        at = rows[:, None, None] * pitch + first_bytes[:, None] + np.arange(count)
        return _SECTOR * len(np.unique(at // _SECTOR))

    if pixel_format == "nv12":
        return sectors(rows, columns, 1, width) + sectors(np.unique(rows // 2), np.unique(columns // 2) * 2, 2, width)
    return sectors(rows, 3 * columns, 3, 3 * width)


def preprocessing(bench: Bench) -> list[Row]:
    """One row for each batch, format and type: milliseconds, bytes, and the share of the copy's bandwidth."""
    rows = []
    for batch in bench.sizes.batches:
        for pixel_format, dtype in (("bgr", "float32"), ("bgr", "float16"), ("nv12", "float32"), ("nv12", "float16")):
            rows.append(_preprocessing(bench, batch, pixel_format, dtype))
            bench.release()
    return rows


def _preprocessing(bench: Bench, batch: int, pixel_format: str, dtype: str) -> Row:
    size_wh, input_wh = bench.sizes.picture_wh, bench.sizes.input_wh
    spec = Preprocess("x", input_wh, resize="letterbox", std=(255.0,) * 3)
    touched = read_bytes(place(size_wh, input_wh, spec.resize), pixel_format)
    tensor_bytes = 3 * input_wh[0] * input_wh[1] * np.dtype(dtype).itemsize
    nbytes = batch * (touched + tensor_bytes)
    turns = 2 + bench.sizes.cold_bytes // nbytes
    noise = np.random.default_rng(0).integers(0, 256, picture_bytes(*size_wh, pixel_format), dtype=np.uint8)
    pitch = size_wh[0] * (3 if pixel_format != "nv12" else 1)
    sets = []
    for _ in range(turns):
        preprocessor = bench.keep(CudaPreprocessor(bench.device, bench.module, spec, batch, dtype))
        for index in range(batch):
            source = bench.put(noise)
            preprocessor.place(index, *size_wh, pixel_format, pitch, source.address, bench.stream)
        sets.append((preprocessor, bench.allocate(batch * tensor_bytes)))

    def work(turn: int) -> None:
        preprocessor, tensor = sets[turn % turns]
        preprocessor(tensor.address, bench.stream)

    times = bench.device_ms({"ours": (work, turns), _COPY: _copy(bench)})
    speed = nbytes / times["ours"] / 1e6
    copied = _copy_bytes(bench) / times[_COPY] / 1e6
    return {
        "kernel": f"preprocess {batch} x {size_wh[0]}x{size_wh[1]} {pixel_format} to {input_wh[0]} {dtype}",
        "batch": batch,
        "ms": times["ours"],
        "bytes": nbytes,
        "gb_per_s": speed,
        "copy_gb_per_s": copied,
        "share_of_copy": speed / copied,
    }


def _copy_bytes(bench: Bench) -> int:
    """Read and written by one copy."""
    return 2 * bench.sizes.cold_bytes


def _copy(bench: Bench) -> tuple[Way, int]:
    """The driver's own copy inside the GPU's memory."""
    source, target = (bench.allocate(bench.sizes.cold_bytes) for _ in range(2))
    bench.device.fill(source.address, 1, source.nbytes, bench.stream)

    def copy(turn: int) -> None:
        with bench.device.current():
            bench.device.drv.memcpy_dtod_async(target.address, source.address, source.nbytes, bench.stream.raw)

    return copy, 1


def semantic(bench: Bench) -> list[Row]:
    """Logits to class maps of one picture; half the work is arithmetic, so the share is for information."""
    size_wh, (width, height) = bench.sizes.picture_wh, bench.sizes.input_wh
    rows = []
    for classes, logit_hw in ((21, (height // 8, width // 8)), (19, (height, width))):
        logits = np.random.default_rng(0).normal(size=(1, classes, *logit_hw)).astype(np.float32)
        kernel = bench.keep(CudaSemantic(bench.device, bench.module, (width, height), logit_hw, classes, False))
        record = describe(place(size_wh, (width, height), "letterbox"), "bgr", 4096, 3 * size_wh[0])
        result, output = bench.allocate(kernel.result_bytes([size_wh])), bench.put(logits)
        pictures = bench.put(record[None])

        def work(
            turn: int, kernel: Any = kernel, addresses: Any = (output.address, pictures.address, result.address)
        ) -> None:
            kernel(*addresses, bench.stream)

        times = bench.device_ms({"ours": (work, 1), _COPY: _copy(bench)})
        nbytes = logits.nbytes + 2 * width * height + result.nbytes
        speed, copied = nbytes / times["ours"] / 1e6, _copy_bytes(bench) / times[_COPY] / 1e6
        rows.append(
            {
                "kernel": f"semantic {classes} x {logit_hw[1]}x{logit_hw[0]} to {size_wh[0]}x{size_wh[1]}",
                "batch": 1,
                "ms": times["ours"],
                "bytes": nbytes,
                "gb_per_s": speed,
                "copy_gb_per_s": copied,
                "share_of_copy": speed / copied,
            }
        )
        bench.release()
    return rows


def suppression(bench: Bench) -> list[Row]:
    """NMS of one picture as a caller sees it, from device memory to device memory: eager, as a CUDA graph, and by
    torchvision where it is installed (threshold, best class, batched_nms, best 300)."""
    rows = []
    sizes = bench.sizes
    for candidates in sizes.candidates:
        boxes, scores = crowd(np.random.default_rng(candidates), sizes.boxes, sizes.classes, candidates)
        thresholds = np.full(sizes.classes, NMS.confidence, np.float32)
        kernel = bench.keep(CudaNms(bench.device, bench.module, sizes.boxes, NMS, thresholds, 1))
        record = describe(place((1280, 720), (640, 640), "letterbox"), "bgr", 4096, 3 * 1280)
        result = bench.allocate(kernel.result_nbytes)
        given = bench.put(boxes).address, bench.put(scores).address, bench.put(record[None]).address

        queue = functools.partial(kernel, *given, result.address, bench.stream)
        graph = bench.keep(bench.device.capture(bench.stream, queue))
        replay = functools.partial(graph.launch, bench.stream)
        ways = {"graph": _awaited(bench, replay), "eager": _awaited(bench, queue)}
        if usable("torchvision"):
            ways["torchvision"] = _torchvision_nms(boxes, scores)
        times = bench.wall_ms(ways)
        kept = int(kernel.split(bench.get(result, (result.nbytes,), np.uint8)).num_detections[0])
        row: Row = {"candidates": candidates, "kept": kept, "ms": times}
        if "torchvision" in times:
            row["share_of_torchvision"] = times["graph"] / times["torchvision"]
        rows.append(row)
        bench.release()
    return rows


def _awaited(bench: Bench, queue: Callable[[], None]) -> Callable[[], Any]:
    """Put work on the stream and wait for it."""

    def way() -> None:
        queue()
        bench.stream.synchronize()

    return way


def _torchvision_nms(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> Any:
    import torch
    from torchvision.ops import batched_nms

    corners, confidence = torch.from_numpy(boxes).cuda(), torch.from_numpy(scores).cuda()

    def way() -> Any:
        best, classes = confidence.max(dim=1)
        wanted = (best > NMS.confidence).nonzero().squeeze(1)
        chosen = corners[wanted]
        kept = batched_nms(chosen, best[wanted], classes[wanted], NMS.iou_threshold)[: NMS.max_detections]
        result = chosen[kept], best[wanted][kept], classes[wanted][kept]
        torch.cuda.synchronize()
        return result

    return way


def torch_preprocessing(bench: Bench) -> list[Row]:
    """Preprocessing as a caller sees it, against what one would write with torch on the GPU; nothing without torch."""
    rows: list[Row] = []
    if not usable("torch"):
        return rows
    import torch
    import torch.nn.functional as functional

    (width, height), input_wh = bench.sizes.picture_wh, bench.sizes.input_wh
    spec = Preprocess("x", input_wh, resize="letterbox", std=(255.0,) * 3)
    for batch in bench.sizes.batches:
        noise = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
        preprocessor = bench.keep(CudaPreprocessor(bench.device, bench.module, spec, batch))
        source = bench.put(noise)
        for index in range(batch):
            address = source.address + index * 3 * width * height
            placement = preprocessor.place(index, width, height, "bgr", 3 * width, address, bench.stream)
        tensor = bench.allocate(4 * int(np.prod(preprocessor.shape)))
        (cw, ch), (ox, oy) = placement.content_wh, placement.offset_xy
        border = [ox, input_wh[0] - cw - ox, oy, input_wh[1] - ch - oy]
        pictures = torch.from_numpy(noise).cuda()

        ours = _awaited(bench, functools.partial(preprocessor, tensor.address, bench.stream))

        def theirs(pictures: Any = pictures, size: Any = (ch, cw), border: Any = border) -> Any:
            planes = pictures.permute(0, 3, 1, 2).flip(1).float()
            small = functional.interpolate(planes, size=size, mode="bilinear", align_corners=False)
            result = functional.pad(small, border, value=114.0) / 255.0
            torch.cuda.synchronize()
            return result

        times = bench.wall_ms({"ours": ours, "torch": theirs})
        rows.append({"batch": batch, "ms": times, "share_of_torch": times["ours"] / times["torch"]})
        del pictures, theirs
        bench.release()
    return rows

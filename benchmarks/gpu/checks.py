"""Every kernel against its numpy twin, on the GPU: the same bits, on pictures of noise in all sizes and formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from benchmarks.gpu.bench import Bench
from edgevision.geometry import RESIZE_MODES, Placement, place
from edgevision.kernels import bilinear, fixed_point
from edgevision.kernels.cpu_draw import draw_boxes, overlay
from edgevision.kernels.cpu_masks import assemble
from edgevision.kernels.cpu_nms import keep
from edgevision.kernels.cuda_draw import CudaDraw, CudaOverlay
from edgevision.kernels.cuda_masks import CudaMasks, unpack
from edgevision.kernels.cuda_nms import CudaNms
from edgevision.kernels.cuda_preprocess import CudaPreprocessor, value_table
from edgevision.kernels.cuda_semantic import CudaSemantic
from edgevision.kernels.picture import PIXEL_FORMATS, describe
from edgevision.manifest import Nms, Preprocess

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_MASK_TIES = 1e-4  # share of mask pixels whose logits are so near to 0 that the order of a sum decides


@dataclass(frozen=True)
class Check:
    """What was compared: `differing` of `values`, of which `allowed` may differ."""

    kernel: str
    cases: int
    values: int
    differing: int
    allowed: int = 0

    @property
    def passed(self) -> bool:
        return self.differing <= self.allowed

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


class _Tally:
    """Counts what differs."""

    def __init__(self) -> None:
        self.cases = self.values = self.differing = 0

    def add(self, found: NDArray[Any], expected: NDArray[Any]) -> None:
        self.cases += 1
        self.values += expected.size
        same = (found == expected) | ((found != found) & (expected != expected))
        self.differing += (
            int(expected.size - np.count_nonzero(same)) if found.shape == expected.shape else expected.size
        )

    def done(self, kernel: str, share: float = 0.0) -> Check:
        return Check(kernel, self.cases, self.values, self.differing, int(self.values * share))


def run(bench: Bench) -> list[Check]:
    """All of them."""
    results = []
    parts: tuple[Callable[[Bench], Check], ...] = (_preprocess, _argmax, _maps, _tint, _pen, _suppression, _masks)
    for part in parts:
        results.append(part(bench))
        bench.release()
    return results


@dataclass(frozen=True)
class Shown:
    """A picture in device memory, and the BGR picture that it is."""

    where: tuple[int, int, str, int, int]
    chroma: dict[str, int]
    bgr: NDArray[np.uint8]


def show(bench: Bench, size_wh: tuple[int, int], pixel_format: str, extra: int, seed: int) -> Shown:
    """Noise, with `extra` bytes behind every row, in memory that ends with the picture."""
    random = np.random.default_rng(seed)
    width, height = size_wh

    def plane(row_bytes: int, rows: int) -> tuple[NDArray[np.uint8], int, int]:
        pitch = row_bytes + extra
        memory = random.integers(0, 256, pitch * (rows - 1) + row_bytes, dtype=np.uint8)
        return as_strided(memory, (rows, row_bytes), (pitch, 1)), pitch, bench.put(memory).address

    if pixel_format == "nv12":
        luma, pitch, address = plane(width, height)
        pairs, chroma_pitch, chroma_address = plane((width + 1) // 2 * 2, (height + 1) // 2)
        bgr = fixed_point.bgr_from_nv12(luma, pairs.reshape(len(pairs), -1, 2))
        chroma = {"chroma_address": chroma_address, "chroma_pitch_bytes": chroma_pitch}
        return Shown((width, height, pixel_format, pitch, address), chroma, bgr)
    rows, pitch, address = plane(3 * width, height)
    pixels = rows.reshape(height, width, 3)
    bgr = pixels if pixel_format == "bgr" else pixels[:, :, ::-1]
    return Shown((width, height, pixel_format, pitch, address), {}, bgr)


def tensor_of(spec: Preprocess, dtype: np.dtype[Any], bgr: NDArray[np.uint8]) -> NDArray[Any]:
    """The twin of preprocessing: one picture's tensor."""
    width, height = spec.input_wh
    placement = place((bgr.shape[1], bgr.shape[0]), spec.input_wh, spec.resize)
    (cw, ch), (ox, oy) = placement.content_wh, placement.offset_xy
    table = value_table(spec, dtype)
    values, padding = table[:-3].reshape(3, 256), table[-3:]
    levels = fixed_point.resize(bgr, placement)[:, :, :: -1 if spec.color == "rgb" else 1]
    tensor = np.empty((height, width, 3), dtype)
    tensor[:] = padding
    for channel in range(3):
        tensor[oy : oy + ch, ox : ox + cw, channel] = values[channel][levels[:, :, channel]]
    return tensor.transpose(2, 0, 1) if spec.layout == "nchw" else tensor


def _preprocess(bench: Bench) -> Check:
    tally = _Tally()
    sizes, (width, height) = bench.sizes.checked, bench.sizes.input_wh
    number = 0
    for layout in ("nchw", "nhwc"):
        for name in ("float32", "float16", "uint8"):
            for resize in RESIZE_MODES:
                number += 1
                stored = "uint8" if name == "uint8" else "float32"
                scale = {} if name == "uint8" else {"mean": MEAN, "std": STD}
                input_wh = ((width, height), (width - 3, height // 2 + 1), (width // 4, height // 3))[number % 3]
                color = ("rgb", "bgr")[number % 2]
                spec = Preprocess("x", input_wh, layout, stored, resize, 114.5, color, **scale)
                preprocessor = bench.keep(CudaPreprocessor(bench.device, bench.module, spec, len(sizes), name))
                shown = [show(bench, s, PIXEL_FORMATS[(i + number) % 3], i, i) for i, s in enumerate(sizes)]
                for index, picture in enumerate(shown):
                    preprocessor.place(index, *picture.where, bench.stream, **picture.chroma)
                out = bench.allocate(int(np.prod(preprocessor.shape)) * preprocessor.dtype.itemsize)
                bench.device.fill(out.address, 0xA5, out.nbytes, bench.stream)
                preprocessor(out.address, bench.stream)
                found = bench.get(out, preprocessor.shape, preprocessor.dtype)
                for tensor, picture in zip(found, shown, strict=True):
                    tally.add(tensor, tensor_of(spec, preprocessor.dtype, picture.bgr))
                bench.release()
    return tally.done("preprocess")


def _records(bench: Bench, placements: list[Placement]) -> int:
    pictures = [describe(placement, "bgr", 4096, 3 * placement.source_wh[0]) for placement in placements]
    return bench.put(np.stack(pictures)).address


def _classes(
    bench: Bench, output: NDArray[Any], input_wh: tuple[int, int], classes: int, sizes: list[tuple[int, int]]
) -> list[NDArray[Any]]:
    semantic = bench.keep(
        CudaSemantic(bench.device, bench.module, input_wh, output.shape[-2:], classes, output.ndim == 3, len(sizes))
    )
    records = _records(bench, [place(size, input_wh, "letterbox") for size in sizes])
    result = bench.allocate(semantic.result_bytes(sizes))
    semantic(bench.put(output).address, records, result.address, bench.stream)
    maps: list[NDArray[Any]] = semantic.split(bench.get(result, (result.nbytes,), np.uint8), sizes)
    return maps


def _argmax(bench: Bench) -> Check:
    tally = _Tally()
    input_wh = width, height = bench.sizes.input_wh
    for classes, logit_wh in ((21, (width // 8 + 1, height // 8)), (19, input_wh), (300, (9, 7))):
        random = np.random.default_rng(classes)
        logits = random.normal(size=(2, classes, *logit_wh[::-1])).astype(np.float32)
        logits[random.random(logits.shape) < 0.01] = np.nan
        for found, planes in zip(_classes(bench, logits, input_wh, classes, [input_wh] * 2), logits, strict=True):
            tally.add(found, _largest(planes, input_wh))
    return tally.done("semantic argmax")


def _largest(planes: NDArray[np.float32], input_wh: tuple[int, int]) -> NDArray[np.int64]:
    """The first class of those with the greatest value, NaN never; plane by plane, for the sake of small boards."""
    best, classes = np.full(input_wh[::-1], -np.inf, np.float32), np.zeros(input_wh[::-1], np.int64)
    for number, plane in enumerate(planes):
        fine = bilinear.upsample(plane, input_wh)
        wins = fine > best
        best[wins], classes[wins] = fine[wins], number
    return classes


def _maps(bench: Bench) -> Check:
    tally = _Tally()
    sizes, (width, height) = bench.sizes.checked, bench.sizes.input_wh
    for classes, input_wh in ((255, (width, height)), (300, (width // 3, height // 2))):
        dtype = np.uint8 if classes <= 255 else np.int32
        maps = np.random.default_rng(1).integers(0, classes, (len(sizes), *input_wh[::-1])).astype(dtype)
        for found, class_map, size in zip(_classes(bench, maps, input_wh, classes, [*sizes]), maps, sizes, strict=True):
            placement = place(size, input_wh, "letterbox")
            rows, columns = (
                (2 * n * o + (2 * np.arange(n) + 1) * c) * whole // (2 * n * whole)
                for n, o, c, whole in (
                    (size[axis], placement.offset_xy[axis], placement.content_wh[axis], input_wh[axis])
                    for axis in (1, 0)
                )
            )
            tally.add(found, class_map[rows[:, None], columns])
    return tally.done("semantic map to source")


def _drawn_on(bench: Bench) -> tuple[NDArray[np.uint8], Any, int]:
    """A picture, its memory, and the address of its record."""
    width, height = bench.sizes.picture_wh
    image = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = bench.put(image)
    record = describe(place((width, height), (640, 640), "letterbox"), "bgr", buffer.address, 3 * width)
    return image, buffer, bench.put(record).address


def _tint(bench: Bench) -> Check:
    tally = _Tally()
    image, buffer, record = _drawn_on(bench)
    class_map = np.random.default_rng(4).integers(0, 255, image.shape[:2], dtype=np.uint8)
    tint = bench.keep(CudaOverlay(bench.device, bench.module, 255, plain=0))
    tint(bench.put(class_map).address, record, bench.stream)
    overlay(image, class_map, 0)
    tally.add(bench.get(buffer, image.shape, np.uint8), image)
    return tally.done("overlay")


def _pen(bench: Bench) -> Check:
    tally = _Tally()
    image, buffer, record = _drawn_on(bench)
    corners = np.sort(np.random.default_rng(5).uniform(0, 1, (40, 2, 2)), axis=1) * bench.sizes.picture_wh
    boxes = corners.reshape(40, 4).astype(np.float32)
    given = [np.array([40], np.int32), boxes, np.arange(40, dtype=np.int32)]
    pen = bench.keep(CudaDraw(bench.device, bench.module, 40))
    pen(record, *(bench.put(array).address for array in given), bench.stream)
    draw_boxes(image, boxes, given[2])
    tally.add(bench.get(buffer, image.shape, np.uint8), image)
    return tally.done("draw boxes")


def crowd(random: np.random.Generator, boxes: int, classes: int, candidates: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Boxes (n, 4) and scores (n, c) of a detector of 640 x 640 pixels that sees about six boxes on each object,
    `candidates` in all."""
    objects = max(1, candidates // 6)
    which = random.integers(0, objects, candidates)
    centre = random.uniform(40, 600, (objects, 2))[which] + random.normal(0, 4, (candidates, 2))
    half = random.uniform(10, 60, (objects, 2))[which] * random.uniform(0.85, 1.15, (candidates, 2))
    rows = random.permutation(boxes)[:candidates]
    corners = np.tile(np.array([0, 0, 10, 10], np.float32), (boxes, 1))
    corners[rows] = np.concatenate([centre - half, centre + half], axis=1)
    scores = random.uniform(0, 0.2, (boxes, classes)).astype(np.float32)
    scores[rows, random.integers(0, classes, objects)[which]] = random.uniform(0.3, 0.95, candidates)
    return corners, scores


def expected_detections(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], nms: Nms, placement: Placement
) -> tuple[NDArray[Any], ...]:
    """The twin of the detector's postprocess: rows, corners in source pixels, confidence, class."""
    rows, confidence, class_id = keep(boxes, scores, nms, np.full(scores.shape[1], nms.confidence, np.float32))
    xyxy = placement.to_source(boxes[rows])
    inside = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
    return rows[inside], xyxy[inside], confidence[inside], class_id[inside]


def _suppression(bench: Bench) -> Check:
    tally = _Tally()
    random = np.random.default_rng(6)
    count, classes = bench.sizes.boxes // 4, 20
    placement = place((1280, 720), (640, 640), "letterbox")
    for candidates, nms in (
        (0, Nms(0.45, 0.25)),
        (count // 3, Nms(0.45, 0.25)),
        (count, Nms(0.7, 0.001, multi_label=True)),
        (count, Nms(0.45, 0.25, class_agnostic=True, max_detections=50)),
    ):
        pairs = [crowd(random, count, classes, candidates) for _ in range(3)]
        for _, scores in pairs:
            scores[random.random(scores.shape) < 0.01] = random.choice([np.nan, np.inf, -np.inf])
        boxes, scores = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
        thresholds = np.full(classes, nms.confidence, np.float32)
        kernel = bench.keep(CudaNms(bench.device, bench.module, count, nms, thresholds, 3))
        result = bench.allocate(kernel.result_nbytes)
        addresses = bench.put(boxes).address, bench.put(scores).address, _records(bench, [placement] * 3)
        kernel(*addresses, result.address, bench.stream)
        found = kernel.split(bench.get(result, (result.nbytes,), np.uint8))
        for i in range(3):
            rows, xyxy, confidence, class_id = expected_detections(boxes[i], scores[i], nms, placement)
            kept = int(found.num_detections[i])
            tally.add(found.detection_rows[i, :kept], rows)
            tally.add(found.detection_boxes[i, :kept], xyxy)
            tally.add(found.detection_scores[i, :kept], confidence)
            tally.add(found.detection_classes[i, :kept], class_id)
    return tally.done("nms")


def _masks(bench: Bench) -> Check:
    tally = _Tally()
    random = np.random.default_rng(7)
    size_wh, input_wh = bench.sizes.checked[2], (640, 640)
    placement = place(size_wh, input_wh, "letterbox")
    nms = Nms(0.45, 0.25, max_detections=30)
    count, cells = bench.sizes.boxes // 4, bench.sizes.input_wh[0] // 4
    boxes, scores = crowd(random, count, 10, count // 2)
    prototypes = random.normal(size=(1, 32, cells, cells)).astype(np.float32)
    coefficients = random.normal(size=(1, count, 32)).astype(np.float32)
    kernel = bench.keep(CudaNms(bench.device, bench.module, count, nms, np.full(10, 0.25, np.float32), 1))
    result, record = bench.allocate(kernel.result_nbytes), _records(bench, [placement])
    kernel(bench.put(boxes).address, bench.put(scores).address, record, result.address, bench.stream)
    masks = CudaMasks(
        bench.module,
        boxes=count,
        prototypes=(32, cells, cells),
        input_wh=input_wh,
        result=kernel.result,
    )
    out = bench.allocate(masks.result_bytes([size_wh]))
    given = bench.put(coefficients).address, bench.put(prototypes).address
    masks(*given, record, result.address, out.address, bench.stream)
    rows, xyxy, _, _ = expected_detections(boxes, scores, nms, placement)
    packed = bench.get(out, (out.nbytes,), np.uint8)
    found = unpack(packed[masks.spans([size_wh], [len(rows)])[0]], xyxy, size_wh)
    tally.add(found, assemble(prototypes[0], coefficients[0][rows], xyxy, placement, size_wh))
    return tally.done("masks", _MASK_TIES)

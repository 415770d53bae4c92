"""RTMDet-Ins: maps as its head makes them, against boxes cell by cell and masks by convolutions over whole pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgevision.errors import UnknownFamilyError
from edgevision.export import ExportConfig, export_model, prepare
from edgevision.model import load
from edgevision.results import Detections
from tests.export.builders import Builder, picture_tensor, run
from tests.export.cell_kit import sigmoid

SIDE_HW = (64, 96)
STRIDES = (8, 16, 32)
FP32 = ExportConfig(precision="fp32")


def rtmdet_ins_model(classes: int = 3, parameters: int = 169) -> onnx.ModelProto:
    b = Builder(51)
    x = b.op("Relu", b.conv("image", 3, 16, stride=2, gain=1.6))
    x = b.op("Relu", b.conv(x, 16, 16, stride=2, gain=1.6))
    names: dict[str, list[str]] = {"cls": [], "reach": [], "kernel": []}
    finest = ""
    for stride in STRIDES:
        x = b.op("Relu", b.conv(x, 16, 16, stride=2, gain=1.6))
        finest = finest or x
        names["cls"].append(b.op("Identity", b.conv(x, 16, classes, kernel=1, gain=3), out=f"cls{stride}"))
        reach = b.op("Relu", b.conv(x, 16, 4, kernel=1, gain=2))
        names["reach"].append(b.op("Mul", reach, b.constant(np.float32(stride)), out=f"reach{stride}"))
        names["kernel"].append(b.op("Identity", b.conv(x, 16, parameters, kernel=1, gain=1.5), out=f"kernel{stride}"))
    b.op("Identity", b.conv(finest, 16, 8, kernel=1, gain=1.5), out="mask_feat")
    outputs = [*names["cls"], *names["reach"], *names["kernel"], "mask_feat"]
    return b.model({"image": [1, 3, *SIDE_HW]}, outputs)


def cells() -> list[tuple[int, int, int]]:
    """Stride, column and row of every location."""
    height, width = SIDE_HW
    return [(s, x, y) for s in STRIDES for y in range(height // s) for x in range(width // s)]


def logits(feature: NDArray[Any], kernel: NDArray[Any], stride: int, column: int, row: int) -> NDArray[np.float64]:
    """A location's mask over the whole feature map, cell by cell, from the parameters in mmdetection's order."""
    w1, w2, w3 = kernel[:80].reshape(8, 10), kernel[80:144].reshape(8, 8), kernel[144:152]
    b1, b2, b3 = kernel[152:160], kernel[160:168], kernel[168]
    _, height, width = feature.shape
    result = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            far = [(column * stride - x * 8) / (stride * 8), (row * stride - y * 8) / (stride * 8)]
            first = np.maximum(w1 @ np.array([*far, *feature[:, y, x]], np.float64) + b1, 0)
            result[y, x] = w3 @ np.maximum(w2 @ first + b2, 0) + b3
    return result


@pytest.mark.parametrize("classes", [3, 8], ids=["3", "as-many-as-features"])
def test_boxes_scores_and_kernels_of_each_location(classes: int) -> None:
    model = rtmdet_ins_model(classes)
    prepared = prepare(model.SerializeToString(), FP32)
    assert (prepared.family, prepared.task, prepared.classes) == ("rtmdet", "instance", classes)
    image = picture_tensor(model)
    raw, got = run(model, image), run(prepared.graph.serialize(), image)
    for number, (stride, x, y) in enumerate(cells()):
        left, top, right, bottom = raw[f"reach{stride}"][0, :, y, x]
        box = [x * stride - left, y * stride - top, x * stride + right, y * stride + bottom]
        np.testing.assert_allclose(got["boxes"][0, number], box, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(got["scores"][0, number], sigmoid(raw[f"cls{stride}"][0, :, y, x]), atol=1e-6)
        np.testing.assert_array_equal(got["mask_kernels"][0, number, :169], raw[f"kernel{stride}"][0, :, y, x])
        np.testing.assert_array_equal(
            got["mask_kernels"][0, number, 169:], [x * stride, y * stride, stride * 8, stride * 8]
        )
    np.testing.assert_array_equal(got["mask_features"], raw["mask_feat"])


def test_masks_are_those_of_convolutions_over_the_whole_picture(tmp_path: Path) -> None:
    source = tmp_path / "ins.onnx"
    source.write_bytes(rtmdet_ins_model().SerializeToString())
    export_model(source, tmp_path / "ins.edge", ExportConfig(precision="fp32", confidence=0.7, quiet=True))
    small = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    picture = np.asarray(cv2.resize(small, (192, 128), interpolation=cv2.INTER_CUBIC), np.uint8)
    with load(tmp_path / "ins.edge", backend="cpu") as model:
        found, spec = model(picture), model.manifest.preprocess
    assert isinstance(found, Detections)
    assert found.mask is not None
    pixels = cv2.resize(picture, (96, 64)).astype(np.float32)
    tensor = ((pixels - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)).transpose(2, 0, 1)[None]
    raw = run(source.read_bytes(), tensor)
    locations = cells()
    boxes = np.array(
        [np.array([x * s, y * s] * 2) + raw[f"reach{s}"][0, :, y, x] * [-1, -1, 1, 1] for s, x, y in locations]
    )
    certain = np.array([sigmoid(raw[f"cls{s}"][0, :, y, x]).max() for s, x, y in locations])
    limits = np.array([192, 128, 192, 128])
    overlaps = []
    for mask, box, confidence in zip(found.mask, found.xyxy, found.confidence, strict=True):
        off = np.abs((boxes * 2).clip(0, limits) - box).max(axis=1) + 1000 * np.abs(certain - confidence)
        stride, column, row = locations[int(off.argmin())]
        assert off.min() < 0.1
        whole = logits(raw["mask_feat"][0], raw[f"kernel{stride}"][0, :, row, column], stride, column, row)
        other = np.asarray(cv2.resize(whole, (192, 128), interpolation=cv2.INTER_LINEAR)) > 0
        x, y = np.arange(192) + 0.5, np.arange(128)[:, None] + 0.5
        other &= (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
        if 0 < other.sum() < (box[2] - box[0]) * (box[3] - box[1]) * 0.95:
            overlaps.append((mask & other).sum() / (mask | other).sum())
    assert len(overlaps) > 3
    assert min(overlaps) > 0.98


def test_another_mask_head_is_refused_with_what_to_do() -> None:
    with pytest.raises(UnknownFamilyError, match="export the maps of classes and distances alone"):
        prepare(rtmdet_ins_model(parameters=153).SerializeToString(), FP32)

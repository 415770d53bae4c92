"""Heads with separate outputs per part, and maps: graphs built as each family's exporter writes them, against decodes
written cell by cell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest

from edgevision.errors import ModelError
from edgevision.export import ExportConfig, prepare
from edgevision.kernels.cpu import suppress
from tests.export.builders import Builder
from tests.export.cell_kit import CLASSES, HW, check, each_cell, features, prepared_outputs, sigmoid

PIXELS: dict[str, Any] = {"mean": (0.0,) * 3, "std": (255.0,) * 3}


def ceil_cells(stride: int) -> list[tuple[int, int]]:
    """Column and row of every cell; the last part of a stride has a cell of its own."""
    return [(x, y) for y in range(math.ceil(HW[0] / stride)) for x in range(math.ceil(HW[1] / stride))]


def rows_of(b: Builder, tensor: str, columns: int, out: str | None = None) -> str:
    flat = b.op("Reshape", tensor, b.constant(np.array([1, columns, -1])))
    return b.op("Transpose", flat, perm=[0, 2, 1], out=out)


# PP-YOLOE --------------------------------------------------------------------------------------------------------


def ppyoloe_model(strides: tuple[int, ...]) -> onnx.ModelProto:
    """Distances as expectations over 17 bins, corners, channels-first probabilities."""
    b = Builder(51)
    scores, distances, points, steps = [], [], [], []
    for feature, stride in zip(features(b, strides), strides, strict=True):
        raw = b.op("Sigmoid", b.conv(feature, 12, CLASSES, kernel=1, gain=3))
        scores.append(b.op("Reshape", raw, b.constant(np.array([1, CLASSES, -1]))))
        bins = b.op("Reshape", b.conv(feature, 12, 68, kernel=1, gain=3), b.constant(np.array([1, 4, 17, -1])))
        share = b.op("Softmax", b.op("Transpose", bins, perm=[0, 2, 3, 1]), axis=1)
        weight = b.constant(np.arange(17, dtype=np.float32).reshape(1, 17, 1, 1))
        distances.append(b.op("Squeeze", b.op("Conv", share, weight), b.constant(np.array([1]))))
        points += [[x + 0.5, y + 0.5] for x, y in ceil_cells(stride)]
        steps += [[stride]] * len(ceil_cells(stride))
    joined = b.op("Concat", *distances, axis=1)
    b.nodes.append(onnx.helper.make_node("Split", [joined, b.constant(np.array([2, 2]))], ["lt", "rb"], axis=2))
    centre = b.constant(np.array(points, np.float32))
    corner = b.op("Concat", b.op("Sub", centre, "lt"), b.op("Add", centre, "rb"), axis=2)
    b.op("Mul", corner, b.constant(np.array(steps, np.float32)), out="tmp_0")
    b.op("Concat", *scores, axis=2, out="concat_1")
    return b.model({"image": [1, 3, *HW]}, ["tmp_0", "concat_1"])


@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64)])
@pytest.mark.parametrize("seed", range(2))
def test_ppyoloe(seed: int, strides: tuple[int, ...]) -> None:
    raw, got = prepared_outputs(ppyoloe_model(strides), seed, "ppyoloe", **PIXELS)
    check(got, raw["tmp_0"][0].tolist(), [list(column) for column in raw["concat_1"][0].T])


def test_ppyoloe_asks_how_pixels_are_normalised() -> None:
    with pytest.raises(Exception, match=r"PP-YOLOE\+"):
        prepare(ppyoloe_model((8, 16, 32)).SerializeToString(), ExportConfig(precision="fp32"))


# PicoDet ---------------------------------------------------------------------------------------------------------


def picodet_model() -> onnx.ModelProto:
    b = Builder(52)
    strides = (8, 16, 32, 64)
    scores, sides = [], []
    for feature, stride in zip(features(b, strides), strides, strict=True):
        raw = b.op("Sigmoid", b.conv(feature, 12, CLASSES, kernel=1, gain=3))
        scores.append(rows_of(b, raw, CLASSES, out=f"cls_{stride}"))
        sides.append(rows_of(b, b.conv(feature, 12, 32, kernel=1, gain=2), 32, out=f"dis_{stride}"))
    return b.model({"image": [1, 3, *HW]}, [*scores, *sides])


@pytest.mark.parametrize("seed", range(2))
def test_picodet(seed: int) -> None:
    raw, got = prepared_outputs(picodet_model(), seed, "picodet")
    boxes, scores = [], []
    for stride in (8, 16, 32, 64):
        for i, (x, y) in enumerate(ceil_cells(stride)):
            shares = np.exp(raw[f"dis_{stride}"][0, i].astype(float).reshape(4, 8))
            left, top, right, bottom = (shares * np.arange(8)).sum(axis=1) / shares.sum(axis=1) * stride
            cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
            boxes.append([cx - left, cy - top, cx + right, cy + bottom])
            scores.append(list(raw[f"cls_{stride}"][0, i]))
    check(got, boxes, scores)


# CenterNet -------------------------------------------------------------------------------------------------------


def centernet_model(*, sigmoid_inside: bool = False, end: str | None = None) -> onnx.ModelProto:
    b = Builder(53)
    feature = features(b, (4,))[0]
    heat = b.conv(feature, 12, CLASSES, kernel=1, gain=3)
    if sigmoid_inside:
        heat = b.op("Sigmoid", heat)
    b.op(end or "Identity", heat, out="hm")
    b.op("Add", b.op("Relu", b.conv(feature, 12, 2, kernel=1, gain=5)), b.constant(np.float32(1)), out="wh")
    b.op("Identity", b.conv(feature, 12, 2, kernel=1, gain=1), out="reg")
    if not sigmoid_inside and end is None:  # as PyTorch writes it: the convolution itself bears the output's name
        for node in b.nodes:
            node.output[:] = ["hm" if name == heat else name for name in node.output]
        b.nodes.remove(next(node for node in b.nodes if node.op_type == "Identity" and node.output[0] == "hm"))
    return b.model({"image": [1, 3, *HW]}, ["hm", "wh", "reg"])


@pytest.mark.parametrize("sigmoid_inside", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_centernet_peaks_are_what_topk_picks(seed: int, sigmoid_inside: bool) -> None:
    model = centernet_model(sigmoid_inside=sigmoid_inside)
    raw, got = prepared_outputs(model, seed, "centernet")
    heat = raw["hm"][0].astype(float) if sigmoid_inside else sigmoid(raw["hm"][0].astype(float))
    boxes, scores, peaks = [], [], []
    for y in range(heat.shape[1]):
        for x in range(heat.shape[2]):
            w, h = raw["wh"][0, :, y, x].astype(float)
            cx, cy = raw["reg"][0, :, y, x].astype(float) + (x, y)
            box = [4 * (cx - w / 2), 4 * (cy - h / 2), 4 * (cx + w / 2), 4 * (cy + h / 2)]
            around = heat[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max(axis=(1, 2))
            kept = np.where(heat[:, y, x] == around, heat[:, y, x], 0.0)
            boxes.append(box)
            scores.append(list(kept))
            peaks += [(score, c, *box) for c, score in enumerate(kept) if score > 0.3]
    check(got, boxes, scores)
    nms = prepare(model.SerializeToString(), ExportConfig(precision="fp32")).nms
    assert nms is not None
    xyxy, confidence, class_id = suppress(got["boxes"][0], got["scores"][0], nms)
    ours = [(s, c, *box) for box, s, c in zip(xyxy, confidence, class_id, strict=True)]
    best = sorted(peaks, reverse=True)[:100]
    assert len(best) > 20
    np.testing.assert_allclose(sorted(ours, reverse=True), best, rtol=1e-4, atol=1e-3)


def test_centernet_asks_whether_a_heat_map_is_a_probability() -> None:
    data = centernet_model(end="Relu").SerializeToString()
    with pytest.raises(ModelError, match="--head activation=none"):
        prepare(data, ExportConfig(precision="fp32"))
    assert prepare(data, ExportConfig(precision="fp32", head={"activation": "sigmoid"})).family == "centernet"


# FastestDet ------------------------------------------------------------------------------------------------------


def fastestdet_model() -> onnx.ModelProto:
    b = Builder(54)
    feature = features(b, (16,))[0]
    sure = b.op("Sigmoid", b.conv(feature, 12, 1, kernel=1, gain=3))
    box = b.conv(feature, 12, 4, kernel=1, gain=2)
    classes = b.op("Softmax", b.conv(feature, 12, CLASSES, kernel=1, gain=3), axis=1)
    b.op("Concat", sure, box, classes, axis=1, out="output")
    return b.model({"image": [1, 3, *HW]}, ["output"])


@pytest.mark.parametrize("score", [None, "product"])
@pytest.mark.parametrize("seed", range(2))
def test_fastestdet(seed: int, score: str | None) -> None:
    raw, got = prepared_outputs(fastestdet_model(), seed, "fastestdet", head={"score": score} if score else {})
    boxes, scores = [], []
    for x, y in each_cell(16):
        sure, tx, ty, tw, th, *classes = raw["output"][0, :, y, x].astype(float)
        cx, cy = (math.tanh(tx) + x) / (HW[1] // 16) * HW[1], (math.tanh(ty) + y) / (HW[0] // 16) * HW[0]
        w, h = sigmoid(tw) * HW[1], sigmoid(th) * HW[0]
        boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        scores.append([sure * c if score else sure**0.6 * c**0.4 for c in classes])
    check(got, boxes, scores)

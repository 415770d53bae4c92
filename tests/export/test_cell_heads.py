"""Heads with separate outputs per part, and maps: graphs built as each family's exporter writes them, against decodes
written cell by cell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest

from edgevision.errors import ModelError, UnknownFamilyError
from edgevision.export import ExportConfig, prepare
from edgevision.kernels.cpu import suppress
from tests.export.builders import Builder
from tests.export.cell_kit import CLASSES, HW, ceil_cells, check, each_cell, features, prepared_outputs, sigmoid

PIXELS: dict[str, Any] = {"mean": (0.0,) * 3, "std": (255.0,) * 3}


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


# RTMDet ----------------------------------------------------------------------------------------------------------


def rtmdet_model(form: str) -> onnx.ModelProto:
    """`maps` and `rows` as open-mmlab/mmdetection writes them, `raw` as open-mmlab/mmyolo does."""
    b = Builder(55)
    joined, names = [], []
    for feature, stride in zip(features(b, (8, 16, 32)), (8, 16, 32), strict=True):
        x = b.conv(feature, 12, CLASSES, kernel=1, gain=3)
        d = b.conv(feature, 12, 4, kernel=1, gain=3)
        if form != "raw":
            d = b.op("Mul", d, b.constant(np.float32(stride)))
        if form == "rows":
            both = b.op("Concat", b.op("Sigmoid", x), d, axis=1)
            joined.append(b.op("Reshape", both, b.constant(np.array([1, CLASSES + 4, -1]))))
        else:
            names += [b.op("Identity", x, out=f"cls_{stride}"), b.op("Identity", d, out=f"bbox_{stride}")]
    if form == "rows":
        b.op("Transpose", b.op("Concat", *joined, axis=2), perm=[0, 2, 1], out="output")
        names = ["output"]
    return b.model({"image": [1, 3, *HW]}, names)


@pytest.mark.parametrize("form", ["maps", "rows", "raw"])
@pytest.mark.parametrize("seed", range(2))
def test_rtmdet(seed: int, form: str) -> None:
    config = {"family": "rtmdet"} if form == "raw" else {}
    raw, got = prepared_outputs(rtmdet_model(form), seed, "rtmdet", **config)
    rows = iter(raw["output"][0].astype(float)) if form == "rows" else None
    boxes, scores = [], []
    for stride in (8, 16, 32):
        for x, y in each_cell(stride):
            if rows is not None:
                *classes, left, top, right, bottom = next(rows)
            else:
                classes = list(sigmoid(raw[f"cls_{stride}"][0, :, y, x].astype(float)))
                left, top, right, bottom = raw[f"bbox_{stride}"][0, :, y, x].astype(float)
                left, top, right, bottom = (v * (stride if form == "raw" else 1) for v in (left, top, right, bottom))
            boxes.append([x * stride - left, y * stride - top, x * stride + right, y * stride + bottom])
            scores.append(classes)
    check(got, boxes, scores)


def test_distances_in_an_unseen_unit_are_not_taken_for_rtmdet() -> None:
    with pytest.raises(UnknownFamilyError, match="--family rtmdet"):
        prepare(rtmdet_model("raw").SerializeToString(), ExportConfig(precision="fp32"))


# RetinaNet, FCOS, EfficientDet -----------------------------------------------------------------------------------

PYRAMID = (8, 16, 32, 64, 128)


def pyramid_model(parts: dict[str, int], per_cell: int) -> onnx.ModelProto:
    """torchvision's heads: the maps of five strides as rows, one below the other."""
    b = Builder(56)
    maps = features(b, PYRAMID)
    for name, width in parts.items():
        levels = []
        for feature in maps:
            raw = b.conv(feature, 12, per_cell * width, kernel=1, gain=0.5 if width == 4 else 1.5)
            if width == 4 and "bbox_ctrness" in parts:  # distances, never negative
                raw = b.op("Relu", raw)
            last = b.op("Transpose", raw, perm=[0, 2, 3, 1])
            levels.append(b.op("Reshape", last, b.constant(np.array([1, -1, width]))))
        b.op("Concat", *levels, axis=1, out=name)
    return b.model({"image": [1, 3, *HW]}, list(parts))


@pytest.mark.parametrize("seed", range(2))
def test_retinanet(seed: int) -> None:
    model = pyramid_model({"cls_logits": CLASSES, "bbox_regression": 4}, 9)
    raw, got = prepared_outputs(model, seed, "retinanet")
    offsets = iter(raw["bbox_regression"][0].astype(float))
    boxes = []
    for stride in PYRAMID:
        rows, columns = math.ceil(HW[0] / stride), math.ceil(HW[1] / stride)
        for y in range(rows):
            for x in range(columns):
                for ratio in (0.5, 1.0, 2.0):  # height to width
                    for third in range(3):
                        size = int(4 * stride * 2 ** (third / 3))
                        w, h = (2 * round(side / 2) for side in (size / math.sqrt(ratio), size * math.sqrt(ratio)))
                        dx, dy, dw, dh = next(offsets)
                        cx, cy = x * (HW[1] // columns) + dx * w, y * (HW[0] // rows) + dy * h
                        w, h = w * math.exp(dw), h * math.exp(dh)
                        boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    check(got, boxes, sigmoid(raw["cls_logits"][0].astype(float)).tolist())


@pytest.mark.parametrize("classes", [1, 3, 4])
@pytest.mark.parametrize("seed", range(2))
def test_fcos(seed: int, classes: int) -> None:
    model = pyramid_model({"cls_logits": classes, "bbox_regression": 4, "bbox_ctrness": 1}, 1)
    raw, got = prepared_outputs(model, seed, "fcos")
    logits, distances, centre = (
        raw[name][0].astype(float) for name in ("cls_logits", "bbox_regression", "bbox_ctrness")
    )
    boxes, scores, i = [], [], 0
    for stride in PYRAMID:
        rows, columns = math.ceil(HW[0] / stride), math.ceil(HW[1] / stride)
        for y in range(rows):
            for x in range(columns):
                cx, cy = x * (HW[1] // columns), y * (HW[0] // rows)
                left, top, right, bottom = distances[i] * stride
                boxes.append([cx - left, cy - top, cx + right, cy + bottom])
                scores.append(list(np.sqrt(sigmoid(logits[i]) * sigmoid(centre[i]))))
                i += 1
    check(got, boxes, scores)


def test_nine_anchors_per_cell_need_a_name() -> None:
    data = pyramid_model({"labels": CLASSES, "offsets": 4}, 9).SerializeToString()
    with pytest.raises(UnknownFamilyError, match="--family retinanet"):
        prepare(data, ExportConfig(precision="fp32"))
    assert prepare(data, ExportConfig(precision="fp32", family="retinanet")).family == "retinanet"


def efficientdet_model() -> onnx.ModelProto:
    b = Builder(57)
    maps = features(b, PYRAMID)
    names = []
    for part, width, gain in (("class", CLASSES, 3), ("box", 4, 0.5)):
        for level, feature in enumerate(maps, 3):
            raw = b.conv(feature, 12, 9 * width, kernel=1, gain=gain)
            names.append(b.op("Identity", raw, out=f"{part}_net_{level}"))
    return b.model({"image": [1, 3, *HW]}, names)


@pytest.mark.parametrize("ratios", [None, "roots"])
@pytest.mark.parametrize("seed", range(2))
def test_efficientdet(seed: int, ratios: str | None) -> None:
    head = {"anchor_scale": "3", **({"ratios": ratios} if ratios else {})}
    raw, got = prepared_outputs(efficientdet_model(), seed, "efficientdet", head=head, **PIXELS)
    root = math.sqrt(2)
    pairs = [(1, 1), (root, 1 / root), (1 / root, root)] if ratios else [(1, 1), (1.4, 0.7), (0.7, 1.4)]
    boxes, scores = [], []
    for level, stride in enumerate(PYRAMID, 3):
        rows, columns = math.ceil(HW[0] / stride), math.ceil(HW[1] / stride)
        step_x, step_y = HW[1] / columns, HW[0] / rows
        for y in range(rows):
            for x in range(columns):
                offsets = raw[f"box_net_{level}"][0, :, y, x].astype(float).reshape(9, 4)
                logits = raw[f"class_net_{level}"][0, :, y, x].astype(float).reshape(9, CLASSES)
                shapes = [(3 * 2 ** (o / 3) * w, 3 * 2 ** (o / 3) * h) for o in range(3) for w, h in pairs]
                for (ty, tx, th, tw), (wide, high) in zip(offsets, shapes, strict=True):
                    wa, ha = wide * step_x, high * step_y
                    cx, cy = tx * wa + (x + 0.5) * step_x, ty * ha + (y + 0.5) * step_y
                    w, h = math.exp(tw) * wa, math.exp(th) * ha
                    boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
                scores += sigmoid(logits).tolist()
    check(got, boxes, scores)


def test_efficientdet_asks_for_the_size_of_its_anchors() -> None:
    with pytest.raises(ModelError, match="--head anchor_scale=4"):
        prepare(efficientdet_model().SerializeToString(), ExportConfig(precision="fp32", **PIXELS))

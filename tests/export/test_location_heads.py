"""Heads with one set of numbers per map location: graphs built as each family's exporter writes them, against decodes
written cell by cell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest

from edgevision.errors import EdgeVisionError, ModelError, UnknownFamilyError, UsageError
from edgevision.export import ExportConfig, prepare
from tests.export.builders import Builder
from tests.export.cell_kit import CLASSES, HW, check, each_cell, features, prepared_outputs, sigmoid

# YOLOX -----------------------------------------------------------------------------------------------------------


def yolox_model(*, decoded: bool = False) -> onnx.ModelProto:
    b = Builder(11)
    levels = []
    for feature in features(b, (8, 16, 32)):
        box = b.conv(feature, 12, 4, kernel=1, gain=1)
        sure = [b.op("Sigmoid", b.conv(feature, 12, n, kernel=1, gain=3)) for n in (1, CLASSES)]
        joined = b.op("Concat", box, *sure, axis=1)
        levels.append(b.op("Reshape", joined, b.constant(np.array([1, 5 + CLASSES, -1]))))
    x = b.op("Transpose", b.op("Concat", *levels, axis=2), perm=[0, 2, 1], out=None if decoded else "output")
    if decoded:
        grid = np.array([[x, y] for s in (8, 16, 32) for x, y in each_cell(s)], np.float32)
        step = np.array([[s] for s in (8, 16, 32) for _ in each_cell(s)], np.float32)
        b.nodes.append(
            onnx.helper.make_node("Split", [x, b.constant(np.array([2, 2, 1 + CLASSES]))], ["xy", "wh", "rest"], axis=2)
        )
        centre = b.op("Mul", b.op("Add", "xy", b.constant(grid)), b.constant(step))
        size = b.op("Mul", b.op("Exp", "wh"), b.constant(step))
        b.op("Concat", centre, size, "rest", axis=2, out="output")
    return b.model({"image": [1, 3, *HW]}, ["output"])


@pytest.mark.parametrize("decoded", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_yolox(seed: int, decoded: bool) -> None:
    raw, got = prepared_outputs(yolox_model(decoded=decoded), seed, "yolox")
    rows = iter(raw["output"][0].astype(float))
    boxes, scores = [], []
    for stride in (8, 16, 32):
        for x, y in each_cell(stride):
            cx, cy, w, h, objectness, *classes = next(rows)
            if not decoded:
                cx, cy, w, h = (cx + x) * stride, (cy + y) * stride, math.exp(w) * stride, math.exp(h) * stride
            boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            scores.append([objectness * c for c in classes])
    check(got, boxes, scores)


def test_yolox_preprocessing_has_two_ages() -> None:
    data = yolox_model().SerializeToString()
    new = prepare(data, ExportConfig(precision="fp32")).preprocess
    assert (new.resize, new.color, new.mean, new.std, new.pad_value) == (
        "letterbox-topleft",
        "bgr",
        (0.0,) * 3,
        (1.0,) * 3,
        114.0,
    )
    old = prepare(data, ExportConfig(precision="fp32", preprocess="torch")).preprocess
    assert (old.resize, old.color, old.mean, old.std, old.pad_value) == (
        "letterbox-topleft",
        "rgb",
        (123.675, 116.28, 103.53),
        (58.395, 57.12, 57.375),
        114.0,
    )


# YOLOv5, v7, v6 --------------------------------------------------------------------------------------------------

ANCHORS = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]


def yolov5_model(classes: int = CLASSES) -> onnx.ModelProto:
    """As models/yolo.py's Detect writes it: sigmoid over everything, then 2x - 0.5 and (2x)^2."""
    b = Builder(12)
    outputs = []
    for feature, stride, anchors in zip(features(b, (8, 16, 32)), (8, 16, 32), ANCHORS, strict=True):
        h, w = HW[0] // stride, HW[1] // stride
        x = b.conv(feature, 12, 3 * (5 + classes), kernel=1, gain=2)
        x = b.op("Reshape", x, b.constant(np.array([1, 3, 5 + classes, h, w])))
        x = b.op("Sigmoid", b.op("Transpose", x, perm=[0, 1, 3, 4, 2]))
        names = [f"{part}{stride}" for part in ("xy", "wh", "conf")]
        b.nodes.append(onnx.helper.make_node("Split", [x, b.constant(np.array([2, 2, 1 + classes]))], names, axis=4))
        gy, gx = np.mgrid[:h, :w]
        grid = b.constant((np.stack([gx, gy], -1) - 0.5)[None, None].astype(np.float32))
        two, step = b.constant(np.float32(2)), b.constant(np.float32(stride))
        xy = b.op("Mul", b.op("Add", b.op("Mul", names[0], two), grid), step)
        root = b.op("Mul", names[1], two)
        anchor = b.constant(np.array(anchors, np.float32).reshape(1, 3, 1, 1, 2))
        wh = b.op("Mul", b.op("Pow", root, two), anchor)
        y = b.op("Concat", xy, wh, names[2], axis=4)
        outputs.append(b.op("Reshape", y, b.constant(np.array([1, 3 * h * w, 5 + classes]))))
    b.op("Concat", *outputs, axis=1, out="output0")
    return b.model({"image": [1, 3, *HW]}, ["output0"])


@pytest.mark.parametrize("seed", range(3))
def test_yolov5_and_yolov7(seed: int) -> None:
    raw, got = prepared_outputs(yolov5_model(), seed, "yolov5")
    boxes, scores = [], []
    for cx, cy, w, h, objectness, *classes in raw["output0"][0].astype(float):
        boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        scores.append([objectness * c for c in classes])
    check(got, boxes, scores)


def test_yolov7_scores_a_single_class_by_objectness_alone_when_told() -> None:
    model = yolov5_model(classes=1)
    raw, product = prepared_outputs(model, 0, "yolov5")
    _, alone = prepared_outputs(model, 0, "yolov5", head={"score": "objectness"})
    columns = raw["output0"][0]
    np.testing.assert_allclose(product["scores"][0, :, 0], columns[:, 4] * columns[:, 5], rtol=1e-5)
    np.testing.assert_allclose(alone["scores"][0, :, 0], columns[:, 4], rtol=1e-6)


def yolov6_model() -> onnx.ModelProto:
    b = Builder(13)
    boxes, classes = [], []
    for feature, stride in zip(features(b, (8, 16, 32)), (8, 16, 32), strict=True):
        cells = each_cell(stride)
        flat = b.constant(np.array([1, 4, -1]))
        reach = b.op("Exp", b.op("Reshape", b.conv(feature, 12, 4, kernel=1), flat))
        b.nodes.append(
            onnx.helper.make_node(
                "Split", [reach, b.constant(np.array([2, 2]))], [f"lt{stride}", f"rb{stride}"], axis=1
            )
        )
        points = b.constant((np.array(cells, np.float32) + 0.5).T[None])
        low, high = b.op("Sub", points, f"lt{stride}"), b.op("Add", points, f"rb{stride}")
        centre = b.op("Div", b.op("Add", low, high), b.constant(np.float32(2)))
        box = b.op("Mul", b.op("Concat", centre, b.op("Sub", high, low), axis=1), b.constant(np.float32(stride)))
        boxes.append(box)
        sure = b.op("Sigmoid", b.conv(feature, 12, CLASSES, kernel=1, gain=3))
        classes.append(b.op("Reshape", sure, b.constant(np.array([1, CLASSES, -1]))))
    box = b.op("Transpose", b.op("Concat", *boxes, axis=2), perm=[0, 2, 1])
    score = b.op("Transpose", b.op("Concat", *classes, axis=2), perm=[0, 2, 1])
    count = sum(len(each_cell(s)) for s in (8, 16, 32))
    b.op("Concat", box, b.constant(np.ones((1, count, 1), np.float32)), score, axis=2, out="outputs")
    return b.model({"image": [1, 3, *HW]}, ["outputs"])


@pytest.mark.parametrize("seed", range(3))
def test_yolov6(seed: int) -> None:
    raw, got = prepared_outputs(yolov6_model(), seed, "yolov6")
    boxes, scores = [], []
    for cx, cy, w, h, _, *classes in raw["outputs"][0].astype(float):
        boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        scores.append(classes)
    check(got, boxes, scores)


# Raw maps --------------------------------------------------------------------------------------------------------

TINY = [[[10, 14], [23, 27], [37, 58]], [[81, 82], [135, 169], [344, 319]]]


def raw_maps_model(*, five: bool = False) -> onnx.ModelProto:
    b = Builder(14)
    for feature, stride in zip(features(b, (16, 32)), (16, 32), strict=True):
        x = b.conv(feature, 12, 3 * (5 + CLASSES), kernel=1, gain=0.8)
        if five:
            h, w = HW[0] // stride, HW[1] // stride
            x = b.op("Reshape", x, b.constant(np.array([1, 3, 5 + CLASSES, h, w])))
            x = b.op("Transpose", x, perm=[0, 1, 3, 4, 2])
        b.op("Identity", x, out=f"map{stride}")
    return b.model({"image": [1, 3, *HW]}, ["map32", "map16"])  # darknet's order: coarse first


@pytest.mark.parametrize("five", [False, True])
@pytest.mark.parametrize("coder", ["darknet", "yolov5"])
@pytest.mark.parametrize("scale", [1.0, 1.05])
def test_raw_maps(coder: str, scale: float, five: bool) -> None:
    head = {"anchors": "yolov3-tiny", "coder": coder, "scale_xy": str(scale)}
    raw, got = prepared_outputs(raw_maps_model(five=five), 1, "yolov3", head=head)
    boxes, scores = [], []
    for stride, anchors in zip((16, 32), TINY, strict=True):
        values = raw[f"map{stride}"].astype(float)
        for x, y in each_cell(stride):
            for a, (aw, ah) in enumerate(anchors):
                if five:
                    tx, ty, tw, th, objectness, *classes = values[0, a, y, x]
                else:
                    tx, ty, tw, th, objectness, *classes = values[0, a * (5 + CLASSES) : (a + 1) * (5 + CLASSES), y, x]
                if coder == "darknet":
                    px, py = (sigmoid(t) * scale - (scale - 1) / 2 for t in (tx, ty))
                    w, h = math.exp(tw) * aw, math.exp(th) * ah
                else:
                    px, py = (2 * sigmoid(t) - 0.5 for t in (tx, ty))
                    w, h = (2 * sigmoid(tw)) ** 2 * aw, (2 * sigmoid(th)) ** 2 * ah
                cx, cy = (px + x) * stride, (py + y) * stride
                boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
                scores.append([sigmoid(objectness) * sigmoid(c) for c in classes])
    check(got, boxes, scores)


@pytest.mark.parametrize(
    ("head", "error", "words"),
    [
        ({}, ModelError, "--head anchors="),
        ({"anchors": "yolov3"}, UsageError, "12 positive numbers"),
        ({"anchors": "1,2,x"}, UsageError, "12 positive numbers"),
        ({"anchors": "yolov3-tiny", "scale_xy": "1,2,3"}, UsageError, "scale_xy is one number"),
        ({"anchors": "yolov3-tiny", "coder": "v9"}, UsageError, "coder is one of darknet, yolov5"),
    ],
)
def test_what_raw_maps_do_not_say_must_be_given(head: dict[str, str], error: type[EdgeVisionError], words: str) -> None:
    with pytest.raises(error, match=words):
        prepare(raw_maps_model().SerializeToString(), ExportConfig(precision="fp32", head=head))


# NanoDet ---------------------------------------------------------------------------------------------------------


def nanodet_model(*, plus: bool) -> onnx.ModelProto:
    b = Builder(15)
    strides = (8, 16, 32, 64) if plus else (8, 16, 32)
    scores, sides, joined = [], [], []
    for feature, stride in zip(features(b, strides), strides, strict=True):
        x = b.conv(feature, 12, CLASSES, kernel=1, gain=3)
        d = b.conv(feature, 12, 32, kernel=1, gain=2)
        parts = [b.op("Sigmoid", x), d]
        if plus:
            both = b.op("Concat", *parts, axis=1)
            joined.append(b.op("Reshape", both, b.constant(np.array([1, CLASSES + 32, -1]))))
            continue
        for part, names, width in zip(parts, (scores, sides), (CLASSES, 32), strict=True):
            flat = b.op("Reshape", part, b.constant(np.array([1, width, -1])))
            names.append(b.op("Transpose", flat, perm=[0, 2, 1], out=f"{'cls' if width == CLASSES else 'dis'}{stride}"))
    if plus:
        b.op("Transpose", b.op("Concat", *joined, axis=2), perm=[0, 2, 1], out="output")
        return b.model({"image": [1, 3, *HW]}, ["output"])
    return b.model({"image": [1, 3, *HW]}, [*scores, *sides])


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_nanodet(seed: int, plus: bool) -> None:
    model = nanodet_model(plus=plus)
    raw, got = prepared_outputs(model, seed, "nanodet")
    rows = iter(raw["output"][0].astype(float)) if plus else None
    boxes, scores = [], []
    for stride in (8, 16, 32, 64) if plus else (8, 16, 32):
        # The coarsest maps end in a part of a cell: 64 x 96 pixels have 1 x 2 cells of 64.
        width, height = math.ceil(HW[1] / stride), math.ceil(HW[0] / stride)
        for i, (y, x) in enumerate(np.ndindex(height, width)):
            if rows is not None:
                row = next(rows)
                classes, logits = row[:CLASSES], row[CLASSES:].reshape(4, 8)
                cx, cy = x * stride, y * stride
            else:
                classes, logits = raw[f"cls{stride}"][0, i], raw[f"dis{stride}"][0, i].astype(float).reshape(4, 8)
                cx, cy = x * stride + (stride - 1) / 2, y * stride + (stride - 1) / 2
            shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            left, top, right, bottom = (shares * np.arange(8)).sum(axis=1) * stride
            boxes.append([cx - left, cy - top, cx + right, cy + bottom])
            scores.append(list(classes))
    check(got, boxes, scores)


# YuNet -----------------------------------------------------------------------------------------------------------


def yunet_model() -> onnx.ModelProto:
    b = Builder(16)
    names = []
    for part, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for feature, stride in zip(features(b, (8, 16, 32)), (8, 16, 32), strict=True):
            x = b.conv(feature, 12, width, kernel=1, gain=1.5)
            x = b.op("Reshape", b.op("Transpose", x, perm=[0, 2, 3, 1]), b.constant(np.array([1, -1, width])))
            names.append(b.op("Sigmoid" if part in ("cls", "obj") else "Identity", x, out=f"{part}_{stride}"))
    return b.model({"image": [1, 3, *HW]}, names)


@pytest.mark.parametrize("seed", range(2))
def test_yunet(seed: int) -> None:
    raw, got = prepared_outputs(yunet_model(), seed, "yunet")
    boxes, scores, points = [], [], []
    for stride in (8, 16, 32):
        for i, (x, y) in enumerate(each_cell(stride)):
            dx, dy, dw, dh = raw[f"bbox_{stride}"][0, i].astype(float)
            cx, cy, w, h = (x + dx) * stride, (y + dy) * stride, math.exp(dw) * stride, math.exp(dh) * stride
            boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            scores.append([math.sqrt(raw[f"cls_{stride}"][0, i, 0] * raw[f"obj_{stride}"][0, i, 0])])
            pairs = raw[f"kps_{stride}"][0, i].astype(float).reshape(5, 2)
            points.append([[(x + px) * stride, (y + py) * stride] for px, py in pairs])
    check(got, boxes, scores)
    np.testing.assert_allclose(got["keypoints"][0], np.array(points), rtol=1e-5, atol=1e-3)


# Between the families --------------------------------------------------------------------------------------------


def test_rows_that_could_be_anything_are_refused_with_what_would_settle_it() -> None:
    b = Builder(17)
    x = b.conv(features(b, (8,))[0], 12, 8, kernel=1)
    b.op("Transpose", b.op("Reshape", x, b.constant(np.array([1, 8, -1]))), perm=[0, 2, 1], out="mystery")
    with pytest.raises(UnknownFamilyError, match=r"mystery \[1, 96, 8\]") as caught:
        prepare(b.model({"image": [1, 3, *HW]}, ["mystery"]).SerializeToString(), ExportConfig(precision="fp32"))
    for family in ("nanodet", "ssd", "yolov3", "yolov5", "yolov6", "yolov8", "yolox", "yunet"):
        assert f"\n  {family}: no: " in str(caught.value)


def test_real_files_are_recognised(shared: Any) -> None:
    models = shared / "models"
    for name, family, head in (
        ("yolox_nano", "yolox", {}),
        ("nanodet_m_416", "nanodet", {}),
        ("yolo_fastest_xl_320", "yolov3", {"anchors": "12,18,37,49,52,132,115,73,119,199,242,238"}),
        ("yunet_n_640", "yunet", {}),
    ):
        assert prepare(models / f"{name}.onnx", ExportConfig(precision="fp32", head=head)).family == family

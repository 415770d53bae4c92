"""Detectors with suppression in the graph: cut before it, our suppression must find what theirs found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgevision.errors import ModelError, UnknownFamilyError
from edgevision.export import ExportConfig, prepare
from edgevision.kernels.cpu import suppress
from tests.export.builders import Builder, backbone, picture_tensor, rows, run

SIDE, CLASSES = 64, 3
PIXELS = {"mean": (0.0,) * 3, "std": (255.0,) * 3}


def boxes_and_scores(b: Builder, *, pixels: bool) -> tuple[str, str]:
    """Boxes [1,N,4] decoded as SSDs do, y first in fractions or x first in pixels, and scores [1,N,C]."""
    feature = backbone(b)
    offsets = rows(b, feature, 16, 2, 4, gain=1)
    b.nodes.append(helper.make_node("Split", [offsets, b.constant(np.array([2, 2]))], ["shift", "log"], axis=2))
    cells = np.stack(np.mgrid[:8, :8], axis=-1).reshape(-1, 2).repeat(2, axis=0).astype(np.float32)
    centre = (cells + 0.5) / 8
    size = np.tile(np.array([[0.25, 0.3], [0.5, 0.4]], np.float32), (64, 1))
    unit = np.float32(SIDE if pixels else 1)
    if pixels:
        centre, size = centre[:, ::-1], size[:, ::-1]
    middle = b.op("Add", b.op("Mul", "shift", b.constant(size * unit * np.float32(0.1))), b.constant(centre * unit))
    half = b.op("Mul", b.op("Exp", b.op("Mul", "log", b.constant(np.float32(0.2)))), b.constant(size * unit / 2))
    boxes = b.op("Concat", b.op("Sub", middle, half), b.op("Add", middle, half), axis=2)
    return boxes, b.op("Sigmoid", rows(b, feature, 16, 2, CLASSES, gain=6))


def tensorflow_model() -> onnx.ModelProto:
    b = Builder(41)
    boxes, scores = boxes_and_scores(b, pixels=False)
    turned = b.op("Transpose", scores, perm=[0, 2, 1])
    settings = [b.constant(np.array(v)) for v in (np.int64(200), np.float32(0.5), np.float32(0.4))]
    b.op("NonMaxSuppression", boxes, turned, *settings, out="selected")
    b.op("Identity", boxes, out="all_boxes")
    b.op("Identity", scores, out="all_scores")
    model = b.model({"image": [1, 3, SIDE, SIDE]}, ["selected"], kinds={"selected": TensorProto.INT64})
    model.producer_name = "tf2onnx"
    return model


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    wider = onnx.ModelProto.FromString(model.SerializeToString())
    wider.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    return wider


@pytest.mark.parametrize("seed", range(3))
def test_our_suppression_finds_what_the_graph_s_own_found(seed: int) -> None:
    model = tensorflow_model()
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", **PIXELS))
    image = picture_tensor(model, seed)
    raw = run(with_outputs(model, ["all_boxes", "all_scores"]), image)
    got = run(prepared.graph.serialize(), image)
    assert prepared.nms is not None
    assert (prepared.family, prepared.nms.iou_threshold, prepared.nms.confidence) == (
        "nms_inside",
        0.5,
        pytest.approx(0.4),
    )
    xyxy, confidence, class_id = suppress(got["boxes"][0], got["scores"][0], prepared.nms)
    picked = raw["selected"][:, 1:]
    theirs = [(c, raw["all_scores"][0, row, c], *(raw["all_boxes"][0, row, [1, 0, 3, 2]] * SIDE)) for c, row in picked]
    ours = [(c, s, *box) for box, s, c in zip(xyxy, confidence, class_id, strict=True)]
    np.testing.assert_allclose(sorted(ours), sorted(theirs), rtol=1e-5, atol=1e-3)
    assert len(ours) > 5


def yolov7_model() -> onnx.ModelProto:
    """models/experimental.py, ONNX_ORT: every class's boxes moved elsewhere, one call for all."""
    b = Builder(42)
    boxes, scores = boxes_and_scores(b, pixels=True)
    best = b.op("ReduceMax", scores, axes=[2], keepdims=1)
    number = b.op("Cast", b.op("ArgMax", scores, axis=2, keepdims=1), to=TensorProto.FLOAT)
    moved = b.op("Add", boxes, b.op("Mul", number, b.constant(np.float32(640))))
    settings = [b.constant(np.array(v)) for v in (np.int64(100), np.float32(0.45), np.float32(0.25))]
    b.op("NonMaxSuppression", moved, b.op("Transpose", best, perm=[0, 2, 1]), *settings, out="output")
    model = b.model({"image": [1, 3, SIDE, SIDE]}, ["output"], kinds={"output": TensorProto.INT64})
    model.producer_name = "pytorch"
    return model


def test_boxes_moved_by_class_are_cut_before_the_move() -> None:
    model = yolov7_model()
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", head={"unit": "pixels"}, **PIXELS))
    image = picture_tensor(model)
    got = run(prepared.graph.serialize(), image)
    assert prepared.nms is not None
    assert (prepared.classes, prepared.nms.max_detections) == (CLASSES, 100)
    assert -32 < got["boxes"].min() < got["boxes"].max() < 96
    assert np.median(got["boxes"][0, :, 2] - got["boxes"][0, :, 0]) > 5


def efficient_nms_model(**attributes: Any) -> onnx.ModelProto:
    b = Builder(43)
    boxes, scores = boxes_and_scores(b, pixels=True)
    names = ["num_dets", "det_boxes", "det_scores", "det_classes"]
    model = b.model({"image": [1, 3, SIDE, SIDE]}, [])
    model.graph.node.append(helper.make_node("EfficientNMS_TRT", [boxes, scores], names, domain="TRT", **attributes))
    for name, kind, shape in zip(names, (6, 1, 1, 6), ([1, 1], [1, 50, 4], [1, 50], [1, 50]), strict=True):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    model.opset_import.append(helper.make_opsetid("TRT", 1))
    model.producer_name = "pytorch"
    return model


def test_efficient_nms_is_cut_away_and_its_settings_kept() -> None:
    model = efficient_nms_model(iou_threshold=0.65, score_threshold=0.35, max_output_boxes=50, score_activation=1)
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", **PIXELS))
    assert prepared.nms is not None
    assert (prepared.nms.iou_threshold, prepared.nms.confidence) == (pytest.approx(0.65), pytest.approx(0.35))
    assert prepared.nms.max_detections == 50
    assert [entry.domain for entry in prepared.graph.model.opset_import] == [""]
    got = run(prepared.graph.serialize(), picture_tensor(model))
    assert got["boxes"].shape == (1, 128, 4)
    assert got["scores"].min() >= 0.5, "a probability that passed another sigmoid, as score_activation says"


def test_what_the_file_does_not_say_is_asked_for() -> None:
    model = tensorflow_model()
    model.producer_name = "someone"
    with pytest.raises(ModelError, match="--head order=yxyx"):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32", **PIXELS))


def test_suppression_over_a_number_of_boxes_that_depends_on_the_picture_is_refused() -> None:
    b = Builder(44)
    boxes, scores = boxes_and_scores(b, pixels=True)
    flat = b.op("Reshape", b.op("ReduceMax", scores, axes=[2], keepdims=0), b.constant(np.array([-1])))
    rows_kept = b.op("NonZero", b.op("Greater", flat, b.constant(np.float32(0.5))))
    index = b.op("Reshape", rows_kept, b.constant(np.array([-1])))
    some, sure = b.op("Gather", boxes, index, axis=1), b.op("Gather", scores, index, axis=1)
    b.op("NonMaxSuppression", some, b.op("Transpose", sure, perm=[0, 2, 1]), out="selected")
    model = b.model({"image": [1, 3, SIDE, SIDE]}, ["selected"], kinds={"selected": TensorProto.INT64})
    with pytest.raises(UnknownFamilyError, match="whose number depends on the picture"):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32", **PIXELS))


def test_the_real_file_keeps_its_ten_boxes(shared: Path) -> None:
    prepared = prepare(
        shared / "models/ssd_mobilenet_v1_coco_nms.onnx", ExportConfig(precision="fp32", labels="coco90")
    )
    assert prepared.nms is not None
    assert (prepared.family, prepared.nms.max_detections, prepared.classes) == ("nms_inside", 10, 90)
    assert prepared.preprocess.dtype == "uint8"

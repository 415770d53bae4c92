"""Heads without suppression: final boxes in every form, and queries; against decodes row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgevision.errors import ModelError, UnknownFamilyError
from edgevision.export import ExportConfig, prepare
from edgevision.export.graph import DECODE_PREFIX
from tests.export.builders import Builder, backbone, picture_tensor, rows, run, ultralytics_metadata

SIDE, CLASSES = 64, 3
PIXELS = {"mean": (0.0,) * 3, "std": (255.0,) * 3}


def best_rows(b: Builder, boxes: str, scores: str, limit: int) -> tuple[str, str, str]:
    """The `limit` best pairs of location and class, as one-to-one heads pick them: boxes, scores, classes."""
    k = b.constant(np.array([limit]))
    flat = b.op("Reshape", scores, b.constant(np.array([1, -1])))
    b.nodes.append(onnx.helper.make_node("TopK", [flat, k], ["best", "where"], axis=1, name="topk"))
    classes = b.op("Mod", "where", b.constant(np.array(CLASSES)))
    row = b.op("Div", "where", b.constant(np.array(CLASSES)))
    index = b.op("Expand", b.op("Unsqueeze", row, b.constant(np.array([2]))), b.constant(np.array([1, limit, 4])))
    return b.op("GatherElements", boxes, index, axis=1), "best", classes


def one_to_one(*, joined: bool = True, order: str = "box-score-class", metadata: dict[str, str] | None = None) -> Any:
    b = Builder(21)
    feature = backbone(b)
    boxes = b.op("Mul", rows(b, feature, 16, 1, 4, gain=3), b.constant(np.float32(20)))
    scores = b.op("Sigmoid", rows(b, feature, 16, 1, CLASSES, gain=3))
    box, score, classes = best_rows(b, boxes, scores, 10)
    if not joined:
        for name, tensor in (("labels", classes), ("boxes", box), ("scores", score)):
            b.op("Identity", tensor, out=name)
        kinds = {"labels": TensorProto.INT64}
        return b.model({"image": [1, 3, SIDE, SIDE]}, ["labels", "boxes", "scores"], kinds=kinds, metadata=metadata)
    two = b.constant(np.array([2]))
    number = b.op("Unsqueeze", b.op("Cast", classes, to=TensorProto.FLOAT), two)
    parts = {"box": box, "score": b.op("Unsqueeze", score, two), "class": number}
    b.op("Concat", *(parts[part] for part in order.split("-")), axis=2, out="output0")
    return b.model({"image": [1, 3, SIDE, SIDE]}, ["output0"], metadata=metadata)


def expected_boxes(four: Any, form: str) -> Any:
    boxes = four.astype(float)
    if form.startswith("cxcywh"):
        boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    return boxes * SIDE if form.endswith("fractions") else boxes


@pytest.mark.parametrize("form", ["xyxy-pixels", "xyxy-fractions", "cxcywh-pixels", "cxcywh-fractions"])
@pytest.mark.parametrize("order", ["box-score-class", "box-class-score", "class-score-box"])
def test_six_columns_in_every_order_and_form(form: str, order: str) -> None:
    model = one_to_one(order=order, metadata={"edgevision": '{"labels": ["a", "b", "c"]}'})
    image = picture_tensor(model)
    with pytest.raises(UnknownFamilyError, match=r"--family final --head format=xyxy-pixels\|xyxy-fractions"):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32"))
    head = {"format": form, "columns": order}
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", family="final", head=head))
    raw, got = run(model, image)["output0"][0], run(prepared.graph.serialize(), image)
    names = order.split("-")
    ends = np.cumsum([4 if name == "box" else 1 for name in names])
    parts = dict(zip(names, np.split(raw, ends[:2], axis=1), strict=True))
    np.testing.assert_allclose(got["boxes"][0], expected_boxes(parts["box"], form), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(got["scores"][0], parts["score"][:, 0])
    np.testing.assert_array_equal(got["class_ids"][0], parts["class"][:, 0])
    assert len(set(got["class_ids"][0].tolist())) > 1
    assert got["class_ids"].dtype == np.int32
    assert prepared.nms is not None
    assert (prepared.task, prepared.nms.suppression, prepared.classes) == ("detection", "none", 3)


@pytest.mark.parametrize(
    ("noted", "form", "resize"),
    [
        ({"end2end": "True"}, "xyxy-pixels", "letterbox"),
        ({"description": "Ultralytics RTDETR-l model trained on coco.yaml"}, "cxcywh-fractions", "stretch"),
        ({"description": "Ultralytics rt-detr-l model"}, "cxcywh-fractions", "stretch"),
    ],
)
def test_ultralytics_says_which_form_it_is(noted: dict[str, str], form: str, resize: str) -> None:
    model = one_to_one(metadata=ultralytics_metadata(**{"imgsz": "[64, 64]", **noted}))
    image = picture_tensor(model)
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32"))
    assert (prepared.family, prepared.preprocess.resize) == ("final", resize)
    got = run(prepared.graph.serialize(), image)
    raw = run(model, image)["output0"][0]
    np.testing.assert_allclose(got["boxes"][0], expected_boxes(raw[:, :4], form), rtol=1e-5, atol=1e-3)


def test_the_way_from_the_head_to_the_final_boxes_stays_in_float32() -> None:
    model = one_to_one(metadata=ultralytics_metadata(imgsz="[64, 64]", end2end="True"))
    graph = prepare(model.SerializeToString(), ExportConfig(precision="fp32")).graph
    outside = {node.op_type for node in graph.nodes if not node.name.startswith(DECODE_PREFIX)}
    assert outside <= {"Conv", "Relu"}


def test_separate_outputs_with_the_size_as_an_input() -> None:
    b = Builder(22)
    feature = backbone(b, "images")
    boxes = b.op("Sigmoid", rows(b, feature, 16, 1, 4, gain=2))
    size = b.op("Cast", b.op("Concat", "orig_target_sizes", "orig_target_sizes", axis=1), to=TensorProto.FLOAT)
    boxes = b.op("Mul", boxes, b.op("Unsqueeze", size, b.constant(np.array([1]))))
    box, score, classes = best_rows(b, boxes, b.op("Sigmoid", rows(b, feature, 16, 1, CLASSES, gain=3)), 10)
    for name, tensor in (("labels", classes), ("boxes", box), ("scores", score)):
        b.op("Identity", tensor, out=name)
    model = b.model(
        {"images": [1, 3, 64, 96], "orig_target_sizes": [1, 2]},
        ["labels", "boxes", "scores"],
        kinds={"labels": TensorProto.INT64, "orig_target_sizes": TensorProto.INT64},
    )
    with pytest.raises(ModelError, match="give --labels"):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32"))
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", labels="coco80"))
    assert prepared.graph.inputs == ["images"]
    image = picture_tensor(model)
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"images": image, "orig_target_sizes": np.array([[96, 64]])}  # width, height of the input
    labels, boxes_raw, scores = session.run(["labels", "boxes", "scores"], feeds)
    got = run(prepared.graph.serialize(), image)
    np.testing.assert_allclose(got["boxes"], boxes_raw, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(got["scores"], scores, rtol=1e-5)
    np.testing.assert_array_equal(got["class_ids"], labels)


def test_another_input_beside_the_picture_is_refused() -> None:
    b = Builder(23)
    x = b.op("Add", rows(b, backbone(b), 16, 1, 6), "temperature")
    b.op("Identity", x, out="output0")
    model = b.model({"image": [1, 3, SIDE, SIDE], "temperature": [1, 1]}, ["output0"])
    with pytest.raises(ModelError, match=r"takes 'temperature' \[1, 1\] beside the picture"):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32"))


def detr(columns: int, names: tuple[str, str] = ("logits", "pred_boxes")) -> Any:
    b = Builder(24)
    feature = backbone(b)
    b.op("Identity", rows(b, feature, 16, 1, columns, gain=4), out=names[0])
    b.op("Sigmoid", rows(b, feature, 16, 1, 4, gain=2), out=names[1])
    return b.model({"image": [1, 3, SIDE, SIDE]}, list(names))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_queries_become_boxes_and_probabilities(activation: str) -> None:
    model = detr(4)
    config = ExportConfig(precision="fp32", head={"activation": activation}, **PIXELS)
    prepared = prepare(model.SerializeToString(), config)
    image = picture_tensor(model)
    raw, got = run(model, image), run(prepared.graph.serialize(), image)
    logits = raw["logits"][0].astype(float)
    if activation == "softmax":
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        scores = shares[:, :-1]
    else:
        scores = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(got["scores"][0], scores, atol=1e-6)
    np.testing.assert_allclose(got["boxes"][0], expected_boxes(raw["pred_boxes"][0], "cxcywh-fractions"), atol=1e-3)
    assert prepared.nms is not None
    assert (prepared.family, prepared.nms.iou_threshold) == ("detr", 1.0)
    assert prepared.nms.multi_label == (activation == "sigmoid")


def test_the_last_of_several_layers_is_as_good() -> None:
    """transformers' RT-DETR stacks the boxes of all layers and takes the last."""
    model = detr(4)
    boxes = next(node for node in model.graph.node if "pred_boxes" in node.output)
    boxes.output[0] = "last"
    nodes = [
        onnx.helper.make_node("Unsqueeze", ["last", "axis"], ["one"]),
        onnx.helper.make_node("Concat", ["one", "one"], ["stacked"], axis=1),
        onnx.helper.make_node("Gather", ["stacked", "end"], ["pred_boxes"], axis=1),
    ]
    model.graph.node.extend(nodes)
    constants = {"axis": np.array([1]), "end": np.array(-1)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    prepared = prepare(
        model.SerializeToString(), ExportConfig(precision="fp32", head={"activation": "sigmoid"}, **PIXELS)
    )
    image = picture_tensor(model)
    raw, got = run(model, image), run(prepared.graph.serialize(), image)
    assert prepared.family == "detr"
    np.testing.assert_allclose(got["boxes"][0], expected_boxes(raw["pred_boxes"][0], "cxcywh-fractions"), atol=1e-3)


def test_labels_or_names_tell_a_query_s_activation(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--head activation=softmax"):
        prepare(detr(4).SerializeToString(), ExportConfig(precision="fp32", **PIXELS))
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\n")
    config = ExportConfig(precision="fp32", labels=str(labels), **PIXELS)
    assert prepare(detr(4).SerializeToString(), config).classes == 3
    assert prepare(detr(3).SerializeToString(), config).classes == 3
    rf = prepare(detr(5, ("labels", "dets")).SerializeToString(), ExportConfig(precision="fp32", **PIXELS))
    assert (rf.family, rf.classes) == ("detr", 5)

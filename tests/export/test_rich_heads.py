"""Heads that give more than boxes, or less: keypoints, mask coefficients, classes; against decodes row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from edgevision.errors import ModelError, UnknownFamilyError, UsageError
from edgevision.export import ExportConfig, prepare
from tests.export.builders import Builder, backbone, picture_tensor, rows, run, ultralytics_metadata

HW = (64, 96)
CELLS = 8 * 12 + 4 * 6 + 2 * 3
PIXELS = {"mean": (0.0,) * 3, "std": (255.0,) * 3}


def ultralytics_rows(b: Builder, columns: int, per_cell: int = 1) -> tuple[str, str]:
    """[1, columns, cells] as the exporter joins its levels, and the finest feature map."""
    x = backbone(b)
    levels, finest = [], x
    for _ in range(3):
        levels.append(rows(b, x, 16, per_cell, columns, gain=2))
        x = b.op("Relu", b.conv(x, 16, 16, stride=2))
    return b.op("Transpose", b.op("Concat", *levels, axis=1), perm=[0, 2, 1]), finest


def squashed(b: Builder, joined: str, widths: tuple[int, ...], sigmoid: tuple[int, ...]) -> str:
    """Pass the named parts through a sigmoid, scale the others to pixels, and join them again."""
    names = [f"part{i}" for i in range(len(widths))]
    b.nodes.append(onnx.helper.make_node("Split", [joined, b.constant(np.array(widths))], names, axis=1, name="split"))
    parts = [
        b.op("Sigmoid", name) if i in sigmoid else b.op("Mul", name, b.constant(np.float32(30)))
        for i, name in enumerate(names)
    ]
    return b.op("Concat", *parts, axis=1)


def corners(box: Any) -> list[float]:
    cx, cy, w, h = box.astype(float)
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def pose_model(metadata: dict[str, str] | None, numbers: int = 3) -> Any:
    b = Builder(31)
    joined, _ = ultralytics_rows(b, 4 + 1 + 5 * numbers)
    b.op("Identity", squashed(b, joined, (4, 1, 5 * numbers), (1,)), out="output0")
    return b.model({"image": [1, 3, *HW]}, ["output0"], metadata=metadata)


@pytest.mark.parametrize("numbers", [2, 3])
@pytest.mark.parametrize("told", ["metadata", "flag"])
def test_pose(numbers: int, told: str) -> None:
    noted = ultralytics_metadata(classes=1, task="pose", kpt_shape=f"[5, {numbers}]")
    model = pose_model(noted if told == "metadata" else None, numbers)
    config = ExportConfig(precision="fp32")
    if told == "flag":
        with pytest.raises(UnknownFamilyError, match="--head points=17x3"):
            prepare(model.SerializeToString(), config)
        config = ExportConfig(precision="fp32", family="yolov8_pose", head={"points": f"5x{numbers}"})
    prepared = prepare(model.SerializeToString(), config)
    assert (prepared.family, prepared.task, prepared.classes) == ("yolov8_pose", "keypoints", 1)
    image = picture_tensor(model)
    raw, got = run(model, image)["output0"][0].T, run(prepared.graph.serialize(), image)
    np.testing.assert_allclose(got["boxes"][0], [corners(row[:4]) for row in raw], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(got["scores"][0], raw[:, 4:5])
    np.testing.assert_allclose(got["keypoints"][0], raw[:, 5:].reshape(-1, 5, numbers))


@pytest.mark.parametrize("given", ["17", "17x4", "ax3", "17x3x1"])
def test_points_are_a_number_times_two_or_three(given: str) -> None:
    config = ExportConfig(precision="fp32", family="yolov8_pose", head={"points": given})
    with pytest.raises(UsageError, match="17x3"):
        prepare(pose_model(None).SerializeToString(), config)


def segmentation_model(*, objectness: bool) -> Any:
    b, masks, classes = Builder(32), 6, 3
    joined, finest = ultralytics_rows(b, 4 + objectness + classes + masks, 3 if objectness else 1)
    widths = (4, int(objectness) + classes, masks)
    x = squashed(b, joined, widths, (1,))
    if objectness:
        x = b.op("Transpose", x, perm=[0, 2, 1])
    b.op("Identity", x, out="output0")
    up = b.op("Resize", finest, "", b.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    b.op("Identity", b.conv(up, 16, masks, kernel=1), out="output1")
    return b.model({"image": [1, 3, *HW]}, ["output0", "output1"])


@pytest.mark.parametrize("objectness", [False, True], ids=["v8", "v5"])
def test_segmentation_coefficients_follow_their_boxes(objectness: bool) -> None:
    model = segmentation_model(objectness=objectness)
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32"))
    assert (prepared.family, prepared.task, prepared.classes) == ("yolo_seg", "instance", 3)
    image = picture_tensor(model)
    raw, got = run(model, image), run(prepared.graph.serialize(), image)
    table = raw["output0"][0] if objectness else raw["output0"][0].T
    np.testing.assert_allclose(got["boxes"][0], [corners(row[:4]) for row in table], rtol=1e-5, atol=1e-3)
    scores = table[:, 5:8] * table[:, 4:5] if objectness else table[:, 4:7]
    np.testing.assert_allclose(got["scores"][0], scores, rtol=1e-5)
    np.testing.assert_array_equal(got["mask_coefficients"][0], table[:, -6:])
    np.testing.assert_array_equal(got["mask_prototypes"], raw["output1"])


def classifier(activation: str = "", box: bool = False, four: bool = False) -> Any:
    b = Builder(33)
    x = b.op("GlobalAveragePool", backbone(b))
    scores = b.conv(x, 16, 5, kernel=1, gain=6)
    if not four:
        scores = b.op("Flatten", scores)
    if activation:
        scores = b.op(activation, scores, axis=1) if activation == "Softmax" else b.op(activation, scores)
    b.op("Identity", scores, out="probabilities")
    if box:
        b.op("Sigmoid", b.op("Flatten", b.conv(x, 16, 4, kernel=1)), out="box")
    return b.model({"image": [1, 3, *HW]}, ["probabilities", "box"] if box else ["probabilities"])


@pytest.mark.parametrize("four", [False, True])
@pytest.mark.parametrize(
    ("in_graph", "flag"), [("Softmax", ""), ("Sigmoid", ""), ("", ""), ("", "sigmoid"), ("", "none")]
)
def test_classes_become_probabilities(in_graph: str, flag: str, four: bool) -> None:
    model = classifier(in_graph, four=four)
    head = {"activation": flag} if flag else {}
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", head=head, **PIXELS))
    assert (prepared.family, prepared.task, prepared.classes, prepared.nms) == (
        "classification",
        "classification",
        5,
        None,
    )
    image = picture_tensor(model)
    raw = run(model, image)["probabilities"].reshape(5).astype(float)
    if not in_graph and not flag:
        raw = np.exp(raw) / np.exp(raw).sum()
    elif flag == "sigmoid":
        raw = 1 / (1 + np.exp(-raw))
    got = run(prepared.graph.serialize(), image)
    assert got["scores"].shape == (1, 5)
    np.testing.assert_allclose(got["scores"][0], raw, atol=1e-6)
    assert raw.std() > 0.01


def test_a_classifier_that_localises_must_say_how() -> None:
    model = classifier("Softmax", box=True)
    with pytest.raises(ModelError, match="--head format="):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32", **PIXELS))
    config = ExportConfig(precision="fp32", head={"format": "cxcywh-fractions"}, **PIXELS)
    prepared = prepare(model.SerializeToString(), config)
    image = picture_tensor(model)
    raw, got = run(model, image)["box"][0], run(prepared.graph.serialize(), image)
    np.testing.assert_allclose(got["boxes"][0, 0], np.array(corners(raw)) * [96, 64, 96, 64], rtol=1e-4)


def test_a_classifier_may_move_the_box_as_r_cnn_does() -> None:
    """centre + d * size, size * exp(d), in the picture that it is shown."""
    model = classifier("Softmax", box=True)
    config = ExportConfig(precision="fp32", head={"format": "offsets"}, **PIXELS)
    prepared = prepare(model.SerializeToString(), config)
    image = picture_tensor(model)
    dx, dy, dw, dh = run(model, image)["box"][0].astype(float)
    got = run(prepared.graph.serialize(), image)["boxes"]
    expected = corners(np.array([48 + dx * 96, 32 + dy * 64, 96 * np.exp(dw), 64 * np.exp(dh)]))
    assert got.shape == (1, 1, 4)
    np.testing.assert_allclose(got[0, 0], expected, rtol=1e-4)

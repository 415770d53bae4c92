"""torchvision's detectors exported whole: what comes out of the cut graph is what the whole graph computed inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgevision.errors import ModelError, UnknownFamilyError
from edgevision.export import ExportConfig, prepare
from edgevision.export.graph import DECODE_PREFIX
from edgevision.export.preparation import PreparedModel
from tests.export.builders import Builder, grid_priors, rows, run

SIDE, CLASSES = 64, 3
MEAN, STD = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3])


def transform(b: Builder, side: int) -> str:
    """GeneralizedRCNNTransform with a fixed size, as torch.onnx writes it for a list of one picture."""
    x = b.op("Sub", "picture", b.constant(MEAN.reshape(3, 1, 1)))
    x = b.op("Div", x, b.constant(STD.reshape(3, 1, 1)))
    x = b.op("Unsqueeze", x, b.constant(np.array([0])))
    start, end = b.constant(np.array([0])), b.constant(np.array([2]))
    sizes = b.op("Concat", b.op("Slice", b.op("Shape", x), start, end), b.constant(np.array([side, side])), axis=0)
    x = b.op("Gather", b.op("Resize", x, "", "", sizes, mode="linear"), b.constant(np.array(0)), axis=0)
    x = b.op("Pad", x, b.constant(np.zeros(6, np.int64)))
    return b.op("Concat", b.op("Unsqueeze", x, b.constant(np.array([0]))), axis=0)


def heads(b: Builder, x: str, side: int) -> tuple[str, str, NDArray[np.float32]]:
    """Logits and offsets of two maps, and their default boxes cx, cy, w, h in pixels."""
    for channels_in in (3, 12, 12):
        x = b.op("Relu", b.conv(x, channels_in, 12, stride=2, gain=1.6))
    maps = [x, b.op("Relu", b.conv(x, 12, 12, stride=2, gain=1.6))]
    scores, boxes = (
        b.op("Concat", *(rows(b, feature, 12, 2, width, gain=gain) for feature in maps), axis=1)
        for width, gain in ((CLASSES + 1, 2), (4, 3))
    )
    priors = np.concatenate([grid_priors(side // 8, [0.2, 0.3]), grid_priors(side // 16, [0.5, 0.7])])
    return scores, boxes, priors * np.float32(SIDE)


def whole_ssd(*, side: int = SIDE, decode: str = "ssd") -> onnx.ModelProto:
    b = Builder(61)
    logits, offsets, priors = heads(b, transform(b, side), side)
    count = len(priors)
    sure = b.op("Softmax", logits, axis=2, out="probabilities")
    flat = b.op("Squeeze", offsets, b.constant(np.array([0])))
    axis, step, end = (b.constant(np.array([value])) for value in (1, 4, np.iinfo(np.int64).max))
    column = [b.op("Slice", flat, b.constant(np.array([i])), end, axis, step) for i in range(4)]
    corners = []
    for i, low in ((0, True), (1, True), (0, False), (1, False)):
        size, centre = (b.constant(priors[:, i + at].reshape(count, 1)) for at in (2, 0))
        moved = b.op("Mul", b.op("Div", column[i], b.constant(np.float32(10))), size)
        log = b.op("Div", column[2 + i], b.constant(np.float32(5)))
        grown = b.op("Exp", b.op("Clip", log, "", b.constant(np.float32(np.log(1000 / 16)))))
        if decode == "other":
            grown = b.op("Add", grown, b.op("Mul", log, log))
        half = b.op("Mul", b.op("Mul", grown, size), b.constant(np.float32(0.5)))
        edge = b.op("Sub" if low else "Add", b.op("Add", moved, centre), half)
        corners.append(b.op("Unsqueeze", edge, b.constant(np.array([2]))))
    boxes = b.op("Flatten", b.op("Concat", *corners, axis=2), axis=1, out="decoded")
    inside = b.op("Min", b.op("Max", boxes, b.constant(np.float32(0))), b.constant(np.float32(SIDE)))
    best = b.op("Gather", b.op("Squeeze", sure, b.constant(np.array([0]))), b.constant(np.array(1)), axis=1)
    kept = b.op("NonZero", b.op("Greater", best, b.constant(np.float32(0.01))))
    row = b.op("Squeeze", kept, b.constant(np.array([0])))
    some, scores = b.op("Gather", inside, row), b.op("Gather", best, row)
    settings = [b.constant(np.array(value)) for value in (np.int64(200), np.float32(0.55))]
    one = [b.op("Unsqueeze", x, b.constant(np.array(axes))) for x, axes in ((some, [0]), (scores, [0, 1]))]
    picked = b.op("NonMaxSuppression", *one, *settings)
    index = b.op("Gather", picked, b.constant(np.array(2)), axis=1)
    b.op("Gather", some, index, out="boxes")
    b.op("Gather", scores, index, out="scores")
    return b.model({"picture": [3, SIDE, SIDE]}, ["boxes", "scores"])


def inside_and_cut(
    model: onnx.ModelProto, seed: int, inside: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], PreparedModel]:
    """What the whole graph holds in the tensors `inside`, the normal form of the same picture, and the model."""
    wider = onnx.ModelProto.FromString(model.SerializeToString())
    wider.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inside)
    picture = np.random.default_rng(seed).random((3, SIDE, SIDE)).astype(np.float32)
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32"))
    mean, std = (np.float32(value).reshape(3, 1, 1) for value in (prepared.preprocess.mean, prepared.preprocess.std))
    pixels = ((picture * 255 - mean) / std)[None].astype(np.float32)
    return run(wider, picture), run(prepared.graph.serialize(), pixels), prepared


@pytest.mark.parametrize("seed", range(3))
def test_the_cut_graph_computes_what_the_whole_one_does(seed: int) -> None:
    whole, got, _ = inside_and_cut(whole_ssd(), seed, ["decoded", "probabilities"])
    inside = np.clip(whole["decoded"], 0, SIDE)
    assert (inside != whole["decoded"]).any()
    np.testing.assert_allclose(got["boxes"][0], inside, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(got["scores"][0], whole["probabilities"][0, :, 1:], atol=2e-5)
    assert got["boxes"].std() > 3
    assert got["scores"].std() > 0.01


def test_the_transform_becomes_the_preprocessing_and_settings_are_kept() -> None:
    prepared = prepare(whole_ssd().SerializeToString(), ExportConfig(precision="fp32"))
    assert (prepared.family, prepared.classes) == ("torchvision_ssd", CLASSES)
    preprocess, nms = prepared.preprocess, prepared.nms
    np.testing.assert_allclose(preprocess.mean, MEAN * 255, rtol=1e-5)
    np.testing.assert_allclose(preprocess.std, STD * 255, rtol=1e-5)
    assert (preprocess.input_name, preprocess.input_wh, preprocess.layout) == ("picture", (SIDE, SIDE), "nchw")
    assert nms is not None
    assert (nms.iou_threshold, nms.confidence, nms.multi_label) == (pytest.approx(0.55), 0.3, True)
    left = [n for n in prepared.graph.nodes if n.op_type not in ("Conv", "Relu", "Transpose", "Reshape", "Concat")]
    assert all(n.name.startswith(DECODE_PREFIX) for n in left), "no transform, no suppression"
    assert prepared.graph.shape("picture") == (1, 3, SIDE, SIDE)


def test_settings_are_found_in_a_branch() -> None:
    """Newer torchvision asks first whether there is anything to suppress."""
    model = whole_ssd()
    nodes, overlap = model.graph.node, helper.make_tensor("", TensorProto.FLOAT, [1], [0.65])
    at = next(i for i, node in enumerate(nodes) if node.op_type == "NonMaxSuppression")
    suppression = nodes[at]
    result = helper.make_tensor_value_info("chosen", TensorProto.INT64, ["n", 3])
    constant = helper.make_node("Constant", [], ["overlap"], value=overlap)
    branch = helper.make_node("NonMaxSuppression", [*suppression.input[:3], "overlap"], ["chosen"])
    none = helper.make_tensor("", TensorProto.INT64, [0, 3], [])
    empty = helper.make_node("Constant", [], ["chosen"], value=none)
    shape = helper.make_node("Size", [suppression.input[1]], ["number"])
    some = helper.make_node("Cast", ["number"], ["some"], to=TensorProto.BOOL)
    graphs = [helper.make_graph(body, "branch", [], [result]) for body in ([constant, branch], [empty])]
    choice = helper.make_node("If", ["some"], list(suppression.output), then_branch=graphs[0], else_branch=graphs[1])
    del nodes[at]
    for node in (choice, some, shape):
        nodes.insert(at, node)
    nms = prepare(model.SerializeToString(), ExportConfig(precision="fp32")).nms
    assert nms is not None
    assert nms.iou_threshold == pytest.approx(0.65)


def whole_pyramid(*, fcos: bool) -> tuple[onnx.ModelProto, list[NDArray[np.float32]]]:
    """Two maps, each with its constant of anchors, and a post-processing that picks by score."""
    b = Builder(63)
    x = transform(b, SIDE)
    for channels_in in (3, 12, 12):
        x = b.op("Relu", b.conv(x, channels_in, 12, stride=2, gain=1.6))
    maps = [x, b.op("Relu", b.conv(x, 12, 12, stride=2, gain=1.6))]
    names = {"classification_head/logits": CLASSES, "regression_head/boxes": 4}
    names |= {"regression_head/centre": 1} if fcos else {}
    for name, width in names.items():
        levels = [rows(b, feature, 12, 1 if fcos else 2, width, gain=1) for feature in maps]
        b.op("Concat", *levels, axis=1, out=name.split("/")[1])
        b.nodes[-1].name = f"/head/{name}/Concat"
    sizes = ([0.2], [0.5]) if fcos else ([0.2, 0.3], [0.5, 0.7])
    anchors = [grid_priors(cells, size) * np.float32(SIDE) for cells, size in zip((8, 4), sizes, strict=True)]
    corners = [np.concatenate([a[:, :2] - a[:, 2:] / 2, a[:, :2] + a[:, 2:] / 2], axis=1) for a in anchors]
    low = [b.op("Slice", b.constant(c), *(b.constant(np.array([v])) for v in (0, 2, 1))) for c in corners]
    best = b.op("ReduceMax", b.op("Sigmoid", "logits"), axes=[2], keepdims=0)
    kept = b.op(
        "NonZero", b.op("Greater", b.op("Squeeze", best, b.constant(np.array([0]))), b.constant(np.float32(0.2)))
    )
    row = b.op("Squeeze", kept, b.constant(np.array([0])))
    both = b.op("Add", b.op("Squeeze", "boxes", b.constant(np.array([0]))), b.constant(np.concatenate(corners)[:, :1]))
    b.op("Gather", both, row, out="picked")
    b.op("Concat", *low, axis=0, out="unused")
    return b.model({"picture": [3, SIDE, SIDE]}, ["picked"]), anchors


@pytest.mark.parametrize("fcos", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_retinanet_and_fcos_are_decoded_with_the_anchors_in_the_graph(seed: int, fcos: bool) -> None:
    model, anchors = whole_pyramid(fcos=fcos)
    parts = ["logits", "boxes", *(["centre"] if fcos else [])]
    whole, got, prepared = inside_and_cut(model, seed, parts)
    assert (prepared.family, prepared.classes) == ("torchvision_pyramid", CLASSES)
    assert prepared.nms is not None
    assert prepared.nms.confidence == pytest.approx(0.2)
    sure = 1 / (1 + np.exp(-whole["logits"][0].astype(float)))
    boxes = []
    for offset, (cx, cy, w, h) in zip(
        whole["boxes"][0].astype(float), np.concatenate(anchors).astype(float), strict=True
    ):
        if fcos:
            left, top, right, bottom = offset * (w, h, w, h)
            boxes.append([cx - left, cy - top, cx + right, cy + bottom])
        else:
            wide, high = np.exp(np.minimum(offset[2:], np.log(1000 / 16))) * (w, h)
            x, y = cx + offset[0] * w, cy + offset[1] * h
            boxes.append([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2])
    if fcos:
        sure = np.sqrt(sure / (1 + np.exp(-whole["centre"][0].astype(float))))
    np.testing.assert_allclose(got["boxes"][0], np.clip(boxes, 0, SIDE), rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(got["scores"][0], sure, atol=2e-5)
    assert np.std(boxes) > 3
    assert np.std(sure) > 0.01


def test_a_picture_that_the_graph_would_resize_is_refused() -> None:
    with pytest.raises(UnknownFamilyError, match="turns the picture 64x64 into"):
        prepare(whole_ssd(side=96).SerializeToString(), ExportConfig(precision="fp32"))


def test_another_decode_is_refused_not_guessed() -> None:
    with pytest.raises(ModelError, match="is not that of an SSD"):
        prepare(whole_ssd(decode="other").SerializeToString(), ExportConfig(precision="fp32"))


def test_other_detectors_exported_whole_are_refused_with_the_way_out() -> None:
    b = Builder(62)
    logits, _, _ = heads(b, transform(b, SIDE), SIDE)
    kept = b.op("NonZero", b.op("Greater", b.op("Sigmoid", logits), b.constant(np.float32(0.05))))
    b.op("Identity", kept, out="labels")
    model = b.model({"picture": [3, SIDE, SIDE]}, ["labels"], kinds={"labels": TensorProto.INT64})
    with pytest.raises(UnknownFamilyError, match="export the network without its post-processing"):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32"))

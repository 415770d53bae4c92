"""Two-stage detectors exported whole: the bundle's boxes, labels, scores and masks are those that the graph gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import edgevision
from edgevision.errors import BuildError, ModelError, UnknownFamilyError, UsageError
from edgevision.export import ExportConfig, export_model, prepare
from edgevision.results import Detections
from tests.export.builders import Builder, run

WIDE, HIGH, CLASSES, PROPOSALS, LIMIT, SURE = 96, 64, 3, 40, 12, 0.75
ZOO = "102.9801,115.9465,122.7717/1/bgr"
FP32 = ExportConfig(precision="fp32", quiet=True)


def suppressed(b: Builder, boxes: str, scores: str, iou: float) -> str:
    """Indices that NonMaxSuppression leaves, in a branch that is taken where there are boxes: torchvision's form."""
    inner, outer = Builder(), [boxes, scores]
    one, two, index, flat = (inner.constant(np.array(v), f"{boxes}/{v}") for v in ([0], [0, 1], 2, [-1]))
    limits = inner.constant(np.array(1000), f"{boxes}/most"), inner.constant(np.float32(iou), f"{boxes}/iou")
    batch = [
        inner.op("Unsqueeze", outer[0], one, out=f"{boxes}/b"),
        inner.op("Unsqueeze", outer[1], two, out=f"{boxes}/s"),
    ]
    picked = inner.op("NonMaxSuppression", *batch, *limits, out=f"{boxes}/picked")
    inner.op("Reshape", inner.op("Gather", picked, index, axis=1, out=f"{boxes}/i"), flat, out=f"{boxes}/some")
    result = helper.make_tensor_value_info(f"{boxes}/some", TensorProto.INT64, ["n"])
    some = helper.make_graph(inner.nodes, "some", [], [result], inner.constants)
    none = helper.make_graph(
        [
            helper.make_node(
                "Constant", [], [f"{boxes}/none"], value=onnx.numpy_helper.from_array(np.zeros(0, np.int64))
            )
        ],
        "none",
        [],
        [helper.make_tensor_value_info(f"{boxes}/none", TensorProto.INT64, ["n"])],
    )
    empty = b.op("Equal", b.op("Size", scores), b.constant(np.array(0)))
    return b.op("If", empty, then_branch=none, else_branch=some)


def pooled(b: Builder, feature: str, boxes: str, cells: int) -> str:
    """RoiAlign of the one picture."""
    count = b.op("Shape", boxes, end=1)
    batch = b.op("ConstantOfShape", count, value=onnx.numpy_helper.from_array(np.zeros(1, np.int64)))
    size = {"output_height": cells, "output_width": cells, "sampling_ratio": 2, "spatial_scale": 1 / 4}
    return b.op(
        "RoiAlign", feature, boxes, batch, mode="avg", coordinate_transformation_mode="output_half_pixel", **size
    )


def linear(b: Builder, x: str, width_in: int, width: int, gain: float) -> str:
    weight = b.random.normal(0, gain / np.sqrt(width_in), (width_in, width)).astype(np.float32)
    return b.op(
        "Add", b.op("MatMul", x, b.constant(weight)), b.constant(b.random.normal(0, 1, width).astype(np.float32))
    )


def two_stages(
    *,
    transform: str = "torchvision",
    masks: str = "",
    limit: int | None = LIMIT,
    softmax: bool = True,
    border: int = 1,
    seed: int = 5,
) -> onnx.ModelProto:
    """A picture [3,h,w] in, boxes [n,4], labels [n] from 1, scores [n] and masks [n,1,8,8] or pasted ones out."""
    b, x = Builder(seed), "picture"
    if transform:
        mean, std = np.float32([0.48, 0.45, 0.4]).reshape(3, 1, 1), np.float32([0.23, 0.22, 0.225]).reshape(3, 1, 1)
        factor = np.float32(255 if transform == "bytes" else 1)
        x = b.op("Div", b.op("Sub", x, b.constant(mean * factor)), b.constant(std * factor))
    x = b.op("Unsqueeze", x, b.constant(np.array([0])))
    x = b.op("Relu", b.conv(x, 3, 8, stride=2, gain=0.02 if transform != "torchvision" else 2))
    feature = b.op("Relu", b.conv(x, 8, 16, stride=2, gain=2))
    # Proposals: anchors, moved a little, the best of each picture, suppressed.
    y, x0 = np.mgrid[: HIGH // 4, : WIDE // 4].reshape(2, -1) * 4.0 + 2
    half = np.stack([[6, 6], [12, 8], [9, 16]])
    centre = np.stack([x0, y], axis=1)[:, None]
    anchors = np.concatenate([centre - half, centre + half], axis=2).reshape(-1, 4).astype(np.float32)
    flat = [
        b.op("Reshape", b.op("Transpose", b.conv(feature, 16, 3 * width, kernel=1, gain=2), perm=[0, 2, 3, 1]), shape)
        for width, shape in ((1, b.constant(np.array([-1]))), (4, b.constant(np.array([-1, 4]))))
    ]
    b.nodes.append(
        helper.make_node("TopK", [flat[0], b.constant(np.array([PROPOSALS]))], ["sure", "where"], name="proposals")
    )
    moved = b.op("Add", b.constant(anchors), b.op("Mul", b.op("Tanh", flat[1]), b.constant(np.float32(2))))
    low, high = b.constant(np.float32(0)), b.constant(np.float32([WIDE, HIGH, WIDE, HIGH]))
    inside = b.op("Min", b.op("Max", b.op("Gather", moved, "where", axis=0), low), high)
    proposals = b.op("Gather", inside, suppressed(b, inside, "sure", 0.7), axis=0)
    # The second stage: classes of the proposals, those above a threshold, suppressed.
    region = b.op("Flatten", pooled(b, feature, proposals, 3), axis=1)
    logits = linear(b, region, 16 * 9, CLASSES + 1, 2)
    sure = b.op("Softmax", logits, axis=1) if softmax else b.op("Sigmoid", logits)
    objects = b.op("Slice", sure, *(b.constant(np.array([v])) for v in (1, 99, 1)))
    best, label = b.op("ReduceMax", objects, axes=[1], keepdims=0), b.op("ArgMax", objects, axis=1, keepdims=0)
    rows = b.op(
        "Reshape", b.op("NonZero", b.op("Greater", best, b.constant(np.float32(SURE)))), b.constant(np.array([-1]))
    )
    boxes, scores, label = (b.op("Gather", tensor, rows, axis=0) for tensor in (proposals, best, label))
    kept = suppressed(b, boxes, scores, 0.5)
    if limit:
        kept = b.op("Slice", kept, *(b.constant(np.array([v])) for v in (0, limit, 0)))
    b.op("Gather", boxes, kept, axis=0, out="boxes")
    b.op("Gather", b.op("Add", label, b.constant(np.array(1))), kept, axis=0, out="labels")
    b.op("Gather", scores, kept, axis=0, out="scores")
    outputs = ["boxes", "labels", "scores"]
    if masks:
        logits = b.conv(pooled(b, feature, "boxes", 8), 16, CLASSES + 1, kernel=1, gain=9)
        maps = b.op("Sigmoid", b.op("Sub", logits, b.op("ReduceMean", logits, axes=[2, 3])))
        number = b.op("Range", b.constant(np.array(0)), b.op("Size", "labels"), b.constant(np.array(1)))
        last = b.constant(np.array([1]))
        pairs = b.op("Concat", b.op("Unsqueeze", number, last), b.op("Unsqueeze", "labels", last), axis=1)
        b.op("Unsqueeze", b.op("GatherND", maps, pairs), last, out="masks")
        outputs.append("masks")
        if masks == "pasted":
            outputs[-1] = paste_in_loop(b, border)
    kinds = {"labels": TensorProto.INT64}
    return b.model({"picture": [3, HIGH, WIDE]}, outputs, kinds=kinds)


def paste_in_loop(b: Builder, border: int) -> str:
    """What torchvision's graph does with masks, as far as it shows in the structure: a border, and a loop over it."""
    bordered = b.op("Pad", "masks", b.constant(np.array([0, 0, border, border] * 2)), out="bordered")
    inner = Builder()
    inner.op("Identity", "go_on", out="further")
    inner.op("Gather", bordered, "turn", axis=0, out="one")
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        inner.nodes,
        "body",
        [info("turn", TensorProto.INT64, []), info("go_on", TensorProto.BOOL, [])],
        [info("further", TensorProto.BOOL, []), info("one", TensorProto.FLOAT, ["channels", "height", "width"])],
    )
    return b.op("Loop", b.op("Size", "labels"), b.constant(np.array(True)), body=body, out="pasted")


def picture(seed: int) -> NDArray[np.uint8]:
    """BGR, smooth, so that proposals differ clearly."""
    noise = np.random.default_rng(seed).integers(0, 256, (HIGH, WIDE, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return cv2.normalize(smooth, np.empty(0), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def found(
    model: onnx.ModelProto, folder: Path, config: ExportConfig = FP32
) -> Callable[[NDArray[np.uint8]], Detections]:
    """The exported model, all of its detections."""
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    export_model(folder / "model.onnx", folder / "model.edge", config)
    loaded = edgevision.load(folder / "model.edge", backend="cpu", confidence=0, threads=1)

    def call(image: NDArray[np.uint8]) -> Detections:
        result = loaded(image)
        assert isinstance(result, Detections)
        return result

    return call


@pytest.mark.parametrize("seed", range(3))
def test_torchvision_s_form_gives_what_the_graph_gives(tmp_path: Path, seed: int) -> None:
    model = two_stages(seed=seed + 5)
    call = found(model, tmp_path)
    counts = []
    for number in range(4):
        image = picture(10 * seed + number)
        whole = run(model, np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1), np.float32) / 255)
        got = call(image)
        np.testing.assert_allclose(got.xyxy, whole["boxes"], atol=1e-3)
        np.testing.assert_allclose(got.confidence, whole["scores"], atol=1e-5)
        np.testing.assert_array_equal(got.class_id, whole["labels"] - 1)
        counts.append(len(got))
    assert max(counts) > 2
    assert len(set(counts)) > 1, "the number of boxes depends on the picture"


def test_the_model_zoo_s_form_takes_its_preprocessing_from_the_user(tmp_path: Path) -> None:
    model = two_stages(transform="", limit=None)
    with pytest.raises(UsageError, match=ZOO):
        prepare(model.SerializeToString(), FP32)
    call = found(model, tmp_path, ExportConfig(precision="fp32", preprocess=ZOO, quiet=True))
    image = picture(3)
    means = np.float32([102.9801, 115.9465, 122.7717])
    whole = run(model, np.ascontiguousarray((image - means).transpose(2, 0, 1)))
    got = call(image)
    np.testing.assert_allclose(got.xyxy, whole["boxes"], atol=1e-3)
    np.testing.assert_array_equal(got.class_id, whole["labels"] - 1)
    assert len(got) > 2


def test_a_picture_without_objects_gives_none_and_one_with_many_no_more_than_the_limit(tmp_path: Path) -> None:
    prepared = prepare(two_stages().SerializeToString(), FP32)
    shapes = {name: prepared.graph.shape(name) for name in prepared.graph.outputs}
    assert shapes == {"boxes": (1, LIMIT, 4), "scores": (1, LIMIT), "class_ids": (1, LIMIT)}
    assert prepared.nms is not None
    assert (prepared.nms.suppression, prepared.nms.max_detections) == ("none", LIMIT)
    unlimited = prepare(two_stages(limit=None).SerializeToString(), FP32)
    assert unlimited.graph.shape("boxes") == (1, 100, 4)
    strict = two_stages()
    for tensor in strict.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and onnx.numpy_helper.to_array(tensor).tolist() == pytest.approx(SURE):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(2), tensor.name))
    assert len(found(strict, tmp_path)(picture(0))) == 0


def test_boxes_come_back_in_pixels_of_a_picture_of_another_size(tmp_path: Path) -> None:
    call = found(two_stages(), tmp_path)
    image = picture(1)
    small, large = call(image), call(np.ascontiguousarray(image.repeat(2, axis=0).repeat(2, axis=1)))
    np.testing.assert_allclose(large.xyxy, small.xyxy * 2, atol=1e-2)


@pytest.mark.parametrize("form", ["raw", "pasted"])
def test_masks_are_pasted_into_the_picture(tmp_path: Path, form: str) -> None:
    """By OpenCV's resize, at a size that leaves the picture alone."""
    call, whole = found(two_stages(masks=form), tmp_path), two_stages(masks="raw")
    for number in range(3):
        image = picture(number)
        inside = run(whole, np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1), np.float32) / 255)
        got = call(image)
        assert got.mask is not None
        assert got.mask.shape == (len(inside["boxes"]), HIGH, WIDE)
        for mask, values, box in zip(got.mask, inside["masks"][:, 0], inside["boxes"], strict=True):
            different = mask != pasted(values, box)
            assert different.sum() <= 0.01 * mask.sum() + 1, "but for roundings of the interpolation"
        assert 0.01 < got.mask.mean() < 0.5


def pasted(values: NDArray[np.float32], box: NDArray[np.float32]) -> NDArray[np.bool_]:
    """torchvision's paste_masks_in_image with OpenCV's resize."""
    side = len(values)
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * np.float32((side + 2) / side)
    x1, y1, x2, y2 = np.concatenate([centre - half, centre + half]).astype(int)
    wide, high = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    resized = cv2.resize(np.pad(values, 1), (int(wide), int(high)), interpolation=cv2.INTER_LINEAR)
    canvas = np.zeros((HIGH + 400, WIDE + 400), np.float32)
    canvas[200 + y1 : 200 + y1 + high, 200 + x1 : 200 + x1 + wide] = resized
    inside: NDArray[np.bool_] = canvas[200 : 200 + HIGH, 200 : 200 + WIDE] > 0.5
    return inside


def test_float32_is_taken_where_nothing_was_asked_for_and_other_precisions_are_refused(tmp_path: Path) -> None:
    model = two_stages().SerializeToString()
    assert prepare(model, ExportConfig()).report.precision == "fp32"
    cv2.imwrite(str(tmp_path / "a.png"), picture(0))
    for config in (ExportConfig(precision="fp16"), ExportConfig(calibration_images=tmp_path)):
        with pytest.raises(UsageError, match=r"single-shot detector, or a cascade"):
            prepare(model, config)


def test_what_is_no_two_stage_detector_of_a_known_form_is_refused() -> None:
    cases: list[tuple[onnx.ModelProto, str]] = [
        (two_stages(transform="bytes"), r"normalises pixels in 0\.\.255"),
        (two_stages(softmax=False), "without a Softmax over the classes"),
    ]
    keypoints = two_stages()
    keypoints.graph.output.append(helper.make_tensor_value_info("sure", TensorProto.FLOAT, [PROPOSALS]))
    cases.append((keypoints, "keypoints of a Keypoint R-CNN come from a loop"))
    for model, words in cases:
        with pytest.raises(UnknownFamilyError, match=words):
            prepare(model.SerializeToString(), FP32)


def test_outputs_whose_sides_are_lost_are_told_by_their_order(tmp_path: Path) -> None:
    """As in old graphs for pictures of any size: a shape whose length depends on the picture hides the sides."""
    model, plain = two_stages(masks="raw"), two_stages(masks="raw")
    b = Builder()
    for entry in model.graph.output:
        known = f"{entry.name}/known"
        for node in model.graph.node:
            node.input[:] = [known if name == entry.name else name for name in node.input]
            node.output[:] = [known if name == entry.name else name for name in node.output]
        sides = b.op("Shape", known, out=f"{entry.name}/sides")
        there = b.op("Greater", sides, "nothing", out=f"{entry.name}/there")
        b.op("Reshape", known, b.op("Compress", sides, there, axis=0, out=f"{entry.name}/same"), out=entry.name)
    model.graph.node.extend(b.nodes)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(-1), "nothing"))
    for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]:
        dim.dim_param = "any"
    del model.graph.value_info[:]
    config = ExportConfig(precision="fp32", input_wh=(WIDE, HIGH), quiet=True)
    one, other = found(model, tmp_path, config)(picture(0)), found(plain, tmp_path)(picture(0))
    assert len(one) > 2
    np.testing.assert_allclose(one.xyxy, other.xyxy)
    np.testing.assert_array_equal(one.mask, other.mask)


def test_a_network_that_takes_proposals_is_sent_to_the_cascade() -> None:
    model = two_stages()
    model.graph.input.append(helper.make_tensor_value_info("rois", TensorProto.FLOAT, [20, 4]))
    with pytest.raises(ModelError, match=r"proposals .*--classify"):
        prepare(model.SerializeToString(), FP32)


def test_loops_other_than_torchvision_s_are_refused() -> None:
    model = two_stages(masks="pasted", border=2)
    with pytest.raises(ModelError, match="comes from a Loop that is not torchvision's"):
        prepare(model.SerializeToString(), FP32)


def test_tensorrt_rtx_refuses_it_with_the_reason(tmp_path: Path) -> None:
    from edgevision.backends.build_options import BuildOptions
    from edgevision.backends.tensorrt_api import load_api
    from edgevision.backends.tensorrt_builder import build_plan
    from edgevision.bundle import Bundle

    found(two_stages(), tmp_path)
    options = BuildOptions("fp32", target=89)
    with pytest.raises(
        BuildError, match=r"it has no NonMaxSuppression, NonZero, RoiAlign.*--backend cpu.* TensorRT itself"
    ):
        build_plan(load_api("tensorrt-rtx"), Bundle(tmp_path / "model.edge"), options)

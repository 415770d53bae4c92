"""The SSD head: every coder and activation against decodes written independently in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgevision.errors import ModelError, UsageError
from edgevision.export import ExportConfig, prepare
from edgevision.export.box_coding import append_offsets
from edgevision.export.decode import Decode
from edgevision.export.graph import DECODE_PREFIX, Graph
from tests.export.builders import grid_priors, picture_tensor, run, ssd_model

PRIORS = grid_priors(8, [0.2, 0.5])
PIXELS = {"mean": (0.0,) * 3, "std": (255.0,) * 3}


def decode_reference(offsets: NDArray[Any], priors: NDArray[Any], side: int, *, tf: bool) -> NDArray[np.float64]:
    """The textbook decode, box by box."""
    boxes = []
    for offset, (cx, cy, w, h) in zip(offsets.astype(np.float64), priors.astype(np.float64), strict=True):
        dx, dy, dw, dh = (offset[1], offset[0], offset[3], offset[2]) if tf else offset
        x, y = dx * 0.1 * w + cx, dy * 0.1 * h + cy
        bw, bh = np.exp(min(dw * 0.2, np.log(62.5))) * w, np.exp(min(dh * 0.2, np.log(62.5))) * h
        boxes.append([x - bw / 2, y - bh / 2, x + bw / 2, y + bh / 2])
    return np.array(boxes) * side


def softmax(x: NDArray[Any]) -> NDArray[Any]:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    return 1 / (1 + np.exp(-x))


def priors_file(folder: Path, order: list[int] | None = None) -> Path:
    path = folder / "priors.npy"
    np.save(path, PRIORS if order is None else PRIORS[:, order])
    return path


@pytest.mark.parametrize("coder", ["tf", "torchvision"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "none"])
@pytest.mark.parametrize("background", ["yes", "no"])
def test_outputs_equal_the_textbook_decode(coder: str, activation: str, background: str) -> None:
    model = ssd_model(priors=PRIORS)
    head = {"coder": coder, "activation": activation, "background": background}
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", head=head, **PIXELS))
    image = picture_tensor(model)
    raw, normal = run(model, image), run(prepared.graph.serialize(), image)

    boxes = decode_reference(raw["boxes"][0], PRIORS, 64, tf=coder == "tf")
    np.testing.assert_allclose(normal["boxes"][0], boxes, rtol=1e-4, atol=1e-3)
    apply = {"sigmoid": sigmoid, "softmax": softmax, "none": lambda x: x}[activation]
    scores = apply(raw["scores"])[0][:, 1 if background == "yes" else 0 :]
    np.testing.assert_allclose(normal["scores"][0], scores, rtol=1e-4, atol=1e-6)
    assert prepared.classes == scores.shape[1]
    assert list(normal) == ["boxes", "scores"]


@pytest.mark.parametrize(
    ("order", "coder"), [([0, 1, 2, 3], "torchvision"), ([1, 0, 3, 2], "tf")], ids=["cxcywh", "cycxhw"]
)
def test_priors_from_a_file_tell_their_order_and_so_the_coder(tmp_path: Path, order: list[int], coder: str) -> None:
    model = ssd_model(activation="Sigmoid")
    config = ExportConfig(precision="fp32", priors=priors_file(tmp_path, order), head={"background": "no"}, **PIXELS)
    prepared = prepare(model.SerializeToString(), config)
    image = picture_tensor(model)
    expected = decode_reference(run(model, image)["boxes"][0], PRIORS, 64, tf=coder == "tf")
    np.testing.assert_allclose(run(prepared.graph.serialize(), image)["boxes"][0], expected, rtol=1e-4, atol=1e-3)


def test_metadata_alone_is_enough() -> None:
    metadata = {
        "family": "ssd",
        "labels": ["car", "truck", "person", "dog", "pad"],
        "preprocess": {"resize": "letterbox", "color": "bgr", "mean": 100, "std": [50, 51, 52], "pad_value": 7},
        "ssd": {"activation": "sigmoid", "background": False, "coder": "torchvision", "variances": [0.1, 0.2]},
        "nms": {"iou_threshold": 0.4, "confidence": 0.6},
    }
    model = ssd_model(priors=PRIORS, metadata=metadata)
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32"))
    assert prepared.labels == ("car", "truck", "person", "dog", "pad")
    assert (prepared.preprocess.resize, prepared.preprocess.color) == ("letterbox", "bgr")
    assert (prepared.preprocess.mean, prepared.preprocess.std) == ((100.0,) * 3, (50.0, 51.0, 52.0))
    assert prepared.preprocess.pad_value == 7.0
    assert prepared.nms is not None
    assert (prepared.nms.iou_threshold, prepared.nms.confidence) == (0.4, 0.6)
    image = picture_tensor(model)
    expected = decode_reference(run(model, image)["boxes"][0], PRIORS, 64, tf=False)
    np.testing.assert_allclose(run(prepared.graph.serialize(), image)["boxes"][0], expected, rtol=1e-4, atol=1e-3)


def test_a_flag_outranks_the_metadata() -> None:
    metadata = {"family": "ssd", "labels": ["a", "b", "c", "d"], "ssd": {"activation": "sigmoid"}}
    model = ssd_model(priors=PRIORS, metadata=metadata)
    config = ExportConfig(precision="fp32", head={"activation": "softmax"}, **PIXELS)
    prepared = prepare(model.SerializeToString(), config)
    image = picture_tensor(model)
    expected = softmax(run(model, image)["scores"])[:, :, 1:]
    np.testing.assert_allclose(run(prepared.graph.serialize(), image)["scores"], expected, atol=1e-6)


def test_softmax_in_the_graph_means_background() -> None:
    model = ssd_model(activation="Softmax", priors=PRIORS)
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", **PIXELS))
    image = picture_tensor(model)
    np.testing.assert_array_equal(
        run(prepared.graph.serialize(), image)["scores"], run(model, image)["scores"][:, :, 1:]
    )


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["background", "a", "b", "c", "d"], 4),
        (["a", "b", "c", "d"], 4),
        (["a", "b", "c", "d", "e"], 5),
        (["background", "a", "b", "c", "d", "e"], 5),
    ],
)
def test_the_number_of_labels_tells_whether_there_is_background(
    tmp_path: Path, labels: list[str], classes: int
) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(labels))
    model = ssd_model(activation="Sigmoid", priors=PRIORS)
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", labels=str(path), **PIXELS))
    assert prepared.classes == classes
    assert prepared.labels == tuple(labels[-classes:])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "--priors"),
        ({"head": {"background": "no"}}, "activation="),
        ({"head": {"activation": "sigmoid"}}, "--head background="),
        ({"labels": "coco80"}, "80 classes"),
        ({"head": {"activation": "relu"}}, "sigmoid, softmax, none"),
        ({"head": {"volume": "11"}}, "activation, background"),
        ({"head": {"boxes": "nothing"}}, "no output 'nothing'"),
    ],
)
def test_what_the_file_does_not_say_is_asked_for(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises((ModelError, UsageError), match=complaint):
        prepare(ssd_model().SerializeToString(), ExportConfig(precision="fp32", **PIXELS, **options))


def test_everything_missing_is_asked_for_at_once() -> None:
    with pytest.raises(ModelError) as error:
        prepare(ssd_model().SerializeToString(), ExportConfig(precision="fp32"))
    for flag in ("--head activation=", "--head background=", "--priors"):
        assert flag in str(error.value)


def test_tensorflows_coder_with_cocos_91_columns_has_background_first() -> None:
    """The one number of columns that tells; with any other, or another coder, the export asks."""
    first_y = {"priors_format": "cycxhw"}
    model = ssd_model(columns=91, activation="Sigmoid", priors=PRIORS)
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", head=first_y, **PIXELS))
    image = picture_tensor(model)
    assert (prepared.classes, prepared.labels[:2]) == (90, ("person", "bicycle"))
    got, raw = run(prepared.graph.serialize(), image)["scores"], run(model, image)["scores"]
    np.testing.assert_array_equal(got, raw[:, :, 1:])
    for columns, head in ((90, first_y), (21, first_y), (91, {"priors_format": "cxcywh"})):
        other = ssd_model(columns=columns, activation="Sigmoid", priors=PRIORS)
        with pytest.raises(ModelError, match="does not say whether column 0 is background"):
            prepare(other.SerializeToString(), ExportConfig(precision="fp32", head=head, **PIXELS))


def test_an_activation_is_not_applied_twice() -> None:
    model = ssd_model(activation="Sigmoid", priors=PRIORS)
    config = ExportConfig(precision="fp32", head={"activation": "sigmoid", "background": "no"}, **PIXELS)
    with pytest.raises(UsageError, match="twice"):
        prepare(model.SerializeToString(), config)


def test_preprocessing_that_nothing_states_is_refused() -> None:
    model = ssd_model(activation="Softmax", priors=PRIORS)
    with pytest.raises(UsageError, match=r"--preprocess.*Common here: .*tf \(SSDLite, MobileNet SSD\)"):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32"))


def test_a_wrong_number_of_priors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "priors.json"
    path.write_text(json.dumps(PRIORS[:100].tolist()))
    config = ExportConfig(precision="fp32", priors=path, head={"background": "no"}, **PIXELS)
    with pytest.raises(ModelError, match=r"100 priors.*128 boxes"):
        prepare(ssd_model(activation="Sigmoid").SerializeToString(), config)


def test_boxes_and_scores_of_equal_width_are_told_apart_by_name() -> None:
    config = ExportConfig(precision="fp32", head={"background": "no"}, **PIXELS)
    named = ssd_model(columns=4, activation="Sigmoid", priors=PRIORS, names=("cls", "bbox_regression"))
    assert prepare(named.SerializeToString(), config).classes == 4
    nameless = ssd_model(columns=4, activation="Sigmoid", priors=PRIORS, names=("o1", "o2"))
    with pytest.raises(ModelError, match="boxes=NAME"):
        prepare(nameless.SerializeToString(), config)
    stated = ExportConfig(precision="fp32", head={"background": "no", "boxes": "o2"}, **PIXELS)
    assert prepare(nameless.SerializeToString(), stated).classes == 4


def test_decode_and_activation_are_marked_to_stay_float() -> None:
    prepared = prepare(
        ssd_model(activation="Sigmoid", priors=PRIORS).SerializeToString(),
        ExportConfig(precision="fp32", head={"background": "yes"}, **PIXELS),
    )
    marked = {node.op_type for node in prepared.graph.nodes if node.name.startswith(DECODE_PREFIX)}
    assert {"Sigmoid", "Slice", "Exp", "Concat"} <= marked
    assert "Conv" not in marked


finite = st.floats(-0.5, 1.5, width=32)
sizes = st.floats(0.03125, 1.0, width=32)


@settings(max_examples=40, deadline=None)
@given(
    centres=arrays(np.float32, (6, 2), elements=finite),
    extents=arrays(np.float32, (6, 2), elements=sizes),
    prior_centres=arrays(np.float32, (6, 2), elements=finite),
    prior_extents=arrays(np.float32, (6, 2), elements=sizes),
    y_first=st.booleans(),
)
def test_decoding_what_was_encoded_gives_the_boxes_back(
    centres: NDArray[np.float32],
    extents: NDArray[np.float32],
    prior_centres: NDArray[np.float32],
    prior_extents: NDArray[np.float32],
    y_first: bool,
) -> None:
    # Encoding as in the SSD paper, equation 2, with variances.
    offsets = np.concatenate(
        [(centres - prior_centres) / prior_extents / 0.1, np.log(extents / prior_extents) / 0.2], axis=1
    )
    if y_first:
        offsets = offsets[:, [1, 0, 3, 2]]
    graph = Graph(
        helper.make_model(
            helper.make_graph([], "decode", [helper.make_tensor_value_info("raw", TensorProto.FLOAT, [1, 6, 4])], []),
            opset_imports=[helper.make_opsetid("", 19)],
            ir_version=9,
        )
    )
    decode = Decode(graph)
    priors = np.concatenate([prior_centres, prior_extents], axis=1) * 300.0
    boxes = append_offsets(decode, "raw", priors, (0.1, 0.1, 0.2, 0.2), y_first=y_first)
    decode.finish({"boxes": (boxes, TensorProto.FLOAT)})
    got = run(graph.serialize(), offsets[None].astype(np.float32))["boxes"][0]
    expected = np.concatenate([centres - extents / 2, centres + extents / 2], axis=1) * 300
    np.testing.assert_allclose(got, expected, atol=0.05)


def test_absurd_offsets_give_finite_boxes() -> None:
    model = ssd_model(priors=PRIORS, activation="Sigmoid", gain=1e4)
    config = ExportConfig(precision="fp32", head={"background": "no"}, **PIXELS)
    prepared = prepare(model.SerializeToString(), config)
    image = picture_tensor(model)
    assert run(model, image)["boxes"].max() > 1000
    assert np.isfinite(run(prepared.graph.serialize(), image)["boxes"]).all()


def test_the_real_ssd_mobilenet_decodes_as_its_documentation_says(shared: Path) -> None:
    """README of the models: cy = ty / 10 * h_a + cy_a, h = exp(th / 5) * h_a; background column; sigmoid applied."""
    path, anchors = (
        shared / "models/ssd_mobilenet_v1_coco_raw.onnx",
        shared / "models/ssd_mobilenet_v1_coco_anchors.npy",
    )
    prepared = prepare(path, ExportConfig(precision="fp32", priors=anchors, labels="coco90"))
    assert (prepared.family, prepared.classes, prepared.labels[0]) == ("ssd", 90, "person")
    image = np.random.default_rng(0).normal(0, 0.5, (1, 3, 300, 300)).astype(np.float32)
    raw, normal = run(path.read_bytes(), image), run(prepared.graph.serialize(), image)
    ty, tx, th, tw = raw["raw_boxes"][0].T
    cy_a, cx_a, h_a, w_a = np.load(anchors).T
    cy, cx, h, w = ty / 10 * h_a + cy_a, tx / 10 * w_a + cx_a, np.exp(th / 5) * h_a, np.exp(tw / 5) * w_a
    expected = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1) * 300
    np.testing.assert_allclose(normal["boxes"][0], expected, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(normal["scores"], raw["raw_scores"][:, :, 1:], atol=1e-6)


def test_boxes_that_the_graph_decodes_itself_are_only_scaled(shared: Path) -> None:
    path = shared / "models/ultraface_rfb_320.onnx"
    prepared = prepare(path, ExportConfig(precision="fp32"))
    image = np.random.default_rng(0).normal(0, 0.5, (1, 3, 240, 320)).astype(np.float32)
    raw, normal = run(path.read_bytes(), image), run(prepared.graph.serialize(), image)
    np.testing.assert_allclose(normal["boxes"], raw["boxes"] * [320, 240, 320, 240], rtol=1e-3, atol=0.05)
    np.testing.assert_allclose(normal["scores"], raw["scores"][:, :, 1:], atol=1e-4)

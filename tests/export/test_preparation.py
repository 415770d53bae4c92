"""Identification and what follows from it: which flag outranks what, and that doubt is refused with its candidates."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgevision.errors import EdgeVisionError, ModelError, UnknownFamilyError, UsageError
from edgevision.export import ExportConfig, prepare
from edgevision.export import families as module
from edgevision.export.families import families
from edgevision.export.inspection import describe_model
from edgevision.labels import load_labels
from tests.export.builders import Builder, backbone, rows, semantic_model, ssd_model, ultralytics_metadata, yolov8_model

FP32 = ExportConfig(precision="fp32")
PIXELS = {"mean": (0.0,) * 3, "std": (255.0,) * 3}


def test_every_head_file_is_a_family_that_describes_itself() -> None:
    known = families()
    assert {"ssd", "yolov8", "semantic"} <= set(known)
    for name, head in known.items():
        assert head.name == name
        assert head.about
        assert all(head.options.values())


@pytest.mark.parametrize(
    ("model", "family"),
    [(ssd_model(activation="Sigmoid"), "ssd"), (yolov8_model(), "yolov8"), (semantic_model(), "semantic")],
)
def test_each_family_is_recognised_and_the_others_say_why_not(model: onnx.ModelProto, family: str) -> None:
    described = describe_model_of(model)
    answers = described["considered"]
    assert [name for name, answer in answers.items() if answer.startswith("yes: ")] == [family]
    assert all(len(answer) > 20 for answer in answers.values())


def describe_model_of(model: onnx.ModelProto) -> dict[str, Any]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return describe_model(path)


def unknown_model() -> bytes:
    b = Builder()
    feature = backbone(b)
    for name, width in (("cls", 3), ("obj", 1), ("box", 4)):
        rows(b, feature, 16, 1, width, out=name)
    return b.model({"image": [1, 3, 64, 64]}, ["cls", "obj", "box"]).SerializeToString()


def test_an_unknown_head_lists_every_candidate_and_the_outputs() -> None:
    with pytest.raises(UnknownFamilyError) as error:
        prepare(unknown_model(), FP32)
    for word in ("ssd: no", "yolov8: no", "semantic: no", "cls [1, 64, 3]", "--family"):
        assert word in str(error.value)


def test_a_model_that_two_families_recognise_is_refused_until_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = copy.copy(families()["yolov8"])
    monkeypatch.setattr(module, "families", lambda: {**families(), "twin": twin})
    with pytest.raises(UnknownFamilyError, match=r"several families[\s\S]*yolov8: yes[\s\S]*twin: yes[\s\S]*--family"):
        prepare(yolov8_model().SerializeToString(), FP32)
    assert prepare(yolov8_model().SerializeToString(), ExportConfig(precision="fp32", family="twin"))


def test_a_family_that_does_not_fit_says_what_is_different() -> None:
    with pytest.raises(UnknownFamilyError, match="expected one output, got 3"):
        prepare(unknown_model(), ExportConfig(precision="fp32", family="yolov8"))


def test_a_family_that_does_not_exist_is_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match=r"choose one of .*semantic, ssd, .*yolov8"):
        prepare(unknown_model(), ExportConfig(precision="fp32", family="yolov99"))
    model = ssd_model(metadata={"family": "yolov99"})
    with pytest.raises(UsageError, match="yolov99"):
        prepare(model.SerializeToString(), FP32)


def test_the_flag_for_the_family_outranks_the_metadata() -> None:
    model = semantic_model(metadata={"family": "ssd"})
    with pytest.raises(UnknownFamilyError):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32", **PIXELS))
    assert prepare(model.SerializeToString(), ExportConfig(precision="fp32", family="semantic", **PIXELS))


def test_an_option_of_another_family_is_refused() -> None:
    with pytest.raises(UsageError, match="priors_format"):
        prepare(yolov8_model().SerializeToString(), ExportConfig(precision="fp32", head={"priors_format": "xyxy"}))


def test_flags_outrank_metadata_which_outranks_the_family() -> None:
    metadata = ultralytics_metadata()
    config = ExportConfig(
        precision="fp32",
        resize="stretch",
        color="bgr",
        mean=(1.0, 2.0, 3.0),
        pad_value=0.0,
        nms_iou=0.1,
        confidence=0.9,
    )
    prepared = prepare(yolov8_model(metadata=metadata).SerializeToString(), config)
    spec = prepared.preprocess
    assert (spec.resize, spec.color, spec.mean, spec.std, spec.pad_value) == (
        "stretch", "bgr", (1.0, 2.0, 3.0), (255.0,) * 3, 0.0,
    )  # fmt: skip
    assert prepared.nms is not None
    assert (prepared.nms.iou_threshold, prepared.nms.confidence) == (0.1, 0.9)
    sources = prepared.report.steps[2].facts["preprocess_sources"]
    assert sources["resize"] == "--resize"
    assert sources["std"] == "default of Ultralytics"


@pytest.mark.parametrize(
    "preprocess",
    [
        {"resize": "crop"},
        {"color": "hsv"},
        {"mean": "grey"},
        {"mean": [1, 2]},
        {"std": [1, None, 1]},
        {"pad_value": 999},
        {"gamma": 2.2},
        {"mean": True, "std": float("inf")},
    ],
)
def test_metadata_that_is_not_understood_is_refused(preprocess: dict[str, Any]) -> None:
    model = semantic_model(metadata={"family": "semantic", "preprocess": preprocess})
    with pytest.raises(ModelError, match="preprocess"):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32", **PIXELS))


@pytest.mark.parametrize(
    "metadata",
    [
        {"family": "ssd", "nms": {"iou_threshold": 7}},
        {"family": "ssd", "nms": {"speed": 1}},
        {"family": "ssd", "nms": 3},
        {"family": "ssd", "ssd": {"activation": "relu"}},
        {"family": "ssd", "ssd": {"variances": "many"}},
        {"family": "ssd", "ssd": []},
    ],
)
def test_metadata_of_the_wrong_kind_is_refused(metadata: dict[str, Any]) -> None:
    priors = np.random.default_rng(0).random((128, 4)).astype(np.float32)
    head = {"background": "no", "priors_format": "cxcywh", "activation": "sigmoid"}
    if "activation" in str(metadata):
        del head["activation"]
    model = ssd_model(priors=priors, metadata=metadata)
    with pytest.raises(EdgeVisionError):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32", head=head, **PIXELS))


@pytest.mark.parametrize(
    ("model", "labels"),
    [
        (yolov8_model(classes=80), "coco80"),
        (yolov8_model(classes=90), "coco90"),
        (yolov8_model(classes=91), "coco90"),
        (semantic_model(classes=19), "cityscapes19"),
        (semantic_model(classes=21), "voc21"),
        (yolov8_model(classes=20), None),
        (semantic_model(classes=80), None),
    ],
)
def test_classes_without_names_get_those_that_their_number_stands_for(
    model: onnx.ModelProto, labels: str | None
) -> None:
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", preprocess="unit"))
    fact = next(step.facts for step in prepared.report.steps if step.name == "normalise").get("labels")
    if labels is None:
        assert (prepared.labels, fact) == ((), None)
    else:
        assert prepared.labels == load_labels(labels, prepared.classes)
        assert str(fact).startswith(f"{labels}: what {prepared.classes} classes without names usually are")


def test_names_in_the_file_outrank_what_a_number_stands_for() -> None:
    metadata = ultralytics_metadata(classes=80)
    model = yolov8_model(classes=80, metadata=metadata)
    assert prepare(model.SerializeToString(), FP32).labels[:2] == ("class 0", "class 1")


def test_a_zero_std_is_refused() -> None:
    with pytest.raises(UsageError, match="zero"):
        prepare(
            semantic_model().SerializeToString(), ExportConfig(precision="fp32", mean=(0.0,) * 3, std=(1.0, 0.0, 1.0))
        )


@pytest.mark.parametrize("shape", [[1, 1, 64, 64], [1, 3, 64, 3], [1, 4, 64, 64], [1, 3, 64]])
def test_an_input_that_is_no_picture_is_refused(shape: list[int]) -> None:
    b = Builder()
    b.op("Relu", "image", out="out")
    with pytest.raises(ModelError, match="expected"):
        prepare(b.model({"image": shape}, ["out"]).SerializeToString(), FP32)


def test_a_second_input_is_refused() -> None:
    b = Builder()
    b.op("Add", "image", "mask", out="out")
    with pytest.raises(ModelError, match="exactly one picture"):
        prepare(b.model({"image": [1, 3, 8, 8], "mask": [1, 3, 8, 8]}, ["out"]).SerializeToString(), FP32)


def test_results_whose_size_depends_on_the_picture_are_refused() -> None:
    b = Builder()
    x = b.conv(backbone(b), 16, 4, kernel=1)
    found = b.op("NonZero", b.op("Relu", x))
    count = b.op("Cast", b.op("ReduceSum", found, keepdims=0), to=1)
    x = b.op("Add", x, count)
    b.op("Resize", x, "", b.constant(np.array([1, 1, 8, 8], np.float32)), out="logits", mode="linear")
    with pytest.raises(ModelError, match=r"NonZero.*depends on the picture"):
        prepare(
            b.model({"image": [1, 3, 64, 64]}, ["logits"]).SerializeToString(), ExportConfig(precision="fp32", **PIXELS)
        )


def test_tensors_beyond_all_measure_are_refused() -> None:
    b = Builder()
    x = b.op("Resize", "image", "", b.constant(np.array([1, 1, 4096, 4096], np.float32)), mode="nearest")
    x = b.op("GlobalAveragePool", x)
    x = b.op("Mul", b.conv("image", 3, 3), x)
    b.op("Identity", x, out="logits")
    with pytest.raises(ModelError, match="would have the shape"):
        prepare(
            b.model({"image": [1, 3, 64, 64]}, ["logits"]).SerializeToString(), ExportConfig(precision="fp32", **PIXELS)
        )


def test_preparing_twice_gives_the_same_bytes() -> None:
    first, second = (prepare(yolov8_model().SerializeToString(), FP32).graph.serialize() for _ in range(2))
    assert first == second


def test_an_open_input_size_comes_from_ultralytics_metadata_or_the_flag() -> None:
    b = Builder()
    x = b.conv(backbone(b), 16, 4, kernel=1)
    b.op("Resize", x, "", b.constant(np.array([1, 1, 8, 8], np.float32)), out="logits", mode="linear")
    model = b.model({"image": ["batch", 3, "height", "width"]}, ["logits"])
    with pytest.raises(UsageError, match="--input-size"):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32", **PIXELS))
    sized = prepare(model.SerializeToString(), ExportConfig(precision="fp32", input_wh=(96, 64), **PIXELS))
    assert sized.preprocess.input_wh == (96, 64)
    assert sized.graph.shape("class_map") == (1, 64, 96)


def test_control_flow_that_stays_is_refused() -> None:
    b = Builder()
    x = b.conv(backbone(b), 16, 4, kernel=1)
    condition = b.op("Greater", b.op("ReduceMax", x, keepdims=0), b.constant(np.float32(0)))
    inner = [
        helper.make_graph([helper.make_node(kind, [x], ["y"])], kind, [], [helper.make_tensor_value_info("y", 1, None)])
        for kind in ("Relu", "Sigmoid")
    ]
    x = b.op("If", condition, then_branch=inner[0], else_branch=inner[1])
    b.op("Resize", x, "", b.constant(np.array([1, 1, 8, 8], np.float32)), out="logits", mode="linear")
    with pytest.raises(ModelError, match="If"):
        prepare(
            b.model({"image": [1, 3, 64, 64]}, ["logits"]).SerializeToString(), ExportConfig(precision="fp32", **PIXELS)
        )


def test_pixels_of_a_type_that_the_first_operator_does_not_take_are_refused() -> None:
    model = yolov8_model(transposed=True, metadata=ultralytics_metadata())
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    with pytest.raises(ModelError, match=r"types contradict each other.*uint8"):
        prepare(model.SerializeToString(), FP32)


def test_the_documentation_names_every_family_and_option() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/export.md").read_text()
    for name, head in families().items():
        assert f"| `{name}` |" in text
        for option in head.options:
            assert f"`{option}`" in text or f"--head {option}=" in text

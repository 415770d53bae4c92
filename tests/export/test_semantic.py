"""The segmentation head: where argmax goes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from edgevision.errors import EdgeVisionError, ModelError, UnknownFamilyError, UsageError
from edgevision.export import ExportConfig, prepare
from tests.export.builders import Builder, backbone, picture_tensor, run, semantic_model

PIXELS = {"mean": (0.0,) * 3, "std": (255.0,) * 3}
FP32 = ExportConfig(precision="fp32", **PIXELS)


@pytest.mark.parametrize("nhwc", [False, True], ids=["nchw", "nhwc"])
def test_scores_at_input_size_become_a_class_map(nhwc: bool) -> None:
    model = semantic_model(nhwc=nhwc)
    prepared = prepare(model.SerializeToString(), FP32)
    image = picture_tensor(model)
    got = run(prepared.graph.serialize(), image)
    expected = run(model, image)["logits"].argmax(axis=3 if nhwc else 1)
    assert list(got) == ["class_map"]
    assert got["class_map"].dtype == np.uint8
    np.testing.assert_array_equal(got["class_map"], expected)
    assert len(np.unique(expected)) > 1, "the case must not be degenerate"
    assert (prepared.task, prepared.classes, prepared.nms) == ("semantic", 4, None)


def test_scores_still_to_be_enlarged_leave_as_logits() -> None:
    model = semantic_model(upsample=False)
    prepared = prepare(model.SerializeToString(), FP32)
    image = picture_tensor(model)
    np.testing.assert_array_equal(run(prepared.graph.serialize(), image)["logits"], run(model, image)["logits"])


@pytest.mark.parametrize("kind", ["int64", "uint8"])
def test_a_class_map_in_the_graph_is_taken_as_it_is(kind: str) -> None:
    model = semantic_model(argmax=kind)
    with pytest.raises(ModelError, match="--labels"):
        prepare(model.SerializeToString(), FP32)
    labelled = semantic_model(argmax=kind, metadata={"family": "semantic", "labels": list("abcd")})
    prepared = prepare(labelled.SerializeToString(), FP32)
    image = picture_tensor(model)
    got = run(prepared.graph.serialize(), image)["class_map"]
    np.testing.assert_array_equal(got, run(model, image)["logits"])
    assert got.dtype == np.uint8


def test_more_than_255_classes_need_a_wider_map() -> None:
    model = semantic_model(classes=300)
    prepared = prepare(model.SerializeToString(), FP32)
    image = picture_tensor(model)
    got = run(prepared.graph.serialize(), image)["class_map"]
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, run(model, image)["logits"].argmax(axis=1))


def test_preprocessing_is_never_guessed() -> None:
    with pytest.raises(UsageError, match=r"--preprocess.*unit .*Common here: torch .*torchvision"):
        prepare(semantic_model().SerializeToString(), ExportConfig(precision="fp32"))


def test_labels_must_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"21 classes.*has 4"):
        prepare(semantic_model().SerializeToString(), ExportConfig(precision="fp32", labels="voc21", **PIXELS))


def two_maps(*names: str) -> bytes:
    b, names = Builder(), names or ("road", "lane")
    feature = backbone(b)
    for name in names:
        x = b.conv(feature, 16, 2, kernel=1)
        b.op("Resize", x, "", b.constant(np.array([1, 1, 8, 8], np.float32)), out=name, mode="linear")
    return b.model({"image": [1, 3, 64, 64]}, list(names)).SerializeToString()


def test_twinlitenet_is_known_by_its_outputs_and_draws_lanes_above_the_road() -> None:
    data = two_maps("da", "ll")
    prepared = prepare(data, ExportConfig(precision="fp32"))
    assert (prepared.family, prepared.labels) == ("twinlitenet", ("background", "drivable area", "lane line"))
    spec = prepared.preprocess
    assert (spec.resize, spec.color, spec.mean, spec.std) == ("stretch", "rgb", (0.0,) * 3, (255.0,) * 3)
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    raw = run(data, image)
    area, lanes = raw["da"][:, 1] > raw["da"][:, 0], raw["ll"][:, 1] > raw["ll"][:, 0]
    got = run(prepared.graph.serialize(), image)["class_map"]
    np.testing.assert_array_equal(got, np.where(lanes, 2, np.where(area, 1, 0)))
    assert len(np.unique(got)) == 3
    swapped = prepare(two_maps("ll", "da"), ExportConfig(precision="fp32"))
    again = run(swapped.graph.serialize(), image)["class_map"]
    raw = run(two_maps("ll", "da"), image)
    np.testing.assert_array_equal(again == 2, raw["ll"][:, 1] > raw["ll"][:, 0])
    alone = prepare(data, ExportConfig(precision="fp32", head={"output": "ll"}, **PIXELS))
    assert (alone.family, alone.classes) == ("semantic", 2)


def test_one_of_several_maps_is_chosen_by_name() -> None:
    with pytest.raises(UnknownFamilyError, match=r"road, lane.*--head output=NAME"):
        prepare(two_maps(), FP32)
    prepared = prepare(two_maps(), ExportConfig(precision="fp32", head={"output": "lane"}, **PIXELS))
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    got = run(prepared.graph.serialize(), image)
    np.testing.assert_array_equal(got["class_map"], run(two_maps(), image)["lane"].argmax(axis=1))
    with pytest.raises(EdgeVisionError, match="no output 'sky'"):
        prepare(two_maps(), ExportConfig(precision="fp32", head={"output": "sky"}, **PIXELS))


def one_output(channels: int, activation: str = "", stride: int = 8) -> bytes:
    b = Builder()
    x = backbone(b)
    if stride == 16:
        x = b.conv(x, 16, 16, stride=2)
    x = b.conv(x, 16, channels, kernel=1)
    if activation:
        x = b.op(activation, x)
    b.op("Identity", x, out="out")
    return b.model({"image": [1, 3, 64, 64]}, ["out"]).SerializeToString()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (one_output(1), "one channel"),
        (one_output(5, "Sigmoid"), "Sigmoid"),
        (one_output(255, stride=16), "detector's map"),
        (semantic_model(argmax="int64", side=64, upsample=False).SerializeToString(), "no map of the input's size"),
    ],
)
def test_what_is_no_set_of_class_scores_is_refused(data: bytes, word: str) -> None:
    with pytest.raises(UnknownFamilyError, match=word):
        prepare(data, FP32)


def test_an_nhwc_uint8_input_is_understood() -> None:
    b = Builder()
    x = b.op("Cast", "pixels", to=TensorProto.FLOAT)
    x = b.op("Mul", x, b.constant(np.float32(1 / 255)))
    b.op("Transpose", x, out="image", perm=[0, 3, 1, 2])
    x = b.conv(backbone(b), 16, 3, kernel=1)
    b.op("Resize", x, "", b.constant(np.array([1, 1, 8, 8], np.float32)), out="logits", mode="linear")
    data = b.model({"pixels": [1, 64, 96, 3]}, ["logits"], kinds={"pixels": TensorProto.UINT8}).SerializeToString()
    prepared = prepare(data, ExportConfig(precision="fp32"))
    spec = prepared.preprocess
    assert (spec.layout, spec.dtype, spec.input_wh) == ("nhwc", "uint8", (96, 64))
    assert (spec.mean, spec.std) == ((0.0,) * 3, (1.0,) * 3)
    with pytest.raises(UsageError, match="leave out --mean"):
        prepare(data, FP32)
    with pytest.raises(UsageError, match="leave out --preprocess"):
        prepare(data, ExportConfig(precision="fp32", preprocess="unit"))


def test_the_real_deeplab_gives_its_own_argmax(shared: Path) -> None:
    path = shared / "models/deeplabv3_mnv2_voc_513.onnx"
    config = ExportConfig(precision="fp32", labels="voc21", mean=(127.5,) * 3, std=(127.5,) * 3)
    prepared = prepare(path, config)
    image = np.random.default_rng(0).normal(0, 0.5, (1, 3, 513, 513)).astype(np.float32)
    got = run(prepared.graph.serialize(), image)["class_map"]
    expected = run(path.read_bytes(), image)["logits"].argmax(axis=1)
    assert (got == expected).mean() > 0.9999
    assert prepared.labels[15] == "person"


def mask_model(activation: str, *, full_size: bool, nhwc: bool = False) -> bytes:
    b = Builder(6)
    x = b.conv(backbone(b), 16, 1, kernel=1, gain=8)
    if full_size:
        x = b.op("Resize", x, "", b.constant(np.array([1, 1, 8, 8], np.float32)), mode="linear")
    if activation:
        x = b.op(activation, x)
    if nhwc:
        x = b.op("Transpose", x, perm=[0, 2, 3, 1])
    b.op("Identity", x, out="mask")
    return b.model({"image": [1, 3, 64, 64]}, ["mask"]).SerializeToString()


@pytest.mark.parametrize("nhwc", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(("activation", "head", "limit"), [("Sigmoid", {}, 0.5), ("", {"mask": "logits"}, 0.0)])
def test_a_mask_of_one_channel_is_two_classes(activation: str, head: dict[str, str], limit: float, nhwc: bool) -> None:
    data = mask_model(activation, full_size=True, nhwc=nhwc)
    prepared = prepare(data, ExportConfig(precision="fp32", head=head, **PIXELS))
    image = np.random.default_rng(1).normal(size=(1, 3, 64, 64)).astype(np.float32)
    raw = run(data, image)["mask"].reshape(1, 64, 64)
    assert (prepared.classes, prepared.labels) == (2, ("background", "foreground"))
    np.testing.assert_array_equal(run(prepared.graph.serialize(), image)["class_map"], raw > limit)
    assert 0.05 < (raw > limit).mean() < 0.95, "the case must not be degenerate"


def test_a_small_mask_is_enlarged_before_it_is_compared() -> None:
    data = mask_model("Sigmoid", full_size=False)
    image = np.random.default_rng(2).normal(size=(1, 3, 64, 64)).astype(np.float32)
    got = run(prepare(data, FP32).graph.serialize(), image)["logits"]
    raw = run(data, image)["mask"]
    np.testing.assert_allclose(got, np.concatenate([1 - raw, raw], axis=1), atol=1e-6)


def test_masks_lie_one_above_the_other() -> None:
    config = ExportConfig(precision="fp32", head={"output": "road+lane"}, **PIXELS)
    prepared = prepare(two_maps(), config)
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    raw = run(two_maps(), image)
    road, lane = (raw[name].argmax(axis=1) for name in ("road", "lane"))
    assert prepared.labels == ("background", "road", "lane")
    np.testing.assert_array_equal(
        run(prepared.graph.serialize(), image)["class_map"], np.where(lane == 1, 2, np.where(road == 1, 1, 0))
    )


def test_scores_can_be_enlarged_with_aligned_corners() -> None:
    model = semantic_model(upsample=False)
    config = ExportConfig(precision="fp32", head={"upsample": "align-corners"}, **PIXELS)
    image = picture_tensor(model)
    got = run(prepare(model.SerializeToString(), config).graph.serialize(), image)["class_map"]
    scores = run(model, image)["logits"][0].astype(float)
    at = np.linspace(0, 7, 64)  # aligned corners: the first and last samples lie on the first and last scores
    wide = np.stack([[np.interp(at, np.arange(8), row) for row in plane] for plane in scores])
    tall = np.stack([[np.interp(at, np.arange(8), column) for column in plane.T] for plane in wide])
    assert (got[0] == tall.transpose(0, 2, 1).argmax(axis=0)).mean() > 0.999

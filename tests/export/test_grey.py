"""Networks of one channel see what a colour network would see of a grey picture, in every family."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgevision.backends.onnxruntime import open_session
from edgevision.errors import EdgeVisionError, ModelError, UsageError
from edgevision.export import ExportConfig, export_model, prepare
from edgevision.kernels.cpu import Preprocessor
from edgevision.manifest import Preprocess
from edgevision.model import load
from tests.export.builders import semantic_model, ssd_model, ultralytics_metadata, yolov8_model
from tests.export.test_location_heads import raw_maps_model, yolov5_model, yolox_model
from tests.export.test_rich_heads import classifier, segmentation_model

UNIT: dict[str, Any] = {"preprocess": "unit"}
SSD = {"head": {"activation": "sigmoid", "background": "no", "coder": "corners"}, **UNIT}
MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], dict[str, Any]]] = {
    "yolov8": (lambda: yolov8_model(metadata=ultralytics_metadata()), {}),
    "yolov5": (yolov5_model, {}),
    "yolox": (yolox_model, {}),
    "yolov3": (raw_maps_model, {"head": {"anchors": "yolov3-tiny"}}),
    "yolo_seg": (lambda: segmentation_model(objectness=False), {}),
    "ssd": (ssd_model, SSD),
    "semantic": (semantic_model, UNIT),
    "classification": (lambda: classifier("Softmax"), UNIT),
}


def grey(model: onnx.ModelProto, *, last: bool = False) -> onnx.ModelProto:
    """A network of one channel that computes what `model` does where red, green and blue are equal."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    image = copy.graph.input[0]
    _, _, height, width = (dim.dim_value for dim in image.type.tensor_type.shape.dim)
    first = next(node for node in copy.graph.node if image.name in node.input)
    weights = next(entry for entry in copy.graph.initializer if entry.name == first.input[1])
    summed = onnx.numpy_helper.to_array(weights).sum(axis=1, keepdims=True)
    weights.CopyFrom(onnx.numpy_helper.from_array(summed, weights.name))
    shape = [1, height, width, 1] if last else [1, 1, height, width]
    image.CopyFrom(onnx.helper.make_tensor_value_info(image.name, onnx.TensorProto.FLOAT, shape))
    if last:
        first.input[0] = "planes"
        turn = onnx.helper.make_node("Transpose", [image.name], ["planes"], name="turn", perm=[0, 3, 1, 2])
        copy.graph.node.insert(0, turn)
    return copy


def picture(seed: int = 0, size_wh: tuple[int, int] = (150, 90)) -> NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, 256, (9, 15, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, size_wh, interpolation=cv2.INTER_CUBIC), np.uint8)


def outputs(graph: bytes, spec: Preprocess, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    preprocessor = Preprocessor(spec)
    tensor = np.zeros(preprocessor.shape, preprocessor.dtype)
    preprocessor(image, tensor[0])
    return open_session(graph).run({spec.input_name: tensor})


@pytest.mark.parametrize("last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("family", MODELS)
def test_a_grey_network_sees_what_a_colour_network_sees_of_a_grey_picture(family: str, last: bool) -> None:
    build, options = MODELS[family]
    model = build()
    config = ExportConfig(precision="fp32", **options)
    colour = prepare(model.SerializeToString(), config)
    single = prepare(grey(model, last=last).SerializeToString(), config)
    assert single.family == colour.family == family
    assert (single.preprocess.color, single.preprocess.channels) == ("gray", 1)
    assert (single.preprocess.mean, single.preprocess.std) == (colour.preprocess.mean[:1], colour.preprocess.std[:1])
    assert single.preprocess.resize == colour.preprocess.resize
    image = picture()
    shades = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    expected = outputs(colour.graph.serialize(), colour.preprocess, shades)
    got = outputs(single.graph.serialize(), single.preprocess, image)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert value.std() > 0
        if value.dtype == np.float32:
            np.testing.assert_allclose(got[name], value, rtol=1e-3, atol=1e-3)
        else:
            assert (got[name] == value).mean() > 0.999


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_grey_network_is_calibrated_and_runs(precision: str, tmp_path: Path) -> None:
    """From the file to detections, through calibration: its pictures become grey as the runtime's do."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(6):
        cv2.imwrite(str(folder / f"{seed}.png"), picture(seed))
    source = tmp_path / "grey.onnx"
    metadata = ultralytics_metadata(channels="1")
    source.write_bytes(grey(yolov8_model(metadata=metadata)).SerializeToString())
    config = ExportConfig(precision=precision, calibration_images=folder, quiet=True)
    export_model(source, tmp_path / "grey.edge", config)
    image = picture(9)
    shades = np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), np.uint8)
    with load(tmp_path / "grey.edge", backend="cpu", precision="fp32") as model:
        reference = model(image)
    for graph in ("auto", "tensorrt"):
        with load(tmp_path / "grey.edge", backend="cpu", graph=graph) as model:
            assert model.manifest.preprocess.color == "gray"
            found, again = model(image), model(shades)
        assert len(found) > 3
        assert abs(len(found) - len(reference)) < 0.2 * len(reference)
        np.testing.assert_array_equal(found.xyxy, again.xyxy)


def noted(model: onnx.ModelProto, **preprocess: Any) -> bytes:
    model.metadata_props.add(key="edgevision", value=json.dumps({"preprocess": preprocess}))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"mean": (123.675, 116.28, 103.53), "std": (58.0,) * 3}, UsageError, "--mean: mean has three numbers"),
        ({"mean": (127.0,) * 3, "std": (58.395, 57.12, 57.375)}, UsageError, "--std: std has three numbers"),
        ({"preprocess": "torch"}, UsageError, "says rgb: input 'image' takes one channel"),
        ({"preprocess": "104,117,123/1"}, UsageError, "--preprocess 104,117,123/1: mean has three numbers"),
        ({"color": "bgr", **UNIT}, UsageError, "--color says bgr: input 'image' takes one channel"),
        ({}, UsageError, "nothing says how this model's pixels are normalised"),
    ],
)
def test_colours_for_a_grey_network_are_refused(
    options: dict[str, Any], error: type[EdgeVisionError], words: str
) -> None:
    with pytest.raises(error, match=words):
        prepare(grey(semantic_model()).SerializeToString(), ExportConfig(precision="fp32", **options))


def test_what_the_file_says_of_its_channels_must_be_true() -> None:
    with pytest.raises(UsageError, match="metadata says rgb: input 'image' takes one channel"):
        prepare(noted(grey(semantic_model()), color="rgb", mean=127, std=128), ExportConfig(precision="fp32"))
    prepared = prepare(noted(grey(semantic_model()), color="gray", mean=127, std=128), ExportConfig(precision="fp32"))
    assert (prepared.preprocess.mean, prepared.preprocess.std) == ((127.0,), (128.0,))
    claims_three = grey(yolov8_model(metadata=ultralytics_metadata(channels="3")))
    with pytest.raises(ModelError, match=r"takes 3 channel\(s\), its input 'image' 1"):
        prepare(claims_three.SerializeToString(), ExportConfig(precision="fp32"))


def test_grey_for_a_colour_network_is_refused() -> None:
    with pytest.raises(UsageError, match="--color gray: input 'image' takes three channels"):
        prepare(semantic_model().SerializeToString(), ExportConfig(precision="fp32", color="gray", **UNIT))


@pytest.mark.parametrize("shape", [[1, 1, 64, 1], [1, 4, 64, 64], [1, 3, 64, 3]])
def test_inputs_whose_channels_cannot_be_told_are_refused(shape: list[int]) -> None:
    model = semantic_model()
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape))
    del model.graph.value_info[:]
    with pytest.raises(ModelError, match=r"three colour channels, or a grey one|contradict"):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32", **UNIT))

"""Where a layer's noise is measured, and in which order layers leave INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgevision.calibration import CalibrationImages
from edgevision.evaluation import open_images
from edgevision.export import ExportConfig
from edgevision.export.graph import Graph
from edgevision.export.layer_search import in_order
from edgevision.export.preparation import PreparedModel, prepare
from edgevision.export.sensitivity import PICTURES, Layer, observable, telling_inputs
from edgevision.kernels.cpu import Preprocessor
from tests.export.builders import Builder, backbone, grid_priors, semantic_model, ssd_model

SIDE = 64


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve, of different contrast."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(12):
        small = 128 + random.integers(-127, 128, (8, 8, 3)) * (i % 5) // 4
        cv2.imwrite(str(folder / f"{i:02}.png"), cv2.resize(small.astype(np.uint8), (SIDE, SIDE)))
    return folder


def prepared(folder: Path, model: Any, **options: Any) -> PreparedModel:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return prepare(path, ExportConfig(precision="int8", calibration_images=folder, quiet=True, **options))


def detector(folder: Path) -> PreparedModel:
    metadata = {
        "family": "ssd",
        "labels": ["car", "truck", "person", "dog", "pad"],
        "preprocess": {"mean": 127.5, "std": 127.5},
        "ssd": {"activation": "sigmoid", "background": False, "coder": "torchvision"},
    }
    return prepared(folder, ssd_model(priors=grid_priors(8, [0.2, 0.5]), metadata=metadata))


def all_inputs(model: PreparedModel, folder: Path) -> list[NDArray[Any]]:
    """Every picture's, in order of their names."""
    preprocessor = Preprocessor(model.preprocess)
    tensors = []
    for path in sorted(folder.glob("*.png")):
        tensors.append(np.empty(preprocessor.shape, preprocessor.dtype))
        preprocessor(cv2.imread(str(path)), tensors[-1][0])
    return tensors


def places(chosen: list[NDArray[Any]], inputs: list[NDArray[Any]]) -> list[int]:
    return [next(i for i, tensor in enumerate(inputs) if np.array_equal(tensor, one)) for one in chosen]


def class_maps(model: PreparedModel, inputs: list[NDArray[Any]]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(model.graph.serialize())
    found = [session.run(None, {session.get_inputs()[0].name: tensor})[0] for tensor in inputs]
    return [array.argmax(axis=1) if array.dtype == np.float32 else array for array in found]


@pytest.mark.parametrize("labelled", [False, True])
def test_noise_is_measured_where_the_detector_finds_most(tmp_path: Path, pictures: Path, labelled: bool) -> None:
    model = detector(tmp_path)
    inputs = all_inputs(model, pictures)
    session = onnxruntime.InferenceSession(model.graph.serialize())
    found = [session.run(["scores"], {session.get_inputs()[0].name: tensor})[0].max(axis=2) for tensor in inputs]
    sums = [float(scores[scores >= 0.05].sum()) for scores in found]
    best = sorted(range(len(sums)), key=lambda i: -sums[i])[:PICTURES]
    assert len({round(value, 3) for value in sums}) > PICTURES
    given: dict[str, Any] = {"images": CalibrationImages(pictures)}
    if labelled:
        blank = tmp_path / "blank"
        blank.mkdir()
        cv2.imwrite(str(blank / "0.png"), np.zeros((SIDE, SIDE, 3), np.uint8))
        given = {"images": CalibrationImages(blank), "dataset": open_images(pictures)}
    chosen = telling_inputs(model, **given)
    assert places(chosen, inputs) == best


@pytest.mark.parametrize("argmax", [None, "int64"])
def test_a_segmenter_is_measured_where_its_rare_classes_are(tmp_path: Path, pictures: Path, argmax: str | None) -> None:
    model = prepared(tmp_path, semantic_model(classes=21, argmax=argmax), preprocess="tf", labels="voc21")
    inputs = all_inputs(model, pictures)
    maps = class_maps(model, inputs)
    telling = [sum((m == k).sum() / (np.array(maps) == k).sum() for k in np.unique(m)) for m in maps]
    assert len({round(float(value), 3) for value in telling}) > PICTURES
    best = np.argsort(telling)[::-1][:PICTURES]
    assert places(telling_inputs(model, CalibrationImages(pictures)), inputs) == best.tolist()


def test_a_segmenter_that_sees_the_same_everywhere_is_measured_on_pictures_from_everywhere(tmp_path: Path) -> None:
    for i in range(12):
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), np.full((SIDE, SIDE, 3), 120 + i, np.uint8))
    model = prepared(tmp_path, semantic_model(), preprocess="unit")
    inputs = all_inputs(model, tmp_path)
    first, *others = class_maps(model, inputs)
    assert all(np.array_equal(first, other) for other in others)
    assert places(telling_inputs(model, CalibrationImages(tmp_path)), inputs) == [0, 3, 6, 9]


def test_of_a_map_made_of_several_the_scores_of_each_are_seen() -> None:
    """Drivable area and lane lines: pixels that change their class would hide all noise that changes none."""
    b = Builder()
    feature = backbone(b)
    maps = []
    for name in ("area", "lane"):
        scores = b.op("Identity", b.conv(feature, 16, 2), out=name)
        maps.append(b.op("Cast", b.op("ArgMax", scores, axis=1), to=onnx.TensorProto.UINT8))
    lanes = b.op("Mul", b.op("Cast", maps[1], to=onnx.TensorProto.INT32), b.constant(np.array(2, np.int32)))
    area = b.op("Cast", maps[0], to=onnx.TensorProto.INT32)
    b.op("Cast", b.op("Max", area, lanes), out="class_map", to=onnx.TensorProto.UINT8)
    model = b.model({"image": [1, 3, SIDE, SIDE]}, ["class_map"], kinds={"class_map": onnx.TensorProto.UINT8})
    assert observable(Graph(model)).outputs == ["area", "lane"]


def test_a_float_output_is_seen_as_it_is() -> None:
    graph = Graph(ssd_model())
    assert observable(graph).outputs == graph.outputs


def test_layers_leave_int8_in_order_of_the_noise_that_goes_with_what_they_cost() -> None:
    """A sum has no multiply-adds worth speaking of, but a change of precision around it costs as well."""
    sum_, cheap, dear, quiet = (
        Layer("sum", "sum", 10, 1e-5),
        Layer("cheap", "cheap", 10_000, 1e-3),
        Layer("dear", "dear", 900_000, 1e-2),
        Layer("quiet", "quiet", 90_000, 1e-5),
    )
    assert sum_.noise / sum_.multiply_adds > cheap.noise / cheap.multiply_adds
    assert in_order([sum_, quiet, dear, cheap]) == [cheap, dear, sum_, quiet]
    assert in_order([Layer("only", "only", 0, 0.0)])[0].key == "only"

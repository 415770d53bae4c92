"""YOLOv8-format graphs: boxes and scores against an independent decode of the same outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgevision.errors import EdgeVisionError, UnknownFamilyError, UsageError
from edgevision.export import ExportConfig, prepare
from edgevision.export.graph import DECODE_PREFIX
from tests.export.builders import picture_tensor, run, ultralytics_metadata, yolov8_model

pytestmark = pytest.mark.smoke

FP32 = ExportConfig(precision="fp32")


def decode_reference(output: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[4 + C, N]: cx, cy, w, h in pixels, then class probabilities; location by location."""
    boxes, scores = [], []
    for column in output.T.astype(np.float64):
        cx, cy, w, h = column[:4]
        boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        scores.append(column[4:])
    return np.array(boxes), np.array(scores)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("metadata", [None, ultralytics_metadata()], ids=["structure", "metadata"])
def test_boxes_and_scores_equal_an_independent_decode(seed: int, metadata: dict[str, str] | None) -> None:
    model = yolov8_model(metadata=metadata)
    prepared = prepare(model.SerializeToString(), FP32)
    image = picture_tensor(model, seed)
    boxes, scores = decode_reference(run(model, image)["output0"][0])
    got = run(prepared.graph.serialize(), image)
    assert (prepared.family, prepared.task, prepared.classes) == ("yolov8", "detection", 3)
    assert got["boxes"].shape == (1, len(boxes), 4)
    np.testing.assert_allclose(got["boxes"][0], boxes, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(got["scores"][0], scores, atol=1e-6)
    assert boxes.std() > 5, "the case must not be degenerate"
    assert scores.std() > 0.05


@pytest.mark.parametrize("form", ["transposed", "behind another operator"])
def test_other_forms_of_the_output_need_a_word_and_then_give_the_same(form: str) -> None:
    options = {"transposed": True} if form == "transposed" else {"joined": False}
    model = yolov8_model(**options)
    with pytest.raises(UnknownFamilyError, match="--family yolov8"):
        prepare(model.SerializeToString(), FP32)
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", family="yolov8"))
    image = picture_tensor(model)
    boxes, scores = decode_reference(run(yolov8_model(), image)["output0"][0])
    got = run(prepared.graph.serialize(), image)
    np.testing.assert_allclose(got["boxes"][0], boxes, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(got["scores"][0], scores, atol=1e-6)


def test_a_suppression_in_the_graph_is_cut_away() -> None:
    """Exports with nms=True: boxes are corners there, and the thresholds become the bundle's."""
    model = yolov8_model(metadata=ultralytics_metadata(), suppressed=True)
    prepared = prepare(model.SerializeToString(), FP32)
    assert (prepared.family, prepared.classes) == ("yolov8", 3)
    assert prepared.nms is not None
    assert (prepared.nms.iou_threshold, prepared.nms.confidence) == (pytest.approx(0.6), pytest.approx(0.4))
    assert not prepared.nms.multi_label
    plain = yolov8_model(metadata=ultralytics_metadata())
    image = picture_tensor(plain)
    boxes, scores = decode_reference(run(plain, image)["output0"][0])
    got = run(prepared.graph.serialize(), image)
    np.testing.assert_allclose(got["boxes"][0], boxes, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(got["scores"][0], scores, atol=1e-6)


def test_other_strides_are_known_by_the_number_of_classes() -> None:
    """Tiny variants have two scales, others four: the metadata says how many classes there are."""
    model = yolov8_model(metadata=ultralytics_metadata(), strides_used=(16, 32))
    prepared = prepare(model.SerializeToString(), FP32)
    image = picture_tensor(model)
    boxes, scores = decode_reference(run(model, image)["output0"][0])
    got = run(prepared.graph.serialize(), image)
    assert len(boxes) == 4 * 6 + 2 * 3
    np.testing.assert_allclose(got["boxes"][0], boxes, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(got["scores"][0], scores, atol=1e-6)


def test_preprocessing_and_labels_come_from_ultralytics() -> None:
    prepared = prepare(yolov8_model(metadata=ultralytics_metadata()).SerializeToString(), FP32)
    spec = prepared.preprocess
    assert (spec.resize, spec.color, spec.pad_value, spec.input_wh) == ("letterbox", "rgb", 114.0, (96, 64))
    assert (spec.mean, spec.std) == ((0.0,) * 3, (255.0,) * 3)
    assert prepared.labels == ("class 0", "class 1", "class 2")


def test_the_whole_box_decode_stays_float() -> None:
    graph = prepare(yolov8_model().SerializeToString(), FP32).graph
    outside = [node.op_type for node in graph.nodes if not node.name.startswith(DECODE_PREFIX)]
    # The backbone and the head's own convolutions; the distribution's expectation is part of the decode.
    assert set(outside) == {"Conv", "Relu"}
    assert len(outside) == 16


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"task": "pose"}, "pose"), ({"task": "segment"}, "segment"), ({"end2end": "True"}, "end2end")],
)
def test_other_ultralytics_tasks_are_refused(changes: dict[str, str], word: str) -> None:
    model = yolov8_model(metadata=ultralytics_metadata(**changes))
    with pytest.raises(UnknownFamilyError, match=word):
        prepare(model.SerializeToString(), FP32)


def test_labels_of_the_wrong_count_are_refused() -> None:
    model = yolov8_model(metadata=ultralytics_metadata())
    with pytest.raises(UsageError, match=r"80 classes.*has 3"):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32", labels="coco80"))
    wrong = yolov8_model(metadata=ultralytics_metadata(classes=7))
    with pytest.raises(EdgeVisionError, match=r"names 7 classes.*has 3"):
        prepare(wrong.SerializeToString(), FP32)


@pytest.mark.parametrize("names", ["__import__('os').getcwd()", "{0: 'a'", "[" * 5000, "{1: 'a'}", "7", "{'a': {0}}"])
def test_metadata_is_data_and_never_run(names: str) -> None:
    model = yolov8_model(metadata=ultralytics_metadata(names=names))
    assert prepare(model.SerializeToString(), FP32).labels == ()

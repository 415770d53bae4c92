"""Settings and their refusals, and outputs that are not in normal form."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from edgevision.backends.base import TensorSpec
from edgevision.errors import BundleError, UsageError
from edgevision.geometry import place
from edgevision.manifest import Nms
from edgevision.postprocess import (
    ClassificationPostprocess,
    DetectionPostprocess,
    Selection,
    SemanticPostprocess,
    class_ids,
    select,
)
from tests.tiny_models import detector_manifest

MANIFEST = detector_manifest(nms=Nms(iou_threshold=0.6, confidence=0.4, max_detections=50))
SEMANTIC = detector_manifest(task="semantic", nms=None)


def chosen(**overrides: Any) -> Selection:
    selection = select(MANIFEST, **overrides)
    assert selection is not None
    return selection


def test_without_overrides_the_manifest_decides() -> None:
    assert chosen().nms == MANIFEST.nms
    np.testing.assert_array_equal(chosen().thresholds, np.full(3, 0.4, np.float32))


def test_overrides_replace_what_they_name() -> None:
    selection = chosen(confidence=0.1, iou=0.9, max_detections=7)
    assert selection.nms == Nms(iou_threshold=0.9, confidence=0.1, max_detections=7)
    np.testing.assert_array_equal(selection.thresholds, np.full(3, 0.1, np.float32))


def test_a_threshold_per_class_by_name_or_number() -> None:
    thresholds = chosen(confidence={"blue": 0.8, 0: 0.0}).thresholds
    np.testing.assert_array_equal(thresholds, np.array([0.0, 0.4, 0.8], np.float32))


@pytest.mark.parametrize("classes", [["green"], [1], "green", ("green", 1), [np.int64(1)]])
def test_classes_not_wanted_are_out_of_reach(classes: Any) -> None:
    np.testing.assert_array_equal(chosen(classes=classes).thresholds, np.array([np.inf, 0.4, np.inf], np.float32))


def test_a_name_that_several_classes_have_means_all_of_them() -> None:
    assert class_ids(["person", "n/a", "car", "n/a"], ["n/a", 0]) == [1, 3, 0]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"confidence": 1.5}, "confidence is a number in 0..1, got 1.5"),
        ({"confidence": -0.1}, "confidence is"),
        ({"confidence": float("nan")}, "confidence is"),
        ({"confidence": "high"}, "confidence is"),
        ({"confidence": {"red": 2}}, "confidence is a number in 0..1, got 2"),
        ({"confidence": {"cyan": 0.5}}, "no class 'cyan'; it has 0..2: red, green, blue"),
        ({"iou": 45}, "iou is a number in 0..1, got 45"),
        ({"classes": ["cat"]}, "no class 'cat'"),
        ({"classes": [3]}, "no class 3"),
        ({"classes": [-1]}, "no class -1"),
        ({"classes": []}, "names no class"),
        ({"max_detections": 0}, "max_detections is a whole number in 1..100000, got 0"),
        ({"max_detections": 2.5}, "max_detections is"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_words(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        select(MANIFEST, **overrides)


def test_a_segmenter_has_no_such_settings() -> None:
    assert select(SEMANTIC) is None
    with pytest.raises(UsageError, match=r"\['confidence', 'iou'\] cannot be set: colours does semantic"):
        select(SEMANTIC, confidence=0.5, iou=0.5)


BOXES, SCORES = TensorSpec("boxes", (1, 9, 4), "float32"), TensorSpec("scores", (1, 9, 3), "float32")


@pytest.mark.parametrize(
    "outputs",
    [
        [],
        [BOXES],
        [BOXES, dataclasses.replace(SCORES, name="logits")],
        [BOXES, dataclasses.replace(SCORES, shape=(1, 9, 4))],
        [BOXES, dataclasses.replace(SCORES, shape=(1, 8, 3))],
        [BOXES, dataclasses.replace(SCORES, shape=(9, 3))],
        [BOXES, dataclasses.replace(SCORES, dtype="float16")],
        [dataclasses.replace(BOXES, shape=(2, 9, 4)), dataclasses.replace(SCORES, shape=(2, 9, 3))],
        [dataclasses.replace(BOXES, shape=(1, 9, 5)), SCORES],
    ],
)
def test_a_detector_not_in_normal_form_is_refused(outputs: list[TensorSpec]) -> None:
    with pytest.raises(BundleError, match=r"expected boxes float32 \[1, n, 4\] and scores float32 \[1, n, 3\]"):
        DetectionPostprocess(MANIFEST, outputs, chosen())


@pytest.mark.parametrize(
    "output",
    [
        TensorSpec("class_map", (1, 6, 8), "int64"),
        TensorSpec("class_map", (1, 1, 6, 8), "uint8"),
        TensorSpec("class_map", (2, 6, 8), "uint8"),
        TensorSpec("logits", (1, 4, 6, 8), "float32"),
        TensorSpec("logits", (1, 3, 6, 8), "float16"),
        TensorSpec("logits", (3, 6, 8), "float32"),
        TensorSpec("logits", (1, 3, 0, 8), "float32"),
        TensorSpec("masks", (1, 3, 6, 8), "float32"),
    ],
)
def test_a_segmenter_not_in_normal_form_is_refused(output: TensorSpec) -> None:
    with pytest.raises(BundleError, match=r"expected class_map .* or logits float32 \[1, 3, h, w\].* got"):
        SemanticPostprocess(SEMANTIC, [output])


def test_boxes_come_back_in_source_pixels_and_those_in_the_padding_are_dropped() -> None:
    placement = place((200, 100), (64, 64), "letterbox")  # content at 0, 16, 64 x 32
    boxes = np.array([[[8, 20, 24, 40], [10, 2, 20, 12], [32, 10, 40, 30]]], np.float32)
    scores = np.array([[[0.9, 0, 0], [0, 0.8, 0], [0, 0, 0.7]]], np.float32)
    specs = [TensorSpec("boxes", (1, 3, 4), "float32"), TensorSpec("scores", (1, 3, 3), "float32")]
    found = DetectionPostprocess(MANIFEST, specs, chosen())({"boxes": boxes, "scores": scores}, placement)
    np.testing.assert_allclose(found.xyxy, [[25, 12.5, 75, 75], [100, 0, 125, 43.75]])
    assert found.class_id.tolist() == [0, 2]
    assert found.names == ("red", "green", "blue")


FINAL = Nms(confidence=0.4, max_detections=2, suppression="none")


def test_a_network_without_duplicates_keeps_overlapping_boxes_in_order_of_score() -> None:
    manifest = detector_manifest(nms=FINAL)
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 10], [1, 1, 10, 10], [5, 5, 4, 9], [0, 0, 9, 9], [0, 0, 8, 8]]], "f4")
    scores = np.array([[0.5, 0.9, 0.7, 0.95, np.nan, 0.99]], np.float32)
    class_ids = np.array([[2, 0, 0, 1, 1, 7]], np.int32)
    specs = [
        TensorSpec("boxes", (1, 6, 4), "float32"),
        TensorSpec("scores", (1, 6), "float32"),
        TensorSpec("class_ids", (1, 6), "int32"),
    ]
    selection = select(manifest)
    assert selection is not None
    outputs = {"boxes": boxes, "scores": scores, "class_ids": class_ids}
    found = DetectionPostprocess(manifest, specs, selection)(outputs, place((64, 64), (64, 64), "stretch"))
    np.testing.assert_allclose(found.confidence, [0.9, 0.7])
    np.testing.assert_array_equal(found.xyxy, [[0, 0, 10, 10], [1, 1, 10, 10]])
    assert found.class_id.tolist() == [0, 0]
    with pytest.raises(BundleError, match=r"class_ids int32 \[1, n\]"):
        DetectionPostprocess(manifest, [*specs[:2], dataclasses.replace(specs[2], dtype="int64")], selection)


@pytest.mark.parametrize("columns", [2, 3])
def test_keypoints_follow_their_boxes_into_source_pixels(columns: int) -> None:
    manifest = detector_manifest(task="keypoints", nms=Nms(confidence=0.5))
    rng = np.random.default_rng(columns)
    boxes = np.array([[[8, 20, 24, 40], [9, 20, 24, 40], [40, 20, 60, 44]]], np.float32)
    scores = np.array([[[0.6, 0, 0], [0.8, 0, 0], [0, 0, 0.9]]], np.float32)
    points = rng.uniform(-10, 70, (1, 3, 5, columns)).astype(np.float32)
    specs = [
        TensorSpec("boxes", (1, 3, 4), "float32"),
        TensorSpec("scores", (1, 3, 3), "float32"),
        TensorSpec("keypoints", (1, 3, 5, columns), "float32"),
    ]
    selection = select(manifest)
    assert selection is not None
    placement = place((200, 100), (64, 64), "letterbox")  # content at 0, 16, 64 x 32
    outputs = {"boxes": boxes, "scores": scores, "keypoints": points}
    found = DetectionPostprocess(manifest, specs, selection)(outputs, placement)
    assert found.keypoints is not None
    expected = points[0, [2, 1]]
    np.testing.assert_allclose(found.keypoints[..., 0], expected[..., 0] * 200 / 64, rtol=1e-5)
    np.testing.assert_allclose(found.keypoints[..., 1], (expected[..., 1] - 16) * 100 / 32, rtol=1e-5)
    np.testing.assert_array_equal(found.keypoints[..., 2], expected[..., 2] if columns == 3 else 1)
    with pytest.raises(BundleError, match=r"keypoints float32 \[1, n, p, 2 or 3\]"):
        DetectionPostprocess(manifest, specs[:2], selection)


def test_a_classification_keeps_its_scores_and_places_its_box() -> None:
    manifest = detector_manifest(task="classification", nms=None)
    specs = [TensorSpec("scores", (1, 3), "float32"), TensorSpec("boxes", (1, 1, 4), "float32")]
    placement = place((200, 100), (64, 64), "stretch")
    scores = np.array([[0.1, 0.7, 0.2]], np.float32)
    outputs = {"scores": scores, "boxes": np.array([[[16, 16, 32, 48]]], np.float32)}
    located = ClassificationPostprocess(manifest, specs)(outputs, placement)
    assert located.xyxy is not None
    np.testing.assert_allclose(located.xyxy, [50, 25, 100, 75])
    assert [name for name, _ in located.top(2)] == ["green", "blue"]
    assert ClassificationPostprocess(manifest, specs[:1])({"scores": scores}, placement).xyxy is None
    scores[:] = 0  # a session's buffer: the result must not change with it
    assert located.top(1)[0][1] == pytest.approx(0.7)
    with pytest.raises(BundleError, match=r"scores float32 \[1, 3\]"):
        ClassificationPostprocess(manifest, specs[1:])


def test_masks_are_cut_to_their_boxes_at_source_size() -> None:
    manifest = detector_manifest(task="instance", nms=Nms(confidence=0.5))
    boxes = np.array([[[16, 16, 48, 48], [0, 0, 8, 8]]], np.float32)
    scores = np.array([[[0, 0.9, 0], [0.2, 0, 0]]], np.float32)
    specs = [
        TensorSpec("boxes", (1, 2, 4), "float32"),
        TensorSpec("scores", (1, 2, 3), "float32"),
        TensorSpec("mask_coefficients", (1, 2, 2), "float32"),
        TensorSpec("mask_prototypes", (1, 2, 16, 16), "float32"),
    ]
    prototypes = np.stack([np.ones((16, 16)), np.repeat([[-1.0] * 8 + [1.0] * 8], 16, axis=0)])[None].astype("f4")
    selection = select(manifest)
    assert selection is not None
    outputs = {
        "boxes": boxes,
        "scores": scores,
        "mask_coefficients": np.array([[[0.0, 1.0], [1.0, 0.0]]], np.float32),
        "mask_prototypes": prototypes,
    }
    found = DetectionPostprocess(manifest, specs, selection)(outputs, place((128, 128), (64, 64), "stretch"))
    expected = np.zeros((1, 128, 128), bool)
    expected[0, 32:96, 64:96] = True  # the right half of the box, where the second prototype is positive
    assert found.mask is not None
    np.testing.assert_array_equal(found.mask, expected)
    with pytest.raises(BundleError, match="mask_prototypes float32"):
        DetectionPostprocess(manifest, specs[:3], selection)

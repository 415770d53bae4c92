"""Two stages as one model: boxes from a detector, classes from a classifier, on real graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import edgevision
from edgevision import Cascade, Model, UsageError
from edgevision.frame import Frame
from tests.tiny_models import classifier_bundle, detector_bundle


@pytest.fixture
def detector(tmp_path: Path) -> Iterator[Model]:
    """One 8x8 cell per box, in a picture of the input's size."""
    with edgevision.load(detector_bundle(tmp_path / "detector.edge"), backend="cpu", threads=1) as model:
        yield model


def painted() -> NDArray[np.uint8]:
    """Black but for a red cell, and a blue one beside a green pixel column."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[8:16, 16:24] = (0, 0, 255)
    image[32:40, 40:48] = (255, 0, 0)
    return image


def load_classifier(tmp_path: Path, **options: object) -> Model:
    return edgevision.load(classifier_bundle(tmp_path / "c.edge", **options), backend="cpu", threads=1)  # type: ignore[arg-type]


def test_classes_are_the_classifier_s_and_boxes_the_detector_s(detector: Model, tmp_path: Path) -> None:
    with load_classifier(tmp_path, labels=("cherry", "leaf", "sky")) as classifier:
        cascade = Cascade(detector, classifier, padding=0.0)
        found = cascade(Frame(painted()))
        cascade.close()
    order = np.argsort(found.xyxy[:, 0])
    np.testing.assert_allclose(found.xyxy[order], [[16, 8, 24, 16], [40, 32, 48, 40]])
    assert [found.name(i) for i in order] == ["cherry", "sky"]
    np.testing.assert_allclose(found.confidence, 1.0, atol=1e-3)
    np.testing.assert_allclose(found.data["proposal_confidence"], 1.0, atol=1e-3)
    assert found.data["proposal_class_id"][order].tolist() == [0, 2]


def test_padding_shows_the_classifier_more(detector: Model, tmp_path: Path) -> None:
    with load_classifier(tmp_path) as classifier:
        cascade = Cascade(detector, classifier, padding=0.5, confidence=0.1)
        found = cascade(painted())
        cascade.close()
    # Half a box on every side: the coloured cell is a quarter of what the classifier averages.
    np.testing.assert_allclose(found.confidence, 0.25, atol=0.03)


def test_what_the_classifier_calls_background_is_dropped(detector: Model, tmp_path: Path) -> None:
    with load_classifier(tmp_path, labels=("background", "leaf", "sky")) as classifier:
        cascade = Cascade(detector, classifier, padding=0.0)
        found = cascade(painted())
        empty = cascade(np.zeros((48, 64, 3), np.uint8))
        cascade.close()
    assert [found.name(i) for i in range(len(found))] == ["sky"]
    assert len(empty) == 0
    assert empty.names == ("background", "leaf", "sky")


def test_a_classifier_that_localises_moves_the_boxes(detector: Model, tmp_path: Path) -> None:
    with load_classifier(tmp_path, localises=True) as classifier:
        cascade = Cascade(detector, classifier, padding=0.0)
        found = cascade(painted())
        cascade.close()
    np.testing.assert_allclose(found.xyxy[np.argsort(found.xyxy[:, 0])], [[18, 10, 22, 14], [42, 34, 46, 38]])


def test_a_cascade_runs_in_a_pipeline(detector: Model, tmp_path: Path) -> None:
    frames = [painted()] * 5
    (tmp_path / "in").mkdir()
    import cv2

    for index, image in enumerate(frames):
        assert cv2.imwrite(str(tmp_path / f"in/{index}.png"), image)
    with load_classifier(tmp_path) as classifier, edgevision.open_source(tmp_path / "in") as source:
        cascade = Cascade(detector, classifier)
        seen: list[int] = []
        stages: set[str] = set()

        def note(frame: Frame, result: object, timing_ms: object) -> None:
            assert isinstance(result, edgevision.Detections)
            assert isinstance(timing_ms, dict)
            seen.append(len(result))
            stages.update(timing_ms)

        edgevision.run_pipeline(cascade, [source], on_result=note)
        cascade.close()
    assert seen == [2] * 5
    assert {"inference", "classify"} <= stages


def test_other_models_and_settings_are_refused(detector: Model, tmp_path: Path) -> None:
    with load_classifier(tmp_path) as classifier:
        with pytest.raises(UsageError, match="a cascade takes a detector and a classifier"):
            Cascade(classifier, detector)
        with pytest.raises(UsageError, match="a cascade takes a detector and a classifier"):
            Cascade(detector, detector)
        with pytest.raises(UsageError, match=r"padding is in 0..10"):
            Cascade(detector, classifier, padding=-1)


def test_the_command_line_classifies_what_is_in_the_boxes(tmp_path: Path) -> None:
    import json

    import cv2

    from edgevision.cli import main

    assert cv2.imwrite(str(tmp_path / "a.png"), painted())
    bundle = str(detector_bundle(tmp_path / "detector.edge"))
    second = str(classifier_bundle(tmp_path / "c.edge", labels=("cherry", "leaf", "sky")))
    sink = tmp_path / "out.jsonl"
    arguments = ["run", bundle, str(tmp_path / "a.png"), "--classify", second, "--sink", str(sink)]
    assert main([*arguments, "--backend", "cpu", "--quiet"]) == 0
    assert {entry["class"] for entry in json.loads(sink.read_text())["detections"]} == {"cherry", "sky"}
    assert main(["run", bundle, str(tmp_path / "a.png"), "--classify", bundle, "--backend", "cpu", "--quiet"]) == 2

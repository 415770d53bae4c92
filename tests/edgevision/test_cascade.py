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


def crowd() -> NDArray[np.uint8]:
    """A coloured cell at every second place: twelve boxes, four of each colour."""
    image = np.zeros((48, 64, 3), np.uint8)
    for number in range(12):
        y, x = 8 + 16 * (number // 4), 16 * (number % 4)
        image[y : y + 8, x : x + 8, number % 3] = 255
    return image


def clip(path: Path, frames: list[NDArray[np.uint8]]) -> Path:
    """An H.264 clip."""
    import av

    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        stream.options = {"crf": "4", "tune": "zerolatency"}
        for image in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        output.mux(stream.encode(None))
    return path


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


def test_crops_are_inferred_several_at_once_where_the_graph_takes_them(
    detector: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgevision.backends.onnxruntime import OpenBatchSession

    counts: list[int] = []
    run = OpenBatchSession.run

    def counted(self: OpenBatchSession, pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        counts.append(len(pictures))
        return run(self, pictures)

    monkeypatch.setattr(OpenBatchSession, "run", counted)
    found = []
    for batch in (1, "batch"):
        with edgevision.load(
            classifier_bundle(tmp_path / f"{batch}.edge", batch=batch), backend="cpu", threads=1
        ) as classifier:
            cascade = Cascade(detector, classifier, padding=0.0)
            found.append(cascade(crowd()))
            cascade.close()
    assert counts == [8, 4]
    assert len(found[0]) == 12
    for name in ("xyxy", "confidence", "class_id"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))


def test_no_more_proposals_than_the_limit_are_looked_at(detector: Model, tmp_path: Path) -> None:
    with load_classifier(tmp_path) as classifier:
        cascade = Cascade(detector, classifier, padding=0.0, limit=5)
        assert len(cascade(crowd())) == 5
        cascade.close()


def test_any_function_may_propose_boxes(tmp_path: Path) -> None:
    """Boxes are clipped to the picture, empty ones are dropped, and overlapping ones of one class suppressed."""
    asked: list[tuple[int, ...]] = []

    def propose(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        asked.append(image.shape)
        return np.float32([[16, 8, 24, 16], [15, 8, 24, 16], [40, 32, 48, 40], [-9, -9, 0, 0], [50, 9, 49, 12]])

    with load_classifier(tmp_path) as classifier:
        cascade = Cascade(propose, classifier, padding=0.0, confidence=0.5)
        found = cascade(Frame(painted()))
        cascade.close()
        assert cascade.lanes() == classifier.lanes()
    assert asked == [(48, 64, 3)]
    np.testing.assert_allclose(found.xyxy[np.argsort(found.xyxy[:, 0])], [[16, 8, 24, 16], [40, 32, 48, 40]])
    assert found.data == {}


@pytest.mark.parametrize("boxes", [np.zeros((3, 5)), np.zeros(4), np.full((1, 4), np.nan), np.array([["a"] * 4])])
def test_what_is_no_list_of_boxes_is_refused(tmp_path: Path, boxes: NDArray[np.float32]) -> None:
    with load_classifier(tmp_path) as classifier:
        cascade = Cascade(lambda image: boxes, classifier)
        with pytest.raises(UsageError, match=r"finite corners \(n, 4\)"):
            cascade(painted())
        cascade.close()


def test_selective_search_names_the_package_that_it_needs() -> None:
    import cv2

    assert not hasattr(cv2, "ximgproc"), "these tests run with OpenCV as it is usually installed"
    with pytest.raises(edgevision.DependencyError, match="pip install opencv-contrib-python-headless"):
        edgevision.SelectiveSearch()
    with pytest.raises(UsageError, match="takes a mode of single, fast, quality"):
        edgevision.SelectiveSearch("best")


class Search:
    """OpenCV's selective search, as its documentation has it: a region is x, y, width, height."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def setBaseImage(self, image: NDArray[np.uint8]) -> None:  # noqa: N802
        self.size_wh = image.shape[1::-1]

    def switchToSelectiveSearchFast(self) -> None:  # noqa: N802
        self.calls.append("fast")

    switchToSelectiveSearchQuality = switchToSingleStrategy = switchToSelectiveSearchFast  # noqa: N815

    def process(self) -> NDArray[np.int32]:
        wide, high = self.size_wh
        return np.array([[0, 0, wide, high], [wide // 4, high // 4, wide // 2, high // 2], [3, 3, 1, 1]], np.int32)


def test_selective_search_gives_boxes_in_pixels_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgevision import proposals

    monkeypatch.setattr(proposals, "_selective_search", lambda: Search)
    search = edgevision.SelectiveSearch(longest_side=100)
    np.testing.assert_allclose(search(np.zeros((200, 400, 3), np.uint8)), [[0, 0, 400, 200], [100, 48, 300, 148]])
    assert len(edgevision.SelectiveSearch(limit=1)(np.zeros((20, 40, 3), np.uint8))) == 1


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


@pytest.mark.parametrize("classifies_batches", [False, True])
def test_a_video_is_run_in_order(tmp_path: Path, classifies_batches: bool) -> None:
    """A blue cell among red ones walks from frame to frame."""
    import json

    from edgevision.cli import main

    frames = []
    for number in range(24):
        image = np.zeros((96, 128, 3), np.uint8)
        for place in range(4):
            colour = (255, 0, 0) if place == number % 4 else (0, 0, 255)
            image[32:48, 32 * place : 32 * place + 16] = colour
        frames.append(image)
    video = clip(tmp_path / "clip.mp4", frames)
    bundle = detector_bundle(tmp_path / "detector.edge")
    second = classifier_bundle(
        tmp_path / "c.edge", labels=("cherry", "leaf", "sky"), batch="batch" if classifies_batches else 1
    )
    sink, report = tmp_path / "out.jsonl", tmp_path / "report.json"
    arguments = ["run", str(bundle), str(video), "--classify", str(second), "--sink", str(sink), "--json", str(report)]
    assert main([*arguments, "--backend", "cpu", "--quiet"]) == 0
    lines = [json.loads(line) for line in sink.read_text().splitlines()]
    assert [line["frame_id"] for line in lines] == list(range(24))
    for line in lines:
        found = sorted((entry["xyxy"][0], entry["class"]) for entry in line["detections"])
        assert [name for _, name in found] == ["sky" if i == line["frame_id"] % 4 else "cherry" for i in range(4)]
        np.testing.assert_allclose([x for x, _ in found], [0, 32, 64, 96], atol=2)
    told = json.loads(report.read_text())
    assert told["frames"] == {"captured": 24, "processed": 24, "dropped": {}}
    assert {"inference", "classify"} <= set(told["latency_ms"])


def test_the_command_line_takes_selective_search_for_a_detector(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import cv2

    from edgevision import proposals
    from edgevision.cli import main

    assert cv2.imwrite(str(tmp_path / "a.png"), painted())
    second = str(classifier_bundle(tmp_path / "c.edge"))
    start = ["run", "selective-search", str(tmp_path / "a.png"), "--backend", "cpu", "--quiet"]
    for arguments, words in (
        ([], "give --classify BUNDLE"),
        (["--classify", second, "--confidence", "0.5"], "--confidence is for a detector"),
        (["--classify", second], "opencv-contrib-python-headless"),
    ):
        assert main([*start, *arguments]) == 2
        assert words in capsys.readouterr().err
    monkeypatch.setattr(proposals, "_selective_search", lambda: Search)
    assert main([*start, "--classify", second, "--json", str(tmp_path / "r.json")]) == 0

"""Detection metrics against published values and against small references written from the definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevision.errors import DatasetError
from edgevision.evaluation.boxes import Found, coco_metrics, run_cocoeval, voc_average_precision
from edgevision.evaluation.datasets import BoxTruth, boxes

Box = tuple[float, float, float, float]


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height)


def curve(
    truth: list[list[Box]], found: list[list[tuple[float, Box]]], threshold: float, *, next_best: bool
) -> tuple[list[float], list[float]]:
    """(recall, precision) after each detection. `next_best`: a box may fall to the best object still free (COCO);
    otherwise only its best object counts (VOC)."""
    free = [[True] * len(t) for t in truth]
    total = sum(map(len, truth))
    hits, recall, precision = 0, [], []
    ranked = sorted(((score, p, box) for p, f in enumerate(found) for score, box in f), key=lambda d: -d[0])
    for n, (_, picture, box) in enumerate(ranked, 1):
        overlaps = [(iou(box, t), i) for i, t in enumerate(truth[picture]) if free[picture][i] or not next_best]
        best, index = max(overlaps, default=(0.0, -1))
        if best >= threshold and free[picture][index]:
            free[picture][index] = False
            hits += 1
        recall.append(hits / total)
        precision.append(hits / n)
    return recall, precision


def area_under_envelope(recall: list[float], precision: list[float]) -> float:
    before = [0.0, *recall]
    return sum((r - before[i]) * max(precision[i:]) for i, r in enumerate(recall))


def mean_at_101_recalls(recall: list[float], precision: list[float]) -> float:
    points = np.linspace(0, 1, 101)
    return float(
        np.mean([max((p for r, p in zip(recall, precision, strict=True) if r >= x), default=0) for x in points])
    )


def as_truth(pictures: list[list[Box]]) -> list[BoxTruth]:
    return [boxes((b, 0, (b[2] - b[0]) * (b[3] - b[1]), False, False) for b in picture) for picture in pictures]


def as_found(pictures: list[list[tuple[float, Box]]]) -> list[Found]:
    return [
        Found(
            np.array([b for _, b in picture], float).reshape(-1, 4),
            np.array([s for s, _ in picture], float),
            np.zeros(len(picture), int),
        )
        for picture in pictures
    ]


def toy(folder: Path, last_pixel: int) -> tuple[list[list[Box]], list[list[tuple[float, Box]]]]:
    """The toy set; `last_pixel` 1 makes a box include its last pixel, 0 measures from edge to edge."""

    def read(path: Path) -> list[list[float]]:
        return [[float(v) for v in line.split()[1:]] for line in path.read_text().splitlines() if line.strip()]

    def corners(x: float, y: float, w: float, h: float) -> Box:
        return x, y, x + w + last_pixel, y + h + last_pixel

    names = sorted(path.name for path in (folder / "groundtruths").iterdir())
    truth = [[corners(*row) for row in read(folder / "groundtruths" / name)] for name in names]
    found = [[(row[0], corners(*row[1:])) for row in read(folder / "detections" / name)] for name in names]
    return truth, found


def test_toy_set_has_its_published_values(shared: Path) -> None:
    for last_pixel, published in ((1, 0.2457), (0, 0.2254)):
        truth, found = toy(shared / "data/metric_toy", last_pixel)
        assert sum(map(len, truth)) == 15
        assert sum(map(len, found)) == 24
        assert area_under_envelope(*curve(truth, found, 0.3, next_best=False)) == pytest.approx(published, abs=5e-5)
        assert voc_average_precision(as_truth(truth), as_found(found), 0, 0.3) == pytest.approx(published, abs=5e-5)


def test_toy_set_by_cocos_protocol(shared: Path) -> None:
    truth, found = toy(shared / "data/metric_toy", 0)
    precision = run_cocoeval(as_truth(truth), as_found(found), [0], [0.3]).eval["precision"][0, :, 0, 0, -1]
    assert precision.mean() == pytest.approx(mean_at_101_recalls(*curve(truth, found, 0.3, next_best=True)), abs=1e-9)


def box_strategy() -> st.SearchStrategy[Box]:
    side = st.integers(0, 20)
    return st.tuples(side, side, st.integers(1, 20), st.integers(1, 20)).map(
        lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
    )


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[list[Box]], list[list[tuple[float, Box]]]]:
    pictures = draw(st.integers(1, 3))
    truth = [draw(st.lists(box_strategy(), max_size=4, unique=True)) for _ in range(pictures)]
    truth[0] = truth[0] or [(0.0, 0.0, 10.0, 10.0)]
    scores = iter(draw(st.permutations(range(1, 16))))
    found = [
        [(next(scores) / 16, draw(st.sampled_from(t)) if t and draw(st.booleans()) else draw(box_strategy()))
         for _ in range(draw(st.integers(0, 5)))]
        for t in truth
    ]  # fmt: skip
    return truth, found


@settings(deadline=None, max_examples=60)
@given(scenes())
def test_average_precision_equals_its_definition(
    scene: tuple[list[list[Box]], list[list[tuple[float, Box]]]],
) -> None:
    truth, found = scene
    voc = area_under_envelope(*curve(truth, found, 0.5, next_best=False))
    assert voc_average_precision(as_truth(truth), as_found(found), 0) == pytest.approx(voc, abs=1e-9)
    got = coco_metrics(as_truth(truth), as_found(found), ["thing"], [0], threshold=0.5)
    ious = np.arange(50, 100, 5) / 100
    coco = [mean_at_101_recalls(*curve(truth, found, t, next_best=True)) for t in ious]
    assert got["map_50"] == pytest.approx(coco[0], abs=1e-9)
    assert got["map_50_95"] == pytest.approx(np.mean(coco), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(scenes(), st.integers(0, 16).map(lambda n: n / 16))
def test_recall_and_precision_are_those_of_the_boxes_above_the_threshold(
    scene: tuple[list[list[Box]], list[list[tuple[float, Box]]]], threshold: float
) -> None:
    truth, found = scene
    recall, precision = curve(truth, [[d for d in f if d[0] >= threshold] for f in found], 0.5, next_best=True)
    got = coco_metrics(as_truth(truth), as_found(found), ["thing"], [0], threshold)
    assert got["recall_at_threshold"] == pytest.approx(recall[-1] if recall else 0.0)
    assert got["precision_at_threshold"] == (pytest.approx(precision[-1]) if precision else None)


OBJECT = (0.0, 0.0, 10.0, 10.0)
OTHER = (50.0, 50.0, 60.0, 60.0)


def marked(crowd: bool, difficult: bool) -> list[BoxTruth]:
    return [boxes([(OBJECT, 0, 100.0, False, False), (OTHER, 0, 100.0, crowd, difficult)])]


@pytest.mark.parametrize(("crowd", "difficult"), [(True, False), (False, True)])
def test_crowds_and_difficult_objects_count_neither_way(crowd: bool, difficult: bool) -> None:
    both = as_found([[(0.9, OTHER), (0.8, OBJECT)]])
    for found in (both, as_found([[(0.8, OBJECT)]])):
        got = coco_metrics(marked(crowd, difficult), found, ["thing"], [0], threshold=0.5)
        assert got["map_50_95"] == pytest.approx(1)
        assert (got["recall_at_threshold"], got["precision_at_threshold"]) == (1.0, 1.0)
        assert got["per_class"]["thing"]["boxes"] == 1
        assert voc_average_precision(marked(crowd, difficult), found, 0) == 1.0
    ordinary = coco_metrics(marked(False, False), as_found([[(0.8, OBJECT)]]), ["thing"], [0], threshold=0.5)
    assert ordinary["recall_at_threshold"] == 0.5


def test_only_judged_classes_present_in_the_truth_enter_the_mean() -> None:
    truth = [boxes([(OBJECT, 1, 100.0, False, False), (OTHER, 2, 100.0, False, False)])]
    found = [Found(np.array([OBJECT, OTHER]), np.array([0.9, 0.8]), np.array([1, 0]))]
    got = coco_metrics(truth, found, ["absent", "found", "unknown to the model"], [0, 1], threshold=0.5)
    assert list(got["per_class"]) == ["found"]
    assert got["map_50"] == pytest.approx(1)
    # The box of the absent class is wrong all the same.
    assert got["precision_at_threshold"] == 0.5


def test_nothing_found_is_zero_and_nothing_to_find_is_refused() -> None:
    nothing = as_found([[]])
    got = coco_metrics(as_truth([[OBJECT]]), nothing, ["thing"], [0], threshold=0.5)
    assert (got["map_50_95"], got["recall_at_threshold"], got["precision_at_threshold"]) == (0.0, 0.0, None)
    with pytest.raises(DatasetError, match="no boxes"):
        coco_metrics(as_truth([[]]), nothing, ["thing"], [0], threshold=0.5)


def test_pycocotools_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    coco_metrics(as_truth([[OBJECT]]), as_found([[(0.9, OBJECT)]]), ["thing"], [0], threshold=0.5)
    assert capfd.readouterr() == ("", "")

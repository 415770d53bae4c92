"""NMS against a brute-force greedy twin that shares no code with it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.kernels import cpu_nms
from edgevision.kernels.cpu import suppress
from edgevision.manifest import Nms

f32 = np.float32
Kept = list[tuple[int, int]]


def overlap(a: NDArray[np.float32], b: NDArray[np.float32], threshold: float) -> bool:
    """IoU(a, b) > threshold, in float32 steps."""
    width = max(f32(0), min(a[2], b[2]) - max(a[0], b[0]))
    height = max(f32(0), min(a[3], b[3]) - max(a[1], b[1]))
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    intersection = width * height
    return bool(intersection > f32(threshold) * (area_a + area_b - intersection))


def twin(boxes: NDArray[np.float32], scores: NDArray[np.float32], nms: Nms, thresholds: Any = None) -> Kept:
    """(box, class) of what stays, best first: every rule one plain loop."""
    classes = scores.shape[1]
    least = [f32(nms.confidence)] * classes if thresholds is None else list(thresholds)
    candidates: list[tuple[float, int, int]] = []
    for i, row in enumerate(scores):
        valid = [(-float(score), i, c) for c, score in enumerate(row) if np.isfinite(score)]
        if not nms.multi_label:
            valid = sorted(valid)[:1]
        x1, y1, x2, y2 = boxes[i]
        with np.errstate(all="ignore"):
            area = (x2 - x1) * (y2 - y1)
            solid = x2 - x1 > 0 and y2 - y1 > 0 and np.isfinite(area)
        candidates += [entry for entry in valid if solid and -entry[0] > least[entry[2]]]
    kept: Kept = []
    for _, i, c in sorted(candidates):
        rivals = [j for j, other in kept if nms.class_agnostic or other == c]
        if len(kept) < nms.max_detections and not any(overlap(boxes[j], boxes[i], nms.iou_threshold) for j in rivals):
            kept.append((i, c))
    return kept


def check(boxes: NDArray[np.float32], scores: NDArray[np.float32], nms: Nms, thresholds: Any = None) -> Kept:
    expected = twin(boxes, scores, nms, thresholds)
    xyxy, confidence, class_id = suppress(boxes, scores, nms, thresholds)
    assert (xyxy.dtype, confidence.dtype, class_id.dtype) == (np.float32, np.float32, np.int64)
    index = np.array([i for i, _ in expected], np.intp)
    classes = np.array([c for _, c in expected], np.intp)
    np.testing.assert_array_equal(xyxy, boxes[index].reshape(-1, 4))
    np.testing.assert_array_equal(confidence, scores[index, classes])
    np.testing.assert_array_equal(class_id, classes)
    return expected


def crowd(n: int, classes: int, seed: int, objects: int | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
    """`n` boxes jittered around objects, each confident about one class."""
    random = np.random.default_rng(seed)
    objects = objects or max(1, n // 6)
    which = random.integers(0, objects, n)
    centre = random.uniform(40, 600, (objects, 2))[which] + random.normal(0, 5, (n, 2))
    size = random.uniform(20, 120, (objects, 2))[which] * random.uniform(0.8, 1.25, (n, 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1).astype(np.float32)
    scores = random.uniform(0, 0.2, (n, classes)).astype(np.float32)
    scores[np.arange(n), random.integers(0, classes, objects)[which]] = random.uniform(0.2, 1, n)
    return boxes, scores


coordinates = st.integers(0, 12).map(float)
wild = st.one_of(coordinates, st.floats(width=32, allow_nan=True, allow_infinity=True))
levels = st.one_of(
    st.sampled_from([0.0, 0.25, 0.5, 0.5, 0.75, 1.0]),
    st.floats(0, 1, width=32),
    st.sampled_from([np.nan, np.inf, -np.inf, -1.0]),
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float32], Nms, Any]:
    n, c = draw(st.integers(0, 12)), draw(st.integers(1, 4))
    coordinate = draw(st.sampled_from([coordinates, wild]))
    boxes = np.array(draw(st.lists(st.tuples(*[coordinate] * 4), min_size=n, max_size=n)), np.float32).reshape(n, 4)
    if draw(st.booleans()):
        with np.errstate(invalid="ignore"):
            boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)
    scores = np.array(draw(st.lists(st.tuples(*[levels] * c), min_size=n, max_size=n)), np.float32).reshape(n, c)
    nms = Nms(
        iou_threshold=draw(st.sampled_from([0.0, 0.25, 0.45, 0.5, 0.7, 1.0])),
        confidence=draw(st.sampled_from([0.0, 0.25, 0.3, 1.0])),
        class_agnostic=draw(st.booleans()),
        multi_label=draw(st.booleans()),
        max_detections=draw(st.integers(1, 6)),
    )
    levels_ = st.sampled_from([0.0, 0.3, 0.5, np.inf])
    thresholds = draw(st.none() | st.lists(levels_, min_size=c, max_size=c).map(lambda v: np.array(v, np.float32)))
    return boxes, scores, nms, thresholds


@given(problems())
@settings(max_examples=400, deadline=None)
def test_any_small_problem_has_the_twins_answer(problem: Any) -> None:
    with np.errstate(all="ignore"):
        check(*problem)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("n", "classes"), [(127, 3), (128, 1), (129, 3), (700, 5)])
def test_crowds_larger_than_a_block_have_the_twins_answer(
    n: int, classes: int, multi_label: bool, agnostic: bool
) -> None:
    boxes, scores = crowd(n, classes, seed=n)
    nms = Nms(0.5, 0.1, class_agnostic=agnostic, multi_label=multi_label, max_detections=150)
    assert len(check(boxes, scores, nms)) > 10


def test_the_result_stops_at_max_detections_with_the_best() -> None:
    boxes, scores = crowd(600, 2, seed=1, objects=600)
    every = suppress(boxes, scores, Nms(0.5, 0.1, max_detections=1000))
    few = suppress(boxes, scores, Nms(0.5, 0.1, max_detections=137))
    assert len(every[0]) > 137
    for all_of_them, best in zip(every, few, strict=True):
        np.testing.assert_array_equal(all_of_them[:137], best)
    assert (np.diff(every[1]) <= 0).all()


@given(st.integers(0, 10_000), st.sampled_from([Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)]))
@settings(max_examples=60, deadline=None)
def test_on_whole_pixels_the_comparison_is_that_of_exact_fractions(seed: int, threshold: Fraction) -> None:
    random = np.random.default_rng(seed)
    corner, size = random.integers(0, 6, (30, 2)), random.integers(1, 7, (30, 2))
    boxes = np.concatenate([corner, corner + size], axis=1)
    scores = random.permutation(30).astype(np.float32)[:, None] / 32 + f32(0.01)

    def iou(a: Any, b: Any) -> Fraction:
        sides = [max(0, min(int(a[k + 2]), int(b[k + 2])) - max(int(a[k]), int(b[k]))) for k in (0, 1)]
        both = sides[0] * sides[1]
        area = [int(box[2] - box[0]) * int(box[3] - box[1]) for box in (a, b)]
        return Fraction(both, sum(area) - both)

    kept: list[int] = []
    for i in np.argsort(-scores[:, 0]):
        if all(iou(boxes[j], boxes[i]) <= threshold for j in kept):
            kept.append(int(i))
    xyxy, _, _ = suppress(boxes.astype(np.float32), scores, Nms(float(threshold), 0.0))
    np.testing.assert_array_equal(xyxy, boxes[kept])


def test_an_overlap_of_exactly_the_threshold_stays() -> None:
    boxes = np.array([[0, 0, 2, 1], [0, 0, 1, 1]], np.float32)  # IoU 1/2
    scores = np.array([[0.9], [0.8]], np.float32)
    assert len(suppress(boxes, scores, Nms(0.5, 0.1))[0]) == 2
    assert len(suppress(boxes, scores, Nms(0.49, 0.1))[0]) == 1


def test_a_score_of_exactly_the_threshold_is_no_detection() -> None:
    boxes = np.array([[0, 0, 2, 2], [5, 5, 9, 9]], np.float32)
    scores = np.array([[0.5], [np.nextafter(f32(0.5), f32(1))]], np.float32)
    np.testing.assert_array_equal(suppress(boxes, scores, Nms(0.5, 0.5))[0], boxes[1:])
    thresholds = np.array([0.5, 0.1], np.float32)  # the same where another class has a lower one
    kept = suppress(boxes, np.pad(scores, ((0, 0), (0, 1))), Nms(0.5, 0.5), thresholds)
    np.testing.assert_array_equal(kept[0], boxes[1:])


def test_equal_scores_are_ordered_by_box_then_class() -> None:
    boxes = np.array([[0, 0, 2, 2], [10, 0, 12, 2], [20, 0, 22, 2]], np.float32)
    scores = np.full((3, 2), 0.5, np.float32)
    xyxy, _, class_id = suppress(boxes, scores, Nms(0.5, 0.1, multi_label=True))
    assert class_id.tolist() == [0, 1] * 3
    np.testing.assert_array_equal(xyxy, np.repeat(boxes, 2, axis=0))
    assert suppress(boxes, scores, Nms(0.5, 0.1))[2].tolist() == [0, 0, 0]


def test_a_nan_neither_is_a_detection_nor_hides_one() -> None:
    boxes = np.array([[0, 0, 2, 2], [5, 5, 9, 9], [20, 20, 30, 30], [40, 40, np.nan, 50]], np.float32)
    scores = np.array([[np.nan, 0.9], [np.nan, np.nan], [np.inf, 0.6], [0.99, 0.1]], np.float32)
    xyxy, confidence, class_id = suppress(boxes, scores, Nms(0.5, 0.3))
    np.testing.assert_array_equal(xyxy, boxes[[0, 2]])
    np.testing.assert_array_equal(confidence, np.array([0.9, 0.6], np.float32))
    assert class_id.tolist() == [1, 1]


def test_a_class_left_out_neither_appears_nor_suppresses_nor_is_relabelled() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60]], np.float32)
    scores = np.array([[0.9, 0.6], [0.2, 0.7], [0.8, 0.1]], np.float32)
    thresholds = np.array([np.inf, 0.3], np.float32)
    for agnostic in (False, True):
        xyxy, _, class_id = suppress(boxes, scores, Nms(0.5, 0.3, class_agnostic=agnostic), thresholds)
        # Box 0 is best as class 0: it is not reported as a weak class 1 instead, and does not suppress box 1.
        np.testing.assert_array_equal(xyxy, boxes[1:2])
        assert class_id.tolist() == [1]
    assert len(suppress(boxes, scores, Nms(0.5, 0.3), np.full(2, np.inf, np.float32))[0]) == 0


def test_no_boxes_give_empty_results() -> None:
    for n in (0, 5):
        results = suppress(np.zeros((n, 4), np.float32), np.zeros((n, 3), np.float32), Nms())
        assert [r.shape for r in results] == [(0, 4), (0,), (0,)]


def test_beyond_the_candidate_limit_the_best_are_considered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_nms, "MAX_CANDIDATES", 50)
    boxes, scores = crowd(400, 3, seed=5)
    best = np.argsort(-scores.max(axis=1), kind="stable")[:50]
    expected = suppress(boxes[best], scores[best], Nms(0.5, 0.1))
    for got, wanted in zip(suppress(boxes, scores, Nms(0.5, 0.1)), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_inputs_are_not_changed() -> None:
    boxes, scores = crowd(200, 3, seed=2)
    before = boxes.copy(), scores.copy()
    suppress(boxes, scores, Nms(0.5, 0.1))
    np.testing.assert_array_equal(boxes, before[0])
    np.testing.assert_array_equal(scores, before[1])

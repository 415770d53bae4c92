"""Agreement of two results, on answers worked out by hand and against plain loops over what was drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevision.evaluation.agreement import BINS, Agreement, compare_results, match_boxes, summarise
from edgevision.results import Classification, Detections, SegmentationMap

NAMES = ("cat", "dog")


def boxes(*rows: tuple[float, float, float, float, float, int], **further: object) -> Detections:
    """Rows of left, top, right, bottom, confidence, class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), NAMES, **further)  # type: ignore[arg-type]


def figures(reference: object, other: object, threshold: float | None = 0.5) -> dict[str, object]:
    return summarise([compare_results(reference, other, threshold)], NAMES)  # type: ignore[arg-type]


def test_equal_results_agree_in_full() -> None:
    found = boxes((0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.6, 1))
    got = figures(found, found)
    assert (got["matched_50"], got["matched_70"], got["missing"], got["extra"]) == (1.0, 1.0, 0, 0)
    assert got["score_shift"] == 0
    assert compare_results(found, found, 0.5).difference == 0


def test_a_box_counts_where_class_and_place_are_the_same() -> None:
    reference = boxes((0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.8, 0), (40, 0, 50, 10, 0.7, 1), (60, 0, 70, 10, 0.6, 1))
    other = boxes(
        (0, 0, 10, 10, 0.8, 0),  # the same
        (20, 0, 30, 16, 0.8, 0),  # IoU 0.625
        (40, 0, 50, 10, 0.9, 0),  # of another class
        (60, 0, 70, 10, 0.4, 1),  # too weak to be reported, but there
        (80, 0, 90, 10, 0.9, 1),  # of nothing
    )
    got = figures(reference, other)
    assert (got["float_boxes"], got["boxes"]) == (4, 4)
    assert (got["matched_50"], got["matched_70"]) == (2 * 2 / 8, 2 * 1 / 8)
    assert (got["missing"], got["extra"]) == (2, 2)
    assert got["score_shift"] == pytest.approx(np.mean([-0.1, 0.0, -0.2]))


def test_one_box_at_the_threshold_weighs_less_around_it() -> None:
    """Its scores are 0.02 apart: of 21 thresholds 0.01 apart, two lie between them."""
    sure = [(20.0 * i, 0, 20.0 * i + 10, 10, 0.9, 0) for i in range(4)]
    got = figures(boxes(*sure, (0, 50, 9, 59, 0.505, 0)), boxes(*sure, (0, 50, 9, 59, 0.485, 0)))
    assert got["matched_50"] == 8 / 9
    assert got["matched_around"] == pytest.approx((19 + 2 * 8 / 9) / 21)


def test_boxes_elsewhere_count_at_every_threshold() -> None:
    got = figures(boxes((0, 0, 10, 10, 0.9, 0), (40, 0, 50, 10, 0.55, 0)), boxes((0, 0, 10, 10, 0.9, 1)))
    assert got["matched_around"] == 0
    assert figures(boxes(), boxes())["matched_around"] is None


def test_nothing_found_by_both_is_no_figure() -> None:
    got = figures(boxes(), boxes((0, 0, 1, 1, 0.1, 0)))
    assert (got["matched_50"], got["score_shift"], got["missing"], got["extra"]) == (None, None, 0, 0)
    assert figures(boxes(), boxes((0, 0, 1, 1, 0.9, 0)))["matched_50"] == 0


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.5, 0.7]))
def test_matching_is_one_to_one_and_by_confidence(seed: int, least: float) -> None:
    random = np.random.default_rng(seed)

    def some(count: int) -> Detections:
        corner, size = random.uniform(0, 20, (count, 2)), random.uniform(4, 12, (count, 2))
        rows = np.hstack([corner, corner + size, random.random((count, 1)), random.integers(0, 2, (count, 1))])
        return boxes(*map(tuple, rows))

    a, b = some(int(random.integers(0, 9))), some(int(random.integers(0, 9)))
    taken: set[int] = set()
    expected = []
    for i in sorted(range(len(a)), key=lambda i: -a.confidence[i]):
        best, where = 0.0, -1
        for j in range(len(b)):
            low, high = np.maximum(a.xyxy[i, :2], b.xyxy[j, :2]), np.minimum(a.xyxy[i, 2:], b.xyxy[j, 2:])
            inner = float(np.prod(np.maximum(high - low, 0)))
            union = float(np.prod(a.xyxy[i, 2:] - a.xyxy[i, :2]) + np.prod(b.xyxy[j, 2:] - b.xyxy[j, :2])) - inner
            if j not in taken and a.class_id[i] == b.class_id[j] and inner / union > best:
                best, where = inner / union, j
        if best >= least:
            taken.add(where)
            expected.append((i, where))
    assert match_boxes(a, b, least) == expected


def test_masks_and_keypoints_of_matched_boxes() -> None:
    mask = np.zeros((2, 8, 8), bool)
    mask[0, :4, :4], mask[1, :4, :8] = True, True
    points = np.array([[[1, 1, 0.9], [5, 5, 0.2]], [[4, 5, 0.9], [50, 50, 0.9]]], np.float32)
    box = (0, 0, 6, 8, 0.9, 0)
    one = [boxes(box, mask=mask[i : i + 1], keypoints=points[i : i + 1]) for i in range(2)]
    got = figures(*one)
    assert got["mask_iou"] == 0.5
    assert got["keypoint_px"] == pytest.approx(5), "points that float is not sure of are left out"
    assert got["keypoint_share"] == pytest.approx(5 / 10)


def test_class_maps() -> None:
    reference, other = np.zeros((2, 10, 10), np.uint8)
    reference[:, 5:], other[:, 6:] = 1, 1
    other[0, 0] = 7  # a class that float does not have
    got = figures(SegmentationMap(reference, NAMES), SegmentationMap(other, NAMES), None)
    assert got["pixels_same"] == pytest.approx(0.89)
    assert got["per_class"] == {"cat": pytest.approx(49 / 60), "dog": pytest.approx(40 / 50)}
    assert got["mask_iou"] == pytest.approx((49 / 60 + 0.8) / 2)
    assert got["mask_iou_by_area"] == pytest.approx((50 * 49 / 60 + 50 * 0.8) / 100)


def test_a_rare_class_decides_the_mean_over_classes_but_not_the_one_by_area() -> None:
    reference, other = np.zeros((2, 100, 100), np.uint8)
    reference[0, 0] = 1
    got = figures(SegmentationMap(reference, NAMES), SegmentationMap(other, NAMES), None)
    assert got["mask_iou"] == pytest.approx(0.5, abs=1e-3)
    assert got["mask_iou_by_area"] == pytest.approx((9999 * 0.9999 + 1 * 0) / 10000)


def test_maps_are_summed_over_pictures_of_any_size() -> None:
    pairs = [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)),
        (np.ones((2, 2), np.uint8), np.zeros((2, 2), np.uint8)),
    ]
    likeness = [compare_results(SegmentationMap(a), SegmentationMap(b), None) for a, b in pairs]
    assert summarise(likeness, ())["per_class"] == {"0": pytest.approx(16 / 20), "1": 0.0}


def test_classifications() -> None:
    def scores(*values: float, box: tuple[float, ...] | None = None) -> Classification:
        return Classification(np.array(values, np.float32), NAMES, None if box is None else np.array(box, np.float32))

    same = compare_results(scores(0.8, 0.2, box=(0, 0, 4, 4)), scores(0.6, 0.4, box=(0, 0, 4, 2)), None)
    turned = compare_results(scores(0.6, 0.4), scores(0.4, 0.6), None)
    got = summarise([same, turned], NAMES)
    assert got == {"top1_same": 0.5, "score_shift": pytest.approx(-0.2), "box_iou": 0.5}
    assert turned.difference > same.difference


def test_scores_are_counted_for_both_and_the_worst_pictures_named() -> None:
    agreement = Agreement(0.5, [{}])
    for index, weaker in enumerate((0.0, 0.3, 0.1)):
        agreement.add(index, boxes((0, 0, 9, 9, 0.92, 0)), boxes((0, 0, 9, 9, 0.92 - weaker, 0)))
    histogram = agreement.score_histogram()
    assert histogram is not None
    assert histogram["float"][int(0.92 * BINS)] == 3
    assert [sum(counts) for counts in histogram.values()] == [3, 3]
    assert histogram["graph"][int(0.62 * BINS)] == 1
    assert agreement.most_different(5) == [1, 2]
    assert agreement.most_different(1) == [1]

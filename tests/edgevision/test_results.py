"""Results: shapes are checked, indexing filters everything alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgevision.results import Detections, SegmentationMap


def three(**changes: Any) -> Detections:
    fields: dict[str, Any] = {
        "xyxy": np.arange(12, dtype=np.float32).reshape(3, 4),
        "confidence": np.array([0.9, 0.8, 0.7], np.float32),
        "class_id": np.array([1, 0, 5]),
        "names": ("cat", "dog"),
        "mask": np.zeros((3, 6, 8), bool),
        "tracker_id": np.array([7, 8, 9]),
        "data": {"speed": np.array([1.0, 2.0, 3.0])},
        "keypoints": np.arange(45, dtype=np.float32).reshape(3, 5, 3),
    }
    return Detections(**{**fields, **changes})


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        (slice(1, None), [1, 2]),
        (np.array([True, False, True]), [0, 2]),
        ([2, 0], [2, 0]),
        (np.array([], int), []),
        (1, [1]),
        (-1, [2]),
        (np.int64(2), [2]),
    ],
)
def test_indexing_selects_in_every_array(index: Any, chosen: list[int]) -> None:
    whole = three()
    part = whole[index]
    assert isinstance(part, Detections)
    assert len(part) == len(chosen)
    for field in ("xyxy", "confidence", "class_id", "mask", "tracker_id", "keypoints"):
        np.testing.assert_array_equal(getattr(part, field), getattr(whole, field)[chosen])
    np.testing.assert_array_equal(part.data["speed"], whole.data["speed"][chosen])
    assert part.names == whole.names


def test_filtering_by_a_condition_reads_as_it_says() -> None:
    found = three()
    assert found[found.confidence > 0.75].class_id.tolist() == [1, 0]


def test_without_masks_and_tracks_there_are_none_after_indexing() -> None:
    part = three(mask=None, tracker_id=None, data={})[:2]
    assert (part.mask, part.tracker_id, part.data) == (None, None, {})


def test_iteration_gives_single_detections() -> None:
    assert [len(one) for one in three()] == [1, 1, 1]
    assert [one.name(0) for one in three()] == ["dog", "cat", "5"]


def test_empty() -> None:
    empty = Detections.empty(("cat",))
    assert len(empty) == 0
    assert list(empty) == []
    assert empty.xyxy.shape == (0, 4)
    assert len(empty[empty.confidence > 0.5]) == 0


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("xyxy", np.zeros((3, 5)), r"xyxy has shape \(3, 5\), expected \(3, 4\)"),
        ("xyxy", np.zeros(4), "xyxy has shape"),
        ("confidence", np.zeros(2), r"confidence has shape \(2,\), expected \(3,\)"),
        ("confidence", np.zeros((3, 1)), "confidence has shape"),
        ("class_id", np.zeros(4, int), "class_id has shape"),
        ("mask", np.zeros((2, 6, 8), bool), r"mask has shape \(2, 6, 8\), expected \(3, n, n\)"),
        ("mask", np.zeros((3, 8), bool), "mask has shape"),
        ("tracker_id", np.zeros(1, int), "tracker_id has shape"),
        ("data", {"speed": np.zeros(2)}, r"data\['speed'\] has length 2, expected 3"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(field: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        three(**{field: value})


def test_comparing_results_is_by_identity() -> None:
    one = three()
    assert one == one
    assert one != three()


def test_a_segmentation_map_gives_masks_and_shares() -> None:
    class_map = np.array([[0, 0, 0, 0], [2, 2, 2, 7]], np.uint8)
    segmented = SegmentationMap(class_map, ("road", "car", "tree"))
    assert segmented.mask(2).tolist() == [[False] * 4, [True, True, True, False]]
    assert segmented.fractions() == {"road": 0.5, "tree": 0.375, "7": 0.125}
    assert list(segmented.fractions()) == ["road", "tree", "7"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_shares_of_a_large_map_add_up(dtype: Any) -> None:
    class_map = np.random.default_rng(0).integers(0, 21, (90, 160)).astype(dtype)
    shares = SegmentationMap(class_map).fractions()
    assert sum(shares.values()) == pytest.approx(1)
    for name, share in shares.items():
        assert share == (class_map == int(name)).mean()


def test_a_map_has_two_dimensions() -> None:
    with pytest.raises(ValueError, match=r"class_map has shape \(1, 2, 3\), expected \(n, n\)"):
        SegmentationMap(np.zeros((1, 2, 3), np.uint8))

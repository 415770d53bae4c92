"""Pictures of single objects, and the part of a picture that matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision import UsageError, crop, smart_crop
from edgevision.results import Classification, Detections, SegmentationMap

IMAGE: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)


def boxes(*xyxy: list[float], confidence: list[float] | None = None, **more: Any) -> Detections:
    sure = np.array(confidence or [0.9] * len(xyxy), np.float32)
    return Detections(np.array(xyxy, np.float32).reshape(-1, 4), sure, np.zeros(len(xyxy), np.int64), **more)


def test_every_box_becomes_a_picture_of_its_own() -> None:
    first, second = crop(IMAGE, boxes([10, 20, 30, 50], [0, 0, 100, 60]))
    np.testing.assert_array_equal(first, IMAGE[20:50, 10:30])
    np.testing.assert_array_equal(second, IMAGE)
    first[:] = 0
    assert IMAGE[20:50, 10:30].any(), "copies: the picture itself is left alone"
    assert crop(IMAGE, boxes()) == []


def test_parts_of_pixels_belong_to_the_object() -> None:
    np.testing.assert_array_equal(crop(IMAGE, boxes([10.2, 20.7, 12.1, 22.0]))[0], IMAGE[20:22, 10:13])


def test_padding_and_shape_stay_inside_the_picture() -> None:
    np.testing.assert_array_equal(crop(IMAGE, boxes([40, 20, 60, 40]), padding=0.5)[0], IMAGE[10:50, 30:70])
    np.testing.assert_array_equal(crop(IMAGE, boxes([40, 20, 60, 30]), aspect=1.0)[0], IMAGE[15:35, 40:60])
    corner = crop(IMAGE, boxes([90, 50, 100, 60]), aspect=2.0)[0]
    np.testing.assert_array_equal(corner, IMAGE[50:60, 80:100])


def test_what_does_not_belong_to_the_object_can_be_cut_out() -> None:
    mask = np.zeros((1, 60, 100), bool)
    mask[0, 20:30, 10:15] = True
    picture = crop(IMAGE, boxes([10, 20, 20, 30], mask=mask), cut_out=114)[0]
    np.testing.assert_array_equal(picture[:, :5], IMAGE[20:30, 10:15])
    assert (picture[:, 5:] == 114).all()


def test_a_segmentation_gives_its_classes_and_a_classification_its_box() -> None:
    class_map = np.zeros((60, 100), np.uint8)
    class_map[5:15, 20:40] = 2
    class_map[[50, 55], [70, 80]] = 1
    car, tree = crop(IMAGE, SegmentationMap(class_map, ("background", "car", "tree")))
    np.testing.assert_array_equal(car, IMAGE[50:56, 70:81])
    np.testing.assert_array_equal(tree, IMAGE[5:15, 20:40])
    scores = np.array([0.1, 0.9], np.float32)
    located = Classification(scores, ("a", "b"), np.array([1, 2, 31, 42], np.float32))
    np.testing.assert_array_equal(crop(IMAGE, located)[0], IMAGE[2:42, 1:31])
    np.testing.assert_array_equal(crop(IMAGE, Classification(scores))[0], IMAGE)


@given(
    box=st.tuples(st.floats(-5, 99), st.floats(-5, 59), st.floats(0, 120), st.floats(0, 80)),
    padding=st.floats(0, 3),
    aspect=st.none() | st.floats(0.05, 20),
)
def test_every_crop_is_a_part_of_the_picture(box: tuple[float, ...], padding: float, aspect: float | None) -> None:
    x, y, w, h = box
    clipped = np.clip([x, y, x + w, y + h], 0, [100, 60, 100, 60])
    picture = crop(IMAGE, boxes(clipped.tolist()), padding=padding, aspect=aspect)[0]
    assert 1 <= picture.shape[0] <= 60
    assert 1 <= picture.shape[1] <= 100
    inside = np.argwhere((picture[0, 0] == IMAGE).all(axis=2))
    assert any(
        np.array_equal(IMAGE[r : r + picture.shape[0], c : c + picture.shape[1]], picture) for r, c in inside.tolist()
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [({"padding": -0.1}, "padding"), ({"aspect": 0}, "aspect"), ({"cut_out": 256}, "cut_out is a grey level")],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        crop(IMAGE, boxes([0, 0, 9, 9]), **options)


def test_a_result_of_another_picture_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the class map has the size \(10, 10\), the picture \(60, 100\)"):
        crop(IMAGE, SegmentationMap(np.zeros((10, 10), np.uint8)))
    with pytest.raises(UsageError, match="the masks have the size"):
        crop(IMAGE, boxes([0, 0, 9, 9], mask=np.zeros((1, 10, 10), bool)))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (boxes(), (20, 0, 80, 60)),  # nothing: the middle
        (boxes([80, 10, 100, 30]), (40, 0, 100, 60)),
        (boxes([0, 10, 10, 30]), (0, 0, 60, 60)),
        (boxes([0, 0, 10, 60], [70, 0, 100, 60], confidence=[0.9, 0.5]), (40, 0, 100, 60)),  # the larger one
        (boxes([0, 0, 10, 60], [90, 0, 100, 60], confidence=[0.9, 0.5]), (0, 0, 60, 60)),  # the surer one
        (boxes([30, 0, 50, 60]), (10, 0, 70, 60)),  # centred where there is room
    ],
)
def test_the_part_that_matters_is_as_large_as_it_can_be(result: Detections, expected: tuple[int, ...]) -> None:
    assert smart_crop(IMAGE, result, 1.0) == expected


def test_a_tall_picture_is_cut_above_and_below() -> None:
    tall = np.ascontiguousarray(IMAGE.transpose(1, 0, 2))
    assert smart_crop(tall, boxes([0, 80, 60, 100]), 2.0) == (0, 70, 60, 100)

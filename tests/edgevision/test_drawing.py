"""Results drawn on pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.drawing import draw, palette
from edgevision.results import Classification, Detections, SegmentationMap

pytestmark = pytest.mark.smoke
NAMES = ("car", "truck", "person")


def grey(width: int = 640, height: int = 360) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 90, np.uint8)


def one(box: list[float], class_id: int = 0, score: float = 0.87) -> Detections:
    return Detections(np.array([box], np.float32), np.array([score], np.float32), np.array([class_id]), NAMES)


def test_the_picture_itself_is_left_alone() -> None:
    image = grey()
    drawn = draw(image, one([50, 60, 200, 150]))
    assert (image == 90).all()
    assert drawn.shape == image.shape
    assert (drawn != image).any()
    np.testing.assert_array_equal(draw(image, Detections.empty()), image)


@pytest.mark.parametrize("class_id", [0, 1, 2])
def test_a_box_has_its_class_s_colour_on_all_four_sides(class_id: int) -> None:
    drawn, colour = draw(grey(), one([50, 60, 200, 150], class_id)), palette()[class_id]
    for y, x in ((60, 125), (149, 125), (105, 50), (105, 199)):
        np.testing.assert_array_equal(drawn[y, x], colour)
    assert (drawn[75:140, 65:185] == 90).all()  # nothing inside
    assert (drawn[160:, :] == 90).all()
    assert (drawn[:, 260:] == 90).all()


def test_the_label_stands_on_a_plate_above_the_box_in_letters_that_contrast() -> None:
    drawn, colour = draw(grey(), one([50, 60, 200, 150])), palette()[0]
    plate = drawn[40:58, 50:90].reshape(-1, 3)
    assert (plate == colour).all(axis=1).mean() > 0.3
    ink = plate[np.abs(plate.astype(int) - colour).sum(axis=1).argmax()]
    assert abs(int(ink.sum()) - int(colour.astype(int).sum())) > 150


def test_a_label_without_room_above_goes_inside_and_stays_in_the_picture() -> None:
    for box in ([50, 0, 300, 200], [600, 100, 640, 200], [0, 350, 30, 360]):
        drawn = draw(grey(), one(box))
        plate = (drawn == palette()[0]).all(axis=2)
        assert plate.sum() > 400


@pytest.mark.parametrize(("size_wh", "line"), [((320, 180), 1), ((1280, 720), 2), ((3840, 2160), 6)])
def test_lines_grow_with_the_picture(size_wh: tuple[int, int], line: int) -> None:
    width, height = size_wh
    drawn = draw(grey(*size_wh), one([width * 0.2, height * 0.4, width * 0.6, height * 0.9]))
    row = (drawn[int(height * 0.65)] == palette()[0]).all(axis=1)[: width // 2]
    assert line <= row.sum() <= line + 1


def test_the_best_box_lies_on_top() -> None:
    boxes = np.array([[50, 60, 200, 150], [50, 60, 200, 150]], np.float32)
    drawn = draw(grey(), Detections(boxes, np.array([0.9, 0.4], np.float32), np.array([0, 1]), NAMES))
    np.testing.assert_array_equal(drawn[105, 50], palette()[0])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(*[st.floats(-50, 700, width=32)] * 4), max_size=5),
    st.sampled_from([(1, 1), (33, 2), (640, 360)]),
    st.integers(0, 400),
)
def test_any_boxes_on_any_picture_can_be_drawn(
    boxes: list[tuple[float, ...]], size_wh: tuple[int, int], class_id: int
) -> None:
    n = len(boxes)
    found = Detections(
        np.array(boxes, np.float32).reshape(n, 4), np.ones(n, np.float32), np.full(n, class_id), ("ünïcode",)
    )
    assert draw(grey(*size_wh), found).shape == (size_wh[1], size_wh[0], 3)


def test_a_segmentation_tints_each_class_and_leaves_the_background() -> None:
    class_map = np.zeros((360, 640), np.uint8)
    class_map[200:, :320], class_map[200:, 320:] = 1, 2
    drawn = draw(grey(), SegmentationMap(class_map, ("background", "road", "sky")))
    assert (drawn[100:199, 200:] == 90).all()
    for class_id, x in ((1, 100), (2, 500)):
        expected = 0.55 * 90 + 0.45 * palette()[class_id].astype(float)
        np.testing.assert_allclose(drawn[300, x], expected, atol=1)


def test_a_segmentation_without_background_tints_every_pixel() -> None:
    drawn = draw(grey(), SegmentationMap(np.zeros((360, 640), np.uint8), ("ground", "road")))
    np.testing.assert_allclose(drawn[300, 500], 0.55 * 90 + 0.45 * palette()[0].astype(float), atol=1)


def test_the_legend_names_the_classes_that_are_there() -> None:
    class_map = np.zeros((360, 640), np.uint8)
    class_map[180:] = 2
    drawn = draw(grey(), SegmentationMap(class_map, ("a", "b", "c")))
    corner = drawn[:80, :120].reshape(-1, 3)
    solid = [(corner == palette()[class_id]).all(axis=1).sum() for class_id in range(3)]
    assert solid[0] > 100
    assert solid[1] == 0
    assert solid[2] > 100


def test_class_maps_of_many_classes_and_models_without_names() -> None:
    class_map = np.full((360, 640), 300, np.int32)
    drawn = draw(grey(), SegmentationMap(class_map))
    np.testing.assert_allclose(drawn[300, 500], 0.55 * 90 + 0.45 * palette()[300 % 256].astype(float), atol=1)


def test_neighbouring_classes_are_easy_to_tell_apart() -> None:
    colours = palette()[:32].astype(int)
    for distance in (1, 2, 3):
        assert (np.abs(colours[distance:] - colours[:-distance]).sum(axis=1) > 100).all()
    assert len(np.unique(palette(), axis=0)) == 256


def test_certain_keypoints_are_dots_in_their_box_s_colour() -> None:
    found = one([50, 60, 200, 150])
    found.keypoints = np.array([[[100, 100, 0.9], [150, 120, 0.1]]], np.float32)
    drawn = draw(grey(), found)
    np.testing.assert_array_equal(drawn[100, 100], palette()[0])
    assert (drawn[120, 150] == 90).all()


def test_a_classification_lists_its_best_classes_and_its_box() -> None:
    scores = np.array([0.2, 0.1, 0.7], np.float32)
    drawn = draw(grey(), Classification(scores, NAMES, np.array([200, 60, 300, 150], np.float32)))
    for y, x in ((60, 250), (149, 250), (105, 200), (105, 299)):
        np.testing.assert_array_equal(drawn[y, x], palette()[2])
    for class_id in range(3):
        assert ((drawn == palette()[class_id]).all(axis=2)).sum() > 100


def test_a_mask_tints_its_pixels_only() -> None:
    found = one([50, 60, 200, 150])
    found.mask = np.zeros((1, 360, 640), bool)
    found.mask[0, 100:120, 100:140] = True
    drawn = draw(grey(), found)
    assert (drawn[100:120, 100:140] == np.rint(90 * 0.55 + palette()[0] * 0.45)).all()
    assert (drawn[121:145, 70:190] == 90).all()

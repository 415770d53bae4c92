"""Placing a picture in an input, and the way back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.geometry import RESIZE_MODES, Placement, box_iou, place, xywh_to_xyxy, xyxy_to_xywh

sides = st.integers(1, 5000)
placements = st.builds(
    place, st.tuples(sides, sides), st.tuples(st.integers(1, 2000), st.integers(1, 2000)), st.sampled_from(RESIZE_MODES)
)


@pytest.mark.parametrize(
    ("resize", "source", "expected"),
    [
        # the usual example: 720p into 640
        ("letterbox", (1280, 720), Placement((1280, 720), (640, 640), (640, 360), (0, 140))),
        ("letterbox-topleft", (1280, 720), Placement((1280, 720), (640, 640), (640, 360), (0, 0))),
        ("stretch", (1280, 720), Placement((1280, 720), (640, 640), (640, 640), (0, 0))),
        ("letterbox", (480, 640), Placement((480, 640), (640, 640), (480, 640), (80, 0))),
        # enlarged; an odd rest goes to the bottom and right
        ("letterbox", (100, 31), Placement((100, 31), (640, 640), (640, 198), (0, 221))),
        ("letterbox", (640, 361), Placement((640, 361), (640, 640), (640, 361), (0, 139))),
    ],
)
def test_known_placements(resize: str, source: tuple[int, int], expected: Placement) -> None:
    assert place(source, (640, 640), resize) == expected


@given(placements)
def test_content_lies_inside_the_input(placement: Placement) -> None:
    for axis in (0, 1):
        assert placement.content_wh[axis] >= 1
        assert placement.offset_xy[axis] >= 0
        assert placement.offset_xy[axis] + placement.content_wh[axis] <= placement.input_wh[axis]


@given(st.tuples(sides, sides), st.integers(1, 2000), st.integers(1, 2000))
def test_a_letterbox_fills_one_axis_and_keeps_the_aspect_to_half_a_pixel(
    source: tuple[int, int], width: int, height: int
) -> None:
    placement = place(source, (width, height), "letterbox")
    ratio = min(width / source[0], height / source[1])
    for content, original in zip(placement.content_wh, source, strict=True):
        assert content == 1 or abs(content - original * ratio) <= 0.5 + 1e-9
    assert placement.content_wh[0] == width or placement.content_wh[1] == height
    left, top = placement.offset_xy
    assert left == (width - placement.content_wh[0]) // 2
    assert top == (height - placement.content_wh[1]) // 2


def boxes_in(size_wh: tuple[int, int], seed: int, n: int = 20) -> NDArray[np.float32]:
    corners = np.sort(np.random.default_rng(seed).uniform(0, 1, (n, 2, 2)), axis=1)
    return (corners * size_wh).reshape(n, 4).astype(np.float32)


@given(placements, st.integers(0, 5))
@settings(deadline=None)
def test_the_inverse_is_exact_to_the_rounding_of_the_input_coordinates(placement: Placement, seed: int) -> None:
    """The only loss is storing input coordinates as float32: half a unit in the last place, seen through the scale,
    and half a unit of the result."""
    boxes = boxes_in(placement.source_wh, seed)
    back = placement.to_source(placement.to_input(boxes))
    stored = np.spacing(np.float32(max(placement.input_wh))) / 2
    for axis in (0, 1):
        scale = placement.source_wh[axis] / placement.content_wh[axis]
        bound = stored * scale + np.spacing(np.float32(placement.source_wh[axis])) / 2
        assert np.abs(back[:, axis::2].astype(float) - boxes[:, axis::2]).max() <= bound * (1 + 1e-9)


@given(placements)
def test_the_corners_of_the_content_are_the_corners_of_the_source(placement: Placement) -> None:
    (ox, oy), (cw, ch) = placement.offset_xy, placement.content_wh
    content = np.array([[ox, oy, ox + cw, oy + ch]], np.float32)
    np.testing.assert_array_equal(placement.to_source(content), np.array([[0, 0, *placement.source_wh]], np.float32))
    np.testing.assert_array_equal(placement.to_input(np.array([[0, 0, *placement.source_wh]], np.float32)), content)


@given(placements)
def test_boxes_are_clipped_to_the_source(placement: Placement) -> None:
    beyond = np.array([[-1e6, -1e6, 1e6, 1e6]], np.float32)
    np.testing.assert_array_equal(placement.to_source(beyond), np.array([[0, 0, *placement.source_wh]], np.float32))


def test_mapping_makes_new_arrays_and_takes_none() -> None:
    placement = place((64, 48), (64, 48), "stretch")
    boxes = boxes_in((64, 48), 0)
    for mapped in (placement.to_source(boxes), placement.to_input(boxes)):
        assert mapped.dtype == np.float32
        assert not np.shares_memory(mapped, boxes)
    assert placement.to_source(np.zeros((0, 4), np.float32)).shape == (0, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((0, 5), (64, 64), "stretch"), "positive width and height"),
        (((5, -1), (64, 64), "letterbox"), "positive width and height"),
        (((5, 5), (64, 64), "crop"), "resize is one of"),
    ],
)
def test_impossible_placements_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        place(*arguments)


def test_box_formats() -> None:
    xyxy = np.array([[10, 20, 30, 60]], np.float32)
    np.testing.assert_array_equal(xyxy_to_xywh(xyxy), [[10, 20, 20, 40]])
    np.testing.assert_array_equal(xywh_to_xyxy(xyxy_to_xywh(xyxy)), xyxy)


def test_iou_of_known_boxes() -> None:
    a = np.array([[0, 0, 10, 10], [0, 0, 0, 0]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [0, 0, 5, 5], [7, 7, 3, 3]], np.float32)
    np.testing.assert_allclose(box_iou(a, b), [[1, 1 / 3, 0, 1 / 4, 0], [0] * 5], rtol=1e-6)
    assert box_iou(a[:0], b).shape == (0, 5)


@given(st.integers(0, 50))
def test_iou_against_counted_pixels(seed: int) -> None:
    random = np.random.default_rng(seed)
    corner, size = random.integers(0, 8, (2, 6, 2)), random.integers(0, 8, (2, 6, 2))
    a, b = np.concatenate([corner, corner + size], axis=2)

    def pixels(box: NDArray[Any]) -> NDArray[np.bool_]:
        canvas = np.zeros((16, 16), bool)
        canvas[box[1] : box[3], box[0] : box[2]] = True
        return canvas

    result = box_iou(a.astype(np.float32), b.astype(np.float32))
    for i, j in np.ndindex(6, 6):
        union = (pixels(a[i]) | pixels(b[j])).sum()
        assert result[i, j] == pytest.approx((pixels(a[i]) & pixels(b[j])).sum() / union if union else 0)

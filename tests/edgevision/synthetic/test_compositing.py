"""Sprites are laid over pictures the same way wherever the picture ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgevision.synthetic.compositing import Visible, hide_overlaps, lay_body, lay_shadow, places
from edgevision.synthetic.ground import GROUND, VEGETATION
from edgevision.synthetic.palette import Colour
from edgevision.synthetic.sprites import Canvas, Sprite, rounded

RED: Colour = (0, 0, 255)
TURN = np.array([[0.8, -0.6], [0.6, 0.8]])
IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


def _sprite() -> Sprite:
    canvas = Canvas(30, 16)
    canvas.polygon(rounded(30, 16, 3, 3), RED)
    return canvas.finish(resolution=1.2, height=8, shadow=0.5, softness=2)


def _lay(
    size_wh: tuple[int, int], centre: tuple[float, float], labels: np.ndarray[tuple[int, int], np.dtype[np.uint8]]
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], Visible | None]:
    image = np.full((size_wh[1], size_wh[0], 3), 100, np.uint8)
    sprite = _sprite()
    body = places(TURN[None] / sprite.resolution, np.array([centre]), [sprite.bgra], size_wh)
    shadow = places(TURN[None] / sprite.resolution, np.array([centre]) + 6, [sprite.shadow], size_wh)
    lay_shadow(image, sprite, shadow.matrix[0], shadow.rect[0])
    mask = lay_body(image, sprite, body.matrix[0], body.rect[0], labels, IDENTITY)
    if mask is None:
        return image, None
    return image, Visible(0, body.rect[0][0], body.rect[0][1], mask, sprite.area)


@settings(max_examples=150, deadline=None)
@example(x=-20, y=-15)  # a patch one pixel wide and four high, which cv2.compare takes for a scalar
@example(x=-16, y=-19)
@given(x=st.integers(-30, 90), y=st.integers(-30, 70))
def test_the_border_of_the_picture_only_cuts(x: int, y: int) -> None:
    """A picture of 60x40 shows what the middle of a larger one shows; the patch may be a single pixel."""
    image, seen = _lay((60, 40), (x, y), np.full((40, 60), GROUND, np.uint8))
    larger, whole = _lay((260, 240), (x + 100, y + 100), np.full((240, 260), GROUND, np.uint8))
    np.testing.assert_array_equal(image, larger[100:140, 100:160])
    assert whole is not None
    expected = np.zeros((240, 260), np.uint8)
    expected[whole.y : whole.y + whole.mask.shape[0], whole.x : whole.x + whole.mask.shape[1]] = whole.mask
    got = np.zeros((40, 60), np.uint8)
    if seen is not None:
        got[seen.y : seen.y + seen.mask.shape[0], seen.x : seen.x + seen.mask.shape[1]] = seen.mask
    np.testing.assert_array_equal(got, expected[100:140, 100:160])


def test_the_mask_covers_the_area_of_the_object() -> None:
    _, seen = _lay((60, 40), (30, 20), np.full((40, 60), GROUND, np.uint8))
    assert seen is not None
    assert np.count_nonzero(seen.mask) == pytest.approx(seen.full_area, rel=0.03)
    assert seen.full_area == pytest.approx(30 * 16, rel=0.03)


def test_vegetation_hides_what_is_below() -> None:
    labels = np.full((40, 60), GROUND, np.uint8)
    labels[:, :30] = VEGETATION
    image, seen = _lay((60, 40), (30, 20), labels)
    assert seen is not None
    assert not seen.mask[:, : 30 - seen.x].any()
    assert seen.mask[:, 30 - seen.x :].any()
    assert (image[:, :30, 2] <= 100).all()  # shadow at most, no red
    assert (image[:, 30:, 2] > 200).any()


def test_later_objects_hide_earlier_ones() -> None:
    under = Visible(0, 10, 10, np.full((20, 20), 255, np.uint8), 400.0)
    over = Visible(1, 0, 20, np.full((30, 15), 255, np.uint8), 450.0)
    apart = Visible(2, 100, 100, np.full((5, 5), 255, np.uint8), 25.0)
    hide_overlaps([under, over, apart])
    assert not under.mask[10:, :5].any()
    assert np.count_nonzero(under.mask) == 400 - 50
    assert over.mask.all()
    assert apart.mask.all()

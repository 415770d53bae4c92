"""The device's whole-number arithmetic is OpenCV's, bit for bit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.geometry import Placement, place
from edgevision.kernels.fixed_point import bgr_from_nv12, grey_from_bgr, resize, taps

sides = st.integers(1, 300)


def stretched(source_wh: tuple[int, int], target_wh: tuple[int, int]) -> Placement:
    return place(source_wh, target_wh, "stretch")


@given(source=st.tuples(sides, sides), target=st.tuples(sides, sides), extreme=st.booleans(), seed=st.integers(0, 99))
def test_any_resize_has_opencvs_bits(
    source: tuple[int, int], target: tuple[int, int], extreme: bool, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*source[::-1], 3), dtype=np.uint8)
    if extreme:
        image = np.where(image > 127, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(resize(image, stretched(source, target)), cv2.resize(image, target))


@given(width=st.integers(1, 60), height=st.integers(1, 60), factor=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_whole_factors_have_opencvs_bits_in_both_directions(width: int, height: int, factor: tuple[int, int]) -> None:
    """OpenCV has ways of its own for some of these, and averages where both sides are halved."""
    small, large = (width, height), (width * factor[0], height * factor[1])
    for source, target in ((small, large), (large, small)):
        image = np.random.default_rng(width).integers(0, 256, (*source[::-1], 3), dtype=np.uint8)
        np.testing.assert_array_equal(resize(image, stretched(source, target)), cv2.resize(image, target))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((1920, 1080), (640, 640)),
        ((1280, 720), (640, 640)),
        ((3840, 2160), (416, 416)),
        ((640, 480), (1280, 1280)),
        ((32767, 1), (320, 320)),
        ((1, 32767), (320, 320)),
    ],
)
def test_camera_sizes_have_opencvs_bits(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*source[::-1], 3), dtype=np.uint8)
    placement = place(source, target, "letterbox")
    np.testing.assert_array_equal(resize(image, placement), cv2.resize(image, placement.content_wh))


def test_weights_sum_to_one_and_cells_exist_for_every_pair_of_sizes() -> None:
    for source in [1, 2, 3, 5, 97, 640, 1921, 32767]:
        for target in [1, 2, 3, 7, 100, 641, 1920]:
            packed = taps(Placement((source, source), (target, target), (target, target), (0, 0))).astype(np.int64)
            first, step, weight = packed & 0x7FFF, packed >> 15 & 1, packed >> 16
            assert weight.min() >= 0
            assert weight.max() <= 2048
            assert (first + step).max() < source


def test_every_colour_of_nv12_has_opencvs_bits() -> None:
    u, v = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    chroma = np.stack([u, v], axis=2)
    for first in range(0, 256, 4):
        luma = np.tile(np.array([[first, first + 1], [first + 2, first + 3]], np.uint8), (256, 256))
        planes = np.concatenate([luma, chroma.reshape(256, 512)])
        expected = cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_NV12)
        np.testing.assert_array_equal(bgr_from_nv12(luma, chroma), expected)


def test_odd_nv12_is_the_even_picture_without_its_last_row_and_column() -> None:
    random = np.random.default_rng(1)
    luma = random.integers(0, 256, (10, 14), dtype=np.uint8)
    chroma = random.integers(0, 256, (5, 7, 2), dtype=np.uint8)
    np.testing.assert_array_equal(bgr_from_nv12(luma[:9, :13], chroma), bgr_from_nv12(luma, chroma)[:9, :13])


def test_grey_of_every_colour_in_steps_of_three_has_opencvs_bits() -> None:
    levels = np.arange(0, 256, 3, dtype=np.uint8)
    picture = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(levels.size, -1, 3)
    np.testing.assert_array_equal(grey_from_bgr(picture)[:, :, 0], cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))


@given(source=st.tuples(sides, sides), target=st.tuples(sides, sides), seed=st.integers(0, 99))
def test_any_resize_of_one_channel_has_opencvs_bits(
    source: tuple[int, int], target: tuple[int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*source[::-1], 1), dtype=np.uint8)
    np.testing.assert_array_equal(resize(image, stretched(source, target))[:, :, 0], cv2.resize(image, target))

"""Class maps against plain numpy definitions."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.geometry import RESIZE_MODES, Placement, place
from edgevision.kernels.cpu import ClassMapper


def nearest(class_map: NDArray[Any], placement: Placement) -> NDArray[Any]:
    """Source pixel by source pixel: its centre, in the input, in the map."""
    (sw, sh), (iw, ih) = placement.source_wh, placement.input_wh
    (cw, ch), (ox, oy) = placement.content_wh, placement.offset_xy
    rows, columns = class_map.shape
    out = np.empty((sh, sw), class_map.dtype)
    for y in range(sh):
        for x in range(sw):
            # in halves of source pixels, to stay whole
            column = (2 * ox * sw + (2 * x + 1) * cw) * columns // (2 * sw * iw)
            row = (2 * oy * sh + (2 * y + 1) * ch) * rows // (2 * sh * ih)
            out[y, x] = class_map[row, column]
    return out


@given(
    source=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    input_wh=st.tuples(st.integers(1, 32), st.integers(1, 32)),
    map_wh=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    resize=st.sampled_from(RESIZE_MODES),
    wide=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_any_map_reaches_the_source_by_nearest_neighbour(
    source: tuple[int, int], input_wh: tuple[int, int], map_wh: tuple[int, int], resize: str, wide: bool
) -> None:
    dtype = np.int32 if wide else np.uint8
    class_map = np.random.default_rng(0).integers(0, 300 if wide else 21, map_wh[::-1]).astype(dtype)
    placement = place(source, input_wh, resize)
    result = ClassMapper(input_wh, 300 if wide else 21).to_source(class_map, placement)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, nearest(class_map, placement))


def test_padding_never_reaches_the_source() -> None:
    placement = place((100, 50), (64, 64), "letterbox")
    class_map = np.full((64, 64), 9, np.uint8)
    (cw, ch), (ox, oy) = placement.content_wh, placement.offset_xy
    class_map[oy : oy + ch, ox : ox + cw] = 1
    result = ClassMapper((64, 64), 10).to_source(class_map, placement)
    assert result.shape == (50, 100)
    assert (result == 1).all()


def test_a_map_of_the_sources_size_is_itself_and_a_new_array() -> None:
    class_map = np.random.default_rng(0).integers(0, 5, (48, 64)).astype(np.uint8)
    result = ClassMapper((64, 48), 5).to_source(class_map, place((64, 48), (64, 48), "stretch"))
    np.testing.assert_array_equal(result, class_map)
    assert not np.shares_memory(result, class_map)


def test_results_of_earlier_calls_stay_when_sizes_change() -> None:
    mapper = ClassMapper((64, 48), 5)
    random = np.random.default_rng(1)
    kept = []
    for size in ((100, 80), (30, 90), (100, 80)):
        placement = place(size, (64, 48), "letterbox")
        class_map = random.integers(0, 5, (6, 8)).astype(np.uint8)
        kept.append((mapper.to_source(class_map, placement), nearest(class_map, placement)))
    for result, expected in kept:
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("classes", [1, 2, 21, 255, 256, 300])
def test_argmax_at_input_size_is_numpys(classes: int) -> None:
    logits = np.random.default_rng(classes).normal(size=(classes, 24, 32)).astype(np.float32)
    result = ClassMapper((32, 24), classes).argmax(logits)
    assert result.dtype == (np.uint8 if classes <= 255 else np.int32)
    np.testing.assert_array_equal(result, logits.argmax(axis=0))


def test_equal_logits_give_the_lowest_class_and_nan_never_wins() -> None:
    logits = np.zeros((3, 1, 4), np.float32)
    logits[2, 0, 1] = 1
    logits[0, 0, 2] = logits[1, 0, 3] = np.nan
    logits[1, 0, 2], logits[2, 0, 2] = -2, -1
    logits[2, 0, 3] = 5  # a NaN before it hides no winner
    assert ClassMapper((4, 1), 3).argmax(logits).tolist() == [[0, 2, 2, 2]]


def test_coarse_logits_are_upsampled_bilinearly_before_the_argmax() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(size=(5, 6, 8)).astype(np.float32)

    def axis(size: int, target: int) -> NDArray[np.float64]:
        """(target, size) interpolation weights with half-pixel centres and clamped borders."""
        centre = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        return np.maximum(0, 1 - np.abs(centre[:, None] - np.arange(size)))

    fine = np.einsum("yh,chw,xw->cyx", axis(6, 45), logits.astype(np.float64), axis(8, 61))
    ordered = np.sort(fine, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-5  # float32 may decide a tie either way
    result = ClassMapper((61, 45), 5).argmax(logits)
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(result[clear], fine.argmax(axis=0)[clear])


def test_upsampling_matters() -> None:
    """Bilinear-then-argmax is not argmax-then-nearest: boundaries become smooth."""
    logits = np.random.default_rng(3).normal(size=(3, 6, 8)).astype(np.float32)
    coarse = cv2.resize(logits.argmax(axis=0).astype(np.uint8), (64, 48), interpolation=cv2.INTER_NEAREST)
    assert (ClassMapper((64, 48), 3).argmax(logits) != coarse).mean() > 0.05

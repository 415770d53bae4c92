"""Preprocessing against a plain numpy chain: bit for bit, for every mode, and without state leaking between calls."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.geometry import RESIZE_MODES, Placement, place
from edgevision.kernels.cpu import Preprocessor
from edgevision.manifest import COLORS, Preprocess

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def picture(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def spec(**changes: Any) -> Preprocess:
    normalised = {} if changes.get("dtype") == "uint8" else {"mean": MEAN, "std": STD}
    if changes.get("color") == "gray":
        raw = changes.get("dtype") == "uint8"
        normalised = {"mean": (0.0,), "std": (1.0,)} if raw else {"mean": (97.5,), "std": (61.25,)}
    return Preprocess(**{"input_name": "image", "input_wh": (64, 48), **normalised, **changes})


def twin(image: NDArray[np.uint8], spec: Preprocess) -> NDArray[Any]:
    """The definition, step by step on whole float arrays."""
    width, height = spec.input_wh
    placement = place((image.shape[1], image.shape[0]), spec.input_wh, spec.resize)
    (cw, ch), (ox, oy) = placement.content_wh, placement.offset_xy
    canvas = np.full((height, width, spec.channels), spec.pad_value, np.float32)
    if spec.color == "gray":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    content = cv2.resize(image, (cw, ch), interpolation=cv2.INTER_LINEAR)
    canvas[oy : oy + ch, ox : ox + cw] = content.reshape(ch, cw, spec.channels)
    if spec.color == "rgb":
        # The padding is grey, the same in every order.
        canvas = canvas[:, :, ::-1]
    if spec.dtype == "float32":
        canvas = (canvas - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    canvas = canvas.transpose(2, 0, 1) if spec.layout == "nchw" else canvas
    return np.ascontiguousarray(canvas.astype(spec.dtype))


def run(preprocessor: Preprocessor, image: NDArray[np.uint8]) -> tuple[NDArray[Any], Placement]:
    out = np.empty(preprocessor.shape, preprocessor.dtype)[0]
    placement = preprocessor(image, out)
    return out, placement


@pytest.mark.parametrize(
    ("layout", "dtype", "resize", "color"),
    itertools.product(("nchw", "nhwc"), ("float32", "uint8"), RESIZE_MODES, COLORS),
)
def test_every_mode_gives_the_numpy_chains_bits(layout: str, dtype: str, resize: str, color: str) -> None:
    chosen = spec(layout=layout, dtype=dtype, resize=resize, color=color, pad_value=114.0)
    preprocessor = Preprocessor(chosen)
    # wide, tall, tiny, exactly the input's size, its aspect
    for number, size in enumerate([(128, 72), (33, 90), (5, 3), (64, 48), (320, 240)]):
        image = picture(*size, seed=number)
        out, placement = run(preprocessor, image)
        np.testing.assert_array_equal(out, twin(image, chosen))
        assert placement == place(size, (64, 48), resize)


@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    resize=st.sampled_from(RESIZE_MODES),
    color=st.sampled_from(("rgb", "gray")),
    pad=st.floats(0, 255, width=32),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_any_size_gives_the_numpy_chains_bits(
    width: int, height: int, resize: str, color: str, pad: float, seed: int
) -> None:
    chosen = spec(resize=resize, color=color, pad_value=pad)
    image = picture(width, height, seed)
    np.testing.assert_array_equal(run(Preprocessor(chosen), image)[0], twin(image, chosen))


@given(
    sizes=st.lists(st.tuples(st.integers(1, 150), st.integers(1, 150)), min_size=2, max_size=8),
    color=st.sampled_from(("rgb", "gray")),
)
@settings(max_examples=30, deadline=None)
def test_nothing_of_an_earlier_picture_is_left_when_sizes_change(sizes: list[tuple[int, int]], color: str) -> None:
    chosen = spec(resize="letterbox", color=color)
    preprocessor = Preprocessor(chosen)
    kept = np.empty(preprocessor.shape, preprocessor.dtype)[0]
    for number, size in enumerate(sizes):
        image = picture(*size, seed=number)
        preprocessor(image, kept)
        np.testing.assert_array_equal(kept, twin(image, chosen))


def test_another_output_array_is_padded_too() -> None:
    chosen = spec(resize="letterbox")
    preprocessor = Preprocessor(chosen)
    batch = np.full((3, *preprocessor.shape[1:]), np.nan, np.float32)
    image = picture(128, 72)
    for slot in batch:
        preprocessor(image, slot)
        np.testing.assert_array_equal(slot, twin(image, chosen))


def test_the_picture_is_not_changed() -> None:
    for size in ((64, 48), (100, 100)):
        for color, layout, dtype in itertools.product(("rgb", "bgr"), ("nchw", "nhwc"), ("float32", "uint8")):
            image = picture(*size)
            before = image.copy()
            run(Preprocessor(spec(color=color, layout=layout, dtype=dtype)), image)
            np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[10:60, 20:90],
        lambda image: image[:, :, ::-1],
        lambda image: image[::-1],
        lambda image: image[::2, ::3],
        lambda image: np.asfortranarray(image),
    ],
    ids=["crop", "channels reversed", "upside down", "strided", "column-major"],
)
def test_views_that_are_not_contiguous_work(view: Any) -> None:
    image = view(picture(128, 96))
    for layout, dtype in itertools.product(("nchw", "nhwc"), ("float32", "uint8")):
        chosen = spec(layout=layout, dtype=dtype)
        np.testing.assert_array_equal(
            run(Preprocessor(chosen), image)[0], twin(np.ascontiguousarray(image), chosen), err_msg=f"{layout} {dtype}"
        )


def test_read_only_pictures_work() -> None:
    image = picture(64, 48)
    image.setflags(write=False)
    for layout, dtype in itertools.product(("nchw", "nhwc"), ("float32", "uint8")):
        chosen = spec(layout=layout, dtype=dtype)
        np.testing.assert_array_equal(run(Preprocessor(chosen), image)[0], twin(image, chosen))


def test_the_resize_is_bilinear_with_half_pixel_centres() -> None:
    """OpenCV is the definition; this pins which of its many conventions that is, to one grey level."""
    image = picture(50, 30)
    chosen = spec(input_wh=(77, 41), color="bgr", layout="nhwc", mean=(0.0,) * 3, std=(1.0,) * 3)
    out, _ = run(Preprocessor(chosen), image)

    def axis(size: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
        centre = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        low = np.floor(centre).astype(np.intp)
        return low, np.minimum(low + 1, size - 1), centre - low

    (x0, x1, fx), (y0, y1, fy) = axis(50, 77), axis(30, 41)
    pixels = image.astype(np.float64)
    rows = pixels[y0] * (1 - fy)[:, None, None] + pixels[y1] * fy[:, None, None]
    expected = rows[:, x0] * (1 - fx)[None, :, None] + rows[:, x1] * fx[None, :, None]
    assert np.abs(out - expected).max() <= 1.0


def test_channels_go_where_the_network_expects_them() -> None:
    blue = np.zeros((48, 64, 3), np.uint8)
    blue[:, :, 0] = 255
    plain = {"mean": (0.0,) * 3, "std": (255.0,) * 3}
    assert run(Preprocessor(spec(color="bgr", **plain)), blue)[0][:, 0, 0].tolist() == [1, 0, 0]
    assert run(Preprocessor(spec(color="rgb", **plain)), blue)[0][:, 0, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((0, 5, 3), np.uint8), "sides are 1 to 32767 pixels, got 5x0"),
        (np.zeros((5, 0, 3), np.uint8), "got 0x5"),
        (np.zeros((1, 40000, 3), np.uint8), "got 40000x1"),
        (np.zeros((5, 5), np.uint8), "COLOR_GRAY2BGR"),
        (np.zeros((5, 5, 4), np.uint8), r"image\[:, :, :3\]"),
        (np.zeros((5, 5, 3), np.float32), "float32"),
        (np.zeros((5, 5, 3), np.int8), "int8"),
        (None, "NoneType"),
        ("photo.jpg", "str"),
        ([[0, 0, 0]], "list"),
    ],
)
def test_what_is_not_a_picture_is_refused_in_words(image: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(Preprocessor(spec()), image)


@pytest.mark.parametrize(
    "out",
    [
        np.empty((3, 48, 63), np.float32),
        np.empty((48, 64, 3), np.float32),
        np.empty((1, 3, 48, 64), np.float32),
        np.empty((3, 48, 64), np.float64),
        np.empty((3, 48, 128), np.float32)[:, :, ::2],
    ],
)
def test_an_output_that_does_not_fit_is_refused(out: NDArray[Any]) -> None:
    with pytest.raises(UsageError, match="C-contiguous picture"):
        Preprocessor(spec())(picture(10, 10), out)


def test_the_largest_sides_work() -> None:
    for image in (np.zeros((1, 32767, 3), np.uint8), np.zeros((32767, 1, 3), np.uint8)):
        out, placement = run(Preprocessor(spec(resize="letterbox")), image)
        assert np.isfinite(out).all()
        assert min(placement.content_wh) == 1

"""Class maps on the device are the CPU's, pixel for pixel: the kernels run on this CPU, in shuffled order."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.geometry import RESIZE_MODES, place
from edgevision.kernels.bilinear import upsample
from edgevision.kernels.cpu import ClassMapper
from edgevision.kernels.cuda_semantic import CudaSemantic
from edgevision.kernels.picture import PICTURE, describe
from tests.standins.host_device import HostDevice, HostModule, open_kernels

FENCE = 64
sides = st.integers(1, 90)
small = st.integers(1, 40)
several = st.integers(2, 40)


@pytest.fixture(scope="module")
def kernels() -> HostModule:
    return open_kernels(["semantic.cu"])


def run(
    kernels: HostModule,
    output: NDArray[Any],
    input_wh: tuple[int, int],
    classes: int,
    sources_wh: list[tuple[int, int]],
    resize: str = "letterbox",
) -> list[NDArray[Any]]:
    """The device's maps; `output`: logits (b, c, h, w) or maps (b, h, w)."""
    device = HostDevice()
    has_map = output.ndim == 3
    semantic = CudaSemantic(device, kernels, input_wh, output.shape[-2:], classes, has_map, len(sources_wh))
    records = np.stack([describe(place(size, input_wh, resize), "bgr", 4096, 3 * size[0]) for size in sources_wh])
    assert records.dtype == PICTURE
    nbytes = semantic.result_bytes(sources_wh)
    result = device.allocate(nbytes + FENCE)
    given, pictures = device.put(output), device.put(records)
    semantic(given.address, pictures.address, result.address, None)
    assert (result.bytes[nbytes:] == 0xA5).all(), "written behind the maps"
    return semantic.split(result.bytes, sources_wh)


def check(
    kernels: HostModule,
    output: NDArray[Any],
    input_wh: tuple[int, int],
    classes: int,
    sources_wh: list[tuple[int, int]],
    resize: str = "letterbox",
) -> None:
    mapper = ClassMapper(input_wh, classes)
    found = run(kernels, output, input_wh, classes, sources_wh, resize)
    for picture, size, result in zip(output, sources_wh, found, strict=True):
        class_map = picture if picture.ndim == 2 else mapper.argmax(picture)
        expected = mapper.to_source(class_map, place(size, input_wh, resize))
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected)


@given(sources=st.lists(st.tuples(sides, sides), min_size=1, max_size=4), input_wh=st.tuples(small, small),
       map_wh=st.tuples(small, small), resize=st.sampled_from(RESIZE_MODES), wide=st.booleans(),
       seed=st.integers(0, 1 << 32))  # fmt: skip
@settings(max_examples=100)
def test_any_class_map_reaches_the_sources_as_on_the_cpu(
    kernels: HostModule, sources: list[tuple[int, int]], input_wh: tuple[int, int], map_wh: tuple[int, int],
    resize: str, wide: bool, seed: int,
) -> None:  # fmt: skip
    kernels.seed(seed)
    classes = 300 if wide else 21
    maps = np.random.default_rng(seed).integers(0, classes, (len(sources), *map_wh[::-1]))
    check(kernels, maps.astype(np.int32 if wide else np.uint8), input_wh, classes, sources, resize)


@pytest.mark.parametrize("source", [(32767, 1), (1, 32767), (4099, 2), (1920, 1080), (2049, 513)])
def test_the_largest_pictures_and_those_beyond_the_grid(kernels: HostModule, source: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).integers(0, 255, (1, 97, 1021)).astype(np.uint8)
    for resize in RESIZE_MODES:
        check(kernels, maps, (1021, 97), 255, [source], resize)


@given(source=st.tuples(sides, sides), input_wh=st.tuples(sides, sides), logit_wh=st.tuples(several, several),
       classes=st.integers(1, 40), batch=st.integers(1, 3), seed=st.integers(0, 1 << 32))  # fmt: skip
@settings(max_examples=100)
def test_any_logits_give_the_cpus_classes(
    kernels: HostModule, source: tuple[int, int], input_wh: tuple[int, int], logit_wh: tuple[int, int], classes: int,
    batch: int, seed: int,
) -> None:  # fmt: skip
    """OpenCV's interpolation has the kernel's bits, so not even near-ties differ."""
    kernels.seed(seed)
    logits = np.random.default_rng(seed).normal(size=(batch, classes, *logit_wh[::-1])).astype(np.float32)
    check(kernels, logits, input_wh, classes, [source] * batch)


@given(
    logit_wh=st.tuples(several, several),
    input_wh=st.tuples(sides, sides),
    nan=st.floats(0, 0.2),
    seed=st.integers(0, 99),
)
def test_the_twin_interpolates_with_opencvs_bits(
    logit_wh: tuple[int, int], input_wh: tuple[int, int], nan: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    plane = (random.normal(size=logit_wh[::-1]) * 10).astype(np.float32)
    plane[random.random(plane.shape) < nan] = np.nan
    np.testing.assert_array_equal(upsample(plane, input_wh), cv2.resize(plane, input_wh))


@given(length=small, upright=st.booleans(), input_wh=st.tuples(sides, sides), seed=st.integers(0, 99))
def test_the_twin_interpolates_single_lines_as_opencv_does_but_for_rounding(
    length: int, upright: bool, input_wh: tuple[int, int], seed: int
) -> None:
    plane = np.random.default_rng(seed).uniform(-1, 1, (length, 1) if upright else (1, length)).astype(np.float32)
    # OpenCV's positions are float32 here: up to 40 cells, so 2**-19 of a cell, and neighbours differ by up to 2
    np.testing.assert_allclose(upsample(plane, input_wh), cv2.resize(plane, input_wh), rtol=0, atol=2.0**-17)


@pytest.mark.parametrize("classes", [1, 2, 255, 256, 300])
def test_classes_beyond_255_are_int32(kernels: HostModule, classes: int) -> None:
    logits = np.random.default_rng(classes).normal(size=(1, classes, 6, 8)).astype(np.float32)
    check(kernels, logits, (32, 24), classes, [(50, 40)])
    check(kernels, logits, (8, 6), classes, [(50, 40)])


def by_definition(logits: NDArray[np.float32], input_wh: tuple[int, int]) -> NDArray[np.int64]:
    """Classes (h, w) of logits (c, h, w): the first of the largest that are not NaN."""
    fine = upsample(logits, input_wh)
    classes: NDArray[np.int64] = np.where(np.isnan(fine), -np.inf, fine).argmax(axis=0)
    return classes


@pytest.mark.parametrize("input_wh", [(9, 5), (36, 20), (11, 13)], ids=["as they are", "upsampled", "odd"])
def test_equal_logits_give_the_lowest_class_and_nan_never_wins(kernels: HostModule, input_wh: tuple[int, int]) -> None:
    random = np.random.default_rng(5)
    logits = random.integers(-1, 2, (1, 6, 5, 9)).astype(np.float32)
    check(kernels, logits, input_wh, 6, [(40, 30)])
    spoilt = np.where(random.random(logits.shape) < 0.3, np.float32(np.nan), logits)
    for cells in (spoilt, np.full_like(logits, np.nan)):
        check(kernels, cells, input_wh, 6, [(40, 30)])
    for value in (np.inf, -np.inf):
        spoilt = np.where(random.random(logits.shape) < 0.1, np.float32(value), logits)
        for cells in (spoilt, np.full_like(logits, value)):
            (found,) = run(kernels, cells, input_wh, 6, [input_wh], "stretch")
            np.testing.assert_array_equal(found, by_definition(cells[0], input_wh))


def test_centres_a_hair_below_a_border_of_cells_fall_short_of_it(kernels: HostModule) -> None:
    """Where a pixel's cell, worked out in float32, is one too high: the remainder has to put it right."""
    maps = np.arange(2048, dtype=np.int32)[None, None]
    check(kernels, maps, (2048, 1), 2048, [(6037, 1)], "stretch")


def test_padding_never_reaches_the_source(kernels: HostModule) -> None:
    placement = place((100, 50), (64, 64), "letterbox")
    maps = np.full((1, 64, 64), 9, np.uint8)
    (cw, ch), (ox, oy) = placement.content_wh, placement.offset_xy
    maps[0, oy : oy + ch, ox : ox + cw] = 1
    assert (run(kernels, maps, (64, 64), 10, [(100, 50)])[0] == 1).all()


def test_every_order_of_threads_gives_the_same_maps(kernels: HostModule) -> None:
    logits = np.random.default_rng(2).normal(size=(2, 19, 13, 17)).astype(np.float32)
    for seed in range(8):
        kernels.seed(seed)
        check(kernels, logits, (70, 50), 19, [(33, 61), (90, 10)])


def test_a_result_that_is_too_short_is_refused(kernels: HostModule) -> None:
    semantic = CudaSemantic(HostDevice(), kernels, (8, 8), (8, 8), 3, True, 2)
    with pytest.raises(UsageError, match="have 32 bytes, the result has 31"):
        semantic.split(np.zeros(31, np.uint8), [(4, 4), (8, 2)])

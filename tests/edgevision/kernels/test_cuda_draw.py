"""What the device draws is what OpenCV draws: the kernels run on this CPU, in shuffled order."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.drawing import TINT, line_width, palette
from edgevision.geometry import place
from edgevision.kernels.cpu_draw import draw_boxes, overlay
from edgevision.kernels.cuda_draw import CudaDraw, CudaOverlay
from edgevision.kernels.picture import describe
from tests.standins.host_device import HostBuffer, HostDevice, HostModule, open_kernels

PITCH_EXTRA = 7


@pytest.fixture(scope="module")
def kernels() -> HostModule:
    return open_kernels(["semantic.cu", "draw.cu"])


def random_boxes(width: int, height: int, count: int, seed: int) -> NDArray[np.float32]:
    """Corners as a detector gives them: inside the picture, in order."""
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0, 1, (count, 2, 2)), axis=1) * [width, height]
    return corners.reshape(count, 4).astype(np.float32)


def opencv_boxes(image: NDArray[np.uint8], xyxy: NDArray[np.float32], class_id: NDArray[np.int32]) -> None:
    """As drawing.py does, without labels."""
    pen = line_width(image.shape[1], image.shape[0])
    for box, number in reversed(list(zip(xyxy, class_id, strict=True))):
        left, top, right, bottom = np.rint(box - np.array([0, 0, 1, 1], np.float32)).astype(int).tolist()
        cv2.rectangle(image, (left, top), (right, bottom), palette()[number % 256].tolist(), pen)


class OnDevice:
    """Pictures of noise in the host device's memory, with unused bytes between the rows."""

    def __init__(self, sizes: list[tuple[int, int]], formats: list[str]) -> None:
        self.device = HostDevice()
        self.images = [np.random.default_rng(w).integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in sizes]
        self.formats = formats
        self.buffers: list[HostBuffer] = []
        records = []
        for image, pixel_format in zip(self.images, formats, strict=True):
            height, width = image.shape[:2]
            pitch = 3 * width + PITCH_EXTRA
            buffer = self.device.allocate(pitch * height)
            shown = image if pixel_format != "rgb" else image[:, :, ::-1]
            buffer.bytes.reshape(height, pitch)[:, : 3 * width] = shown.reshape(height, -1)
            self.buffers.append(buffer)
            records.append(describe(place((width, height), (64, 64), "stretch"), pixel_format, buffer.address, pitch))
        self.records = self.device.put(np.stack(records))

    def check(self) -> None:
        """The device's pictures are `images` by now, and nothing was written between their rows."""
        for image, pixel_format, buffer in zip(self.images, self.formats, self.buffers, strict=True):
            height, width = image.shape[:2]
            rows = buffer.bytes.reshape(height, -1)
            assert (rows[:, 3 * width :] == 0xA5).all()
            found = rows[:, : 3 * width].reshape(height, width, 3)
            np.testing.assert_array_equal(found if pixel_format != "rgb" else found[:, :, ::-1], image)


def draw(kernels: HostModule, pictures: OnDevice, boxes: list[NDArray[np.float32]], limit: int) -> None:
    """Box i of each picture has class i * 37."""
    device, batch = pictures.device, len(boxes)
    packed = np.full((batch, limit, 4), np.nan, np.float32)
    for slot, xyxy in zip(packed, boxes, strict=True):
        slot[: len(xyxy)] = xyxy
    classes = np.tile(np.arange(limit, dtype=np.int32) * 37, (batch, 1))
    given = [np.array([len(xyxy) for xyxy in boxes], np.int32), packed, classes]
    held = [device.put(array) for array in given]
    drawer = CudaDraw(device, kernels, limit, batch)
    drawer(pictures.records.address, *(buffer.address for buffer in held), None)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3),
    count=st.integers(0, 9),
    rgb=st.booleans(),
    seed=st.integers(0, 1 << 32),
)
@settings(max_examples=60)
def test_boxes_are_opencvs_rectangles(
    kernels: HostModule, sizes: list[tuple[int, int]], count: int, rgb: bool, seed: int
) -> None:
    kernels.seed(seed)
    pictures = OnDevice(sizes, ["rgb" if rgb else "bgr"] * len(sizes))
    boxes = [random_boxes(*size, count, seed + i) for i, size in enumerate(sizes)]
    draw(kernels, pictures, boxes, 10)
    for image, xyxy in zip(pictures.images, boxes, strict=True):
        opencv_boxes(image, xyxy, np.arange(count, dtype=np.int32) * 37)
    pictures.check()


@pytest.mark.parametrize("size", [(1920, 300), (700, 541), (900, 901), (1300, 1260), (3840, 2160)])
def test_wide_pens_have_opencvs_corners(kernels: HostModule, size: tuple[int, int]) -> None:
    """The better of crossing boxes is on top, whatever runs first."""
    boxes = random_boxes(*size, 12, seed=size[0])
    pictures = OnDevice([size], ["bgr"])
    draw(kernels, pictures, [boxes], 12)
    twin = pictures.images[0].copy()
    opencv_boxes(pictures.images[0], boxes, np.arange(12, dtype=np.int32) * 37)
    pictures.check()
    draw_boxes(twin, boxes, np.arange(12) * 37)
    np.testing.assert_array_equal(twin, pictures.images[0])


@given(size=st.tuples(st.integers(1, 800), st.integers(1, 800)), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_the_twin_draws_opencvs_rectangles(size: tuple[int, int], seed: int) -> None:
    image = np.zeros((*size[::-1], 3), np.uint8)
    boxes = random_boxes(*size, 5, seed)
    expected = image.copy()
    opencv_boxes(expected, boxes, np.arange(5, dtype=np.int32))
    draw_boxes(image, boxes, np.arange(5))
    np.testing.assert_array_equal(image, expected)


def test_a_count_beyond_the_limit_draws_no_more_than_the_limit(kernels: HostModule) -> None:
    pictures = OnDevice([(60, 40)], ["bgr"])
    boxes = random_boxes(60, 40, 3, 0)
    device = pictures.device
    held = [device.put(np.array([1 << 30], np.int32)), device.put(boxes), device.put(np.arange(3, dtype=np.int32))]
    CudaDraw(device, kernels, 3)(pictures.records.address, *(buffer.address for buffer in held), None)
    opencv_boxes(pictures.images[0], boxes, np.arange(3, dtype=np.int32))
    pictures.check()


@pytest.mark.parametrize(("classes", "plain"), [(21, None), (21, 0), (255, 7), (300, 5)])
def test_the_tint_is_opencvs_weighted_sum(kernels: HostModule, classes: int, plain: int | None) -> None:
    sizes = [(61, 43), (70, 40), (1, 1)]
    pictures = OnDevice(sizes, ["bgr", "rgb", "bgr"])
    device = pictures.device
    random = np.random.default_rng(classes)
    dtype = np.uint8 if classes <= 255 else np.int32
    maps = [random.integers(0, classes, (h, w)).astype(dtype) for w, h in sizes]
    held = device.put(np.concatenate([class_map.ravel() for class_map in maps]))
    CudaOverlay(device, kernels, classes, plain, 3)(held.address, pictures.records.address, None)
    for image, class_map in zip(pictures.images, maps, strict=True):
        index = (class_map.astype(int) % 256).astype(np.uint8)
        twin = image.copy()
        tinted = cv2.addWeighted(image, 1 - TINT, palette()[index], TINT, 0)
        np.copyto(image, tinted, where=(index != plain)[:, :, None] if plain is not None else True)
        overlay(twin, class_map, plain)
        np.testing.assert_array_equal(twin, image)
    pictures.check()


def test_every_level_is_tinted_as_by_opencv() -> None:
    level, number = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256), indexing="ij")
    image = np.repeat(level[:, :, None], 3, axis=2)
    expected = cv2.addWeighted(image, 1 - TINT, palette()[number], TINT, 0)
    overlay(image, number)
    np.testing.assert_array_equal(image, expected)


def test_nv12_pictures_are_left_alone(kernels: HostModule) -> None:
    pictures = OnDevice([(60, 40)], ["nv12"])
    draw(kernels, pictures, [random_boxes(60, 40, 3, 0)], 3)
    held = pictures.device.put(np.ones((40, 60), np.uint8))
    CudaOverlay(pictures.device, kernels, 3)(held.address, pictures.records.address, None)
    pictures.check()

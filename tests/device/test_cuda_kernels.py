"""Preprocessing, class maps and drawing through pycuda and the stand-in driver, in CUDA graphs too."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgevision.cuda import Buffer, Device, Module, Stream
from edgevision.drawing import palette
from edgevision.errors import DeviceError
from edgevision.geometry import place
from edgevision.kernels.compile import compile_kernels
from edgevision.kernels.cpu import ClassMapper, Preprocessor
from edgevision.kernels.cpu_draw import draw_boxes, overlay
from edgevision.kernels.cuda_draw import CudaDraw, CudaOverlay
from edgevision.kernels.cuda_preprocess import CudaPreprocessor
from edgevision.kernels.cuda_semantic import CudaSemantic
from edgevision.manifest import Preprocess
from tests.standins import cuda as standin

NVCC = Path(standin.__file__).parents[1] / "nvcc"
INPUT_WH = (64, 48)
SPEC = Preprocess("image", INPUT_WH, resize="letterbox", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
SIZES = [(100, 60), (33, 47), (64, 48), (1, 1), (120, 90)]
MOST_BYTES = 120 * 90 * 3


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The kernels, built for the stand-in driver."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEVISION_NVCC", str(NVCC))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return compile_kernels(87, 12)


@pytest.fixture
def kernels(device: Device, image: bytes) -> Iterator[Module]:
    module = device.load_module(image)
    yield module
    module.close()


@pytest.fixture
def stream(device: Device) -> Iterator[Stream]:
    opened = device.stream()
    yield opened
    opened.close()


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def on_device(device: Device, array: NDArray[Any], stream: Stream) -> Buffer:
    buffer = device.allocate(array.nbytes)
    device.upload(buffer.address, np.ascontiguousarray(array), stream)
    return buffer


def fetch(device: Device, buffer: Buffer, shape: tuple[int, ...], dtype: Any, stream: Stream) -> NDArray[Any]:
    array = np.empty(shape, dtype)
    device.download(array, buffer.address, stream)
    stream.synchronize()
    return array


def expected_tensor(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    preprocessor = Preprocessor(SPEC)
    tensor = np.empty(preprocessor.shape, np.float32)
    preprocessor(image, tensor[0])
    return tensor


def replay(device: Device, stream: Stream, work: Callable[[], None]) -> Callable[[], None]:
    """What launches the captured work."""
    graph = device.capture(stream, work)
    return lambda: graph.launch(stream)


def test_one_graph_preprocesses_every_picture_size(device: Device, kernels: Module, stream: Stream) -> None:
    preprocessor = CudaPreprocessor(device, kernels, SPEC)
    source, tensor = device.allocate(MOST_BYTES), device.allocate(4 * int(np.prod(preprocessor.shape)))
    launch = replay(device, stream, lambda: preprocessor(tensor.address, stream))
    allocations = device.counters.allocations
    for number, (width, height) in enumerate(SIZES + SIZES):
        image = noise(width, height, number)
        device.upload(source.address, image, stream)
        preprocessor.place(0, width, height, "bgr", 3 * width, source.address, stream)
        launch()
        found = fetch(device, tensor, preprocessor.shape, np.float32, stream)
        np.testing.assert_array_equal(found, expected_tensor(image))
    assert device.counters.allocations == allocations


def test_a_placed_picture_costs_one_upload_a_frame(device: Device, kernels: Module, stream: Stream) -> None:
    preprocessor = CudaPreprocessor(device, kernels, SPEC)
    source, tensor = device.allocate(MOST_BYTES), device.allocate(4 * int(np.prod(preprocessor.shape)))
    preprocessor.place(0, 100, 60, "bgr", 300, source.address, stream)
    before = device.counters
    for number in range(3):
        device.upload(source.address, noise(100, 60, number), stream)
        preprocessor.place(0, 100, 60, "bgr", 300, source.address, stream)
        preprocessor(tensor.address, stream)
    stream.synchronize()
    after = device.counters
    assert (after.uploads, after.launches) == (before.uploads + 3, before.launches + 3)
    assert after.allocations == before.allocations


def test_pictures_of_a_batch_keep_apart(device: Device, kernels: Module, stream: Stream) -> None:
    preprocessor = CudaPreprocessor(device, kernels, SPEC, len(SIZES))
    tensor = device.allocate(4 * int(np.prod(preprocessor.shape)))
    images = [noise(*size, number) for number, size in enumerate(SIZES)]
    sources = [on_device(device, image, stream) for image in images]
    for index, ((width, height), source) in enumerate(zip(SIZES, sources, strict=True)):
        preprocessor.place(index, width, height, "bgr", 3 * width, source.address, stream)
    preprocessor(tensor.address, stream)
    found = fetch(device, tensor, preprocessor.shape, np.float32, stream)
    np.testing.assert_array_equal(found, np.concatenate([expected_tensor(image) for image in images]))


@pytest.mark.parametrize("classes", [21, 300])
def test_one_graph_maps_classes_to_every_picture_size(
    device: Device, kernels: Module, stream: Stream, classes: int
) -> None:
    logits = np.random.default_rng(1).normal(size=(1, classes, 6, 8)).astype(np.float32)
    output = on_device(device, logits, stream)
    preprocessor = CudaPreprocessor(device, kernels, SPEC)
    semantic = CudaSemantic(device, kernels, INPUT_WH, (6, 8), classes, has_map=False)
    result = device.allocate(semantic.result_bytes([(120, 90)]))
    address = preprocessor.pictures_address
    launch = replay(device, stream, lambda: semantic(output.address, address, result.address, stream))
    mapper = ClassMapper(INPUT_WH, classes)
    for width, height in SIZES:
        placement = preprocessor.place(0, width, height, "bgr", 3 * width, output.address, stream)
        launch()
        found = fetch(device, result, (height, width), semantic.dtype, stream)
        np.testing.assert_array_equal(found, mapper.to_source(mapper.argmax(logits[0]), placement))


def test_results_are_drawn_where_the_picture_lies(device: Device, kernels: Module, stream: Stream) -> None:
    width, height = SIZES[0]
    image = noise(width, height)
    source = on_device(device, image, stream)
    preprocessor = CudaPreprocessor(device, kernels, SPEC)
    preprocessor.place(0, width, height, "bgr", 3 * width, source.address, stream)
    boxes = np.array([[[10, 10, 50, 40], [30.4, 5, 99, 60]]], np.float32)
    class_map = np.random.default_rng(2).integers(0, 5, (height, width), dtype=np.uint8)
    given = [np.array([2], np.int32), boxes, np.array([[3, 7]], np.int32), class_map]
    counts, corners, classes, maps = (on_device(device, array, stream) for array in given)
    tint, pen = CudaOverlay(device, kernels, 5, plain=0), CudaDraw(device, kernels, 2)
    tint(maps.address, preprocessor.pictures_address, stream)
    pen(preprocessor.pictures_address, counts.address, corners.address, classes.address, stream)
    overlay(image, class_map, 0)
    draw_boxes(image, boxes[0], np.array([3, 7]))
    np.testing.assert_array_equal(fetch(device, source, image.shape, np.uint8, stream), image)
    assert (image[10, 20] == palette()[3]).all()


def test_what_is_closed_twice_is_freed_once(
    device: Device, driver: standin.Driver, kernels: Module, stream: Stream
) -> None:
    before = driver.count("live_allocations")
    made: list[Any] = [
        CudaPreprocessor(device, kernels, SPEC, 2),
        CudaSemantic(device, kernels, INPUT_WH, (6, 8), 5, has_map=False),
        CudaDraw(device, kernels, 3),
        CudaOverlay(device, kernels, 3),
    ]
    assert driver.count("live_allocations") > before
    for _ in range(2):
        for each in made:
            each.close()
    assert driver.count("live_allocations") == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a free that fails unasked
def test_whichever_call_fails_nothing_is_left_behind_and_the_next_try_works(
    device: Device, driver: standin.Driver, kernels: Module, stream: Stream
) -> None:
    image = noise(100, 60)
    source = on_device(device, image, stream)
    before = driver.alive()

    def whole() -> NDArray[Any]:
        made: list[Any] = []
        try:
            preprocessor = CudaPreprocessor(device, kernels, SPEC)
            made.append(preprocessor)
            made.append(CudaSemantic(device, kernels, INPUT_WH, (6, 8), 5, has_map=False))
            made.append(CudaDraw(device, kernels, 3))
            made.append(CudaOverlay(device, kernels, 3))
            tensor = device.allocate(4 * int(np.prod(preprocessor.shape)))
            made.append(tensor)
            preprocessor.place(0, 100, 60, "bgr", 300, source.address, stream)
            preprocessor(tensor.address, stream)
            return fetch(device, tensor, preprocessor.shape, np.float32, stream)
        finally:
            stream.synchronize()
            for each in made:
                each.close()

    def attempt() -> str:
        """The start of the error's words."""
        try:
            np.testing.assert_array_equal(whole(), expected_tensor(image))
        except DeviceError as error:
            return str(error).split()[0]
        return ""

    failed = set()
    for number in range(200):
        driver.fail(after=number)
        failed.add(attempt())
        driver.clear_faults()
        gc.collect()
        stream.synchronize()
        assert driver.alive() == before
        if not driver.last_failed():
            break
    assert {"cuMemAlloc", "cuMemcpyHtoDAsync", "cuLaunchKernel", ""} <= failed
    assert attempt() == ""
    # Where the wait itself fails, nothing is left to do but to go.
    assert all("operations are pending" in complaint for complaint in driver.take_complaints())


def test_place_says_the_record_again_after_an_upload_failed(
    device: Device, driver: standin.Driver, kernels: Module, stream: Stream
) -> None:
    image = noise(*SIZES[0])
    source = on_device(device, image, stream)
    preprocessor = CudaPreprocessor(device, kernels, SPEC)
    tensor = device.allocate(4 * int(np.prod(preprocessor.shape)))
    where = (0, *SIZES[0], "bgr", 3 * SIZES[0][0], source.address, stream)
    for after in range(2):
        driver.fail("cuMemcpyHtoDAsync", after=after)
        with pytest.raises(DeviceError, match="cuMemcpyHtoDAsync"):
            preprocessor.place(*where)
        driver.clear_faults()
    assert preprocessor.place(*where) == place(SIZES[0], INPUT_WH, "letterbox")
    preprocessor(tensor.address, stream)
    found = fetch(device, tensor, preprocessor.shape, np.float32, stream)
    np.testing.assert_array_equal(found, expected_tensor(image))

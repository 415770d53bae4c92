"""Preprocessing on the device has the CPU's bits: the kernels run on this CPU, in shuffled order."""

from __future__ import annotations

import ctypes
import itertools
import mmap
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from edgevision.errors import UsageError
from edgevision.geometry import RESIZE_MODES, place
from edgevision.kernels.cpu import Preprocessor
from edgevision.kernels.cuda_preprocess import CudaPreprocessor
from edgevision.kernels.fixed_point import bgr_from_nv12
from edgevision.kernels.picture import PIXEL_FORMATS
from edgevision.manifest import COLORS, Preprocess
from edgevision.nv12 import is_nv12
from tests.standins.host_device import HostDevice, HostModule, open_kernels

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
FENCE = 64


@pytest.fixture(scope="module")
def kernels() -> HostModule:
    return open_kernels(["preprocess.cu"])


@dataclass
class Planes:
    """A picture with unused bytes between its rows, and what it shows."""

    size_wh: tuple[int, int]
    pixel_format: str
    pitch_bytes: int
    chroma_pitch_bytes: int
    memory: NDArray[np.uint8]
    chroma: NDArray[np.uint8]
    bgr: NDArray[np.uint8]

    def place(self, preprocessor: CudaPreprocessor, index: int) -> None:
        chroma = {}
        if is_nv12(self.pixel_format):
            chroma = {"chroma_address": self.chroma.ctypes.data, "chroma_pitch_bytes": self.chroma_pitch_bytes}
        address = self.memory.ctypes.data
        where = (*self.size_wh, self.pixel_format, self.pitch_bytes, address)
        placement = preprocessor.place(index, *where, None, **chroma)
        assert placement == place(self.size_wh, preprocessor.spec.input_wh, preprocessor.spec.resize)


def noise(nbytes: int, seed: int, *, offset: int = 0, at_end_of_memory: bool = False) -> NDArray[np.uint8]:
    """Random bytes; the byte behind them may not be read where `at_end_of_memory`."""
    if at_end_of_memory:
        page = mmap.PAGESIZE
        whole = -(-nbytes // page) * page
        memory = mmap.mmap(-1, whole + page)
        view = np.frombuffer(memory, np.uint8)
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(view.ctypes.data + whole), page, 0) == 0
        result = view[whole - nbytes : whole]
    else:
        result = np.empty(nbytes + offset, np.uint8)[offset:]
    result[:] = np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)
    return result


def planes(size_wh: tuple[int, int], pixel_format: str, extra: int = 0, seed: int = 0, **memory: Any) -> Planes:
    width, height = size_wh
    if is_nv12(pixel_format):
        pitch, chroma_w, chroma_h = width + extra, (width + 1) // 2, (height + 1) // 2
        chroma_pitch = 2 * chroma_w + extra
        luma = noise(pitch * (height - 1) + width, seed, **memory)
        chroma = noise(chroma_pitch * (chroma_h - 1) + 2 * chroma_w, seed + 1, **memory)
        bgr = bgr_from_nv12(
            as_strided(luma, (height, width), (pitch, 1)),
            as_strided(chroma, (chroma_h, chroma_w, 2), (chroma_pitch, 2, 1)),
            pixel_format,
        )
        return Planes(size_wh, pixel_format, pitch, chroma_pitch, luma, chroma, bgr)
    pitch = 3 * width + extra
    pixels = noise(pitch * (height - 1) + 3 * width, seed, **memory)
    shown = as_strided(pixels, (height, width, 3), (pitch, 3, 1))
    bgr = np.ascontiguousarray(shown if pixel_format == "bgr" else shown[:, :, ::-1])
    return Planes(size_wh, pixel_format, pitch, 0, pixels, pixels, bgr)


def spec(**changes: Any) -> Preprocess:
    normalised = {} if changes.get("dtype") == "uint8" else {"mean": MEAN, "std": STD}
    if changes.get("color") == "gray":
        raw = changes.get("dtype") == "uint8"
        normalised = {"mean": (0.0,), "std": (1.0,)} if raw else {"mean": (97.5,), "std": (61.25,)}
    return Preprocess(**{"input_name": "image", "input_wh": (64, 48), **normalised, **changes})


def expected(chosen: Preprocess, pictures: list[Planes], dtype: str) -> NDArray[Any]:
    """The CPU's tensors."""
    preprocessor = Preprocessor(chosen)
    tensors = np.empty((len(pictures), *preprocessor.shape[1:]), preprocessor.dtype)
    for picture, tensor in zip(pictures, tensors, strict=True):
        preprocessor(picture.bgr, tensor)
    return tensors.astype(dtype)


def run(preprocessor: CudaPreprocessor) -> NDArray[Any]:
    """The device's, into memory full of other bytes."""
    device = HostDevice()
    nbytes = int(np.prod(preprocessor.shape)) * preprocessor.dtype.itemsize
    out = device.allocate(nbytes + FENCE)
    preprocessor(out.address, None)
    assert (out.bytes[nbytes:] == 0xA5).all(), "written behind the tensor"
    return out.bytes[:nbytes].view(preprocessor.dtype).reshape(preprocessor.shape)


def check(kernels: HostModule, chosen: Preprocess, pictures: list[Planes], dtype: str) -> None:
    preprocessor = CudaPreprocessor(HostDevice(), kernels, chosen, len(pictures), dtype)
    for index, picture in enumerate(pictures):
        picture.place(preprocessor, index)
    np.testing.assert_array_equal(run(preprocessor), expected(chosen, pictures, dtype))


DTYPES = ("float32", "float16", "uint8")


@pytest.mark.parametrize(
    ("layout", "dtype", "resize", "color"),
    itertools.product(("nchw", "nhwc"), DTYPES, RESIZE_MODES, COLORS),
)
def test_every_mode_has_the_cpus_bits(kernels: HostModule, layout: str, dtype: str, resize: str, color: str) -> None:
    stored = "uint8" if dtype == "uint8" else "float32"
    chosen = spec(layout=layout, dtype=stored, resize=resize, color=color, pad_value=114.5)
    sizes = [(128, 72), (33, 90), (1, 1), (64, 48), (128, 96), (5, 3)]
    formats = itertools.cycle(PIXEL_FORMATS)
    pictures = [planes(size, next(formats), extra=number, seed=number) for number, size in enumerate(sizes)]
    check(kernels, chosen, pictures, dtype)


a_picture = st.builds(
    planes,
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.sampled_from(PIXEL_FORMATS),
    st.integers(0, 20),
    st.integers(0, 99),
    offset=st.integers(0, 9),
)


@given(
    pictures=st.lists(a_picture, min_size=1, max_size=8),
    input_wh=st.tuples(st.integers(1, 130), st.integers(1, 70)),
    resize=st.sampled_from(RESIZE_MODES),
    layout=st.sampled_from(("nchw", "nhwc")),
    color=st.sampled_from(("rgb", "gray")),
    dtype=st.sampled_from(DTYPES),
    pad=st.floats(0, 255, width=32),
    seed=st.integers(0, 1 << 32),
)
@settings(max_examples=150)
def test_any_batch_has_the_cpus_bits_in_any_order_of_threads(
    kernels: HostModule,
    pictures: list[Planes],
    input_wh: tuple[int, int],
    resize: str,
    layout: str,
    color: str,
    dtype: str,
    pad: float,
    seed: int,
) -> None:
    kernels.seed(seed)
    stored = "uint8" if dtype == "uint8" else "float32"
    chosen = spec(input_wh=input_wh, resize=resize, layout=layout, color=color, dtype=stored, pad_value=pad)
    check(kernels, chosen, pictures, dtype)


@pytest.mark.parametrize("pixel_format", PIXEL_FORMATS)
def test_nothing_behind_a_picture_is_read(kernels: HostModule, pixel_format: str) -> None:
    """The byte behind it would stop the process."""
    for size, extra in itertools.product([(1, 1), (2, 1), (1, 7), (5, 3), (6, 5), (64, 48), (130, 97)], (0, 5)):
        for resize, color in itertools.product(RESIZE_MODES, ("rgb", "gray")):
            last = planes(size, pixel_format, extra, at_end_of_memory=True)
            check(kernels, spec(resize=resize, color=color), [last], "float32")


@pytest.mark.parametrize("size", [(1280, 720), (1919, 1079)])
@pytest.mark.parametrize("pixel_format", PIXEL_FORMATS)
def test_camera_pictures_have_the_cpus_bits(kernels: HostModule, size: tuple[int, int], pixel_format: str) -> None:
    chosen = spec(input_wh=(320, 320), resize="letterbox", mean=(0.0,) * 3, std=(255.0,) * 3)
    check(kernels, chosen, [planes(size, pixel_format, extra=37)], "float16")


def test_nv12_is_opencvs_conversion_then_the_cpus_preprocessing(kernels: HostModule) -> None:
    chosen = spec(resize="letterbox")
    picture = planes((90, 60), "nv12")
    together = np.concatenate([picture.memory.reshape(60, 90), picture.chroma.reshape(30, 90)])
    np.testing.assert_array_equal(picture.bgr, cv2.cvtColor(together, cv2.COLOR_YUV2BGR_NV12))
    check(kernels, chosen, [picture], "float32")


def test_every_order_of_threads_gives_the_same_bytes(kernels: HostModule) -> None:
    chosen = spec(input_wh=(100, 50), resize="letterbox")
    pictures = [planes((70, 90), "bgr"), planes((31, 17), "nv12")]
    for seed in range(12):
        kernels.seed(seed)
        check(kernels, chosen, pictures, "float32")


def test_slots_without_a_picture_are_padding(kernels: HostModule) -> None:
    preprocessor = CudaPreprocessor(HostDevice(), kernels, spec(resize="letterbox"), 3)
    picture = planes((40, 40), "bgr")
    picture.place(preprocessor, 1)
    out = run(preprocessor)
    np.testing.assert_array_equal(out[1:2], expected(spec(resize="letterbox"), [picture], "float32"))
    padding = ((np.float32(114) - np.array(MEAN, np.float32)) / np.array(STD, np.float32))[:, None, None]
    assert (out[[0, 2]] == padding).all()


def test_a_cleared_slot_is_padding_until_it_is_filled_again(kernels: HostModule) -> None:
    chosen = spec(resize="letterbox")
    preprocessor = CudaPreprocessor(HostDevice(), kernels, chosen, 2)
    picture = planes((40, 40), "bgr")
    for index in range(2):
        picture.place(preprocessor, index)
    preprocessor.clear(1, None)
    out = run(preprocessor)
    np.testing.assert_array_equal(out[:1], expected(chosen, [picture], "float32"))
    np.testing.assert_array_equal(out[1], run(CudaPreprocessor(HostDevice(), kernels, chosen))[0])
    picture.place(preprocessor, 1)
    np.testing.assert_array_equal(run(preprocessor), expected(chosen, [picture] * 2, "float32"))


class CountingDevice(HostDevice):
    uploads = 0

    def upload(self, address: int, array: NDArray[Any], stream: Any) -> None:
        self.uploads += 1
        super().upload(address, array, stream)


def test_only_what_changed_is_uploaded(kernels: HostModule) -> None:
    device = CountingDevice()
    preprocessor = CudaPreprocessor(device, kernels, spec(resize="letterbox"), 2)
    first, second = planes((80, 60), "bgr"), planes((80, 60), "bgr", seed=1)
    first.place(preprocessor, 0)
    first.place(preprocessor, 1)
    device.uploads = 0
    for _ in range(3):
        first.place(preprocessor, 0)
    assert device.uploads == 0
    second.place(preprocessor, 0)  # another address: the record
    assert device.uploads == 1
    planes((81, 60), "bgr").place(preprocessor, 0)  # another size: the weights too
    assert device.uploads == 3


@given(pictures=st.lists(a_picture, min_size=2, max_size=6))
@settings(max_examples=40)
def test_nothing_of_earlier_pictures_is_left_when_sizes_change(kernels: HostModule, pictures: list[Planes]) -> None:
    chosen = spec(resize="letterbox")
    preprocessor = CudaPreprocessor(HostDevice(), kernels, chosen)
    for picture in pictures:
        picture.place(preprocessor, 0)
        np.testing.assert_array_equal(run(preprocessor), expected(chosen, [picture], "float32"))


def test_values_beyond_float16_are_infinite(kernels: HostModule) -> None:
    chosen = spec(mean=(0.0,) * 3, std=(1e-3,) * 3)
    with np.errstate(over="ignore"):
        check(kernels, chosen, [planes((50, 40), "bgr")], "float16")


@pytest.mark.parametrize(
    ("stored", "dtype", "batch"),
    [("uint8", "float32", 1), ("float32", "uint8", 1), ("float32", "int32", 1), ("float32", "float32", 0)],
)
def test_what_cannot_be_made_is_refused(kernels: HostModule, stored: str, dtype: str, batch: int) -> None:
    with pytest.raises(UsageError, match=r"got|cannot"):
        CudaPreprocessor(HostDevice(), kernels, spec(dtype=stored), batch, dtype)


def test_pictures_that_cannot_be_are_refused(kernels: HostModule) -> None:
    preprocessor = CudaPreprocessor(HostDevice(), kernels, spec())
    for width, height in ((0, 5), (5, 0), (32768, 1), (1, 40000)):
        with pytest.raises(UsageError, match="sides are 1 to 32767"):
            preprocessor.place(0, width, height, "bgr", 3 * width, 4096, None)
    with pytest.raises(UsageError, match="pitch"):
        preprocessor.place(0, 10, 10, "bgr", 29, 4096, None)

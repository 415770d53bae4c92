"""A cascade on the stand-in GPU: one upload of the frame serves both stages, crops are classified eight at once."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import edgevision
from edgevision.cascade import Cascade
from edgevision.cuda import open_device
from edgevision.frame import DevicePicture, Frame
from edgevision.results import Detections
from tests.device_models import noise
from tests.standins.tensorrt import Standin
from tests.tiny_models import classifier_bundle, detector_bundle


def blocks(seed: int) -> NDArray[np.uint8]:
    """640x480 pixels of coloured blocks, one to each cell of the detector."""
    return np.ascontiguousarray(noise(128, 96, seed).repeat(5, axis=0).repeat(5, axis=1))


@pytest.fixture
def bundles(tmp_path: Path) -> tuple[Path, Path]:
    classifier = classifier_bundle(tmp_path / "classifier.edge", batch="batch")
    return detector_bundle(tmp_path / "detector.edge", (64, 64), "letterbox"), classifier


def found_by(backend: str, bundles: tuple[Path, Path], frames: list[Frame]) -> list[Detections]:
    with (
        edgevision.load(bundles[0], backend=backend, confidence=0.7, quiet=True) as detector,
        edgevision.load_classifier(bundles[1], backend=backend, quiet=True) as classifier,
    ):
        cascade = Cascade(detector, classifier, padding=0.2, confidence=0.1)
        results = [cascade(frame) for frame in frames]
        cascade.close()
    return results


def same(one: Detections, other: Detections) -> None:
    assert len(one) == len(other)
    np.testing.assert_array_equal(one.class_id, other.class_id)
    np.testing.assert_array_equal(one.xyxy, other.xyxy)
    np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-6)


def test_it_finds_what_it_finds_on_the_cpu(trt: Standin, bundles: tuple[Path, Path]) -> None:
    frames = [Frame(blocks(seed)) for seed in range(3)] + [Frame(noise(97, 33, 9))]
    counts = []
    for one, other in zip(found_by("tensorrt", bundles, frames), found_by("cpu", bundles, frames), strict=True):
        same(one, other)
        counts.append(len(one))
    assert max(counts) > 16, "more than two batches"


def test_only_the_frame_crosses_to_the_gpu(trt: Standin, bundles: tuple[Path, Path]) -> None:
    """Crops are parts of it: each costs a record and its size's weights, a few hundred bytes."""
    images = [blocks(seed) for seed in range(8)]
    device = open_device()
    with (
        edgevision.load(bundles[0], backend="tensorrt", confidence=0.7, quiet=True) as detector,
        edgevision.load_classifier(bundles[1], backend="tensorrt", quiet=True) as classifier,
    ):
        cascade = Cascade(detector, classifier, padding=0.2, confidence=0.1)
        for image in images[:3]:
            cascade(image)
            detector(image)
        before = device.counters
        crops = sum(len(detector(image)) for image in images[3:])
        alone = device.counters
        found = [cascade(image) for image in images[3:]]
        after = device.counters
        cascade.close()
        assert classifier.facts()["cuda_graph"]
    assert sum(map(len, found)) > 40
    both, first = after.upload_bytes - alone.upload_bytes, alone.upload_bytes - before.upload_bytes
    assert first >= 5 * images[0].nbytes
    assert both - first <= 400 * (crops + 8 * len(images))
    assert after.allocations == before.allocations


@pytest.mark.parametrize("pixel_format", ["bgr", "nv12"])
def test_a_frame_in_the_gpu_s_memory_stays_there(trt: Standin, bundles: tuple[Path, Path], pixel_format: str) -> None:
    image = noise(160, 120, 4)
    device = open_device()
    pixels, pitch = packed(image, pixel_format)
    buffer = device.allocate(pixels.nbytes)
    ctypes.memmove(buffer.address, pixels.ctypes.data, pixels.nbytes)
    downloads: list[int] = []

    def download() -> NDArray[np.uint8]:
        downloads.append(1)
        return shown(pixels, image.shape[:2], pixel_format)

    frame = Frame(DevicePicture(buffer.address, (160, 120), pixel_format, pitch, download))
    (found,) = found_by("tensorrt", bundles, [frame])
    assert not downloads
    assert len(found) > 4
    # The CPU cuts where it likes; on the GPU parts of NV12 begin at even pixels.
    (expected,) = found_by("cpu", bundles, [Frame(shown(pixels, image.shape[:2], pixel_format))])
    if pixel_format == "bgr":
        same(found, expected)
    else:
        np.testing.assert_array_equal(found.class_id, expected.class_id)
        np.testing.assert_allclose(found.confidence, expected.confidence, atol=0.05)
    buffer.close()


def packed(image: NDArray[np.uint8], pixel_format: str) -> tuple[NDArray[np.uint8], int]:
    """The bytes of a picture, and its pitch."""
    import cv2

    high, wide = image.shape[:2]
    if pixel_format == "bgr":
        return image, 3 * wide
    planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420).astype(np.uint8)
    chroma = planes[high:].reshape(2, high // 2, wide // 2)
    return np.concatenate([planes[:high], np.stack([chroma[0], chroma[1]], axis=2).reshape(high // 2, wide)]), wide


def shown(pixels: NDArray[np.uint8], size_hw: tuple[int, int], pixel_format: str) -> NDArray[np.uint8]:
    import cv2

    if pixel_format == "bgr":
        return pixels
    return cv2.cvtColor(pixels.reshape(size_hw[0] * 3 // 2, size_hw[1]), cv2.COLOR_YUV2BGR_NV12).astype(np.uint8)

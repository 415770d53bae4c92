"""Every driver call fails in turn: each failure names its call, nothing hangs or leaks, and the next model works."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import edgevision
from edgevision.cuda import open_device
from edgevision.errors import DeviceError, EdgeVisionError, SessionError
from edgevision.model import Model
from tests.device_models import noise
from tests.standins import cuda as standin
from tests.standins.tensorrt import Standin
from tests.tiny_models import detector_bundle, segmenter_bundle

THREADS, MODELS, TIMEOUT_S = 8, 2, 60
PICTURE, OTHER = noise(40, 30), noise(20, 50)
# How the stand-in TensorRT gives memory back on any thread; the device's own use of it is test_cuda's.
NOT_OURS = ("cuDevicePrimaryCtxGetState", "cuDevicePrimaryCtxRelease")


@pytest.fixture
def bundles(tmp_path: Path, trt: Standin) -> list[Path]:
    """Two models with their plans in the cache."""
    paths = [
        detector_bundle(tmp_path / "detector.edge", (16, 16), "letterbox"),
        segmenter_bundle(tmp_path / "segmenter.edge", (16, 16), "letterbox"),
    ]
    for path in paths:
        gpu(path).close()
    gc.collect()
    open_device().close()
    return paths


def gpu(path: Path) -> Model:
    return edgevision.load(path, backend="tensorrt", quiet=True)


def life(path: Path) -> list[Any]:
    """All that a program does with a model: load, run, capture, replay, a larger picture, a second lane, close."""
    with gpu(path) as model:
        results = [model(picture) for picture in (OTHER, OTHER, OTHER, PICTURE, PICTURE)]
        with contextlib.closing(model.open_lane()) as lane:
            results += [lane(PICTURE), lane(PICTURE), lane(PICTURE)]
    return results


def left_behind(driver: standin.Driver) -> dict[str, int]:
    """What lives after everything was let go."""
    gc.collect()
    with contextlib.suppress(DeviceError):
        open_device().close()
    return driver.alive()


def calls_of_a_life(driver: standin.Driver, path: Path) -> Counter[str]:
    driver.reset()
    life(path)
    gc.collect()
    open_device().close()
    return Counter({name: count for name, count in driver.calls().items() if name not in NOT_OURS})


@pytest.mark.parametrize(("which", "points"), [(0, (0.0, 1.0)), (1, (0.6,))], ids=["detector", "segmenter"])
def test_each_call_fails_once_and_is_named(
    bundles: list[Path], driver: standin.Driver, which: int, points: tuple[float, ...]
) -> None:
    """Of each kind of call the first and the last; or one in between."""
    path = bundles[which]
    counts = calls_of_a_life(driver, path)
    assert len(counts) > 25
    unnamed, raised = [], 0
    for name, count in sorted(counts.items()):
        for after in sorted({int(point * (count - 1)) for point in points}):
            driver.reset()
            driver.fail(name, after=after)
            words = outcome(path)
            raised += bool(words)
            if words and name not in words:
                unnamed.append((name, after, words))
            driver.clear_faults()
            driver.take_complaints()
            assert left_behind(driver) == {}, (name, after, words)
    assert unnamed == []
    assert raised > len(counts) / 2
    driver.reset()
    life(path)


def outcome(path: Path) -> str:
    """What went wrong in a life, in words: an error's, or the notes of a model that found another way."""
    try:
        with gpu(path) as model:
            for picture in (OTHER, OTHER, OTHER, PICTURE, PICTURE):
                model(picture)
            with contextlib.closing(model.open_lane()) as lane:
                for _ in range(3):
                    lane(PICTURE)
            return "; ".join(model.facts()["notes"])
    except (DeviceError, SessionError) as error:
        return str(error)


def test_eight_threads_and_two_models_survive_a_failing_driver(
    bundles: list[Path], trt: Standin, driver: standin.Driver
) -> None:
    """All threads at work while every kind of call fails in turn, some calls after it came first."""
    counts = calls_of_a_life(driver, bundles[0])
    wanted = [life(path)[0] for path in bundles]
    driver.reset()
    stop = threading.Event()
    errors: Counter[str] = Counter()

    def work(index: int) -> int:
        done = 0
        while not stop.is_set():
            with contextlib.suppress(DeviceError, SessionError), gpu(bundles[index % MODELS]) as model:
                for lane in lanes(model):
                    for _ in range(3):
                        try:
                            lane(OTHER)
                            done += 1
                        except (DeviceError, SessionError) as error:
                            errors[str(error)] += 1
        return done

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(work, index) for index in range(THREADS)]
        try:
            for name in sorted(counts):
                driver.fail(name, after=3)
                stop.wait(0.15)
                driver.clear_faults()
        finally:
            stop.set()
        done = [future.result(timeout=TIMEOUT_S) for future in futures]
    assert min(done) > 0
    assert errors
    driver.take_complaints()
    trt.world.errors.clear()
    assert left_behind(driver) == {}
    driver.reset()
    for path, result in zip(bundles, wanted, strict=True):
        again = life(path)[0]
        assert type(again) is type(result)


def lanes(model: Model) -> Iterator[Any]:
    """The model itself and a lane of its own."""
    yield model
    with contextlib.closing(model.open_lane()) as lane:
        yield lane


def test_a_failure_in_tensorrt_is_told_in_its_words(bundles: list[Path], trt: Standin) -> None:
    with gpu(bundles[0]) as model:
        model(PICTURE)
        trt.world.fail_enqueues = 1
        model(PICTURE)  # the capture is refused, the frame is not
        trt.world.fail_enqueues = 1
        with pytest.raises(SessionError, match=r"TensorRT 10.3.0 failed to run"):
            model(PICTURE)
        assert model(PICTURE)


def test_errors_are_the_packages_own(bundles: list[Path], driver: standin.Driver) -> None:
    for call in ("cuMemAlloc", "cuMemHostAlloc"):
        driver.fail(call, times=-1, code=standin.OUT_OF_MEMORY)
        with pytest.raises(EdgeVisionError, match="memory"):
            gpu(bundles[0])
        driver.clear_faults()

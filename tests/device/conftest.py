"""The real pycuda over the stand-in driver."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevision.cuda import Device, open_device
from tests.standins import cuda as standin
from tests.standins.tensorrt import Standin, install


@pytest.fixture
def driver() -> Iterator[standin.Driver]:
    """The stand-in driver with one GPU. Afterwards nothing may be left of what the test made, nor any complaint.

    Outside of tests that ask for it the process has a driver without a GPU.
    """
    loaded = standin.load()
    loaded.reset()
    gc.freeze()  # the collections of this test look at its own objects only: a hundred times quicker
    yield loaded
    gc.collect()
    gc.unfreeze()
    complaints, alive = loaded.complaints(), loaded.alive()
    loaded.reset()
    loaded.set(devices=0)
    assert not complaints
    assert not alive


@pytest.fixture
def device(driver: standin.Driver) -> Iterator[Device]:
    """The stand-in GPU."""
    opened = open_device()
    yield opened
    gc.collect()  # what the test did not close
    opened.close()


@pytest.fixture(scope="session")
def plain_kernels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A module image with the kernels of plain_kernels.cpp."""
    built = tmp_path_factory.mktemp("kernels") / "plain_kernels.so"
    source = Path(__file__).with_name("plain_kernels.cpp")
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", f"-I{standin.HERE}", source, "-o", built]
    subprocess.run(list(map(str, command)), check=True, timeout=100)
    return f"CUEMU:{built}".encode()


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder for this test, and a compiler of kernels for the stand-in GPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEVISION_NVCC", str(standin.HERE.parent / "nvcc"))
    return tmp_path / "cache" / "edgevision"


@pytest.fixture
def trt(driver: standin.Driver, home: Path) -> Iterator[Standin]:
    """TensorRT 10.3 on the stand-in GPU; what its contexts do wrong fails the test."""
    with install("10.3.0") as installed:
        yield installed
    gc.collect()
    open_device().close()
    assert not installed.world.errors

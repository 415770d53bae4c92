"""The real pycuda over the stand-in driver."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from edgevision.cuda import Device, open_device
from tests.standins import cuda as standin


@pytest.fixture
def driver() -> Iterator[standin.Driver]:
    """The stand-in driver with one GPU. Afterwards nothing may be left of what the test made, nor any complaint.

    Outside of tests that ask for it the process has a driver without a GPU.
    """
    loaded = standin.load()
    loaded.reset()
    yield loaded
    gc.collect()
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

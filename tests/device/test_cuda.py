"""edgevision.cuda over the real pycuda and the stand-in driver."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import sysconfig
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgevision.cuda import Counters, Device, Module, driver_problem, open_device
from edgevision.errors import CaptureError, DeviceError
from tests.standins import cuda as standin

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).resolve().parents[2]
N = 250
GRID, BLOCK = (1, 1, 1), (32, 1, 1)


def values() -> np.ndarray:
    return np.arange(N, dtype=np.float32)


# What a device says of itself


def test_a_device_says_what_it_is(device: Device) -> None:
    assert (device.index, device.name, device.sm, device.cuda_version) == (0, "stand-in GPU", 87, (12, 6))
    assert device.total_bytes == 8 << 30
    assert not device.integrated
    assert device.uuid == "GPU-00112233-4455-6677-8899-aabbccddeeff"


def test_a_device_is_opened_once_and_again_after_closing(driver: standin.Driver) -> None:
    first = open_device()
    assert open_device() is first
    assert driver.count("retained_contexts") == 1
    first.close()
    first.close()
    assert driver.alive() == {}
    with pytest.raises(DeviceError, match="GPU 0 was closed: open it again"):
        first.stream()
    second = open_device()
    assert second is not first
    second.close()


def test_a_gpu_that_is_not_there(driver: standin.Driver) -> None:
    with pytest.raises(DeviceError, match="no GPU 3: this machine has 1"):
        open_device(3)


# Copies, streams, events


def test_what_goes_up_comes_down(device: Device) -> None:
    stream, buffer = device.stream(), device.allocate(4 * N)
    source, target = device.pinned((10, 25), np.float32), device.pinned(N, np.float32)
    source.array[:] = values().reshape(10, 25)
    device.upload(buffer.address, source.array, stream)
    device.download(target.array, buffer.address, stream)
    stream.synchronize()
    np.testing.assert_array_equal(target.array, values())
    assert device.counters == Counters(3, 0, 1, 4 * N, 1, 4 * N)


def test_without_waiting_nothing_has_come_down(device: Device) -> None:
    """A wait that is missing in the package shows in its tests."""
    stream, buffer, target = device.stream(), device.allocate(4 * N), device.pinned(N, np.float32)
    device.upload(buffer.address, values(), stream)
    device.download(target.array, buffer.address, stream)
    assert np.isnan(target.array).all()
    stream.synchronize()
    np.testing.assert_array_equal(target.array, values())


def test_fresh_memory_means_nothing(device: Device) -> None:
    stream, buffer, target = device.stream(), device.allocate(4 * N), device.pinned(N, np.float32)
    assert np.isnan(target.array).all()
    target.array[:] = 0
    device.download(target.array, buffer.address, stream)
    stream.synchronize()
    assert np.isnan(target.array).all()
    assert np.isnan(target.array.view(np.float16)).all()


def test_a_pinned_source_is_read_late_and_a_pageable_one_at_once(device: Device, driver: standin.Driver) -> None:
    stream = device.stream()
    pinned, pageable = device.pinned(4, np.uint8), np.zeros(4, np.uint8)
    early, late = device.allocate(4), device.allocate(4)
    pinned.array[:] = 0
    device.upload(late.address, pinned.array, stream)
    device.upload(early.address, pageable, stream)
    pinned.array[:] = pageable[:] = 1
    for buffer, expected in ((late, 1), (early, 0)):
        result = np.empty(4, np.uint8)
        device.download(result, buffer.address, stream)
        stream.synchronize()
        assert (result == expected).all()
    assert driver.count("pageable_copies") == 3


def test_fill(device: Device) -> None:
    stream, buffer, target = device.stream(), device.allocate(8), device.pinned(8, np.uint8)
    device.fill(buffer.address, 7, 8, stream)
    device.fill(buffer.address + 2, 9, 3, stream)
    device.download(target.array, buffer.address, stream)
    stream.synchronize()
    np.testing.assert_array_equal(target.array, [7, 7, 9, 9, 9, 7, 7, 7])


def test_a_stream_waits_for_anothers_event(device: Device) -> None:
    first, second, event = device.stream(), device.stream(), device.event()
    buffer, target = device.allocate(4 * N), device.pinned(N, np.float32)
    device.upload(buffer.address, values(), first)
    event.record(first)
    second.wait(event)
    device.download(target.array, buffer.address, second)
    second.synchronize()
    np.testing.assert_array_equal(target.array, values())


def test_a_stream_that_does_not_wait_gets_nothing(device: Device) -> None:
    first, second = device.stream(), device.stream()
    buffer, target = device.allocate(4 * N), device.pinned(N, np.float32)
    device.upload(buffer.address, values(), first)
    device.download(target.array, buffer.address, second)
    second.synchronize()
    assert np.isnan(target.array).all()
    first.synchronize()


def test_events_measure_time(device: Device) -> None:
    stream, start, end = device.stream(), device.event(), device.event()
    buffer = device.allocate(1 << 20)
    start.record(stream)
    for _ in range(3):
        device.fill(buffer.address, 1, buffer.nbytes, stream)
    end.record(stream)
    with pytest.raises(DeviceError, match="cuEventElapsedTime failed: device not ready"):
        start.elapsed_ms(end)
    end.synchronize()
    assert 0 < start.elapsed_ms(end) < 10_000


def test_memory_that_is_not_there(device: Device) -> None:
    with pytest.raises(DeviceError, match=r"cuMemAlloc failed: out of memory.*smaller batch"):
        device.allocate(9 << 30)
    free = device.free_bytes()
    buffer = device.allocate(1000)
    assert device.free_bytes() == free - 1000
    buffer.close()
    assert device.free_bytes() == free


def test_on_an_integrated_gpu_pinned_memory_is_the_devices_too(driver: standin.Driver, plain_kernels: bytes) -> None:
    driver.set(integrated=1)
    device = open_device()
    stream, result = device.stream(), device.pinned(N, np.float32)
    assert device.integrated
    assert result.address is not None
    result.array[:] = values()
    scale = device.load_module(plain_kernels).kernel("scale", "Pif")
    scale(stream, GRID, BLOCK, result.address, N, 2.0)
    stream.synchronize()
    np.testing.assert_array_equal(result.array, 2 * values())
    assert driver.count("downloads") == driver.count("uploads") == 0
    del result, stream, scale
    gc.collect()
    device.close()


def test_on_a_discrete_gpu_it_is_not(device: Device) -> None:
    assert device.pinned(4, np.uint8).address is None


# What is given back, and when


def test_closing_gives_back_once(device: Device, driver: standin.Driver, plain_kernels: bytes) -> None:
    stream = device.stream()
    everything = (
        device.event(),
        device.allocate(100),
        device.pinned((2, 3), np.float16),
        device.load_module(plain_kernels),
        device.capture(stream, lambda: None),
        stream,
    )
    assert driver.alive() == {
        "live_allocations": 1,
        "live_bytes": 100,
        "live_events": 1,
        "live_executables": 1,
        "live_modules": 1,
        "live_pinned": 1,
        "live_pinned_bytes": 12,
        "live_streams": 1,
        "retained_contexts": 1,
    }
    for _ in range(2):
        for handle in everything:
            handle.close()
    assert driver.alive() == {"retained_contexts": 1}
    assert (device.counters.allocations, device.counters.frees) == (2, 2)


def test_what_nobody_refers_to_is_given_back_in_whatever_thread(device: Device, driver: standin.Driver) -> None:
    def use() -> None:
        stream, buffer, pinned, event = (
            device.stream(),
            device.allocate(100),
            device.pinned(4, np.uint8),
            device.event(),
        )
        device.upload(buffer.address, pinned.array, stream)
        event.record(stream)
        stream.synchronize()

    in_thread(use)
    gc.collect()
    assert driver.alive() == {"retained_contexts": 1}


def test_a_view_of_pinned_memory_outlives_its_owner(device: Device, driver: standin.Driver) -> None:
    pinned = device.pinned((4, 5), np.float32)
    pinned.array[:] = 1
    view = pinned.array[1:, ::2]
    pinned.close()
    with pytest.raises(DeviceError, match="was closed"):
        pinned.array  # noqa: B018
    assert driver.count("live_pinned") == 1
    assert (view == 1).all()
    del view
    assert driver.count("live_pinned") == 0


def test_a_closed_handle_says_so(device: Device) -> None:
    stream, event = device.stream(), device.event()
    stream.close()
    event.close()
    for use in (stream.synchronize, event.synchronize, lambda: device.event().record(stream)):
        with pytest.raises(DeviceError, match="was closed: make another"):
            use()


def test_what_outlives_its_device_does_no_harm(driver: standin.Driver) -> None:
    device = open_device()
    stream, buffer, pinned = device.stream(), device.allocate(10), device.pinned(2, np.uint8)
    device.close()
    assert driver.take_complaints() == ["the context ended with 1 live_allocations 1 live_pinned 1 live_streams"]
    for handle in (stream, buffer, pinned):
        handle.close()
    assert driver.take_complaints() == []


# Kernels


def test_a_kernel_runs_with_its_arguments(device: Device, plain_kernels: bytes) -> None:
    stream, buffer, target = device.stream(), device.allocate(4 * N), device.pinned(N, np.float32)
    module = device.load_module(plain_kernels)
    scale, add = module.kernel("scale", "Pif"), module.kernel("add", "Pif")
    del module  # its kernels keep it
    gc.collect()
    device.upload(buffer.address, values(), stream)
    scale(stream, GRID, BLOCK, buffer.address, N, 3.0)
    add(stream, GRID, BLOCK, buffer.address, N, 1.0, shared_bytes=1024)
    device.download(target.array, buffer.address, stream)
    stream.synchronize()
    np.testing.assert_array_equal(target.array, 3 * values() + 1)
    assert device.counters.launches == 2


def test_a_module_takes_its_kernels_along(device: Device, driver: standin.Driver, plain_kernels: bytes) -> None:
    stream, module = device.stream(), device.load_module(plain_kernels)
    scale = module.kernel("scale", "Pif")
    module.close()
    assert driver.count("live_modules") == 0
    with pytest.raises(DeviceError, match="this Kernel was closed"):
        scale(stream, GRID, BLOCK, 0, 0, 1.0)


def test_a_kernel_that_fails_shows_at_the_wait_and_ends_the_context(
    device: Device, driver: standin.Driver, plain_kernels: bytes
) -> None:
    stream, diverge = device.stream(), device.load_module(plain_kernels).kernel("diverge", "")
    diverge(stream, GRID, BLOCK)
    with pytest.raises(
        DeviceError, match=r"cuStreamSynchronize failed: unspecified launch failure.*restart the program"
    ):
        stream.synchronize()
    assert driver.take_complaints() == ["diverge: diverge: a barrier in divergent code"]
    with pytest.raises(DeviceError, match="cuMemAlloc failed: unspecified launch failure"):
        device.allocate(4)


@pytest.mark.parametrize("image", [b"\x7fELF", b"CUEMU:/nowhere.so"])
def test_an_image_that_is_none(device: Device, driver: standin.Driver, image: bytes) -> None:
    with pytest.raises(DeviceError, match="cuModuleLoadDataEx failed: device kernel image is invalid"):
        device.load_module(image)
    assert len(driver.take_complaints()) == 1


def test_a_kernel_that_is_not_there(device: Device, driver: standin.Driver, plain_kernels: bytes) -> None:
    with pytest.raises(DeviceError, match="cuModuleGetFunction failed: named symbol not found"):
        device.load_module(plain_kernels).kernel("nothing", "P")
    assert driver.take_complaints() == ["cuModuleGetFunction: the module has no kernel nothing"]


# Graphs


def test_a_graph_repeats_what_was_captured_with_new_data(
    device: Device, driver: standin.Driver, plain_kernels: bytes
) -> None:
    stream, buffer = device.stream(), device.allocate(4 * N)
    source, target = device.pinned(N, np.float32), device.pinned(N, np.float32)
    start, end = device.event(), device.event()
    scale = device.load_module(plain_kernels).kernel("scale", "Pif")

    def work() -> None:
        start.record(stream)
        device.upload(buffer.address, source.array, stream)
        scale(stream, GRID, BLOCK, buffer.address, N, 2.0)
        device.download(target.array, buffer.address, stream)
        end.record(stream)

    graph = device.capture(stream, work)
    assert driver.count("launches") == driver.count("uploads") == 0
    assert device.counters == Counters(allocations=3)
    for factor in (1, 10):
        source.array[:] = factor * values()
        graph.launch(stream)
        assert np.isnan(target.array).all()
        end.synchronize()
        np.testing.assert_array_equal(target.array, 2 * factor * values())
        assert start.elapsed_ms(end) > 0
    assert device.counters == Counters(3, 0, 2, 8 * N, 2, 8 * N, 2, 2)
    assert driver.count("launches") == 2


def test_what_is_given_back_during_a_capture_goes_when_it_has_ended(device: Device, driver: standin.Driver) -> None:
    """Closed, or found unused by the garbage collector: the driver would refuse, and the capture would be lost."""
    stream, buffer, spare = device.stream(), device.allocate(4), [device.allocate(4), device.stream(), device.event()]
    del_and_fill = (spare.clear, lambda: device.fill(buffer.address, 1, 4, stream))
    graph = device.capture(stream, lambda: [step() for step in del_and_fill][-1])
    assert (driver.count("live_allocations"), driver.count("live_streams"), driver.count("live_events")) == (1, 1, 0)
    graph.launch(stream)
    stream.synchronize()


@pytest.mark.parametrize("refused", ["synchronises", "allocates", "copies pageable memory"])
def test_what_cannot_be_captured_leaves_the_stream_usable(device: Device, driver: standin.Driver, refused: str) -> None:
    stream, buffer = device.stream(), device.allocate(4 * N)
    does: dict[str, Callable[[], object]] = {
        "synchronises": stream.synchronize,
        "allocates": lambda: device.allocate(4),
        "copies pageable memory": lambda: device.upload(buffer.address, values(), stream),
    }
    with pytest.raises(CaptureError):
        device.capture(stream, lambda: (device.fill(buffer.address, 0, 4, stream), does[refused](), None)[2])
    assert driver.take_complaints()
    assert device.counters.uploads == 0
    device.upload(buffer.address, values(), stream)
    target = device.pinned(N, np.float32)
    device.download(target.array, buffer.address, stream)
    stream.synchronize()
    np.testing.assert_array_equal(target.array, values())
    device.capture(stream, lambda: device.fill(buffer.address, 0, 4, stream)).launch(stream)
    stream.synchronize()


def test_an_error_of_the_works_own_passes_through(device: Device, driver: standin.Driver) -> None:
    stream = device.stream()

    def work() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        device.capture(stream, work)
    assert driver.count("live_graphs") == 0
    stream.synchronize()


# Threads


def in_thread(work: Callable[[], None]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "hangs"
    if failed:
        raise failed.pop()


def test_eight_threads_share_a_device(device: Device, driver: standin.Driver, plain_kernels: bytes) -> None:
    module: Module = device.load_module(plain_kernels)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            stream, buffer = device.stream(), device.allocate(4 * N)
            source, target = device.pinned(N, np.float32), device.pinned(N, np.float32)
            scale = module.kernel("scale", "Pif")
            for turn in range(50):
                source.array[:] = values() + number
                device.upload(buffer.address, source.array, stream)
                scale(stream, GRID, BLOCK, buffer.address, N, float(turn))
                device.download(target.array, buffer.address, stream)
                stream.synchronize()
                np.testing.assert_array_equal(target.array, (values() + number) * turn)
        except BaseException as error:  # noqa: BLE001 - asserted below
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "hangs"
    assert not failed
    assert device.counters.launches == driver.count("launches") == 400
    assert device.counters.uploads == driver.count("uploads") == 400
    assert driver.count("pageable_copies") == driver.count("current_contexts") == 0


def test_contexts_nest_and_survive_exceptions(device: Device, driver: standin.Driver) -> None:
    def nest() -> None:
        with device.current(), device.current():
            assert driver.count("current_contexts") == driver.calls()["cuCtxPushCurrent"] == 1
            raise KeyError

    driver.reset()
    with pytest.raises(KeyError):
        nest()
    assert driver.count("current_contexts") == 0
    assert driver.calls() == {"cuCtxPushCurrent": 1, "cuCtxPopCurrent": 1}


# Failures


def everything(plain_kernels: bytes) -> None:
    """One use of every driver call that the package makes."""
    device = open_device()
    stream, other, start, end = device.stream(), device.stream(), device.event(), device.event()
    buffer, source, target = device.allocate(4 * N), device.pinned(N, np.float32), device.pinned(N, np.float32)
    module = device.load_module(plain_kernels)
    scale = module.kernel("scale", "Pif")
    source.array[:] = 1

    def work() -> None:
        start.record(stream)
        device.upload(buffer.address, source.array, stream)
        scale(stream, GRID, BLOCK, buffer.address, N, 2.0)
        device.download(target.array, buffer.address, stream)
        end.record(stream)

    try:
        work()
        other.wait(end)
        device.fill(buffer.address, 0, 4, other)
        other.synchronize()
        graph = device.capture(stream, work)
        graph.launch(stream)
        end.synchronize()
        start.elapsed_ms(end)
        device.free_bytes()
        stream.synchronize()
        graph.close()
        assert (target.array == 2).all()
    finally:
        try:
            other.synchronize()
        finally:
            stream.synchronize()
    for handle in (start, end, buffer, source, target, module, other, stream):
        handle.close()
    device.close()


def calls_in_order(driver: standin.Driver, plain_kernels: bytes) -> int:
    driver.reset()
    driver.set(integrated=1)
    everything(plain_kernels)
    gc.collect()
    return sum(driver.calls().values())


@pytest.mark.parametrize("thread", ["main", "another"])
def test_whatever_call_fails_it_is_named_and_nothing_leaks(
    driver: standin.Driver,
    plain_kernels: bytes,
    thread: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What fails while something is given back is a warning, pycuda's on stderr; all else is raised."""
    monkeypatch.setattr(sys, "unraisablehook", lambda report: print(report.exc_value, file=sys.stderr))
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: print(message, file=sys.stderr))
    warnings.simplefilter("always")
    total = calls_in_order(driver, plain_kernels)
    assert total > 60
    named = set()
    for index in range(total):
        driver.reset()
        driver.set(integrated=1)
        driver.fail(after=index)
        message = ""
        try:
            everything(plain_kernels) if thread == "main" else in_thread(lambda: everything(plain_kernels))
        except DeviceError as error:
            message = str(error)
        gc.collect()
        failed = driver.last_failed()
        assert failed in message + capfd.readouterr().err, f"call {index}, {failed}: {message}"
        open_device().close()
        gc.collect()
        assert driver.alive() == {}, f"call {index}, {failed}: {message}"
        driver.take_complaints()  # of work pending where a wait failed
        named.add(failed)
    assert named >= {"cuInit", "cuMemAlloc", "cuLaunchKernel", "cuCtxPopCurrent", "cuStreamEndCapture", "cuGraphLaunch"}


def test_a_driver_that_keeps_failing_ends_in_an_error(driver: standin.Driver, plain_kernels: bytes) -> None:
    for name in ("cuCtxPushCurrent", "cuMemHostAlloc", "cuStreamBeginCapture"):
        driver.fail(name, times=-1, code=999)
        with pytest.raises(DeviceError, match=f"{name} failed: unknown error"):
            everything(plain_kernels)
        driver.clear_faults()
        gc.collect()
        open_device().close()
        driver.take_complaints()


def test_a_fork_is_told_about_spawn(driver: standin.Driver) -> None:
    """A forked child finds its parent's CUDA dead: the driver calls it not initialised."""
    device = open_device()
    driver.fail("cuMemAlloc", code=3)
    with pytest.raises(DeviceError, match=r"cuMemAlloc failed: initialization error; .*spawn"):
        device.allocate(4)
    device.close()


def test_a_program_that_closes_nothing_ends_quietly() -> None:
    code = """
import threading
import numpy as np
from edgevision.cuda import open_device
device = open_device()
def make():
    global made
    stream, buffer, pinned = device.stream(), device.allocate(4), device.pinned(4, np.uint8)
    graph = device.capture(stream, lambda: device.upload(buffer.address, pinned.array, stream))
    graph.launch(stream)
    made = stream, buffer, pinned, device.event(), graph
thread = threading.Thread(target=make)
thread.start()
thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=standin.environment(), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# What doctor says


def test_nothing_is_wrong_with_a_driver_that_works(driver: standin.Driver) -> None:
    assert driver_problem() is None


def test_no_gpu_and_broken_drivers(driver: standin.Driver) -> None:
    driver.set(devices=0)
    assert driver_problem() == ("the NVIDIA driver finds no GPU here", "check with: nvidia-smi")
    with pytest.raises(DeviceError, match="finds no GPU here; check with: nvidia-smi"):
        open_device()
    driver.set(devices=1)
    driver.fail("cuInit", code=803)
    assert "different versions" in driver_problem()[0]
    driver.fail("cuInit", code=999)
    assert "cuInit failed: unknown error (999)" in driver_problem()[0]


def test_a_driver_too_old_for_pycuda(driver: standin.Driver) -> None:
    driver.set(driver_version=11080)
    sentence, remedy = driver_problem()
    assert sentence == "pycuda was built for CUDA 12.6, this driver offers CUDA 11.8"
    assert "pip install --force-reinstall" in remedy


PROBLEM = "import json; from edgevision.cuda import driver_problem; print(json.dumps(driver_problem()))"


def problem_elsewhere(environment: dict[str, str], *options: str) -> list[str]:
    """driver_problem() in another process."""
    command = [sys.executable, *options, "-c", PROBLEM]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_no_driver(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").touch()  # in front of a real one, where there is one
    sentence, remedy = problem_elsewhere({**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})
    assert sentence.startswith("there is no NVIDIA driver here (")
    assert "libcuda.so.1" in sentence
    assert "JetPack" in remedy


def test_a_driver_of_long_ago(tmp_path: Path) -> None:
    command = ["gcc", "-shared", "-x", "c", "-", "-o", tmp_path / "libcuda.so.1"]
    subprocess.run(command, input="int cuInit(unsigned flags) { return 0; }", text=True, check=True, timeout=60)
    sentence, _ = problem_elsewhere({**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})
    assert sentence == "the NVIDIA driver is too old: it lacks cuDriverGetVersion"


def test_no_pycuda(tmp_path: Path) -> None:
    packages = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        if (packages / name).exists():
            (tmp_path / name).symlink_to(packages / name)
    environment = {**standin.environment(), "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    sentence, remedy = problem_elsewhere(environment, "-S")
    assert sentence == "the package 'pycuda' is missing (No module named 'pycuda')"
    assert 'pip install "edgevision[tensorrt]"' in remedy


def test_a_pycuda_built_for_another_cuda(tmp_path: Path) -> None:
    """A call that only CUDA 14 will have: the loader does not find it in this driver."""
    package = tmp_path / "pycuda"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "driver.py").write_text("from pycuda._driver import *\n")
    source = tmp_path / "driver.cpp"
    source.write_text(
        '#include <Python.h>\nextern "C" int cuCtxCreate_v5();\n'
        "PyMODINIT_FUNC PyInit__driver() { cuCtxCreate_v5(); return nullptr; }\n"
    )
    headers = sysconfig.get_paths()["include"]
    built = package / f"_driver{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(["g++", "-shared", "-fPIC", f"-I{headers}", source, "-o", built], check=True, timeout=60)
    sentence, remedy = problem_elsewhere({**standin.environment(), "PYTHONPATH": f"{ROOT}:{tmp_path}"})
    assert sentence.startswith("pycuda was built for another CUDA than this driver's 12.6, it does not load (")
    assert "cuCtxCreate_v5" in sentence
    assert "--no-binary pycuda" in remedy

"""The stand-in driver refuses what a GPU refuses, or leaves undefined: every violation is caught, and said in words."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ctypes import byref, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

import numpy as np
import pytest

from edgevision.cuda import Buffer, Device, Event, Kernel, Pinned, Stream, driver_problem
from edgevision.errors import DeviceError
from tests.standins import cuda as standin

# Where a context has failed, giving back what was made in it warns.
pytestmark = pytest.mark.filterwarnings("ignore:cuEventDestroy failed:RuntimeWarning")

N = 64
GRID, BLOCK = (1, 1, 1), (32, 1, 1)
GLOBAL, THREAD_LOCAL = 0, 1  # modes of a capture


class Bench:
    """A device with one of everything, and the driver's bare calls."""

    def __init__(self, device: Device, driver: standin.Driver, image: bytes) -> None:
        self.device, self.driver, self.library = device, driver, driver.library
        self.stream: Stream = device.stream()
        self.other: Stream = device.stream()
        self.event: Event = device.event()
        self.buffer: Buffer = device.allocate(4 * N)
        self.pinned: Pinned = device.pinned(N, np.float32)
        self.module = device.load_module(image)
        self.scale: Kernel = self.module.kernel("scale", "Pif")

    def call(self, name: str, *arguments: Any) -> int:
        """One bare call in the context; its code."""
        with self.device.current():
            code: int = getattr(self.library, name)(*arguments)
        return code

    def run(self, factor: float = 2.0, address: int | None = None, n: int = N) -> None:
        self.scale(self.stream, GRID, BLOCK, self.buffer.address if address is None else address, n, factor)

    def words(self) -> str:
        """The one complaint."""
        (complaint,) = self.driver.take_complaints()
        return complaint

    def read(self, address: int, count: int = N) -> np.ndarray:
        """Device memory as it is now: the stand-in's is the host's."""
        return np.frombuffer((ctypes.c_char * (4 * count)).from_address(address), np.float32)

    @property
    def address(self) -> c_uint64:
        return c_uint64(self.buffer.address)

    @property
    def host(self) -> c_void_p:
        return c_void_p(self.pinned.array.ctypes.data)

    @property
    def stream_handle(self) -> c_void_p:
        return c_void_p(self.stream.handle)

    @property
    def event_handle(self) -> c_void_p:
        return c_void_p(self.event.raw)


@pytest.fixture
def bench(device: Device, driver: standin.Driver, plain_kernels: bytes) -> Iterator[Bench]:
    made = Bench(device, driver, plain_kernels)
    yield made
    for handle in (made.scale, made.module, made.buffer, made.pinned, made.event, made.other, made.stream):
        handle.close()


# Contexts


def test_nothing_works_without_a_context(bench: Bench) -> None:
    assert bench.library.cuMemAlloc_v2(byref(c_uint64()), c_size_t(4)) == standin.INVALID_CONTEXT
    assert bench.words() == "cuMemAlloc: no context is current in this thread"


def test_a_context_left_on_a_thread_is_noticed(bench: Bench) -> None:
    pushed = c_void_p()
    bench.call("cuCtxGetCurrent", byref(pushed))
    thread = threading.Thread(target=bench.library.cuCtxPushCurrent_v2, args=(pushed,))
    thread.start()
    thread.join()
    time.sleep(0.05)  # the thread's own end follows Python's
    assert bench.words() == "a thread ended with 1 contexts on its stack"


# Memory


def test_a_copy_past_the_end(bench: Bench) -> None:
    assert bench.call("cuMemcpyHtoDAsync_v2", bench.address, bench.host, c_size_t(4 * N + 1), bench.stream_handle)
    assert "257 bytes from" in (words := bench.words())
    assert "past the end of a device allocation of 256 bytes" in words


def test_a_copy_past_the_end_of_page_locked_memory(bench: Bench) -> None:
    big = bench.device.allocate(4 * N + 1)
    assert bench.call(
        "cuMemcpyDtoHAsync_v2", bench.host, c_uint64(big.address), c_size_t(4 * N + 1), bench.stream_handle
    )
    assert "past the end of a page-locked allocation" in bench.words()


def test_a_copy_within_the_device_past_its_end(bench: Bench) -> None:
    to = c_uint64(bench.buffer.address + 8)
    assert bench.call("cuMemcpyDtoDAsync_v2", to, bench.address, c_size_t(4 * N), bench.stream_handle)
    assert "past the end" in bench.words()


def test_an_address_of_the_hosts_is_none_of_the_devices(bench: Bench) -> None:
    array = np.zeros(4, np.uint8)
    with pytest.raises(DeviceError, match="illegal memory access"):
        bench.device.fill(array.ctypes.data, 0, 4, bench.stream)
    assert "outside every allocation" in bench.words()


def test_page_locked_memory_that_is_not_mapped_is_none_of_the_devices(bench: Bench) -> None:
    with pytest.raises(DeviceError, match="illegal memory access"):
        bench.device.fill(bench.pinned.array.ctypes.data, 0, 4, bench.stream)
    assert "the device does not map" in bench.words()


def test_device_memory_is_none_of_the_hosts(bench: Bench) -> None:
    from_device = c_void_p(bench.buffer.address)
    assert bench.call("cuMemcpyHtoDAsync_v2", bench.address, from_device, c_size_t(4), bench.stream_handle)
    assert "reads host memory, but is given a device allocation" in bench.words()


def test_use_after_free_and_double_free(bench: Bench) -> None:
    address = bench.buffer.address
    bench.buffer.close()
    with pytest.raises(DeviceError, match="cuMemsetD8Async failed"):
        bench.device.fill(address, 0, 4, bench.stream)
    assert "in memory that was freed (256 bytes)" in bench.words()
    assert bench.call("cuMemFree_v2", c_uint64(address)) == standin.INVALID_VALUE
    assert "cuMemFree: frees" in bench.words()


def test_freeing_what_is_not_the_start_or_not_the_kind(bench: Bench) -> None:
    assert bench.call("cuMemFree_v2", c_uint64(bench.buffer.address + 16)) == standin.INVALID_VALUE
    assert bench.call("cuMemFree_v2", c_uint64(bench.pinned.array.ctypes.data)) == standin.INVALID_VALUE
    assert bench.call("cuMemFreeHost", c_void_p(bench.buffer.address)) == standin.INVALID_VALUE
    assert len(bench.driver.take_complaints()) == 3


def test_memory_freed_under_pending_work(bench: Bench) -> None:
    bench.run()
    bench.buffer.close()
    with pytest.raises(DeviceError, match="illegal memory access"):
        bench.stream.synchronize()
    assert "scale, parameter 0, points to" in (words := bench.words())
    assert "in memory that was freed" in words


def test_page_locked_memory_freed_under_pending_work(bench: Bench) -> None:
    bench.device.upload(bench.buffer.address, bench.pinned.array, bench.stream)
    bench.pinned.close()
    with pytest.raises(DeviceError, match="cuStreamSynchronize failed: an illegal memory access"):
        bench.stream.synchronize()
    assert "in memory that was freed" in bench.words()


def test_freed_memory_is_poisoned(bench: Bench) -> None:
    view = bench.read(bench.buffer.address)
    view[:] = 1
    bench.buffer.close()
    assert np.isnan(view).all()


def test_allocating_nothing(bench: Bench) -> None:
    with pytest.raises(DeviceError, match="cuMemAlloc failed: invalid argument"):
        bench.device.allocate(0)
    assert bench.words() == "cuMemAlloc: allocates nothing"


# Kernels


@pytest.mark.parametrize("n", [N + 1, N + 100])
def test_a_kernel_that_writes_past_the_end(bench: Bench, n: int) -> None:
    bench.run(n=n)
    with pytest.raises(DeviceError, match="illegal memory access"):
        bench.stream.synchronize()
    assert bench.words().startswith("scale: scale wrote past the end of a device allocation of 256 bytes")


def test_a_kernel_that_writes_before_the_start(bench: Bench) -> None:
    bench.run()  # pointers are checked by where they start, so the start must be inside
    bench.stream.synchronize()
    ctypes.memset(bench.buffer.address - 3, 0, 3)
    bench.run()
    with pytest.raises(DeviceError, match="illegal memory access"):
        bench.stream.synchronize()
    assert "wrote before the start" in bench.words()


def test_a_pointer_to_nowhere(bench: Bench) -> None:
    bench.run(address=4096)
    with pytest.raises(DeviceError, match="illegal memory access"):
        bench.stream.synchronize()
    assert "0x1000 outside every allocation" in bench.words()


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "words"),
    [
        ((0, 1, 1), BLOCK, 0, "an empty grid"),
        ((1, 65536, 1), BLOCK, 0, "a grid beyond the device's limits"),
        (GRID, (0, 1, 1), 0, "an empty block"),
        (GRID, (1, 1, 65), 0, "a block beyond the device's limits"),
        (GRID, (64, 32, 1), 0, "a block of more than 1024 threads"),
        (GRID, (257, 1, 1), 0, "more threads than the kernel's launch bounds"),
        (GRID, BLOCK, (48 << 10) + 1, "more shared memory than a block has"),
    ],
)
def test_a_launch_no_gpu_takes(
    bench: Bench, grid: tuple[int, int, int], block: tuple[int, int, int], shared_bytes: int, words: str
) -> None:
    with pytest.raises(DeviceError, match="cuLaunchKernel failed: invalid argument"):
        bench.scale(bench.stream, grid, block, bench.buffer.address, N, 1.0, shared_bytes=shared_bytes)
    assert words in bench.words()


def test_static_shared_memory_counts_too(bench: Bench) -> None:
    add = bench.module.kernel("add", "Pif")  # has 1024 bytes of its own
    with pytest.raises(DeviceError, match="invalid argument"):
        add(bench.stream, GRID, BLOCK, bench.buffer.address, N, 1.0, shared_bytes=(48 << 10) - 1023)
    assert "more shared memory" in bench.words()


@pytest.mark.parametrize(("signature", "arguments"), [("Pi", (N,)), ("Piff", (N, 1.0, 1.0)), ("Pid", (N, 1.0))])
def test_parameters_that_do_not_fit_the_kernel(bench: Bench, signature: str, arguments: tuple[float, ...]) -> None:
    kernel = bench.module.kernel("scale", signature)
    with pytest.raises(DeviceError, match="cuLaunchKernel failed: invalid argument"):
        kernel(bench.stream, GRID, BLOCK, bench.buffer.address, *arguments)
    assert "scale takes 3 parameters" in bench.words()


def test_a_module_unloaded_under_pending_work(bench: Bench) -> None:
    bench.run()
    bench.scale.close()
    bench.module.close()
    with pytest.raises(DeviceError):
        bench.stream.synchronize()
    assert "unloaded before the kernel ran" in bench.words()


# Streams and events


def test_the_default_stream_is_refused(bench: Bench) -> None:
    assert bench.call("cuMemcpyHtoDAsync_v2", bench.address, bench.host, c_size_t(4), None) == standin.INVALID_HANDLE
    assert "work on the default stream" in bench.words()


def test_a_blocking_stream_is_refused(bench: Bench) -> None:
    assert bench.call("cuStreamCreate", byref(c_void_p()), c_uint(0)) == standin.INVALID_VALUE
    assert "a blocking stream" in bench.words()


@pytest.mark.parametrize("use", ["cuStreamSynchronize", "cuStreamDestroy_v2", "cuStreamQuery"])
def test_a_destroyed_stream(bench: Bench, use: str) -> None:
    handle = bench.stream_handle
    bench.stream.close()
    assert bench.call(use, handle) == standin.INVALID_HANDLE
    assert bench.words().endswith(": the stream was destroyed")


@pytest.mark.parametrize("use", ["cuEventSynchronize", "cuEventDestroy_v2", "cuEventQuery"])
def test_a_destroyed_event(bench: Bench, use: str) -> None:
    handle = bench.event_handle
    bench.event.close()
    assert bench.call(use, handle) == standin.INVALID_HANDLE
    assert bench.words().endswith(": the event was destroyed")


def test_a_handle_that_never_was(bench: Bench) -> None:
    assert bench.call("cuStreamSynchronize", c_void_p(0xABCDEF)) == standin.INVALID_HANDLE
    assert "no stream has this handle" in bench.words()


def test_a_stream_destroyed_with_work_pending(bench: Bench) -> None:
    bench.run()
    bench.stream.close()
    assert bench.words() == "cuStreamDestroy: 1 operations are pending"


def test_asking_brings_work_forward(bench: Bench) -> None:
    bench.event.record(bench.other)
    bench.stream.wait(bench.event)
    bench.run()
    asked = 0
    while bench.call("cuStreamQuery", bench.stream_handle) == 600:
        asked += 1
    assert asked == 3  # the other stream's record, the wait, the kernel


def test_time_between_events_that_were_never_recorded(bench: Bench) -> None:
    assert bench.call("cuEventElapsedTime", byref(c_float()), bench.event_handle, bench.event_handle)
    assert "never recorded" in bench.words()


# Host functions


def test_a_host_function_runs_in_its_turn_and_only_when_waited_for(bench: Bench) -> None:
    seen: list[float] = []

    @standin.HOST_FUNCTION
    def look(data: int | None) -> None:
        seen.append(float(bench.read(bench.buffer.address)[0]))
        assert data == 5

    bench.pinned.array[:] = 1
    bench.device.upload(bench.buffer.address, bench.pinned.array, bench.stream)
    for _ in range(2):
        bench.run()
        assert bench.call("cuLaunchHostFunc", bench.stream_handle, look, c_void_p(5)) == 0
    assert seen == []
    bench.stream.synchronize()
    assert seen == [2.0, 4.0]
    assert bench.driver.count("host_functions") == 2


def test_a_host_function_must_not_call_the_driver(bench: Bench) -> None:
    codes: list[int] = []

    @standin.HOST_FUNCTION
    def meddle(data: int | None) -> None:
        codes.append(bench.library.cuMemFree_v2(bench.address))

    bench.call("cuLaunchHostFunc", bench.stream_handle, meddle, None)
    bench.stream.synchronize()
    assert codes == [standin.NOT_PERMITTED]
    assert bench.words() == "cuMemFree: called from a host function"


def test_a_host_function_reports_that_its_work_failed(bench: Bench) -> None:
    @standin.HOST_FUNCTION
    def fail(data: int | None) -> None:
        bench.driver.report("the network has no such layer")

    bench.call("cuLaunchHostFunc", bench.stream_handle, fail, None)
    with pytest.raises(DeviceError, match="unspecified launch failure"):
        bench.stream.synchronize()
    assert bench.words() == "the network has no such layer"


def test_a_host_function_that_writes_past_the_end(bench: Bench) -> None:
    @standin.HOST_FUNCTION
    def overrun(data: int | None) -> None:
        ctypes.memset(bench.buffer.address, 0, 4 * N + 1)

    bench.call("cuLaunchHostFunc", bench.stream_handle, overrun, None)
    with pytest.raises(DeviceError, match="illegal memory access"):
        bench.stream.synchronize()
    assert "a host function wrote past the end" in bench.words()


def test_threads_wait_for_each_others_host_functions(bench: Bench) -> None:
    """Python's lock is free while another thread waits: nothing locks up."""
    ran: list[int] = []

    @standin.HOST_FUNCTION
    def slow(data: int | None) -> None:
        time.sleep(0.05)
        ran.append(1)

    for _ in range(3):
        bench.call("cuLaunchHostFunc", bench.stream_handle, slow, None)
    threads = [threading.Thread(target=bench.stream.synchronize) for _ in range(4)]
    for thread in threads:
        thread.start()
    bench.device.allocate(4).close()  # the driver is free for others too
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(ran) == 3


# Captures


def begin(bench: Bench, mode: int = THREAD_LOCAL) -> None:
    assert bench.call("cuStreamBeginCapture_v2", bench.stream_handle, c_int(mode)) == 0


def end(bench: Bench) -> tuple[int, c_void_p]:
    graph = c_void_p()
    return bench.call("cuStreamEndCapture", bench.stream_handle, byref(graph)), graph


@pytest.mark.parametrize(
    ("does", "code"),
    [
        (lambda b: b.call("cuStreamSynchronize", b.stream_handle), 900),
        (lambda b: b.call("cuStreamQuery", b.stream_handle), 900),
        (lambda b: b.call("cuCtxSynchronize"), 900),
        (lambda b: b.call("cuMemAlloc_v2", byref(c_uint64()), c_size_t(4)), 900),
        (lambda b: b.call("cuMemcpyDtoH_v2", b.host, b.address, c_size_t(4)), 900),
        (lambda b: b.call("cuStreamWaitEvent", b.stream_handle, b.event_handle, c_uint(0)), 905),
    ],
    ids=["synchronize", "query", "device", "allocate", "blocking copy", "uncaptured event"],
)
def test_what_breaks_a_capture(bench: Bench, does: Callable[[Bench], int], code: int) -> None:
    begin(bench)
    assert does(bench) == code
    assert bench.call("cuLaunchHostFunc", bench.stream_handle, standin.HOST_FUNCTION(print), None) == 901
    assert end(bench)[0] == 901
    assert len(bench.driver.take_complaints()) == 2
    bench.run()
    bench.stream.synchronize()


def test_other_threads_allocate_during_a_thread_local_capture_but_not_during_a_global_one(bench: Bench) -> None:
    codes: list[int] = []

    def allocate() -> None:
        address = c_uint64()
        codes.append(bench.call("cuMemAlloc_v2", byref(address), c_size_t(4)))
        if codes[-1] == 0:
            bench.call("cuMemFree_v2", address)

    for mode, ended in ((THREAD_LOCAL, 0), (GLOBAL, 901)):
        begin(bench, mode)
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join(20)
        code, graph = end(bench)
        assert code == ended
        if graph:
            bench.call("cuGraphDestroy", graph)
    assert codes == [0, 900]
    assert bench.words() == "cuMemAlloc: called during a capture"


def test_a_capture_ends_where_it_began(bench: Bench) -> None:
    begin(bench)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(end(bench)[0]))
    thread.start()
    thread.join(20)
    assert codes == [908]
    assert bench.call("cuStreamEndCapture", c_void_p(bench.other.handle), byref(c_void_p())) == 401
    code, graph = end(bench)
    assert code == 0
    assert bench.call("cuGraphDestroy", graph) == 0
    assert bench.call("cuGraphDestroy", graph) == standin.INVALID_HANDLE
    assert len(bench.driver.take_complaints()) == 3


def test_a_stream_that_took_part_must_be_joined(bench: Bench) -> None:
    other, joined = c_void_p(bench.other.handle), bench.device.event()

    def fork() -> None:
        begin(bench)
        bench.call("cuEventRecord", bench.event_handle, bench.stream_handle)
        bench.call("cuStreamWaitEvent", other, bench.event_handle, c_uint(0))
        bench.device.fill(bench.buffer.address, 0, 4, bench.other)

    fork()
    assert end(bench)[0] == 904
    assert "was not joined" in bench.words()
    fork()
    bench.call("cuEventRecord", c_void_p(joined.raw), other)
    bench.call("cuStreamWaitEvent", bench.stream_handle, c_void_p(joined.raw), c_uint(0))
    assert bench.call("cuEventSynchronize", c_void_p(joined.raw)) != 0  # recorded in the capture: no point in time
    code, _ = end(bench)
    assert code == 901
    bench.driver.take_complaints()


def test_a_graph_over_two_streams_keeps_their_order(bench: Bench) -> None:
    """The replay shuffles what is not ordered, differently each time, and never what is."""
    order: list[int] = []
    functions = [standin.HOST_FUNCTION(lambda data, number=number: order.append(number)) for number in range(6)]
    other, joined = c_void_p(bench.other.handle), bench.device.event()

    def put(number: int, stream: c_void_p) -> None:
        assert bench.call("cuLaunchHostFunc", stream, functions[number], None) == 0

    begin(bench)
    put(0, bench.stream_handle)
    bench.call("cuEventRecord", bench.event_handle, bench.stream_handle)
    bench.call("cuStreamWaitEvent", other, bench.event_handle, c_uint(0))
    put(1, bench.stream_handle)
    put(2, other)
    put(3, other)
    bench.call("cuEventRecord", c_void_p(joined.raw), other)
    put(4, bench.stream_handle)
    bench.call("cuStreamWaitEvent", bench.stream_handle, c_void_p(joined.raw), c_uint(0))
    put(5, bench.stream_handle)
    code, graph = end(bench)
    assert code == 0
    executable = c_void_p()
    assert bench.call("cuGraphInstantiateWithFlags", byref(executable), graph, c_uint64(0)) == 0
    seen = set()
    for _ in range(20):
        order.clear()
        assert bench.call("cuGraphLaunch", executable, bench.stream_handle) == 0
        assert order == []
        bench.stream.synchronize()
        assert (order[0], order[-1], sorted(order)) == (0, 5, [0, 1, 2, 3, 4, 5])
        assert order.index(2) < order.index(3)
        assert order.index(1) < order.index(4)
        seen.add(tuple(order))
    assert len(seen) > 1
    for name, handle in (("cuGraphDestroy", graph), ("cuGraphExecDestroy", executable)):
        assert bench.call(name, handle) == 0
    assert bench.call("cuGraphLaunch", executable, bench.stream_handle) == standin.INVALID_HANDLE
    assert bench.words() == "cuGraphLaunch: the executable graph was destroyed"


# Counters, faults, the rest


def test_calls_that_nothing_here_uses_say_so(bench: Bench) -> None:
    assert bench.library.cuMemcpy2D_v2(None) == 801
    assert bench.words() == "cuMemcpy2D_v2: the stand-in does not have this call"


def test_the_nth_call_of_a_name_fails(bench: Bench) -> None:
    bench.driver.fail("cuMemsetD8Async", after=1, times=2, code=999)
    codes = [
        bench.call("cuMemsetD8Async", bench.address, c_uint(0), c_size_t(4), bench.stream_handle) for _ in range(4)
    ]
    assert codes == [0, 999, 999, 0]
    assert bench.driver.last_failed() == "cuMemsetD8Async"
    bench.stream.synchronize()
    assert bench.driver.count("memsets") == 2


def test_what_gives_back_does_so_even_where_it_reports_a_failure(bench: Bench) -> None:
    bench.driver.fail("cuMemFree", code=999)
    assert bench.call("cuMemFree_v2", bench.address) == 999
    assert bench.driver.count("live_allocations") == 0
    bench.driver.clear_faults()
    bench.buffer.close()
    assert "was freed" in bench.words()


def test_it_tells_which_memory_is_live(bench: Bench) -> None:
    address = bench.buffer.address
    assert bench.driver.check_range(address, 4 * N)
    assert bench.driver.check_range(address + 4, 4 * N - 4)
    assert not bench.driver.check_range(address + 4, 4 * N)
    assert not bench.driver.check_range(bench.pinned.array.ctypes.data, 4)
    bench.buffer.close()
    assert not bench.driver.check_range(address, 1)


def test_tests_that_do_not_ask_for_it_find_no_gpu() -> None:
    standin.load()
    assert driver_problem() == ("the NVIDIA driver finds no GPU here", "check with: nvidia-smi")


def test_a_subprocess_finds_it_as_its_driver() -> None:
    code = "from edgevision.cuda import open_device; device = open_device(); print(device.name, device.sm)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=standin.environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("stand-in GPU 87\n", "")

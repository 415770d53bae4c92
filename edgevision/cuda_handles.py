"""What a CUDA device hands out: streams, events, memory, kernels, graphs. `edgevision.cuda.Device` makes them.

Each is given back once: by `close`, or when nothing refers to it any more, in the device's context and from any thread.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgevision import cuda_driver as driver
from edgevision.errors import CaptureError, DeviceError

if TYPE_CHECKING:
    from edgevision.cuda import Device


@dataclass
class Counters:
    """What was asked of a device. Work in a CUDA graph counts at every launch of the graph, not when captured.

    Allocations and frees are those of device and of page-locked memory.
    """

    allocations: int = 0
    frees: int = 0
    uploads: int = 0
    upload_bytes: int = 0
    downloads: int = 0
    download_bytes: int = 0
    launches: int = 0
    graph_launches: int = 0

    def add(self, amounts: Counters) -> None:
        for name, amount in vars(amounts).items():
            setattr(self, name, getattr(self, name) + amount)


class Handle:
    """Something of a device's that is given back.

    Its object of pycuda's, or its number, lives in a list of one, so that the last reference is dropped inside the
    context: `free` is given that list and empties it.
    """

    def __init__(self, device: Device, raw: Any, free: Callable[[list[Any]], None] = list.clear) -> None:
        self.device = device
        self._held = [raw]
        self._release = weakref.finalize(self, _give_back, device, self._held, free)

    @property
    def raw(self) -> Any:
        if not self._held:
            raise DeviceError(f"this {type(self).__name__} was closed: make another")
        return self._held[0]

    def close(self) -> None:
        """Give it back; again does nothing. Where the driver reports a failure it is gone all the same: a warning."""
        self._release()


class _Postponed(threading.local):
    """What this thread gives back while it captures: the driver frees nothing then, and drops the capture."""

    def __init__(self) -> None:
        self.capturing = False
        self.waiting: list[tuple[Device, list[Any], Callable[[list[Any]], None]]] = []


_postponed = _Postponed()


def _give_back(device: Device, held: list[Any], free: Callable[[list[Any]], None]) -> None:
    if _postponed.capturing:
        _postponed.waiting.append((device, held, free))
        return
    if device.closed:
        held.clear()  # it went with its context
        return
    try:
        with device.current():
            free(held)
    except DeviceError:
        if held:  # the context could not be entered: once more, then report it
            with device.current():
                free(held)
        raise


def _free_memory(device: Device, held: list[Any]) -> None:
    held.clear()
    device.count_memory(frees=1)


class Stream(Handle):
    """Work in order, beside the work of other streams.

    Attributes:
        handle: CUstream, for TensorRT.
        capturing: what is put on it becomes part of a graph.
        counters: of its own work; one thread at a time puts work on a stream, so they are exact.
    """

    def __init__(self, device: Device) -> None:
        with device.current():
            super().__init__(device, device.drv.Stream(driver.NON_BLOCKING_STREAM))
        self.capturing = False
        self.counters = device.new_counters()

    @property
    def handle(self) -> int:
        handle: int = self.raw.handle
        return handle

    def synchronize(self) -> None:
        """Wait until everything put on it is done."""
        with self.device.current():
            self.raw.synchronize()

    def wait(self, event: Event) -> None:
        """Let what is put on it from now on wait for the event's last record."""
        with self.device.current():
            driver.library().cuStreamWaitEvent(self.handle, event.raw, 0)


class Event(Handle):
    """A point in a stream. Recorded while the stream captures, it is recorded anew by every launch of the graph."""

    def __init__(self, device: Device) -> None:
        with device.current():
            super().__init__(device, driver.new_handle("cuEventCreate", driver.BLOCKING_SYNC), _destroy_event)

    def record(self, stream: Stream) -> None:
        with self.device.current():
            if stream.capturing:
                driver.library().cuEventRecordWithFlags(self.raw, stream.handle, driver.RECORD_EXTERNAL)
            else:
                driver.library().cuEventRecord(self.raw, stream.handle)

    def synchronize(self) -> None:
        """Wait until its last record is reached."""
        with self.device.current():
            driver.library().cuEventSynchronize(self.raw)

    def elapsed_ms(self, later: Event) -> float:
        """Time from this event to another, both reached."""
        elapsed = ctypes.c_float()
        with self.device.current():
            driver.library().cuEventElapsedTime(ctypes.byref(elapsed), self.raw, later.raw)
        return elapsed.value


def _destroy_event(held: list[Any]) -> None:
    driver.give_back("cuEventDestroy_v2", held.pop())


class Buffer(Handle):
    """Device memory: `nbytes` from `address`."""

    def __init__(self, device: Device, nbytes: int) -> None:
        with device.current():
            free = functools.partial(_free_memory, device)
            super().__init__(device, device.drv.mem_alloc(nbytes), free)
            device.count_memory(allocations=1)
        self.address = int(self.raw)
        self.nbytes = nbytes


class Pinned:
    """Page-locked host memory.

    It lives until it is closed and the last view of its array is gone, so that no view ever dangles.

    Attributes:
        address: where the device sees it, on GPUs that share their memory with the CPU; else None.
    """

    def __init__(self, device: Device, shape: int | tuple[int, ...], dtype: DTypeLike) -> None:
        kind = np.dtype(dtype)
        nbytes = kind.itemsize * (shape if isinstance(shape, int) else math.prod(shape))
        flags = device.drv.host_alloc_flags.DEVICEMAP if device.integrated else 0
        self.address: int | None = None
        with device.current():
            held = [device.drv.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)]
            block = (ctypes.c_char * nbytes).from_address(held[0].ctypes.data)
            free = functools.partial(_free_memory, device)
            release = weakref.finalize(block, _give_back, device, held, free)
            device.count_memory(allocations=1)
            if device.integrated:
                try:
                    self.address = int(held[0].base.get_device_pointer())
                except BaseException:
                    release()
                    raise
        self._array: NDArray[Any] | None = np.frombuffer(memoryview(block), kind).reshape(shape)

    @property
    def array(self) -> NDArray[Any]:
        if self._array is None:
            raise DeviceError("this Pinned was closed: make another")
        return self._array

    def close(self) -> None:
        """Give it back, as soon as nothing else looks at its array; again does nothing."""
        self._array = None


class Module(Handle):
    """Kernels from a cubin, PTX or fatbin image. It stays loaded until it is closed, or nothing refers to a kernel."""

    def __init__(self, device: Device, image: bytes) -> None:
        with device.current():
            super().__init__(device, device.drv.module_from_buffer(image))
        self._kernels: weakref.WeakSet[Kernel] = weakref.WeakSet()

    def kernel(self, name: str, signature: str) -> Kernel:
        """The kernel of that name, whose parameters are given in codes of the module `struct`: "PPiif"."""
        kernel = Kernel(self, name, signature)
        self._kernels.add(kernel)
        return kernel

    def close(self) -> None:
        """Unload it; its kernels end with it."""
        for kernel in list(self._kernels):
            kernel.close()
        super().close()


class Kernel(Handle):
    """One function of a module."""

    def __init__(self, module: Module, name: str, signature: str) -> None:
        with module.device.current():
            super().__init__(module.device, module.raw.get_function(name).prepare(signature))
        self.name = name

    def __call__(
        self,
        stream: Stream,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        *arguments: float,
        shared_bytes: int = 0,
    ) -> None:
        """Put a launch on the stream; `shared_bytes` is the dynamic shared memory of a block."""
        with self.device.current():
            self.raw.prepared_async_call(grid, block, stream.raw, *arguments, shared_size=shared_bytes)
        stream.counters.launches += 1


class Graph(Handle):
    """Captured work, launched as one. Buffers, kernels and events in it must outlive it."""

    def __init__(self, device: Device, stream: Stream, work: Callable[[], None]) -> None:
        counters = Counters()
        with device.current():
            try:
                graph = _captured(stream, work, counters)
                try:
                    executable = driver.new_handle("cuGraphInstantiateWithFlags", graph, 0)
                    super().__init__(device, executable, _destroy_graph)
                finally:
                    driver.give_back("cuGraphDestroy", graph)
            except CaptureError:
                raise
            except DeviceError as error:
                raise CaptureError(f"this work cannot be captured as a CUDA graph: {error}") from error
        counters.graph_launches = 1
        self._counters = counters

    def launch(self, stream: Stream) -> None:
        """Put the captured work on a stream."""
        with self.device.current():
            driver.library().cuGraphLaunch(self.raw, stream.handle)
        stream.counters.add(self._counters)


def _destroy_graph(held: list[Any]) -> None:
    driver.give_back("cuGraphExecDestroy", held.pop())


def _captured(stream: Stream, work: Callable[[], None], counters: Counters) -> int:
    """The graph (CUgraph) of what `work` puts on the stream. Whatever happens, the capture ends here."""
    library, graph = driver.library(), ctypes.c_void_p()
    library.cuStreamBeginCapture_v2(stream.handle, driver.CAPTURE_THIS_THREAD)
    counted, stream.counters, stream.capturing, _postponed.capturing = stream.counters, counters, True, True
    try:
        try:
            work()
        finally:
            stream.counters, stream.capturing, _postponed.capturing = counted, False, False
            library.cuStreamEndCapture(stream.handle, ctypes.byref(graph))
            while _postponed.waiting:
                _give_back(*_postponed.waiting.pop())
    except BaseException:
        if graph.value:
            driver.give_back("cuGraphDestroy", graph)
        raise
    return graph.value or 0

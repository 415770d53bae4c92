"""The GPU as the rest of the package sees it. The one file that imports pycuda.

Works in the device's primary context, which TensorRT and CUDA's runtime share. Every call enters it for as long as it
lasts, so anything here may be used from any thread. What a Device hands out is given back by `close`, or when nothing
refers to it any more; `close` may be called again. What outlives its device is dead.

Every call raises DeviceError, naming the driver's call, where one fails. Work on a stream fails later, at a call that
waits for it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

from numpy.typing import DTypeLike, NDArray

from edgevision import cuda_driver as driver
from edgevision.cuda_handles import Buffer, Counters, Event, Graph, Kernel, Module, Pinned, Stream
from edgevision.errors import DeviceError

__all__ = [
    "Buffer",
    "Counters",
    "Device",
    "Event",
    "Graph",
    "Kernel",
    "Module",
    "Pinned",
    "Stream",
    "driver_problem",
    "open_device",
]

_devices: dict[int, Device] = {}
_opening = threading.RLock()


def driver_problem() -> tuple[str, str] | None:
    """Why no GPU can be used here, in one sentence, and what to do about it; None where one can."""
    problem = driver.library_problem()
    if problem is not None:
        return problem
    version = ".".join(map(str, driver.driver_version()))
    rebuild = "build it anew for this driver: pip install --force-reinstall --no-cache-dir --no-binary pycuda pycuda"
    try:
        import pycuda.driver
    except ModuleNotFoundError as error:
        return (
            f"the package 'pycuda' is missing ({error})",
            'install it with: pip install "edgevision[tensorrt]" (it needs g++ and CUDA\'s headers)',
        )
    except ImportError as error:
        return f"pycuda was built for another CUDA than this driver's {version}, it does not load ({error})", rebuild
    built_for = pycuda.driver.get_version()
    if built_for[0] > driver.driver_version()[0]:
        return f"pycuda was built for CUDA {built_for[0]}.{built_for[1]}, this driver offers CUDA {version}", rebuild
    return None


def open_device(index: int = 0) -> Device:
    """The GPU of that number; the same object until it is closed.

    Raises:
        DeviceError: no driver, no pycuda or one for another CUDA, no such GPU; says which and what to do.
    """
    with _opening:
        if index not in _devices:
            problem = driver_problem()
            if problem is not None:
                raise DeviceError("; ".join(problem))
            _devices[index] = Device(index)
        return _devices[index]


class Device:
    """One GPU: `open_device` makes it.

    Attributes:
        sm: compute capability, 87 for 8.7.
        integrated: the GPU shares its memory with the CPU, as on a Jetson.
        cuda_version: what the driver offers.
        uuid: the GPU's identity, as nvidia-smi prints it.
    """

    def __init__(self, index: int) -> None:
        import pycuda.driver

        self.drv = pycuda.driver
        self.index = index
        self._counters = [Counters()]  # of its memory, then of each stream
        self._counting = threading.Lock()
        self._current = _Current(self)
        try:
            self.drv.init()
            count = self.drv.Device.count()
            if not 0 <= index < count:
                raise DeviceError(f"there is no GPU {index}: this machine has {count}, numbered from 0")
            gpu = self.drv.Device(index)
            self.name: str = gpu.name()
            major, minor = gpu.compute_capability()
            self.sm = 10 * major + minor
            self.integrated = bool(gpu.get_attribute(self.drv.device_attribute.INTEGRATED))
            self.total_bytes: int = gpu.total_memory()
            self.cuda_version = driver.driver_version()
            self.uuid = driver.device_uuid(index)
            self.context: Any = gpu.retain_primary_context()
        except self.drv.Error as error:
            raise driver.device_error(str(error)) from error
        self._release = weakref.finalize(self, _release_context, self.drv, self.context)

    @property
    def closed(self) -> bool:
        return not self._release.alive

    def close(self) -> None:
        """Give the context back; with it goes all that was not closed."""
        with _opening:
            _devices.pop(self.index, None)
        self._release()

    @property
    def counters(self) -> Counters:
        """What was asked of it until now."""
        total = Counters()
        for part in tuple(self._counters):
            total.add(part)
        return total

    def count_memory(self, *, allocations: int = 0, frees: int = 0) -> None:
        with self._counting:
            self._counters[0].add(Counters(allocations, frees))

    def new_counters(self) -> Counters:
        """For the work of one stream."""
        made = Counters()
        self._counters.append(made)
        return made

    def current(self) -> _Current:
        """Make the context this thread's current one inside a `with` block. Blocks may be nested."""
        return self._current

    def stream(self) -> Stream:
        return Stream(self)

    def event(self) -> Event:
        return Event(self)

    def allocate(self, nbytes: int) -> Buffer:
        """Device memory, without meaning until something is written to it."""
        return Buffer(self, nbytes)

    def pinned(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> Pinned:
        """Page-locked host memory, which copies reach without a detour; on integrated GPUs kernels reach it too."""
        return Pinned(self, shape, dtype)

    def upload(self, address: int, array: NDArray[Any], stream: Stream) -> None:
        """Copy a contiguous array to the device; the array must not change until the stream has got there."""
        with self._current:
            self.drv.memcpy_htod_async(address, array, stream.raw)
        stream.counters.uploads += 1
        stream.counters.upload_bytes += array.nbytes

    def download(self, array: NDArray[Any], address: int, stream: Stream) -> None:
        """Copy from the device into a contiguous array, which means nothing until the stream has got there."""
        with self._current:
            self.drv.memcpy_dtoh_async(array, address, stream.raw)
        stream.counters.downloads += 1
        stream.counters.download_bytes += array.nbytes

    def fill(self, address: int, value: int, nbytes: int, stream: Stream) -> None:
        """Set each of `nbytes` bytes to `value`."""
        with self._current:
            self.drv.memset_d8_async(address, value, nbytes, stream.raw)

    def load_module(self, image: bytes) -> Module:
        """Kernels from a cubin, PTX or fatbin image."""
        return Module(self, image)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """What `work` puts on the stream, as a graph to launch; nothing of it runs now.

        Raises:
            CaptureError: the driver does not capture this work. The stream is as before.
        """
        return Graph(self, stream, work)

    def free_bytes(self) -> int:
        with self._current:
            free: int = self.drv.mem_get_info()[0]
        return free


class _Entered(threading.local):
    """The devices whose context this thread has entered, innermost last."""

    def __init__(self) -> None:
        self.devices: list[Device] = []


_entered = _Entered()


class _Current:
    """A device's context, to enter: the driver is asked only where another one, or none, is current."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __enter__(self) -> None:
        devices = _entered.devices
        if not devices or devices[-1] is not self._device:
            if self._device.closed:
                raise DeviceError(f"GPU {self._device.index} was closed: open it again")
            try:
                self._device.context.push()
            except self._device.drv.Error as error:
                raise driver.device_error(str(error)) from error
        devices.append(self._device)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        devices, drv = _entered.devices, self._device.drv
        devices.pop()
        if not devices or devices[-1] is not self._device:
            try:
                _insist(drv, drv.Context.pop)
            except drv.Error as failed:
                raise driver.device_error(str(failed)) from error
        if isinstance(error, drv.Error):
            raise driver.device_error(str(error)) from error


def _insist(drv: Any, call: Callable[[], None]) -> None:
    """Try twice: a context left behind on a thread is worse than the failure, which is reported all the same."""
    try:
        call()
    except (drv.Error, DeviceError):
        call()
        raise


def _release_context(drv: Any, context: Any) -> None:
    try:
        _insist(drv, context.push)
    except drv.Error as error:
        raise driver.device_error(str(error)) from error
    finally:
        context.detach()
        # pycuda takes it off its own list only.
        _insist(drv, lambda: driver.library().cuCtxPopCurrent_v2(None))

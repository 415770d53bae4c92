"""The CUDA driver in this process, if there is one: only the stand-in, whose device memory is host memory.

Stream 0 stands for no driver at all: what is given to it runs at once.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_ILLEGAL_ADDRESS, _LAUNCH_FAILED = 700, 719
_LOST = (_ILLEGAL_ADDRESS, _LAUNCH_FAILED)  # after these every call fails, and does its work
_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class DriverError(Exception):
    """A driver call failed."""


_found: list[ctypes.CDLL] = []


def _loaded() -> ctypes.CDLL | None:
    """The stand-in, once it is in this process; an NVIDIA driver is left alone."""
    if not _found:
        try:
            library = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        except OSError:
            return None
        if hasattr(library, "standin_check_range"):
            _found.append(library)
    return _found[0] if _found else None


def _call(name: str, *arguments: object) -> None:
    library = _loaded()
    assert library is not None
    code = getattr(library, name)(*arguments)
    if code:
        raise DriverError(f"{name} returned {code}")


def present() -> bool:
    """Whether the stand-in driver is loaded and has a GPU. Otherwise everything lies and runs on the host."""
    count = ctypes.c_int()
    library = _loaded()
    return library is not None and library.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def compute_capability() -> int | None:
    """Of the current context's device or else the first, as 87; None without a driver or a GPU."""
    if not present():
        return None
    context, device, value = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    numbers = []
    try:
        _call("cuCtxGetCurrent", ctypes.byref(context))
        if context.value:
            _call("cuCtxGetDevice", ctypes.byref(device))
        for attribute in (_MAJOR, _MINOR):
            _call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
            numbers.append(value.value)
    except DriverError:
        return None
    return 10 * numbers[0] + numbers[1]


def capturing(stream: int) -> bool:
    """Whether a stream is being captured."""
    if not stream:
        return False
    status = ctypes.c_int()
    _call("cuStreamIsCapturing", ctypes.c_void_p(stream), ctypes.byref(status))
    return status.value != 0


def break_capture(stream: int) -> None:
    """Do on a capturing stream what is not allowed there."""
    library = _loaded()
    assert library is not None
    library.cuStreamSynchronize(ctypes.c_void_p(stream))


def check_range(address: int, nbytes: int) -> str | None:
    """What is wrong with an address as the place of so many bytes; None: nothing."""
    library = _loaded()
    if library is None or library.standin_check_range(ctypes.c_uint64(address), ctypes.c_uint64(nbytes)):
        return None
    return f"{nbytes} bytes at {address:#x} are not inside a live allocation"


def report(words: str) -> None:
    """From work on a stream: it failed, and so will whatever waits for it."""
    library = _loaded()
    if library is not None:
        library.standin_report(_LAUNCH_FAILED, words.encode())


_work: dict[int, Callable[[], None]] = {}


@_HOST_FUNCTION
def _run(number: int | None) -> None:
    work = _work.get(number or 0)
    if work is not None:
        work()


def register(number: int, work: Callable[[], None]) -> None:
    """Keep a piece of work under a number until `forget`."""
    _work[number] = work


def forget(number: int) -> None:
    """Drop a piece of work; graphs that still hold it do nothing."""
    _work.pop(number, None)


def launch(stream: int, number: int) -> None:
    """Run registered work when the stream gets there; on stream 0 at once.

    Raises:
        DriverError: the stream does not take it.
    """
    if stream:
        _call("cuLaunchHostFunc", ctypes.c_void_p(stream), _run, ctypes.c_void_p(number))
    else:
        _work[number]()


def allocate(nbytes: int) -> int:
    """Device memory in the current context; 0 without a driver.

    Raises:
        DriverError: no context, or no memory.
    """
    if not present():
        return 0
    address = ctypes.c_uint64()
    _call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, nbytes)))
    return address.value


def free(address: int) -> None:
    """Give memory back, from any thread: as the CUDA runtime does, in the device's primary context."""
    if not address or _loaded() is None:
        return
    context, flags, active = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_int()
    _insist("cuDevicePrimaryCtxGetState", 0, ctypes.byref(flags), ctypes.byref(active))
    if not active.value:
        return  # the context is gone, and its memory with it
    _insist("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    _insist("cuCtxPushCurrent_v2", context)
    _insist("cuMemFree_v2", ctypes.c_uint64(address))
    _insist("cuCtxPopCurrent_v2", ctypes.byref(context))
    _insist("cuDevicePrimaryCtxRelease_v2", 0)


def _insist(name: str, *arguments: object) -> None:
    """Call once more where a test made a call fail: what it looks for are the program's leaks, not TensorRT's."""
    library = _loaded()
    assert library is not None
    if getattr(library, name)(*arguments) not in (0, *_LOST):
        getattr(library, name)(*arguments)

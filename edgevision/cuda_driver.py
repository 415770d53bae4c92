"""NVIDIA's driver through ctypes: whether it works at all, and the calls that pycuda lacks (events by handle, graphs).

Calls are looked up by the names that the driver of any CUDA version from 11.4 on exports.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from ctypes import POINTER, c_char, c_char_p, c_float, c_int, c_uint, c_ulonglong, c_void_p
from typing import Any

from edgevision.errors import CaptureError, DeviceError

NON_BLOCKING_STREAM = 1  # CU_STREAM_NON_BLOCKING
CAPTURE_THIS_THREAD = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
RECORD_EXTERNAL = 1  # CU_EVENT_RECORD_EXTERNAL
BLOCKING_SYNC = 1  # CU_EVENT_BLOCKING_SYNC: who waits sleeps, and leaves the board's few cores to the decoders
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_MISMATCH = 803  # CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
_CAPTURE_REFUSED = range(900, 909)  # CUDA_ERROR_STREAM_CAPTURE_*, CUDA_ERROR_CAPTURED_EVENT

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuDeviceGetUuid": (POINTER(c_char * 16), c_int),
    "cuCtxPopCurrent_v2": (POINTER(c_void_p),),
    "cuEventCreate": (POINTER(c_void_p), c_uint),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventRecordWithFlags": (c_void_p, c_void_p, c_uint),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuEventDestroy_v2": (c_void_p,),
    "cuStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cuGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphExecDestroy": (c_void_p,),
}

_ADVICE = {
    "out of memory": "free GPU memory (close other programs or models), or use a smaller batch or workspace",
    "illegal memory access": "the GPU's state in this process is lost: restart the program",
    "launch failure": "the GPU's state in this process is lost: restart the program",
    "initialization error": "CUDA does not survive a fork: start processes by multiprocessing's method 'spawn'",
    "no kernel image": "the kernels were compiled for another GPU: clear the kernel cache, see: edgevision doctor",
}


def device_error(words: str) -> DeviceError:
    """`cuMemAlloc failed: out of memory` with what to do about it."""
    advice = next((advice for part, advice in _ADVICE.items() if part in words), "check with: edgevision doctor")
    return DeviceError(f"{words}; {advice}")


@functools.cache
def library() -> Any:
    """The driver's library with its calls typed: each raises DeviceError, naming itself, where it fails.

    Raises:
        OSError: there is none.
    """
    loaded = ctypes.CDLL("libcuda.so.1")
    for name, types in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes = types
        function.errcheck = _check
    return loaded


def _check(status: int, function: Any, arguments: tuple[Any, ...]) -> int:
    if status != 0:
        name = function.__name__.removesuffix("_v2")
        words = f"{name} failed: {_words(status)} ({status})"
        if status in _CAPTURE_REFUSED:
            raise CaptureError(f"{words}; this work runs without a CUDA graph")
        raise device_error(words)
    return status


def _words(status: int) -> str:
    text = c_char_p()
    ctypes.CDLL("libcuda.so.1").cuGetErrorString(status, ctypes.byref(text))
    return (text.value or b"unknown error").decode()


def new_handle(name: str, *arguments: Any) -> int:
    """The handle that a driver call writes through its first parameter."""
    handle = c_void_p()
    getattr(library(), name)(ctypes.byref(handle), *arguments)
    return handle.value or 0


def give_back(name: str, handle: Any) -> None:
    """Destroy a handle. A failure is a warning, as in pycuda: the driver has let go of it all the same."""
    try:
        getattr(library(), name)(handle)
    except DeviceError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)


def library_problem() -> tuple[str, str] | None:
    """Why the driver cannot be used here, and what to do about it; None where it works."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return (
            f"there is no NVIDIA driver here ({error})",
            "install the driver (a Jetson has it with JetPack; a container needs --runtime nvidia or --gpus all)",
        )
    missing = [name for name in _SIGNATURES if not hasattr(driver, name)]
    if missing:
        return f"the NVIDIA driver is too old: it lacks {missing[0]}", "install a driver for CUDA 12 or newer"
    status = driver.cuInit(0)
    if status == _NO_DEVICE:
        return "the NVIDIA driver finds no GPU here", "check with: nvidia-smi"
    if status == _MISMATCH:
        return (
            "the NVIDIA driver does not start: libcuda.so.1 and the kernel's module are of different versions",
            "restart the machine, or the container with the host's libraries",
        )
    if status != 0:
        return (
            f"the NVIDIA driver does not start: cuInit failed: {_words(status)} ({status})",
            "restart the machine; if that does not help, install the driver anew",
        )
    return None


def driver_version() -> tuple[int, int]:
    """The CUDA version that the driver offers, as (12, 6)."""
    version = c_int()
    library().cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000, version.value % 1000 // 10


def device_uuid(index: int) -> str:
    """The GPU's own identity, as nvidia-smi prints it."""
    raw = (c_char * 16)()
    library().cuDeviceGetUuid(ctypes.byref(raw), index)
    digits = raw.raw.hex()
    return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

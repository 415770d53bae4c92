"""Kernels on this CPU without a driver: a device whose memory is numpy's, for the tests of what kernels compute.

`open_kernels` builds sources with the stand-in nvcc; `HostDevice` has what launch classes ask of a device. Work runs at
once and in order. The whole device path, with its deferral and its errors, is for the stand-in driver.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NVCC = Path(__file__).with_name("nvcc")
KERNELS = Path(__file__).resolve().parents[2] / "edgevision" / "kernels"
Size = tuple[int, int, int]


class LaunchError(Exception):
    """What the emulator found wrong with a launch."""


class _Dim3(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint))


class _Parameter(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_uint32), ("alignment", ctypes.c_uint32), ("is_pointer", ctypes.c_uint32))


_LAUNCH = ctypes.CFUNCTYPE(ctypes.c_char_p, _Dim3, _Dim3, ctypes.c_uint32, ctypes.POINTER(ctypes.c_void_p))


class _Kernel(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("parameter_count", ctypes.c_uint32),
        ("parameters", ctypes.POINTER(_Parameter)),
        ("static_shared_bytes", ctypes.c_uint32),
        ("max_threads", ctypes.c_uint32),
        ("launch", _LAUNCH),
    )


class HostModule:
    """The kernels of one library that the stand-in nvcc built."""

    def __init__(self, library: Path | str) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.cuemu_kernels.restype = ctypes.POINTER(_Kernel)
        count = ctypes.c_int()
        kernels = self._library.cuemu_kernels(ctypes.byref(count))
        self._kernels = {kernels[i].name.decode(): kernels[i] for i in range(count.value)}

    def seed(self, seed: int) -> None:
        """Choose the shuffle of blocks and threads; 0: natural order."""
        self._library.cuemu_seed(ctypes.c_uint64(seed))

    def kernel(self, name: str, signature: str) -> Callable[..., None]:
        kernel = self._kernels[name]
        count = kernel.parameter_count
        sizes = [kernel.parameters[i].bytes for i in range(count)]
        assert sizes == [np.dtype(code).itemsize for code in signature], f"{name} takes parameters of {sizes} bytes"
        assert [code == "P" for code in signature] == [bool(kernel.parameters[i].is_pointer) for i in range(count)]

        def launch(stream: Any, grid: Size, block: Size, *arguments: Any, shared_bytes: int = 0) -> None:
            assert len(arguments) == len(signature), f"{name} takes {len(signature)} arguments, got {len(arguments)}"
            assert 1 <= np.prod(block) <= kernel.max_threads
            assert min(grid) >= 1
            assert max(grid[1:]) < 1 << 16
            values = [np.array(a, code) for a, code in zip(arguments, signature, strict=True)]
            pointers = (ctypes.c_void_p * count)(*(value.ctypes.data for value in values))
            message = kernel.launch(_Dim3(*grid), _Dim3(*block), shared_bytes, pointers)
            if message:
                raise LaunchError(f"{name}: {message.decode()}")

        return launch


class HostBuffer:
    """Memory filled with 0xA5, with nothing behind its last byte that a sanitiser would let pass."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.bytes = np.full(nbytes, 0xA5, np.uint8)
        self.address = self.bytes.ctypes.data
        assert self.address % 16 == 0

    def close(self) -> None:
        pass


class _Stream:
    def synchronize(self) -> None:
        pass

    def close(self) -> None:
        pass


class HostDevice:
    """What launch classes use of edgevision.cuda.Device."""

    def stream(self) -> _Stream:
        return _Stream()

    def allocate(self, nbytes: int) -> HostBuffer:
        return HostBuffer(nbytes)

    def put(self, array: NDArray[Any]) -> HostBuffer:
        """A buffer that holds `array`."""
        buffer = HostBuffer(array.nbytes)
        self.upload(buffer.address, np.ascontiguousarray(array), None)
        return buffer

    def upload(self, address: int, array: NDArray[Any], stream: Any) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: NDArray[Any], address: int, stream: Any) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def fill(self, address: int, value: int, nbytes: int, stream: Any) -> None:
        ctypes.memset(address, value, nbytes)


def build(source: str, folder: Path = KERNELS) -> Path:
    """The library built from `source`, which may include files of `folder`.

    Raises:
        RuntimeError: it does not compile; with the compiler's words.
    """
    with tempfile.TemporaryDirectory() as work:
        text, image = Path(work, "kernels.cu"), Path(work, "image")
        text.write_text(source)
        arguments = ["-cubin", "-arch=sm_87", "-std=c++17", "--fmad=false", f"-I{folder}", "-o", str(image), str(text)]
        done = subprocess.run([sys.executable, str(NVCC), *arguments], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return Path(image.read_text().removeprefix("CUEMU:"))


def open_kernels(names: Sequence[str]) -> HostModule:
    """Some files of edgevision/kernels, by name: ["nms.cu"]."""
    return HostModule(build("".join(f'#include "{name}"\n' for name in names)))

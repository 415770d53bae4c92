"""The stand-in for NVIDIA's driver, as tests steer it: see driver.h.

The loader matches libraries by name: once this libcuda.so.1 is loaded, whatever asks for that name gets it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".pytest_cache" / "standins"
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-soname,libcuda.so.1", "-pthread")

INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, INVALID_CONTEXT, INVALID_HANDLE = 1, 2, 100, 201, 400
ILLEGAL_ADDRESS, LAUNCH_FAILED, NOT_PERMITTED = 700, 719, 800

HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # for cuLaunchHostFunc


def headers() -> Path:
    """Folder of CUDA's headers, from the package that scripts/set-up-device installs."""
    package = importlib.util.find_spec("nvidia.cuda_runtime")
    assert package is not None, "run: scripts/set-up-device VENV"
    return Path(next(iter(package.submodule_search_locations or ()))) / "include"


@functools.cache
def build() -> Path:
    """The library, built by g++ where its sources have changed (some seconds). Its folder serves as LD_LIBRARY_PATH."""
    sources = sorted(HERE.glob("*.cpp"))
    digest = hashlib.sha256("\0".join(FLAGS).encode())
    for file in sorted([*sources, *HERE.glob("*.h")]):
        digest.update(file.read_bytes())
    built = CACHE / digest.hexdigest()[:16] / "libcuda.so.1"
    if not built.is_file():
        built.parent.mkdir(parents=True, exist_ok=True)
        partial = built.with_name(f"partial.{os.getpid()}")
        command = ["g++", *FLAGS, "-isystem", headers(), *sources, "-o", partial, "-ldl"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        partial.replace(built)
    return built


def environment() -> dict[str, str]:
    """For a subprocess that is to find the stand-in as its driver."""
    return {**os.environ, "LD_LIBRARY_PATH": f"{build().parent}:{os.environ.get('LD_LIBRARY_PATH', '')}"}


class Driver:
    """Sees and steers the stand-in that this process has loaded."""

    def __init__(self) -> None:
        assert "pycuda._driver" not in sys.modules, "pycuda was loaded with another driver"
        self.library = ctypes.CDLL(str(build()))
        for name in ("counters", "calls", "complaints", "last_failed"):
            function = getattr(self.library, f"standin_{name}")
            function.argtypes, function.restype = (ctypes.c_char_p, ctypes.c_int64), ctypes.c_int64
        self.library.standin_set.argtypes = (ctypes.c_char_p, ctypes.c_int64)
        self.library.standin_fail.argtypes = (ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int)
        self.library.standin_check_range.argtypes = (ctypes.c_uint64, ctypes.c_uint64)
        self.library.standin_report.argtypes = (ctypes.c_int, ctypes.c_char_p)
        self.set(devices=0)

    def _text(self, name: str) -> str:
        function = getattr(self.library, f"standin_{name}")
        buffer = ctypes.create_string_buffer(function(None, 0) + 4096)
        function(buffer, len(buffer))
        return buffer.value.decode()

    def _numbers(self, name: str) -> dict[str, int]:
        return {key: int(value) for key, value in (line.split() for line in self._text(name).splitlines())}

    def reset(self) -> None:
        """Forget counts, faults, complaints and settings; what is alive stays."""
        self.library.standin_reset()

    def set(self, **settings: int) -> None:
        """devices, integrated, total_bytes, driver_version, seed."""
        for name, value in settings.items():
            assert self.library.standin_set(name.encode(), value) == 0, f"no setting {name}"

    def fail(self, name: str | None = None, *, after: int = 0, times: int = 1, code: int = INVALID_VALUE) -> None:
        """From now on `after` calls of that name (None: any) succeed, the next `times` (-1: all) fail with `code`."""
        self.library.standin_fail(name and name.encode(), after, times, code)

    def clear_faults(self) -> None:
        self.library.standin_clear_faults()

    def last_failed(self) -> str:
        """The last call that `fail` made fail; empty if none was."""
        return self._text("last_failed")

    def counters(self) -> dict[str, int]:
        """What was done and what is alive; a missing name was never counted. See `count`."""
        return self._numbers("counters")

    def count(self, name: str) -> int:
        """One counter: allocations, frees, pinned_allocations, pinned_frees, uploads, upload_bytes, downloads,
        download_bytes, device_copies, memsets, pageable_copies, blocking_calls, launches, graph_launches,
        host_functions, streams_created, events_created, current_contexts, retained_contexts, pending, complaints,
        and live_ allocations, bytes, pinned, pinned_bytes, streams, events, modules, graphs, executables.
        """
        return self.counters().get(name, 0)

    def calls(self) -> dict[str, int]:
        """How often each driver call was made since the reset."""
        return self._numbers("calls")

    def complaints(self) -> list[str]:
        """Each misuse in words."""
        return self._text("complaints").splitlines()

    def take_complaints(self) -> list[str]:
        """The same, and forget them: for tests that misuse on purpose."""
        found = self.complaints()
        self.library.standin_clear_complaints()
        return found

    def check_range(self, address: int, nbytes: int) -> bool:
        """Whether the device may touch all of it."""
        return bool(self.library.standin_check_range(address, nbytes))

    def report(self, words: str, code: int = LAUNCH_FAILED) -> None:
        """From inside a host function: the work failed. Waiting for it then fails with that code."""
        self.library.standin_report(code, words.encode())

    def alive(self) -> dict[str, int]:
        """What was not given back: empty where nothing leaked."""
        names = ("retained_contexts", "current_contexts")
        return {k: v for k, v in self.counters().items() if v and (k in names or k.startswith("live_"))}


@functools.cache
def load() -> Driver:
    """The stand-in, loaded once per process, before pycuda is. It has no GPU until `reset`."""
    return Driver()

"""NVIDIA's runtime compiler, through its C interface: source text in, a GPU's machine code (cubin) out.

Source: the NVRTC documentation. The library comes with CUDA and JetPack, or from pip (nvidia-cuda-nvrtc).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgevision.errors import DeviceError


def cuda_folders() -> list[Path]:
    """Folders of installed CUDA toolkits, the one that the user names first."""
    named = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    return [folder for folder in (*named, *sorted(Path("/usr/local").glob("cuda*"), reverse=True)) if folder.is_dir()]


def libraries(major: int) -> Iterator[str]:
    """What may load as NVRTC of CUDA `major`: the loader's own choice, then CUDA folders, then pip's packages."""
    name = f"libnvrtc.so.{major}"
    yield name
    for folder in cuda_folders():
        yield from map(str, sorted([*folder.glob(f"lib64/{name}"), *folder.glob(f"targets/*/lib/{name}")]))
    packages = importlib.util.find_spec("nvidia")
    for place in packages.submodule_search_locations or () if packages else ():
        yield from map(str, sorted(Path(place).glob(f"*/lib/{name}")))


class Nvrtc:
    """One loaded NVRTC library.

    Attributes:
        version: "nvrtc 12.6".
        architectures: the SM numbers it compiles for.
    """

    def __init__(self, library: str) -> None:
        """Raises OSError: the library does not load."""
        # NVRTC opens its builtins by name; from a folder the loader does not search they must be in memory already.
        for builtins in Path(library).parent.glob("libnvrtc-builtins.so.*") if "/" in library else ():
            ctypes.CDLL(str(builtins))
        self._library: Any = ctypes.CDLL(library)
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"nvrtc {major.value}.{minor.value}"
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", numbers)
        self.architectures = frozenset(numbers)

    def compile(self, source: str, options: Sequence[str]) -> tuple[bytes, str]:
        """The cubin of a source, and the compiler's remarks.

        Raises:
            DeviceError: the source does not compile; with the compiler's words.
        """
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
        try:
            arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = self._library.nvrtcCompileProgram(program, len(options), arguments)
            log = self._get("ProgramLog", program).rstrip(b"\0").decode(errors="replace").strip()
            if failed:
                raise DeviceError(f"{self.version} could not compile the CUDA kernels:\n{log or self._words(failed)}")
            return self._get("CUBIN", program), log
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _get(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, text)
        return text.raw

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise DeviceError(f"{name} failed: {self._words(status)}; reinstall CUDA's NVRTC or set EDGEVISION_NVCC")

    def _words(self, status: int) -> str:
        words: bytes = self._library.nvrtcGetErrorString(status)
        return f"{words.decode()} ({status})"

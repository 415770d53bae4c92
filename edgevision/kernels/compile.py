"""The CUDA kernels, compiled at first use for the GPU at hand and kept in the user's cache folder.

All kernels/*.cu are one translation unit and one module. The compiler is the first of: $EDGEVISION_NVCC, NVRTC of the
driver's CUDA generation or the one before, nvcc. A cache entry is named by a hash of sources, options, SM and compiler,
and holds the SHA-256 of its image, so a damaged one is compiled anew.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgevision.errors import DeviceError
from edgevision.files import atomic_path, sha256, user_cache
from edgevision.kernels.nvrtc import Nvrtc, cuda_folders, libraries

if TYPE_CHECKING:
    from edgevision.cuda import Device, Module

SOURCES = Path(__file__).parent
_OLDEST_CUDA = 12
# No fused multiply-add: results are the CPU kernels', operation by operation.
_OPTIONS = ("-std=c++17", "--fmad=false")
_TIMEOUT_S = 600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compiler:
    """Something that turns a source into a module image.

    Attributes:
        identity: name and version; part of the cache's key.
        compile: (source, sm) to image.
    """

    identity: str
    compile: Callable[[str, int], bytes]


def load_kernels(device: Device) -> Module:
    """The kernels on `device`.

    Raises:
        DeviceError: no compiler is installed, or it or the driver refuses the kernels.
    """
    return device.load_module(compile_kernels(device.sm, device.cuda_version[0]))


def compile_kernels(sm: int, cuda_major: int) -> bytes:
    """The kernels' module image, from the cache where it is there.

    Args:
        sm: the GPU's compute capability, 87 for 8.7.
        cuda_major: the CUDA generation that the driver runs.

    Raises:
        DeviceError: no compiler is installed, or it refuses the kernels.
    """
    compiler = find_compiler(sm, cuda_major)
    source = "".join(f'#include "{path.name}"\n' for path in sorted(SOURCES.glob("*.cu")))
    texts = [path.read_text() for path in sorted(SOURCES.glob("*.cu*"))]
    key = sha256("\0".join([compiler.identity, f"sm_{sm}", *_OPTIONS, source, *texts]).encode())
    entry = user_cache("kernels") / f"sm_{sm}-{key[:32]}.cubin"
    image = _read(entry)
    if image is None:
        image = compiler.compile(source, sm)
        _keep(entry, image)
    return image


def find_compiler(sm: int, cuda_major: int) -> Compiler:
    """The first compiler on this machine that serves a GPU and its driver; arguments as for `compile_kernels`.

    Raises:
        DeviceError: there is none; says what was looked for and what to install.
    """
    if chosen := os.environ.get("EDGEVISION_NVCC"):
        return _nvcc(chosen)
    reasons: list[str] = []
    # A driver runs code from its own CUDA generation and from older ones, not from newer ones.
    generations = range(cuda_major, _OLDEST_CUDA - 1, -1)
    for major in generations:
        for library in libraries(major):
            try:
                nvrtc = _load_nvrtc(library)
            except OSError:
                continue
            if sm in nvrtc.architectures:
                return Compiler(nvrtc.version, functools.partial(_compile_with_nvrtc, nvrtc))
            reasons.append(f"{nvrtc.version} ({library}) does not compile for sm_{sm}")
    for path in filter(None, [shutil.which("nvcc"), *(str(folder / "bin" / "nvcc") for folder in cuda_folders())]):
        if Path(path).exists():
            compiler = _nvcc(path)
            if any(f"release {major}." in compiler.identity for major in generations):
                return compiler
            reasons.append(f"{path} is of another CUDA generation than the driver's {cuda_major}")
    package = "nvidia-cuda-nvrtc-cu12" if cuda_major == 12 else f"nvidia-cuda-nvrtc=={cuda_major}.*"
    raise DeviceError(
        f"no CUDA compiler for this GPU (sm_{sm}, driver for CUDA {cuda_major}): "
        + "; ".join([*reasons, f"found no other libnvrtc.so.{cuda_major} and no other nvcc"])
        + f". Install one: sudo apt-get install cuda-nvrtc-{cuda_major}-N (N as in your CUDA), "
        f'or pip install "{package}"; or set EDGEVISION_NVCC to the path of an nvcc'
    )


def _options(sm: int) -> list[str]:
    return [f"-arch=sm_{sm}", *_OPTIONS, f"-I{SOURCES}"]


@functools.cache
def _load_nvrtc(library: str) -> Nvrtc:
    return Nvrtc(library)


def _compile_with_nvrtc(nvrtc: Nvrtc, source: str, sm: int) -> bytes:
    return nvrtc.compile(source, _options(sm))[0]


def _nvcc(path: str) -> Compiler:
    version = _run(path, "--version").stdout.strip()
    return Compiler(f"{path}\n{version}", functools.partial(_compile_with_nvcc, path))


def _compile_with_nvcc(path: str, source: str, sm: int) -> bytes:
    with tempfile.TemporaryDirectory(prefix="edgevision-") as folder:
        text, image = Path(folder, "kernels.cu"), Path(folder, "kernels.cubin")
        text.write_text(source)
        _run(path, "-cubin", *_options(sm), "-o", str(image), str(text))
        return image.read_bytes()


def _run(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(
            f"the CUDA compiler {path} does not run ({error}); set EDGEVISION_NVCC to the path of a working nvcc"
        ) from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise DeviceError(f"{path} {' '.join(arguments)} failed ({done.returncode}):\n{words}")
    return done


def _read(entry: Path) -> bytes | None:
    """A cached image; None where there is none or it is damaged."""
    try:
        digest, _, image = entry.read_bytes().partition(b"\n")
    except OSError:
        return None
    return image if digest.decode(errors="replace") == sha256(image) else None


def _keep(entry: Path, image: bytes) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(entry) as part:
            part.write_bytes(sha256(image).encode() + b"\n" + image)
    except OSError as error:
        _log.warning(
            "the compiled CUDA kernels cannot be kept (%s), so every start compiles them; "
            "make %s writable or set XDG_CACHE_HOME",
            error,
            entry.parent,
        )

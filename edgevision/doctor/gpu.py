"""The GPU's side: driver, pycuda, a compiler for the kernels, TensorRT."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from edgevision.backends.build_options import BuildOptions
from edgevision.backends.known_troubles import known_troubles
from edgevision.backends.tensorrt_api import Api
from edgevision.doctor.board import board_sm, is_board
from edgevision.doctor.finding import ABSENT, OK, PROBLEM, Finding, find_package, read
from edgevision.errors import DependencyError, DeviceError

_GIB = 1 << 30
_NVIDIA = "0x10de"
_OLDEST_MINOR = 10  # Python 3.10


def has_nvidia_gpu(root: Path) -> bool:
    """Whether the hardware is there, whatever is installed."""
    vendors = ((card / "vendor", card / "class") for card in root.glob("sys/bus/pci/devices/*"))
    return is_board(root) or any(read(v) == _NVIDIA and read(c).startswith("0x03") for v, c in vendors)


def check_gpu(root: Path) -> Iterator[Finding]:
    """Driver, pycuda, the GPU itself and a compiler; each where the one before it works."""
    from edgevision.cuda import driver_problem, open_device
    from edgevision.cuda_driver import driver_version, library_problem

    problem = library_problem()
    if problem is not None:
        yield _no_driver(root, *problem)
        yield from _toolkit(root)
        yield _installed_pycuda()
        return
    version = driver_version()
    yield Finding("NVIDIA driver", OK, f"offers CUDA {version[0]}.{version[1]}")
    yield from _toolkit(root)
    problem = driver_problem()
    if problem is not None:
        yield Finding("pycuda", PROBLEM, *problem)
        return
    yield _installed_pycuda()
    try:
        device = open_device()
    except DeviceError as error:
        yield Finding("GPU", PROBLEM, str(error), "check with: nvidia-smi")
        return
    shared = ", shared with the CPU" if device.integrated else ""
    sm = f"{device.sm // 10}.{device.sm % 10}"
    yield Finding("GPU", OK, f"{device.name}, SM {sm}, {device.total_bytes / _GIB:.1f} GiB{shared}")
    yield _compiler(device.sm, version[0])


def _no_driver(root: Path, sentence: str, remedy: str) -> Finding:
    if has_nvidia_gpu(root):
        return Finding("NVIDIA driver", PROBLEM, sentence, remedy)
    return Finding(
        "NVIDIA driver", ABSENT, sentence, "nothing to do on a machine without an NVIDIA GPU: models run on the CPU"
    )


def _installed_pycuda() -> Finding:
    try:
        return Finding("pycuda", OK, f"{importlib.metadata.version('pycuda')}, for running models on an NVIDIA GPU")
    except importlib.metadata.PackageNotFoundError:
        remedy = 'pip install "edgevision[tensorrt]" (it needs g++ and CUDA\'s headers)'
        return Finding("pycuda", ABSENT, "running models on an NVIDIA GPU: not installed", remedy)


def _toolkit(root: Path) -> Iterator[Finding]:
    """The CUDA toolkit, which pycuda is built with; of interest only where there is a GPU."""
    try:
        version = str(json.loads(read(root / "usr/local/cuda/version.json"))["cuda"]["version"])
    except (ValueError, KeyError, TypeError):
        version = ""
    if version:
        yield Finding("CUDA toolkit", OK, f"{version} in /usr/local/cuda")
    elif has_nvidia_gpu(root):
        remedy = (
            "sudo apt-get install cuda-toolkit (on a Jetson it comes with: sudo apt-get install nvidia-jetpack); "
            "not needed where pycuda and NVRTC are installed already"
        )
        yield Finding("CUDA toolkit", ABSENT, "no /usr/local/cuda/version.json", remedy)


def _compiler(sm: int, cuda_major: int) -> Finding:
    from edgevision.kernels.compile import find_compiler

    try:
        identity = find_compiler(sm, cuda_major).identity
    except DeviceError as error:
        sentence, _, remedy = str(error).partition(". Install one: ")
        fix = "set EDGEVISION_NVCC to the path of a working nvcc, or unset it"
        return Finding("CUDA compiler", PROBLEM, sentence, remedy or fix)
    release = re.search(r"release [\d.]+", identity)
    return Finding("CUDA compiler", OK, identity.partition("\n")[0] + (f" ({release[0]})" if release else ""))


def check_tensorrt(root: Path) -> Iterator[Finding]:
    """TensorRT and what is known of its version; on a workstation TensorRT for RTX as well."""
    from edgevision.backends.tensorrt_api import load_api

    try:
        api = load_api("tensorrt")
    except DependencyError as error:
        yield _no_tensorrt(root, str(error.__cause__))
    else:
        yield _judge(api, _sm(root))
    if not is_board(root):
        yield from find_package(
            "tensorrt_rtx_bindings",
            "tensorrt-rtx-cu13-bindings",
            "building engines with TensorRT-RTX",
            'pip install "edgevision[tensorrt-rtx]"',
        )


def _sm(root: Path) -> int | None:
    from edgevision.cuda import driver_problem, open_device

    named = board_sm(root)
    return named if named is not None or driver_problem() is not None else open_device().sm


def _judge(api: Api, sm: int | None) -> Finding:
    """A version, and whether it is known to fail on this GPU."""
    general = known_troubles(api, sm, BuildOptions("fp16"))
    if general:
        remedy = (
            "builds are tried all the same; a newer JetPack brings another one: sudo apt-get install nvidia-jetpack"
        )
        return Finding("TensorRT", PROBLEM, f"{api.version}: {'; '.join(general)}", remedy)
    quantised = known_troubles(api, sm, BuildOptions("int8"))
    fallback = f"{'; '.join(quantised)}; where an INT8 build fails, edgevision falls back to FP16 and says so"
    return Finding("TensorRT", OK, api.version, fallback if quantised else "")


def _no_tensorrt(root: Path, why: str) -> Finding:
    """Most often it is there, for another Python than this one."""
    places = root.glob("usr/lib/python3*/dist-packages/tensorrt")
    versions = sorted(place.parts[-3].removeprefix("python") for place in places)
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if versions and not {"3", ours} & set(versions):
        usable = [version for version in versions if int(version.partition(".")[2] or 0) >= _OLDEST_MINOR]
        remedy = f"it is installed for Python {', '.join(versions)}, this is {ours}; " + (
            f"use that one: python{usable[0]} -m venv --system-site-packages .venv"
            if usable
            else "that is out of scope (JetPack 5 and older), models run on the CPU"
        )
    elif versions:
        remedy = (
            "it is installed for the system's Python, which this virtual environment does not see; make it anew with: "
            "/usr/bin/python3 -m venv --system-site-packages .venv"
        )
    elif is_board(root):
        remedy = (
            "sudo apt-get install python3-libnvinfer (part of JetPack), and make virtual environments with: "
            "/usr/bin/python3 -m venv --system-site-packages .venv"
        )
    else:
        remedy = "with an NVIDIA GPU: pip install tensorrt"
    return Finding("TensorRT", PROBLEM if is_board(root) else ABSENT, f"not importable ({why})", remedy)

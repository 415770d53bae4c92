"""What works on this machine, what does not, and the exact remedy: the findings behind `edgevision doctor`."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgevision import machine

OK, ABSENT, PROBLEM = "ok", "absent", "problem"
_GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        state: `ok`; `absent`: an optional part is not there; `problem`: something that should work does not.
        detail: what was found.
        remedy: what to do about it; empty when there is nothing to do.
    """

    subject: str
    state: str
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything. Never raises: a check that breaks becomes a finding."""
    findings: list[Finding] = []
    for check in _CHECKS:
        try:
            findings.extend(check())
        except Exception as error:  # noqa: BLE001 - the doctor must survive whatever the machine does to it
            name = check.__name__.lstrip("_")
            findings.append(Finding(name, PROBLEM, f"the check itself failed: {type(error).__name__}: {error}"))
    return findings


def _python() -> Iterator[Finding]:
    yield Finding("Python", OK, f"{platform.python_version()} on {platform.machine()}")


def _machine() -> Iterator[Finding]:
    integer = sorted(machine.cpu_flags() & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
    detail = f"{machine.cpu_name()}, {machine.cores()} cores, integer dot product: {', '.join(integer) or 'none'}"
    yield Finding("processor", OK, detail, "" if integer else "INT8 gains little on this CPU; export measures it")
    memory = machine.memory_bytes()
    small = memory < _GIB
    remedy = "export on a larger machine: exporting and building need about 1 GiB" if small else ""
    yield Finding("memory", PROBLEM if small else OK, f"{memory / _GIB:.1f} GiB", remedy)


def _package(module: str, distribution: str, extra: str, purpose: str) -> Iterator[Finding]:
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        yield Finding(distribution, ABSENT, f"{purpose}: not installed ({error})", f'pip install "edgevision[{extra}]"')
        return
    except ImportError as error:
        yield Finding(distribution, PROBLEM, f"{purpose}: does not load: {error}", f"reinstall {distribution}")
        return
    version = getattr(loaded, "__version__", None) or importlib.metadata.version(distribution)
    yield Finding(distribution, OK, f"{version}, for {purpose}")


def _opencv() -> Iterator[Finding]:
    found = list(_package("cv2", "opencv-python-headless", "cpu", "pictures"))
    yield from found
    if found[0].state == OK:
        import cv2

        lines = cv2.getBuildInformation().splitlines()
        built_in = {name: any(name in line and "YES" in line for line in lines) for name in ("GStreamer", "FFMPEG")}
        detail = ", ".join(f"{name} {'yes' if present else 'no'}" for name, present in built_in.items())
        yield Finding("OpenCV video input", OK, f"{detail} (not needed: PyAV reads cameras and files)")


def _packages() -> Iterator[Finding]:
    yield from _package("av", "av", "cpu", "video files and RTSP")
    yield from _package("onnxruntime", "onnxruntime", "cpu", "running models on this CPU")
    yield from _package("onnx", "onnx", "export", "exporting models")
    yield from _package("pycocotools", "pycocotools", "eval", "mAP")


def _nvidia() -> Iterator[Finding]:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        version = ctypes.c_int()
        status = driver.cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        remedy = "nothing to do on a machine without an NVIDIA GPU: models run on the CPU"
        yield Finding("NVIDIA driver", ABSENT, "libcuda.so.1 not found", remedy)
    else:
        count = ctypes.c_int()
        if status or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
            yield Finding("NVIDIA driver", PROBLEM, "loads, but finds no GPU", "check the driver with: nvidia-smi")
        else:
            cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
            yield Finding("NVIDIA driver", OK, f"CUDA {cuda}, {count.value} GPU(s)")
    yield from _package("pycuda", "pycuda", "tensorrt", "running models on an NVIDIA GPU")
    release = Path("/etc/nv_tegra_release")
    if release.is_file():
        yield Finding("Jetson", OK, release.read_text(errors="replace").splitlines()[0].strip("# ")[:80])
    try:
        tensorrt = importlib.import_module("tensorrt")
    except ImportError as error:
        remedy = (
            "on a Jetson: sudo apt-get install python3-libnvinfer (part of JetPack); elsewhere: pip install tensorrt"
        )
        yield Finding("TensorRT", ABSENT, f"not importable ({error})", remedy)
    else:
        yield Finding("TensorRT", OK, str(tensorrt.__version__))
    yield from _package(
        "tensorrt_rtx_bindings", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx", "building engines with TensorRT-RTX"
    )


def _storage() -> Iterator[Finding]:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            free = shutil.disk_usage(nearest).free
    except OSError as error:
        yield Finding("cache folder", PROBLEM, f"{folder}: {error}", "make it writable, or set XDG_CACHE_HOME")
    else:
        short = free < _GIB
        remedy = "free some space: bundles and engines take 10 to 200 MB each" if short else ""
        yield Finding("cache folder", PROBLEM if short else OK, f"{folder}, {free / _GIB:.0f} GiB free", remedy)


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _machine, _opencv, _packages, _nvidia, _storage)

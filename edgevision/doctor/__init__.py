"""What works on this machine, what does not, and the exact remedy: the findings behind `edgevision doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from edgevision import machine
from edgevision.doctor.board import check_board, is_board
from edgevision.doctor.finding import ABSENT, OK, PROBLEM, Finding, find_package, read
from edgevision.doctor.gpu import check_gpu, check_tensorrt
from edgevision.doctor.video import check_video

__all__ = ["ABSENT", "OK", "PROBLEM", "Finding", "examine"]

_GIB, _MIB = 1 << 30, 1 << 20
_BUILD_BYTES = 2 * _GIB


def examine(root: Path = Path("/")) -> list[Finding]:
    """Look at everything. Never raises: a check that breaks becomes a finding.

    Args:
        root: where the machine's files are (/proc, /sys, /etc).
    """
    findings: list[Finding] = []
    for check in _CHECKS:
        try:
            findings.extend(check(root))
        except Exception as error:  # noqa: BLE001 - the doctor must survive whatever the machine does to it
            name = check.__name__.removeprefix("check_").lstrip("_")
            words = f"the check itself failed: {type(error).__name__}: {error}"
            findings.append(Finding(name, PROBLEM, words, "report it, with the output of: edgevision doctor --json -"))
    return findings


def _python(root: Path) -> Iterator[Finding]:
    environment = ", in a virtual environment" if sys.prefix != sys.base_prefix else ""
    yield Finding("Python", OK, f"{platform.python_version()} on {platform.machine()}{environment}")


def _machine(root: Path) -> Iterator[Finding]:
    integer = sorted(machine.cpu_flags(root) & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
    name, dot = machine.cpu_name(root), ", ".join(integer) or "none"
    remedy = "" if integer else "INT8 gains little on this CPU; export measures it"
    yield Finding("processor", OK, f"{name}, {machine.cores()} cores, integer dot product: {dot}", remedy)
    yield _memory(root)


def _memory(root: Path) -> Finding:
    total = machine.memory_bytes(root)
    sizes = dict(line.split()[:2] for line in read(root / "proc/meminfo").splitlines() if len(line.split()) > 1)
    free, swap = (int(sizes.get(name, 0)) * 1024 for name in ("MemAvailable:", "SwapFree:"))
    free = min(free, total)
    detail = f"{total / _GIB:.1f} GiB, {free / _GIB:.1f} GiB free, {swap / _GIB:.1f} GiB of swap free"
    if total < _GIB:
        return Finding("memory", PROBLEM, detail, "export on a larger machine: exporting and building need about 1 GiB")
    if is_board(root) and free + swap < _BUILD_BYTES:
        remedy = (
            "close other programs, stop the desktop (sudo systemctl isolate multi-user.target), or add swap: "
            "sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
            "sudo swapon /swapfile"
        )
        return Finding("memory", PROBLEM, f"{detail}: building a plan may need {_BUILD_BYTES / _GIB:.0f}", remedy)
    return Finding("memory", OK, detail)


def _packages(root: Path) -> Iterator[Finding]:
    for module, distribution, extra, purpose in (
        ("onnxruntime", "onnxruntime", "cpu", "running models on this CPU"),
        ("onnx", "onnx", "export", "exporting models"),
        ("pycocotools", "pycocotools", "eval", "mAP"),
    ):
        yield from find_package(module, distribution, purpose, f'pip install "edgevision[{extra}]"')


def _storage(root: Path) -> Iterator[Finding]:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    nearest = next(path for path in (folder / "edgevision", *(folder / "edgevision").parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            free = shutil.disk_usage(nearest).free
    except OSError as error:
        yield Finding("cache folder", PROBLEM, f"{folder}: {error}", "make it writable, or set XDG_CACHE_HOME")
        return
    kept = [path for path in (folder / "edgevision").rglob("*") if path.is_file()]
    plans = sum(path.suffix == ".plan" for path in kept)
    size = sum(path.stat().st_size for path in kept)
    detail = f"{folder / 'edgevision'}: {size / _MIB:.0f} MiB, {plans} plans; {free / _GIB:.0f} GiB free"
    short = free < _GIB
    remedy = "free some space: bundles and engines take 10 to 200 MB each" if short else ""
    yield Finding("cache folder", PROBLEM if short else OK, detail, remedy)


_CHECKS: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    _python,
    check_board,
    _machine,
    _packages,
    check_gpu,
    check_tensorrt,
    check_video,
    _storage,
)

"""What this machine gives this process: cores, vector instructions, memory. Linux; elsewhere, the plain totals."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
# Instructions that multiply and add 8-bit integers four at a time: with them INT8 outruns float on a CPU.
_INT8_DOT = {"avx512_vnni", "avx_vnni", "asimddp"}

_M_ARENA_MAX = -8  # glibc's malloc.h


def cores() -> int:
    """CPU cores this process may keep busy, at least 1.

    The threads of one core count once, only cores in the affinity mask count, and a container's CPU quota is a limit
    (rounded down: a thread too many is stopped for the rest of each period).
    """
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    quota = cpu_quota()
    count = physical_cores(usable)
    return max(1, count if quota is None else min(count, int(quota)))


def physical_cores(cpus: set[int], root: Path = _ROOT) -> int:
    """How many physical cores the logical ones in `cpus` stand for."""
    groups = {_read(root / f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list") or str(n) for n in cpus}
    return len(groups)


def cpu_quota(root: Path = _ROOT) -> float | None:
    """CPUs' worth of time per second that control groups grant; None without a limit."""
    quotas = []
    for folder in _cgroup_folders(root, "cpu"):
        limit = _read(folder / "cpu.max").split() or [
            _read(folder / "cpu.cfs_quota_us"),
            _read(folder / "cpu.cfs_period_us"),
        ]
        if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit():  # "max" and -1 are no limit
            quotas.append(int(limit[0]) / int(limit[1]))
    return min(quotas, default=None)


def memory_bytes(root: Path = _ROOT) -> int:
    """Memory this process may use: the machine's, or its control group's limit."""
    sizes = [int(line.split()[1]) * 1024 for line in _read(root / "proc/meminfo").splitlines() if "MemTotal" in line]
    for folder in _cgroup_folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            value = _read(folder / name)
            if value.isdigit():
                sizes.append(int(value))
    return min(sizes) if sizes else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cpu_flags(root: Path = _ROOT) -> frozenset[str]:
    """The CPU's feature names as Linux spells them (`avx2`, `avx512_vnni`, `asimddp`); empty where unknown."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def cpu_name(root: Path = _ROOT) -> str:
    """The CPU's name as Linux gives it, else the architecture."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return os.uname().machine


def has_int8_dot(root: Path = _ROOT) -> bool:
    """True where the CPU has 8-bit dot products, so that INT8 graphs are worth running."""
    return bool(cpu_flags(root) & _INT8_DOT)


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders that may limit this process, from its own control group up to the root, versions 2 and 1."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")  # hierarchy number : controllers (none in version 2) : path
        controllers, found, path = rest.partition(":")
        if not found or (controllers and controller not in controllers.split(",")):
            continue
        base = root / "sys/fs/cgroup" / (controller if controllers else "")
        own = base / path.lstrip("/")
        yield own
        yield from (parent for parent in own.parents if parent == base or base in parent.parents)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def one_arena() -> None:
    """For programs that run for months, before they start threads: glibc gives threads up to eight arenas per core to
    take memory from, keeps in each what its threads have freed, and so grows long after all is in use that ever will
    be. One costs no time here. `MALLOC_ARENA_MAX` in the environment, which does the same, is left in force."""
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none, and no arenas
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """To the system, what glibc keeps of it for the next time: 0.2 to 10 ms."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

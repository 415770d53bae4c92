"""What the machine grants: read from small copies of the kernel's files, and checked against this machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edgevision import machine


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def test_this_machines_figures_are_plausible() -> None:
    assert 1 <= machine.cores() <= len(os.sched_getaffinity(0))
    assert 64 << 20 <= machine.memory_bytes() <= psutil.virtual_memory().total
    assert machine.cpu_name()


def test_the_affinity_mask_limits_the_cores(request: pytest.FixtureRequest) -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from edgevision.machine import cores; print(cores())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=request.config.rootpath,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["1"]


def test_the_threads_of_one_core_count_once(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    root = tree(tmp_path, {cpu.format(0): "0,2", cpu.format(2): "0,2", cpu.format(1): "1,3", cpu.format(3): "1,3"})
    assert machine.physical_cores({0, 1, 2, 3}, root) == 2
    assert machine.physical_cores({0, 2}, root) == 1
    assert machine.physical_cores({0, 1}, root) == 2
    assert machine.physical_cores({4, 5, 6}, root) == 3  # no topology: every CPU for itself


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        # version 2
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "200000 100000"}, 2.0),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
                "sys/fs/cgroup/a/cpu.max": "300000 100000",
            },
            3.0,
        ),
        # version 1
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        # inside a container the path of the host's group leads nowhere: its own root counts
        ({"proc/self/cgroup": "0::/../../host/x", "sys/fs/cgroup/cpu.max": "100000 100000"}, 1.0),
        ({"proc/self/cgroup": "nonsense", "sys/fs/cgroup/cpu.max": "100000 100000"}, None),
    ],
)
def test_a_containers_cpu_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert machine.cpu_quota(tree(tmp_path, files)) == quota


def test_memory_is_the_machines_or_the_groups_limit(tmp_path: Path) -> None:
    files = {"proc/meminfo": "MemTotal:  8000000 kB\nMemFree: 1 kB", "proc/self/cgroup": "0::/a"}
    assert machine.memory_bytes(tree(tmp_path, files)) == 8_000_000 * 1024
    files = {"sys/fs/cgroup/a/memory.max": "1000000"}
    assert machine.memory_bytes(tree(tmp_path, files)) == 1_000_000
    files = {"sys/fs/cgroup/a/memory.max": "max"}
    assert machine.memory_bytes(tree(tmp_path, files)) == 8_000_000 * 1024


X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 {}\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd {}\nModel\t\t: Orin\n"


@pytest.mark.parametrize(
    ("cpuinfo", "dot"),
    [
        (X86.format("avx512_vnni"), True),
        (X86.format("avx_vnni"), True),
        (X86.format("avx512f"), False),
        (ARM.format("asimddp"), True),
        (ARM.format("crc32"), False),
        ("", False),
    ],
)
def test_int8_dot_products_by_architecture(tmp_path: Path, cpuinfo: str, dot: bool) -> None:
    root = tree(tmp_path, {"proc/cpuinfo": cpuinfo})
    assert machine.has_int8_dot(root) is dot
    assert ("avx2" in machine.cpu_flags(root)) is ("avx2" in cpuinfo)


def test_the_cpus_name(tmp_path: Path) -> None:
    assert machine.cpu_name(tree(tmp_path / "x86", {"proc/cpuinfo": X86})) == "Some CPU"
    assert machine.cpu_name(tree(tmp_path / "arm", {"proc/cpuinfo": ARM})) == "Orin"
    assert machine.cpu_name(tmp_path) == os.uname().machine


_THREADS_WITH_MEMORY = """
import ctypes, sys, threading
from edgevision import machine

if sys.argv[1] == "one":
    machine.one_arena()
together = threading.Barrier(12)
def work():
    held = bytes(100_000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library has no arenas")
@pytest.mark.parametrize(
    ("argument", "variables", "expected"), [("one", {}, 1), ("one", {"MALLOC_ARENA_MAX": "4"}, 4), ("many", {}, None)]
)
def test_memory_is_taken_from_one_place_unless_the_environment_says_otherwise(
    argument: str, variables: dict[str, str], expected: int | None
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    program = [sys.executable, "-c", _THREADS_WITH_MEMORY, argument]
    told = subprocess.run(program, capture_output=True, text=True, check=True, env={**environment, **variables}).stdout
    arenas = told.count("<heap nr=")
    assert arenas == expected if expected else arenas > 4

"""The kernels touch no byte beyond their buffers and do nothing undefined: parts of their tests under sanitisers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all"
BEYOND = """
from tests.standins.host_device import HostDevice, HostModule, build
module = HostModule(build('extern "C" __global__ void past(float* p, int at) { p[at] = 1; }'))
buffer = HostDevice().allocate(64 * 4)
launch = module.kernel("past", "Pi")
launch(None, (1, 1, 1), (1, 1, 1), buffer.address, 63)
print("the last is mine", flush=True)
launch(None, (1, 1, 1), (1, 1, 1), buffer.address, 64)
"""


def under_sanitisers(*arguments: str) -> subprocess.CompletedProcess[str]:
    libraries = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    # Python's own allocator would hide what lies behind a buffer.
    environment = {
        "CUEMU_FLAGS": FLAGS,
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_the_sanitiser_sees_a_write_behind_a_buffer() -> None:
    done = under_sanitisers("-c", BEYOND)
    assert done.stdout == "the last is mine\n"
    assert "heap-buffer-overflow" in done.stderr
    assert "past" in done.stderr
    assert done.returncode


def test_nothing_is_out_of_bounds_or_undefined() -> None:
    files = [str(HERE / name) for name in ("test_cuda_nms.py", "test_masks.py")]
    part = (
        "keep_apart and 3 or padding or without_duplicates or any_number and 1203 or order_of_threads_changes_nothing"
    )
    done = under_sanitisers("-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", part)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "7 passed" in done.stdout

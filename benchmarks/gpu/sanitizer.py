"""The checks once more under NVIDIA's compute-sanitizer, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

from edgevision.kernels.nvrtc import cuda_folders

TOOLS = ("memcheck", "racecheck", "synccheck")
_FOUND = 86  # an exit code of our own for "the tool found something"
_TIMEOUT_S = 900
_TAIL = 2000


def run(device_index: int) -> dict[str, Any]:
    """By tool the `outcome`, `passed` or another word, and then the tool's own last `words`."""
    program = _program()
    if program is None:
        return {tool: {"outcome": "not installed"} for tool in TOOLS}
    return {tool: _run(program, tool, device_index) for tool in TOOLS}


def _program() -> str | None:
    folders = [str(folder / "bin") for folder in cuda_folders()]
    return shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))


def _run(program: str, tool: str, device_index: int) -> dict[str, Any]:
    again = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--checks-only", "--device", str(device_index)]
    command = [program, "--tool", tool, "--error-exitcode", str(_FOUND), *again]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return {"outcome": f"not done after {_TIMEOUT_S} s"}
    outcome = {0: "passed", _FOUND: "failed", 1: "failed"}.get(done.returncode, f"did not run ({done.returncode})")
    return {"outcome": outcome} | ({} if outcome == "passed" else {"words": (done.stdout + done.stderr)[-_TAIL:]})

"""Runs one module as a program and writes down what its process cost; needs nothing but Python.

python -m benchmarks.quantization.measured FIGURES.json MODULE [ARGUMENT...]
"""

from __future__ import annotations

import importlib.metadata
import json
import runpy
import sys
import time
from pathlib import Path

_PACKAGES = ("onnxruntime", "onnx", "numpy", "nvidia-modelopt", "torch")


def main() -> None:
    figures, module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
    # VmHWM, not ru_maxrss: a process inherits the latter from the one that started it.
    status = Path("/proc/self/status").read_text().splitlines()
    peak_kib = next(line for line in status if line.startswith("VmHWM")).split()[1]
    found = {"cpu_s": round(time.process_time(), 2), "peak_mib": round(int(peak_kib) / 1024), "versions": _versions()}
    Path(figures).write_text(json.dumps(found))


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()

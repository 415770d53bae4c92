"""Our CUDA kernels on this machine's GPU; TensorRT is not needed.

    python -m benchmarks.gpu --output DIR [--device N] [--quick] [--checks-only]

Checks every kernel against its numpy twin (and again under compute-sanitizer, where that is installed), times kernels
against memory bandwidth and against torch and torchvision (where installed), and replays whole frames as a CUDA graph
around a stand-in for the network. Writes DIR/gpu.json and DIR/gpu.md. Needs an NVIDIA driver, pycuda, numpy, and NVRTC
or nvcc. Ends with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu import checks, replay, report, sanitizer, speed
from benchmarks.gpu.bench import QUICK, Bench, Sizes
from edgevision.errors import EdgeVisionError
from edgevision.kernels.compile import find_compiler


def main(arguments: list[str] | None = None) -> int:
    """Run everything, or the checks alone; 0, 1 when a goal is missed, 2 where nothing can run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("build/gpu"))
    parser.add_argument("--device", type=int, default=0, metavar="N")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tries the script, measures nothing")
    parser.add_argument("--checks-only", action="store_true", help="compare with the twins, write nothing")
    args = parser.parse_args(arguments)
    try:
        bench = Bench(args.device, QUICK if args.quick else Sizes())
        try:
            if args.checks_only:
                return _say_checks(checks.run(bench))
            data = _measure(bench, args)
        finally:
            bench.close()
        report.write(args.output, data)
    except (EdgeVisionError, OSError) as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    print(report.markdown(data))
    print(f"written: {args.output / 'gpu.json'}, {args.output / 'gpu.md'}")
    return 1 if any(verdict["holds"] is False for verdict in data["verdicts"]) else 0


def _say_checks(results: list[checks.Check]) -> int:
    for check in results:
        print(f"{check.kernel}: {check.differing} of {check.values} values differ, {check.allowed} may")
    return 0 if all(check.passed for check in results) else 1


def _measure(bench: Bench, args: argparse.Namespace) -> dict[str, Any]:
    device = bench.device
    data: dict[str, Any] = {
        "machine": {
            "name": device.name,
            "sm": device.sm,
            "integrated": device.integrated,
            "cuda": ".".join(map(str, device.cuda_version)),
            "compiler": find_compiler(device.sm, device.cuda_version[0]).identity,
            "date": datetime.date.today().isoformat(),
        },
        "means_something": not args.quick,
    }
    steps: dict[str, Callable[[], Any]] = {
        "checks": lambda: [check.to_json() for check in checks.run(bench)],
        "sanitizer": lambda: sanitizer.run(args.device),
        "preprocess": lambda: speed.preprocessing(bench),
        "semantic": lambda: speed.semantic(bench),
        "nms": lambda: speed.suppression(bench),
        "torch_preprocess": lambda: speed.torch_preprocessing(bench),
        "replay": lambda: replay.run(bench),
    }
    for name, step in steps.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        data[name] = step()
    data["verdicts"] = report.judge(data, bench.sizes.judged_batch)
    return data


if __name__ == "__main__":
    sys.exit(main())

"""Our INT8 against the peers': accuracy, export time, peak memory and CPU speed, on the same models and pictures.

    python -m benchmarks.quantization [--modelopt-python PATH] [--models FILE.toml] [--only NAME...] [--output DIR]

Peers are onnxruntime.quantization, and nvidia-modelopt where PATH is the Python of an environment that has it. They get
the network as our export leaves it, in front of the decode, and pictures already prepared; our export does all of its
work itself. Every figure of accuracy is a mean of dithered runs, the same noise for all. Results are kept in
build/quantization and not measured twice, so that a run that was stopped goes on; `--again METHOD` measures one anew.
Writes DIR/quantization.md and DIR/quantization.json. Ends with 1 when a claim does not hold.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.quantization import report
from benchmarks.quantization.methods import METHODS, OURS
from benchmarks.quantization.steps import Protocol, QuantiserError, Work
from benchmarks.quantization.subjects import read_subjects
from benchmarks.quantization.verdict import judge
from edgevision.errors import EdgeVisionError, ModelError, SessionError, UsageError

_HERE = Path(__file__).parent


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not measured yet, then print and write all; 0, 1 when a claim does not hold, 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantization",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [method.name for method in METHODS]
    parser.add_argument(
        "--modelopt-python", type=os.path.abspath, metavar="PATH", help="of an environment with nvidia-modelopt"
    )
    parser.add_argument("--models", type=Path, metavar="FILE.toml", default=_HERE / "models.toml")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models (default: all that the file names)")
    parser.add_argument("--methods", nargs="+", choices=names, default=names, metavar="METHOD", help=", ".join(names))
    parser.add_argument("--again", nargs="+", choices=names, default=[], metavar="METHOD", help="forget its results")
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("build/quantization"))
    parser.add_argument("--work", type=Path, metavar="DIR", default=Path("build/quantization"), help="kept results")
    parser.add_argument("--repeats", type=int, default=4, metavar="N")
    parser.add_argument("--limit", type=int, metavar="N", help="judge the first N pictures only")
    parser.add_argument("--calibration-limit", type=int, default=512, metavar="N")
    args = parser.parse_args(arguments)
    if args.repeats < 2:
        parser.error("a standard error needs --repeats of at least 2")
    protocol = Protocol(repeats=args.repeats, limit=args.limit, calibration_limit=args.calibration_limit)
    try:
        named = read_subjects(args.models)
        subjects = [s for s in named if args.only is None or s.name in args.only]
        if not subjects:
            raise UsageError(f"{args.models} names no model of {args.only}")
        results: dict[str, Any] = {}
        for subject in subjects:
            work = Work(subject, args.work, protocol, args.modelopt_python)
            for method in args.again:
                work.store.forget(method)
            results[subject.name] = _measure(work, args.methods)
            left_out = [s.name for s in named if s.name not in results]
            data = report.assemble(results, left_out, protocol, judge(results))
            report.write(args.output, data)  # after each model: what is there survives a stop
    except (EdgeVisionError, OSError) as error:
        print(f"benchmarks.quantization: {error}", file=sys.stderr)
        return 2
    print(report.markdown(data))
    return 1 if any(verdict["holds"] is False for verdict in data["verdicts"]) else 0


def _measure(work: Work, names: list[str]) -> dict[str, Any]:
    """One model through all methods that are here."""
    methods = [method for method in METHODS if method.name in names and work.can(method)]
    result: dict[str, Any] = {"metric": work.metric, "float": work.float_accuracy(), "methods": {}}
    for method in methods:
        print(f"{work.subject.name}: {method.title} ...", file=sys.stderr, flush=True)
        try:
            exported = work.export(method)
            result["methods"][method.name] = {"export": exported, "accuracy": work.accuracy(method)}
        except (QuantiserError, ModelError, SessionError) as error:  # that is a result, too
            result["methods"][method.name] = {"failed": str(error)}
    ours = result["methods"].get(OURS.name, {}).get("export")
    if ours is not None:
        result["fewer_pictures"] = work.export(OURS, max(1, ours["pictures"] // 3))
    result["speed"] = work.speed([method for method in methods if "export" in result["methods"][method.name]])
    return result


if __name__ == "__main__":
    sys.exit(main())

"""INT8 against float on this CPU, one thread, both in one process and in turn.

    python -m benchmarks.int8_speed BUNDLE... [--duration S] [--at-least RATIO] [--json FILE]

The bundles must hold an INT8 graph for the CPU. Exits with 1 when a median speed-up of inference stays below RATIO.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgevision.benchmark import benchmark_int8
from edgevision.cli.output import finish, table
from edgevision.errors import EdgeVisionError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--duration", type=float, default=10.0, metavar="S", help="seconds for each bundle")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="RATIO")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(arguments)
    try:
        results = [benchmark_int8(path, duration_s=args.duration, quiet=args.quiet) for path in args.bundles]
    except EdgeVisionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = []
    for result in results:
        ratio = result["speedup"]["inference"]
        milliseconds = [f"{result[side]['stages_ms']['inference']['p50']:.2f}" for side in ("float", "int8")]
        rows.append([result["bundle"], *milliseconds, *(f"{ratio[key]:.2f}" for key in ("p25", "median", "p75"))])
    header = ["one thread", "float ms", "INT8 ms", "speed-up p25", "median", "p75"]
    notes = sorted({f"note: {note}" for result in results for note in result["warnings"]})
    finish(args, {"bundles": results}, "\n".join([table(header, rows), *notes]))
    return 0 if all(r["speedup"]["inference"]["median"] >= args.at_least for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())

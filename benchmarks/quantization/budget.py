"""What it takes to meet an accuracy budget: `--max-drop` on models with labels.

    python -m benchmarks.quantization.budget [--max-drop POINTS] [--models FILE.toml] [--only NAME...] [--output DIR]

Each model is exported with its labelled pictures as the data set. Verdicts come from dithered runs whose seeds the
search has not seen. Results are kept in build/budget, so that a run that was stopped goes on; `--again` starts anew.
Writes DIR/budget.md. Ends with 1 where a budget is missed or leaves less than 90 % of the multiply-adds in INT8.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.quantization.report import table
from benchmarks.quantization.store import Store
from benchmarks.quantization.subjects import Subject, read_subjects
from edgevision.errors import EdgeVisionError
from edgevision.export import ExportConfig, export_model
from edgevision.files import atomic_path, sha256

_HERE = Path(__file__).parent
_LEAST_SHARE = 0.9
_HEADER = ("model", "float", "lost, points", "recall kept", "scores shifted", "layers in FP16", "INT8", "export", "met")


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not measured yet, then print and write all."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantization.budget",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--max-drop", type=float, default=0.3, metavar="POINTS")
    parser.add_argument("--models", type=Path, metavar="FILE.toml", default=_HERE / "models.toml")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models (default: all that the file names)")
    parser.add_argument("--again", action="store_true", help="forget what was measured")
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("build/budget"))
    parser.add_argument("--work", type=Path, metavar="DIR", default=Path("build/budget"), help="kept results")
    args = parser.parse_args(arguments)
    found: dict[str, dict[str, Any]] = {}
    try:
        for subject in read_subjects(args.models):
            if args.only is None or subject.name in args.only:
                print(f"{subject.name} ...", file=sys.stderr, flush=True)
                found[subject.name] = _measure(subject, args)
                args.output.mkdir(parents=True, exist_ok=True)
                with atomic_path(args.output / "budget.md") as path:
                    path.write_text(_page(found, args.max_drop))
    except (EdgeVisionError, OSError) as error:
        print(f"benchmarks.quantization.budget: {error}", file=sys.stderr)
        return 2
    print(_page(found, args.max_drop))
    return 0 if all(map(_holds, found.values())) else 1


def _measure(subject: Subject, args: argparse.Namespace) -> dict[str, Any]:
    """`accuracy`, `budget`, `layers` and `share` of the export's report, and `seconds`."""
    store = Store(args.work.absolute() / subject.name)
    if args.again:
        store.forget("*")
    key = {
        "model": sha256(subject.file.read_bytes()),
        "options": dict(subject.options),
        "pictures": [subject.pictures, subject.dataset],
        "max_drop": args.max_drop,
    }

    def export() -> dict[str, Any]:
        config = ExportConfig(
            precision="int8",
            calibration_images=subject.pictures,
            dataset=subject.dataset,
            max_drop=args.max_drop,
            ranges=store.folder / "kept.ranges",
            quiet=True,
            **subject.options,
        )
        start = time.perf_counter()
        report = export_model(subject.file, store.folder / "budget.edge", config)
        return {
            "accuracy": report.accuracy,
            "budget": report.budget,
            "layers": len(report.layers),
            "share": report.int8_macs_share,
            "seconds": time.perf_counter() - start,
        }

    return store.measure("budget", key, export)


def _holds(result: dict[str, Any]) -> bool:
    return bool(result["accuracy"]["passed"]) and result["share"] >= _LEAST_SHARE


def _page(found: dict[str, dict[str, Any]], max_drop: float) -> str:
    rows = []
    for name, result in found.items():
        accuracy = result["accuracy"]
        recall, shift = accuracy["recall_share"], accuracy["score_shift"]
        rows.append(
            (
                name,
                f"{100 * accuracy['model.onnx']:.2f}",
                f"{accuracy['drop_points']:.2f} ±{accuracy['standard_error']:.2f}",
                "" if recall is None else f"{recall:.1%}",
                "" if shift is None else f"{shift:+.3f}",
                f"{len(result['budget']['kept_in_fp16'])} of {result['layers']}",
                f"{result['share']:.2%}",
                f"{result['seconds'] / 60:.1f} min",
                "yes" if _holds(result) else "**no**",
            )
        )
    return (
        "# Accuracy budgets\n\n"
        f"Made by `python -m benchmarks.quantization.budget`: `export --max-drop {max_drop:g}` with labelled pictures. "
        "Lost is the mean of dithered runs with its standard error, two of which may be above the budget; recall and "
        "scores are at the bundle's threshold, beside float's. INT8 is the share of the network's multiply-adds; met "
        f"means the budget, with at least {_LEAST_SHARE:.0%} of them in INT8. The time includes the search.\n\n"
        f"{table(_HEADER, rows)}\n"
    )


if __name__ == "__main__":
    sys.exit(main())

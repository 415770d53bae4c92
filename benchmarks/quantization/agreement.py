"""How far INT8 agrees with float where there are no labels, on pictures that it was not calibrated on.

    python -m benchmarks.quantization.agreement [--models FILE.toml] [--only NAME...] [--output DIR] [--without-budget]

Each model is exported with default options and once more with a budget (its `max_drop`, or 2 points, judged on the
calibration pictures). Beside them stands what agreement can be had at all: FP16, and float against itself on pictures
dithered by half a grey level. Results are kept in build/agreement; writes DIR/agreement.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.quantization.report import table
from benchmarks.quantization.store import Store
from benchmarks.quantization.subjects import Subject, read_subjects
from edgevision.bundle import Bundle
from edgevision.errors import EdgeVisionError
from edgevision.evaluation import compare, open_images
from edgevision.evaluation.agreement import Likeness, compare_results, summarise
from edgevision.evaluation.running import Dither
from edgevision.export import ExportConfig, export_model
from edgevision.files import atomic_path, sha256
from edgevision.model import Model

_HERE = Path(__file__).parent
_INT8, _FP16 = "tensorrt.onnx", "tensorrt_fp16.onnx"
_LOWEST = 0.05
_POINTS = 2.0
_FIGURES = {
    "matched_50": "boxes matched",
    "matched_around": "around the threshold",
    "mask_iou": "mask IoU",
    "mask_iou_by_area": "by area",
    "pixels_same": "pixels same",
}
_HEADER = ("model", "graph", "INT8 multiply-adds", *_FIGURES.values())


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not measured yet, then print and write all; 0, or 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantization.agreement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=Path, metavar="FILE.toml", default=_HERE / "unlabelled.toml")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models (default: all that the file names)")
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("build/agreement"))
    parser.add_argument("--work", type=Path, metavar="DIR", default=Path("build/agreement"), help="kept results")
    parser.add_argument("--repeats", type=int, default=4, metavar="N")
    parser.add_argument("--limit", type=int, metavar="N", help="judge the first N pictures only")
    parser.add_argument("--without-budget", action="store_true", help="default options only")
    args = parser.parse_args(arguments)
    rows: list[tuple[str, ...]] = []
    try:
        for subject in read_subjects(args.models):
            if args.only is None or subject.name in args.only:
                rows += _measure(subject, args)
                text = _page(rows, args)
                args.output.mkdir(parents=True, exist_ok=True)
                with atomic_path(args.output / "agreement.md") as path:
                    path.write_text(text)
    except (EdgeVisionError, OSError) as error:
        print(f"benchmarks.quantization.agreement: {error}", file=sys.stderr)
        return 2
    print(text if rows else "no such model")
    return 0


def _measure(subject: Subject, args: argparse.Namespace) -> Iterable[tuple[str, ...]]:
    store = Store(args.work.absolute() / subject.name)
    options = dict(subject.options)
    budget = options.pop("max_drop", _POINTS)
    key = {
        "model": sha256(subject.file.read_bytes()),
        "options": options,
        "pictures": [subject.pictures, subject.dataset],
        "repeats": args.repeats,
        "limit": args.limit,
    }
    bundles = {"INT8, default": (store.folder / "default.edge", {})}
    if not args.without_budget:
        bundles[f"INT8, --max-drop {budget:g}"] = (store.folder / "budget.edge", {"max_drop": budget})
    found: dict[str, dict[str, Any]] = {}
    for title, (bundle, more) in bundles.items():

        def compared(bundle: Path = bundle, more: dict[str, Any] = more) -> dict[str, Any]:
            ranges = store.folder / "ranges.json"
            config = ExportConfig(calibration_images=subject.pictures, ranges=ranges, quiet=True, **options, **more)
            report = export_model(subject.file, bundle, config)
            graphs = compare(bundle, open_images(subject.dataset), repeats=args.repeats, limit=args.limit)["graphs"]
            int8, half = (graphs[name]["agreement"] for name in (_INT8, _FP16))
            return {"int8": int8, "fp16": half, "share": report.int8_macs_share}

        found[title] = store.measure(bundle.stem, {**key, **more}, compared)
    default = store.folder / "default.edge"
    floor = store.measure("floor", key, lambda: _dithered(default, subject, args.limit))
    for title, result in found.items():
        yield _row(subject.name, title, f"{result['share']:.0%}", result["int8"])
    yield _row(subject.name, "FP16", "0%", next(iter(found.values()))["fp16"])
    yield _row(subject.name, "float, dithered", "0%", floor)


def _dithered(path: Path, subject: Subject, limit: int | None) -> dict[str, Any]:
    """Agreement of the float graph with itself on dithered input."""
    bundle = Bundle(path)
    nms = bundle.manifest.nms
    confidence = None if nms is None else min(_LOWEST, nms.confidence)
    options: dict[str, Any] = {"backend": "cpu", "precision": "fp32", "graph": "cpu", "quiet": True}
    found: list[Likeness] = []
    with Model(bundle, confidence=confidence, **options) as model, closing(model.open_lane()) as lane:
        noise = Dither(bundle.manifest.preprocess_of(model.graph_name), 0)
        for number, picture in enumerate(open_images(subject.dataset).pictures[:limit]):
            image = picture.read()
            lane.perturb = None
            exact = lane(image)
            lane.perturb = lambda tensor, number=number: noise(tensor, number)
            found.append(compare_results(exact, lane(image), None if nms is None else nms.confidence))
    return summarise(found, bundle.manifest.labels)


def _row(model: str, graph: str, share: str, figures: dict[str, Any]) -> tuple[str, ...]:
    errors = figures.get("standard_error", {})

    def cell(name: str) -> str:
        value, error = figures.get(name), errors.get(name)
        return "" if value is None else f"{value:.1%}" + (f" ±{error:.1%}" if error is not None else "")

    return (model, graph, share, *map(cell, _FIGURES))


def _page(rows: list[tuple[str, ...]], args: argparse.Namespace) -> str:
    pictures = "the pictures" if args.limit is None else f"the first {args.limit} pictures"
    return (
        "# Agreement with float\n\n"
        f"Made by `python -m benchmarks.quantization.agreement`: {args.repeats} dithered runs on {pictures} of a "
        "folder that was not calibrated on, ± one standard error of the runs. Boxes are paired at IoU 0.5 at the "
        "bundle's threshold; around it: the mean over thresholds up to 0.1 below and above. Mask IoU is the mean over "
        "the classes that float sees; by area: weighted by how many pixels it gives each.\n\n"
        f"{table(_HEADER, rows)}\n"
    )


if __name__ == "__main__":
    sys.exit(main())

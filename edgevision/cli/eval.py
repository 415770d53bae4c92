"""`edgevision eval`: how good a bundle is on labelled pictures."""

from __future__ import annotations

import argparse
from typing import Any

from edgevision.cli.backend import add_backend_arguments, backend_text
from edgevision.cli.output import finish, table
from edgevision.evaluation.specs import SPEC_HELP
from edgevision.manifest import PRECISIONS

HELP = "accuracy of a bundle on a labelled data set"

_COLUMNS = {
    "map_50_95": "mAP50-95",
    "map_50": "mAP50",
    "mask_map_50_95": "mask mAP50-95",
    "mask_map_50": "mask mAP50",
    "voc_ap_50": "VOC AP50",
    "miou": "mIoU",
    "pixel_accuracy": "pixels right",
    "recall_at_threshold": "recall",
    "precision_at_threshold": "precision",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle written by edgevision export")
    parser.add_argument("--dataset", metavar="SPEC", required=True, help=SPEC_HELP)
    add_backend_arguments(parser)
    parser.add_argument("--precision", choices=PRECISIONS, help="which graph runs (default: the bundle's best here)")
    parser.add_argument(
        "--graph", choices=("auto", "cpu", "tensorrt"), default="auto", help="whose form of the graph runs on the CPU"
    )
    parser.add_argument("--compare", action="store_true", help="every graph of the bundle, side by side")
    parser.add_argument(
        "--repeats", type=int, default=1, metavar="N", help="N runs with dithered input: mean and standard error"
    )
    parser.add_argument(
        "--confidence", type=float, metavar="C", help="where recall and precision are taken (default: the bundle's)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N pictures only")


def run(args: argparse.Namespace) -> int:
    from edgevision.bundle import Bundle
    from edgevision.errors import UsageError
    from edgevision.evaluation import compare, evaluate, open_dataset

    if args.compare and (args.precision or args.graph != "auto" or args.backend not in ("auto", "cpu")):
        raise UsageError("--compare shows every graph of the bundle, on the CPU: leave out --precision and --graph")
    bundle = Bundle(args.bundle)  # before the data set, which may take long to read
    dataset = open_dataset(args.dataset)
    options = {
        "repeats": args.repeats,
        "confidence": args.confidence,
        "limit": args.limit,
        "quiet": args.quiet,
    }
    if args.compare:
        data = compare(bundle, dataset, **options)
        results = list(data["graphs"].values())
    else:
        data = evaluate(
            bundle,
            dataset,
            backend=args.backend,
            device=args.device,
            precision=args.precision,
            graph=args.graph,
            **options,
        )
        results = [data]
    finish(args, data, _text(results))
    return 0


def _text(results: list[dict[str, Any]]) -> str:
    first = results[0]
    keys = [key for key in _COLUMNS if first.get(key) is not None]
    compared = [key for key in keys if key in first.get("loss_points", {})][:1]
    rows = [
        [r["graph"], r["precision"], *(_figure(r, key) for key in keys), *(_loss(r, key) for key in compared)]
        for r in results
    ]
    lost = [f"{_COLUMNS[key]} lost, points" for key in compared]
    lines = [f"{first['bundle']} on {first['images']} pictures", ""]
    lines.append(table(["graph", "precision", *(_COLUMNS[key] for key in keys), *lost], rows))
    if first["threshold"] is not None:
        lines.append(f"Recall and precision at confidence {first['threshold']:g}, IoU 0.5.")
    if len(results) == 1:
        lines.append(backend_text(first["model"]))
        lines += ["", _per_class(first["per_class"])]
    return "\n".join([*lines, *(f"note: {warning}" for warning in first["warnings"])])


def _figure(result: dict[str, Any], key: str) -> str:
    value, error = result[key], result.get("standard_error", {}).get(key)
    if value is None:
        return "-"
    return f"{value:.3f}" if error is None else f"{value:.4f} ±{error:.4f}"


def _loss(result: dict[str, Any], key: str) -> str:
    loss = result["loss_points"][key]
    error = loss["standard_error"]
    return f"{loss['mean']:.2f}" if error is None else f"{loss['mean']:.2f} ±{error:.2f}"


def _per_class(per_class: dict[str, dict[str, float]]) -> str:
    header = list(next(iter(per_class.values())))
    rows = [
        [name, *(f"{value:.3f}" if isinstance(value, float) else value for value in entry.values())]
        for name, entry in per_class.items()
    ]
    return table(["class", *(key.replace("ap_50_95", "AP50-95").replace("ap_50", "AP50") for key in header)], rows)

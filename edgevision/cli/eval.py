"""`edgevision eval`: how good a bundle is on labelled pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edgevision.cli.backend import add_backend_arguments, backend_text
from edgevision.cli.output import finish, table
from edgevision.evaluation.specs import SPEC_HELP
from edgevision.evaluation.tables import FIGURES, figure
from edgevision.manifest import PRECISIONS

HELP = "accuracy of a bundle on a labelled data set, or how far its graphs agree with float on pictures alone"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle written by edgevision export")
    pictures = parser.add_mutually_exclusive_group(required=True)
    pictures.add_argument("--dataset", metavar="SPEC", help=SPEC_HELP)
    pictures.add_argument(
        "--images", metavar="FOLDER", help="pictures without labels: every graph's agreement with the float one"
    )
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
        *("--confidence", "--threshold"),
        type=float,
        metavar="C",
        help="where recall, precision and agreement are taken (default: the bundle's)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N pictures only")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="with --compare or --images: a page with the pictures that differ most, as HTML, Markdown, JSON and PNG",
    )


def run(args: argparse.Namespace) -> int:
    from edgevision.bundle import Bundle
    from edgevision.errors import UsageError
    from edgevision.evaluation import compare_graphs, evaluate, open_dataset, open_images
    from edgevision.evaluation.page import PICTURES, make_folder, write_report

    compared = args.compare or args.images is not None
    if compared and (args.precision or args.graph != "auto" or args.backend not in ("auto", "cpu")):
        raise UsageError(
            "--compare and --images show every graph of the bundle, on the CPU: leave out --precision and --graph"
        )
    if args.output is not None and not compared:
        raise UsageError("--output is for the page that compares graphs: add --compare")
    bundle = Bundle(args.bundle)  # before the data set, which may take long to read
    options = {
        "repeats": args.repeats,
        "confidence": args.confidence,
        "limit": args.limit,
        "quiet": args.quiet,
    }
    if compared:
        dataset = open_dataset(args.dataset) if args.images is None else open_images(args.images)
        folder = None if args.output is None else make_folder(args.output)
        comparison = compare_graphs(bundle, dataset, pictures=0 if folder is None else PICTURES, **options)
        written = [] if folder is None else write_report(folder, comparison)
        finish(args, comparison.data, _compared_text(comparison.data, written))
        return 0
    data = evaluate(
        bundle,
        open_dataset(args.dataset),
        backend=args.backend,
        device=args.device,
        precision=args.precision,
        graph=args.graph,
        **options,
    )
    finish(args, data, _text(data))
    return 0


def _compared_text(data: dict[str, Any], written: list[Path]) -> str:
    from edgevision.evaluation.tables import comparison_tables

    lines = [f"{data['bundle']} on {data['images']} pictures"]
    for found in comparison_tables(data):
        lines += ["", f"{found.title}. {found.note}", table(found.header, found.rows)]
    lines += [f"note: {warning}" for warning in data["warnings"]]
    return "\n".join([*lines, *(f"wrote {path}" for path in written)])


def _text(data: dict[str, Any]) -> str:
    keys = [key for key in FIGURES if data.get(key) is not None]
    row = [data["graph"], data["precision"], *(figure(data, key) for key in keys)]
    lines = [f"{data['bundle']} on {data['images']} pictures", ""]
    lines.append(table(["graph", "type", *(FIGURES[key] for key in keys)], [row]))
    if data["threshold"] is not None:
        lines.append(f"Recall and precision at confidence {data['threshold']:g}, IoU 0.5.")
    lines += [backend_text(data["model"]), "", _per_class(data["per_class"])]
    return "\n".join([*lines, *(f"note: {warning}" for warning in data["warnings"])])


def _per_class(per_class: dict[str, dict[str, float]]) -> str:
    header = list(next(iter(per_class.values())))
    rows = [
        [name, *(f"{value:.3f}" if isinstance(value, float) else value for value in entry.values())]
        for name, entry in per_class.items()
    ]
    return table(["class", *(key.replace("ap_50_95", "AP50-95").replace("ap_50", "AP50") for key in header)], rows)

"""`edgevision export MODEL.onnx -o OUT.edge`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgevision.bundle import Bundle
from edgevision.cli.output import finish, table
from edgevision.errors import UsageError
from edgevision.files import atomic_path
from edgevision.geometry import RESIZE_MODES
from edgevision.manifest import COLORS, PRECISIONS
from edgevision.optional import require

HELP = "turn a trained ONNX model into a bundle: recognise it, calibrate, quantise, verify"
_HARMFUL = 5  # so many layers are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("model", metavar="MODEL.onnx", help="the trained model")
    parser.add_argument("-o", "--output", metavar="OUT.edge", required=True, help="the bundle to write")
    parser.add_argument(
        "--precision", choices=PRECISIONS[::-1], help="default: int8 with calibration images, fp16 without"
    )
    calibration = parser.add_argument_group("calibration (int8)")
    calibration.add_argument(
        "--calibration-images", metavar="DIR_OR_GLOB", help="30 to 500 pictures like those the camera will see"
    )
    methods = ("mse", "percentile", "entropy", "minmax", "auto")
    calibration.add_argument("--calibration-method", choices=methods, default="mse", help="see docs/calibration.md")
    calibration.add_argument(
        "--repairs",
        metavar="NAME[,NAME...]",
        help="which repairs of the network INT8 gets, or none (default: all; see docs/quantization.md)",
    )
    calibration.add_argument("--calibration-limit", metavar="N", type=int, default=512, help="pictures used at most")
    calibration.add_argument(
        "--ranges",
        metavar="FILE",
        help="keep the calibrated ranges here, and reuse them while they fit; or a calibration cache of TensorRT's to "
        "take ranges from",
    )
    calibration.add_argument(
        "--write-calibration-cache",
        metavar=("FILE", "VERSION"),
        nargs=2,
        help="also write the ranges as the calibration cache that TensorRT VERSION reads, like 8.6.1",
    )
    model = parser.add_argument_group("what the model is (the file itself says most of it)")
    model.add_argument("--family", default="auto", metavar="NAME", help="head family; default: recognised")
    model.add_argument("--labels", metavar="FILE", help="class names: a file, or coco80, coco90, voc21, cityscapes19")
    model.add_argument("--priors", metavar="FILE", help="an SSD's prior boxes (.npy .npz .csv .json), or a JSON spec")
    model.add_argument(
        "--head", metavar="KEY=VALUE", action="append", default=[], help="an option of the family (repeatable)"
    )
    model.add_argument(
        "--head-spec", metavar="FILE.toml", help="what the outputs of a detector are, where no family fits"
    )
    model.add_argument("--input-size", metavar="WxH", type=_size, help="for a model that leaves its input size open")
    model.add_argument("--nms-iou", metavar="IOU", type=float, help="default threshold of the suppression")
    model.add_argument("--confidence", metavar="SCORE", type=float, help="default score threshold")
    pixels = parser.add_argument_group("preprocessing, as in training (default: metadata, then the family's own)")
    pixels.add_argument(
        "--preprocess",
        metavar="tf|torch|caffe|unit|raw|M/S[/COLOR]",
        help="how pixels are normalised: tf: to -1..1; torch: RGB, ImageNet statistics; caffe: BGR minus ImageNet's "
        "mean; unit: to 0..1; raw: 0..255; or mean and std in numbers, like 127/128 or 104,117,123/1/bgr",
    )
    pixels.add_argument("--resize", choices=RESIZE_MODES)
    pixels.add_argument("--pad-value", metavar="GREY", type=_grey, help="around a letterboxed picture, 0..255")
    pixels.add_argument("--color", choices=COLORS, help="gray is found by itself: an input of one channel")
    pixels.add_argument("--mean", metavar="M[,M,M]", type=_triple, help="subtracted, in 0..255 units")
    pixels.add_argument("--std", metavar="S[,S,S]", type=_triple, help="divided by, in 0..255 units")
    budget = parser.add_argument_group("accuracy budget (int8)")
    budget.add_argument(
        "--max-drop",
        metavar="POINTS",
        type=float,
        help="keep the layers in FP16 that it takes for INT8 to lose no more (of mAP or mIoU; without --dataset of "
        "agreement with float on the calibration pictures); exit 1 and write nothing where that cannot be met",
    )
    budget.add_argument(
        "--dataset", metavar="SPEC", help="with labels: coco:ANNOTATIONS:IMAGES, voc:ROOT or masks:IMAGES:MASKS"
    )
    budget.add_argument(
        "--max-score-shift",
        metavar="SHIFT",
        type=float,
        default=0.03,
        help="how far the mean score of matched boxes may move (default: 0.03)",
    )
    budget.add_argument(
        "--min-recall",
        metavar="SHARE",
        type=float,
        default=0.97,
        help="of float's recall at the bundle's threshold (default: 0.97)",
    )
    budget.add_argument(
        "--sensitivity", action="store_true", help="measure how much each layer harms, also without a budget"
    )


def run(args: argparse.Namespace) -> int:
    """Export; returns the exit code."""
    for package in ("onnx", "onnxruntime", "cv2"):
        require(package, "export")
    from edgevision.export import ExportConfig, export_model

    config = ExportConfig(
        precision=args.precision,
        family=args.family,
        head=_options(args.head),
        head_spec=args.head_spec,
        labels=args.labels,
        priors=args.priors,
        input_wh=args.input_size,
        preprocess=args.preprocess,
        resize=args.resize,
        pad_value=args.pad_value,
        color=args.color,
        mean=args.mean,
        std=args.std,
        nms_iou=args.nms_iou,
        confidence=args.confidence,
        calibration_images=args.calibration_images,
        calibration_method=args.calibration_method,
        calibration_limit=args.calibration_limit,
        **_repairs(args.repairs, args.write_calibration_cache is not None),
        ranges=args.ranges,
        dataset=args.dataset,
        max_drop=args.max_drop,
        max_score_shift=args.max_score_shift,
        min_recall=args.min_recall,
        sensitivity=args.sensitivity,
        quiet=args.quiet,
    )
    if args.write_calibration_cache is not None:
        _check_cache(config.resolved_precision, *args.write_calibration_cache)
    report = export_model(args.model, args.output, config).to_json()
    if args.write_calibration_cache is not None and report["bundle"]:
        _write_cache(report["bundle"], args.calibration_method, *args.write_calibration_cache)
    finish(args, report, _text(report))
    return 0 if report["bundle"] else 1


def _check_cache(precision: str, file: str, version: str) -> None:
    """Find out now, not after minutes of calibration, that the calibration cache cannot be written."""
    from edgevision.calibration.tensorrt_cache import header

    header(version, "entropy")
    if precision != "int8":
        raise UsageError(f"--write-calibration-cache writes what INT8 calibration found; this export is {precision}")
    if not Path(file).absolute().parent.is_dir():
        raise UsageError(f"--write-calibration-cache {file}: its folder does not exist; create it first")


def _repairs(text: str | None, cached: bool) -> dict[str, Any]:
    """The option of ExportConfig, where it is not the default. Ranges for a calibration cache (`cached`) are of the
    network as it came, and whoever reads it may have no pictures."""
    from edgevision.export.repair import RESCALING, WITHOUT_PICTURES

    if text is None:
        return {"repairs": WITHOUT_PICTURES} if cached else {}
    chosen = () if text == "none" else tuple(text.split(","))
    if cached and set(chosen) & set(RESCALING):
        raise UsageError(
            f"--write-calibration-cache writes ranges of the network as it came; leave {', '.join(RESCALING)} out of "
            "--repairs, or leave --repairs out"
        )
    return {"repairs": chosen}


def _write_cache(bundle: str, method: str, file: str, version: str) -> None:
    from edgevision.calibration import RangeTable
    from edgevision.calibration.tensorrt_cache import write_cache

    table_of_ranges = RangeTable.from_json(Bundle(bundle).read("ranges.json"))
    try:
        with atomic_path(file) as path:
            path.write_text(write_cache(table_of_ranges, version, "entropy", method), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error}; the bundle {bundle} is written") from error


def _text(report: Mapping[str, Any]) -> str:
    from edgevision.calibration.saturation import summary

    steps = {step["name"]: step for step in report["steps"]}
    lines = [f"{report['family']} ({report['task']}), {report['precision']}"]
    decisions = steps["normalise"]["facts"]
    lines += [f"  {name}: {value}" for name, value in decisions.items() if isinstance(value, str)]
    used, sources = decisions["preprocess"], decisions["preprocess_sources"]
    lines += [f"  {name}: {_plain(used[name])} ({source})" for name, source in sources.items()]
    if report["precision"] == "int8":
        total = report["layers_int8"] + report["layers_float"]
        if total:
            lines.append(
                f"  {report['layers_int8']} of {total} convolutions and matrix products in INT8, "
                f"{report['int8_macs_share']:.1%} of the multiply-adds"
            )
        lines += [f"  {sentence}" for sentence in summary(steps["calibrate"]["facts"]["saturation"])]
    if "verify" in steps:
        lines += _checks(steps)
    if report["budget"]:
        lines.append(f"\naccuracy budget: {report['budget']['words']}")
    lines += _harm(report["layers"])
    lines += ["", *(f"warning: {warning}" for warning in report["warnings"])]
    lines.append(f"wrote {report['bundle']}" if report["bundle"] else "nothing written")
    return "\n".join(lines)


def _checks(steps: Mapping[str, Any]) -> list[str]:
    """Every graph beside the float one, and what the CPU runs."""
    lines = []
    verified = {name: facts for name, facts in steps["verify"]["facts"].items() if isinstance(facts, dict)}
    if verified:
        columns = sorted({key for facts in verified.values() for key in facts})
        rows = [
            [name, *(f"{facts[key]:.4g}" if key in facts else "" for key in columns)]
            for name, facts in verified.items()
        ]
        lines += ["", f"against float, on {steps['verify']['facts']['pictures']}:", table(["graph", *columns], rows)]
    lines.append(f"\nONNX Runtime runs {steps['choose']['facts']['cpu_graph']}: {steps['choose']['facts']['reason']}")
    return lines


def _harm(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The layers that harm most, and those that were kept in FP16."""
    shown = [layer for number, layer in enumerate(layers) if number < _HARMFUL or not layer["int8"]]
    if not shown:
        return []
    rows = [
        [layer["node"], f"{layer['sqnr_db']:.1f}", layer["multiply_adds"], "INT8" if layer["int8"] else "FP16"]
        for layer in shown
    ]
    return ["", "layers that harm most when quantised:", table(["layer", "SQNR dB", "multiply-adds", ""], rows)]


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        numbers = [f"{number:g}" for number in value]
        return numbers[0] if len(set(numbers)) == 1 else ",".join(numbers)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _options(entries: list[str]) -> dict[str, str]:
    options = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"--head {entry}: expected KEY=VALUE, for example --head activation=sigmoid")
        options[key] = value
    return options


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}: expected WIDTHxHEIGHT, for example 640x480")
    return int(width), int(height)


def _grey(text: str) -> float:
    value = _numbers(text)[0]
    if not 0 <= value <= 255:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a grey level in 0..255")
    return value


def _triple(text: str) -> tuple[float, float, float]:
    numbers = _numbers(text)
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise argparse.ArgumentTypeError(f"{text!r}: expected one or three numbers, for example 127.5 or 104,117,123")
    return numbers[0], numbers[1], numbers[2]


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers separated by commas")
    return numbers

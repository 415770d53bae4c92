"""`edgevision build BUNDLE`: compile a bundle's graph into a plan for one kind of device."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevision.backends.build_options import CALIBRATORS, HARDWARE, BuildOptions
from edgevision.backends.ladder import rungs
from edgevision.backends.tensorrt_api import Api, load_api
from edgevision.backends.tensorrt_builder import BuiltPlan, build_plan
from edgevision.bundle import Bundle
from edgevision.cli.output import finish
from edgevision.errors import DependencyError, UsageError
from edgevision.files import atomic_path
from edgevision.manifest import PRECISIONS
from edgevision.progress import Progress

if TYPE_CHECKING:
    from edgevision.backends.graph_build import CalibratorFactory
    from edgevision.cuda import Device
    from edgevision.plan_facts import PlanFacts

HELP = "compile a bundle into a TensorRT plan and prove its precision, layer by layer"
_MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle written by edgevision export")
    parser.add_argument(
        "--backend",
        choices=("auto", "tensorrt", "tensorrt-rtx"),
        default="auto",
        help="auto: the TensorRT of this machine; tensorrt-rtx needs no GPU",
    )
    parser.add_argument(
        "--target", metavar="SM", type=int, help="TensorRT-RTX: compute capability to build for (default: all it can)"
    )
    parser.add_argument(
        "-o", "--output", metavar="PLAN", help="default: the plan cache; TensorRT-RTX: the bundle's folder"
    )
    parser.add_argument("--precision", choices=PRECISIONS[::-1], help="default: the bundle's own")
    parser.add_argument(
        "--compare-fp16",
        action="store_true",
        help="also build FP16 and time both on this GPU; exit 1 where INT8 is slower, unless --precision int8 is given",
    )
    parser.add_argument("--refresh", action="store_true", help="build even if the plan is in the cache")
    parser.add_argument("--device", metavar="N", type=int, default=0, help="number of the GPU (default: 0)")
    how = parser.add_argument_group("how to build")
    how.add_argument(
        "--batch", metavar="N | MIN:OPT:MAX", type=_batch, default=(1, 1, 1), help="pictures at once (default: 1)"
    )
    how.add_argument("--workspace", metavar="MIB", type=int, help="memory that one layer may use while it runs")
    how.add_argument("--optimization-level", metavar="0..5", type=int, help="5 searches longest (default: TensorRT's)")
    how.add_argument("--dla-core", metavar="N", type=int, help="run on this deep-learning accelerator of a Jetson")
    how.add_argument(
        "--no-gpu-fallback", action="store_true", help="fail where the accelerator cannot run the whole network"
    )
    how.add_argument("--version-compatible", action="store_true", help="the plan also runs on later TensorRT versions")
    how.add_argument("--hardware-compatible", choices=HARDWARE, default="none", help="other GPUs that it also runs on")
    legacy = parser.add_argument_group("TensorRT's own calibration (8.6 to 10.x) instead of the bundle's")
    legacy.add_argument("--calibrator", choices=CALIBRATORS)
    legacy.add_argument("--calibration-images", metavar="DIR_OR_GLOB", help="pictures like those the camera will see")
    legacy.add_argument("--calibration-limit", metavar="N", type=int, default=512, help="pictures used at most")
    legacy.add_argument("--calibration-cache", metavar="FILE", help="TensorRT's calibration cache, read and written")


def run(args: argparse.Namespace) -> int:
    """Build; returns 0, or 1 where a layer promised in INT8 was not built in INT8 (no plan is kept then), or where INT8
    turned out slower than FP16."""
    bundle = Bundle(args.bundle)
    options = BuildOptions(
        precision=args.precision or bundle.manifest.precision,
        batch=args.batch,
        workspace_bytes=None if args.workspace is None else args.workspace * _MIB,
        dla_core=args.dla_core,
        gpu_fallback=not args.no_gpu_fallback,
        version_compatible=args.version_compatible,
        hardware_compatible=args.hardware_compatible,
        optimization_level=args.optimization_level,
        target=args.target,
        calibrator=args.calibrator,
    )
    if args.compare_fp16 and (options.precision != "int8" or args.calibrator or args.backend == "tensorrt-rtx"):
        raise UsageError("--compare-fp16 times INT8 and FP16 of an INT8 bundle on this machine's GPU, with TensorRT")
    api = _load(args)
    rungs(bundle.manifest, options)  # what the bundle lacks is said before anything is waited for
    output = None if args.output is None else Path(args.output)
    if api.flavour == "tensorrt-rtx":
        target = "portable" if args.target is None else f"sm{args.target}"
        output = output or bundle.path.with_suffix(f".{options.precision}.rtx-{target}.plan")
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"-o {output}: folder {output.absolute().parent} does not exist; create it first")
    if api.flavour == "tensorrt-rtx":
        return _elsewhere(args, api, bundle, options, output)
    return _here(args, api, bundle, options, output)


def _elsewhere(args: argparse.Namespace, api: Api, bundle: Bundle, options: BuildOptions, output: Path | None) -> int:
    """With TensorRT-RTX, into a file: no GPU is needed, and the plan may be for another machine."""
    with Progress(f"building {bundle.manifest.name}", quiet=args.quiet) as progress:
        built = build_plan(api, bundle, options, progress=progress)
    return _report(args, bundle, built, built.plan, output, "")


def _here(args: argparse.Namespace, api: Api, bundle: Bundle, options: BuildOptions, output: Path | None) -> int:
    """With this machine's TensorRT, into the plan cache."""
    from edgevision.device_model import obtain_plan, open_target
    from edgevision.precision_race import int8_over_fp16

    target = open_target(api, args.device)
    calibrator = None
    if args.calibrator is not None:
        calibrator, digest = _calibrator(args, bundle, options, target.device)
        options = dataclasses.replace(options, calibration=digest)
    cached = obtain_plan(target, bundle, options, refresh=args.refresh, quiet=args.quiet, calibrator=calibrator)
    try:
        origin = "" if cached.built else "was in the cache already (--refresh builds it anew), "
        speedup = int8_over_fp16(bundle, options, args.device, quiet=args.quiet) if args.compare_fp16 else None
        return _report(args, bundle, cached.facts, cached.plan, output, origin, cached.path, speedup)
    finally:
        cached.close()


def _report(
    args: argparse.Namespace,
    bundle: Bundle,
    facts: BuiltPlan | PlanFacts,
    plan: bytes,
    output: Path | None,
    origin: str,
    cached: Path | None = None,
    speedup: dict[str, float] | None = None,
) -> int:
    """Judge the plan, write it to `output` if it is good, and say all about it.

    Args:
        speedup: INT8 over FP16, see precision_race; None: not measured.
    """
    legacy = args.calibrator is not None
    whole = facts.rung == "int8" and not legacy
    promised = bundle.manifest.graphs[facts.graph].layers_int8 if whole else len(facts.quantised)
    slower = speedup is not None and speedup["median"] < 1 and args.precision is None
    kept = len(facts.int8) >= promised and not slower
    if kept and output is not None:
        try:
            with atomic_path(output) as path:
                path.write_bytes(plan)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error}; nothing was left behind") from error
    where = (output if kept else None) or cached
    data: dict[str, Any] = {
        "plan": None if where is None else str(where),
        "bytes": len(plan),
        "seconds": round(facts.seconds, 2),
        "rung": facts.rung,
        "reasons": list(facts.reasons),
        "notes": list(facts.notes),
        "layers": [
            {"name": layer.name, "precision": layer.precision, "onnx_nodes": list(layer.onnx_nodes)}
            for layer in facts.layers
        ],
        "convolutions": {"int8": len(facts.int8), "promised": promised},
        "int8_over_fp16": speedup,
    }
    missing = [node for node in facts.quantised if node not in facts.int8]
    finish(args, data, "\n".join(_text(data, origin, missing, args.precision or bundle.manifest.precision)))
    return 0 if kept else 1


def _text(data: dict[str, Any], origin: str, missing: list[str], wanted: str) -> Iterator[str]:
    counts, plan = data["convolutions"], data["plan"]
    share = f"{counts['int8']} of {counts['promised']} promised convolutions"
    if counts["int8"] < counts["promised"]:
        why = f"not in INT8: {', '.join(missing[:5])}" if missing else "the others are not quantised in the graph"
        yield f"goal missed, {plan or 'no plan written'}: {share} were built in INT8; {why}"
    else:
        layers = f", {len(data['layers'])} layers" if data["layers"] else ""
        size = f"{data['bytes'] / 1e6:.1f} MB in {data['seconds']:.1f} s"
        yield f"{plan or 'built, but not kept'}: {origin}{size}{layers}; INT8: {share}"
    if data["rung"] != wanted:
        yield f"built in {data['rung']} instead of {wanted}, because:"
    if (speedup := data["int8_over_fp16"]) is not None:
        yield (
            f"INT8 is {speedup['median']:.2f} times as fast as FP16 here "
            f"(quartiles {speedup['p25']:.2f} to {speedup['p75']:.2f})"
        )
        if speedup["median"] < 1:
            yield "  slower: run and build with --precision fp16; --precision int8 builds it all the same"
    yield from (f"  {reason}" for reason in data["reasons"])
    yield from (f"note: {note}" for note in data["notes"])


def _load(args: argparse.Namespace) -> Api:
    if args.backend == "tensorrt-rtx":
        return load_api("tensorrt-rtx")
    try:
        return load_api("tensorrt")
    except DependencyError as error:
        raise DependencyError(
            f"{error}. Without a GPU, TensorRT-RTX builds for desktop cards: "
            f"edgevision build {args.bundle} --backend tensorrt-rtx --target 89"
        ) from error


def _calibrator(
    args: argparse.Namespace, bundle: Bundle, options: BuildOptions, device: Device
) -> tuple[CalibratorFactory, str]:
    """What makes TensorRT's calibrator, and a hash of what it reads."""
    from edgevision.calibration import CalibrationImages
    from edgevision.calibration.tensorrt_calibrator import TensorRTCalibration

    if args.calibration_images is None and args.calibration_cache is None:
        raise UsageError("--calibrator needs --calibration-images DIR_OR_GLOB, or a --calibration-cache FILE to reuse")
    images = None
    if args.calibration_images is not None:
        images = CalibrationImages(args.calibration_images, args.calibration_limit)
    calibration = TensorRTCalibration(
        args.calibrator,
        images,
        bundle.manifest.preprocess,
        device,
        batch=options.batch[1],
        cache=None if args.calibration_cache is None else Path(args.calibration_cache),
        quiet=args.quiet,
    )
    return calibration.open, calibration.sha256


def _batch(text: str) -> tuple[int, int, int]:
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, or MIN:OPT:MAX like 1:4:8")
    low, best, high = (int(part) for part in (parts * 3 if len(parts) == 1 else parts))
    return low, best, high

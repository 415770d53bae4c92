"""`edgevision build BUNDLE`: compile a bundle's graph into a plan for one kind of device."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from edgevision.bundle import Bundle
from edgevision.cli.output import finish
from edgevision.errors import BundleError, DependencyError, UsageError
from edgevision.files import atomic_path
from edgevision.manifest import PRECISIONS, Manifest
from edgevision.progress import Progress

HELP = "compile a bundle into a TensorRT plan and prove its precision, layer by layer"


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
        "--target", metavar="SM", type=int, help="compute capability to build for, like 89 (default: all it can)"
    )
    parser.add_argument("-o", "--output", metavar="PLAN", help="default: beside the bundle")
    parser.add_argument("--precision", choices=PRECISIONS[::-1], help="default: the bundle's own")


def run(args: argparse.Namespace) -> int:
    """Build; returns 0, or 1 where a layer promised in INT8 was not built in INT8 (the plan is not written then)."""
    bundle = Bundle(args.bundle)
    precision = args.precision or bundle.manifest.precision
    graph = _graph_for(bundle.manifest, precision)
    if args.backend != "tensorrt-rtx":
        raise DependencyError(_no_tensorrt(args.bundle))
    target = "portable" if args.target is None else f"sm{args.target}"
    output = Path(args.output or bundle.path.with_suffix(f".{precision}.rtx-{target}.plan"))
    if not output.absolute().parent.is_dir():
        raise UsageError(f"-o {output}: folder {output.absolute().parent} does not exist; create it first")
    from edgevision.backends.tensorrt_rtx import build_plan

    with Progress(f"building {graph}", quiet=args.quiet) as progress:
        built = build_plan(bundle.read(graph), f"{graph} of {bundle.path}", target=args.target, progress=progress)
    promised = bundle.manifest.graphs[graph].layers_int8
    kept = len(built.int8) >= promised
    if kept:
        try:
            with atomic_path(output) as path:
                path.write_bytes(built.plan)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error}; nothing was left behind") from error
    data: dict[str, Any] = {
        "plan": str(output) if kept else None,
        "bytes": len(built.plan),
        "seconds": round(built.seconds, 2),
        "layers": [
            {"name": layer.name, "precision": layer.precision, "onnx_nodes": list(layer.onnx_nodes)}
            for layer in built.layers
        ],
        "convolutions": {"int8": len(built.int8), "promised": promised},
    }
    text = (
        f"{output}: {len(built.plan) / 1e6:.1f} MB in {built.seconds:.1f} s, {len(built.layers)} layers; "
        f"INT8: {len(built.int8)} of {promised} promised convolutions"
    )
    if not kept:
        missing = [node for node in built.quantised if node not in built.int8]
        text = (
            f"goal missed, no plan written: {len(built.int8)} of {promised} promised convolutions were built in INT8; "
            + (f"not in INT8: {', '.join(missing[:5])}" if missing else "the others are not quantised in the graph")
        )
    finish(args, data, text)
    return 0 if kept else 1


def _graph_for(manifest: Manifest, precision: str) -> str:
    """The file of the bundle that holds TensorRT's graph at a precision."""
    order = ("model.onnx",) if precision == "fp32" else ("tensorrt.onnx", "tensorrt_fp16.onnx")
    for name in order:
        if name in manifest.graphs and manifest.graphs[name].precision == precision:
            return name
    held = sorted({info.precision for info in manifest.graphs.values()})
    raise BundleError(
        f"this bundle has no {precision} graph, it holds {', '.join(held)}; "
        f"export the model again with --precision {precision}"
    )


def _no_tensorrt(bundle: str) -> str:
    """What stands in the way of building for this machine, and what to do."""
    remedy = (
        "on a Jetson, TensorRT comes with JetPack (sudo apt-get install python3-libnvinfer). Without a GPU, "
        f"TensorRT-RTX builds for desktop cards: edgevision build {bundle} --backend tensorrt-rtx --target 89"
    )
    if importlib.util.find_spec("tensorrt") is None:
        return f"no TensorRT found on this machine (the Python package 'tensorrt' is not installed): {remedy}"
    return f"TensorRT is installed, but this version of edgevision does not build with it yet. {remedy}"

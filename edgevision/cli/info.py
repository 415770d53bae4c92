"""`edgevision info FILE`: a bundle, an ONNX file or a plan."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevision.bundle import Bundle
from edgevision.cli.output import finish, table
from edgevision.cli.plan_info import describe_plan
from edgevision.errors import UsageError
from edgevision.optional import require

HELP = "say what a bundle, an ONNX file or a plan is"

_ZIP = b"PK"
_PLANS = {b"vtrt": "TensorRT-RTX", b"ftrt": "TensorRT", b"ptrt": "TensorRT"}
_WRAPPER_LIMIT_BYTES = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("file", metavar="FILE", help="a bundle (.edge), a model (.onnx) or a plan (.plan, .engine)")


def run(args: argparse.Namespace) -> int:
    """Describe; returns the exit code."""
    path = Path(args.file)
    try:
        with path.open("rb") as handle:
            start = handle.read(_WRAPPER_LIMIT_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}; give a bundle, a model or a plan") from error
    plan = _plan(start)
    if start[:2] == _ZIP or path.suffix == ".edge":
        data, text = _bundle(path)
    elif plan is not None:
        data, text = describe_plan(path, *plan)
    else:
        data, text = _model(path)
    finish(args, data, text)
    return 0


def _bundle(path: Path) -> tuple[dict[str, Any], str]:
    bundle = Bundle(path)
    manifest = bundle.manifest
    for name in manifest.files:
        bundle.read(name)  # checks its hash
    report = bundle.report()
    data = {"kind": "bundle", **manifest.to_json(), "report": report}
    lines = [
        f"{path}: {manifest.name}, {manifest.task} ({manifest.family}), {manifest.precision}, by {manifest.producer}",
        _input_line(dataclasses.asdict(manifest.preprocess)),
        f"labels      {_some(manifest.labels)}",
    ]
    if manifest.nms is not None:
        lines.append(f"nms         {_pairs(dataclasses.asdict(manifest.nms))}")
    lines.append(f"CPU runs    {manifest.cpu_graph}: {manifest.cpu_graph_reason}")
    for name, graph_info in manifest.graphs.items():
        if graph_info.preprocess is not None:
            lines.append(f"{_input_line(dataclasses.asdict(graph_info.preprocess))}: {name} alone")
    lines.append(f"source      sha256 {manifest.source_sha256}")
    rows = []
    for name, info in manifest.files.items():
        graph = manifest.graphs.get(name)
        batch = ("any" if graph.dynamic_batch else "1") if graph else ""
        counts = (graph.precision, graph.layers_int8, graph.layers_float) if graph else ("", "", "")
        rows.append([name, *counts, batch, info.bytes, info.sha256[:16]])
    lines += ["", table(["file", "precision", "int8 layers", "float layers", "batch", "bytes", "sha256"], rows)]
    lines += _from_report(report)
    return data, "\n".join(lines)


def _from_report(report: Mapping[str, Any]) -> list[str]:
    steps = {step.get("name"): step.get("facts", {}) for step in report.get("steps", [])}
    lines = []
    verified = {name: facts for name, facts in steps.get("verify", {}).items() if isinstance(facts, dict)}
    if verified:
        lines += ["", f"against float, on {steps['verify'].get('pictures')}:"]
        lines += [f"  {name}: {_pairs(facts)}" for name, facts in verified.items()]
    bound = [(name, why) for name, why in steps.get("batch", {}).items() if str(why).startswith("one picture: ")]
    lines += [f"batch       {name} takes {why}" for name, why in bound]
    if isinstance(report.get("budget"), dict) and report["budget"]:
        lines.append(f"budget      {report['budget'].get('words')}")
    floats = [entry for entry in steps.get("emit", {}).get("tensorrt", []) if not entry["int8"]]
    weighted = [entry for entry in floats if entry["operator"] in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    if weighted:
        lines += ["", "kept float in TensorRT's graph:"]
        lines += [f"  {len(entry['nodes'])} {entry['operator']}: {entry['reason']}" for entry in weighted]
    lines += [f"warning: {warning}" for warning in report.get("warnings", [])]
    return lines


def _model(path: Path) -> tuple[dict[str, Any], str]:
    require("onnx", "reading ONNX files")
    from edgevision.export.inspection import describe_model

    data = describe_model(path)
    lines = [f"{path}: an ONNX model, operator sets {_pairs(data['operator_sets'])}"]
    lines += [f"input       {name}: {kind}" for name, kind in data["inputs"].items()]
    lines += [f"output      {name}: {kind}" for name, kind in data["outputs"].items()]
    lines.append(f"operators   {', '.join(f'{count} {name}' for name, count in data['operators'].items())}")
    if data["labels"]:
        lines.append(f"labels      {_some(data['labels'])}")
    if data["considered"]:
        lines.append("families considered:")
    for name, reason in data["considered"].items():
        lines.append(f"  {name}: {reason}")
    if "family" in data:
        lines.append(f"family      {data['family']} ({data['task']}), {data['classes']} classes")
        lines.append(_input_line(data["preprocess"]))
        lines += [f"  {name}: {source}" for name, source in data["preprocess_sources"].items()]
    else:
        lines += ["", f"to export it: {data['missing']}"]
    return data, "\n".join(lines)


def _plan(start: bytes) -> tuple[str, dict[str, Any]] | None:
    """Which runtime a plan is for, and what a wrapper says about it; None for anything else.

    A plan starts with its runtime's mark. Ultralytics puts a length and JSON before it.
    """
    if start[:4] in _PLANS:
        return _PLANS[start[:4]], {}
    length = int.from_bytes(start[:4], "little")
    if start[4:5] == b"{" and start[4 + length : 8 + length] in _PLANS:
        try:
            wrapper = json.loads(start[4 : 4 + length])
        except (ValueError, RecursionError):
            wrapper = {}
        return _PLANS[start[4 + length : 8 + length]], wrapper
    return None


def _input_line(preprocess: Mapping[str, Any]) -> str:
    width, height = preprocess["input_wh"]
    return (
        f"input       {preprocess['input_name']}: {width}x{height} {preprocess['layout']} {preprocess['dtype']}, "
        f"{preprocess['resize']}, {preprocess['color']}, mean {list(preprocess['mean'])}, "
        f"std {list(preprocess['std'])}, pad {preprocess['pad_value']:g}"
    )


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _some(labels: Any) -> str:
    if not labels:
        return "none: classes are numbers"
    return f"{len(labels)}: {', '.join(labels[:10])}{', ...' if len(labels) > 10 else ''}"

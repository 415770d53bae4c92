"""What an ONNX file is, without exporting it: inputs, outputs, operators, the family it looks like and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx

from edgevision.errors import EdgeVisionError, UnknownFamilyError
from edgevision.export.config import ExportConfig
from edgevision.export.graph import type_name
from edgevision.export.graph_loading import read_model
from edgevision.export.metadata import read_metadata
from edgevision.export.preparation import prepare
from edgevision.export.report import ExportReport


def describe_model(path: Path | str) -> dict[str, Any]:
    """Facts about an ONNX file, as plain data.

    Returns:
        `inputs` and `outputs` (name -> type and shape), `operator_sets`, `operators` (type -> count), `metadata_keys`,
        `labels`; then either `family`, `task`, `classes`, `preprocess`, `preprocess_sources` and `nms`, or `missing`:
        what an export would ask for. `considered` (family -> why or why not) wherever it got that far.

    Raises:
        ModelError: the file cannot be read as ONNX at all.
    """
    model, _, _ = read_model(path)
    metadata = read_metadata(model)
    initialisers = {tensor.name for tensor in model.graph.initializer}
    facts: dict[str, Any] = {
        "kind": "onnx",
        "inputs": {entry.name: _type(entry) for entry in model.graph.input if entry.name not in initialisers},
        "outputs": {entry.name: _type(entry) for entry in model.graph.output},
        "operator_sets": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "metadata_keys": sorted(entry.key for entry in model.metadata_props)[:50],
        "labels": list(metadata.labels or ()),
    }
    report = ExportReport()
    try:
        prepared = prepare(path, ExportConfig(precision="fp32"), report)
    except UnknownFamilyError as error:
        return {**facts, "considered": error.considered, "missing": error.outcome}
    except EdgeVisionError as error:
        considered = [step.facts["considered"] for step in report.steps if "considered" in step.facts]
        return {**facts, "considered": considered[0] if considered else {}, "missing": str(error)}
    steps = {step.name: step.facts for step in report.steps}
    normalised = steps["normalise"]
    return {
        **facts,
        "considered": steps["identify"]["considered"],
        "family": prepared.family,
        "task": prepared.task,
        "classes": prepared.classes,
        "preprocess": normalised["preprocess"],
        "preprocess_sources": normalised["preprocess_sources"],
        "nms": None if prepared.nms is None else prepared.nms.__dict__,
    }


def _type(entry: onnx.ValueInfoProto) -> str:
    tensor = entry.type.tensor_type
    sides = [dim.dim_param or str(dim.dim_value) if dim.WhichOneof("value") else "?" for dim in tensor.shape.dim]
    return f"{type_name(tensor.elem_type).lower()} [{', '.join(sides)}]"

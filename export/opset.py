"""One operator set for everything that follows: local functions inlined, foreign operators refused, version 19.

Version 19 is the first whose QuantizeLinear takes FP16 scales, and the oldest runtimes we serve still read it.
"""

from __future__ import annotations

from collections import Counter

import onnx
import onnx.inliner
import onnx.version_converter

from edgevision.errors import ModelError
from edgevision.export.graph import all_nodes

OPSET = 19
IR_VERSION = 9
_DEFAULT_DOMAINS = ("", "ai.onnx")
_NODE_LIMIT = 200_000
# Operators whose meaning changed after version 19 though their signature did not; relabelling would be wrong.
_CHANGED_LATER = frozenset({"DFT", "GridSample", "GroupNormalization"})


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without local functions.

    Raises:
        ModelError: functions call each other in a circle, or would unfold into too many nodes.
    """
    if not model.functions:
        return model
    bodies = {(f.domain, f.name): Counter((n.domain, n.op_type) for n in all_nodes(f.node)) for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    for _ in range(len(bodies)):
        for key, body in bodies.items():
            if key not in sizes and all(callee in sizes for callee in body if callee in bodies):
                sizes[key] = sum(count * sizes.get(callee, 1) for callee, count in body.items())
    if len(sizes) < len(bodies):
        raise ModelError("the model's local functions call each other in a circle; export the model again")
    total = sum(sizes.get((node.domain, node.op_type), 1) for node in all_nodes(model.graph.node))
    if total > _NODE_LIMIT:
        raise ModelError(f"the model's local functions unfold into {total} nodes; the limit is {_NODE_LIMIT}")
    return onnx.inliner.inline_local_functions(model)


def refuse_foreign_operators(model: onnx.ModelProto) -> None:
    """Raise ModelError where an operator is not of the ONNX standard, naming all of them."""
    foreign = Counter(
        f"{node.domain}.{node.op_type}" for node in all_nodes(model.graph.node) if node.domain not in _DEFAULT_DOMAINS
    )
    if foreign:
        listed = ", ".join(f"{name} ({count}x)" for name, count in sorted(foreign.items()))
        raise ModelError(
            f"the model uses operators outside the ONNX standard: {listed}; export it without the plugins, "
            "optimisations or in-graph NMS that bring them"
        )
    unknown = sorted({n.op_type for n in all_nodes(model.graph.node) if not onnx.defs.has(n.op_type)})
    if unknown:
        raise ModelError(f"the model uses operators that ONNX {onnx.__version__} does not know: {', '.join(unknown)}")


def to_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at OPSET, whichever version it had.

    Raises:
        ModelError: an operator has no equivalent there; says which.
    """
    versions = [entry.version for entry in model.opset_import if entry.domain in _DEFAULT_DOMAINS]
    if len(versions) != 1:
        raise ModelError(f"the model states {len(versions)} versions of the ONNX operator set, expected one")
    if versions[0] > onnx.defs.onnx_opset_version():
        raise ModelError(
            f"the model uses operator set {versions[0]}; ONNX {onnx.__version__} reads up to "
            f"{onnx.defs.onnx_opset_version()}: export it with opset_version={OPSET}"
        )
    used = {node.op_type for node in all_nodes(model.graph.node)}
    if versions[0] <= OPSET or used & _CHANGED_LATER:
        model = _convert(model, versions[0])
    newer = sorted(op for op in used if _since(op) is None)
    if newer:
        raise ModelError(
            f"{', '.join(newer)}: not in operator set {OPSET}; export the model with opset_version={OPSET}"
        )
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"the model does not fit operator set {OPSET}: {' '.join(str(error).split())[:400]}; "
            f"export it with opset_version={OPSET}"
        ) from error
    return model


def _since(op_type: str) -> int | None:
    try:
        return int(onnx.defs.get_schema(op_type, OPSET, "").since_version)
    except onnx.defs.SchemaError:
        return None


def _convert(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    if version == OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:
        raise ModelError(
            f"the model cannot be brought from operator set {version} to {OPSET}: {error}; "
            f"export it with opset_version={OPSET}"
        ) from error

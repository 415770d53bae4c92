"""Constant folding: whatever does not depend on the picture is computed once, here, by ONNX Runtime.

Only nodes whose output size is known beforehand and small enough are computed, so a tiny file that asks for
terabytes stays a tiny file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgevision.backends.onnxruntime import open_session
from edgevision.errors import ModelError, SessionError
from edgevision.export.graph import Graph, all_nodes, attribute
from edgevision.export.opset import IR_VERSION, OPSET

_ELEMENTS_PER_TENSOR = 1 << 24
_ELEMENTS_IN_ALL = 1 << 26
_NOT_FOLDED = frozenset(
    [
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
        "If",
        "Loop",
        "Scan",
        "SequenceEmpty",
        "SequenceConstruct",
        "Optional",
    ]
)


def fold_constants(graph: Graph) -> int:
    """Replace every node that depends on constants and fixed shapes alone; returns how many nodes went.

    Raises:
        ModelError: a constant expression cannot be computed, or the graph contradicts itself after folding.
    """
    gone = 0
    while True:
        count = _fold_shapes(graph) + _fold_values(graph) + _inline_decided_ifs(graph)
        if not count:
            return gone
        gone += count
        try:
            graph.infer_shapes()
        except onnx.shape_inference.InferenceError as error:
            raise ModelError(
                f"the model's shapes contradict each other: {' '.join(str(error).split())[:400]}"
            ) from error


def _fold_shapes(graph: Graph) -> int:
    values: dict[str, NDArray[Any]] = {}
    for node in graph.nodes:
        shape = graph.shape(node.input[0]) if node.op_type in ("Shape", "Size") else None
        if shape is None:
            continue
        if node.op_type == "Size":
            values[node.output[0]] = np.array(math.prod(shape), np.int64)
        else:
            end = attribute(node, "end", len(shape))
            values[node.output[0]] = np.array(shape[attribute(node, "start", 0) : end], np.int64)
    return _replace(graph, values)


def _fold_values(graph: Graph) -> int:
    known = dict.fromkeys(graph.constants)
    chosen: list[onnx.NodeProto] = []
    budget = _ELEMENTS_IN_ALL
    for node in graph.nodes:
        if node.op_type in _NOT_FOLDED or not all(name in known for name in node.input if name):
            continue
        sizes = [_elements(graph, name) for name in node.output if name]
        if any(size is None or size > _ELEMENTS_PER_TENSOR for size in sizes):
            continue
        budget -= sum(size or 0 for size in sizes)
        if budget < 0:
            break
        chosen.append(node)
        known.update(dict.fromkeys(name for name in node.output if name))
    return _replace(graph, _evaluate(graph, chosen)) if chosen else 0


def _elements(graph: Graph, name: str) -> int | None:
    shape = graph.shape(name)
    return None if shape is None else math.prod(shape)


def _evaluate(graph: Graph, nodes: list[onnx.NodeProto]) -> dict[str, NDArray[Any]]:
    """Values that the rest of the graph reads from these constant nodes."""
    inside = {id(node) for node in nodes}
    made = [name for node in nodes for name in node.output if name]
    read = {name for node in graph.nodes if id(node) not in inside for name in _reads(node)} | set(graph.outputs)
    wanted = [name for name in made if name in read]
    needed = {name for node in nodes for name in node.input}
    proto = onnx.helper.make_graph(
        nodes,
        "constants",
        [],
        [onnx.helper.make_tensor_value_info(name, graph.dtype(name) or 0, graph.shape(name)) for name in wanted],
        [tensor for tensor in graph.proto.initializer if tensor.name in needed],
    )
    model = onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    if not wanted:
        return dict.fromkeys(made, np.zeros(0, np.float32))
    try:
        session = open_session(model.SerializeToString(), optimise=False)
        values = {name: value.copy() for name, value in session.run({}).items()}
    except SessionError as error:
        raise ModelError(f"a constant expression of the model cannot be computed: {error}") from error
    return values | {name: np.zeros(0, np.float32) for name in made if name not in read}


def _reads(node: onnx.NodeProto) -> set[str]:
    return {name for inner in all_nodes([node]) for name in inner.input}


def _replace(graph: Graph, values: dict[str, NDArray[Any]]) -> int:
    """Turn the makers of these tensors into initialisers."""
    kept = [node for node in graph.nodes if not (node.output and node.output[0] in values)]
    gone = len(graph.proto.node) - len(kept)
    if gone:
        read = {name for node in kept for name in _reads(node)} | set(graph.outputs)
        graph.proto.initializer.extend(
            numpy_helper.from_array(np.asarray(value, order="C"), name)
            for name, value in values.items()
            if name in read
        )
        graph.replace_nodes(kept)
    return gone


def _inline_decided_ifs(graph: Graph) -> int:
    """Replace each If whose condition is a constant by the branch that it takes."""
    nodes: list[onnx.NodeProto] = []
    gone = 0
    for node in graph.nodes:
        if node.op_type != "If" or node.input[0] not in graph.constants:
            nodes.append(node)
            continue
        gone += 1
        branch = attribute(node, "then_branch" if bool(graph.constants[node.input[0]].all()) else "else_branch")
        nodes.extend(_branch_nodes(graph, branch, node))
    if gone:
        graph.replace_nodes(nodes)
    return gone


def _branch_nodes(graph: Graph, branch: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    local = {name for inner in branch.node for name in inner.output if name} | {t.name for t in branch.initializer}
    names = {name: f"{node.name}/{name}" for name in local}
    for tensor in branch.initializer:
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = names[tensor.name]
        graph.proto.initializer.append(copy)
    inlined = []
    for inner in branch.node:
        copy_node = onnx.NodeProto()
        copy_node.CopyFrom(inner)
        copy_node.name = f"{node.name}/{inner.name}"
        for part in all_nodes([copy_node]):
            part.input[:] = [names.get(name, name) for name in part.input]
        copy_node.output[:] = [names.get(name, name) for name in copy_node.output]
        inlined.append(copy_node)
    for outer, inner_output in zip(node.output, branch.output, strict=True):
        source = names.get(inner_output.name, inner_output.name)
        inlined.append(onnx.helper.make_node("Identity", [source], [outer], name=f"{node.name}/{outer}"))
    return inlined

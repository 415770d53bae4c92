"""What a graph's structure says about its outputs: which activation ends them, whether boxes are decoded."""

from __future__ import annotations

import numpy as np
import onnx

from edgevision.export.decode import ARITHMETIC
from edgevision.export.graph import Graph, attribute

_LAYOUT = frozenset(
    [
        "Reshape",
        "Transpose",
        "Concat",
        "Identity",
        "Slice",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Cast",
        "Split",
        "Gather",
    ]
)


def class_activation(graph: Graph, scores: str) -> str | None:
    """`Sigmoid` or `Softmax` where every path into `scores` ends in it, but for operators that only move data."""
    found: set[str] = set()
    for node in behind(graph, scores, _LAYOUT):
        if node.op_type == "Softmax" and attribute(node, "axis", -1) in (1, 2, -1):
            found.add("Softmax")
        else:
            found.add(node.op_type if node.op_type == "Sigmoid" else "")
    return found.pop() or None if len(found) == 1 else None


def decoded_unit(graph: Graph, boxes: str) -> str | None:
    """Whether the graph decodes its boxes itself: None: no, they are offsets; else their unit, `fractions` of the
    input, `pixels`, or `unknown`. An exponential between the last convolution and the output is what tells; the
    constants it is combined with, one per box, tell the unit."""
    nodes = decode_nodes(graph, boxes)
    if not any(node.op_type == "Exp" for node in nodes):
        return None
    count = (graph.shape(boxes) or (0, 0))[1]
    largest = [
        float(np.abs(graph.constants[name]).max())
        for node in nodes
        if node.op_type in ("Mul", "Add")
        for name in node.input
        if name in graph.constants and count in graph.constants[name].shape
    ]
    if not largest or 2.0 < max(largest) < 8.0:
        return "unknown"
    return "fractions" if max(largest) <= 2.0 else "pixels"


def decode_nodes(graph: Graph, output: str) -> list[onnx.NodeProto]:
    """The arithmetic between the last convolutions and `output`."""
    nodes = []
    waiting, seen = [output], set()
    while waiting:
        node = graph.producer.get(waiting.pop())
        if node is not None and id(node) not in seen and node.op_type in ARITHMETIC:
            seen.add(id(node))
            nodes.append(node)
            waiting.extend(node.input)
    return nodes


def behind(graph: Graph, tensor: str, through: frozenset[str]) -> list[onnx.NodeProto]:
    """The nodes met first when walking back from `tensor` through the operators in `through`."""
    met = []
    waiting, seen = [tensor], set()
    while waiting:
        name = waiting.pop()
        node = graph.producer.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type in through:
            # Data comes through all inputs of a Concat, and through the first of the others.
            waiting.extend(node.input if node.op_type == "Concat" else node.input[:1])
        else:
            met.append(node)
    return met

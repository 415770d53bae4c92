"""Whether an ONNX graph is put together as the format says, checked on the wire without the onnx package.

TensorRT's parser is native code that trusts its input: a node without outputs ends the process. Bundles travel, so a
graph is checked before the parser sees it. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import math

from edgevision.backends.onnx_graph import (
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_TENSOR,
    TENSOR_NAME,
    TENSOR_RAW,
    TENSOR_TYPE,
    Node,
    content,
    graph_of,
    read_node,
)
from edgevision.backends.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, decode, integer, integers, text
from edgevision.errors import SessionError

_GRAPH_OUTPUT, _TENSOR_DIMS = 12, 1
# Bytes per element by element type; four bits count as a byte for two.
_SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2, 17: 1, 19: 1}
# Fields that hold values one by one, and the wire type of each.
_VALUES = {4: FIXED32, 5: VARINT, 7: VARINT, 10: FIXED64, 11: VARINT}
_LIMIT = 1 << 31
_NOT_TEXT = "\ufffd"  # what decoding puts in place of bytes that are no text
_NO_INPUTS = ("Constant", "RandomNormal", "RandomUniform")
_INPUTS = {
    2: "Conv ConvTranspose Gemm MatMul Add Sub Mul Div Pow Mod QuantizeLinear DequantizeLinear Reshape Gather GatherND "
    "GatherElements PRelu Expand Tile TopK Pad Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor GridSample",
    3: "Where InstanceNormalization Slice ScatterND ScatterElements OneHot Range GroupNormalization",
    5: "BatchNormalization",
}
_LEAST = {operator: count for count, operators in _INPUTS.items() for operator in operators.split()}


def check_structure(graph: bytes) -> None:
    """Refuse a graph whose nodes, tensors and names do not fit together.

    Args:
        graph: a serialised ModelProto.

    Raises:
        SessionError: says which node or tensor and why.
    """
    body = graph_of(decode(graph))
    known = {""}
    for number, _, value in body:
        if number == GRAPH_INPUT:
            known.add(text(decode(content(value)), 1))
        elif number == GRAPH_TENSOR:
            tensor = decode(content(value))
            _check_tensor(tensor)
            known.add(text(tensor, TENSOR_NAME))
    for number, _, value in body:
        if number == GRAPH_NODE:
            message = decode(content(value))
            node = read_node(message)
            _check_node(node, known)
            for attribute in node.attributes.values():
                for inner, wire, tensor_value in attribute:
                    if inner == 5 and wire == BYTES:
                        _check_tensor(decode(content(tensor_value)))
            known.update(node.outputs)
    for number, _, value in body:
        if number == _GRAPH_OUTPUT and text(decode(content(value)), 1) not in known - {""}:
            raise SessionError(f"the graph's output {text(decode(content(value)), 1)!r} is made by no node")


def _check_node(node: Node, known: set[str]) -> None:
    where = f"node {node.name!r} ({node.operator})"
    least = _LEAST.get(node.operator, 0 if node.operator in _NO_INPUTS else 1)
    if not node.operator or not any(node.outputs):
        raise SessionError(f"{where} has no operator or no output; export the model again")
    if len(node.inputs) < least or "" in node.inputs[: min(least, 2)]:
        raise SessionError(f"{where} has the inputs {node.inputs}, expected at least {least}; export the model again")
    if any(_NOT_TEXT in name for name in (node.name, node.operator, *node.inputs, *node.outputs)):
        raise SessionError(f"{where} has a name that is not UTF-8; export the model again")
    unknown = [name for name in node.inputs if name not in known]
    if unknown:
        raise SessionError(f"{where} reads {unknown[0]!r}, which no earlier node makes; export the model again")
    again = [name for name in node.outputs if name and name in known]
    if again or len(set(node.outputs)) < len(node.outputs):
        raise SessionError(f"{where} makes {again[:1] or node.outputs}, which is there already; export the model again")


def _check_tensor(tensor: list[Field]) -> None:
    where = f"tensor {text(tensor, TENSOR_NAME)!r}"
    sides, kind = integers(tensor, _TENSOR_DIMS), integer(tensor, TENSOR_TYPE)
    if any(side < 0 for side in sides) or math.prod(sides) > _LIMIT or kind not in _SIZES:
        raise SessionError(f"{where} has the sides {sides[:8]} and type {kind}; export the model again")
    count = math.prod(sides)
    raw = [len(content(value)) for number, wire, value in tensor if number == TENSOR_RAW and wire == BYTES]
    if raw:
        wanted, held = count * _SIZES[kind], raw[-1]
    else:
        wanted, held = count, sum(_values(tensor, number, wire) for number, wire in _VALUES.items())
    if wanted != held:
        raise SessionError(f"{where} has {held} bytes or values, its sides {sides} ask for {wanted}; export it again")


def _values(tensor: list[Field], number: int, form: int) -> int:
    """How many values a repeated field holds, packed or not."""
    if form == VARINT:
        return len(integers(tensor, number))
    size = 4 if form == FIXED32 else 8
    return sum(len(content(value)) // size for field, _, value in tensor if field == number)

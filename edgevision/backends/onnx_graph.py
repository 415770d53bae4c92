"""What is in an ONNX graph, read from the wire format without the onnx package; field numbers as in onnx.proto."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from edgevision.backends.protobuf import BYTES, Field, decode, integer, text, texts
from edgevision.errors import SessionError

SINGLE, HALF = 1, 10
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_TENSOR, GRAPH_INPUT = 1, 5, 11
NODE_ATTRIBUTE = 5
TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 2, 8, 9
# Results that are not of the inputs' type.
_NOT_FLOAT = (
    *("QuantizeLinear", "ArgMax", "ArgMin", "Shape", "Size", "NonZero", "IsNaN", "IsInf", "Not", "And", "Or", "Xor"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
)


@dataclass
class Node:
    """One node of an ONNX graph, as far as it matters here.

    Attributes:
        name, operator: as in the file.
        inputs, outputs: tensor names.
        attributes: name -> the attribute's message.
    """

    name: str
    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, list[Field]] = field(default_factory=dict)


def read_nodes(graph: bytes) -> list[Node]:
    """The nodes of a serialised model, in order; empty for bytes that are none."""
    try:
        return [
            read_node(decode(content(value))) for number, _, value in graph_of(decode(graph)) if number == GRAPH_NODE
        ]
    except SessionError:
        return []


def float32_nodes(graph: bytes) -> frozenset[str]:
    """Names of the nodes that compute in float32 in a graph whose other nodes compute in float16.

    Raises:
        SessionError: it is not an ONNX model.
    """
    body = graph_of(decode(graph))
    kinds: dict[str, int] = {}
    for number, _, value in body:
        if number == GRAPH_TENSOR:
            tensor = decode(content(value))
            kinds[text(tensor, TENSOR_NAME)] = integer(tensor, TENSOR_TYPE)
        elif number == GRAPH_INPUT:
            entry = decode(content(value))
            kinds[text(entry, 1)] = element_type(entry)
    single = set()
    for number, _, value in body:
        if number != GRAPH_NODE:
            continue
        node = read_node(decode(content(value)))
        kind = _kind(node, kinds)
        for name in node.outputs:
            kinds[name] = kind
        if kind == SINGLE and node.operator not in ("Cast", "DequantizeLinear"):
            single.add(node.name)
    return frozenset(single)


def quantised_ranges(graph: bytes) -> dict[str, float]:
    """Largest magnitude that each quantised tensor's INT8 grid reaches, by the tensor's name.

    Raises:
        SessionError: it is not an ONNX model.
    """
    parts = (GRAPH_NODE, GRAPH_TENSOR)
    body = [(number, decode(content(value))) for number, _, value in graph_of(decode(graph)) if number in parts]
    scales = {text(tensor, TENSOR_NAME): _scalar(tensor) for number, tensor in body if number == GRAPH_TENSOR}
    nodes = (read_node(message) for number, message in body if number == GRAPH_NODE)
    pairs = ((n.inputs[0], scales.get(n.inputs[1], 0.0)) for n in nodes if _quantises(n))
    return {tensor: 127 * scale for tensor, scale in pairs if 0 < scale < float("inf")}


def _quantises(node: Node) -> bool:
    return node.operator == "QuantizeLinear" and len(node.inputs) > 1


def _scalar(tensor: list[Field]) -> float:
    """The value of a float tensor with one element; 0 for any other."""
    raw = b"".join(content(value) for number, _, value in tensor if number == TENSOR_RAW)
    form = {(SINGLE, 4): "<f", (HALF, 2): "<e"}.get((integer(tensor, TENSOR_TYPE), len(raw)))
    return 0.0 if form is None else float(struct.unpack(form, raw)[0])


def _kind(node: Node, kinds: dict[str, int]) -> int:
    """Element type of a node's results: float16 where any input is, as in a typed graph."""
    if node.operator == "Cast":
        return integer(node.attributes.get("to", []), 3)
    if node.operator in _NOT_FLOAT:
        return 0
    read = {kinds.get(name, 0) for name in node.inputs}
    return HALF if HALF in read else SINGLE if SINGLE in read else 0


def graph_of(model: list[Field]) -> list[Field]:
    """The graph of a model; empty where there is none."""
    return next((decode(content(value)) for number, wire, value in model if (number, wire) == (MODEL_GRAPH, BYTES)), [])


def read_node(message: list[Field]) -> Node:
    """A node from its message."""
    attributes = [decode(content(value)) for number, _, value in message if number == NODE_ATTRIBUTE]
    return Node(
        text(message, 3),
        text(message, 4),
        texts(message, 1),
        texts(message, 2),
        {text(attribute, 1): attribute for attribute in attributes},
    )


def element_type(value_info: list[Field]) -> int:
    """Element type of a graph input's tensor type; 0 where it is something else."""
    for number, _, kind in value_info:
        if number == 2:
            for inner, _, tensor in decode(content(kind)):
                if inner == 1:
                    return integer(decode(content(tensor)), 1)
    return 0


def content(value: bytes | int) -> bytes:
    """A field's bytes; SessionError where it holds a number."""
    if isinstance(value, int):
        raise SessionError("the graph is not an ONNX model: a number where a message belongs")
    return value

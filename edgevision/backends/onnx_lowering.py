"""Our graphs as TensorRT 8.6 reads them: operator set 17, everything float in float32, Q/DQ scales included.

Later versions take precision from the graph's types. TensorRT 8.6 takes it from flags and from where Q/DQ stand, knows
no FP16 scales, and its parser ends at operator set 17. So on the device the graph is rewritten, on the wire format and
without the onnx package: float16 tensors become float32, `Cast` to float16 becomes `Cast` to float32, and what
operator sets 18 and 19 moved or added is moved back, or refused where it changes the result.

Changes of operators from https://onnx.ai/onnx/operators, versions 18 and 19.
"""

from __future__ import annotations

import numpy as np

from edgevision.backends.onnx_graph import (
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_TENSOR,
    HALF,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    SINGLE,
    TENSOR_NAME,
    TENSOR_RAW,
    TENSOR_TYPE,
    Node,
    content,
    element_type,
    read_node,
)
from edgevision.backends.protobuf import BYTES, VARINT, Field, decode, encode, integer, integers, text, texts
from edgevision.errors import BuildError

OPSET, _IR_VERSION = 17, 8
_MODEL_IR, _MODEL_OPSETS, _GRAPH_VALUES, _NODE_INPUT = 1, 8, 13, 1
_TENSOR_DIMS, _TENSOR_INT64 = 1, 7
_NAME, _INTEGER, _TEXT, _TENSOR, _INTS, _KIND, _KIND_INTS = 1, 3, 4, 5, 8, 20, 7
_REDUCTIONS = {f"Reduce{n}" for n in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")}
# Attributes that versions 18 and 19 added, with the values that mean what version 17 does; None: all of them.
_ADDED: dict[str, dict[str, tuple[object, ...] | None]] = {
    "Resize": {"antialias": (0,), "keep_aspect_ratio_policy": ("stretch",), "axes": ()},
    "AveragePool": {"dilations": (1,)},
    "Cast": {"saturate": None},
    "QuantizeLinear": {"saturate": None},
    "Split": {"num_outputs": None},
    **{operator: {"noop_with_empty_axes": None} for operator in _REDUCTIONS},
}


def lower(graph: bytes, name: str) -> bytes:
    """The graph at operator set 17 and in float32.

    Args:
        graph: a serialised model, up to operator set 19.
        name: what to call it in errors.

    Raises:
        BuildError: it uses something that operator set 17 cannot say; names node and operator.
        SessionError: it is not an ONNX model.
    """
    model: list[Field] = []
    for number, wire, value in decode(graph):
        if number == MODEL_GRAPH and wire == BYTES:
            value = _lower_graph(decode(content(value)), name)
        elif number == _MODEL_OPSETS and wire == BYTES:
            entry = decode(content(value))
            default = set(texts(entry, 1)) <= {"", "ai.onnx"}
            value = encode([(2, VARINT, min(OPSET, integer(entry, 2)))]) if default else value
        elif number == _MODEL_IR:
            value = min(_IR_VERSION, int(value))
        model.append((number, wire, value))
    return encode(model)


def _lower_graph(graph: list[Field], name: str) -> bytes:
    constants = {}
    for number, _, value in graph:
        if number == GRAPH_TENSOR:
            tensor = decode(content(value))
            constants[text(tensor, TENSOR_NAME)] = tensor
    lowered: list[Field] = []
    for number, wire, value in graph:
        if number == GRAPH_TENSOR:
            value = _to_single(content(value))
        elif number == GRAPH_NODE:
            value = _lower_node(decode(content(value)), constants, name)
        elif number == GRAPH_INPUT and element_type(decode(content(value))) == HALF:
            raise BuildError(f"{name} has a float16 input, which this TensorRT cannot be given; export it again")
        if number != _GRAPH_VALUES:  # types of inner tensors, which are others now
            lowered.append((number, wire, value))
    return encode(lowered)


def _to_single(message: bytes) -> bytes:
    """A float16 tensor as float32; any other as it is."""
    tensor = decode(message)
    if integer(tensor, TENSOR_TYPE) != HALF:
        return message
    raw = [content(value) for number, _, value in tensor if number == TENSOR_RAW]
    values = np.frombuffer(b"".join(raw), "<f2").astype("<f4")
    if values.size != int(np.prod(integers(tensor, _TENSOR_DIMS), dtype=np.int64)):
        raise BuildError(f"float16 tensor {text(tensor, TENSOR_NAME)} is not kept as raw bytes; export the model again")
    kept = [entry for entry in tensor if entry[0] not in (TENSOR_TYPE, TENSOR_RAW)]
    return encode([*kept, (TENSOR_TYPE, VARINT, SINGLE), (TENSOR_RAW, BYTES, values.tobytes())])


def _lower_node(message: list[Field], constants: dict[str, list[Field]], where: str) -> bytes:
    node = read_node(message)
    changed: list[Field] = []
    dropped = ""
    if node.operator in _REDUCTIONS and len(node.inputs) > 1 and node.inputs[1]:
        dropped = node.inputs[1]
        changed.append(_axes(node, constants, where))
    elif node.operator == "Pad" and len(node.inputs) > 3 and node.inputs[3]:
        raise _refusal(node, where, "pads named axes")
    elif node.operator == "GroupNormalization":
        raise _refusal(node, where, "is newer")
    for entry in message:
        number, wire, value = entry
        if number == _NODE_INPUT and dropped and content(value) == dropped.encode():
            continue
        if number == NODE_ATTRIBUTE:
            attribute = decode(content(value))
            if _is_new(node, attribute, where):
                continue
            value = encode(_attribute(node, attribute))
        changed.append((number, wire, value))
    return encode(changed)


def _attribute(node: Node, attribute: list[Field]) -> list[Field]:
    """An attribute with float16 replaced in it: the type of a Cast, a tensor."""
    name = text(attribute, _NAME)
    if node.operator == "Cast" and name == "to" and integer(attribute, _INTEGER) == HALF:
        return [(n, w, SINGLE if n == _INTEGER else v) for n, w, v in attribute]
    return [(n, w, _to_single(content(v)) if n == _TENSOR and w == BYTES else v) for n, w, v in attribute]


def _is_new(node: Node, attribute: list[Field], where: str) -> bool:
    """Whether an attribute came after operator set 17 and can be left out; refused where it changes the result."""
    name, added = text(attribute, _NAME), _ADDED.get(node.operator, {})
    if name not in added:
        return False
    harmless = added[name]
    values = [*texts(attribute, _TEXT), *integers(attribute, _INTEGER), *integers(attribute, _INTS)]
    if harmless is not None and not set(values) <= set(harmless):
        raise _refusal(node, where, f"has {name} {values}")
    return True


def _axes(node: Node, constants: dict[str, list[Field]], where: str) -> Field:
    """The `axes` attribute of a reduction that has them as an input."""
    tensor = constants.get(node.inputs[1])
    if tensor is None:
        raise _refusal(node, where, "computes its axes")
    raw = b"".join(content(value) for number, _, value in tensor if number == TENSOR_RAW)
    axes = np.frombuffer(raw, "<i8").tolist() if raw else integers(tensor, _TENSOR_INT64)
    message: list[Field] = [(_NAME, BYTES, b"axes"), *((_INTS, VARINT, axis) for axis in axes)]
    return NODE_ATTRIBUTE, BYTES, encode([*message, (_KIND, VARINT, _KIND_INTS)])


def _refusal(node: Node, where: str, what: str) -> BuildError:
    return BuildError(
        f"{where}: node {node.name!r} ({node.operator}) {what}, which operator set {OPSET} cannot say, and this "
        "TensorRT reads no later one; change the model or use a later TensorRT"
    )

"""What the parser refuses, node by node, as documented and as measured on the real parsers.

Sources: NVIDIA's onnx-tensorrt change log and operator tables; a run of 82 small graphs through TensorRT-RTX's parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import TensorProto, numpy_helper

# The last operator set that a version's parser knows.
_OPSETS = ((8, 17), (10, 20), (10, 13, 22), (10, 16, 24), (11, 25))
_WITHOUT_IMPORTER = {
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "Unique",
    "SequenceConstruct", "SequenceAt", "SequenceEmpty", "SequenceInsert", "SplitToSequence", "ConcatFromSequence",
    "BitShift", "Det", "MaxRoiPool", "MaxUnpool", "Multinomial", "StringNormalizer", "TfIdfVectorizer", "Compress",
}  # fmt: skip
_SINCE_10 = {"Gelu", "Mish", "Hardmax", "DeformConv", "Col2Im", "LayerNormalization"} - {"LayerNormalization"}
_PLUGINS = {
    "NonZero": "Assertion failed: creator && getPluginCreatorVersion(creator) == CreatorVersion::kV3ONE: NonZero "
    "plugin creator version 1 was not found in plugin registry.",
    "RoiAlign": "Assertion failed: plugin != nullptr: ROIAlign plugin was not found in the plugin registry!",
    "DeformConv": "Assertion failed: creator: Plugin not found, are the plugin name, version, and namespace correct?",
}
_SAME_TYPES = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "MatMul", "Gemm", "Conv", "Concat", "Where", "Equal"}
_UINT8_READERS = {"Cast", "Identity", "QuantizeLinear", "DequantizeLinear"}
_BELOW = "API Usage Error"


@dataclass(frozen=True)
class Refusal:
    """One parser error: a name of ErrorCode, what it says, and the node (index -1: the model as a whole)."""

    code: str
    text: str
    index: int = -1
    node: str = ""
    operator: str = ""


@dataclass
class Graph:
    """A parsed model with what the rules need to know.

    Attributes:
        elements: ONNX element type by value name.
        shapes: sides by value name, -1 where open.
        constants: initialisers by name.
    """

    model: onnx.ModelProto
    number: tuple[int, ...]
    rtx: bool
    strong: bool
    elements: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        """Of the default domain."""
        return max((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), default=0)

    @property
    def old(self) -> bool:
        """Whether this is TensorRT 8."""
        return self.number[0] < 10


def last_opset(number: tuple[int, ...]) -> int:
    """The last operator set that a version takes."""
    return max(row[-1] for row in _OPSETS if tuple(row[:-1]) <= number)


def check(graph: Graph) -> list[Refusal]:
    """Everything that the parser of this version refuses in a graph."""
    limit = last_opset(graph.number)
    if graph.opset > limit and not graph.rtx:  # RTX reads on; so may others, but what comes of it is not documented
        text = f"Unsupported ONNX opset version: {graph.opset}, TensorRT supports up to {limit}"
        return [Refusal("UNSUPPORTED_GRAPH", text)]
    found = []
    for index, node in enumerate(graph.model.graph.node):
        for rule in _RULES:
            refusal = next(rule(graph, node), None)
            if refusal is not None:
                found.append(Refusal(refusal[0], refusal[1], index, name_of(node), node.op_type))
                break
    return found


def said(graph: Graph, refusals: list[Refusal]) -> list[Refusal]:
    """Those refusals that `parse` gets to: what it finds beforehand all at once, or the first that it meets.

    TensorRT 8 looks at nothing beforehand.
    """
    beforehand = [refusal for refusal in refusals if refusal.code.startswith("UNSUPPORTED")]
    return beforehand if beforehand and not graph.old else refusals[:1]


def name_of(node: Any) -> str:
    """The parser's name for a node."""
    return node.name or f"node_of_{node.output[0]}"


_Found = Iterator[tuple[str, str]]


def _operators(graph: Graph, node: Any) -> _Found:
    kind = node.op_type
    if node.domain not in ("", "ai.onnx"):
        if kind != "EfficientNMS_TRT" or graph.rtx:
            yield "INVALID_NODE", 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'
    elif kind in _WITHOUT_IMPORTER or (graph.old and kind in _SINCE_10):
        if graph.old:
            plugin = "Plugin not found, are the plugin name, version, and namespace correct?"
            yield (
                "UNSUPPORTED_NODE",
                f'getPluginCreator() could not find plugin {kind} version 1. creator && "{plugin}"',
            )
        else:
            yield "UNSUPPORTED_NODE", "false"
    elif graph.rtx and kind in _PLUGINS:
        yield "UNSUPPORTED_NODE", _PLUGINS[kind]
    elif kind in ("Loop", "Scan"):
        text = "Assertion failed: (ctx->tensors().count(inputName)): Node input was not registered."
        yield "INVALID_GRAPH", text


def _quantizers(graph: Graph, node: Any) -> _Found:
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return
    name = name_of(node)
    element = graph.elements.get(node.input[0])
    if node.op_type == "DequantizeLinear" and element == TensorProto.INT32:
        wanted = "FP8, FP4, Int4, Int8, or UInt8" if not graph.old else "Int8"
        yield (
            "INVALID_NODE",
            f"Invalid Node - {name}\nITensor::getDimensions: Error Code 4: {_BELOW} "
            f"({name}: input has type Int32 but must have type {wanted}.)",
        )
    zero = graph.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is not None and numpy_helper.to_array(zero).any():
        if graph.old:
            why = 'shiftIsAllZeros(zeroPoint) && "TensorRT only supports symmetric quantization."'
        else:
            why = (
                "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported. Please set "
                "kENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA to enable asymmetric quantization if it is on DLA."
            )
        yield "INVALID_NODE", why
    if graph.old and zero is not None and zero.data_type == TensorProto.UINT8:
        yield "INVALID_NODE", 'zeroPoint.type == INT8 && "TensorRT only supports INT8 quantization."'
    if graph.old and graph.elements.get(node.input[1]) != TensorProto.FLOAT:
        yield "INVALID_NODE", f"{name}: (scale).type must be FLOAT: TensorRT knows no other scales"


def _types(graph: Graph, node: Any) -> _Found:
    elements = [graph.elements.get(name) for name in node.input if name]
    names = {TensorProto.FLOAT: "Float", TensorProto.FLOAT16: "Half"}
    floats = [names[e] for e in elements if e in names]
    if node.op_type in _SAME_TYPES and len(set(floats)) > 1:
        first, second = dict.fromkeys(floats)
        yield (
            "INVALID_NODE",
            f"Invalid Node - {name_of(node)}\nITensor::getDimensions: Error Code 4: {_BELOW} ({name_of(node)}: "
            f"{node.op_type} must have same input types. But they are of types {first} and {second}.)",
        )
    if elements and elements[0] == TensorProto.UINT8 and node.op_type not in _UINT8_READERS:
        if node.op_type == "Resize":
            text = "Assertion failed: status.is_success(): Found unsupported input type of UINT8"
            yield "UNSUPPORTED_NODE", text
        else:
            yield (
                "INVALID_NODE",
                f"Invalid Node - {name_of(node)}\nITensor::getDimensions: Error Code 4: {_BELOW} ({name_of(node)}: "
                "first input has type UInt8 but must have type Float, Half, Int8, Int32, or Bool.)",
            )


def _attributes(graph: Graph, node: Any) -> _Found:
    if node.op_type == "Resize" and any(a.name == "antialias" and a.i for a in node.attribute):
        code = "INVALID_NODE" if graph.old else "UNSUPPORTED_NODE_ATTR"
        yield code, '(antialias == 0) && "Antialiasing is not supported currently."'


_RULES: tuple[Callable[[Graph, Any], _Found], ...] = (_operators, _quantizers, _types, _attributes)

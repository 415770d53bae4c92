"""Rules that a Q/DQ graph must keep for TensorRT, most of which its parser does not check (a wrong weight axis builds).

Each rule is one function over a graph that yields what breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto

from edgevision.errors import ModelError
from edgevision.export.graph import Graph, attribute
from edgevision.export.structure import COMMUTING, WEIGHTED

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def validate_tensorrt(graph: Graph) -> None:
    """Check every rule on an emitted graph with inferred types.

    Raises:
        ModelError: rules are broken; names the nodes.
    """
    broken = [problem for rule in RULES for problem in rule(graph)]
    if broken:
        raise ModelError(
            f"the INT8 graph breaks {len(broken)} rule(s) of TensorRT: {'; '.join(broken[:5])}; "
            "this is a bug in edgevision, please report it with the model"
        )


def zero_points(graph: Graph) -> Iterator[str]:
    """Zero points are constant int8 zeros."""
    for node in _quantizers(graph):
        zero = graph.constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None or zero.dtype != np.int8 or zero.any():
            yield f"{node.name}: zero point is not a constant int8 0"


def scales(graph: Graph) -> Iterator[str]:
    """Scales are constant, finite and positive."""
    for node in _quantizers(graph):
        scale = graph.constants.get(node.input[1])
        if scale is None or not np.isfinite(scale).all() or not (scale > 0).all():
            yield f"{node.name}: scale is not constant, finite and positive"


def activation_grids(graph: Graph) -> Iterator[str]:
    """Activations have one scale per tensor, and a Q is followed by DQs with the same grid."""
    for node in _quantizers(graph):
        if node.input[0] in graph.constants:
            continue
        if graph.constants.get(node.input[1], np.zeros(0)).size != 1:
            yield f"{node.name}: an activation has more than one scale"
        if node.op_type == "QuantizeLinear":
            for reader in graph.consumers[node.output[0]]:
                if reader.op_type != "DequantizeLinear" or not _same_grid(graph, node, reader):
                    yield f"{node.name}: read by {reader.name}, which is no DequantizeLinear on the same grid"


def weights(graph: Graph) -> Iterator[str]:
    """Weights lie on the axis of the output channels, one scale each, or have one scale in all."""
    for node in graph.nodes:
        quantizer = graph.producer.get(node.input[1]) if node.op_type in WEIGHTED else None
        if quantizer is None or quantizer.op_type != "DequantizeLinear":
            continue
        values, scale = graph.constants.get(quantizer.input[0]), graph.constants.get(quantizer.input[1])
        if values is None or scale is None or values.dtype != np.int8:
            yield f"{node.name}: quantised weights are not constant int8"
        elif scale.ndim:
            axis = attribute(quantizer, "axis", 1)
            if axis != _channel_axis(node, values.ndim) or scale.shape != (values.shape[axis],):
                yield f"{node.name}: weight scales {scale.shape} on axis {axis} of {values.shape}"


def constants(graph: Graph) -> Iterator[str]:
    """Nothing constant is quantised but weights; biases least of all."""
    for node in _quantizers(graph):
        if node.input[0] not in graph.constants:
            continue
        if node.op_type == "QuantizeLinear":
            yield f"{node.name}: quantises a constant in the graph"
        for reader in graph.consumers[node.output[0]]:
            if reader.op_type not in WEIGHTED or list(reader.input).index(node.output[0]) != 1:
                yield f"{node.name}: a quantised constant that is not the weights of {reader.name}"


def whole_layers(graph: Graph) -> Iterator[str]:
    """A weighted operator has its input and its weights quantised, or neither."""
    for node in graph.nodes:
        if node.op_type in WEIGHTED:
            behind = [_is_dequantized(graph, name) for name in node.input[:2]]
            if behind[1] and not behind[0]:
                yield f"{node.name}: quantised weights with a float input"


def moved_grids(graph: Graph) -> Iterator[str]:
    """What only moves values between a DQ and a Q has one grid before and after, or it is requantised, not fused."""
    for node in graph.nodes:
        if node.op_type not in COMMUTING:
            continue
        before = [graph.producer.get(name) for name in node.input if name and name not in graph.constants]
        after = [reader for name in node.output for reader in graph.consumers[name]]
        if not all(maker is not None and maker.op_type == "DequantizeLinear" for maker in before):
            continue
        for reader in after:
            if reader.op_type == "QuantizeLinear" and not all(
                m is None or _same_grid(graph, m, reader) for m in before
            ):
                yield f"{node.name}: {reader.name} behind it is on another grid than what it moves"


def biases(graph: Graph) -> Iterator[str]:
    """Biases of quantised operators are float constants, finite in their type."""
    for node in graph.nodes:
        if node.op_type not in WEIGHTED or len(node.input) < 3 or not _is_dequantized(graph, node.input[1]):
            continue
        bias = graph.constants.get(node.input[2])
        if bias is not None and (bias.dtype.kind != "f" or not np.isfinite(bias).all()):
            yield f"{node.name}: bias is not float and finite"


def types(graph: Graph) -> Iterator[str]:
    """Float inputs of one operator have one type, and are typed at all."""
    for node in graph.nodes:
        if node.op_type in ("Cast", "Resize"):
            continue
        kinds = {graph.dtype(name) for name in node.input if name} & set(_FLOATS)
        if len(kinds) > 1:
            yield f"{node.name}: float32 and float16 inputs meet in {node.op_type}"
        for name in node.output:
            if name and graph.dtype(name) is None:
                yield f"{node.name}: output {name} has no type"


RULES: tuple[Callable[[Graph], Iterator[str]], ...] = (
    zero_points,
    scales,
    activation_grids,
    weights,
    constants,
    whole_layers,
    moved_grids,
    biases,
    types,
)


def _quantizers(graph: Graph) -> Iterator[onnx.NodeProto]:
    return (node for node in graph.nodes if node.op_type in _QUANTIZERS)


def _is_dequantized(graph: Graph, name: str) -> bool:
    node = graph.producer.get(name)
    return node is not None and node.op_type == "DequantizeLinear"


def _same_grid(graph: Graph, first: onnx.NodeProto, second: onnx.NodeProto) -> bool:
    one, two = (graph.constants.get(node.input[1]) for node in (first, second))
    return one is not None and two is not None and np.array_equal(one.astype(np.float32), two.astype(np.float32))


def _channel_axis(node: onnx.NodeProto, rank: int) -> int | None:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else rank - 1

"""Divides channels by factors and multiplies what reads them, so that the network computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.export.graph import Graph, attribute
from edgevision.export.repair.channel_classes import ChannelClasses
from edgevision.export.simplification import remove_dead
from edgevision.export.structure import WEIGHTED, activations

Floats = NDArray[np.float64]


def rescale(graph: Graph, classes: ChannelClasses, factors: Floats) -> None:
    """Divide every channel by its class's factor.

    Precondition: `classes` are those of `graph`; factors are positive, `factors[0]` is 1.
    Postcondition: outputs are the same up to rounding; node names, tensor names and shapes stay.

    Args:
        graph: changed in place.
        factors: one per label of `classes`.
    """
    divisors: dict[str, Floats] = {}
    for node in graph.nodes:
        for name in (*node.input, *node.output):
            if name and name not in graph.constants and name not in divisors:
                divisors[name] = factors[classes.of(name)]
    for node in graph.nodes:
        names = [node.output[0], *(node.input[index] for index in activations(graph, node))]
        if all((divisors[name] == 1).all() for name in names if name):
            continue
        if node.op_type in WEIGHTED:
            _rescale_weighted(graph, node, divisors[node.input[0]], divisors[node.output[0]])
        elif node.op_type in ("Add", "Sub"):
            _divide_constants(graph, node, range(2), divisors[node.output[0]])
        elif node.op_type == "BatchNormalization":
            _divide_constants(graph, node, (2, 3), divisors[node.output[0]].ravel())
    remove_dead(graph)


def _rescale_weighted(graph: Graph, node: onnx.NodeProto, before: Floats, after: Floats) -> None:
    weight = graph.constants[node.input[1]].astype(np.float64)
    scaled = scale_outputs(node, scale_inputs(node, weight, before.ravel()), 1 / after.ravel())
    node.input[1] = _stored(graph, node.input[1], scaled)
    if len(node.input) > 2 and node.input[2]:
        _divide_constants(graph, node, (2,), after.ravel())


def scale_inputs(node: onnx.NodeProto, weight: Floats, factors: Floats) -> Floats:
    """Weights of a Conv, ConvTranspose, Gemm or MatMul with what each input channel meets multiplied by its factor.

    Args:
        weight: as the operator stores it.
        factors: (channels of the input,) or (1,).
    """
    if factors.size == 1:
        return weight * factors
    if node.op_type == "Conv":
        groups = attribute(node, "group", 1)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        return (grouped * factors.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
    axis = 1 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 0
    return weight * _on_axis(factors, axis, weight.ndim)


def scale_outputs(node: onnx.NodeProto, weight: Floats, factors: Floats) -> Floats:
    """Weights with what makes each output channel multiplied by its factor; `factors`: (channels,) or (1,)."""
    if factors.size == 1:
        return weight * factors
    if node.op_type == "ConvTranspose":
        groups = attribute(node, "group", 1)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        return (grouped * factors.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
    axis = 1 if node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0)) else 0
    return weight * _on_axis(factors, axis, weight.ndim)


def _on_axis(factors: Floats, axis: int, rank: int) -> Floats:
    return factors.reshape([-1 if index == axis else 1 for index in range(rank)])


def _divide_constants(graph: Graph, node: onnx.NodeProto, indices: Any, divisor: Floats) -> None:
    for index in indices:
        if node.input[index] in graph.constants:
            node.input[index] = _stored(graph, node.input[index], graph.constants[node.input[index]] / divisor)


def _stored(graph: Graph, stem: str, values: Floats) -> str:
    return graph.add_constant(f"{stem}/rescaled", values.astype(np.float32))

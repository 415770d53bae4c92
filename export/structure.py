"""What a network is made of, as far as quantisation cares: weighted operators, residual branches, heads, gates."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import onnx

from edgevision.export.graph import DECODE_PREFIX, Graph, attribute

WEIGHTED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
ACTIVATIONS = frozenset(("Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu"))
COMMUTING = frozenset(
    [
        "MaxPool",
        "Concat",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Slice",
        "Split",
        "Gather",
        "Identity",
        "DepthToSpace",
        "SpaceToDepth",
        "Expand",
        "Tile",
    ]
)
"""Operators that move values without computing: TensorRT moves Q and DQ through them."""
_PASSES = frozenset(("PRelu", "BatchNormalization", "Mul", "HardSwish", "Sigmoid", "Tanh", "Elu", "AveragePool"))
_FUSED = frozenset(("Relu", "LeakyRelu", "Clip"))
_GATES = frozenset(("Sigmoid", "HardSigmoid"))
_POOLS = frozenset(("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "AveragePool", "MaxPool", "ReduceMax"))


def key(node: onnx.NodeProto) -> str:
    """What identifies a node across copies of a graph: its first output (names may be missing or repeated)."""
    return next(str(name) for name in node.output if name)


@dataclass(frozen=True)
class Weight:
    """The constant weights of a weighted operator.

    Attributes:
        name: their tensor.
        channel_axis: the axis along which each output channel has its own scale; None: one scale for all.
    """

    name: str
    channel_axis: int | None


def weight_of(graph: Graph, node: onnx.NodeProto) -> Weight | None:
    """The weights of a Conv, ConvTranspose, Gemm or MatMul where they are constant and on the right; else None.

    A grouped ConvTranspose stores (in, out / groups, ...): the scales of axis 1 would be shared across groups,
    so it gets one scale for all.
    """
    if node.op_type not in WEIGHTED or node.input[1] not in graph.constants:
        return None
    rank = graph.constants[node.input[1]].ndim
    if node.op_type == "Conv":
        return Weight(node.input[1], 0)
    if node.op_type == "ConvTranspose":
        return Weight(node.input[1], 1 if attribute(node, "group", 1) == 1 else None)
    if rank != 2 or node.input[0] in graph.constants:
        return None
    transposed = node.op_type == "Gemm" and attribute(node, "transB", 0)
    return Weight(node.input[1], 0 if transposed else 1)


def activations(graph: Graph, node: onnx.NodeProto) -> list[int]:
    """Indices of the inputs that are computed from the picture."""
    return [index for index, name in enumerate(node.input) if name and name not in graph.constants]


def decode_nodes(graph: Graph) -> set[str]:
    """Keys of the nodes of the decode and of all that follow them: float32 everywhere."""
    found: set[str] = set()
    tensors: set[str] = set()
    for node in graph.nodes:
        if node.name.startswith(DECODE_PREFIX) or tensors.intersection(node.input):
            found.add(key(node))
            tensors.update(node.output)
    tensors.discard("")
    return found


def head_nodes(graph: Graph, decode: set[str]) -> set[str]:
    """Keys of the weighted operators from which an output or the decode is reached without passing another one."""
    heads: set[str] = set()
    seen: set[str] = set()
    waiting = list(graph.outputs)
    while waiting:
        node = graph.producer.get(waiting.pop())
        if node is None or key(node) in seen:
            continue
        seen.add(key(node))
        if weight_of(graph, node) is not None and key(node) not in decode:
            heads.add(key(node))
        else:
            waiting.extend(node.input)
    return heads


def gate_nodes(graph: Graph) -> set[str]:
    """Keys of the weighted operators inside squeeze-and-excitation gates: pool -> (weighted, activation)... ->
    Sigmoid -> Mul with the map."""
    found: set[str] = set()
    for product in graph.nodes:
        if product.op_type != "Mul":
            continue
        for name in product.input:
            gate = graph.producer.get(name)
            if gate is None or gate.op_type not in _GATES or not _is_vector(graph, name):
                continue
            chain: set[str] = set()
            node = graph.producer.get(gate.input[0])
            while node is not None and node.op_type not in _POOLS and _is_vector(graph, key(node)):
                if weight_of(graph, node) is not None:
                    chain.add(key(node))
                dynamic = activations(graph, node)
                node = graph.producer.get(node.input[dynamic[0]]) if dynamic else None
            if node is not None and node.op_type in _POOLS:
                found |= chain
    return found


def _is_vector(graph: Graph, name: str) -> bool:
    """Whether a tensor has one value per channel: (1, C, 1, 1) or (1, C)."""
    shape = graph.shape(name)
    return shape is not None and len(shape) >= 2 and math.prod(shape[2:]) == 1


def bounds(graph: Graph, node: onnx.NodeProto) -> tuple[float, float] | None:
    """Least and greatest output of a Relu or of a Clip with constant bounds; None for any other node."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type != "Clip":
        return None
    limits = [-math.inf, math.inf]
    for index, name in enumerate(node.input[1:3]):
        if name and name not in graph.constants:
            return None
        if name:
            limits[index] = float(graph.constants[name])
    return limits[0], limits[1]


def convolution_behind(graph: Graph, name: str) -> onnx.NodeProto | None:
    """The weighted operator whose output, at most normalised and activated, is tensor `name`; None if there is none."""
    node = graph.producer.get(name)
    while node is not None and weight_of(graph, node) is None:
        if node.op_type in ACTIVATIONS or node.op_type == "BatchNormalization":
            node = graph.producer.get(node.input[0])
        elif node.op_type == "Mul" and (inner := _gated_by_itself(graph, node)) is not None:
            node = graph.producer.get(inner)
        else:
            return None
    return node


def _gated_by_itself(graph: Graph, node: onnx.NodeProto) -> str | None:
    """x of x * sigmoid(x) (SiLU) or x * hard_sigmoid(x) (HardSwish)."""
    for value, gate in (tuple(node.input), tuple(reversed(node.input))):
        producer = graph.producer.get(gate)
        if producer is not None and producer.op_type in _GATES and producer.input[0] == value:
            return str(value)
    return None


def written_in_a_pass(graph: Graph, name: str) -> bool:
    """Whether TensorRT writes a tensor in a pass over its values whatever its grid is: the network's input, and what
    it does not fuse into a convolution right before (ReLU, LeakyReLU, clips and residual sums it does), moved or not.
    A MaxPool is made of what is on a grid already.
    """
    node = graph.producer.get(name)
    if node is None:
        return name in graph.inputs
    if node.op_type in COMMUTING - {"MaxPool"} or node.op_type in _FUSED:
        return any(written_in_a_pass(graph, node.input[index]) for index in activations(graph, node))
    if node.op_type == "Add":
        makers = [graph.producer.get(source) for source in node.input]
        return not any(maker is not None and maker.op_type in WEIGHTED for maker in makers)
    return node.op_type in _PASSES


def residual_input(graph: Graph, node: onnx.NodeProto) -> int | None:
    """Which input of an Add is the identity branch, the one that does not come straight from a convolution.

    Where both do (a projected shortcut, or linear bottlenecks in a row), the convolution's branch is the longer way
    to where they part, and the other one is the identity. None: no input comes from a convolution, or an input is
    constant.
    """
    if node.op_type != "Add" or len(activations(graph, node)) != 2 or node.input[0] == node.input[1]:
        return None
    straight = [convolution_behind(graph, name) is not None for name in node.input]
    if straight[0] != straight[1]:
        return straight.index(False)
    if not straight[0]:
        return None
    first, second = (_distances(graph, name) for name in node.input)
    shared = first.keys() & second.keys()
    if not shared:
        return 1
    fork = min(shared, key=lambda name: (first[name] + second[name], name))
    return 0 if first[fork] < second[fork] else 1


def _distances(graph: Graph, name: str) -> dict[str, int]:
    """Every tensor that `name` is computed from -> operators in between, by the shortest way."""
    found = {name: 0}
    waiting = deque([name])
    while waiting:
        current = waiting.popleft()
        node = graph.producer.get(current)
        for source in node.input if node is not None else ():
            if source and source not in graph.constants and source not in found:
                found[source] = found[current] + 1
                waiting.append(source)
    return found


def multiply_adds(graph: Graph, node: onnx.NodeProto) -> int:
    """Multiply-adds of a weighted operator; 0 where a shape is unknown."""
    weight = weight_of(graph, node)
    source = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
    shape = graph.shape(source)
    if weight is None or shape is None:
        return 0
    size = graph.constants[weight.name].size
    if node.op_type in ("Conv", "ConvTranspose"):
        return int(size * np.prod(shape[2:], dtype=np.int64) * shape[0])
    return int(size * math.prod(shape[:-1]))


def network_costs(graph: Graph) -> dict[str, int]:
    """Multiply-adds of every weighted operator before the decode, by `key`."""
    decode = decode_nodes(graph)
    return {key(n): multiply_adds(graph, n) for n in graph.nodes if n.op_type in WEIGHTED and key(n) not in decode}

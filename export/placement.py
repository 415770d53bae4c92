"""Where the INT8 goes: a decision and its reason, in words, for every node and both targets.

TensorRT's rules are NVIDIA's recommendations for explicit quantisation: all inputs of weighted operators, not their
outputs, the identity branch of a residual Add; commuting operators (pooling, joins, reshapes) take the grid of the
convolution behind them, because TensorRT moves Q and DQ through them itself. The decode stays float, and so do head
outputs, unless somebody is to measure what they cost.
The shape limits are those that nvidia-modelopt states for INT8 convolution kernels. ONNX Runtime's rules are in
`placement_cpu`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx

from edgevision.export.graph import SCALE_PREFIX, Graph, attribute
from edgevision.export.placement_cpu import CpuSite, plan_cpu
from edgevision.export.structure import (
    COMMUTING,
    WEIGHTED,
    activations,
    decode_nodes,
    gate_nodes,
    head_nodes,
    key,
    residual_input,
    weight_of,
    written_in_a_pass,
)

# The fewest channels (inputs and outputs of a matrix product) for which an INT8 kernel pays.
_FEWEST_CHANNELS = 16
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Decision:
    """What a node computes in.

    Attributes:
        node: its name, or its first output where it has none.
        operator: its type.
        int8: whether its inputs are quantised.
        reason: why, in words.
    """

    node: str
    operator: str
    int8: bool
    reason: str


@dataclass(frozen=True)
class Plan:
    """Placement for both targets; nodes are identified by `structure.key`.

    Attributes:
        tensorrt: node -> decision for TensorRT's graph.
        tensorrt_inputs: node -> indices of its activation inputs that get Q/DQ there.
        centred: tensors whose grid there may lie around another value than zero; only convolutions read them in INT8.
        cpu: node -> decision for ONNX Runtime's graph.
        cpu_sites: node -> what of it is quantised there, in graph order.
        observed: tensors whose ranges either emitter needs.
    """

    tensorrt: dict[str, Decision]
    tensorrt_inputs: dict[str, tuple[int, ...]]
    centred: frozenset[str]
    cpu: dict[str, Decision]
    cpu_sites: dict[str, CpuSite]
    observed: tuple[str, ...]


def plan_placement(
    graph: Graph,
    *,
    tensorrt_graph: Graph | None = None,
    residuals: bool = True,
    heads: bool = False,
    centre: bool = True,
    keep_float: Mapping[str, str] = _NOTHING,
) -> Plan:
    """Decide for every node of a float graph in normal form, its constants folded.

    Args:
        graph: left unchanged.
        tensorrt_graph: the same network with the multiplications that TensorRT's graph has in front of quantised
            layers (repair.input_scaling); None: it has none.
        residuals: quantise the identity branch of residual Adds for TensorRT, so that the Add fuses into the
            convolution before it with an INT8 result.
        heads: quantise the layers whose result is decoded, too, for TensorRT.
        centre: let grids lie around the middle of their range where that costs nothing, for TensorRT.
        keep_float: nodes that TensorRT's graph must not quantise, by `structure.key`, with the reason to state.

    Raises:
        onnx.shape_inference.InferenceError: the graph contradicts itself.
    """
    graph = _inferred(graph)
    tensorrt_graph = graph if tensorrt_graph is None else _inferred(tensorrt_graph)
    tensorrt, inputs = _plan_tensorrt(tensorrt_graph, residuals, heads, keep_float)
    decode = decode_nodes(graph)
    sites, reasons = plan_cpu(graph, decode, head_nodes(graph, decode), gate_nodes(graph))
    cpu = {
        key(node): Decision(node.name or key(node), node.op_type, key(node) in sites, reasons[key(node)])
        for node in graph.nodes
    }
    observed = _observed(graph, tensorrt_graph, inputs, sites)
    centred = _centred(tensorrt_graph, inputs) if centre else frozenset[str]()
    return Plan(tensorrt, inputs, centred, cpu, sites, observed)


def _inferred(graph: Graph) -> Graph:
    graph = graph.copy()
    graph.complete_shapes()
    return graph


def _plan_tensorrt(
    graph: Graph, residuals: bool, quantise_heads: bool, keep_float: Mapping[str, str]
) -> tuple[dict[str, Decision], dict[str, tuple[int, ...]]]:
    """Decisions and quantised inputs."""
    decode = decode_nodes(graph)
    heads = set() if quantise_heads else head_nodes(graph, decode)
    gates = gate_nodes(graph)
    first = _first_layers(graph)
    decisions: dict[str, Decision] = {}
    inputs: dict[str, tuple[int, ...]] = {}

    def decide(node: onnx.NodeProto, quantised: Iterable[int], reason: str) -> None:
        indices = tuple(quantised)
        decisions[key(node)] = Decision(node.name or key(node), node.op_type, bool(indices), reason)
        if indices:
            inputs[key(node)] = indices

    for node in graph.nodes:
        if key(node) in decode:
            decide(node, (), "decode: float32")
        elif key(node) in keep_float:
            decide(node, (), keep_float[key(node)])
        elif node.op_type in WEIGHTED:
            obstacle = _obstacle(graph, node, heads, gates, first)
            if obstacle:
                decide(node, (), obstacle)
            else:
                decide(node, (0,), "weighted, per-channel weights")
    for node in graph.nodes:
        if key(node) not in decisions:
            decide(node, *_unweighted(graph, node, inputs, residuals))
    return {key(node): decisions[key(node)] for node in graph.nodes}, inputs


def _obstacle(graph: Graph, node: onnx.NodeProto, heads: set[str], gates: set[str], first: set[str]) -> str:
    """Why a weighted operator cannot or should not run in INT8 on TensorRT; empty when nothing speaks against it."""
    weight = weight_of(graph, node)
    if weight is None:
        return "weights are not a constant on the right-hand side"
    if key(node) in heads:
        return "head output: its result is decoded without another layer to average its error"
    if key(node) in gates:
        return "squeeze-and-excitation gate on a 1x1 map: no time to save, whole channels to lose"
    if node.op_type == "ConvTranspose":
        return "transposed convolution: TensorRT's builder dequantises it and runs FP16 whatever the graph says"
    shape = graph.constants[weight.name].shape
    if node.op_type in ("Gemm", "MatMul"):
        return _small_product(graph, node, shape)
    if len(shape) != 4:
        return f"{len(shape) - 2}-D convolution: INT8 kernels are two-dimensional"
    return _small_convolution(node, shape, key(node) in first)


def _small_product(graph: Graph, node: onnx.NodeProto, shape: tuple[int, ...]) -> str:
    if min(shape) < _FEWEST_CHANNELS:
        return f"{shape[0]}x{shape[1]} matrix: too small for an INT8 kernel to pay"
    left = graph.shape(node.input[0])
    rows = None if left is None else left[-1 if node.op_type == "Gemm" and attribute(node, "transA", 0) else -2]
    if rows is None or rows == 1:
        return "matrix times vector: limited by reading the weights, INT8 kernels need several rows"
    return ""


def _small_convolution(node: onnx.NodeProto, shape: tuple[int, ...], first: bool) -> str:
    outputs, inputs, *kernel = shape
    groups = attribute(node, "group", 1)
    if min(outputs, inputs) >= _FEWEST_CHANNELS:
        return ""
    if groups > 1 and outputs % 8 == 0 and min(kernel) >= 3:
        return ""
    aligned = outputs % 8 == 0 or inputs % 8 == 0
    if groups == 1 and aligned and (first or outputs >= _FEWEST_CHANNELS * inputs) and kernel[0] == kernel[1]:
        return ""
    return f"{inputs} to {outputs} channels in {groups} group(s): too few for an INT8 kernel to pay"


def _unweighted(
    graph: Graph, node: onnx.NodeProto, quantised: dict[str, tuple[int, ...]], residuals: bool
) -> tuple[tuple[int, ...], str]:
    """Quantised inputs of an operator without weights, and why."""
    if node.name.startswith(SCALE_PREFIX):
        return (), "a factor per channel that the weights behind it undo: float16, joined with the activation before it"
    identity = residual_input(graph, node)
    if identity is not None:
        branch = node.input[1 - identity]
        if not residuals:
            return (), "residual Add: kept float on request"
        maker = graph.producer.get(branch)
        if maker is None or maker.op_type not in WEIGHTED or len(graph.consumers[branch]) > 1:
            return (), "residual Add: no convolution right before it to fuse with"
        if key(maker) not in quantised:
            return (), "residual Add: the convolution before it is float"
        return (identity,), "residual Add: identity branch quantised, the sum fuses into the convolution"
    if node.op_type in COMMUTING or (node.op_type == "Resize" and attribute(node, "mode", b"nearest") == b"nearest"):
        return (), "moves values without computing: takes the grid of the layer behind it"
    return (), "no weights: float16"


def _centred(graph: Graph, inputs: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """Quantised tensors that TensorRT writes in a pass over their values, which can take a constant off (and pad) as
    well, where every layer on the grid is a convolution: the constant is the same for all outputs, so that biases undo
    it."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        for index in inputs.get(key(node), ()):
            readers.setdefault(node.input[index], []).append(node)
    return frozenset(
        name for name, nodes in readers.items() if all(map(_shifts, nodes)) and written_in_a_pass(graph, name)
    )


def _shifts(node: onnx.NodeProto) -> bool:
    """Whether it is a convolution that says how many zeros it pads with."""
    return node.op_type == "Conv" and attribute(node, "auto_pad", b"NOTSET") not in (b"SAME_UPPER", b"SAME_LOWER")


def _first_layers(graph: Graph) -> set[str]:
    """Keys of the weighted operators that no other one comes before."""
    behind: set[str] = set()
    found = set()
    for node in graph.nodes:
        if behind.intersection(node.input):
            behind.update(node.output)
        elif node.op_type in WEIGHTED:
            found.add(key(node))
            behind.update(node.output)
    return found


def _observed(
    graph: Graph, tensorrt_graph: Graph, inputs: dict[str, tuple[int, ...]], sites: dict[str, CpuSite]
) -> tuple[str, ...]:
    """Tensors that need a range, in graph order."""
    needed = {node.input[i] for node in tensorrt_graph.nodes for i in inputs.get(key(node), ())}
    followers = {site.tensor for site in sites.values() if site.grid_of is not None}
    for node in graph.nodes:
        if (site := sites.get(key(node))) is not None:
            names = (*(node.input[index] for index in activations(graph, node)), site.tensor)
            needed.update(name for name in names if name not in followers)
    order = dict.fromkeys(name for node in tensorrt_graph.nodes for name in (*node.input, *node.output))
    return tuple(name for name in order if name in needed)

"""Where the INT8 goes for ONNX Runtime's CPU provider: uint8 tensors between operators that it can fuse.

A fused operator needs dequantised inputs and a Q right on its output, so tensors are what gets quantised here: each
one once, on one grid that all its readers share. The lists of operators were established by counting fused nodes in
the graphs that ONNX Runtime 1.32 saves after optimisation; one that does not fuse is slower, never wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from edgevision.export.graph import Graph, attribute
from edgevision.export.structure import WEIGHTED, activations, bounds, key, weight_of

_OWN_GRID = frozenset(["Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu"])
_SAME_GRID = frozenset(
    [
        "MaxPool",
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Slice",
        "DepthToSpace",
        "Identity",
        "Gather",
    ]
)
_SHRINKING = frozenset(("AveragePool", "GlobalAveragePool"))
_ABSORBING = frozenset(("Conv", "Gemm", "MatMul", "Add", "Mul"))


@dataclass(frozen=True)
class CpuSite:
    """A quantised operator.

    Attributes:
        tensor: the tensor that gets a uint8 grid: the operator's output, or that of the activation it absorbs.
        absorbed: key of the Relu or Clip that the grid's own limits replace; None: none.
        grid_of: the tensor whose grid this one shares, for operators that only move values; None: its own.
        is_head: the decode reads it: its largest values are the detections, so the grid holds all of its range.
    """

    tensor: str
    absorbed: str | None = None
    grid_of: str | None = None
    is_head: bool = False


def plan_cpu(
    graph: Graph, decode: set[str], heads: set[str], gates: set[str]
) -> tuple[dict[str, CpuSite], dict[str, str]]:
    """Sites in graph order, and a reason for every node. `graph` has its shapes inferred."""
    candidates: dict[str, CpuSite] = {}
    reasons: dict[str, str] = {}
    grids: set[str] = set()
    for node in graph.nodes:
        name = key(node)
        if name in reasons:  # absorbed
            continue
        obstacle = "decode: float32" if name in decode else _obstacle(graph, node, gates, grids)
        if obstacle:
            reasons[name] = obstacle
            continue
        site = _site(graph, node, decode, heads)
        candidates[name] = site
        grids.add(site.tensor)
        reasons[name] = "fused" if site.grid_of is None else "moves uint8 values"
        if site.absorbed is not None:
            reasons[site.absorbed] = "absorbed: the uint8 range saturates where it would clip"
    sites = _with_readers(graph, candidates, reasons)
    return sites, reasons


def _obstacle(graph: Graph, node: onnx.NodeProto, gates: set[str], grids: set[str]) -> str:
    """Why a node runs in float; empty when nothing speaks against uint8."""
    dynamic = [node.input[index] for index in activations(graph, node)]
    if node.op_type in WEIGHTED:
        weight = weight_of(graph, node)
        if weight is None:
            return "weights are not a constant on the right-hand side"
        if node.op_type == "ConvTranspose":
            return "ONNX Runtime has no integer transposed convolution"
        if node.op_type == "Conv" and graph.constants[weight.name].ndim != 4:
            return "only two-dimensional convolutions are fused"
        if len(dynamic) != 1:
            return "its bias is not constant"
        if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)) != (1.0, 1.0):
            return "scaled matrix product: not fused"
        return "squeeze-and-excitation gate: no time to save" if key(node) in gates else ""
    nearest = node.op_type == "Resize" and attribute(node, "mode", b"nearest") == b"nearest"
    if node.op_type not in _OWN_GRID | _SAME_GRID and not nearest:
        return f"ONNX Runtime has no uint8 {node.op_type}"
    if not grids.intersection(dynamic):
        return "between float operators"
    if node.op_type in ("Add", "Mul") and len(dynamic) != len(node.input):
        return "one operand is constant"
    if len([name for name in node.output if name]) != 1:
        return "more than one output"
    return ""


def _site(graph: Graph, node: onnx.NodeProto, decode: set[str], heads: set[str]) -> CpuSite:
    tensor = key(node)
    if tensor in heads:
        return CpuSite(tensor, is_head=True)
    if node.op_type in _ABSORBING:
        readers = graph.consumers[tensor]
        limits = bounds(graph, readers[0]) if len(readers) == 1 and tensor not in graph.outputs else None
        if limits is not None and limits[0] <= 0.0 < limits[1] and key(readers[0]) not in decode:
            return CpuSite(key(readers[0]), absorbed=key(readers[0]))
    return CpuSite(tensor, grid_of=None if node.op_type in _OWN_GRID | WEIGHTED else node.input[0])


def _with_readers(graph: Graph, candidates: dict[str, CpuSite], reasons: dict[str, str]) -> dict[str, CpuSite]:
    """Drop operators without weights whose result only float operators read: converting later costs less."""
    kept: dict[str, CpuSite] = {}
    operators = {key(node): node.op_type for node in graph.nodes}
    for name, site in reversed(candidates.items()):
        read = any(key(reader) in kept for reader in graph.consumers[site.tensor])
        if read or operators[name] in WEIGHTED | _SHRINKING:
            kept[name] = site
        else:
            reasons[name] = "read by float operators only"
            if site.absorbed is not None:
                reasons[site.absorbed] = "read by float operators only"
    return dict(reversed(kept.items()))

"""The graphs of a bundle: one float model, emitted for each backend at the wanted precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx

from edgevision.export.emit_cpu import emit_cpu
from edgevision.export.emit_tensorrt import emit_tensorrt, write_qdq
from edgevision.export.graph import DECODE_PREFIX, Graph
from edgevision.export.half import to_half
from edgevision.export.pixels import find_pixels
from edgevision.export.placement import Decision
from edgevision.export.quantisation import Quantised
from edgevision.export.structure import WEIGHTED
from edgevision.manifest import GraphInfo, Preprocess


@dataclass
class Emitted:
    """Graphs by bundle file name.

    Attributes:
        graphs: serialised.
        singles: those of them that take any number of pictures, as they were for one.
        infos: their precision and layer counts.
        facts: placement by reason, for the report.
    """

    graphs: dict[str, bytes] = field(default_factory=dict)
    singles: dict[str, bytes] = field(default_factory=dict)
    infos: dict[str, GraphInfo] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, graph: Graph, precision: str, preprocess: Preprocess | None = None) -> None:
        """Keep `graph` under a bundle file name; `preprocess`: of an input that differs from the others'."""
        self.graphs[name] = graph.serialize()
        self.infos[name] = GraphInfo(precision, *count_layers(graph), preprocess=preprocess)


def emit(
    graph: Graph,
    precision: str,
    quantised: Quantised | None = None,
    preprocess: Preprocess | None = None,
    islands: Mapping[str, str] | None = None,
) -> Emitted:
    """Emit every graph that a bundle of this precision holds.

    Args:
        graph: float, in normal form; left unchanged.
        precision: the bundle's.
        quantised: needed for int8.
        preprocess: how a picture becomes the input; None: no graph may replace it by pixels.
        islands: nodes whose numbers leave float16's range, with the reason: see half_ranges.
    """
    emitted = Emitted()
    emitted.add("model.onnx", graph, "fp32")
    if precision == "fp16":
        emitted.add("tensorrt.onnx", to_half(graph, islands), "fp16")
    if precision == "int8":
        assert quantised is not None
        plan, ranges, method = quantised.plan, quantised.ranges, quantised.method
        emitted.add("tensorrt.onnx", emit_int8(quantised, islands), "int8")
        emitted.add("tensorrt_fp16.onnx", to_half(graph, islands), "fp16")
        found = "as given" if preprocess is None else find_pixels(quantised.graph, plan.cpu_sites, preprocess)
        pixels, reason = (None, found) if isinstance(found, str) else (found, "uint8 pixels")
        cpu_graph = emit_cpu(quantised.graph, plan, ranges, method, pixels)
        emitted.add("cpu.onnx", cpu_graph, "int8", None if pixels is None else pixels.preprocess)
        emitted.facts = {
            "tensorrt": _by_reason(plan.tensorrt),
            "cpu": _by_reason(plan.cpu),
            "cpu_input": reason,
        }
    return emitted


def emit_int8(quantised: Quantised, islands: Mapping[str, str] | None, *, typed: bool = True) -> Graph:
    """TensorRT's INT8 graph; without `typed` with float32 between the grids."""
    source = quantised.tensorrt_graph, quantised.plan, quantised.tensorrt_ranges, quantised.method
    corrections, clip = quantised.corrections, quantised.clip_weights
    if not typed:
        return write_qdq(*source, corrections=corrections, clip_weights=clip)
    return emit_tensorrt(*source, islands, corrections=corrections, clip_weights=clip)


def count_layers(graph: Graph) -> tuple[int, int]:
    """Convolutions and matrix products with INT8 inputs, and those without; the decode's are left out."""
    counts = [0, 0]
    for node in graph.nodes:
        if node.op_type in WEIGHTED and not node.name.startswith(DECODE_PREFIX):
            counts[0 if all(_dequantised(graph, name) for name in node.input[:2]) else 1] += 1
    return counts[0], counts[1]


def _dequantised(graph: Graph, name: str) -> bool:
    node: onnx.NodeProto | None = graph.producer.get(name)
    while node is not None and node.op_type in ("Transpose", "Reshape", "Cast"):
        node = graph.producer.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"


def _by_reason(decisions: Mapping[str, Decision]) -> list[dict[str, Any]]:
    """Nodes grouped by decision and reason, for weighted operators with their names."""
    groups: dict[tuple[bool, str, str], list[str]] = {}
    for decision in decisions.values():
        groups.setdefault((decision.int8, decision.operator, decision.reason), []).append(decision.node)
    return [
        {"operator": operator, "int8": int8, "reason": reason, "nodes": nodes}
        for (int8, operator, reason), nodes in groups.items()
    ]

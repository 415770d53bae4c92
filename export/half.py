"""Typed FP16: every float tensor becomes float16 except where float32 is needed, with casts at the borders.

Strongly typed TensorRT takes precision from the graph, so the graph says it. float32 stays: the decode and all after
it (pixel coordinates beyond 512 have no sub-pixel FP16 values), the graph's inputs and outputs, operators that ONNX
does not define for float16, constants that float16 cannot hold (nothing is clamped), the scales of a Resize, and what
half_ranges measured to leave float16's range.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgevision.errors import ModelError
from edgevision.export.graph import Graph
from edgevision.export.grids import FP16_MAX
from edgevision.export.structure import WEIGHTED, decode_nodes, key

SINGLE = int(TensorProto.FLOAT)
HALF = int(TensorProto.FLOAT16)
_LEAST_NORMAL = 2.0**-14
_LINEAR = WEIGHTED | {"Add", "Sub", "Mul", "PRelu", "BatchNormalization"}


def float32_nodes(graph: Graph, islands: Mapping[str, str] | None = None) -> dict[str, str]:
    """Nodes that stay float32 in `to_half(graph, islands)`, by `structure.key`, with the reason.

    Raises:
        ModelError: the graph has control flow.
    """
    decode = decode_nodes(graph)
    reasons = {}
    for node in graph.nodes:
        if any(entry.g.node or entry.graphs for entry in node.attribute):
            raise ModelError(
                f"node {node.name or key(node)!r} ({node.op_type}) has a branch or loop inside, "
                "which cannot be converted to FP16; export the model without control flow"
            )
        reason = "decode" if key(node) in decode else _obstacle(graph, node) or (islands or {}).get(key(node), "")
        if reason:
            reasons[key(node)] = reason
    return reasons


def _obstacle(graph: Graph, node: onnx.NodeProto) -> str:
    """Why a node cannot compute in float16; empty when it can."""
    schema = _schema(graph, node)
    if schema is None:
        return f"operator {node.domain}.{node.op_type} is not known"
    for index, name in enumerate(node.input):
        kind = _declared(schema, index)
        if graph.dtype(name) == SINGLE and kind is not None and "tensor(float16)" not in kind:
            return f"{node.op_type} is not defined for float16"
    outputs = [name for name in node.output if graph.dtype(name) == SINGLE]
    if outputs and "tensor(float16)" not in _result(schema):
        return f"{node.op_type} has no float16 result"
    for index, name in enumerate(node.input):
        if graph.dtype(name) == SINGLE and name in graph.constants and not _stays(node, index):
            lost = _lost(graph.constants[name], node.op_type in _LINEAR)
            if lost:
                return f"constant {name!r} {lost} in float16"
    return ""


def _schema(graph: Graph, node: onnx.NodeProto) -> onnx.defs.OpSchema | None:
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
        return None
    return onnx.defs.get_schema(node.op_type, graph.opset)


def _declared(schema: onnx.defs.OpSchema, index: int) -> frozenset[str] | None:
    """Types that an operator's input may have; None where it is float32 by definition and so needs no conversion."""
    declared = schema.inputs[min(index, len(schema.inputs) - 1)]
    return None if declared.type_str == "tensor(float)" else frozenset(declared.types)


def _result(schema: onnx.defs.OpSchema) -> set[str]:
    return set().union(*(output.types for output in schema.outputs))


def _stays(node: onnx.NodeProto, index: int) -> bool:
    """Whether an input is float32 whatever the node computes in."""
    return node.op_type == "Resize" and index in (1, 2)


def _lost(values: np.ndarray, linear: bool) -> str:
    """What float16 would do to a constant, where that matters.

    In an operator linear in it, single values that vanish beside larger ones change nothing; elsewhere they may be
    divisors.
    """
    finite = np.abs(values[np.isfinite(values)])
    if not finite.any():
        return ""
    if finite.max() > FP16_MAX:
        return "overflows"
    vanished = finite.max() < _LEAST_NORMAL if linear else ((finite > 0) & (finite.astype(np.float16) == 0)).any()
    return "vanishes" if vanished else ""


def vanishing(graph: Graph, islands: Mapping[str, str] | None = None) -> dict[str, int]:
    """How many numbers of each constant are not 0 and become 0 in `to_half(graph, islands)`: beside much larger ones,
    or their node would stay float32. Constants without such numbers are left out."""
    kept = float32_nodes(graph, islands)
    found: dict[str, int] = {}
    for node in graph.nodes:
        for index, name in enumerate(node.input):
            values = graph.constants.get(name)
            if key(node) not in kept and values is not None and values.dtype == np.float32 and not _stays(node, index):
                found[name] = int(((values != 0) & (values.astype(np.float16) == 0)).sum())
    return {name: count for name, count in found.items() if count}


def to_half(graph: Graph, islands: Mapping[str, str] | None = None) -> Graph:
    """A float16 copy of a float graph, or of one with Q/DQ: scales and everything between the pairs become float16.

    A QuantizeLinear takes its input as it comes; a DequantizeLinear yields what its readers compute in.

    Args:
        graph: opset 19 or later, left unchanged.
        islands: further nodes that stay float32, by `structure.key`, with the reason: see half_ranges.

    Raises:
        ModelError: the graph has control flow.
    """
    source = graph.copy()
    source.complete_shapes()
    return _Conversion(source, islands or {}).run()


class _Conversion:
    def __init__(self, graph: Graph, islands: Mapping[str, str]) -> None:
        self.graph = graph
        self.float32 = float32_nodes(graph, islands)
        named = {name: graph.dtype(name) for name in (*graph.inputs, *graph.producer)}
        self.kinds: dict[str, int] = {name: kind for name, kind in named.items() if kind in (SINGLE, HALF)}
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[tuple[str, int], str] = {}
        dequantizers = [node for node in graph.nodes if node.op_type == "DequantizeLinear"]
        self.scales = {node.output[0]: str(node.input[1]) for node in dequantizers}
        self.dequantized = {node.output[0]: node for node in dequantizers}

    def run(self) -> Graph:
        graph = self.graph
        declared = {output.name: output.type.tensor_type.elem_type for output in graph.proto.output}
        for node in list(graph.nodes):
            if node.op_type == "Constant" and node.output[0] in graph.constants:
                continue  # read through graph.constants, like initialisers
            self._convert(node)
        for name, kind in declared.items():
            if name in graph.producer and self.kinds.get(name) == HALF and kind == SINGLE:
                self._restore_output(name)
        self._store_constants()
        graph.replace_nodes(self.nodes)
        graph.infer_shapes()
        return graph

    def _convert(self, node: onnx.NodeProto) -> None:
        kind = self._kind(node)
        schema = _schema(self.graph, node)
        for index, name in enumerate(node.input):
            if self._is_float(name):
                fixed = schema is not None and _declared(schema, index) is None
                node.input[index] = self._as(name, SINGLE if fixed or _stays(node, index) else kind)
        for name in node.output:
            if self.graph.dtype(name) == SINGLE:
                self.kinds[name] = kind
        if node.op_type == "Cast" and self.graph.dtype(node.output[0]) == SINGLE:
            node.attribute[0].i = kind
        for entry in node.attribute:
            if node.op_type == "ConstantOfShape" and entry.t.data_type == SINGLE:
                entry.t.CopyFrom(_tensor(numpy_helper.to_array(entry.t), entry.t.name, kind))
        self.nodes.append(node)

    def _kind(self, node: onnx.NodeProto) -> int:
        if node.op_type == "QuantizeLinear":
            return self.kinds.get(node.input[0], SINGLE)
        if node.op_type == "DequantizeLinear":
            readers = self.graph.consumers[node.output[0]]
            half = any(key(reader) not in self.float32 for reader in readers)
            return HALF if half else SINGLE
        return SINGLE if key(node) in self.float32 else HALF

    def _is_float(self, name: str) -> bool:
        return name in self.kinds or self.graph.dtype(name) == SINGLE

    def _as(self, name: str, kind: int) -> str:
        """Tensor `name` in type `kind`: itself, a converted constant, or the result of a shared Cast."""
        if name in self.graph.constants:
            self.made.setdefault((name, kind), name if kind == SINGLE else self._fresh(f"{name}_fp16"))
        elif self.kinds[name] == kind:
            return name
        elif (name, kind) not in self.made and name in self.dequantized:
            # TensorRT takes a DQ right in front of a layer for INT8, not one behind a Cast.
            twin = onnx.NodeProto.FromString(self.dequantized[name].SerializeToString())
            twin.name = twin.output[0] = self._fresh(f"{name}_{'fp16' if kind == HALF else 'fp32'}")
            twin.input[1] = self._as(self.scales[name], kind)
            self.nodes.append(twin)
            self.made[name, kind] = twin.output[0]
        elif (name, kind) not in self.made:
            cast = self._fresh(f"{name}_{'fp16' if kind == HALF else 'fp32'}")
            self.nodes.append(helper.make_node("Cast", [name], [cast], name=f"{cast}/cast", to=kind))
            self.made[name, kind] = cast
        return self.made[name, kind]

    def _fresh(self, stem: str) -> str:
        name = self.graph.fresh(stem)
        self.graph.producer[name] = onnx.NodeProto()
        return name

    def _restore_output(self, name: str) -> None:
        """Give output `name` its float32 back through a Cast; inside, the tensor gets another name."""
        inner = self._fresh(f"{name}_inner")
        for node in self.nodes:
            node.input[:] = [inner if item == name else item for item in node.input]
            node.output[:] = [inner if item == name else item for item in node.output]
        self.nodes.append(helper.make_node("Cast", [inner], [name], name=f"{name}/cast", to=SINGLE))

    def _store_constants(self) -> None:
        graph = self.graph
        converted = {name: entry for (name, _), entry in self.made.items() if name in graph.constants}
        kept = [t for t in graph.proto.initializer if t.name not in converted]
        del graph.proto.initializer[:]
        graph.proto.initializer.extend(kept)
        used = {name for node in self.nodes for name in node.input}
        for (name, kind), entry in self.made.items():
            if name in graph.constants:
                graph.proto.initializer.append(_tensor(graph.constants[name], entry, kind))
        held = {tensor.name for tensor in graph.proto.initializer}
        for node in list(graph.nodes):  # integer constants from Constant nodes
            name = node.output[0]
            if node.op_type == "Constant" and name in used - held:
                graph.proto.initializer.append(numpy_helper.from_array(graph.constants[name], name))


def _tensor(values: np.ndarray, name: str, kind: int) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float16 if kind == HALF else np.float32), name)

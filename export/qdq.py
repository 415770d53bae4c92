"""Writes QuantizeLinear and DequantizeLinear nodes into a graph that is rebuilt node by node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgevision.export.graph import Graph
from edgevision.export.grids import Floats


@dataclass(frozen=True)
class Grid:
    """Names of a grid's constants: scale (float32) and zero point (whose type is the quantised type)."""

    scale: str
    zero_point: str


class QdqWriter:
    """A graph under reconstruction: `nodes` grows in topological order, constants go straight into the graph.

    The constants of one name are stored once.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self._weights: dict[tuple[str, str], str] = {}

    def fresh(self, stem: str) -> str:
        """Reserve an unused tensor name."""
        name = self.graph.fresh(stem)
        self.graph.producer[name] = onnx.NodeProto()
        return name

    def grid(self, stem: str, scale: Floats | np.float32, zero_point: NDArray[Any] | np.generic) -> Grid:
        """Store a grid's constants."""
        return Grid(
            self.graph.add_constant(f"{stem}/scale", np.asarray(scale, np.float32)),
            self.graph.add_constant(f"{stem}/zero_point", np.asarray(zero_point)),
        )

    def quantize(self, tensor: str, grid: Grid, stem: str) -> str:
        """Append Q and return its output."""
        name = self.fresh(f"{stem}/quantized")
        node = helper.make_node(
            "QuantizeLinear", [tensor, grid.scale, grid.zero_point], [name], name=f"{stem}/QuantizeLinear"
        )
        self.nodes.append(node)
        return name

    def dequantize(self, tensor: str, grid: Grid, output: str, axis: int | None = None) -> str:
        """Append DQ writing `output` and return it. `axis`: of a per-channel scale."""
        axes = {} if axis is None else {"axis": axis}
        node = helper.make_node(
            "DequantizeLinear",
            [tensor, grid.scale, grid.zero_point],
            [output],
            name=f"{output}/DequantizeLinear",
            **axes,
        )
        self.nodes.append(node)
        return output

    def constant(self, stem: str, values: NDArray[Any], scales: Floats, axis: int | None) -> str:
        """Store integer `values` with their DQ and return the dequantised tensor; equal ones of one stem are shared."""
        known = (stem, f"{axis}:{hash((values.tobytes(), scales.tobytes()))}")
        if known not in self._weights:
            zeros = np.zeros(scales.shape, values.dtype)
            stored = self.graph.add_constant(f"{stem}/{values.dtype}", values)
            output = self.fresh(f"{stem}/dequantized")
            grid = self.grid(stem, scales, zeros)
            self._weights[known] = self.dequantize(stored, grid, output, axis if scales.ndim else None)
        return self._weights[known]

    def finish(self) -> Graph:
        """Put the new nodes into the graph, drop constants that nobody reads any more and name every node."""
        name_nodes(self.nodes)
        used = {name for node in self.nodes for name in node.input} | set(self.graph.outputs)
        kept = [tensor for tensor in self.graph.proto.initializer if tensor.name in used]
        initialisers = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del self.graph.proto.initializer[:]
        self.graph.proto.initializer.extend(initialisers)
        self.graph.replace_nodes(self.nodes)
        self.graph.infer_shapes()
        return self.graph


def name_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    """Give every node a name of its own, so that build logs and reports can point at it."""
    taken: set[str] = set()
    for node in nodes:
        stem = node.name or f"{node.op_type}_{node.output[0]}"
        number = 1
        node.name = stem
        while node.name in taken:
            node.name, number = f"{stem}_{number}", number + 1
        taken.add(node.name)

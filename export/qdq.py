"""Writes QuantizeLinear and DequantizeLinear nodes into a graph that is rebuilt node by node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgevision.export.graph import Graph, attribute
from edgevision.export.grids import Floats, Range, half_scales, symmetric_grid
from edgevision.export.structure import key


@dataclass(frozen=True)
class Grid:
    """Names of a grid's constants: scale (float32) and zero point (whose type is the quantised type)."""

    scale: str
    zero_point: str


class Activation(NamedTuple):
    """A tensor on an INT8 grid: its name, what was taken off all its values before, and whether the padding that its
    reader asks for is in it already."""

    tensor: str
    offset: np.float32
    padded: bool


class QdqWriter:
    """A graph under reconstruction: `nodes` grows in topological order, constants go straight into the graph.

    The constants of one name are stored once.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self._weights: dict[tuple[str, str], str] = {}
        self._activations: dict[tuple[str, tuple[int, ...]], Activation] = {}

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

    def activation(
        self, tensor: str, found: Range, method: str, *, centred: bool, pads: Sequence[int] = ()
    ) -> Activation:
        """Append Q and DQ of a tensor with range `found`, by TensorRT's rules: zero point 0. Once for readers alike.

        Args:
            centred: the grid may lie around the middle of the range; the values are then shifted.
            pads: the reader's padding with zeros, in ONNX's order. Zeros have to be shifted like all other values, so
                that a shifted tensor is padded before.
        """
        offset, limit = symmetric_grid(found, method, centred=centred)
        known = (tensor, tuple(pads) if offset and any(pads) else ())
        if known not in self._activations:
            self._activations[known] = self._on_grid(*known, offset, limit)
        return self._activations[known]

    def _on_grid(self, tensor: str, pads: tuple[int, ...], offset: np.float32, limit: float) -> Activation:
        source = tensor
        if pads:
            half = len(pads) // 2
            amounts = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
            source = self.fresh(f"{tensor}/padded")
            constant = self.graph.add_constant(f"{tensor}/pads", amounts)
            self.nodes.append(helper.make_node("Pad", [tensor, constant], [source], name=f"{tensor}/pad"))
        if offset:
            constant = self.graph.add_constant(f"{tensor}/centre", np.asarray(offset))
            shifted = self.fresh(f"{tensor}/centred")
            self.nodes.append(helper.make_node("Sub", [source, constant], [shifted], name=f"{tensor}/centre"))
            source = shifted
        grid = self.grid(tensor, half_scales(np.float64(limit)), np.int8(0))
        quantised = self.quantize(source, grid, tensor)
        output = self.dequantize(quantised, grid, self.fresh(f"{tensor}/dequantized"))
        return Activation(output, offset, bool(pads))

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
        del self.graph.proto.initializer[:]
        self.graph.proto.initializer.extend(kept)
        self.graph.replace_nodes(self.nodes)
        self.graph.infer_shapes()
        return self.graph


def read(node: onnx.NodeProto, index: int, activation: Activation) -> None:
    """Let input `index` of `node` be `activation`, which may have the node's padding in it already."""
    node.input[index] = activation.tensor
    if activation.padded:
        for given in node.attribute:
            if given.name == "pads":
                given.ints[:] = [0] * len(given.ints)


def shifted_bias(graph: Graph, node: onnx.NodeProto, shift: Floats) -> str:
    """Store the bias of a layer plus `shift`, (channels,), which is of its output; a Gemm's counts `beta` times."""
    bias = graph.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.float32(0)
    share = np.float32(attribute(node, "beta", 1.0) if node.op_type == "Gemm" else 1.0)
    return graph.add_constant(f"{key(node)}/shifted_bias", np.asarray(bias + shift / share, np.float32))


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

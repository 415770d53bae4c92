"""Rows of several maps: joined as uint8, dequantised once.

A head's last convolution ends on one grid per map, so its rows become floats map by map and are joined as floats. Here
the steps themselves are moved and joined. Where the joined rows meet a factor and a term per row, as offsets to priors
do, those take in the maps' grids, and no value changes. Elsewhere the maps get one grid that holds them all, unless
one of them would lose too much of its resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.export.graph import Graph, attribute
from edgevision.export.grids import affine_grid
from edgevision.export.simplification import remove_dead
from edgevision.export.structure import key

_MOVES = frozenset(("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"))
_RESHAPES = _MOVES - {"Transpose"}
_LEAST_SHARE = 0.6
"""Part of the common grid that every map's own must span: at most three quarters of a bit of resolution are lost."""
_LEAST_LOGIT = -9.0
"""A class as unlikely as this (1e-4) is as good as impossible: what is read by a Sigmoid needs no grid below."""


@dataclass(frozen=True)
class _Level:
    """What one map adds to a join.

    Attributes:
        quantize, dequantize: the nodes around the map's uint8 form, with a grid of `scale` and `zero_point`.
        moved: the first node that moves it from there.
    """

    quantize: onnx.NodeProto
    dequantize: onnx.NodeProto
    moved: onnx.NodeProto
    scale: float
    zero_point: int

    @property
    def ends(self) -> tuple[float, float]:
        """Of the grid."""
        return -self.zero_point * self.scale, (255 - self.zero_point) * self.scale


@dataclass(frozen=True)
class _Affine:
    """A factor and a term for every number behind a join, and what bounds the sum."""

    mul: onnx.NodeProto
    add: onnx.NodeProto
    min: onnx.NodeProto | None


def join_levels(graph: Graph) -> int:
    """Rewrite every Concat in a uint8 graph whose inputs are dequantised maps, moved into rows; returns how many.

    Shapes are inferred and the graph is indexed anew.
    """
    done = 0
    for name in [key(node) for node in graph.nodes if node.op_type == "Concat"]:
        join = graph.producer[name]
        levels = [level for level in (_level(graph, entry) for entry in join.input) if level is not None]
        if len(levels) == len(join.input) > 1:
            done += _join(graph, join, levels)
    if done:
        remove_dead(graph)
        graph.infer_shapes()
    return done


def _level(graph: Graph, tensor: str) -> _Level | None:
    moved = None
    while (node := _only_maker(graph, tensor)) is not None:
        if node.op_type == "DequantizeLinear":
            source = _only_maker(graph, node.input[0])
            scale, zero_point = (graph.constants[name] for name in node.input[1:])
            if moved is None or source is None or source.op_type != "QuantizeLinear" or scale.size != 1:
                return None
            return _Level(source, node, moved, float(scale), int(zero_point))
        if node.op_type not in _MOVES:
            return None
        moved, tensor = node, node.input[0]
    return None


def _only_maker(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    """What makes a tensor that is read once."""
    return graph.producer.get(tensor) if len(graph.consumers[tensor]) == 1 and tensor not in graph.outputs else None


def _only_reader(graph: Graph, node: onnx.NodeProto) -> onnx.NodeProto | None:
    readers = graph.consumers[key(node)]
    return readers[0] if len(readers) == 1 and key(node) not in graph.outputs else None


def _reader(graph: Graph, join: onnx.NodeProto) -> onnx.NodeProto | None:
    """What alone reads the joined rows, in whatever shape."""
    node = _only_reader(graph, join)
    while node is not None and node.op_type in _RESHAPES:
        node = _only_reader(graph, node)
    return node


def _join(graph: Graph, join: onnx.NodeProto, levels: list[_Level]) -> bool:
    affine = _affine(graph, join)
    if affine is not None:
        _take_in(graph, join, levels, affine)
        scale, zero_point = np.float32(1), np.uint8(0)
    else:
        common = _common_grid(graph, join, levels)
        if common is None:
            return False
        scale, zero_point = common
    output = key(join)
    grid = [graph.add_constant(f"{output}/scale", scale), graph.add_constant(f"{output}/zero_point", zero_point)]
    for level in levels:
        level.moved.input[0] = level.dequantize.input[0]
        if affine is None:
            level.quantize.input[1:] = grid
    join.output[0] = graph.fresh(f"{output}/quantized")
    nodes = list(graph.nodes)
    steps, place = join.output[0], nodes.index(join) + 1
    cut = _cut(graph, output)
    if cut is not None:
        probability, foreground = cut
        nodes.remove(foreground)
        foreground.input[0] = steps
        probability.output[0], foreground.output[0] = foreground.output[0], graph.fresh(f"{steps}/cut")
        nodes.insert(place, foreground)
        steps, place = foreground.output[0], place + 1
    nodes.insert(
        place,
        onnx.helper.make_node("DequantizeLinear", [steps, *grid], [output], name=f"{output}/DequantizeLinear"),
    )
    graph.replace_nodes(nodes)
    return True


def _cut(graph: Graph, rows: str) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The Sigmoid that alone reads `rows`, and the Slice behind it: as bytes, rows are cut in a quarter of the time."""
    readers = graph.consumers[rows]
    if [reader.op_type for reader in readers] != ["Sigmoid"] or rows in graph.outputs:
        return None
    reader, behind = readers[0], _only_reader(graph, readers[0])
    if behind is None or behind.op_type != "Slice":
        return None
    return (reader, behind) if all(name in graph.constants for name in behind.input[1:]) else None


def _affine(graph: Graph, join: onnx.NodeProto) -> _Affine | None:
    """The factor and the term that every number behind `join` meets first."""
    mul = _reader(graph, join)
    add = None if mul is None else _only_reader(graph, mul)
    if mul is None or add is None or (mul.op_type, add.op_type) != ("Mul", "Add"):
        return None
    shape = graph.shape(key(mul))
    if shape is None or any(_constant(graph, node).size != np.prod(shape) for node in (mul, add)):
        return None
    least = _only_reader(graph, add)
    bounded = least is not None and least.op_type == "Min" and _constant(graph, least).size == np.prod(shape)
    return _Affine(mul, add, least if bounded else None)


def _constant(graph: Graph, node: onnx.NodeProto) -> NDArray[Any]:
    """The constant second operand; nothing where it is computed."""
    return graph.constants.get(node.input[1], np.zeros(0))


def _take_in(graph: Graph, join: onnx.NodeProto, levels: list[_Level], affine: _Affine) -> None:
    """Let the factor and the term expect steps; what bounds their sum goes where no step reaches it."""
    steps, zeros = (
        np.concatenate(
            [np.full(graph.shape(name) or (), value) for name, value in zip(join.input, values, strict=True)],
            axis=attribute(join, "axis"),
        )
        for values in ([level.scale for level in levels], [float(level.zero_point) for level in levels])
    )
    factor, term = (_constant(graph, node).astype(np.float64) for node in (affine.mul, affine.add))
    factor = factor * steps.reshape(factor.shape)
    term = term - factor * zeros.reshape(factor.shape)
    for node, values in ((affine.mul, factor), (affine.add, term)):
        node.input[1] = graph.add_constant(f"{node.input[1]}/steps", values.astype(np.float32))
    if affine.min is not None:
        largest = term + np.maximum(0.0, 255 * factor)
        if (largest <= _constant(graph, affine.min).reshape(largest.shape)).all():
            for reader in graph.consumers[key(affine.min)]:
                reader.input[:] = [key(affine.add) if name == key(affine.min) else name for name in reader.input]


def _common_grid(graph: Graph, join: onnx.NodeProto, levels: list[_Level]) -> tuple[np.float32, np.uint8] | None:
    """Scale and zero point of a grid for all levels, unless it is too coarse for one of them."""
    reader = _reader(graph, join)
    floor = _LEAST_LOGIT if reader is not None and reader.op_type == "Sigmoid" else -np.inf
    ends = [(max(level.ends[0], floor), level.ends[1]) for level in levels]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if min(end[1] - end[0] for end in ends) < _LEAST_SHARE * (high - low):
        return None
    return affine_grid(low, high)

"""The decode of offsets to priors in the form that ONNX Runtime's CPU provider runs fastest.

All that depends on a prior is one product and one sum on whole rows: z = offsets * K + B holds a box's centre and the
logarithm of half its size. Its corners, centre - half and centre + half, are sums of z's and exp(z)'s columns: two
products with 4x4 matrices, each sum having one term that is not zero. The offsets' grid goes into K and B as well
(see joined_levels.py). Not for TensorRT, whose products may be in TF32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.export.graph import DECODE_PREFIX, Graph, attribute
from edgevision.export.simplification import remove_dead

_LARGEST_CENTRE = 80.0
"""In the unit that makes every prior's centre at most 1. exp() of it is finite, so the 0 that it meets in a matrix
leaves nothing of it."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Offsets:
    """What boxes were decoded from.

    Attributes:
        rows: the offsets, [1,N,4].
        columns: where x, y, w and h stand in a row.
        scale, centre: (N, 2): centre = offset * scale + centre.
        log_scale, half: scalar or (2,), (N, 2): half size = exp(min(offset * log_scale, largest)) * half.
        largest: see `half`.
    """

    rows: str
    columns: tuple[int, ...]
    scale: Floats
    centre: Floats
    log_scale: Floats
    half: Floats
    largest: float


def fuse_offsets(graph: Graph) -> int:
    """Rewrite every decode of offsets [1,N,4] to priors (see box_coding.append_offsets); returns how many.

    Values stay the same up to float32 rounding (centres up to 80 times as far from 0 as the farthest prior's).
    The graph is indexed anew.
    """
    nodes: list[onnx.NodeProto] = []
    done = 0
    for node in graph.nodes:
        found = _offsets(graph, node)
        if found is None:
            nodes.append(node)
        else:
            nodes += _fused(graph, found, node.output[0])
            done += 1
    graph.replace_nodes(nodes)
    remove_dead(graph)
    return done


def corners_of(graph: Graph, join: onnx.NodeProto) -> tuple[str, str] | None:
    """The c and h of a join of c - h and c + h in the decode."""
    if join.op_type == "Concat" and join.name.startswith(DECODE_PREFIX) and attribute(join, "axis") in (2, -1):
        makers = [graph.producer[name] for name in join.input if name in graph.producer]
        if [maker.op_type for maker in makers] == ["Sub", "Add"] and list(makers[0].input) == list(makers[1].input):
            return makers[0].input[0], makers[0].input[1]
    return None


def split_of(graph: Graph, split: onnx.NodeProto) -> tuple[str, tuple[int, ...]] | None:
    """The rows [1,N,4] that a Split takes apart into pairs, and which of their columns it sees as 0, 1, 2 and 3: an
    order of columns in front of it is taken in."""
    widths = graph.constants.get(split.input[1]) if len(split.input) > 1 else None
    if widths is None or widths.tolist() != [2, 2] or attribute(split, "axis", 0) not in (2, -1):
        return None
    order = graph.producer.get(split.input[0])
    if order is not None and order.op_type == "Gather" and attribute(order, "axis", 0) == 2:
        indices = graph.constants.get(order.input[1])
        if indices is not None and indices.shape == (4,):
            return order.input[0], tuple(indices.tolist())
    return split.input[0], (0, 1, 2, 3)


def _offsets(graph: Graph, join: onnx.NodeProto) -> _Offsets | None:
    pair = corners_of(graph, join)
    if pair is None:
        return None
    shift, centre = _with_constant(graph, pair[0], "Add")
    first, scale = _with_constant(graph, shift, "Mul")
    ratio, half = _with_constant(graph, pair[1], "Mul")
    exponential = graph.producer.get(ratio)
    if exponential is None or exponential.op_type != "Exp":
        return None
    log_size, largest = _with_constant(graph, exponential.input[0], "Min")
    second, log_scale = _with_constant(graph, log_size, "Mul")
    split = graph.producer.get(first)
    if split is None or split.op_type != "Split" or list(split.output) != [first, second]:
        return None
    rows = split_of(graph, split)
    if rows is None or not centre.shape == scale.shape == half.shape or centre.shape[1:] != (2,) or (half <= 0).any():
        return None
    if log_scale.size > 2 or largest.size != 1:
        return None
    return _Offsets(*rows, scale, centre, log_scale, half, float(largest.reshape(())))


def _with_constant(graph: Graph, tensor: str, op_type: str) -> tuple[str, Floats]:
    """The operands of the `op_type` that makes `tensor`, the second being constant; "" and nothing for others."""
    node = graph.producer.get(tensor)
    if node is None or node.op_type != op_type or len(node.input) != 2 or node.input[1] not in graph.constants:
        return "", np.zeros(0)
    return node.input[0], graph.constants[node.input[1]].astype(np.float64)


def _fused(graph: Graph, found: _Offsets, output: str) -> list[onnx.NodeProto]:
    """The nodes that compute the corners from the offsets."""
    count, (x, y, w, h) = len(found.centre), found.columns
    unit = 2.0 ** np.ceil(np.log2(max(np.abs(found.centre).max(initial=0.0), 1.0)))
    factor, term, largest = (np.empty((count, 4)) for _ in range(3))
    factor[:, [x, y]], factor[:, [w, h]] = found.scale / unit, found.log_scale
    term[:, [x, y]], term[:, [w, h]] = found.centre / unit, np.log(found.half)
    largest[:, [x, y]], largest[:, [w, h]] = _LARGEST_CENTRE, found.largest + np.log(found.half)
    centres, halves = np.zeros((4, 4)), np.zeros((4, 4))
    centres[[x, y, x, y], range(4)] = unit
    halves[[w, h, w, h], range(4)] = -1, -1, 1, 1
    nodes: list[onnx.NodeProto] = []

    def append(op_type: str, stem: str, *inputs: str | Floats, to: str | None = None) -> str:
        made = to or graph.fresh(f"{DECODE_PREFIX}boxes/{stem}")
        names = [
            entry if isinstance(entry, str) else graph.add_constant(f"{made}/constant", entry.astype(np.float32))
            for entry in inputs
        ]
        nodes.append(onnx.helper.make_node(op_type, names, [made], name=f"{DECODE_PREFIX}boxes/{stem}/{op_type}"))
        graph.producer[made] = nodes[-1]
        return made

    scaled = append("Mul", "scaled", found.rows, factor)
    placed = append("Add", "placed", scaled, term)
    bounded = append("Min", "bounded_rows", placed, largest)
    middle = append("MatMul", "middle", bounded, centres)
    reach = append("MatMul", "reach", append("Exp", "exponential", bounded), halves)
    append("Add", "corners", middle, reach, to=output)
    return nodes

"""Pass `share-grids`: one grid for a tensor and for what a MaxPool, a Concat or another move makes of it.

TensorRT moves a Q in front of what only moves values. A tensor that is read by a quantised layer and also, moved, by
another one is then quantised twice, unless both grids are the same. They are made so where that costs little, which
is decided per site from the measured ranges.

Precondition: ranges of every quantised tensor of a plan.
Postcondition: groups of tensors on the widest grid among them, none of whose steps grew by more than MOST_DB.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from edgevision.export.graph import Graph
from edgevision.export.grids import Ranges, range_of
from edgevision.export.placement import Plan
from edgevision.export.structure import COMMUTING, key

MOST_DB = 1.0
"""Most that a shared grid's step, and with it the noise of rounding, may be above a tensor's own."""


def share_grids(graph: Graph, plan: Plan, ranges: Ranges, method: str) -> dict[str, str]:
    """Tensor -> the tensor whose range it takes, for those that do not keep their own.

    Args:
        graph: the one that `plan.tensorrt_inputs` was made for.
        ranges, method: of its activations' grids.

    Raises:
        CalibrationError: a tensor has no range.
    """
    quantised = {node.input[i]: None for node in graph.nodes for i in plan.tensorrt_inputs.get(key(node), ())}
    limits = {tensor: range_of(ranges, tensor).symmetric_limit(method) for tensor in quantised}
    groups = {tensor: [tensor] for tensor in quantised}
    for tensor in quantised:
        for source in _moved_from(graph, tensor, limits.keys()):
            joined = groups[tensor] + [name for name in groups[source] if name not in groups[tensor]]
            sizes = [limits[name] for name in joined]
            if max(sizes) <= min(sizes) * 10 ** (MOST_DB / 20):
                groups.update(dict.fromkeys(joined, joined))
    widest = {tensor: max(group, key=lambda name: limits[name]) for tensor, group in groups.items()}
    return {tensor: leader for tensor, leader in widest.items() if leader != tensor}


def _moved_from(graph: Graph, tensor: str, quantised: Collection[str]) -> Iterator[str]:
    """Quantised tensors whose values `tensor` has, moved; the nearest on each way."""
    node = graph.producer.get(tensor)
    if node is None or node.op_type not in COMMUTING:
        return
    for name in node.input:
        if name in quantised:
            yield name
        elif name:
            yield from _moved_from(graph, name, quantised)

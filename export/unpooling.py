"""Max-unpooling, which TensorRT does not have, in operators that it has.

SegNet (Badrinarayanan et al., arXiv:1511.00561) puts every value of its decoder back to where the encoder's pooling
found the maximum. For windows of 2x2 that place is one of four: SpaceToDepth lays the four pixels of each window side
by side, comparisons find the first largest (ties as in MaxPool: the first in reading order), Where and DepthToSpace
put the value there. Exact, also where a quantised pooling rounds: the places come from the unpooled input alone.
"""

from __future__ import annotations

import numpy as np
import onnx

from edgevision.errors import ModelError
from edgevision.export.graph import Graph, attribute

_TWO = [2, 2]


def rewrite_unpooling(graph: Graph) -> int:
    """Replace every MaxUnpool; returns how many.

    Raises:
        ModelError: an unpooling does not undo a 2x2 pooling of the same graph.
    """
    rewriter = _Rewriter(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        nodes.extend(rewriter.replacement(node) if node.op_type == "MaxUnpool" else [node])
    if rewriter.count:
        for node in nodes:
            if node.op_type == "MaxPool":
                del node.output[1:]
        graph.replace_nodes(nodes)
        graph.infer_shapes()
    return rewriter.count


class _Rewriter:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._places: dict[str, list[str]] = {}
        self._made: list[onnx.NodeProto] = []
        self.count = 0

    def replacement(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that do the same as a MaxUnpool."""
        self._made = []
        pool = self._pool_of(node)
        if pool.output[1] not in self._places:
            self._places[pool.output[1]] = self._find_places(pool.input[0])
        zero = self._graph.add_constant("unpool/zero", np.array(0, np.float32))
        values = node.input[0]
        spread = [self._op("Where", place, values, zero) for place in self._places[pool.output[1]]]
        joined = self._op("Concat", *spread, axis=1)
        self._op("DepthToSpace", joined, out=node.output[0], blocksize=2, mode="DCR")
        self.count += 1
        return self._made

    def _find_places(self, source: str) -> list[str]:
        """Four boolean tensors: which pixel of each window is the first largest."""
        channels = (self._graph.shape(source) or (0, 0))[1]
        flat = self._op("SpaceToDepth", source, blocksize=2)
        widths = self._graph.add_constant("unpool/widths", np.full(4, channels))
        a, b, c, d = self._op_many("Split", flat, widths, outputs=4, axis=1)
        last = self._op("Max", c, d)
        rest = self._op("Max", b, last)
        is_a, b_wins, c_wins = (self._op("GreaterOrEqual", one, other) for one, other in ((a, rest), (b, last), (c, d)))
        not_a = self._op("Not", is_a)
        is_b = self._op("And", not_a, b_wins)
        not_ab = self._op("And", not_a, self._op("Not", b_wins))
        is_c = self._op("And", not_ab, c_wins)
        is_d = self._op("And", not_ab, self._op("Not", c_wins))
        return [is_a, is_b, is_c, is_d]

    def _pool_of(self, node: onnx.NodeProto) -> onnx.NodeProto:
        pool = self._graph.producer.get(node.input[1])
        source = self._graph.shape(pool.input[0]) if pool is not None else None
        if (
            pool is None
            or pool.op_type != "MaxPool"
            or source is None
            or any(side % 2 for side in source[2:])
            or not all(_is_plain(one) for one in (pool, node))
            or self._graph.shape(node.output[0]) != source
        ):
            raise ModelError(
                f"MaxUnpool {node.name!r} does not undo a 2x2 max-pooling with stride 2 and even sides; "
                "TensorRT has no unpooling, and only that form can be rewritten"
            )
        return pool

    def _op(self, kind: str, *inputs: str, out: str | None = None, **attributes: object) -> str:
        return self._op_many(kind, *inputs, outputs=1, out=out, **attributes)[0]

    def _op_many(
        self, kind: str, *inputs: str, outputs: int, out: str | None = None, **attributes: object
    ) -> list[str]:
        number = len(self._graph.producer)
        names = [out or self._graph.fresh(f"unpool/{kind}_{number}_{index}") for index in range(outputs)]
        node = onnx.helper.make_node(kind, inputs, names, name=f"unpool/{kind}_{number}", **attributes)
        self._made.append(node)
        for name in names:
            self._graph.producer[name] = node
        return names


def _is_plain(node: onnx.NodeProto) -> bool:
    """Windows of 2x2, side by side."""
    return (
        list(attribute(node, "kernel_shape", [])) == _TWO
        and list(attribute(node, "strides", [1, 1])) == _TWO
        and not any(attribute(node, "pads", [0] * 4))
        and list(attribute(node, "dilations", [1, 1])) == [1, 1]
        and attribute(node, "storage_order", 0) == 0
        and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    )

"""The best class of every pixel in the form that ONNX Runtime's CPU provider runs fastest; the classes stay the same.

Class scores [1,C,h,w] that are enlarged and then compared can cost more than all convolutions of a small network. Both
are two to three times as fast on pixels that hold all their classes side by side (21 classes, 513x513: 24 ms against
7), and the integer convolution in front ends on such pixels anyway, so that no values are moved for it.
"""

from __future__ import annotations

import onnx

from edgevision.export.graph import Graph, attribute
from edgevision.export.simplification import remove_dead
from edgevision.export.structure import key

_PIXELS = [0, 2, 3, 1]
"""[1,C,h,w] -> [1,h,w,C]"""
_LEAST_CLASSES = 8
"""With fewer, planes are as fast or faster."""


def compare_pixels(graph: Graph) -> int:
    """Rewrite every ArgMax over many channels of a map that was enlarged linearly; returns how many.

    The graph is indexed anew, with its nodes in order.
    """
    nodes: list[onnx.NodeProto] = []
    done = 0
    for node in graph.nodes:
        resize = _enlargement(graph, node)
        if resize is None:
            nodes.append(node)
        else:
            nodes += _on_pixels(graph, node, resize)
            done += 1
    graph.replace_nodes(nodes)
    remove_dead(graph)
    return done


def _enlargement(graph: Graph, best: onnx.NodeProto) -> onnx.NodeProto | None:
    """The linear Resize, in h and w alone and read by nothing else, of the map [1,C,h,w] whose channels an ArgMax
    compares."""
    if best.op_type != "ArgMax" or attribute(best, "axis", 0) != 1 or attribute(best, "keepdims", 1):
        return None
    node = graph.producer.get(best.input[0])
    if node is None or node.op_type != "Resize" or len(graph.consumers[key(node)]) > 1 or key(node) in graph.outputs:
        return None
    before, after = graph.shape(node.input[0]) or (), graph.shape(key(node)) or ()
    given = [name for name in node.input[1:] if name]
    plain = attribute(node, "axes") is None and not attribute(node, "antialias", 0) and not node.input[1]
    if not plain or attribute(node, "mode") != b"linear" or not graph.constants.keys() >= set(given):
        return None
    return node if len(before) == 4 and before[:2] == after[:2] and before[1] >= _LEAST_CLASSES else None


def _on_pixels(graph: Graph, best: onnx.NodeProto, resize: onnx.NodeProto) -> list[onnx.NodeProto]:
    """`resize` and `best` with the classes on the last axis."""
    small, large = (graph.fresh(f"{name}/pixels") for name in (resize.input[0], key(resize)))
    transpose = onnx.helper.make_node("Transpose", [resize.input[0]], [small], name=small, perm=_PIXELS)
    enlarge, compare = (onnx.NodeProto.FromString(node.SerializeToString()) for node in (resize, best))
    sides = [name and graph.add_constant(f"{large}/sides", graph.constants[name][_PIXELS]) for name in resize.input[1:]]
    enlarge.input[:], enlarge.output[:], enlarge.name = [small, *sides], [large], large
    compare.input[0] = large
    next(entry for entry in compare.attribute if entry.name == "axis").i = 3
    return [transpose, enlarge, compare]

"""Parts of a tensor, read from where the graph joined them: joining megabytes to split them again costs time.

Looking for the borders of the parts, a split moves against the flow through operators that only move data. No value
changes, and what is joined for nothing is dead afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.export.decode import Decode
from edgevision.export.graph import attribute


def split_parts(decode: Decode, tensor: str, axis: int, widths: Sequence[int]) -> list[str]:
    """`tensor` split along `axis` (not negative) into parts of these widths.

    Args:
        decode: where to append.
        tensor: of the graph; its shape need not be known.
        axis: which to split.
        widths: of the parts; together the whole axis.
    """
    return _Splitter(decode).split(tensor, axis, tuple(widths))


_FARTHEST = 16
"""Operators that a split moves through at most: a file may hold a chain of any length."""
Widths = tuple[int, ...]


def pick_channels(decode: Decode, tensor: str, picks: Sequence[NDArray[np.int64]]) -> list[str]:
    """Some channels of a map [1,C,h,w], for each of `picks` by index.

    The convolution that makes the map becomes one for each, where it is there for nothing else: nothing is moved, and
    each has its own range in an INT8 graph.
    """
    graph = decode.graph
    node = graph.producer.get(tensor)
    weights = graph.constants.get(node.input[1]) if node is not None and node.op_type == "Conv" else None
    if (
        node is None
        or weights is None
        or attribute(node, "group", 1) != 1
        or len(graph.consumers[tensor]) > 1
        or not all(name in graph.constants for name in node.input[1:] if name)
    ):
        return [
            decode.op("Gather", tensor, decode.constant("parts/channels", pick), stem="parts/picked", axis=1)
            for pick in picks
        ]
    made, tensors = [], []
    for number, pick in enumerate(picks):
        tensors.append(graph.fresh(f"{tensor}/part{number}"))
        own = onnx.NodeProto.FromString(node.SerializeToString())
        own.name, own.output[0] = f"{node.name or tensor}/part{number}", tensors[-1]
        for index in range(1, len(node.input)):
            if node.input[index]:
                values = graph.constants[node.input[index]][pick]
                own.input[index] = graph.add_constant(f"{node.input[index]}/part{number}", values)
        made.append(own)
    graph.replace_nodes(new for old in list(graph.nodes) for new in ((old, *made) if tensor in old.output else (old,)))
    return tensors


class _Splitter:
    """Splits one tensor. A file may join a tensor with itself again and again, so what is done once is kept."""

    def __init__(self, decode: Decode) -> None:
        self.decode, self.graph = decode, decode.graph
        self.done: dict[tuple[str, int, Widths], list[str]] = {}
        self.distance = 0

    def split(self, tensor: str, axis: int, widths: Widths) -> list[str]:
        """See split_parts."""
        wanted = (tensor, axis, widths)
        if len(widths) == 1:
            return [tensor]
        if wanted not in self.done:
            self.distance += 1
            self.done[wanted] = self._moved(tensor, axis, widths) or self._here(tensor, axis, widths)
            self.distance -= 1
        return self.done[wanted]

    def _here(self, tensor: str, axis: int, widths: Widths) -> list[str]:
        sizes = self.decode.constant("columns", np.array(widths))
        return self.decode.node("Split", tensor, sizes, stem="parts", outputs=len(widths), axis=axis)

    def _moved(self, tensor: str, axis: int, widths: Widths) -> list[str] | None:
        node = self.graph.producer.get(tensor)
        if node is None or self.distance > _FARTHEST:
            return None
        if node.op_type == "Transpose":
            return self._through_transpose(node, axis, widths)
        if node.op_type == "Reshape":
            return self._through_reshape(node, tensor, axis, widths)
        if node.op_type == "Concat":
            return self._through_concat(node, axis, widths)
        return self._finer(node, tensor, axis, widths) if node.op_type == "Split" else None

    def _through_transpose(self, node: onnx.NodeProto, axis: int, widths: Widths) -> list[str] | None:
        order = attribute(node, "perm")
        if order is None:
            return None
        parts = self.split(node.input[0], order[axis], widths)
        return [self.decode.op("Transpose", part, stem="parts/turned", perm=order) for part in parts]

    def _through_reshape(self, node: onnx.NodeProto, tensor: str, axis: int, widths: Widths) -> list[str] | None:
        """Where the axis is one of the input's, and as much lies before it."""
        before, after = self.graph.shape(node.input[0]), self.graph.shape(tensor)
        if before is None or after is None:
            return None
        fitting = [
            own
            for own, side in enumerate(before)
            if side == after[axis] > 1 and math.prod(before[:own]) == math.prod(after[:axis])
        ]
        if len(fitting) != 1:
            return None
        parts = []
        for part, width in zip(self.split(node.input[0], fitting[0], widths), widths, strict=True):
            shape = self.decode.constant("parts/shape", np.array([*after[:axis], width, *after[axis + 1 :]]))
            parts.append(self.decode.op("Reshape", part, shape, stem="parts/shaped"))
        return parts

    def _through_concat(self, node: onnx.NodeProto, axis: int, widths: Widths) -> list[str] | None:
        shapes = [self.graph.shape(name) for name in node.input]
        ranks = {None if shape is None else len(shape) for shape in shapes}
        if len(ranks) != 1 or None in ranks:
            return None
        joined_axis = attribute(node, "axis") % (ranks.pop() or 1)
        if joined_axis != axis:
            columns = zip(*(self.split(name, axis, widths) for name in node.input), strict=True)
            return [self._join(column, joined_axis) for column in columns]
        ends = np.cumsum(widths).tolist()
        pieces: dict[int, str] = {}  # by where they begin
        start = 0
        for name, shape in zip(node.input, shapes, strict=True):
            end = start + (shape or ())[axis]
            borders = sorted({start, end, *(border for border in ends if start < border < end)})
            own = self.split(name, axis, tuple(np.diff(borders).tolist())) if start < end else []
            pieces.update(zip(borders, own, strict=False))
            start = end
        if start != ends[-1]:
            return None
        return [
            self._join([piece for begin, piece in pieces.items() if end - width <= begin < end], axis)
            for end, width in zip(ends, widths, strict=True)
        ]

    def _join(self, parts: Sequence[str], axis: int) -> str:
        return parts[0] if len(parts) == 1 else self.decode.op("Concat", *parts, stem="parts/joined", axis=axis)

    def _finer(self, node: onnx.NodeProto, tensor: str, axis: int, widths: Widths) -> list[str] | None:
        """The graph's own split makes the parts; what it made so far is joined for whoever else reads it."""
        graph, shape = self.graph, self.graph.shape(tensor)
        sizes = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
        if shape is None or sizes is None or attribute(node, "axis", 0) % len(shape) != axis:
            return None
        index = list(node.output).index(tensor)
        parts = [graph.fresh(f"{node.name}/{tensor}/{number}") for number in range(len(widths))]
        finer = onnx.NodeProto.FromString(node.SerializeToString())
        all_sizes = np.array([*sizes[:index], *widths, *sizes[index + 1 :]])
        finer.input[1] = graph.add_constant(f"{node.name}/sizes", all_sizes)
        finer.output[:] = [*node.output[:index], *parts, *node.output[index + 1 :]]
        whole = onnx.helper.make_node("Concat", parts, [tensor], name=f"{node.name}/joined/{index}", axis=axis)
        graph.replace_nodes(
            new for old in list(graph.nodes) for new in ((finer, whole) if tensor in old.output else (old,))
        )
        return parts

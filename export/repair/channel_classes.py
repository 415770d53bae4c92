"""Which channels of which tensors must share one scale, if a network is to compute the same after rescaling.

A channel may be divided by a positive factor wherever its maker can produce it so (the rows of a convolution's weights)
and its readers can take it so (the columns of theirs). Between the two, operators that are positively homogeneous per
channel (ReLU, LeakyReLU, pooling, resizing) and those that only move values (joins, splits, shuffles) pass the factor
on; an Add needs the same one on both sides. Channels tied together form a class. Class 0 holds those that cannot be
scaled: the network's input and outputs, and whatever meets an operator that is not homogeneous (Sigmoid, ReLU6).

The idea is cross-layer equalisation (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", arXiv:1906.04721), here over a whole graph instead of a chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.export.graph import Graph, attribute
from edgevision.export.structure import WEIGHTED, activations, bounds, key, weight_of

Labels = NDArray[np.int64]

_HOMOGENEOUS = frozenset(
    ["LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"]
)
_RESHAPES = frozenset(["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"])
_SUMS = frozenset(["Add", "Sub"])
NORM = "BatchNormalization"


class ChannelClasses:
    """The classes of every float tensor of a graph.

    Each tensor has an array of labels that broadcasts to its shape: dimensions along which the factor does not change
    have length 1.
    """

    def __init__(self, graph: Graph, barred: set[str]) -> None:
        """Classes of `graph`, its shapes inferred.

        Args:
            graph: float, in normal form.
            barred: keys of the nodes that must not be touched: the decode.
        """
        self.graph = graph
        self._parents = [0]
        self._labels: dict[str, Labels] = {}
        self._barred = barred
        for name in graph.inputs:
            self._labels[name] = self._fixed(name)
        for node in graph.nodes:
            self._visit(node)
        for name in graph.outputs:
            self._fix(name)

    def of(self, tensor: str) -> Labels:
        """Classes of a tensor, in an array that broadcasts to its shape; 0 where it cannot be scaled."""
        roots = np.fromiter((self._find(int(label)) for label in self._raw(tensor).ravel()), np.int64)
        return roots.reshape(self._raw(tensor).shape)

    def __len__(self) -> int:
        """One more than the largest label."""
        return len(self._parents)

    # --- labels ---------------------------------------------------------------------------------------------------

    def _raw(self, tensor: str) -> Labels:
        return self._labels[tensor] if tensor in self._labels else self._fixed(tensor)

    def _fixed(self, tensor: str) -> Labels:
        return np.zeros([1] * len(self.graph.shape(tensor) or ()), np.int64)

    def _new(self, tensor: str, axis: int) -> Labels:
        """A class of its own for every channel along `axis`."""
        shape = self.graph.shape(tensor) or ()
        lengths = [size if index == axis % len(shape) else 1 for index, size in enumerate(shape)]
        start = len(self._parents)
        self._parents.extend(range(start, start + math.prod(lengths)))
        return np.arange(start, len(self._parents)).reshape(lengths)

    def _find(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def _join(self, first: Labels, second: Labels) -> None:
        """Make labels at the same place one class; the lower label stands for it, so 0 wins."""
        for one, two in zip(*(array.ravel() for array in np.broadcast_arrays(first, second)), strict=True):
            low, high = sorted((self._find(int(one)), self._find(int(two))))
            self._parents[high] = low

    def _fix(self, tensor: str) -> None:
        self._join(self._raw(tensor), np.zeros(1, np.int64))

    def _along(self, labels: Labels, axis: int) -> Labels:
        """Labels that change along `axis` only: those that differ along others become one class."""
        for other in range(labels.ndim):
            if other != axis % labels.ndim and labels.shape[other] > 1:
                first = labels.take([0], other)
                self._join(labels, first)
                labels = first
        return labels

    # --- operators ------------------------------------------------------------------------------------------------

    def _visit(self, node: onnx.NodeProto) -> None:
        rule = None if key(node) in self._barred else self._rule(node)
        labels = rule(node) if rule is not None else None
        if labels is None:
            for index in activations(self.graph, node):
                self._fix(node.input[index])
            return
        for name, found in zip(node.output, labels, strict=False):
            self._labels[name] = found

    def _rule(self, node: onnx.NodeProto) -> Callable[[onnx.NodeProto], list[Labels] | None] | None:
        if any(self.graph.shape(name) is None for name in (*node.input, *node.output) if name):
            return None
        if node.op_type in WEIGHTED:
            return self._weighted
        if node.op_type in _HOMOGENEOUS or bounds(self.graph, node) == (0.0, math.inf):
            return self._homogeneous
        if node.op_type in _RESHAPES:
            return self._reshape
        rules = {"Concat": self._concat, "Slice": self._slice, "Split": self._split, "Mul": self._product}
        rules |= {"Transpose": self._transpose, "Resize": self._resize, "Pad": self._pad, "Gather": self._gather}
        rules |= {NORM: self._norm}
        return self._sum if node.op_type in _SUMS else rules.get(node.op_type)

    def _weighted(self, node: onnx.NodeProto) -> list[Labels] | None:
        if weight_of(self.graph, node) is None or attribute(node, "transA", 0):
            return None
        axis = channel_axis(node)
        self._labels[node.input[0]] = self._along(self._raw(node.input[0]), axis)
        return [self._new(node.output[0], axis)]

    def _homogeneous(self, node: onnx.NodeProto) -> list[Labels] | None:
        labels, shape = self._raw(node.input[0]), self.graph.shape(node.output[0]) or ()
        slopes = node.op_type == "PRelu" and node.input[1] not in self.graph.constants
        if slopes or len(shape) != labels.ndim or len([name for name in node.output if name]) > 1:
            return None
        for axis, (length, size) in enumerate(zip(labels.shape, shape, strict=True)):
            if length not in (1, size):  # averaged over channels
                labels = self._one(labels, axis)
        return [labels]

    def _one(self, labels: Labels, axis: int) -> Labels:
        first = labels.take([0], axis)
        self._join(labels, first)
        return first

    def _reshape(self, node: onnx.NodeProto) -> list[Labels]:
        shape = self.graph.shape(node.input[0]) or ()
        moved = np.broadcast_to(self._raw(node.input[0]), shape).reshape(self.graph.shape(node.output[0]) or ())
        for axis in range(moved.ndim):
            first = moved.take([0], axis)
            if (moved == first).all():
                moved = first
        return [moved]

    def _transpose(self, node: onnx.NodeProto) -> list[Labels]:
        return [self._raw(node.input[0]).transpose(attribute(node, "perm"))]

    def _concat(self, node: onnx.NodeProto) -> list[Labels]:
        axis = attribute(node, "axis")
        parts = []
        for name in node.input:
            shape = list(self.graph.shape(name) or ())
            labels = self._raw(name)
            others = [max(length) for length in zip(*(self._raw(other).shape for other in node.input), strict=True)]
            others[axis] = shape[axis]
            parts.append(np.broadcast_to(labels, others))
        return [np.concatenate(parts, axis)]

    def _slice(self, node: onnx.NodeProto) -> list[Labels] | None:
        labels, shape = self._raw(node.input[0]), self.graph.shape(node.input[0]) or ()
        if not all(name in self.graph.constants for name in node.input[1:] if name):
            return None
        starts, ends = (self.graph.constants[name] for name in node.input[1:3])
        given = [self.graph.constants[name] if name else None for name in (*node.input[3:5], "", "")][:2]
        axes = range(len(starts)) if given[0] is None else given[0]
        steps = [1] * len(starts) if given[1] is None else given[1]
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            if labels.shape[axis] > 1:
                chosen = np.arange(shape[axis])[_slice(int(start), int(end), int(step))]
                labels = labels.take(chosen, int(axis))
        return [labels]

    def _split(self, node: onnx.NodeProto) -> list[Labels]:
        labels, axis = self._raw(node.input[0]), attribute(node, "axis", 0)
        if labels.shape[axis] == 1:
            return [labels for _ in node.output]
        sizes = [(self.graph.shape(name) or ())[axis] for name in node.output]
        return list(np.split(labels, np.cumsum(sizes)[:-1], axis))

    def _gather(self, node: onnx.NodeProto) -> list[Labels] | None:
        labels, axis = self._raw(node.input[0]), attribute(node, "axis", 0)
        indices = self.graph.constants.get(node.input[1])
        if indices is None or indices.ndim != 1:
            return None
        return [labels if labels.shape[axis] == 1 else labels.take(indices, axis)]

    def _resize(self, node: onnx.NodeProto) -> list[Labels] | None:
        labels = self._raw(node.input[0])
        before, after = (self.graph.shape(name) or () for name in (node.input[0], node.output[0]))
        cropped = attribute(node, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
        moved = any(length > 1 and a != b for length, a, b in zip(labels.shape, before, after, strict=True))
        return None if cropped or moved else [labels]

    def _pad(self, node: onnx.NodeProto) -> list[Labels] | None:
        labels = self._raw(node.input[0])
        before, after = (self.graph.shape(name) or () for name in (node.input[0], node.output[0]))
        value = node.input[2] if len(node.input) > 2 else ""
        if value and (value not in self.graph.constants or self.graph.constants[value].any()):
            return None
        moved = any(length > 1 and a != b for length, a, b in zip(labels.shape, before, after, strict=True))
        return None if moved else [labels]

    def _sum(self, node: onnx.NodeProto) -> list[Labels] | None:
        constants = [name in self.graph.constants for name in node.input]
        if any(constants):
            labels = self._raw(node.input[constants.index(False)])
            shape = self.graph.shape(node.output[0]) or ()
            return [labels] if labels.ndim == len(shape) and _spreads(labels, shape) else None
        first, second = (self._raw(name) for name in node.input)
        if first.ndim != second.ndim:
            return None
        self._join(first, second)
        return [np.broadcast_arrays(first, second)[0]]

    def _norm(self, node: onnx.NodeProto) -> list[Labels] | None:
        constant = all(name in self.graph.constants for name in node.input[1:])
        return [self._raw(node.input[0])] if constant and not attribute(node, "training_mode", 0) else None

    def _product(self, node: onnx.NodeProto) -> list[Labels] | None:
        """By a constant: its factors take up any scale on either side. By a tensor that cannot be scaled: a gate."""
        rank = len(self.graph.shape(node.output[0]) or ())
        if any(self._raw(name).ndim != rank for name in node.input if name not in self.graph.constants):
            return None
        for value, factor in (tuple(node.input), tuple(reversed(node.input))):
            if value in self.graph.constants:
                continue
            labels = self._raw(value)
            if factor in self.graph.constants or not self.of(factor).any():
                return [labels] if _spreads(labels, self.graph.shape(node.output[0]) or ()) else None
        return None


def channel_axis(node: onnx.NodeProto) -> int:
    """The axis of an operator's input and output along which its channels lie: the last one of a matrix product's."""
    return -1 if node.op_type in ("Gemm", "MatMul") else 1


def _spreads(labels: Labels, shape: tuple[int, ...]) -> bool:
    return all(length in (1, size) for length, size in zip(labels.shape, shape, strict=True))


def _slice(start: int, end: int, step: int) -> slice:
    """ONNX's Slice as Python's: an end far below zero means to the first element for a negative step."""
    return slice(start, None if step < 0 and end < -(1 << 30) else end, step)

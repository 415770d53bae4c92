"""The extremes of a graph's tensors over real inputs: probes beside every tensor, one number each, in one session.

Only these numbers leave the session, so that memory stays that of an ordinary inference.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgevision.backends.onnxruntime import open_batch_session
from edgevision.errors import ModelError, SessionError
from edgevision.export.graph import Graph, attribute
from edgevision.export.structure import key
from edgevision.export.verification import run_each

_SAME_VALUES = frozenset(("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"))
_RISING = frozenset(("Sigmoid", "Relu", "Clip", "LeakyRelu", "Tanh"))
"""What they make of a tensor's largest and least number is the largest and the least of their result."""
_SUMS = frozenset(("ReduceSum", "ReduceMean", "ReduceL1", "ReduceLogSum", "GlobalAveragePool", "AveragePool"))
_SQUARES = frozenset(("ReduceL2", "ReduceSumSquare", "LpNormalization"))


@dataclass
class Measured:
    """Over all inputs.

    Attributes:
        peak: largest magnitude, by tensor.
        total: largest sum of magnitudes (of squares, where those are added) inside a reduction, by structure.key.
        least: least magnitude but 0, by tensor; infinite where all are 0.
    """

    peak: dict[str, float] = field(default_factory=dict)
    total: dict[str, float] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)


def measure(graph: Graph, inputs: Iterable[NDArray[Any]], smallest: Iterable[str]) -> Measured:
    """Run a float graph with probes.

    Args:
        graph: one input, fixed shapes; left unchanged.
        inputs: for it.
        smallest: tensors whose least magnitude is wanted too.

    Raises:
        ModelError: the graph does not run.
    """
    probe = graph.copy()
    probe.complete_shapes()
    writer = _Probes(probe)
    for name in [*probe.inputs, *probe.producer]:
        if writer.readable(name):
            for extreme in writer.extremes(name):
                writer.add("peak", name, extreme)
    for node in list(probe.nodes):
        if node.op_type in _SUMS | _SQUARES and writer.readable(node.input[0]):
            writer.add("total", key(node), writer.op("ReduceMax", writer.inner_sum(node), keepdims=0))
    for name in smallest:
        if writer.readable(name):
            writer.add("least", name, writer.op("ReduceMin", writer.without_zeros(name), keepdims=0))
    measured = Measured()
    try:
        for outputs in run_each(open_batch_session(writer.finish()), inputs):
            for output, value in outputs.items():
                for table, name in writer.places[output]:
                    _keep(getattr(measured, table), name, abs(float(value)), least=table == "least")
    except SessionError as error:
        raise ModelError(f"the float graph does not run: {error}") from error
    return measured


def _keep(table: dict[str, float], name: str, value: float, *, least: bool) -> None:
    old = table.get(name, value)
    table[name] = math.nan if math.isnan(value) or math.isnan(old) else min(value, old) if least else max(value, old)


class _Probes:
    """Nodes added to a graph; `places` says whose extremes each new output tells: (table of Measured, name)."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._magnitudes: dict[str, str] = {}
        self._extremes: dict[str, tuple[str, str]] = {}
        self._nodes: list[onnx.NodeProto] = []
        self.places: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def readable(self, name: str) -> bool:
        """Whether a tensor is a float one that depends on the picture and is not empty."""
        graph = self._graph
        shape = graph.shape(name)
        return (
            graph.dtype(name) == TensorProto.FLOAT
            and name not in graph.constants
            and shape is not None
            and 0 not in shape
        )

    def add(self, table: str, name: str, output: str) -> None:
        self.places[output].append((table, name))

    def op(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"edgevision_probe/{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def extremes(self, name: str) -> tuple[str, str]:
        """The largest and the least number of a tensor, found once; without a look at it where its operator tells."""
        if name not in self._extremes:
            self._extremes[name] = self._find_extremes(name)
        return self._extremes[name]

    def _find_extremes(self, name: str) -> tuple[str, str]:
        node = self._graph.producer.get(name)
        if node is not None and node.op_type in _SAME_VALUES | _RISING and self.readable(node.input[0]):
            largest, least = self.extremes(node.input[0])
            if node.op_type in _SAME_VALUES:
                return largest, least
            if attribute(node, "alpha", 1.0) >= 0:
                return self._repeat(node, largest), self._repeat(node, least)
        return self.op("ReduceMax", name, keepdims=0), self.op("ReduceMin", name, keepdims=0)

    def magnitude(self, name: str) -> str:
        """|x|, made once."""
        if name not in self._magnitudes:
            self._magnitudes[name] = self.op("Abs", name)
        return self._magnitudes[name]

    def inner_sum(self, node: onnx.NodeProto) -> str:
        """What a reduction adds up, all terms taken as positive: no partial sum, in any order, is larger."""
        name = node.input[0]
        if node.op_type == "AveragePool":
            mean = self._repeat(node, self.magnitude(name))
            return self.op("Mul", mean, self._constant(np.float32(math.prod(attribute(node, "kernel_shape")))))
        settings = {k: v for k in ("noop_with_empty_axes",) if (v := attribute(node, k)) is not None}
        axes = list(node.input[1:2])
        if node.op_type == "GlobalAveragePool":
            axes = [self._constant(np.arange(2, len(self._graph.shape(name) or ())))]
        if node.op_type == "LpNormalization":
            axes = [self._constant(np.array([attribute(node, "axis", -1)]))]
        if node.op_type in _SQUARES:
            return self.op("ReduceSumSquare", name, *axes, **settings)
        return self.op("ReduceSum", self.magnitude(name), *axes, **settings)

    def without_zeros(self, name: str) -> str:
        """|x|, infinite where it is 0: nothing vanishes there that was not 0 before."""
        size = self.magnitude(name)
        return self.op(
            "Where", self.op("Greater", size, self._constant(np.float32(0))), size, self._constant(np.float32(np.inf))
        )

    def _repeat(self, node: onnx.NodeProto, source: str) -> str:
        """The same operator on another tensor."""
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.name = ""
        copy.input[0], copy.output[0] = source, f"edgevision_probe/{len(self._nodes)}"
        self._nodes.append(copy)
        return str(copy.output[0])

    def _constant(self, value: NDArray[Any] | np.generic) -> str:
        return self._graph.add_constant("edgevision_probe/constant", np.asarray(value))

    def finish(self) -> bytes:
        """The graph with its probes as the only outputs."""
        graph = self._graph.proto
        graph.node.extend(self._nodes)
        del graph.output[:]
        graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in self.places)
        return self._graph.serialize()

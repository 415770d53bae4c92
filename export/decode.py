"""Builds the decode subgraph that a head appends: float32 nodes whose names say so, and the normal form's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx
from numpy.typing import NDArray

from edgevision.export.graph import DECODE_PREFIX, Graph

# What a family's own decode is made of; walking back through these from an output ends at the head's convolutions.
ARITHMETIC = frozenset(
    [
        "Sigmoid",
        "Softmax",
        "Exp",
        "Mul",
        "Add",
        "Sub",
        "Div",
        "Pow",
        "Clip",
        "Min",
        "Max",
        "Slice",
        "Split",
        "Concat",
        "Transpose",
        "Reshape",
        "Gather",
        "Squeeze",
        "Unsqueeze",
        "ReduceSum",
        "Identity",
        "Cast",
    ]
)


class Decode:
    """Appends nodes to a graph.

    Every emitter keeps nodes named `edgevision_decode/...`, and all that follows them, in float32.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def node(self, op_type: str, *inputs: str, stem: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Append a node and return its outputs' names."""
        name = self.graph.fresh(DECODE_PREFIX + stem)
        made = [name, *(self.graph.fresh(f"{name}_{index}") for index in range(1, outputs))]
        node = onnx.helper.make_node(op_type, inputs, made, name=name, **attributes)
        self.graph.proto.node.append(node)
        for output in made:
            self.graph.producer[output] = self.graph.proto.node[-1]
        return made

    def op(self, op_type: str, *inputs: str, stem: str, **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        return self.node(op_type, *inputs, stem=stem, **attributes)[0]

    def constant(self, stem: str, value: NDArray[Any]) -> str:
        """Store a constant and return its name."""
        return self.graph.add_constant(DECODE_PREFIX + stem, value)

    def finish(self, outputs: Mapping[str, tuple[str, int]]) -> None:
        """Make these the graph's outputs: normal-form name -> (tensor, ONNX element type).

        A tensor of the original graph that bears such a name is renamed first.
        """
        graph = self.graph
        sources = {name: tensor for name, (tensor, _) in outputs.items()}
        graph.reindex()
        for name in outputs:
            if name in graph.producer or name in graph.constants:
                renamed = graph.fresh(f"original/{name}")
                graph.rename_tensor(name, renamed)
                sources = {key: renamed if tensor == name else tensor for key, tensor in sources.items()}
        del graph.proto.output[:]
        for name, (_, kind) in outputs.items():
            graph.rename_tensor(sources[name], name)
            graph.proto.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
        graph.reindex()


def mark_decode(graph: Graph, tensors: Iterable[str], through: frozenset[str] = ARITHMETIC) -> int:
    """Rename the nodes of a decode that the model brought itself, walking back from `tensors` through the operators
    in `through`, so that they stay float32 as well; returns how many."""
    waiting = list(tensors)
    marked = 0
    while waiting:
        node = graph.producer.get(waiting.pop())
        if node is None or node.name.startswith(DECODE_PREFIX):
            continue
        if node.op_type in through or _is_expectation(graph, node):
            node.name = f"{DECODE_PREFIX}original/{node.name.lstrip('/')}"
            marked += 1
            waiting.extend(node.input)
    return marked


def _is_expectation(graph: Graph, node: onnx.NodeProto) -> bool:
    """A convolution with the fixed weights 0, 1, 2, ...: the expectation over a box side's distribution."""
    if node.op_type != "Conv" or node.input[1] not in graph.constants:
        return False
    weight = graph.constants[node.input[1]]
    return bool(weight.shape[0] == 1 and (weight.ravel() == range(weight.size)).all())

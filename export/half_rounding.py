"""A float16 graph as a GPU computes it, for a CPU: float32 arithmetic, every result rounded to half.

ONNX Runtime's CPU provider runs a float16 graph in float32 and leaves out most of the roundings in between, so that it
overflows nowhere. Here each rounding is a pair of casts, which stays where it is. Inside a layer sums are float32, as
on tensor cores.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgevision.export.graph import Graph

HALF, SINGLE = int(TensorProto.FLOAT16), int(TensorProto.FLOAT)
# Their results are values that they were given, nothing is left to round; or go into integer kernels as they are.
_MOVES = frozenset(
    (
        *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split", "Concat", "Gather"),
        *("Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Relu", "MaxPool", "Max", "Min", "ReduceMax", "ReduceMin"),
        *("Abs", "Neg", "Where", "TopK", "DequantizeLinear"),
    )
)


def rounded_graph(serialised: bytes) -> bytes:
    """A graph with float16 tensors -> one of float32 tensors that gives what real half arithmetic gives.

    Args:
        serialised: opset 19 or later; its inputs and outputs are not float16.
    """
    graph = Graph(onnx.load_model_from_string(serialised))
    graph.complete_shapes()
    nodes: list[onnx.NodeProto] = []
    for node in list(graph.nodes):
        halves = [name for name in node.output if name and graph.dtype(name) == HALF]
        for entry in node.attribute:
            if entry.name == "to" and entry.i == HALF:
                entry.i = SINGLE
            if entry.HasField("t") and entry.t.data_type == HALF:
                entry.t.CopyFrom(_single(entry.t))
        nodes.append(node)
        for name in halves if node.op_type not in _MOVES else ():
            exact, half = f"{name}/exact", f"{name}/half"
            node.output[:] = [exact if output == name else output for output in node.output]
            nodes.append(helper.make_node("Cast", [exact], [half], to=HALF))
            nodes.append(helper.make_node("Cast", [half], [name], to=SINGLE))
    for tensor in graph.proto.initializer:
        if tensor.data_type == HALF:
            tensor.CopyFrom(_single(tensor))
    del graph.proto.value_info[:]
    graph.replace_nodes(nodes)
    return graph.serialize()


def _single(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)

"""A network without its decode, for a quantiser that takes any ONNX file; and its result with the decode put back.

Peers would otherwise join pixels and scores in one quantised tensor and lose everything: the decode stays float for
all alike.
"""

from __future__ import annotations

import onnx

from edgevision.errors import ModelError
from edgevision.export.graph import DECODE_PREFIX, Graph


def network_of(normal_form: Graph) -> onnx.ModelProto:
    """The part of a model in normal form that comes before the decode; its outputs are what the decode reads."""
    graph = normal_form.copy()
    network, decode = _parts(graph)
    made = {name for node in network for name in node.output}
    read = [name for node in decode for name in node.input]
    ends = [name for name in dict.fromkeys([*read, *graph.outputs]) if name in made]
    graph.replace_nodes(network)
    outputs = [
        onnx.helper.make_tensor_value_info(n, graph.dtype(n) or onnx.TensorProto.FLOAT, graph.shape(n)) for n in ends
    ]
    del graph.proto.output[:]
    graph.proto.output.extend(outputs)
    _drop_unused(graph)
    return graph.model


def with_decode(network: onnx.ModelProto, normal_form: Graph) -> onnx.ModelProto:
    """A quantised `network_of(normal_form)` with the float decode behind it.

    Raises:
        ModelError: the quantiser changed the operator set, or lost an output.
    """
    joined = Graph(network).copy()
    if joined.opset != normal_form.opset:
        raise ModelError(f"the quantiser changed the operator set from {normal_form.opset} to {joined.opset}")
    _, decode = _parts(normal_form)
    held = {*joined.producer, *joined.constants, *joined.inputs}
    ours = {name for node in decode for name in node.output}
    needed = {name for node in decode for name in node.input if name} | set(normal_form.outputs)
    lost = needed - held - ours - set(normal_form.constants)
    if lost:
        raise ModelError(f"the quantised network lacks the outputs {sorted(lost)}")
    joined.proto.node.extend(decode)
    for name in dict.fromkeys(name for node in decode for name in node.input if name not in held | ours | {""}):
        joined.proto.initializer.append(onnx.numpy_helper.from_array(normal_form.constants[name], name))
    del joined.proto.output[:]
    joined.proto.output.extend(normal_form.proto.output)
    del joined.proto.value_info[:]
    return joined.model


def _parts(graph: Graph) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes before the decode, and the decode with all that follows it."""
    network: list[onnx.NodeProto] = []
    decode: list[onnx.NodeProto] = []
    decoded: set[str] = set()
    for node in graph.nodes:
        late = node.name.startswith(DECODE_PREFIX) or not decoded.isdisjoint(node.input)
        (decode if late else network).append(node)
        if late:
            decoded.update(node.output)
    return network, decode


def _drop_unused(graph: Graph) -> None:
    """Without the decode, its constants and shapes are nobody's."""
    used = {name for node in graph.nodes for name in (*node.input, *node.output)}
    for entries in (graph.proto.initializer, graph.proto.value_info):
        kept = [entry for entry in entries if entry.name in used]
        del entries[:]
        entries.extend(kept)
    graph.reindex()

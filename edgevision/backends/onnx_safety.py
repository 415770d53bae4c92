"""What an ONNX graph from a stranger may not do, checked on the wire format without the onnx package.

Even for a graph given as bytes, ONNX Runtime reads tensors from files that the graph names: 1.19 from anywhere
(`/etc/passwd` as weights), 1.32 still from below the working directory. And a Loop need never end. Bundles need
neither. Field numbers are those of onnx.proto (ONNX 1.23, IR version 13).
"""

from __future__ import annotations

from edgevision.backends import protobuf
from edgevision.errors import SessionError

# Where nodes and tensors live: message -> {field number -> kind of the message in it}.
_CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_OP_TYPE, _EXTERNAL_DATA, _DATA_LOCATION = 4, 13, 14


def check_graph(graph: bytes) -> None:
    """Refuse a graph that reads files or may never end.

    Args:
        graph: a serialised ModelProto.

    Raises:
        SessionError: it refers to data outside itself, holds a Loop, or is not a protobuf message.
    """
    # Strings are contiguous on the wire: without these words there is neither, and nothing to walk.
    if b"location" in graph or b"Loop" in graph:
        _walk(graph)


def _walk(graph: bytes) -> None:
    pending = [("model", 0, len(graph))]
    while pending:
        kind, start, end = pending.pop()
        for field, wire, first, last in protobuf.fields(graph, start, end):
            if kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and any(graph[first:last]))):
                raise SessionError(
                    "the graph keeps tensors in files outside itself, which is not allowed; export the model again"
                )
            if kind == "node" and field == _OP_TYPE and graph[first:last] == b"Loop":
                raise SessionError("the graph holds a Loop, which may never end; edgevision export does not write any")
            child = _CHILDREN[kind].get(field)
            if child and wire == protobuf.BYTES:
                pending.append((child, first, last))

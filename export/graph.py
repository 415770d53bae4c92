"""A thin working view of an ONNX model: who makes a tensor, who reads it, its constant value, its shape.

The protobuf stays the single truth; the view is an index over it. Passes edit `graph.proto` and call `reindex()`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

DECODE_PREFIX = "edgevision_decode/"
SCALE_PREFIX = "edgevision_scale/"
"""Of multiplications that the export put in front of quantised layers."""


class Constants(MutableMapping[str, NDArray[Any]]):
    """Arrays by tensor name; a stored tensor becomes one when it is first asked for."""

    def __init__(self, stored: Iterable[onnx.TensorProto]) -> None:
        self._known: dict[str, onnx.TensorProto | NDArray[Any]] = {tensor.name: tensor for tensor in stored}

    def __getitem__(self, name: str) -> NDArray[Any]:
        found = self._known[name]
        if isinstance(found, onnx.TensorProto):
            found = self._known[name] = numpy_helper.to_array(found)
        return found

    def __setitem__(self, name: str, value: onnx.TensorProto | NDArray[Any]) -> None:
        self._known[name] = value

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


class Graph:
    """An ONNX model with indices.

    Attributes:
        model: the protobuf.
        producer: tensor name -> the node that makes it.
        consumers: tensor name -> the nodes that read it.
        constants: tensor name -> value, for initialisers and Constant nodes. Do not write into the arrays.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.reindex()

    @property
    def proto(self) -> onnx.GraphProto:
        """The graph inside the model."""
        return self.model.graph

    @property
    def nodes(self) -> Iterator[onnx.NodeProto]:
        """Nodes in their stored (topological) order."""
        return iter(self.proto.node)

    @property
    def inputs(self) -> list[str]:
        """Names of the real inputs: initialisers listed as inputs (old exporters) are left out."""
        initialisers = {t.name for t in self.proto.initializer}
        return [i.name for i in self.proto.input if i.name not in initialisers]

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in order."""
        return [o.name for o in self.proto.output]

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return int(next(o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")))

    def reindex(self) -> None:
        """Rebuild the indices after edits."""
        self.producer: dict[str, onnx.NodeProto] = {}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.constants = Constants(self.proto.initializer)
        for node in self.proto.node:
            for name in node.output:
                if name:
                    self.producer[name] = node
            for name in dict.fromkeys(node.input):
                if name:
                    self.consumers[name].append(node)
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self._types = {
            v.name: v.type.tensor_type for v in (*self.proto.value_info, *self.proto.input, *self.proto.output)
        }

    def infer_shapes(self, *, check_types: bool = False) -> None:
        """Run ONNX shape inference over the whole model and reindex.

        Args:
            check_types: also whether every operator takes the types that it is given.

        Raises:
            onnx.shape_inference.InferenceError: the graph contradicts itself.
        """
        del self.proto.value_info[:]
        self.model = onnx.shape_inference.infer_shapes(self.model, check_types, strict_mode=True, data_prop=True)
        self.reindex()

    def complete_shapes(self) -> None:
        """Run shape inference unless the result of every node has a fixed shape already."""
        if any(self.shape(name) is None for node in self.nodes for name in node.output if name):
            self.infer_shapes()

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor; None where unknown or not fixed."""
        sides = self.sides(name)
        known = tuple(side for side in sides or () if side is not None)
        return None if sides is None or len(known) < len(sides) else known

    def sides(self, name: str) -> tuple[int | None, ...] | None:
        """Like `shape`, with None for each side that is open; None where not even their number is known."""
        if name in self.constants:
            return self.constants[name].shape
        tensor = self._types.get(name)
        if tensor is None or not tensor.HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)

    def dtype(self, name: str) -> int | None:
        """ONNX element type (TensorProto.FLOAT, ...) of a tensor; None where unknown."""
        if name in self.constants:
            return int(onnx.helper.np_dtype_to_tensor_dtype(self.constants[name].dtype))
        tensor = self._types.get(name)
        return tensor.elem_type if tensor is not None and tensor.elem_type else None

    def fresh(self, stem: str) -> str:
        """A tensor name not in use, starting with `stem`."""
        name, number = stem, 1
        while name in self.producer or name in self.constants or name in self._types:
            name, number = f"{stem}_{number}", number + 1
        return name

    def add_constant(self, stem: str, value: NDArray[Any]) -> str:
        """Store `value` as an initialiser under a fresh name and return the name."""
        name = self.fresh(stem)
        self.proto.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        self.constants[name] = value
        return name

    def replace_nodes(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Make `nodes` (copied, in this order) the graph's nodes and reindex; older node references go stale."""
        kept = list(nodes)
        del self.proto.node[:]
        self.proto.node.extend(kept)
        self.reindex()

    def rename_tensor(self, old: str, new: str) -> None:
        """Give tensor `old` the unused name `new` everywhere and reindex."""
        for node in all_nodes(self.nodes):
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
        for entry in (*self.proto.initializer, *self.proto.value_info, *self.proto.input, *self.proto.output):
            if entry.name == old:
                entry.name = new
        self.reindex()

    def copy(self) -> Graph:
        """A deep copy to edit."""
        clone = onnx.ModelProto()
        clone.CopyFrom(self.model)
        return Graph(clone)

    def serialize(self) -> bytes:
        """The model as bytes."""
        data: bytes = self.model.SerializeToString()
        return data


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and the nodes of their subgraphs."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for entry in node.attribute:
            for graph in (entry.g, *entry.graphs):
                waiting.extend(graph.node)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of a node's attribute, or `default`."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def type_name(kind: int) -> str:
    """An ONNX element type in words; a file may hold numbers that are none."""
    kinds = onnx.TensorProto.DataType
    return str(kinds.Name(kind)) if kind in kinds.values() else f"type {kind}"

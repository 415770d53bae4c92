"""Several pictures at once: the batch of an emitted graph becomes a free dimension, where the graph allows it.

A network exported for one picture carries that one in shapes that it states (Reshape, Resize) and in operators that
work across pictures. Every node is asked, by ONNX's own shape rules, what it would give for a number of pictures that
occurs nowhere else: exactly one axis of its result must grow by that number. Stated shapes are rewritten on the way.
What the shapes cannot show (a softmax across pictures) shows in numbers: two pictures at once must give what each
gives alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TypeProto, helper, numpy_helper

from edgevision.backends.onnxruntime import BATCH, OpenBatchSession, open_batch_session
from edgevision.errors import SessionError
from edgevision.export.emission import Emitted
from edgevision.export.graph import Graph
from edgevision.export.verification import Outputs

_PROBE = 7919
"""Pictures to ask for: a prime that no other dimension is a multiple of."""
_NOISE = 1e-3
"""Of an output's largest magnitude: what another order of additions, and a rounding that it tips, may change."""
_TIPPED = 1e-3
"""Share of a class map that this may tip to another class."""


def free_batches(emitted: Emitted) -> dict[str, str]:
    """Let the graphs take any number of pictures at once where their shapes allow it; what the shapes cannot show is
    left to `keep_batch`. The CPU's INT8 graph stays at one picture: a CPU gains nothing from more.

    Returns:
        Per graph `any number of pictures`, or what keeps it at one.
    """
    facts = {}
    for name in [name for name in emitted.graphs if name != "cpu.onnx"]:
        graph = Graph(onnx.load_model_from_string(emitted.graphs[name]))
        obstacle = free_batch(graph)
        facts[name] = f"one picture: {obstacle}" if obstacle else "any number of pictures"
        if not obstacle:
            emitted.singles[name], emitted.graphs[name] = emitted.graphs[name], graph.serialize()
            emitted.infos[name] = dataclasses.replace(emitted.infos[name], dynamic_batch=True)
    return facts


def keep_batch(
    emitted: Emitted, name: str, session: OpenBatchSession, pictures: Sequence[NDArray[Any]], alone: Sequence[Outputs]
) -> str:
    """Put a graph back to one picture where it gives something else for two at once.

    Args:
        emitted: holds the graph, with a free batch.
        session: of it.
        pictures: two network inputs.
        alone: what the session gives for each.

    Returns:
        What differs, see prove_batch.
    """
    single = emitted.singles.pop(name)
    try:
        if difference(alone, session.run(np.concatenate(pictures))) is None:
            return ""
        obstacle = prove_batch(emitted.graphs[name], pictures)
    except SessionError as error:
        obstacle = str(error)
    if obstacle:
        emitted.graphs[name] = single
        emitted.infos[name] = dataclasses.replace(emitted.infos[name], dynamic_batch=False)
    return obstacle


def free_batch(graph: Graph) -> str:
    """Give the input, and with it every output, a free first dimension.

    Args:
        graph: of one picture, shapes known; changed in place, and of no use where an obstacle is returned.

    Returns:
        What prevents it, naming the node; empty where nothing does.
    """
    return _Batching(graph).run()


class _Batching:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        # Tensors that depend on the picture, with their shapes for _PROBE pictures.
        self.types: dict[str, TypeProto] = {}
        self.axes: dict[str, int] = {}

    def run(self) -> str:
        graph = self.graph
        for entry in graph.proto.input:
            shape = graph.shape(entry.name)
            if not shape or shape[0] != 1:
                return f"input {entry.name!r} has no first dimension of 1"
            self._keep(entry.name, (_PROBE, *shape[1:]), 0)
        for node in graph.nodes:
            if any(name in self.axes for name in node.input):
                obstacle = self._visit(node)
                if obstacle:
                    return f"node {node.name!r} ({node.op_type}) {obstacle}"
        for name in graph.outputs:
            shape = graph.shape(name) or ()
            if self.axes.get(name) != 0 or shape[:1] != (1,):
                return f"output {name!r} {list(shape)} has no first dimension that counts pictures"
        for entry in (*graph.proto.input, *graph.proto.output):
            rest = (graph.shape(entry.name) or ())[1:]
            kind = graph.dtype(entry.name)
            entry.CopyFrom(helper.make_tensor_value_info(entry.name, kind, [BATCH, *rest]))
        graph.infer_shapes()
        return ""

    def _keep(self, name: str, shape: tuple[int, ...], axis: int) -> None:
        self.types[name] = helper.make_tensor_type_proto(self.graph.dtype(name) or 0, shape)
        self.axes[name] = axis

    def _visit(self, node: onnx.NodeProto) -> str:
        """Rewrite a node's stated shape, and note which axis of its results counts pictures."""
        if node.op_type == "Reshape":
            return self._reshape(node)
        if node.op_type == "Resize":
            self._resize(node)
        try:
            made = self._shapes(node)
        except onnx.shape_inference.InferenceError as error:
            return f"fits one picture only: {' '.join(str(error).split())[:200]}"
        for name in filter(None, node.output):
            before, after = self.graph.shape(name), made.get(name, ())
            axis = _grown(before, after)
            if before is None or axis is None:
                return f"gives {list(before or ())} for one picture and {list(after)} for {_PROBE}"
            self._keep(name, after, axis)
        return ""

    def _shapes(self, node: onnx.NodeProto) -> dict[str, tuple[int, ...]]:
        constants = self.graph.constants
        # Only values of lists say something of shapes.
        lists = [name for name in node.input if name in constants and constants[name].ndim < 2]
        values = {name: numpy_helper.from_array(constants[name], name) for name in lists}
        types = {
            name: self.types.get(name)
            or helper.make_tensor_type_proto(self.graph.dtype(name) or 0, self.graph.shape(name))
            for name in filter(None, node.input)
        }
        schema = onnx.defs.get_schema(node.op_type, self.graph.opset)
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, node, types, values, opset_imports=list(self.graph.model.opset_import)
        )
        return {name: tuple(dim.dim_value for dim in kind.tensor_type.shape.dim) for name, kind in inferred.items()}

    def _reshape(self, node: onnx.NodeProto) -> str:
        """State every side but the one that counts pictures: it begins where the old one began in memory."""
        source, result = node.input[0], node.output[0]
        before, after = self.graph.shape(source), self.graph.shape(result)
        if source not in self.axes or before is None or after is None:
            return "takes its shape from the picture"
        axis = self.axes[source]
        outside = math.prod(before[:axis])
        places = [place for place in range(len(after)) if math.prod(after[:place]) == outside]
        if not places:
            return f"joins pictures: {list(before)}, counted on axis {axis}, becomes {list(after)}"
        place = axis if axis in places and after[axis] == before[axis] else places[0]
        same = place == axis and after[place] == before[axis]
        stated = np.array([*after[:place], 0 if same else -1, *after[place + 1 :]], np.int64)
        node.input[1] = self.graph.add_constant(f"{result}/shape", stated)
        for index, entry in enumerate(node.attribute):
            if entry.name == "allowzero":
                del node.attribute[index]
                break
        self._keep(result, (*after[:place], after[place] * _PROBE, *after[place + 1 :]), place)
        return ""

    def _resize(self, node: onnx.NodeProto) -> None:
        """Factors instead of sizes, which would state the number of pictures."""
        before, after = self.graph.shape(node.input[0]), self.graph.shape(node.output[0])
        if len(node.input) < 4 or not node.input[3] or before is None or after is None:
            return
        scales = [_scale(small, large) for small, large in zip(before, after, strict=True)]
        name = self.graph.add_constant(f"{node.output[0]}/scales", np.array(scales, np.float32))
        node.input[:] = [*node.input[:2], name]


def _grown(before: tuple[int, ...] | None, after: tuple[int, ...]) -> int | None:
    """The one axis that grew _PROBE-fold; None where not exactly one did, or another changed."""
    if before is None or len(before) != len(after):
        return None
    grown = [axis for axis, (one, many) in enumerate(zip(before, after, strict=True)) if one != many]
    return grown[0] if len(grown) == 1 and after[grown[0]] == _PROBE * before[grown[0]] else None


def _scale(before: int, after: int) -> float:
    """The least factor, at or above the exact one, by which Resize makes `after` of `before`."""
    scale = float(np.float32(after / before))
    return scale if math.floor(scale * before) == after else float(np.nextafter(np.float32(scale), np.float32(2e4)))


def prove_batch(graph: bytes, pictures: Sequence[NDArray[Any]]) -> str:
    """Run pictures together and one by one.

    Args:
        graph: with a free batch.
        pictures: network inputs of one picture each.

    Returns:
        What differs by more than another order of additions would, and which node begins it; empty where nothing does.
    """
    try:
        found = _difference(graph, pictures)
        if found is None:
            return ""
        probe = Graph(onnx.load_model_from_string(graph))
        _show_everything(probe)
        begins = _difference(probe.serialize(), pictures) or found
        node = probe.producer[begins[0]]
        return f"node {node.name!r} ({node.op_type}) mixes pictures: {found[1]}"
    except SessionError as error:
        return str(error)


def _difference(graph: bytes, pictures: Sequence[NDArray[Any]]) -> tuple[str, str] | None:
    session = open_batch_session(graph, exact=True)
    return difference([session.run(picture) for picture in pictures], session.run(np.concatenate(pictures)))


def difference(alone: Sequence[Outputs], together: Outputs) -> tuple[str, str] | None:
    """The first output that depends on how the pictures come, and in what way.

    Args:
        alone: outputs for each picture.
        together: those for all at once.
    """
    for name, values in together.items():
        each = [outputs[name] for outputs in alone]
        axis = _grown_axis(each[0].shape, values.shape)
        expected = each[0] if axis is None else np.concatenate(each, axis)
        if values.shape != expected.shape:
            return name, f"{name!r} is {list(each[0].shape)} for one picture and {list(values.shape)} for {len(each)}"
        largest = float(np.abs(expected.astype(np.float64)).max(initial=1.0))
        off = float(np.mean(np.abs(values.astype(np.float64) - expected) > _NOISE * largest))
        if off > (0.0 if values.dtype.kind == "f" else _TIPPED):
            return name, f"{off:.1%} of {name!r} differ between {len(each)} pictures at once and one by one"
    return None


def _grown_axis(one: tuple[int, ...], many: tuple[int, ...]) -> int | None:
    return next((axis for axis, sides in enumerate(zip(one, many, strict=False)) if sides[0] != sides[1]), None)


def _show_everything(graph: Graph) -> None:
    """Make every tensor an output, in the order of the nodes."""
    declared = {entry.name: entry for entry in graph.proto.output}
    made = [name for node in graph.nodes for name in node.output if name and name not in graph.constants]
    outputs = [declared.get(name) or helper.make_tensor_value_info(name, graph.dtype(name) or 0, None) for name in made]
    del graph.proto.output[:]
    graph.proto.output.extend(outputs)

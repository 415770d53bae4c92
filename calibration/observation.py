"""Makes a graph hand out its inner tensors at almost no cost.

Asking ONNX Runtime for an inner tensor normally costs a copy out of its blocked layout (NCHWc, 8 or 16 channels
together), half a nanosecond per value: on small networks as much as the histogram itself. A histogram does not care
for the layout, so the graph is optimised once, those copies are taken out, and the blocked tensors are the outputs.
Where the optimiser uses no such layout (other processors) nothing is taken out and all else is the same.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgevision.calibration.objects import OUTPUTS
from edgevision.errors import CalibrationError
from edgevision.optional import require

_SAME_VALUES: Final = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose"})
_WIDEST_BLOCK: Final = 16

Bounds = tuple[float | None, float | None]


@dataclass(frozen=True)
class ObservedGraph:
    """A session that computes nothing but the observed tensors.

    Attributes:
        session: an onnxruntime.InferenceSession, one thread per run, safe to run from several threads.
        sources: asked-for tensor -> the tensor observed in its place: the same values in another shape.
        outputs: observed tensor -> the session's output that holds its values in some order. An observed tensor that
            is not here is the graph's input.
        shown: of OUTPUTS those that the session computes beside them, in their own shape: both, or none where the graph
            has no decoded detection head.
        bounds: observed tensor -> limits that its operator (ReLU, Clip) guarantees, None for none. Only tensors that
            lead to an observed one without limits are here: that one tells if a value is not finite.
    """

    session: Any
    sources: dict[str, str]
    outputs: dict[str, str]
    shown: tuple[str, ...]
    bounds: dict[str, Bounds]

    def is_blocked(self, tensor: str) -> bool:
        """Whether an observed tensor's values are in blocked layout."""
        return self.outputs.get(tensor, tensor) != tensor


def observe(graph: bytes, tensors: Sequence[str], input_name: str, *, in_order: bool = False) -> ObservedGraph:
    """Prepare `graph` (a serialised ONNX model) for observing `tensors`.

    Args:
        in_order: every tensor in its own shape, at the cost of the copies; else its values in any shape and order.

    Raises:
        CalibrationError: a tensor does not exist, is a constant or is not float32, or the graph does not run.
    """
    onnx = require("onnx", "calibration")
    model = onnx.load_model_from_string(graph)
    producers = {name: node for node in model.graph.node for name in node.output if name}
    sources = {name: name if in_order else _source(name, producers) for name in tensors}
    for name, source in sources.items():
        if source not in producers and source != input_name:
            raise CalibrationError(f"the graph does not compute tensor {name!r} from its input; it has no range")
    given = {spec.name: spec.type.tensor_type.elem_type for spec in model.graph.input}
    if input_name in sources.values() and given.get(input_name) != onnx.TensorProto.FLOAT:
        raise CalibrationError(f"input {input_name!r} is not float32; only float32 tensors have ranges to calibrate")
    wanted = sorted({source for source in sources.values() if source in producers})
    if not wanted:
        raise CalibrationError("no tensor to observe: the graph has nothing to quantise")

    given_out = {output.name: output.type.tensor_type for output in model.graph.output}
    shown = OUTPUTS if not in_order and _tells_objects(onnx, given_out) else ()
    extra = onnx.ModelProto()
    extra.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in given_out)
    try:
        # Messages merge when their bytes are joined: outputs are added without encoding all weights again.
        shown_all = graph + extra.SerializeToString()
        session, outputs = _in_order(shown_all, wanted) if in_order else _without_copies(shown_all, wanted, shown)
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise CalibrationError(f"the graph cannot be run for calibration: {error}") from error
    names = {output: name for name, output in outputs.items()} | {name: name for name in shown}
    for spec in session.get_outputs():
        if spec.type != "tensor(float)":
            raise CalibrationError(f"tensor {names[spec.name]!r} is a {spec.type}; only tensors of float32 have ranges")
        if not all(isinstance(side, int) for side in spec.shape):
            raise CalibrationError(f"tensor {names[spec.name]!r} has the shape {spec.shape}; every side must be fixed")
    return ObservedGraph(session, sources, outputs, shown, _all_bounds(model, wanted, producers))


def _tells_objects(onnx: Any, outputs: Mapping[str, Any]) -> bool:
    """Whether a graph has OUTPUTS, as float32 of fixed shapes."""
    specs = [outputs.get(name) for name in OUTPUTS]
    if not all(spec and spec.elem_type == onnx.TensorProto.FLOAT for spec in specs):
        return False
    boxes, scores = ([side.dim_value for side in spec.shape.dim] for spec in specs if spec)
    return len(boxes) == 3 and boxes[::2] == [1, 4] and scores[:2] == boxes[:2] and min(boxes + scores) > 0


def _source(name: str, producers: dict[str, Any]) -> str:
    """The first tensor with the same values, up through nodes that only move them."""
    while name in producers and producers[name].op_type in _SAME_VALUES:
        name = producers[name].input[0]
    return name


def _all_bounds(model: Any, wanted: Sequence[str], producers: dict[str, Any]) -> dict[str, Bounds]:
    """Limits by operator of those wanted tensors from which an unlimited one is computed."""
    scalars = _scalars(model)
    bounds = {name: _bounds(producers[name], scalars) for name in wanted}
    unlimited = [name for name, limits in bounds.items() if limits == (None, None)]
    watched = _ancestors(unlimited, producers).difference(unlimited)
    return {name: limits for name, limits in bounds.items() if name in watched}


def _bounds(node: Any, scalars: dict[str, float]) -> Bounds:
    if node.op_type == "Relu":
        return 0.0, None
    if node.op_type == "Clip":
        given = {attribute.name: attribute.f for attribute in node.attribute}  # before opset 11
        given.update(zip(("min", "max"), (scalars.get(name) for name in node.input[1:3]), strict=False))
        return given.get("min"), given.get("max")
    return None, None


def _scalars(model: Any) -> dict[str, float]:
    """Values of the graph's constants of one float."""
    onnx = require("onnx", "calibration")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {
        name: float(onnx.numpy_helper.to_array(tensor))
        for name, tensor in tensors.items()
        if tensor.data_type == onnx.TensorProto.FLOAT and not tensor.dims
    }


def _in_order(graph: bytes, wanted: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """A session that computes exactly the wanted tensors."""
    onnx, ort = require("onnx", "calibration"), require("onnxruntime", "calibration")
    model = onnx.load_model_from_string(graph)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    _prune(model.graph)
    options = _options(ort, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, {name: name for name in wanted}


def _without_copies(graph: bytes, wanted: Sequence[str], shown: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """A session that ends in blocked tensors and in those to be `shown` as they are, and where each wanted one is."""
    onnx, ort = require("onnx", "calibration"), require("onnxruntime", "calibration")
    with tempfile.TemporaryDirectory(prefix="edgevision-") as folder:
        path = Path(folder, "optimised.onnx")
        options = _options(ort, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        options.optimized_model_filepath = str(path)
        # Weights go to a file of their own, which nothing below has to read.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

        model = onnx.load_model(path, load_external_data=False)
        read = {name for node in model.graph.node for name in _reads(node)}.union(shown)
        outputs = {name: name for name in wanted}
        for node in model.graph.node:
            name = node.output[0]
            if node.op_type == "ReorderOutput" and name in outputs and name not in read and _fills_its_blocks(node):
                outputs[name] = node.input[0]
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys([*outputs.values(), *shown]))
        _prune(model.graph)
        path.write_bytes(model.SerializeToString())
        options = _options(ort, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]), outputs


@functools.cache
def block_size() -> int:
    """How many neighbouring channels ONNX Runtime keeps together on this processor; 1 where it has no such layout.

    Two cells of 16 channels go through a convolution that changes nothing: it is told where the second one begins.
    """
    onnx = require("onnx", "calibration")
    channels = _WIDEST_BLOCK
    weights = np.eye(channels, dtype=np.float32).reshape(channels, channels, 1, 1)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["image", "weights"], ["same"])],
        "layout",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, channels, 1, 2])],
        [onnx.helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, [1, channels, 1, 2])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    session, _ = _without_copies(model.SerializeToString(), ["same"], ())
    second = np.zeros((1, channels, 1, 2), np.float32)
    second[..., 1] = 1
    (found,) = session.run(None, {"image": second})
    return int(np.flatnonzero(found.reshape(-1))[0])


def _options(ort: Any, level: Any) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = level
    options.enable_mem_pattern = False  # the outputs have their memory, and planning the rest doubles it
    return options


def _prune(graph: Any) -> None:
    """Drop every node that the outputs do not need."""
    producers = {name: node for node in graph.node for name in node.output if name}
    needed = _ancestors([output.name for output in graph.output], producers)
    kept = [node for node in graph.node if needed.intersection(node.output)]
    del graph.node[:]
    graph.node.extend(kept)


def _ancestors(names: Sequence[str], producers: dict[str, Any]) -> set[str]:
    """`names` and every tensor that they are computed from."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(_reads(producers[name]) if name in producers else ())
    return found


def _reads(node: Any) -> Iterator[str]:
    """Names of tensors that a node reads, those inside its branches and loops included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*attribute.graphs, attribute.g):
            for inner in graph.node:
                yield from _reads(inner)


def _fills_its_blocks(node: Any) -> bool:
    """Whether the blocked tensor holds no padding: then it has exactly the values of the plain one."""
    return any(a.name == "channels" and a.i % _WIDEST_BLOCK == 0 for a in node.attribute)

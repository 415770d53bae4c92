"""An ONNX file from anywhere becomes a checked graph: one opset, fixed shapes, weights inside, nothing foreign."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edgevision.errors import ModelError, UsageError
from edgevision.export.external_data import load_external_data, tensors
from edgevision.export.graph import DECODE_PREFIX, Graph, all_nodes, attribute, type_name
from edgevision.export.metadata import Metadata, read_metadata
from edgevision.export.opset import inline_functions, refuse_foreign_operators, to_opset
from edgevision.export.plugins import replace_suppression
from edgevision.files import sha256

LIMIT_BYTES = 1 << 30
_QUANTISED = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"})
# Names of the normal form's outputs; an input may not bear them.
_RESERVED = frozenset(
    [
        *("boxes", "scores", "class_ids", "keypoints", "mask_coefficients", "mask_prototypes", "box_masks"),
        *("mask_kernels", "mask_features", "class_map", "logits"),
    ]
)


@dataclass
class LoadedModel:
    """A checked model.

    Attributes:
        graph: float32, operator set 19, batch 1, all input shapes fixed.
        metadata: what the exporter noted.
        sha256: hash of the file as it came.
        facts: what was found and changed, for the report.
    """

    graph: Graph
    metadata: Metadata
    sha256: str
    facts: dict[str, object]


def load_graph(source: Path | str | bytes, input_wh: tuple[int, int] | None = None) -> LoadedModel:
    """Read and check a model.

    Args:
        source: path of an .onnx file, or its bytes.
        input_wh: width and height for an input that leaves them open.

    Raises:
        ModelError: the file is missing, not ONNX, damaged, too large, reaches outside its folder, uses operators
            we cannot carry, or contradicts itself.
        UsageError: the input's size is open and was not given, or is fixed and another was given.
    """
    model, data, folder = read_model(source)
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    external = load_external_data(model, folder, LIMIT_BYTES - len(data))
    _check(model)
    model = replace_suppression(model)
    metadata = read_metadata(model)
    model = inline_functions(model)
    refuse_foreign_operators(model)
    _refuse_other_precisions(model)
    _initialisers_are_not_inputs(model)
    model = to_opset(model)
    _fix_resizes(model)
    _name_nodes(model)
    _strip_notes(model)
    _refuse_proposals(model)
    _batch_single_pictures(model)
    fixed = _fix_inputs(model, input_wh, metadata)
    graph = _infer(model)
    for name in _RESERVED & set(graph.inputs):
        graph.rename_tensor(name, graph.fresh(f"input_{name}"))
    facts: dict[str, object] = {
        "bytes": len(data) + external,
        "operator_sets": versions,
        "nodes": len(graph.proto.node),
        "fixed_dimensions": fixed,
    }
    return LoadedModel(graph, metadata, sha256(data), facts)


def read_model(source: Path | str | bytes) -> tuple[onnx.ModelProto, bytes, Path | None]:
    """The parsed file, unchecked; its bytes; and the folder it lies in (None for bytes).

    Raises:
        ModelError: it is missing, too large, or not ONNX.
    """
    data, folder = _read(source)
    return _parse(data, source), data, folder


def _read(source: Path | str | bytes) -> tuple[bytes, Path | None]:
    if isinstance(source, bytes):
        if len(source) > LIMIT_BYTES:
            raise ModelError(f"the model has {len(source)} bytes; the limit is {LIMIT_BYTES}")
        return source, None
    path = Path(source)
    try:
        if path.is_dir():
            raise ModelError(f"{path} is a folder; give the .onnx file in it")
        if path.exists() and not path.is_file():
            raise ModelError(f"{path} is a device or a pipe; give an .onnx file")
        size = path.stat().st_size
        if size > LIMIT_BYTES:
            raise ModelError(f"{path} has {size} bytes; the limit is {LIMIT_BYTES}")
        with path.open("rb") as handle:
            data = handle.read()
    except FileNotFoundError as error:
        raise ModelError(f"model {path} does not exist; give the path of a .onnx file") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read model {path}: {error}") from error
    return data, path.parent


def _parse(data: bytes, source: Path | str | bytes) -> onnx.ModelProto:
    name = "the model" if isinstance(source, bytes) else str(source)
    if not data:
        raise ModelError(f"{name} is empty; copy or export it again")
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise ModelError(f"{name} is not an ONNX file, or is truncated ({error}); copy or export it again") from error
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise ModelError(
            f"{name} is not an ONNX model: it has {len(model.graph.node)} nodes, {len(model.graph.output)} outputs "
            f"and {len(model.opset_import)} operator sets; expected at least one of each"
        )
    return model


def _check(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model)
        if not all(isinstance(text, str) for text in _texts(model)):
            raise ValueError("a name in it is not UTF-8")
        for tensor in tensors(model):
            if tensor.data_type not in onnx.TensorProto.DataType.values():
                raise ValueError(f"tensor {tensor.name!r} is of type {tensor.data_type}, which ONNX does not have")
            if tensor.dims or tensor.name:
                onnx.numpy_helper.to_array(tensor)
    except Exception as error:
        raise ModelError(f"the model is damaged or invalid: {_first_lines(error)}; export it again") from error


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    """Every name; protobuf hands over as bytes what is not UTF-8."""
    for node in all_nodes([*model.graph.node, *(n for f in model.functions for n in f.node)]):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (entry.name for entry in node.attribute)
    for entry in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        yield entry.name
    yield from (dim.dim_param for e in model.graph.input for dim in e.type.tensor_type.shape.dim)
    yield from (tensor.name for tensor in tensors(model))
    yield from (text for entry in model.metadata_props for text in (entry.key, entry.value))


def _refuse_other_precisions(model: onnx.ModelProto) -> None:
    quantised = sorted({node.op_type for node in model.graph.node} & _QUANTISED)
    if quantised:
        raise ModelError(
            f"the model is already quantised ({', '.join(quantised)}); bring the float model, "
            "edgevision quantises it for each backend"
        )
    types = {tensor.data_type for tensor in model.graph.initializer}
    types |= {entry.type.tensor_type.elem_type for entry in (*model.graph.input, *model.graph.output)}
    strange = types & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
    if strange:
        names = ", ".join(type_name(kind) for kind in sorted(strange))
        raise ModelError(
            f"the model holds {names} tensors; export it in float32 (Ultralytics: half=False), "
            "edgevision makes the FP16 form itself"
        )


def _initialisers_are_not_inputs(model: onnx.ModelProto) -> None:
    """Old exporters list every weight as an input; then it is no constant, and nothing can be folded."""
    names = {tensor.name for tensor in model.graph.initializer}
    kept = [entry for entry in model.graph.input if entry.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)


def _fix_resizes(model: onnx.ModelProto) -> None:
    """Resize with sizes and an empty `scales` was legal before opset 13; now an absent input says the same."""
    empty = {tensor.name for tensor in model.graph.initializer if 0 in tensor.dims}
    for node in model.graph.node:
        if node.op_type == "Constant" and 0 in attribute(node, "value", onnx.TensorProto()).dims:
            empty.add(node.output[0])
        if node.op_type == "Resize":
            node.input[:] = ["" if name in empty else name for name in node.input]
            if len(node.input) == 4 and node.input[3]:
                node.input[2] = ""


def _name_nodes(model: onnx.ModelProto) -> None:
    """Unique node names, none with the prefix that marks our own decode."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken or node.name.startswith(DECODE_PREFIX):
            node.name = f"{node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
        taken.add(node.name)


def _strip_notes(model: onnx.ModelProto) -> None:
    """Remove free text: exporters leave stack traces with the author's paths in it."""
    model.doc_string = model.graph.doc_string = ""
    for entry in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        entry.doc_string = ""
    for node in model.graph.node:
        del node.metadata_props[:]
    del model.metadata_props[:]


def _refuse_proposals(model: onnx.ModelProto) -> None:
    """Fast R-CNN takes boxes [N,4], or [N,5] with the number of the picture, beside the picture."""
    for entry in model.graph.input:
        dims = entry.type.tensor_type.shape.dim
        if len(dims) == 2 and dims[1].dim_value in (4, 5):
            raise ModelError(
                f"input {entry.name!r} looks like proposals (Fast R-CNN), which nothing here makes. A cascade does "
                "that work: export a classifier for what is in a box, and run it behind a detector or any other source "
                "of boxes (edgevision run DETECTOR --classify CLASSIFIER)"
            )


def _batch_single_pictures(model: onnx.ModelProto) -> None:
    """torchvision's detectors take a picture [3,H,W]: give it the batch of one that all other models have."""
    for entry in model.graph.input:
        dims = entry.type.tensor_type.shape.dim
        if len(dims) != 3 or dims[0].dim_value != 3:
            continue
        taken = {name for node in model.graph.node for name in (*node.output, node.name)}
        taken |= {tensor.name for tensor in model.graph.initializer}
        single = f"{entry.name}/single"
        while not taken.isdisjoint((single, f"{single}/axis")):
            single += "_"
        for node in all_nodes(model.graph.node):
            node.input[:] = [single if name == entry.name else name for name in node.input]
        dims.insert(0, onnx.TensorShapeProto.Dimension(dim_value=1))
        axis = onnx.numpy_helper.from_array(np.array([0]), f"{single}/axis")
        model.graph.initializer.append(axis)
        squeeze = onnx.helper.make_node("Squeeze", [entry.name, axis.name], [single], name=single)
        model.graph.node.insert(0, squeeze)


def _fix_inputs(model: onnx.ModelProto, input_wh: tuple[int, int] | None, metadata: Metadata) -> dict[str, list[int]]:
    """Give every open dimension of an input a number: batch 1, height and width as said."""
    fixed = {}
    for entry in model.graph.input:
        dims = entry.type.tensor_type.shape.dim
        before = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims]
        wanted = list(before)
        if len(dims) > 1 and before[0] is None:
            wanted[0] = 1
        if len(dims) == 4:
            spatial = (1, 2) if before[3] in (1, 3) and before[1] not in (1, 3) else (2, 3)
            size = input_wh
            if size is None and None in (before[spatial[0]], before[spatial[1]]):
                size = metadata.input_wh
            if size is not None:
                for axis, side in zip(spatial, (size[1], size[0]), strict=True):
                    if before[axis] not in (None, side):
                        raise UsageError(
                            f"--input-size {size[0]}x{size[1]}: input {entry.name!r} is fixed to {before} in the file; "
                            "leave the flag out, or export the model with dynamic height and width"
                        )
                    wanted[axis] = side
        if None in wanted:
            raise UsageError(
                f"input {entry.name!r} leaves dimensions open ({[side or '?' for side in before]}); "
                "give --input-size WIDTHxHEIGHT"
            )
        if wanted != before:
            fixed[entry.name] = [int(side) for side in wanted if side is not None]
            for dim, side in zip(dims, fixed[entry.name], strict=True):
                dim.dim_value = side
        if len(dims) > 1 and dims[0].dim_value != 1:
            raise ModelError(
                f"input {entry.name!r} has shape {before}: its batch is fixed to {dims[0].dim_value}; "
                "export the model with batch 1 or a dynamic batch"
            )
    if fixed:
        for entry in model.graph.output:
            entry.type.tensor_type.ClearField("shape")
    return fixed


def _infer(model: onnx.ModelProto) -> Graph:
    try:
        graph = Graph(model)
        list(graph.constants.values())  # damaged ones are found here
        graph.infer_shapes(check_types=True)
    except Exception as error:
        raise ModelError(f"the model's shapes or types contradict each other: {_first_lines(error)}") from error
    return graph


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:400]

"""OnnxParser: reads a model with the onnx package into layers."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import shape_inference

from tests.standins.tensorrt.binding import Bound
from tests.standins.tensorrt.rules import Graph, Refusal, check, name_of, said

_KINDS = {
    "Conv": "CONVOLUTION", "ConvTranspose": "DECONVOLUTION", "MatMul": "MATRIX_MULTIPLY", "Gemm": "MATRIX_MULTIPLY",
    "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Concat": "CONCATENATION", "Cast": "CAST",
    "Identity": "IDENTITY", "Reshape": "SHUFFLE", "Transpose": "SHUFFLE", "Flatten": "SHUFFLE", "Squeeze": "SHUFFLE",
    "Unsqueeze": "SHUFFLE", "MaxPool": "POOLING", "AveragePool": "POOLING", "GlobalAveragePool": "REDUCE",
    "Relu": "ACTIVATION", "LeakyRelu": "ACTIVATION", "Sigmoid": "ACTIVATION", "Tanh": "ACTIVATION",
    "HardSigmoid": "ACTIVATION", "HardSwish": "ACTIVATION", "Clip": "ACTIVATION", "Elu": "ACTIVATION",
    "Softplus": "ACTIVATION", "Selu": "ACTIVATION", "Gelu": "ACTIVATION", "Softmax": "SOFTMAX", "Resize": "RESIZE",
    "Slice": "SLICE", "Split": "SLICE", "Pad": "SLICE", "Gather": "GATHER", "GatherND": "GATHER",
    "GatherElements": "GATHER", "TopK": "TOPK", "ArgMax": "TOPK", "ArgMin": "TOPK", "BatchNormalization": "SCALE",
    "Shape": "SHAPE", "Where": "SELECT", "NonMaxSuppression": "NMS", "NonZero": "NON_ZERO", "Expand": "SLICE",
    "GridSample": "GRID_SAMPLE", "Einsum": "EINSUM", "PRelu": "PARAMETRIC_RELU", "Constant": "CONSTANT",
    "InstanceNormalization": "NORMALIZATION", "LayerNormalization": "NORMALIZATION", "ScatterND": "SCATTER",
    "ScatterElements": "SCATTER", "If": "CONDITION", "ConstantOfShape": "FILL", "Range": "FILL", "Tile": "SLICE",
    "Exp": "UNARY", "Log": "UNARY", "Sqrt": "UNARY", "Abs": "UNARY", "Neg": "UNARY", "Floor": "UNARY", "Ceil": "UNARY",
    "Erf": "UNARY", "Round": "UNARY", "Not": "UNARY", "Reciprocal": "UNARY", "Sin": "UNARY", "Cos": "UNARY",
    "OneHot": "ONE_HOT", "LRN": "LRN",
}  # fmt: skip
# Operators whose constants stay constant layers; all others take constants in as weights and parameters.
_OPEN = {"ELEMENTWISE", "QUANTIZE", "DEQUANTIZE", "CONCATENATION", "MATRIX_MULTIPLY", "SELECT"}


class ParserError(Bound):
    """One thing that the parser said; `refusal` holds it."""

    __slots__ = ()

    def _code(self) -> Any:
        known = self._trt.enums["ErrorCode"]
        return getattr(known, self._s.refusal.code, known.__members__["UNSUPPORTED_NODE"])

    def _desc(self) -> str:
        return str(self._s.refusal.text)

    def _node(self) -> int:
        return int(self._s.refusal.index)

    def _node_name(self) -> str:
        return str(self._s.refusal.node)

    def _node_operator(self) -> str:
        return str(self._s.refusal.operator)

    def _file(self) -> str:
        return "ModelImporter.cpp"

    def _func(self) -> str:
        return "importModel"

    def _line(self) -> int:
        return 100

    def _local_function_stack(self) -> list[str]:
        return []

    def _local_function_stack_size(self) -> int:
        return 0


class OnnxParser(Bound):
    """State: `network`, `logger`, `errors`, `subgraphs` of the last support check."""

    __slots__ = ()

    def _construct(self, *arguments: Any) -> None:
        network, logger = arguments
        self._s = SimpleNamespace(network=network, logger=logger, errors=[], subgraphs=[], flags=0)

    def _get_num_errors(self) -> int:
        return len(self._s.errors)

    def _get_error(self, index: int) -> Any:
        if not 0 <= index < len(self._s.errors):
            return None
        return self._trt.make("ParserError", refusal=self._s.errors[index])

    def _clear_errors(self) -> None:
        self._s.errors = []

    def _set_flag(self, flag: Any) -> None:
        self._s.flags |= 1 << int(flag)

    def _clear_flag(self, flag: Any) -> None:
        self._s.flags &= ~(1 << int(flag))

    def _get_flag(self, flag: Any) -> bool:
        return bool(self._s.flags >> int(flag) & 1)

    def _get_used_vc_plugin_libraries(self) -> list[str]:
        return []

    def _supports_operator(self, operator: str) -> bool:
        return onnx.defs.has(operator)

    def _supports_model(self, model: memoryview, path: str | None) -> tuple[bool, list[tuple[list[int], bool]]]:
        graph = self._read(bytes(model))
        refused = {refusal.index for refusal in check(graph)} if graph else set()
        count = len(graph.model.graph.node) if graph else 0
        groups: list[tuple[list[int], bool]] = []
        for index in range(count):
            fits = index not in refused and -1 not in refused
            if groups and fits and groups[-1][1]:
                groups[-1][0].append(index)
            else:
                groups.append(([index], fits))
        self._s.subgraphs = groups
        return not refused, groups

    def _supports_model_v2(self, model: memoryview, path: str | None) -> bool:
        return self._supports_model(model, path)[0]

    def _get_num_subgraphs(self) -> int:
        return len(self._s.subgraphs)

    def _is_subgraph_supported(self, index: int) -> bool:
        return bool(self._s.subgraphs[index][1])

    def _get_subgraph_nodes(self, index: int) -> list[int]:
        return list(self._s.subgraphs[index][0])

    def _parse_from_file(self, path: str) -> bool:
        try:
            return self._parse(memoryview(Path(path).read_bytes()), path)
        except OSError:
            self._refuse([Refusal("MODEL_DESERIALIZE_FAILED", f"Failed to open file: {path}")])
            return False

    def _parse(self, model: memoryview, path: str | None) -> bool:
        network = self._s.network
        if network._s.layers or network._s.inputs:
            self._refuse([Refusal("INTERNAL_ERROR", "Parse was called with a non-empty network definition")])
            return False
        if network._s.implicit_batch:
            text = "This version of the ONNX parser only supports networks with an explicit batch dimension"
            self._refuse([Refusal("INVALID_VALUE", text)])
            return False
        graph = self._read(bytes(model))
        if graph is None:
            return True  # the real parsers take bytes that are no model for an empty network
        refusals = said(graph, check(graph))
        if refusals:
            self._refuse(refusals)
            return False
        self._import(graph)
        return True

    def _refuse(self, refusals: list[Refusal]) -> None:
        self._s.errors += refusals
        for refusal in refusals:
            where = f"While parsing node number {refusal.index} [{refusal.operator} -> ]: " if refusal.operator else ""
            self._trt.log(self._s.logger, "ERROR", f"ModelImporter.cpp:773: {where}{refusal.text}")

    def _read(self, data: bytes) -> Graph | None:
        model = onnx.ModelProto()
        try:
            model.ParseFromString(data)
        except DecodeError:
            return None
        if not model.graph.node:
            return None
        with contextlib.suppress(shape_inference.InferenceError):  # what it cannot follow, the rules refuse
            model = shape_inference.infer_shapes(model, data_prop=True)
        network = self._s.network
        graph = Graph(model, self._trt.number, self._trt.rtx, network._s.strong)
        for values in model.graph.initializer:
            graph.constants[values.name] = values
            graph.elements[values.name], graph.shapes[values.name] = values.data_type, tuple(values.dims)
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
            kind = value.type.tensor_type
            graph.elements[value.name] = kind.elem_type
            graph.shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                graph.constants[node.output[0]] = node.attribute[0].t
        return graph

    def _import(self, graph: Graph) -> None:
        network, model = self._s.network, graph.model
        header = onnx.ModelProto()
        header.CopyFrom(model)
        header.ClearField("graph")
        network._s.model = header
        network._s.constants.update(graph.constants)
        for value in model.graph.input:
            if value.name not in graph.constants:
                tensor = network._tensor(value.name, graph.elements[value.name], graph.shapes[value.name])
                network._s.inputs.append(tensor)
        for node in model.graph.node:
            self._add(graph, node)
        for value in model.graph.output:
            network._mark_output(network._s.tensors[value.name])
        if not network._s.strong and hasattr(self._trt.enums["DataType"], "INT64"):
            for tensor in network._s.outputs:
                if tensor._s.dtype.name == "INT64":
                    self._trt.log(self._s.logger, "WARNING", f"Make sure output {tensor._s.name} has Int64 binding.")

    def _add(self, graph: Graph, node: Any) -> None:
        network = self._s.network
        kind = _KINDS.get(node.op_type, "REDUCE" if node.op_type.startswith("Reduce") else "ELEMENTWISE")
        if node.op_type == "Constant" and node.output[0] in graph.constants:
            values = onnx.TensorProto()
            values.CopyFrom(graph.constants[node.output[0]])
            values.name = node.output[0]
            network._s.constants[values.name] = values
            return
        slots: list[Any] = []
        inputs: list[Any] = []
        for position, name in enumerate(node.input):
            constant = name in graph.constants
            weights = kind in ("QUANTIZE", "DEQUANTIZE") and position == 2
            if not name or (constant and (kind not in _OPEN or weights)):
                slots.append(name)
                continue
            if name not in network._s.tensors:
                network._add_initializer(network._s.constants[name])
            slots.append(len(inputs))
            inputs.append(network._s.tensors[name])
        if kind in ("QUANTIZE", "DEQUANTIZE") and self._trt.number[0] >= 11:
            inputs.append(self._zero(graph, inputs[1]))
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = name_of(node)
        outputs = [
            network._tensor(name, graph.elements.get(name, onnx.TensorProto.FLOAT), graph.shapes.get(name, ()))
            if name
            else None
            for name in node.output
        ]
        network._layer(kind, copy, slots, inputs, outputs, "ILayer", metadata=f"[ONNX Layer: {copy.name}]")

    def _zero(self, graph: Graph, scale: Any) -> Any:
        """The shift of a Q or DQ, which the parsers of TensorRT 11 make a tensor of the scale's type."""
        network = self._s.network
        count = sum(name.startswith("tmp_weight") for name in network._s.constants)
        name = f"tmp_weight_{count - 1}" if count else "tmp_weight"
        zeros = onnx.helper.make_tensor(name, scale._s.element, scale._s.shape, [0.0] * math.prod(scale._s.shape))
        return network._add_initializer(zeros)._s.outputs[0]

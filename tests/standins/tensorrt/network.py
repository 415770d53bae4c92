"""Networks: layers over the nodes of an ONNX graph, which may be rewired, and the way back to ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.standins.tensorrt.binding import Bound

# Names of DataType by ONNX element type.
TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.INT8: "INT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.DOUBLE: "FLOAT",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT4: "INT4",
    TensorProto.FLOAT8E4M3FN: "FP8",
}
ELEMENTS = {name: element for element, name in reversed(TYPES.items())}


class ITensor(Bound):
    """A tensor; `key` is its name in the ONNX graph, `element` its ONNX type, `dtype` TensorRT's."""

    __slots__ = ()

    def _get_is_network_input(self) -> bool:
        return self in self._s.network._s.inputs

    def _get_is_network_output(self) -> bool:
        return self in self._s.network._s.outputs

    def _get_shape(self) -> Any:
        return self._trt.make_dims(self._s.shape)

    def _set_shape(self, sides: Any) -> None:
        self._s.shape = tuple(sides)

    def _set_dynamic_range(self, low: float, high: float) -> bool:
        self._s.dynamic_range = (low, high)
        return True

    def _reset_dynamic_range(self) -> None:
        self._s.dynamic_range = None


class ILayer(Bound):
    """A layer over one ONNX node, or over a constant.

    State: `node`, `slots` (per input of the node: index of an input tensor, or a name: a constant taken in),
    `inputs`, `outputs`.
    """

    __slots__ = ()

    def _get_num_inputs(self) -> int:
        return len(self._s.inputs)

    def _get_num_outputs(self) -> int:
        return len(self._s.outputs)

    def _get_type(self) -> Any:
        return self._trt.member("LayerType", self._s.kind)

    def _get_input(self, index: int) -> Any:
        return self._s.inputs[index] if 0 <= index < len(self._s.inputs) else None

    def _get_output(self, index: int) -> Any:
        return self._s.outputs[index] if 0 <= index < len(self._s.outputs) else None

    def _set_input(self, index: int, tensor: Any) -> None:
        network = self._s.network
        if not 0 <= index < len(self._s.inputs):
            network._fail("INVALID_ARGUMENT", f"ILayer::setInput: {self._s.name} has no input {index}")
        elif tensor._s.network is not network:
            network._fail("INVALID_ARGUMENT", f"ILayer::setInput: {tensor._s.name} belongs to another network")
        else:
            self._s.inputs[index] = tensor

    def _set_precision(self, kind: Any) -> None:
        self._s.precision = kind

    def _get_precision(self) -> Any:
        return self._s.precision or self._trt.member("DataType", "FLOAT")

    def _get_precision_is_set(self) -> bool:
        return self._s.precision is not None

    def _reset_precision(self) -> None:
        self._s.precision = None

    def _set_output_type(self, index: int, kind: Any) -> None:
        self._s.output_types[index] = kind

    def _get_output_type(self, index: int) -> Any:
        return self._s.output_types.get(index, self._s.outputs[index]._s.dtype)

    def _output_type_is_set(self, index: int) -> bool:
        return index in self._s.output_types

    def _reset_output_type(self, index: int) -> None:
        self._s.output_types.pop(index, None)


class INetworkDefinition(Bound):
    """State: `layers`, `inputs`, `outputs`, `constants` (name -> TensorProto), `model` (its header), `logger`."""

    __slots__ = ()

    def _fail(self, code: str, text: str) -> None:
        self._trt.fail(self._s.logger, self._s.error_recorder, code, text)

    def _get_num_inputs(self) -> int:
        return len(self._s.inputs)

    def _get_num_outputs(self) -> int:
        return len(self._s.outputs)

    def _get_num_layers(self) -> int:
        return len(self._s.layers)

    _len = _get_num_layers

    def _get_has_implicit_batch_dimension(self) -> bool:
        return bool(self._s.implicit_batch)

    def _get_flag(self, flag: Any) -> bool:
        return bool(self._s.flags >> int(flag) & 1)

    def _get_layer(self, index: int) -> Any:
        return self._s.layers[index] if 0 <= index < len(self._s.layers) else None

    _getitem = _get_layer

    def _get_input(self, index: int) -> Any:
        return self._s.inputs[index] if 0 <= index < len(self._s.inputs) else None

    def _get_output(self, index: int) -> Any:
        return self._s.outputs[index] if 0 <= index < len(self._s.outputs) else None

    def _mark_output(self, tensor: Any) -> None:
        if tensor not in self._s.outputs:
            self._s.outputs.append(tensor)

    def _unmark_output(self, tensor: Any) -> None:
        self._s.outputs = [entry for entry in self._s.outputs if entry is not tensor]

    def _remove_tensor(self, tensor: Any) -> None:
        self._s.inputs = [entry for entry in self._s.inputs if entry is not tensor]

    def _add_input(self, name: str, kind: Any, shape: Any) -> Any:
        tensor = self._tensor(name, ELEMENTS[kind.name], tuple(shape))
        self._s.inputs.append(tensor)
        return tensor

    def _add_cast(self, tensor: Any, kind: Any) -> Any:
        element = ELEMENTS[kind.name]
        return self._added("ICastLayer", "CAST", helper.make_node("Cast", ["x"], ["y"], to=element), [tensor], element)

    def _add_identity(self, tensor: Any) -> Any:
        node = helper.make_node("Identity", ["x"], ["y"])
        return self._added("IIdentityLayer", "IDENTITY", node, [tensor], tensor._s.element)

    def _add_constant(self, shape: Any, weights: Any) -> Any:
        array = np.asarray(weights._s.array).reshape(tuple(shape))
        name = f"(Unnamed Layer* {len(self._s.layers)}) [Constant]"
        return self._add_initializer(numpy_helper.from_array(array, name), "IConstantLayer")

    def _added(self, shell: str, kind: str, node: Any, inputs: list[Any], element: int) -> Any:
        number = len(self._s.layers)
        node.name = f"(Unnamed Layer* {number}) [{shell[1:-5]}]"
        output = self._tensor(f"{node.name}_output", element, inputs[0]._s.shape)
        node.output[0] = output._s.key
        return self._layer(kind, node, list(range(len(inputs))), inputs, [output], shell, metadata="")

    def _add_initializer(self, values: TensorProto, shell: str = "ILayer") -> Any:
        """A constant layer."""
        self._s.constants[values.name] = values
        output = self._tensor(values.name, values.data_type, tuple(values.dims))
        output._s.name = f"{values.name}_output"
        layer = self._layer("CONSTANT", None, [], [], [output], shell, metadata="")
        layer._s.name = values.name
        return layer

    def _tensor(self, name: str, element: int, shape: tuple[int, ...]) -> Any:
        kind = TYPES[element]
        if kind == "INT64" and not hasattr(self._trt.enums["DataType"], "INT64"):
            kind = "INT32"
        tensor = self._trt.make(
            "ITensor",
            network=self,
            key=name,
            name=name,
            element=element,
            shape=shape,
            dtype=self._trt.member("DataType", kind),
            dynamic_range=None,
            allowed_formats=1,
            is_shape_tensor=False,
            is_execution_tensor=True,
            location=self._trt.member("TensorLocation", "DEVICE"),
        )
        self._s.tensors[name] = tensor
        return tensor

    def _layer(
        self, kind: str, node: Any, slots: list[Any], inputs: list[Any], outputs: list[Any], shell: str, metadata: str
    ) -> Any:
        layer = self._trt.make(
            shell,
            network=self,
            kind=kind,
            node=node,
            slots=slots,
            inputs=list(inputs),
            outputs=outputs,
            name=node.name if node is not None else "",
            metadata=metadata,
            precision=None,
            output_types={},
        )
        self._s.layers.append(layer)
        return layer

    def _to_model(self, grids: dict[Any, float] | None = None) -> onnx.ModelProto:
        """The network as it is now, as ONNX: only what its outputs need, in an order that can be run.

        Args:
            grids: layers that compute in INT8 without Q/DQ, with the scale of their first input.
        """
        inputs, names = [], {}
        nodes: list[onnx.NodeProto] = []
        for tensor in self._s.inputs:
            element = self._element(tensor)
            shape = [None if side < 0 else side for side in tensor._s.shape]
            inputs.append(helper.make_tensor_value_info(tensor._s.name, element, shape))
            names[tensor] = tensor._s.name
            if element != tensor._s.element:
                names[tensor] = f"{tensor._s.name} as parsed"
                to = tensor._s.element
                nodes.append(helper.make_node("Cast", [tensor._s.name], [names[tensor]], to=to))
        constants: dict[str, TensorProto] = {}
        for layer in self._ordered():
            for output in layer._s.outputs:
                names[output] = f"{output._s.key} inside" if output in self._s.outputs else output._s.key
            if layer._s.node is None:
                values = TensorProto()
                values.CopyFrom(self._s.constants[layer._s.name])
                values.name = names[layer._s.outputs[0]]
                constants[values.name] = values
                continue
            node = onnx.NodeProto()
            node.CopyFrom(layer._s.node)
            del node.input[:], node.output[:]
            for slot in layer._s.slots:
                node.input.append(names[layer._s.inputs[slot]] if isinstance(slot, int) else slot)
                if isinstance(slot, str) and slot:
                    constants[slot] = self._s.constants[slot]
            if grids and layer in grids:
                node.input[0] = _on_grid(node.input[0], node.name, grids[layer], nodes, constants)
            node.output.extend(names[t] if t is not None else "" for t in layer._s.outputs)
            nodes.append(node)
        outputs = []
        for tensor in self._s.outputs:
            element = self._element(tensor)
            shape = [None if side < 0 else side for side in tensor._s.shape]
            outputs.append(helper.make_tensor_value_info(tensor._s.name, element, shape))
            if element == tensor._s.element:
                nodes.append(helper.make_node("Identity", [names[tensor]], [tensor._s.name]))
            else:
                nodes.append(helper.make_node("Cast", [names[tensor]], [tensor._s.name], to=element))
        graph = helper.make_graph(nodes, "network", inputs, outputs, list(constants.values()))
        model = onnx.ModelProto()
        model.CopyFrom(self._s.model)
        model.graph.CopyFrom(graph)
        return model

    def _element(self, tensor: Any) -> int:
        """The ONNX type of a tensor at the network's border."""
        return ELEMENTS[tensor._s.dtype.name]

    def _ordered(self) -> list[Any]:
        """The layers that the outputs need, each after what it reads."""
        makers = {output: layer for layer in self._s.layers for output in layer._s.outputs if output is not None}
        done: dict[Any, bool] = {}
        order: list[Any] = []
        stack = [(makers[t], False) for t in reversed(self._s.outputs) if t in makers]
        while stack:
            layer, visited = stack.pop()
            if visited:
                done[layer] = True
                order.append(layer)
            elif layer not in done:
                done[layer] = False
                stack.append((layer, True))
                stack.extend((makers[t], False) for t in layer._s.inputs if t in makers)
            elif not done[layer] and (layer, True) not in stack:
                raise ValueError(f"layer {layer._s.name} reads its own output")
        return order


def _on_grid(name: str, layer: str, scale: float, nodes: list[Any], constants: dict[str, TensorProto]) -> str:
    """The name of a tensor after rounding to INT8 and back."""
    scale_name, zero_name = f"{layer} scale", f"{layer} zero"
    constants[scale_name] = numpy_helper.from_array(np.float32(scale), scale_name)
    constants[zero_name] = numpy_helper.from_array(np.int8(0), zero_name)
    nodes.append(helper.make_node("QuantizeLinear", [name, scale_name, zero_name], [f"{layer} quantised"]))
    nodes.append(
        helper.make_node("DequantizeLinear", [f"{layer} quantised", scale_name, zero_name], [f"{layer} input"])
    )
    return f"{layer} input"

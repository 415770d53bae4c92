"""Small ONNX graphs, each with one thing that TensorRT takes or refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F, H, U8, I8, I32, I64 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.UINT8,
    TensorProto.INT8,
    TensorProto.INT32,
    TensorProto.INT64,
)
Sides = list[int | str | None]
_IMAGE: Sides = [1, 8, 16, 16]


class Sketch:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, values: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        made = helper.make_node(operator, inputs, [output], f"the_{output}", domain=domain, **attributes)
        self.nodes.append(made)
        return output

    def quantised(self, name: str, zero: Any = None, scale: Any = None) -> str:
        """The name of `name` after a Q/DQ pair."""
        scale = self.constant(f"{name}_scale", np.float32(0.05) if scale is None else scale)
        zero = self.constant(f"{name}_zero", np.int8(0) if zero is None else zero)
        self.node("QuantizeLinear", [name, scale, zero], f"{name}_q")
        return self.node("DequantizeLinear", [f"{name}_q", scale, zero], f"{name}_dq")

    def weights(self, name: str, shape: tuple[int, ...], axis: int = 0) -> str:
        """The name of int8 weights after a DQ."""
        values = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)
        grid = [
            self.constant(f"{name}_scale", np.full(shape[axis], 0.02, np.float32)),
            self.constant(f"{name}_zero", np.zeros(shape[axis], np.int8)),
        ]
        return self.node("DequantizeLinear", [self.constant(name, values), *grid], f"{name}_dq", axis=axis)

    def model(
        self, inputs: dict[str, tuple[int, Sides]], outputs: dict[str, tuple[int, Sides]], opset: int = 17
    ) -> bytes:
        """The serialised model."""
        ends = [[helper.make_tensor_value_info(n, *spec) for n, spec in side.items()] for side in (inputs, outputs)]
        graph = helper.make_graph(self.nodes, "small", ends[0], ends[1], self.constants)
        opsets = [helper.make_opsetid("", opset)]
        made: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 19 else 9)
        return bytes(made.SerializeToString())


GRAPHS: dict[str, Callable[[], bytes]] = {}


def graph(make: Callable[[], bytes]) -> Callable[[], bytes]:
    """Register a graph by its function's name."""
    GRAPHS[make.__name__] = make
    return make


def _float_weights(sketch: Sketch, dtype: Any = np.float32) -> str:
    return sketch.constant("w", np.random.default_rng(1).normal(0, 0.2, (8, 8, 3, 3)).astype(dtype))


@graph
def convolution() -> bytes:
    s = Sketch()
    s.node("Conv", ["x", _float_weights(s)], "c", pads=[1, 1, 1, 1])
    s.node("Relu", ["c"], "y")
    return s.model({"x": (F, _IMAGE)}, {"y": (F, _IMAGE)})


@graph
def convolution_in_int8() -> bytes:
    s = Sketch()
    s.node("Conv", [s.quantised("x"), s.weights("w", (8, 8, 3, 3))], "y", pads=[1, 1, 1, 1])
    return s.model({"x": (F, _IMAGE)}, {"y": (F, _IMAGE)})


@graph
def convolution_in_half() -> bytes:
    s = Sketch()
    s.node("Conv", ["x", _float_weights(s, np.float16)], "y", pads=[1, 1, 1, 1])
    return s.model({"x": (H, _IMAGE)}, {"y": (H, _IMAGE)})


@graph
def matrix_product_in_int8() -> bytes:
    s = Sketch()
    s.node("MatMul", [s.quantised("x"), s.weights("w", (16, 4), axis=1)], "y")
    return s.model({"x": (F, [2, 16])}, {"y": (F, [2, 4])})


@graph
def int32_bias_through_dq() -> bytes:
    s = Sketch()
    bias = [s.constant("b", np.arange(8, dtype=np.int32)), s.constant("bs", np.full(8, 0.001, np.float32))]
    s.node("DequantizeLinear", [*bias, s.constant("bz", np.zeros(8, np.int32))], "bias", axis=0)
    s.node("Conv", [s.quantised("x"), s.weights("w", (8, 8, 3, 3)), "bias"], "y", pads=[1, 1, 1, 1])
    return s.model({"x": (F, _IMAGE)}, {"y": (F, _IMAGE)})


@graph
def asymmetric_int8() -> bytes:
    s = Sketch()
    s.node("Relu", [s.quantised("x", zero=np.int8(3))], "y")
    return s.model({"x": (F, _IMAGE)}, {"y": (F, _IMAGE)})


@graph
def asymmetric_uint8() -> bytes:
    s = Sketch()
    s.node("Relu", [s.quantised("x", zero=np.uint8(128))], "y")
    return s.model({"x": (F, _IMAGE)}, {"y": (F, _IMAGE)})


@graph
def half_scales() -> bytes:
    s = Sketch()
    s.node("Relu", [s.quantised("x", scale=np.float16(0.05))], "y")
    return s.model({"x": (H, _IMAGE)}, {"y": (H, _IMAGE)}, opset=19)


@graph
def integer_convolution() -> bytes:
    s = Sketch()
    one = [s.constant("s", np.float32(0.1)), s.constant("z", np.int8(0))]
    s.node("QuantizeLinear", ["x", *one], "q")
    weights = s.constant("w", np.ones((8, 8, 3, 3), np.int8))
    s.node("QLinearConv", ["q", *one, weights, *one, *one], "c", pads=[1, 1, 1, 1])
    s.node("DequantizeLinear", ["c", *one], "y")
    return s.model({"x": (F, _IMAGE)}, {"y": (F, _IMAGE)})


@graph
def two_unsupported_operators() -> bytes:
    s = Sketch()
    s.node("Relu", ["x"], "r")
    s.node("Unique", ["r"], "u")
    s.node("Det", ["m"], "y")
    return s.model({"x": (F, [8]), "m": (F, [2, 2])}, {"u": (F, [None]), "y": (F, [])})


@graph
def plugin_of_nobody() -> bytes:
    s = Sketch()
    s.node("Frobnicate", ["x"], "y", domain="trt.nobody")
    return s.model({"x": (F, _IMAGE)}, {"y": (F, _IMAGE)})


@graph
def float_and_half_added() -> bytes:
    s = Sketch()
    s.node("Add", ["x", "z"], "y")
    return s.model({"x": (F, _IMAGE), "z": (H, _IMAGE)}, {"y": (F, _IMAGE)})


@graph
def bytes_transposed() -> bytes:
    s = Sketch()
    s.node("Transpose", ["x"], "t", perm=[0, 3, 1, 2])
    s.node("Cast", ["t"], "y", to=F)
    return s.model({"x": (U8, [1, 16, 16, 3])}, {"y": (F, [1, 3, 16, 16])})


@graph
def bytes_cast_first() -> bytes:
    s = Sketch()
    s.node("Cast", ["x"], "f", to=F)
    s.node("Transpose", ["f"], "y", perm=[0, 3, 1, 2])
    return s.model({"x": (U8, [1, 16, 16, 3])}, {"y": (F, [1, 3, 16, 16])})


@graph
def bytes_resized() -> bytes:
    s = Sketch()
    scales = s.constant("s", np.array([1, 1, 2, 2], np.float32))
    s.node("Resize", ["x", "", scales], "r", mode="nearest")
    s.node("Cast", ["r"], "y", to=F)
    return s.model({"x": (U8, [1, 3, 16, 16])}, {"y": (F, [1, 3, 32, 32])})


@graph
def class_map_in_bytes() -> bytes:
    s = Sketch()
    s.node("ArgMax", ["x"], "a", axis=1, keepdims=0)
    s.node("Cast", ["a"], "y", to=U8)
    return s.model({"x": (F, _IMAGE)}, {"y": (U8, [1, 16, 16])})


@graph
def wide_integers() -> bytes:
    s = Sketch()
    s.node("ArgMax", ["x"], "y", axis=1, keepdims=0)
    return s.model({"x": (F, _IMAGE)}, {"y": (I64, [1, 16, 16])})


@graph
def resized_with_antialiasing() -> bytes:
    s = Sketch()
    scales = s.constant("s", np.array([1, 1, 0.5, 0.5], np.float32))
    s.node("Resize", ["x", "", scales], "y", mode="linear", antialias=1)
    return s.model({"x": (F, _IMAGE)}, {"y": (F, [1, 8, 8, 8])}, opset=18)


@graph
def best_of_many() -> bytes:
    s = Sketch()
    s.nodes.append(helper.make_node("TopK", ["x", s.constant("k", np.array([4000]))], ["y", "i"], "the_top"))
    return s.model({"x": (F, [1, 8400])}, {"y": (F, [1, 4000])})


@graph
def best_of_some() -> bytes:
    s = Sketch()
    s.nodes.append(helper.make_node("TopK", ["x", s.constant("k", np.array([300]))], ["y", "i"], "the_top"))
    return s.model({"x": (F, [1, 8400])}, {"y": (F, [1, 300])})


@graph
def suppression() -> bytes:
    s = Sketch()
    limits = [s.constant("m", np.array([10])), s.constant("i", np.float32([0.5])), s.constant("t", np.float32([0.1]))]
    s.node("NonMaxSuppression", ["b", "s", *limits], "y")
    return s.model({"b": (F, [1, 50, 4]), "s": (F, [1, 3, 50])}, {"y": (I64, [None, 3])})


@graph
def places_of_nonzeros() -> bytes:
    s = Sketch()
    s.node("NonZero", ["x"], "y")
    return s.model({"x": (F, [8])}, {"y": (I64, [1, None])})


@graph
def quantised_constant_into_a_product() -> bytes:
    s = Sketch()
    s.constant("c", np.ones((1, 8, 1, 1), np.float32))
    s.node("Mul", [s.quantised("x"), s.quantised("c")], "y")
    return s.model({"x": (F, _IMAGE)}, {"y": (F, _IMAGE)})


@graph
def open_batch() -> bytes:
    s = Sketch()
    s.node("Conv", ["x", _float_weights(s)], "y", pads=[1, 1, 1, 1])
    return s.model({"x": (F, ["N", 8, 16, 16])}, {"y": (F, ["N", 8, 16, 16])})


@graph
def an_operator_set_of_the_future() -> bytes:
    s = Sketch()
    s.node("Relu", ["x"], "y")
    return s.model({"x": (F, _IMAGE)}, {"y": (F, _IMAGE)}, opset=99)


@graph
def nothing() -> bytes:
    return b""


@graph
def no_model() -> bytes:
    return b"hello"

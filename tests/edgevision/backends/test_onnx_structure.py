"""What a graph must be before TensorRT's parser, native code that trusts it, sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgevision.backends.onnx_structure import check_structure
from edgevision.errors import SessionError
from edgevision.export.emit_tensorrt import emit_tensorrt
from edgevision.export.half import to_half
from edgevision.export.placement import plan_placement
from tests.export.networks import measured, pictures, random_network


def sound() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    weights = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, c, 4, 4)) for n, c in (("x", 3), ("y", 2))]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize("seed", range(8))
def test_exported_graphs_are_sound(seed: int) -> None:
    graph, _ = random_network(seed)
    plan = plan_placement(graph)
    shape = tuple(d.dim_value for d in graph.proto.input[0].type.tensor_type.shape.dim)
    ranges = measured(graph, plan.observed, pictures(shape, 1))
    for emitted in (graph, to_half(graph), emit_tensorrt(graph, plan, ranges)):
        check_structure(emitted.serialize())


@pytest.mark.parametrize(
    "values",
    [
        helper.make_tensor("t", TensorProto.FLOAT, (2, 3), np.arange(6.0)),
        helper.make_tensor("t", TensorProto.DOUBLE, (2,), [1.0, 2.0]),
        helper.make_tensor("t", TensorProto.INT64, (3,), [1, -2, 3]),
        helper.make_tensor("t", TensorProto.INT8, (2,), [-1, 1]),
        helper.make_tensor("t", TensorProto.FLOAT16, (2,), np.array([1, 2], np.float16)),
        helper.make_tensor("t", TensorProto.BOOL, (), [True]),
        helper.make_tensor("t", TensorProto.FLOAT, (0, 3), []),
        numpy_helper.from_array(np.ones((2, 2), np.uint8), "t"),
    ],
    ids=lambda values: TensorProto.DataType.Name(values.data_type),
)
def test_every_way_to_store_values_is_understood(values: TensorProto) -> None:
    model = sound()
    model.graph.initializer.append(values)
    check_structure(model.SerializeToString())


def without_output(model: onnx.ModelProto) -> None:
    del model.graph.node[1].output[:]


def without_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = ""


def without_weights(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[1:]


def without_picture(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = ""


def out_of_order(model: onnx.ModelProto) -> None:
    model.graph.node.reverse()


def twice(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = "c"


def short(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"\0" * 20


def short_values(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].float_data.extend([1.0] * 5)


def negative(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -2


def huge(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 62


def of_no_type(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def attribute(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("t", TensorProto.FLOAT, (2,), [1.0, 2.0])
    values.dims[0] = 3
    model.graph.node[1].attribute.append(helper.make_attribute("value", values))


def without_result(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "elsewhere"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_output, r"node 'relu' \(Relu\) has no operator or no output"),
        (without_operator, r"node 'conv' \(\) has no operator"),
        (without_weights, r"node 'conv' \(Conv\) has the inputs \['x'\], expected at least 2"),
        (without_picture, r"node 'conv' \(Conv\) has the inputs \['', 'w'\]"),
        (out_of_order, r"node 'relu' \(Relu\) reads 'c', which no earlier node makes"),
        (twice, r"node 'relu' \(Relu\) makes \['c'\], which is there already"),
        (short, r"tensor 'w' has 20 bytes or values, its sides \[2, 3, 1, 1\] ask for 24"),
        (short_values, r"tensor 'w' has 5 bytes or values"),
        (negative, r"tensor 'w' has the sides \[-2, "),
        (huge, r"tensor 'w' has the sides \[4611686018427387904, "),
        (of_no_type, r"tensor 'w' has .* type 99"),
        (attribute, r"tensor 't' has 2 bytes or values, its sides \[3\] ask for 3"),
        (without_result, r"output 'elsewhere' is made by no node"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_does_not_fit_together_is_refused_by_name(damage: Callable[[onnx.ModelProto], None], words: str) -> None:
    model = sound()
    check_structure(model.SerializeToString())
    damage(model)
    with pytest.raises(SessionError, match=words):
        check_structure(model.SerializeToString())


SOME = to_half(random_network(3)[0]).serialize()


@given(st.binary(max_size=50), st.integers(0, len(SOME) - 1), st.integers(0, 20))
def test_damage_ends_in_a_refusal_or_is_none(noise: bytes, start: int, length: int) -> None:
    with contextlib.suppress(SessionError):
        check_structure(SOME[:start] + noise + SOME[start + length :])


def test_names_that_are_no_text_are_refused() -> None:
    data = sound().SerializeToString().replace(b"relu", b"re\xe2u")
    with pytest.raises(SessionError, match="a name that is not UTF-8"):
        check_structure(data)

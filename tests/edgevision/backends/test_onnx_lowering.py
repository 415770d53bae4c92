"""Graphs rewritten for TensorRT 8.6: the same numbers at operator set 17, says ONNX Runtime."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgevision.backends import protobuf
from edgevision.backends.onnx_graph import float32_nodes, quantised_ranges, read_nodes
from edgevision.backends.onnx_lowering import OPSET, lower
from edgevision.backends.onnxruntime import open_session
from edgevision.errors import BuildError, SessionError
from edgevision.export import ExportConfig, prepare
from edgevision.export.emit_tensorrt import emit_tensorrt
from edgevision.export.graph import Graph
from edgevision.export.half import float32_nodes as stays_float32
from edgevision.export.half import to_half
from edgevision.export.placement import plan_placement
from edgevision.export.structure import key
from edgevision.models import path as shipped
from tests.export.networks import measured, pictures, random_network, sqnr_db


def run(graph: bytes, image: np.ndarray) -> list[np.ndarray]:
    session = open_session(graph, exact=True)
    return [value.copy() for value in session.run({session.inputs[0].name: image}).values()]


def single(*nodes: onnx.NodeProto, opset: int = 19, **constants: Any) -> bytes:
    """A model over `x` (1, 4, 6, 8) with output `y`."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 6, 8))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "graph", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return model.SerializeToString()


# --- whole graphs -----------------------------------------------------------------------------------------------------


def emitted(seed: int) -> dict[str, Graph]:
    graph, _ = random_network(seed)
    plan = plan_placement(graph)
    shape = tuple(d.dim_value for d in graph.proto.input[0].type.tensor_type.shape.dim)
    ranges = measured(graph, plan.observed, pictures(shape, 2))
    return {"fp32": graph, "fp16": to_half(graph), "int8": emit_tensorrt(graph, plan, ranges)}


@pytest.mark.parametrize("seed", range(12))
def test_lowered_graphs_compute_the_same(seed: int) -> None:
    """Float32 instead of float16 between the same Q/DQ: as near as float16 is to float32."""
    for precision, graph in emitted(seed).items():
        original = graph.serialize()
        lowered = lower(original, "graph")
        model = onnx.load_from_string(lowered)
        onnx.checker.check_model(model, full_check=True)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
        types = {tensor.data_type for tensor in model.graph.initializer}
        types |= {a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute}
        assert TensorProto.FLOAT16 not in types
        image = pictures(tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim), 1, seed)[0]
        for wanted, found in zip(run(original, image), run(lowered, image), strict=True):
            if precision == "fp32":
                np.testing.assert_array_equal(wanted, found)
            else:
                assert sqnr_db(found, wanted) > (45 if precision == "fp16" else 25)


@pytest.mark.parametrize("seed", range(4))
def test_weights_of_int8_graphs_are_untouched(seed: int) -> None:
    graph = emitted(seed)["int8"].serialize()
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(data).graph.initializer}
        for data in (graph, lower(graph, "graph"))
    )
    assert {v.dtype for v in before.values()} >= {np.dtype(np.int8), np.dtype(np.float16)}
    for name, values in before.items():
        assert after[name].dtype == (np.float32 if values.dtype == np.float16 else values.dtype)
        np.testing.assert_array_equal(after[name], values.astype(after[name].dtype))


def test_nodes_that_stay_float32_are_known_by_name() -> None:
    """The exporter's own reasons are the reference."""
    graph = prepare(shipped("aerial_detector"), ExportConfig(precision="fp32")).graph
    wanted = {node.name for node in graph.nodes if key(node) in stays_float32(graph)}
    assert len(wanted) > 5
    assert float32_nodes(to_half(graph).serialize()) == wanted


def test_every_node_is_read_with_its_names() -> None:
    graph, _ = random_network(1)
    found = read_nodes(graph.serialize())
    assert [(n.name, n.operator, n.inputs, n.outputs) for n in found] == [
        (n.name, n.op_type, list(n.input), list(n.output)) for n in graph.nodes
    ]


# --- operators that versions 18 and 19 changed ------------------------------------------------------------------------

IMAGE = np.random.default_rng(0).normal(size=(1, 4, 6, 8)).astype(np.float32)


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"])
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "int64_data"])
def test_axes_of_reductions_become_an_attribute(operator: str, packed: bool) -> None:
    graph = single(helper.make_node(operator, ["x", "axes"], ["y"], name="r", keepdims=0), axes=np.array([2, -1]))
    model = onnx.load_from_string(graph)
    if packed:
        tensor = model.graph.initializer[0]
        tensor.CopyFrom(helper.make_tensor("axes", TensorProto.INT64, (2,), [2, -1]))
    lowered = lower(model.SerializeToString(), "graph")
    node = onnx.load_from_string(lowered).graph.node[0]
    assert list(node.input) == ["x"]
    assert {a.name: helper.get_attribute_value(a) for a in node.attribute} == {"axes": [2, -1], "keepdims": 0}
    for wanted, found in zip(run(graph, IMAGE), run(lowered, IMAGE), strict=True):
        np.testing.assert_array_equal(wanted, found)


def test_a_split_into_equal_parts_needs_no_count() -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], name="s", axis=1, num_outputs=2),
        helper.make_node("Sub", ["a", "b"], ["y"], name="d"),
    ]
    graph = single(*nodes)
    lowered = lower(graph, "graph")
    onnx.shape_inference.infer_shapes(onnx.load_from_string(lowered), strict_mode=True)
    np.testing.assert_array_equal(run(graph, IMAGE)[0], run(lowered, IMAGE)[0])


def test_defaults_of_newer_attributes_are_left_out() -> None:
    nodes = [
        helper.make_node(
            "Resize",
            ["x", "", "scales"],
            ["r"],
            name="r",
            mode="linear",
            antialias=0,
            keep_aspect_ratio_policy="stretch",
        ),
        helper.make_node("AveragePool", ["r"], ["y"], name="p", kernel_shape=[2, 2], dilations=[1, 1]),
    ]
    graph = single(*nodes, scales=np.array([1, 1, 2, 2], np.float32))
    lowered = lower(graph, "graph")
    onnx.shape_inference.infer_shapes(onnx.load_from_string(lowered), strict_mode=True)
    # Another kernel for another version of the operator: the same sum in another order.
    np.testing.assert_allclose(run(lowered, IMAGE)[0], run(graph, IMAGE)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (
            helper.make_node("Resize", ["x", "", "scales"], ["y"], name="it", mode="linear", antialias=1),
            "'it' .Resize. has antialias",
        ),
        (helper.make_node("Resize", ["x", "", "scales"], ["y"], name="it", axes=[2, 3]), "'it' .Resize. has axes"),
        (
            helper.make_node("AveragePool", ["x"], ["y"], name="it", kernel_shape=[2, 2], dilations=[2, 1]),
            "'it' .AveragePool. has dilations",
        ),
        (helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"], name="it"), "'it' .Pad. pads named axes"),
        (helper.make_node("ReduceMean", ["x", "computed"], ["y"], name="it"), "'it' .ReduceMean. computes its axes"),
    ],
    ids=["antialias", "axes", "dilations", "pad", "computed"],
)
def test_what_would_compute_something_else_is_refused_by_name(node: onnx.NodeProto, words: str) -> None:
    graph = single(node, scales=np.ones(4, np.float32), pads=np.zeros(4, np.int64), axes=np.array([2, 3]))
    with pytest.raises(BuildError, match=rf"graph: node {words}"):
        lower(graph, "graph")


def test_older_graphs_keep_their_operator_set() -> None:
    graph = single(helper.make_node("Relu", ["x"], ["y"], name="r"), opset=13)
    assert onnx.load_from_string(lower(graph, "graph")).opset_import[0].version == 13


# --- bytes from anywhere ----------------------------------------------------------------------------------------------

SOME = to_half(random_network(3)[0]).serialize()


@given(st.binary(max_size=100), st.integers(0, len(SOME) - 1), st.integers(0, 20))
def test_damaged_graphs_end_in_a_refusal_or_another_graph(noise: bytes, start: int, length: int) -> None:
    damaged = SOME[:start] + noise + SOME[start + length :]
    with contextlib.suppress(SessionError, BuildError, ValueError):
        assert isinstance(lower(damaged, "graph"), bytes)
    with contextlib.suppress(SessionError):
        assert all(isinstance(name, str) for name in (*float32_nodes(damaged), *quantised_ranges(damaged)))
    assert isinstance(read_nodes(damaged), list)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(1, 1 << 28), st.just(protobuf.VARINT), st.integers(0, (1 << 64) - 1)),
            st.tuples(st.integers(1, 1 << 28), st.just(protobuf.BYTES), st.binary(max_size=300)),
            st.tuples(st.integers(1, 1 << 28), st.just(protobuf.FIXED32), st.binary(min_size=4, max_size=4)),
            st.tuples(st.integers(1, 1 << 28), st.just(protobuf.FIXED64), st.binary(min_size=8, max_size=8)),
        )
    )
)
def test_messages_are_written_as_they_are_read(message: list[protobuf.Field]) -> None:
    assert protobuf.decode(protobuf.encode(message)) == message


def test_an_onnx_model_is_written_as_it_was_read() -> None:
    assert onnx.load_from_string(protobuf.encode(protobuf.decode(SOME))) == onnx.load_from_string(SOME)


@pytest.mark.parametrize("seed", range(4))
def test_ranges_are_those_of_the_quantised_tensors(seed: int) -> None:
    graph = emitted(seed)["int8"]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.proto.initializer}
    quantisers = [node for node in graph.nodes if node.op_type == "QuantizeLinear"]
    wanted = {node.input[0]: 127 * float(constants[node.input[1]]) for node in quantisers}
    assert len(wanted) > 2
    assert quantised_ranges(graph.serialize()) == wanted

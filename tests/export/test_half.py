"""Typed FP16: which tensors become float16, where casts stand, and that nothing is lost without a word."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgevision.errors import ModelError
from edgevision.export.graph import DECODE_PREFIX, Graph
from edgevision.export.half import float32_nodes, to_half
from tests.export.networks import Net, pictures, random_network, run, sqnr_db

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT


def converted(net: Net, *outputs: str) -> Graph:
    graph = to_half(net.graph(*outputs))
    onnx.checker.check_model(graph.model, full_check=True)
    return graph


def kinds(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.nodes)


def test_inside_is_float16_and_the_interface_float32() -> None:
    net = Net()
    net.op("Relu", net.convolution("image", 3, 8, out="layer"), out="y")
    graph = converted(net, "y")
    assert (graph.dtype("image"), graph.dtype("layer"), graph.dtype("y")) == (SINGLE, HALF, SINGLE)
    assert kinds(graph) == {"Cast": 2, "Conv": 1, "Relu": 1}
    assert all(numpy_helper.to_array(t).dtype == np.float16 for t in graph.proto.initializer)


def test_the_decode_and_all_behind_it_stay_float32() -> None:
    net = Net()
    x = net.convolution("image", 3, 8, out="raw")
    x = net.op("Exp", x, out="decoded")
    net.nodes[-1].name = f"{DECODE_PREFIX}exp"
    net.op("Mul", x, net.constant(np.float32(640)), out="y")
    graph = converted(net, "y")
    assert (graph.dtype("raw"), graph.dtype("decoded"), graph.dtype("y")) == (HALF, SINGLE, SINGLE)
    assert float32_nodes(net.graph("y")) == {"decoded": "decode", "y": "decode"}
    assert kinds(graph)["Cast"] == 2  # into the network, out of it


def test_a_tensor_read_by_both_sides_is_cast_once() -> None:
    net = Net()
    x = net.convolution("image", 3, 8, out="raw")
    for name in ("a", "b"):
        net.op("Exp", x, out=name)
        net.nodes[-1].name = DECODE_PREFIX + name
    net.op("Relu", x, out="c")
    graph = converted(net, "a", "b", "c")
    assert Counter(node.op_type for node in graph.consumers["raw"]) == {"Cast": 1, "Relu": 1}


def test_an_output_that_is_also_read_inside_keeps_its_name_and_type() -> None:
    net = Net()
    net.op("Relu", net.convolution("image", 3, 8, out="middle"), out="y")
    graph = converted(net, "middle", "y")
    assert graph.outputs == ["middle", "y"]
    assert {graph.dtype(name) for name in graph.outputs} == {SINGLE}
    assert graph.dtype(graph.producer["middle"].input[0]) == HALF


@pytest.mark.parametrize(
    ("operator", "value", "reason"),
    [
        ("Add", 1e6, "overflows"),
        ("Mul", -7e4, "overflows"),
        ("Mul", 1e-9, "vanishes"),
        ("Max", 1e-9, "vanishes"),  # an epsilon that keeps a division finite
        ("Add", 1e4, ""),
        ("Mul", 0.0, ""),
        ("Add", -np.inf, ""),  # float16 has infinities
    ],
)
def test_constants_that_float16_cannot_hold_keep_their_node_in_float32(
    operator: str, value: float, reason: str
) -> None:
    net = Net()
    x = net.convolution("image", 3, 8)
    net.op(operator, x, net.constant(np.float32(value), "constant"), out="y")
    source = net.graph("y")
    reasons = float32_nodes(source)
    assert (reason in reasons["y"] and "'constant'" in reasons["y"]) if reason else not reasons
    graph = converted(net, "y")
    held = next(v for name, v in graph.constants.items() if name.startswith("constant"))
    assert float(held) == np.float32(value) if reason else held.dtype == np.float16
    if np.isfinite(value):
        image = pictures(net.input, 1)[0]
        expected = run(source, image)["y"]
        np.testing.assert_allclose(run(graph, image)["y"], expected, rtol=0, atol=2**-9 * np.abs(expected).max())


def test_single_weights_that_vanish_beside_larger_ones_change_nothing() -> None:
    net = Net()
    weight = net.random.normal(size=(8, 3, 3, 3)).astype(np.float32)
    weight[0, 0] = 1e-9
    net.op("Conv", "image", net.constant(weight), out="y")
    assert not float32_nodes(net.graph("y"))


def test_a_constant_read_in_both_types_is_stored_in_both() -> None:
    net = Net()
    shared = net.constant(np.float32(3), "shared")
    x = net.op("Mul", net.convolution("image", 3, 8), shared)
    net.op("Mul", x, shared, out="y")
    net.nodes[-1].name = f"{DECODE_PREFIX}scale"
    graph = converted(net, "y")
    assert {graph.constants[n].dtype for n in graph.constants if n.startswith("shared")} == {
        np.dtype(np.float16),
        np.dtype(np.float32),
    }


def test_the_scales_of_a_resize_stay_float32() -> None:
    net = Net()
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    x = net.op("Resize", net.convolution("image", 3, 8), "", scales, mode="linear", out="large")
    net.op("Relu", x, out="y")
    graph = converted(net, "y")
    assert graph.constants[graph.producer["large"].input[2]].dtype == np.float32
    assert graph.dtype("large") == HALF


def test_operators_without_float16_stay_float32() -> None:
    net = Net()
    net.op("Celu", net.convolution("image", 3, 8), out="celu")
    net.op("Relu", "celu", out="y")
    assert float32_nodes(net.graph("y"))["celu"].startswith("Celu is not defined for float16")
    assert converted(net, "y").dtype("celu") == SINGLE


def test_casts_to_float_become_casts_to_float16_and_integers_are_left_alone() -> None:
    net = Net()
    index = net.op("ArgMax", net.convolution("image", 3, 8), axis=1, out="index")
    x = net.op("Cast", index, to=SINGLE, out="number")
    net.convolution(x, 1, 8, out="y")
    graph = converted(net, "y")
    assert (graph.dtype("index"), graph.dtype("number")) == (TensorProto.INT64, HALF)


def test_constants_in_nodes_are_converted_like_initialisers() -> None:
    net = Net()
    x = net.convolution("image", 3, 8)
    net.nodes.insert(
        0, helper.make_node("Constant", [], ["two"], name="two", value=numpy_helper.from_array(np.float32(2), "two"))
    )
    net.nodes.insert(
        1, helper.make_node("Constant", [], ["shape"], name="shape", value=numpy_helper.from_array(np.array([1, -1])))
    )
    net.op("Reshape", net.op("Mul", x, "two"), "shape", out="y")
    graph = converted(net, "y")
    assert kinds(graph)["Constant"] == 0
    image = pictures(net.input, 1)[0]
    np.testing.assert_allclose(run(graph, image)["y"], run(net.graph("y"), image)["y"], rtol=2e-3, atol=5e-3)


def test_control_flow_is_refused() -> None:
    net = Net()
    branch = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("out", 1, None)],
    )
    condition = net.constant(np.array(True))
    net.op("If", condition, out="y", then_branch=branch, else_branch=branch)
    with pytest.raises(ModelError, match="branch or loop"):
        to_half(net.graph("y"))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_any_network_stays_close(seed: int) -> None:
    """FP16 rounds to 11 bits, 72 dB below the value; every layer of up to 25 adds one rounding: 14 dB."""
    graph, _ = random_network(seed)
    half = to_half(graph)
    onnx.checker.check_model(half.model, full_check=True)
    for image in pictures((1, 3, 16, 16), 2, seed=seed):
        assert sqnr_db(run(graph, image)["y"], run(half, image)["y"]) > 45

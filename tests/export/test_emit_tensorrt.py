"""TensorRT's INT8 graph: its form by NVIDIA's rules, its numbers by twins in numpy and ONNX's reference evaluator."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgevision.calibration import Histogram
from edgevision.errors import CalibrationError, ModelError
from edgevision.export.emit_tensorrt import emit_tensorrt
from edgevision.export.graph import DECODE_PREFIX, Graph, attribute
from edgevision.export.grids import half_scales
from edgevision.export.placement import plan_placement
from edgevision.export.tensorrt_rules import validate_tensorrt
from tests.export.networks import Extremes, Net, measured, pictures, random_network, run, sqnr_db


def emitted(graph: Graph) -> Graph:
    """The INT8 graph with min-max ranges."""
    plan = plan_placement(graph)
    return emit_tensorrt(graph, plan, measured(graph, plan.observed, pictures((1, 3, 16, 16))))


def two_layers() -> Net:
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 16, out="stem"))
    x = net.op("Relu", net.convolution(x, 16, 32, out="layer"))
    net.convolution(x, 32, 8, out="y")
    return net


def behind(graph: Graph, node: str, index: int) -> onnx.NodeProto:
    """The node that makes an input of the node with output `node`."""
    return graph.producer[graph.producer[node].input[index]]


# --- form -------------------------------------------------------------------------------------------------------------


def test_weights_are_stored_as_int8_with_a_scale_per_output_channel() -> None:
    graph = emitted(two_layers().graph("y"))
    quantizer = behind(graph, "layer", 1)
    assert quantizer.op_type == "DequantizeLinear"
    assert attribute(quantizer, "axis") == 0
    values, scales, zeros = (graph.constants[name] for name in quantizer.input)
    assert (values.dtype, values.shape) == (np.int8, (32, 16, 3, 3))
    assert (scales.dtype, scales.shape) == (np.float16, (32,))
    assert zeros.dtype == np.int8
    assert not zeros.any()
    assert np.abs(values).reshape(32, -1).max(axis=1).min() >= 126  # every channel uses its whole grid
    stored = sum(t.ByteSize() for t in graph.proto.initializer if numpy_helper.to_array(t).dtype.kind == "f")
    assert stored < 2 * (8 * 32 * 9 + 500), "no float copy of quantised weights is left"


def test_weights_are_quantised_with_the_rounded_scale() -> None:
    net = two_layers()
    graph = net.graph("y")
    original = graph.constants[graph.producer["layer"].input[1]]
    result = emitted(graph)
    quantizer = behind(result, "layer", 1)
    values, scales = (result.constants[name].astype(np.float32) for name in quantizer.input[:2])
    scales = scales.reshape(-1, 1, 1, 1)
    assert (np.abs(values * scales - original) <= scales * 0.5001).all()


def test_activations_have_one_scale_and_a_float_bias_follows() -> None:
    graph = emitted(two_layers().graph("y"))
    activation = behind(graph, "layer", 0)
    quantizer = graph.producer[activation.input[0]]
    assert (quantizer.op_type, activation.op_type) == ("QuantizeLinear", "DequantizeLinear")
    assert graph.constants[quantizer.input[1]].shape == ()
    assert graph.constants[graph.producer["layer"].input[2]].dtype == np.float16


def test_the_interface_stays_float32() -> None:
    source = two_layers().graph("y")
    graph = emitted(source)
    assert [graph.dtype(name) for name in (*graph.inputs, *graph.outputs)] == [TensorProto.FLOAT] * 2
    assert (graph.inputs, graph.outputs) == (source.inputs, source.outputs)
    assert graph.opset >= 19


def test_the_picture_is_quantised_without_a_detour_through_float16() -> None:
    graph = emitted(two_layers().graph("y"))
    assert [node.op_type for node in graph.consumers["image"]] == ["QuantizeLinear"]
    assert Counter(node.op_type for node in graph.nodes)["Cast"] == 1  # the output's


def test_everything_between_the_pairs_is_float16_and_the_decode_float32() -> None:
    net = two_layers()
    net.op("Sigmoid", "y", out="scores")
    net.nodes[-1].name = f"{DECODE_PREFIX}sigmoid"
    graph = emitted(net.graph("scores"))
    floats = {node.op_type: graph.dtype(node.output[0]) for node in graph.nodes if node.op_type in ("Relu", "Conv")}
    assert set(floats.values()) == {TensorProto.FLOAT16}
    assert graph.dtype("scores") == TensorProto.FLOAT
    assert graph.producer["scores"].input[0] == graph.consumers["y"][0].output[0]
    assert graph.consumers["y"][0].op_type == "Cast"


def test_a_tensor_with_several_readers_has_one_quantizer() -> None:
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 16), out="shared")
    net.op("Add", x, net.convolution(net.convolution(x, 16, 16), 16, 16, out="branch"), out="sum")
    net.op("Concat", "sum", net.convolution(x, 16, 16), axis=1, out="joined")
    net.convolution("joined", 32, 8, out="y")
    graph = emitted(net.graph("y"))
    assert Counter(node.op_type for node in graph.consumers["shared"]) == {"QuantizeLinear": 1}
    dequantized = graph.consumers[graph.consumers["shared"][0].output[0]]
    assert len(dequantized) == 1
    assert Counter(node.op_type for node in graph.consumers[dequantized[0].output[0]]) == {"Conv": 2, "Add": 1}


def test_shared_weights_are_stored_once() -> None:
    net = Net()
    x = net.convolution("image", 3, 16)
    weight = net.weight(16, 16, 3, 3)
    for _ in range(3):
        x = net.op("Relu", net.op("Conv", x, weight, pads=[1] * 4))
    net.convolution(x, 16, 8, out="y")
    graph = emitted(net.graph("y"))
    stored = [t for t in graph.proto.initializer if tuple(t.dims) == (16, 16, 3, 3)]
    assert [t.data_type for t in stored] == [TensorProto.INT8]


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
def test_the_channel_axis_of_a_gemm_follows_its_layout(transposed: int, axis: int) -> None:
    net = Net(channels=3)
    x = net.op("Reshape", "image", net.constant(np.array([32, 24])))
    weight = net.weight(40, 24) if transposed else net.weight(24, 40)
    x = net.op("Gemm", x, weight, net.bias(40), transB=transposed, out="gemm")
    net.op("MatMul", x, net.weight(40, 8), out="y")
    quantizer = behind(graph := emitted(net.graph("y")), "gemm", 1)
    assert attribute(quantizer, "axis") == axis
    assert graph.constants[quantizer.input[1]].shape == (40,)


@pytest.mark.parametrize(("groups", "axis"), [(1, 1), (4, None)])
def test_transposed_convolutions_scale_along_axis_1_or_as_a_whole(groups: int, axis: int | None) -> None:
    """Placement keeps them float; a plan that says otherwise still gets a correct graph."""
    net = Net()
    x = net.convolution("image", 3, 16, out="stem")
    x = net.op("ConvTranspose", x, net.weight(16, 8, 2, 2), strides=[2, 2], group=groups, out="up")
    net.convolution(x, 8 * groups, 8, out="y")
    graph = net.graph("y")
    plan = plan_placement(graph)
    plan = dataclasses.replace(plan, tensorrt_inputs={**plan.tensorrt_inputs, "up": (0,)})
    result = emit_tensorrt(graph, plan, measured(graph, (*plan.observed, "stem"), pictures((1, 3, 16, 16))))
    quantizer = behind(result, "up", 1)
    assert attribute(quantizer, "axis") == axis
    assert result.constants[quantizer.input[1]].shape == (() if axis is None else (8,))


def test_every_node_has_a_name_of_its_own() -> None:
    net = two_layers()
    for node in net.nodes:
        node.name = ""
    names = [node.name for node in emitted(net.graph("y")).nodes]
    assert all(names)
    assert len(set(names)) == len(names)


# --- scales -----------------------------------------------------------------------------------------------------------


@given(st.floats(0.0, 8e6, allow_nan=False))
def test_scales_are_float16_values_that_reach_the_limit(limit: float) -> None:
    scale = half_scales(np.float64(limit))
    assert float(np.float16(scale)) == float(scale) > 0
    assert float(scale) * 127 >= limit
    assert float(scale) <= max(limit / 127 * (1 + 2**-10), 2.0**-20) * (1 + 2**-4)


@pytest.mark.parametrize("limit", [np.inf, np.nan, 1e7])
def test_a_range_without_a_float16_scale_is_refused(limit: float) -> None:
    with pytest.raises(CalibrationError, match="no FP16 scale"):
        half_scales(np.float64(limit))


def test_dead_channels_and_dead_tensors_keep_positive_scales() -> None:
    net = Net()
    weight = net.random.normal(size=(16, 3, 3, 3)).astype(np.float32)
    weight[3] = 0
    weight[4] *= 1e-9
    x = net.op("Conv", "image", net.constant(weight), net.bias(16), pads=[1] * 4)
    x = net.op("Mul", x, net.constant(np.float32(0)), out="dead")
    x = net.convolution(x, 16, 16, out="layer")
    net.convolution(x, 16, 8, out="y")
    graph = net.graph("y")
    plan = plan_placement(graph)
    ranges = {name: Histogram() for name in plan.observed}
    for name, extremes in measured(graph, plan.observed, pictures((1, 3, 16, 16))).items():
        ranges[name].extend(extremes.low, extremes.high)
        ranges[name].counts[0, 0] += 1
    result = emit_tensorrt(graph, plan, ranges)
    assert np.isfinite(run(result, pictures((1, 3, 16, 16))[0])["y"]).all()


def test_a_tensor_without_a_range_is_named() -> None:
    graph = two_layers().graph("y")
    with pytest.raises(CalibrationError, match="has no tensor 'image'"):
        emit_tensorrt(graph, plan_placement(graph), {})


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_one_layer_computes_what_a_numpy_twin_computes() -> None:
    """Fake quantisation of a 1x1 convolution written out: round, clip, multiply; FP16 rounding is all that is left."""
    net = Net(channels=16)
    net.convolution("image", 16, 24, kernel=1, out="layer")
    net.convolution("layer", 24, 8, kernel=1, out="y")
    net.nodes[-1].name = f"{DECODE_PREFIX}kept"  # so that `layer` is a head no more than its reader
    graph = net.graph("layer", "y")
    plan = plan_placement(graph)
    plan = dataclasses.replace(plan, tensorrt_inputs={"layer": (0,)})
    image = pictures((1, 16, 16, 16), 1)[0]
    limit = 0.6  # clips some values
    result = emit_tensorrt(graph, plan, {"image": Extremes(-limit, limit)})
    conv = graph.producer["layer"]
    weight, bias = (graph.constants[name].astype(np.float64) for name in conv.input[1:])

    def grid(values: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.float64]:
        scale = half_scales(limits).astype(np.float64)
        return np.clip(np.rint(values / scale), -127 if values is weight else -128, 127) * scale

    limits = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    x = grid(image[0].reshape(16, -1).astype(np.float64), np.float64(limit))
    expected = grid(weight, limits).reshape(24, 16) @ x + bias[:, None]
    got = run(result, image)["layer"].reshape(24, -1)
    np.testing.assert_allclose(got, expected, rtol=2**-10, atol=2**-9 * np.abs(expected).max())


def test_the_graph_means_the_same_to_onnx_reference_evaluator() -> None:
    source = two_layers().graph("y")
    graph = emitted(source)
    image = pictures((1, 3, 16, 16), 1, seed=5)[0]
    (expected,) = ReferenceEvaluator(graph.model).run(None, {"image": image})
    # Sums of FP16 products in another order: a last place of the largest sum, and a step of the grid where a value
    # lies on the edge of two.
    difference = np.abs(run(graph, image)["y"] - expected)
    assert np.quantile(difference, 0.99) < 2**-8 * np.abs(expected).max()


def test_the_error_of_a_layer_stays_within_half_a_step_of_each_grid() -> None:
    """|error| <= sum |w| * s_x / 2 + sum |x| * s_w / 2 + their product, for values inside the ranges."""
    net = Net(channels=16)
    net.convolution("image", 16, 32, kernel=1, out="layer")
    net.op("Relu", "layer", out="relu")
    net.convolution("relu", 32, 8, kernel=1, out="y")
    graph = net.graph("layer", "y")
    images = pictures((1, 16, 16, 16))
    plan = plan_placement(graph)
    plan = dataclasses.replace(plan, tensorrt_inputs={"layer": (0,)})
    ranges = measured(graph, ["image"], images)
    result = emit_tensorrt(graph, plan, ranges)
    weight = np.abs(graph.constants[graph.producer["layer"].input[1]].reshape(32, 16)).astype(np.float64)
    step = float(half_scales(np.float64(ranges["image"].symmetric_limit(""))))
    steps = half_scales(weight.max(axis=1)).astype(np.float64)[:, None]
    for image in images:
        x = np.abs(image[0].reshape(16, -1))
        bound = weight.sum(axis=1, keepdims=True) * step / 2 + x.sum(axis=0) * steps / 2 + 16 * step * steps / 4
        exact, got = (run(g, image)["layer"].reshape(32, -1) for g in (graph, result))
        np.testing.assert_array_less(np.abs(exact - got), bound + 2**-9 * np.abs(exact).max())


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_any_network_gives_a_valid_graph_that_stays_close(seed: int) -> None:
    """An 8-bit grid over a range of 2R has a noise of (R / 127)^2 / 12: 40 to 50 dB below a natural signal. Each of up
    to 25 layers adds two such noises, 14 dB in all: 18 dB are left by a margin."""
    graph, _ = random_network(seed)
    plan = plan_placement(graph)
    images = pictures((1, 3, 16, 16), seed=seed)
    result = emit_tensorrt(graph, plan, measured(graph, plan.observed, images))
    onnx.checker.check_model(result.model, full_check=True)
    expected = np.concatenate([run(graph, image)["y"] for image in images])
    got = np.concatenate([run(result, image)["y"] for image in images])
    assert sqnr_db(expected, got) > 18


# --- rules, each broken in turn ---------------------------------------------------------------------------------------


def constant(graph: Graph, name: str, value: NDArray[np.generic]) -> None:
    """Replace a constant."""
    for tensor in graph.proto.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(value, name))
    graph.reindex()


def wrong_zero_point(graph: Graph) -> None:
    constant(graph, behind(graph, "layer", 0).input[2], np.array(3, np.int8))


def unsigned_zero_point(graph: Graph) -> None:
    constant(graph, behind(graph, "layer", 0).input[2], np.array(0, np.uint8))


def zero_scale(graph: Graph) -> None:
    name = behind(graph, "layer", 1).input[1]
    constant(graph, name, np.where(np.arange(32) == 5, 0, graph.constants[name]).astype(np.float16))


def infinite_scale(graph: Graph) -> None:
    constant(graph, behind(graph, "layer", 0).input[1], np.array(np.inf, np.float16))


def wrong_axis(graph: Graph) -> None:
    next(a for a in behind(graph, "layer", 1).attribute if a.name == "axis").i = 1


def several_scales(graph: Graph) -> None:
    constant(graph, behind(graph, "layer", 0).input[1], np.ones(16, np.float16))


def different_grids(graph: Graph) -> None:
    node = behind(graph, "layer", 0)
    node.input[1] = graph.add_constant("other", np.float16(0.5))


def quantised_bias(graph: Graph) -> None:
    node = graph.producer["layer"]
    steps = graph.add_constant("steps", np.zeros(32, np.int8))
    grid = [graph.add_constant("s", np.float16(1)), graph.add_constant("z", np.int8(0))]
    graph.proto.node.insert(
        0, onnx.helper.make_node("DequantizeLinear", [steps, *grid], ["b"], name="bias/DequantizeLinear")
    )
    node.input[2] = "b"
    graph.reindex()


def float_input(graph: Graph) -> None:
    node = graph.producer["layer"]
    node.input[0] = graph.producer[behind(graph, "layer", 0).input[0]].input[0]
    graph.reindex()


def mixed_types(graph: Graph) -> None:
    graph.producer["layer"].input[2] = graph.add_constant("wide", np.zeros(32, np.float32))


def requantised_join(graph: Graph) -> None:
    """A Concat between a DQ and a Q on another grid."""
    quantizer = graph.producer[behind(graph, "layer", 0).input[0]]
    made = graph.producer[quantizer.input[0]]
    grid = [graph.add_constant("s", np.float16(1)), graph.add_constant("z", np.int8(0))]
    position = list(graph.nodes).index(made) + 1
    source = made.output[0]
    for node in reversed(
        [
            onnx.helper.make_node("QuantizeLinear", [source, *grid], ["q"], name="q"),
            onnx.helper.make_node("DequantizeLinear", ["q", *grid], ["dq"], name="dq"),
            onnx.helper.make_node("Identity", ["dq"], ["moved"], name="move"),
        ]
    ):
        graph.proto.node.insert(position, node)
    graph.producer[behind(graph, "layer", 0).input[0]].input[0] = "moved"
    graph.infer_shapes()


def infinite_bias(graph: Graph) -> None:
    node = graph.producer["layer"]
    node.input[2] = graph.add_constant("wide", np.full(32, np.inf, np.float16))


def quantised_constant(graph: Graph) -> None:
    grid = [graph.add_constant("s", np.float16(1)), graph.add_constant("z", np.int8(0))]
    values = graph.add_constant("values", np.ones((1, 32, 1, 1), np.float16))
    graph.proto.node.insert(0, onnx.helper.make_node("QuantizeLinear", [values, *grid], ["q"], name="constant"))
    graph.reindex()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (wrong_zero_point, "zero point"),
        (unsigned_zero_point, "zero point"),
        (zero_scale, "scale is not"),
        (infinite_scale, "scale is not"),
        (wrong_axis, "on axis 1"),
        (several_scales, "more than one scale"),
        (different_grids, "no DequantizeLinear on the same grid"),
        (quantised_bias, "not the weights"),
        (float_input, "float input"),
        (mixed_types, "float32 and float16"),
        (requantised_join, "on another grid than what it moves"),
        (infinite_bias, "bias is not float and finite"),
        (quantised_constant, "quantises a constant"),
    ],
)
def test_each_rule_finds_what_breaks_it(break_it: Callable[[Graph], None], message: str) -> None:
    graph = emitted(two_layers().graph("y"))
    validate_tensorrt(graph)
    break_it(graph)
    with pytest.raises(ModelError, match=message):
        validate_tensorrt(graph)


def test_readers_of_one_tensor_in_both_precisions_have_a_dq_each() -> None:
    """A Cast between DQ and layer would hide from TensorRT that the layer is INT8."""
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 16), out="shared")
    both = [net.convolution(x, 16, 16, out=name) for name in ("wide", "narrow")]
    net.convolution(net.op("Concat", *both, axis=1), 32, 8, out="y")
    source = net.graph("y")
    plan = plan_placement(source)
    ranges = measured(source, plan.observed, pictures((1, 3, 16, 16)))
    graph = emit_tensorrt(source, plan, ranges, islands={"wide": "its numbers leave float16's range"})
    for name, kind in (("wide", TensorProto.FLOAT), ("narrow", TensorProto.FLOAT16)):
        assert behind(graph, name, 0).op_type == "DequantizeLinear"
        assert graph.dtype(behind(graph, name, 0).output[0]) == kind
    assert Counter(node.op_type for node in graph.consumers["shared"]) == {"QuantizeLinear": 1}
    run(graph, pictures((1, 3, 16, 16))[0])

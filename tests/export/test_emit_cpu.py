"""ONNX Runtime's INT8 graph: what was promised is what fuses, and it computes what the float graph computes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevision.errors import CalibrationError
from edgevision.export.alignment import align_depthwise
from edgevision.export.emit_cpu import count_fused, emit_cpu
from edgevision.export.graph import Graph
from edgevision.export.grids import affine_grid, to_int8, weight_scales_for_bias
from edgevision.export.placement import plan_placement
from tests.export.networks import Extremes, Net, measured, pictures, random_network, run, sqnr_db

INTEGER = {
    "Conv": "QLinearConv",
    "Gemm": "QGemm",
    "MatMul": "QLinearMatMul",
    "Add": "QLinearAdd",
    "Mul": "QLinearMul",
    "Concat": "QLinearConcat",
    "AveragePool": "QLinearAveragePool",
    "GlobalAveragePool": "QLinearGlobalAveragePool",
    "Sigmoid": "QLinearSigmoid",
    "LeakyRelu": "QLinearLeakyRelu",
}


def emitted(graph: Graph) -> Graph:
    """The uint8 graph with min-max ranges."""
    plan = plan_placement(graph)
    images = pictures(tuple(d.dim_value for d in graph.proto.input[0].type.tensor_type.shape.dim))
    return emit_cpu(graph, plan, measured(graph, plan.observed, images))


def promised(graph: Graph) -> Counter[str]:
    """Integer operators that the plan counts on."""
    plan = plan_placement(graph)
    return Counter(INTEGER[d.operator] for d in plan.cpu.values() if d.int8 and d.operator in INTEGER)


def fused(graph: Graph) -> Counter[str]:
    return Counter({kind: n for kind, n in count_fused(graph).items() if kind in INTEGER.values()})


def detector() -> Graph:
    """Depthwise and dense layers, a residual, a join, two heads."""
    net = Net(side=32)
    x = net.relu6(net.convolution("image", 3, 24, strides=[2, 2]))
    x = net.relu6(net.convolution(x, 24, 24, groups=24))
    project = net.convolution(x, 24, 16, kernel=1)
    x = net.relu6(net.convolution(project, 16, 48, kernel=1))
    x = net.op("Add", project, net.convolution(x, 48, 16, kernel=1))
    x = net.op("MaxPool", net.op("Concat", x, project, axis=1), kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Relu", net.convolution(x, 32, 32))
    for name in ("boxes", "scores"):
        net.op("Transpose", net.convolution(x, 32, 8, kernel=1), perm=[0, 2, 3, 1], out=name)
    return net.graph("boxes", "scores")


# --- fusion -----------------------------------------------------------------------------------------------------------


def test_everything_promised_is_fused_and_nothing_else_is_left() -> None:
    graph = detector()
    result = emitted(graph)
    assert fused(result) == promised(graph)
    assert promised(graph)["QLinearConv"] == 8
    left = count_fused(result)
    assert not {"Conv", "Clip", "Relu", "Add", "MaxPool"} & set(left)
    assert left["QuantizeLinear"] == 1  # the picture
    assert left["DequantizeLinear"] == 2  # the heads


@pytest.mark.parametrize("activation", ["Sigmoid", "LeakyRelu", "SiLU"])
def test_other_activations_are_fused_as_operators(activation: str) -> None:
    net = Net()
    x = net.convolution("image", 3, 16)
    if activation == "SiLU":
        x = net.op("Mul", x, net.op("Sigmoid", x))
    elif activation == "LeakyRelu":
        x = net.op("LeakyRelu", x)
    else:
        x = net.op("Mul", net.op("Sigmoid", x), net.convolution("image", 3, 16))
    net.convolution(x, 16, 16, out="y")
    graph = net.graph("y")
    assert fused(emitted(graph)) == promised(graph)


def test_matrix_products_are_fused() -> None:
    net = Net()
    x = net.op("Reshape", net.op("Relu", net.convolution("image", 3, 16)), net.constant(np.array([16, 256])))
    x = net.op("Relu", net.op("Gemm", x, net.weight(32, 256), net.bias(32), transB=1))
    net.op("MatMul", x, net.weight(32, 16), out="y")
    graph = net.graph("y")
    assert fused(emitted(graph)) == promised(graph) == {"QLinearConv": 1, "QGemm": 1, "QLinearMatMul": 1}


@pytest.mark.parametrize("kind", ["HardSwish", "PRelu", "linear Resize", "ConvTranspose"])
def test_float_islands_stand_between_integer_layers(kind: str) -> None:
    net = Net()
    x = net.convolution("image", 3, 16)
    if kind == "PRelu":
        x = net.op("PRelu", x, net.constant(np.full((16, 1, 1), 0.2, np.float32)))
    elif kind == "linear Resize":
        x = net.op("Resize", x, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="linear")
    elif kind == "ConvTranspose":
        x = net.op("ConvTranspose", x, net.weight(16, 16, 2, 2), strides=[2, 2])
    else:
        x = net.op("HardSwish", x)
    net.convolution(x, 16, 16, out="y")
    graph = net.graph("y")
    assert fused(emitted(graph)) == {"QLinearConv": 2}


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_any_network_fuses_as_promised_and_stays_close(seed: int) -> None:
    """The margin is that of TensorRT's graph: more tensors are rounded here, on grids twice as fine behind a ReLU."""
    graph, _ = random_network(seed)
    plan = plan_placement(graph)
    images = pictures((1, 3, 16, 16), seed=seed)
    result = emit_cpu(graph, plan, measured(graph, plan.observed, images))
    onnx.checker.check_model(result.model, full_check=True)
    assert fused(result)["QLinearConv"] == promised(graph)["QLinearConv"]
    expected = np.concatenate([run(graph, image)["y"] for image in images])
    got = np.concatenate([run(result, image, exact=False)["y"] for image in images])
    assert sqnr_db(expected, got) > 18


# --- form -------------------------------------------------------------------------------------------------------------


def test_activations_are_uint8_and_weights_int8_over_their_whole_range() -> None:
    graph = emitted(detector())
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            assert graph.constants[node.input[2]].dtype == np.uint8
    stored = [graph.constants[n.input[0]] for n in graph.nodes if n.input and n.input[0] in graph.constants]
    weights = [values for values in stored if values.ndim == 4]
    assert {values.dtype for values in weights} == {np.dtype(np.int8)}
    assert all(np.abs(values.astype(int)).max() == 127 for values in weights)


def test_the_clip_of_a_relu6_is_replaced_by_the_end_of_the_grid() -> None:
    """Ranges beyond the clip are cut to it, or the dropped Clip would be missed."""
    net = Net()
    x = net.relu6(net.convolution("image", 3, 16), out="clipped")
    net.convolution(x, 16, 8, out="y")
    graph = net.graph("y")
    plan = plan_placement(graph)
    ranges = {**measured(graph, plan.observed, pictures((1, 3, 16, 16))), "clipped": Extremes(-1.0, 60.0)}
    result = emit_cpu(graph, plan, ranges)
    grid = result.producer["clipped"]
    scale, zero = (float(result.constants[name]) for name in grid.input[1:])
    assert (zero, pytest.approx(6.0)) == (0, scale * 255)


def test_a_shared_grid_moves_values_without_rounding_again() -> None:
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 16), out="before")
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], out="after")
    net.convolution(x, 16, 8, out="y")
    graph = emitted(net.graph("y"))
    assert graph.producer["before"].input[1:] == graph.producer["after"].input[1:]


def test_a_head_keeps_its_whole_range_whatever_the_method() -> None:
    """Its rare large values are the detections: cutting them off costs a point of mAP."""

    class Clipping(Extremes):
        def affine_range(self, method: str) -> tuple[float, float]:
            return (self.low, self.high) if method == "minmax" else (self.low / 4, self.high / 4)

    graph = detector()
    plan = plan_placement(graph)
    ranges = measured(graph, plan.observed, pictures((1, 3, 32, 32)))
    clipping = {name: Clipping(entry.low, entry.high) for name, entry in ranges.items()}
    result = emit_cpu(graph, plan, clipping, "mse")
    for name, site in plan.cpu_sites.items():
        if site.grid_of is None:
            scale = float(result.constants[result.producer[site.tensor].input[1]])
            low, high = clipping[site.tensor].affine_range("minmax" if site.is_head else "mse")
            assert scale == pytest.approx((high - max(low, 0 if site.absorbed else low)) / 255, rel=1e-5), name


def test_a_tensor_without_a_range_is_named() -> None:
    graph = detector()
    with pytest.raises(CalibrationError, match="has no tensor 'image'"):
        emit_cpu(graph, plan_placement(graph), {})


# --- alignment --------------------------------------------------------------------------------------------------------


def test_depthwise_layers_are_widened_without_changing_a_value() -> None:
    graph = detector()
    wide = graph.copy()
    assert align_depthwise(wide) == 1
    assert wide.shape(wide.producer["boxes"].input[0]) == graph.shape(graph.producer["boxes"].input[0])
    depthwise = [node for node in wide.nodes if node.op_type == "Conv" and wide.constants[node.input[1]].shape[1] == 1]
    assert [wide.constants[node.input[1]].shape[0] for node in depthwise] == [32]
    image = pictures((1, 3, 32, 32), 1)[0]
    for name, value in run(graph, image).items():
        np.testing.assert_allclose(run(wide, image)[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("obstacle", ["sigmoid", "second reader", "output", "residual"])
def test_depthwise_layers_are_left_where_a_wider_tensor_would_show(obstacle: str) -> None:
    net = Net()
    before = net.op("Relu", net.convolution("image", 3, 24))
    x = net.convolution(before, 24, 24, groups=24, out="depthwise")
    outputs = ["y"]
    if obstacle == "sigmoid":
        x = net.op("Sigmoid", x)
    elif obstacle == "second reader":
        net.op("Softmax", before, axis=1, out="z")
        outputs.append("z")
    elif obstacle == "output":
        outputs.append("depthwise")
    else:
        x = net.op("Add", x, before)
    net.convolution(x, 24, 16, kernel=1, out="y")
    assert align_depthwise(net.graph(*outputs)) == 0


def test_pictures_get_a_fourth_empty_channel_where_they_cannot_be_read_in_groups() -> None:
    net = Net(side=32)
    net.convolution("image", 3, 16, out="y")
    graph = emitted(net.graph("y"))
    (join,) = [node for node in graph.nodes if node.name == "image/aligned/Concat"]
    assert graph.shape(join.output[0]) == (1, 4, 32, 32)
    assert (graph.constants[join.input[1]] == graph.constants["image/zero_point"]).all()


# --- numbers ----------------------------------------------------------------------------------------------------------


@given(st.floats(-1e4, 0), st.floats(1e-3, 1e4))
def test_zero_lies_on_an_affine_grid(low: float, high: float) -> None:
    scale, zero = affine_grid(low, high)
    assert 0 <= zero <= 255
    assert float(scale) * 255 == pytest.approx(high - low, rel=1e-5)
    assert abs((0 - float(zero)) * float(scale) - low) <= float(scale)


@given(st.integers(0, 1000))
def test_a_bias_fits_int32_beside_any_weights(seed: int) -> None:
    """Dead channels keep their bias: their scale follows it."""
    random = np.random.default_rng(seed)
    limits = (10.0 ** random.uniform(-30, 2, 8) * random.integers(0, 2, 8)).astype(np.float32)
    bias = random.normal(0, 10.0 ** random.uniform(-3, 3), 8).astype(np.float32)
    step = np.float32(10.0 ** random.uniform(-6, 1))
    scales = weight_scales_for_bias(limits, bias, step)
    steps = np.rint(bias.astype(np.float64) / (scales * step).astype(np.float64))
    assert np.isfinite(steps).all()
    assert np.abs(steps).max() < 2**31
    assert (scales * 127 >= limits * (1 - 1e-6)).all()


def test_dead_channels_give_their_bias() -> None:
    net = Net()
    weight = net.random.normal(size=(16, 3, 3, 3)).astype(np.float32)
    weight[[2, 5]] = 0
    bias = np.linspace(-2, 3, 16).astype(np.float32)
    net.op("Conv", "image", net.constant(weight), net.constant(bias), pads=[1] * 4, out="y")
    graph = net.graph("y")
    result = emitted(graph)
    image = pictures(net.input, 1)[0]
    exact, got = run(graph, image)["y"], run(result, image, exact=False)["y"]
    step = float(result.constants[result.producer["y"].input[1]])
    assert np.abs(exact[:, [2, 5]] - got[:, [2, 5]]).max() <= step * 0.51


def test_int8_rounds_half_to_even_and_saturates() -> None:
    values = np.array([0.5, 1.5, -0.5, 400.0, -400.0], np.float32)
    assert to_int8(values, np.float32(1), None).tolist() == [0, 2, 0, 127, -127]


def test_the_fused_graph_computes_what_the_unfused_one_says() -> None:
    """Integer kernels round once where Q/DQ in float round twice: at most one step of a head's grid apart, mostly
    none."""
    graph = detector()
    result = emitted(graph)
    for image in pictures((1, 3, 32, 32)):
        unfused, integer = run(result, image), run(result, image, exact=False)
        for name in ("boxes", "scores"):
            quantizer = result.producer[result.producer[name].input[0]]
            step = float(result.constants[quantizer.input[1]])
            assert np.mean(np.abs(unfused[name] - integer[name])) < 0.25 * step

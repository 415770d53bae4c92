"""Placement: every rule on the smallest network that shows it, and one whole network as a golden table."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgevision.export.graph import DECODE_PREFIX, Graph
from edgevision.export.placement import Plan, plan_placement
from edgevision.export.structure import multiply_adds, residual_input
from tests.export.networks import Net


def quantised(plan: Plan) -> set[str]:
    """Outputs of the nodes that TensorRT's graph quantises."""
    return set(plan.tensorrt_inputs)


def plan_of_layer(net: Net, layer: str, channels: int) -> Plan:
    """The plan of a network that goes on behind `layer`, so that it is no head."""
    net.convolution(layer, channels, 32, out="y")
    return plan_placement(net.graph("y"))


# --- weighted operators -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cin", "cout", "kernel", "groups", "int8"),
    [
        (16, 16, 3, 1, True),
        (32, 64, 1, 1, True),
        (32, 12, 1, 1, False),  # too few outputs
        (12, 32, 1, 1, False),  # too few inputs
        (24, 24, 3, 24, True),  # depthwise, multiple of 8
        (20, 20, 3, 20, False),  # depthwise, no multiple of 8
        (24, 24, 1, 24, False),  # a scaling, not a depthwise kernel
        (32, 32, 3, 2, True),
        (2, 64, 3, 1, True),  # many outputs for few inputs
    ],
)
def test_convolutions_are_int8_where_a_kernel_pays(cin: int, cout: int, kernel: int, groups: int, int8: bool) -> None:
    net = Net()
    stem = net.op("Relu", net.convolution("image", 3, cin))
    layer = net.convolution(stem, cin, cout, kernel, groups, out="layer")
    plan = plan_of_layer(net, layer, cout)
    assert plan.tensorrt["layer"].int8 is int8
    assert ("too few" in plan.tensorrt["layer"].reason) is not int8


def test_the_first_layer_is_int8_on_three_channels() -> None:
    net = Net()
    plan = plan_of_layer(net, net.convolution("image", 3, 16, out="stem"), 16)
    assert plan.tensorrt_inputs["stem"] == (0,)


def test_dilated_convolutions_are_int8() -> None:
    net = Net()
    stem = net.convolution("image", 3, 16)
    plan = plan_of_layer(net, net.convolution(stem, 16, 16, dilations=[2, 2], out="layer"), 16)
    assert "layer" in quantised(plan)


def test_convolutions_in_one_and_three_dimensions_stay_float() -> None:
    net = Net()
    flat = net.op("Reshape", net.convolution("image", 3, 16), net.constant(np.array([1, 16, 256])))
    line = net.op("Conv", flat, net.weight(16, 16, 3), out="line", pads=[1, 1])
    cube = net.op("Reshape", line, net.constant(np.array([1, 16, 4, 8, 8])))
    cube = net.op("Conv", cube, net.weight(16, 16, 3, 3, 3), out="cube", pads=[1] * 6)
    square = net.op("Reshape", cube, net.constant(np.array([1, 16, 16, 16])))
    plan = plan_of_layer(net, square, 16)
    assert not quantised(plan) & {"line", "cube"}
    assert "3-D" in plan.tensorrt["cube"].reason
    assert not plan.cpu["cube"].int8


def test_weights_that_are_computed_stay_float() -> None:
    net = Net()
    stem = net.convolution("image", 3, 16)
    weight = net.op("Reshape", net.op("GlobalAveragePool", stem), net.constant(np.array([16, 1, 1, 1])))
    plan = plan_of_layer(net, net.op("Conv", stem, weight, group=16, out="dynamic"), 16)
    assert plan.tensorrt["dynamic"].reason == "weights are not a constant on the right-hand side"
    assert not plan.cpu["dynamic"].int8


@pytest.mark.parametrize(("rows", "inner", "int8"), [(16, 16, True), (1, 256, False), (64, 4, False)])
def test_matrix_products_need_rows_and_width(rows: int, inner: int, int8: bool) -> None:
    net = Net(channels=1)
    x = net.op("Reshape", "image", net.constant(np.array([rows, inner])))
    x = net.op("Gemm", x, net.weight(inner, 24), net.bias(24), out="gemm")
    x = net.op("MatMul", x, net.weight(24, 24), out="matmul")
    plan = plan_placement_behind(net, x)
    assert ("gemm" in quantised(plan)) is int8
    assert ("matmul" in quantised(plan)) is (rows > 1)


def plan_placement_behind(net: Net, x: str) -> Plan:
    net.op("MatMul", x, net.weight(24, 8), out="y")
    return plan_placement(net.graph("y"))


def test_a_constant_on_the_left_stays_float() -> None:
    net = Net(channels=1)
    x = net.op("MatMul", net.weight(24, 16), net.op("Reshape", "image", net.constant(np.array([16, 16]))), out="left")
    x = net.op("Transpose", x, perm=[1, 0])
    assert "left" not in quantised(plan_placement_behind(net, x))


def test_transposed_convolutions_stay_float() -> None:
    net = Net()
    stem = net.convolution("image", 3, 32)
    plan = plan_of_layer(net, net.op("ConvTranspose", stem, net.weight(32, 32, 2, 2), strides=[2, 2], out="up"), 32)
    assert "transposed" in plan.tensorrt["up"].reason
    assert not plan.tensorrt["up"].int8
    assert not plan.cpu["up"].int8


# --- heads, decode ----------------------------------------------------------------------------------------------------


def two_heads() -> Net:
    net = Net()
    feature = net.op("Relu", net.convolution("image", 3, 16, out="stem"))
    for name, width in (("boxes", 4), ("scores", 5)):
        x = net.convolution(feature, 16, 16 * width, kernel=1, out=f"{name}_head")
        x = net.op("Transpose", x, perm=[0, 2, 3, 1])
        net.op("Reshape", x, net.constant(np.array([1, -1, width])), out=name)
    return net


def test_the_last_layer_before_each_output_stays_float() -> None:
    plan = plan_placement(two_heads().graph("boxes", "scores"))
    assert quantised(plan) == {"stem"}
    assert "head output" in plan.tensorrt["boxes_head"].reason
    assert plan.cpu_sites["scores_head"].is_head
    assert not plan.cpu_sites["stem"].is_head


def test_heads_are_int8_where_somebody_is_to_measure_what_they_cost() -> None:
    graph = two_heads().graph("boxes", "scores")
    plan = plan_placement(graph, heads=True)
    assert quantised(plan) == {"stem", "boxes_head", "scores_head"}
    assert plan.cpu == plan_placement(graph).cpu


def test_the_decode_and_all_behind_it_stay_float32() -> None:
    net = two_heads()
    scores = net.op("Sigmoid", "scores", out="probability")
    net.nodes[-1].name = f"{DECODE_PREFIX}sigmoid"
    net.op("Mul", scores, net.constant(np.float32(2)), out="after")
    plan = plan_placement(net.graph("boxes", "after"))
    for name in ("probability", "after"):
        assert plan.tensorrt[name].reason == "decode: float32"
        assert not plan.cpu[name].int8
    assert quantised(plan) == {"stem"}


def test_a_convolution_inside_the_decode_does_not_hide_the_head() -> None:
    """An expectation over bins is a convolution to ONNX, but no layer of the network."""
    net = Net()
    x = net.convolution("image", 3, 16, out="stem")
    x = net.convolution(x, 16, 16, out="head")
    net.convolution(net.op("Softmax", x, axis=1), 16, 1, kernel=1, out="y")
    for node in net.nodes[-2:]:
        node.name = f"{DECODE_PREFIX}{node.output[0]}"
    plan = plan_placement(net.graph("y"))
    assert quantised(plan) == {"stem"}
    assert "head output" in plan.tensorrt["head"].reason


# --- residuals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity_first", [True, False])
def test_the_identity_branch_of_a_residual_is_quantised(identity_first: bool) -> None:
    net = Net()
    x = net.op("MaxPool", net.convolution("image", 3, 16), kernel_shape=[1, 1], out="identity")
    branch = net.convolution(x, 16, 16, out="branch")
    pair = (x, branch) if identity_first else (branch, x)
    plan = plan_of_layer(net, net.op("Add", *pair, out="sum"), 16)
    assert plan.tensorrt_inputs["sum"] == ((0,) if identity_first else (1,))
    assert "identity" in plan.observed


def test_between_two_convolutions_the_shorter_way_is_the_identity() -> None:
    """A projected shortcut: one convolution against two, from where the branches part."""
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 16))
    long = net.convolution(net.op("Relu", net.convolution(x, 16, 16)), 16, 16, out="long")
    short = net.convolution(x, 16, 16, kernel=1, out="short")
    graph = net.graph(net.op("Add", long, short, out="sum"))
    assert residual_input(graph, graph.producer["sum"]) == 1


def test_in_a_row_of_linear_bottlenecks_the_older_result_is_the_identity() -> None:
    """MobileNetV2: both inputs of the Add are bare convolutions, one computed from the other."""
    net = Net()
    older = net.convolution("image", 3, 16, kernel=1, out="older")
    newer = net.convolution(net.relu6(net.convolution(older, 16, 96, kernel=1)), 96, 16, kernel=1, out="newer")
    graph = net.graph(net.op("Add", newer, older, out="sum"))
    assert residual_input(graph, graph.producer["sum"]) == 1
    net.nodes[-1].input[:] = [older, newer]
    assert residual_input(net.graph("sum"), net.nodes[-1]) == 0


def test_an_add_that_cannot_fuse_is_left_alone() -> None:
    net = Net()
    x = net.convolution("image", 3, 16)
    silu = net.convolution(x, 16, 16)
    silu = net.op("Mul", silu, net.op("Sigmoid", silu))
    behind_activation = net.op("Add", x, silu, out="behind_activation")
    thin = net.convolution(net.convolution(behind_activation, 16, 4), 4, 16, kernel=1)
    behind_float = net.op("Add", behind_activation, thin, out="behind_float")
    constant = net.op("Add", behind_float, net.constant(np.float32(1)), out="constant")
    doubled = net.op("Add", constant, constant, out="doubled")
    plan = plan_of_layer(net, doubled, 16)
    assert not quantised(plan) & {"behind_activation", "behind_float", "constant", "doubled"}


def test_a_node_that_must_stay_float_does_for_the_reason_given() -> None:
    net = Net()
    stem = net.convolution("image", 3, 16, out="stem")
    net.convolution(net.convolution(stem, 16, 16, out="layer"), 16, 32, out="y")
    plan = plan_placement(net.graph("y"), keep_float={"layer": "float16: costs 3.2 dB"})
    assert quantised(plan) == {"stem"}
    assert plan.tensorrt["layer"].reason == "float16: costs 3.2 dB"
    assert plan.cpu["layer"].int8


def test_residuals_can_be_left_float() -> None:
    net = Net()
    x = net.convolution("image", 3, 16)
    net.op("Add", x, net.convolution(x, 16, 16), out="sum")
    net.convolution("sum", 16, 16, out="y")
    assert "sum" in quantised(plan_placement(net.graph("y")))
    assert "sum" not in quantised(plan_placement(net.graph("y"), residuals=False))


# --- everything else --------------------------------------------------------------------------------------------------


def test_operators_that_move_values_take_the_grid_behind_them() -> None:
    net = Net()
    x = net.convolution("image", 3, 16)
    pooled = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], out="pooled")
    joined = net.op("Concat", pooled, pooled, axis=1, out="joined")
    plan = plan_of_layer(net, joined, 32)
    for name in ("pooled", "joined"):
        assert "moves values" in plan.tensorrt[name].reason
    assert "joined" in plan.observed


def test_squeeze_and_excitation_gates_stay_float() -> None:
    net = Net()
    x = net.convolution("image", 3, 32, out="map")
    squeezed = net.op("Relu", net.convolution(net.op("GlobalAveragePool", x), 32, 16, kernel=1, out="squeeze"))
    gate = net.op("HardSigmoid", net.convolution(squeezed, 16, 32, kernel=1, out="excite"))
    plan = plan_of_layer(net, net.op("Mul", gate, x, out="scaled"), 32)
    for name in ("squeeze", "excite"):
        assert "gate" in plan.tensorrt[name].reason
        assert not plan.cpu[name].int8
    assert plan.cpu["scaled"].int8


def test_a_convolution_on_a_pooled_map_that_gates_nothing_is_int8() -> None:
    net = Net()
    x = net.convolution("image", 3, 16)
    pooled = net.op("Relu", net.convolution(net.op("GlobalAveragePool", x), 16, 16, kernel=1, out="context"))
    plan = plan_of_layer(net, net.op("Add", x, pooled), 16)
    assert "context" in quantised(plan)


def test_every_node_of_a_graph_has_a_decision_and_a_reason() -> None:
    graph = two_heads().graph("boxes", "scores")
    plan = plan_placement(graph)
    for decisions in (plan.tensorrt, plan.cpu):
        assert list(decisions) == [node.output[0] for node in graph.nodes]
        assert all(decision.reason for decision in decisions.values())


# --- ONNX Runtime -----------------------------------------------------------------------------------------------------


def test_an_activation_is_absorbed_where_its_limits_hold_the_grid() -> None:
    net = Net()
    first = net.relu6(net.convolution("image", 3, 16, out="first"), out="clipped")
    second = net.op("Relu", net.convolution(first, 16, 16, out="second"), out="positive")
    plan = plan_of_layer(net, second, 16)
    assert plan.cpu_sites["first"].absorbed == "clipped"
    assert plan.cpu_sites["second"].tensor == "positive"
    assert "second" not in plan.observed


def test_an_activation_is_kept_where_something_else_reads_its_input() -> None:
    net = Net()
    x = net.convolution("image", 3, 16, out="shared")
    plan = plan_of_layer(net, net.op("Add", net.op("Relu", x), net.op("Neg", x)), 16)
    assert plan.cpu_sites["shared"].absorbed is None


def test_a_clip_away_from_zero_is_kept() -> None:
    net = Net()
    x = net.convolution("image", 3, 16, out="layer")
    x = net.op("Clip", x, net.constant(np.float32(1)), net.constant(np.float32(2)))
    assert plan_of_layer(net, x, 16).cpu_sites["layer"].absorbed is None


def test_operators_without_weights_are_uint8_only_between_integer_ones() -> None:
    net = Net()
    x = net.convolution("image", 3, 16)
    inside = net.op("MaxPool", x, kernel_shape=[2, 2], out="inside")
    x = net.convolution(inside, 16, 16)
    outside = net.op("MaxPool", x, kernel_shape=[2, 2], out="outside")
    net.op("Softmax", outside, out="y", axis=1)
    plan = plan_placement(net.graph("y"))
    assert plan.cpu["inside"].int8
    assert plan.cpu["outside"].reason == "read by float operators only"


@pytest.mark.parametrize(("mode", "int8"), [("nearest", True), ("linear", False)])
def test_only_nearest_enlarging_is_uint8(mode: str, int8: bool) -> None:
    net = Net()
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    x = net.op("Resize", net.convolution("image", 3, 16), "", scales, mode=mode, out="large")
    assert plan_of_layer(net, x, 16).cpu["large"].int8 is int8


# --- one whole network ------------------------------------------------------------------------------------------------

GOLDEN = """
stem      Conv              int8   uint8
stem_act  Clip              float  float
dw        Conv              int8   uint8
dw_act    Clip              float  float
project   Conv              int8   uint8
expand    Conv              int8   uint8
expand_a  Clip              float  float
back      Conv              int8   uint8
sum       Add               int8   uint8
pool      MaxPool           float  uint8
deep      Conv              int8   uint8
deep_act  Relu              float  float
boxes_h   Conv              float  uint8
boxes_t   Transpose         float  float
scores_h  Conv              float  uint8
scores_t  Transpose         float  float
"""


def test_golden_placement_of_a_small_detector() -> None:
    net = Net(side=32)
    x = net.relu6(net.convolution("image", 3, 24, strides=[2, 2], out="stem"), out="stem_act")
    x = net.relu6(net.convolution(x, 24, 24, groups=24, out="dw"), out="dw_act")
    project = net.convolution(x, 24, 16, kernel=1, out="project")
    x = net.relu6(net.convolution(project, 16, 48, kernel=1, out="expand"), out="expand_a")
    x = net.op("Add", project, net.convolution(x, 48, 16, kernel=1, out="back"), out="sum")
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], out="pool")
    x = net.op("Relu", net.convolution(x, 16, 32, out="deep"), out="deep_act")
    for name, width in (("boxes", 8), ("scores", 6)):
        net.op("Transpose", net.convolution(x, 32, width, out=f"{name}_h"), perm=[0, 2, 3, 1], out=f"{name}_t")
    plan = plan_placement(net.graph("boxes_t", "scores_t"))
    table = "\n".join(
        f"{name:9} {d.operator:17} {'int8' if d.int8 else 'float':6} {'uint8' if plan.cpu[name].int8 else 'float'}"
        for name, d in plan.tensorrt.items()
    )
    assert table == GOLDEN.strip()
    assert plan.tensorrt_inputs["sum"] == (0,)
    assert plan.observed == (
        "image", "stem_act", "dw_act", "project", "expand_a", "back", "sum", "pool", "deep_act", "boxes_h", "scores_h"
    )  # fmt: skip


def test_multiply_adds_are_counted_per_output() -> None:
    net = Net(side=16)
    net.convolution("image", 3, 8, strides=[2, 2], out="y")
    graph = net.graph("y")
    graph.infer_shapes()
    assert multiply_adds(graph, graph.producer["y"]) == 8 * 3 * 3 * 3 * 8 * 8


def test_planning_leaves_the_graph_alone() -> None:
    graph = two_heads().graph("boxes", "scores")
    before = graph.serialize()
    plan_placement(graph)
    assert graph.serialize() == before
    assert isinstance(graph, Graph)
    assert isinstance(graph.model, onnx.ModelProto)

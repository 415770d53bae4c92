"""Grids around another value than zero, where a tensor is written in a pass anyway and biases can undo the shift."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.export.candidates import keeping
from edgevision.export.emit_tensorrt import emit_tensorrt, write_qdq
from edgevision.export.graph import SCALE_PREFIX, Graph
from edgevision.export.grids import half_scales, symmetric_grid
from edgevision.export.placement import Plan, plan_placement
from edgevision.export.quantisation import Quantised
from edgevision.export.repair.probing import probe_layers
from edgevision.export.sensitivity import Layer
from tests.export.networks import Extremes, Net, measured, pictures, run, sqnr_db

IMAGES = pictures((1, 3, 16, 16), 4)
SCALED = "scaled"


def scaled_network(*, kernel: int = 1, groups: int = 1, second: int | None = None, bias: bool = True) -> Graph:
    """SiLU, a factor per channel, and a layer `layer` behind it; with `second`, one with that kernel beside it."""
    net = Net()
    x = net.convolution("image", 3, 32)
    x = net.op("Mul", x, net.op("Sigmoid", x))
    factors = net.constant(np.linspace(1, 2, 32, dtype=np.float32).reshape(1, -1, 1, 1))
    net.op("Mul", x, factors, out=SCALED)
    net.nodes[-1].name = f"{SCALE_PREFIX}{x}"
    weight = net.weight(32, 32 // groups, kernel, kernel)
    biases = [net.bias(32)] if bias else []
    net.op("Conv", SCALED, weight, *biases, out="layer", pads=[kernel // 2] * 4, group=groups)
    x = "layer"
    if second is not None:
        x = net.op("Add", x, net.convolution(SCALED, 32, 32, kernel=second))
    net.convolution(x, 32, 16, out="y")
    graph = net.graph("y", "layer")
    graph.infer_shapes()
    return graph


def uncentred(plan: Plan) -> Plan:
    return dataclasses.replace(plan, centred=frozenset())


def test_a_network_that_was_not_to_be_centred_stays_so_when_layers_leave_int8() -> None:
    graph = scaled_network()
    plan = plan_placement(graph, heads=True, centre=False)
    assert plan == uncentred(plan_placement(graph, heads=True))
    ranges = {name: Extremes(-1.0, 3.0) for name in plan.observed}
    quantised = Quantised(graph, graph, plan, ranges, "minmax")  # type: ignore[arg-type]
    assert not keeping(quantised, [Layer("layer", "layer", 1, 1.0)]).plan.centred
    centred = dataclasses.replace(quantised, plan=plan_placement(graph, heads=True))
    assert keeping(centred, []).plan.centred == centred.plan.centred != frozenset()


@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"kernel": 3}, {"second": 1}, {"second": 3}])
def test_what_convolutions_read_behind_a_factor_is_centred(options: dict[str, int]) -> None:
    assert SCALED in plan_placement(scaled_network(**options), heads=True).centred


def test_what_a_sum_reads_on_the_same_grid_is_not_centred() -> None:
    net = Net()
    x = net.op("PRelu", net.convolution("image", 3, 16), net.constant(np.full((16, 1, 1), 0.2, np.float32)), out="x")
    net.op("Add", x, net.convolution(net.op("Relu", net.convolution(x, 16, 16)), 16, 16), out="sum")
    graph = net.graph("sum")
    inner = {node.output[0]: "" for node in graph.nodes if node.op_type == "Add"}
    assert "x" not in plan_placement(graph, heads=True).centred
    assert "x" in plan_placement(graph, heads=True, keep_float=inner).centred  # no grid for the sum then


def test_padding_that_depends_on_the_size_is_left_alone() -> None:
    net = Net()
    x = net.op("PRelu", net.convolution("image", 3, 16), net.constant(np.full((16, 1, 1), 0.2, np.float32)), out="x")
    net.op("Conv", x, net.weight(16, 16, 3, 3), out="y", auto_pad="SAME_UPPER")
    assert "x" not in plan_placement(net.graph("y"), heads=True).centred


@pytest.mark.parametrize(
    ("activation", "centred"),
    [
        (lambda net, x: net.op("Mul", x, net.op("Sigmoid", x), out="x"), True),
        (lambda net, x: net.op("PRelu", x, net.constant(np.full((16, 1, 1), 0.2, np.float32)), out="x"), True),
        (lambda net, x: net.op("Concat", net.op("HardSwish", x), x, out="x", axis=1), True),
        (lambda net, x: net.op("Add", net.op("Sigmoid", x), net.op("Tanh", x), out="x"), True),
        (lambda net, x: net.op("Relu", net.op("Sigmoid", x), out="x"), True),
        (lambda net, x: net.op("Relu", net.op("Add", x, net.op("Tanh", x)), out="x"), False),  # a residual sum
        (lambda net, x: net.op("Relu", x, out="x"), False),  # the convolution before writes it
        (lambda net, x: net.relu6(x, out="x"), False),
        (lambda net, x: net.op("MaxPool", net.op("Sigmoid", x), out="x", kernel_shape=[2, 2]), False),
    ],
)
def test_only_what_is_written_in_a_pass_of_its_own_is_centred(
    activation: Callable[[Net, str], str], centred: bool
) -> None:
    net = Net()
    x = activation(net, net.convolution("image", 3, 16))
    net.convolution(x, 32 if net.nodes[-1].op_type == "Concat" else 16, 16, out="y")
    graph = net.graph("y")
    assert ("x" in plan_placement(graph, heads=True).centred) is centred
    assert "image" in plan_placement(graph, heads=True).centred


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("groups", "kernel"), [(1, 1), (2, 1), (1, 3), (2, 5)])
def test_centring_halves_the_steps_of_what_is_hardly_ever_negative(groups: int, kernel: int, bias: bool) -> None:
    graph = scaled_network(groups=groups, kernel=kernel, bias=bias)
    plan = plan_placement(graph, heads=True, keep_float={"y": "only one layer is looked at"})
    ranges = measured(graph, plan.observed, IMAGES)

    def loss_db(plan: Plan) -> float:
        emitted = write_qdq(graph, plan, ranges, "minmax")
        pairs = [(run(graph, image)["layer"], run(emitted, image)["layer"]) for image in IMAGES]
        return sqnr_db(np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]))

    first = dataclasses.replace(plan, tensorrt_inputs={"layer": (0,)})
    assert loss_db(first) > loss_db(uncentred(first)) + 3


def test_the_typed_graph_shifts_right_behind_the_factor() -> None:
    graph = scaled_network(second=1)
    plan = plan_placement(graph)
    emitted = emit_tensorrt(graph, plan, measured(graph, plan.observed, IMAGES), "minmax")
    (shift,) = [node for node in emitted.nodes if node.op_type == "Sub"]
    assert emitted.producer[shift.input[0]].name.startswith(SCALE_PREFIX)
    assert [node.op_type for node in emitted.consumers[shift.output[0]]] == ["QuantizeLinear"]
    assert emitted.constants[shift.input[1]].dtype == np.float16


def test_readers_with_different_padding_each_get_their_own() -> None:
    graph = scaled_network(kernel=5, second=3)
    plan = plan_placement(graph, heads=True)
    emitted = emit_tensorrt(graph, plan, measured(graph, plan.observed, IMAGES), "minmax")
    pads = [node for node in emitted.nodes if node.op_type == "Pad" and node.input[0] == SCALED]
    amounts = sorted(emitted.constants[node.input[1]].tolist() for node in pads)
    assert amounts == [[0, 0, n, n, 0, 0, n, n] for n in (1, 2)]
    for node in pads:
        (shift,) = emitted.consumers[node.output[0]]
        assert shift.op_type == "Sub"


def test_what_lies_outside_a_shifted_picture_is_still_zero() -> None:
    net = Net()
    x = net.op("Mul", "image", net.op("Sigmoid", "image"), out="x")
    net.op("Conv", x, net.weight(16, 3, 5, 5), net.bias(16), out="y", pads=[0, 1, 2, 3], strides=[2, 1])
    graph = net.graph("y")
    graph.infer_shapes()
    plan = plan_placement(graph, heads=True)
    fine = {"x": Extremes(0.0, 1.0)}  # all other grids leave float values as they are
    emitted = write_qdq(graph, plan, fine, "minmax")
    image = np.full((1, 3, 16, 16), 0.5, np.float32)  # the same value everywhere: only the border can differ
    expected, found = (run(g, image)["y"] for g in (graph, emitted))
    inside = (slice(None), slice(None), slice(3, 5), slice(6, 10))
    worst = np.abs(found - expected)[inside].max()
    assert np.abs(found - expected).max() <= 4 * worst + 1e-5
    assert (
        np.abs(expected - expected[inside].mean(axis=(0, 2, 3), keepdims=True).reshape(1, 16, 1, 1)).max() > 100 * worst
    )


@pytest.mark.parametrize("kernel", [1, 3])
def test_probes_see_the_centred_grid(kernel: int) -> None:
    graph = scaled_network(kernel=kernel)
    plan = plan_placement(graph, heads=True)
    plan = dataclasses.replace(plan, tensorrt_inputs={"layer": (0,)})
    ranges = measured(graph, plan.observed, IMAGES)
    found = probe_layers(graph, plan, ranges, "minmax", IMAGES, clip=False)["layer"]
    emitted = write_qdq(graph, plan, ranges, "minmax")
    for image, error, noise in zip(IMAGES, found.error, found.noise, strict=True):
        difference = run(emitted, image)["layer"] - run(graph, image)["layer"]
        np.testing.assert_allclose(error, difference.mean(axis=(0, 2, 3)), atol=1e-4)
        np.testing.assert_allclose(noise, np.square(difference).mean(axis=(0, 2, 3)), rtol=0.02, atol=1e-6)


limits = st.floats(0, 1e4, width=32)


@given(limits, limits)
def test_a_centred_grid_holds_the_whole_range_and_is_never_wider(below: float, above: float) -> None:
    found = Extremes(-below, above)
    offset, limit = symmetric_grid(found, "minmax", centred=True)
    assert float(np.float16(offset)) == float(offset)
    assert -below - float(offset) >= -limit * 128 / 127 * (1 + 1e-12)  # code -128
    assert above - float(offset) <= limit * (1 + 1e-12)
    assert limit <= found.symmetric_limit("minmax")
    assert symmetric_grid(found, "minmax", centred=False) == (0, found.symmetric_limit("minmax"))


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_every_level_of_a_picture_has_a_code_of_its_own(scale: float) -> None:
    levels = np.arange(256) * scale
    offset, limit = symmetric_grid(Extremes(0.0, float(levels[-1])), "minmax", centred=True)
    step = half_scales(np.float64(limit))
    codes = np.rint((levels - offset) / step)
    assert codes.tolist() == list(range(-128, 128))
    assert np.abs(codes * step + offset - levels).max() < 0.15 * scale

"""Grids around another value than zero, where a factor per channel is taken anyway and biases can undo the shift."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevision.export.emit_tensorrt import emit_tensorrt, write_qdq
from edgevision.export.graph import SCALE_PREFIX, Graph
from edgevision.export.grids import symmetric_grid
from edgevision.export.placement import Plan, plan_placement
from edgevision.export.repair.probing import probe_layers
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


@pytest.mark.parametrize(
    ("options", "centred"),
    [
        ({}, {SCALED}),
        ({"groups": 2}, {SCALED}),
        ({"kernel": 3}, set()),  # its padding would no longer be zeros
        ({"second": 1}, {SCALED}),
        ({"second": 3}, set()),
    ],
)
def test_only_what_layers_without_padding_read_is_centred(options: dict[str, int], centred: set[str]) -> None:
    assert plan_placement(scaled_network(**options)).centred == centred


def test_a_tensor_without_a_factor_gets_no_pass_of_its_own() -> None:
    net = Net()
    x = net.convolution("image", 3, 32)
    net.convolution(net.convolution(net.op("Mul", x, net.op("Sigmoid", x)), 32, 16, kernel=1), 16, 16, out="y")
    assert not plan_placement(net.graph("y")).centred


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_centring_halves_the_steps_of_what_is_hardly_ever_negative(groups: int, bias: bool) -> None:
    graph = scaled_network(groups=groups, bias=bias)
    plan = plan_placement(graph, keep_float={"y": "only one layer is looked at"})
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


def test_probes_see_the_centred_grid() -> None:
    graph = scaled_network()
    plan = plan_placement(graph)
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
    assert -below - float(offset) >= -limit
    assert above - float(offset) <= limit
    assert limit <= found.symmetric_limit("minmax")
    assert symmetric_grid(found, "minmax", centred=False) == (0, found.symmetric_limit("minmax"))

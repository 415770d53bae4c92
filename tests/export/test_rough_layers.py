"""Layers whose grids make much noise stay float16, as long as they are cheap."""

from __future__ import annotations

import numpy as np
import pytest

from edgevision.export.emit_tensorrt import emit_tensorrt
from edgevision.export.graph import Graph
from edgevision.export.placement import plan_placement
from edgevision.export.repair.probing import Probe, probe_layers
from edgevision.export.repair.rough_layers import MOST_SHARE, ROUGH_DB, rough_layers
from tests.export.networks import Extremes, Net, measured, pictures, run, sqnr_db

IMAGES = pictures((1, 3, 16, 16), 4)
SIDE = 64
"""Channels of the large layer, which has SIDE / 16 * 9 times the multiply-adds of the small ones."""


def network() -> Graph:
    """Layers `first` (3 to 16 channels), `small` and `tiny` (16 to 16, 1x1), `other` (3x3), `widening`, `large` and a
    head."""
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 16, out="first"), out="x")
    for name, kernel in (("small", 1), ("tiny", 1), ("other", 3)):
        x = net.op("Relu", net.convolution(x, 16, 16, kernel, out=name), out=f"{name}_relu")
    wide = net.op("Relu", net.convolution(x, 16, SIDE, out="widening"), out="wide")
    x = net.op("Relu", net.op("Conv", wide, net.weight(SIDE, SIDE, 3, 3), pads=[1] * 4, out="large"), out="z")
    net.convolution(x, SIDE, 8, out="y")
    graph = net.graph("y")
    graph.infer_shapes()
    return graph


def probes_of(graph: Graph, **share_of_noise: float) -> dict[str, Probe]:
    """Every quantised layer with little noise, but for those named."""
    plan = plan_placement(graph)
    one = np.ones((2, 4))
    return {
        layer: Probe(0 * one, share_of_noise.get(layer, 1e-5) * 4 * one, one, 5 * one) for layer in plan.tensorrt_inputs
    }


def test_a_range_that_outliers_stretch_leaves_its_cheap_reader_in_float16() -> None:
    graph = network()
    plan = plan_placement(graph)
    ranges = measured(graph, plan.observed, IMAGES)
    assert rough_layers(graph, probe_layers(graph, plan, ranges, "minmax", IMAGES, clip=False)) == {}
    stretched = {**ranges, "x": Extremes(0.0, 40 * ranges["x"].affine_range("minmax")[1])}
    reasons = rough_layers(graph, probe_layers(graph, plan, stretched, "minmax", IMAGES, clip=False))
    assert set(reasons) == {"small"}
    assert "dB" in reasons["small"]
    repaired = plan_placement(graph, keep_float=reasons)
    fresh = pictures((1, 3, 16, 16), 3, seed=9)

    def gained(quantised: object) -> float:
        emitted = emit_tensorrt(graph, quantised, stretched)  # type: ignore[arg-type]
        return float(np.mean([sqnr_db(run(graph, image)["y"], run(emitted, image)["y"]) for image in fresh]))

    assert gained(repaired) > gained(plan) + 6


def test_noise_is_a_share_of_the_variance_over_all_pictures() -> None:
    """A plane that is flat on each picture but differs between them carries a signal."""
    probe = Probe(np.zeros((2, 1)), np.full((2, 1), 0.5), np.array([[0.0], [4.0]]), np.array([[1.0], [17.0]]))
    assert probe.noise_share == pytest.approx(0.5 / (9 - 4))
    assert Probe(*(np.zeros((2, 3)),) * 4).noise_share == 0


def test_a_layer_at_the_limit_stays_int8() -> None:
    graph = network()
    limit = 10 ** (-ROUGH_DB / 10)
    assert set(rough_layers(graph, probes_of(graph, small=1.01 * limit, tiny=0.99 * limit))) == {"small"}


def test_what_is_not_cheap_stays_int8() -> None:
    graph = network()
    assert rough_layers(graph, probes_of(graph, large=1.0)) == {}


@pytest.mark.parametrize(("small", "tiny", "kept"), [(0.005, 0.004, "small"), (0.004, 0.005, "tiny")])
def test_the_most_noise_per_multiply_add_goes_first(small: float, tiny: float, kept: str) -> None:
    """Beside the 3x3 layer, which has most of it, there is room for one of the two others."""
    graph = network()
    total = sum((3 * 16 * 9, 256, 256, 256 * 9, 16 * SIDE * 9, SIDE * SIDE * 9, SIDE * 8 * 9))
    assert 256 * 10 < MOST_SHARE * total < 256 * 11
    found = rough_layers(graph, probes_of(graph, small=small, tiny=tiny, other=0.1))
    assert set(found) == {"other", kept}

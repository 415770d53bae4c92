"""Rows of several maps joined as uint8: the values of maps that are dequantised one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from edgevision.export import emit_cpu as emitter
from edgevision.export.box_coding import append_foreground, append_offsets
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.emit_cpu import count_fused, emit_cpu
from edgevision.export.graph import Graph
from edgevision.export.placement import plan_placement
from tests.export.networks import Extremes, Net, measured, pictures, run

SIDES = (16, 8)
ROWS = sum(2 * side * side for side in SIDES)  # two priors per cell
CLASSES = 5


def detector(*, background: bool = False, activation: str = "Sigmoid") -> Graph:
    """Two maps with heads; boxes are offsets to priors of very different sizes."""
    net = Net(side=32)
    features, boxes, scores = "image", [], []
    for channels, side in zip((3, 16), SIDES, strict=True):
        features = net.op("Relu", net.convolution(features, channels, 16, strides=[2, 2]))
        for rows, columns in ((boxes, 4), (scores, CLASSES)):
            cells = net.op("Transpose", net.convolution(features, 16, 2 * columns, kernel=1), perm=[0, 2, 3, 1])
            rows.append(net.op("Reshape", cells, net.constant(np.array([1, 2 * side * side, columns]))))
    joined = net.op("Concat", *boxes, axis=1)
    graph = net.graph(joined, net.op(activation, net.op("Concat", *scores, axis=1, out="logits"), out="likely"))
    priors = np.random.default_rng(0).uniform(4, 30, (ROWS, 4))
    priors[-128:, 2:] *= 8
    decode = Decode(graph)
    mark_decode(graph, ["likely"], frozenset([activation]))
    found = append_offsets(decode, joined, priors, (0.1, 0.1, 0.2, 0.2))
    likely = append_foreground(decode, "likely") if background else "likely"
    decode.finish({"boxes": (found, 1), "scores": (likely, 1)})
    graph.infer_shapes()
    return graph


Change = Callable[[dict[str, Extremes], list[list[str]]], None]


def heads(graph: Graph) -> list[list[str]]:
    """The heads' convolutions, of boxes and of scores, level by level."""
    found = [
        node.output[0] for node in graph.nodes if node.op_type == "Conv" and len(graph.consumers[node.output[0]]) == 1
    ]
    return [[name for name in found if graph.shape(name)[1] == 2 * columns] for columns in (4, CLASSES)]  # type: ignore[index]


def emitted(graph: Graph, monkeypatch: pytest.MonkeyPatch, change: Change | None = None) -> tuple[Graph, Graph]:
    """The uint8 graph, and the one whose maps are dequantised one by one."""
    plan = plan_placement(graph)
    ranges = measured(graph, plan.observed, pictures((1, 3, 32, 32)))
    if change is not None:
        change(ranges, heads(graph))
    joined = emit_cpu(graph, plan, ranges)
    monkeypatch.setattr(emitter, "join_levels", lambda graph: 0)
    return joined, emit_cpu(graph, plan, ranges)


def behind_joins(graph: Graph) -> Counter[str]:
    joins = [node for node in graph.nodes if node.op_type == "Concat"]
    return Counter(graph.consumers[node.output[0]][0].op_type for node in joins)


@pytest.mark.parametrize("exact", [True, False])
def test_offsets_lose_nothing_whatever_their_maps_grids(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    def change(ranges: dict[str, Extremes], named: list[list[str]]) -> None:
        ranges[named[0][0]], ranges[named[0][1]] = Extremes(-30.0, 1.0), Extremes(-0.2, 2.0)

    joined, apart = emitted(detector(), monkeypatch, change)
    for image in pictures((1, 3, 32, 32), seed=1):
        got, wanted = (run(graph, image, exact=exact)["boxes"] for graph in (joined, apart))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)
        assert np.ptp(wanted) > 10


def test_every_kind_of_row_is_dequantised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, apart = emitted(detector(), monkeypatch)
    onnx.checker.check_model(joined.model, full_check=True)
    assert behind_joins(joined) == {"DequantizeLinear": 2}
    assert count_fused(apart)["DequantizeLinear"] == 4
    assert count_fused(joined)["DequantizeLinear"] == 2
    assert count_fused(joined)["QLinearConv"] == count_fused(apart)["QLinearConv"] == 6
    read = {name for node in joined.nodes for name in node.input}
    assert all(tensor.name in read for tensor in joined.proto.initializer)


@pytest.mark.parametrize(("highest", "bounded"), [(20.0, False), (21.5, True)])
def test_sizes_are_bounded_where_steps_reach_the_bound(
    monkeypatch: pytest.MonkeyPatch, highest: float, bounded: bool
) -> None:
    """log(1000 / 16) is 4.135, that is an offset of 20.7."""

    def change(ranges: dict[str, Extremes], named: list[list[str]]) -> None:
        ranges[named[0][0]] = Extremes(-1.0, highest)

    joined, apart = emitted(detector(), monkeypatch, change)
    assert ("Min" in {node.op_type for node in joined.nodes}) == bounded
    image = 40 * pictures((1, 3, 32, 32))[0]
    got, wanted = (run(graph, image)["boxes"] for graph in (joined, apart))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("background", [False, True])
def test_scores_share_a_grid_that_holds_every_likely_class(monkeypatch: pytest.MonkeyPatch, background: bool) -> None:
    def change(ranges: dict[str, Extremes], named: list[list[str]]) -> None:
        ranges[named[1][0]], ranges[named[1][1]] = Extremes(-6.0, 4.0), Extremes(-20.0, 5.0)

    joined, apart = emitted(detector(background=background), monkeypatch, change)
    (grid,) = {node.input[1] for node in joined.nodes if node.op_type == "DequantizeLinear" and "logits" in node.name}
    assert float(joined.constants[grid]) == pytest.approx((5.0 + 9.0) / 255, rel=0.01)
    for image in pictures((1, 3, 32, 32), seed=1):
        got, wanted = (run(graph, 3 * image)["scores"].astype(np.float64) for graph in (joined, apart))
        assert got.shape == (1, ROWS, CLASSES - background)
        # Half a step of either grid, in logits; anything less likely than 1e-4 counts as that.
        logits = [np.log(values / (1 - values)).clip(-9) for values in (got, wanted)]
        np.testing.assert_allclose(*logits, atol=(14 + 25) / 255 / 2 + 1e-3)


def test_a_background_column_is_cut_off_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    joined, apart = emitted(detector(background=True), monkeypatch)
    kinds = {}
    for name, graph in (("joined", joined), ("apart", apart)):
        (cut,) = [node for node in graph.nodes if node.op_type == "Slice"]
        kinds[name] = graph.producer[cut.input[0]].op_type
    assert kinds == {"joined": "Concat", "apart": "Sigmoid"}


@pytest.mark.parametrize("activation", ["Sigmoid", "Softmax"])
def test_maps_of_very_different_ranges_keep_their_grids(monkeypatch: pytest.MonkeyPatch, activation: str) -> None:
    """Only a Sigmoid says that low logits are all alike: the others' grids are compared whole."""

    def change(ranges: dict[str, Extremes], named: list[list[str]]) -> None:
        ranges[named[1][0]], ranges[named[1][1]] = Extremes(-7.0, 3.0), Extremes(-30.0, 3.0)

    joined, apart = emitted(detector(activation=activation), monkeypatch, change)
    assert behind_joins(joined)["DequantizeLinear"] == (2 if activation == "Sigmoid" else 1)
    if activation == "Softmax":
        image = pictures((1, 3, 32, 32), seed=1)[0]
        np.testing.assert_array_equal(run(joined, image)["scores"], run(apart, image)["scores"])

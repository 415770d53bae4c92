"""Decodes on whole rows: the values of those that take rows apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from edgevision.export.box_coding import append_centres, append_offsets
from edgevision.export.decode import Decode
from edgevision.export.decode_cpu import spread_pairs
from edgevision.export.decode_offsets_cpu import fuse_offsets
from edgevision.export.graph import DECODE_PREFIX, Graph
from tests.export.networks import Net, run

COUNT = 301


def boxes(kind: str, seed: int = 0) -> Graph:
    net = Net(seed)
    net.input = (1, COUNT, 4)  # type: ignore[assignment]
    graph = net.graph(net.op("Mul", "image", net.constant(np.float32(1)), out="raw"))
    decode = Decode(graph)
    if kind == "centres":
        corners = append_centres(decode, "raw")
    else:
        priors = np.random.default_rng(seed).uniform(1, 300, (COUNT, 4))
        variances = (0.1, 0.1, 0.2, 0.3 if kind == "unequal" else 0.2)
        corners = append_offsets(decode, "raw", priors, variances, y_first=kind == "y_first")
    decode.finish({"boxes": (corners, 1)})
    graph.infer_shapes()
    return graph


@pytest.mark.parametrize("kind", ["x_first", "y_first", "unequal", "centres"])
def test_the_corners_keep_their_bits(kind: str) -> None:
    graph = boxes(kind)
    rewritten = graph.copy()
    assert spread_pairs(rewritten) == 1
    operators = [node.op_type for node in rewritten.nodes]
    assert not {"Split", "Concat", "Gather", "Sub"}.intersection(operators)
    assert all(node.name.startswith(DECODE_PREFIX) for node in rewritten.nodes if node.op_type != "Mul"), "stays float"
    offsets = np.random.default_rng(1).normal(0, 3, (1, COUNT, 4)).astype(np.float32)
    for scale in (1, 30):  # the larger ones reach the bound on a size
        np.testing.assert_array_equal(run(rewritten, offsets * scale)["boxes"], run(graph, offsets * scale)["boxes"])


@pytest.mark.parametrize("kind", ["x_first", "y_first", "unequal"])
def test_offsets_become_one_product_and_one_sum(kind: str) -> None:
    graph = boxes(kind)
    rewritten = graph.copy()
    assert fuse_offsets(rewritten) == 1
    operators = [node.op_type for node in rewritten.nodes if node.output[0] != "raw"]
    assert sorted(operators) == ["Add", "Add", "Exp", "MatMul", "MatMul", "Min", "Mul"]
    assert all(node.name.startswith(DECODE_PREFIX) for node in rewritten.nodes if node.output[0] != "raw")
    offsets = np.random.default_rng(1).normal(0, 3, (1, COUNT, 4)).astype(np.float32)
    for scale in (1, 30):  # the larger ones reach the bound on a size
        got, expected = (run(each, offsets * scale)["boxes"] for each in (rewritten, graph))
        np.testing.assert_allclose(got, expected, rtol=3e-6, atol=3e-6 * np.abs(expected).max())


def test_a_centre_beyond_all_bounds_leaves_finite_corners() -> None:
    graph = boxes("x_first")
    fuse_offsets(graph)
    corners = run(graph, np.full((1, COUNT, 4), 1e9, np.float32))["boxes"]
    assert np.isfinite(corners).all()


@pytest.mark.parametrize("rewrite", [spread_pairs, fuse_offsets])
@pytest.mark.parametrize("change", ["Softplus for Exp", "Add for Sub", "an output on the way"])
def test_other_joins_are_left_alone(change: str, rewrite: Callable[[Graph], int]) -> None:
    graph = boxes("x_first")
    if change == "an output on the way":
        inner = next(node for node in graph.nodes if node.op_type == "Exp").output[0]
        graph.proto.output.append(onnx.helper.make_tensor_value_info(inner, onnx.TensorProto.FLOAT, None))
        graph.reindex()
    else:
        new, old = change.split(" for ")
        next(node for node in graph.nodes if node.op_type == old).op_type = new
    offsets = np.random.default_rng(1).normal(0, 3, (1, COUNT, 4)).astype(np.float32)
    expected = run(graph, offsets)
    assert rewrite(graph) == (change == "an output on the way")
    for name, value in run(graph, offsets).items():
        np.testing.assert_allclose(value, expected[name], rtol=3e-6, atol=3e-6 * np.abs(expected[name]).max())

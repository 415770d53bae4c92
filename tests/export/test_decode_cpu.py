"""Decodes on whole rows: the values of those that take rows apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from edgevision.export.box_coding import append_centres, append_offsets
from edgevision.export.decode import Decode
from edgevision.export.decode_cpu import spread_pairs
from edgevision.export.decode_maps_cpu import compare_pixels
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


CLASSES = 19


def class_map(
    *resize: np.ndarray | None,
    mode: str = "linear",
    axis: int = 1,
    keepdims: int = 0,
    classes: int = CLASSES,
    **attributes: object,
) -> Graph:
    net = Net()
    net.input = (1, classes, 9, 13)
    scores = net.op("Mul", "image", net.constant(np.float32(1)))
    inputs = ["" if value is None else net.constant(value) for value in resize]
    large = net.op("Resize", scores, *inputs, mode=mode, out="logits", **attributes)
    net.op("Cast", net.op("ArgMax", large, axis=axis, keepdims=keepdims), to=onnx.TensorProto.FLOAT, out="class_map")
    graph = net.graph("class_map")
    graph.infer_shapes()
    return graph


SIZES, SCALES = np.array([1, CLASSES, 40, 61]), np.array([1, 1, 4, 4.5], np.float32)


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
@pytest.mark.parametrize("resize", [(None, None, SIZES), (None, SCALES)], ids=["sizes", "scales"])
def test_the_best_class_of_enlarged_maps_is_found_on_pixels(
    resize: tuple[np.ndarray | None, ...], coordinates: str
) -> None:
    graph = class_map(*resize, coordinate_transformation_mode=coordinates)
    rewritten = graph.copy()
    assert compare_pixels(rewritten) == 1
    onnx.checker.check_model(rewritten.model, full_check=True)
    assert [node.op_type for node in rewritten.nodes] == ["Mul", "Transpose", "Resize", "ArgMax", "Cast"]
    scores = np.random.default_rng(2).normal(0, 3, (1, CLASSES, 9, 13)).astype(np.float32)
    np.testing.assert_array_equal(run(rewritten, scores)["class_map"], run(graph, scores)["class_map"])


@pytest.mark.parametrize(
    "graph",
    [
        class_map(None, None, SIZES, mode="nearest"),
        class_map(None, None, SIZES, axis=2),
        class_map(None, None, SIZES, keepdims=1),
        class_map(None, None, SIZES, antialias=1),
        class_map(None, None, SIZES[2:], axes=[2, 3]),
        class_map(None, None, SIZES * [1, 2, 1, 1]),
        class_map(None, SCALES, classes=7),
    ],
    ids=["nearest", "rows", "an axis kept", "antialiased", "two sides", "classes enlarged", "few classes"],
)
def test_other_maps_stay_as_they_are(graph: Graph) -> None:
    before = graph.serialize()
    assert compare_pixels(graph) == 0
    assert graph.serialize() == before

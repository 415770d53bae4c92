"""Splits that move to where a graph joined its parts: the same values, without the joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.export.decode import Decode
from edgevision.export.graph import Graph
from edgevision.export.parts import pick_channels, split_parts
from edgevision.export.simplification import simplify
from tests.export.builders import Builder, run

ROWS = 6


def graph_of(b: Builder, inputs: dict[str, Sequence[int]], output: str) -> Graph:
    graph = Graph(b.model(inputs, [output], opset=19, ir_version=9))
    graph.infer_shapes()
    return graph


def finished(graph: Graph, decode: Decode, parts: Sequence[str]) -> Graph:
    decode.finish({f"part{number}": (part, onnx.TensorProto.FLOAT) for number, part in enumerate(parts)})
    simplify(graph)
    onnx.checker.check_model(graph.model, full_check=True)
    return graph


def kinds(graph: Graph) -> list[str]:
    return sorted(node.op_type for node in graph.nodes)


@st.composite
def joined(draw: Any) -> tuple[Builder, str, int]:
    """Columns that pass a Relu, are joined, turned, shaped and joined again, in any way; and how many there are."""
    b = Builder(draw(st.integers(0, 99)))
    widths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    pieces = []
    for width in widths:
        x = b.op("MatMul", "x", b.constant(b.random.normal(0, 1, (5, width)).astype(np.float32)))
        pieces.append(b.op("Relu", x))
    columns = sum(widths)
    x = b.op("Concat", *pieces, axis=draw(st.sampled_from([2, -1])))
    for step in draw(st.lists(st.sampled_from(["turn", "shape", "levels", "split"]), max_size=5)):
        if step == "turn":
            there = b.op("Transpose", x, perm=[0, 2, 1])
            x = b.op("Transpose", b.op("Identity", there) if draw(st.booleans()) else there, perm=[0, 2, 1])
        elif step == "shape":
            wide = b.op("Reshape", x, b.constant(np.array([1, 2, -1, columns])))
            x = b.op("Reshape", wide, b.constant(np.array([1, -1, columns])))
        elif step == "levels":
            x = b.op("Concat", x, b.op("Neg", x), axis=1)
        elif columns > 1:
            first = draw(st.integers(1, columns - 1))
            names = [f"s{len(b.nodes)}", f"e{len(b.nodes)}"]
            sizes = b.constant(np.array([first, columns - first]))
            b.nodes.append(onnx.helper.make_node("Split", [x, sizes], names, name=names[0], axis=2))
            x = b.op("Concat", *names, axis=2)
    b.op("Identity", x, out="joined")
    return b, "joined", columns


@given(case=joined(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_split_of_any_join_gives_the_same_columns(case: tuple[Builder, str, int], data: Any) -> None:
    b, output, columns = case
    borders = data.draw(st.sets(st.integers(1, columns - 1)) if columns > 1 else st.just(set()))
    widths = np.diff([0, *sorted(borders), columns]).tolist()
    graph = graph_of(b, {"x": [1, ROWS, 5]}, output)
    image = np.random.default_rng(0).normal(0, 1, (1, ROWS, 5)).astype(np.float32)
    expected = run(graph.serialize(), image)[output]
    decode = Decode(graph)
    got = run(finished(graph, decode, split_parts(decode, output, 2, widths)).serialize(), image)
    for number, part in enumerate(np.split(expected, np.cumsum(widths)[:-1], axis=2)):
        np.testing.assert_array_equal(got[f"part{number}"], part)


def test_what_was_joined_is_not_split_again() -> None:
    """As YOLOX writes it: boxes, objectness and classes per level, joined, flattened, joined, turned."""
    b = Builder()
    levels = []
    for stride in (1, 2):
        parts = [b.op("Sigmoid", b.conv("x", 4, width, stride=stride)) for width in (4, 1, 3)]
        levels.append(b.op("Reshape", b.op("Concat", *parts, axis=1), b.constant(np.array([1, 8, -1]))))
    b.op("Transpose", b.op("Concat", *levels, axis=2), perm=[0, 2, 1], out="rows")
    graph = graph_of(b, {"x": [1, 4, 8, 8]}, "rows")
    image = np.random.default_rng(0).normal(0, 1, (1, 4, 8, 8)).astype(np.float32)
    expected = run(graph.serialize(), image)["rows"]
    decode = Decode(graph)
    graph = finished(graph, decode, split_parts(decode, "rows", 2, (4, 1, 3)))
    assert "Split" not in kinds(graph)
    assert kinds(graph).count("Concat") == 3, "levels only"
    got = run(graph.serialize(), image)
    np.testing.assert_array_equal(np.concatenate([got[f"part{n}"] for n in range(3)], axis=2), expected)


def test_the_graphs_own_split_makes_more_parts() -> None:
    """As YOLOv5 writes it: centres and sizes leave the row, the rest passes."""
    b = Builder()
    names = ["xy", "wh", "rest"]
    b.nodes.append(onnx.helper.make_node("Split", ["x", b.constant(np.array([2, 2, 4]))], names, name="cut", axis=2))
    parts = [b.op("Neg", name) for name in names[:2]]
    b.op("Concat", *parts, "rest", axis=2, out="rows")
    graph = graph_of(b, {"x": [1, ROWS, 8]}, "rows")
    decode = Decode(graph)
    graph = finished(graph, decode, split_parts(decode, "rows", 2, (4, 1, 3)))
    assert kinds(graph) == ["Concat", "Neg", "Neg", "Split"]
    image = np.arange(ROWS * 8, dtype=np.float32).reshape(1, ROWS, 8)
    got = run(graph.serialize(), image)
    np.testing.assert_array_equal(got["part0"], -image[:, :, :4])
    np.testing.assert_array_equal(got["part1"], image[:, :, 4:5])
    np.testing.assert_array_equal(got["part2"], image[:, :, 5:])


@pytest.mark.parametrize("joins", [20, 200])
def test_a_tensor_joined_with_itself_again_and_again_takes_no_time(joins: int) -> None:
    b = Builder()
    x = "x"
    for number in range(joins):
        x = b.op("Concat", x, x, axis=1) if number < 20 else b.op("Transpose", x, perm=[0, 1, 2])
    b.op("Identity", x, out="rows")
    graph = graph_of(b, {"x": [1, 1, 6]}, "rows")
    before = len(graph.proto.node)
    parts = split_parts(Decode(graph), x, 2, (4, 2))
    assert len(parts) == 2
    assert len(graph.proto.node) - before < 100


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "read elsewhere"])
def test_channels_of_a_convolution_become_convolutions(shared: bool) -> None:
    b = Builder()
    conv = b.conv("x", 4, 6)
    if shared:
        b.op("Add", b.op("Relu", conv), b.op("Neg", conv), out="other")
    b.op("Identity", conv, out="map")
    graph = graph_of(b, {"x": [1, 4, 8, 8]}, "map")
    image = np.random.default_rng(0).normal(0, 1, (1, 4, 8, 8)).astype(np.float32)
    expected: NDArray[Any] = run(graph.serialize(), image)["map"]
    picks = [np.array([0, 1, 3]), np.array([5, 2])]
    decode = Decode(graph)
    graph = finished(graph, decode, pick_channels(decode, conv, picks))
    assert kinds(graph) == (["Conv", "Gather", "Gather"] if shared else ["Conv", "Conv"])
    got = run(graph.serialize(), image)
    for number, pick in enumerate(picks):
        np.testing.assert_allclose(got[f"part{number}"], expected[:, pick], rtol=1e-5, atol=1e-6)

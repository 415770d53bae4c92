"""Simplification: every pass keeps what the graph computes, and does what it promises."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgevision.export.folding import fold_constants
from edgevision.export.graph import Graph
from edgevision.export.graph_loading import load_graph
from edgevision.export.simplification import simplify
from tests.export.builders import Builder, backbone, picture_tensor, run


def simplified(model: onnx.ModelProto) -> tuple[Graph, dict[str, int]]:
    """The model through all passes, having checked that it still computes the same."""
    graph = load_graph(model.SerializeToString()).graph
    facts = simplify(graph)
    onnx.checker.check_model(graph.model, full_check=True)
    image = picture_tensor(model)
    for name, value in run(model, image).items():
        np.testing.assert_allclose(run(graph.serialize(), image)[name], value, rtol=1e-3, atol=1e-4)
    return graph, facts


def kinds(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph.nodes)


def norm(b: Builder, x: str, channels: int) -> str:
    """A batch normalisation with statistics unlike 0 and 1."""
    values = [b.random.uniform(0.5, 2, channels), b.random.normal(0, 1, channels)]
    values += [b.random.normal(0, 1, channels), b.random.uniform(0.1, 3, channels)]
    return b.op("BatchNormalization", x, *(b.constant(v.astype(np.float32)) for v in values), epsilon=1e-3)


def test_a_batch_norm_goes_into_its_convolution() -> None:
    b = Builder()
    b.op("Relu", norm(b, b.conv("image", 3, 8), 8), out="out")
    graph, facts = simplified(b.model({"image": [1, 3, 16, 16]}, ["out"]))
    assert facts["fold_batch_norms"] == 1
    assert kinds(graph) == {"Conv": 1, "Relu": 1}


def test_a_batch_norm_goes_into_a_convolution_without_bias() -> None:
    b = Builder()
    x = b.conv("image", 3, 8)
    b.nodes[-1].input.pop()
    b.op("Relu", norm(b, x, 8), out="out")
    graph, _ = simplified(b.model({"image": [1, 3, 16, 16]}, ["out"]))
    assert kinds(graph)["BatchNormalization"] == 0


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_batch_norm_goes_into_a_transposed_convolution(groups: int) -> None:
    b = Builder()
    x = b.conv("image", 3, 8)
    weight = b.constant(b.random.normal(0, 1, (8, 12 // groups, 2, 2)).astype(np.float32))
    x = b.op("ConvTranspose", x, weight, kernel_shape=[2, 2], strides=[2, 2], group=groups)
    b.op("Relu", norm(b, x, 12), out="out")
    _, facts = simplified(b.model({"image": [1, 3, 16, 16]}, ["out"]))
    assert facts["fold_batch_norms"] == 1


def test_a_batch_norm_stays_where_its_convolution_has_other_readers() -> None:
    b = Builder()
    x = b.conv("image", 3, 8)
    b.op("Add", norm(b, x, 8), x, out="out")
    graph, facts = simplified(b.model({"image": [1, 3, 16, 16]}, ["out"]))
    assert facts["fold_batch_norms"] == 0
    assert kinds(graph)["BatchNormalization"] == 1


def test_two_convolutions_that_share_weights_get_weights_of_their_own() -> None:
    b = Builder()
    x = b.op("Relu", b.conv("image", 3, 4))
    first = b.conv(x, 4, 4)
    shared = b.nodes[-1].input[1]
    second = b.op("Conv", x, shared, kernel_shape=[3, 3], pads=[1] * 4)
    b.op("Add", norm(b, first, 4), norm(b, second, 4), out="out")
    _, facts = simplified(b.model({"image": [1, 3, 16, 16]}, ["out"]))
    assert facts["fold_batch_norms"] == 2


def padded(pads: list[int], **attributes: Any) -> onnx.ModelProto:
    b = Builder()
    value = [b.constant(np.float32(attributes.pop("value")))] if "value" in attributes else []
    x = b.op("Pad", "image", b.constant(np.array(pads)), *value, **attributes)
    b.op("Relu", b.conv(x, 3, 4, stride=2), out="out")
    return b.model({"image": [1, 3, 17, 20]}, ["out"])


def test_a_zero_pad_goes_into_the_convolution() -> None:
    graph, facts = simplified(padded([0, 0, 0, 1, 0, 0, 1, 2]))
    assert facts["merge_pads"] == 1
    assert kinds(graph)["Pad"] == 0


@pytest.mark.parametrize(
    "model",
    [
        padded([0, 0, 1, 1, 0, 0, 1, 1], value=0.5),
        padded([0, 0, 1, 1, 0, 0, 1, 1], mode="reflect"),
        padded([0, 0, -1, -1, 0, 0, 0, 0]),
    ],
    ids=["not zero", "reflected", "negative"],
)
def test_other_pads_stay(model: onnx.ModelProto) -> None:
    graph, facts = simplified(model)
    assert facts["merge_pads"] == 0
    assert kinds(graph)["Pad"] == 1


def test_a_pad_with_axes_goes_into_the_convolution() -> None:
    b = Builder()
    x = b.op("Pad", "image", b.constant(np.array([2, 1, 0, 1])), "", b.constant(np.array([-1, -2])))
    b.op("Relu", b.conv(x, 3, 4), out="out")
    _, facts = simplified(b.model({"image": [1, 3, 17, 20]}, ["out"], opset=18))
    assert facts["merge_pads"] == 1


def test_what_does_nothing_goes() -> None:
    b = Builder()
    x = b.op("Identity", b.op("Dropout", b.op("Cast", b.conv("image", 3, 4), to=TensorProto.FLOAT)))
    b.op("Relu", x, out="out")
    graph, facts = simplified(b.model({"image": [1, 3, 8, 8]}, ["out"]))
    assert facts["remove_identities"] == 3
    assert kinds(graph) == {"Conv": 1, "Relu": 1}


def test_relu6_and_clip_stay_as_they_are() -> None:
    b = Builder()
    b.op("Clip", b.conv("image", 3, 4), b.constant(np.float32(0)), b.constant(np.float32(6)), out="out")
    graph, _ = simplified(b.model({"image": [1, 3, 8, 8]}, ["out"]))
    assert kinds(graph) == {"Conv": 1, "Clip": 1}


def test_shape_arithmetic_of_exporters_is_folded() -> None:
    b = Builder()
    x = backbone(b)
    batch = b.op("Gather", b.op("Shape", x), b.constant(np.array(0)), axis=0)
    target = b.op("Concat", b.op("Unsqueeze", batch, b.constant(np.array([0]))), b.constant(np.array([-1])), axis=0)
    b.op("Reshape", x, target, out="out")
    graph, _ = simplified(b.model({"image": [1, 3, 64, 64]}, ["out"]))
    assert kinds(graph) == {"Conv": 3, "Relu": 3, "Reshape": 1}
    assert graph.shape("out") == (1, 16 * 64)


def branch(kind: str) -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node(kind, ["x"], ["inner"])], kind, [], [helper.make_tensor_value_info("inner", 1, None)]
    )


@pytest.mark.parametrize(("condition", "taken"), [(True, "Relu"), (False, "Sigmoid")])
def test_an_if_that_is_decided_is_replaced_by_its_branch(condition: bool, taken: str) -> None:
    b = Builder()
    b.op("Relu", b.conv("image", 3, 4), out="x")
    cond = b.constant(np.array(condition))
    for out in ("one", "two"):  # the same inner names twice
        b.op("If", cond, out=out, then_branch=branch("Relu"), else_branch=branch("Sigmoid"))
    b.op("Add", "one", "two", out="out")
    graph, _ = simplified(b.model({"image": [1, 3, 8, 8]}, ["out"]))
    assert kinds(graph)[taken] >= 2
    assert kinds(graph)["If"] == 0


def test_dead_nodes_and_constants_go() -> None:
    b = Builder()
    x = backbone(b)
    b.op("Relu", x, out="out")
    b.conv(x, 16, 64)
    b.constant(np.zeros(1000, np.float32), "unused")
    graph, facts = simplified(b.model({"image": [1, 3, 64, 64]}, ["out"]))
    assert facts["remove_dead"] == 1
    assert "unused" not in graph.constants
    assert len(graph.constants) == 6


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Expand", "Range", "Tile"])
def test_a_small_file_cannot_ask_for_a_large_constant(kind: str) -> None:
    b = Builder()
    large = np.array([1 << 20, 1 << 12])
    if kind == "ConstantOfShape":
        x = b.op(kind, b.constant(large))
    elif kind == "Expand" or kind == "Tile":
        x = b.op(kind, b.constant(np.ones((1, 1), np.float32)), b.constant(large))
    else:
        x = b.op(kind, *(b.constant(np.float32(v)) for v in (0, 4e9, 1)))
    b.op("ReduceMax", x, keepdims=0, out="limit")
    b.op("Min", b.conv("image", 3, 4), "limit", out="out")
    graph = load_graph(b.model({"image": [1, 3, 8, 8]}, ["out"]).SerializeToString()).graph
    fold_constants(graph)
    assert kinds(graph)[kind] == 1
    assert len(graph.serialize()) < 10_000


def test_what_is_random_is_not_folded() -> None:
    b = Builder()
    b.op("Add", b.conv("image", 3, 4), b.op("RandomNormal", shape=[1, 4, 8, 8]), out="out")
    graph = load_graph(b.model({"image": [1, 3, 8, 8]}, ["out"]).SerializeToString()).graph
    fold_constants(graph)
    assert kinds(graph)["RandomNormal"] == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["conv", "norm", "pad", "relu", "identity", "add", "pool"]), min_size=1, max_size=8))
def test_random_networks_compute_the_same(steps: list[str]) -> None:
    b = Builder(len(steps))
    x = b.conv("image", 3, 4)
    previous = x
    for step in steps:
        before = x
        if step == "conv":
            x = b.conv(x, 4, 4)
        elif step == "norm":
            x = norm(b, x, 4)
        elif step == "pad":
            x = b.conv(b.op("Pad", x, b.constant(np.array([0, 0, 1, 0, 0, 0, 0, 1]))), 4, 4)
        elif step == "relu":
            x = b.op("Relu", x)
        elif step == "identity":
            x = b.op("Identity", x)
        elif step == "pool":
            x = b.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4)
        else:
            x = (
                b.op("Mul", x, b.op("Sigmoid", previous))
                if x != previous and step != "pad" and "pad" not in steps
                else x
            )
        previous = before
    b.op("Abs", x, out="out")
    simplified(b.model({"image": [1, 3, 10, 10]}, ["out"]))


def test_simplifying_twice_changes_nothing_more() -> None:
    b = Builder()
    b.op("Relu", norm(b, b.conv("image", 3, 8), 8), out="out")
    graph, _ = simplified(b.model({"image": [1, 3, 16, 16]}, ["out"]))
    first = graph.serialize()
    assert not any(simplify(graph).values())
    assert graph.serialize() == first

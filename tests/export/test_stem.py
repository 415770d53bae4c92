"""The first convolution over groups of pixels: the same sums, from the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevision.export.emit_cpu import count_fused, emit_cpu
from edgevision.export.graph import Graph
from edgevision.export.placement import plan_placement
from edgevision.export.stem import GROUP, fold_of
from tests.export.networks import Net, measured, pictures, run


def stem(width: int, kernel: int, left: int, right: int, stride: int, seed: int, **changes: Any) -> Graph:
    """One convolution with whole numbers, so that any order of its sums gives the same bits."""
    net = Net(seed)
    net.input = (1, 3, 12, width)
    weight = net.constant(net.random.integers(-9, 10, (5, 3, 3, kernel)).astype(np.float32))
    bias = net.constant(net.random.integers(-99, 100, 5).astype(np.float32))
    attributes = {"pads": [1, left, 1, right], "strides": [2, stride], **changes}
    net.op("Conv", "image", weight, bias, out="y", **attributes)
    return net.graph("y")


@given(
    groups=st.integers(2, 6),
    kernel=st.integers(1, 9),
    left=st.integers(0, 8),
    stride=st.sampled_from([2, GROUP]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_folded_convolution_gives_the_same_sums(groups: int, kernel: int, left: int, stride: int, seed: int) -> None:
    width = groups * GROUP
    left = min(left, kernel - 1)
    right = max(0, kernel - stride - left)  # as many outputs as steps
    if width + left + right < kernel or (width + left + right - kernel) // stride + 1 != width // stride:
        right += 1
    graph = stem(width, kernel, left, right, stride, seed)
    (node,) = graph.nodes
    fold = fold_of(graph, node)
    assert fold is not None
    image = np.random.default_rng(seed).integers(-99, 100, (1, 3, 12, width)).astype(np.float32)
    expected = run(graph, image)["y"]

    weight, bias = (graph.constants[name] for name in node.input[1:])
    fold.apply(node, 3)
    names = [graph.add_constant("w", fold.weights(weight)), graph.add_constant("b", fold.bias(bias))]
    node.input[1:] = names
    rows = image.transpose(0, 2, 3, 1).reshape(1, 12, width // GROUP, GROUP * 3)
    shape = [1, GROUP * 3, 12, width // GROUP]
    graph.proto.input[0].CopyFrom(onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape))
    graph.proto.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))
    got = run(graph, np.ascontiguousarray(rows.transpose(0, 3, 1, 2)))["y"]
    got = got.transpose(0, 2, 3, 1).reshape(1, expected.shape[2], expected.shape[3], 5).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 18},  # no multiple of GROUP
        {"stride": 1},  # four times the work
        {"stride": 3},  # a position would begin inside a pixel
        {"left": 0, "right": 0},  # an output less than steps
        {"dilations": [1, 2], "right": 3},
        {"auto_pad": "SAME_UPPER", "pads": [0, 0, 0, 0]},
    ],
)
def test_what_cannot_be_folded_is_left(changes: dict[str, Any]) -> None:
    graph = stem(**{"width": 16, "kernel": 3, "left": 1, "right": 1, "stride": 2, "seed": 0, **changes})
    assert fold_of(graph, next(graph.nodes)) is None


@pytest.mark.parametrize("behind", ["convolution", "pooling"])
def test_integer_kernels_read_the_groups_without_a_copy(behind: str) -> None:
    net = Net(side=32)
    x = net.relu6(net.convolution("image", 3, 16, strides=[2, 2]))
    if behind == "pooling":
        x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    net.convolution(x, 16, 8, kernel=1, out="y")
    graph = net.graph("y")
    plan = plan_placement(graph)
    images = pictures(net.input)
    result = emit_cpu(graph, plan, measured(graph, plan.observed, images))
    fused = count_fused(result)
    assert fused["QLinearConv"] == 2
    assert fused["Transpose"] == 2, "of the float picture to rows, and of the result"
    assert "Concat" not in fused

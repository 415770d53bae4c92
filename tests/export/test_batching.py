"""A graph for one picture takes several where that changes nothing, and says what prevents it where it would."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.backends.onnxruntime import open_batch_session, open_session
from edgevision.errors import SessionError
from edgevision.export.batching import free_batch, free_batches, keep_batch, prove_batch
from edgevision.export.emission import emit
from edgevision.export.folding import fold_constants
from edgevision.export.graph import Graph
from edgevision.export.graph_loading import load_graph
from edgevision.export.placement import plan_placement
from edgevision.export.quantisation import Quantised
from edgevision.export.simplification import simplify
from tests.export.networks import Net, measured, pictures, random_network, run

Draw = Callable[[Net, str], object]


def drawn(draw: Draw, outputs: tuple[str, ...] = ("y",)) -> Graph:
    """The graph of a convolution [1, 8, 16, 16] and what `draw` puts behind it."""
    net = Net(side=16)
    draw(net, net.convolution("image", 3, 8))
    graph = net.graph(*outputs)
    fold_constants(graph)
    graph.infer_shapes()
    return graph


def together(graph: Graph, images: list[NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    session = open_session(graph.serialize(), exact=True, batch=len(images))
    return session.run({session.inputs[0].name: np.concatenate(images)})


def assert_takes_any_batch(graph: Graph, atol: float = 1e-5) -> None:
    """What several pictures give at once is, picture by picture, what each gives alone."""
    single = graph.copy()
    assert free_batch(graph) == ""
    onnx.checker.check_model(graph.model, full_check=True)
    shape = single.shape(single.inputs[0])
    assert shape is not None
    images = pictures(shape, count=3, seed=5)
    alone = [run(single, image) for image in images]
    for count in (1, 2, 3):
        for name, values in together(graph, images[:count]).items():
            expected = np.concatenate([outputs[name] for outputs in alone[:count]])
            assert values.shape == expected.shape
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=atol)
    for entry in (*graph.proto.input, *graph.proto.output):
        first, *rest = entry.type.tensor_type.shape.dim
        assert first.dim_param == "batch"
        assert all(dim.HasField("dim_value") for dim in rest)
    assert prove_batch(graph.serialize(), images) == ""


def _rows(net: Net, x: str) -> str:
    return net.op("Transpose", x, perm=[0, 2, 3, 1])


def _ints(net: Net, *values: int) -> str:
    return net.constant(np.array(values, np.int64))


def _head_rows(net: Net, x: str) -> None:
    net.op("Reshape", _rows(net, x), _ints(net, 1, -1, 4), out="y")


def _stated_rows(net: Net, x: str) -> None:
    net.op("Reshape", _rows(net, x), _ints(net, 1, 512, 4), out="y")


def _flat_product(net: Net, x: str) -> None:
    """Rows of all pictures in one matrix, and back."""
    rows = net.op("Reshape", _rows(net, x), _ints(net, -1, 8))
    product = net.op("Gemm", rows, net.weight(8, 5), net.bias(5))
    net.op("Reshape", product, _ints(net, 1, 256, 5), out="y")


def _flattened(net: Net, x: str) -> None:
    net.op("MatMul", net.op("Flatten", x), net.weight(2048, 6), out="y")


def _shuffled_channels(net: Net, x: str) -> None:
    split = net.op("Reshape", x, _ints(net, 1, 2, 4, 16, 16))
    net.op("Reshape", net.op("Transpose", split, perm=[0, 2, 1, 3, 4]), _ints(net, 1, 8, 16, 16), out="y")


def _windows(net: Net, x: str) -> None:
    """Attention inside windows that are counted together with the pictures."""
    tiles = net.op("Transpose", net.op("Reshape", x, _ints(net, 1, 8, 4, 4, 4, 4)), perm=[0, 2, 4, 3, 5, 1])
    windows = net.op("Reshape", tiles, _ints(net, -1, 16, 8))
    likeness = net.op("Softmax", net.op("MatMul", windows, net.op("Transpose", windows, perm=[0, 2, 1])), axis=-1)
    mixed = net.op("Reshape", net.op("MatMul", likeness, windows), _ints(net, 1, 4, 4, 4, 4, 8))
    net.op("Reshape", net.op("Transpose", mixed, perm=[0, 5, 1, 3, 2, 4]), _ints(net, 1, 8, 16, 16), out="y")


def _sequence_first(net: Net, x: str) -> None:
    """Pictures counted on the second axis, as PyTorch's attention does."""
    tokens = net.op("Transpose", net.op("Reshape", x, _ints(net, 1, 8, 256)), perm=[2, 0, 1])
    heads = net.op("Reshape", tokens, _ints(net, 256, 2, 4))
    joined = net.op("Reshape", net.op("Relu", heads), _ints(net, 256, 1, 8))
    net.op("Transpose", joined, perm=[1, 0, 2], out="y")


def _resized(mode: str, sizes: tuple[int, int], **attributes: str) -> Draw:
    def draw(net: Net, x: str) -> None:
        net.op("Resize", x, "", "", _ints(net, 1, 8, *sizes), mode=mode, out="y", **attributes)

    return draw


def _priors(net: Net, x: str) -> None:
    offsets = net.op("Reshape", _rows(net, x), _ints(net, 1, 512, 4))
    net.op("Add", offsets, net.constant(net.random.uniform(0, 1, (1, 512, 4)).astype(np.float32)), out="y")


def _best_class(net: Net, x: str) -> None:
    net.op("Cast", net.op("ArgMax", x, axis=1, keepdims=0), to=onnx.TensorProto.FLOAT, out="y")


def _best_rows(net: Net, x: str) -> None:
    """A head without suppression: the best rows are gathered by index."""
    rows = net.op("Reshape", _rows(net, x), _ints(net, 1, 256, 8))
    best = net.op("ReduceMax", rows, _ints(net, 2), keepdims=0)
    net.nodes.append(onnx.helper.make_node("TopK", [best, _ints(net, 20)], ["values", "places"], name="topk", axis=1))
    column = net.op("Unsqueeze", "places", _ints(net, 2))
    spread = net.op("Expand", column, _ints(net, 1, 1, 8))
    net.op("GatherElements", rows, spread, axis=1, out="y")


FREE: dict[str, Draw] = {
    "rows with an open side": _head_rows,
    "rows with stated sides": _stated_rows,
    "all rows in one matrix": _flat_product,
    "flattened into a classifier": _flattened,
    "channel shuffle": _shuffled_channels,
    "attention in windows": _windows,
    "pictures on the second axis": _sequence_first,
    "nearest to a stated size": _resized("nearest", (32, 32), nearest_mode="floor"),
    "linear to an odd size": _resized("linear", (37, 23), coordinate_transformation_mode="align_corners"),
    "linear to a smaller size": _resized("linear", (11, 7)),
    "priors broadcast": _priors,
    "best class": _best_class,
    "best rows by index": _best_rows,
}


@pytest.mark.parametrize("draw", FREE.values(), ids=FREE.keys())
def test_stated_shapes_give_way_to_any_number_of_pictures(draw: Draw) -> None:
    assert_takes_any_batch(drawn(draw))


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_networks_of_the_common_blocks_take_any_batch(seed: int) -> None:
    assert_takes_any_batch(random_network(seed)[0])


@settings(max_examples=200)
@given(before=st.integers(1, 700), after=st.integers(1, 700))
def test_a_size_becomes_a_factor_that_gives_it_again(before: int, after: int) -> None:
    net = Net(side=before, channels=1)
    net.op("Resize", "image", "", "", _ints(net, 1, 1, after, 3), mode="nearest", out="y")
    graph = net.graph("y")
    graph.infer_shapes()
    assert free_batch(graph) == ""
    resize = next(graph.nodes)
    assert resize.op_type == "Resize"
    scale = graph.constants[resize.input[2]][2]
    assert int(np.floor(np.float32(scale) * np.float32(before))) == int(np.floor(float(scale) * before)) == after
    assert abs(float(scale) * before / after - 1) < 1e-6


def test_every_tensorrt_graph_of_a_model_takes_any_batch() -> None:
    net = Net(side=16)
    x = net.op("Relu", net.convolution("image", 3, 16))
    x = net.op("Relu", net.op("Add", x, net.convolution(x, 16, 16)))
    _head_rows(net, net.convolution(x, 16, 8, kernel=1))
    graph = net.graph("y")
    plan = plan_placement(graph)
    emitted = emit(
        graph, "int8", Quantised(graph, graph, plan, measured(graph, plan.observed, pictures((1, 3, 16, 16))))
    )  # type: ignore[arg-type]
    assert emitted.infos["tensorrt.onnx"].layers_int8 == 2
    for name in ("model.onnx", "tensorrt.onnx", "tensorrt_fp16.onnx"):
        assert_takes_any_batch(Graph(onnx.load_model_from_string(emitted.graphs[name])))


def _squeezed(net: Net, x: str) -> None:
    net.op("Unsqueeze", net.op("Squeeze", x, _ints(net, 0)), _ints(net, 0), out="y")


def _first_picture(net: Net, x: str) -> None:
    net.op("Unsqueeze", net.op("Gather", x, net.constant(np.array(0)), axis=0), _ints(net, 0), out="y")


def _sliced(net: Net, x: str) -> None:
    net.op("Slice", x, _ints(net, 0), _ints(net, 1), _ints(net, 0), out="y")


def _class_token(net: Net, x: str) -> None:
    rows = net.op("Reshape", _rows(net, x), _ints(net, 1, 256, 8))
    net.op("Concat", net.constant(np.ones((1, 1, 8), np.float32)), rows, axis=1, out="y")


def _averaged(net: Net, x: str) -> None:
    net.op("ReduceMean", x, _ints(net, 0), keepdims=1, out="y")


def _copied(net: Net, x: str) -> None:
    net.op("Reshape", net.op("Expand", x, _ints(net, 2, 8, 16, 16)), _ints(net, 1, 16, 16, 16), out="y")


def _joined(net: Net, x: str) -> None:
    turned = net.op("Transpose", x, perm=[1, 0, 2, 3])
    net.op("Reshape", turned, _ints(net, 4, 2, 16, 16), out="y")


def _variants(net: Net, x: str) -> None:
    """Three constants side by side on the axis that counts pictures."""
    net.op("Add", x, net.constant(np.ones((3, 8, 1, 1), np.float32)), out="y")


BOUND: dict[str, tuple[Draw, str]] = {
    "a squeezed batch": (_squeezed, r"node 'node_t1' \(Squeeze\)"),
    "the first picture alone": (_first_picture, r"node 'node_t1' \(Gather\) gives \[8, 16, 16\]"),
    "a slice of pictures": (_sliced, r"node 'node_y' \(Slice\)"),
    "a constant joined to every picture": (_class_token, r"node 'node_y' \(Concat\) fits one picture only"),
    "a mean over pictures": (_averaged, r"node 'node_y' \(ReduceMean\)"),
    "copies on the batch": (_copied, r"node 'node_t1' \(Expand\)"),
    "channels and pictures joined": (_joined, r"output 'y' \[4, 2, 16, 16\] has no first dimension"),
    "constants on the batch": (_variants, r"node 'node_y' \(Add\)"),
}


@pytest.mark.parametrize(("draw", "words"), BOUND.values(), ids=BOUND.keys())
def test_what_keeps_a_graph_at_one_picture_is_named(draw: Draw, words: str) -> None:
    obstacle = free_batch(drawn(draw))
    assert re.match(words, obstacle), obstacle


def test_an_output_that_no_picture_changes_keeps_a_graph_at_one_picture() -> None:
    def draw(net: Net, x: str) -> None:
        net.op("Relu", x, out="y")
        net.op("Identity", net.constant(np.ones((1, 4), np.float32)), out="boxes")

    assert "output 'boxes' [1, 4]" in free_batch(drawn(draw, ("y", "boxes")))


def _softmax_over_pictures(net: Net, x: str) -> None:
    net.op("Relu", net.op("Softmax", net.op("Relu", x), axis=0, out="mixed"), out="y")


def _tiles(net: Net, x: str) -> None:
    """The copies of all pictures lie one behind the other, not picture by picture."""
    rows = net.op("Tile", net.op("Reshape", x, _ints(net, 1, 8, 256)), _ints(net, 2, 1, 1), out="mixed")
    net.op("Reshape", rows, _ints(net, 1, 16, 256), out="y")


@pytest.mark.parametrize("draw", [_softmax_over_pictures, _tiles])
def test_pictures_that_mix_without_a_trace_in_the_shapes_show_in_numbers(draw: Draw) -> None:
    graph = drawn(draw)
    assert free_batch(graph) == ""
    obstacle = prove_batch(graph.serialize(), pictures((1, 3, 16, 16), count=2))
    assert obstacle.startswith("node 'node_mixed'"), obstacle


@pytest.mark.parametrize(("draw", "mixes"), [(_softmax_over_pictures, True), (_head_rows, False)])
def test_a_graph_that_mixes_pictures_goes_back_to_one(draw: Draw, mixes: bool) -> None:
    images = pictures((1, 3, 16, 16), count=2)
    emitted = emit(drawn(draw), "fp32")
    single = emitted.graphs["model.onnx"]
    assert free_batches(emitted) == {"model.onnx": "any number of pictures"}
    assert emitted.infos["model.onnx"].dynamic_batch
    session = open_batch_session(emitted.graphs["model.onnx"])
    obstacle = keep_batch(emitted, "model.onnx", session, images, [session.run(image) for image in images])
    assert ("node 'node_mixed'" in obstacle) is mixes
    assert (emitted.graphs["model.onnx"] == single) is mixes
    assert emitted.infos["model.onnx"].dynamic_batch is not mixes


def test_a_session_fixes_the_open_batch_and_refuses_another_open_side() -> None:
    graph = drawn(_head_rows)
    assert free_batch(graph) == ""
    for batch in (1, 4):
        session = open_session(graph.serialize(), batch=batch)
        assert [spec.shape for spec in session.inputs] == [(batch, 3, 16, 16)]
        assert [spec.shape for spec in session.outputs] == [(batch, 512, 4)]
    graph.proto.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(SessionError, match="height"):
        open_session(graph.serialize())


@pytest.mark.parametrize("name", ["ssd_mobilenet_v1_coco_raw", "ultraface_rfb_320", "yolox_nano", "nanodet_m_416"])
def test_real_models_take_any_batch(shared: Path, name: str) -> None:
    graph = load_graph(shared / "models" / f"{name}.onnx").graph
    simplify(graph)
    assert_takes_any_batch(graph, atol=1e-3)

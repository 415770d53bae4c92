"""What real numbers do to float16: graphs made to overflow and to underflow, converted, and run with half rounding.

The reference for half arithmetic is numpy's float16, node by node.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.backends.onnxruntime import open_session
from edgevision.bundle import Bundle
from edgevision.export import ExportConfig, export_model
from edgevision.export.graph import DECODE_PREFIX, Graph
from edgevision.export.half import to_half
from edgevision.export.half_ranges import MARGIN, find_islands, keep_float32, measure_numbers
from edgevision.export.half_rounding import rounded_graph
from edgevision.manifest import Preprocess
from tests.export.networks import Net, pictures, random_network, run, sqnr_db

FINITE = 65504.0


def islands(graph: Graph, images: list[NDArray[np.float32]]) -> dict[str, str]:
    return find_islands(graph, measure_numbers(graph, images))


def on_a_gpu(graph: Graph, image: NDArray[np.float32], kept: dict[str, str]) -> NDArray[Any]:
    """Output `y` of the float16 graph with every result rounded."""
    half = to_half(graph, kept)
    onnx.checker.check_model(half.model, full_check=True)
    rounded = Graph(onnx.load_model_from_string(rounded_graph(half.serialize())))
    return run(rounded, image)["y"]


def assert_needed_and_enough(net: Net, least_db: float = 40.0, count: int = 3) -> dict[str, str]:
    """Plain float16 loses `y`, and the islands save it; returns them."""
    graph, images = net.graph("y"), pictures(net.input, count)
    kept = islands(graph, images)
    for image in images:
        expected = run(graph, image)["y"]
        assert np.isfinite(expected).all()
        with np.errstate(all="ignore"):
            plain = on_a_gpu(graph, image, {})
            assert not np.isfinite(plain).all() or sqnr_db(expected, plain) < 20, "float16 was no danger here"
        assert sqnr_db(expected, on_a_gpu(graph, image, kept)) > least_db
    return kept


def test_the_measured_extremes_are_those_of_every_tensor() -> None:
    """Those of activations and moves too, which are told by what goes in."""
    net = Net()
    x = net.op("LeakyRelu", net.convolution("image", 3, 8), alpha=0.1)
    x = net.op("Mul", x, net.op("Sigmoid", x))
    x = net.op("Transpose", net.op("LeakyRelu", x, alpha=-0.5), perm=[0, 2, 3, 1])
    x = net.op("Clip", x, net.constant(np.float32(-0.25)), net.constant(np.float32(0.5)))
    net.op("Concat", net.op("Tanh", x), net.op("Relu", net.op("Neg", x)), axis=3, out="y")
    graph, images = net.graph("y"), pictures(net.input, 3)
    names = list(graph.producer)
    del graph.proto.output[:]
    graph.proto.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    peaks = measure_numbers(graph, images).peak
    runs = [run(graph, image) for image in images]
    for name in names:
        assert peaks[name] == pytest.approx(max(float(np.abs(outputs[name]).max()) for outputs in runs), rel=1e-6), name


# --- adversarial graphs -----------------------------------------------------------------------------------------


def test_huge_activations_stay_float32_with_all_their_readers() -> None:
    net = Net()
    x = net.convolution("image", 3, 8)
    x = net.op("Mul", net.op("Relu", x), net.constant(np.float32(2e3)))
    x = net.op("Mul", x, net.constant(np.float32(2e3)), out="huge")
    x = net.op("Mul", x, net.constant(np.float32(1e-4)), out="small")
    net.op("Relu", x, out="y")
    kept = assert_needed_and_enough(net)
    assert set(kept) == {"huge", "small"}
    assert all("'huge' reaches" in reason for reason in kept.values())


def test_numbers_within_the_margin_are_moved_to_float32_before_they_overflow() -> None:
    def net_of(gain: float) -> Net:
        net = Net()
        x = net.op("Tanh", net.convolution("image", 3, 8))
        net.op("Mul", x, net.constant(np.float32(gain)), out="y")
        return net

    for gain, expected in ((0.5 * FINITE / MARGIN, False), (1.2 * FINITE / MARGIN, True)):
        net = net_of(gain)
        assert bool(islands(net.graph("y"), pictures(net.input, 3))) is expected


def test_an_exponential_that_overflows() -> None:
    net = Net()
    x = net.op("Mul", net.convolution("image", 3, 8), net.constant(np.float32(10)))
    x = net.op("Exp", x, out="exp")
    x = net.op("Add", x, net.constant(np.float32(1)), out="sum")
    net.op("Log", x, out="y")  # softplus, written out
    assert {"exp", "sum", "y"} <= set(assert_needed_and_enough(net))


def test_an_exponential_has_a_wider_margin() -> None:
    """exp(8) = 2981 is a 22nd of the end, and a picture with arguments a half larger is beyond it."""
    net = Net()
    x = net.op("Tanh", net.convolution("image", 3, 8, out="raw"))
    net.op("Exp", net.op("Mul", x, net.constant(np.float32(8))), out="y")
    graph = net.graph("y")
    image = 50 * pictures(net.input, 1)[0]
    assert FINITE / 64 < run(graph, image)["y"].max() < FINITE / MARGIN
    assert "y" in islands(graph, [image])


def test_activations_that_all_vanish() -> None:
    net = Net()
    x = net.convolution("image", 3, 8)
    for gain in (1e-3, 1e-3, 1e-2, 1e2, 1e3, 1e3):
        x = net.op("Mul", x, net.constant(np.float32(gain)), out=f"times{len(net.nodes)}")
    net.op("Relu", x, out="y")
    kept = assert_needed_and_enough(net)
    assert any("stays within" in reason for reason in kept.values())
    assert "y" not in kept


@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceMean", "GlobalAveragePool", "ReduceL2", "ReduceSumSquare"])
def test_reductions_that_overflow_inside(operator: str) -> None:
    """Half sums of 64 x 64 values of about 30 leave the range, though the mean does not."""
    net = Net(side=64)
    x = net.op("Mul", net.op("Sigmoid", net.convolution("image", 3, 8)), net.constant(np.float32(60)))
    if operator == "GlobalAveragePool":
        net.op(operator, x, out="y")
    else:
        net.op(operator, x, net.constant(np.array([2, 3])), out="y")
    graph, images = net.graph("y"), pictures(net.input, 2)
    assert "adds up to" in islands(graph, images)["y"] or "reaches" in islands(graph, images)["y"]
    tiny = Net(side=1)
    value = tiny.op("Mul", tiny.op("Sigmoid", tiny.convolution("image", 3, 8)), tiny.constant(np.float32(60)))
    extra = () if operator == "GlobalAveragePool" else (tiny.constant(np.array([2, 3])),)
    tiny.op(operator, value, *extra, out="y")
    assert not islands(tiny.graph("y"), pictures(tiny.input, 2))


def test_an_average_pool_over_a_large_window() -> None:
    net = Net(side=64)
    x = net.op("Mul", net.op("Sigmoid", net.convolution("image", 3, 8)), net.constant(np.float32(60)))
    net.op("AveragePool", x, kernel_shape=[64, 64], out="y")
    assert "adds up to" in islands(net.graph("y"), pictures(net.input, 2))["y"]


def normalised(epsilon: float, gain: float) -> Net:
    """Instance normalisation written out, of small numbers."""
    net = Net()
    x = net.op("Mul", net.convolution("image", 3, 8), net.constant(np.float32(gain)))
    axes = net.constant(np.array([2, 3]))
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes), out="centred")
    square = net.op("Mul", centred, centred, out="square")
    variance = net.op("ReduceMean", square, axes, out="variance")
    safe = net.op("Add", variance, net.constant(np.float32(epsilon)), out="safe")
    net.op("Div", centred, net.op("Sqrt", safe, out="deviation"), out="y")
    return net


def test_a_normalisation_whose_epsilon_and_variance_vanish() -> None:
    kept = assert_needed_and_enough(normalised(1e-12, 1e-4), least_db=30)
    assert {"square", "variance", "safe", "deviation", "y"} <= set(kept)
    assert not islands(normalised(1e-2, 1.0).graph("y"), pictures((1, 3, 16, 16), 2)), "an ordinary one needs nothing"


def test_a_normalisation_operator_whose_epsilon_float16_lacks() -> None:
    for epsilon, expected in ((1e-12, True), (1e-5, False)):
        net = Net()
        x = net.convolution("image", 3, 8)
        net.op("InstanceNormalization", x, net.constant(np.ones(8, np.float32)), net.bias(8), epsilon=epsilon, out="y")
        assert ("y" in islands(net.graph("y"), pictures(net.input, 1))) is expected


def test_tiny_constants_are_kept_and_nothing_is_clamped() -> None:
    net = Net()
    x = net.convolution("image", 3, 8)
    x = net.op("Mul", x, net.constant(np.float32(1e-9)))
    net.op("Mul", x, net.constant(np.float32(1e9)), out="y")
    graph, image = net.graph("y"), pictures(net.input, 1)[0]
    kept = islands(graph, [image])
    assert sqnr_db(run(graph, image)["y"], on_a_gpu(graph, image, kept)) > 40


def test_coordinates_beyond_512_stay_float32() -> None:
    def boxes(scale: float) -> Graph:
        net = Net()
        x = net.op("Sigmoid", net.convolution("image", 3, 8), out="fraction")
        net.op("Mul", x, net.constant(np.float32(scale)), out="boxes")
        return net.graph("boxes")

    images = [10 * image for image in pictures((1, 3, 16, 16), 2)]
    assert islands(boxes(640), images)["boxes"].startswith("coordinates up to")
    assert not islands(boxes(500), images)


def test_the_decode_is_left_to_itself() -> None:
    net = Net()
    x = net.convolution("image", 3, 8)
    net.op("Mul", x, net.constant(np.float32(3e4)), out="y")
    net.nodes[-1].name = f"{DECODE_PREFIX}scale"
    assert not islands(net.graph("y"), pictures(net.input, 1))


def test_an_infinite_number_stays_float32() -> None:
    net = Net()
    x = net.op("Mul", net.convolution("image", 3, 8), net.constant(np.float32(3e38)))
    net.op("Tanh", net.op("Mul", x, net.constant(np.float32(3e38)), out="infinite"), out="y")
    assert {"infinite", "y"} <= set(islands(net.graph("y"), pictures(net.input, 1)))


# --- rounding ---------------------------------------------------------------------------------------------------


def test_rounding_is_numpys_half_precision_after_every_operator() -> None:
    net = Net()
    net.op("Mul", "image", net.constant(np.float32(1 / 3)), out="third")
    net.op("Exp", "third", out="exp")
    net.op("Div", "third", "exp", out="ratio")
    net.op("Mul", "ratio", net.constant(np.float32(7e4 / 3)), out="y")
    graph, image = net.graph("y"), 30 * pictures(net.input, 1)[0]
    half = [image.astype(np.float16)]
    with np.errstate(all="ignore"):
        third = (half[0].astype(np.float32) * np.float32(np.float16(1 / 3))).astype(np.float16)
        exp = np.exp(third.astype(np.float32)).astype(np.float16)
        ratio = (third.astype(np.float32) / exp.astype(np.float32)).astype(np.float16)
        expected = (ratio.astype(np.float32) * np.float32(np.float16(7e4 / 3))).astype(np.float16)
    assert np.isinf(expected).any(), "the picture should reach the end of the range"
    np.testing.assert_array_equal(on_a_gpu(graph, image, {}), expected.astype(np.float32))


def test_the_runtime_alone_does_not_show_an_overflow() -> None:
    """Why the roundings are written into the graph: ONNX Runtime computes between float16 layers in float32."""
    net = Net()
    x = net.op("Mul", net.convolution("image", 3, 8), "gain")
    net.op("Mul", x, "inverse", out="y")
    net.constant(np.float32(6e4), "gain")
    net.constant(np.float32(1 / 6e4), "inverse")
    graph, image = net.graph("y"), pictures(net.input, 1)[0]
    session = open_session(to_half(graph).serialize(), optimise=False)
    assert np.isfinite(session.run({"image": image})["y"]).all()
    assert np.isinf(on_a_gpu(graph, image, {})).any()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_any_network_survives_rounding(seed: int) -> None:
    """11 bits and up to 30 roundings one after the other: 60 dB, less what layers amplify."""
    graph, _ = random_network(seed)
    images = pictures((1, 3, 16, 16), 2, seed=seed)
    kept = islands(graph, images)
    for image in images:
        assert sqnr_db(run(graph, image)["y"], on_a_gpu(graph, image, kept)) > 40


# --- in the export ----------------------------------------------------------------------------------------------


def test_the_report_says_what_was_measured_on_what(tmp_path: Path) -> None:
    net = Net()
    x = net.op("Mul", net.convolution("image", 3, 8), net.constant(np.float32(1e6)))
    net.op("Mul", x, net.constant(np.float32(1e-6)), out="y")
    facts: dict[str, Any] = {}
    kept = keep_float32(net.graph("y"), "fp16", Preprocess("image", (16, 16), std=(255.0,) * 3), None, facts)
    assert {entry["node"] for entry in facts["float32"]} == set(kept)
    assert (facts["float32_nodes"], facts["margin"]) == (len(kept), MARGIN)
    assert "drawn" in facts["pictures"]
    assert facts["largest"] > FINITE
    assert json.dumps(facts)
    assert keep_float32(net.graph("y"), "fp32", Preprocess("image", (16, 16)), None, {}) == {}


def test_constants_that_vanish_beside_larger_ones_are_counted() -> None:
    net = Net()
    weight = net.random.normal(size=(8, 3, 3, 3)).astype(np.float32)
    weight[0, :2] = 1e-9
    weight[1, 0] = 0
    net.op("Conv", "image", net.constant(weight, "weight"), out="y")
    facts: dict[str, Any] = {}
    keep_float32(net.graph("y"), "fp16", Preprocess("image", (16, 16), std=(255.0,) * 3), None, facts)
    assert facts["constants_to_zero"] == 18
    assert facts["vanishing"] == [{"constant": "weight", "numbers": 18}]


def test_a_trained_network_that_overflows_is_exported_so_that_it_does_not(shared: Path, tmp_path: Path) -> None:
    """The portrait segmenter's residual sums reach 80,000 on photographs."""
    model = shared / "models" / "prisma_portrait_256.onnx"
    config = ExportConfig(
        precision="fp16",
        mean=(0.0,) * 3,
        std=(255.0,) * 3,
        calibration_images=str(shared / "data/coco_calib/images"),
        calibration_limit=4,
    )
    report = export_model(model, tmp_path / "portrait.edge", config)
    fp16 = Bundle(report.bundle).report()["fp16"]
    assert fp16["largest"] > FINITE / MARGIN
    assert "4 of the calibration pictures" in fp16["pictures"]
    assert fp16["float32_nodes"] > 0
    assert fp16["map_agreement"] > 0.999

"""Graphs made to break quantisation: each becomes a sound INT8 graph near the float one, or is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from edgevision.calibration import CalibrationImages
from edgevision.errors import CalibrationError, UsageError
from edgevision.export.config import ExportConfig
from edgevision.export.emission import Emitted, emit
from edgevision.export.gains import repair_gains
from edgevision.export.graph import Graph
from edgevision.export.preparation import PreparedModel
from edgevision.export.quantisation import Quantised, quantise
from edgevision.export.report import ExportReport
from edgevision.manifest import Preprocess
from tests.export.networks import Net, pictures, run, sqnr_db

SIDE = 16
PREPROCESS = Preprocess(
    input_name="image",
    input_wh=(SIDE, SIDE),
    resize="stretch",
    pad_value=0.0,
    color="rgb",
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of the network's size."""
    path = tmp_path_factory.mktemp("pictures")
    for index, image in enumerate(pictures((1, 3, SIDE, SIDE), 8)):
        pixels = ((image[0].transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)
        cv2.imwrite(str(path / f"{index}.png"), pixels)
    return path


def quantised(graph: Graph, folder: Path) -> tuple[Quantised, Emitted]:
    """Through the same steps as an export."""
    config = ExportConfig(calibration_images=folder, quiet=True)
    result = quantise(prepared(graph), CalibrationImages(folder), config)
    return result, emit(graph, "int8", result, PREPROCESS)


def prepared(graph: Graph) -> PreparedModel:
    graph.infer_shapes()
    report = ExportReport(precision="int8")
    return PreparedModel(graph, "net", "segmentation", "test", 8, (), PREPROCESS, None, "", report)


def finish(net: Net, x: str, channels: int) -> Graph:
    """A last layer and a head behind `x`."""
    x = net.op("Relu", net.convolution(x, channels, 16))
    net.convolution(x, 16, 8, kernel=1, out="y")
    return net.graph("y")


def stem(net: Net, channels: int = 16) -> str:
    return net.op("Relu", net.convolution("image", 3, channels))


def dead_channels(net: Net) -> Graph:
    mask = (np.arange(16) % 3 > 0).astype(np.float32).reshape(1, 16, 1, 1)
    x = net.op("Mul", stem(net), net.constant(mask))
    return finish(net, net.convolution(x, 16, 16, groups=16), 16)


def constant_activations(net: Net) -> Graph:
    x = net.op("Add", net.op("Mul", stem(net), net.constant(np.float32(0))), net.constant(np.float32(0.3)))
    return finish(net, net.op("Concat", x, stem(net), axis=1), 32)


def all_zero_weights(net: Net) -> Graph:
    zeros = net.constant(np.zeros((16, 16, 3, 3), np.float32))
    x = net.op("Conv", stem(net), zeros, net.bias(16), pads=[1] * 4)
    return finish(net, net.op("Add", x, stem(net)), 16)


def one_zero_filter(net: Net) -> Graph:
    weight = net.random.normal(0, 0.1, (16, 16, 3, 3)).astype(np.float32)
    weight[5] = 0
    return finish(net, net.op("Conv", stem(net), net.constant(weight), net.bias(16), pads=[1] * 4), 16)


def huge_outlier_channel(net: Net) -> Graph:
    gains = np.ones((1, 16, 1, 1), np.float32)
    gains[0, 4] = 3000
    x = net.op("Mul", stem(net), net.constant(gains))
    weight = net.random.normal(0, 0.1, (16, 16, 3, 3)).astype(np.float32)
    weight[:, 4] /= 3000
    return finish(net, net.op("Conv", x, net.constant(weight), net.bias(16), pads=[1] * 4), 16)


def huge_weights(net: Net) -> Graph:
    weight = net.random.normal(0, 0.1, (16, 16, 3, 3)).astype(np.float32)
    weight[2] *= 1e4
    x = net.op("Conv", stem(net), net.constant(weight), net.bias(16), pads=[1] * 4)
    gains = np.ones((1, 16, 1, 1), np.float32)
    gains[0, 2] = 1e-4
    return finish(net, net.op("Mul", x, net.constant(gains)), 16)


def shared_weights(net: Net) -> Graph:
    weight = net.weight(16, 16, 3, 3)
    x = stem(net)
    for gain in (1.0, 20.0, 0.05):
        x = net.op("Mul", x, net.constant(np.float32(gain)))
        x = net.op("Relu", net.op("Conv", x, weight, pads=[1] * 4))
    return finish(net, x, 16)


def one_pixel(net: Net) -> Graph:
    x = net.op("GlobalAveragePool", stem(net, 32))
    x = net.op("Relu", net.convolution(x, 32, 32, kernel=3))
    return finish(net, net.convolution(x, 32, 16, kernel=1), 16)


def three_dimensions(net: Net) -> Graph:
    x = net.op("Reshape", stem(net), net.constant(np.array([1, 16, 4, 8, 8])))
    x = net.op("Relu", net.op("Conv", x, net.weight(16, 16, 3, 3, 3), pads=[1] * 6))
    return finish(net, net.op("Reshape", x, net.constant(np.array([1, 16, 16, 16]))), 16)


def grouped_and_dilated(net: Net) -> Graph:
    x = net.op("Relu", net.convolution(stem(net, 32), 32, 32, groups=2, dilations=[2, 2]))
    return finish(net, net.convolution(x, 32, 32, groups=32, dilations=[3, 3]), 32)


def transposed_with_output_padding(net: Net) -> Graph:
    x = net.op("Relu", net.convolution("image", 3, 16, strides=[2, 2]))
    for groups in (1, 4):
        strides = {"strides": [2, 2], "output_padding": [1, 1]} if groups == 1 else {}
        weight = net.weight(16, 16 // groups, 3, 3)
        x = net.op("Relu", net.op("ConvTranspose", x, weight, net.bias(16), pads=[1] * 4, group=groups, **strides))
    return finish(net, x, 16)


def dead_on_the_pictures(net: Net) -> Graph:
    x = net.op("Relu", net.op("Sub", stem(net), net.constant(np.float32(1e6))))
    return finish(net, net.op("Concat", x, stem(net), axis=1), 32)


GRAPHS: tuple[Callable[[Net], Graph], ...] = (
    dead_channels,
    constant_activations,
    all_zero_weights,
    one_zero_filter,
    huge_outlier_channel,
    huge_weights,
    shared_weights,
    one_pixel,
    three_dimensions,
    grouped_and_dilated,
    transposed_with_output_padding,
    dead_on_the_pictures,
)


@pytest.mark.parametrize("make", GRAPHS)
def test_an_adversarial_graph_is_quantised_correctly(make: Callable[[Net], Graph], folder: Path) -> None:
    graph = make(Net())
    result, emitted = quantised(graph, folder)
    images = pictures((1, 3, SIDE, SIDE), 4, seed=3)
    expected = np.stack([run(graph, image)["y"] for image in images])
    for name in ("tensorrt.onnx", "cpu.onnx"):
        candidate = Graph(onnx.load_from_string(emitted.graphs[name]))
        for node in candidate.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                scale = candidate.constants[node.input[1]].astype(np.float64)
                assert np.isfinite(scale).all()
                assert (scale > 0).all()
        if name == "tensorrt.onnx":
            got = np.stack([run(candidate, image)["y"] for image in images])
            assert np.isfinite(got).all()
            assert sqnr_db(expected, got) > 20
    for float_graph in (result.graph, result.tensorrt_graph):
        same = np.stack([run(float_graph, image)["y"] for image in images])
        np.testing.assert_allclose(same, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_nan_in_the_activations_of_a_picture_is_refused(folder: Path) -> None:
    net = Net()
    x = net.op("Sqrt", net.convolution("image", 3, 16))
    with pytest.raises(CalibrationError, match="NaN"):
        quantised(finish(net, x, 16), folder)


def test_ranges_beyond_float16_are_refused(folder: Path) -> None:
    net = Net()
    x = net.op("Mul", stem(net), net.constant(np.float32(1e9)))
    x = net.op("Conv", x, net.weight(16, 16, 3, 3, gain=1e-9), net.bias(16), pads=[1] * 4)
    with pytest.raises(CalibrationError, match="no FP16 scale"):
        quantised(finish(net, net.op("Sigmoid", x), 16), folder)


def uneven_depthwise(net: Net) -> Graph:
    gains = np.geomspace(1, 300, 16).reshape(-1, 1, 1, 1)
    weight = (net.random.normal(0, 0.3, (16, 3, 3, 3)) * gains).astype(np.float32)
    x = net.op("Relu", net.op("Conv", "image", net.constant(weight), pads=[1] * 4))
    depthwise = (net.random.normal(0, 0.4, (16, 1, 3, 3)) / gains).astype(np.float32)
    return finish(net, net.op("Conv", x, net.constant(depthwise), group=16, pads=[1] * 4), 16)


def test_gains_name_the_repair_that_matters(folder: Path) -> None:
    model, images = prepared(uneven_depthwise(Net())), CalibrationImages(folder)
    config = ExportConfig(calibration_images=folder, repairs=("equalise", "clip-weights"), quiet=True)
    gains = repair_gains(model, quantise(model, images, config), images, config)
    assert set(gains) == {"equalise", "clip-weights"}
    assert gains["equalise"] > 5
    assert abs(gains["clip-weights"]) < gains["equalise"]


def test_without_repairs_the_network_is_quantised_as_it_came(folder: Path) -> None:
    model = prepared(uneven_depthwise(Net()))
    config = ExportConfig(calibration_images=folder, repairs=(), quiet=True)
    result = quantise(model, CalibrationImages(folder), config)
    assert result.graph is result.tensorrt_graph is model.graph
    assert not result.corrections
    assert not result.shared


def test_an_unknown_repair_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"repairs are equalise, .*; got magic"):
        ExportConfig(calibration_images=folder, repairs=("magic",))

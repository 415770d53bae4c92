"""The uint8 form of an input: pixels as they come, and what the float input would have given."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgevision.export.emission import emit
from edgevision.export.emit_cpu import count_fused, emit_cpu
from edgevision.export.graph import Graph
from edgevision.export.pixels import PixelInput, find_pixels
from edgevision.export.placement import Plan, plan_placement
from edgevision.export.quantisation import Quantised
from edgevision.kernels.cpu import Preprocessor
from edgevision.manifest import Preprocess
from tests.export.networks import Extremes, Net, measured, run, sqnr_db

HALF = (127.5,) * 3
SIDE = 32


def spec(**changes: Any) -> Preprocess:
    return Preprocess("image", (SIDE, SIDE), **{"mean": HALF, "std": HALF, **changes})


def network(layout: str = "nchw", bias: bool = True, **attributes: Any) -> Graph:
    """A few layers behind a convolution of stride 2."""
    net = Net(side=SIDE)
    x = "image"
    if layout == "nhwc":
        net.input = (1, SIDE, SIDE, 3)
        x = net.op("Transpose", x, perm=[0, 3, 1, 2])
    inputs = (x, net.weight(16, 3, 3, 3), *([net.bias(16)] if bias else []))
    x = net.relu6(net.op("Conv", *inputs, **{"strides": [2, 2], "pads": [1, 1, 1, 1], **attributes}))
    x = net.relu6(net.convolution(x, 16, 16, groups=16))
    net.convolution(x, 16, 8, kernel=1, out="y")
    return net.graph("y")


def photos(count: int = 4) -> list[NDArray[np.uint8]]:
    """Smooth BGR pictures of another size, in different colours."""
    random = np.random.default_rng(0)
    coarse = [random.integers(0, 256, (9, 12, 3)).astype(np.uint8) for _ in range(count)]
    return [np.repeat(np.repeat(picture, 7, axis=0), 7, axis=1) for picture in coarse]


def prepared(form: Preprocess, image: NDArray[np.uint8]) -> NDArray[Any]:
    preprocessor = Preprocessor(form)
    tensor = np.empty(preprocessor.shape, preprocessor.dtype)
    preprocessor(image, tensor[0])
    return tensor


def planned(graph: Graph, form: Preprocess) -> tuple[Plan, dict[str, Extremes]]:
    plan = plan_placement(graph)
    return plan, measured(graph, plan.observed, [prepared(form, photo) for photo in photos()])


@pytest.mark.parametrize(
    ("form", "layout"),
    [
        (spec(), "nchw"),
        (spec(color="bgr", resize="letterbox"), "nchw"),
        (spec(layout="nhwc"), "nhwc"),
        (spec(mean=(0.0,) * 3, std=(255.0,) * 3, resize="letterbox", pad_value=114.0), "nchw"),
        (spec(mean=(126.8, 127.0, 127.4), std=(50.0, -60.0, 200.0)), "nchw"),
    ],
)
def test_pixels_give_what_the_float_input_gives(form: Preprocess, layout: str) -> None:
    """As near to the float graph as the form with a float input, whose grid calibration chose, and no nearer."""
    graph = network(layout)
    plan, ranges = planned(graph, form)
    pixels = find_pixels(graph, plan.cpu_sites, form)
    assert isinstance(pixels, PixelInput)
    assert (pixels.preprocess.layout, pixels.preprocess.dtype, pixels.preprocess.color) == ("nhwc", "uint8", "bgr")
    uint8, quantised = emit_cpu(graph, plan, ranges, pixels=pixels), emit_cpu(graph, plan, ranges)
    onnx.checker.check_model(uint8.model, full_check=True)
    expected, got, usual = (
        np.concatenate([run(one, prepared(own, photo), exact=False)["y"] for photo in photos()])
        for one, own in ((graph, form), (uint8, pixels.preprocess), (quantised, form))
    )
    assert sqnr_db(expected, got) > max(25, sqnr_db(expected, usual) - 1)


def test_the_folded_normalisation_is_exact_but_for_the_padding() -> None:
    """The convolution over levels, in float: within rounding inside, within half a level of each padded tap around."""
    form = spec(std=(50.0, 60.0, 200.0))
    graph = network()
    pixels = find_pixels(graph, plan_placement(graph).cpu_sites, form)
    assert isinstance(pixels, PixelInput)
    folded = graph.copy()
    pixels.fold_normalisation(folded)
    stem = next(folded.nodes)
    weight, bias = (folded.constants[name] for name in stem.input[1:])
    image = photos(1)[0]
    levels = np.ascontiguousarray(prepared(pixels.preprocess, image).transpose(0, 3, 1, 2), np.float32)
    values = (levels - np.float32(pixels.zero_point)) * np.float32(pixels.scale)
    expected = first_layer(graph, prepared(form, image))
    got = first_layer(folded, values)
    np.testing.assert_allclose(got[:, :, 1:, 1:], expected[:, :, 1:, 1:], rtol=1e-4, atol=1e-4)
    assert np.abs(got - expected).max() <= 0.5 * pixels.scale * np.abs(weight).sum(axis=(1, 2, 3)).max()
    assert bias.shape == (16,)


def first_layer(graph: Graph, image: NDArray[np.float32]) -> NDArray[np.float32]:
    probe = graph.copy()
    stem = next(probe.nodes)
    del probe.proto.output[:]
    probe.proto.output.append(onnx.helper.make_tensor_value_info(stem.output[0], onnx.TensorProto.FLOAT, None))
    return next(iter(run(probe, image).values()))


def test_nothing_stands_before_the_first_convolution() -> None:
    graph = network(bias=False)
    plan, ranges = planned(graph, spec())
    pixels = find_pixels(graph, plan.cpu_sites, spec())
    assert isinstance(pixels, PixelInput)
    fused = count_fused(emit_cpu(graph, plan, ranges, pixels=pixels))
    assert fused["QLinearConv"] == 3
    assert fused["QuantizeLinear"] == 0
    assert fused["Transpose"] == 1, "of the result"


@pytest.mark.parametrize(
    ("form", "attributes", "reason"),
    [
        (spec(mean=(123.7, 116.3, 103.5)), {}, "one zero point cannot pad for channel means"),
        (spec(), {"strides": [1, 1]}, "does not allow groups of pixels"),
        (spec(mean=(0.0,) * 3, std=(1.0,) * 3, dtype="uint8"), {}, "uint8 as it is"),
    ],
)
def test_inputs_that_stay_say_why(form: Preprocess, attributes: dict[str, Any], reason: str) -> None:
    graph = network(**attributes)
    found = find_pixels(graph, plan_placement(graph).cpu_sites, form)
    assert isinstance(found, str)
    assert reason in found


def test_a_second_reader_keeps_the_input_float() -> None:
    net = Net(side=SIDE)
    x = net.convolution("image", 3, 16, strides=[2, 2])
    net.convolution(x, 16, 8, kernel=1, out="y")
    net.op("Relu", "image", out="z")
    graph = net.graph("y", "z")
    assert "not read by one INT8 convolution alone" in str(find_pixels(graph, plan_placement(graph).cpu_sites, spec()))


def test_different_means_do_no_harm_without_padding() -> None:
    graph = network(pads=[0, 0, 0, 0], strides=[4, 4])
    form = spec(mean=(123.7, 116.3, 103.5))
    assert isinstance(find_pixels(graph, plan_placement(graph).cpu_sites, form), PixelInput)


def test_a_bundle_says_what_its_graphs_take() -> None:
    graph = network()
    plan, ranges = planned(graph, spec())
    emitted = emit(graph, "int8", Quantised(graph, graph, plan, ranges, "minmax"), spec())  # type: ignore[arg-type]
    own = emitted.infos["cpu.onnx"].preprocess
    assert own is not None
    assert own.dtype == "uint8"
    assert emitted.facts["cpu_input"] == "uint8 pixels"
    assert [name for name, info in emitted.infos.items() if info.preprocess is not None] == ["cpu.onnx"]

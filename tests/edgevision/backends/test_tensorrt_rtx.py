"""The real TensorRT-RTX parser and builder, on graphs made here and on real models. No GPU is needed."""

from __future__ import annotations

import _thread
import dataclasses
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevision.backends import graph_build
from edgevision.backends.build_config import TARGETS
from edgevision.backends.build_options import BuildOptions
from edgevision.backends.build_run import run_build
from edgevision.backends.built_plan import BuiltPlan
from edgevision.backends.engine_layers import parse_layers
from edgevision.backends.graph_build import Attempt, build_graph
from edgevision.backends.tensorrt_api import load_api
from edgevision.backends.tensorrt_builder import build_plan
from edgevision.bundle import Bundle, write_bundle
from edgevision.errors import BuildError, UsageError
from edgevision.export import ExportConfig, prepare
from edgevision.export.emit_tensorrt import emit_tensorrt
from edgevision.export.graph import Graph
from edgevision.export.half import to_half
from edgevision.export.placement import plan_placement
from edgevision.manifest import GraphInfo, Manifest, Preprocess
from edgevision.models import path as shipped
from edgevision.progress import Progress
from tests.export.networks import Net, measured, pictures

REAL = ("ssd_mobilenet_v1_coco_raw", "deeplabv3_mnv2_voc_513", "aerial_detector", "aerial_segmenter")


def network() -> Graph:
    """Dense, depthwise, grouped and dilated convolutions, a residual, matrix products; the last layer is the head."""
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 32, out="stem"))
    x = net.op("Relu", net.convolution(x, 32, 32, groups=32, out="depthwise"))
    x = net.op("Add", x, net.convolution(x, 32, 32, dilations=[2, 2], out="dilated"))
    x = net.op("LeakyRelu", net.convolution(x, 32, 64, groups=2, out="grouped"), alpha=0.1)
    x = net.op("Reshape", x, net.constant(np.array([64, 256])))
    x = net.op("Relu", net.op("Gemm", x, net.weight(48, 256), net.bias(48), transB=1, out="gemm"))
    x = net.op("Relu", net.op("MatMul", x, net.weight(48, 32), out="matmul"))
    net.op("MatMul", x, net.weight(32, 16), out="y")
    return net.graph("y")


def int8(graph: Graph) -> Graph:
    """The INT8 graph; drawn pictures will do, ranges decide nothing about precision."""
    plan = plan_placement(graph)
    shape = tuple(d.dim_value for d in graph.proto.input[0].type.tensor_type.shape.dim)
    return emit_tensorrt(graph, plan, measured(graph, plan.observed, pictures(shape, 1)))


def build(
    graph: bytes, name: str = "tiny", *, target: int | None = 89, progress: Progress | None = None, **attempt: Any
) -> BuiltPlan:
    """One attempt, no ladder."""
    options = BuildOptions("int8", target=target)
    return build_graph(load_api("tensorrt-rtx"), Attempt(graph, name, "int8", **attempt), options, progress=progress)


@pytest.fixture(scope="module")
def quantised() -> bytes:
    return int8(network()).serialize()


# --- tiny graphs ------------------------------------------------------------------------------------------------------


def test_every_promised_layer_is_built_in_int8(quantised: bytes) -> None:
    built = build(quantised, "tiny")
    promised = {f"node_{name}" for name in ("stem", "depthwise", "dilated", "grouped", "gemm", "matmul")}
    assert set(built.quantised) == promised
    assert set(built.int8) == promised
    head = [layer for layer in built.layers if "node_y" in layer.onnx_nodes]
    assert {layer.precision for layer in head} == {"fp16"}
    assert len(built.plan) > 1000
    assert built.seconds > 0


def test_a_layer_that_stays_float_is_told_from_a_promised_one() -> None:
    """RTX dequantises transposed convolutions and runs them in FP16: the very case that must be noticed."""
    net = Net()
    x = net.convolution("image", 3, 32, out="stem")
    x = net.op("ConvTranspose", x, net.weight(32, 32, 2, 2), strides=[2, 2], out="up")
    net.convolution(x, 32, 8, out="y")
    graph = net.graph("y")
    plan = plan_placement(graph)
    plan = dataclasses.replace(plan, tensorrt_inputs={**plan.tensorrt_inputs, "up": (0,)})
    ranges = measured(graph, (*plan.observed, "stem"), pictures(net.input, 1))
    built = build(emit_tensorrt(graph, plan, ranges).serialize(), "tiny")
    assert built.quantised == ("node_stem", "node_up")
    assert built.int8 == ("node_stem",)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_precision_comes_from_the_graph(precision: str) -> None:
    graph = network() if precision == "fp32" else to_half(network())
    built = build(graph.serialize(), "tiny")
    products = Counter(layer.precision for layer in built.layers if layer.kind in ("correlation", "gemm"))
    assert set(products) == {precision}
    assert built.quantised == ()


@pytest.mark.parametrize("target", [None, TARGETS[0], TARGETS[-1]])
def test_every_kind_of_target_builds(quantised: bytes, target: int | None) -> None:
    assert build(quantised, "tiny", target=target).plan


@pytest.mark.parametrize(("target", "words"), [(87, "Jetson Orin"), (110, "Jetson Thor"), (90, "got 90"), (0, "got 0")])
def test_other_targets_are_refused(quantised: bytes, target: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(quantised, "tiny", target=target)


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 10])
def test_bytes_that_are_no_model_are_refused(content: bytes) -> None:
    """The parser itself takes them for an empty network."""
    with pytest.raises(BuildError, match=f"holds no network .{len(content)} bytes"):
        build(content, "empty")


def test_a_refused_operator_is_named_with_its_node() -> None:
    net = Net()
    net.op("NonZero", net.convolution("image", 3, 8), out="where")
    net.nodes[-1].name = "the_culprit"
    graph = net.model({"image": net.input}, ["where"], opset=19, kinds={"where": 7})
    with pytest.raises(BuildError, match=r"model\.onnx: node 'the_culprit' \(NonZero\): .+"):
        build(graph.SerializeToString(), "model.onnx")


def test_a_failed_build_says_what_the_builder_said() -> None:
    """Non-maximum suppression parses, and then no kernel implements it."""
    net = Net(channels=1)
    boxes = net.op("Reshape", "image", net.constant(np.array([1, 64, 4])))
    scores = net.op("Reshape", "image", net.constant(np.array([1, 4, 64])))
    limits = [net.constant(np.array(v)) for v in (10, np.float32(0.5), np.float32(0.1))]
    net.op("NonMaxSuppression", boxes, scores, *limits, out="kept")
    graph = net.model({"image": net.input}, ["kept"], opset=19, kinds={"kept": 7})
    with pytest.raises(BuildError, match=r"failed to build it \[log: .+"):
        build(graph.SerializeToString(), "model.onnx")


# --- INT8 in part -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [("node_dilated",), ("node_stem", "node_gemm"), ("node_depthwise", "node_matmul")])
def test_nodes_taken_out_of_int8_are_built_in_fp16_by_the_real_builder(
    quantised: bytes, taken: tuple[str, ...]
) -> None:
    """Their inputs are rewired round the Q/DQ pairs; all others stay in INT8."""
    built = build(quantised, avoid=taken)
    products = {node: layer.precision for layer in built.layers if layer.is_product for node in layer.onnx_nodes}
    assert {products[name] for name in taken} == {"fp16"}
    promised = {f"node_{name}" for name in ("stem", "depthwise", "dilated", "grouped", "gemm", "matmul")}
    assert set(built.int8) == promised - set(taken)
    assert built.int8 == built.quantised


def test_the_ladder_rebuilds_without_what_the_builder_blames(
    quantised: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real builder takes all of our INT8 graphs, so its first answer is one that TensorRT gives elsewhere."""
    text = "Error Code 10: Internal Error (Could not find any implementation for node {}.)"
    answers = [text.format("node_stem"), text.format("node_grouped + node_t7")]  # the last one comes first

    def run(api: Any, builder: Any, *rest: Any) -> bytes | None:
        if answers:
            builder.error_recorder.report_error(api.module.ErrorCodeTRT.INTERNAL_ERROR, answers.pop())
            return None
        return run_build(api, builder, *rest)

    monkeypatch.setattr(graph_build, "run_build", run)
    infos = {"model.onnx": GraphInfo("fp32"), "tensorrt.onnx": GraphInfo("int8", 6, 1)}
    manifest = Manifest("tiny", "semantic", "semantic", "int8", ("a",), Preprocess("image", (16, 16)), infos)
    files = {"model.onnx": network().serialize(), "tensorrt.onnx": quantised}
    write_bundle(tmp_path / "tiny.edge", manifest, files)
    bundle = Bundle(tmp_path / "tiny.edge")
    built = build_plan(load_api("tensorrt-rtx"), bundle, BuildOptions("int8", target=89))
    assert built.rung == "int8-partial"
    first, second = built.reasons
    assert first.startswith("int8: ")
    assert first.endswith("taken out of INT8: node_grouped")
    assert second.startswith("int8-partial: ")
    assert second.endswith("taken out of INT8: node_stem")
    products = {node: layer.precision for layer in built.layers if layer.is_product for node in layer.onnx_nodes}
    assert (products["node_grouped"], products["node_stem"]) == ("fp16", "fp16")
    assert len(built.int8) == 4


def test_progress_advances(quantised: bytes) -> None:
    with Progress("building", quiet=True) as progress:
        build(quantised, "tiny", progress=progress)
    assert progress.done > 10


def test_ctrl_c_cancels_the_build_and_leaves_no_thread(quantised: bytes) -> None:
    class Interrupting(Progress):
        def update(self, steps: int = 1, note: str = "") -> None:
            super().update(steps, note)
            if self.done == 5:
                _thread.interrupt_main()

    with pytest.raises(KeyboardInterrupt):
        build(quantised, "tiny", progress=Interrupting("building", quiet=True))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(t.name == "tensorrt-build" for t in threading.enumerate()):
        time.sleep(0.01)
    assert not [t for t in threading.enumerate() if t.name == "tensorrt-build"]


# --- the log ----------------------------------------------------------------------------------------------------------

SIGNAL = "Name: signal^1, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , Metadata: "
CONVOLUTION = (
    "Name: conv_1, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,4,9,9], Datatype: Int8 }], Constants: "
    "[ { Name: w, Datatype: Int8 }, { Name: s, Datatype: Float }], Outputs: [ { Name: y, Datatype: Half }], "
    "TacticName: t, StreamId: 0, Metadata: [ONNX Layer: stem/conv][ONNX Layer: stem, relu]"
)
FILL = (
    "Name: fill, LayerType: kgen, Inputs: [], Constants: [], Outputs: [ { Name: z, Datatype: Half }], "
    "Metadata: [ONNX Layer: w]"
)
TENSOR = " Name: image, IOMode: Input, DataType: Float"


def test_layers_are_read_from_the_builders_message() -> None:
    conv, fill = parse_layers("\n".join(["Layers:", SIGNAL, CONVOLUTION, FILL, "", "I/O Tensors:", TENSOR]))
    assert (conv.name, conv.kind, conv.precision) == ("conv_1", "correlation", "int8")
    assert conv.onnx_nodes == ("stem/conv", "stem, relu")
    assert conv.is_product
    assert (fill.precision, fill.is_product) == ("none", False)


# --- real models ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=REAL)
def real(request: pytest.FixtureRequest) -> Graph:
    """A real model in normal form."""
    name = request.param
    if name.startswith("aerial"):
        return prepare(shipped(name), ExportConfig(precision="fp32")).graph
    models: Path = request.getfixturevalue("shared") / "models"
    if name.startswith("ssd"):
        config = ExportConfig(precision="fp32", priors=models / "ssd_mobilenet_v1_coco_anchors.npy", labels="coco90")
    else:
        config = ExportConfig(precision="fp32", labels="voc21", mean=(127.5,) * 3, std=(127.5,) * 3)
    return prepare(models / f"{name}.onnx", config).graph


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_real_models_build_in_every_precision(real: Graph, precision: str) -> None:
    graph = {"fp32": Graph.copy, "fp16": to_half, "int8": int8}[precision](real)
    built = build(graph.serialize(), precision)
    promised = len([d for d in plan_placement(real).tensorrt.values() if d.int8 and d.operator == "Conv"])
    assert len(built.int8) == (promised if precision == "int8" else 0)
    assert promised > 10
    assert set(built.int8) == set(built.quantised)

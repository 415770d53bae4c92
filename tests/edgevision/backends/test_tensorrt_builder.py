"""Building with every version of TensorRT, over stand-ins that have exactly their names and refuse what they refuse."""

from __future__ import annotations

import _thread
import dataclasses
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgevision.backends.build_options import BuildOptions
from edgevision.backends.built_plan import BuiltPlan
from edgevision.backends.engine_inspection import parse_inspection
from edgevision.backends.graph_build import Attempt, FailedBuildError, build_graph
from edgevision.backends.known_troubles import known_troubles
from edgevision.backends.ladder import graphs_of
from edgevision.backends.tensorrt_api import Api, load_api
from edgevision.backends.tensorrt_builder import build_plan
from edgevision.bundle import Bundle, write_bundle
from edgevision.errors import BuildError, BundleError, UsageError
from edgevision.export.emit_tensorrt import emit_tensorrt
from edgevision.export.half import to_half
from edgevision.export.placement import plan_placement
from edgevision.manifest import GraphInfo, Manifest, Preprocess
from edgevision.progress import Progress
from tests.export.networks import Net, measured, pictures
from tests.standins.tensorrt import Standin, World, install, versions

FULL = tuple(version for version in versions() if not version.startswith("rtx"))
WEAK = tuple(version for version in FULL if not version.startswith("11"))
MONITORED = tuple(version for version in FULL if not version.startswith("8"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Three convolutions, of which the head stays float; any number of pictures at once."""
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 16, out="stem"))
    x = net.op("Relu", net.convolution(x, 16, 16, out="layer"))
    net.convolution(x, 16, 4, out="logits")
    graph = net.graph("logits")
    plan = plan_placement(graph)
    graphs = {
        "model.onnx": graph,
        "tensorrt.onnx": emit_tensorrt(graph, plan, measured(graph, plan.observed, pictures(net.input, 2))),
        "tensorrt_fp16.onnx": to_half(graph),
    }
    files = {}
    for name, emitted in graphs.items():
        model = onnx.load_from_string(emitted.serialize())
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        del model.graph.value_info[:]
        files[name] = model.SerializeToString()
    infos = {
        "model.onnx": GraphInfo("fp32", 0, 3),
        "tensorrt.onnx": GraphInfo("int8", 2, 1),
        "tensorrt_fp16.onnx": GraphInfo("fp16", 0, 3),
    }
    manifest = Manifest("tiny", "semantic", "semantic", "int8", tuple("abcd"), Preprocess("image", (16, 16)), infos)
    path = tmp_path_factory.mktemp("bundle") / "tiny.edge"
    write_bundle(path, manifest, files)
    return Bundle(path)


@pytest.fixture(params=versions())
def standin(request: pytest.FixtureRequest) -> Iterator[Standin]:
    with install(request.param, World(sm=87)) as installed:
        yield installed


def api_of(standin: Standin) -> Api:
    return load_api("tensorrt-rtx" if standin.rtx else "tensorrt")


def build(standin: Standin, bundle: Bundle, precision: str = "int8", **options: Any) -> BuiltPlan:
    return build_plan(api_of(standin), bundle, BuildOptions(precision, **options))


# --- the ladder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_every_version_builds_every_precision(standin: Standin, bundle: Bundle, precision: str) -> None:
    built = build(standin, bundle, precision)
    assert (built.rung, built.reasons) == (precision, ())
    # Version 8 takes FP16 from a flag, not from the graph's types.
    half = "model.onnx" if standin.number[0] == 8 else "tensorrt_fp16.onnx"
    assert built.graph == {"int8": "tensorrt.onnx", "fp16": half, "fp32": "model.onnx"}[precision]
    assert built.quantised == (("node_stem", "node_layer") if precision == "int8" else ())
    assert built.int8 == built.quantised
    computed = {node: layer.precision for layer in built.layers for node in layer.onnx_nodes if layer.is_product}
    float_type = "fp32" if precision == "fp32" else "fp16"
    assert computed["node_logits"] == float_type
    assert computed["node_stem"] == ("int8" if precision == "int8" else float_type)
    assert standin.world.errors == []


def test_a_node_without_int8_kernel_goes_to_fp16_and_the_others_stay(standin: Standin, bundle: Bundle) -> None:
    standin.world.no_int8.add("node_stem")
    built = build(standin, bundle)
    assert built.rung == "int8-partial"
    assert built.int8 == ("node_layer",)
    (reason,) = built.reasons
    assert reason.startswith("int8: ")
    assert "Could not find any implementation for node node_stem" in reason
    assert reason.endswith("taken out of INT8: node_stem")
    computed = {node: layer.precision for layer in built.layers for node in layer.onnx_nodes if layer.is_product}
    assert (computed["node_stem"], computed["node_layer"]) == ("fp16", "int8")


def test_int8_with_nothing_left_in_it_is_fp16(standin: Standin, bundle: Bundle) -> None:
    standin.world.no_int8 |= {"node_stem", "node_layer"}
    built = build(standin, bundle)
    assert built.rung == "fp16"
    assert [reason.split(":")[0] for reason in built.reasons] == ["int8", "int8-partial"]
    assert "taken out" not in built.reasons[1]


def test_the_next_rungs_follow_and_say_why(standin: Standin, bundle: Bundle) -> None:
    standin.world.no_int8.add("node_stem")
    standin.world.no_half.add("node_stem")
    built = build(standin, bundle)
    assert (built.rung, built.graph) == ("fp32", "model.onnx")
    assert [reason.split(":")[0] for reason in built.reasons] == ["int8", "int8-partial", "fp16"]


def test_a_node_without_any_kernel_ends_the_ladder_with_every_reason(standin: Standin, bundle: Bundle) -> None:
    standin.world.no_kernel.add("node_logits")
    with pytest.raises(BuildError) as caught:
        build(standin, bundle)
    said = str(caught.value)
    assert "no precision of" in said
    for rung in ("int8: ", "fp16: ", "fp32: "):
        assert rung in said
    assert said.count("implementation for node node_logits") >= 3


def test_a_failure_that_names_no_node_goes_down_at_once(standin: Standin, bundle: Bundle) -> None:
    standin.world.build_error = "Error Code 2: OutOfMemory (no further information)"
    with pytest.raises(BuildError, match="OutOfMemory"):
        build(standin, bundle)
    assert len(standin.world.builds) == 3


def test_a_region_stands_for_the_nodes_between_its_ends(standin: Standin, bundle: Bundle) -> None:
    standin.world.build_error = "Could not find any implementation for node {ForeignNode[node_layer...node_logits]}."
    graph = Attempt(bundle.read("tensorrt.onnx"), "graph", "int8")
    with pytest.raises(FailedBuildError) as caught:
        build_graph(api_of(standin), graph, BuildOptions("int8"))
    assert caught.value.nodes == ("node_layer",)


def test_names_within_longer_names_are_not_blamed(standin: Standin, bundle: Bundle) -> None:
    standin.world.build_error = "no implementation for node node_stem_2 + block/node_stem + node_stem/x + node_stem.1"
    graph = Attempt(bundle.read("tensorrt.onnx"), "graph", "int8")
    with pytest.raises(FailedBuildError) as caught:
        build_graph(api_of(standin), graph, BuildOptions("int8"))
    assert caught.value.nodes == ()


def test_a_bundle_without_the_precision_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    manifest = dataclasses.replace(
        bundle.manifest, precision="fp32", graphs={"model.onnx": bundle.manifest.graphs["model.onnx"]}, files={}
    )
    write_bundle(tmp_path / "float.edge", manifest, {"model.onnx": bundle.read("model.onnx")})
    with install("10.3.0"), pytest.raises(BundleError, match="has no int8 graph, it holds fp32"):
        build_plan(load_api("tensorrt"), Bundle(tmp_path / "float.edge"), BuildOptions("int8"))


def test_a_plan_depends_on_every_graph_of_the_ladder(bundle: Bundle) -> None:
    every = {"tensorrt.onnx", "tensorrt_fp16.onnx", "model.onnx"}
    for options in (BuildOptions("int8"), BuildOptions("int8", dla_core=0)):
        assert set(graphs_of(bundle.manifest, options)) == every
    assert set(graphs_of(bundle.manifest, BuildOptions("fp16"))) == {"tensorrt_fp16.onnx", "model.onnx"}
    assert graphs_of(bundle.manifest, BuildOptions("fp32")) == ("model.onnx",)


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(1, 1, 1), (2, 2, 2), (1, 4, 8)])
def test_the_batch_becomes_an_optimization_profile(
    standin: Standin, bundle: Bundle, batch: tuple[int, int, int]
) -> None:
    assert build(standin, bundle, batch=batch).rung == "int8"


@pytest.mark.parametrize("batch", [(0, 1, 1), (2, 1, 2), (1, 3, 2), (1, 1, 5000)])
def test_batches_out_of_order_are_refused(batch: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="MIN <= OPT <= MAX"):
        BuildOptions("int8", batch=batch)


def test_a_graph_of_fixed_size_takes_no_other(standin: Standin) -> None:
    net = Net()
    net.convolution("image", 3, 8, out="y")
    with pytest.raises(BuildError, match="takes 1 picture at once, asked for was a batch of 1:4:8"):
        build_graph(
            api_of(standin), Attempt(net.graph("y").serialize(), "graph", "fp32"), BuildOptions("fp32", batch=(1, 4, 8))
        )


def test_too_little_workspace_fails_every_rung_and_says_so(standin: Standin, bundle: Bundle) -> None:
    with pytest.raises(BuildError, match="insufficient workspace"):
        build(standin, bundle, workspace_bytes=1024)


@pytest.mark.parametrize("options", [{"version_compatible": True}, {"optimization_level": 5}])
def test_other_options_reach_every_version(standin: Standin, bundle: Bundle, options: dict[str, Any]) -> None:
    assert build(standin, bundle, **options).rung == "int8"


def test_hardware_compatibility_that_a_version_lacks_is_refused(standin: Standin, bundle: Bundle) -> None:
    assert build(standin, bundle, hardware_compatible="ampere-plus").rung == "int8"
    if standin.number < (10, 13):
        with pytest.raises(UsageError, match="does not know hardware compatibility"):
            build(standin, bundle, hardware_compatible="same-compute-capability")
    else:
        assert build(standin, bundle, hardware_compatible="same-compute-capability").rung == "int8"


def test_a_target_is_for_rtx_alone(standin: Standin, bundle: Bundle) -> None:
    if standin.rtx:
        assert build(standin, bundle, target=89).rung == "int8"
    else:
        with pytest.raises(UsageError, match="builds for the GPU it runs on"):
            build(standin, bundle, target=89)


@pytest.mark.parametrize("version", WEAK)
def test_an_accelerator_runs_what_it_can_and_the_rest_is_named(version: str, bundle: Bundle) -> None:
    with install(version, World(sm=87, dla_cores=2)) as standin:
        built = build(standin, bundle, dla_core=1)
    (note,) = (note for note in built.notes if "accelerator" in note)
    assert note.endswith("layers on accelerator 1") or "on the GPU: " in note
    assert built.rung == "int8"


@pytest.mark.parametrize("version", WEAK)
def test_an_accelerator_gets_its_int8_ranges_without_pairs(version: str, bundle: Bundle) -> None:
    """It knows no Q/DQ: the network is the float one, and the pairs' ranges are told tensor by tensor."""
    with install(version, World(sm=87)) as standin:
        built = build(standin, bundle, dla_core=0)
    assert (built.graph, built.quantised) == ("model.onnx", ())
    assert not [layer for layer in built.layers if "Quantize" in layer.name]
    computed = {node: layer.precision for layer in built.layers for node in layer.onnx_nodes if layer.is_product}
    assert computed == {"node_stem": "int8", "node_layer": "int8", "node_logits": "fp16"}


@pytest.mark.parametrize("version", WEAK)
def test_an_accelerators_failing_node_is_pinned_to_fp16(version: str, bundle: Bundle) -> None:
    with install(version, World(sm=87, no_int8={"node_layer"})) as standin:
        built = build(standin, bundle, dla_core=0)
    assert built.rung == "int8-partial"
    computed = {node: layer.precision for layer in built.layers for node in layer.onnx_nodes if layer.is_product}
    assert (computed["node_stem"], computed["node_layer"]) == ("int8", "fp16")


@pytest.mark.parametrize("version", WEAK)
def test_without_fallback_an_accelerator_must_run_everything(version: str) -> None:
    net = Net()
    x = net.convolution("image", 3, 8, out="features")
    net.op("InstanceNormalization", x, net.bias(8), net.bias(8), out="y")
    attempt = Attempt(net.graph("y").serialize(), "graph", "fp16")
    with install(version, World(sm=87, dla_cores=1)) as standin:
        built = build_graph(api_of(standin), attempt, BuildOptions("fp16", dla_core=0))
        assert built.notes == ("1 of 2 layers on accelerator 0; on the GPU: node_y",)
        with pytest.raises(BuildError, match=r"cannot run 1 of 2 layers \(node_y\), and the GPU may not take them"):
            build_graph(api_of(standin), attempt, BuildOptions("fp16", dla_core=0, gpu_fallback=False))


@pytest.mark.parametrize("cores", [0, 1])
def test_an_accelerator_that_is_not_there_is_refused(standin: Standin, bundle: Bundle, cores: int) -> None:
    standin.world.dla_cores = cores
    with pytest.raises(UsageError, match=r"--dla-core 1: this machine has . deep-learning accelerators"):
        build(standin, bundle, dla_core=1)


def test_accelerators_compute_no_float32() -> None:
    with pytest.raises(UsageError, match="INT8 and FP16 only"):
        BuildOptions("fp32", dla_core=0)


# --- timing cache -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", FULL)
def test_measurements_are_kept_for_the_next_build(version: str, bundle: Bundle, tmp_path: Path) -> None:
    cache = tmp_path / "folder" / "timing"
    with install(version, World(sm=87)):
        api = load_api("tensorrt")
        build_plan(api, bundle, BuildOptions("fp16"), timing_cache=cache)
        first = cache.read_bytes()
        built = build_plan(api, bundle, BuildOptions("int8"), timing_cache=cache)
    assert built.notes == ()
    assert first
    assert set(first.splitlines()) < set(cache.read_bytes().splitlines())


@pytest.mark.parametrize(
    "content", [b"not a cache", b"vtrtcache 9.9.9 12\nCONVOLUTION Int8"], ids=["damaged", "foreign"]
)
@pytest.mark.parametrize("version", FULL)
def test_a_timing_cache_that_does_not_fit_is_begun_anew(
    version: str, content: bytes, bundle: Bundle, tmp_path: Path
) -> None:
    cache = tmp_path / "timing"
    cache.write_bytes(content)
    with install(version, World(sm=87)):
        built = build_plan(load_api("tensorrt"), bundle, BuildOptions("int8"), timing_cache=cache)
    assert built.rung == "int8"
    assert any("does not fit this TensorRT and GPU, or is damaged: begun anew" in note for note in built.notes)
    assert cache.read_bytes() != content


def test_rtx_keeps_no_timing_cache(bundle: Bundle, tmp_path: Path) -> None:
    with install("rtx-1.7.1.116"):
        build_plan(load_api("tensorrt-rtx"), bundle, BuildOptions("int8"), timing_cache=tmp_path / "timing")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_does_not_stop_a_build(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with install("10.3.0", World(sm=87)):
        built = build_plan(
            load_api("tensorrt"), bundle, BuildOptions("int8"), timing_cache=tmp_path / "file" / "timing"
        )
    assert built.rung == "int8"


# --- preflight --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 10, b"\x3a\x00"])
def test_bytes_that_are_no_model_are_refused(standin: Standin, content: bytes) -> None:
    with pytest.raises(BuildError, match=r"holds no network|not an ONNX model|cut off"):
        build_graph(api_of(standin), Attempt(content, "graph", "fp32"), BuildOptions("fp32"))


def test_every_refused_node_is_named_with_its_operator_and_the_reason(standin: Standin) -> None:
    net = Net()
    x = net.convolution("image", 3, 8, out="features")
    for index in range(5):
        net.op("Unique", x, out=f"unique{index}")
        net.nodes[-1].name = f"culprit_{index}"
        net.nodes[-1].attribute.extend([onnx.helper.make_attribute("sorted", 1)])
    model = net.model({"image": net.input}, ["unique0"], opset=17)
    with pytest.raises(BuildError) as caught:
        build_graph(api_of(standin), Attempt(model.SerializeToString(), "graph", "fp32"), BuildOptions("fp32"))
    assert "cannot read graph: node 'culprit_0' (Unique): " in str(caught.value)
    assert "and 2 more" in str(caught.value)
    assert [reason.split(":")[0] for reason in caught.value.reasons] == [
        f"node 'culprit_{i}' (Unique)" for i in range(5)
    ]


def test_a_graph_that_reads_files_is_refused(standin: Standin) -> None:
    net = Net()
    net.convolution("image", 3, 8, out="y")
    model = net.model({"image": net.input}, ["y"], opset=17)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(BuildError, match="in files outside itself"):
        build_graph(api_of(standin), Attempt(model.SerializeToString(), "graph", "fp32"), BuildOptions("fp32"))


# --- progress and Ctrl-C ----------------------------------------------------------------------------------------------


class Noted(Progress):
    """Keeps what would be shown."""

    def __init__(self) -> None:
        super().__init__("building", quiet=True)
        self.notes: list[str] = []

    def update(self, steps: int = 1, note: str = "") -> None:
        super().update(steps, note)
        self.notes.append(note)


@pytest.mark.parametrize("version", MONITORED)
def test_later_versions_show_an_estimate(version: str, bundle: Bundle) -> None:
    with install(version, World(sm=87)), Noted() as progress:
        build_plan(load_api("tensorrt"), bundle, BuildOptions("int8"), progress=progress)
    assert progress.done > 3
    estimated = [note for note in progress.notes if "left" in note]
    assert estimated
    assert all("%, about " in note for note in estimated)


def test_version_8_shows_the_time_and_promises_nothing(bundle: Bundle) -> None:
    waiting = threading.Event()
    with install("8.6.1", World(sm=87)) as standin, Noted() as progress:
        standin.world.on_step = lambda phase, step: waiting.wait(0.1) and None
        build_plan(load_api("tensorrt"), bundle, BuildOptions("int8"), progress=progress)
    assert progress.done == 0
    assert any(note.endswith("s so far; this TensorRT gives no estimate") for note in progress.notes)


@pytest.mark.parametrize("version", MONITORED)
def test_ctrl_c_cancels_and_leaves_no_thread(version: str, bundle: Bundle) -> None:
    with install(version, World(sm=87)) as standin:
        reached = threading.Event()

        def interrupt(phase: str, step: int) -> None:
            if not reached.is_set():
                reached.set()
                _thread.interrupt_main()

        standin.world.on_step = interrupt
        with pytest.raises(KeyboardInterrupt):
            build_plan(load_api("tensorrt"), bundle, BuildOptions("int8"))
        assert not [thread for thread in threading.enumerate() if thread.name == "tensorrt-build"]
    assert len(standin.world.builds) == 1


def test_ctrl_c_on_version_8_does_not_wait_for_the_build(bundle: Bundle) -> None:
    """It cannot be cancelled: its thread ends with the process (here: when it is let go)."""
    go_on = threading.Event()
    with install("8.6.1", World(sm=87)) as standin:

        def interrupt(phase: str, step: int) -> None:
            _thread.interrupt_main()
            standin.world.on_step = None
            go_on.wait(10)

        standin.world.on_step = interrupt
        with pytest.raises(KeyboardInterrupt):
            build_plan(load_api("tensorrt"), bundle, BuildOptions("int8"))
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "tensorrt-build"]
        go_on.set()
        thread.join(10)
        assert not thread.is_alive()


# --- known troubles and layers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "sm", "options", "source"),
    [
        ("10.16.2.10", 87, BuildOptions("int8"), "issues/4832"),
        ("10.3.0", 87, BuildOptions("int8", calibrator="entropy"), "issues/4797"),
        ("10.3.0", 87, BuildOptions("int8"), "pull/24368"),
        ("10.2.0", 80, BuildOptions("fp16"), "ultralytics"),
        ("10.13.3.9", 110, BuildOptions("fp16"), "10.15 or later"),
        ("11.4.0.106", 110, BuildOptions("fp16"), "do not support JetPack"),
    ],
)
def test_known_troubles_are_told_with_their_source(version: str, sm: int, options: BuildOptions, source: str) -> None:
    with install(version if version in versions() else "10.16.1.11") as standin:
        api = Api(standin.module, "tensorrt", version)
        assert any(source in line for line in known_troubles(api, sm, options))


@pytest.mark.parametrize(
    ("version", "sm", "options"),
    [
        ("10.16.2.10", 110, BuildOptions("int8")),  # Thor builds the same file
        ("10.16.2.10", 87, BuildOptions("fp16")),
        ("10.16.1.11", 87, BuildOptions("int8")),
        ("8.6.1", 87, BuildOptions("int8")),
        ("11.4.1", 87, BuildOptions("int8")),
    ],
)
def test_what_is_not_known_to_fail_is_not_suspected(version: str, sm: int, options: BuildOptions) -> None:
    with install("10.16.1.11") as standin:
        assert known_troubles(Api(standin.module, "tensorrt", version), sm, options) == []


def test_layers_are_read_from_the_inspectors_json() -> None:
    entries = [
        {
            "Name": "stem + relu",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            "ParameterType": "Convolution",
            "Metadata": "[ONNX Layer: stem]\x1e[ONNX Layer: relu]",
        },
        {"Name": "head", "LayerType": "gemm", "Inputs": [{"Format/Datatype": "Row major linear FP16 format"}]},
        {"Name": "a + b", "LayerType": "Reformat", "Inputs": []},
        "only a name",
    ]
    stem, head, reformat = parse_inspection(json.dumps({"Layers": entries, "Bindings": ["x"]}))
    assert (stem.precision, stem.onnx_nodes, stem.is_product) == ("int8", ("stem", "relu"), True)
    assert (head.precision, head.onnx_nodes, head.is_product) == ("fp16", ("head",), True)
    assert (reformat.precision, reformat.onnx_nodes, reformat.is_product) == ("none", ("a", "b"), False)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": 3}', '{"Layers": ["a", "b"]}', "[" * 100_000])
def test_an_inspector_that_says_nothing_gives_no_layers(text: str) -> None:
    assert parse_inspection(text) == ()


def test_decodes_stay_in_float32_where_flags_choose(bundle: Bundle) -> None:
    """Version 8 may round any layer to FP16: those that the graph wants in float32 are pinned."""
    net = Net()
    x = net.convolution("image", 3, 8, out="features")
    x = net.op("Mul", x, net.constant(np.float32(1e6)), out="far")  # no FP16 value: stays in float32
    net.op("Add", x, net.constant(np.float32(1)), out="y")
    graph = to_half(net.graph("y")).serialize()
    with install("8.6.1", World(sm=87)):
        built = build_graph(
            load_api("tensorrt"), Attempt(graph, "graph", "fp16", frozenset({"node_far"})), BuildOptions("fp16")
        )
    precisions = {node: layer.precision for layer in built.layers for node in layer.onnx_nodes}
    assert precisions["node_far"] == "fp32"
    assert precisions["node_features"] == "fp16"

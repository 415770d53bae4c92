"""The stand-in against NVIDIA's own parser and builder, the one that needs no GPU: TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.contract.judging import Shapes, judge, logger
from tests.contract.small_graphs import GRAPHS
from tests.standins.tensorrt import install

_RTX = "rtx-1.7.1.116"
# Graphs whose operators become one layer each; others get helpers between them.
_PLAIN = ("convolution", "convolution_in_int8", "matrix_product_in_int8", "convolution_in_half", "bytes_cast_first")
_OPEN = (8, 16, 16)


@pytest.fixture
def real() -> ModuleType:
    import tensorrt_rtx_bindings

    module: ModuleType = tensorrt_rtx_bindings
    return module


@pytest.fixture
def standin() -> Iterator[ModuleType]:
    with install(_RTX) as installed:
        yield installed.module


@pytest.mark.parametrize("name", GRAPHS)
def test_it_takes_and_refuses_the_same_graphs_and_names_the_same_nodes(
    name: str, real: ModuleType, standin: ModuleType
) -> None:
    assert judge(standin, GRAPHS[name]()) == judge(real, GRAPHS[name]())


@pytest.mark.parametrize(
    "shapes",
    [
        {"x": ((1, *_OPEN), (4, *_OPEN), (8, *_OPEN))},
        {"x": ((2, *_OPEN),) * 3},
        {"x": ((4, *_OPEN), (2, *_OPEN), (8, *_OPEN))},
        {"x": ((1, *_OPEN), (4, *_OPEN), (2, *_OPEN))},
        {"x": ((1, 8, 16), (4, 8, 16), (8, 8, 16))},
        {"x": ((1, 8, 32, 16),) * 3},
        {"z": ((1, *_OPEN), (4, *_OPEN), (8, *_OPEN))},
        {},
    ],
    ids=["right", "fixed", "min above opt", "opt above max", "rank", "other sides", "other name", "empty"],
)
def test_mistakes_in_profiles_show_at_the_build(shapes: Shapes, real: ModuleType, standin: ModuleType) -> None:
    model = GRAPHS["open_batch"]()
    assert judge(standin, model, (shapes,)) == judge(real, model, (shapes,))


@pytest.mark.parametrize("name", _PLAIN)
def test_its_networks_have_the_same_layers_and_tensors(name: str, real: ModuleType, standin: ModuleType) -> None:
    assert _layers(standin, GRAPHS[name]()) == _layers(real, GRAPHS[name]())


def _layers(trt: ModuleType, model: bytes) -> list[tuple[Any, ...]]:
    log = logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse(model)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    assert layers[0].get_input(99) is None
    assert network.get_layer(99) is None
    return [
        (
            layer.type.name,
            layer.name,
            layer.metadata,
            [layer.get_input(index).name for index in range(layer.num_inputs)],
            [_tensor(layer.get_output(index)) for index in range(layer.num_outputs)],
        )
        for layer in layers
    ]


def _tensor(tensor: Any) -> tuple[Any, ...]:
    return tensor.name, tensor.dtype.name, tuple(tensor.shape), tensor.is_network_input, tensor.is_network_output


class Bench:
    """A convolution, read and ready to build."""

    def __init__(self, trt: ModuleType, model: bytes) -> None:
        self.trt, self.log = trt, logger(trt)
        self.builder = trt.Builder(self.log)
        self.network = self.builder.create_network(0)
        self.parser = trt.OnnxParser(self.network, self.log)
        assert self.parser.parse(model)
        self.config = self.builder.create_builder_config()

    def build(self) -> bytes | None:
        plan = self.builder.build_serialized_network(self.network, self.config)
        return None if plan is None else bytes(plan)

    def errors(self) -> list[str]:
        return [text for level, text in self.log.lines if level in ("ERROR", "INTERNAL_ERROR")]


@pytest.fixture(params=["real", "stand-in"])
def bench(request: pytest.FixtureRequest) -> Bench:
    """The same tests for both: what they ask is true of the real one."""
    module = request.getfixturevalue("real" if request.param == "real" else "standin")
    return Bench(module, GRAPHS["convolution"]())


class TestBoth:
    def test_a_plan_begins_with_its_mark(self, bench: Bench) -> None:
        plan = bench.build()
        assert plan is not None
        assert plan[:4] == b"vtrt"

    def test_it_builds_for_desktop_cards_alone(self, bench: Bench) -> None:
        capabilities, config = bench.trt.ComputeCapability, bench.config
        config.num_compute_capabilities = 1
        for refused in (capabilities.NONE, capabilities(87), capabilities(110)):
            assert not config.set_compute_capability(refused, 0)
            assert config.get_compute_capability(0) == capabilities.NONE
        assert bench.build() is None
        assert any("ompute capability" in text for text in bench.errors())
        for taken in (capabilities.SM89, capabilities.SM75):
            assert config.set_compute_capability(taken, 0)
            assert bench.build() is not None

    def test_a_configuration_begins_with_the_builders_choices(self, bench: Bench) -> None:
        trt, config = bench.trt, bench.config
        assert (config.max_aux_streams, config.builder_optimization_level, config.DLA_core) == (-1, 3, -1)
        assert config.profiling_verbosity == trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        assert config.default_device_type == trt.DeviceType.GPU
        assert config.engine_capability == trt.EngineCapability.STANDARD
        assert config.runtime_platform == trt.RuntimePlatform.SAME_AS_BUILD
        assert config.flags == 1 << int(trt.BuilderFlag.TF32)
        assert (config.avg_timing_iterations, config.l2_limit_for_tiling, config.max_num_tactics) == (1, 0, -1)
        assert (config.num_optimization_profiles, config.num_compute_capabilities) == (0, 0)
        assert config.get_tactic_sources() == 3
        assert bench.builder.num_DLA_cores == 0

    def test_too_little_workspace_fails_the_build(self, bench: Bench) -> None:
        bench.config.set_memory_pool_limit(bench.trt.MemoryPoolType.WORKSPACE, 1024)
        assert bench.build() is None
        assert bench.errors()

    def test_the_log_lists_the_layers_when_asked_for_details(self, bench: Bench) -> None:
        bench.config.profiling_verbosity = bench.trt.ProfilingVerbosity.DETAILED
        assert bench.build() is not None
        listed = [text for level, text in bench.log.lines if level == "VERBOSE" and text.startswith("Layers:")]
        assert len(listed) == 1
        assert "LayerType: correlation" in listed[0]
        assert "[ONNX Layer: the_c]" in listed[0]

    def test_a_monitor_sees_nested_phases(self, bench: Bench) -> None:
        monitor = _monitor(bench.trt, stop_at=None)
        bench.config.progress_monitor = monitor
        assert bench.build() is not None
        started = [event for event in monitor.events if event[0] == "start"]
        assert started[0][2] is None
        assert {event[2] for event in started[1:]} <= {event[1] for event in started}
        assert sorted(e[1] for e in monitor.events if e[0] == "finish") == sorted(e[1] for e in started)
        assert any(event[0] == "step" for event in monitor.events)

    def test_a_monitor_can_cancel(self, bench: Bench) -> None:
        bench.config.progress_monitor = _monitor(bench.trt, stop_at=1)
        assert bench.build() is None

    def test_an_error_recorder_hears_of_failures(self, bench: Bench) -> None:
        heard: list[tuple[Any, str]] = []
        recorder = bench.builder.error_recorder = _recorder(bench.trt, heard)
        bench.config.set_memory_pool_limit(bench.trt.MemoryPoolType.WORKSPACE, 1024)
        assert bench.build() is None
        bench.builder.error_recorder = None  # the real builder calls it when it is freed, and does not keep it alive
        assert recorder.num_errors() == len(heard)
        assert heard
        assert all(isinstance(code, bench.trt.ErrorCodeTRT) for code, _ in heard)

    def test_there_is_no_error_behind_the_last(self, bench: Bench) -> None:
        assert bench.parser.num_errors == 0
        assert bench.parser.get_error(0) is None

    def test_an_accelerator_is_ignored(self, bench: Bench) -> None:
        bench.config.default_device_type = bench.trt.DeviceType.DLA
        bench.config.DLA_core = 0
        assert bench.config.DLA_core == -1
        assert not bench.config.can_run_on_DLA(bench.network.get_layer(0))
        assert bench.build() is not None

    def test_typed_networks_alone(self, bench: Bench) -> None:
        strong = bench.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        assert bench.network.get_flag(strong)
        assert bench.network.flags == 1 << int(strong)

    def test_an_empty_timing_cache_can_be_made(self, bench: Bench) -> None:
        cache = bench.config.create_timing_cache(b"")
        assert cache is None or bench.config.set_timing_cache(cache, False) in (True, False)


def _monitor(trt: ModuleType, stop_at: int | None) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.events: list[tuple[Any, ...]] = []
            self.steps = 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.events.append(("start", phase, parent, steps))

        def step_complete(self, phase: str, step: int) -> bool:
            self.events.append(("step", phase, step))
            self.steps += 1
            return stop_at is None or self.steps < stop_at

        def phase_finish(self, phase: str) -> None:
            self.events.append(("finish", phase))

    return Monitor()


def _recorder(trt: ModuleType, heard: list[tuple[Any, str]]) -> Any:
    class Recorder(trt.IErrorRecorder):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)

        def report_error(self, code: Any, text: str) -> bool:
            heard.append((code, text))
            return False

        def num_errors(self) -> int:
            return len(heard)

        def get_error_code(self, index: int) -> Any:
            return heard[index][0]

        def get_error_desc(self, index: int) -> str:
            return heard[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            heard.clear()

    return Recorder()

"""What sets TensorRT's versions apart, as documented, in the stand-ins for those that cannot be run anywhere but on a
board or with a GPU: 8.6, 10.x and 11."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.contract.judging import logger
from tests.contract.small_graphs import GRAPHS
from tests.standins.tensorrt import Standin, World, install, versions

FULL = [version for version in versions() if not version.startswith("rtx")]
WEAK = [version for version in FULL if not version.startswith("11")]
TEN = [version for version in FULL if version.startswith("10")]


class Bench:
    """A TensorRT at work on one graph after another."""

    def __init__(self, standin: Standin) -> None:
        self.standin, self.trt = standin, standin.module
        self.log = logger(self.trt)
        self.builder = self.trt.Builder(self.log)
        self.config = self.builder.create_builder_config()

    def read(self, model: bytes, *, typed: bool = False) -> Any:
        """The network, or None where it is refused; `parser` then knows why."""
        flags = self.trt.NetworkDefinitionCreationFlag
        bits = 1 << int(flags.STRONGLY_TYPED) if typed else 1
        self.network = self.builder.create_network(bits)
        self.parser = self.trt.OnnxParser(self.network, self.log)
        return self.network if self.parser.parse(model) else None

    def allow(self, *names: str) -> None:
        for name in names:
            self.config.set_flag(getattr(self.trt.BuilderFlag, name))

    def build(self) -> bytes | None:
        plan = self.builder.build_serialized_network(self.network, self.config)
        return None if plan is None else bytes(plan)

    def load(self, plan: bytes, *, host_code: bool = False) -> Any:
        runtime = self.trt.Runtime(self.log)
        runtime.engine_host_code_allowed = host_code
        return runtime.deserialize_cuda_engine(plan)

    def run(self, plan: bytes, **arrays: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs for these inputs."""
        engine = self.load(plan)
        context = engine.create_execution_context()
        outputs = {}
        for name, array in arrays.items():
            assert context.set_input_shape(name, array.shape)
            context.set_tensor_address(name, array.ctypes.data)
        for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
            if engine.get_tensor_mode(name) == self.trt.TensorIOMode.OUTPUT:
                dtype = self.trt.nptype(engine.get_tensor_dtype(name))
                outputs[name] = np.zeros(tuple(context.get_tensor_shape(name)), dtype)
                context.set_tensor_address(name, outputs[name].ctypes.data)
        assert context.execute_async_v3(0)
        assert not self.standin.world.errors
        return outputs

    def said(self) -> str:
        return "\n".join(text for level, text in self.log.lines if level in ("ERROR", "INTERNAL_ERROR"))


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with install(request.param, World(sm=87)) as standin:
        yield Bench(standin)


def of(*wanted: str) -> Any:
    return pytest.mark.parametrize("bench", wanted, indirect=True)


def picture(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).normal(0, 2, shape or (1, 8, 16, 16)).astype(np.float32)


class TestReading:
    @of("8.6.1")
    def test_version_8_must_be_told_of_the_batch(self, bench: Bench) -> None:
        network = bench.builder.create_network(0)
        assert network.has_implicit_batch_dimension
        assert not bench.trt.OnnxParser(network, bench.log).parse(GRAPHS["convolution"]())

    @of("8.6.1")
    def test_version_8_takes_no_half_scales_and_stops_at_the_first_trouble(self, bench: Bench) -> None:
        assert bench.read(GRAPHS["two_unsupported_operators"]()) is None
        assert bench.parser.num_errors == 1
        assert bench.parser.get_error(0).node() == 1
        assert not hasattr(bench.parser.get_error(0), "node_name")

    @pytest.mark.parametrize(
        ("bench", "opset"), [("8.6.1", 17), ("10.3.0", 20), ("11.4.0.106", 25)], indirect=["bench"]
    )
    def test_operator_sets_end_where_the_documentation_says(self, bench: Bench, opset: int) -> None:
        assert bench.read(GRAPHS["an_operator_set_of_the_future"]()) is None
        assert f"supports up to {opset}" in bench.said()

    @of("10.3.0", "11.4.0.106")
    def test_all_unsupported_nodes_are_told_at_once(self, bench: Bench) -> None:
        assert bench.read(GRAPHS["two_unsupported_operators"]()) is None
        errors = [bench.parser.get_error(index) for index in range(bench.parser.num_errors)]
        assert [(e.node_name(), e.node_operator()) for e in errors] == [("the_u", "Unique"), ("the_y", "Det")]

    @of(*FULL)
    def test_what_is_no_model_is_an_empty_network(self, bench: Bench) -> None:
        network = bench.read(b"hello")
        assert (network.num_inputs, network.num_layers) == (0, 0)
        assert bench.build() is None
        assert "at least one output" in bench.said()

    @of(*FULL)
    def test_a_second_parse_into_a_network_fails(self, bench: Bench) -> None:
        assert bench.read(GRAPHS["convolution"]()) is not None
        assert not bench.parser.parse(GRAPHS["convolution"]())

    @of("8.6.1", "10.3.0")
    def test_wide_integers_are_narrow_in_version_8(self, bench: Bench) -> None:
        bench.read(GRAPHS["wide_integers"]())
        wanted = "INT32" if bench.standin.number[0] == 8 else "INT64"
        assert bench.network.get_output(0).dtype.name == wanted
        plan = bench.build()
        assert plan is not None
        x = picture()
        assert (bench.run(plan, x=x)["y"] == x.argmax(axis=1)).all()

    @of("10.3.0")
    def test_the_support_check_tells_groups_of_nodes(self, bench: Bench) -> None:
        network = bench.builder.create_network(1)
        parser = bench.trt.OnnxParser(network, bench.log)
        assert not parser.supports_model_v2(GRAPHS["two_unsupported_operators"]())
        groups = [
            (parser.get_subgraph_nodes(index), parser.is_subgraph_supported(index))
            for index in range(parser.num_subgraphs)
        ]
        assert groups == [([0], True), ([1], False), ([2], False)]


class TestPrecision:
    @of(*WEAK)
    def test_flags_allow_what_a_weakly_typed_graph_holds(self, bench: Bench) -> None:
        bench.read(GRAPHS["convolution_in_int8"]())
        assert bench.build() is None
        assert "int8 is not configured" in bench.said()
        bench.allow("INT8")
        assert bench.build() is not None

    @of(*TEN)
    def test_half_tensors_need_their_flag_in_a_weakly_typed_network(self, bench: Bench) -> None:
        bench.read(GRAPHS["convolution_in_half"]())
        assert bench.build() is None
        bench.allow("FP16")
        assert bench.build() is not None

    @of(*TEN)
    def test_a_typed_network_takes_no_flags(self, bench: Bench) -> None:
        bench.read(GRAPHS["convolution_in_int8"](), typed=True)
        assert bench.build() is not None
        bench.allow("FP16")
        assert bench.build() is None
        assert "strongly typed" in bench.said()

    @of(*TEN)
    def test_a_typed_network_takes_no_precisions_of_layers(self, bench: Bench) -> None:
        bench.read(GRAPHS["convolution"](), typed=True)
        bench.network.get_layer(0).precision = bench.trt.DataType.HALF
        assert bench.build() is None

    @of("11.4.0.106")
    def test_version_11_is_always_typed(self, bench: Bench) -> None:
        bench.read(GRAPHS["convolution_in_int8"]())
        assert bench.network.get_flag(bench.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        assert bench.build() is not None

    @of("8.6.1", "10.3.0")
    def test_a_node_without_a_kernel_fails_in_its_precision_only(self, bench: Bench) -> None:
        bench.standin.world.no_int8.add("the_y")
        bench.read(GRAPHS["convolution_in_int8"]())
        bench.allow("INT8")
        assert bench.build() is None
        assert "Could not find any implementation for node the_y" in bench.said()
        bench.read(GRAPHS["convolution"]())
        assert bench.build() is not None

    @of(*FULL)
    def test_inputs_can_go_round_a_pair_of_quantizers(self, bench: Bench) -> None:
        network = bench.read(GRAPHS["convolution_in_int8"]())
        if bench.standin.number[0] < 11:
            bench.allow("INT8")
        x, kinds = picture(), bench.trt.LayerType
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        rounded = bench.run(bench.build() or b"", x=x)["y"]
        (convolution,) = (layer for layer in layers if layer.type == kinds.CONVOLUTION)
        convolution.set_input(0, network.get_input(0))
        exact = bench.run(bench.build() or b"", x=x)["y"]
        assert np.abs(rounded - exact).max() > 0.001
        on_grid = (np.clip(np.rint(x / np.float32(0.05)), -128, 127) * np.float32(0.05)).astype(np.float32)
        assert np.allclose(bench.run(bench.build() or b"", x=on_grid)["y"], rounded, atol=1e-4)

    @of("8.6.1")
    def test_an_output_can_be_given_another_type(self, bench: Bench) -> None:
        bench.read(GRAPHS["convolution"]())
        bench.network.get_output(0).dtype = bench.trt.DataType.HALF
        bench.allow("FP16")
        assert bench.run(bench.build() or b"", x=picture())["y"].dtype == np.float16


class TestCalibration:
    @of(*WEAK)
    def test_a_calibrator_is_asked_for_batches_and_given_the_cache(self, bench: Bench) -> None:
        calibrator = _calibrator(bench.trt, [picture(), 3 * picture()])
        bench.read(GRAPHS["convolution"]())
        exact = bench.run(bench.build() or b"", x=picture())["y"]
        bench.allow("INT8")
        bench.config.int8_calibrator = calibrator
        plan = bench.build()
        assert plan is not None
        lines = calibrator.cache.decode().splitlines()
        assert lines[0].endswith("-EntropyCalibration2")
        scale = np.frombuffer(bytes.fromhex(dict(line.split(": ") for line in lines[1:])["x"]), ">f4")[0]
        assert scale == pytest.approx(np.abs(3 * picture()).max() / 127)
        rounded = bench.run(plan, x=picture())["y"]
        assert 0 < np.abs(rounded - exact).max() < 20 * scale

    @of("10.3.0")
    def test_a_cache_spares_the_batches(self, bench: Bench) -> None:
        first = _calibrator(bench.trt, [picture()])
        bench.read(GRAPHS["convolution"]())
        bench.allow("INT8")
        bench.config.int8_calibrator = first
        assert bench.build() is not None
        second = _calibrator(bench.trt, [picture()], first.cache)
        bench.config.int8_calibrator = second
        assert bench.build() is not None
        assert len(second.batches) == 1


def _calibrator(trt: Any, batches: list[np.ndarray[Any, Any]], cache: bytes = b"") -> Any:
    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.batches, self.given, self.cache = list(batches), list[Any](), cache

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> list[int]:
            assert names == ["x"]
            if not self.batches:
                return []
            self.given.append(self.batches.pop())
            return [self.given[-1].ctypes.data]

        def read_calibration_cache(self) -> bytes | None:
            return self.cache or None

        def write_calibration_cache(self, content: Any) -> None:
            self.cache = bytes(content)

    return Calibrator()


class TestPlans:
    @of(*FULL)
    def test_a_plan_of_another_device_is_refused(self, bench: Bench) -> None:
        bench.read(GRAPHS["convolution"]())
        plan = bench.build() or b""
        bench.standin.world.sm = 86
        assert bench.load(plan) is None
        assert "expecting compute 8.6 got compute 8.7" in bench.said()

    @of("10.13.3.9")
    def test_a_plan_of_another_version_is_refused_unless_made_for_it(self, bench: Bench) -> None:
        with install("10.3.0", World(sm=87)) as older:
            maker = Bench(older)
            maker.read(GRAPHS["convolution"]())
            plain = maker.build() or b""
            maker.allow("VERSION_COMPATIBLE")
            compatible = maker.build() or b""
        assert bench.load(plain) is None
        assert "expecting library version 10.13.3.9 got 10.3.0" in bench.said()
        assert bench.load(compatible) is None
        assert bench.load(compatible, host_code=True) is not None

    @of("8.6.1", "11.4.0.106")
    def test_damaged_and_foreign_bytes_are_refused(self, bench: Bench) -> None:
        bench.read(GRAPHS["convolution"]())
        plan = bench.build() or b""
        for damaged in (b"", b"hello", plan[:-1], plan[:100], plan[:-5] + b"x" + plan[-4:]):
            assert bench.load(damaged) is None
        assert bench.load(plan) is not None

    @of(*FULL)
    def test_shapes_stay_within_their_profile(self, bench: Bench) -> None:
        bench.read(GRAPHS["open_batch"]())
        profile = bench.builder.create_optimization_profile()
        profile.set_shape("x", (1, 8, 16, 16), (2, 8, 16, 16), (4, 8, 16, 16))
        bench.config.add_optimization_profile(profile)
        plan = bench.build() or b""
        engine = bench.load(plan)
        assert tuple(engine.get_tensor_shape("x")) == (-1, 8, 16, 16)
        assert [shape[0] for shape in engine.get_tensor_profile_shape("x", 0)] == [1, 2, 4]
        context = engine.create_execution_context()
        assert not context.set_input_shape("x", (5, 8, 16, 16))
        assert not context.execute_async_v3(0)
        assert context.set_input_shape("x", (3, 8, 16, 16))
        assert tuple(context.get_tensor_shape("y")) == (3, 8, 16, 16)
        assert bench.run(plan, x=picture(3, 8, 16, 16))["y"].shape == (3, 8, 16, 16)

    @of("8.6.1", "10.16.1.11")
    def test_the_inspector_tells_as_much_as_was_asked_for(self, bench: Bench) -> None:
        bench.read(GRAPHS["convolution_in_int8"]())
        bench.allow("INT8")
        told = {}
        for name in ("NONE", "LAYER_NAMES_ONLY", "DETAILED"):
            bench.config.profiling_verbosity = getattr(bench.trt.ProfilingVerbosity, name)
            inspector = bench.load(bench.build() or b"").create_engine_inspector()
            told[name] = json.loads(inspector.get_engine_information(bench.trt.LayerInformationFormat.JSON))["Layers"]
        assert told["NONE"] == []
        assert told["LAYER_NAMES_ONLY"] == ["the_y"]
        assert told["DETAILED"][0]["Metadata"] == "[ONNX Layer: the_y]"
        assert "Int8" in told["DETAILED"][0]["Inputs"][0]["Format/Datatype"]

    @of("8.6.1", "10.3.0")
    def test_a_timing_cache_is_for_one_version_and_device(self, bench: Bench) -> None:
        cache = bench.config.create_timing_cache(b"")
        assert bench.config.set_timing_cache(cache, False)
        bench.read(GRAPHS["convolution"]())
        assert bench.build() is not None
        kept = bytes(bench.config.get_timing_cache().serialize())
        assert bench.config.set_timing_cache(bench.config.create_timing_cache(kept), False)
        bench.standin.world.sm = 86
        again = bench.config.create_timing_cache(kept)
        assert not bench.config.set_timing_cache(again, False)
        assert bench.config.set_timing_cache(again, True)
        assert bench.config.create_timing_cache(b"garbage") is None


class TestAccelerator:
    @of("8.6.1", "10.3.0")
    def test_it_takes_what_it_can_and_the_rest_falls_back_where_allowed(self, bench: Bench) -> None:
        bench.read(GRAPHS["best_of_some"]())
        bench.allow("FP16")
        bench.config.default_device_type = bench.trt.DeviceType.DLA
        bench.config.DLA_core = 0
        assert not bench.config.can_run_on_DLA(bench.network.get_layer(0))
        assert bench.build() is None
        assert "falling back to GPU is not enabled" in bench.said()
        bench.allow("GPU_FALLBACK")
        assert bench.build() is not None

    @of("10.3.0")
    def test_it_takes_no_typed_networks(self, bench: Bench) -> None:
        bench.read(GRAPHS["convolution"](), typed=True)
        bench.config.default_device_type = bench.trt.DeviceType.DLA
        assert bench.build() is None

    @of("10.3.0")
    def test_a_core_that_is_not_there_is_refused(self, bench: Bench) -> None:
        bench.standin.world.dla_cores = 0
        bench.config.DLA_core = 0
        assert bench.config.DLA_core == -1
        assert "does not exist" in bench.said()

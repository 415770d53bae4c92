"""The stand-in TensorRT on streams of the stand-in driver: later, in order, on the bound addresses, in graphs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgevision.cuda import Buffer, Device
from edgevision.errors import DeviceError
from tests.standins import cuda
from tests.standins.tensorrt import Standin, install, versions

_N = 64


class Doubler:
    """An engine that doubles numbers, with a stream and memory to run it on."""

    def __init__(self, standin: Standin, device: Device) -> None:
        trt = standin.module
        self.log: list[str] = []

        class Log(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self, lines: list[str]) -> None:
                trt.ILogger.__init__(self)
                self.lines = lines

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.Severity.ERROR:
                    self.lines.append(message)

        self.device, logger = device, Log(self.log)
        with device.current():
            builder = trt.Builder(logger)
            network = builder.create_network(1)
            assert trt.OnnxParser(network, logger).parse(_graph())
            plan = builder.build_serialized_network(network, builder.create_builder_config())
            self.engine = trt.Runtime(logger).deserialize_cuda_engine(bytes(plan))
            self.context = self.engine.create_execution_context()
        self.stream = device.stream()
        self.source, self.result = device.allocate(4 * _N), device.allocate(4 * _N)
        self.bind("x", self.source)
        self.bind("y", self.result)

    def bind(self, name: str, memory: Buffer) -> None:
        assert self.context.set_tensor_address(name, memory.address)

    def give(self, value: float) -> None:
        self.device.upload(self.source.address, np.full(_N, value, np.float32), self.stream)

    def enqueue(self) -> bool:
        with self.device.current():
            return bool(self.context.execute_async_v3(self.stream.handle))

    def answer(self) -> float:
        """The result, if all its numbers are the same."""
        found = np.empty(_N, np.float32)
        self.device.download(found, self.result.address, self.stream)
        self.stream.synchronize()
        assert len(set(found)) == 1
        return float(found[0])


def _graph() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [_N]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"], "add")], "double", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


@pytest.fixture(params=[v for v in versions() if not v.startswith("rtx")])
def standin(request: pytest.FixtureRequest) -> Iterator[Standin]:
    with install(request.param) as installed:
        yield installed


@pytest.fixture
def doubler(standin: Standin, device: Device) -> Iterator[Doubler]:
    made = Doubler(standin, device)
    yield made
    made.context = made.engine = None
    gc.collect()
    for handle in (made.source, made.result, made.stream):
        handle.close()


def test_an_enqueue_runs_when_the_stream_gets_there_on_what_lies_there_then(doubler: Doubler, standin: Standin) -> None:
    doubler.give(3)
    assert doubler.enqueue()
    doubler.give(5)
    assert doubler.enqueue()
    assert doubler.answer() == 10
    assert not standin.world.errors


def test_a_context_owns_device_memory_until_it_is_dropped(driver: cuda.Driver, doubler: Doubler) -> None:
    before = driver.count("live_allocations")
    with doubler.device.current():
        context = doubler.engine.create_execution_context()
    assert driver.count("live_allocations") == before + 1
    del context
    gc.collect()
    assert driver.count("live_allocations") == before


def test_no_memory_for_a_context_gives_none_and_a_reason(driver: cuda.Driver, doubler: Doubler) -> None:
    driver.fail("cuMemAlloc", code=cuda.OUT_OF_MEMORY)
    with doubler.device.current():
        assert doubler.engine.create_execution_context() is None
    assert "out of memory" in doubler.log[-1]


def test_a_captured_enqueue_replays_with_its_addresses(doubler: Doubler) -> None:
    doubler.give(1)
    assert doubler.enqueue()
    assert doubler.answer() == 2
    graph = doubler.device.capture(doubler.stream, lambda: _expect(doubler.enqueue()))
    for value in (4, 7):
        doubler.give(value)
        graph.launch(doubler.stream)
        assert doubler.answer() == 2 * value
    graph.close()


def test_a_capture_before_the_first_enqueue_is_broken(driver: cuda.Driver, doubler: Doubler) -> None:
    with pytest.raises(DeviceError):
        doubler.device.capture(doubler.stream, lambda: _expect(not doubler.enqueue()))
    assert "enqueue once" in doubler.log[-1]
    doubler.give(1)
    assert doubler.enqueue()
    assert doubler.answer() == 2
    driver.take_complaints()


def test_a_network_that_cannot_be_captured_breaks_the_capture(
    driver: cuda.Driver, doubler: Doubler, standin: Standin
) -> None:
    assert doubler.enqueue()
    standin.world.refuse_capture = True
    with pytest.raises(DeviceError):
        doubler.device.capture(doubler.stream, lambda: _expect(not doubler.enqueue()))
    assert doubler.enqueue()
    doubler.stream.synchronize()
    driver.take_complaints()


def test_memory_that_is_too_small_or_gone_fails_the_stream(
    driver: cuda.Driver, doubler: Doubler, standin: Standin
) -> None:
    small = doubler.device.allocate(4)
    doubler.bind("y", small)
    assert doubler.enqueue()
    with pytest.raises(DeviceError):
        doubler.stream.synchronize()
    assert "not inside a live allocation" in standin.world.errors[0]
    small.close()
    driver.take_complaints()


def test_an_unbound_tensor_refuses_the_enqueue(doubler: Doubler) -> None:
    with doubler.device.current():
        fresh = doubler.engine.create_execution_context()
        assert not fresh.execute_async_v3(doubler.stream.handle)
    assert "Address is not set for input tensor x" in doubler.log[-1]


def test_without_a_gpu_there_is_no_builder(standin: Standin) -> None:
    standin.world.no_gpu = True
    with pytest.raises(TypeError, match="factory function returned nullptr"):
        standin.module.Builder(standin.module.Logger(standin.module.Logger.INTERNAL_ERROR))


def test_a_plan_is_for_the_gpu_that_built_it(driver: cuda.Driver, doubler: Doubler, standin: Standin) -> None:
    plan = bytes(doubler.engine.serialize())
    standin.world.sm = 86
    with doubler.device.current():
        runtime = standin.module.Runtime(standin.module.Logger(standin.module.Logger.INTERNAL_ERROR))
        assert runtime.deserialize_cuda_engine(plan) is None


def _expect(outcome: bool) -> None:
    assert outcome

"""Execution contexts: shapes and addresses are set, and the network runs on a stream."""

from __future__ import annotations

import itertools
from typing import Any

from tests.standins.tensorrt import driver
from tests.standins.tensorrt.binding import Bound
from tests.standins.tensorrt.execution import Run

_numbers = itertools.count(1)


class IExecutionContext(Bound):
    """State: `shapes` of inputs, `addresses`, `runs` (what was enqueued, by addresses and shapes)."""

    __slots__ = ()

    def _fail(self, text: str, code: str = "INVALID_ARGUMENT") -> bool:
        self._trt.fail(self._s.logger, self._s.error_recorder, code, f"IExecutionContext::{text}")
        return False

    def _get_engine(self) -> Any:
        return self._s.engine

    def _get_active_optimization_profile(self) -> int:
        return int(self._s.profile_index)

    def _set_optimization_profile_async(self, index: int, stream: int) -> bool:
        if not 0 <= index < self._s.engine._s.plan.profiles:
            return self._fail(f"setOptimizationProfileAsync: profile {index} does not exist")
        self._s.profile_index = index
        return True

    def _set_input_shape(self, name: str, shape: Any) -> bool:
        found = self._s.engine._find(name)
        sides = tuple(int(side) for side in shape)
        if found is None or not found.is_input:
            return self._fail(f"setInputShape: {name} is no input")
        low, _, high = found.ranges[self._s.profile_index]
        fits = len(sides) == len(low) and all(a <= s <= b for a, s, b in zip(low, sides, high, strict=True))
        if not fits:
            return self._fail(
                f"setInputShape: Error Code 3: API Usage Error (Parameter check failed, condition: engineDims.d[i] == "
                f"dims.d[i]. Static or profile dimension mismatch: {name} takes {low} to {high}, got {sides})"
            )
        self._s.shapes[name] = sides
        return True

    def _shapes(self) -> dict[str, tuple[int, ...]] | None:
        """Every tensor's shape, or None while an input's is open."""
        if any(-1 in shape for shape in self._s.shapes.values()):
            return None
        return self._s.engine._s.program.shapes(self._s.shapes)

    def _get_tensor_shape(self, name: str) -> Any:
        found = self._s.engine._find(name)
        if found is None:
            return self._trt.make_dims(())
        known = self._shapes() or {}
        return self._trt.make_dims(known.get(name, self._s.shapes.get(name, found.shape)))

    def _get_tensor_strides(self, name: str) -> Any:
        sides = list(self._get_tensor_shape(name))
        strides = [1] * len(sides)
        for index in reversed(range(len(sides) - 1)):
            strides[index] = strides[index + 1] * sides[index + 1]
        return self._trt.make_dims(strides)

    def _get_all_binding_shapes_specified(self) -> bool:
        return self._shapes() is not None

    def _get_all_shape_inputs_specified(self) -> bool:
        return True

    def _infer_shapes(self) -> list[str]:
        missing = [name for name, shape in self._s.shapes.items() if -1 in shape]
        return missing + [t.name for t in self._inputs() if not self._s.addresses.get(t.name)][:0]

    def _inputs(self) -> list[Any]:
        return [t for t in self._s.engine._s.plan.tensors if t.is_input]

    def _set_tensor_address(self, name: str, address: int) -> bool:
        if self._s.engine._find(name) is None:
            return False
        if address % 4:
            return self._fail(f"setTensorAddress: the address of {name} is not aligned: {address:#x}")
        self._s.addresses[name] = address
        return True

    def _get_tensor_address(self, name: str) -> int:
        return int(self._s.addresses.get(name, 0))

    def _set_output_allocator(self, name: str, allocator: Any) -> bool:
        self._s.allocators[name] = allocator
        return True

    def _get_output_allocator(self, name: str) -> Any:
        return self._s.allocators.get(name)

    def _get_max_output_size(self, name: str) -> int:
        return int(self._s.engine._s.program.max_bytes(name))

    def _set_input_consumed_event(self, event: int) -> bool:
        self._s.consumed_event = event
        return True

    def _get_input_consumed_event(self) -> int:
        return int(self._s.consumed_event)

    def _set_aux_streams(self, streams: list[int]) -> None:
        self._s.aux_streams = streams

    def _set_device_memory(self, address: int, size: int) -> None:
        self._s.device_memory = address

    def _update_device_memory_size_for_shapes(self) -> int:
        return int(self._s.engine._s.plan.memory_bytes)

    def _report_to_profiler(self) -> bool:
        return True

    def _execute_v2(self, bindings: list[int]) -> bool:
        for tensor, address in zip(self._s.engine._s.plan.tensors, bindings, strict=True):
            self._s.addresses[tensor.name] = address
        return self._execute_async_v3(0)

    def _execute_async_v3(self, stream: int) -> bool:
        world = self._trt.world
        shapes = self._shapes()
        if shapes is None:
            open_ = [name for name, shape in self._s.shapes.items() if -1 in shape]
            return self._fail(f"enqueueV3: Error Code 3: API Usage Error (shapes of the inputs {open_} are not set)")
        for tensor in self._s.engine._s.plan.tensors:
            if not self._s.addresses.get(tensor.name):
                side = "input" if tensor.is_input else "output"
                return self._fail(
                    f"enqueueV3: Error Code 3: API Usage Error (Address is not set for {side} tensor {tensor.name}. "
                    f"Call set{side.title()}TensorAddress or setTensorAddress before enqueue/execute.)"
                )
        if world.fail_enqueues > 0:
            world.fail_enqueues -= 1
            return self._fail("enqueueV3: Error Code 1: Cuda Runtime (an illegal memory access)", "FAILED_EXECUTION")
        key = (tuple(self._s.addresses.items()), tuple(shapes.items()), bool(stream))
        try:
            captured = driver.capturing(stream)
        except driver.DriverError as error:
            return self._fail(f"enqueueV3: Error Code 1: Cuda Runtime ({error})", "FAILED_EXECUTION")
        if captured and (world.refuse_capture or tuple(shapes.items()) not in self._s.warm):
            driver.break_capture(stream)
            why = "a layer synchronises" if world.refuse_capture else "enqueue once with these shapes before a capture"
            text = f"enqueueV3: Error Code 1: Cuda Runtime (operation not permitted when stream is capturing: {why})"
            return self._fail(text, "FAILED_EXECUTION")
        if key not in self._s.runs:
            self._s.runs[key] = next(_numbers)
            program, addresses = self._s.engine._s.program, dict(self._s.addresses)
            run = Run(program, addresses, shapes, world.errors, on_device=bool(stream))
            driver.register(self._s.runs[key], run)
        try:
            driver.launch(stream, self._s.runs[key])
        except driver.DriverError as error:
            return self._fail(f"enqueueV3: Error Code 1: Cuda Runtime ({error})", "FAILED_EXECUTION")
        self._s.warm.add(tuple(shapes.items()))
        return True

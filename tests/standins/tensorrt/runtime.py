"""Runtime, engine and inspector: plans are read and told about."""

from __future__ import annotations

import json
import weakref
from types import SimpleNamespace
from typing import Any

from tests.standins.tensorrt import driver
from tests.standins.tensorrt.binding import Bound
from tests.standins.tensorrt.builder import needs_gpu
from tests.standins.tensorrt.execution import Program
from tests.standins.tensorrt.layers import inspect
from tests.standins.tensorrt.plan import read


class Runtime(Bound):
    """State: `logger`, `error_recorder`."""

    __slots__ = ()

    def _construct(self, *arguments: Any) -> None:
        needs_gpu(self._trt, arguments[0])
        self._s = SimpleNamespace(
            logger=arguments[0],
            error_recorder=None,
            gpu_allocator=None,
            engine_host_code_allowed=False,
            DLA_core=-1,
            max_threads=1,
            temporary_directory="/tmp",
            tempfile_control_flags=3,
        )

    def _get_num_DLA_cores(self) -> int:  # noqa: N802
        return 0 if self._trt.rtx else self._trt.world.dla_cores

    def _deserialize_cuda_engine(self, plan: memoryview) -> Any:
        return self._load(bytes(plan))

    def _load(self, data: bytes) -> Any:
        trt = self._trt
        if trt.world.no_gpu:
            text = "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (no CUDA-capable device is detected)"
            trt.fail(self._s.logger, self._s.error_recorder, "FAILED_INITIALIZATION", text)
            return None
        found = read(
            data,
            version=trt.version,
            sm=trt.sm,
            rtx=trt.rtx,
            host_code_allowed=self._s.engine_host_code_allowed,
        )
        if isinstance(found, str):
            trt.fail(self._s.logger, self._s.error_recorder, "INTERNAL_ERROR", found)
            return None
        return trt.make(
            "ICudaEngine",
            plan=found,
            data=data,
            program=Program(found),
            logger=self._s.logger,
            error_recorder=self._s.error_recorder,
        )


class ICudaEngine(Bound):
    """State: `plan`, `program`, `logger`, `error_recorder`."""

    __slots__ = ()

    def _find(self, name: str) -> Any:
        found = next((t for t in self._s.plan.tensors if t.name == name), None)
        if found is None:
            text = f"ICudaEngine: Error Code 3: Internal Error (Given invalid tensor name: {name}.)"
            self._trt.fail(self._s.logger, self._s.error_recorder, "INVALID_ARGUMENT", text)
        return found

    def _get_num_io_tensors(self) -> int:
        return len(self._s.plan.tensors)

    def _get_num_layers(self) -> int:
        return len(self._s.plan.layers)

    def _get_num_optimization_profiles(self) -> int:
        return int(self._s.plan.profiles)

    def _get_name(self) -> str:
        return "Unnamed Network 0"

    def _get_refittable(self) -> bool:
        return False

    def _get_has_implicit_batch_dimension(self) -> bool:
        return False

    def _get_num_aux_streams(self) -> int:
        return 0

    def _get_device_memory_size(self) -> int:
        return int(self._s.plan.memory_bytes)

    _get_device_memory_size_v2 = _get_device_memory_size

    def _get_device_memory_size_for_profile(self, index: int) -> int:
        return int(self._s.plan.memory_bytes)

    _get_device_memory_size_for_profile_v2 = _get_device_memory_size_for_profile

    def _get_streamable_weights_size(self) -> int:
        return 0

    def _get_profiling_verbosity(self) -> Any:
        return self._trt.member("ProfilingVerbosity", self._s.plan.verbosity)

    def _get_engine_capability(self) -> Any:
        return self._trt.member("EngineCapability", "STANDARD")

    def _get_hardware_compatibility_level(self) -> Any:
        name = "AMPERE_PLUS" if self._s.plan.ampere_plus else "NONE"
        return self._trt.member("HardwareCompatibilityLevel", name)

    def _get_tensor_name(self, index: int) -> str:
        return str(self._s.plan.tensors[index].name)

    _getitem = _get_tensor_name

    def _get_tensor_mode(self, name: str) -> Any:
        found = self._find(name)
        kind = "NONE" if found is None else "INPUT" if found.is_input else "OUTPUT"
        return self._trt.member("TensorIOMode", kind)

    def _get_tensor_dtype(self, name: str) -> Any:
        found = self._find(name)
        return self._trt.member("DataType", found.dtype if found else "FLOAT")

    def _get_tensor_shape(self, name: str) -> Any:
        found = self._find(name)
        return self._trt.make_dims(found.shape if found else ())

    def _get_tensor_format(self, name: str, profile: int = 0) -> Any:
        return self._trt.member("TensorFormat", "LINEAR")

    def _get_tensor_format_desc(self, name: str, profile: int = 0) -> str:
        return f"Row major linear {self._get_tensor_dtype(name).name} format"

    def _get_tensor_location(self, name: str) -> Any:
        return self._trt.member("TensorLocation", "DEVICE")

    def _get_tensor_bytes_per_component(self, name: str, profile: int = 0) -> int:
        return int(self._trt._nptype(self._get_tensor_dtype(name))().itemsize)

    def _get_tensor_components_per_element(self, name: str, profile: int = 0) -> int:
        return 1

    def _get_tensor_vectorized_dim(self, name: str, profile: int = 0) -> int:
        return -1

    def _is_shape_inference_io(self, name: str) -> bool:
        return False

    def _get_tensor_profile_shape(self, name: str, profile: int) -> list[Any]:
        found = self._find(name)
        if found is None or not found.is_input or not 0 <= profile < len(found.ranges):
            return []
        return [self._trt.make_dims(shape) for shape in found.ranges[profile]]

    def _serialize(self) -> Any:
        return self._trt.make("IHostMemory", data=self._s.data)

    def _create_engine_inspector(self) -> Any:
        return self._trt.make("EngineInspector", engine=self, error_recorder=None, execution_context=None)

    def _create_runtime_config(self) -> Any:
        strategy = self._trt.member("ExecutionContextAllocationStrategy", "STATIC")
        return self._trt.make("IRuntimeConfig", strategy=strategy)

    def _create_execution_context(self, strategy: Any = None) -> Any:
        return self._context(user_memory=getattr(strategy, "name", "STATIC") == "USER_MANAGED")

    def _create_execution_context_without_device_memory(self) -> Any:
        return self._context(user_memory=True)

    def _context(self, *, user_memory: bool) -> Any:
        trt, plan = self._trt, self._s.plan
        address = 0
        if not user_memory:
            try:
                address = driver.allocate(plan.memory_bytes)
            except driver.DriverError as error:
                text = (
                    "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory). Requested "
                    f"{plan.memory_bytes} bytes: {error}"
                )
                trt.fail(self._s.logger, self._s.error_recorder, "FAILED_ALLOCATION", text)
                return None
        shapes = {t.name: t.shape for t in plan.tensors if t.is_input}
        context = trt.make(
            "IExecutionContext",
            engine=self,
            shapes=shapes,
            addresses={},
            profile=0,
            profile_index=0,
            runs={},
            warm=set(),
            allocators={},
            logger=self._s.logger,
            error_recorder=self._s.error_recorder,
            name="",
            profiler=None,
            debug_sync=False,
            enqueue_emits_profile=True,
            nvtx_verbosity=self._get_profiling_verbosity(),
            persistent_cache_limit=0,
            temporary_allocator=None,
            device_memory=address,
            consumed_event=0,
            aux_streams=[],
        )
        weakref.finalize(context, _release, address, context._s.runs)
        return context


def _release(address: int, runs: dict[Any, int]) -> None:
    for number in runs.values():
        driver.forget(number)
    driver.free(address)


class IRuntimeConfig(Bound):
    """State: `strategy`."""

    __slots__ = ()

    def _set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._s.strategy = strategy

    def _get_execution_context_allocation_strategy(self) -> Any:
        return self._s.strategy


class EngineInspector(Bound):
    """State: `engine`."""

    __slots__ = ()

    def _get_engine_information(self, form: Any) -> str:
        plan = self._s.engine._s.plan
        shown = [inspect(layer, plan.verbosity) for layer in plan.layers]
        if form.name == "ONELINE":
            return "\n".join(json.dumps(entry) for entry in shown)
        return json.dumps({"Layers": shown, "Bindings": [tensor.name for tensor in plan.tensors]})

    def _get_layer_information(self, index: int, form: Any) -> str:
        plan = self._s.engine._s.plan
        return json.dumps(inspect(plan.layers[index], plan.verbosity))

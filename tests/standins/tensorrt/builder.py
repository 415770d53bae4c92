"""Builder: checks a network and its configuration, and writes a plan."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import onnx

from tests.standins.tensorrt import calibration, config, layers
from tests.standins.tensorrt.binding import Bound
from tests.standins.tensorrt.plan import Plan, Tensor

_WORKSPACE_NEEDED = 1 << 16
_API = "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error"
_MAX_K = 3840


class BuildError(Exception):
    """Why a build ends without a plan: a name of ErrorCodeTRT and what is logged."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class CancelledError(Exception):
    """The progress monitor said no."""


def needs_gpu(trt: Any, logger: Any) -> None:
    """Fail as the constructors do where there is no GPU; TensorRT-RTX's need none."""
    if trt.world.no_gpu and not trt.rtx:
        trt.log(logger, "ERROR", "CUDA initialization failure with error: 100. Please check your CUDA installation")
        raise TypeError("pybind11::init(): factory function returned nullptr")


class Builder(Bound):
    """State: `logger`, `error_recorder`."""

    __slots__ = ()

    def _construct(self, *arguments: Any) -> None:
        needs_gpu(self._trt, arguments[0])
        self._s = SimpleNamespace(
            logger=arguments[0], error_recorder=None, gpu_allocator=None, max_threads=1, max_batch_size=1
        )

    def _get_num_DLA_cores(self) -> int:  # noqa: N802
        return 0 if self._trt.rtx else self._trt.world.dla_cores

    def _get_max_DLA_batch_size(self) -> int:  # noqa: N802
        return 4096 if self._trt.world.dla_cores else 0

    def _get_platform_has_fast_fp16(self) -> bool:
        return True

    _get_platform_has_fast_int8 = _get_platform_has_tf32 = _get_platform_has_fast_fp16

    def _create_network(self, flags: int) -> Any:
        trt = self._trt
        known = trt.enums["NetworkDefinitionCreationFlag"].__members__
        batch, strong = known.get("EXPLICIT_BATCH"), known.get("STRONGLY_TYPED")
        typed = strong is not None and (bool(flags >> int(strong) & 1) or trt.number[0] >= 11 or trt.rtx)
        if (typed and trt.number[0] >= 11) or trt.rtx:
            flags |= 1 << int(strong)  # type: ignore[arg-type]
        return trt.make(
            "INetworkDefinition",
            builder=self,
            logger=self._s.logger,
            error_recorder=None,
            flags=flags,
            strong=typed,
            implicit_batch=trt.number[0] < 10 and batch is not None and not flags >> int(batch) & 1,
            name="Unnamed Network 0",
            layers=[],
            inputs=[],
            outputs=[],
            tensors={},
            constants={},
            model=onnx.helper.make_model(onnx.helper.make_graph([], "network", [], []), ir_version=8),
        )

    def _create_builder_config(self) -> Any:
        state = config.fresh(self._trt)
        return self._trt.make("IBuilderConfig", builder=self, **vars(state))

    def _create_optimization_profile(self) -> Any:
        return self._trt.make("IOptimizationProfile", shapes={}, extra_memory_target=1.0, profile_stream=0)

    def _is_network_supported(self, network: Any, options: Any) -> bool:
        try:
            self._validate(network, options)
        except BuildError as failure:
            self._trt.fail(self._s.logger, self._s.error_recorder, failure.code, str(failure))
            return False
        return True

    def _reset(self) -> None:
        self._s.error_recorder = None

    def _build_serialized_network(self, network: Any, options: Any) -> Any:
        trt = self._trt
        trt.world.builds.append(network._s.name)
        try:
            plan = self._build(network, options)
        except BuildError as failure:
            trt.fail(self._s.logger, self._s.error_recorder, failure.code, str(failure))
            return None
        except CancelledError:
            trt.log(self._s.logger, "WARNING", "Build canceled by user")
            return None
        return trt.make("IHostMemory", data=plan.serialise(rtx=trt.rtx))

    def _build_engine(self, network: Any, options: Any) -> Any:
        plan = self._build_serialized_network(network, options)
        return None if plan is None else self._trt.classes["Runtime"](self._s.logger)._load(bytes(plan))

    _build_engine_with_config = _build_engine

    def _build(self, network: Any, options: Any) -> Plan:
        trt, world = self._trt, self._trt.world
        self._validate(network, options)
        if options._s.int8_calibrator is not None and options._has("INT8") and not layers.quantisers(network):
            calibration.calibrate(trt, self._s.logger, network, options)
        found = layers.describe(network, options)
        self._run_phases(options, found)
        if world.build_error is not None:
            raise BuildError("INTERNAL_ERROR", world.build_error)
        self._find_kernels(found)
        if options._s.timing_cache is not None and not trt.rtx:
            options._s.timing_cache._s.entries |= {f"{layer['LayerType']} {layer['Precision']}" for layer in found}
        verbosity = options._s.profiling_verbosity.name
        layers.log(trt, self._s.logger, found, verbosity)
        model = network._to_model(layers.implicit_grids(network, options))
        level = options._s.hardware_compatibility_level.name
        sm = 0 if trt.rtx and not options._s.targets else trt.sm
        if options._s.targets:
            sm = int(options._s.targets[0])
        return Plan(
            model=model.SerializeToString(),
            tensors=self._tensors(network, options),
            layers=found if verbosity != "NONE" else [],
            profiles=max(1, len(options._s.profiles)),
            memory_bytes=self._memory(network, options),
            verbosity=verbosity,
            version=trt.version,
            sm=sm,
            version_compatible=options._has("VERSION_COMPATIBLE"),
            ampere_plus=level == "AMPERE_PLUS",
        )

    def _validate(self, network: Any, options: Any) -> None:
        if not network._s.outputs:
            raise BuildError("INTERNAL_ERROR", f"{_API} (Network must have at least one output)")
        if not network._s.inputs:
            raise BuildError("INTERNAL_ERROR", f"{_API} (Network must have at least one input)")
        if any(target.name == "NONE" for target in options._s.targets):
            raise BuildError("INVALID_CONFIG", "Unexpected exception bad optional access")
        self._check_precisions(network, options)
        self._check_devices(network, options)
        self._check_profiles(network, options)
        for layer in network._s.layers:
            self._check_layer(layer)
        if options._s.pools["WORKSPACE"] < _WORKSPACE_NEEDED:
            short = options._s.pools["WORKSPACE"]
            raise BuildError(
                "INVALID_CONFIG",
                "[optimizer.cpp::computeCosts::4086] Error Code 10: Internal Error (Could not find any implementation "
                f"for node {network._s.layers[0]._s.name} due to insufficient workspace: {short} bytes.)",
            )

    def _check_precisions(self, network: Any, options: Any) -> None:
        half = any(t._s.dtype.name == "HALF" for t in network._s.tensors.values())
        if network._s.strong:
            for flag in ("FP16", "INT8", "BF16", "FP8", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"):
                if options._has(flag):
                    text = f"BuilderFlag k{flag} is not allowed for strongly typed networks"
                    raise BuildError("INVALID_CONFIG", f"{_API} ({text})")
            if any(layer._s.precision is not None or layer._s.output_types for layer in network._s.layers):
                text = "layer precisions and output types cannot be set in strongly typed networks"
                raise BuildError("INVALID_CONFIG", f"{_API} ({text})")
            return
        text = "precision has been set for a layer or layer output, but {} is not configured in the builder"
        if half and not options._has("FP16"):
            raise BuildError("INVALID_CONFIG", f"{_API} (Half {text.format('fp16')})")
        if layers.quantisers(network) and not options._has("INT8"):
            raise BuildError("INVALID_CONFIG", f"{_API} (Int8 {text.format('int8')})")
        ranged = any(t._s.dynamic_range for t in network._s.tensors.values())
        if options._has("INT8") and not (layers.quantisers(network) or options._s.int8_calibrator or ranged):
            self._trt.log(
                self._s.logger,
                "WARNING",
                "Calibrator is not being used. Users must provide dynamic range for all tensors that are not Int32 "
                "or Bool.",
            )

    def _check_devices(self, network: Any, options: Any) -> None:
        if options._s.default_device_type.name != "DLA" and not options._s.devices:
            return
        if self._trt.rtx:
            return
        if network._s.strong:
            raise BuildError("INVALID_CONFIG", f"{_API} (DLA does not support strongly typed networks)")
        if options._s.DLA_core < 0:
            options._s.DLA_core = 0
        for layer in network._s.layers:
            wanted = options._get_device_type(layer).name == "DLA" and layer._s.kind != "CONSTANT"
            if wanted and not options._can_run_on_DLA(layer) and not options._has("GPU_FALLBACK"):
                raise BuildError(
                    "INVALID_CONFIG",
                    f"{_API} (Default DLA is enabled but layer {layer._s.name} is not supported on DLA and "
                    "falling back to GPU is not enabled.)",
                )

    def _check_profiles(self, network: Any, options: Any) -> None:
        dynamic = [t for t in network._s.inputs if -1 in t._s.shape]
        if dynamic and not options._s.profiles:
            text = "Network has dynamic or shape inputs, but no optimization profile has been defined."
            raise BuildError("INVALID_CONFIG", f"{_API} ({text})")
        names = {t._s.name for t in network._s.inputs}
        for index, profile in enumerate(options._s.profiles):
            for name in profile._s.shapes:
                if name not in names:
                    text = f"Optimization profile {index} names {name}, which is no input of the network."
                    raise BuildError("INVALID_CONFIG", f"{_API} ({text})")
            for tensor in network._s.inputs:
                self._check_range(index, tensor, profile._s.shapes.get(tensor._s.name))

    def _check_range(self, index: int, tensor: Any, ranges: Any) -> None:
        sides, name = tensor._s.shape, tensor._s.name
        if ranges is None:
            if -1 in sides:
                text = f"Optimization profile {index} is missing a shape for the dynamic input {name}."
                raise BuildError("INVALID_CONFIG", f"{_API} ({text})")
            return
        ordered = all(a <= b <= c for a, b, c in zip(*ranges, strict=False))
        fits = all(len(shape) == len(sides) for shape in ranges) and all(
            side in (-1, given) for shape in ranges for side, given in zip(sides, shape, strict=True)
        )
        if not ordered or not fits or any(side < 0 for shape in ranges for side in shape):
            text = (
                f"Error in optimization profile {index} for input {name}: kMIN <= kOPT <= kMAX must hold and all must "
                f"match the network's dimensions {sides}; got {ranges}."
            )
            raise BuildError("INVALID_CONFIG", f"{_API} ({text})")

    def _check_layer(self, layer: Any) -> None:
        name, kind = layer._s.name, layer._s.kind
        if kind == "NMS" and self._trt.rtx:
            raise BuildError(
                "INTERNAL_ERROR",
                "[tacticSupply.cpp::getSupportedFormats::48] Error Code 2: Internal Error (Assertion "
                f"!layerImpls.empty() failed. {name} has no runners that implement it)",
            )
        if kind == "TOPK" and layer._s.node.op_type == "TopK" and layer._s.outputs[0]._s.shape:
            axis = next((a.i for a in layer._s.node.attribute if a.name == "axis"), -1)
            if layer._s.outputs[0]._s.shape[axis] > _MAX_K:
                text = f"ITopKLayer {name}: {name}: K exceeds the maximum value allowed ({_MAX_K})."
                raise BuildError("INVALID_CONFIG", f"{_API} ({text})")

    def _run_phases(self, options: Any, found: list[dict[str, Any]]) -> None:
        """Tell the progress monitor, as nested phases of which some are known step by step."""
        monitor, world = options._s.progress_monitor, self._trt.world
        phases = (("Building Engine", None, 3), ("Tactic selection", "Building Engine", max(1, len(found))))
        for name, parent, steps in phases:
            if monitor is not None:
                monitor.phase_start(name, parent, steps)
        cancelled = False
        for name, _, steps in reversed(phases):
            for step in range(steps):
                if world.on_step is not None:
                    world.on_step(name, step)
                if monitor is not None and not cancelled:
                    cancelled = monitor.step_complete(name, step) is False
            if monitor is not None:
                monitor.phase_finish(name)
        if cancelled:
            raise CancelledError

    def _find_kernels(self, found: list[dict[str, Any]]) -> None:
        world = self._trt.world
        for layer in found:
            missing = set(world.no_kernel)
            missing |= world.no_int8 if layer["Precision"] == "Int8" else set()
            missing |= world.no_half if layer["Precision"] == "Half" else set()
            if missing & set(layer["Nodes"]):
                raise BuildError(
                    "INTERNAL_ERROR",
                    "[optimizer.cpp::computeCosts::4086] Error Code 10: Internal Error (Could not find any "
                    f"implementation for node {layer['Name']}.)",
                )

    def _tensors(self, network: Any, options: Any) -> list[Tensor]:
        described = []
        for tensor in (*network._s.inputs, *network._s.outputs):
            is_input = tensor in network._s.inputs
            shape = tuple(tensor._s.shape)
            profiles = [p._s.shapes.get(tensor._s.name, (shape,) * 3) for p in options._s.profiles] or [(shape,) * 3]
            ranges = [list(entry) for entry in profiles] if is_input else []
            described.append(Tensor(tensor._s.name, tensor._s.dtype.name, shape, is_input, ranges))
        return described

    def _memory(self, network: Any, options: Any) -> int:
        """Of one context: room for the two largest tensors at the largest shape."""
        batch = max([s[2][0] for p in options._s.profiles for s in p._s.shapes.values() if s[2]], default=1)
        sizes = [4 * math.prod(batch if s < 0 else s for s in t._s.shape) for t in network._s.tensors.values()]
        return max(512, sum(sorted(sizes)[-2:]))

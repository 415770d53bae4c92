"""IBuilderConfig: options are only kept here; most mistakes show when the network is built."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.standins.tensorrt.binding import Bound

# Layers that a DLA core can run (in INT8 or FP16).
DLA_LAYERS = {
    "CONVOLUTION", "DECONVOLUTION", "POOLING", "ACTIVATION", "ELEMENTWISE", "SCALE", "CONCATENATION", "RESIZE",
    "SOFTMAX", "SLICE", "SHUFFLE", "LRN", "PARAMETRIC_RELU", "REDUCE", "UNARY", "QUANTIZE", "DEQUANTIZE",
}  # fmt: skip

RTX_TARGETS = (75, 80, 86, 89, 120, 121)


def fresh(trt: Any) -> SimpleNamespace:
    """The state of a new configuration: TensorRT's defaults."""
    state = SimpleNamespace(
        flags=0,
        profiles=[],
        pools={"WORKSPACE": trt.world.memory_bytes},
        timing_cache=None,
        devices={},
        quantization_flags=0,
        int8_calibrator=None,
        calibration_profile=None,
        progress_monitor=None,
        profiling_verbosity=trt.member("ProfilingVerbosity", "LAYER_NAMES_ONLY"),
        builder_optimization_level=3,
        max_aux_streams=-1,
        hardware_compatibility_level=trt.member("HardwareCompatibilityLevel", "NONE"),
        default_device_type=trt.member("DeviceType", "GPU"),
        DLA_core=-1,
        engine_capability=trt.member("EngineCapability", "STANDARD"),
        avg_timing_iterations=1,
        profile_stream=0,
        plugins_to_serialize=[],
        tactic_sources=3 if trt.number[0] >= 11 else 24,
        preview={},
        targets=[],
        algorithm_selector=None,
        remote_auto_tuning_config="",
        max_workspace_size=trt.world.memory_bytes,
        min_timing_iterations=1,
        l2_limit_for_tiling=0,
        max_num_tactics=-1,
    )
    if "TilingOptimizationLevel" in trt.enums:
        state.tiling_optimization_level = trt.member("TilingOptimizationLevel", "NONE")
    if "RuntimePlatform" in trt.enums:
        state.runtime_platform = trt.member("RuntimePlatform", "SAME_AS_BUILD")
    if hasattr(trt.enums["BuilderFlag"], "TF32"):
        state.flags = 1 << int(trt.member("BuilderFlag", "TF32"))
    return state


class IBuilderConfig(Bound):
    """State: see `fresh`; and `builder`."""

    __slots__ = ()

    def _fail(self, code: str, text: str) -> None:
        self._trt.fail(self._s.builder._s.logger, self._s.builder._s.error_recorder, code, text)

    def _has(self, name: str) -> bool:
        flag = getattr(self._trt.enums["BuilderFlag"], name, None)
        return flag is not None and bool(self._s.flags >> int(flag) & 1)

    def _set_flag(self, flag: Any) -> None:
        self._s.flags |= 1 << int(flag)

    def _clear_flag(self, flag: Any) -> None:
        self._s.flags &= ~(1 << int(flag))

    def _get_flag(self, flag: Any) -> bool:
        return bool(self._s.flags >> int(flag) & 1)

    def _set_quantization_flag(self, flag: Any) -> None:
        self._s.quantization_flags |= 1 << int(flag)

    def _get_quantization_flag(self, flag: Any) -> bool:
        return bool(self._s.quantization_flags >> int(flag) & 1)

    def _set_memory_pool_limit(self, pool: Any, size: int) -> None:
        if size < 0:
            self._fail("INVALID_ARGUMENT", f"IBuilderConfig::setMemoryPoolLimit: negative size {size}")
        else:
            self._s.pools[pool.name] = size

    def _get_memory_pool_limit(self, pool: Any) -> int:
        return int(self._s.pools.get(pool.name, 0))

    def _add_optimization_profile(self, profile: Any) -> int:
        self._s.profiles.append(profile)
        return len(self._s.profiles) - 1

    def _get_num_optimization_profiles(self) -> int:
        return len(self._s.profiles)

    def _set_calibration_profile(self, profile: Any) -> bool:
        self._s.calibration_profile = profile
        return True

    def _get_calibration_profile(self) -> Any:
        return self._s.calibration_profile

    def _create_timing_cache(self, data: memoryview) -> Any:
        trt = self._trt
        if trt.rtx:
            trt.log(self._s.builder._s.logger, "WARNING", "Timing cache APIs are no-ops in TensorRT-RTX")
        text = bytes(data)
        if not text:
            return trt.make("ITimingCache", entries=set(), head="")
        head, _, body = text.partition(b"\n")
        words = head.split()
        if len(words) != 3 or words[0] != b"vtrtcache":
            self._fail("INVALID_ARGUMENT", "ITimingCache: Error Code 1: Serialization (the timing cache is corrupted)")
            return None
        return trt.make("ITimingCache", entries=set(body.decode().split("\n")) - {""}, head=head.decode())

    def _set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        here = f"vtrtcache {self._trt.version} {self._trt.sm}"
        if cache._s.head and cache._s.head != here and not ignore_mismatch:
            self._fail(
                "INVALID_STATE", "IBuilderConfig::setTimingCache: the cache was made by another device or version"
            )
            return False
        self._s.timing_cache = cache
        return True

    def _get_timing_cache(self) -> Any:
        return self._s.timing_cache

    def _set_tactic_sources(self, sources: int) -> bool:
        self._s.tactic_sources = sources
        return True

    def _get_tactic_sources(self) -> int:
        return int(self._s.tactic_sources)

    def _set_preview_feature(self, feature: Any, enable: bool) -> None:
        self._s.preview[feature.name] = enable

    def _get_preview_feature(self, feature: Any) -> bool:
        return bool(self._s.preview.get(feature.name, False))

    def _set_DLA_core(self, core: int) -> None:  # noqa: N802
        cores = self._s.builder.num_DLA_cores
        if core < cores:
            self._s.DLA_core = core
        elif not self._trt.rtx:
            self._fail("INVALID_ARGUMENT", f"IBuilderConfig::setDLACore: core {core} of {cores} does not exist")

    def _can_run_on_DLA(self, layer: Any) -> bool:  # noqa: N802
        low = self._has("FP16") or self._has("INT8") or not hasattr(self._trt.enums["BuilderFlag"], "FP16")
        return self._s.builder.num_DLA_cores > 0 and low and layer._s.kind in DLA_LAYERS

    def _set_device_type(self, layer: Any, device: Any) -> None:
        self._s.devices[layer] = device

    def _get_device_type(self, layer: Any) -> Any:
        return self._s.devices.get(layer, self._s.default_device_type)

    def _is_device_type_set(self, layer: Any) -> bool:
        return layer in self._s.devices

    def _reset_device_type(self, layer: Any) -> None:
        self._s.devices.pop(layer, None)

    def _get_num_compute_capabilities(self) -> int:
        return len(self._s.targets)

    def _set_num_compute_capabilities(self, count: int) -> None:
        none = self._trt.member("ComputeCapability", "NONE")
        self._s.targets = (self._s.targets + [none] * count)[:count]

    def _set_compute_capability(self, target: Any, index: int) -> bool:
        if int(target) not in RTX_TARGETS:
            why = "cannot be kNONE" if target.name == "NONE" else "is invalid or not supported"
            text = f"IBuilderConfig::setComputeCapability: Error Code 3: API Usage Error (Compute capability {why}.)"
            self._fail("INVALID_ARGUMENT", text)
            return False
        self._s.targets[index] = target
        return True

    def _get_compute_capability(self, index: int) -> Any:
        return self._s.targets[index]

    def _reset(self) -> None:
        builder = self._s.builder
        self._s = fresh(self._trt)
        self._s.builder = builder

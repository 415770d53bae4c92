"""A builder's configuration, from the options of a build. What this TensorRT or this machine lacks is refused."""

from __future__ import annotations

from pathlib import Path

from edgevision.backends.build_options import BuildOptions
from edgevision.backends.network import Network
from edgevision.backends.tensorrt_api import Api
from edgevision.backends.tensorrt_types import Builder, IBuilderConfig
from edgevision.errors import BuildError, UsageError
from edgevision.files import atomic_path

TARGETS = (75, 80, 86, 89, 120, 121)
"""Compute capabilities (SM) that TensorRT-RTX builds for: Turing, Ampere, Ada and Blackwell cards."""
_BOARDS = {87: "Jetson Orin", 110: "Jetson Thor", 72: "Jetson Xavier"}
_SHOWN = 5


def check_target(api: Api, target: int | None) -> None:
    """Raise UsageError where a plan cannot be built for `target`."""
    if target is None:
        return
    if api.flavour != "tensorrt-rtx":
        raise UsageError(
            f"{api.title} builds for the GPU it runs on; leave out --target, or use --backend tensorrt-rtx"
        )
    if target not in TARGETS:
        board = f": that is {_BOARDS[target]}, build on the board with its own TensorRT" if target in _BOARDS else ""
        raise UsageError(f"TensorRT-RTX builds for SM {', '.join(map(str, TARGETS))}; got {target}{board}")


def configure(api: Api, builder: Builder, network: Network, name: str, options: BuildOptions) -> IBuilderConfig:
    """The configuration; the precision flags of weakly typed networks are not part of it.

    Args:
        api: the TensorRT at hand.
        builder, network: to configure for.
        name: what to call the graph in errors.
        options: what is asked for.

    Raises:
        UsageError: this TensorRT or this machine cannot do what is asked for.
        BuildError: the graph does not fit the batch, or the accelerator cannot run all of it.
    """
    trt, config = api.module, builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.target is not None and hasattr(config, "num_compute_capabilities"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{options.target}"), 0)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible != "none":
        levels, wanted = trt.HardwareCompatibilityLevel, options.hardware_compatible.replace("-", "_").upper()
        if not hasattr(levels, wanted):
            raise UsageError(f"{api.title} does not know hardware compatibility {options.hardware_compatible!r}")
        config.hardware_compatibility_level = getattr(levels, wanted)
    _add_profile(builder, config, network, name, options)
    if options.dla_core is not None:
        _use_accelerator(api, builder, config, options)
    return config


def _add_profile(builder: Builder, config: IBuilderConfig, network: Network, name: str, options: BuildOptions) -> None:
    """State the sizes of inputs that leave their batch open."""
    profile, batch = builder.create_optimization_profile(), options.batch
    for tensor in network.inputs:
        shape = tuple(tensor.shape)
        if -1 in shape[1:]:
            raise BuildError(f"{name}: input {tensor.name!r} leaves more than its batch open: {shape}; export it again")
        if shape[:1] != (-1,):
            if shape[:1] != (batch[2],) or batch[0] != batch[2]:
                raise BuildError(
                    f"{name} takes {shape[0]} picture at once, asked for was a batch of {':'.join(map(str, batch))}; "
                    "export the model again, which leaves the batch open where the model allows it"
                )
            continue
        profile.set_shape(tensor.name, *((count, *shape[1:]) for count in batch))
    if any(-1 in tuple(tensor.shape) for tensor in network.inputs):
        config.add_optimization_profile(profile)
        if options.calibrator is not None and hasattr(config, "set_calibration_profile"):
            config.set_calibration_profile(profile)


def _use_accelerator(api: Api, builder: Builder, config: IBuilderConfig, options: BuildOptions) -> None:
    trt, cores = api.module, builder.num_DLA_cores
    if not isinstance(options.dla_core, int) or options.dla_core >= cores:
        raise UsageError(
            f"--dla-core {options.dla_core}: this machine has {cores} deep-learning accelerators that {api.title} can "
            "use (Orin NX and AGX Orin have them, with TensorRT up to 10.7 or from 11.4.1 on); leave the option out"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = options.dla_core
    if options.gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def report_accelerator(
    api: Api, network: Network, config: IBuilderConfig, options: BuildOptions, notes: list[str]
) -> None:
    """Say which layers the accelerator cannot run; refuse where they have nowhere else to go.

    To be asked once all precisions are set: they decide what it can run.

    Raises:
        BuildError: some cannot run there and the GPU may not take them.
    """
    if options.dla_core is None:
        return
    layers = [layer for layer in network.layers if layer.type != api.module.LayerType.CONSTANT]
    left = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    names = ", ".join(left[:_SHOWN]) + (f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else "")
    if left and not options.gpu_fallback:
        raise BuildError(
            f"accelerator {options.dla_core} cannot run {len(left)} of {len(layers)} layers ({names}), and the "
            "GPU may not take them; allow it"
        )
    went = f"{len(layers) - len(left)} of {len(layers)} layers on accelerator {options.dla_core}"
    notes.append(f"{went}; on the GPU: {names}" if left else went)


class TimingCache:
    """The builder's measurements in a file, so that the next build need not repeat them. TensorRT-RTX has none."""

    def __init__(self, api: Api, config: IBuilderConfig, path: Path | None, notes: list[str]) -> None:
        """Give `config` what `path` holds; a file that is foreign or damaged is left aside, with a note."""
        self._config = config
        self._path = path if api.flavour == "tensorrt" else None
        if self._path is None:
            return
        content = self._path.read_bytes() if self._path.is_file() else b""
        if not self._set(content):
            notes.append(f"the timing cache {path} does not fit this TensorRT and GPU, or is damaged: begun anew")
            self._set(b"")

    def _set(self, content: bytes) -> bool:
        try:
            cache = self._config.create_timing_cache(content)
            return cache is not None and bool(self._config.set_timing_cache(cache, False))
        except (RuntimeError, TypeError, ValueError):
            return False

    def save(self) -> None:
        """Write the measurements back; a folder that cannot be written costs time at the next build, nothing else."""
        cache = None if self._path is None else self._config.get_timing_cache()
        if self._path is None or cache is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path) as temporary:
                temporary.write_bytes(bytes(cache.serialize()))
        except OSError:
            pass

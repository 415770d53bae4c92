"""A bundle on a GPU: its engine, from the plan cache or built now, and the lanes that share it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevision.backends.build_options import BuildOptions
from edgevision.backends.built_plan import BuiltPlan
from edgevision.backends.engine import Engine
from edgevision.backends.graph_build import CalibratorFactory
from edgevision.backends.ladder import graphs_of
from edgevision.backends.tensorrt_api import Api
from edgevision.backends.tensorrt_builder import build_plan
from edgevision.bundle import Bundle
from edgevision.cuda import open_device
from edgevision.device_lane import DeviceLane, LaneState
from edgevision.errors import PlanError, SessionError
from edgevision.kernels.compile import load_kernels
from edgevision.plan_cache import CachedPlan, PlanCache
from edgevision.plan_facts import PlanFacts, PlanKey
from edgevision.postprocess import Selection
from edgevision.progress import Progress
from edgevision.telemetry import board_facts

if TYPE_CHECKING:
    from edgevision.cuda import Device, Module

_LANES = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A GPU and the TensorRT that runs on it."""

    api: Api
    device: Device

    @property
    def title(self) -> str:
        """TensorRT's name and version."""
        return self.api.title

    def load(
        self, bundle: Bundle, options: BuildOptions, selection: Selection | None, *, quiet: bool = False
    ) -> DeviceRunner:
        """A bundle's engine, ready for lanes; see `model.load` for what it raises."""
        return DeviceRunner(self, bundle, options, selection, quiet=quiet)


def open_target(api: Api, index: int) -> Target:
    """
    Args:
        api: the TensorRT to use.
        index: number of the GPU.

    Raises:
        DependencyError: pycuda is not installed.
        DeviceError: there is no such GPU, or its driver does not work.
    """
    return Target(api, open_device(index))


def here(target: Target) -> dict[str, Any]:
    """This machine's part of a plan's key."""
    api, device = target.api, target.device
    return {
        "runtime": api.flavour,
        "version": api.version,
        "gpu": device.name,
        "sm": device.sm,
        "board": board_facts()["l4t"] or "",
    }


def plan_key(target: Target, bundle: Bundle, options: BuildOptions) -> PlanKey:
    """What a plan of this bundle must fit on this machine."""
    files = bundle.manifest.files
    graphs = {name: files[name].sha256 for name in graphs_of(bundle.manifest, options)}
    return PlanKey(graphs=graphs, options=options, **here(target))


def obtain_plan(
    target: Target,
    bundle: Bundle,
    options: BuildOptions,
    *,
    refresh: bool = False,
    quiet: bool = False,
    cache: PlanCache | None = None,
    calibrator: CalibratorFactory | None = None,
) -> CachedPlan:
    """The plan of a bundle for this machine, from the user's cache or built now, with progress on the error stream.

    `calibrator` makes what `options.calibrator` asks for.

    Raises:
        BuildError: every precision failed, or another process has been building it for too long.
        UsageError, BundleError: an option does not fit, or the bundle has no graph for it.
    """
    key, cache = plan_key(target, bundle, options), cache or PlanCache()

    def build() -> BuiltPlan:
        with Progress(f"building {bundle.manifest.name} for {target.device.name}", quiet=quiet) as progress:
            built = build_plan(
                target.api,
                bundle,
                options,
                sm=target.device.sm,
                timing_cache=cache.timing_cache(key),
                progress=progress,
                calibrator=calibrator,
                current=target.device.current,
            )
        for reason in built.reasons:
            _log.warning("%s: %s", bundle.manifest.name, reason)
        return built

    with target.device.current():
        return cache.get_or_build(key, build, refresh=refresh)


class DeviceRunner:
    """One engine on one GPU, shared by its lanes; see model.Runner.

    Attributes:
        plan_facts: what the engine was built from and for.
        engine: the engine.
    """

    def __init__(
        self, target: Target, bundle: Bundle, options: BuildOptions, selection: Selection | None, *, quiet: bool
    ) -> None:
        self._target, self._manifest, self._selection = target, bundle.manifest, selection
        self._kernels: Module | None = load_kernels(target.device)
        self._state = LaneState()
        cached = obtain_plan(target, bundle, options, quiet=quiet)
        try:
            self.engine = self._open(cached, options)
        except PlanError as error:
            cached.close()
            if cached.built:
                raise
            _log.warning("%s. Building it again", error)
            cached = obtain_plan(target, bundle, options, refresh=True, quiet=quiet)
            self.engine = self._open(cached, options)
        cached.plan = b""  # the engine has its own copy
        self._cached = cached
        self.plan_facts = cached.facts
        self.backend, self.graph_name = target.api.flavour, cached.facts.graph
        self.precision = cached.facts.rung

    def _open(self, cached: CachedPlan, options: BuildOptions) -> Engine:
        try:
            return Engine(
                self._target.api,
                cached.plan,
                self._target.device,
                origin=origin(cached.facts),
                dla_core=options.dla_core,
            )
        except BaseException:
            cached.close()
            raise

    def facts(self) -> dict[str, Any]:
        """For reports; see Model.facts."""
        facts = self.plan_facts
        return {
            "gpu": f"{self._target.device.name} (SM {self._target.device.sm})",
            "runtime": self._target.title,
            "rung": facts.rung,
            "reasons": list(facts.reasons),
            "cuda_graph": self._state.captured,
            "notes": [*facts.notes, *self._state.notes],
        }

    def lanes(self, threads: int) -> int:
        """Double buffering."""
        return _LANES

    def open_lane(self, threads: int) -> DeviceLane:
        """Another stream through the engine."""
        if self._kernels is None:
            raise SessionError("this model is closed; load it again")
        return DeviceLane(self.engine, self._kernels, self._manifest, self.graph_name, self._selection, self._state)

    def close(self) -> None:
        """Free the engine; lanes live until they are closed."""
        self._kernels = None  # lanes keep what they use of them
        self.engine.close()
        self._cached.close()


def origin(facts: PlanFacts) -> str:
    """What a plan was built for, in words."""
    key = facts.key
    board = f", {key.get('board')}" if key.get("board") else ""
    return f"{key.get('gpu')} (SM {key.get('sm')}) with {key.get('runtime')} {key.get('version')}{board}"

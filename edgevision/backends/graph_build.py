"""One attempt: a graph, a precision, a plan; or a failure that names the nodes it came from."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgevision.backends.build_config import TimingCache, check_target, configure, report_accelerator
from edgevision.backends.build_options import BuildOptions
from edgevision.backends.build_run import Current, run_build
from edgevision.backends.built_plan import BuiltPlan
from edgevision.backends.engine_inspection import layers_of_plan
from edgevision.backends.engine_layers import EngineLayer, parse_layers
from edgevision.backends.network import Network, onnx_nodes, parse, quantised
from edgevision.backends.network_precision import failing_nodes, int8_nodes, pin, set_ranges, take_out_of_int8
from edgevision.backends.onnx_lowering import lower
from edgevision.backends.tensorrt_api import Api, open_logger, open_recorder
from edgevision.backends.tensorrt_types import Builder, IBuilderConfig
from edgevision.errors import BuildError, SessionError
from edgevision.progress import Progress

CalibratorFactory = Callable[[Api], AbstractContextManager[Any]]
"""Lends TensorRT's calibrator object, an `IInt8Calibrator`, while a network is built."""


class FailedBuildError(BuildError):
    """A network was read but not built.

    Attributes:
        nodes: ONNX names of the INT8 nodes that the builder blamed.
        spared: whether other nodes could stay in INT8.
    """

    def __init__(self, message: str, nodes: tuple[str, ...], candidates: frozenset[str]) -> None:
        super().__init__(message)
        self.nodes, self.spared = nodes, len(nodes) < len(candidates)


@dataclass(frozen=True)
class Attempt:
    """What to try.

    Attributes:
        graph: the serialised ONNX model.
        name: what to call it in errors.
        precision: that of the graph, or with a calibrator `int8`.
        float32: names of nodes that must stay in float32 in a weakly typed network.
        avoid: names of nodes to take out of INT8.
        ranges: largest magnitude by tensor name, for INT8 without Q/DQ in the graph; empty: the graph decides.
        calibrator: TensorRT's own calibration instead of Q/DQ; None: the graph decides.
    """

    graph: bytes
    name: str
    precision: str
    float32: frozenset[str] = frozenset()
    avoid: tuple[str, ...] = ()
    ranges: Mapping[str, float] = field(default_factory=dict)
    calibrator: CalibratorFactory | None = None

    @property
    def implicit(self) -> bool:
        """Whether TensorRT itself puts layers into INT8, from ranges."""
        return self.calibrator is not None or bool(self.ranges)


def build_graph(
    api: Api,
    attempt: Attempt,
    options: BuildOptions,
    *,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
    current: Current = contextlib.nullcontext,
) -> BuiltPlan:
    """Build an engine from a graph.

    Args:
        api: the TensorRT to build with.
        attempt: what to build.
        options: how; their precision is not looked at.
        timing_cache: file to keep the builder's measurements in; None: none is kept.
        progress: shows how far the builder is.
        current: makes the GPU's context current, in the thread that builds.

    Raises:
        UsageError: an option does not fit this TensorRT or this machine.
        FailedBuildError: the build failed; says why, with TensorRT's last words.
        BuildError: the graph was refused.
        KeyboardInterrupt: Ctrl-C; the build was cancelled.
    """
    check_target(api, options.target)
    start, notes = time.monotonic(), list[str]()
    logger, recorder = open_logger(api), open_recorder(api)
    builder: Builder = api.module.Builder(logger)
    typed = _is_typed(api, attempt, options)
    graph = attempt.graph if typed else _lowered(attempt)
    network = parse(api, builder, logger, graph, attempt.name, typed=typed)
    promised = quantised(api, network)
    if attempt.avoid and not attempt.implicit:
        take_out_of_int8(api, network, attempt.avoid)
    config = configure(api, builder, network, attempt.name, options)
    if not typed:
        _set_precision(api, network, config, attempt)
    report_accelerator(api, network, config, options, notes)
    cache = TimingCache(api, config, timing_cache, notes)
    # Not earlier: a network that is made while a recorder is set crashes TensorRT-RTX 1.7 when it is freed.
    builder.error_recorder = recorder
    with contextlib.nullcontext() if attempt.calibrator is None else attempt.calibrator(api) as calibrator:
        if calibrator is not None and hasattr(config, "int8_calibrator"):
            config.int8_calibrator = calibrator
        plan = run_build(api, builder, network.handle, config, progress, current)
    if plan is None:
        said = [*logger.records.errors, *recorder.records.errors]
        candidates = _in_int8(api, network, attempt)
        blamed = failing_nodes(network, said, candidates)
        words = logger.records.said or recorder.records.said or " without saying why"
        raise FailedBuildError(f"{api.title} read {attempt.name} but failed to build it{words}", blamed, candidates)
    cache.save()
    layers = parse_layers(logger.records.layers) or layers_of_plan(api, logger, plan)
    taken = set(attempt.avoid)
    remaining = tuple(node for node in promised if node not in taken)
    return BuiltPlan(
        plan,
        attempt.name,
        attempt.precision,
        time.monotonic() - start,
        notes=tuple(notes),
        layers=layers,
        quantised=remaining,
        int8=_computed(api, layers, remaining),
    )


def _is_typed(api: Api, attempt: Attempt, options: BuildOptions) -> bool:
    """Whether the network takes its precisions from the graph. Accelerators and calibrators know nothing of that, so
    it does not where this version leaves the choice."""
    choice = attempt.calibrator is not None or (options.dla_core is not None and api.weakly_typed)
    return api.strongly_typed and not choice


def _lowered(attempt: Attempt) -> bytes:
    """The graph for a network that takes its precisions from flags."""
    try:
        return lower(attempt.graph, attempt.name)
    except (SessionError, ValueError) as error:
        raise BuildError(f"{attempt.name}: {error}; export the model again") from error


def _set_precision(api: Api, network: Network, config: IBuilderConfig, attempt: Attempt) -> None:
    """Say by flags what a typed network says by its types."""
    flags, types = api.module.BuilderFlag, api.module.DataType
    if attempt.precision == "fp32":
        return
    config.set_flag(getattr(flags, "FP16", None))
    if attempt.precision == "int8":
        config.set_flag(getattr(flags, "INT8", None))
    if attempt.implicit:
        set_ranges(network, attempt.ranges)
        pin(api, network, frozenset(attempt.avoid), types.HALF)
    pin(api, network, attempt.float32, types.FLOAT)
    config.set_flag(getattr(flags, "OBEY_PRECISION_CONSTRAINTS", None))


def _in_int8(api: Api, network: Network, attempt: Attempt) -> frozenset[str]:
    """Nodes that could be taken out of INT8."""
    if attempt.precision != "int8":
        return frozenset()
    if not attempt.implicit:
        return int8_nodes(api, network)  # without those taken out before: they read no pair any more
    every = frozenset(node for layer in network.layers for node in onnx_nodes(layer))
    return every - attempt.float32 - set(attempt.avoid)


def _computed(api: Api, layers: tuple[EngineLayer, ...], promised: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the promised nodes that the engine computes in INT8.

    TensorRT-RTX lists every kernel. The inspector of the others shows regions as one layer, so there a node counts
    unless it is seen in a float kernel.
    """
    products = [layer for layer in layers if layer.is_product]
    integer = {node for layer in products if layer.precision == "int8" for node in layer.onnx_nodes}
    floating = {node for layer in products if layer.precision != "int8" for node in layer.onnx_nodes}
    if api.flavour == "tensorrt-rtx":
        return tuple(node for node in promised if node in integer)
    return tuple(node for node in promised if node in integer or node not in floating)

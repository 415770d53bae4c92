"""NVIDIA TensorRT for RTX: a real parser and builder that need no GPU.

It builds plans for desktop GPUs, and shows for any bundle that its graphs parse and that every convolution promised
in INT8 is built in INT8. It cannot build for Jetson boards: those need the TensorRT of their JetPack.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edgevision.backends.engine_layers import EngineLayer, parse_layers
from edgevision.errors import BuildError, UsageError
from edgevision.optional import require
from edgevision.progress import Progress

TARGETS = (75, 80, 86, 89, 120, 121)
"""Compute capabilities (SM) that it builds for: Turing, Ampere, Ada and Blackwell cards."""
_BOARDS = {87: "Jetson Orin", 110: "Jetson Thor", 72: "Jetson Xavier"}
_JOIN_TIMEOUT_S = 600.0
_WAIT_S = 0.1
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class BuiltPlan:
    """A finished build.

    Attributes:
        plan: the serialised engine.
        seconds: parsing and building.
        layers: the engine's layers; empty where this version does not log them.
        quantised: ONNX names of the convolutions and matrix products whose inputs the graph quantises.
        int8: those of them that the engine computes in INT8.
    """

    plan: bytes
    seconds: float
    layers: tuple[EngineLayer, ...]
    quantised: tuple[str, ...]
    int8: tuple[str, ...]


def build_plan(graph: bytes, name: str, *, target: int | None = None, progress: Progress | None = None) -> BuiltPlan:
    """Build an engine from an ONNX graph.

    Args:
        graph: the serialised ONNX model, precisions typed into it.
        name: what to call it in errors.
        target: one of TARGETS; None: portable across all of them.
        progress: advanced by one per step of the builder.

    Raises:
        UsageError: the target is not one of TARGETS.
        DependencyError: TensorRT-RTX is not installed or does not load.
        BuildError: the graph was refused, or its build failed.
        KeyboardInterrupt: Ctrl-C; the build was cancelled.
    """
    if target is not None and target not in TARGETS:
        board = f": that is {_BOARDS[target]}, build on the board with its own TensorRT" if target in _BOARDS else ""
        raise UsageError(f"TensorRT-RTX builds for SM {', '.join(map(str, TARGETS))}; got {target}{board}")
    rtx = require("tensorrt_rtx_bindings", "building with TensorRT-RTX")
    start = time.monotonic()
    log = _logger(rtx)
    builder = rtx.Builder(log)
    network = builder.create_network(0)
    _parse(rtx, log, network, graph, name)
    quantised = _quantised(rtx, network)
    config = builder.create_builder_config()
    _fix_batch(builder, network, config)
    config.profiling_verbosity = rtx.ProfilingVerbosity.DETAILED
    if target is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(rtx.ComputeCapability, f"SM{target}"), 0)
    plan = _build(rtx, log, builder, network, config, name, progress)
    layers = parse_layers(log.layers)
    computed = {node for layer in layers if layer.is_product and layer.precision == "int8" for node in layer.onnx_nodes}
    int8 = tuple(node for node in quantised if node in computed)
    return BuiltPlan(plan, time.monotonic() - start, layers, quantised, int8)


def _fix_batch(builder: Any, network: Any, config: Any) -> None:
    """One picture at a time, where the graph leaves the number open."""
    for entry in (network.get_input(index) for index in range(network.num_inputs)):
        shape = tuple(entry.shape)
        if -1 in shape:
            profile = builder.create_optimization_profile()
            profile.set_shape(entry.name, *[(1, *shape[1:])] * 3)
            config.add_optimization_profile(profile)


def _logger(rtx: ModuleType) -> Any:
    """A logger that keeps the last messages and the list of layers."""

    class Log(rtx.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            rtx.ILogger.__init__(self)
            self.tail: deque[str] = deque(maxlen=3)
            self.layers = ""

        def log(self, severity: Any, message: str) -> None:
            if message.startswith("Layers:"):
                self.layers = message
            elif severity <= rtx.ILogger.Severity.ERROR:
                self.tail.append(" ".join(message.split())[:300])

    return Log()


def _parse(rtx: ModuleType, log: Any, network: Any, graph: bytes, name: str) -> None:
    parser = rtx.OnnxParser(network, log)
    if not parser.parse(graph):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = [
            f"node {error.node_name()!r} ({error.node_operator()}): {' '.join(error.desc().split())[:200]}"
            for error in errors
        ]
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise BuildError(
            f"TensorRT-RTX cannot read {name}: {'; '.join(reasons[:3]) or 'no reason given'}{more}{_said(log)}. "
            "Export the model again; if it stays, report it with the model"
        )
    # The parser takes bytes that are no model at all for an empty network, without an error.
    if not network.num_inputs or not network.num_outputs:
        raise BuildError(f"{name} holds no network ({len(graph)} bytes without inputs or outputs); export it again")


def _said(log: Any) -> str:
    return f" [log: {' | '.join(log.tail)}]" if log.tail else ""


def _quantised(rtx: ModuleType, network: Any) -> tuple[str, ...]:
    """ONNX names of the weighted layers whose input and weights both come from a DequantizeLinear."""
    makers: dict[str, Any] = {}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    for layer in layers:
        for index in range(layer.num_outputs):
            makers[layer.get_output(index).name] = layer
    kinds = rtx.LayerType
    passing = (kinds.SHUFFLE, kinds.CAST, kinds.IDENTITY)

    def dequantised(tensor: Any) -> bool:
        maker = makers.get(tensor.name) if tensor is not None else None
        while maker is not None and maker.type in passing:
            maker = makers.get(maker.get_input(0).name)
        return maker is not None and maker.type == kinds.DEQUANTIZE

    found = []
    for layer in layers:
        if layer.type not in (kinds.CONVOLUTION, kinds.DECONVOLUTION, kinds.MATRIX_MULTIPLY) or layer.num_inputs < 2:
            continue
        if dequantised(layer.get_input(0)) and dequantised(layer.get_input(1)):
            found.append((_NODE.findall(layer.metadata) or [layer.name])[0])
    return tuple(found)


def _build(
    rtx: ModuleType, log: Any, builder: Any, network: Any, config: Any, name: str, progress: Progress | None
) -> bytes:
    """Run the build in a thread of its own, so that Ctrl-C arrives while native code works."""
    cancelled = threading.Event()

    class Monitor(rtx.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            rtx.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.phase = phase

        def step_complete(self, phase: str, step: int) -> bool:
            if progress is not None:
                progress.update(note=phase)
            return not cancelled.is_set()

        def phase_finish(self, phase: str) -> None:
            pass

    monitor = Monitor()
    config.progress_monitor = monitor
    result: list[bytes] = []

    def work() -> None:
        plan = builder.build_serialized_network(network, config)
        if plan is not None:
            result.append(bytes(plan))

    thread = threading.Thread(target=work, name="tensorrt-rtx-build", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_WAIT_S)
    except KeyboardInterrupt:
        cancelled.set()
        thread.join(_JOIN_TIMEOUT_S)
        raise
    if not result:
        raise BuildError(f"TensorRT-RTX read {name} but failed to build it{_said(log) or ' without saying why'}")
    return result[0]

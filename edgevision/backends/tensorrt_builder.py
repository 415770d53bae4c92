"""Builds a bundle's plan, stepping down a ladder of precisions where TensorRT refuses one, and says why it did."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgevision.backends.build_options import BuildOptions
from edgevision.backends.build_run import Current
from edgevision.backends.built_plan import BuiltPlan
from edgevision.backends.graph_build import Attempt, CalibratorFactory, FailedBuildError, build_graph
from edgevision.backends.known_troubles import known_troubles
from edgevision.backends.ladder import Rung, rungs
from edgevision.backends.onnx_graph import float32_nodes, quantised_ranges
from edgevision.backends.tensorrt_api import Api
from edgevision.errors import BuildError, SessionError, UsageError
from edgevision.progress import Progress

if TYPE_CHECKING:
    from edgevision.bundle import Bundle

__all__ = ["BuiltPlan", "build_plan"]

Run = Callable[[Attempt, BuildOptions], BuiltPlan]
# A builder stops at the first node that it cannot compute in INT8, so each try may name another one.
_PARTIAL_TRIES = 8


def build_plan(
    api: Api,
    bundle: Bundle,
    options: BuildOptions,
    *,
    sm: int | None = None,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
    calibrator: CalibratorFactory | None = None,
    current: Current = contextlib.nullcontext,
) -> BuiltPlan:
    """Build the plan of a bundle.

    Args:
        api: the TensorRT to build with.
        bundle: its graphs are tried from the wanted precision downwards.
        options: what to build.
        sm: compute capability of the GPU at hand, like 87; None where there is none.
        timing_cache: file to keep the builder's measurements in; None: none is kept.
        progress: shows how far the builder is.
        calibrator: makes the calibrator that `options.calibrator` asks for.
        current: makes the GPU's context current, in the thread that builds.

    Raises:
        BuildError: every rung of the ladder failed; says why, with TensorRT's last words.
        UsageError: an option does not fit this TensorRT or this machine.
        BundleError: the bundle has no graph for the precision.
        KeyboardInterrupt: Ctrl-C; the build was cancelled.
    """
    if (options.calibrator is None) != (calibrator is None):
        raise UsageError("a calibrator needs calibration pictures, and the other way round; give both or none")
    if calibrator is not None and not api.weakly_typed:
        raise UsageError(f"{api.title} has no calibrators any more; leave them out: the bundle's graph is calibrated")
    start, notes = time.monotonic(), known_troubles(api, sm, options)
    run: Run = functools.partial(build_graph, api, timing_cache=timing_cache, progress=progress, current=current)
    reasons: list[str] = []
    failures: list[BuildError] = []
    # Accelerators know neither types nor Q/DQ: where flags choose precisions, INT8 comes from ranges.
    implicit = options.dla_core is not None and api.weakly_typed
    for rung in rungs(bundle.manifest, options, typed=api.strongly_typed and not implicit, implicit=implicit):
        attempt = _attempt(bundle, rung, calibrator)
        try:
            built = _try(api, attempt, options, run, reasons)
        except BuildError as error:
            failures.append(error)
            continue
        return dataclasses.replace(
            built,
            graph=rung.graph,
            seconds=time.monotonic() - start,
            reasons=tuple(reasons),
            notes=(*notes, *built.notes),
        )
    if len(failures) == 1:
        raise failures[0]
    listed = "; ".join(reasons)
    raise BuildError(f"no precision of {bundle.path} builds: {listed}", tuple(r for f in failures for r in f.reasons))


def _attempt(bundle: Bundle, rung: Rung, calibrator: CalibratorFactory | None) -> Attempt:
    graph, name = bundle.read(rung.graph), f"{rung.graph} of {bundle.path}"
    try:
        float32 = float32_nodes(bundle.read(rung.typed_like)) if rung.typed_like else frozenset[str]()
        ranges = quantised_ranges(bundle.read(rung.ranges_of)) if rung.ranges_of else dict[str, float]()
    except SessionError as error:
        raise BuildError(f"{name}: {error}; export the model again") from error
    legacy = calibrator if rung.precision == "int8" else None
    return Attempt(graph, name, rung.precision, float32, ranges=ranges, calibrator=legacy)


def _try(api: Api, attempt: Attempt, options: BuildOptions, run: Run, reasons: list[str]) -> BuiltPlan:
    """Build; in INT8, take the nodes that the builder blames out of it and build again. Why a try failed is appended
    to `reasons`."""
    for _ in range(_PARTIAL_TRIES):
        rung = "int8-partial" if attempt.avoid else attempt.precision
        try:
            built = run(attempt, options)
        except FailedBuildError as failure:
            blamed = failure.nodes if failure.spared else ()
            taken = f"; taken out of INT8: {', '.join(blamed)}" if blamed else ""
            reasons.append(f"{rung}: {failure}{taken}")
            if not blamed:
                raise
            attempt = dataclasses.replace(attempt, avoid=(*attempt.avoid, *blamed))
        except BuildError as refusal:
            reasons.append(f"{rung}: {refusal}")
            raise
        else:
            return dataclasses.replace(built, rung=rung)
    raise BuildError(f"{api.title} blamed {len(attempt.avoid)} nodes of {attempt.name}, and still does not build it")

"""How fast a bundle is on this machine, with the facts that make the figures comparable with another's."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edgevision
from edgevision import machine
from edgevision.bundle import Bundle
from edgevision.errors import BundleError, UsageError
from edgevision.loadgen import SCENARIOS, compare_speed, render_pictures, run_scenario
from edgevision.model import Model
from edgevision.telemetry import Telemetry, board_facts

# What integer and half precision kernels are chosen by.
_FEATURES = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16"} | {
    "asimd", "asimddp", "i8mm", "bf16", "fphp", "sve",
}  # fmt: skip
_PACKAGES = ("numpy", "onnxruntime", "opencv-python-headless", "opencv-python")
_ENOUGH_FOR_P999 = 1000


def benchmark(
    path: Path | str,
    *,
    scenario: str = "single-stream",
    backend: str = "auto",
    device: int = 0,
    duration_s: float = 10.0,
    precision: str | None = None,
    graph: str = "auto",
    threads: int | None = None,
    sources: int | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Measure a bundle.

    Args:
        path: the bundle.
        scenario: one of loadgen.SCENARIOS.
        backend, device: what runs it; see `edgevision.load`.
        duration_s: least time to measure, after warming up.
        precision, graph: which graph runs; see `edgevision.load`.
        threads: cores that one inference uses; None: all for single-stream, otherwise one, with a lane per core.
        sources: cameras of the pipeline scenario; None: one.
        quiet: no progress.

    Returns:
        `scenario`, `duration_s`, the bundle's `bundle`, `bundle_sha256`, `graph`, `precision`; `model` (what ran it,
        see Model.facts); what was measured (see loadgen.run_scenario); `machine`, `software`, `telemetry`, and
        `warnings` about what disturbs the figures.

    Raises:
        UsageError: an option is out of range, does not apply, or the bundle has no such graph.
        BundleError, SessionError: the bundle cannot be used.
    """
    if scenario not in SCENARIOS:
        raise UsageError(f"scenario is one of {SCENARIOS}, got {scenario!r}")
    if threads is not None and scenario == "pipeline":
        raise UsageError("the pipeline runs one lane of one thread per core: leave out threads")
    if sources is not None and scenario != "pipeline":
        raise UsageError(f"sources are for the scenario pipeline, not for {scenario}")
    _check(duration_s, threads, sources)
    bundle = Bundle(path)
    with Model(
        bundle, backend=backend, device=device, precision=precision, graph=graph, threads=threads, quiet=quiet
    ) as model:
        pictures = render_pictures()
        report = _observed(
            lambda: run_scenario(
                model, scenario, pictures, duration_s, threads=threads, sources=sources or 1, quiet=quiet
            )
        )
        facts = model.facts()
    return {
        "scenario": scenario,
        "duration_s": duration_s,
        **_identity(bundle),
        "graph": facts["graph"],
        "precision": facts["precision"],
        "model": facts,
        **report,
    }


def benchmark_int8(
    path: Path | str, *, duration_s: float = 10.0, threads: int | None = None, quiet: bool = True
) -> dict[str, Any]:
    """Float against INT8 on the CPU, interleaved in this process: `benchmark`'s facts with loadgen.compare_speed's
    figures. `threads` None is one.

    Raises:
        UsageError: an option is out of range, or the bundle has no INT8 graph for the CPU.
        BundleError, SessionError: the bundle cannot be used.
    """
    _check(duration_s, threads, None)
    bundle = Bundle(path)
    manifest, threads = bundle.manifest, threads or 1
    if "cpu.onnx" not in manifest.graphs:
        raise UsageError(
            f"{manifest.name} has no INT8 graph for the CPU to compare with float"
            + (f": {manifest.cpu_graph_reason}" if manifest.cpu_graph_reason else "; export with --precision int8")
        )
    with (
        Model(bundle, backend="cpu", precision="fp32", threads=threads) as plain,
        Model(bundle, backend="cpu", precision="int8", graph="cpu", threads=threads) as quantised,
    ):
        pictures = render_pictures()
        report = _observed(lambda: compare_speed(plain, quantised, pictures, duration_s, threads=threads, quiet=quiet))
    return {"scenario": "float against INT8", "duration_s": duration_s, **_identity(bundle), **report}


def _check(duration_s: float, threads: int | None, sources: int | None) -> None:
    if not 0 < duration_s <= 7 * 86400 or (threads or 1) < 1 or (sources or 1) < 1 or 0 in (threads, sources):
        raise UsageError(
            f"duration is above 0 and at most a week, threads and sources are at least 1; got {duration_s} s, "
            f"{threads}, {sources}"
        )


def _observed(measurement: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The measurement's figures, with what the machine is and did meanwhile."""
    with Telemetry() as telemetry:
        figures = measurement()
    observed = telemetry.report()
    warnings = observed.pop("warnings")
    if figures["count"] < _ENOUGH_FOR_P999:
        warnings.append(f"{figures['count']} queries are too few for p999; measure longer (--duration)")
    if board_facts()["clocks_locked"] is False:
        warnings.append("clocks are not locked; on a Jetson: sudo jetson_clocks")
    return {
        **figures,
        "machine": machine_facts(),
        "software": software_facts(),
        "telemetry": observed,
        "warnings": warnings,
    }


def machine_facts() -> dict[str, Any]:
    """What kind of machine this is."""
    return {
        "cpu": machine.cpu_name(),
        "cores": machine.cores(),
        "architecture": platform.machine(),
        "features": sorted(machine.cpu_flags() & _FEATURES),
        "memory_bytes": machine.memory_bytes(),
        "kernel": os.uname().release,
        **board_facts(),
    }


def software_facts() -> dict[str, str]:
    """Versions of what takes part in inference."""
    versions = {"edgevision": edgevision.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _identity(bundle: Bundle) -> dict[str, str]:
    try:
        with bundle.path.open("rb") as handle:
            digest = hashlib.sha256()
            while block := handle.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise BundleError(f"cannot read bundle {bundle.path}: {error}") from error
    return {"bundle": bundle.manifest.name, "bundle_sha256": digest.hexdigest()}

"""A benchmark's result: figures together with the machine they belong to."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgevision
from edgevision.benchmark import benchmark, benchmark_int8, machine_facts, software_facts
from edgevision.bundle import write_bundle
from edgevision.errors import BundleError, UsageError
from edgevision.manifest import GraphInfo
from tests.tiny_models import colour_detector, detector_bundle, detector_manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return detector_bundle(tmp_path / "tiny.edge")


def test_figures_come_with_bundle_machine_and_software(bundle: Path) -> None:
    got = benchmark(bundle, duration_s=0.1)
    assert got["bundle"] == "colours"
    assert got["bundle_sha256"] == hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert (got["scenario"], got["graph"], got["precision"]) == ("single-stream", "model.onnx", "fp32")
    assert got["latency_ms"]["p50"] > 0
    assert got["machine"]["architecture"] == platform.machine()
    assert got["machine"]["kernel"] == os.uname().release
    assert got["software"]["numpy"] == np.__version__
    assert got["software"]["edgevision"] == edgevision.__version__
    for key in ("temperature_c", "power_w", "clock_mhz", "governor"):
        assert (got["telemetry"][key] is None) == (key in got["telemetry"]["not_measured"])
    assert any("too few for p999" in warning for warning in got["warnings"]) == (got["count"] < 1000)
    assert json.loads(json.dumps(got)) == got


def test_facts_are_plain_data() -> None:
    facts = machine_facts()
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 1 << 20
    assert "python" in software_facts()


def test_int8_is_compared_with_float(tmp_path: Path) -> None:
    infos = {"model.onnx": GraphInfo("fp32"), "cpu.onnx": GraphInfo("int8")}
    write_bundle(tmp_path / "a.edge", detector_manifest(graphs=infos), dict.fromkeys(infos, colour_detector()))
    got = benchmark_int8(tmp_path / "a.edge", duration_s=0.1)
    assert got["threads"] == 1
    assert got["speedup"]["inference"]["median"] > 0
    assert {"machine", "software", "telemetry", "warnings", "bundle_sha256"} <= set(got)


def test_without_an_int8_graph_there_is_nothing_to_compare(tmp_path: Path) -> None:
    manifest = detector_manifest(cpu_graph_reason="INT8 is slower than float here")
    write_bundle(tmp_path / "a.edge", manifest, {"model.onnx": colour_detector()})
    with pytest.raises(UsageError, match=r"no INT8 graph.*slower than float here"):
        benchmark_int8(tmp_path / "a.edge")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenario": "server"}, "scenario is one of"),
        ({"duration_s": 0.0}, "above 0"),
        ({"duration_s": float("nan")}, "above 0"),
        ({"duration_s": float("inf")}, "at most a week"),
        ({"threads": 0}, "at least 1"),
        ({"threads": 2, "scenario": "pipeline"}, "leave out threads"),
        ({"sources": 2}, "for the scenario pipeline"),
        ({"sources": 0, "scenario": "pipeline"}, "at least 1"),
        ({"precision": "int8"}, "no graph for precision int8"),
    ],
)
def test_options_that_make_no_sense_are_refused(bundle: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        benchmark(bundle, **options)


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="absent"):
        benchmark(tmp_path / "absent.edge")

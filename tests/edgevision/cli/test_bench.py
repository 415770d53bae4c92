"""`edgevision bench` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevision.bundle import write_bundle
from edgevision.cli import main
from edgevision.manifest import GraphInfo
from tests.tiny_models import colour_detector, detector_bundle, detector_manifest


@pytest.mark.parametrize("scenario", ["single-stream", "pipeline"])
def test_a_scenario_on_the_screen_and_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scenario: str
) -> None:
    bundle = detector_bundle(tmp_path / "tiny.edge")
    command = ["bench", str(bundle), "--scenario", scenario, "--duration", "0.3"]
    assert main([*command, "--json", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    assert "inference" in said
    assert "p99" in said
    data = json.loads((tmp_path / "out.json").read_text())
    assert (data["scenario"], data["graph"]) == (scenario, "model.onnx")
    assert {"count", "fps", "latency_ms", "machine", "software", "telemetry", "warnings", "bundle_sha256"} <= set(data)


def test_float_against_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    infos = {"model.onnx": GraphInfo("fp32"), "cpu.onnx": GraphInfo("int8")}
    path = tmp_path / "tiny.edge"
    write_bundle(path, detector_manifest(graphs=infos), dict.fromkeys(infos, colour_detector()))
    assert main(["bench", str(path), "--compare", "--duration", "0.2"]) == 0
    said = capsys.readouterr().out
    assert "float inference" in said
    assert "int8 inference" in said
    assert "as fast as float" in said
    assert main(["bench", str(path), "--compare", "--scenario", "offline"]) == 2
    assert "only --duration and --threads apply" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--duration", "0"], "above 0"),
        (["--duration", "nan"], "above 0"),
        (["--threads", "0"], "at least 1"),
        (["--sources", "2"], "for the scenario pipeline"),
        (["--compare"], "no INT8 graph"),
    ],
)
def test_faults_exit_with_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    bundle = detector_bundle(tmp_path / "tiny.edge")
    assert main(["bench", str(bundle), *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1

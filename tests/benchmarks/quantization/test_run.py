"""The whole benchmark on a shipped model and rendered pictures, tiny."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.quantization import agreement, budget
from benchmarks.quantization.__main__ import main
from edgevision import models
from edgevision.synthetic.dataset import write_dataset

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")


def write_models(folder: Path, *, labelled: bool) -> Path:
    data = write_dataset(folder / "data", [4], 3, (640, 360), quiet=True)
    file = folder / "models.toml"
    file.write_text(
        f"calibration_images = {str(data.images)!r}\n[models.aerial]\n"
        f"file = {str(models.path('aerial_detector'))!r}\n"
        f"dataset = {(data.coco_spec if labelled else str(data.images))!r}\n"
    )
    return file


@pytest.fixture
def named(tmp_path: Path) -> Path:
    return write_models(tmp_path, labelled=True)


def test_ours_and_a_peer_are_measured_judged_written_and_not_measured_twice(
    named: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ("edgevision", "edgevision-cpu", "onnxruntime-minmax", "onnxruntime-u8s8", "modelopt-max")
    command = ["--models", str(named), "--work", str(tmp_path / "work"), "--output", str(tmp_path / "out")]
    command += ["--methods", *methods, "--repeats", "2", "--limit", "2", "--calibration-limit", "3"]
    assert main(command) in (0, 1)
    data = json.loads((tmp_path / "out" / "quantization.json").read_text())
    measured = data["models"]["aerial"]["methods"]
    assert set(measured) == set(methods[:-1])  # there is no Python with modelopt here
    for found in measured.values():
        assert len(found["accuracy"]["runs"]) == 2
        assert found["export"]["peak_mib"] > 0
        assert found["export"]["cpu_s"] > 0
    page = (tmp_path / "out" / "quantization.md").read_text()
    assert "| onnxruntime MinMax |" in page
    assert "| method | aerial, mAP50-95 |" in page
    assert set(data["leads"]["aerial"]) == {"float", "onnxruntime-minmax"}
    assert "| ours to | aerial, mAP50-95 |" in page
    assert page.strip() in capsys.readouterr().out

    dates = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*.json")}
    assert main(command) in (0, 1)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("*.json")} == dates


def test_a_model_that_is_not_named_ends_with_2(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models", str(named), "--only", "nobody"]) == 2
    assert "names no model" in capsys.readouterr().err


def test_a_budget_is_met_written_and_not_searched_twice(named: Path, tmp_path: Path) -> None:
    command = ["--models", str(named), "--work", str(tmp_path / "work"), "--output", str(tmp_path / "out")]
    command += ["--max-drop", "30"]
    assert budget.main(command) == 0
    page = (tmp_path / "out" / "budget.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| aerial"))
    assert row.endswith("| yes |")
    assert "| 0 of " in row
    assert budget.main(command) == 0
    assert (tmp_path / "out" / "budget.md").read_text() == page


def test_agreement_stands_beside_what_can_be_had(tmp_path: Path) -> None:
    file = write_models(tmp_path, labelled=False)
    command = ["--models", str(file), "--work", str(tmp_path / "work"), "--output", str(tmp_path / "out")]
    assert agreement.main([*command, "--repeats", "2", "--limit", "2", "--without-budget"]) == 0
    page = (tmp_path / "out" / "agreement.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| aerial")]
    shares = {row[1]: float(row[3].split("%")[0]) for row in rows}
    assert set(shares) == {"INT8, default", "FP16", "float, dithered"}
    assert 50 < shares["INT8, default"] <= shares["FP16"] <= 100

"""The GPU benchmark from one end to the other over the stand-in driver: everything but the figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu import checks, report, sanitizer, speed
from benchmarks.gpu.speed import read_bytes
from edgevision.cuda import Device
from edgevision.geometry import place
from tests.standins import cuda as standin

NVCC = Path(standin.__file__).parents[1] / "nvcc"


@pytest.fixture(autouse=True)
def environment(device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEVISION_NVCC", str(NVCC))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_whole_script_runs_and_writes_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "usable", lambda package: False)  # no torch runs here, and its import takes seconds
    assert benchmark.main(["--quick", "--output", str(tmp_path / "out")]) == 0
    data = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert data["machine"]["name"] == "stand-in GPU"
    assert {check["kernel"] for check in data["checks"]} == {
        *("preprocess", "semantic argmax", "semantic map to source", "overlay", "draw boxes", "nms", "masks"),
    }
    assert all(check["passed"] and check["values"] > 1000 for check in data["checks"])
    assert data["replay"]["correct"]
    assert data["replay"]["detections"] > 0
    for kind in ("graph", "eager"):
        latency = data["replay"]["latency_ms"][kind]
        assert 0 < latency["p50"] <= latency["p99"] <= latency["p999"] <= latency["max"]
    assert {row["batch"] for row in data["preprocess"]} == {1, 2}
    assert all(row["ms"] > 0 and row["copy_gb_per_s"] > 0 for row in data["preprocess"] + data["semantic"])
    # Nothing that was timed on a stand-in is judged.
    assert [verdict["holds"] for verdict in data["verdicts"]][3:] == [None, None]
    written = (tmp_path / "out" / "gpu.md").read_text()
    assert "the times mean nothing" in written
    assert written in capsys.readouterr().out


def test_a_kernel_that_differs_from_its_twin_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "draw_boxes", lambda *_: None)
    assert benchmark.main(["--quick", "--checks-only"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines if ": 0 of" not in line] == ["draw boxes"]


def test_a_gpu_that_is_not_there_is_said_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--quick", "--device", "7"]) == 2
    assert "there is no GPU 7" in capsys.readouterr().err


def findings(**changes: Any) -> dict[str, Any]:
    """What a run on a fast GPU would have found."""
    return {
        "means_something": True,
        "checks": [{"passed": True}],
        "sanitizer": {"memcheck": {"outcome": "passed"}},
        "replay": {"correct": True},
        "preprocess": [{"batch": 1, "share_of_copy": 0.1}, {"batch": 8, "share_of_copy": 0.7}],
        "nms": [{"share_of_torchvision": 0.1}, {"share_of_torchvision": 1 / 3}],
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, [True] * 5),
        ({"checks": [{"passed": True}, {"passed": False}]}, [False, True, True, True, True]),
        ({"sanitizer": {"racecheck": {"outcome": "failed"}}}, [True, False, True, True, True]),
        ({"sanitizer": {"racecheck": {"outcome": "not installed"}}}, [True, None, True, True, True]),
        ({"replay": {"correct": False}}, [True, True, False, True, True]),
        ({"preprocess": [{"batch": 32, "share_of_copy": 0.69}]}, [True, True, True, False, True]),
        ({"nms": [{"share_of_torchvision": 0.1}, {"share_of_torchvision": 0.34}]}, [True, True, True, True, False]),
        ({"nms": [{}]}, [True, True, True, True, None]),
        ({"means_something": False}, [True, True, True, None, None]),
    ],
)
def test_goals_are_judged(changes: dict[str, Any], holds: list[bool | None]) -> None:
    assert [verdict["holds"] for verdict in report.judge(findings(**changes), 8)] == holds


@pytest.mark.parametrize(("code", "outcome"), [(0, "passed"), (86, "failed"), (1, "failed"), (2, "did not run (2)")])
def test_the_sanitizers_outcome_is_told(
    code: int, outcome: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f'#!/bin/sh\necho "$@"\nexit {code}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = sanitizer.run(3)
    assert [entry["outcome"] for entry in found.values()] == [outcome] * 3
    if code:
        assert "--tool memcheck --error-exitcode 86" in found["memcheck"]["words"]
        assert "-m benchmarks.gpu --quick --checks-only --device 3" in found["memcheck"]["words"]


def test_the_floor_counts_sectors_once() -> None:
    """Rows of 96 bytes are three sectors; a third of the rows is enough for a third of the size."""
    whole = place((32, 30), (32, 30), "stretch")
    assert read_bytes(whole, "bgr") == 32 * 30 * 3
    assert read_bytes(whole, "nv12") == 32 * 30 * 3 // 2
    third = place((96, 90), (32, 30), "stretch")
    assert read_bytes(third, "bgr") == 96 * 3 * 30
    assert read_bytes(third, "nv12") == 96 * 30 + 96 * 30
    half = place((64, 60), (32, 30), "stretch")
    assert read_bytes(half, "bgr") == 64 * 60 * 3

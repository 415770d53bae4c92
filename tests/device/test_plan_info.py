"""`edgevision info` on plans: what they were built for, layer by layer, and why they do not fit."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import edgevision
from edgevision.cli import main
from edgevision.cuda import open_device
from edgevision.plan_facts import facts_path
from tests.standins import cuda as standin
from tests.standins.tensorrt import install
from tests.tiny_models import detector_bundle


@pytest.fixture
def plan(driver: standin.Driver, home: Path, tmp_path: Path) -> Path:
    """A plan in the cache, built with TensorRT 10.3 on the stand-in GPU."""
    bundle = detector_bundle(tmp_path / "m.edge", (16, 16))
    with install("10.3.0"):
        edgevision.load(bundle, backend="tensorrt", quiet=True).close()
    gc.collect()
    open_device().close()
    (path,) = (home / "plans").glob("*.plan")
    return path


def info(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    assert main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert main(["info", str(path), "--json", "-"]) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    gc.collect()
    open_device().close()
    return text, data


def test_it_says_what_it_was_built_for(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with install("10.3.0"):
        text, data = info(plan, capsys)
    assert "built for   stand-in GPU (SM 87), tensorrt 10.3.0" in text
    assert "precision   fp32" in text
    assert "it fits here" in text
    assert data["misfits"] == []
    assert data["built_for"]["options"]["precision"] == "fp32"
    assert "fp32" in {layer["precision"] for layer in data["layers"]} <= {"fp32", "none"}  # none: a constant
    assert all(layer["name"] in text for layer in data["layers"])


def test_a_copy_elsewhere_is_recognised(plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "renamed.engine"
    shutil.copy(plan, copy)
    with install("10.3.0"):
        assert info(copy, capsys)[1]["built_for"]["gpu"] == "stand-in GPU"


def test_why_it_does_not_fit_another_version(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with install("11.4.0.106"):
        text, data = info(plan, capsys)
    assert data["misfits"] == ["built for version 10.3.0, wanted is 11.4.0.106"]
    assert "does not fit here: built for version 10.3.0, wanted is 11.4.0.106" in text


def test_without_tensorrt_its_facts_are_still_told(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, data = info(plan, capsys)
    assert "built for   stand-in GPU (SM 87)" in text
    assert "no TensorRT found on this machine" in data["misfits"][0]


def test_facts_beside_a_plan_speak_of_that_plan_only(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.plan"
    shutil.copy(plan, copy)
    shutil.copy(facts_path(plan), facts_path(copy))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    assert "built_for" in info(copy, capsys)[1]
    copy.write_bytes(copy.read_bytes() + b"!")
    text, data = info(copy, capsys)
    assert "built_for" not in data
    assert "it does not say more" in text

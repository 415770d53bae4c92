"""The doctor names what is missing with its remedy, and survives broken machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevision import doctor
from edgevision.cli import main
from edgevision.doctor import ABSENT, OK, PROBLEM, Finding, examine

pytestmark = pytest.mark.smoke


def test_it_reports_what_is_installed_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "-"]) in {0, 1}
    findings = {f["subject"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    for subject in ("Python", "processor", "onnxruntime", "av", "opencv-python-headless", "cache folder"):
        assert findings[subject]["state"] == OK
    import onnxruntime

    assert findings["onnxruntime"]["detail"].startswith(onnxruntime.__version__)


def test_everything_not_in_order_has_a_remedy() -> None:
    for finding in examine():
        assert finding.state in {OK, ABSENT, PROBLEM}
        assert finding.state == OK or finding.remedy, finding


def test_in_an_environment_without_packages_it_says_what_to_install(tmp_path: Path) -> None:
    # -S hides site-packages; only numpy is let back in.
    import numpy as np

    (tmp_path / "numpy").symlink_to(Path(np.__file__).parent)
    for library in Path(np.__file__).parent.parent.glob("numpy.libs"):
        (tmp_path / library.name).symlink_to(library)
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-S", "-m", "edgevision", "doctor", "--json", "-"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    findings = {f["subject"]: f for f in json.loads(done.stdout)["findings"]}
    assert findings["onnxruntime"]["state"] == ABSENT
    assert findings["onnxruntime"]["remedy"] == 'pip install "edgevision[cpu]"'
    assert findings["onnx"]["remedy"] == 'pip install "edgevision[export]"'


def test_an_unwritable_cache_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    cache = next(f for f in examine() if f.subject == "cache folder")
    assert cache.state == PROBLEM
    assert "XDG_CACHE_HOME" in cache.remedy


def test_a_check_that_breaks_becomes_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def _haunted(root: Path) -> Iterator[Finding]:
        raise RuntimeError("boo")

    monkeypatch.setattr(doctor, "_CHECKS", (_haunted,))
    (finding,) = examine()
    assert (finding.subject, finding.state) == ("haunted", PROBLEM)
    assert "boo" in finding.detail
    assert finding.remedy

"""Optional packages are imported when needed and named with their remedy when absent."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cv2
import pytest

from edgevision.errors import DependencyError
from edgevision.optional import _PACKAGES, require


def test_an_installed_package_is_returned() -> None:
    assert require("cv2", "preprocessing") is cv2


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)  # makes Python's own import fail
    with pytest.raises(DependencyError) as caught:
        require("av", "reading video files")
    message = str(caught.value)
    assert "reading video files needs the package 'av'" in message
    assert 'pip install "edgevision[cpu]"' in message


def test_a_package_that_does_not_load_gives_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "av.py").write_text("raise ImportError('libavcodec.so.61: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "av", raising=False)
    with pytest.raises(DependencyError, match=r"libavcodec\.so\.61"):
        require("av", "reading video files")


def test_the_extras_named_are_the_projects(request: pytest.FixtureRequest) -> None:
    """What a message tells people to install exists in pyproject.toml and brings the package."""
    text = (request.config.rootpath / "pyproject.toml").read_text()
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = dict(re.findall(r"^([\w-]+) = \[(.*)\]$", section, re.MULTILINE))
    for name, (distribution, extra) in _PACKAGES.items():
        assert f'"{distribution}' in extras[extra], f"{name}: extra {extra} does not bring {distribution}"

"""The examples run as they stand, and the README's commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from edgevision.cli import _parser
from edgevision.synthetic.dataset import write_dataset

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_export_run_and_compare(tmp_path: Path) -> None:
    assert "detector.edge" in run("01_export_int8.py", str(tmp_path))
    bundle = str(tmp_path / "detector.edge")
    said = run("02_run_camera.py", bundle, "synthetic://aerial?seed=10000&frames=3")
    assert re.search(r"^frame \d+: (car|truck|person|landing_pad) 0\.\d\d at \d+,\d+ to \d+,\d+$", said, re.MULTILINE)
    pictures = write_dataset(tmp_path / "pictures", [10_001], 2, quiet=True)
    lines = run("03_compare_precisions.py", bundle, f"{pictures.images}/*.png").splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(r".*\.png: \d+ boxes in float, \d+ lost, \d+ gained", line) for line in lines)


def commands(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if re.match(r"(    |\$ )edgevision ", line)]


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_commands_in_the_documentation_are_understood(page: str) -> None:
    for command in commands((ROOT / page).read_text()):
        _, verb, *arguments = shlex.split(command.lstrip("$ "), comments=True)
        assert _parser(verb).parse_args([verb, *arguments]).verb == verb


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"

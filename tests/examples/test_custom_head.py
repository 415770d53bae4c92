"""The example that adds a family: its own test passes once its entry point is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.export.plugin_kit import install

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "04_custom_head"


def test_a_family_is_one_file_and_its_test(tmp_path: Path) -> None:
    assert 'pointdet = "pointdet:HEAD"' in (EXAMPLE / "pyproject.toml").read_text()
    install(tmp_path, "pointdet = pointdet:HEAD")
    path = os.pathsep.join(map(str, (EXAMPLE, tmp_path, ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "test_pointdet.py"],
        cwd=EXAMPLE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr

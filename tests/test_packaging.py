"""The wheel as a product: what is in it, and that it works where nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {"edgevision": "edgevision", "export": "edgevision/export", "calibration": "edgevision/calibration"}

USE_IT = """
import sys
import numpy as np
import edgevision
heavy = {"cv2", "av", "onnx", "onnxruntime", "tensorrt", "pycuda", "torch"} & set(sys.modules)
assert not heavy, heavy
from edgevision.cli import main
from edgevision.models import path
from edgevision.synthetic import AerialScene
assert main(["export", str(path("aerial_detector")), "--precision", "fp32", "-o", "detector.edge", "--quiet"]) == 0
frame = AerialScene(10_000).render(0)
with edgevision.load("detector.edge") as model:
    detections = model(frame.image)
assert isinstance(detections, edgevision.Detections)
assert len(detections), "the shipped detector sees nothing in its own world"
assert main(["run", "detector.edge", "synthetic://aerial?frames=3", "--sink", "out.jsonl", "--quiet"]) == 0
assert len(open("out.jsonl").readlines()) == 3
print("works in", edgevision.__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    return next(folder.glob("edgevision-*.whl"))


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    expected = {
        f"{target}/{file.relative_to(ROOT / source).as_posix()}"
        for source, target in SOURCES.items()
        for file in (ROOT / source).rglob("*")
        if file.suffix in {".py", ".onnx", ".cu", ".cuh", ".html"} or file.name == "py.typed"
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected


@pytest.mark.timeout(300)
def test_it_installs_into_an_empty_environment_and_does_its_job_there(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"edgevision[export] @ {wheel.as_uri()}", cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    said = run(python, "-c", USE_IT, cwd=elsewhere)
    assert f"works in {tmp_path / 'venv'}" in said
    assert "edgevision 0.1.0" in run(tmp_path / "venv" / "bin" / "edgevision", "--version", cwd=elsewhere)

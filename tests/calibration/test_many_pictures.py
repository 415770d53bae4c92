"""Calibration as it is used, with real JPEG files: 2,000 need no more memory than 20, and Ctrl-C loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.export.builders import semantic_model

ROOT = Path(__file__).resolve().parents[2]
SIZE_WH = (96, 64)


def write_jpegs(folder: Path, count: int, names: list[int] | None = None) -> Path:
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(i)
        picture = cv2.resize(rng.integers(0, 256, (8, 12, 3), np.uint8), SIZE_WH, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{names[i] if names else i}.jpg"), picture)
    return folder


_PEAK = """
import sys
from edgevision.calibration import CalibrationImages, load_or_collect, load_or_collect_channels, passes
from edgevision.manifest import Preprocess

passes._SAVE_S = 0.5
graph, pictures, cache, load = open(sys.argv[1], "rb").read(), sys.argv[2], sys.argv[3], sys.argv[4]
images, spec = CalibrationImages(pictures, 10_000), Preprocess("image", (32, 24))
tensors = ["image", "relu", "signed", "clip", "sum", "pooled", "output"]
table, _ = globals()[load](cache, graph, tensors, images, spec, workers=2, quiet=True)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(table.images, int(status["VmHWM"].split()[0]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux's /proc")
def test_two_thousand_pictures_need_no_more_memory_than_twenty(network: bytes, tmp_path: Path) -> None:
    """Kept, the pictures would show as 37 MB and the tensors as 400; what grows are names, digests and checkpoints."""
    (tmp_path / "small.onnx").write_bytes(network)
    few, many = write_jpegs(tmp_path / "few", 20), write_jpegs(tmp_path / "many", 2000)
    for load in ("load_or_collect", "load_or_collect_channels"):
        peaks = []
        for folder, count in ((few, 20), (many, 2000)):
            arguments = [str(tmp_path / "small.onnx"), str(folder), str(tmp_path / f"{load}{count}.json"), load]
            command = [sys.executable, "-c", _PEAK, *arguments]
            done = subprocess.run(command, check=True, capture_output=True, timeout=240, cwd=ROOT, text=True)
            images, peak_kib = map(int, done.stdout.split())
            assert images == count
            peaks.append(peak_kib)
        assert peaks[1] < peaks[0] + 8 * 1024, (load, peaks)


_SLOW = """
import os, time
from edgevision.calibration.images import CalibrationImages
read = CalibrationImages.read
def announced(self, index):
    os.write(1, b"reading\\n")
    time.sleep(0.05)
    return read(self, index)
CalibrationImages.read = announced
"""


def export(model: Path, pictures: Path, ranges: Path, before: str = "") -> list[str]:
    code = f"{before}\nimport sys\nfrom edgevision.cli import main\nsys.exit(main())"
    arguments = ["export", str(model), "-o", str(model.with_suffix(".edge")), "--mean", "120", "--std", "60"]
    arguments += ["--calibration-images", str(pictures), "--ranges", str(ranges)]
    return [sys.executable, "-c", code, *arguments]


def test_ctrl_c_and_another_start_give_the_table_of_one_run(tmp_path: Path) -> None:
    """The command line itself, interrupted twice; beside it, one run over the same pictures under other names."""
    model = tmp_path / "net.onnx"
    model.write_bytes(semantic_model().SerializeToString())
    pictures = write_jpegs(tmp_path / "pictures", 60)
    names = np.random.default_rng(1).permutation(60).tolist()
    shuffled = write_jpegs(tmp_path / "shuffled", 60, names)
    ranges, finished = tmp_path / "ranges.json", 0
    for _ in range(2):
        with subprocess.Popen(
            export(model, pictures, ranges, _SLOW), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                for _ in range(10):
                    assert process.stdout.readline() == "reading\n"
                process.send_signal(signal.SIGINT)
                _, error = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == 130
        assert "Traceback" not in error
        assert not ranges.exists()
        (part,) = tmp_path.glob("ranges.json*.part")  # of the first pass, be it for channels or for ranges
        now = len(json.loads(part.read_bytes())["done"])
        assert finished + 5 < now < 60
        finished = now

    report = tmp_path / "report.json"
    command = [*export(model, pictures, ranges), "--json", str(report)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    assert f"{finished} of them were finished in an earlier run" in report.read_text()
    assert not list(tmp_path.glob("ranges.json*.part"))
    for sentence in ("the last quarter of 60 pictures widened", ".jpg set most ranges"):
        assert sentence in said
    subprocess.run(
        export(model, shuffled, tmp_path / "whole.json"), cwd=ROOT, capture_output=True, timeout=120, check=True
    )
    for written in tmp_path.glob("ranges.json*"):
        assert written.read_bytes() == (tmp_path / written.name.replace("ranges", "whole")).read_bytes()
    assert ranges.exists()

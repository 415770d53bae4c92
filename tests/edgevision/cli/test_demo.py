"""The demo leaves what it promises, and what it prints is what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import pytest

from edgevision.bundle import Bundle
from edgevision.cli import main


def test_the_whole_job_on_a_few_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    assert main(["demo", "--output", str(folder), "--pictures", "4", "--frames", "6"]) == 0
    said = capsys.readouterr().out
    report = json.loads((folder / "report.json").read_text())
    for name, metric in (("aerial_detector", "map_50"), ("aerial_segmenter", "miou")):
        assert "$ edgevision export" in said
        graphs = report[name]["eval"]["graphs"]
        assert {"model.onnx", "tensorrt.onnx", "tensorrt_fp16.onnx"} <= graphs.keys()
        assert Bundle(folder / f"{name}.edge").manifest.precision == "int8"
        for scores in graphs.values():
            assert f"{scores[metric]:.3f}" in said
        assert report[name]["run"]["frames"]["processed"] == 6
        assert len((folder / f"{name}.jsonl").read_text().splitlines()) == 6
        with av.open(str(folder / f"{name}.mp4")) as video:
            assert sum(1 for _ in video.decode(video=0)) == 6
    sheet = cv2.imread(str(folder / "contact_sheet.png"))
    assert sheet.shape[0] > 6 * 270
    text = (folder / "report.md").read_text()
    assert "mAP50" in text
    assert "mIoU" in text
    assert "contact_sheet.png" in text
    assert not list(folder.glob(".*.part"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["demo", "--output", str(tmp_path / "file" / "demo"), "--quiet"]) == 2
    assert "file/demo" in capsys.readouterr().err

"""`bench` and `eval` on the stand-in GPU, and several models in one process."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import edgevision
from edgevision.cli import main
from edgevision.evaluation import evaluate, open_dataset
from edgevision.sources.gstreamer_python import REMEDY, find_gstreamer
from tests.device_models import noise
from tests.standins import cuda as standin
from tests.standins.tensorrt import Standin
from tests.tiny_models import COLOURS, segmenter_bundle


@pytest.fixture
def segmenter(tmp_path: Path) -> Path:
    return segmenter_bundle(tmp_path / "m.edge", (16, 16))


@pytest.fixture
def masks(tmp_path: Path) -> str:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        picture = noise(32, 32, number)
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), picture)
        cv2.imwrite(str(tmp_path / f"masks/{number}.png"), picture[:, :, ::-1].argmax(axis=2).astype(np.uint8))
    (tmp_path / "classes.txt").write_text("\n".join(COLOURS))
    return f"masks:{tmp_path / 'images'}:{tmp_path / 'masks'}:{tmp_path / 'classes.txt'}"


@pytest.mark.parametrize("scenario", ["single-stream", "offline"])
def test_bench_says_what_ran(
    trt: Standin, segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scenario: str
) -> None:
    report = tmp_path / "bench.json"
    arguments = ["bench", str(segmenter), "--scenario", scenario, "--duration", "0.01", "--backend", "tensorrt"]
    assert main([*arguments, "--json", str(report)]) == 0
    data = json.loads(report.read_text())
    assert (data["model"]["backend"], data["model"]["cuda_graph"]) == ("tensorrt", True)
    assert data["lanes"] == (1 if scenario == "single-stream" else 2)
    assert set(data["stages_ms"]) == {"preprocess", "inference", "postprocess"}
    text = capsys.readouterr().out
    assert "on stand-in GPU (SM 87), TensorRT 10.3.0, model.onnx (fp32), replayed as a CUDA graph" in text


def test_cameras_come_in_nv12_and_are_uploaded_so(trt: Standin, driver: standin.Driver, segmenter: Path) -> None:
    if find_gstreamer() is None:
        pytest.skip(f"needs GStreamer: {REMEDY}")
    camera = "gst:videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=30/1"
    before = driver.counters()
    assert main(["run", str(segmenter), camera, "--backend", "tensorrt", "--frames", "8", "--quiet"]) == 0
    uploaded = driver.counters()["upload_bytes"] - before.get("upload_bytes", 0)
    frames = 8 * 320 * 240 * 3 // 2
    assert frames <= uploaded < frames + 100_000  # and what the kernels are told once


def test_eval_gives_the_cpus_figures(
    trt: Standin, segmenter: Path, masks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(segmenter), "--dataset", masks, "--json", "-"]) == 0
    got = json.loads(capsys.readouterr().out)
    wanted = evaluate(segmenter, open_dataset(masks))
    assert got["model"]["backend"] == "tensorrt"
    assert wanted["model"]["backend"] == "cpu"
    assert (got["miou"], got["pixel_accuracy"]) == (wanted["miou"], wanted["pixel_accuracy"])
    assert main(["eval", str(segmenter), "--dataset", masks, "--repeats", "2", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["backend"] == "cpu"  # only there the input can be dithered


def test_several_models_share_the_gpu(trt: Standin, tmp_path: Path) -> None:
    sizes = [(16, 16), (32, 16), (16, 32)]
    paths = [segmenter_bundle(tmp_path / f"{i}.edge", size) for i, size in enumerate(sizes)]
    models = [edgevision.load(path, backend="tensorrt", quiet=True) for path in paths]
    references = [edgevision.load(path, backend="cpu") for path in paths]
    for number in range(4):
        for model, reference in zip(models, references, strict=True):
            picture = noise(40, 30, number)
            np.testing.assert_array_equal(model(picture).class_map, reference(picture).class_map)
    models[1].close()
    np.testing.assert_array_equal(models[2](noise(8, 8)).class_map, references[2](noise(8, 8)).class_map)
    for model in (*models, *references):
        model.close()

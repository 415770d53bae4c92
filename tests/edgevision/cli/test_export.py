"""`edgevision export` as a user meets it: exit codes, messages, JSON, and a clean end when interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevision.bundle import Bundle
from edgevision.cli import main
from tests.export.builders import grid_priors, semantic_model, ssd_model

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(semantic_model().SerializeToString())
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        picture = np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.blur(picture, (5, 5)))
    return folder


PIXELS = ["--mean", "127.5", "--std", "120,121,122"]


def test_an_export_prints_what_was_decided_and_why(
    model: Path, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, report = tmp_path / "net.edge", tmp_path / "report.json"
    labels = tmp_path / "labels.txt"
    labels.write_text("sky\nroad\ncar\ntree\n")
    arguments = ["export", str(model), "-o", str(output), *PIXELS, "--calibration-images", str(pictures)]
    arguments += ["--labels", str(labels), "--color", "bgr", "--resize", "letterbox-topleft", "--pad-value", "0"]
    assert main([*arguments, "--json", str(report)]) == 0
    text = capsys.readouterr().out
    for expected in (
        "semantic (semantic), int8",
        "std: 120,121,122 (--std)",
        "color: bgr (--color)",
        f"wrote {output}",
    ):
        assert expected in text
    data = json.loads(report.read_text())
    keys = {"family", "task", "precision", "layers_int8", "layers_float", "accuracy", "bundle"}
    assert keys <= data.keys()
    manifest = Bundle(output).manifest
    assert manifest.labels == ("sky", "road", "car", "tree")
    assert (manifest.preprocess.resize, manifest.preprocess.pad_value) == ("letterbox-topleft", 0.0)
    assert manifest.preprocess.std == (120.0, 121.0, 122.0)


def test_json_on_standard_output_stands_alone(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(model), "-o", str(tmp_path / "a.edge"), *PIXELS, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "fp16"


def test_options_of_the_family_and_priors_reach_the_head(tmp_path: Path) -> None:
    model, priors = tmp_path / "ssd.onnx", tmp_path / "priors.npy"
    model.write_bytes(ssd_model().SerializeToString())
    np.save(priors, grid_priors(8, [0.2, 0.5])[:, [1, 0, 3, 2]])
    arguments = ["export", str(model), "-o", str(tmp_path / "ssd.edge"), "--precision", "fp32", "--priors", str(priors)]
    arguments += ["--head", "activation=sigmoid", "--head", "background=no", "--nms-iou", "0.3", "--confidence", "0.2"]
    assert main([*arguments, "--quiet"]) == 0
    manifest = Bundle(tmp_path / "ssd.edge").manifest
    assert manifest.nms is not None
    assert (manifest.nms.iou_threshold, manifest.nms.confidence) == (0.3, 0.2)
    assert manifest.preprocess.mean == (127.5,) * 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--preprocess"),
        (["--preprocess", "keras"], "--preprocess keras: expected tf"),
        (["--preprocess", "torch", "--mean", "1"], "leave out --mean"),
        (["--mean", "1"], "give --std, too"),
        (["--mean", "a"], "numbers"),
        (["--mean", "1,2"], "one or three"),
        (["--std", "inf"], "numbers"),
        (["--input-size", "640"], "WIDTHxHEIGHT"),
        (["--pad-value", "300"], "0..255"),
        (["--head", "activation"], "KEY=VALUE"),
        (["--precision", "int8"], "--calibration-images"),
        (["--precision", "int4"], "int4"),
        (["--labels", "coco80", *PIXELS], "80 classes"),
        (["--labels", "nowhere.txt", *PIXELS], "nowhere.txt"),
        (["--family", "yolov99", *PIXELS], "choose one of"),
        (["--calibration-images", "nowhere", *PIXELS], "no calibration pictures"),
        (["--json", "nowhere/x.json", *PIXELS], "nowhere"),
    ],
)
def test_bad_usage_is_one_clear_line_and_exit_2(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    output = tmp_path / "out.edge"
    try:
        code: object = main(["export", str(model), "-o", str(output), *arguments])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert complaint in error
    assert "Traceback" not in error
    assert not output.exists()


def test_a_missed_accuracy_goal_exits_1_and_writes_nothing(model: Path, tmp_path: Path, pictures: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for picture in pictures.iterdir():
        cv2.imwrite(str(masks / picture.name), np.indices((64, 64)).sum(axis=0).astype(np.uint8) // 16 % 4)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    spec = f"masks:{pictures}:{masks}:{tmp_path / 'classes.txt'}"
    arguments = [
        "export",
        str(model),
        "-o",
        str(tmp_path / "out.edge"),
        *PIXELS,
        "--labels",
        str(tmp_path / "classes.txt"),
    ]
    arguments += ["--calibration-images", str(pictures), "--dataset", spec, "--max-drop=-100", "--quiet"]
    assert main(arguments) == 1
    assert not (tmp_path / "out.edge").exists()


def cli(code: str, *arguments: str) -> list[str]:
    """A command that runs `code` and then the command line."""
    return [sys.executable, "-c", f"{code}\nimport sys\nfrom edgevision.cli import main\nsys.exit(main())", *arguments]


def test_ctrl_c_while_calibrating_stops_cleanly(model: Path, tmp_path: Path, pictures: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    # Announce the first picture and slow the others down, so that the signal surely falls into the calibration.
    code = """
import os, time
from edgevision.calibration.images import CalibrationImages
read = CalibrationImages.read
def announced(self, index):
    os.write(1, b"reading\\n")  # whole lines, also from two threads
    time.sleep(0.5)
    return read(self, index)
CalibrationImages.read = announced
"""
    command = cli(
        code, "export", str(model), "-o", str(out / "net.edge"), *PIXELS, "--calibration-images", str(pictures)
    )
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip().endswith("stopped")
    assert "Traceback" not in error
    assert not list(out.iterdir())


def test_a_full_disk_leaves_the_old_bundle(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "net.edge").write_bytes(b"the old bundle")
    # A limit on file size fails like a full disk: in the middle of a write.
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    command = cli(code, "export", str(model), "-o", str(out / "net.edge"), *PIXELS, "--precision", "fp32")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in out.iterdir()] == ["net.edge"]
    assert (out / "net.edge").read_bytes() == b"the old bundle"


# --- TensorRT's calibration cache -------------------------------------------------------------------------------------


def int8_arguments(model: Path, output: Path) -> list[str]:
    return ["export", str(model), "-o", str(output), *PIXELS, "--precision", "int8", "--quiet"]


def test_a_calibration_cache_carries_the_ranges_from_one_export_to_another(
    model: Path, tmp_path: Path, pictures: Path
) -> None:
    """Without pictures, the ranges of the cache give the graph that they came from."""
    first, second, cache = tmp_path / "a.edge", tmp_path / "b.edge", tmp_path / "cache.txt"
    images = ["--calibration-images", str(pictures)]
    written = ["--write-calibration-cache", str(cache), "8.6.1"]
    assert main([*int8_arguments(model, first), *images, *written]) == 0
    assert cache.read_text().startswith("TRT-8601-EntropyCalibration2\n")
    assert main([*int8_arguments(model, second), "--ranges", str(cache)]) == 0
    assert Bundle(first).read("tensorrt.onnx") == Bundle(second).read("tensorrt.onnx")


def test_tensors_that_a_calibration_cache_lacks_are_measured(
    model: Path, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, report = tmp_path / "cache.txt", tmp_path / "report.json"
    images = ["--calibration-images", str(pictures)]
    whole = [*int8_arguments(model, tmp_path / "a.edge"), *images]
    assert main([*whole, "--write-calibration-cache", str(cache), "8.6.1"]) == 0
    lines = cache.read_text().splitlines()
    cache.write_text("\n".join(lines[:2]) + "\n")
    partial = [*int8_arguments(model, tmp_path / "b.edge"), "--ranges", str(cache)]
    assert main(partial) == 2
    assert "--calibration-images to measure them on" in capsys.readouterr().err
    assert main([*partial, *images, "--json", str(report)]) == 0
    steps = {step["name"]: step["facts"] for step in json.loads(report.read_text())["steps"]}
    assert f"1 ranges from {cache}, {len(lines) - 2} from 3 pictures" in steps["calibrate"]["origin"]
    assert cache.read_text() == "\n".join(lines[:2]) + "\n"


def test_another_models_calibration_cache_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache.txt"
    cache.write_text("TRT-8601-EntropyCalibration2\nelsewhere: 3c010a14\n")
    assert main([*int8_arguments(model, tmp_path / "a.edge"), "--ranges", str(cache)]) == 2
    assert "it is for another model" in capsys.readouterr().err
    assert not (tmp_path / "a.edge").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["c.txt", "11.4.0", "--precision", "fp16"], "TensorRT 8 to 10"),
        (["c.txt", "8.6.1", "--precision", "fp16"], "this export is fp16"),
        (["no/such/c.txt", "8.6.1", "--calibration-images", "."], "does not exist"),
    ],
)
def test_a_calibration_cache_that_cannot_be_written_is_known_before_the_work(
    model: Path, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["export", str(model), "-o", str(tmp_path / "a.edge"), *PIXELS, "--write-calibration-cache", *arguments]
    assert main(wanted) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "a.edge").exists()

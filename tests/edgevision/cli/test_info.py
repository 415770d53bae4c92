"""`edgevision info` on bundles, models and plans."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from edgevision.bundle import Bundle, write_bundle
from edgevision.cli import main
from edgevision.export import ExportConfig, export_model
from edgevision.export.families import families
from edgevision.manifest import GraphInfo, Preprocess
from tests.export.builders import Builder, backbone, grid_priors, rows, ssd_model, yolov8_model
from tests.export.plugin_kit import ALWAYS, install
from tests.tiny_models import detector_manifest


def info(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, object]]:
    """What the verb prints, and its JSON."""
    report = path.parent / "info.json"
    assert main(["info", str(path), "--json", str(report)]) == 0
    return capsys.readouterr().out, json.loads(report.read_text())


def test_a_model_says_its_family_why_and_what_it_would_be_fed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "yolo.onnx"
    path.write_bytes(yolov8_model().SerializeToString())
    text, data = info(path, capsys)
    assert data["family"] == "yolov8"
    assert data["inputs"] == {"image": "float [1, 3, 64, 96]"}
    for expected in ("yes: output 'output0' [1, 7, 126]", "96x64 nchw float32, letterbox, rgb", "Conv", "ai.onnx 17"):
        assert expected in text


def test_a_model_that_needs_flags_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ssd.onnx"
    path.write_bytes(ssd_model().SerializeToString())
    text, data = info(path, capsys)
    assert "family" not in data
    for flag in ("--priors", "activation=", "background="):
        assert flag in str(data["missing"])
        assert flag in text
    assert "ssd: yes" in text


def test_a_bundle_says_what_it_holds_and_which_graph_a_cpu_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, path = tmp_path / "ssd.onnx", tmp_path / "ssd.edge"
    metadata = {"family": "ssd", "labels": list("abcde"), "ssd": {"activation": "sigmoid"}}
    source.write_bytes(ssd_model(priors=grid_priors(8, [0.2, 0.5]), metadata=metadata).SerializeToString())
    export_model(source, path, ExportConfig(precision="fp16", mean=(0.0,) * 3, std=(255.0,) * 3))
    text, data = info(path, capsys)
    assert (data["task"], data["family"], data["precision"]) == ("detection", "ssd", "fp16")
    for name, entry in Bundle(path).manifest.files.items():
        assert name in text
        assert entry.sha256[:16] in text
    for expected in ("5: a, b, c, d, e", "iou_threshold 0.45", "CPU runs    model.onnx", "scores_sqnr_db"):
        assert expected in text


def test_an_input_of_its_own_is_shown_with_its_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = Preprocess("image", (64, 48), "nhwc", "uint8", color="bgr")
    manifest = detector_manifest(
        graphs={"model.onnx": GraphInfo("fp32"), "cpu.onnx": GraphInfo("int8", preprocess=own)}
    )
    write_bundle(tmp_path / "m.edge", manifest, {"model.onnx": b"", "cpu.onnx": b""})
    text, data = info(tmp_path / "m.edge", capsys)
    graphs: Any = data["graphs"]
    assert graphs["cpu.onnx"]["preprocess"]["dtype"] == "uint8"
    (line,) = [line for line in text.splitlines() if line.startswith("input") and "nhwc uint8" in line]
    assert line.endswith("cpu.onnx alone")
    assert text.count("input       image: 64x48") == 2


def test_a_tampered_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, path = tmp_path / "yolo.onnx", tmp_path / "yolo.edge"
    source.write_bytes(yolov8_model().SerializeToString())
    export_model(source, path, ExportConfig(precision="fp32"))
    data = bytearray(path.read_bytes())
    at = data.find(b"edgevision_decode/boxes")
    data[at] ^= 1
    path.write_bytes(data)
    assert main(["info", str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(("mark", "runtime"), [(b"vtrt", "TensorRT-RTX"), (b"ftrt", "TensorRT")])
def test_a_plan_says_that_it_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mark: bytes, runtime: str
) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(mark + b"\0" * 100)
    text, data = info(path, capsys)
    assert (data["kind"], data["runtime"], data["bytes"]) == ("plan", runtime, 104)
    assert "edgevision build" in text


def test_a_plan_in_ultralytics_wrapping_is_seen_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.engine"
    facts = json.dumps({"task": "detect", "stride": 32}).encode()
    path.write_bytes(struct.pack("<I", len(facts)) + facts + b"ftrt" + b"\0" * 50)
    text, data = info(path, capsys)
    assert data["wrapper"] == {"task": "detect", "stride": 32}
    assert "Ultralytics" in text


@pytest.mark.parametrize("content", [b"", b"plain text", b"PK\x03\x04", b"\0" * 1000])
def test_anything_else_is_an_error_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = tmp_path / "thing"
    path.write_bytes(content)
    assert main(["info", str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main(["info", str(tmp_path / "absent")]) == 2
    assert main(["info", str(tmp_path)]) == 2


def test_the_real_models_are_explained(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, expected in (
        ("ssd_mobilenet_v1_coco_raw", "--priors"),
        ("deeplabv3_mnv2_voc_513", "give --preprocess as in training, which is tf"),
        ("ultraface_rfb_320", "family      ssd (detection), 1 classes"),
        ("yolox_nano", "--family yolov8"),
    ):
        assert main(["info", str(shared / "models" / f"{name}.onnx")]) == 0
        assert expected in capsys.readouterr().out


def test_a_model_that_no_family_recognises_lists_what_each_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    b, path = Builder(), tmp_path / "unknown.onnx"
    feature = backbone(b)
    for name, width in (("cls", 3), ("obj", 1), ("box", 4)):
        rows(b, feature, 16, 1, width, out=name)
    path.write_bytes(b.model({"image": [1, 3, 64, 64]}, ["cls", "obj", "box"]).SerializeToString())
    text, data = info(path, capsys)
    assert set(data["considered"]) == set(families())  # type: ignore[call-overload]
    for name, answer in data["considered"].items():  # type: ignore[attr-defined]
        assert answer.startswith("no: ")
        assert text.count(f"  {name}: {answer}") == 1
    assert "no family recognises the model, whose outputs are cls [1, 64, 3]" in text
    assert "--head-spec" in text


def test_a_model_that_several_families_recognise_lists_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "always = info_module:HEAD", ALWAYS, "info")
    path = tmp_path / "yolo.onnx"
    path.write_bytes(yolov8_model().SerializeToString())
    text, data = info(path, capsys)
    assert "  always: yes: it says yes" in text
    assert "  yolov8: yes: " in text
    assert "  yolox: no: " in text
    assert "several families recognise the model" in str(data["missing"])
    assert "family" not in data


def test_a_family_that_the_file_names_is_the_only_one_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ssd.onnx"
    path.write_bytes(ssd_model(metadata={"family": "ssd"}).SerializeToString())
    text, _ = info(path, capsys)
    assert "  yolov8: not asked: the metadata says ssd" in text

"""The whole export: what a bundle holds at each precision, and that nothing is left behind when it fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

import edgevision
from edgevision import cli
from edgevision.bundle import Bundle
from edgevision.calibration import CalibrationImages
from edgevision.errors import CalibrationError, DatasetError, EdgeVisionError, ModelError, UsageError
from edgevision.export import ExportConfig, acceptance, export_model, pipeline
from edgevision.export.graph import Graph
from edgevision.export.verification import compare, concerns, input_tensors, run_graph
from edgevision.manifest import Preprocess
from tests.export.builders import Builder, backbone, grid_priors, rows, semantic_model, ssd_model

METADATA = {
    "family": "ssd",
    "labels": ["car", "truck", "person", "dog", "pad"],
    "preprocess": {"mean": 127.5, "std": 127.5},
    "ssd": {"activation": "sigmoid", "background": False, "coder": "torchvision"},
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six small pictures with structure."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(6):
        small = random.integers(0, 255, (8, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(small, (80, 72), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    path = tmp_path / "detector.onnx"
    path.write_bytes(ssd_model(priors=grid_priors(8, [0.2, 0.5]), metadata=METADATA).SerializeToString())
    return path


@pytest.fixture
def segmenter(tmp_path: Path) -> Path:
    metadata = {"family": "semantic", "labels": list("abcd"), "preprocess": {"mean": 127.5, "std": 127.5}}
    path = tmp_path / "segmenter.onnx"
    path.write_bytes(semantic_model(metadata=metadata).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("precision", "graphs"),
    [
        ("fp32", {"model.onnx": "fp32"}),
        ("fp16", {"model.onnx": "fp32", "tensorrt.onnx": "fp16"}),
        ("int8", {"model.onnx": "fp32", "tensorrt.onnx": "int8", "tensorrt_fp16.onnx": "fp16"}),
    ],
)
@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_a_bundle_holds_what_its_precision_promises(
    request: pytest.FixtureRequest, tmp_path: Path, pictures: Path, kind: str, precision: str, graphs: dict[str, str]
) -> None:
    source, output = request.getfixturevalue(kind), tmp_path / "model.edge"
    images = pictures if precision == "int8" else None
    report = export_model(source, output, ExportConfig(precision=precision, calibration_images=images, quiet=True))
    bundle = Bundle(output)
    manifest = bundle.manifest
    kept = {name: info.precision for name, info in manifest.graphs.items()}
    if precision == "int8" and manifest.cpu_graph == "cpu.onnx":
        graphs = {**graphs, "cpu.onnx": "int8"}
    assert kept == graphs
    assert manifest.cpu_graph_reason
    assert manifest.precision == report.precision == precision
    assert manifest.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert {name for name, info in manifest.graphs.items() if info.dynamic_batch} == set(graphs) - {"cpu.onnx"}
    for name in graphs:
        onnx.checker.check_model(onnx.load_model_from_string(bundle.read(name)), full_check=True)
    assert ("ranges.json" in manifest.files) == (precision == "int8")
    stored = bundle.report()
    assert [step["name"] for step in stored["steps"]][:4] == ["load", "identify", "normalise", "simplify"]
    assert stored["bundle"] == report.bundle == str(output)

    picture = cv2.imread(str(pictures / "0.png"))
    with edgevision.load(output) as model:
        result = model(picture)
    if kind == "segmenter":
        assert result.class_map.shape == picture.shape[:2]
    else:
        assert result.xyxy.shape[1] == 4


def test_a_network_for_one_picture_alone_is_exported_as_such_and_says_why(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    b = Builder()
    x = backbone(b)
    x = b.op("Gather", x, b.constant(np.array([0, 0])), axis=0)
    x = b.op("ReduceMean", x, b.constant(np.array([0])), keepdims=1)
    x = b.op("Resize", b.conv(x, 16, 4), "", b.constant(np.array([1, 1, 8, 8], np.float32)), mode="linear")
    b.op("Identity", x, out="logits")
    source, output = tmp_path / "alone.onnx", tmp_path / "alone.edge"
    source.write_bytes(b.model({"image": [1, 3, 64, 64]}, ["logits"], opset=18).SerializeToString())
    config = ExportConfig(calibration_images=pictures, mean=(0,) * 3, std=(255,) * 3, family="semantic", quiet=True)
    report = export_model(source, output, config)
    facts = next(step.facts for step in report.steps if step.name == "batch")
    assert set(facts) == {"model.onnx", "tensorrt.onnx", "tensorrt_fp16.onnx"}
    assert all(why.startswith("one picture: node 'node_t6' (Gather) gives [2, 16, 8, 8]") for why in facts.values())
    assert not any(info.dynamic_batch for info in Bundle(output).manifest.graphs.values())
    with edgevision.load(output) as model:
        assert model(cv2.imread(str(pictures / "0.png"))).class_map.shape == (72, 80)
    assert cli.main(["info", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "tensorrt.onnx takes one picture: node 'node_t6' (Gather)" in shown


def test_int8_quantises_and_reports_every_layer_with_a_reason(detector: Path, tmp_path: Path, pictures: Path) -> None:
    output = tmp_path / "model.edge"
    report = export_model(detector, output, ExportConfig(calibration_images=pictures, quiet=True))
    assert report.precision == "int8", "calibration images mean int8"
    assert report.layers_int8 > 0
    assert report.layers_int8 + report.layers_float == 5
    emit = next(step.facts for step in report.steps if step.name == "emit")
    groups = emit["tensorrt"]
    assert all(group["reason"] for group in groups)
    convolutions = [node for group in groups if group["operator"] == "Conv" for node in group["nodes"]]
    assert len(convolutions) == 5
    tensorrt = Graph(onnx.load_model_from_string(Bundle(output).read("tensorrt.onnx")))
    assert sum(node.op_type == "QuantizeLinear" for node in tensorrt.nodes) >= report.layers_int8


def test_exporting_twice_gives_the_same_graphs_and_ranges(detector: Path, tmp_path: Path, pictures: Path) -> None:
    config = ExportConfig(calibration_images=pictures, quiet=True)
    outputs = [tmp_path / "a.edge", tmp_path / "b.edge"]
    for output in outputs:
        export_model(detector, output, config)
    first, second = (Bundle(output) for output in outputs)
    for name in ("model.onnx", "tensorrt.onnx", "tensorrt_fp16.onnx", "ranges.json"):
        assert first.read(name) == second.read(name)


def test_ranges_are_reused_while_they_fit(detector: Path, tmp_path: Path, pictures: Path) -> None:
    config = ExportConfig(calibration_images=pictures, ranges=tmp_path / "ranges.json", quiet=True)
    origins = []
    for _ in range(2):
        report = export_model(detector, tmp_path / "model.edge", config)
        origins.append(next(step.facts["origin"] for step in report.steps if step.name == "calibrate"))
    assert origins[0].startswith("ranges collected")
    assert "reused" in origins[1]


def test_corrupt_pictures_among_good_ones_are_skipped_and_named(detector: Path, tmp_path: Path, pictures: Path) -> None:
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (pictures / "empty.png").write_bytes(b"")
    report = export_model(detector, tmp_path / "model.edge", ExportConfig(calibration_images=pictures, quiet=True))
    calibrated = next(step.facts for step in report.steps if step.name == "calibrate")
    assert calibrated["skipped"] == ["broken.jpg", "empty.png"]
    assert calibrated["images"] == 6
    assert any("broken.jpg" in warning for warning in report.warnings)


def nan_model(folder: Path) -> Path:
    """A detector whose scores are not a number on every picture."""
    b = Builder()
    feature = backbone(b)
    zero = b.op("Sub", feature, feature)
    rows(b, b.op("Div", zero, zero), 16, 2, 5, out="scores")
    rows(b, feature, 16, 2, 4, out="boxes")
    b.op("Identity", b.constant(grid_priors(8, [0.2, 0.5]), "p"), out="priors")
    path = folder / "nan.onnx"
    model = b.model(
        {"image": [1, 3, 64, 64]}, ["scores", "boxes", "priors"], metadata={"edgevision": json.dumps(METADATA)}
    )
    path.write_bytes(model.SerializeToString())
    return path


def mismatched_channels(folder: Path) -> Path:
    """A convolution whose weights do not fit; ONNX's own checks do not see it."""
    model = ssd_model(priors=grid_priors(8, [0.2, 0.5]), metadata=METADATA)
    model.graph.initializer[2].dims[:] = [16, 4, 3, 6]
    path = folder / "mismatched.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("prepare", "config", "error", "complaint"),
    [
        (lambda d: d / "absent.onnx", {}, ModelError, "does not exist"),
        (nan_model, {}, ModelError, "NaN"),
        (mismatched_channels, {}, ModelError, "does not run|contradict"),
        (lambda d: d / "detector.onnx", {"labels": "coco80"}, UsageError, "80"),
        (lambda d: d / "detector.onnx", {"calibration_images": "EMPTY"}, CalibrationError, "no calibration pictures"),
        (lambda d: d / "detector.onnx", {"calibration_images": "BROKEN"}, CalibrationError, "readable"),
        (
            lambda d: d / "detector.onnx",
            {"calibration_images": "PICTURES", "dataset": "coco:none.json:nowhere", "max_drop": 1.0},
            DatasetError,
            "none.json",
        ),
    ],
)
def test_a_failed_export_leaves_the_old_bundle_and_nothing_else(
    detector: Path,
    tmp_path: Path,
    pictures: Path,
    prepare: Callable[[Path], Path],
    config: dict[str, Any],
    error: type[EdgeVisionError],
    complaint: str,
) -> None:
    for name in ("EMPTY", "BROKEN"):
        (tmp_path / name).mkdir()
    (tmp_path / "BROKEN/a.jpg").write_bytes(b"no picture")
    if "calibration_images" in config:
        folder = config["calibration_images"]
        config = {**config, "calibration_images": pictures if folder == "PICTURES" else tmp_path / folder}
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.edge").write_bytes(b"the old bundle")
    with pytest.raises(error, match=complaint):
        export_model(prepare(tmp_path), out / "model.edge", ExportConfig(quiet=True, **config))
    assert [path.name for path in out.iterdir()] == ["model.edge"]
    assert (out / "model.edge").read_bytes() == b"the old bundle"


@pytest.mark.parametrize("step", ["prepare", "quantise", "emit", "verify", "write_bundle"])
def test_ctrl_c_at_any_step_leaves_nothing_behind(
    detector: Path, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, step, stop)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        export_model(detector, out / "model.edge", ExportConfig(calibration_images=pictures, quiet=True))
    assert not list(out.iterdir())


def test_outputs_that_cannot_be_written_are_found_before_the_work(detector: Path, tmp_path: Path) -> None:
    config = ExportConfig(precision="fp32")
    for output, complaint in (
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "model.edge", "does not exist"),
        (detector, "overwrite"),
    ):
        with pytest.raises(UsageError, match=complaint):
            export_model(detector, output, config)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"precision": "int8"}, "--calibration-images"),
        ({"precision": "int4"}, "precision"),
        ({"precision": "fp32", "color": "hsv"}, "color"),
        ({"precision": "fp32", "confidence": 2.0}, "confidence"),
        ({"precision": "fp32", "input_wh": (0, 5)}, "input_wh"),
        ({"calibration_images": "x", "calibration_limit": 0}, "calibration_limit"),
        ({"calibration_images": "x", "dataset": "coco:a:b"}, "--max-drop"),
        ({"precision": "fp16", "dataset": "coco:a:b", "max_drop": 1.0}, "INT8"),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        ExportConfig(**options)


# The accuracy gate


def mask_dataset(segmenter: Path, pictures: Path, folder: Path) -> str:
    """Masks as the float model itself draws them, so that float scores 1."""
    export_model(segmenter, folder / "float.edge", ExportConfig(precision="fp32"))
    masks = folder / "masks"
    masks.mkdir()
    with edgevision.load(folder / "float.edge") as model:
        for picture in pictures.iterdir():
            cv2.imwrite(str(masks / f"{picture.stem}.png"), model(cv2.imread(str(picture))).class_map)
    (folder / "classes.txt").write_text("a\nb\nc\nd\n")
    return f"masks:{pictures}:{masks}:{folder / 'classes.txt'}"


@pytest.mark.parametrize(("max_drop", "kept"), [(100.0, True), (-50.0, False)])
def test_the_gate_decides_whether_a_bundle_is_written(
    segmenter: Path, tmp_path: Path, pictures: Path, max_drop: float, kept: bool
) -> None:
    spec = mask_dataset(segmenter, pictures, tmp_path)
    output = tmp_path / "gated.edge"
    config = ExportConfig(calibration_images=pictures, dataset=spec, max_drop=max_drop, quiet=True)
    report = export_model(segmenter, output, config)
    assert report.accuracy["metric"] == "miou"
    assert report.accuracy["model.onnx"] > 0.9
    assert report.accuracy["passed"] is kept
    assert (report.bundle != "") is kept
    assert output.exists() is kept


# Verification


def test_equal_outputs_are_perfect_and_noise_is_measured() -> None:
    random = np.random.default_rng(0)
    reference = [{"scores": random.random((1, 50, 3)), "boxes": random.random((1, 50, 4)) * 300}]
    assert compare(reference, reference) == {"scores_sqnr_db": 200.0, "boxes_error_px": 0.0}
    noisy = [{"scores": reference[0]["scores"] * 1.01, "boxes": reference[0]["boxes"] + 2.0}]
    facts = compare(reference, noisy)
    assert facts["scores_sqnr_db"] == pytest.approx(40.0, abs=0.01)  # 1 % amplitude error
    assert facts["boxes_error_px"] == pytest.approx(2.0)
    maps = [{"class_map": np.arange(100).reshape(1, 10, 10) % 7}]
    other = [{"class_map": np.where(np.arange(100).reshape(1, 10, 10) < 25, 9, maps[0]["class_map"])}]
    assert compare(maps, other) == {"map_agreement": 0.75}


def test_a_large_loss_is_a_concern_and_a_usual_one_is_not() -> None:
    assert concerns("int8", {"scores_sqnr_db": 25.0, "map_agreement": 0.97}) == []
    assert len(concerns("int8", {"scores_sqnr_db": 5.0})) == 1
    assert len(concerns("fp16", {"map_agreement": 0.97})) == 1


def test_a_graph_with_infinite_values_is_refused() -> None:
    b = Builder()
    b.op("Exp", b.op("Mul", b.conv("image", 3, 3), b.constant(np.float32(1e9))), out="out")
    data = b.model({"image": [1, 3, 8, 8]}, ["out"]).SerializeToString()
    with pytest.raises(ModelError, match="infinite"):
        run_graph(data, [np.ones((1, 3, 8, 8), np.float32)], exact=False)


def test_verification_without_pictures_draws_the_same_ones_each_time(pictures: Path) -> None:
    spec = Preprocess("image", (64, 48), mean=(127.5,) * 3, std=(127.5,) * 3)
    first, second = input_tensors(spec, None), input_tensors(spec, None)
    assert len(first) == 8
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert all(tensor.std() > 0.1 for tensor in first)
    given = input_tensors(spec, CalibrationImages(pictures))
    assert len(given) == 6


@pytest.mark.parametrize(
    ("speed_up", "noise", "reason"),
    [(1e9, [], "times as fast as float"), (0.0, ["scores carry 5.6 dB more noise"], "5.6 dB more noise")],
)
def test_a_slower_or_noisier_cpu_graph_is_not_kept(
    detector: Path,
    tmp_path: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    speed_up: float,
    noise: list[str],
    reason: str,
) -> None:
    monkeypatch.setattr(acceptance, "_LEAST_SPEED_UP", speed_up)
    monkeypatch.setattr(acceptance, "noisier", lambda *_: noise)
    output = tmp_path / "model.edge"
    export_model(detector, output, ExportConfig(calibration_images=pictures, quiet=True))
    manifest = Bundle(output).manifest
    assert manifest.cpu_graph == "model.onnx"
    assert "cpu.onnx" not in manifest.files
    assert reason in manifest.cpu_graph_reason

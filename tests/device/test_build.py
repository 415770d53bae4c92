"""`edgevision build` for this machine, with every version of TensorRT: plan cache and calibrators included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgevision import precision_race
from edgevision.bundle import write_bundle
from edgevision.calibration import CalibrationImages
from edgevision.calibration.tensorrt_cache import read_cache
from edgevision.calibration.tensorrt_calibrator import TensorRTCalibration
from edgevision.cli import main
from edgevision.cuda import Device
from edgevision.errors import CalibrationError
from edgevision.export.emit_tensorrt import emit_tensorrt
from edgevision.export.half import to_half
from edgevision.export.placement import plan_placement
from edgevision.kernels.cpu import Preprocessor
from edgevision.manifest import GraphInfo, Manifest, Preprocess
from tests.export.networks import Net, measured, pictures
from tests.standins import cuda
from tests.standins.tensorrt import Standin, World, install, versions

FULL = tuple(version for version in versions() if not version.startswith("rtx"))
WEAK = tuple(version for version in FULL if not version.startswith("11"))
SPEC = Preprocess("image", (16, 16), mean=(127.5,) * 3, std=(127.5,) * 3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = Net()
    x = net.op("Relu", net.convolution("image", 3, 16, out="stem"), out="features")
    net.convolution(net.convolution(x, 16, 16, out="layer"), 16, 4, out="logits")
    graph = net.graph("logits")
    plan = plan_placement(graph)
    files = {
        "model.onnx": graph,
        "tensorrt.onnx": emit_tensorrt(graph, plan, measured(graph, plan.observed, pictures(net.input, 2))),
        "tensorrt_fp16.onnx": to_half(graph),
    }
    infos = {
        "model.onnx": GraphInfo("fp32", 0, 3),
        "tensorrt.onnx": GraphInfo("int8", 2, 1),
        "tensorrt_fp16.onnx": GraphInfo("fp16", 0, 3),
    }
    path = tmp_path_factory.mktemp("bundle") / "tiny.edge"
    manifest = Manifest("tiny", "semantic", "semantic", "int8", tuple("abcd"), SPEC, infos)
    write_bundle(path, manifest, {name: graph.serialize() for name, graph in files.items()})
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        picture = np.random.default_rng(index).integers(0, 256, (40, 30, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgevision" / "plans"


@pytest.fixture(params=FULL)
def standin(request: pytest.FixtureRequest, device: Device) -> Iterator[Standin]:
    with install(request.param) as installed:
        yield installed
    assert installed.world.errors == []


def report(*arguments: object, code: int = 0, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["build", *map(str, arguments), "--json", "-"]) == code
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


# --- the plan cache ---------------------------------------------------------------------------------------------------


def test_a_plan_goes_to_the_cache_and_is_found_there_again(
    standin: Standin, bundle: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = report(bundle, capsys=capsys)
    assert (first["rung"], first["reasons"], first["convolutions"]) == ("int8", [], {"int8": 2, "promised": 2})
    assert Path(first["plan"]).parent == cache
    assert Path(first["plan"]).stat().st_size == first["bytes"]
    again = report(bundle, capsys=capsys)
    assert again == first
    assert len(standin.world.builds) == 1
    report(bundle, "--refresh", capsys=capsys)
    assert len(standin.world.builds) == 2


def test_other_options_make_another_plan(standin: Standin, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = {
        report(bundle, *options, capsys=capsys)["plan"]
        for options in ([], ["--precision", "fp16"], ["--workspace", "64"], ["--optimization-level", "1"])
    }
    assert len(plans) == 4


def test_int8_and_fp16_are_timed_side_by_side(
    standin: Standin, bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_race, "DURATION_S", 0.05)
    monkeypatch.setenv("EDGEVISION_NVCC", str(Path(cuda.__file__).parents[1] / "nvcc"))
    data = report(bundle, "--precision", "int8", "--compare-fp16", capsys=capsys)
    speedup = data["int8_over_fp16"]
    assert 0 < speedup["p25"] <= speedup["median"] <= speedup["p75"]
    assert len(standin.world.builds) == 2
    assert report(bundle, capsys=capsys)["int8_over_fp16"] is None


@pytest.mark.parametrize(("median", "asked", "code"), [(1.5, False, 0), (0.8, False, 1), (0.8, True, 0)])
def test_int8_that_is_slower_is_refused_unless_it_was_asked_for(
    standin: Standin,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    median: float,
    asked: bool,
    code: int,
) -> None:
    figures = {"p25": median - 0.1, "median": median, "p75": median + 0.1}
    monkeypatch.setattr(precision_race, "int8_over_fp16", lambda *_, **__: figures)
    copy = tmp_path / "copy.plan"
    arguments = ["build", str(bundle), "--compare-fp16", "-o", str(copy), *(["--precision", "int8"] if asked else [])]
    assert main(arguments) == code
    said = capsys.readouterr().out
    assert f"INT8 is {median:.2f} times as fast as FP16 here" in said
    assert ("--precision fp16" in said) is (median < 1)
    assert copy.exists() is (code == 0)


def test_a_copy_is_written_where_asked(
    standin: Standin, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cached = report(bundle, capsys=capsys)["plan"]
    copy = tmp_path / "copy.plan"
    assert report(bundle, "-o", copy, capsys=capsys)["plan"] == str(copy)
    assert copy.read_bytes() == Path(cached).read_bytes()


def test_a_lower_rung_is_told_with_its_reason(
    standin: Standin, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    standin.world.no_int8.add("node_layer")
    standin.world.no_half.add("node_layer")
    assert main(["build", str(bundle)]) == 0
    said = capsys.readouterr().out
    assert "built in fp32 instead of int8, because:" in said
    for rung in ("int8: ", "int8-partial: ", "fp16: "):
        assert f"\n  {rung}" in said
    assert "implementation for node node_layer" in said


# --- TensorRT's own calibrators ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["entropy", "minmax"])
@pytest.mark.parametrize("version", WEAK)
def test_a_calibrator_sees_the_pictures_as_the_runtime_would(
    version: str, kind: str, device: Device, photos: Path, tmp_path: Path
) -> None:
    """Every batch that lies in device memory, against the CPU's preprocessing; the last is filled up."""
    images = CalibrationImages(photos)
    calibration = TensorRTCalibration(kind, images, SPEC, device, batch=2, quiet=True)
    preprocessor = Preprocessor(SPEC)
    wanted = [np.zeros(preprocessor.shape[1:], np.float32) for _ in range(len(images))]
    for (_, image), tensor in zip(images, wanted, strict=True):
        preprocessor(image, tensor)
    seen: list[np.ndarray] = []
    with install(version), calibration.open(api_of(version)) as calibrator:
        assert calibrator.get_batch_size() == 2
        stream = device.stream()
        while addresses := calibrator.get_batch(["image"]):
            batch = device.pinned((2, 3, 16, 16), np.float32)
            device.download(batch.array, addresses[0], stream)
            stream.synchronize()
            seen += list(batch.array.copy())
            batch.close()
        stream.close()
    assert len(seen) == 6
    np.testing.assert_array_equal(seen, [*wanted, wanted[-1]])


def api_of(version: str) -> Any:
    from edgevision.backends.tensorrt_api import load_api

    return load_api("tensorrt")


@pytest.mark.parametrize("kind", ["entropy", "minmax"])
@pytest.mark.parametrize("version", WEAK)
def test_building_with_a_calibrator_writes_and_reuses_its_cache(
    version: str,
    kind: str,
    device: Device,
    bundle: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = tmp_path / "calibration.txt"
    legacy = ["--calibrator", kind, "--calibration-cache", str(cache)]
    with install(version) as standin:
        built = report(bundle, *legacy, "--calibration-images", photos, capsys=capsys)
        assert built["rung"] == "int8"
        products = {n: layer["precision"] for layer in built["layers"] for n in layer["onnx_nodes"]}
        assert products["node_layer"] == "int8"
        ranges = read_cache(cache.read_bytes())
        assert {"image", "features"} <= set(ranges)
        report(bundle, *legacy, capsys=capsys)
        assert standin.world.errors == []
    limit = max(float(np.abs(tensor).max()) for tensor in inputs(photos))
    assert ranges["image"].symmetric_limit("mse") == pytest.approx(limit, rel=1e-6)


def inputs(photos: Path) -> Iterator[np.ndarray]:
    preprocessor = Preprocessor(SPEC)
    for _, image in CalibrationImages(photos):
        tensor = np.zeros(preprocessor.shape[1:], np.float32)
        preprocessor(image, tensor)
        yield tensor


def test_calibrators_are_gone_in_version_11(
    device: Device, bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with install("11.4.0.106"):
        arguments = ["build", str(bundle), "--calibrator", "entropy", "--calibration-images", str(photos)]
        assert main(arguments) == 2
    assert "has no calibrators any more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--calibrator", "entropy"], "needs --calibration-images"),
        (["--calibrator", "entropy", "--calibration-cache", "missing.txt"], "there is no calibration cache"),
        (["--calibrator", "entropy", "--precision", "fp16"], "serves INT8 only"),
        (["--batch", "4"], "takes 1 picture at once"),
        (["--batch", "4:2:1"], "MIN <= OPT <= MAX"),
        (["--dla-core", "7"], "this machine has 2 deep-learning accelerators"),
        (["--target", "89"], "builds for the GPU it runs on"),
        (["--device", "3"], "there is no GPU 3"),
    ],
)
def test_what_cannot_be_built_is_explained(
    device: Device, bundle: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with install("10.3.0", World(dla_cores=2)):
        assert main(["build", str(bundle), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_pictures_that_cannot_be_read_end_a_calibration(
    device: Device, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with install("10.3.0"):
        pattern = str(tmp_path / "*.png")
        assert main(["build", str(bundle), "--calibrator", "minmax", "--calibration-images", pattern]) == 2
    assert "readable" in capsys.readouterr().err


def test_a_damaged_calibration_cache_is_refused(device: Device, tmp_path: Path) -> None:
    (tmp_path / "cache.txt").write_text("hello\n")
    with pytest.raises(CalibrationError, match="not a calibration cache"):
        TensorRTCalibration("entropy", None, SPEC, device, cache=tmp_path / "cache.txt")


def test_the_hash_tells_what_a_calibration_depends_on(device: Device, photos: Path) -> None:
    images = CalibrationImages(photos)
    hashes = {
        TensorRTCalibration(kind, pictures, spec, device, batch=batch).sha256
        for kind, pictures, spec, batch in (
            ("entropy", images, SPEC, 1),
            ("minmax", images, SPEC, 1),
            ("entropy", CalibrationImages(photos, 2), SPEC, 1),
            ("entropy", images, Preprocess("image", (16, 16)), 1),
            ("entropy", images, SPEC, 2),
        )
    }
    assert len(hashes) == 5

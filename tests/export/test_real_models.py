"""Trained models of others, beside the checkout: each exports with at most one flag, and is as good as documented.

Everything goes through the command line, with flags of docs/export.md only. The figures are those that came with the
models: measured by their own reference decodes, not by this project.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import edgevision
from edgevision.cli import main

TOLERANCE = 0.003
ROAD = 149  # COCO's panoptic id


@dataclass(frozen=True)
class Real:
    """What a file is, the one flag that it needs, and what an export without it asks for."""

    family: str
    flag: tuple[str, str] | tuple[()] = ()
    asked_for: str = ""


MODELS = {
    "ultraface_rfb_320": Real("ssd"),
    "ssd_mobilenet_v1_coco_raw": Real("ssd", ("--priors", "{models}/ssd_mobilenet_v1_coco_anchors.npy"), "--priors"),
    "ssd_mobilenet_v1_coco_nms": Real("nms_inside"),
    # The file exports without a flag as well, for pixels of current versions: only its age says that it needs one.
    "yolox_nano": Real("yolox", ("--preprocess", "torch")),
    "nanodet_m_416": Real("nanodet"),
    "yolo_fastest_xl_320": Real(
        "yolov3", ("--head", "anchors=12,18,37,49,52,132,115,73,119,199,242,238"), "--head anchors="
    ),
    "yunet_n_640": Real("yunet"),
    "deeplabv3_mnv2_voc_513": Real("semantic", ("--preprocess", "tf"), "--preprocess"),
    "twinlitenet_640x360": Real("twinlitenet"),
    "prisma_portrait_256": Real("semantic", ("--preprocess", "unit"), "--preprocess"),
    "espnet_cityscapes_1024x512": Real(
        "semantic",
        # Its statistics, of BGR pixels; the standard deviation times 255, for the network divides by that as well.
        ("--preprocess", "72.3923,82.9089,73.1584/11556.396,11769.2115,11453.274/bgr"),
        "--preprocess",
    ),
}


@pytest.fixture(scope="module")
def bundle(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The float bundle of a model, exported when it is first asked for."""
    folder = tmp_path_factory.mktemp("bundles")

    def exported(name: str) -> Path:
        path = folder / f"{name}.edge"
        if not path.exists():
            assert main(export_arguments(shared, name, path, "--precision", "fp32")) == 0
        return path

    return exported


def export_arguments(shared: Path, name: str, output: Path, *more: str) -> list[str]:
    flag = [part.format(models=shared / "models") for part in MODELS[name].flag]
    return ["export", str(shared / "models" / f"{name}.onnx"), *flag, *more, "-o", str(output), "--quiet"]


# At most one flag -------------------------------------------------------------------------------------------------


def test_every_model_is_here(shared: Path) -> None:
    assert set(MODELS) == {path.stem for path in (shared / "models").glob("*.onnx")}


@pytest.mark.families
@pytest.mark.parametrize("name", MODELS)
def test_the_family_is_recognised_with_at_most_one_flag(bundle: Callable[[str], Path], name: str) -> None:
    with edgevision.load(bundle(name)) as model:
        assert model.manifest.family == MODELS[name].family


@pytest.mark.parametrize("name", [name for name, real in MODELS.items() if real.asked_for])
def test_the_flag_is_asked_for(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / "model.edge"
    assert main(["export", str(shared / "models" / f"{name}.onnx"), "--precision", "fp32", "-o", str(path)]) == 2
    assert MODELS[name].asked_for in capsys.readouterr().err
    assert not path.exists()


# Known-good results on photographs ----------------------------------------------------------------------------------


def seen(bundle: Path, photo: Path, tmp_path: Path, *flags: str) -> dict[str, Any]:
    """What `edgevision run` writes about one picture."""
    sink = tmp_path / "out.jsonl"
    assert main(["run", str(bundle), str(photo), "--sink", str(sink), "--precision", "fp32", "--quiet", *flags]) == 0
    (line,) = sink.read_text().splitlines()
    record: dict[str, Any] = json.loads(line)
    return record


@pytest.mark.families
@pytest.mark.parametrize(
    ("name", "confidence", "expected"),
    [
        ("ssd_mobilenet_v1_coco_raw", "0.4", {"person": 5, "airplane": 1, "truck": 1, "umbrella": 1, "handbag": 1}),
        (
            "ssd_mobilenet_v1_coco_nms",
            "0.4",
            {"person": 5, "airplane": 1, "truck": 1, "umbrella": 1, "bus": 1, "handbag": 1},
        ),
        ("yolox_nano", "0.3", {"bus": 1, "person": 3}),
        ("nanodet_m_416", "0.35", {"bus": 1, "person": 3}),
        ("yolo_fastest_xl_320", "0.3", {"person": 4, "bus": 1}),
    ],
)
def test_the_objects_in_a_street(
    bundle: Callable[[str], Path],
    shared: Path,
    tmp_path: Path,
    name: str,
    confidence: str,
    expected: dict[str, int],
) -> None:
    record = seen(bundle(name), shared / "data/photos/bus.jpg", tmp_path, "--confidence", confidence)
    assert Counter(entry["class"] for entry in record["detections"]) == expected


@pytest.mark.families
@pytest.mark.parametrize(
    ("name", "flags", "face"),
    [
        ("ultraface_rfb_320", ("--confidence", "0.7", "--iou", "0.3"), (172, 121, 357, 334)),
        ("yunet_n_640", ("--confidence", "0.6", "--iou", "0.3"), (178, 127, 358, 337)),
    ],
)
def test_the_faces_of_a_group_and_of_one(
    bundle: Callable[[str], Path],
    shared: Path,
    tmp_path: Path,
    name: str,
    flags: tuple[str, ...],
    face: tuple[int, ...],
) -> None:
    photos = shared / "data/photos"
    assert len(seen(bundle(name), photos / "face.jpg", tmp_path, *flags)["detections"]) == 4
    (found,) = seen(bundle(name), photos / "grace_hopper.bmp", tmp_path, *flags)["detections"]
    np.testing.assert_allclose(found["xyxy"], face, atol=0.5 + 1e-6)  # whole pixels are documented


@pytest.mark.families
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deeplabv3_mnv2_voc_513", {"bus": 0.300, "person": 0.121}),
        # Cityscapes' numbers: 20 channels, one more than it has classes, go without names.
        ("espnet_cityscapes_1024x512", {"2": 0.306, "13": 0.291, "0": 0.145, "11": 0.089}),
    ],
)
def test_the_classes_of_a_street(
    bundle: Callable[[str], Path], shared: Path, tmp_path: Path, name: str, expected: dict[str, float]
) -> None:
    shares = seen(bundle(name), shared / "data/photos/bus.jpg", tmp_path)["fractions"]
    assert {key: shares[key] for key in expected} == pytest.approx(expected, abs=TOLERANCE)


def classes_of(bundle: Path, picture: Path) -> NDArray[Any]:
    with edgevision.load(bundle) as model:
        result = model(cv2.imread(str(picture)))
    assert isinstance(result, edgevision.SegmentationMap)
    return result.class_map


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.families
def test_a_portrait_is_masked(bundle: Callable[[str], Path], shared: Path) -> None:
    photo = shared / "data/photos/grace_hopper.bmp"
    mask = classes_of(bundle("prisma_portrait_256"), photo) == 1
    person = classes_of(bundle("deeplabv3_mnv2_voc_513"), photo) == 15
    assert mask.mean() == pytest.approx(0.588, abs=TOLERANCE)
    assert overlap(mask, person) == pytest.approx(0.856, abs=TOLERANCE)


@pytest.mark.families
def test_a_road_is_found(bundle: Callable[[str], Path], shared: Path) -> None:
    folder = shared / "data/coco_val_a"
    for stem, documented in (("000000008211", 0.755), ("000000007816", 0.604), ("000000005037", 0.333)):
        road = cv2.imread(str(folder / f"masks_panoptic_ids/{stem}.png"), cv2.IMREAD_UNCHANGED) == ROAD
        got = overlap(classes_of(bundle("twinlitenet_640x360"), folder / f"images/{stem}.jpg") == 1, road)
        # More is right: the documented figures are of a map enlarged from its pixels' corners, half a pixel aside.
        assert got > documented - TOLERANCE


# Accuracy on labelled pictures --------------------------------------------------------------------------------------


@pytest.mark.families
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ssd_mobilenet_v1_coco_raw", {"map_50_95": 0.257, "map_50": 0.422}),
        ("ssd_mobilenet_v1_coco_nms", {"map_50_95": 0.244, "map_50": 0.393}),
        ("yolox_nano", {"map_50_95": 0.341, "map_50": 0.524}),
        ("nanodet_m_416", {"map_50_95": 0.274, "map_50": 0.440}),
        ("yolo_fastest_xl_320", {"map_50_95": 0.219, "map_50": 0.421}),
        ("deeplabv3_mnv2_voc_513", {"miou": 0.599}),
    ],
)
def test_the_documented_accuracy(
    bundle: Callable[[str], Path], shared: Path, tmp_path: Path, name: str, expected: dict[str, float]
) -> None:
    data = shared / "data/coco_val_a"
    masks = f"masks:{data / 'images'}:{data / 'masks_voc21'}:voc21"
    boxes = f"coco:{data / 'boxes_coco.json'}:{data / 'images'}"
    report, dataset = tmp_path / "eval.json", masks if "miou" in expected else boxes
    arguments = ["--dataset", dataset, "--precision", "fp32", "--json", str(report), "--quiet"]
    assert main(["eval", str(bundle(name)), *arguments]) == 0
    got = json.loads(report.read_text())
    assert got["images"] == 50 if "miou" in expected else 64
    assert {key: got[key] for key in expected} == pytest.approx(expected, abs=TOLERANCE)


# Agreement of INT8 with float ---------------------------------------------------------------------------------------


@pytest.mark.families
@pytest.mark.parametrize(
    ("name", "figure", "least"),
    [
        # What a default export reaches on pictures it was not calibrated on; --max-drop is for more.
        ("ultraface_rfb_320", "matched_around", 0.94),
        ("yunet_n_640", "matched_around", 0.96),
        ("prisma_portrait_256", "mask_iou", 0.97),
    ],
)
def test_int8_agrees_with_float(shared: Path, tmp_path: Path, name: str, figure: str, least: float) -> None:
    bundle, report = tmp_path / "model.edge", tmp_path / "eval.json"
    pictures = ["--calibration-images", str(shared / "data/coco_calib/images")]
    assert main(export_arguments(shared, name, bundle, "--precision", "int8", *pictures)) == 0
    folder = str(shared / "data/coco_val_a/images")
    assert main(["eval", str(bundle), "--images", folder, "--json", str(report), "--quiet"]) == 0
    graphs = json.loads(report.read_text())["graphs"]
    assert graphs["tensorrt.onnx"]["agreement"][figure] >= least
    assert graphs["tensorrt_fp16.onnx"]["agreement"][figure] >= 0.99


# NVIDIA's builder ---------------------------------------------------------------------------------------------------


@pytest.mark.families
@pytest.mark.parametrize("name", MODELS)
def test_both_of_its_graphs_are_built_by_tensorrt_rtx(shared: Path, tmp_path: Path, name: str) -> None:
    """A plan of the precision that was asked for, INT8 in every layer that the bundle promises; no GPU is needed."""
    bundle, report = tmp_path / "model.edge", tmp_path / "build.json"
    pictures = ["--calibration-images", str(shared / "data/coco_calib/images"), "--calibration-limit", "1"]
    assert main(export_arguments(shared, name, bundle, "--precision", "int8", *pictures)) == 0
    build = ["build", str(bundle), "--backend", "tensorrt-rtx", "--target", "89", "--json", str(report), "--quiet"]
    for precision in ("fp16", "int8"):
        plan = tmp_path / f"{precision}.plan"
        assert main([*build, "--precision", precision, "-o", str(plan)]) == 0
        facts = json.loads(report.read_text())
        assert facts["rung"] == precision, facts["reasons"]
        assert plan.stat().st_size == facts["bytes"] > 0
        layers = facts["convolutions"]
        assert layers["int8"] == layers["promised"]
        assert (layers["promised"] > 0) == (precision == "int8")

"""`edgevision eval` from the outside: figures on the screen and in JSON, and faults in one line."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgevision.bundle import write_bundle
from edgevision.cli import main
from edgevision.manifest import GraphInfo
from tests.tiny_models import colour_detector, detector_bundle, detector_manifest, segmenter_bundle


@pytest.fixture
def boxes(tmp_path: Path) -> str:
    """One picture of the colour models' size: a red cell and a green one, both labelled."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[8:16, 16:24] = (0, 0, 255)
    image[24:32, 40:48] = (0, 255, 0)
    (tmp_path / "images").mkdir()
    assert cv2.imwrite(str(tmp_path / "images/a.png"), image)
    found = [(1, [16, 8, 8, 8]), (2, [40, 24, 8, 8])]
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": category, "bbox": box, "area": 64, "iscrowd": 0}
            for i, (category, box) in enumerate(found)
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    return f"coco:{tmp_path}/boxes.json:{tmp_path}/images"


@pytest.fixture
def masks(tmp_path: Path) -> str:
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24] = (0, 255, 0)
    image[24:] = (0, 0, 255)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "masks").mkdir()
    assert cv2.imwrite(str(tmp_path / "pictures/a.png"), image)
    assert cv2.imwrite(str(tmp_path / "masks/a.png"), np.repeat([1, 0], 24)[:, None].repeat(64, 1).astype(np.uint8))
    return f"masks:{tmp_path}/pictures:{tmp_path}/masks"


def test_figures_on_the_screen_and_in_json(tmp_path: Path, boxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = detector_bundle(tmp_path / "tiny.edge")
    assert main(["eval", str(bundle), "--dataset", boxes, "--json", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    assert "mAP50-95" in said
    assert "1.000" in said
    data = json.loads((tmp_path / "out.json").read_text())
    keys = {"images", "map_50_95", "map_50", "per_class", "miou", "pixel_accuracy", "recall_at_threshold"}
    assert keys <= set(data)
    assert (data["images"], data["recall_at_threshold"], data["miou"]) == (1, 1.0, None)
    assert data["map_50_95"] == pytest.approx(1.0)


def test_a_segmenter_has_miou(tmp_path: Path, masks: str, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = segmenter_bundle(tmp_path / "tiny.edge")
    assert main(["eval", str(bundle), "--dataset", masks, "--json", "-"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["miou"], data["pixel_accuracy"], data["map_50"]) == (1.0, 1.0, None)
    assert set(data["per_class"]) == {"red", "green"}


def test_all_graphs_in_one_table(tmp_path: Path, boxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    infos = {"model.onnx": GraphInfo("fp32"), "cpu.onnx": GraphInfo("int8"), "tensorrt.onnx": GraphInfo("int8")}
    path = tmp_path / "tiny.edge"
    write_bundle(path, detector_manifest(graphs=infos), dict.fromkeys(infos, colour_detector()))
    arguments = ["eval", str(path), "--dataset", boxes, "--compare", "--repeats", "2"]
    assert main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    assert all(graph in said for graph in infos)
    assert "mAP50-95 lost, points" in said
    assert set(json.loads((tmp_path / "out.json").read_text())["graphs"]) == set(infos)
    assert main([*arguments, "--precision", "int8"]) == 2
    assert "leave out" in capsys.readouterr().err


def test_pictures_without_labels_give_agreement_and_a_page(
    tmp_path: Path, boxes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    infos = {"model.onnx": GraphInfo("fp32"), "tensorrt.onnx": GraphInfo("int8")}
    path, report = tmp_path / "tiny.edge", tmp_path / "report"
    write_bundle(path, detector_manifest(graphs=infos), dict.fromkeys(infos, colour_detector()))
    arguments = ["eval", str(path), "--images", str(tmp_path / "images"), "--threshold", "0.25"]
    assert main([*arguments, "--output", str(report), "--json", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    assert "Agreement with float" in said
    assert "mAP" not in said
    assert "comparison.html" in said
    data = json.loads((tmp_path / "out.json").read_text())
    assert (data["labelled"], data["threshold"]) == (False, 0.25)
    assert data["graphs"]["tensorrt.onnx"]["agreement"]["matched_70"] == 1
    names = sorted(file.name for file in report.iterdir())
    assert names == ["comparison.html", "comparison.json", "comparison.md"], "nothing differs: no picture to show"
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--dataset", boxes])
    assert main(["eval", str(path), "--dataset", boxes, "--output", str(report)]) == 2
    assert "--compare" in capsys.readouterr().err


def test_quiet_says_nothing(tmp_path: Path, boxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = detector_bundle(tmp_path / "tiny.edge")
    assert main(["eval", str(bundle), "--dataset", boxes, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "imagenet:x"], "coco:ANNOTATIONS.json:IMAGES"),
        (["--dataset", "voc:nowhere"], "nowhere"),
        (["--precision", "int8"], "no graph for precision int8"),
        (["--limit", "0"], "at least 1"),
        (["--confidence", "2"], "0..1"),
    ],
)
def test_faults_exit_with_2_and_one_line(
    tmp_path: Path, boxes: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    bundle = detector_bundle(tmp_path / "tiny.edge")
    assert main(["eval", str(bundle), "--dataset", boxes, *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_a_segmenter_on_boxes_is_refused(tmp_path: Path, boxes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(segmenter_bundle(tmp_path / "tiny.edge")), "--dataset", boxes]) == 2
    assert "masks:" in capsys.readouterr().err

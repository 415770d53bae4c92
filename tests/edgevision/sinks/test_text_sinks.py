"""JSON lines and COCO results."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from edgevision.errors import SinkError
from edgevision.frame import Frame
from edgevision.results import Classification, Detections, SegmentationMap
from edgevision.sinks import open_sink
from tests.camera_kit import numbered

pytestmark = pytest.mark.smoke
FOUND = Detections(
    np.array([[1.25, 2, 11, 22], [0, 0, 5.5, 5]], np.float32),
    np.array([0.75, 0.5], np.float32),
    np.array([1, 0]),
    ("car", "person"),
)


def test_a_line_holds_all_that_is_known_of_a_frame(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.jsonl")
    captured = time.monotonic_ns() - 5_000_000
    sink.write(Frame(numbered(1), 7, "cam", captured, 1.5, "a.png"), FOUND, {"inference": 2.34567, "queue": 0.1})
    sink.write(Frame(numbered(2), 9, "cam"), Detections.empty(), {})
    sink.close()
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert 5 <= first.pop("age_ms") < 5000
    assert first == {
        "source_id": "cam",
        "frame_id": 7,
        "ts_capture_ns": captured,
        "media_time_s": 1.5,
        "name": "a.png",
        "size_wh": [160, 96],
        "latency_ms": {"inference": 2.346, "queue": 0.1},
        "detections": [
            {"class_id": 1, "class": "person", "confidence": 0.75, "xyxy": [1.25, 2.0, 11.0, 22.0]},
            {"class_id": 0, "class": "car", "confidence": 0.5, "xyxy": [0.0, 0.0, 5.5, 5.0]},
        ],
    }
    assert second["media_time_s"] is None
    assert second["detections"] == []


def test_each_line_can_be_read_before_the_next_is_written(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.jsonl")
    for i in range(3):
        sink.write(Frame(numbered(i), i), Detections.empty(), {})
        assert [json.loads(line)["frame_id"] for line in (tmp_path / "out.jsonl").open()] == list(range(i + 1))
    sink.close()


def test_a_segmentation_is_given_as_shares_of_the_picture(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "out.jsonl")
    class_map = np.zeros((96, 160), np.uint8)
    class_map[:24] = 1
    sink.write(Frame(numbered(0)), SegmentationMap(class_map, ("road", "sky")), {})
    sink.close()
    assert json.loads((tmp_path / "out.jsonl").read_text())["fractions"] == {"road": 0.75, "sky": 0.25}


def test_coco_results_are_what_pycocotools_reads(tmp_path: Path) -> None:
    sink = open_sink(f"coco:{tmp_path}/out.json")
    for name, image_id in (("000000000139.jpg", 139), ("000000000285.jpg", 285)):
        sink.write(Frame(numbered(0), image_id, name=name), FOUND, {})
    sink.close()
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 139, "width": 160, "height": 96}, {"id": 285, "width": 160, "height": 96}],
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
        "annotations": [],
    }
    truth.createIndex()
    read = truth.loadRes(str(tmp_path / "out.json"))
    assert read.getImgIds() == [139, 285]
    person, car = read.loadAnns(read.getAnnIds(imgIds=139))
    assert (person["category_id"], person["bbox"], person["score"]) == (1, [1.25, 2.0, 9.75, 20.0], 0.75)
    assert (car["category_id"], car["bbox"]) == (3, [0.0, 0.0, 5.5, 5.0])  # 3 is COCO's car


def test_classes_that_are_not_coco_s_count_from_one(tmp_path: Path) -> None:
    sink = open_sink(f"coco:{tmp_path}/out.json")
    result = Detections(FOUND.xyxy, FOUND.confidence, FOUND.class_id, ("landing_pad", "person"))
    sink.write(Frame(numbered(0), 4), result, {})
    sink.close()
    entries = json.loads((tmp_path / "out.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [(4, 2), (4, 1)]


def test_no_detections_are_a_valid_file_too(tmp_path: Path) -> None:
    sink = open_sink(f"coco:{tmp_path}/out.json")
    sink.write(Frame(numbered(0)), Detections.empty(), {})
    sink.close()
    assert json.loads((tmp_path / "out.json").read_text()) == []


def test_the_old_coco_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")
    sink = open_sink(f"coco:{target}")
    sink.write(Frame(numbered(0)), FOUND, {})
    assert target.read_text() == "old"
    sink.close()
    sink.close()
    assert len(json.loads(target.read_text())) == 2
    assert list(tmp_path.iterdir()) == [target]


def test_coco_refuses_segmentations_and_leaves_nothing_behind(tmp_path: Path) -> None:
    sink = open_sink(f"coco:{tmp_path}/out.json")
    with pytest.raises(SinkError, match="takes detections"):
        sink.write(Frame(numbered(0)), SegmentationMap(np.zeros((96, 160), np.uint8)), {})
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_keypoints_and_classes_have_their_own_entries(tmp_path: Path) -> None:
    points = np.array([[[1.5, 2, 1], [3, 4.25, 0.5]]] * 2, np.float32)
    posed = Detections(FOUND.xyxy, FOUND.confidence, FOUND.class_id, FOUND.names, keypoints=points)
    lines, coco = open_sink(tmp_path / "out.jsonl"), open_sink(f"coco:{tmp_path}/out.json")
    for sink in (lines, coco):
        sink.write(Frame(numbered(0)), posed, {})
    scores = np.array([0.25, 0.75], np.float32)
    lines.write(Frame(numbered(1)), Classification(scores, FOUND.names, np.array([0, 0, 4, 5], np.float32)), {})
    lines.close()
    coco.close()
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert [entry["keypoints"] for entry in first["detections"]] == points.tolist()
    assert second["classes"] == [{"class": "person", "confidence": 0.75}, {"class": "car", "confidence": 0.25}]
    assert second["xyxy"] == [0, 0, 4, 5]
    entries = json.loads((tmp_path / "out.json").read_text())
    assert entries[0]["keypoints"] == [1.5, 2, 1, 3, 4.25, 0.5]


def test_masks_are_outlines_in_lines_and_run_lengths_in_coco(tmp_path: Path) -> None:
    from pycocotools import mask as coder

    masks = np.zeros((2, 96, 160), bool)
    masks[0, 10:20, 30:50] = True
    masks[1, [5, 5, 60], [5, 6, 70]] = True
    cut = Detections(FOUND.xyxy, FOUND.confidence, FOUND.class_id, FOUND.names, mask=masks)
    for target in (tmp_path / "out.jsonl", f"coco:{tmp_path}/out.json"):
        sink = open_sink(target)
        sink.write(Frame(numbered(0)), cut, {})
        sink.close()
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert line["detections"][0]["polygons"] == [[[30, 10], [30, 19], [49, 19], [49, 10]]]
    assert len(line["detections"][1]["polygons"]) == 2
    entries = json.loads((tmp_path / "out.json").read_text())
    decoded = np.stack([coder.decode(entry["segmentation"]) for entry in entries], axis=0)
    np.testing.assert_array_equal(decoded, masks)

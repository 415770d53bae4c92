"""Whole evaluation runs: bundles whose answers are known, the official evaluator beside ours, and real models."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import edgevision
from edgevision.bundle import write_bundle
from edgevision.errors import DatasetError, DependencyError, UsageError
from edgevision.evaluation import compare, evaluate, open_dataset
from edgevision.evaluation.running import Dither
from edgevision.labels import load_labels
from edgevision.manifest import GraphInfo, Manifest, Nms, Preprocess
from tests.edgevision.evaluation.kit import (
    SIDE,
    boxes_dataset,
    dimmed,
    masks_dataset,
    write_detector,
    write_segmenter,
)
from tests.tiny_models import CELL, COLOURS


def test_detection_figures_are_those_of_the_official_evaluator(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    bundle = write_detector(tmp_path / "detector.edge")
    got = evaluate(bundle, open_dataset(boxes_dataset(tmp_path)))
    truth = COCO(str(tmp_path / "boxes.json"))
    results = []
    with edgevision.load(bundle, confidence=0.01) as model:
        for i in range(6):
            found = model(cv2.imread(str(tmp_path / f"images/{i}.png")))
            for (x1, y1, x2, y2), score, class_id in zip(
                found.xyxy.tolist(), found.confidence.tolist(), found.class_id.tolist(), strict=True
            ):
                box = [x1, y1, x2 - x1, y2 - y1]
                results.append({"image_id": i, "category_id": class_id + 1, "bbox": box, "score": score})
    official = COCOeval(truth, truth.loadRes(results), "bbox")
    official.evaluate()
    official.accumulate()
    official.summarize()
    capfd.readouterr()
    assert 0.02 < got["map_50_95"] < 0.98
    assert got["map_50_95"] == pytest.approx(official.stats[0], abs=1e-12)
    assert got["map_50"] == pytest.approx(official.stats[1], abs=1e-12)
    assert (got["images"], got["graph"], got["precision"], got["threshold"]) == (6, "model.onnx", "fp32", 0.3)
    assert set(got["per_class"]) == set(COLOURS)
    assert got["miou"] is None


def test_recall_is_taken_at_the_asked_confidence(tmp_path: Path) -> None:
    bundle, dataset = write_detector(tmp_path / "detector.edge"), open_dataset(boxes_dataset(tmp_path))
    at = {c: evaluate(bundle, dataset, confidence=c) for c in (0.0, 0.7, 1.0)}
    assert at[0.0]["recall_at_threshold"] > at[0.7]["recall_at_threshold"] > at[1.0]["recall_at_threshold"]
    assert at[0.7]["map_50"] == at[1.0]["map_50"]
    assert at[0.7]["threshold"] == 0.7


def test_segmentation_figures_equal_their_definition(tmp_path: Path) -> None:
    spec, cells = masks_dataset(tmp_path)
    got = evaluate(write_segmenter(tmp_path / "segmenter.edge"), open_dataset(spec))
    predicted = np.stack([np.kron(c[:, :, ::-1].argmax(axis=2), np.ones((CELL, CELL), int)) for c in cells])
    truth = np.stack([cv2.imread(str(tmp_path / f"masks/{i}.png"), cv2.IMREAD_UNCHANGED) for i in range(len(cells))])
    judged = truth != 255
    iou = [
        ((predicted == k) & (truth == k)).sum() / (((predicted == k) & judged) | (truth == k)).sum() for k in range(3)
    ]
    assert got["miou"] == pytest.approx(np.mean(iou))
    assert got["pixel_accuracy"] == pytest.approx((predicted == truth)[judged].mean())
    assert got["map_50"] is None


def test_figures_do_not_depend_on_the_number_of_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, dataset = write_detector(tmp_path / "detector.edge"), open_dataset(boxes_dataset(tmp_path))
    segmenter, masks = write_segmenter(tmp_path / "segmenter.edge"), open_dataset(masks_dataset(tmp_path / "m")[0])
    results = []
    for lanes in (1, 5):
        monkeypatch.setattr("edgevision.cpu_lane.cores", lambda lanes=lanes: lanes)
        results.append((evaluate(bundle, dataset, repeats=2), evaluate(segmenter, masks)))
    assert results[0] == results[1]


def test_repeats_give_mean_and_standard_error_over_the_same_noise(tmp_path: Path) -> None:
    # Scores around the threshold, so that half a grey level decides.
    bundle = write_detector(tmp_path / "detector.edge", nms=Nms(confidence=0.5))
    dataset = open_dataset(boxes_dataset(tmp_path, pictures=40))
    got = evaluate(bundle, dataset, repeats=3)
    assert evaluate(bundle, dataset, repeats=3) == got
    values = [run["map_50_95"] for run in got["runs"]]
    assert len(values) == 3
    assert len(set(values)) > 1
    assert got["map_50_95"] == pytest.approx(np.mean(values))
    assert got["standard_error"]["map_50_95"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))
    assert got["per_class"]["red"]["boxes"] == evaluate(bundle, dataset)["per_class"]["red"]["boxes"]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_dither_is_half_a_grey_level_of_each_channel(layout: str) -> None:
    std = (2.0, 50.0, 255.0)
    shape = (1, 3, 64, 64) if layout == "nchw" else (1, 64, 64, 3)
    spec = Preprocess("image", (64, 64), layout=layout, std=std)
    tensor = np.ones(shape, np.float32)
    noise = Dither(spec, run=0)(tensor, 7) - tensor
    axis = shape.index(3)
    grey = noise * np.array(std).reshape([3 if i == axis else 1 for i in range(4)])
    limits = np.abs(grey).max(axis=tuple(i for i in range(4) if i != axis))
    np.testing.assert_allclose(limits, 0.5, rtol=0.01)
    assert limits.max() <= 0.5 + 1e-4
    assert abs(grey.mean()) < 0.01
    assert (tensor == 1).all()
    assert (Dither(spec, run=0)(tensor, 7) - tensor == noise).all()
    assert not (Dither(spec, run=1)(tensor, 7) - tensor == noise).all()
    assert not (Dither(spec, run=0)(tensor, 8) - tensor == noise).all()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_dither_of_one_channel(layout: str) -> None:
    spec = Preprocess("image", (64, 48), layout=layout, color="gray", mean=(127.0,), std=(50.0,))
    tensor = np.ones((1, *spec.input_shape), np.float32)
    noise = (Dither(spec, run=0)(tensor, 7) - tensor) * 50
    assert noise.shape == tensor.shape
    assert np.abs(noise).max() == pytest.approx(0.5, rel=0.01)


def test_whole_grey_levels_get_the_same_noise_rounded() -> None:
    """One value of twelve moves, by a level: the same variance, from the same numbers, in the picture's own places."""
    planes, rows = Preprocess("image", (96, 64)), Preprocess("image", (96, 64), "nhwc", "uint8", color="bgr")
    noise = Dither(planes, run=1)(np.zeros((1, 3, 64, 96), np.float32), 7)[0]
    levels = np.full((1, 64, 96, 3), 100, np.uint8)
    dithered = Dither(rows, run=1)(levels, 7)
    assert (dithered.dtype, dithered.shape, dithered.flags.c_contiguous) == (np.uint8, levels.shape, True)
    moved = dithered[0].transpose(2, 0, 1)[::-1].astype(int) - 100
    np.testing.assert_array_equal(moved, np.where(np.abs(noise) > 11 / 24, np.sign(noise), 0))
    assert np.var(moved) == pytest.approx(np.var(noise), rel=0.05) == pytest.approx(1 / 12, rel=0.05)
    for level in (0, 255):
        ends = Dither(rows, run=1)(np.full_like(levels, level), 7).astype(int)
        assert np.abs(ends - level).max() == 1, "levels end at black and white"


def test_graphs_side_by_side(tmp_path: Path) -> None:
    further = {"cpu.onnx": dimmed(0.4), "tensorrt.onnx": dimmed(1.0)}
    bundle = write_detector(tmp_path / "detector.edge", further, cpu_graph="cpu.onnx")
    dataset = open_dataset(boxes_dataset(tmp_path))
    got = compare(bundle, dataset, repeats=2)
    assert list(got["graphs"]) == ["model.onnx", "tensorrt.onnx", "cpu.onnx"]
    assert {name: (r["graph"], r["precision"]) for name, r in got["graphs"].items()} == {
        "model.onnx": ("model.onnx", "fp32"),
        "tensorrt.onnx": ("tensorrt.onnx", "int8"),
        "cpu.onnx": ("cpu.onnx", "int8"),
    }
    # Lower scores: as good in order, but less is found at the threshold.
    assert got["graphs"]["tensorrt.onnx"]["loss_points"]["map_50_95"] == {"mean": 0.0, "standard_error": 0.0}
    lost = got["graphs"]["cpu.onnx"]["loss_points"]["recall_at_threshold"]["mean"]
    float_recall = evaluate(bundle, dataset, precision="fp32", repeats=2)["recall_at_threshold"]
    assert lost == pytest.approx(100 * (float_recall - got["graphs"]["cpu.onnx"]["recall_at_threshold"]))
    assert lost > 5


def test_classes_without_names_meet_in_order(tmp_path: Path) -> None:
    dataset = open_dataset(boxes_dataset(tmp_path))
    named = evaluate(write_detector(tmp_path / "named.edge"), dataset)
    plain = evaluate(write_detector(tmp_path / "plain.edge", labels=("0", "1", "2")), dataset)
    assert plain["map_50_95"] == named["map_50_95"]
    assert "in order" in plain["warnings"][0]
    masks, _ = masks_dataset(tmp_path / "m", classes=False)
    assert "class ids" in evaluate(write_segmenter(tmp_path / "segmenter.edge"), open_dataset(masks))["warnings"][0]


def test_boxes_of_classes_that_the_data_set_lacks_are_not_judged(tmp_path: Path) -> None:
    dataset = open_dataset(boxes_dataset(tmp_path))
    bundle = write_detector(tmp_path / "detector.edge", labels=("green", "unicorn", "red"))
    assert set(evaluate(bundle, dataset)["per_class"]) == {"red", "green"}
    with pytest.raises(DatasetError, match="--labels"):
        evaluate(write_detector(tmp_path / "other.edge", labels=("a", "b", "c")), dataset)


def test_voc_data_also_gets_vocs_own_figure(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    (root / "Annotations").mkdir(parents=True)
    white = np.full((SIDE, SIDE, 3), (0, 0, 30), np.uint8)
    white[:CELL, :CELL] = (0, 0, 255)
    (root / "JPEGImages").mkdir()
    assert cv2.imwrite(str(root / "JPEGImages/a.png"), white)
    frame = f"<xmin>1</xmin><ymin>1</ymin><xmax>{CELL}</xmax><ymax>{CELL}</ymax>"
    xml = f"<annotation><object><name>red</name><bndbox>{frame}</bndbox></object></annotation>"
    (root / "Annotations/a.xml").write_text(xml)
    got = evaluate(write_detector(tmp_path / "detector.edge"), open_dataset(f"voc:{root}"))
    assert (got["map_50_95"], got["voc_ap_50"], got["recall_at_threshold"]) == pytest.approx((1.0, 1.0, 1.0))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    detector, segmenter = write_detector(tmp_path / "detector.edge"), write_segmenter(tmp_path / "segmenter.edge")
    boxes = open_dataset(boxes_dataset(tmp_path))
    masks = open_dataset(masks_dataset(tmp_path / "m")[0])
    with pytest.raises(DatasetError, match=r"colours does detection.*boxes"):
        evaluate(detector, masks)
    with pytest.raises(DatasetError, match=r"colours does semantic.*masks"):
        evaluate(segmenter, boxes)
    for options in ({"repeats": 0}, {"limit": 0}, {"confidence": 1.5}):
        with pytest.raises(UsageError, match="at least 1"):
            evaluate(detector, boxes, **options)
    assert cv2.imwrite(str(tmp_path / "m/masks/3.png"), np.zeros((5, 5), np.uint8))
    with pytest.raises(DatasetError, match=r"3\.png.*\(5, 5\)"):
        evaluate(segmenter, masks)
    (tmp_path / "images/2.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"2\.png"):
        evaluate(detector, boxes)
    assert evaluate(detector, boxes, limit=2)["images"] == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("evaluate")]


def test_a_missing_evaluator_is_named_before_the_first_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    bundle, dataset = write_detector(tmp_path / "detector.edge"), open_dataset(boxes_dataset(tmp_path))
    (tmp_path / "images/0.png").unlink()
    with pytest.raises(DependencyError, match=r"edgevision\[eval\]"):
        evaluate(bundle, dataset)


# --- real models ------------------------------------------------------------------------------------------------


def test_deeplab_has_its_published_miou(shared: Path, tmp_path: Path) -> None:
    preprocess = Preprocess("image", (513, 513), mean=(128.0,) * 3, std=(128.0,) * 3)
    graphs = {"model.onnx": GraphInfo("fp32")}
    manifest = Manifest("deeplab", "semantic", "semantic", "fp32", load_labels("voc21"), preprocess, graphs)
    graph = (shared / "models/deeplabv3_mnv2_voc_513.onnx").read_bytes()
    write_bundle(tmp_path / "deeplab.edge", manifest, {"model.onnx": graph})
    folder = shared / "data/coco_val_a"
    got = evaluate(tmp_path / "deeplab.edge", open_dataset(f"masks:{folder}/images:{folder}/masks_voc21:voc21"))
    assert got["images"] == 50
    assert got["miou"] == pytest.approx(0.599, abs=0.003)
    assert len(got["per_class"]) == 18
    assert got["per_class"]["person"]["iou"] == pytest.approx(0.764, abs=0.003)


def ssd_in_normal_form(folder: Path) -> bytes:
    """The SSD with its box decoding as the model's notes give it: priors (cy, cx, h, w), offsets / 10 and / 5."""
    model = onnx.load(folder / "ssd_mobilenet_v1_coco_raw.onnx")
    priors = np.load(folder / "ssd_mobilenet_v1_coco_anchors.npy")[None]
    constants = {
        "centre": priors[:, :, :2], "size": priors[:, :, 2:], "ten": np.float32(10), "five": np.float32(5),
        "half": np.float32(0.5), "side": np.float32(300), "order": np.array([1, 0, 3, 2]), "axis": np.array([2]),
        **{f"at{i}": np.array([i]) for i in (0, 1, 2, 4, 91)},
    }  # fmt: skip
    steps = [
        ("Slice", ["raw_boxes", "at0", "at2", "axis"], "t_yx"), ("Slice", ["raw_boxes", "at2", "at4", "axis"], "t_hw"),
        ("Div", ["t_yx", "ten"], "yx10"), ("Mul", ["yx10", "size"], "shift"), ("Add", ["shift", "centre"], "yx"),
        ("Div", ["t_hw", "five"], "hw5"), ("Exp", ["hw5"], "growth"), ("Mul", ["growth", "size"], "hw"),
        ("Mul", ["hw", "half"], "reach"), ("Sub", ["yx", "reach"], "low"), ("Add", ["yx", "reach"], "high"),
        ("Concat", ["low", "high"], "yxyx"), ("Gather", ["yxyx", "order"], "xyxy"), ("Mul", ["xyxy", "side"], "boxes"),
        ("Slice", ["raw_scores", "at1", "at91", "axis"], "scores"),
    ]  # fmt: skip
    for kind, inputs, output in steps:
        attributes = {"axis": 2} if kind in ("Concat", "Gather") else {}
        model.graph.node.append(helper.make_node(kind, inputs, [output], **attributes))
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("boxes", onnx.TensorProto.FLOAT, [1, 1917, 4]))
    model.graph.output.append(helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [1, 1917, 90]))
    return model.SerializeToString()


def test_ssd_has_its_published_average_precision(shared: Path, tmp_path: Path) -> None:
    preprocess = Preprocess("image", (300, 300), mean=(128.0,) * 3, std=(128.0,) * 3)
    graphs = {"model.onnx": GraphInfo("fp32")}
    labels = load_labels("coco90", 90)
    manifest = Manifest("ssd", "detection", "ssd", "fp32", labels, preprocess, graphs, Nms(iou_threshold=0.6))
    write_bundle(tmp_path / "ssd.edge", manifest, {"model.onnx": ssd_in_normal_form(shared / "models")})
    folder = shared / "data/coco_val_a"
    got = evaluate(tmp_path / "ssd.edge", open_dataset(f"coco:{folder}/boxes_coco.json:{folder}/images"))
    assert got["map_50_95"] == pytest.approx(0.257, abs=0.003)
    assert got["map_50"] == pytest.approx(0.422, abs=0.003)

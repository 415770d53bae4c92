"""Masks of instances: pycocotools' own evaluation of the same results beside ours, and outlines from anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import edgevision
from edgevision.bundle import write_bundle
from edgevision.evaluation import BoxDataset, compare, evaluate, open_dataset
from edgevision.evaluation.boxes import Found, coco_metrics, mask_metrics
from edgevision.evaluation.outlines import encode_masks, read_outline
from edgevision.manifest import Nms
from tests.tiny_models import CELL, COLOURS, cell_boxes, colour_detector, detector_manifest

SIDE, PICTURES = 64, 6


def official(annotations: Path, results: list[dict[str, Any]], kind: str) -> tuple[float, float]:
    """mAP over all IoUs and at 0.5, by pycocotools alone."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(annotations))
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[1]


def test_masks_have_pycocotools_figures_on_real_labels(shared: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Results made from the labels: moved by some pixels, of another class, twice, or missing."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    folder, random = shared / "data/coco_val_a", np.random.default_rng(0)
    dataset = open_dataset(f"coco:{folder}/instances_coco.json:{folder}/images")
    assert isinstance(dataset, BoxDataset)
    labels = COCO(str(folder / "instances_coco.json"))
    categories = sorted(labels.cats)
    found, results = [], []
    for picture in dataset.pictures:
        image_id, masks, scores, classes = int(picture.path.stem), [], [], []
        for label in labels.imgToAnns[image_id]:
            for _ in range(random.choice([0, 1, 1, 1, 2])):
                by = random.integers(-6, 7, 2)
                masks.append(np.roll(labels.annToMask(label), by, axis=(0, 1)).astype(np.bool_))
                scores.append(float(random.uniform()))
                other = random.uniform() < 0.2
                classes.append(int(random.integers(80)) if other else categories.index(label["category_id"]))
        assert picture.size_wh is not None
        encoded = encode_masks(np.stack(masks)) if masks else []
        xywh = np.array([coco_mask.toBbox(rle) for rle in encoded]).reshape(-1, 4)
        xyxy = np.c_[xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]
        found.append(Found(xyxy, np.array(scores), np.array(classes, int), encoded))
        for rle, score, class_id in zip(encoded, scores, classes, strict=True):
            text = {**rle, "counts": rle["counts"].decode()}
            record = {"image_id": image_id, "category_id": categories[class_id], "score": score}
            results.append({**record, "segmentation": text})
    got = mask_metrics(dataset.truth, found, range(80))
    wanted = official(folder / "instances_coco.json", results, "segm")
    capfd.readouterr()
    assert len(results) > 300
    assert 0.1 < wanted[0] < wanted[1] < 0.9
    assert (got["mask_map_50_95"], got["mask_map_50"]) == pytest.approx(wanted, abs=1e-12)
    assert coco_metrics(dataset.truth, found, dataset.classes, range(80), 0.5)["map_50"] != got["mask_map_50"]


def instance_bundle(path: Path) -> Path:
    """The colour detector with boxes grown by 8 pixels and masks: a wave across the picture, or its opposite."""
    model = onnx.load_model_from_string(colour_detector((SIDE, SIDE)))
    boxes = cell_boxes((SIDE, SIDE)) + np.array([-8, -8, 8, 8], np.float32)
    for tensor in model.graph.initializer:
        if tensor.name == "cells":
            tensor.CopyFrom(numpy_helper.from_array(boxes[None], "cells"))
    signs = np.where(np.arange(len(boxes)) % 3, 1, -1).astype(np.float32)[None, :, None]
    y, x = np.mgrid[: SIDE // 4, : SIDE // 4]
    wave = np.sin(x / 2 + y / 3).astype(np.float32)[None, None]
    for name, array in (("mask_coefficients", signs), ("mask_prototypes", wave)):
        model.graph.initializer.append(numpy_helper.from_array(array, f"constant_{name}"))
        model.graph.node.append(helper.make_node("Identity", [f"constant_{name}"], [name]))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    manifest = detector_manifest((SIDE, SIDE), task="instance", nms=Nms(iou_threshold=0.6, confidence=0.3))
    write_bundle(path, manifest, {"model.onnx": model.SerializeToString()})
    return path


def dataset_of(folder: Path, bundle: Path, **changes: Any) -> str:
    """Labels: some of what the model finds, as runs in a list or a string, or a polygon around it; one crowd."""
    from pycocotools import mask as coco_mask

    random, annotations = np.random.default_rng(1), list[dict[str, Any]]()
    (folder / "images").mkdir(parents=True)
    with edgevision.load(bundle) as model:
        for i in range(PICTURES):
            cells = random.integers(0, 256, (SIDE // CELL, SIDE // CELL, 3), np.uint8)
            picture = np.kron(cells, np.ones((CELL, CELL, 1), np.uint8))
            assert cv2.imwrite(str(folder / f"images/{i}.png"), picture)
            found = model(picture)
            for k in random.choice(len(found), 8, replace=False):
                mask = np.roll(found.mask[k], random.integers(-1, 2), axis=1)
                rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
                runs = np.diff(np.flatnonzero(np.diff(np.r_[2, mask.T.ravel(), 2])))
                x1, y1, x2, y2 = found.xyxy[k].tolist()
                forms: list[Any] = [
                    {"size": [SIDE, SIDE], "counts": ([0] if mask[0, 0] else []) + runs.tolist()},
                    {"size": [SIDE, SIDE], "counts": rle["counts"].decode()},
                    [[x1, y1, x2, y1, x2, y2], [x1, y1, x2, y2, x1, y2]],
                ]
                record = {"id": len(annotations) + 1, "image_id": i, "category_id": int(found.class_id[k]) + 1}
                record |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(mask.sum()), "iscrowd": int(k == 5)}
                annotations.append({**record, "segmentation": forms[k % 3], **changes})
    data = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in range(PICTURES)],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(COLOURS)],
    }
    (folder / "labels.json").write_text(json.dumps(data))
    return f"coco:{folder}/labels.json:{folder}/images"


def test_an_instance_bundle_is_judged_by_boxes_and_masks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = instance_bundle(tmp_path / "instance.edge")
    dataset = open_dataset(dataset_of(tmp_path / "data", bundle))
    got, results = evaluate(bundle, dataset), list[dict[str, Any]]()
    with edgevision.load(bundle, confidence=0.01) as model:
        for i in range(PICTURES):
            found = model(cv2.imread(str(tmp_path / f"data/images/{i}.png")))
            for one, rle in zip(found, encode_masks(found.mask), strict=True):
                x1, y1, x2, y2 = one.xyxy[0].tolist()
                record = {"image_id": i, "category_id": int(one.class_id[0]) + 1, "score": float(one.confidence[0])}
                text = {**rle, "counts": rle["counts"].decode()}
                results.append({**record, "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": text})
    masks = official(tmp_path / "data/labels.json", results, "segm")
    boxes = official(tmp_path / "data/labels.json", results, "bbox")
    capfd.readouterr()
    assert (got["mask_map_50_95"], got["mask_map_50"]) == pytest.approx(masks, abs=1e-12)
    assert (got["map_50_95"], got["map_50"]) == pytest.approx(boxes, abs=1e-12)
    assert 0.02 < masks[0] < boxes[0] < 0.98
    assert not got["warnings"]
    assert compare(bundle, dataset)["graphs"]["model.onnx"]["loss_points"]["mask_map_50_95"]["mean"] == 0


@pytest.mark.parametrize("segmentation", [None, [], [[1, 2, 3, 4]], "x", {"size": [1, 1], "counts": [1]}])
def test_without_outlines_boxes_are_judged_and_a_warning_says_why(tmp_path: Path, segmentation: Any) -> None:
    bundle = instance_bundle(tmp_path / "instance.edge")
    got = evaluate(bundle, open_dataset(dataset_of(tmp_path / "data", bundle, segmentation=segmentation)))
    assert got["map_50"] > 0.1
    assert (got["mask_map_50_95"], got["mask_map_50"]) == (None, None)
    assert f"{PICTURES * 8} of the labelled objects have no outline" in got["warnings"][0]


def test_detectors_without_masks_are_judged_by_boxes_alone(tmp_path: Path) -> None:
    spec = dataset_of(tmp_path / "data", instance_bundle(tmp_path / "instance.edge"))
    write_bundle(
        tmp_path / "plain.edge",
        detector_manifest((SIDE, SIDE)),
        {"model.onnx": colour_detector((SIDE, SIDE))},
    )
    got = evaluate(tmp_path / "plain.edge", open_dataset(spec))
    assert got["map_50"] is not None
    assert got["mask_map_50"] is None
    assert not got["warnings"]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1 << 30), st.booleans())
def test_runs_in_a_string_are_those_of_pycocotools(width: int, height: int, seed: int, coarse: bool) -> None:
    from pycocotools import mask as coco_mask

    random = np.random.default_rng(seed)
    mask = random.uniform(size=(height, width)) < random.uniform()
    if coarse:
        mask = np.sort(mask, axis=0)
    encoded = encode_masks(mask[None])[0]
    text = {"size": [height, width], "counts": encoded["counts"].decode()}
    outline = read_outline(text, (width, height))
    assert outline is not None
    assert sum(outline.runs[1::2]) == mask.sum()
    np.testing.assert_array_equal(coco_mask.decode(outline.encode()), mask)


numbers = st.one_of(st.integers(), st.floats(), st.integers(-3, 30))
anything = st.recursive(
    st.one_of(numbers, st.none(), st.booleans(), st.text(st.characters(min_codepoint=40, max_codepoint=120))),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner)),
)
near_runs = st.fixed_dictionaries(
    {"size": st.just([7, 9]), "counts": st.one_of(st.lists(st.integers(-2, 63)), st.text("0123456789abZ`o"))}
)


@given(st.one_of(anything, near_runs, st.lists(st.lists(numbers, min_size=6, max_size=8), min_size=1)))
def test_whatever_stands_there_is_an_outline_or_none(segmentation: Any) -> None:
    outline = read_outline(segmentation, (9, 7))
    if outline is not None:
        assert outline.encode()["size"] == [7, 9]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[0, 0, 1e9, 0, 0, 1e9]],  # would be followed in steps of a fifth of a pixel
        [[0, 0, float("nan"), 0, 5, 5]],
        [[0, 0, float("inf"), 0, 5, 5]],
        [[0, 0, 10**400, 0, 5, 5]],
        [[0, 0, True, 0, 5, 5]],
        [[0, 0, 4, 0, 5]],
        {"size": [7, 9], "counts": [62]},
        {"size": [9, 7], "counts": [63]},
        {"size": [7, 9], "counts": [-1, 64]},
        {"size": [7, 9], "counts": "o" * 100},
    ],
)
def test_outlines_that_pycocotools_would_stumble_over_are_none(segmentation: Any) -> None:
    assert read_outline(segmentation, (9, 7)) is None
    assert read_outline([[0, 0, 4, 0, 4, 4]], None) is None
    assert read_outline([[0, 0, 4, 0, 4, 4]], (1 << 16, 1 << 15)) is None
    assert read_outline([[0, 0, 4, 0, 4, 4]], (9, 7)) is not None

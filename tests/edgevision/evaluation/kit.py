"""Bundles of the colour models, and labelled pictures for them, for the evaluation tests."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgevision.bundle import write_bundle
from edgevision.manifest import GraphInfo, Nms
from tests.tiny_models import CELL, COLOURS, cell_boxes, colour_detector, colour_segmenter, detector_manifest

SIDE, CELLS = 32, 4


def write_detector(path: Path, further: dict[str, bytes] | None = None, **changes: object) -> Path:
    """The colour detector at 32 x 32, with `further` INT8 graphs and `changes` to its manifest."""
    graphs = {"model.onnx": colour_detector((SIDE, SIDE)), **(further or {})}
    infos = {name: GraphInfo("fp32" if name == "model.onnx" else "int8") for name in graphs}
    settings = {"graphs": infos, "nms": Nms(confidence=0.3), **changes}
    write_bundle(path, detector_manifest((SIDE, SIDE), **settings), graphs)
    return path


def write_segmenter(path: Path) -> Path:
    """The colour segmenter at 32 x 32."""
    manifest = detector_manifest((SIDE, SIDE), task="semantic", nms=None)
    write_bundle(path, manifest, {"model.onnx": colour_segmenter((SIDE, SIDE))})
    return path


def dimmed(gain: float) -> bytes:
    """The colour detector with its scores multiplied."""
    model = onnx.load_model_from_string(colour_detector((SIDE, SIDE)))
    model.graph.node.append(helper.make_node("Mul", ["bright", "gain"], ["scores"]))
    for node in list(model.graph.node)[:-1]:
        node.output[:] = ["bright" if name == "scores" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(gain), "gain"))
    return model.SerializeToString()


def paint(folder: Path, pictures: int = 6, seed: int = 0) -> list[np.ndarray]:
    """Random pictures of flat cells; returns their (rows, columns, BGR) cell values."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    cells = []
    for i in range(pictures):
        cell = rng.integers(0, 256, (CELLS, CELLS, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"{i}.png"), np.kron(cell, np.ones((CELL, CELL, 1), np.uint8)))
        cells.append(cell)
    return cells


def boxes_dataset(folder: Path, pictures: int = 6) -> str:
    """COCO labels that the colour detector gets right in part: random cells of random classes."""
    paint(folder / "images", pictures)
    rng = np.random.default_rng(1)
    annotations = []
    for i in range(pictures):
        for cell in rng.choice(CELLS**2, 5, replace=False):
            x1, y1, x2, y2 = cell_boxes((SIDE, SIDE))[cell]
            bbox = [x1 + rng.integers(0, 3), y1, x2 - x1, y2 - y1]
            record = {"id": len(annotations) + 1, "image_id": i, "category_id": int(rng.integers(1, 4))}
            annotations.append({**record, "bbox": [float(v) for v in bbox], "area": 64.0, "iscrowd": 0})
    data = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in range(pictures)],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(COLOURS)],
    }
    (folder / "boxes.json").write_text(json.dumps(data))
    return f"coco:{folder}/boxes.json:{folder}/images"


def masks_dataset(folder: Path, classes: bool = True) -> tuple[str, list[np.ndarray]]:
    """Masks that name the brightest channel, but for a share of wrong and unjudged pixels; with the RGB cells."""
    cells = paint(folder / "images")
    (folder / "masks").mkdir()
    rng = np.random.default_rng(2)
    for i, cell in enumerate(cells):
        mask = np.kron(cell[:, :, ::-1].argmax(axis=2), np.ones((CELL, CELL), int))
        mask[rng.random(mask.shape) < 0.1] = 0
        mask[rng.random(mask.shape) < 0.1] = 255
        assert cv2.imwrite(str(folder / f"masks/{i}.png"), mask.astype(np.uint8))
    (folder / "classes.txt").write_text("\n".join(COLOURS))
    spec = f"masks:{folder}/images:{folder}/masks"
    return (f"{spec}:{folder}/classes.txt" if classes else spec), cells

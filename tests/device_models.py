"""The colour models of tiny_models for the device path: with any batch, and exported ones with INT8 graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from edgevision.bundle import write_bundle
from edgevision.manifest import GraphInfo
from tests.tiny_models import CELL, cell_boxes, detector_manifest, model_bytes, value

BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


def painted(width: int, height: int, *rectangles: tuple[str, int, int, int, int]) -> NDArray[np.uint8]:
    """A black picture with rectangles (colour, x1, y1, x2, y2)."""
    image = np.zeros((height, width, 3), np.uint8)
    for colour, x1, y1, x2, y2 in rectangles:
        image[y1:y2, x1:x2] = BGR[colour]
    return image


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture of bright blocks in which the colour models find something everywhere."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8)
    return np.ascontiguousarray(blocks.repeat(16, axis=0).repeat(16, axis=1)[:height, :width])


def batch_detector(batch: int | str, input_wh: tuple[int, int] = (64, 64)) -> bytes:
    """tiny_models.colour_detector for `batch` pictures at once; a name: any number."""
    width, height = input_wh
    cells = cell_boxes(input_wh)[None]
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Reshape", ["pooled", "shape"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["scores"], perm=[0, 2, 1]),
        # Boxes for every picture: four columns of the scores' kind, times zero.
        helper.make_node("Slice", ["scores", "zero", "one", "axis"], ["column"]),
        helper.make_node("Mul", ["column", "nothing"], ["nought"]),
        helper.make_node("Add", ["nought", "cells"], ["boxes"]),
    ]
    outputs = [value("boxes", [batch, cells.shape[1], 4]), value("scores", [batch, cells.shape[1], 3])]
    constants: dict[str, NDArray[np.generic]] = {
        "shape": np.array([0, 3, -1]),
        "zero": np.array([0]),
        "one": np.array([1]),
        "axis": np.array([2]),
        "nothing": np.float32(0),
        "cells": cells,
    }
    return model_bytes(nodes, [value("image", [batch, 3, height, width])], outputs, constants)


def batch_bundle(path: Path, batch: int | str, input_wh: tuple[int, int] = (64, 64)) -> Path:
    """A bundle of `batch_detector`, letterboxed."""
    manifest = detector_manifest(
        input_wh, "letterbox", graphs={"model.onnx": GraphInfo("fp32", dynamic_batch=isinstance(batch, str))}
    )
    write_bundle(path, manifest, {"model.onnx": batch_detector(batch, input_wh)})
    return path

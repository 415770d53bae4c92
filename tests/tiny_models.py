"""Small real graphs in normal form, and bundles of them, for tests.

The "colour" models look at 8x8 cells of an RGB picture in 0..1: the detector has one box per cell and scores it as
red, green and blue; the segmenter has one plane per colour. So a painted rectangle has a known answer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgevision.bundle import write_bundle
from edgevision.manifest import GraphInfo, Manifest, Nms, Preprocess

COLOURS = ("red", "green", "blue")
CELL = 8


def model_bytes(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, NDArray[np.generic]] | None = None,
) -> bytes:
    """A checked, serialised model."""
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """A typed input or output."""
    return helper.make_tensor_value_info(name, kind, shape)


def preprocess(input_wh: tuple[int, int] = (64, 48), resize: str = "stretch") -> Preprocess:
    """RGB in 0..1, as the colour models take it; padding is black, which no colour model reacts to."""
    return Preprocess("image", input_wh, resize=resize, pad_value=0.0, std=(255.0, 255.0, 255.0))


def _cells(output: str) -> onnx.NodeProto:
    return helper.make_node("AveragePool", ["image"], [output], kernel_shape=[CELL, CELL], strides=[CELL, CELL])


def cell_boxes(input_wh: tuple[int, int]) -> NDArray[np.float32]:
    """(n, 4) corners of the cells, row by row."""
    columns, rows = input_wh[0] // CELL, input_wh[1] // CELL
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) * CELL
    return np.stack([x, y, x + CELL, y + CELL], axis=1).astype(np.float32)


def colour_detector(input_wh: tuple[int, int] = (64, 48)) -> bytes:
    """`boxes` [1, n, 4], `scores` [1, n, 3]."""
    width, height = input_wh
    boxes = cell_boxes(input_wh)[None]
    nodes = [
        _cells("pooled"),
        helper.make_node("Reshape", ["pooled", "shape"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["scores"], perm=[0, 2, 1]),
        helper.make_node("Identity", ["cells"], ["boxes"]),
    ]
    outputs = [value("boxes", list(boxes.shape)), value("scores", [1, boxes.shape[1], 3])]
    constants = {"shape": np.array([1, 3, -1]), "cells": boxes}
    return model_bytes(nodes, [value("image", [1, 3, height, width])], outputs, constants)


def colour_segmenter(input_wh: tuple[int, int] = (64, 48), form: str = "class_map") -> bytes:
    """`class_map` uint8 [1, h / 8, w / 8], or `logits` [1, 3, h / 8, w / 8]."""
    width, height = input_wh
    inputs, cells = [value("image", [1, 3, height, width])], [height // CELL, width // CELL]
    if form == "logits":
        return model_bytes([_cells("logits")], inputs, [value("logits", [1, 3, *cells])])
    nodes = [
        _cells("pooled"),
        helper.make_node("ArgMax", ["pooled"], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["class_map"], to=TensorProto.UINT8),
    ]
    return model_bytes(nodes, inputs, [value("class_map", [1, *cells], TensorProto.UINT8)])


def detector_manifest(input_wh: tuple[int, int] = (64, 48), resize: str = "stretch", **changes: object) -> Manifest:
    """Of a bundle that holds `colour_detector` as its float graph; `changes` replace fields."""
    fields = {
        "name": "colours",
        "task": "detection",
        "family": "test",
        "precision": "fp32",
        "labels": COLOURS,
        "preprocess": preprocess(input_wh, resize),
        "graphs": {"model.onnx": GraphInfo("fp32")},
        "nms": Nms(iou_threshold=0.5, confidence=0.5),
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def detector_bundle(path: Path, input_wh: tuple[int, int] = (64, 48), resize: str = "stretch") -> Path:
    """Write a bundle of the colour detector."""
    write_bundle(path, detector_manifest(input_wh, resize), {"model.onnx": colour_detector(input_wh)})
    return path


def segmenter_bundle(
    path: Path, input_wh: tuple[int, int] = (64, 48), resize: str = "stretch", form: str = "class_map"
) -> Path:
    """Write a bundle of the colour segmenter."""
    manifest = detector_manifest(input_wh, resize, task="semantic", nms=None)
    write_bundle(path, manifest, {"model.onnx": colour_segmenter(input_wh, form)})
    return path


def classifier_bundle(
    path: Path, *, localises: bool = False, labels: tuple[str, ...] = COLOURS, batch: int | str = 1
) -> Path:
    """Write a bundle that scores a whole picture as red, green and blue by its mean, and, where it localises, always
    sees the object in the middle half of the input. `batch` may be a name: any number of pictures."""
    width, height = 32, 24
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["scores"]),
    ]
    outputs, constants = [value("scores", [batch, 3])], {}
    if localises:
        quarter = np.array([[[width / 4, height / 4, width * 3 / 4, height * 3 / 4]]], np.float32)
        constants["middle"] = quarter
        nodes.append(helper.make_node("Identity", ["middle"], ["boxes"]))
        outputs.append(value("boxes", [1, 1, 4]))
    graph = model_bytes(nodes, [value("image", [batch, 3, height, width])], outputs, constants)
    infos = {"model.onnx": GraphInfo("fp32", dynamic_batch=isinstance(batch, str))}
    manifest = detector_manifest((width, height), task="classification", nms=None, labels=labels, graphs=infos)
    write_bundle(path, manifest, {"model.onnx": graph})
    return path


def quantised_block(seed: int = 0, size: int = 16) -> bytes:
    """Two convolutions with a ReLU and an addition between, every tensor quantised, in the integer form that ONNX
    Runtime fuses: uint8 activations, int8 weights, Q after every operator."""
    random = np.random.default_rng(seed)
    constants: dict[str, NDArray[np.generic]] = {}
    nodes: list[onnx.NodeProto] = []

    def qdq(name: str, scale: float, zero: int) -> str:
        constants[f"{name}_scale"], constants[f"{name}_zero"] = np.float32(scale), np.uint8(zero)
        grid = [f"{name}_scale", f"{name}_zero"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *grid], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *grid], [f"{name}_dq"]))
        return f"{name}_dq"

    def conv(data: str, output: str, channels: tuple[int, int]) -> None:
        constants[f"{output}_w"] = random.integers(-127, 128, (channels[1], channels[0], 3, 3)).astype(np.int8)
        constants[f"{output}_w_scale"] = random.uniform(0.001, 0.003, channels[1]).astype(np.float32)
        constants[f"{output}_w_zero"] = np.zeros(channels[1], np.int8)
        weight = [f"{output}_w", f"{output}_w_scale", f"{output}_w_zero"]
        nodes.append(helper.make_node("DequantizeLinear", weight, [f"{output}_w_dq"], axis=0))
        nodes.append(helper.make_node("Conv", [data, f"{output}_w_dq"], [output], pads=[1, 1, 1, 1]))

    image = qdq("image", 1 / 255, 0)
    conv(image, "first", (3, 8))
    nodes.append(helper.make_node("Relu", ["first"], ["positive"]))
    middle = qdq("positive", 0.02, 0)
    conv(middle, "second", (8, 8))
    nodes.append(helper.make_node("Add", [qdq("second", 0.05, 128), middle], ["sum"]))
    nodes.append(helper.make_node("Identity", [qdq("sum", 0.05, 128)], ["result"]))
    return model_bytes(nodes, [value("image", [1, 3, size, size])], [value("result", [1, 8, size, size])], constants)


def biased_segmenter(input_wh: tuple[int, int] = (64, 48)) -> bytes:
    """`logits` [1, 3, h, w] of a quantised 1x1 convolution that gives a black picture to class 1 through a float bias
    of 0.4 on an integer grid of 1: kernels that round the bias to that grid lose it."""
    width, height = input_wh
    constants: dict[str, NDArray[np.generic]] = {
        "one": np.float32(1),
        "tenth": np.float32(0.1),
        "zero": np.uint8(0),
        "signed_zero": np.int8(0),
        "weight": np.eye(3, dtype=np.int8).reshape(3, 3, 1, 1),
        "bias": np.array([0, 0.4, 0], np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "one", "zero"], ["image_q"]),
        helper.make_node("DequantizeLinear", ["image_q", "one", "zero"], ["image_dq"]),
        helper.make_node("DequantizeLinear", ["weight", "one", "signed_zero"], ["weight_dq"]),
        helper.make_node("Conv", ["image_dq", "weight_dq", "bias"], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "tenth", "zero"], ["sum_q"]),
        helper.make_node("DequantizeLinear", ["sum_q", "tenth", "zero"], ["logits"]),
    ]
    shape: list[int | str] = [1, 3, height, width]
    return model_bytes(nodes, [value("image", shape)], [value("logits", shape)], constants)

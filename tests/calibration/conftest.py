"""Pictures and a small network to calibrate."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevision.manifest import Preprocess

WritePictures = Callable[..., Path]


@pytest.fixture
def write_pictures(tmp_path: Path) -> WritePictures:
    """Writes pictures that differ in content and size: `write_pictures(count, folder="pictures")`."""

    def write(count: int, folder: str = "pictures") -> Path:
        target = tmp_path / folder
        target.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            rng = np.random.default_rng(i)
            image = rng.integers(0, 256, (30 + i % 7, 40 + i % 5, 3), np.uint8)
            cv2.imwrite(str(target / f"{i}.png"), cv2.GaussianBlur(image, (5, 5), 0) // (1 + i % 3))
        return target

    return write


@pytest.fixture
def shuffled_copy(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a folder of pictures, 0.png and so on, under each other's names."""

    def copy(folder: Path) -> Path:
        target = tmp_path / "shuffled"
        target.mkdir()
        for i, number in enumerate(np.random.default_rng(3).permutation(len(list(folder.iterdir())))):
            shutil.copy(folder / f"{number}.png", target / f"{i}.png")
        return target

    return copy


@pytest.fixture(scope="session")
def preprocess() -> Preprocess:
    """What the small network expects."""
    return Preprocess("image", (32, 24), mean=(100.0, 110.0, 120.0), std=(60.0, 60.0, 60.0))


@pytest.fixture(scope="session")
def network() -> bytes:
    """Convolutions of 16 (whole blocks) and 24 channels (padded ones), every common activation, an addition.

    Tensors: image, relu, signed, leaky, clip, sum, pooled, moved, flat, index (int64), output. It finds objects of 9x5
    pixels around the cells of "signed", as `boxes` and `scores`.
    """
    rng = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(values.astype(np.float32), name)

    centres = np.stack(np.meshgrid(np.arange(0, 32, 2), np.arange(0, 24, 2)), axis=2).reshape(1, -1, 2)
    priors = np.concatenate([centres - (4, 2), centres + (5, 3)], axis=2).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["relu"]),
        helper.make_node("Conv", ["relu", "w2", "b2"], ["signed"], pads=[1] * 4),
        helper.make_node("LeakyRelu", ["signed"], ["leaky"], alpha=0.1),
        helper.make_node("Conv", ["leaky", "w3"], ["c3"]),
        helper.make_node("Clip", ["c3", "zero", "six"], ["clip"]),
        helper.make_node("Add", ["clip", "relu"], ["sum"]),
        helper.make_node("MaxPool", ["sum"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Transpose", ["pooled"], ["moved"], perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["moved"], ["flat"]),
        helper.make_node("ArgMax", ["pooled"], ["index"], axis=1),
        helper.make_node("Sigmoid", ["flat"], ["output"]),
        helper.make_node("Conv", ["signed", "w4", "b4"], ["objectness"], strides=[2, 2]),
        helper.make_node("Reshape", ["objectness", "rows"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Add", ["priors", "scores"], ["boxes"]),
    ]
    constants = [
        weights("w1", 16, 3, 3, 3),
        weights("w2", 24, 16, 3, 3),
        numpy_helper.from_array(rng.standard_normal(24).astype(np.float32), "b2"),
        weights("w3", 16, 24, 1, 1),
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(6), "six"),
        weights("w4", 1, 24, 1, 1),
        numpy_helper.from_array(np.full(1, -1.7, np.float32), "b4"),
        numpy_helper.from_array(np.array([1, -1, 1], np.int64), "rows"),
        numpy_helper.from_array(priors, "priors"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 24, 32])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in {"output": [1, 3072], "boxes": [1, 192, 4], "scores": [1, 192, 1]}.items()
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data

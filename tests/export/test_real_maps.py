"""Trained segmenters of others, exported: on a photograph, the classes are those of the file's own outputs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from edgevision.export import ExportConfig, prepare
from tests.export.builders import run


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("espnet_cityscapes_1024x512", ""),
        ("prisma_portrait_256", ""),
        ("twinlitenet_640x360", "da"),
        ("twinlitenet_640x360", "da+ll"),
    ],
)
def test_the_classes_of_a_photograph(shared: Path, name: str, output: str) -> None:
    path = shared / "models" / f"{name}.onnx"
    head = {"output": output} if output else {}
    config = ExportConfig(precision="fp32", head=head, mean=(0.0,) * 3, std=(255.0,) * 3)
    prepared = prepare(path, config)
    picture = cv2.imread(str(shared / "data" / "photos" / "bus.jpg"))
    rgb = cv2.resize(picture, prepared.preprocess.input_wh)[..., ::-1].astype(np.float32) / 255
    image = np.ascontiguousarray(rgb.transpose(2, 0, 1)[None])
    raw = run(onnx.load(path), image)
    expected = next(iter(raw.values()))
    expected = expected[:, 0] > 0.5 if expected.shape[1] == 1 else expected.argmax(axis=1)
    if output == "da+ll":
        expected = np.where(raw["ll"].argmax(axis=1) == 1, 2, raw["da"].argmax(axis=1))
    got = run(prepared.graph.serialize(), image)["class_map"]
    np.testing.assert_array_equal(got, expected)
    assert len(np.unique(got)) > 1, "the picture must hold more than one class"

"""Faces with landmarks: graphs built as each family's exporter writes them, against decodes written prior by prior."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from tests.export.builders import Builder
from tests.export.cell_kit import HW, ceil_cells, check, features, prepared_outputs, sigmoid

FACE_PRIORS = {
    "RetinaFace": {8: (16, 32), 16: (64, 128), 32: (256, 512)},
    "slim and RFB": {8: (10, 16, 24), 16: (32, 48), 32: (64, 96), 64: (128, 192, 256)},
}


def face_model(sizes: dict[int, tuple[int, ...]], *, softmax: bool) -> onnx.ModelProto:
    b = Builder(58)
    maps = features(b, tuple(sizes))
    for name, width in (("output", 4), ("outputt", 2), ("outputtt", 10)):
        levels = []
        for feature, priors in zip(maps, sizes.values(), strict=True):
            last = b.op("Transpose", b.conv(feature, 12, len(priors) * width, kernel=1, gain=2), perm=[0, 2, 3, 1])
            levels.append(b.op("Reshape", last, b.constant(np.array([1, -1, width]))))
        last = name == "outputt" and softmax
        joined = b.op("Concat", *levels, axis=1, out=None if last else name)
        if last:
            b.op("Softmax", joined, axis=2, out=name)
    return b.model({"image": [1, 3, *HW]}, ["output", "outputt", "outputtt"])


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("variant", sorted(FACE_PRIORS))
def test_retinaface(variant: str, softmax: bool) -> None:
    sizes = FACE_PRIORS[variant]
    raw, got = prepared_outputs(face_model(sizes, softmax=softmax), 0, "retinaface")
    boxes, points, i = [], [], 0
    for stride, level in sizes.items():
        for x, y in ceil_cells(stride):
            for size in level:
                dx, dy, dw, dh = raw["output"][0, i].astype(float)
                px, py = (x + 0.5) * stride, (y + 0.5) * stride
                cx, cy = px + dx * 0.1 * size, py + dy * 0.1 * size
                w, h = size * math.exp(0.2 * dw), size * math.exp(0.2 * dh)
                boxes.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
                pairs = raw["outputtt"][0, i].astype(float).reshape(5, 2)
                points.append([[px + a * 0.1 * size, py + c * 0.1 * size] for a, c in pairs])
                i += 1
    two = np.exp(raw["outputt"][0].astype(float))
    scores = raw["outputt"][0, :, 1:] if softmax else two[:, 1:] / two.sum(axis=1, keepdims=True)
    check(got, boxes, scores.tolist())
    np.testing.assert_allclose(got["keypoints"][0], np.array(points), rtol=1e-5, atol=1e-3)


def blazeface_model(side: int) -> onnx.ModelProto:
    b = Builder(59)
    maps = features(b, (side // 16, side // 8))
    for name, width in (("regressors", 16), ("classificators", 1)):
        levels = []
        for feature, per_cell in zip(maps, (2, 6), strict=True):
            last = b.op("Transpose", b.conv(feature, 12, per_cell * width, kernel=1, gain=9), perm=[0, 2, 3, 1])
            levels.append(b.op("Reshape", last, b.constant(np.array([1, -1, width]))))
        b.op("Concat", *levels, axis=1, out=name)
    return b.model({"image": [1, 3, side, side]}, ["regressors", "classificators"])


@pytest.mark.parametrize("side", [128, 256])
def test_blazeface(side: int) -> None:
    raw, got = prepared_outputs(blazeface_model(side), 0, "blazeface")
    boxes, points, i = [], [], 0
    for cells, per_cell in ((16, 2), (8, 6)):
        for y in range(cells):
            for x in range(cells):
                for _ in range(per_cell):
                    fractions = raw["regressors"][0, i].astype(float) / side
                    ax, ay = (x + 0.5) / cells, (y + 0.5) / cells
                    cx, cy, w, h = fractions[0] + ax, fractions[1] + ay, fractions[2], fractions[3]
                    boxes.append([side * v for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)])
                    points.append([[side * (a + ax), side * (c + ay)] for a, c in fractions[4:].reshape(6, 2)])
                    i += 1
    check(got, boxes, sigmoid(raw["classificators"][0].astype(float)).tolist())
    np.testing.assert_allclose(got["keypoints"][0], np.array(points), rtol=1e-5, atol=1e-3)

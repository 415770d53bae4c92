"""Graphs with one set of numbers per map location, and the comparison with a decode written cell by cell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.export import ExportConfig, prepare
from edgevision.export.graph import DECODE_PREFIX
from tests.export.builders import Builder, picture_tensor, run

HW = (64, 96)
CLASSES = 3


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def features(b: Builder, strides: tuple[int, ...]) -> list[str]:
    """One feature map of 12 channels per stride, from the input `image`."""
    x, maps, reached = "image", [], 1
    while reached < max(strides):
        x = b.op("Relu", b.conv(x, 3 if x == "image" else 12, 12, stride=2, gain=1.6))
        reached *= 2
        if reached in strides:
            maps.append(x)
    return maps


def prepared_outputs(
    model: onnx.ModelProto, seed: int, family: str, /, **config: Any
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """The model's own outputs and the normal form's, for one random picture; the family must be found unaided."""
    image = picture_tensor(model, seed)
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", **config))
    assert prepared.family == family
    left = [n for n in prepared.graph.nodes if n.op_type not in ("Conv", "Relu")]
    assert all(n.name.startswith(DECODE_PREFIX) for n in left), "the whole decode stays in float32"
    return run(model, image), run(prepared.graph.serialize(), image)


def check(got: dict[str, NDArray[Any]], boxes: list[list[float]], scores: list[Any]) -> None:
    """Compare the normal form with boxes and scores computed one by one."""
    np.testing.assert_allclose(got["boxes"][0], np.array(boxes), rtol=2e-5, atol=2e-3)
    np.testing.assert_allclose(got["scores"][0], np.array(scores), atol=2e-6)
    assert np.std(boxes) > 3, "the case must not be degenerate"
    assert np.std(scores) > 0.01


def each_cell(stride: int) -> list[tuple[int, int]]:
    """Column and row of every cell of a map, along rows."""
    return [(x, y) for y in range(HW[0] // stride) for x in range(HW[1] // stride)]


def ceil_cells(stride: int) -> list[tuple[int, int]]:
    """Column and row of every cell; the last part of a stride has a cell of its own."""
    return [(x, y) for y in range(math.ceil(HW[0] / stride)) for x in range(math.ceil(HW[1] / stride))]

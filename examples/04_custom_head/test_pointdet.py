"""PointDet against a decode written cell by cell, through the installed entry point and through the specification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevision.export import ExportConfig, prepare

HEIGHT, WIDTH, CLASSES = 32, 48, 2
STRIDES = (8, 16)


def model() -> bytes:
    """One strided convolution per map; the maps as rows, joined."""
    random = np.random.default_rng(0)
    columns = 4 + CLASSES
    nodes, constants = [], [numpy_helper.from_array(np.array([1, columns, -1]), "flat")]
    for stride in STRIDES:
        weight = random.normal(0, 0.2, (columns, 3, stride, stride)).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"w{stride}"))
        nodes += [
            helper.make_node("Conv", ["image", f"w{stride}"], [f"map{stride}"], strides=[stride, stride]),
            helper.make_node("Reshape", [f"map{stride}", "flat"], [f"flat{stride}"]),
            helper.make_node("Transpose", [f"flat{stride}"], [f"rows{stride}"], perm=[0, 2, 1]),
        ]
    nodes.append(helper.make_node("Concat", [f"rows{stride}" for stride in STRIDES], ["points"], axis=1))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])
    points = helper.make_tensor_value_info("points", TensorProto.FLOAT, [1, "N", columns])
    graph = helper.make_graph(nodes, "pointdet", [image], [points], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def run(data: bytes, image: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return dict(
        zip([output.name for output in session.get_outputs()], session.run(None, {"image": image}), strict=True)
    )


@pytest.mark.parametrize(
    ("family", "config"),
    [("pointdet", {}), ("pointdet-spec", {"head_spec": Path(__file__).with_name("pointdet.toml")})],
)
def test_boxes_and_scores(family: str, config: dict[str, Any]) -> None:
    image = np.random.default_rng(1).normal(0, 1, (1, 3, HEIGHT, WIDTH)).astype(np.float32)
    prepared = prepare(model(), ExportConfig(precision="fp32", **config))
    assert (prepared.family, prepared.classes) == (family, CLASSES)
    boxes, scores = [], []
    rows = iter(run(model(), image)["points"][0].astype(float))
    for stride in STRIDES:
        for y in range(HEIGHT // stride):
            for x in range(WIDTH // stride):
                left, top, right, bottom, *logits = next(rows)
                cx, cy = x + 0.5, y + 0.5
                boxes.append([(cx - left) * stride, (cy - top) * stride, (cx + right) * stride, (cy + bottom) * stride])
                scores.append([1 / (1 + np.exp(-logit)) for logit in logits])
    got = run(prepared.graph.serialize(), image)
    np.testing.assert_allclose(got["boxes"][0], boxes, atol=1e-3)
    np.testing.assert_allclose(got["scores"][0], scores, atol=1e-5)

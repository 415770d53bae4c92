"""Max-unpooling rewritten: bit for bit what MaxUnpool gives, ties included, and nothing that TensorRT lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgevision.cli import main
from edgevision.errors import ModelError
from edgevision.export import ExportConfig, prepare
from tests.export.builders import Builder, picture_tensor, run

PIXELS = {"mean": (0.0,) * 3, "std": (255.0,) * 3}


def pool(b: Builder, x: str, **attributes: Any) -> tuple[str, str]:
    names = [f"pooled{len(b.nodes)}", f"places{len(b.nodes)}"]
    settings = {"kernel_shape": [2, 2], "strides": [2, 2], **attributes}
    b.nodes.append(onnx.helper.make_node("MaxPool", [x], names, name=names[0], **settings))
    return names[0], names[1]


def segnet(classes: int = 4, hw: tuple[int, int] = (32, 48)) -> onnx.ModelProto:
    """Two levels: convolution, ReLU, pooling with indices; unpooling, convolution on the way back. ReLU makes ties."""
    b = Builder(51)
    x = b.op("Relu", b.conv("image", 3, 8))
    x, first = pool(b, x)
    x = b.op("Relu", b.conv(x, 8, 12))
    x, second = pool(b, x)
    x = b.op("Relu", b.conv(x, 12, 12))
    x = b.op("MaxUnpool", x, second, kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("Relu", b.conv(x, 12, 8))
    x = b.op("MaxUnpool", x, first, kernel_shape=[2, 2], strides=[2, 2])
    b.op("Identity", b.conv(x, 8, classes), out="logits")
    return b.model({"image": [1, 3, *hw]}, ["logits"])


@pytest.mark.parametrize("seed", range(3))
def test_a_segnet_gives_the_same_classes_before_and_after(seed: int) -> None:
    model = segnet()
    prepared = prepare(model.SerializeToString(), ExportConfig(precision="fp32", **PIXELS))
    operators = {node.op_type for node in prepared.graph.nodes}
    assert "MaxUnpool" not in operators
    assert all(len(node.output) == 1 for node in prepared.graph.nodes if node.op_type == "MaxPool")
    image = picture_tensor(model, seed)
    expected = run(model, image)["logits"].argmax(axis=1)
    np.testing.assert_array_equal(run(prepared.graph.serialize(), image)["class_map"], expected)
    assert len(np.unique(expected)) > 1


@settings(max_examples=30)
@given(
    channels=st.integers(1, 3),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    levels=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_every_tie_goes_where_max_pool_says(channels: int, height: int, width: int, levels: int, seed: int) -> None:
    from edgevision.export.graph import Graph
    from edgevision.export.unpooling import rewrite_unpooling

    b = Builder()
    _, places = pool(b, "image")
    b.op("MaxUnpool", "values", places, kernel_shape=[2, 2], strides=[2, 2], out="out")
    shape = [1, channels, 2 * height, 2 * width]
    model = b.model({"image": shape, "values": [1, channels, height, width]}, ["out"])
    graph = Graph(onnx.ModelProto.FromString(model.SerializeToString()))
    graph.infer_shapes()
    assert rewrite_unpooling(graph) == 1
    random = np.random.default_rng(seed)
    feeds = {
        "image": random.integers(0, levels, shape).astype(np.float32),
        "values": random.normal(size=(1, channels, height, width)).astype(np.float32),
    }
    import onnxruntime

    got, expected = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(["out"], feeds)[0]
        for m in (graph.model, model)
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("change", [{"strides": [1, 1]}, {"kernel_shape": [3, 3]}, {"pads": [1, 1, 1, 1]}])
def test_other_poolings_are_refused(change: dict[str, list[int]]) -> None:
    b = Builder(52)
    x, places = pool(b, b.op("Relu", b.conv("image", 3, 4)), **change)
    unpooled = b.op("MaxUnpool", x, places, **{"kernel_shape": [2, 2], "strides": [2, 2], **change})
    b.op("Identity", unpooled, out="logits")
    model = b.model({"image": [1, 3, 32, 32]}, ["logits"])
    with pytest.raises(ModelError, match="2x2 max-pooling"):
        prepare(model.SerializeToString(), ExportConfig(precision="fp32", **PIXELS))


def test_it_builds_in_nvidia_s_builder_in_int8(tmp_path: Path) -> None:
    import cv2

    (tmp_path / "photos").mkdir()
    for i in range(4):
        picture = np.random.default_rng(i).integers(0, 256, (32, 48, 3), np.uint8)
        assert cv2.imwrite(str(tmp_path / f"photos/{i}.png"), picture)
    (tmp_path / "segnet.onnx").write_bytes(segnet().SerializeToString())
    export = ["export", str(tmp_path / "segnet.onnx"), "-o", str(tmp_path / "s.edge"), "--quiet"]
    flags = ["--mean", "0", "--std", "255", "--calibration-images", str(tmp_path / "photos")]
    assert main([*export, *flags, "--precision", "int8"]) == 0
    build = ["build", str(tmp_path / "s.edge"), "--backend", "tensorrt-rtx", "--target", "89", "--quiet"]
    assert main([*build, "--json", str(tmp_path / "report.json")]) == 0
    import json

    convolutions = json.loads((tmp_path / "report.json").read_text())["convolutions"]
    assert convolutions["int8"] >= convolutions["promised"] > 0

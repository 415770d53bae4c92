"""Small ONNX models for the export tests: a few real convolutions, then the head in question. Seeded weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


class Builder:
    """Collects nodes and constants."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add a node with one output."""
        name = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"node_{name}", **attributes))
        return name

    def constant(self, value: Any, name: str | None = None) -> str:
        """Add an initialiser."""
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def conv(
        self, x: str, channels_in: int, channels_out: int, stride: int = 1, kernel: int = 3, gain: float = 1.0
    ) -> str:
        """Add a convolution with bias that keeps or halves the size."""
        fan = channels_in * kernel * kernel
        weight = self.random.normal(0, gain / np.sqrt(fan), (channels_out, channels_in, kernel, kernel))
        bias = self.random.normal(0, 0.1, channels_out)
        pad = kernel // 2
        return self.op(
            "Conv",
            x,
            self.constant(weight.astype(np.float32)),
            self.constant(bias.astype(np.float32)),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[pad] * 4,
        )

    def model(
        self,
        inputs: Mapping[str, Sequence[int | str]],
        outputs: Sequence[str],
        *,
        opset: int = 17,
        metadata: Mapping[str, str] | None = None,
        kinds: Mapping[str, int] | None = None,
        ir_version: int = 8,
    ) -> onnx.ModelProto:
        """The model; outputs leave their shapes to inference."""
        kinds = kinds or {}
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info(n, kinds.get(n, FLOAT), list(s)) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, kinds.get(n, FLOAT), None) for n in outputs],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
        model = onnx.shape_inference.infer_shapes(model)
        for key, value in (metadata or {}).items():
            model.metadata_props.add(key=key, value=value)
        return model


def backbone(b: Builder, image: str = "image", channels: int = 16) -> str:
    """Three convolutions: 3 channels -> `channels` at an eighth of the size."""
    x = image
    for cin, cout in ((3, 8), (8, channels), (channels, channels)):
        x = b.op("Relu", b.conv(x, cin, cout, stride=2))
    return x


def rows(
    b: Builder, feature: str, channels: int, per_cell: int, width: int, out: str | None = None, gain: float = 1.0
) -> str:
    """A head convolution brought into rows [1, N, width], as SSD exporters write it."""
    x = b.conv(feature, channels, per_cell * width, kernel=1, gain=gain)
    x = b.op("Transpose", x, perm=[0, 2, 3, 1])
    return b.op("Reshape", x, b.constant(np.array([1, -1, width])), out=out)


def grid_priors(cells: int, sizes: Sequence[float]) -> NDArray[np.float32]:
    """Priors cx, cy, w, h in 0..1 on a square grid, cell by cell along rows."""
    centres = (np.arange(cells) + 0.5) / cells
    return np.array([[x, y, s, s * 0.8] for y in centres for x in centres for s in sizes], np.float32)


def ssd_model(
    *,
    columns: int = 5,
    activation: str | None = None,
    priors: NDArray[np.float32] | None = None,
    side: int = 64,
    metadata: Mapping[str, Any] | None = None,
    names: tuple[str, str] = ("scores", "boxes"),
    gain: float = 2.0,
) -> onnx.ModelProto:
    """Scores [1,N,columns] and offsets [1,N,4] for two priors on each cell of a side/8 grid; `priors` become a third
    output."""
    b = Builder(1)
    feature = backbone(b)
    score_name, box_name = names
    raw = rows(b, feature, 16, 2, columns, gain=gain, out=None if activation else score_name)
    if activation:
        b.op(activation, raw, out=score_name, **({"axis": 2} if activation == "Softmax" else {}))
    rows(b, feature, 16, 2, 4, out=box_name, gain=gain)
    outputs = [score_name, box_name]
    if priors is not None:
        b.op("Identity", b.constant(priors, "prior_boxes"), out="priors")
        outputs.append("priors")
    return b.model(
        {"image": [1, 3, side, side]},
        outputs,
        metadata=None if metadata is None else {"edgevision": json.dumps(metadata)},
    )


def yolov8_model(
    *,
    classes: int = 3,
    input_hw: tuple[int, int] = (64, 96),
    metadata: Mapping[str, str] | None = None,
    transposed: bool = False,
    joined: bool = True,
    strides_used: Sequence[int] = (8, 16, 32),
    suppressed: bool = False,
    opset: int = 17,
) -> onnx.ModelProto:
    """The tail of an Ultralytics detector: three scales, a distribution per box side, expectation, distances to
    corners to centres, sigmoid, Concat to [1, 4 + classes, N]; `suppressed` keeps corners and picks some of them."""
    b = Builder(2)
    height, width = input_hw
    levels, points, strides = [], [], []
    x, channels = "image", 3
    x = b.op("Relu", b.conv(x, channels, 8, stride=2))
    x = b.op("Relu", b.conv(x, 8, 16, stride=2))
    for stride in (8, 16, 32):
        x = b.op("Relu", b.conv(x, 16, 16, stride=2))
        if stride not in strides_used:
            continue
        head = b.op("Concat", b.conv(x, 16, 64, kernel=1, gain=2), b.conv(x, 16, classes, kernel=1, gain=3), axis=1)
        levels.append(b.op("Reshape", head, b.constant(np.array([1, 64 + classes, -1]))))
        h, w = -(-height // stride), -(-width // stride)
        gy, gx = np.meshgrid(np.arange(h) + 0.5, np.arange(w) + 0.5, indexing="ij")
        points.append(np.stack([gx.ravel(), gy.ravel()]))
        strides.append(np.full(h * w, stride))
    anchors = b.constant(np.concatenate(points, axis=1)[None].astype(np.float32))
    scale = b.constant(np.concatenate(strides)[None, None].astype(np.float32))
    joint = b.op("Concat", *levels, axis=2)
    split = b.constant(np.array([64, classes]))
    b.nodes.append(helper.make_node("Split", [joint, split], ["box", "cls"], name="split", axis=1))
    n = sum(p.shape[1] for p in points)
    x = b.op("Transpose", b.op("Reshape", "box", b.constant(np.array([1, 4, 16, n]))), perm=[0, 2, 1, 3])
    x = b.op("Softmax", x, axis=1)
    weight = b.constant(np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1))
    x = b.op("Reshape", b.op("Conv", x, weight, kernel_shape=[1, 1]), b.constant(np.array([1, 4, n])))
    halves = b.constant(np.array([2, 2]))
    b.nodes.append(helper.make_node("Split", [x, halves], ["lt", "rb"], name="sides", axis=1))
    low, high = b.op("Sub", anchors, "lt"), b.op("Add", anchors, "rb")
    scores = b.op("Sigmoid", "cls")
    if suppressed:
        corners = b.op("Mul", b.op("Concat", low, high, axis=1), scale)
        suppress(b, b.op("Concat", corners, scores, axis=1, out="joined"), classes)
        return b.model({"image": [1, 3, height, width]}, ["output0"], metadata=metadata, opset=opset)
    centre = b.op("Div", b.op("Add", low, high), b.constant(np.float32(2)))
    boxes = b.op("Mul", b.op("Concat", centre, b.op("Sub", high, low), axis=1), scale)
    out = b.op("Concat", boxes, scores, axis=1, out="joined" if transposed or not joined else "output0")
    if transposed:
        b.op("Transpose", out, perm=[0, 2, 1], out="output0")
    elif not joined:
        b.op("Mul", out, b.constant(np.float32(1)), out="output0")
    return b.model({"image": [1, 3, height, width]}, ["output0"], metadata=metadata, opset=opset)


def suppress(b: Builder, joined: str, classes: int) -> None:
    """Pick from [1, 4 + classes, N] as a graph does that suppresses by itself: by score 0.4, by overlap 0.6."""
    rows = b.op("Transpose", joined, perm=[0, 2, 1])
    zero, four, end, axis = (b.constant(np.array([value])) for value in (0, 4, 4 + classes, 2))
    best = b.op("ReduceMax", b.op("Slice", rows, four, end, axis), axes=[2], keepdims=0)
    sure = b.op("NonZero", b.op("Greater", best, b.constant(np.float32(0.4))))
    index = b.op("Gather", sure, b.constant(np.array(1)), axis=0)
    some, top = (b.op("Gather", x, index, axis=1) for x in (rows, best))
    settings = [b.constant(np.array(value)) for value in (np.int64(300), np.float32(0.6))]
    one = b.op("Unsqueeze", top, b.constant(np.array([1])))
    picked = b.op("NonMaxSuppression", b.op("Slice", some, zero, four, axis), one, *settings)
    b.op("Gather", some, b.op("Gather", picked, b.constant(np.array(2)), axis=1), axis=1, out="output0")


def ultralytics_metadata(classes: int = 3, **changes: str) -> dict[str, str]:
    """Metadata as Ultralytics writes it."""
    names = {i: f"class {i}" for i in range(classes)}
    return {"names": str(names), "stride": "32", "task": "detect", "imgsz": "[64, 96]", **changes}


def semantic_model(
    *,
    classes: int = 4,
    upsample: bool = True,
    argmax: str | None = None,
    side: int = 64,
    nhwc: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """Class scores at an eighth of the input, enlarged with `upsample`; `argmax` (`int64` or `uint8`) ends in a map."""
    b = Builder(3)
    x = b.conv(backbone(b), 16, classes, kernel=1, gain=3)
    if upsample:
        scales = b.constant(np.array([1, 1, 8, 8], np.float32))
        x = b.op("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    if nhwc:
        x = b.op("Transpose", x, perm=[0, 2, 3, 1])
    kinds = {}
    if argmax:
        x = b.op("ArgMax", x, axis=3 if nhwc else 1, keepdims=0)
        kinds["logits"] = TensorProto.INT64
        if argmax == "uint8":
            x = b.op("Cast", x, to=TensorProto.UINT8)
            kinds["logits"] = TensorProto.UINT8
    b.op("Identity", x, out="logits")
    return b.model(
        {"image": [1, 3, side, side]},
        ["logits"],
        kinds=kinds,
        metadata=None if metadata is None else {"edgevision": json.dumps(metadata)},
    )


def run(model: onnx.ModelProto | bytes, image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Every output of a model, by ONNX Runtime without optimisation."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    values = session.run(None, {session.get_inputs()[0].name: image})
    return dict(zip([o.name for o in session.get_outputs()], values, strict=True))


def picture_tensor(model: onnx.ModelProto, seed: int = 0) -> NDArray[np.float32]:
    """A random input of the model's shape."""
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)

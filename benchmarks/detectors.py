"""Detectors of the usual sizes with random weights, written as their exporters write them: what `decode_cost` measures.

Speed does not depend on what weights are, only on how many there are. Widths and depths are those of the published
small models: ultralytics/yolov5 (yolov5n.yaml), Ultralytics' documentation of YOLOv8n, AlexeyAB/darknet
(yolov4-tiny.cfg), TensorFlow's SSD MobileNet v1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_CLASSES = 80
_YOLO_PIXELS = {"mean": (0.0,) * 3, "std": (255.0,) * 3}
Features = dict[int, str]


@dataclass(frozen=True)
class Detector:
    """A network to export.

    Attributes:
        name: with its input size.
        family: the head that must recognise it.
        build: makes the ONNX file's bytes.
        config: what ExportConfig must say besides.
    """

    name: str
    family: str
    build: Callable[[], bytes]
    config: Mapping[str, Any] = field(default_factory=dict)


class Net:
    """A graph under construction; knows every tensor's channels."""

    def __init__(self, size_wh: tuple[int, int], activation: str = "silu") -> None:
        self.size_wh, self.activation = size_wh, activation
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.channels = {"images": 3}

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, channels: int = 0, out: str | None = None, **attributes: Any) -> str:
        """A node with one output; `channels` where they are not the first input's."""
        name = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{kind}_{name}", **attributes))
        self.channels[name] = channels or self.channels.get(inputs[0], 0)
        return name

    def split(self, x: str, widths: Sequence[int], axis: int) -> list[str]:
        names = [f"t{len(self.nodes)}_{index}" for index in range(len(widths))]
        sizes = self.constant(np.array(widths))
        self.nodes.append(helper.make_node("Split", [x, sizes], names, name=f"Split_{names[0]}", axis=axis))
        self.channels.update(zip(names, widths, strict=True))
        return names

    def shaped(self, x: str, *shape: int, out: str | None = None) -> str:
        return self.op("Reshape", x, self.constant(np.array(shape)), out=out)

    def bare(self, x: str, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> str:
        """A convolution alone."""
        fan = self.channels[x] // groups * kernel * kernel
        weight = self.random.normal(0, 1.4 / np.sqrt(fan), (channels, self.channels[x] // groups, kernel, kernel))
        before = (kernel - 1) // 2
        pads = [before, before, kernel // 2, kernel // 2] if kernel % 2 else [kernel // 2 - 1] * 4
        values = (weight, self.random.normal(0, 0.1, channels))
        names = [self.constant(value.astype(np.float32)) for value in values]
        return self.op(
            "Conv",
            x,
            *names,
            channels=channels,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=pads,
            group=groups,
        )

    def conv(self, x: str, channels: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> str:
        """A convolution with the network's activation."""
        x = self.bare(x, channels, kernel, stride, groups)
        if self.activation == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if self.activation == "leaky":
            return self.op("LeakyRelu", x, alpha=0.1)
        if self.activation == "relu6":
            return self.op("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))
        return self.op("Relu", x)

    def separable(self, x: str, channels: int, stride: int = 1, kernel: int = 3) -> str:
        return self.conv(self.conv(x, self.channels[x], kernel, stride, self.channels[x]), channels, 1)

    def join(self, *parts: str) -> str:
        return self.op("Concat", *parts, channels=sum(self.channels[part] for part in parts), axis=1)

    def up(self, x: str) -> str:
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        return self.op("Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric")

    def finish(self, outputs: Sequence[str], metadata: Mapping[str, str] | None = None) -> bytes:
        width, height = self.size_wh
        entries = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, height, width])]
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "detector", entries, ends, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        for key, value in (metadata or {}).items():
            model.metadata_props.add(key=key, value=value)
        return onnx.shape_inference.infer_shapes(model).SerializeToString()


# Bodies ----------------------------------------------------------------------------------------------------------


def _bottlenecks(net: Net, x: str, count: int, first_kernel: int, *, residual: bool) -> list[str]:
    made = [x]
    for _ in range(count):
        y = net.conv(net.conv(x, net.channels[x], first_kernel), net.channels[x])
        x = net.op("Add", x, y) if residual else y
        made.append(x)
    return made


def _c2f(net: Net, x: str, channels: int, count: int, *, residual: bool = False) -> str:
    kept, x = net.split(net.conv(x, channels, 1), (channels // 2, channels // 2), axis=1)
    return net.conv(net.join(kept, *_bottlenecks(net, x, count, 3, residual=residual)), channels, 1)


def _c3(net: Net, x: str, channels: int, count: int, *, residual: bool = False) -> str:
    deep = _bottlenecks(net, net.conv(x, channels // 2, 1), count, 1, residual=residual)[-1]
    return net.conv(net.join(deep, net.conv(x, channels // 2, 1)), channels, 1)


def _pyramid(net: Net, block: Callable[..., str], depths: Sequence[int], stem: int) -> Features:
    """The nano body that YOLOv5 and YOLOv8 share but for its blocks: maps at strides 8, 16 and 32."""
    x = net.conv("images", 16, stem, 2)
    levels = []
    for channels, depth in zip((32, 64, 128, 256), depths, strict=True):
        x = block(net, net.conv(x, channels, 3, 2), channels, depth, residual=True)
        levels.append(x)
    x = net.conv(x, 128, 1)
    pools = [x]
    for _ in range(3):
        pools.append(net.op("MaxPool", pools[-1], kernel_shape=[5, 5], pads=[2] * 4))
    deep = net.conv(net.join(*pools), 256, 1)
    if block is _c3:
        deep = net.conv(deep, 128, 1)
    middle = block(net, net.join(net.up(deep), levels[2]), 128, 1)
    if block is _c3:
        middle = net.conv(middle, 64, 1)
    fine = block(net, net.join(net.up(middle), levels[1]), 64, 1)
    coarse = block(net, net.join(net.conv(fine, 64, 3, 2), middle), 128, 1)
    return {8: fine, 16: coarse, 32: block(net, net.join(net.conv(coarse, 128, 3, 2), deep), 256, 1)}


def _yolov8n(size: int) -> tuple[Net, Features]:
    net = Net((size, size))
    return net, _pyramid(net, _c2f, (1, 2, 2, 1), 3)


def _yolov5n(size: int) -> tuple[Net, Features]:
    net = Net((size, size))
    return net, _pyramid(net, _c3, (1, 2, 3, 1), 6)


def _yolov4_tiny(size: int) -> tuple[Net, Features]:
    net = Net((size, size), "leaky")
    x, fine = net.conv(net.conv("images", 32, 3, 2), 64, 3, 2), ""
    for channels in (64, 128, 256):
        whole = net.conv(x, channels)
        first = net.conv(net.split(whole, (channels // 2, channels // 2), axis=1)[1], channels // 2)
        fine = net.conv(net.join(net.conv(first, channels // 2), first), channels, 1)
        x = net.op("MaxPool", net.join(whole, fine), kernel_shape=[2, 2], strides=[2, 2])
    deep = net.conv(net.conv(x, 512), 256, 1)
    middle = net.conv(net.join(net.up(net.conv(deep, 128, 1)), fine), 256)
    return net, {16: middle, 32: net.conv(deep, 512)}


def _mobilenet(size: int) -> tuple[Net, Features]:
    """MobileNet v1 without its classifier: maps at strides 16 and 32."""
    net = Net((size, size), "relu6")
    x = net.conv("images", 32, 3, 2)
    found: Features = {}
    for channels, stride in (
        *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
        *[(512, 1)] * 5,
        *((1024, 2), (1024, 1)),
    ):
        if (channels, stride) == (1024, 2):
            found[16] = x
        x = net.separable(x, channels, stride)
    return net, {**found, 32: x}


# Ends ------------------------------------------------------------------------------------------------------------


def _grid(size: int, strides: Sequence[int]) -> tuple[Any, Any]:
    """Cells' columns and rows (2, N), and strides (1, N)."""
    sides = [size // stride for stride in strides]
    grids = [np.stack(np.meshgrid(np.arange(side), np.arange(side))).reshape(2, -1) for side in sides]
    steps = [np.full((1, side * side), stride) for side, stride in zip(sides, strides, strict=True)]
    return np.concatenate(grids, 1).astype(np.float32), np.concatenate(steps, 1).astype(np.float32)


def _ultralytics_boxes(net: Net, sides: str, size: int) -> str:
    """[1,64,N] to centres and sizes [1,4,N]."""
    grid, stride = _grid(size, (8, 16, 32))
    count = grid.shape[1]
    shares = net.op("Transpose", net.shaped(sides, 1, 4, 16, count), perm=[0, 2, 1, 3])
    weight = net.constant(np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1))
    mean = net.shaped(net.op("Conv", net.op("Softmax", shares, axis=1), weight), 1, 4, count)
    before, after = net.split(mean, (2, 2), axis=1)
    points = net.constant((grid + 0.5)[None])
    low, high = net.op("Sub", points, before), net.op("Add", points, after)
    centre = net.op("Div", net.op("Add", low, high), net.constant(np.float32(2)))
    return net.op("Mul", net.op("Concat", centre, net.op("Sub", high, low), axis=1), net.constant(stride[None]))


def yolov8(size: int = 640, masks: int = 0, points: int = 0) -> bytes:
    """[1,4+classes,N]; with prototypes and coefficients, or keypoints."""
    net, features = _yolov8n(size)
    classes = 1 if points else _CLASSES
    levels, rest = [], []
    for feature in features.values():
        box = net.bare(net.conv(net.conv(feature, 64), 64), 64)
        score = net.bare(net.conv(net.conv(feature, max(64, classes)), max(64, classes)), classes)
        levels.append(net.shaped(net.join(box, score), 1, 64 + classes, -1))
        extra = masks or 3 * points
        if extra:
            rest.append(net.shaped(net.bare(net.conv(net.conv(feature, 32), 32), extra), 1, extra, -1))
    sides, scores = net.split(net.op("Concat", *levels, axis=2), (64, classes), axis=1)
    parts = [_ultralytics_boxes(net, sides, size), net.op("Sigmoid", scores)]
    if rest:
        parts.append(net.op("Concat", *rest, axis=2))
    outputs = [net.op("Concat", *parts, axis=1, out="output0")]
    if masks:
        prototype = net.conv(net.conv(net.up(net.conv(features[8], 64)), 64), masks, 1)
        outputs.append(net.op("Identity", prototype, out="output1"))
    task = "segment" if masks else "pose" if points else "detect"
    metadata = {"task": task, "stride": "32", "names": str({i: f"class {i}" for i in range(classes)})}
    if points:
        metadata["kpt_shape"] = f"[{points}, 3]"
    return net.finish(outputs, metadata)


def yolov5(size: int = 640) -> bytes:
    """[1,25200,85]: sigmoid over everything, then 2x - 0.5 and (2x)^2."""
    net, features = _yolov5n(size)
    levels = []
    for stride, feature in features.items():
        side = size // stride
        x = net.shaped(net.bare(feature, 3 * (5 + _CLASSES)), 1, 3, 5 + _CLASSES, side, side)
        x = net.op("Sigmoid", net.op("Transpose", x, perm=[0, 1, 3, 4, 2]))
        centre, root, sure = net.split(x, (2, 2, 1 + _CLASSES), axis=4)
        grid = (_grid(size, (stride,))[0].T.reshape(1, 1, side, side, 2) - 0.5).repeat(3, 1)
        two, step = net.constant(np.float32(2)), net.constant(np.float32(stride))
        anchor = net.constant(np.full((1, 3, side, side, 2), 4.0 * stride, np.float32))
        centre = net.op("Mul", net.op("Add", net.op("Mul", centre, two), net.constant(grid)), step)
        extent = net.op("Mul", net.op("Pow", net.op("Mul", root, two), two), anchor)
        levels.append(net.shaped(net.op("Concat", centre, extent, sure, axis=4), 1, 3 * side * side, 5 + _CLASSES))
    return net.finish([net.op("Concat", *levels, axis=1, out="output0")])


def _towers(net: Net, feature: str, *widths: tuple[int, ...]) -> list[str]:
    """A common convolution, a pair of them for each group of `widths`, and a last one for each width."""
    stem, found = net.conv(feature, 64, 1), []
    for group in widths:
        tower = net.conv(net.conv(stem, 64), 64)
        found += [net.bare(tower, width) for width in group]
    return found


def yolov6(size: int = 640) -> bytes:
    """[1,8400,85] whose objectness is one."""
    net, features = _yolov8n(size)
    boxes, scores = [], []
    for stride, feature in features.items():
        reach, score = _towers(net, feature, (4,), (_CLASSES,))
        before, after = net.split(net.shaped(reach, 1, 4, -1), (2, 2), axis=1)
        points = net.constant((_grid(size, (stride,))[0] + 0.5)[None])
        low, high = net.op("Sub", points, before), net.op("Add", points, after)
        centre = net.op("Div", net.op("Add", low, high), net.constant(np.float32(2)))
        box = net.op("Concat", centre, net.op("Sub", high, low), axis=1)
        boxes.append(net.op("Mul", box, net.constant(np.float32(stride))))
        scores.append(net.shaped(net.op("Sigmoid", score), 1, _CLASSES, -1))
    rows = [net.op("Transpose", net.op("Concat", *part, axis=2), perm=[0, 2, 1]) for part in (boxes, scores)]
    ones = net.constant(np.ones((1, _grid(size, (8, 16, 32))[1].shape[1], 1), np.float32))
    return net.finish([net.op("Concat", rows[0], ones, rows[1], axis=2, out="outputs")])


def yolox(size: int = 640) -> bytes:
    """[1,8400,85], boxes not decoded."""
    net, features = _yolov5n(size)
    levels = []
    for feature in features.values():
        box, sure, score = _towers(net, feature, (4, 1), (_CLASSES,))
        joined = net.op("Concat", box, net.op("Sigmoid", sure), net.op("Sigmoid", score), axis=1)
        levels.append(net.shaped(joined, 1, 5 + _CLASSES, -1))
    rows = net.op("Transpose", net.op("Concat", *levels, axis=2), perm=[0, 2, 1], out="output")
    return net.finish([rows])


def darknet(body: Callable[[int], tuple[Net, Features]], size: int = 640) -> bytes:
    """Raw maps [1,255,h,w], as YOLOv3 and YOLOv4 have them."""
    net, features = body(size)
    maps = [net.op("Identity", net.bare(f, 3 * (5 + _CLASSES)), out=f"map{s}") for s, f in features.items()]
    return net.finish(maps)


def rtmdet(size: int = 640) -> bytes:
    """Maps of raw classes and of distances in pixels."""
    net, features = _yolov8n(size)
    names = []
    for stride, feature in features.items():
        score, reach = _towers(net, feature, (_CLASSES,), (4,))
        reach = net.op("Mul", net.op("Relu", reach), net.constant(np.float32(stride)), out=f"reach{stride}")
        names += [net.op("Identity", score, out=f"class{stride}"), reach]
    return net.finish(names[::2] + names[1::2])


def nanodet(size: int = 416) -> bytes:
    """NanoDet-Plus: [1,N,112], four strides, eight bins a side."""
    net, features = _yolov5n(size)
    features[64] = net.conv(features[32], 96, 3, 2)
    levels = []
    for feature in features.values():
        score, sides = _towers(net, feature, (_CLASSES,), (32,))
        levels.append(net.shaped(net.op("Concat", net.op("Sigmoid", score), sides, axis=1), 1, _CLASSES + 32, -1))
    return net.finish([net.op("Transpose", net.op("Concat", *levels, axis=2), perm=[0, 2, 1], out="output")])


def ssd_mobilenet(size: int = 300) -> bytes:
    """Raw scores [1,1917,91] and offsets [1,1917,4] from six maps, as SSD MobileNet v1 has them."""
    net, features = _mobilenet(size)
    maps = [features[16], features[32]]
    for middle, channels in ((256, 512), (128, 256), (128, 256), (64, 128)):
        maps.append(net.conv(net.conv(maps[-1], middle, 1), channels, 3, 2))
    joined = []
    for name, width in (("scores", 91), ("boxes", 4)):
        rows = []
        for x, anchors in zip(maps, (3, 6, 6, 6, 6, 6), strict=True):
            cells = net.op("Transpose", net.bare(x, anchors * width), perm=[0, 2, 3, 1])
            rows.append(net.shaped(cells, 1, -1, width))
        joined.append(net.op("Concat", *rows, axis=1, out=name))
    sides = [math.ceil(size / 2**power) for power in range(4, 10)]
    count = sum(anchors * side**2 for side, anchors in zip(sides, (3, 6, 6, 6, 6, 6), strict=True))
    priors = net.random.uniform((0.3, 0.3, 0.1, 0.2), (0.7, 0.7, 0.4, 0.3), (count, 4)).astype(np.float32)
    return net.finish([*joined, net.op("Identity", net.constant(priors), out="priors")])


_CLASSIC = {"head": {"activation": "sigmoid", "background": "yes", "coder": "tf", "priors_format": "cycxhw"}}
_RAW_MAPS = {"head": {"coder": "yolov5", "anchors": "10,13,16,30,33,23,30,61,62,45,59,119,116,90,156,198,373,326"}}

YOLO_FORMATS = (
    Detector("YOLOv8n 640", "yolov8", yolov8, _YOLO_PIXELS),
    Detector("YOLOv5n 640", "yolov5", yolov5, _YOLO_PIXELS),
    Detector("YOLOv6, nano body 640", "yolov6", yolov6),
    Detector("YOLOX, nano body 640", "yolox", yolox),
    Detector("YOLOv4-tiny 640", "yolov3", lambda: darknet(_yolov4_tiny), {"head": {"anchors": "yolov4-tiny"}}),
)
SSD_FORMATS = (Detector("SSD MobileNet 300", "ssd", ssd_mobilenet, {**_CLASSIC, **_YOLO_PIXELS}),)
OTHERS = (
    Detector("YOLOv5n, raw maps 640", "yolov3", lambda: darknet(_yolov5n), _RAW_MAPS),
    Detector("YOLOv8n-seg 640", "yolo_seg", lambda: yolov8(masks=32)),
    Detector("YOLOv8n-pose 640", "yolov8_pose", lambda: yolov8(points=17)),
    Detector("RTMDet, nano body 640", "rtmdet", rtmdet),
    Detector("NanoDet-Plus, nano body 416", "nanodet", nanodet),
)

"""YOLO maps that nothing has decoded yet: one output [1, anchors * (5 + classes), h, w] per stride.

YOLOv3, YOLOv4, their tiny variants and YOLO-Fastest as converted from Darknet; also [1, anchors, h, w, 5 + classes]
and maps with YOLOv5's coder. Source: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", arXiv:1804.02767
(centre = (sigmoid(t) + cell) * stride, size = exp(t) * anchor); Bochkovskiy et al., "YOLOv4", arXiv:2004.10934 and
AlexeyAB/darknet's scale_x_y (centres stretched around the cell's); ultralytics/yolov5 (centre = 2 sigmoid(t) - 0.5,
size = (2 sigmoid(t))^2 * anchor). Anchors are not in such a file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.errors import ModelError, UsageError
from edgevision.export.box_coding import append_product, cells, corners
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.graph import Graph, attribute
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.output_structure import class_activation
from edgevision.export.parts import pick_channels
from edgevision.export.rows import map_rows, split_rows
from edgevision.manifest import Nms

# Anchors as in the configuration files, pixels, smallest stride first, three per map.
_ANCHORS = {
    "yolov3": "10,13,16,30,33,23,30,61,62,45,59,119,116,90,156,198,373,326",
    "yolov3-tiny": "10,14,23,27,37,58,81,82,135,169,344,319",
    "yolov4": "12,16,19,36,40,28,36,75,76,55,72,146,142,110,192,243,459,401",
    "yolov4-tiny": "23,27,37,58,81,82,81,82,135,169,344,319",
}
_PER_MAP = 3
_LARGEST_LOG_SIZE = 10.0


class Yolov3Head:
    """Raw maps with three anchors each."""

    name = "yolov3"
    about = "YOLOv3, YOLOv4, tiny variants, YOLO-Fastest: raw maps [1,3*(5+classes),h,w]"
    options: Mapping[str, str] = {
        "anchors": f"{', '.join(_ANCHORS)}, or width,height in pixels, three pairs per map, smallest stride first",
        "scale_xy": "one number per map, smallest stride first, or one for all (Darknet's scale_x_y); 1 unless given",
        "coder": "darknet (the default) or yolov5",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph, (width, height) = model.graph, model.image.wh
        maps: dict[int, str] = {}
        columns = set()
        for name in graph.outputs:
            shape = graph.shape(name) or ()
            spatial = shape[2:4]
            wide = (
                shape[4] * _PER_MAP
                if len(shape) == 5 and shape[1] == _PER_MAP
                else (shape[1] if len(shape) == 4 else 0)
            )
            stride = width // spatial[1] if len(spatial) == 2 and spatial[1] else 0
            if (
                shape[:1] != (1,)
                or wide % _PER_MAP
                or wide < 6 * _PER_MAP
                or spatial != (height // max(stride, 1), width // max(stride, 1))
            ):
                return Refusal(f"expected maps [1,{_PER_MAP}*(5+C),h,w] over the whole input, got {name} {list(shape)}")
            maps[stride] = name
            columns.add(wide // _PER_MAP)
        if len(maps) != len(graph.outputs) or len(columns) != 1 or not set(maps) <= {4, 8, 16, 32, 64}:
            return Refusal(f"expected one map per stride with the same channels, got strides {sorted(maps)}")
        if len(maps) == 1 and not model.chosen:
            return Refusal("a single map may as well hold class scores", "--family yolov3 if it holds boxes")
        if any(graph.dtype(name) != onnx.TensorProto.FLOAT for name in maps.values()):
            return Refusal("expected float32 maps")
        if any(class_activation(graph, name) for name in maps.values()):
            return Refusal("the maps have passed an activation; raw ones are expected")
        outputs = [maps[stride] for stride in sorted(maps)]
        classes = columns.pop() - 5
        return Match(
            f"raw maps of strides {sorted(maps)} with {_PER_MAP} anchors and {classes} classes",
            {"outputs": outputs, "strides": sorted(maps), "classes": classes},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode = model.graph, Decode(model.graph)
        outputs, strides, classes = match.found["outputs"], match.found["strides"], match.found["classes"]
        anchors, origin = self._anchors(model, len(strides))
        scale = self._scale(model, len(strides))
        coder = choice(model, self, "coder", ("darknet", "yolov5")) or ("darknet", "default")
        mark_decode(graph, outputs)
        parts = [_rows(decode, model, output, classes) for output in outputs]
        boxes, probabilities = (
            decode.op("Concat", *levels, stem="rows", axis=1) if len(levels) > 1 else levels[0]
            for levels in zip(*parts, strict=True)
        )
        centre, size, objectness = split_rows(decode, boxes, (2, 2, 1))
        grid, stride = cells(model.image.wh, strides)
        grid, stride = grid.repeat(_PER_MAP, axis=0), stride.repeat(_PER_MAP, axis=0)
        counts = [len(cells(model.image.wh, [one])[0]) for one in strides]
        prior = np.concatenate([np.tile(pairs, (count, 1)) for pairs, count in zip(anchors, counts, strict=True)])
        stretch = np.repeat(scale, np.array(counts) * _PER_MAP)[:, None]

        def constant(stem: str, value: NDArray[np.float64]) -> str:
            return decode.constant(f"boxes/{stem}", value.astype(np.float32))

        shift = decode.op("Sigmoid", centre, stem="boxes/offset")
        if coder[0] == "yolov5":
            stretch = np.full_like(stretch, 2.0)
            root = decode.op(
                "Mul", decode.op("Sigmoid", size, stem="boxes/size"), constant("two", np.array(2.0)), stem="boxes/r"
            )
            ratio = decode.op("Mul", root, root, stem="boxes/ratio")
        else:
            bounded = decode.op("Min", size, constant("largest", np.array(_LARGEST_LOG_SIZE)), stem="boxes/bounded")
            ratio = decode.op("Exp", bounded, stem="boxes/ratio")
        # Both columns spelled out: spreading one number over a pair takes a CPU ten times as long.
        shift = decode.op("Mul", shift, constant("stretch", (stretch * stride).repeat(2, axis=1)), stem="boxes/shift")
        origin_xy = constant("cells", (grid - (stretch - 1) / 2) * stride)
        middle = decode.op("Add", shift, origin_xy, stem="boxes/centre")
        half = decode.op("Mul", ratio, constant("half_anchors", prior / 2), stem="boxes/half_size")
        sure = decode.op("Sigmoid", objectness, stem="scores/object")
        scores = append_product(decode, sure, probabilities)
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (corners(decode, middle, half), float32), "scores": (scores, float32)})
        preprocess = PreprocessDefaults(
            "Darknet" if coder[0] == "darknet" else "YOLOv5",
            resize="stretch" if coder[0] == "darknet" else "letterbox",
            color="rgb",
            mean=(0.0,) * 3,
            std=(255.0,) * 3,
        )
        facts = {"anchors": f"{anchors.tolist()} ({origin})", "scale_xy": scale, "coder": f"{coder[0]} ({coder[1]})"}
        return NormalForm("detection", classes, preprocess, Nms(iou_threshold=0.45, confidence=0.25), facts)

    def _anchors(self, model: SourceModel, maps: int) -> tuple[NDArray[np.float64], str]:
        """(maps, 3, 2) widths and heights in pixels."""
        for given, origin in (
            (model.config.head.get("anchors"), "--head anchors="),
            (model.metadata.section(self.name).get("anchors"), "metadata"),
        ):
            if given is None:
                continue
            numbers = _numbers(_ANCHORS.get(str(given), given))
            if len(numbers) != maps * _PER_MAP * 2 or min(numbers) <= 0:
                raise UsageError(
                    f"{origin}{given}: expected {', '.join(_ANCHORS)}, or {maps * _PER_MAP * 2} positive numbers "
                    f"(width, height of {_PER_MAP} anchors for each of {maps} maps, smallest stride first)"
                )
            return np.array(numbers).reshape(maps, _PER_MAP, 2), origin.rstrip("=")
        raise ModelError(
            "the maps' boxes are relative to anchors, and the file has none: give --head anchors=W,H,W,H,... as in the "
            f"model's .cfg file, smallest stride first, or --head anchors= one of {', '.join(_ANCHORS)}"
        )

    def _scale(self, model: SourceModel, maps: int) -> list[float]:
        given = model.config.head.get("scale_xy", model.metadata.section(self.name).get("scale_xy", "1"))
        numbers = _numbers(given)
        numbers = numbers * maps if len(numbers) == 1 else numbers
        if len(numbers) != maps or min(numbers) < 1:
            raise UsageError(f"scale_xy is one number of at least 1, or {maps}, got {given!r}")
        return numbers


def _numbers(given: object) -> list[float]:
    """Comma-separated text or a list as finite numbers; empty where it is neither."""
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else []
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        return []
    return numbers if np.isfinite(numbers).all() else []


def _rows(decode: Decode, model: SourceModel, output: str, classes: int) -> tuple[str, str]:
    """A map as rows, cell by cell and in each anchor by anchor: boxes with objectness [1,h*w*anchors,5], class
    probabilities [1,h*w*anchors,classes]."""
    graph, columns = model.graph, 5 + classes
    output = _convolution(graph, output)
    if len(graph.shape(output) or ()) == 5:
        cells_first = decode.op("Transpose", output, stem="cells", perm=[0, 2, 3, 1, 4])
        rows = decode.op("Reshape", cells_first, decode.constant("flat", np.array([1, -1, columns])), stem="rows")
        boxes, raw = split_rows(decode, rows, (5, classes))
        return boxes, decode.op("Sigmoid", raw, stem="scores/class")
    channels = np.arange(_PER_MAP * columns).reshape(_PER_MAP, columns)
    boxes, raw = pick_channels(decode, output, (channels[:, :5].ravel(), channels[:, 5:].ravel()))
    # The sigmoid before anything is moved: ONNX Runtime makes it part of the convolution.
    probabilities = decode.op("Sigmoid", raw, stem="scores/class")
    return map_rows(decode, boxes, 5), map_rows(decode, probabilities, classes)


def _convolution(graph: Graph, output: str) -> str:
    """The map [1,anchors*columns,h,w] that an output [1,anchors,h,w,columns] is made of, or the output itself."""
    node = graph.producer.get(output)
    while node is not None and node.op_type == "Identity":
        output = node.input[0]
        node = graph.producer.get(output)
    if node is None or node.op_type != "Transpose" or attribute(node, "perm") != [0, 1, 3, 4, 2]:
        return output
    split = graph.producer.get(node.input[0])
    shape = () if split is None or split.op_type != "Reshape" else graph.shape(split.input[0]) or ()
    return split.input[0] if split is not None and len(shape) == 4 and shape[1] % _PER_MAP == 0 else output


HEAD = Yolov3Head()

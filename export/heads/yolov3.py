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
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.output_structure import class_activation
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
        joined = decode.op("Concat", *(_rows(decode, model, o, 5 + classes) for o in outputs), stem="rows", axis=1)
        widths = decode.constant("columns", np.array([2, 2, 1, classes]))
        centre, size, objectness, probabilities = decode.node("Split", joined, widths, stem="parts", outputs=4, axis=2)
        grid, stride, boxes_of = _per_location(model.image.wh, strides)
        prior = np.concatenate(
            [np.repeat(pairs, count, axis=0) for pairs, count in zip(anchors, boxes_of, strict=True)]
        )
        stretch = np.concatenate([np.full((_PER_MAP * n, 1), s) for n, s in zip(boxes_of, scale, strict=True)])

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
        shift = decode.op("Mul", shift, constant("stretch", stretch * stride), stem="boxes/shift")
        origin_xy = constant("cells", (grid - (stretch - 1) / 2) * stride)
        middle = decode.op("Add", shift, origin_xy, stem="boxes/centre")
        half = decode.op("Mul", ratio, constant("half_anchors", prior / 2), stem="boxes/half_size")
        sure = [
            decode.op("Sigmoid", part, stem=f"scores/{stem}")
            for part, stem in ((objectness, "object"), (probabilities, "class"))
        ]
        float32 = onnx.TensorProto.FLOAT
        decode.finish(
            {"boxes": (corners(decode, middle, half), float32), "scores": (append_product(decode, *sure), float32)}
        )
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


def _rows(decode: Decode, model: SourceModel, output: str, columns: int) -> str:
    """A map as rows [1, anchors * h * w, columns], anchor by anchor."""
    shape = model.graph.shape(output) or ()
    if len(shape) == 4:
        cells_of = shape[2] * shape[3]
        split = decode.constant("split", np.array([1, _PER_MAP, columns, cells_of]))
        output = decode.op("Reshape", output, split, stem="anchors")
        output = decode.op("Transpose", output, stem="last", perm=[0, 1, 3, 2])
    return decode.op("Reshape", output, decode.constant("flat", np.array([1, -1, columns])), stem="flat")


def _per_location(
    input_wh: tuple[int, int], strides: list[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[int]]:
    """Cell and stride of every row, (N, 2) and (N, 1), and the cells of each map."""
    parts = [cells(input_wh, [stride]) for stride in strides]
    grid = np.concatenate([np.tile(grid, (_PER_MAP, 1)) for grid, _ in parts])
    stride = np.concatenate([np.tile(step, (_PER_MAP, 1)) for _, step in parts])
    return grid, stride, [len(one) for one, _ in parts]


HEAD = Yolov3Head()

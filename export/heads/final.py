"""Detectors whose graph ends with the final boxes: one row per object, nothing left to suppress.

Two forms: one output [1,K,6], as Ultralytics writes it for its one-to-one heads (YOLOv10, YOLO26: corners in pixels,
score, class; RT-DETR: centre and size in fractions, score, class) and for exports with suppression inside; and
separate outputs, boxes [1,K,4], scores [1,K] and classes [1,K] (RT-DETR and D-FINE as their repositories export them).
Source: Ultralytics documentation (export, end-to-end detection) and reference exports; lyuwenyu/RT-DETR, export_onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from edgevision.errors import ModelError
from edgevision.export.box_coding import BOX_FORMATS, append_box_format
from edgevision.export.decode import ARITHMETIC, Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.rows import split_rows
from edgevision.manifest import Nms

_COLUMNS = {"box-score-class": (0, 1, 2), "box-class-score": (0, 2, 1), "class-score-box": (2, 1, 0)}
# What picks the best rows; boxes pass through it in pixels and must stay float32.
_SELECTION = ARITHMETIC | frozenset(
    ["TopK", "Gather", "GatherElements", "GatherND", "Expand", "Tile", "Mod", "ReduceMax", "ArgMax", "Flatten", "Floor"]
)
_INTEGERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


class FinalHead:
    """Boxes that need a threshold and nothing else."""

    name = "final"
    about = "final boxes: one output [1,K,6], or boxes [1,K,4] with scores [1,K] and classes [1,K]"
    options: Mapping[str, str] = {
        "format": f"{', '.join(BOX_FORMATS)}: what the four numbers of a box are",
        "columns": f"{', '.join(_COLUMNS)}: the order of the six columns; box-score-class unless given",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        shapes = {name: graph.shape(name) or () for name in graph.outputs}
        found: dict[str, Any] | None = None
        if len(shapes) == 1:
            name, shape = next(iter(shapes.items()))
            if len(shape) == 3 and shape[0] == 1 and shape[2] == 6 and graph.dtype(name) == onnx.TensorProto.FLOAT:
                found = {"output": name, "rows": shape[1]}
        elif len(shapes) == 3:
            found = _separate(model, shapes)
        if any(node.op_type == "NonMaxSuppression" for node in graph.nodes):
            return Refusal("the final boxes come out of a NonMaxSuppression, which deploys badly")
        if found is None:
            listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            return Refusal(
                f"expected one output [1,K,6], or boxes [1,K,4], scores [1,K] and classes [1,K]; got {listed}"
            )
        known = _format(model, found)
        if isinstance(known, Refusal):
            return known
        form, reason = known
        return Match(f"{found['rows']} final boxes, {form} ({reason})", {**found, "format": form})

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        if not model.labels:
            raise ModelError(
                "the model gives class numbers, and the file does not say how many classes there are: give --labels"
            )
        graph, decode, found = model.graph, Decode(model.graph), match.found
        mark_decode(graph, graph.outputs, _SELECTION)
        if "output" in found:
            columns = choice(model, self, "columns", tuple(_COLUMNS)) or ("box-score-class", "default")
            widths = (4, 1, 1) if columns[0].startswith("box") else (1, 1, 4)
            parts = split_rows(decode, found["output"], widths)
            boxes, scores, classes = (parts[index] for index in _COLUMNS[columns[0]])
            last = decode.constant("last", np.array([2]))
            scores, classes = (decode.op("Squeeze", part, last, stem="column") for part in (scores, classes))
        else:
            boxes, scores, classes = found["boxes"], found["scores"], found["classes"]
        boxes = append_box_format(decode, boxes, found["format"], model.image.wh)
        kinds = onnx.TensorProto
        class_ids = decode.op("Cast", classes, stem="class_ids", to=kinds.INT32)
        decode.finish(
            {"boxes": (boxes, kinds.FLOAT), "scores": (scores, kinds.FLOAT), "class_ids": (class_ids, kinds.INT32)}
        )
        stretch = _is_rtdetr(model) or "output" not in found
        preprocess = PreprocessDefaults(
            "RT-DETR" if stretch else "Ultralytics",
            resize="stretch" if stretch else "letterbox",
            mean=(0.0,) * 3,
            std=(255.0,) * 3,
        )
        nms = Nms(confidence=0.25, max_detections=found["rows"], suppression="none")
        return NormalForm("detection", len(model.labels), preprocess, nms, {"boxes": match.reason})


def _separate(model: SourceModel, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """Which of three outputs are boxes, scores and classes; None where they are something else."""
    boxes = [name for name, shape in shapes.items() if len(shape) == 3 and shape[2] == 4]
    if len(boxes) != 1 or any(shape != shapes[boxes[0]][:2] for name, shape in shapes.items() if name != boxes[0]):
        return None
    columns = [name for name in shapes if name != boxes[0]]
    classes = [name for name in columns if model.graph.dtype(name) in _INTEGERS]
    if not classes:
        classes = [name for name in columns if "label" in name.lower() or "class" in name.lower()]
    if len(classes) != 1 or shapes[boxes[0]][0] != 1:
        return None
    scores = next(name for name in columns if name != classes[0])
    return {"boxes": boxes[0], "scores": scores, "classes": classes[0], "rows": shapes[boxes[0]][1]}


def _format(model: SourceModel, found: Mapping[str, Any]) -> tuple[str, str] | Refusal:
    """What the numbers of a box are, and how that is known."""
    stated = choice(model, HEAD, "format", BOX_FORMATS)
    noted = model.metadata.ultralytics
    if stated is not None:
        return stated
    if _is_rtdetr(model):
        return "cxcywh-fractions", "Ultralytics metadata names RT-DETR"
    if noted and noted.get("task") == "detect":
        return "xyxy-pixels", "Ultralytics metadata (task detect)"
    if "output" not in found and "orig_target_sizes" in model.graph.constants:
        return "xyxy-pixels", "boxes are multiplied by orig_target_sizes"
    return Refusal(
        f"{found['rows']} rows of a box, a score and a class, but the file does not say what the box's numbers are",
        "--family final --head format=" + "|".join(BOX_FORMATS),
    )


def _is_rtdetr(model: SourceModel) -> bool:
    """Whether Ultralytics wrote it and describes it as an RT-DETR."""
    described = str(model.metadata.ultralytics.get("description", "")).lower()
    return "rtdetr" in described.replace("-", "")


HEAD = FinalHead()

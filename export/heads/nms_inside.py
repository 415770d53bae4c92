"""Detectors that carry their suppression: the graph is cut before it, and its settings become the bundle's.

ONNX's NonMaxSuppression (boxes [1,N,4], scores [1,C,N]) as TensorFlow converters, YOLOv7 (`--end2end`) and others put
it in front of TopK and Gather, whose results have a size that depends on the picture; plugins.py brings TensorRT's
EfficientNMS_TRT into this form. Source: ONNX operators, NonMaxSuppression-11; WongKinYiu/yolov7, its end2end export.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from edgevision.errors import ModelError
from edgevision.export.box_coding import append_centres
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.graph import Graph, attribute
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.output_structure import decoded_unit
from edgevision.manifest import Nms

_MOVES = frozenset(["Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast"])
_LEAST_CONFIDENCE, _CONFIDENCE = 0.05, 0.3
_CANDIDATES = "tf (TensorFlow SSD), unit (YOLO), torch (torchvision)"


class NmsInsideHead:
    """Whatever comes before one suppression node."""

    name = "nms_inside"
    about = "detectors with NonMaxSuppression or EfficientNMS in the graph: cut before it"
    options: Mapping[str, str] = {
        "order": "yxyx (TensorFlow) or xyxy: the order of a box's corners in front of the suppression",
        "unit": "fractions (0..1 of the input) or pixels: the unit of the boxes",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        found = [node for node in graph.nodes if node.op_type == "NonMaxSuppression"]
        if len(found) != 1:
            return Refusal(f"expected one NonMaxSuppression in the graph, got {len(found)}")
        if any(node.op_type == "RoiAlign" for node in graph.nodes):
            return Refusal("NonMaxSuppression chooses the proposals of a two-stage detector (RoiAlign)")
        node = found[0]
        settings = _settings(graph, node)
        boxes, scores = _before(graph, node)
        shape_boxes, shape_scores = graph.shape(boxes), graph.shape(scores)
        if shape_boxes is None or shape_scores is None or len(shape_boxes) != 3 or len(shape_scores) != 3:
            return Refusal("NonMaxSuppression takes boxes and scores whose number depends on the picture")
        columns = shape_scores[2] if settings["classes_last"] else shape_scores[1]
        rows = shape_scores[1] if settings["classes_last"] else shape_scores[2]
        if shape_boxes != (1, rows, 4) or shape_scores[0] != 1:
            return Refusal(
                f"NonMaxSuppression takes {list(shape_boxes)} and {list(shape_scores)}, expected [1,N,4], [1,C,N]"
            )
        return Match(
            f"NonMaxSuppression over {rows} boxes and {columns} classes",
            {"boxes": boxes, "scores": scores, "classes": columns, "settings": settings},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, settings = model.graph, Decode(model.graph), match.found["settings"]
        boxes, scores = match.found["boxes"], match.found["scores"]
        limit = _most(graph)
        unit = self._unit(model, boxes)
        order = "centres" if settings["centres"] else self._order(model)
        mark_decode(graph, [boxes])
        mark_decode(graph, [scores], _MOVES | {"Sigmoid", "Softmax", "Relu", "Slice", "Mul"})
        if order == "centres":
            boxes = append_centres(decode, boxes)
        elif order == "yxyx":
            columns = decode.constant("boxes/x_first", np.array([1, 0, 3, 2]))
            boxes = decode.op("Gather", boxes, columns, stem="boxes/xyxy", axis=2)
        if unit == "fractions":
            extent = decode.constant("boxes/input_size", np.array(model.image.wh * 2, np.float32))
            boxes = decode.op("Mul", boxes, extent, stem="boxes/pixels")
        if not settings["classes_last"]:
            scores = decode.op("Transpose", scores, stem="scores/rows", perm=[0, 2, 1])
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        nms = Nms(
            iou_threshold=settings["iou"],
            confidence=settings["score"] if settings["score"] >= _LEAST_CONFIDENCE else _CONFIDENCE,
            multi_label=True,
            max_detections=limit or settings["most"],
        )
        facts = {"removed": "NonMaxSuppression and what follows it", "kept_settings": str(nms), "order": order}
        preprocess = PreprocessDefaults("a detector with suppression", candidates=_CANDIDATES)
        return NormalForm("detection", match.found["classes"], preprocess, nms, {**facts, "unit": unit})

    def _unit(self, model: SourceModel, boxes: str) -> str:
        stated = choice(model, self, "unit", ("fractions", "pixels"))
        unit = stated[0] if stated else decoded_unit(model.graph, boxes)
        if unit not in ("fractions", "pixels"):
            raise ModelError(
                f"the unit of the boxes {boxes!r} cannot be seen in the graph: "
                "give --head unit=fractions or --head unit=pixels"
            )
        return unit

    def _order(self, model: SourceModel) -> str:
        stated = choice(model, self, "order", ("yxyx", "xyxy"))
        if stated is not None:
            return stated[0]
        producer = model.graph.model.producer_name.lower()
        known = {"tf2onnx": "yxyx", "keras2onnx": "yxyx", "tflite2onnx": "yxyx", "pytorch": "xyxy"}
        if producer not in known:
            raise ModelError(
                f"the file (written by {producer or 'an unnamed program'}) does not say in which order a box's corners "
                "stand: give --head order=yxyx (TensorFlow) or --head order=xyxy"
            )
        return known[producer]


def _settings(graph: Graph, node: onnx.NodeProto) -> dict[str, Any]:
    """What the node says."""

    def number(index: int, default: float) -> float:
        name = node.input[index] if len(node.input) > index else ""
        value = graph.constants.get(name)
        return float(value.ravel()[0]) if value is not None and value.size == 1 else default

    shifted = _shifted(graph, node) is not None
    return {
        "iou": min(max(number(3, 0.5), 0.0), 1.0),
        "score": min(max(number(4, 0.0), 0.0), 1.0),
        # The operator's limit holds for each class.
        "most": int(min(max(number(2, 100) * (graph.shape(node.input[1]) or (1, 1))[1], 1), 100_000)),
        "centres": attribute(node, "center_point_box", 0) == 1 and not shifted,
        "classes_last": shifted,
    }


def _before(graph: Graph, node: onnx.NodeProto) -> tuple[str, str]:
    """The boxes and scores to cut at."""
    return _shifted(graph, node) or (node.input[0], node.input[1])


def _shifted(graph: Graph, node: onnx.NodeProto) -> tuple[str, str] | None:
    """YOLOv7's form: suppression within classes by one call, which moves each class's boxes elsewhere: boxes +
    class * constant, scores the maximum over the classes. Returns the boxes before the move and all scores [1,N,C]."""
    if (graph.shape(node.input[1]) or (0, 0))[1] != 1:
        return None
    move = graph.producer.get(node.input[0])
    best = graph.producer.get(node.input[1])
    while best is not None and best.op_type in _MOVES:
        best = graph.producer.get(best.input[0])
    if move is None or move.op_type != "Add" or best is None or best.op_type != "ReduceMax":
        return None
    for boxes, offset in (move.input, reversed(move.input)):
        maker = graph.producer.get(offset)
        if maker is not None and maker.op_type == "Mul" and _leads_to(graph, maker, "ArgMax"):
            return boxes, best.input[0]
    return None


def _leads_to(graph: Graph, node: onnx.NodeProto, operator: str) -> bool:
    for name in node.input:
        maker = graph.producer.get(name)
        while maker is not None and maker.op_type in _MOVES:
            maker = graph.producer.get(maker.input[0])
        if maker is not None and maker.op_type == operator:
            return True
    return False


def _most(graph: Graph) -> int:
    """How many boxes the removed part let through: the rows of an output [1,K,4]; 0 where it does not say."""
    shapes = [graph.shape(name) or () for name in graph.outputs]
    return next((shape[1] for shape in shapes if len(shape) == 3 and shape[2] == 4 and shape[1] > 0), 0)


HEAD = NmsInsideHead()

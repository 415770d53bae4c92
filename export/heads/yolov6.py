"""YOLOv6 as its repository exports it: one output [1, locations, 5 + classes] whose objectness is a constant 1.

Columns: cx, cy, w, h in input pixels, the constant, class probabilities; one location per cell of strides 8, 16, 32.
Source: meituan/YOLOv6, documentation of ONNX export and inference (letterbox with grey 114, RGB / 255).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from edgevision.export.box_coding import append_centres
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.graph import Graph, attribute
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.rows import single_rows
from edgevision.manifest import Nms


class Yolov6Head:
    """One output [1,N,5+C] that joins boxes, ones and class probabilities."""

    name = "yolov6"
    about = "YOLOv6: one output [1,N,5+classes] whose objectness is constant"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        found = single_rows(model, least_columns=6)
        if isinstance(found, Refusal):
            return found
        output, rows, columns = found
        parts = _parts(model.graph, output)
        if parts is None:
            return Refusal(f"output {output!r} does not join boxes, a column of ones and class probabilities")
        boxes, classes = parts
        return Match(
            f"output {output!r} [1,{rows},{columns}] joins boxes, ones and classes",
            {"boxes": boxes, "scores": classes, "classes": columns - 5},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, boxes, scores = model.graph, match.found["boxes"], match.found["scores"]
        decode = Decode(graph)
        mark_decode(graph, [boxes, scores])
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (append_centres(decode, boxes), float32), "scores": (scores, float32)})
        preprocess = PreprocessDefaults(
            "YOLOv6", resize="letterbox", color="rgb", mean=(0.0,) * 3, std=(255.0,) * 3, pad_value=114.0
        )
        nms = Nms(iou_threshold=0.45, confidence=0.4, max_detections=300)
        return NormalForm("detection", match.found["classes"], preprocess, nms, {"boxes": boxes, "scores": scores})


def _parts(graph: Graph, output: str) -> tuple[str, str] | None:
    """The boxes [1,N,4] and class probabilities [1,N,C] that are joined around a constant column of ones."""
    node = graph.producer.get(output)
    if node is None or node.op_type != "Concat" or attribute(node, "axis") not in (2, -1) or len(node.input) != 3:
        return None
    boxes, ones, classes = node.input
    constant = graph.constants.get(ones)
    if constant is None or not (constant == 1).all() or (graph.shape(boxes) or (0,))[-1] != 4:
        return None
    return boxes, classes


HEAD = Yolov6Head()

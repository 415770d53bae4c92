"""YOLO heads with anchors and objectness whose boxes the graph decodes: one output [1, locations, 5 + classes].

YOLOv5 and YOLOv7 as their own repositories export them. Columns: cx, cy, w, h in input pixels, objectness, class
probabilities; three anchors on maps of strides 8, 16, 32 (and 64 in the P6 variants). Source: ultralytics/yolov5 and
WongKinYiu/yolov7, their documentation of ONNX export and detect defaults (letterbox with grey 114, RGB / 255).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from edgevision.export.box_coding import append_centres, append_product
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.graph import Graph, attribute
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.output_structure import class_activation, decode_nodes
from edgevision.export.rows import locations, single_rows, split_rows
from edgevision.manifest import Nms

_ANCHORS = 3


class Yolov5Head:
    """One output [1,N,5+C], decoded."""

    name = "yolov5"
    about = "YOLOv5 and YOLOv7: one output [1,N,5+classes] with decoded boxes and objectness"
    options: Mapping[str, str] = {
        "score": "product: objectness times class (the default); objectness: alone, as YOLOv7 scores a single class",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        found = single_rows(model, least_columns=6)
        if isinstance(found, Refusal):
            return found
        output, rows, columns = found
        fitting = [
            strides for strides in ((8, 16, 32), (8, 16, 32, 64)) if rows == _ANCHORS * locations(model, strides)
        ]
        if not fitting and not model.chosen:
            expected = _ANCHORS * locations(model, (8, 16, 32))
            return Refusal(
                f"expected [1,{expected},5+C] (three anchors on maps of strides 8, 16, 32), got [1,{rows},{columns}]",
                "--family yolov5 accepts any number of locations",
            )
        kinds = {node.op_type for node in decode_nodes(model.graph, output)}
        if not model.chosen and ("Sigmoid" not in kinds or "Exp" in kinds):
            return Refusal(f"output {output!r} is not decoded as YOLOv5 does (a sigmoid and no exponential)")
        if not model.chosen and _ends_raw(model.graph, output, columns):
            return Refusal(f"the last columns of output {output!r} are no probabilities: mask coefficients, perhaps")
        return Match(f"output {output!r} [1,{rows},{columns}], decoded", {"output": output, "classes": columns - 5})

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, output, classes = model.graph, match.found["output"], match.found["classes"]
        score = choice(model, self, "score", ("product", "objectness")) or ("product", "default")
        decode = Decode(graph)
        mark_decode(graph, [output])
        boxes, objectness, probabilities = split_rows(decode, output, (4, 1, classes))
        scores = objectness
        if score[0] == "product" or classes > 1:
            scores = append_product(decode, objectness, probabilities)
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (append_centres(decode, boxes), float32), "scores": (scores, float32)})
        preprocess = PreprocessDefaults(
            "YOLOv5 and YOLOv7", resize="letterbox", color="rgb", mean=(0.0,) * 3, std=(255.0,) * 3, pad_value=114.0
        )
        facts = {"output": output, "score": f"{score[0]} ({score[1]})"}
        return NormalForm("detection", classes, preprocess, Nms(iou_threshold=0.45, confidence=0.25), facts)


def _ends_raw(graph: Graph, output: str, columns: int) -> bool:
    """Whether the last of the parts that are joined to a row has passed no sigmoid."""
    for node in decode_nodes(graph, output):
        shape = graph.shape(node.output[0]) or ()
        axis = attribute(node, "axis") if node.op_type == "Concat" else None
        if axis is not None and -len(shape) <= axis < len(shape) and shape[axis] == columns:
            return class_activation(graph, node.input[-1]) != "Sigmoid"
    return False


HEAD = Yolov5Head()

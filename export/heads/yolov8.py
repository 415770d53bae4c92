"""YOLO heads without anchors and objectness, as Ultralytics exports them: one output [1, 4 + classes, locations].

YOLOv3u, v5u, v6, v8, 9, 11, 12, and v10 and 26 exported with end2end=False. Boxes are cx, cy, w, h in input pixels,
class scores have passed a sigmoid. Exports with nms=True are cut in front of their suppression, where they are corners.
Source: Ultralytics documentation (docs.ultralytics.com, ONNX export and predict defaults: letterbox with grey 114,
RGB / 255, iou 0.7, conf 0.25) and reference exports.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx

from edgevision.export.box_coding import append_centres
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.graph import Graph, attribute
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.output_structure import class_activation
from edgevision.export.rows import split_rows
from edgevision.export.torchvision_whole import kept_settings
from edgevision.manifest import Nms

_STRIDES = (8, 16, 32)


class Yolov8Head:
    """One output [1,4+C,N] or, transposed, [1,N,4+C]."""

    name = "yolov8"
    about = "YOLOv8 and relatives (v3u, v5u, 9, 11, 12): one output [1,4+classes,N]"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph, noted = model.graph, model.metadata.ultralytics
        if noted and (noted.get("task") != "detect" or noted.get("end2end") is True):
            return Refusal(
                f"Ultralytics metadata: task {noted.get('task')!r}, end2end {noted.get('end2end', False)}; this family "
                "takes detectors exported with end2end=False"
            )
        if len(graph.outputs) != 1:
            return Refusal(f"expected one output, got {len(graph.outputs)}")
        output = _before_suppression(graph) if _suppresses(graph) else graph.outputs[0]
        if output is None:
            return Refusal("there is a NonMaxSuppression, and no one tensor in front of it joins corners and scores")
        shape = graph.shape(output) or ()
        if len(shape) != 3 or shape[0] != 1 or graph.dtype(output) != onnx.TensorProto.FLOAT:
            return Refusal(f"expected a float32 output [1,4+C,N], got {list(shape)}")
        locations = _locations(model.image.wh)
        fitting = [axis for axis in (1, 2) if shape[3 - axis] == locations and shape[axis] > 4]
        if not fitting and noted and model.labels:
            fitting = [axis for axis in (1, 2) if shape[axis] == 4 + len(model.labels)]
        if not fitting and model.chosen:
            fitting = [axis for axis in (1, 2) if 4 < shape[axis] < shape[3 - axis]]
        if len(fitting) != 1:
            return Refusal(
                f"expected [1,4+C,{locations}] for an input of {model.image.wh[0]}x{model.image.wh[1]} "
                f"(strides 8, 16, 32), got {list(shape)}",
                "--family yolov8 accepts any number of locations",
            )
        channels = fitting[0]
        classes = shape[channels] - 4
        found = {"output": output, "channels": channels, "classes": classes}
        if noted or model.chosen:
            said = "Ultralytics metadata (task detect)" if noted else "as told"
            return Match(f"{said}, output {output!r} {list(shape)}", found)
        if channels == 1 and _parts(graph, output) is not None:
            return Match(f"output {output!r} {list(shape)} joins boxes and sigmoid scores", found)
        return Refusal(
            f"output {output!r} {list(shape)} may hold {classes} classes, or objectness, keypoints or angles as well "
            "(YOLOX, YOLOv6, pose, OBB): the graph does not show which",
            "--family yolov8 if it is 4 box columns and one column per class",
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, output = model.graph, match.found["output"]
        nms = Nms(iou_threshold=0.7, confidence=0.25, max_detections=300)
        facts: dict[str, object] = {"output": output}
        corners = _suppresses(graph)
        if corners:
            found, facts["kept_settings"] = kept_settings(graph, nms.iou_threshold)
            nms = dataclasses.replace(found, multi_label=False)
            facts["removed"] = "the suppression"
        decode = Decode(graph)
        mark_decode(graph, [output])
        rows = output
        if match.found["channels"] == 1:
            rows = decode.op("Transpose", output, stem="rows", perm=[0, 2, 1])
        boxes, scores = split_rows(decode, rows, (4, match.found["classes"]))
        float32 = onnx.TensorProto.FLOAT
        boxes = boxes if corners else append_centres(decode, boxes)
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        preprocess = PreprocessDefaults(
            "Ultralytics", resize="letterbox", color="rgb", mean=(0.0,) * 3, std=(255.0,) * 3, pad_value=114.0
        )
        return NormalForm("detection", match.found["classes"], preprocess, nms, facts)


def _locations(input_wh: tuple[int, int]) -> int:
    width, height = input_wh
    return sum(-(-width // stride) * -(-height // stride) for stride in _STRIDES)


def _suppresses(graph: Graph) -> bool:
    return any(node.op_type == "NonMaxSuppression" for node in graph.nodes)


def _before_suppression(graph: Graph) -> str | None:
    """The one tensor inside the graph that joins boxes and scores, where the boxes are corners: an anchor point less
    two distances, and plus two distances."""
    joined = [node for node in graph.nodes if _parts(graph, node.output[0]) is not None]
    if len(joined) != 1:
        return None
    step = graph.producer.get(joined[0].input[0])
    while step is not None and step.op_type == "Mul":
        step = next((graph.producer[name] for name in step.input if name in graph.producer), None)
    ends = [graph.producer.get(name) for name in step.input] if step is not None and step.op_type == "Concat" else []
    return joined[0].output[0] if [end.op_type for end in ends if end is not None] == ["Sub", "Add"] else None


def _parts(graph: Graph, output: str) -> tuple[str, str] | None:
    """The boxes [1,4,N] and scores [1,C,N] that the graph's last node joins; None where it does anything else."""
    node = graph.producer.get(output)
    if node is None or node.op_type != "Concat" or attribute(node, "axis") not in (1, -2) or len(node.input) != 2:
        return None
    boxes, scores = node.input
    shape = graph.shape(boxes) or ()
    if len(shape) != 3 or shape[1] != 4 or class_activation(graph, scores) != "Sigmoid":
        return None
    return boxes, scores


HEAD = Yolov8Head()

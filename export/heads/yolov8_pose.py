"""Ultralytics' pose models: one output [1, 4 + classes + points * (2 or 3), locations].

As yolov8, with the keypoints behind the class scores: x and y in input pixels and, with three numbers per point, a
visibility that has passed a sigmoid. The number of points stands in the metadata (`kpt_shape`). Source: Ultralytics
documentation (pose, ONNX export).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.errors import UsageError
from edgevision.export.box_coding import append_centres
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.rows import split_rows
from edgevision.manifest import Nms


class Yolov8PoseHead:
    """One output [1,4+C+P*D,N]."""

    name = "yolov8_pose"
    about = "YOLOv8, YOLO11 pose: one output [1,4+classes+points*3,N]"
    options: Mapping[str, str] = {"points": "17x3: keypoints and numbers per keypoint, where the metadata is missing"}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph, noted = model.graph, model.metadata.ultralytics
        points = _points(model)
        if points is None or (noted and noted.get("task") != "pose"):
            return Refusal(
                "expected Ultralytics metadata with task pose and kpt_shape",
                "--family yolov8_pose --head points=17x3 for 17 keypoints of 3 numbers",
            )
        if noted.get("end2end") is True:
            return Refusal("Ultralytics metadata: end2end True; this family takes exports with end2end=False")
        shape = graph.shape(graph.outputs[0]) or ()
        width = 4 + points[0] * points[1]
        if len(graph.outputs) != 1 or len(shape) != 3 or shape[0] != 1 or shape[1] <= width:
            return Refusal(f"expected one output [1,{width}+C,N], got {list(shape)}")
        found = {"classes": shape[1] - width, "points": points}
        return Match(
            f"output {list(shape)}: {found['classes']} classes, {points[0]} points of {points[1]} numbers", found
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, output = model.graph, Decode(model.graph), model.graph.outputs[0]
        classes, (points, numbers) = match.found["classes"], match.found["points"]
        mark_decode(graph, [output])
        rows = decode.op("Transpose", output, stem="rows", perm=[0, 2, 1])
        boxes, scores, flat = split_rows(decode, rows, (4, classes, points * numbers))
        shape = decode.constant("keypoints/shape", np.array([0, 0, points, numbers]))
        keypoints = decode.op("Reshape", flat, shape, stem="keypoints/points")
        float32 = onnx.TensorProto.FLOAT
        decode.finish(
            {
                "boxes": (append_centres(decode, boxes), float32),
                "scores": (scores, float32),
                "keypoints": (keypoints, float32),
            }
        )
        preprocess = PreprocessDefaults("Ultralytics", resize="letterbox", mean=(0.0,) * 3, std=(255.0,) * 3)
        nms = Nms(iou_threshold=0.7, confidence=0.25)
        labels = ("person",) if classes == 1 and points == 17 else ()
        return NormalForm("keypoints", classes, preprocess, nms, {"points": points, "numbers": numbers}, labels)


def _points(model: SourceModel) -> tuple[int, int] | None:
    """Number of keypoints and of numbers each, from the flag or the metadata."""
    given = model.config.head.get("points")
    if given is not None:
        parts = given.lower().split("x")
        if len(parts) != 2 or not all(part.isdecimal() for part in parts) or int(parts[1]) not in (2, 3):
            raise UsageError(f"--head points={given}: expected NUMBERx2 or NUMBERx3, for example 17x3")
        return int(parts[0]), int(parts[1])
    noted = model.metadata.ultralytics.get("kpt_shape")
    if isinstance(noted, (list, tuple)) and len(noted) == 2 and all(type(n) is int and n > 0 for n in noted):
        return (noted[0], noted[1]) if noted[1] in (2, 3) else None
    return None


HEAD = Yolov8PoseHead()

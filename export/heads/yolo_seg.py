"""YOLO instance segmentation: rows with mask coefficients, and mask prototypes at a quarter of the input.

Ultralytics (v8, 9, 11, 26 exported with end2end=False): [1, 4 + classes + M, locations], no objectness. YOLOv5 and v7:
[1, 3 * locations, 5 + classes + M]. Both: prototypes [1, M, h / 4, w / 4]; mask = sigmoid(coefficients @ prototypes),
cut to its box. Source: Bolya et al., "YOLACT", arXiv:1904.02689; Ultralytics documentation (segment, ONNX export).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from edgevision.export.box_coding import append_centres, append_product
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.rows import locations, split_rows
from edgevision.manifest import Nms

_STRIDES = (8, 16, 32)


class YoloSegHead:
    """Two outputs: rows with coefficients, prototypes."""

    name = "yolo_seg"
    about = "YOLOv5, v8, v9, 11 segmentation: rows with mask coefficients and prototypes [1,M,h/4,w/4]"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph, (width, height) = model.graph, model.image.wh
        shapes = {name: graph.shape(name) or () for name in graph.outputs}
        prototypes = [name for name, s in shapes.items() if len(s) == 4 and s[2:] == (height // 4, width // 4)]
        rows = [name for name, s in shapes.items() if len(s) == 3 and s[0] == 1]
        if len(prototypes) != 1 or len(rows) != 1:
            listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            return Refusal(f"expected rows [1,..,..] and prototypes [1,M,{height // 4},{width // 4}], got {listed}")
        masks, (_, first, second) = shapes[prototypes[0]][1], shapes[rows[0]]
        cells = locations(model, _STRIDES)
        found = {"rows": rows[0], "prototypes": prototypes[0], "masks": masks}
        if second == cells and first > 4 + masks:
            classes = first - 4 - masks
            reason = f"{rows[0]!r} [1,4+{classes}+{masks},{cells}] without objectness"
            return Match(reason, {**found, "classes": classes, "objectness": False})
        if first == 3 * cells and second > 5 + masks:
            classes = second - 5 - masks
            reason = f"{rows[0]!r} [1,{first},5+{classes}+{masks}] with objectness"
            return Match(reason, {**found, "classes": classes, "objectness": True})
        return Refusal(
            f"expected [1,4+C+{masks},{cells}] or [1,{3 * cells},5+C+{masks}] (strides 8, 16, 32), "
            f"got [1,{first},{second}]"
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, found = model.graph, Decode(model.graph), match.found
        mark_decode(graph, [found["rows"]])
        if found["objectness"]:
            widths = (4, 1, found["classes"], found["masks"])
            boxes, objectness, classes, coefficients = split_rows(decode, found["rows"], widths)
            scores, nms = (
                append_product(decode, objectness, classes),
                Nms(iou_threshold=0.45, confidence=0.25, max_detections=100),
            )
        else:
            rows = decode.op("Transpose", found["rows"], stem="rows", perm=[0, 2, 1])
            boxes, scores, coefficients = split_rows(decode, rows, (4, found["classes"], found["masks"]))
            nms = Nms(iou_threshold=0.7, confidence=0.25, max_detections=100)
        float32 = onnx.TensorProto.FLOAT
        decode.finish(
            {
                "boxes": (append_centres(decode, boxes), float32),
                "scores": (scores, float32),
                "mask_coefficients": (coefficients, float32),
                "mask_prototypes": (found["prototypes"], float32),
            }
        )
        preprocess = PreprocessDefaults("Ultralytics", resize="letterbox", mean=(0.0,) * 3, std=(255.0,) * 3)
        return NormalForm("instance", found["classes"], preprocess, nms, {"prototypes": found["masks"]})


HEAD = YoloSegHead()

"""torchvision's RetinaNet without its post-processing: cls_logits [1,A,C] and bbox_regression [1,A,4].

Source: pytorch/vision, models/detection/retinanet.py (nine anchors per cell of strides 8 to 128: sizes 32 to 512 times
1, 2^(1/3), 2^(2/3), rounded down, ratios 0.5, 1, 2; weights 1, 1, 1, 1; a sigmoid, no background; score 0.05, overlap
0.5, 300 boxes) and anchor_utils.py (AnchorGenerator: a cell is the input's size divided by the number of cells, rounded
down, and its anchors lie around its corner).
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from edgevision.export.anchors import lay_anchors, torchvision_shapes
from edgevision.export.box_coding import append_offsets
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.output_structure import class_activation
from edgevision.export.rows import locations
from edgevision.manifest import Nms

_STRIDES = (8, 16, 32, 64, 128)
_PER_CELL = 9
_SHAPES = [
    torchvision_shapes([int(4 * stride * 2 ** (third / 3)) for third in range(3)], (0.5, 1.0, 2.0))
    for stride in _STRIDES
]


class RetinanetHead:
    """Logits and offsets of nine anchors per cell."""

    name = "retinanet"
    about = "torchvision RetinaNet: cls_logits [1,A,classes] and bbox_regression [1,A,4], nine anchors per cell"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        shapes = {name: graph.shape(name) or () for name in graph.outputs}
        count = _PER_CELL * locations(model, _STRIDES)
        rows = [name for name, shape in shapes.items() if len(shape) == 3 and shape[:2] == (1, count)]
        boxes = [name for name in rows if shapes[name][2] == 4]
        named = [name for name in rows if "bbox" in name or "regress" in name]
        boxes = named if len(boxes) == 2 else boxes
        if len(shapes) != 2 or len(rows) != 2 or len(boxes) != 1:
            return Refusal(
                f"expected class logits [1,{count},C] and box offsets [1,{count},4] (nine anchors per cell of strides "
                f"8 to 128), got {[list(shape) for shape in shapes.values()]}"
            )
        scores = next(name for name in rows if name != boxes[0])
        if any(graph.dtype(name) != onnx.TensorProto.FLOAT for name in rows):
            return Refusal("expected float32 logits and offsets")
        if not model.chosen and scores != "cls_logits" and not _made_by_torchvision(model):
            return Refusal(
                "nine anchors per cell are RetinaNet's or EfficientDet's, whose anchors differ, and the file does not "
                "say which it is",
                "--family retinanet if it is torchvision's; --family ssd with --priors for others",
            )
        return Match(
            f"logits {scores!r} and offsets {boxes[0]!r} of {count} anchors",
            {"scores": scores, "boxes": boxes[0], "classes": shapes[scores][2]},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, scores = model.graph, Decode(model.graph), match.found["scores"]
        applied = class_activation(graph, scores) == "Sigmoid"
        mark_decode(graph, graph.outputs)
        if not applied:
            scores = decode.op("Sigmoid", scores, stem="scores/probability")
        anchors = lay_anchors(model.image.wh, _STRIDES, _SHAPES, "floor")
        boxes = append_offsets(decode, match.found["boxes"], anchors, (1.0,) * 4)
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        # Borders are zero after the normalisation, which is nearly the usual 114 before it.
        preprocess = PreprocessDefaults(
            "torchvision RetinaNet",
            resize="letterbox-topleft",
            mean=(123.675, 116.28, 103.53),
            std=(58.395, 57.12, 57.375),
        )
        facts = {"anchors": match.reason, "sigmoid": "in the graph" if applied else "appended"}
        nms = Nms(iou_threshold=0.5, confidence=0.3, max_detections=300)
        return NormalForm("detection", match.found["classes"], preprocess, nms, facts)


def _made_by_torchvision(model: SourceModel) -> bool:
    """torch.onnx names nodes after modules: head/classification_head/... and head/regression_head/..."""
    return any("/classification_head/" in node.name for node in model.graph.nodes) and any(
        "/regression_head/" in node.name for node in model.graph.nodes
    )


HEAD = RetinanetHead()

"""torchvision's FCOS without its post-processing: cls_logits [1,A,C], bbox_regression [1,A,4], bbox_ctrness [1,A,1].

Source: pytorch/vision, models/detection/fcos.py (score = sqrt(sigmoid(class) * sigmoid(centre)); one square anchor per
cell of strides 8 to 128, as large as the stride; score 0.2, overlap 0.6, 100 boxes) and _utils.py (BoxLinearCoder:
distances to the sides in units of the anchor's size); anchor_utils.py as for RetinaNet.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.export.anchors import lay_anchors
from edgevision.export.box_coding import append_distances, append_product
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.output_structure import class_activation
from edgevision.export.rows import locations
from edgevision.manifest import Nms

_STRIDES = (8, 16, 32, 64, 128)


class FcosHead:
    """Logits, distances and centreness, one row per cell."""

    name = "fcos"
    about = "torchvision FCOS: cls_logits [1,A,classes], bbox_regression [1,A,4] and bbox_ctrness [1,A,1]"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        shapes = {name: graph.shape(name) or () for name in graph.outputs}
        count = locations(model, _STRIDES)
        parts = {"bbox_regression": 4, "bbox_ctrness": 1}
        found = {
            part: [n for n, shape in shapes.items() if shape == (1, count, width)] for part, width in parts.items()
        }
        # With one or four classes the logits have such a shape as well; then the names tell.
        chosen = {part: part if part in names else names[0] for part, names in found.items() if names}
        left = [name for name in shapes if name not in chosen.values() and shapes[name][:2] == (1, count)]
        ambiguous = any(len(names) > 1 and part not in names for part, names in found.items())
        if len(shapes) != 3 or len(chosen) != 2 or len(left) != 1 or ambiguous:
            return Refusal(
                f"expected class logits [1,{count},C], distances [1,{count},4] and centreness [1,{count},1] (one row "
                f"per cell of strides 8 to 128), got {[list(shape) for shape in shapes.values()]}"
            )
        if any(graph.dtype(name) != onnx.TensorProto.FLOAT for name in shapes):
            return Refusal("expected float32 outputs")
        return Match(
            f"logits {left[0]!r}, distances and centreness of {count} cells",
            {"scores": left[0], "classes": shapes[left[0]][2], **chosen},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode = model.graph, Decode(model.graph)
        mark_decode(graph, graph.outputs)
        sizes = [[(float(stride), float(stride))] for stride in _STRIDES]
        anchors = lay_anchors(model.image.wh, _STRIDES, sizes, "floor")
        logits, distances, centreness = (match.found[part] for part in ("scores", "bbox_regression", "bbox_ctrness"))
        boxes, scores = append_linear(decode, logits, distances, centreness, anchors)
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        # Borders are zero after the normalisation, which is nearly the usual 114 before it.
        preprocess = PreprocessDefaults(
            "torchvision FCOS",
            resize="letterbox-topleft",
            mean=(123.675, 116.28, 103.53),
            std=(58.395, 57.12, 57.375),
        )
        nms = Nms(iou_threshold=0.6, confidence=0.3, max_detections=100)
        return NormalForm("detection", match.found["classes"], preprocess, nms, {"cells": match.reason})


def append_linear(
    decode: Decode, logits: str, distances: str, centreness: str, anchors: NDArray[np.float64]
) -> tuple[str, str]:
    """Boxes [1,A,4] and scores [1,A,C] from distances in units of anchors (A, 4) and two logits, of which either may
    have passed its Sigmoid."""
    sure = [
        name if class_activation(decode.graph, name) == "Sigmoid" else decode.op("Sigmoid", name, stem="scores/part")
        for name in (centreness, logits)
    ]
    scores = decode.op("Sqrt", append_product(decode, *sure), stem="scores/probability")
    scale = decode.constant("boxes/size", np.tile(anchors[:, 2:], 2).astype(np.float32))
    scaled = decode.op("Mul", distances, scale, stem="boxes/distances")
    return append_distances(decode, scaled, anchors[:, :2]), scores


HEAD = FcosHead()

"""torchvision's RetinaNet and FCOS as torch.onnx writes them whole: cut as `torchvision_ssd` cuts.

The heads' maps are joined under torchvision's names head/classification_head and head/regression_head; the anchors
stand in the folded graph, one constant per map. Source: pytorch/vision, models/detection/retinanet.py and fcos.py, as
for the families `retinanet` and `fcos`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.export.box_coding import append_bounds, append_offsets
from edgevision.export.decode import Decode
from edgevision.export.graph import Graph
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.heads.fcos import append_linear
from edgevision.export.torchvision_whole import RAW, find_transform, kept_settings


class TorchvisionPyramidHead:
    """A normalisation in front, joined maps and one constant of anchors per map behind."""

    name = "torchvision_pyramid"
    about = "torchvision RetinaNet and FCOS exported whole, with their transform and post-processing"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        transform = find_transform(model)
        if isinstance(transform, Refusal):
            return transform
        anchors = _anchors(graph)
        count = len(anchors)
        classes, boxes, centreness = (
            [
                node.output[0]
                for node in graph.nodes
                if node.op_type == "Concat"
                and f"/{part}_head/" in f"/{node.name}"
                and (shape := graph.shape(node.output[0]) or ())[:2] == (1, count)
                and len(shape) == 3
                and width in (None, shape[2])
            ]
            for part, width in (("classification", None), ("regression", 4), ("regression", 1))
        )
        if not count or len(classes) != 1 or len(boxes) != 1 or len(centreness) > 1:
            return Refusal(
                "torchvision's transform is there, but neither RetinaNet's nor FCOS's heads and anchors", RAW
            )
        return Match(
            f"torchvision's transform and the heads of {'FCOS' if centreness else 'RetinaNet'} with {count} anchors",
            {
                "transform": transform,
                "anchors": anchors,
                "scores": classes[0],
                "boxes": boxes[0],
                "centreness": centreness[0] if centreness else None,
                "classes": (graph.shape(classes[0]) or (0, 0, 0))[2],
            },
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, found = model.graph, Decode(model.graph), match.found
        fcos = found["centreness"] is not None
        nms, kept = kept_settings(graph, iou=0.6 if fcos else 0.5)
        transform, anchors = found["transform"], found["anchors"]
        transform.cut(model.image.name)
        if fcos:
            boxes, scores = append_linear(decode, found["scores"], found["boxes"], found["centreness"], anchors)
        else:
            boxes = append_offsets(decode, found["boxes"], anchors, (1.0,) * 4)
            scores = decode.op("Sigmoid", found["scores"], stem="scores/probability")
        boxes = append_bounds(decode, boxes, model.image.wh)
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        facts = {
            "removed": "the transform before the first convolution; decode and suppression behind the heads",
            "anchors": match.reason,
            "kept_settings": kept,
        }
        # Borders are zero after the normalisation, which is nearly the usual 114 before it.
        preprocess = PreprocessDefaults(
            "the graph's own transform", resize="letterbox-topleft", mean=transform.mean, std=transform.std
        )
        return NormalForm("detection", found["classes"], preprocess, nms, facts)


def _anchors(graph: Graph) -> NDArray[np.float64]:
    """The anchors (A, 4) as cx, cy, w, h in pixels: constants of corners, one per map, the largest map first; none
    where they do not look like that."""
    levels = sorted(
        (value for value in graph.constants.values() if value.ndim == 2 and value.shape[1] == 4), key=len, reverse=True
    )
    sizes = [len(level) for level in levels]
    if not levels or len(set(sizes)) != len(sizes) or any(level.dtype != np.float32 for level in levels):
        return np.zeros((0, 4))
    corners = np.concatenate(levels).astype(np.float64)
    size = corners[:, 2:] - corners[:, :2]
    return np.concatenate([corners[:, :2] + size / 2, size], axis=1) if (size > 0).all() else np.zeros((0, 4))


HEAD = TorchvisionPyramidHead()

"""Faces with five landmarks and priors: boxes [1,N,4], scores [1,N,2] and landmarks [1,N,10] relative to priors.

Sources: Deng et al., "RetinaFace", arXiv:1905.00641, as in biubug6/Pytorch_Retinaface (prior_box, box_utils: priors of
two sizes at strides 8, 16, 32; landmark = prior centre + offset * 0.1 * prior size; BGR minus 104, 117, 123), and
biubug6/Face-Detector-1MB-with-landmark (slim, RFB: three or two sizes at strides 8, 16, 32, 64).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.export.anchors import lay_anchors
from edgevision.export.box_coding import append_foreground, append_offsets
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.output_structure import class_activation
from edgevision.manifest import Nms

_POINTS = 5
_VARIANCES = (0.1, 0.1, 0.2, 0.2)
# Strides and prior sizes, pixels.
_PRIORS = {
    "RetinaFace": ((8, 16, 32), ((16, 32), (64, 128), (256, 512))),
    "slim and RFB": ((8, 16, 32, 64), ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))),
}


class RetinafaceHead:
    """Three outputs of N rows: 4, 2 and 10 columns."""

    name = "retinaface"
    about = "RetinaFace, slim and RFB faces with landmarks: outputs [1,N,4], [1,N,2] and [1,N,10]"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        shapes = {name: graph.shape(name) or () for name in graph.outputs}
        by_width = {shape[2]: name for name, shape in shapes.items() if len(shape) == 3 and shape[0] == 1}
        counts = {shape[1] for shape in shapes.values() if len(shape) == 3}
        if len(shapes) != 3 or by_width.keys() != {2, 4, 2 * _POINTS} or len(counts) != 1:
            return Refusal(
                f"expected the outputs [1,N,4], [1,N,2], [1,N,10], got {[list(shape) for shape in shapes.values()]}"
            )
        if any(graph.dtype(name) != onnx.TensorProto.FLOAT for name in shapes):
            return Refusal("expected float32 outputs")
        count = counts.pop()
        priors = {variant: _priors(model, variant) for variant in _PRIORS}
        fitting = [variant for variant, boxes in priors.items() if len(boxes) == count]
        if not fitting:
            known = ", ".join(f"{len(boxes)} ({variant})" for variant, boxes in priors.items())
            return Refusal(f"expected one row per prior, {known}, got {count}")
        return Match(
            f"boxes, scores and landmarks of {count} priors: {fitting[0]}",
            {"variant": fitting[0], "boxes": by_width[4], "scores": by_width[2], "points": by_width[2 * _POINTS]},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, scores = model.graph, Decode(model.graph), match.found["scores"]
        priors = _priors(model, match.found["variant"])
        applied = class_activation(graph, scores)
        mark_decode(graph, graph.outputs)
        if applied is None:
            scores = decode.op("Softmax", scores, stem="scores/probability", axis=2)
        scores = append_foreground(decode, scores)
        boxes = append_offsets(decode, match.found["boxes"], priors, _VARIANCES)
        centre, size = (np.tile(part, (1, _POINTS)).astype(np.float32) for part in (priors[:, :2], priors[:, 2:]))
        scale = decode.constant("keypoints/scale", size * np.float32(_VARIANCES[0]))
        shift = decode.op("Mul", match.found["points"], scale, stem="keypoints/shift")
        flat = decode.op("Add", shift, decode.constant("keypoints/centre", centre), stem="keypoints/xy")
        pairs = decode.constant("keypoints/pairs", np.array([0, 0, _POINTS, 2]))
        keypoints = decode.op("Reshape", flat, pairs, stem="keypoints/points")
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32), "keypoints": (keypoints, float32)})
        preprocess = PreprocessDefaults(match.found["variant"], color="bgr", mean=(104.0, 117.0, 123.0), std=(1.0,) * 3)
        facts = {"priors": match.reason, "softmax": "in the graph" if applied else "appended", "points": _POINTS}
        nms = Nms(iou_threshold=0.4, confidence=0.5)
        return NormalForm("keypoints", 1, preprocess, nms, facts, labels=("face",))


def _priors(model: SourceModel, variant: str) -> NDArray[np.float64]:
    strides, sizes = _PRIORS[variant]
    return lay_anchors(model.image.wh, strides, [[(size, size) for size in level] for level in sizes])


HEAD = RetinafaceHead()

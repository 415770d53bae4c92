"""BlazeFace: boxes with six landmarks [1,896,16] and logits [1,896,1], relative to the middles of cells.

Sources: Bazarevsky et al., "BlazeFace", arXiv:1907.05047; MediaPipe's face detection graphs (anchors of a fixed size:
two per cell of a 16x16 map, six per cell of an 8x8 map) and hollance/BlazeFace-PyTorch: cx, cy, w, h and six landmarks
in pixels, scores a sigmoid of logits bounded to -100..100, pixels -1..1. MediaPipe averages overlapping boxes; here the
best one is kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.export.anchors import lay_anchors
from edgevision.export.box_coding import corners
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.output_structure import class_activation
from edgevision.manifest import Nms

_POINTS = 6
_PER_CELL = (2, 6)
_STRIDES = {(128, 128): (8, 16), (256, 256): (16, 32)}
_COUNT = 896


class BlazefaceHead:
    """Outputs [1,896,16] and [1,896,1]."""

    name = "blazeface"
    about = "BlazeFace (MediaPipe's short and back range): outputs [1,896,16] and [1,896,1]"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        shapes = {graph.shape(name): name for name in graph.outputs}
        columns = 4 + 2 * _POINTS
        if len(graph.outputs) != 2 or shapes.keys() != {(1, _COUNT, columns), (1, _COUNT, 1)}:
            return Refusal(
                f"expected the outputs [1,{_COUNT},{columns}] and [1,{_COUNT},1], got "
                f"{[list(graph.shape(name) or ()) for name in graph.outputs]}"
            )
        if model.image.wh not in _STRIDES or any(graph.dtype(n) != onnx.TensorProto.FLOAT for n in graph.outputs):
            return Refusal(f"expected float32 outputs for an input of 128x128 or 256x256, got {model.image.wh}")
        return Match(
            f"boxes with {_POINTS} landmarks and scores of {_COUNT} anchors",
            {"boxes": shapes[(1, _COUNT, columns)], "scores": shapes[(1, _COUNT, 1)]},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, scores = model.graph, Decode(model.graph), match.found["scores"]
        applied = class_activation(graph, scores)
        mark_decode(graph, graph.outputs)
        if applied is None:
            bounds = [decode.constant(f"scores/bound_{i}", np.array(v, np.float32)) for i, v in enumerate((-100, 100))]
            scores = decode.op("Clip", scores, *bounds, stem="scores/bounded")
            scores = decode.op("Sigmoid", scores, stem="scores/probability")
        widths = decode.constant("columns", np.array([2, 2, 2 * _POINTS]))
        centre, size, points = decode.node("Split", match.found["boxes"], widths, stem="parts", outputs=3, axis=2)
        anchors = lay_anchors(model.image.wh, _STRIDES[model.image.wh], [[(1.0, 1.0)] * n for n in _PER_CELL])
        middle = anchors[:, :2].astype(np.float32)
        half = decode.op("Mul", size, decode.constant("boxes/half", np.array(0.5, np.float32)), stem="boxes/half_size")
        point = decode.op("Add", centre, decode.constant("boxes/anchors", middle), stem="boxes/centre")
        around = decode.constant("keypoints/anchors", np.tile(middle, (1, _POINTS)))
        pairs = decode.constant("keypoints/pairs", np.array([0, 0, _POINTS, 2]))
        moved = decode.op("Add", points, around, stem="keypoints/xy")
        float32 = onnx.TensorProto.FLOAT
        decode.finish(
            {
                "boxes": (corners(decode, point, half), float32),
                "scores": (scores, float32),
                "keypoints": (decode.op("Reshape", moved, pairs, stem="keypoints/points"), float32),
            }
        )
        preprocess = PreprocessDefaults(
            "BlazeFace", resize="letterbox", mean=(127.5,) * 3, std=(127.5,) * 3, pad_value=0.0
        )
        facts = {"sigmoid": "in the graph" if applied else "appended", "points": _POINTS}
        nms = Nms(iou_threshold=0.3, confidence=0.5)
        return NormalForm("keypoints", 1, preprocess, nms, facts, labels=("face",))


HEAD = BlazefaceHead()

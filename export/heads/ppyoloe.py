"""PP-YOLOE and PP-PicoDet with their decode but without suppression: boxes [1,N,4] and scores [1,C,N].

Source: PaddlePaddle/PaddleDetection, `exclude_nms=True` of ppyoloe_head and pico_head: corners in pixels of the input
(divided by `scale_factor`, which is 1 here), class probabilities behind a Sigmoid, channels before locations; strides
8, 16, 32 and, for PP-PicoDet, 64. Their readers stretch the picture; PP-YOLOE was trained with ImageNet statistics,
PP-YOLOE+ with pixels / 255.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.output_structure import class_activation
from edgevision.export.rows import locations
from edgevision.manifest import Nms

_STRIDES = (8, 16, 32)
_PICODET_STRIDES = (8, 16, 32, 64)


class PpyoloeHead:
    """Decoded boxes [1,N,4] beside scores [1,C,N]."""

    name = "ppyoloe"
    about = "PP-YOLOE, PP-PicoDet with their decode: boxes [1,N,4] in pixels and scores [1,classes,N]"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        shapes = {name: graph.shape(name) or () for name in graph.outputs}
        counts = {locations(model, strides): strides for strides in (_STRIDES, _PICODET_STRIDES)}
        boxes = [name for name, shape in shapes.items() if shape[:1] == (1,) and shape[1:] in {(n, 4) for n in counts}]
        if len(shapes) != 2 or len(boxes) != 1:
            return Refusal(
                f"expected boxes [1,N,4] and scores [1,C,N], N one of {sorted(counts)} (one location per cell), got "
                f"{[list(shape) for shape in shapes.values()]}"
            )
        scores = next(name for name in shapes if name != boxes[0])
        count = shapes[boxes[0]][1]
        if len(shapes[scores]) != 3 or shapes[scores][::2] != (1, count):
            return Refusal(f"expected scores [1,C,{count}], got {scores} {list(shapes[scores])}")
        if any(graph.dtype(name) != onnx.TensorProto.FLOAT for name in shapes):
            return Refusal("expected float32 boxes and scores")
        if class_activation(graph, scores) != "Sigmoid" and not model.chosen:
            return Refusal(f"output {scores!r} does not end in a Sigmoid", "--family ppyoloe if it holds probabilities")
        return Match(
            f"boxes {boxes[0]!r} [1,{count},4] and probabilities {scores!r} {list(shapes[scores])}",
            {"boxes": boxes[0], "scores": scores, "classes": shapes[scores][1], "strides": counts[count]},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode = model.graph, Decode(model.graph)
        mark_decode(graph, graph.outputs)
        scores = decode.op("Transpose", match.found["scores"], stem="scores/rows", perm=[0, 2, 1])
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (match.found["boxes"], float32), "scores": (scores, float32)})
        if match.found["strides"] == _PICODET_STRIDES:
            preprocess = PreprocessDefaults("PP-PicoDet", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
        else:
            preprocess = PreprocessDefaults("PP-YOLOE", candidates="unit (PP-YOLOE+), torch (PP-YOLOE)")
        nms = Nms(iou_threshold=0.7, confidence=0.3)
        return NormalForm("detection", match.found["classes"], preprocess, nms, {"form": match.reason})


HEAD = PpyoloeHead()

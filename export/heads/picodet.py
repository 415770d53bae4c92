"""PP-PicoDet without its decode: per stride 8, 16, 32, 64 class probabilities [1,n,C] and distributions [1,n,4*bins].

Source: PaddlePaddle/PaddleDetection, pico_head (`export.post_process=False`) and its ncnn demo: distances are the
expectation over bins 0..reg_max (7), in strides, from the middle of a cell; the reader stretches RGB pictures and uses
ImageNet statistics.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.export.box_coding import append_distances, append_expectation, cells
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.output_structure import class_activation
from edgevision.export.rows import locations
from edgevision.manifest import Nms

_STRIDES = (8, 16, 32, 64)
_SIDES = 4


class PicodetHead:
    """Two outputs per stride, four strides."""

    name = "picodet"
    about = "PP-PicoDet without its decode: class probabilities and distributions at strides 8, 16, 32, 64"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        shapes = {name: graph.shape(name) or () for name in graph.outputs}
        scores, distributions = [], []
        for stride in _STRIDES:
            count = locations(model, [stride])
            pair = [name for name, shape in shapes.items() if len(shape) == 3 and shape[:2] == (1, count)]
            named = [name for name in pair if class_activation(graph, name) == "Sigmoid"]
            if len(shapes) != 2 * len(_STRIDES) or len(pair) != 2 or len(named) != 1:
                return Refusal(
                    "expected, for each of the strides 8, 16, 32, 64, class probabilities [1,n,C] and distributions "
                    f"[1,n,4*bins], got {[list(shape) for shape in shapes.values()]}"
                )
            if any(graph.dtype(name) != onnx.TensorProto.FLOAT for name in pair):
                return Refusal("expected float32 class probabilities and distributions")
            scores += named
            distributions += [name for name in pair if name not in named]
        classes, widths = ({shapes[name][2] for name in names} for names in (scores, distributions))
        width = max(widths)
        if len(classes) != 1 or len(widths) != 1 or width % _SIDES or width < 2 * _SIDES:
            return Refusal(f"expected one number of classes and 4*bins columns, got {classes}, {widths}")
        return Match(
            f"class probabilities and distributions over {width // _SIDES} bins at strides 8, 16, 32, 64",
            {"scores": scores, "distributions": distributions, "classes": classes.pop(), "bins": width // _SIDES},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode = model.graph, Decode(model.graph)
        mark_decode(graph, graph.outputs)
        scores, sides = (
            decode.op("Concat", *match.found[part], stem=part, axis=1) for part in ("scores", "distributions")
        )
        grid, stride = cells(model.image.wh, _STRIDES)
        factor = decode.constant("boxes/stride", stride.repeat(4, axis=1).astype(np.float32))
        bins = append_expectation(decode, sides, match.found["bins"])
        distances = decode.op("Mul", bins, factor, stem="boxes/distances")
        boxes = append_distances(decode, distances, (grid + 0.5) * stride)
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        preprocess = PreprocessDefaults("PP-PicoDet", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
        nms = Nms(iou_threshold=0.6, confidence=0.3, max_detections=100)
        return NormalForm("detection", match.found["classes"], preprocess, nms, {"form": match.reason})


HEAD = PicodetHead()

"""NanoDet and NanoDet-Plus: class probabilities and, per box side, a distribution over distances in strides.

NanoDet: per stride one output of classes [1,n,C] and one of distributions [1,n,4*bins], locations at the centres of
cells. NanoDet-Plus: one output [1,N,C+4*bins] over strides 8, 16, 32, 64, locations at the corners of cells. Source:
RangiLyu/nanodet, its heads (gfl_head, nanodet_plus_head) and demos: BGR with ImageNet statistics; NanoDet keeps the
aspect and pads with 0, NanoDet-Plus stretches.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.export.box_coding import append_distances, append_expectation, cells
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.graph import Graph
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.output_structure import class_activation
from edgevision.export.rows import locations, single_rows, split_rows
from edgevision.manifest import Nms

_STRIDES = (8, 16, 32)
_PLUS_STRIDES = (8, 16, 32, 64)
_BINS = 8


class NanodetHead:
    """Distances as distributions over eight bins."""

    name = "nanodet"
    about = "NanoDet (classes and distributions per stride) and NanoDet-Plus (one output [1,N,classes+32])"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        return _several(model) if len(model.graph.outputs) > 1 else _plus(model)

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, classes = model.graph, Decode(model.graph), match.found["classes"]
        plus = "output" in match.found
        mark_decode(graph, graph.outputs)
        if plus:
            offset = 0.0
            scores, sides = split_rows(decode, match.found["output"], (classes, 4 * _BINS))
        else:
            offset = 0.5
            scores, sides = (
                decode.op("Concat", *match.found[part], stem=part, axis=1) for part in ("scores", "distributions")
            )
        grid, stride = cells(model.image.wh, _PLUS_STRIDES if plus else _STRIDES)
        distances = append_expectation(decode, sides, _BINS)
        scaled = decode.op(
            "Mul",
            distances,
            decode.constant("boxes/stride", stride.repeat(4, axis=1).astype(np.float32)),
            stem="boxes/distances",
        )
        # NanoDet's centre is x * stride + (stride - 1) / 2, half a pixel before the middle of the cell.
        points = grid * stride + offset * (stride - 1)
        boxes = append_distances(decode, scaled, points)
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        preprocess = PreprocessDefaults(
            "NanoDet-Plus" if plus else "NanoDet",
            resize="stretch" if plus else "letterbox",
            color="bgr",
            mean=(103.53, 116.28, 123.675),
            std=(57.375, 57.12, 58.395),
            pad_value=0.0,
        )
        nms = Nms(iou_threshold=0.6, confidence=0.35, max_detections=100)
        return NormalForm("detection", classes, preprocess, nms, {"form": match.reason})


def _several(model: SourceModel) -> Match | Refusal:
    graph = model.graph
    shapes = {name: graph.shape(name) or () for name in graph.outputs}
    counts = [locations(model, [stride]) for stride in _STRIDES]
    scores, distributions = [], []
    for count in counts:
        pair = [name for name, shape in shapes.items() if len(shape) == 3 and shape[:2] == (1, count)]
        named = [name for name in pair if _probabilities(graph, name)]
        if len(pair) != 2 or len(named) != 1:
            return Refusal(
                f"expected, for each of the strides 8, 16, 32, class probabilities [1,n,C] and distributions "
                f"[1,n,{4 * _BINS}] (n = {counts}), got {[list(shape) for shape in shapes.values()]}"
            )
        scores += named
        distributions += [name for name in pair if name not in named]
    widths = {shapes[name][2] for name in distributions}
    classes = {shapes[name][2] for name in scores}
    if len(shapes) != 2 * len(counts) or widths != {4 * _BINS} or len(classes) != 1:
        return Refusal(
            f"expected distributions of {4 * _BINS} columns and one number of classes, got {widths}, {classes}"
        )
    return Match(
        "class probabilities and box distributions per stride",
        {"scores": scores, "distributions": distributions, "classes": classes.pop()},
    )


def _plus(model: SourceModel) -> Match | Refusal:
    found = single_rows(model, least_columns=4 * _BINS + 1)
    if isinstance(found, Refusal):
        return found
    output, rows, columns = found
    expected = locations(model, _PLUS_STRIDES)
    if rows != expected:
        return Refusal(f"expected [1,{expected},C+{4 * _BINS}] (strides 8, 16, 32, 64), got [1,{rows},{columns}]")
    classes = columns - 4 * _BINS
    return Match(f"output {output!r} [1,{rows},{classes}+{4 * _BINS}]", {"output": output, "classes": classes})


def _probabilities(graph: Graph, name: str) -> bool:
    return class_activation(graph, name) == "Sigmoid"


HEAD = NanodetHead()

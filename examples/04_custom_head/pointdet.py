"""PointDet, a family of our own: one output `points` [1,N,4+C], one row per cell of strides 8 and 16.

Columns: distances from the middle of the cell to the left, top, right and bottom, in strides; then class logits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.export.box_coding import append_distances, cells
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.rows import single_rows, split_rows
from edgevision.manifest import Nms

STRIDES = (8, 16)


class PointDetHead:
    """Satisfies edgevision.export.heads.base.Head."""

    name = "pointdet"
    about = "PointDet: one output points [1,N,4+classes], distances in strides"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """Say yes only where the graph shows it; a refusal says what is different."""
        found = single_rows(model, least_columns=5)
        if isinstance(found, Refusal):
            return found
        output, rows, columns = found
        expected = len(cells(model.image.wh, STRIDES)[0])
        if rows != expected:
            return Refusal(f"expected {expected} locations (strides 8 and 16), got {rows}")
        if output != "points" and not model.chosen:
            return Refusal(f"the output is called {output!r}, not 'points'", "--family pointdet if it is one")
        return Match(f"output {output!r} [1,{rows},{columns}]", {"output": output, "classes": columns - 4})

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """Append the decode: boxes [1,N,4] xyxy in pixels, scores [1,N,C] in 0..1."""
        output, classes = match.found["output"], match.found["classes"]
        mark_decode(model.graph, [output])  # what the graph brought of its own decode stays in float32, too
        decode = Decode(model.graph)
        distances, logits = split_rows(decode, output, (4, classes))
        grid, stride = cells(model.image.wh, STRIDES)
        factor = decode.constant("boxes/stride", stride.astype(np.float32))
        boxes = append_distances(
            decode, decode.op("Mul", distances, factor, stem="boxes/pixels"), (grid + 0.5) * stride
        )
        scores = decode.op("Sigmoid", logits, stem="scores/probability")
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        preprocess = PreprocessDefaults("PointDet", resize="letterbox", mean=(0.0,) * 3, std=(255.0,) * 3)
        return NormalForm("detection", classes, preprocess, Nms(iou_threshold=0.5), {"form": match.reason})


HEAD = PointDetHead()

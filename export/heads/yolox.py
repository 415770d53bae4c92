"""YOLOX: one output [1, locations, 5 + classes], one location per cell of strides 8, 16, 32.

Columns: centre offset in cells, logarithm of the size in cells, objectness and class probabilities (sigmoid applied);
or, exported with --decode_in_inference, cx, cy, w, h in pixels. Source: Megvii-BaseDetection/YOLOX, its head,
demo and ONNX documentation: keep the aspect, pad right and below with 114, BGR 0..255; files from before version
0.1.1 (`--legacy` there) take RGB with ImageNet statistics: `--preprocess torch`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.export.box_coding import append_centres, append_offsets, append_product, cells
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.graph import Graph
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.output_structure import decode_nodes
from edgevision.export.rows import locations, single_rows, split_rows
from edgevision.manifest import Nms

_STRIDES = (8, 16, 32)
_LARGEST_LOG_SIZE = 10.0  # exp(10) cells are more than any picture has; beyond it float32 would overflow


class YoloxHead:
    """One output [1,N,5+C] with one location per cell."""

    name = "yolox"
    about = "YOLOX: one output [1,N,5+classes], decoded or not"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        found = single_rows(model, least_columns=6)
        if isinstance(found, Refusal):
            return found
        output, rows, columns = found
        expected = locations(model, _STRIDES)
        if rows != expected:
            return Refusal(
                f"expected [1,{expected},5+C] (one location per cell of strides 8, 16, 32), got [1,{rows},..]"
            )
        if not model.chosen and not _joins_three(model.graph, output):
            return Refusal(
                f"output {output!r} is not joined from boxes and sigmoids of objectness and classes",
                "--family yolox if its columns are box, objectness, classes",
            )
        decoded = any(node.op_type == "Exp" for node in decode_nodes(model.graph, output))
        return Match(
            f"output {output!r} [1,{rows},{columns}], {'decoded' if decoded else 'offsets in cells'}",
            {"output": output, "classes": columns - 5, "decoded": decoded},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, output, classes = model.graph, match.found["output"], match.found["classes"]
        decode = Decode(graph)
        mark_decode(graph, [output])
        boxes, objectness, probabilities = split_rows(decode, output, (4, 1, classes))
        if match.found["decoded"]:
            xyxy = append_centres(decode, boxes)
        else:
            grid, stride = cells(model.image.wh, _STRIDES)
            priors = np.concatenate([grid * stride, stride, stride], axis=1)
            xyxy = append_offsets(decode, boxes, priors, (1.0,) * 4, largest_log_size=_LARGEST_LOG_SIZE)
        scores = append_product(decode, objectness, probabilities)
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (xyxy, float32), "scores": (scores, float32)})
        preprocess = PreprocessDefaults(
            "YOLOX", resize="letterbox-topleft", color="bgr", mean=(0.0,) * 3, std=(1.0,) * 3, pad_value=114.0
        )
        facts = {"output": output, "decoded_in_graph": match.found["decoded"]}
        return NormalForm("detection", classes, preprocess, Nms(iou_threshold=0.45, confidence=0.3), facts)


def _joins_three(graph: Graph, output: str) -> bool:
    """Whether a Concat of three behind `output` has exactly two parts that end in a Sigmoid, box first."""
    for node in decode_nodes(graph, output):
        if node.op_type == "Concat" and len(node.input) == 3:
            ends = [graph.producer.get(name) for name in node.input]
            if [end is not None and end.op_type == "Sigmoid" for end in ends] == [False, True, True]:
                return True
    return False


HEAD = YoloxHead()

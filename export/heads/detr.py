"""Set prediction: class logits [1,Q,C] and boxes [1,Q,4] as centre and size in fractions of the input.

DETR (softmax, last column: no object), RT-DETR, RT-DETRv2, D-FINE and RF-DETR (sigmoid, no such column). Queries do not
repeat an object, so nothing is suppressed; a query may be reported under several classes. Source: Carion et al.,
"End-to-End Object Detection with Transformers", arXiv:2005.12872; Zhao et al., "DETRs Beat YOLOs on Real-time Object
Detection", arXiv:2304.08069; Hugging Face transformers, the image processors' post_process_object_detection;
roboflow/rf-detr, its ONNX export (outputs dets, labels).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.errors import ModelError
from edgevision.export.box_coding import append_centres
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.output_structure import class_activation
from edgevision.manifest import Nms

_CANDIDATES = "unit (RT-DETR, D-FINE), torch (DETR, RF-DETR)"


class DetrHead:
    """Logits and boxes of a fixed number of queries."""

    name = "detr"
    about = "DETR, RT-DETR, D-FINE, RF-DETR: logits [1,Q,C] and boxes [1,Q,4] (centre and size, 0..1)"
    options: Mapping[str, str] = {
        "activation": "softmax (DETR, the last column means no object), sigmoid (RT-DETR, D-FINE, RF-DETR) or none",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        shapes = {name: graph.shape(name) or () for name in graph.outputs}
        rows = {name: shape for name, shape in shapes.items() if len(shape) == 3 and shape[0] == 1}
        # D-FINE's boxes are distances to the sides and end in no Sigmoid.
        boxes = [
            name
            for name, shape in rows.items()
            if shape[2] == 4 and (class_activation(graph, name) == "Sigmoid" or (model.chosen and "box" in name))
        ]
        if len(rows) != 2 or len(boxes) != 1:
            listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            return Refusal(
                f"expected logits [1,Q,C] and boxes [1,Q,4] that end in a Sigmoid, got {listed}",
                "--family detr if the boxes are centre and size in fractions (D-FINE)",
            )
        logits = next(name for name in rows if name != boxes[0])
        if rows[logits][2] == 4 and "box" not in boxes[0] and not model.chosen:
            return Refusal(f"{boxes[0]!r} may as well be four class scores as a box", "--family detr if it is a box")
        if rows[logits][1] != rows[boxes[0]][1]:
            return Refusal(f"logits and boxes have different numbers of rows: {list(rows.values())}")
        return Match(
            f"logits {logits!r} {list(rows[logits])} and boxes {boxes[0]!r} in fractions",
            {"logits": logits, "boxes": boxes[0], "columns": rows[logits][2], "queries": rows[logits][1]},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, found = model.graph, Decode(model.graph), match.found
        activation, reason = self._activation(model, found["logits"], found["columns"])
        mark_decode(graph, [found["boxes"]])
        scores = found["logits"]
        if activation == "softmax":
            shares = decode.op("Softmax", scores, stem="scores/probability", axis=2)
            bounds = (
                decode.constant(f"scores/{word}", np.array([n])) for word, n in (("0", 0), ("end", -1), ("ax", 2))
            )
            scores = decode.op("Slice", shares, *bounds, stem="scores/objects")
        elif activation == "sigmoid":
            scores = decode.op("Sigmoid", scores, stem="scores/probability")
        extent = decode.constant("boxes/input_size", np.array(model.image.wh * 2, np.float32))
        boxes = decode.op("Mul", append_centres(decode, found["boxes"]), extent, stem="boxes/pixels")
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        classes = found["columns"] - (activation == "softmax")
        preprocess = PreprocessDefaults("set prediction", candidates=_CANDIDATES)
        nms = Nms(
            iou_threshold=1.0, confidence=0.5, multi_label=activation != "softmax", max_detections=found["queries"]
        )
        return NormalForm("detection", classes, preprocess, nms, {"activation": f"{activation} ({reason})"})

    def _activation(self, model: SourceModel, logits: str, columns: int) -> tuple[str, str]:
        applied = class_activation(model.graph, logits)
        if applied is not None:
            return "none", f"the graph applies {applied}"
        stated = choice(model, self, "activation", ("softmax", "sigmoid", "none"))
        if stated is not None:
            return stated
        if model.labels is not None and len(model.labels) in (columns, columns - 1):
            kind = "sigmoid" if len(model.labels) == columns else "softmax"
            return kind, f"{columns} columns for {len(model.labels)} labels"
        if logits == "labels" and "dets" in model.graph.outputs:
            return "sigmoid", "RF-DETR's output names"
        raise ModelError(
            f"output {logits!r} holds raw class scores and the file does not say how they become probabilities: give "
            "--head activation=softmax (DETR) or --head activation=sigmoid (RT-DETR, D-FINE, RF-DETR), or --labels"
        )


HEAD = DetrHead()

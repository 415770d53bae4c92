"""Classifiers: one score per class, [1,C] or [1,C,1,1]; with localisation a second output [1,4], the object's box.

Preprocessing is the trainer's affair: ImageNet pipelines usually resize the shorter side and crop the middle;
stretching the whole picture, as done here, shows the network all of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.errors import ModelError
from edgevision.export.box_coding import BOX_FORMATS, append_box_format, append_offsets
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.output_structure import class_activation

_CANDIDATES = "torch (torchvision, timm), tf (TensorFlow), unit (Ultralytics)"
# R-CNN's dx, dy, dw, dh (Girshick et al., arXiv:1311.2524, appendix C), the proposal being what the picture shows.
_OFFSETS = "offsets"
_FORMATS = (*BOX_FORMATS, _OFFSETS)


class ClassificationHead:
    """Scores [1,C], and a box [1,4] where the model localises."""

    name = "classification"
    about = "classifiers: scores [1,C]; with localisation also a box [1,4]"
    options: Mapping[str, str] = {
        "activation": "softmax (the default for raw scores), sigmoid (several classes at once) or none",
        "format": f"{', '.join(_FORMATS)}: what the four numbers of the box are",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        shapes = {name: graph.shape(name) or () for name in graph.outputs}
        flat = {
            name: math.prod(shape)
            for name, shape in shapes.items()
            if len(shape) >= 2 and shape[0] == 1 and math.prod(shape) == max(shape) and min(shape) > 0
        }
        floats = all(graph.dtype(name) == onnx.TensorProto.FLOAT for name in shapes)
        boxes = [name for name, count in flat.items() if count == 4 and len(shapes) == 2]
        scores = [name for name in flat if name not in boxes]
        if len(flat) != len(shapes) or len(scores) != 1 or len(boxes) > 1 or not floats or flat[scores[0]] < 2:
            listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            return Refusal(f"expected scores [1,C] (and a box [1,4]), got {listed}")
        found = {"scores": scores[0], "box": boxes[0] if boxes else None, "classes": flat[scores[0]]}
        return Match(f"scores {scores[0]!r} {list(shapes[scores[0]])}" + (" and a box" if boxes else ""), found)

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode = model.graph, Decode(model.graph)
        scores, box, classes = match.found["scores"], match.found["box"], match.found["classes"]
        applied = class_activation(graph, scores)
        activation, reason = choice(model, self, "activation", ("softmax", "sigmoid", "none")) or (
            "softmax",
            "default for raw scores",
        )
        if applied is not None:
            activation, reason = "none", f"the graph applies {applied}"
            mark_decode(graph, [scores])
        shape = decode.constant("scores/shape", np.array([-1, classes]))
        tensor = decode.op("Reshape", scores, shape, stem="scores/flat")
        if activation == "softmax":
            tensor = decode.op("Softmax", tensor, stem="scores/probability", axis=1)
        elif activation == "sigmoid":
            tensor = decode.op("Sigmoid", tensor, stem="scores/probability")
        float32 = onnx.TensorProto.FLOAT
        outputs = {"scores": (tensor, float32)}
        facts: dict[str, object] = {"scores": scores, "activation": f"{activation} ({reason})"}
        if box is not None:
            form = choice(model, self, "format", _FORMATS)
            if form is None:
                raise ModelError(
                    f"output {box!r} is a box, and the file does not say what its four numbers are: "
                    f"give --head format= one of {', '.join(_FORMATS)}"
                )
            mark_decode(graph, [box])
            corners = decode.op("Reshape", box, decode.constant("boxes/one", np.array([-1, 1, 4])), stem="boxes/row")
            if form[0] == _OFFSETS:
                width, height = model.image.wh
                whole = np.array([[width / 2, height / 2, width, height]])
                corners = append_offsets(decode, corners, whole, (1.0,) * 4)
            else:
                corners = append_box_format(decode, corners, form[0], model.image.wh)
            outputs["boxes"] = (corners, float32)
            facts["box"] = f"{form[0]} ({form[1]})"
        decode.finish(outputs)
        noted = model.metadata.ultralytics
        zero, full = (0.0,) * 3, (255.0,) * 3
        preprocess = PreprocessDefaults("classification", candidates=_CANDIDATES)
        if noted:
            preprocess = PreprocessDefaults("Ultralytics", mean=zero, std=full)
        return NormalForm("classification", classes, preprocess, None, facts)


HEAD = ClassificationHead()

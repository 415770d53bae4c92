"""EfficientDet without its post-processing: per stride 8 to 128 a class map of 9*C channels and a box map of 36.

Sources: Tan et al., "EfficientDet", arXiv:1911.09070; google/automl (efficientdet: anchors.py, hparams_config.py) and
rwightman/efficientdet-pytorch (effdet/anchors.py): offsets ty, tx, th, tw without factors; nine anchors per cell, three
octave scales of anchor_scale strides, each with three ratios; a stride is the input's size divided by the number of
cells; a sigmoid, no background. Ratios are 1.4 : 0.7 in PyTorch and older TensorFlow models, and the square root of 2
in newer ones; anchor_scale is 4 for D0 to D6 and D7x, 5 for D7, 3 or 4 for the lite models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.errors import ModelError, UsageError
from edgevision.export.anchors import lay_anchors
from edgevision.export.box_coding import append_offsets
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.output_structure import class_activation
from edgevision.export.rows import map_rows, maps_by_stride
from edgevision.manifest import Nms

_STRIDES = (8, 16, 32, 64, 128)
_PER_CELL = 9
_RATIOS = {
    "pairs": ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4)),
    "roots": ((1.0, 1.0), (math.sqrt(2), math.sqrt(0.5)), (math.sqrt(0.5), math.sqrt(2))),
}


class EfficientdetHead:
    """Five pairs of maps."""

    name = "efficientdet"
    about = "EfficientDet: at each of five strides maps of classes [1,9*C,h,w] and boxes [1,36,h,w]"
    options: Mapping[str, str] = {
        "anchor_scale": "size of the smallest anchor in strides: 4 for D0 to D6, 5 for D7, 3 for lite0 to lite2",
        "ratios": "pairs (1.4 : 0.7, PyTorch; the default) or roots (square root of 2, newer TensorFlow)",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        found = maps_by_stride(model, _STRIDES)
        if isinstance(found, Refusal):
            return found
        channels = {name: (graph.shape(name) or (0, 0))[1] for names in found.values() for name in names}
        boxes = [name for names in found.values() for name in names if channels[name] == 4 * _PER_CELL]
        scores = [name for names in found.values() for name in names if channels[name] != 4 * _PER_CELL]
        widths = {channels[name] for name in scores}
        if (
            any(len(names) != 2 for names in found.values())
            or len(boxes) != len(_STRIDES)
            or len(widths) != 1
            or max(widths) % _PER_CELL
        ):
            return Refusal(f"expected maps of 9*C and of 36 channels at each of the strides 8 to 128, got {channels}")
        if len({class_activation(graph, name) for name in scores}) != 1:
            return Refusal("the class maps end in different operators")
        classes = widths.pop() // _PER_CELL
        return Match(
            f"maps of nine anchors, {classes} classes, at strides 8 to 128",
            {"boxes": boxes, "scores": scores, "classes": classes},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, classes = model.graph, Decode(model.graph), match.found["classes"]
        anchors, facts = self._anchors(model)
        applied = class_activation(graph, match.found["scores"][0]) == "Sigmoid"
        mark_decode(graph, graph.outputs)
        scores, offsets = (
            decode.op("Concat", *(map_rows(decode, name, width) for name in match.found[part]), stem=part, axis=1)
            for part, width in (("scores", classes), ("boxes", 4))
        )
        if not applied:
            scores = decode.op("Sigmoid", scores, stem="scores/probability")
        boxes = append_offsets(decode, offsets, anchors, (1.0,) * 4, y_first=True)
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        preprocess = PreprocessDefaults(
            "EfficientDet",
            resize="letterbox-topleft",
            mean=None,
            std=None,
            pad_value=124.0,
            candidates="torch (D0 to D7), tf (lite, AdvProp), 127/128 (TensorFlow lite)",
        )
        nms = Nms(iou_threshold=0.5, confidence=0.3, max_detections=100)
        return NormalForm("detection", classes, preprocess, nms, {"form": match.reason, **facts})

    def _anchors(self, model: SourceModel) -> tuple[NDArray[np.float64], dict[str, object]]:
        given = model.config.head.get("anchor_scale", model.metadata.section(self.name).get("anchor_scale"))
        if given is None:
            raise ModelError(
                "the file does not say how large EfficientDet's anchors are: give --head anchor_scale=4 (D0 to D6, "
                "D7x), --head anchor_scale=5 (D7), or --head anchor_scale=3 (lite0 to lite2)"
            )
        try:
            scale = float(given)
        except (TypeError, ValueError):
            scale = 0.0
        if not 0.1 <= scale <= 100:
            raise UsageError(f"--head anchor_scale={given}: a number of strides is expected, such as 4")
        ratios, source = choice(model, self, "ratios", tuple(_RATIOS)) or ("pairs", "default")
        width, height = model.image.wh
        shapes = []
        for stride in _STRIDES:
            step_x, step_y = (side / -(-side // stride) for side in (width, height))
            octaves = [scale * 2 ** (third / 3) for third in range(3)]
            shapes.append([(o * step_x * x, o * step_y * y) for o in octaves for x, y in _RATIOS[ratios]])
        facts: dict[str, object] = {"anchor_scale": scale, "ratios": f"{ratios} ({source})"}
        return lay_anchors(model.image.wh, _STRIDES, shapes, "share"), facts


HEAD = EfficientdetHead()

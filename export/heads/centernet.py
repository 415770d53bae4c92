"""CenterNet: one class heat map, box sizes and centre offsets per cell; a detection is a peak of a heat map.

Every cell becomes a box, its score zero where the heat map has no peak (no greater value in the 3x3 cells around it),
so nothing is left to suppress but what the peaks did not: the suppression keeps everything. Source: Zhou et al.,
"Objects as Points", arXiv:1904.07850; xingyizhou/CenterNet (ctdet_decode: centre = cell + offset, all in cells of the
map, the 100 best peaks) and its detectors (BGR, 0.408, 0.447, 0.470 / 0.289, 0.274, 0.278, aspect kept, black around).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.errors import ModelError
from edgevision.export.box_coding import corners
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.output_structure import class_activation
from edgevision.export.rows import map_rows
from edgevision.manifest import Nms

_STRIDES = (2, 4, 8)
_PARTS = ("hm", "wh", "reg")


class CenternetHead:
    """Maps hm [1,C,h,w], wh [1,2,h,w] and reg [1,2,h,w]."""

    name = "centernet"
    about = "CenterNet: maps hm [1,classes,h,w], wh and reg [1,2,h,w]"
    options: Mapping[str, str] = {
        "activation": "sigmoid or none: what remains to be applied to the heat map",
        "maps": "names of the heat map, the sizes and the centre offsets, where they are not hm,wh,reg",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph, (width, height) = model.graph, model.image.wh
        shapes = {name: graph.shape(name) or () for name in graph.outputs}
        names = tuple(model.config.head.get("maps", ",".join(_PARTS)).split(","))
        if len(names) != len(_PARTS) or not set(names) <= shapes.keys():
            return Refusal(
                f"expected the outputs {', '.join(names)}, got {', '.join(shapes)}",
                "--family centernet --head maps=HEAT,SIZE,OFFSET names them",
            )
        heat, size, offset = (shapes[name] for name in names)
        fitting = [stride for stride in _STRIDES if heat[2:] == (height // stride, width // stride)]
        if len(heat) != 4 or heat[0] != 1 or not fitting or {size, offset} != {(1, 2, *heat[2:])}:
            return Refusal(
                f"expected a heat map [1,C,h,w] of stride {', '.join(map(str, _STRIDES))} and two maps [1,2,h,w], got "
                f"{[list(shapes[name]) for name in names]} for {width}x{height}"
            )
        if any(graph.dtype(name) != onnx.TensorProto.FLOAT for name in names):
            return Refusal("expected float32 maps")
        return Match(
            f"heat maps of {heat[1]} classes, sizes and offsets at stride {fitting[0]}",
            {"names": names, "classes": heat[1], "stride": fitting[0], "map_hw": heat[2:]},
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode = model.graph, Decode(model.graph)
        heat, size, offset = match.found["names"]
        activation, source = self._activation(model, heat)
        mark_decode(graph, match.found["names"])
        if activation == "sigmoid":
            heat = decode.op("Sigmoid", heat, stem="scores/probability")
        around = decode.op(
            "MaxPool", heat, stem="scores/around", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]
        )
        peak = decode.op("Equal", heat, around, stem="scores/peak")
        weight = decode.op("Cast", peak, stem="scores/peak_weight", to=onnx.TensorProto.FLOAT)
        peaks = decode.op("Mul", heat, weight, stem="scores/peaks")
        scores = map_rows(decode, peaks, match.found["classes"])
        step = float(match.found["stride"])
        rows, columns = np.mgrid[: match.found["map_hw"][0], : match.found["map_hw"][1]].reshape(2, -1)
        grid = decode.constant("boxes/cells", np.stack([columns, rows], axis=1).astype(np.float32) * np.float32(step))
        whole = decode.constant("boxes/stride", np.array(step, np.float32))
        half = decode.constant("boxes/half_stride", np.array(step / 2, np.float32))
        shift = decode.op("Mul", map_rows(decode, offset, 2), whole, stem="boxes/shift")
        centre = decode.op("Add", shift, grid, stem="boxes/centre")
        boxes = corners(decode, centre, decode.op("Mul", map_rows(decode, size, 2), half, stem="boxes/half_size"))
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        preprocess = PreprocessDefaults(
            "CenterNet",
            resize="letterbox",
            color="bgr",
            mean=(104.04, 113.985, 119.85),
            std=(73.695, 69.87, 70.89),
            pad_value=0.0,
        )
        nms = Nms(iou_threshold=1.0, confidence=0.3, multi_label=True, max_detections=100)
        facts = {"form": match.reason, "activation": f"{activation} ({source})", "peaks": "3x3 cells"}
        return NormalForm("detection", match.found["classes"], preprocess, nms, facts)

    def _activation(self, model: SourceModel, heat: str) -> tuple[str, str]:
        stated = choice(model, self, "activation", ("sigmoid", "none"))
        if stated is not None:
            return stated
        if class_activation(model.graph, heat) == "Sigmoid":
            return "none", "the graph applies Sigmoid"
        maker = model.graph.producer.get(heat)
        if maker is not None and maker.op_type == "Conv":
            return "sigmoid", "the heat map comes from a convolution"
        raise ModelError(
            f"whether the heat map {heat!r} is a probability cannot be seen in the graph: give "
            "--head activation=sigmoid (it is not yet) or --head activation=none"
        )


HEAD = CenternetHead()

"""RTMDet and RTMDet-Ins without suppression: distances to the box's sides and class scores at strides 8, 16, 32; masks.

Either one pair of maps per stride, classes [1,C,h,w] and distances [1,4,h,w], or one output [1,N,C+4]. Source:
open-mmlab/mmdetection, rtmdet_head (RTMDetSepBNHead; its points are the corners of cells, MlvlPointGenerator offset 0)
and its ONNX form; there distances are multiplied by the stride in the graph, in open-mmlab/mmyolo outside of it. BGR,
mean 103.53, 116.28, 123.675, std 57.375, 57.12, 58.395, aspect kept, 114 right and below.

RTMDet-Ins (Lyu et al., "RTMDet", arXiv:2212.07784; rtmdet_ins_head) adds kernels [1,169,h,w] to each stride and
features [1,8,h,w] at stride 8. A detection's 169 numbers are three 1x1 convolutions over the features and over how far
each cell lies from the detection's point, eight strides being one. Masks are cut to their boxes here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from edgevision.export.box_coding import append_distances, cells
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.graph import Graph
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.output_structure import class_activation, decode_nodes
from edgevision.export.rows import locations, map_rows, maps_by_stride, single_rows, split_rows
from edgevision.manifest import Nms

_STRIDES = (8, 16, 32)
_SIDES = 4
_FEATURES, _PARAMETERS = 8, 169


class RtmdetHead:
    """Class scores and distances, in maps or in rows."""

    name = "rtmdet"
    about = "RTMDet: maps of classes [1,C,h,w] and distances [1,4,h,w] per stride, or [1,N,C+4]; RTMDet-Ins' raw maps"
    options: Mapping[str, str] = {
        "unit": "pixels or strides: the unit of the distances, where the graph does not show it",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        if len(model.graph.outputs) == 3 * len(_STRIDES) + 1:
            return _instances(model)
        return _maps(model, model.graph.outputs) if len(model.graph.outputs) > 1 else _rows(model)

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, classes = model.graph, Decode(model.graph), match.found["classes"]
        stated = choice(model, self, "unit", ("pixels", "strides"))
        unit, source = stated or (match.found["unit"], "a multiplication by the stride, or none, in the graph")
        mark_decode(graph, graph.outputs)
        if "output" in match.found:
            scores, distances = split_rows(decode, match.found["output"], (classes, _SIDES))
            applied = True
        else:
            applied = class_activation(graph, match.found["scores"][0]) == "Sigmoid"
            scores, distances = (
                decode.op("Concat", *(map_rows(decode, name, width) for name in match.found[part]), stem=part, axis=1)
                for part, width in (("scores", classes), ("distances", _SIDES))
            )
        if not applied:
            scores = decode.op("Sigmoid", scores, stem="scores/probability")
        grid, stride = cells(model.image.wh, _STRIDES)
        if unit == "strides":
            factor = decode.constant("boxes/stride", stride.repeat(4, axis=1).astype(np.float32))
            distances = decode.op("Mul", distances, factor, stem="boxes/distances")
        outputs = {"boxes": append_distances(decode, distances, grid * stride), "scores": scores}
        if "kernels" in match.found:
            kernels = [map_rows(decode, name, _PARAMETERS) for name in match.found["kernels"]]
            # The point of each location, and what its coordinates are measured in.
            places = np.concatenate([grid * stride, stride * 8, stride * 8], axis=1)[None].astype(np.float32)
            rows = decode.op("Concat", *kernels, stem="masks/rows", axis=1)
            # Added to nothing, not joined: so there are as many as pictures.
            nothing = decode.op("Sub", distances, distances, stem="masks/nothing")
            place = decode.op("Add", nothing, decode.constant("masks/places", places), stem="masks/place")
            outputs["mask_kernels"] = decode.op("Concat", rows, place, stem="masks/kernels", axis=2)
            outputs["mask_features"] = match.found["features"]
        decode.finish({name: (tensor, onnx.TensorProto.FLOAT) for name, tensor in outputs.items()})
        preprocess = PreprocessDefaults(
            "RTMDet",
            resize="letterbox-topleft",
            color="bgr",
            mean=(103.53, 116.28, 123.675),
            std=(57.375, 57.12, 58.395),
        )
        facts = {
            "form": match.reason,
            "unit": f"{unit} ({source})",
            "sigmoid": "in the graph" if applied else "appended",
        }
        if "kernels" in match.found:
            nms = Nms(iou_threshold=0.6, confidence=0.3, max_detections=100)
            return NormalForm("instance", classes, preprocess, nms, facts)
        return NormalForm("detection", classes, preprocess, Nms(iou_threshold=0.65, confidence=0.3), facts)


def _instances(model: SourceModel) -> Match | Refusal:
    graph, (width, height) = model.graph, model.image.wh
    maps = [name for name in graph.outputs if (graph.shape(name) or (0, 0))[1] != _PARAMETERS]
    kernels = [name for name in graph.outputs if name not in maps]
    fine = (1, _FEATURES, -(-height // _STRIDES[0]), -(-width // _STRIDES[0]))
    features = [name for name in maps if graph.shape(name) == fine][-1:]  # a model of 8 classes has another, before it
    by_stride = {name: (graph.shape(name) or (0, 0, 0))[2] for name in kernels}
    floats = all(graph.dtype(name) == onnx.TensorProto.FLOAT for name in (*kernels, *features))
    if len(kernels) != len(_STRIDES) or not features or not floats:
        return Refusal(
            f"expected, for RTMDet-Ins, kernels [1,{_PARAMETERS},h,w] at each of the strides 8, 16, 32 and features "
            f"{list(fine)}, float32, got {[list(graph.shape(name) or ()) for name in graph.outputs]}; other sizes of "
            "its mask head do not fit: export the maps of classes and distances alone to use it as a detector"
        )
    found = _maps(model, [name for name in maps if name not in features])
    if isinstance(found, Refusal):
        return found
    kernels.sort(key=by_stride.__getitem__, reverse=True)
    expected = [-(-height // stride) for stride in _STRIDES]
    if [by_stride[name] for name in kernels] != expected:
        return Refusal(f"expected kernels at each of the strides 8, 16, 32, got heights {sorted(by_stride.values())}")
    return Match(
        f"{found.reason}; kernels and features of masks", {**found.found, "kernels": kernels, "features": features[0]}
    )


def _maps(model: SourceModel, outputs: Sequence[str]) -> Match | Refusal:
    found = maps_by_stride(model, _STRIDES, outputs)
    if isinstance(found, Refusal):
        return found
    graph = model.graph
    channels = {name: (graph.shape(name) or (0, 0))[1] for names in found.values() for name in names}
    distances = [name for names in found.values() for name in names if channels[name] == _SIDES]
    scores = [name for names in found.values() for name in names if channels[name] != _SIDES]
    classes = {channels[name] for name in scores}
    if any(len(names) != 2 for names in found.values()) or len(distances) != len(_STRIDES) or len(classes) != 1:
        return Refusal(f"expected maps [1,C,h,w] and [1,4,h,w] at each of the strides 8, 16, 32, got {channels}")
    activations = {class_activation(graph, name) for name in scores}
    scaled = {_scaled(graph, name, stride) for name, stride in zip(distances, _STRIDES, strict=True)}
    if len(activations) != 1 or len(scaled) != 1 or activations == {"Softmax"}:
        return Refusal("the maps of different strides end in different operators")
    unit, count = "pixels" if scaled.pop() else "strides", classes.pop()
    if not model.chosen and unit == "strides":
        return Refusal(
            "the distances are not multiplied by the stride in the graph, and other families measure them from the "
            "middles of cells",
            "--family rtmdet if it is one (open-mmlab/mmyolo)",
        )
    return Match(
        f"maps of {count} classes and distances in {unit} at strides 8, 16, 32",
        {"scores": scores, "distances": distances, "classes": count, "unit": unit},
    )


def _rows(model: SourceModel) -> Match | Refusal:
    found = single_rows(model, least_columns=_SIDES + 1)
    if isinstance(found, Refusal):
        return found
    output, rows, columns = found
    expected = locations(model, _STRIDES)
    if rows != expected:
        return Refusal(f"expected [1,{expected},C+4] (one location per cell of strides 8, 16, 32), got [1,{rows},..]")
    nodes = decode_nodes(model.graph, output)
    pairs = [
        node
        for node in nodes
        if node.op_type == "Concat"
        and len(node.input) == 2
        and class_activation(model.graph, node.input[0]) == "Sigmoid"
        and any(_scaled(model.graph, node.input[1], stride) for stride in _STRIDES)
    ]
    if len(pairs) != len(_STRIDES):
        return Refusal(f"output {output!r} does not join, per stride, a Sigmoid and distances times the stride")
    return Match(
        f"output {output!r} [1,{rows},{columns - _SIDES}+4], distances in pixels",
        {"output": output, "classes": columns - _SIDES, "unit": "pixels"},
    )


def _scaled(graph: Graph, name: str, stride: int) -> bool:
    """Whether the tensor is a product with the stride."""
    node = graph.producer.get(name)
    while node is not None and node.op_type == "Identity":
        node = graph.producer.get(node.input[0])
    if node is None or node.op_type != "Mul":
        return False
    values = [graph.constants[part] for part in node.input if part in graph.constants]
    return any(value.size == 1 and float(value.ravel()[0]) == stride for value in values)


HEAD = RtmdetHead()

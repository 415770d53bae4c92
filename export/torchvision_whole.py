"""What all of torchvision's detectors bring when torch.onnx writes them whole: a transform of the picture in front and
thresholds behind. Source: pytorch/vision, models/detection/transform.py (GeneralizedRCNNTransform)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from edgevision.export.graph import Graph, all_nodes, attribute
from edgevision.export.heads.base import Refusal, SourceModel
from edgevision.export.recipes import Triple
from edgevision.manifest import Nms

RAW = "export the network without its post-processing: a module that returns head(features) of backbone(picture)"
_MOVES = frozenset(["Concat", "Unsqueeze", "Squeeze", "Pad", "Gather", "Resize", "Identity", "Slice", "Cast"])
_LEAST_CONFIDENCE, _CONFIDENCE = 0.05, 0.3


@dataclass(frozen=True)
class Transform:
    """A transform that only normalises.

    Attributes:
        convolution: the node that reads its result.
        mean, std: of the normalisation, in 0..255 units.
    """

    convolution: onnx.NodeProto
    mean: Triple
    std: Triple

    def cut(self, image: str) -> None:
        """Let the convolution read the picture itself, which the bundle's preprocessing then normalises."""
        self.convolution.input[0] = image


def find_transform(model: SourceModel) -> Transform | Refusal:
    """The transform between the picture and the first convolution, which must leave the picture's size alone."""
    graph, transform = model.graph, find_normalisation(model)
    if isinstance(transform, Refusal):
        return transform
    wide, high = model.image.wh
    shapes = [graph.shape(node.output[0]) or () for node in _steps(graph, transform.convolution)]
    changed = next((shape for shape in shapes if shape[-2:] != (high, wide)), None)
    if changed is not None or graph.shape(transform.convolution.input[0]) != (1, 3, high, wide):
        return Refusal(
            f"torchvision's transform turns the picture {wide}x{high} into {list(changed or ())}",
            "export it with a picture of the size that the network takes",
        )
    return transform


def find_normalisation(model: SourceModel) -> Transform | Refusal:
    """The transform between the picture and the first convolution, whatever it makes of the picture's size."""
    graph = model.graph
    first = next((node for node in graph.nodes if node.op_type == "Conv"), None)
    steps = [] if first is None else _steps(graph, first)
    arithmetic = [node for node in steps if node.op_type in ("Sub", "Div")]
    begins = steps and steps[-1].input[0] == model.image.name
    if first is None or not begins or [node.op_type for node in arithmetic] != ["Div", "Sub"]:
        return Refusal("between the picture and the first convolution there is no transform of torchvision's detectors")
    values = [graph.constants.get(node.input[1], np.zeros(0)).astype(np.float64).ravel() for node in arithmetic]
    if any(value.size != 3 for value in values) or model.image.layout != "nchw":
        return Refusal("the picture is not normalised with three means and three standard deviations")
    std, mean = (tuple(float(v) for v in np.round(value * 255, 4)) for value in values)
    return Transform(first, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def _steps(graph: Graph, convolution: onnx.NodeProto) -> list[onnx.NodeProto]:
    """What is done to the picture before it enters the convolution, the last step first."""
    steps: list[onnx.NodeProto] = []
    tensor = convolution.input[0]
    while tensor in graph.producer and graph.producer[tensor].op_type in _MOVES | {"Sub", "Div"}:
        steps.append(graph.producer[tensor])
        tensor = steps[-1].input[0]
    return steps


def kept_settings(graph: Graph, iou: float) -> tuple[Nms, dict[str, float]]:
    """Thresholds found in the part that goes (overlap `iou` where there is none), and what was found."""
    kept: dict[str, float] = {}
    nodes = list(all_nodes(graph.nodes))  # the suppression stands in a branch: there may be nothing to suppress
    values = {
        node.output[0]: onnx.numpy_helper.to_array(tensor)
        for node in nodes
        if node.op_type == "Constant" and (tensor := attribute(node, "value")) is not None
    }
    constants = {**values, **graph.constants}
    for node in nodes:
        for key, kind, index in (("score_threshold", "Greater", 1), ("iou_threshold", "NonMaxSuppression", 3)):
            value = constants.get(node.input[index]) if len(node.input) > index else None
            if node.op_type == kind and value is not None and value.size == 1 and 0 < float(value.ravel()[0]) <= 1:
                kept[key] = round(float(value.ravel()[0]), 6)
    score = kept.get("score_threshold", 0.0)
    confidence = score if score >= _LEAST_CONFIDENCE else _CONFIDENCE
    overlap = kept.get("iou_threshold", iou)
    return Nms(iou_threshold=overlap, confidence=confidence, multi_label=True, max_detections=300), kept

"""Faster and Mask R-CNN, exported whole: proposals, RoiAlign and both suppressions stay in the graph.

The number of boxes depends on the picture, inside and at the end; the decode keeps the best rows and fills up with
empty ones, so that the outputs have a fixed size. Masks are taken at the resolution of the network, one small map per
box, in front of the part that pastes them into the picture: that is the runtime's work, at the picture's own size.
Two forms are known. torchvision's carries its transform: a picture [3,h,w], RGB in 0..1. The ONNX model zoo's
(maskrcnn-benchmark) begins with the first convolution. In both, class 0 is the background, and labels begin at 1.

Source: Ren et al., "Faster R-CNN", arXiv:1506.01497; He et al., "Mask R-CNN", arXiv:1703.06870; pytorch/vision,
models/detection/generalized_rcnn.py, roi_heads.py, transform.py; onnx/models, faster-rcnn and mask-rcnn (BGR, 0..255,
minus 102.9801, 115.9465, 122.7717, the shorter side 800).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from edgevision.errors import ModelError
from edgevision.export.decode import Decode
from edgevision.export.graph import Graph, all_nodes
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.torchvision_whole import find_normalisation
from edgevision.manifest import Nms

_ROWS = 100
"""Boxes per picture where the graph states no limit: that of the COCO protocol, and of both sources."""
_MOST_ROWS = 1000
_ROLES = {
    "boxes": onnx.TensorProto.FLOAT,
    "labels": onnx.TensorProto.INT64,
    "scores": onnx.TensorProto.FLOAT,
    "masks": onnx.TensorProto.FLOAT,
}
_BOUNDARY = [0, 0, 1, 1, 0, 0, 1, 1]
FLOAT_ONLY = (
    "its proposals are chosen, cut out and suppressed inside the graph, where sizes depend on the picture, and nothing "
    "there is calibrated or made FP16. Export it at --precision fp32, or take a single-shot detector, or a cascade "
    "(edgevision run DETECTOR --classify CLASSIFIER)"
)


class RcnnHead:
    """RoiAlign and NonMaxSuppression in the graph, and as many boxes at its end as there are objects."""

    name = "rcnn"
    about = "Faster and Mask R-CNN exported whole: boxes [N,4], labels [N], scores [N], masks [N,1,h,w]"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        if not {"RoiAlign", "NonMaxSuppression"} <= {node.op_type for node in all_nodes(graph.nodes)}:
            return Refusal("expected RoiAlign and NonMaxSuppression in the graph")
        found = _outputs(graph)
        if found is None:
            listed = ", ".join(f"{name} {_words(graph.sides(name))}" for name in graph.outputs)
            return Refusal(
                f"a two-stage detector whose outputs are {listed}; expected boxes [N,4], labels [N], scores [N] and, "
                "of a Mask R-CNN, masks [N,1,h,w]",
                "keypoints of a Keypoint R-CNN come from a loop over the boxes: leave them out",
            )
        softmaxes = (node.input[0] for node in graph.nodes if node.op_type == "Softmax")
        widths = {width for name in softmaxes if (width := _columns(graph, name)) is not None}
        classes = widths.pop() if len(widths) == 1 else None
        if classes is None or classes < 2:
            return Refusal("a two-stage detector without a Softmax over the classes of each proposal")
        transform = find_normalisation(model)
        if not isinstance(transform, Refusal) and max(transform.mean) > 255:
            return Refusal("a two-stage detector whose graph normalises pixels in 0..255, which is not torchvision's")
        form = "maskrcnn-benchmark's" if isinstance(transform, Refusal) else "torchvision's"
        kind = "Mask R-CNN" if "masks" in found else "Faster R-CNN"
        found |= {"classes": classes - 1, "form": form}
        return Match(f"{kind} with {classes - 1} classes, in {form} form", found)

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, found = model.graph, Decode(model.graph), match.found
        rows, kinds = _limit(graph, found["labels"]), onnx.TensorProto
        scores = _filled(decode, found["scores"], (rows,), np.float32(0))
        most = decode.constant("rows", np.array([rows]))
        sorted_scores, best = decode.node("TopK", scores, most, stem="order", outputs=2)

        def kept(tensor: str, shape: tuple[int, ...], empty: Any) -> str:
            """The best rows of a tensor, as a batch of one picture."""
            every = _filled(decode, tensor, (rows, *shape), empty)
            picked = decode.op("Gather", every, best, stem="best", axis=0)
            return _one(decode, picked, (rows, *shape))

        labels = kept(found["labels"], (), np.int64(0))
        one = decode.constant("background", np.array(1, np.int64))
        class_ids = decode.op("Cast", decode.op("Sub", labels, one, stem="ids"), stem="ids", to=kinds.INT32)
        outputs = {
            "boxes": (kept(found["boxes"], (4,), np.float32(0)), kinds.FLOAT),
            "scores": (_one(decode, sorted_scores, (rows,)), kinds.FLOAT),
            "class_ids": (class_ids, kinds.INT32),
        }
        facts: dict[str, object] = {"form": match.reason, "rows": rows}
        if "masks" in found:
            source, side = _mask_source(graph, found["masks"])
            flat = decode.op("Reshape", source, decode.constant("map", np.array([-1, side, side])), stem="map")
            outputs["box_masks"] = kept(flat, (side, side), np.float32(0)), kinds.FLOAT
            facts["removed"] = "what pastes masks into the picture, where it was there"
        decode.finish(outputs)
        return NormalForm(
            "instance" if "masks" in found else "detection",
            found["classes"],
            _preprocess(found["form"]),
            Nms(confidence=0.3, max_detections=rows, suppression="none"),
            facts,
            float_only=FLOAT_ONLY,
        )


def _preprocess(form: str) -> PreprocessDefaults:
    if form == "torchvision's":
        # The graph keeps the picture's shape when it resizes, and its own border is ImageNet's mean.
        return PreprocessDefaults(
            "torchvision's transform, in the graph", resize="letterbox-topleft", mean=(0.0,) * 3, std=(255.0,) * 3
        )
    return PreprocessDefaults(
        "maskrcnn-benchmark",
        resize="letterbox-topleft",
        candidates="--preprocess 102.9801,115.9465,122.7717/1/bgr (ONNX model zoo)",
    )


def _outputs(graph: Graph) -> dict[str, Any] | None:
    """Which outputs are boxes, labels, scores and masks; None where they are something else."""
    found: dict[str, Any] = {}
    for name, place in zip(graph.outputs, _ROLES, strict=False):
        # Old graphs hide from shape inference how many sides a tensor has; both exporters write this order.
        sides, kind = graph.sides(name), graph.dtype(name)
        role = place if sides is None else _role(sides, kind)
        if role in found or kind != _ROLES.get(role):
            return None
        found[role] = name
    return found if len(found) == len(graph.outputs) and len(found) > 2 else None


def _role(sides: tuple[int | None, ...], kind: int | None) -> str:
    if len(sides) == 1:
        return "labels" if kind == _ROLES["labels"] else "scores"
    boxes = len(sides) == 2 and sides[1] in (4, None)
    return "boxes" if boxes else "masks" if len(sides) == 4 else ""


def _columns(graph: Graph, tensor: str) -> int | None:
    """The width of [N,C]; where shape inference lost it, that of the bias which was added."""
    sides = graph.sides(tensor)
    if sides is not None:
        return sides[1] if len(sides) == 2 else None
    node = graph.producer.get(tensor)
    added = [graph.constants.get(name) for name in node.input] if node is not None and node.op_type == "Gemm" else []
    return next((value.size for value in added if value is not None and value.ndim == 1), None)


def _limit(graph: Graph, labels: str) -> int:
    """The most boxes that the graph gives: labels are gathered by a slice of the suppression's result."""
    gather = graph.producer.get(labels)
    cut = graph.producer.get(gather.input[1]) if gather is not None and gather.op_type == "Gather" else None
    ends = graph.constants.get(cut.input[2]) if cut is not None and cut.op_type == "Slice" else None
    limit = int(ends.ravel()[0]) if ends is not None and ends.size == 1 else 0
    return limit if 0 < limit <= _MOST_ROWS else _ROWS


def _mask_source(graph: Graph, masks: str) -> tuple[str, int]:
    """The tensor [N,1,s,s] of mask probabilities, and s: what a loop pastes has one cell of zeros around it."""
    source = masks
    loops = [node for node in graph.nodes if node.op_type == "Loop"]
    if loops:
        read = {name for loop in loops for inner in all_nodes([loop]) for name in inner.input}
        pads = [
            node
            for node in graph.nodes
            if node.op_type == "Pad"
            and node.output[0] in read
            and node.input[1] in graph.constants
            and graph.constants[node.input[1]].tolist() == _BOUNDARY
        ]
        if len(pads) != 1:
            raise ModelError(
                f"output {masks!r} comes from a Loop that is not torchvision's, which pastes masks into the picture; "
                "export the model without its masks"
            )
        source = pads[0].input[0]
    waiting, seen = [source], set[str]()
    while waiting:
        name = waiting.pop(0)
        node = graph.producer.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        sides = graph.sides(name) or ()
        if node.op_type == "Sigmoid" and len(sides) == 4 and sides[2] is not None and sides[2] == sides[3]:
            return source, sides[2]
        waiting += node.input
    raise ModelError(
        f"output {masks!r} does not come from a Sigmoid over square maps, as a Mask R-CNN's does; "
        "export the model without its masks"
    )


def _filled(decode: Decode, tensor: str, shape: tuple[int, ...], value: Any) -> str:
    """`tensor` with rows of `value` below it: at least as many as are wanted."""
    rest = decode.constant("empty", np.full(shape, value))
    return decode.op("Concat", tensor, rest, stem="filled", axis=0)


def _one(decode: Decode, tensor: str, shape: tuple[int, ...]) -> str:
    """The rows as a batch of one picture, in a shape that does not depend on the picture any more."""
    return decode.op("Reshape", tensor, decode.constant("one", np.array([1, *shape])), stem="one")


def _words(sides: tuple[int | None, ...] | None) -> str:
    return "of unknown shape" if sides is None else f"[{','.join('N' if s is None else str(s) for s in sides)}]"


HEAD = RcnnHead()

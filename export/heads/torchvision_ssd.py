"""torchvision's SSD300 and SSDLite as torch.onnx writes them whole: resize, normalisation and suppression in the graph.

The graph is cut before its first convolution, where the picture has been normalised and resized, and behind its heads,
where the class logits [1,N,C] enter a Softmax and the offsets [1,N,4] their decode. What the transform did (mean and
standard deviation) becomes the bundle's preprocessing; it is not applied a second time. Priors and factors are measured
on the graph's own decode: zeros give the priors, other offsets the factors, random offsets show that it is SSD's.
Source: pytorch/vision, models/detection/ssd.py, transform.py (GeneralizedRCNNTransform), _utils.py (BoxCoder).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.backends.onnxruntime import open_session
from edgevision.errors import ModelError
from edgevision.export.box_coding import LARGEST_LOG_SIZE, append_bounds, append_foreground, append_offsets
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.graph import Graph
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.opset import IR_VERSION, OPSET
from edgevision.export.torchvision_whole import RAW, find_transform, kept_settings


class TorchvisionSsdHead:
    """A normalisation in front, a Softmax over [1,N,C] and a decode of [1,N,4] behind."""

    name = "torchvision_ssd"
    about = "torchvision SSD300 and SSDLite320 exported whole, with their transform and post-processing"
    options: Mapping[str, str] = {}

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        transform = find_transform(model)
        if isinstance(transform, Refusal):
            return transform
        heads = [node for node in graph.nodes if node.op_type == "Softmax"]
        shape = (graph.shape(heads[0].input[0]) if len(heads) == 1 else None) or ()
        if len(shape) != 3 or shape[0] != 1 or shape[2] < 2:
            return Refusal("torchvision's transform is there, but no Softmax over class logits [1,N,C]", RAW)
        offsets = [
            node.output[0]
            for node in graph.nodes
            if node.op_type == "Concat"
            and graph.shape(node.output[0]) == (1, shape[1], 4)
            and node.output[0] != heads[0].input[0]
        ]
        boxes = _decoded(graph, offsets[0], shape[1]) if len(offsets) == 1 else None
        if boxes is None:
            return Refusal(f"torchvision's transform is there, but no decode of offsets [1,{shape[1]},4]", RAW)
        return Match(
            f"torchvision's transform, a Softmax over {list(shape)} and a decode of {shape[1]} offsets",
            {
                "transform": transform,
                "scores": heads[0].output[0],
                "offsets": offsets[0],
                "boxes": boxes,
                "shape": shape,
            },
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, found = model.graph, match.found
        _, count, columns = found["shape"]
        priors, variances = _measure(graph, found["offsets"], found["boxes"], count)
        nms, kept = kept_settings(graph, iou=0.45)
        transform = found["transform"]
        transform.cut(model.image.name)
        decode = Decode(graph)
        mark_decode(graph, [found["scores"]], frozenset({"Softmax"}))
        scores = append_foreground(decode, found["scores"])
        boxes = append_offsets(decode, found["offsets"], priors, variances)
        boxes = append_bounds(decode, boxes, model.image.wh)
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        facts = {
            "removed": "the transform before the first convolution; decode and suppression behind the heads",
            "priors": f"{count}, measured on the graph's own decode",
            "variances": [round(value, 6) for value in variances],
            "kept_settings": kept,
        }
        preprocess = PreprocessDefaults("the graph's own transform", mean=transform.mean, std=transform.std)
        return NormalForm("detection", columns - 1, preprocess, nms, facts)


def _decoded(graph: Graph, offsets: str, count: int) -> str | None:
    """The first tensor of `count` boxes that depends on `offsets` through an exponential."""
    cone, grown = {offsets}, set[str]()
    for node in graph.nodes:
        if not cone.isdisjoint(node.input):
            cone.update(node.output)
            if node.op_type == "Exp" or not grown.isdisjoint(node.input):
                grown.update(node.output)
                if [side for side in graph.shape(node.output[0]) or () if side != 1] == [count, 4]:
                    return str(node.output[0])
    return None


def _measure(
    graph: Graph, offsets: str, boxes: str, count: int
) -> tuple[NDArray[np.float64], tuple[float, float, float, float]]:
    """Priors (N, 4) cx, cy, w, h in pixels and the factors of the graph's own decode.

    Raises:
        ModelError: the decode is not SSD's.
    """
    waiting, wanted = [boxes], set[str]()
    while waiting:
        name = waiting.pop()
        if name in graph.producer and name not in wanted and name != offsets:
            wanted.add(name)
            waiting.extend(graph.producer[name].input)
    nodes = [node for node in graph.nodes if wanted.intersection(node.output)]
    needed = {name for node in nodes for name in node.input}

    def info(name: str) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, graph.shape(name))

    proto = onnx.helper.make_graph(
        nodes, "decode", [info(offsets)], [info(boxes)], [t for t in graph.proto.initializer if t.name in needed]
    )
    model = onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    session = open_session(model.SerializeToString(), optimise=False)

    def decoded(values: NDArray[Any]) -> NDArray[np.float64]:
        result = session.run({offsets: np.asarray(values, np.float32).reshape(1, count, 4)})[boxes]
        corner = result.reshape(count, 4).astype(np.float64)
        return np.concatenate([(corner[:, :2] + corner[:, 2:]) / 2, corner[:, 2:] - corner[:, :2]], axis=1)

    priors, moved = decoded(np.zeros((count, 4))), decoded(np.ones((count, 4)))
    if not (priors[:, 2:] > 0).all() or not (moved[:, 2:] > 0).all():
        raise ModelError(f"the decode of {offsets!r} gives boxes without area for offsets of zero: {RAW}")
    factors = np.concatenate(
        [(moved[:, :2] - priors[:, :2]) / priors[:, 2:], np.log(moved[:, 2:] / priors[:, 2:])], axis=1
    )
    # The graph computes in float32: medians and six digits undo its rounding.
    scale = [float(f"{value:.4g}") for value in np.median(factors, axis=0)]
    trial = np.random.default_rng(0).normal(0, 4, (count, 4)).astype(np.float32).astype(np.float64)
    trial[::7] += 50
    size = np.exp(np.minimum(trial[:, 2:] * scale[2:], LARGEST_LOG_SIZE)) * priors[:, 2:]
    expected = np.concatenate([trial[:, :2] * scale[:2] * priors[:, 2:] + priors[:, :2], size], axis=1)
    if not np.allclose(decoded(trial), expected, rtol=1e-4, atol=1e-2):
        raise ModelError(f"the decode of {offsets!r} is not that of an SSD (centre and logarithm of the size): {RAW}")
    return priors, (scale[0], scale[1], scale[2], scale[3])


HEAD = TorchvisionSsdHead()

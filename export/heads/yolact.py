"""YOLACT and YOLACT++: box offsets, class scores and mask coefficients for each prior, and mask prototypes.

Outputs loc [1,N,4], conf [1,N,C+1] with background first, mask [1,N,M], prototypes [1,h,w,M] (or [1,M,h,w]), and the
priors, or not. Sources: Bolya et al., "YOLACT", arXiv:1904.02689, and "YOLACT++", arXiv:1912.06218; dbolya/yolact
(make_priors: three ratios, which a mistake that was kept makes square, at strides 8 to 128; YOLACT++: three scales and
true ratios; decode: variances 0.1 and 0.2; softmax on the scores, tanh on the coefficients, a sigmoid on the masks;
pictures stretched, RGB, the statistics of ImageNet as written there; detection's default of 0.5 for suppression).
YOLACT++'s scoring of masks is a network of its own, which such a file does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.errors import ModelError, UsageError
from edgevision.export.anchors import lay_anchors
from edgevision.export.box_coding import append_foreground, append_offsets
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.graph import Graph, attribute
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.output_structure import behind, class_activation
from edgevision.export.priors import detect_format, read_priors, to_centres
from edgevision.export.rows import locations
from edgevision.manifest import Nms

_STRIDES = (8, 16, 32, 64, 128)
_RATIOS = (1.0, 0.5, 2.0)
_VARIANCES = (0.1, 0.1, 0.2, 0.2)
# Pixels, by input side; the repository scales the first to the other sides and cuts off what is behind the point.
_SCALES = {550: (24, 48, 96, 192, 384), 400: (17, 34, 69, 139, 279), 700: (30, 61, 122, 244, 488)}
_PER_CELL = {"YOLACT": 3, "YOLACT++": 9}
_MOVING = frozenset(["Concat", "Reshape", "Transpose", "Identity"])


class YolactHead:
    """Three outputs of one row per prior, and prototypes."""

    name = "yolact"
    about = "YOLACT, YOLACT++: outputs [1,N,4], [1,N,C+1], [1,N,M] and prototypes [1,h,w,M]"
    options: Mapping[str, str] = {
        "scales": "five prior sizes in pixels, smallest stride first; 24,48,96,192,384 for an input of 550 pixels",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        shapes = {name: graph.shape(name) or () for name in graph.outputs if name not in graph.constants}
        rows = {name: shape for name, shape in shapes.items() if len(shape) == 3 and shape[0] == 1}
        maps = [name for name, shape in shapes.items() if len(shape) == 4 and shape[0] == 1]
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        if len(rows) != 3 or len(maps) != 1 or len(shapes) != 4 or len({shape[1] for shape in rows.values()}) != 1:
            return Refusal(f"expected outputs [1,N,4], [1,N,C+1], [1,N,M] and prototypes [1,h,w,M], got {listed}")
        if any(graph.dtype(name) != onnx.TensorProto.FLOAT for name in shapes):
            return Refusal("expected float32 outputs")
        coefficients = [name for name in rows if _ends_in_tanh(graph, name)]
        rest = [name for name in rows if name not in coefficients]
        # A model of three classes has four columns of scores, too.
        scores = [name for name in rest if class_activation(graph, name) == "Softmax"]
        scores = scores or [name for name in rest if rows[name][2] != 4]
        scores = scores or [name for name in rest if not any(word in name.lower() for word in ("loc", "box", "bbox"))]
        boxes = [name for name in rest if name not in scores and rows[name][2] == 4]
        if len(coefficients) != 1 or len(scores) != 1 or len(boxes) != 1:
            return Refusal(f"expected one output [1,N,4], and one that ends in a tanh, got {listed}")
        _, count, masks = rows[coefficients[0]]
        _, first, _, last = shapes[maps[0]]
        if (first == masks) == (last == masks):
            return Refusal(f"expected prototypes [1,h,w,{masks}] or [1,{masks},h,w], got {listed}")
        constant = [name for name in graph.outputs if graph.constants.get(name, np.empty(0)).size == 4 * count]
        found = {
            "boxes": boxes[0],
            "scores": scores[0],
            "coefficients": coefficients[0],
            "prototypes": maps[0],
            "last": last == masks,
            "priors": constant[0] if constant else None,
            "count": count,
            "classes": rows[scores[0]][2] - 1,
        }
        return Match(
            f"boxes, scores and {masks} coefficients of {count} priors, prototypes {list(shapes[maps[0]])}", found
        )

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph, decode, found = model.graph, Decode(model.graph), match.found
        priors, origin = self._priors(model, found["priors"], found["count"])
        size = np.array(model.image.wh * 2, np.float64)
        scores, prototypes = found["scores"], found["prototypes"]
        applied = class_activation(graph, scores)
        mark_decode(graph, [scores], frozenset({"Softmax"}))
        if applied != "Softmax":
            scores = decode.op("Softmax", scores, stem="scores/probability", axis=2)
        if found["last"]:
            prototypes = _planes(decode, prototypes)
        float32 = onnx.TensorProto.FLOAT
        decode.finish(
            {
                "boxes": (append_offsets(decode, found["boxes"], priors * size, _VARIANCES), float32),
                "scores": (append_foreground(decode, scores), float32),
                "mask_coefficients": (found["coefficients"], float32),
                "mask_prototypes": (prototypes, float32),
            }
        )
        preprocess = PreprocessDefaults("YOLACT", mean=(123.68, 116.78, 103.94), std=(58.4, 57.12, 57.38))
        facts = {"priors": origin, "softmax": "in the graph" if applied == "Softmax" else "appended"}
        nms = Nms(iou_threshold=0.5, confidence=0.15, max_detections=100)
        return NormalForm("instance", found["classes"], preprocess, nms, facts)

    def _priors(self, model: SourceModel, constant: str | None, count: int) -> tuple[NDArray[np.float64], str]:
        """(N, 4) cx, cy, w, h in units of the input, and where they come from."""
        if model.config.priors is not None:
            values, form = read_priors(model.config.priors, model.image.wh)
            form = form or detect_format(values) or "cxcywh"
            values, origin = to_centres(values, form, model.image.wh), f"{form}, from {model.config.priors}"
        elif constant is not None:
            values, origin = model.graph.constants[constant].reshape(-1, 4).astype(np.float64), f"the output {constant}"
        else:
            values, origin = self._generated(model, count)
        if len(values) != count:
            raise ModelError(f"there are {len(values)} priors ({origin}), but the model has {count} boxes")
        return values, origin

    def _generated(self, model: SourceModel, count: int) -> tuple[NDArray[np.float64], str]:
        width, height = model.image.wh
        cells = locations(model, _STRIDES)
        variant = next((name for name, boxes in _PER_CELL.items() if boxes * cells == count), None)
        scales = self._scales(model)
        if variant is None or width != height or scales is None:
            raise ModelError(
                f"the file holds no priors, and those of {count} boxes on {width}x{height} pixels cannot be told: give "
                "--priors FILE with cx, cy, w, h of each, or --head scales= with five sizes in pixels if there are "
                f"three or nine on each of {cells} cells (strides 8 to 128)"
            )
        shapes = []
        for scale in scales:
            sizes = [scale] if variant == "YOLACT" else [scale * 2 ** (step / 3) for step in range(3)]
            pairs = [(side * ratio**0.5, side / ratio**0.5) for side in sizes for ratio in _RATIOS]
            shapes.append([(w, w) for w, _ in pairs] if variant == "YOLACT" else pairs)
        boxes = lay_anchors(model.image.wh, _STRIDES, shapes, "share")
        return boxes / np.array(model.image.wh * 2), f"{variant}'s, generated for scales {list(scales)}"

    def _scales(self, model: SourceModel) -> tuple[float, ...] | None:
        given = model.config.head.get("scales", model.metadata.section(self.name).get("scales"))
        if given is None:
            return _SCALES.get(model.image.wh[0])
        try:
            numbers = tuple(float(part) for part in (given.split(",") if isinstance(given, str) else given))
        except (TypeError, ValueError):
            numbers = ()
        if len(numbers) != len(_STRIDES) or not all(0 < number < 1e5 for number in numbers):
            raise UsageError(f"scales are {len(_STRIDES)} positive numbers, pixels, got {given!r}")
        return numbers


def _ends_in_tanh(graph: Graph, tensor: str) -> bool:
    """Whether all that flows into `tensor` passed a tanh, but for operators that move data."""
    return all(node.op_type == "Tanh" for node in behind(graph, tensor, _MOVING))


def _planes(decode: Decode, prototypes: str) -> str:
    """Prototypes [1,h,w,M] as [1,M,h,w]: the graph's own, where it turned them."""
    node = decode.graph.producer.get(prototypes)
    if node is not None and node.op_type == "Transpose" and attribute(node, "perm") == [0, 2, 3, 1]:
        return str(node.input[0])
    return decode.op("Transpose", prototypes, stem="masks/prototypes", perm=[0, 3, 1, 2])


HEAD = YolactHead()

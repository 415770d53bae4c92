"""Single-shot detectors: class scores and box offsets relative to prior boxes, all locations in one row.

Sources: Liu et al., "SSD: Single Shot MultiBox Detector", arXiv:1512.02325 (offsets and priors); TensorFlow Object
Detection API, FasterRcnnBoxCoder (ty, tx, th, tw with scale factors 10, 10, 5, 5); torchvision, BoxCoder (dx, dy, dw,
dh with weights 10, 10, 5, 5, sizes clamped at log(1000 / 16)); Linzaer, Ultra-Light-Fast-Generic-Face-Detector
(corners decoded in the graph).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.errors import ModelError, UsageError
from edgevision.export.box_coding import append_foreground, append_offsets
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.output_structure import class_activation, decoded_unit
from edgevision.export.priors import FORMATS, detect_format, read_priors, to_centres
from edgevision.export.rows import locations
from edgevision.labels import BUILT_IN
from edgevision.manifest import Nms

T = TypeVar("T")
BoxFacts = tuple[str, NDArray[np.float64] | None, dict[str, object]]
_NO_BOXES: BoxFacts = ("", None, {})

_VARIANCES = (0.1, 0.1, 0.2, 0.2)
_CODERS = ("tf", "torchvision", "corners", "corners-pixels")


class SsdHead:
    """Scores [1,N,C] and boxes [1,N,4], with priors from the graph, a file or a specification."""

    name = "ssd"
    about = "single-shot detectors with priors: scores [1,N,C] and box offsets [1,N,4] (or decoded corners)"
    options: Mapping[str, str] = {
        "activation": "sigmoid, softmax, or none where the graph's scores are already probabilities",
        "background": "yes: column 0 of the scores is background; no: every column is a class",
        "coder": "tf (ty,tx,th,tw), torchvision (dx,dy,dw,dh), corners (decoded, 0..1) or corners-pixels",
        "variances": "four numbers that scale the offsets, in the coder's order; 0.1,0.1,0.2,0.2 unless given",
        "priors_format": f"{', '.join(FORMATS)}: the columns of the priors, in pixels or in units of the input",
        "scores": "name of the output that holds the scores",
        "boxes": "name of the output that holds the boxes",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        return find_outputs(model)

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        graph = model.graph
        scores, boxes, priors = match.found["scores"], match.found["boxes"], match.found["priors"]
        columns = (graph.shape(scores) or (0, 0, 0))[2]
        # Everything that is missing is asked for at once.
        missing: list[str] = []
        activation, activation_source = _ask(missing, lambda: self._activation(model, scores), ("none", ""))
        softmax = activation == "softmax" or class_activation(graph, scores) == "Softmax"
        coder, centres, box_facts = _ask(missing, lambda: self._boxes(model, boxes, priors), _NO_BOXES)
        background, background_source = _ask(
            missing, lambda: self._background(model, columns, softmax, coder), (False, "")
        )
        if missing:
            raise ModelError(";\n".join(missing))

        decode = Decode(graph)
        mark_decode(graph, [scores], frozenset({"Sigmoid", "Softmax"}))
        score_tensor = scores
        if activation == "softmax":
            score_tensor = decode.op("Softmax", score_tensor, stem="scores/probability", axis=2)
        if background:
            score_tensor = append_foreground(decode, score_tensor)
        if activation == "sigmoid":
            score_tensor = decode.op("Sigmoid", score_tensor, stem="scores/probability")
        box_tensor = boxes
        size = np.array([*model.image.wh, *model.image.wh], np.float64)
        if centres is not None:
            variances = self._variances(model)
            box_tensor = append_offsets(decode, boxes, centres * size, variances, y_first=coder == "tf")
        else:
            mark_decode(graph, [boxes])
            if coder == "corners":
                extent = decode.constant("boxes/input_size", size.astype(np.float32))
                box_tensor = decode.op("Mul", boxes, extent, stem="boxes/pixels")
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (box_tensor, float32), "scores": (score_tensor, float32)})
        facts = {
            "scores": scores,
            "boxes": boxes,
            "activation": f"{activation} ({activation_source})",
            "background": f"{'column 0 removed' if background else 'none'} ({background_source})",
            **box_facts,
        }
        preprocess, nms = _defaults(coder, model.image.wh, 0 if centres is None else len(centres))
        return NormalForm("detection", columns - background, preprocess, nms, facts)

    def _activation(self, model: SourceModel, scores: str) -> tuple[str, str]:
        """What remains to be applied to the scores: `sigmoid`, `softmax` or `none`; and how that is known."""
        applied = class_activation(model.graph, scores)
        stated = choice(model, self, "activation", ("sigmoid", "softmax", "none"))
        if applied is not None:
            if stated is not None and stated[0] != "none":
                raise UsageError(
                    f"{stated[1]} states activation {stated[0]}, but the graph itself ends its scores with {applied}; "
                    "it would be applied twice: state none"
                )
            return "none", f"the graph applies {applied}"
        if stated is None:
            raise ModelError(
                f"output {scores!r} holds raw class scores and the file does not say how they become probabilities: "
                "give --head activation=softmax (classic SSD), --head activation=sigmoid (TensorFlow SSD, focal loss), "
                "or --head activation=none (they already are)"
            )
        return stated

    def _background(self, model: SourceModel, columns: int, softmax: bool, coder: str) -> tuple[bool, str]:
        stated = choice(model, self, "background", ("yes", "no"))
        if stated is not None:
            if stated[0] == "yes" and columns < 2:
                raise UsageError(f"{stated[1]} states a background column, but the scores have {columns} column")
            return stated[0] == "yes", stated[1]
        if softmax:
            return True, "a softmax needs a column for nothing"
        if model.labels is not None:
            named = model.labels[0].casefold() == "background"
            if len(model.labels) == columns:
                return named, f"{len(model.labels)} labels" + (", the first being background" if named else "")
            if len(model.labels) == columns - 1 and not named:
                return True, f"{columns} columns for {len(model.labels)} labels"
            if len(model.labels) == columns + 1 and named:
                return False, f"{columns} columns for {len(model.labels)} labels, the first being background"
            raise UsageError(
                f"the labels name {len(model.labels)} classes, the scores have {columns} columns (one may be "
                f"background): give --labels with {columns} or {columns - 1} names"
            )
        if coder == "tf" and columns == len(BUILT_IN["coco90"]):
            return True, f"TensorFlow's coder and {columns} columns: COCO's category ids, from 0 for background"
        raise ModelError(
            f"the scores have {columns} columns and the file does not say whether column 0 is background: give "
            "--labels (their number tells), or --head background=yes or --head background=no"
        )

    def _boxes(self, model: SourceModel, boxes: str, priors: str | None) -> BoxFacts:
        """The coder, the priors as cx, cy, w, h (None for decoded corners), and facts."""
        stated = choice(model, self, "coder", _CODERS)
        unit = decoded_unit(model.graph, boxes)
        if stated is None and unit is not None:
            if unit == "unknown":
                raise ModelError(
                    f"output {boxes!r} is decoded in the graph, in units that cannot be seen: "
                    "give --head coder=corners (0..1) or --head coder=corners-pixels"
                )
            stated = ("corners" if unit == "fractions" else "corners-pixels", "the graph decodes its boxes")
        if stated is not None and stated[0].startswith("corners"):
            return stated[0], None, {"coder": f"{stated[0]} ({stated[1]})"}
        values, form, origin = self._read_priors(model, boxes, priors)
        if stated is None:
            stated = (
                "tf" if form in ("cycxhw", "yxyx") else "torchvision",
                f"the priors are {form}, and offsets come in the same order",
            )
        centres = to_centres(values, form, model.image.wh)
        return stated[0], centres, {"coder": f"{stated[0]} ({stated[1]})", "priors": f"{len(values)} {form}, {origin}"}

    def _read_priors(self, model: SourceModel, boxes: str, priors: str | None) -> tuple[NDArray[np.float64], str, str]:
        form = ""
        if model.config.priors is not None:
            values, form = read_priors(model.config.priors, model.image.wh)
            origin = f"from {Path(model.config.priors).name}"
        elif priors is not None:
            values = model.graph.constants[priors].reshape(-1, 4).astype(np.float64)
            origin = f"from the graph ({priors})"
        else:
            raise ModelError(
                f"output {boxes!r} holds offsets to prior boxes, and the file has no priors: give --priors FILE (.npy, "
                ".npz, .csv, .json with one row of four numbers per box, or a JSON specification to generate them), "
                "or --head coder=corners if the boxes are already decoded"
            )
        expected = (model.graph.shape(boxes) or (0, 0))[1]
        if len(values) != expected:
            raise ModelError(f"there are {len(values)} priors {origin}, but the model has {expected} boxes")
        stated = choice(model, self, "priors_format", FORMATS)
        form = (stated[0] if stated else form) or detect_format(values) or ""
        if not form:
            raise ModelError(
                f"the columns of the priors {origin} cannot be told apart by their values: "
                f"give --head priors_format=FORMAT, one of {', '.join(FORMATS)}"
            )
        return values, form, origin

    def _variances(self, model: SourceModel) -> tuple[float, ...]:
        given = model.config.head.get("variances", model.metadata.section(self.name).get("variances"))
        if given is None:
            return _VARIANCES
        try:
            numbers = tuple(float(v) for v in (given.split(",") if isinstance(given, str) else given))
        except (TypeError, ValueError):
            numbers = ()
        numbers = (numbers[0], numbers[0], numbers[1], numbers[1]) if len(numbers) == 2 else numbers
        if len(numbers) != 4 or not all(math.isfinite(v) and v > 0 for v in numbers):
            raise UsageError(f"variances are four positive numbers (or two: centre, size), got {given!r}")
        return numbers


def _ask(missing: list[str], question: Callable[[], T], default: T) -> T:
    """The answer to `question`, or `default` with its complaint added to `missing`."""
    try:
        return question()
    except ModelError as error:
        missing.append(str(error))
        return default


def find_outputs(model: SourceModel) -> Match | Refusal:
    """Which outputs are scores, boxes and (where there) priors."""
    graph = model.graph
    shapes = {name: graph.shape(name) or () for name in graph.outputs}
    constant = [name for name in shapes if name in graph.constants]
    live = {name: shape for name, shape in shapes.items() if name not in graph.constants}
    rows = [shape[1] for shape in live.values() if len(shape) == 3 and shape[0] == 1]
    if len(live) != 2 or len(rows) != 2 or rows[0] != rows[1]:
        return Refusal(f"expected two outputs [1,N,C] and [1,N,4] with the same N, got {_listed(live)}")
    if any(graph.dtype(name) != onnx.TensorProto.FLOAT for name in live):
        return Refusal("expected float32 scores and boxes")
    boxes = [name for name, shape in live.items() if shape[2] == 4]
    stated = {name: model.config.head.get(name) for name in ("scores", "boxes")}
    wrong = [name for name in stated.values() if name is not None and name not in live]
    if wrong:
        return Refusal(f"there is no output {wrong[0]!r}; the outputs are {_listed(live)}")
    if len(boxes) == 2:
        boxes = [n for n in live if n == stated["boxes"] or (stated["scores"] is not None and n != stated["scores"])]
        boxes = boxes or [n for n in live if any(word in n.lower() for word in ("box", "loc", "bbox", "reg"))]
    if len(boxes) != 1:
        return Refusal(f"which output holds the boxes cannot be told: {_listed(live)}", "--head boxes=NAME says which")
    scores = next(name for name in live if name != boxes[0])
    if class_activation(graph, boxes[0]) == "Sigmoid" and not model.chosen:
        return Refusal(f"output {boxes[0]!r} ends in a Sigmoid, as set prediction (DETR) does, not in offsets")
    priors = [name for name in constant if np.size(graph.constants[name]) == 4 * rows[0]]
    if not (model.chosen or priors or model.config.priors) and rows[0] == 9 * locations(model, (8, 16, 32, 64, 128)):
        return Refusal("nine anchors per cell of strides 8 to 128 are RetinaNet's", "--family ssd with --priors if not")
    return Match(
        f"outputs {scores!r} {list(live[scores])} and {boxes[0]!r} {list(live[boxes[0]])}"
        + (f", priors in {priors[0]!r}" if priors else ""),
        {"scores": scores, "boxes": boxes[0], "priors": priors[0] if priors else None},
    )


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())


def _defaults(coder: str, input_wh: tuple[int, int], count: int) -> tuple[PreprocessDefaults, Nms]:
    half = (127.5, 127.5, 127.5)
    if coder == "tf":
        return (
            PreprocessDefaults(
                "TensorFlow Object Detection API: SSD MobileNet scales pixels to -1..1", mean=half, std=half
            ),
            Nms(iou_threshold=0.6, confidence=0.3, max_detections=100),
        )
    if coder.startswith("corners"):
        return (
            PreprocessDefaults("Ultra-Light-Fast-Generic-Face-Detector", mean=(127.0,) * 3, std=(128.0,) * 3),
            Nms(iou_threshold=0.3, confidence=0.7),
        )
    nms = Nms(iou_threshold=0.45, confidence=0.3, max_detections=200)
    if (input_wh, count) == ((300, 300), 8732):
        return PreprocessDefaults("torchvision SSD300", mean=(123.0, 117.0, 104.0), std=(1.0, 1.0, 1.0)), nms
    if (input_wh, count) == ((320, 320), 3234):
        return PreprocessDefaults("torchvision SSDLite320", mean=half, std=half), nms
    candidates = "123,117,104/1/rgb (VGG SSD), tf (SSDLite, MobileNet SSD), torch (ImageNet statistics)"
    return PreprocessDefaults("SSD", candidates=candidates), nms


HEAD = SsdHead()

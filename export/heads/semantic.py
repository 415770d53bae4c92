"""Semantic segmentation: one map of class scores, or of classes, over the picture.

The normal form is a class map wherever the scores lie at input size or the graph itself brings them there: argmax
commutes with nothing, so a map that is still to be enlarged leaves as `logits`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.errors import ModelError
from edgevision.export.decode import Decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.output_structure import class_activation

_LARGEST_STRIDE = 16
_INTEGERS = {onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64}
_CANDIDATES = (
    "--mean 123.675,116.28,103.53 --std 58.395,57.12,57.375 (ImageNet statistics: torchvision, SegFormer, PIDNet), "
    "--mean 127.5 --std 127.5 (TensorFlow DeepLab, PP-LiteSeg), --mean 0 --std 255 (pixels / 255)"
)


class SemanticHead:
    """Logits [1,C,h,w] or [1,h,w,C], or a class map [1,h,w] of integers."""

    name = "semantic"
    about = "semantic segmentation: class scores [1,C,h,w] or [1,h,w,C], or an integer class map [1,h,w]"
    options: Mapping[str, str] = {
        "output": "name of the output to use where the graph has several maps",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        graph = model.graph
        outputs = graph.outputs
        stated = model.config.head.get("output")
        if stated is not None:
            if stated not in outputs:
                return Refusal(f"there is no output {stated!r}; the outputs are {', '.join(outputs)}")
            outputs = [stated]
        maps = {name: found for name in outputs if isinstance(found := _as_map(model, name), Match)}
        if len(maps) > 1:
            return Refusal(f"outputs {', '.join(maps)} all look like maps", "--head output=NAME chooses one of them")
        if not maps:
            first = _as_map(model, outputs[0])
            assert isinstance(first, Refusal)
            return first
        if len(outputs) > 1 and not model.chosen:
            return Refusal(
                f"output {next(iter(maps))!r} looks like a map, but there are {len(outputs)} outputs: "
                f"{', '.join(outputs)}",
                "--head output=NAME drops the others",
            )
        return next(iter(maps.values()))

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        found = match.found
        decode = Decode(model.graph)
        output, axis = str(found["output"]), found["axis"]
        facts: dict[str, object] = {"output": output}
        if axis is None:
            classes = len(model.labels) if model.labels else 0
            if not classes:
                raise ModelError(
                    f"output {output!r} is a class map; the file does not say how many classes there are: give --labels"
                )
            tensor = output
            if found["extra"] is not None:
                where = decode.constant("class_map/axis", np.array([found["extra"]]))
                tensor = decode.op("Squeeze", tensor, where, stem="class_map/squeezed")
            outputs = {"class_map": self._as_class_type(decode, tensor, classes)}
            facts["argmax"] = "in the graph as it came"
        else:
            classes = found["classes"]
            if found["full_size"]:
                best = decode.op("ArgMax", output, stem="class_map/argmax", axis=axis, keepdims=0)
                outputs = {"class_map": self._as_class_type(decode, best, classes)}
                facts["argmax"] = "appended: the scores have the input's size"
            else:
                tensor = output
                if axis == 3:
                    tensor = decode.op("Transpose", output, stem="logits/nchw", perm=[0, 3, 1, 2])
                outputs = {"logits": (tensor, onnx.TensorProto.FLOAT)}
                facts["argmax"] = "left to the runtime: the scores are to be enlarged first"
        decode.finish(outputs)
        return NormalForm(
            "semantic", classes, PreprocessDefaults("semantic segmentation", candidates=_CANDIDATES), None, facts
        )

    @staticmethod
    def _as_class_type(decode: Decode, tensor: str, classes: int) -> tuple[str, int]:
        kind = int(onnx.TensorProto.UINT8 if classes <= 255 else onnx.TensorProto.INT32)
        return decode.op("Cast", tensor, stem="class_map/cast", to=kind), kind


def _as_map(model: SourceModel, name: str) -> Match | Refusal:
    """What output `name` is, if it is a map."""
    shape = model.graph.shape(name) or ()
    kind = model.graph.dtype(name)
    if kind in _INTEGERS:
        extra = 1 if len(shape) == 4 and shape[1] == 1 else 3 if len(shape) == 4 and shape[3] == 1 else None
        hw = tuple(side for axis, side in enumerate(shape) if axis not in (0, extra))
        if len(hw) == 2 and _stride(model, hw) == 1:
            return Match(
                f"output {name!r} {list(shape)} is a class map", {"output": name, "axis": None, "extra": extra}
            )
        return Refusal(f"output {name!r} {list(shape)} holds integers, but is no map of the input's size")
    if kind != onnx.TensorProto.FLOAT or len(shape) != 4:
        return Refusal(f"expected a map [1,C,h,w] of class scores, got {name} {list(shape)}")
    layouts = {1: shape[2:], 3: shape[1:3]}
    fitting = {axis: stride for axis, hw in layouts.items() if (stride := _stride(model, hw)) is not None}
    if len(fitting) != 1:
        return Refusal(
            f"output {name!r} {list(shape)} does not cover the input of {model.image.wh[0]}x{model.image.wh[1]} at a "
            f"stride of at most {_LARGEST_STRIDE}" + (" in one layout only" if fitting else "")
        )
    axis, stride = next(iter(fitting.items()))
    classes = shape[axis]
    if classes < 2:
        return Refusal(f"output {name!r} {list(shape)} has one channel: a mask, depth or saliency, not class scores")
    if stride > 8 and not model.chosen and len(model.labels or ()) != classes:
        return Refusal(
            f"output {name!r} {list(shape)}: {classes} channels at stride {stride} may as well be a detector's map",
            f"--labels with {classes} names, or --family semantic",
        )
    if class_activation(model.graph, name) == "Sigmoid" and not model.chosen:
        return Refusal(
            f"output {name!r} {list(shape)} ends in a Sigmoid: channels that do not exclude each other (several masks, "
            "heat maps)",
            "--family semantic takes the strongest channel",
        )
    return Match(
        f"output {name!r} {list(shape)}: {classes} class scores at stride {stride}",
        {"output": name, "axis": axis, "classes": classes, "full_size": stride == 1},
    )


def _stride(model: SourceModel, hw: tuple[int, ...]) -> int | None:
    """By how much a map of size `hw` is smaller than the input, to the nearest power of two; None: it does not fit."""
    width, height = model.image.wh
    for stride in (1, 2, 4, 8, _LARGEST_STRIDE):
        # One cell more or less: some networks round up, some down, some keep corners aligned.
        slack = 0 if stride == 1 else 1
        if abs(hw[0] - height / stride) <= slack and abs(hw[1] - width / stride) <= slack:
            return stride
    return None


HEAD = SemanticHead()

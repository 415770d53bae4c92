"""Semantic segmentation: one map of class scores, or of classes, over the picture; or several, one above the other.

The normal form is a class map wherever the scores lie at input size or the graph itself brings them there: argmax
commutes with nothing, so a map that is still to be enlarged leaves as `logits`. A mask of one channel is two classes,
told apart at probability one half.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from edgevision.errors import ModelError
from edgevision.export.decode import Decode
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel, choice
from edgevision.export.output_structure import class_activation

_LEFT = "left to the runtime: the scores are to be enlarged first"
_LARGEST_STRIDE = 16
_INTEGERS = {onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64}
_CANDIDATES = "torch (torchvision, SegFormer, PIDNet), tf (TensorFlow DeepLab, PP-LiteSeg), unit (U-Net, portraits)"


class SemanticHead:
    """Logits [1,C,h,w] or [1,h,w,C], or a class map [1,h,w] of integers."""

    name = "semantic"
    about = "semantic segmentation: class scores [1,C,h,w] or [1,h,w,C], masks, or an integer class map [1,h,w]"
    options: Mapping[str, str] = {
        "output": "name of the output to use where the graph has several maps; A+B lays masks one above the other",
        "mask": "sigmoid or logits: what a single channel holds, a probability or a number to be compared with 0",
        "upsample": "half-pixel (the default) or align-corners: how scores smaller than the input are enlarged",
    }

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        outputs = model.graph.outputs
        stated = model.config.head.get("output")
        wanted = stated.split("+") if stated is not None else outputs
        unknown = [name for name in wanted if name not in outputs]
        if unknown:
            return Refusal(f"there is no output {unknown[0]!r}; the outputs are {', '.join(outputs)}")
        answers = {name: _as_map(model, name) for name in wanted}
        maps = {name: answer.found for name, answer in answers.items() if isinstance(answer, Match)}
        if len(maps) < (len(wanted) if stated is not None else 1):
            return next(answer for answer in answers.values() if isinstance(answer, Refusal))
        if stated is None and len(maps) > 1:
            both = "+".join(maps)
            return Refusal(
                f"outputs {', '.join(maps)} all look like maps",
                f"--head output=NAME chooses one of them, --head output={both} lays masks above each other",
            )
        if stated is None and len(outputs) > 1 and not model.chosen:
            return Refusal(
                f"output {next(iter(maps))!r} looks like a map, but there are {len(outputs)} outputs: "
                f"{', '.join(outputs)}",
                "--head output=NAME drops the others",
            )
        if len(maps) > 1 and any(found["axis"] is None or found["classes"] > 2 for found in maps.values()):
            return Refusal(f"only masks of one or two channels can lie above each other, got {', '.join(maps)}")
        reasons = [answer.reason for answer in answers.values() if isinstance(answer, Match)]
        return Match("; ".join(reasons), {"maps": maps})

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        maps: Mapping[str, Mapping[str, Any]] = match.found["maps"]
        decode = Decode(model.graph)
        facts: dict[str, object] = {"output": "+".join(maps)}
        labels: tuple[str, ...] = ()
        if len(maps) > 1:
            classes, outputs = len(maps) + 1, {"class_map": self._layers(model, decode, maps)}
            labels = ("background", *maps)
            facts["argmax"] = "appended: one class per mask, the last on top"
        else:
            output, found = next(iter(maps.items()))
            if found["axis"] is None:
                classes, outputs = self._map_as_it_came(model, decode, output, found["extra"])
                facts["argmax"] = "in the graph as it came"
            else:
                classes = max(found["classes"], 2)
                labels = ("background", "foreground") if found["classes"] == 1 else ()
                scores, facts["argmax"] = self._scores(model, decode, output, found)
                outputs = {"logits": (scores, onnx.TensorProto.FLOAT)}
                if facts["argmax"] != _LEFT:
                    best = decode.op("ArgMax", scores, stem="class_map/argmax", axis=found["axis"], keepdims=0)
                    outputs = {"class_map": _as_class_type(decode, best, classes)}
        decode.finish(outputs)
        preprocess = PreprocessDefaults("semantic segmentation", candidates=_CANDIDATES)
        return NormalForm("semantic", classes, preprocess, None, facts, labels)

    def _map_as_it_came(
        self, model: SourceModel, decode: Decode, output: str, extra: int | None
    ) -> tuple[int, dict[str, tuple[str, int]]]:
        if not model.labels:
            raise ModelError(
                f"output {output!r} is a class map; the file does not say how many classes there are: give --labels"
            )
        tensor = output
        if extra is not None:
            where = decode.constant("class_map/axis", np.array([extra]))
            tensor = decode.op("Squeeze", tensor, where, stem="class_map/squeezed")
        return len(model.labels), {"class_map": _as_class_type(decode, tensor, len(model.labels))}

    def _scores(self, model: SourceModel, decode: Decode, output: str, found: Mapping[str, Any]) -> tuple[str, str]:
        """Scores of two classes or more, at input size in either layout or else smaller as [1,C,h,w]; and who takes the
        argmax."""
        scores, axis = output, found["axis"]
        if found["classes"] == 1:
            scores = decode.op("Concat", *self._sides(model, decode, output), stem="mask/classes", axis=axis)
        if found["full_size"]:
            return scores, "appended: the scores have the input's size"
        upsample = choice(model, self, "upsample", ("half-pixel", "align-corners"))
        if axis == 3:
            scores = decode.op("Transpose", scores, stem="logits/nchw", perm=[0, 3, 1, 2])
        if upsample is None or upsample[0] == "half-pixel":
            return scores, _LEFT
        width, height = model.image.wh
        size = decode.constant("logits/size", np.array([1, max(found["classes"], 2), height, width]))
        enlarged = decode.op(
            "Resize",
            scores,
            "",
            "",
            size,
            stem="logits/enlarged",
            mode="linear",
            coordinate_transformation_mode="align_corners",
        )
        return enlarged, f"appended, behind an enlargement that aligns corners ({upsample[1]})"

    def _sides(self, model: SourceModel, decode: Decode, output: str) -> tuple[str, str]:
        """What speaks against and for a mask of one channel."""
        if self._mask(model, output) == "logits":
            zero = decode.constant("mask/zero", np.array(0.0, np.float32))
            return decode.op("Mul", output, zero, stem="mask/against"), output
        one = decode.constant("mask/one", np.array(1.0, np.float32))
        return decode.op("Sub", one, output, stem="mask/against"), output

    def _mask(self, model: SourceModel, output: str) -> str:
        stated = choice(model, self, "mask", ("sigmoid", "logits"))
        return stated[0] if stated else "sigmoid"

    def _layers(self, model: SourceModel, decode: Decode, maps: Mapping[str, Mapping[str, Any]]) -> tuple[str, int]:
        """One class map of masks: 0 where none is set, else the number of the last one set, from 1."""
        layers = []
        for number, (output, found) in enumerate(maps.items(), start=1):
            if not found["full_size"]:
                raise ModelError(
                    f"mask {output!r} is smaller than the input; only masks of its size can be laid together"
                )
            scores, axis = output, found["axis"]
            if found["classes"] == 1:
                scores = decode.op("Concat", *self._sides(model, decode, output), stem="mask/classes", axis=axis)
            best = decode.op("ArgMax", scores, stem="layers/argmax", axis=axis, keepdims=0)
            chosen = decode.op("Cast", best, stem="layers/chosen", to=onnx.TensorProto.FLOAT)
            place = decode.constant("layers/number", np.array(number, np.float32))
            layers.append(decode.op("Mul", chosen, place, stem="layers/layer"))
        top = decode.op("Max", *layers, stem="layers/top")
        return _as_class_type(decode, top, len(maps) + 1)


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
            return Match(f"output {name!r} {list(shape)} is a class map", {"axis": None, "extra": extra})
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
    activation = class_activation(model.graph, name)
    if classes == 1 and activation != "Sigmoid" and "mask" not in model.config.head:
        return Refusal(
            f"output {name!r} {list(shape)} has one channel that no Sigmoid ends: a mask, depth or saliency",
            "--head mask=logits if it is a mask",
        )
    if stride > 8 and not model.chosen and len(model.labels or ()) != classes:
        return Refusal(
            f"output {name!r} {list(shape)}: {classes} channels at stride {stride} may as well be a detector's map",
            f"--labels with {classes} names, or --family semantic",
        )
    if classes > 1 and activation == "Sigmoid" and not model.chosen:
        return Refusal(
            f"output {name!r} {list(shape)} ends in a Sigmoid: channels that do not exclude each other (several masks, "
            "heat maps)",
            "--family semantic takes the strongest channel",
        )
    return Match(
        f"output {name!r} {list(shape)}: {f'{classes} class scores' if classes > 1 else 'a mask'} at stride {stride}",
        {"axis": axis, "classes": classes, "full_size": stride == 1},
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

"""A family that a specification describes (`--head-spec`), decoded with the building blocks of the built-in ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.errors import ModelError
from edgevision.export.box_coding import (
    append_centres,
    append_distances,
    append_foreground,
    append_offsets,
    append_product,
    cells,
)
from edgevision.export.decode import Decode, mark_decode
from edgevision.export.head_spec import CORNERS_AND_CENTRES, HeadSpec, Part
from edgevision.export.heads.base import Match, NormalForm, PreprocessDefaults, Refusal, SourceModel
from edgevision.export.output_structure import class_activation
from edgevision.export.priors import detect_format, read_priors, to_centres
from edgevision.export.rows import map_rows

_LARGEST_LOG_SIZE = 10.0  # exp(10) cells are more than any picture has; beyond it float32 would overflow
_RANK = {"rows": 3, "columns": 3, "maps": 4}


class SpecHead:
    """A detector as its specification describes it."""

    options: Mapping[str, str] = {}

    def __init__(self, spec: HeadSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.about = spec.about

    def recognise(self, model: SourceModel) -> Match | Refusal:
        """See heads.base.Head."""
        spec = self.spec
        sizes: dict[str, tuple[int, int]] = {}
        for name, part in (("boxes", spec.boxes), ("scores", spec.scores), ("objectness", spec.objectness)):
            size = (0, 0) if part is None else _size(model, part)
            if isinstance(size, Refusal):
                return Refusal(f"[{name}]: {size.reason}")
            sizes[name] = size
        rows, width = sizes["boxes"]
        if width != 4:
            return Refusal(f"[boxes]: a box has four columns, got {width}; columns = [first, end] picks them")
        for name, part in (("scores", spec.scores), ("objectness", spec.objectness)):
            if part is not None and sizes[name][0] != rows:
                return Refusal(f"[{name}] has {sizes[name][0]} locations, [boxes] has {rows}")
        if spec.objectness is not None and sizes["objectness"][1] != 1:
            return Refusal(f"[objectness]: one column is expected, got {sizes['objectness'][1]}")
        classes = sizes["scores"][1] - (spec.background != "none")
        if classes < 1:
            return Refusal("[scores]: nothing is left beside the background")
        expected = len(cells(model.image.wh, spec.strides)[0]) if spec.strides else rows
        if expected != rows:
            return Refusal(
                f"[grid]: the strides {list(spec.strides)} have {expected} cells in an input of "
                f"{model.image.wh[0]}x{model.image.wh[1]}, the model has {rows} locations"
            )
        return Match(f"{rows} locations with {classes} classes, as specified", {"classes": classes, "rows": rows})

    def normalise(self, model: SourceModel, match: Match) -> NormalForm:
        """See heads.base.Head."""
        spec, classes, decode = self.spec, match.found["classes"], Decode(model.graph)
        if spec.labels and len(spec.labels) != classes:
            raise ModelError(f"the head specification names {len(spec.labels)} classes, the scores have {classes}")
        mark_decode(model.graph, model.graph.outputs)
        boxes = self._boxes(model, decode, _rows(model, decode, spec.boxes), match.found["rows"])
        scores = _activated(model, decode, spec.scores, "softmax" if spec.activation == "softmax" else "none")
        if spec.background == "first":
            scores = append_foreground(decode, scores)
        elif spec.background == "last":
            scores = _columns(decode, scores, 0, -1)
        if spec.activation == "sigmoid":
            _refuse_twice(model, spec.scores, "sigmoid")
            scores = decode.op("Sigmoid", scores, stem="scores/probability")
        if spec.objectness is not None:
            objectness = _activated(model, decode, spec.objectness, spec.objectness_activation)
            scores = append_product(decode, objectness, scores)
        float32 = onnx.TensorProto.FLOAT
        decode.finish({"boxes": (boxes, float32), "scores": (scores, float32)})
        preprocess = PreprocessDefaults(f"the head specification {self.name}", **spec.preprocess)
        facts = {"boxes": f"{spec.box_format} {spec.unit}".strip(), "scores": f"{spec.activation}, {classes} classes"}
        return NormalForm("detection", classes, preprocess, spec.nms, facts, spec.labels)

    def _boxes(self, model: SourceModel, decode: Decode, rows: str, count: int) -> str:
        """Corners in pixels."""
        spec = self.spec
        size = np.array(model.image.wh * 2, np.float64)
        if spec.box_format in CORNERS_AND_CENTRES:
            if spec.box_format in ("yxyx", "cycxhw"):
                swap = decode.constant("boxes/x_first", np.array([1, 0, 3, 2]))
                rows = decode.op("Gather", rows, swap, stem="boxes/x_first", axis=2)
            if spec.box_format in ("cxcywh", "cycxhw"):
                rows = append_centres(decode, rows)
            if spec.unit == "pixels":
                return rows
            extent = decode.constant("boxes/input_size", size.astype(np.float32))
            return decode.op("Mul", rows, extent, stem="boxes/pixels")
        y_first = spec.box_format == "offsets-yx"
        if spec.priors is not None:
            values, form = read_priors(spec.priors, model.image.wh)
            form = spec.priors_format or form or detect_format(values) or ""
            if len(values) != count or not form:
                raise ModelError(
                    f"[priors]: {spec.priors.name} holds {len(values)} boxes for {count} locations, format "
                    f"{form or 'not told by their values'}; correct the file, or give format"
                )
            centres = to_centres(values, form, model.image.wh) * size
            return append_offsets(decode, rows, centres, spec.variances, y_first=y_first)
        grid, stride = cells(model.image.wh, spec.strides)
        points = (grid + spec.point) * stride
        if spec.box_format == "ltrb":
            if spec.unit == "strides":
                factor = decode.constant("boxes/stride", stride.astype(np.float32))
                rows = decode.op("Mul", rows, factor, stem="boxes/distances")
            return append_distances(decode, rows, points)
        priors = np.concatenate([points, stride, stride], axis=1)
        return append_offsets(decode, rows, priors, (1.0,) * 4, y_first=y_first, largest_log_size=_LARGEST_LOG_SIZE)


def _size(model: SourceModel, part: Part) -> tuple[int, int] | Refusal:
    """Locations and columns of a part."""
    graph = model.graph
    locations, widths = 0, set()
    for name in part.outputs:
        if name not in graph.outputs:
            return Refusal(f"there is no output {name!r}; the model has {', '.join(graph.outputs)}")
        shape = graph.shape(name) or ()
        if len(shape) != _RANK[part.layout] or shape[0] != 1 or graph.dtype(name) != onnx.TensorProto.FLOAT:
            return Refusal(f"output {name!r} is {list(shape)}, which is not of layout {part.layout} in float32")
        if part.layout == "rows":
            shape = (1, shape[2], shape[1])
        locations += int(np.prod(shape[2:]))
        widths.add(shape[1])
    if len(widths) != 1:
        return Refusal(f"the outputs {', '.join(part.outputs)} have different numbers of columns: {sorted(widths)}")
    width = widths.pop()
    first, end = part.columns or (0, width)
    if end > width:
        return Refusal(f"columns {[first, end]} reach beyond the {width} that there are")
    return locations, end - first


def _rows(model: SourceModel, decode: Decode, part: Part) -> str:
    """A part as rows [1,N,its columns]."""
    rows = []
    for name in part.outputs:
        width = (model.graph.shape(name) or (0, 0))[1]
        if part.layout == "maps":
            rows.append(map_rows(decode, name, width))
        elif part.layout == "columns":
            rows.append(decode.op("Transpose", name, stem="rows", perm=[0, 2, 1]))
        else:
            rows.append(name)
    joined = decode.op("Concat", *rows, stem="rows", axis=1) if len(rows) > 1 else rows[0]
    return joined if part.columns is None else _columns(decode, joined, *part.columns)


def _columns(decode: Decode, rows: str, first: int, end: int) -> str:
    bounds = [decode.constant(f"columns/{stem}", np.array([n])) for stem, n in (("0", first), ("1", end), ("axis", 2))]
    return decode.op("Slice", rows, *bounds, stem="columns")


def _activated(model: SourceModel, decode: Decode, part: Part, activation: str) -> str:
    rows = _rows(model, decode, part)
    if activation == "none":
        return rows
    _refuse_twice(model, part, activation)
    if activation == "softmax":
        return decode.op("Softmax", rows, stem="scores/probability", axis=2)
    return decode.op("Sigmoid", rows, stem="scores/objectness")


def _refuse_twice(model: SourceModel, part: Part, activation: str) -> None:
    for name in part.outputs:
        applied = class_activation(model.graph, name)
        if applied is not None:
            raise ModelError(
                f"the head specification states activation {activation}, but the graph itself ends {name!r} with "
                f"{applied}; it would be applied twice: state none"
            )

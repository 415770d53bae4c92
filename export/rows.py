"""Heads with one output of rows: one row per location, one column per number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgevision.export.box_coding import cells
from edgevision.export.decode import Decode
from edgevision.export.heads.base import Refusal, SourceModel


def single_rows(model: SourceModel, least_columns: int) -> tuple[str, int, int] | Refusal:
    """The one output float32 [1,N,columns]: name, N, columns. Raw maps [1,A,h,w,columns] may stand beside it."""
    graph = model.graph
    shapes = {name: graph.shape(name) or () for name in graph.outputs}
    rows = [name for name, shape in shapes.items() if len(shape) == 3]
    if len(rows) != 1 or not {len(shape) for shape in shapes.values()} <= {3, 5}:
        return Refusal(f"expected one output [1,N,columns], got {[list(shape) for shape in shapes.values()]}")
    one, count, columns = shapes[rows[0]]
    if one != 1 or columns < least_columns or graph.dtype(rows[0]) != onnx.TensorProto.FLOAT:
        return Refusal(f"expected a float32 output [1,N,{least_columns} or more], got {[one, count, columns]}")
    return rows[0], count, columns


def locations(model: SourceModel, strides: Sequence[int]) -> int:
    """Cells of all maps together."""
    return len(cells(model.image.wh, strides)[0])


def split_rows(decode: Decode, rows: str, widths: Sequence[int]) -> list[str]:
    """The columns of [1,N,sum of widths], part by part."""
    sizes = decode.constant("columns", np.array(widths))
    return decode.node("Split", rows, sizes, stem="parts", outputs=len(widths), axis=2)

"""Heads with one output of rows: one row per location, one column per number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from edgevision.export.box_coding import cells
from edgevision.export.decode import Decode
from edgevision.export.heads.base import Refusal, SourceModel
from edgevision.export.parts import split_parts


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
    return split_parts(decode, rows, 2, widths)


def map_rows(decode: Decode, tensor: str, columns: int, *, channels_last: bool = False) -> str:
    """A map [1,A*columns,h,w] (or [1,h,w,A*columns]) as rows [1,h*w*A,columns], cell by cell."""
    last = tensor if channels_last else decode.op("Transpose", tensor, stem="map/cells", perm=[0, 2, 3, 1])
    return decode.op("Reshape", last, decode.constant("map/shape", np.array([0, -1, columns])), stem="map/rows")


def maps_by_stride(
    model: SourceModel, strides: Sequence[int], outputs: Sequence[str] | None = None
) -> dict[int, list[str]] | Refusal:
    """The outputs (or those given) as float32 maps [1,C,h,w], those of one stride together; each of `strides` must have
    some."""
    graph, (width, height) = model.graph, model.image.wh
    found: dict[int, list[str]] = {stride: [] for stride in strides}
    sizes = {(-(-height // stride), -(-width // stride)): stride for stride in strides}
    for name in graph.outputs if outputs is None else outputs:
        shape = graph.shape(name) or ()
        stride = sizes.get(shape[2:]) if len(shape) == 4 and shape[0] == 1 else None
        if stride is None or graph.dtype(name) != onnx.TensorProto.FLOAT:
            return Refusal(f"expected float32 maps [1,C,h,w] of the strides {list(strides)}, got {name} {list(shape)}")
        found[stride].append(name)
    if len(sizes) != len(strides) or not all(found.values()):
        return Refusal(f"expected maps of each of the strides {list(strides)}, got {found}")
    return found

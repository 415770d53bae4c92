"""Cells that a graph holds as constants: where the input's size was changed afterwards, they are another picture's.

A graph that decodes its own boxes adds to each row its cell's place, which the exporter computed. Most changes of size
contradict the constant's shape; those that keep the number of cells, such as sidelong to upright, do not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgevision.errors import ModelError
from edgevision.export.graph import Graph

_STRIDES = (4, 8, 16, 32, 64, 128)


def check_grids(graph: Graph, input_wh: tuple[int, int]) -> None:
    """Compare every constant that lists cells with the input's size.

    Raises:
        ModelError: there are as many as a map of this input has, but in rows of another length.
    """
    wide, high = input_wh
    maps = {(rounded(wide, s), rounded(high, s)) for s in _STRIDES for rounded in (_down, _up)}
    for name, value in graph.constants.items():
        cells = _first_map(value)
        if (
            cells is not None
            and cells not in maps
            and cells[0] * cells[1] in {columns * rows for columns, rows in maps}
        ):
            raise ModelError(
                f"constant {name!r} lists {cells[0]}x{cells[1]} cells, and an input of {wide}x{high} pixels has no "
                "such map: its size was changed after the graph was written; export the network again for this size"
            )


def _first_map(value: NDArray[np.generic]) -> tuple[int, int] | None:
    """Columns and rows of the first map whose cells a constant lists, row by row; None where it lists no cells."""
    if value.dtype.kind != "f" or value.ndim < 2 or value.size < 8:
        return None
    if 2 <= value.shape[-1] <= 4:
        places = value.reshape(-1, value.shape[-1])[:, :2]
    elif 2 <= value.shape[-2] <= 4:
        places = value.reshape(-1, *value.shape[-2:])[0, :2].T
    else:
        return None
    places = places[np.append(True, (places[1:] != places[:-1]).any(axis=1))]  # several anchors at one place
    if len(places) < 4:
        return None
    fast = int(places[0, 0] == places[1, 0])  # some families write y before x
    x, y = places[:, fast], places[:, 1 - fast]
    columns = _run(np.append(True, x[1:] > x[:-1]))
    rows = len(x) // columns
    x, y = x[: rows * columns].reshape(rows, columns), y[: rows * columns].reshape(rows, columns)
    same = (x == x[0]).all(axis=1) & (y == y[:, :1]).all(axis=1) & np.append(True, y[1:, 0] > y[:-1, 0])
    rows = _run(same)
    even = np.allclose(np.diff(x[0]), x[0, 1] - x[0, 0]) if columns > 1 else False
    return (columns, rows) if even and rows > 1 else None


def _run(flags: NDArray[np.bool_]) -> int:
    """How many of the first ones are true."""
    return len(flags) if flags.all() else int(np.argmin(flags))


def _down(side: int, stride: int) -> int:
    return side // stride


def _up(side: int, stride: int) -> int:
    return -(-side // stride)

"""Grids that a graph holds as constants, as exporters write them, against the size of its input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgevision.errors import ModelError
from edgevision.export.baked_grids import check_grids
from edgevision.export.graph import Graph
from tests.export.builders import Builder

FORMS = ("rows", "y first", "columns", "anchors one after the other", "anchors of a cell together", "with sizes")


def grid(form: str, hw: tuple[int, int], strides: tuple[int, ...], scale: float, shift: float) -> NDArray[np.float32]:
    """The cells of a pyramid over a picture of `hw` as decodes hold them."""
    parts = []
    for stride in strides:
        y, x = np.mgrid[: -(-hw[0] // stride), : -(-hw[1] // stride)]
        cells = np.stack([x.ravel(), y.ravel()], axis=1) * scale + shift
        if form == "anchors one after the other":
            cells = np.tile(cells, (3, 1))
        elif form == "anchors of a cell together":
            cells = np.repeat(cells, 3, axis=0)
        parts.append(cells)
    places = np.concatenate(parts).astype(np.float32)
    if form == "y first":
        places = places[:, ::-1]
    elif form == "with sizes":
        places = np.concatenate([places, np.full_like(places, 7)], axis=1)
    return places.T[None] if form == "columns" else places[None]


def graph_with(constant: NDArray[np.float32], hw: tuple[int, int]) -> Graph:
    b = Builder(1)
    b.op("Identity", b.constant(constant), out="cells")
    b.op("Relu", "image", out="y")
    return Graph(b.model({"image": [1, 3, *hw]}, ["y", "cells"]))


SIDES = st.integers(2, 12).map(lambda n: 32 * n)


@given(
    st.sampled_from(FORMS),
    SIDES,
    SIDES,
    st.sampled_from([(8, 16, 32), (16,), (32, 16)]),
    st.sampled_from([(1.0, 0.0), (8.0, 4.0), (1.0, -0.5)]),
)
def test_a_grid_fits_the_picture_that_it_was_made_for_and_no_turned_one(
    form: str, height: int, width: int, strides: tuple[int, ...], units: tuple[float, float]
) -> None:
    graph = graph_with(grid(form, (height, width), strides, *units), (height, width))
    check_grids(graph, (width, height))
    if height != width:
        with pytest.raises(ModelError, match=r"lists \d+x\d+ cells.*export the network again"):
            check_grids(graph, (height, width))


@given(st.integers(0, 2**32 - 1), st.sampled_from([(96, 2), (2, 96), (8, 12, 4), (3, 3, 2), (1, 96, 3)]))
def test_other_constants_are_left_alone(seed: int, shape: tuple[int, ...]) -> None:
    constant = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    check_grids(graph_with(constant, (64, 96)), (96, 64))

"""The method of every tensor's range, chosen by the error that it makes where the tensor is used.

The methods minimise different things on the histogram of one tensor. What counts is what its readers make of it: in a
convolution's sums roundings cancel each other, while neighbours that are clipped together add up. Therefore some
pictures go through the float graph once more, with the readers of every tensor repeated on each method's grid,
everything before them in float; the error is that of their outputs.

A few pictures say little about rare large values, so a method must win on every one of 16 pictures, most of which only
the few methods see that won on the first two (a race, after O. Maron and A. Moore, "Hoeffding Races", NIPS 1993). On
three networks and 20 other pictures no such choice was worse than the mean square error's.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgevision.calibration.histogram import Histogram
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.stated import StatedRange
from edgevision.calibration.table import RangeTable
from edgevision.calibration.thresholds import METHODS
from edgevision.errors import CalibrationError
from edgevision.kernels.cpu import Preprocessor
from edgevision.machine import cores
from edgevision.manifest import Preprocess
from edgevision.optional import require

DEFAULT: Final = METHODS[0]
ROUNDS: Final = (2, 14)
"""Pictures in each round of the race; where there are fewer in all, DEFAULT is kept everywhere."""
_WEIGHTED: Final = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
_SAME: Final = 0.005
"""Grids whose steps differ by less than this share count as one."""
_LEAST_SCALE: Final = 2.0**-100

Grid = tuple[float, int]
"""Scale and zero point."""
Site = tuple[str, bool]
"""A tensor, and whether its grid is int8 around 0 (else uint8)."""
Race = dict[Site, dict[str, Grid]]
"""The methods still running at each site."""


def choose_methods(
    graph: bytes,
    table: RangeTable,
    images: CalibrationImages,
    preprocess: Preprocess,
    *,
    workers: int | None = None,
) -> None:
    """Set `chosen` of every histogram in `table`: the best method on int8 and on uint8 grids.

    DEFAULT is kept unless another method is better on every picture of the race: first the two that set most ranges,
    then by content. The choice depends neither on their order nor on the number of workers.

    Args:
        graph, images, preprocess: those that `table` was collected from.
        workers: threads; None: one per core that this process may use.

    Raises:
        CalibrationError: the graph does not run.
    """
    workers = workers or cores()
    race = _entries(table, workers) if table.images >= sum(ROUNDS) else {}
    pictures = _pictures(table, images)
    totals: dict[tuple[Site, str], list[float]] = defaultdict(list)
    for count in ROUNDS:
        drawn = list(itertools.islice(pictures, count))
        if len(drawn) < count:
            race = {}
        if not race:
            break
        errors = _errors(graph, race, drawn, preprocess, workers)
        for site, methods in race.items():
            for method in [method for method in methods if method != DEFAULT]:
                found = errors[site, method]
                if all(one < other for one, other in zip(found, errors[site, DEFAULT], strict=True)):
                    totals[site, method] += found
                else:
                    del methods[method]
        race = {site: methods for site, methods in race.items() if len(methods) > 1}
    verdicts = dict.fromkeys(((id(histogram), kind) for histogram in table.values() for kind in (True, False)), DEFAULT)
    for (tensor, symmetric), methods in race.items():
        left = [method for method in methods if method != DEFAULT]
        best = min(left, key=lambda method: math.fsum(totals[(tensor, symmetric), method]))
        verdicts[id(table[tensor]), symmetric] = best
    for histogram in table.values():
        histogram.chosen = verdicts[id(histogram), True], verdicts[id(histogram), False]


def _entries(table: RangeTable, workers: int) -> Race:
    """Every method whose grid differs from DEFAULT's, at every tensor that was measured."""
    first = {id(histogram): name for name, histogram in reversed(list(table.items()))}
    sites = [
        (name, symmetric)
        for name, histogram in table.items()
        if histogram.limit and not isinstance(histogram, StatedRange) and first[id(histogram)] == name
        for symmetric in (True, False)
    ]

    def grids(site: Site) -> dict[str, Grid]:
        found = {method: _grid(table[site[0]], method, site[1]) for method in METHODS}
        usual = found.pop(DEFAULT)
        return {DEFAULT: usual, **{method: grid for method, grid in found.items() if not _alike(grid, usual)}}

    with ThreadPoolExecutor(workers, "choosing") as pool:
        race = dict(zip(sites, pool.map(grids, sites), strict=True))
    return {site: methods for site, methods in race.items() if len(methods) > 1}


def _grid(histogram: Histogram, method: str, symmetric: bool) -> Grid:
    if symmetric:
        return max(histogram.symmetric_limit(method) / 127, _LEAST_SCALE), 0
    low, high = histogram.affine_range(method)
    scale = max((high - low) / 255, _LEAST_SCALE)
    return scale, round(-low / scale)


def _alike(one: Grid, other: Grid) -> bool:
    return one[1] == other[1] and abs(one[0] / other[0] - 1) < _SAME


def _pictures(table: RangeTable, images: CalibrationImages) -> Iterator[NDArray[np.uint8]]:
    """Readable pictures: the two that set most ranges, then by content."""
    sets = Counter(growth.picture for growth in table.growth.values() if growth.picture)
    most = sorted(sets, key=lambda digest: (-sets[digest], digest))[: ROUNDS[0]]
    ranked = sorted(range(len(images)), key=lambda index: (images.digests[index] not in most, images.digests[index]))
    return (image for index in ranked if (image := images.read(index)) is not None)


def _errors(
    graph: bytes, race: Race, images: Sequence[NDArray[np.uint8]], preprocess: Preprocess, workers: int
) -> dict[tuple[Site, str], list[float]]:
    """Square error behind each site with each method still in the race, per picture."""
    onnx, ort = require("onnx", "calibration"), require("onnxruntime", "calibration")
    course = _Course(onnx, onnx.load_model_from_string(graph))
    sums = {
        (site, method): course.error_behind(site, grid)
        for site, grids in race.items()
        for method, grid in grids.items()
    }
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Optimising thousands of nodes takes longer than it saves in so few runs.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(course.serialize(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise CalibrationError(f"the graph cannot be run for choosing methods: {error}") from error
    names = [output.name for output in session.get_outputs()]

    def run(image: NDArray[np.uint8]) -> dict[str, float]:
        preprocessor = Preprocessor(preprocess)
        array = np.zeros(preprocessor.shape, preprocessor.dtype)
        preprocessor(image, array[0])
        return dict(zip(names, map(float, session.run(names, {preprocess.input_name: array})), strict=True))

    with ThreadPoolExecutor(min(workers, len(images)), "choosing") as pool:
        found = list(pool.map(run, images))
    return {key: [math.fsum(values[name] for name in outputs) for values in found] for key, outputs in sums.items()}


class _Course:
    """A float graph with the readers of some tensors repeated on other grids; its outputs are square sums of errors."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx, self._model = onnx, model
        self._readers: dict[str, list[Any]] = defaultdict(list)
        for node in model.graph.node:
            if node.op_type in _WEIGHTED:
                for name in dict.fromkeys(node.input):
                    self._readers[name].append(node)
        self._numbers = itertools.count()
        del model.graph.output[:]

    def serialize(self) -> bytes:
        data: bytes = self._model.SerializeToString()
        return data

    def error_behind(self, site: Site, grid: Grid) -> list[str]:
        """Put `site` on a grid; names of the square sums of the errors of its weighted readers, or its own."""
        tensor, symmetric = site
        rough = self._on_grid(tensor, grid, np.int8 if symmetric else np.uint8)
        readers = self._readers[tensor]
        if not readers:
            return [self._square_sum(rough, tensor)]
        return [self._square_sum(self._repeat(node, tensor, rough), node.output[0]) for node in readers]

    def _on_grid(self, tensor: str, grid: Grid, kind: type[np.integer[Any]]) -> str:
        scale, zero_point = (self._constant(value) for value in (np.float32(grid[0]), kind(grid[1])))
        steps = self._node("QuantizeLinear", tensor, scale, zero_point)
        return self._node("DequantizeLinear", steps, scale, zero_point)

    def _repeat(self, node: Any, tensor: str, rough: str) -> str:
        copy = self._onnx.NodeProto.FromString(node.SerializeToString())
        copy.name = self._fresh()
        copy.input[:] = [rough if name == tensor else name for name in node.input]
        copy.output[:] = [copy.name]
        self._model.graph.node.append(copy)
        return str(copy.name)

    def _square_sum(self, rough: str, exact: str) -> str:
        name = self._node("ReduceSumSquare", self._node("Sub", rough, exact), keepdims=0)
        self._model.graph.output.append(
            self._onnx.helper.make_tensor_value_info(name, self._onnx.TensorProto.FLOAT, [])
        )
        return name

    def _constant(self, value: np.generic) -> str:
        name = self._fresh()
        self._model.graph.initializer.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, op_type: str, *inputs: str, **attributes: int) -> str:
        name = self._fresh()
        self._model.graph.node.append(self._onnx.helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def _fresh(self) -> str:
        return f"edgevision/choice/{next(self._numbers)}"

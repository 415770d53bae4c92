"""How much each quantised layer harms what the network says: its decoded outputs, no labels needed.

One layer at a time is quantised as TensorRT's graph has it, all others stay float. The noise of the outputs is measured
after the decode, where it counts: scores, and of boxes only those of likely candidates, in units of the box. Raw maps
would be judged by the boxes of background anchors, which nobody ever sees.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.calibration import CalibrationImages
from edgevision.export.emission import emit_int8
from edgevision.export.graph import Graph
from edgevision.export.preparation import PreparedModel
from edgevision.export.quantisation import Quantised
from edgevision.export.structure import WEIGHTED, activations, key, multiply_adds, network_costs
from edgevision.export.verification import (
    Outputs,
    class_map_of,
    input_tensors,
    open_graph,
    run_all,
    run_graph,
    tensors_of,
)
from edgevision.progress import Progress

if TYPE_CHECKING:
    from edgevision.evaluation import Dataset

PICTURES = 4
# Of so many pictures those are taken that show most.
_CANDIDATES = 24
# From where a candidate's box counts; where a picture has none, its best ones do.
_LIKELY, _BEST = 0.05, 20
_LEAST, _MOST = 1e-20, 1e20


@dataclass(frozen=True)
class Layer:
    """A node that TensorRT's graph quantises.

    Attributes:
        key: see structure.key.
        node: its name.
        multiply_adds: of one picture; of a residual Add its additions.
        noise: noise over signal of the decoded outputs when it alone is quantised.
    """

    key: str
    node: str
    multiply_adds: int
    noise: float

    @property
    def sqnr_db(self) -> float:
        """Signal over noise of the decoded outputs, dB."""
        return round(-10 * math.log10(min(max(self.noise, _LEAST), _MOST)), 2)


def telling_inputs(
    prepared: PreparedModel, images: CalibrationImages | None, dataset: Dataset | None = None
) -> list[NDArray[Any]]:
    """Network inputs, PICTURES: a layer's noise is measured where there is something to find.

    Of a detector those pictures whose candidates score most together, as many as are likely; of a segmenter those that
    hold the largest part of the pixels of its classes, so that a rare class weighs as much as the background. Evenly
    spaced ones where all show the same, and for other tasks.

    Args:
        images: where there is no data set, the calibration pictures; None: drawn ones.
        dataset: what the network will be judged on. On pictures that it was trained with, a network is so sure that
            noise hardly moves a score.

    Raises:
        CalibrationError, DatasetError: none of the pictures can be read.
        ModelError: the float graph does not run.
    """
    if dataset is None:
        inputs = input_tensors(prepared.preprocess, images, _CANDIDATES)
    else:
        chosen = dict.fromkeys(i * len(dataset.pictures) // _CANDIDATES for i in range(_CANDIDATES))
        inputs = tensors_of(prepared.preprocess, (dataset.pictures[i].read() for i in chosen))
    session = open_graph(prepared.graph.serialize(), exact=True)
    # one by one: the class scores of a picture may take tens of megabytes
    shown = [_shown(run_all(session, [tensor])[0], len(prepared.labels)) for tensor in inputs]
    telling = (np.array(shown) / np.maximum(np.sum(shown, axis=0), _LEAST)).sum(axis=1)
    if not np.ptp(telling):
        return inputs[:: -(-len(inputs) // PICTURES)]
    return [inputs[i] for i in np.argsort(-telling, kind="stable")[:PICTURES]]


def _shown(outputs: Outputs, classes: int) -> NDArray[np.float64]:
    """What a picture shows: the pixels of each class, or the sum of the scores of likely candidates."""
    class_map = class_map_of(outputs)
    if class_map is not None:
        return np.bincount(class_map.ravel(), minlength=classes)[:classes].astype(np.float64)
    if "boxes" not in outputs or not outputs["scores"].size:  # suppressed inside the graph, and none is left
        return np.zeros(1)
    best = outputs["scores"].reshape(outputs["boxes"].shape[1], -1).max(axis=1)
    return np.array([best[best >= _LIKELY].sum()], np.float64)


def measure_layers(
    quantised: Quantised,
    inputs: Sequence[NDArray[Any]],
    known: Mapping[str, float],
    keep: Callable[[str, float], None],
    *,
    quiet: bool,
) -> list[Layer]:
    """Every node that `quantised.plan` quantises for TensorRT, in graph order.

    Args:
        inputs: network inputs, one per picture.
        known: noise by key, from an earlier run; these are not measured again.
        keep: called with key and noise as soon as one is measured, from one thread.

    Raises:
        CalibrationError: a tensor has no range.
        ModelError: a graph does not run.
    """
    graph = observable(quantised.tensorrt_graph)
    nodes = [node for node in graph.nodes if key(node) in quantised.plan.tensorrt_inputs]
    waiting = [node for node in nodes if key(node) not in known]
    found = dict(known)
    if waiting:
        reference = run_graph(graph.serialize(), inputs, exact=True)

        def measure(node: onnx.NodeProto) -> tuple[str, float]:
            inputs_of_one = {key(node): quantised.plan.tensorrt_inputs[key(node)]}
            plan = dataclasses.replace(quantised.plan, tensorrt_inputs=inputs_of_one)
            alone = emit_int8(dataclasses.replace(quantised, tensorrt_graph=graph, plan=plan), None, typed=False)
            return key(node), noise_share(reference, run_graph(alone.serialize(), inputs, exact=True))

        workers = min(len(waiting), os.cpu_count() or 1)
        with (
            Progress("how much each layer harms", len(waiting), quiet=quiet) as progress,
            ThreadPoolExecutor(workers, "sensitivity") as pool,
        ):
            try:
                for layer, noise in pool.map(measure, waiting):
                    found[layer] = noise
                    keep(layer, noise)
                    progress.update()
            finally:  # after an error or Ctrl-C the layers in work are finished, no others begun
                pool.shutdown(cancel_futures=True)
    return [Layer(key(node), node.name or key(node), _cost(graph, node), found[key(node)]) for node in nodes]


def int8_share(graph: Graph, quantised: Mapping[str, Any]) -> float:
    """Share of the network's multiply-adds whose layers are in `quantised` (by key); the decode's are left out.

    Args:
        graph: shapes inferred.
    """
    costs = network_costs(graph)
    total = sum(costs.values())
    return sum(cost for name, cost in costs.items() if name in quantised) / total if total else 0.0


def noise_share(reference: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """Noise over signal of decoded outputs, the mean over pictures; the shares of the outputs are added up."""
    return float(np.mean([_noise(a, b) for a, b in zip(reference, found, strict=True)]))


def _noise(reference: Outputs, found: Outputs) -> float:
    if "class_ids" in reference:  # rows in order of score: the slightest noise exchanges two of them
        return _share(np.sort(reference["scores"]), np.sort(found["scores"]))
    total = 0.0
    names = set(reference)
    if "boxes" in reference:
        best = reference["scores"].reshape(reference["boxes"].shape[1], -1).max(axis=1)
        likely = np.flatnonzero(best >= _LIKELY)
        if not len(likely):
            likely = np.argsort(-best, kind="stable")[:_BEST]
        boxes = reference["boxes"][0, likely].astype(np.float64)
        sides = np.maximum((boxes[:, 2:] - boxes[:, :2]).mean(axis=1), 1.0)[:, None]
        total += _square((found["boxes"][0, likely] - boxes) / sides)
        if "keypoints" in names:
            points = reference["keypoints"][0, likely, :, :2].astype(np.float64)
            total += _square((found["keypoints"][0, likely, :, :2] - points) / sides[:, :, None])
        if "mask_coefficients" in names:
            total += _share(reference["mask_coefficients"][0, likely], found["mask_coefficients"][0, likely])
        names -= {"boxes", "keypoints", "mask_coefficients"}
    for name in names:
        whole = reference[name].dtype.kind != "f"
        total += float((reference[name] != found[name]).mean()) if whole else _share(reference[name], found[name])
    return total


def _share(reference: NDArray[Any], found: NDArray[Any]) -> float:
    signal = _square(reference.astype(np.float64))
    return _square(found.astype(np.float64) - reference) / max(signal, _LEAST)


def _square(values: NDArray[np.float64]) -> float:
    return float(np.square(values).mean())


def _cost(graph: Graph, node: onnx.NodeProto) -> int:
    if node.op_type in WEIGHTED:
        return multiply_adds(graph, node)
    return math.prod(graph.shape(key(node)) or ())


def observable(graph: Graph) -> Graph:
    """A copy with shapes; where an output is the best class of each pixel, with the scores that it is chosen by in its
    place: they show noise before a pixel changes its class."""
    graph = graph.copy()
    graph.infer_shapes()
    outputs = []
    for output in graph.proto.output:
        scores = _compared(graph, output.name) if output.type.tensor_type.elem_type != onnx.TensorProto.FLOAT else []
        outputs += [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, graph.shape(name)) for name in scores
        ] or [onnx.ValueInfoProto.FromString(output.SerializeToString())]
    del graph.proto.output[:]
    graph.proto.output.extend(outputs)
    return graph


def _compared(graph: Graph, name: str) -> list[str]:
    """What is compared by the ArgMax nodes that whole numbers come from; several where a map is made of several."""
    node = graph.producer.get(name)
    if node is None:
        return []
    if node.op_type == "ArgMax":
        return [str(node.input[0])]
    if node.op_type not in ("Cast", "Squeeze", "Reshape", "Mul", "Max"):
        return []
    return [found for index in activations(graph, node) for found in _compared(graph, node.input[index])]

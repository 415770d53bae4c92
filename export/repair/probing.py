"""Quantised layers beside their float twins, on the same float inputs: what each layer's own grids do to its output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgevision.backends.onnxruntime import open_session
from edgevision.export.graph import Graph
from edgevision.export.grids import Ranges, channel_sums, range_of, to_float, to_int8, weight_scales
from edgevision.export.placement import Plan
from edgevision.export.qdq import Activation, QdqWriter, shifted_bias
from edgevision.export.repair.channel_classes import channel_axis
from edgevision.export.structure import Weight, key, weight_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """What quantising a layer's input and weights does to its output; of a sum, its identity branch to the branch.

    Attributes:
        error: (pictures, channels), the mean of quantised minus float.
        noise: (pictures, channels), the mean square of that.
    """

    error: Floats
    noise: Floats


def probe_layers(
    graph: Graph, plan: Plan, ranges: Ranges, method: str, inputs: Iterable[NDArray[Any]], *, clip: bool
) -> dict[str, Probe]:
    """Probe every operator that `plan` quantises for TensorRT, by `structure.key`.

    Args:
        graph: float, its shapes inferred; left unchanged.
        ranges, method: of its activations' grids.
        inputs: network inputs, one per picture.
        clip: whether weights are clipped, see grids.weight_scales.

    Raises:
        CalibrationError: a tensor has no range.
        SessionError: the graph does not run.
    """
    writer = QdqWriter(graph.copy())
    source = writer.graph
    activations: dict[str, Activation] = {}
    layers = []
    del source.proto.output[:]
    for node in list(source.nodes):
        writer.nodes.append(node)
        for index in plan.tensorrt_inputs.get(key(node), ()):
            tensor = node.input[index]
            if tensor not in activations:
                range_ = range_of(ranges, tensor)
                activations[tensor] = writer.activation(tensor, range_, method, centred=tensor in plan.centred)
            pair = (tensor, activations[tensor].tensor)
            weight = weight_of(source, node)
            if weight is not None:
                pair = (node.output[0], _twin(writer, node, weight, activations[tensor], clip))
            layers.append((key(node), *_measure(writer, *pair, channel_axis(node))))
    if not layers:
        return {}
    session = open_session(writer.finish().serialize(), threads=1, exact=True)
    found: dict[str, list[tuple[Floats, Floats]]] = {layer: [] for layer, _, _ in layers}
    for tensor_in in inputs:
        results = session.run({session.inputs[0].name: tensor_in})
        for layer, error, noise in layers:
            found[layer].append((results[error].astype(np.float64), results[noise].astype(np.float64)))
    return {
        layer: Probe(np.stack([error for error, _ in pairs]), np.stack([noise for _, noise in pairs]))
        for layer, pairs in found.items()
    }


def _twin(writer: QdqWriter, node: onnx.NodeProto, weight: Weight, activation: Activation, clip: bool) -> str:
    """Append the layer again, on `activation` and on rounded weights; its output."""
    values, axis = writer.graph.constants[weight.name], weight.channel_axis
    scales = weight_scales(values, axis, clip=clip)
    twin = onnx.NodeProto.FromString(node.SerializeToString())
    rounded = to_float(to_int8(values, scales, axis), scales, axis)
    twin.input[:2] = [activation.tensor, writer.graph.add_constant(f"{weight.name}/rounded", rounded)]
    if activation.offset:
        twin.input[2:] = [shifted_bias(writer.graph, node, activation.offset * channel_sums(rounded))]
    twin.output[0] = writer.fresh(f"{node.output[0]}/twin")
    writer.nodes.append(twin)
    return str(twin.output[0])


def _measure(writer: QdqWriter, exact: str, rounded: str, axis: int) -> Iterator[str]:
    """Append nodes for the mean and the mean square of the difference per channel; their outputs' names."""
    shape = writer.graph.shape(exact) or ()
    channel = axis % len(shape)
    axes = writer.graph.add_constant("probe/axes", np.array([i for i in range(len(shape)) if i != channel], np.int64))
    difference, square = (writer.fresh(f"{exact}/{what}") for what in ("difference", "square"))
    writer.nodes.append(helper.make_node("Sub", [rounded, exact], [difference]))
    writer.nodes.append(helper.make_node("Mul", [difference, difference], [square]))
    for name in (difference, square):
        mean = writer.fresh(f"{name}/mean")
        writer.nodes.append(helper.make_node("ReduceMean", [name, axes], [mean], keepdims=0))
        info = helper.make_tensor_value_info(mean, onnx.TensorProto.FLOAT, [shape[channel]])
        writer.graph.proto.output.append(info)
        yield mean

"""Quantised layers beside their float twins, on the same float inputs: what each layer's own grids do to its output."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgevision.backends.onnxruntime import open_batch_session
from edgevision.export.graph import Graph, attribute
from edgevision.export.grids import Ranges, channel_sums, range_of, to_float, to_int8, weight_scales
from edgevision.export.placement import Plan
from edgevision.export.qdq import Activation, QdqWriter, read, shifted_bias
from edgevision.export.repair.channel_classes import channel_axis
from edgevision.export.structure import Weight, key, weight_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """What quantising a layer's input and weights does to its output; of a sum, its identity branch to the branch.

    Attributes:
        error: (pictures, channels), the mean of quantised minus float.
        noise: (pictures, channels), the mean square of that.
        mean, power: (pictures, channels), the mean of the float output and of its square.
    """

    error: Floats
    noise: Floats
    mean: Floats
    power: Floats

    @property
    def noise_share(self) -> float:
        """Noise as a share of the output's variance, all channels together; 0 where nothing varies."""
        variance = float(np.maximum(self.power.mean(axis=0) - np.square(self.mean.mean(axis=0)), 0).sum())
        return float(self.noise.mean(axis=0).sum()) / variance if variance else 0.0


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
    layers: dict[str, list[str]] = {}
    del source.proto.output[:]
    for node in list(source.nodes):
        writer.nodes.append(node)
        for index in plan.tensorrt_inputs.get(key(node), ()):
            tensor = node.input[index]
            found, centred = range_of(ranges, tensor), tensor in plan.centred
            activation = writer.activation(tensor, found, method, centred=centred, pads=attribute(node, "pads", ()))
            pair = (tensor, activation.tensor)
            weight = weight_of(source, node)
            if weight is not None:
                pair = (node.output[0], _twin(writer, node, weight, activation, clip))
            layers[key(node)] = _measure(writer, *pair, channel_axis(node))
    if not layers:
        return {}
    session = open_batch_session(writer.finish().serialize(), exact=True)
    pictures = [session.run(tensor) for tensor in inputs]  # two at once would set the export's peak of memory
    return {
        layer: Probe(*(np.stack([results[name] for results in pictures]).astype(np.float64) for name in names))
        for layer, names in layers.items()
    }


def _twin(writer: QdqWriter, node: onnx.NodeProto, weight: Weight, activation: Activation, clip: bool) -> str:
    """Append the layer again, on `activation` and on rounded weights; its output."""
    values, axis = writer.graph.constants[weight.name], weight.channel_axis
    scales = weight_scales(values, axis, clip=clip)
    twin = onnx.NodeProto.FromString(node.SerializeToString())
    rounded = to_float(to_int8(values, scales, axis), scales, axis)
    read(twin, 0, activation)
    twin.input[1] = writer.graph.add_constant(f"{weight.name}/rounded", rounded)
    if activation.offset:
        twin.input[2:] = [shifted_bias(writer.graph, node, activation.offset * channel_sums(rounded))]
    twin.output[0] = writer.fresh(f"{node.output[0]}/twin")
    writer.nodes.append(twin)
    return str(twin.output[0])


def _measure(writer: QdqWriter, exact: str, rounded: str, axis: int) -> list[str]:
    """Append nodes for the mean and the mean square, per channel, of the difference and of `exact`: their outputs."""
    shape = writer.graph.shape(exact) or ()
    channel = axis % len(shape)
    axes = writer.graph.add_constant("probe/axes", np.array([i for i in range(len(shape)) if i != channel], np.int64))
    difference = writer.fresh(f"{exact}/difference")
    writer.nodes.append(helper.make_node("Sub", [rounded, exact], [difference]))
    found = []
    for name in (difference, exact):
        square = writer.fresh(f"{name}/square")
        # ReduceSumSquare would take three times as long.
        writer.nodes.append(helper.make_node("Mul", [name, name], [square]))
        for values in (name, square):
            found.append(writer.fresh(f"{values}/mean"))
            writer.nodes.append(helper.make_node("ReduceMean", [values, axes], [found[-1]], keepdims=0))
            info = helper.make_tensor_value_info(found[-1], onnx.TensorProto.FLOAT, [shape[channel]])
            writer.graph.proto.output.append(info)
    return found

"""TensorRT's INT8 graph: explicit Q/DQ with zero point 0, all other tensors typed FP16, the decode in FP32.

One Q per tensor, at the inputs that the plan names, shifted first where the plan says so, which the biases behind undo;
weights stored as int8 with a DQ, one scale per output channel; biases in float (TensorRT refuses int32 ones). Scales
are FP16 values from the start, rounded up, and the weights are quantised with the rounded ones, so that typing the
graph changes no grid.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgevision.export.graph import Graph, attribute
from edgevision.export.grids import Floats, Ranges, channel_sums, range_of, to_float, to_int8, weight_scales
from edgevision.export.half import to_half
from edgevision.export.placement import Plan
from edgevision.export.qdq import QdqWriter, read, shifted_bias
from edgevision.export.structure import key, weight_of
from edgevision.export.tensorrt_rules import validate_tensorrt


def emit_tensorrt(
    graph: Graph,
    plan: Plan,
    ranges: Ranges,
    method: str = "mse",
    islands: Mapping[str, str] | None = None,
    *,
    corrections: Mapping[str, Floats] | None = None,
    clip_weights: bool = False,
) -> Graph:
    """The typed INT8 graph.

    Args:
        graph: float, in normal form, the one that `plan` was made for; left unchanged.
        ranges: of the tensors in `plan.observed`.
        method: how a grid's limit is chosen, see `edgevision.calibration`.
        islands: nodes that stay float32, see half_ranges.
        corrections: what to subtract from the biases of layers, where they are quantised; see repair.bias_correction.
        clip_weights: see grids.weight_scales.

    Raises:
        CalibrationError: a tensor has no range, or its range has no FP16 scale.
        ModelError: the result breaks one of TensorRT's rules (a bug worth reporting).
    """
    written = write_qdq(graph, plan, ranges, method, corrections=corrections, clip_weights=clip_weights)
    result = to_half(written, islands)
    validate_tensorrt(result)
    return result


def write_qdq(
    graph: Graph,
    plan: Plan,
    ranges: Ranges,
    method: str = "mse",
    *,
    corrections: Mapping[str, Floats] | None = None,
    clip_weights: bool = False,
) -> Graph:
    """The INT8 graph with float32 between the grids; arguments and errors as for `emit_tensorrt`."""
    source = graph.copy()
    writer = QdqWriter(source)
    for node in list(source.nodes):
        offset = np.float32(0)
        for index in plan.tensorrt_inputs.get(key(node), ()):
            tensor = node.input[index]
            found, centred = range_of(ranges, tensor), tensor in plan.centred
            activation = writer.activation(tensor, found, method, centred=centred, pads=attribute(node, "pads", ()))
            offset = activation.offset
            read(node, index, activation)
        weight = weight_of(source, node)
        if weight is not None and key(node) in plan.tensorrt_inputs:
            values, axis = source.constants[weight.name], weight.channel_axis
            scales = weight_scales(values, axis, clip=clip_weights)
            steps = to_int8(values, scales, axis)
            node.input[1] = writer.constant(weight.name, steps, scales, axis)
            shifts = [-corrections[key(node)]] if corrections is not None and key(node) in corrections else []
            if offset:
                shifts.append(offset * channel_sums(to_float(steps, scales, axis)))
            if shifts:
                node.input[2:] = [shifted_bias(source, node, sum(shifts[1:], shifts[0]))]
        writer.nodes.append(node)
    return writer.finish()

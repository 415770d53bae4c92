"""TensorRT's INT8 graph: explicit Q/DQ with zero point 0, all other tensors typed FP16, the decode in FP32.

One Q per tensor, at the inputs that the plan names; weights stored as int8 with a DQ, one scale per output channel;
biases in float (TensorRT refuses int32 ones). Scales are FP16 values from the start, rounded up, and the weights are
quantised with the rounded ones, so that typing the graph changes no grid.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgevision.export.graph import Graph, attribute
from edgevision.export.grids import Floats, Ranges, half_scales, range_of, to_int8, weight_scales
from edgevision.export.half import to_half
from edgevision.export.placement import Plan
from edgevision.export.qdq import QdqWriter
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
    dequantized: dict[str, str] = {}

    def activation(tensor: str) -> str:
        if tensor not in dequantized:
            limit = range_of(ranges, tensor).symmetric_limit(method)
            grid = writer.grid(tensor, half_scales(np.float64(limit)), np.int8(0))
            quantized = writer.quantize(tensor, grid, tensor)
            dequantized[tensor] = writer.dequantize(quantized, grid, writer.fresh(f"{tensor}/dequantized"))
        return dequantized[tensor]

    for node in list(source.nodes):
        inputs = list(node.input)
        for index in plan.tensorrt_inputs.get(key(node), ()):
            inputs[index] = activation(inputs[index])
        weight = weight_of(source, node)
        if weight is not None and key(node) in plan.tensorrt_inputs:
            values, axis = source.constants[weight.name], weight.channel_axis
            scales = weight_scales(values, axis, clip=clip_weights)
            inputs[1] = writer.constant(weight.name, to_int8(values, scales, axis), scales, axis)
            if corrections is not None and key(node) in corrections:
                inputs[2:] = [_corrected(source, node, corrections[key(node)])]
        node.input[:] = inputs
        writer.nodes.append(node)
    return writer.finish()


def _corrected(graph: Graph, node: onnx.NodeProto, correction: Floats) -> str:
    """The bias of a layer less `correction`; a Gemm's counts `beta` times."""
    bias = graph.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.float32(0)
    shift = correction / np.float32(attribute(node, "beta", 1.0) if node.op_type == "Gemm" else 1.0)
    return graph.add_constant(f"{key(node)}/corrected_bias", np.asarray(bias - shift, np.float32))

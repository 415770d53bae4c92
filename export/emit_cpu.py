"""ONNX Runtime's INT8 graph: uint8 tensors between operators that its CPU provider fuses into integer kernels.

Every quantised operator has DQ before it and Q right behind it. A Relu or Clip behind it is left out where the grid
ends inside its limits: saturation does the same. Weights are int8 per output channel over the full range: on x86
without VNNI the session option `session.x64quantprecision` keeps their sums from saturating. Biases are int32 on the
grid of the products.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx

from edgevision.export.graph import Graph
from edgevision.export.grids import (
    Ranges,
    affine_grid,
    channel_limits,
    range_of,
    to_int8,
    weight_scales_for_bias,
)
from edgevision.export.placement import Plan
from edgevision.export.placement_cpu import CpuSite
from edgevision.export.qdq import Grid, QdqWriter
from edgevision.export.structure import activations, bounds, key, weight_of
from edgevision.optional import require


def emit_cpu(graph: Graph, plan: Plan, ranges: Ranges, method: str = "mse") -> Graph:
    """The uint8 graph.

    Args:
        graph: float, in normal form, the one that `plan` was made for; left unchanged.
        ranges: of the tensors in `plan.observed`.
        method: how a grid's ends are chosen, see `edgevision.calibration`.

    Raises:
        CalibrationError: a tensor has no range.
    """
    return _CpuEmitter(graph.copy(), plan, ranges, method).run()


class _CpuEmitter:
    def __init__(self, graph: Graph, plan: Plan, ranges: Ranges, method: str) -> None:
        self.graph, self.plan, self.ranges, self.method = graph, plan, ranges, method
        self.writer = QdqWriter(graph)
        self.grids: dict[str, Grid] = {}
        self.scales: dict[str, np.float32] = {}
        self.entries: dict[str, str] = {}

    def run(self) -> Graph:
        absorbed = {site.absorbed for site in self.plan.cpu_sites.values()}
        for node in list(self.graph.nodes):
            site = self.plan.cpu_sites.get(key(node))
            if site is not None:
                self._quantized(node, site)
            elif key(node) not in absorbed:
                self.writer.nodes.append(node)
        return self.writer.finish()

    def _quantized(self, node: onnx.NodeProto, site: CpuSite) -> None:
        """Append `node` with dequantised inputs and Q/DQ on its output, which keeps its name for all readers."""
        inputs = list(node.input)
        for index in activations(self.graph, node):
            inputs[index] = self._entry(inputs[index])
        if weight_of(self.graph, node) is not None:
            self._weights(node, inputs)
        if site.grid_of is None:
            limits = None if site.absorbed is None else bounds(self.graph, self.graph.producer[site.absorbed])
            self._own_grid(site.tensor, limits or (-np.inf, np.inf))
        else:
            self.grids[site.tensor], self.scales[site.tensor] = self.grids[site.grid_of], self.scales[site.grid_of]
        raw = self.writer.fresh(f"{site.tensor}/raw")
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.input[:], copy.output[:] = inputs, [raw]
        self.writer.nodes.append(copy)
        grid = self.grids[site.tensor]
        self.writer.dequantize(self.writer.quantize(raw, grid, site.tensor), grid, site.tensor)
        self.entries[site.tensor] = site.tensor

    def _entry(self, tensor: str) -> str:
        """The dequantised form of an input; one that float operators made is quantised here, for its first reader."""
        if tensor not in self.entries:
            self._own_grid(tensor, (-np.inf, np.inf))
            grid = self.grids[tensor]
            quantized = self.writer.quantize(tensor, grid, tensor)
            self.entries[tensor] = self.writer.dequantize(quantized, grid, self.writer.fresh(f"{tensor}/dequantized"))
        return self.entries[tensor]

    def _own_grid(self, tensor: str, limits: tuple[float, float]) -> None:
        low, high = range_of(self.ranges, tensor).affine_range(self.method)
        scale, zero_point = affine_grid(max(low, limits[0]), min(high, limits[1]))
        self.grids[tensor], self.scales[tensor] = self.writer.grid(tensor, scale, zero_point), scale

    def _weights(self, node: onnx.NodeProto, inputs: list[str]) -> None:
        """Replace the weights and the bias among `inputs` by dequantised integers."""
        weight = weight_of(self.graph, node)
        assert weight is not None
        values, axis = self.graph.constants[weight.name], weight.channel_axis
        bias = self.graph.constants[inputs[2]] if len(inputs) > 2 and inputs[2] else None
        input_scale = self.scales[node.input[0]]
        limits = channel_limits(values, axis)
        if bias is not None:
            bias = np.broadcast_to(bias.reshape(-1), limits.shape)
        scales = weight_scales_for_bias(limits, bias, input_scale)
        inputs[1] = self.writer.constant(weight.name, to_int8(values, scales, axis), scales, axis)
        if bias is not None:
            products = scales * input_scale
            steps = np.rint(bias.astype(np.float64) / products).astype(np.int32)
            inputs[2] = self.writer.constant(node.input[2], steps, products, 0)


def count_fused(graph: Graph) -> Counter[str]:
    """Operators of the graph that ONNX Runtime really runs, by type, after its optimisations."""
    runtime = require("onnxruntime", "counting fused operators")
    with tempfile.TemporaryDirectory() as folder:
        options = runtime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 4  # saving an optimised graph warns that it fits this machine only: it should
        runtime.InferenceSession(graph.serialize(), options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    return Counter(node.op_type for node in model.graph.node)

"""ONNX Runtime's INT8 graph: uint8 tensors between operators that its CPU provider fuses into integer kernels.

Every quantised operator has DQ before it and Q right behind it. A Relu or Clip behind it is left out where the grid
ends inside its limits: saturation does the same. Weights are int8 per output channel over the full range: on x86
without VNNI the session option `session.x64quantprecision` keeps their sums from saturating. Biases are int32 on the
grid of the products.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx

from edgevision.export.alignment import PIXEL, align_depthwise, padded
from edgevision.export.decode_cpu import spread_pairs
from edgevision.export.decode_maps_cpu import compare_pixels
from edgevision.export.decode_offsets_cpu import fuse_offsets
from edgevision.export.graph import Graph, attribute
from edgevision.export.grids import (
    Ranges,
    affine_grid,
    channel_limits,
    range_of,
    to_int8,
    weight_scales_for_bias,
)
from edgevision.export.joined_levels import join_levels
from edgevision.export.pixels import PixelInput
from edgevision.export.placement import Plan
from edgevision.export.placement_cpu import CpuSite
from edgevision.export.qdq import Grid, QdqWriter
from edgevision.export.stem import GROUP, Fold, fold_of
from edgevision.export.structure import activations, bounds, key, weight_of
from edgevision.machine import cores
from edgevision.optional import require


def emit_cpu(graph: Graph, plan: Plan, ranges: Ranges, method: str = "mse", pixels: PixelInput | None = None) -> Graph:
    """The uint8 graph.

    Args:
        graph: float, in normal form, the one that `plan` was made for; left unchanged.
        ranges: of the tensors in `plan.observed`.
        method: how a grid's ends are chosen, see `edgevision.calibration`.
        pixels: what replaces the float input, found in `graph`; None: the input stays as it is.

    Raises:
        CalibrationError: a tensor has no range.
    """
    source = graph.copy()
    align_depthwise(source)
    fuse_offsets(source)
    spread_pairs(source)
    compare_pixels(source)
    if pixels is not None:
        pixels.fold_normalisation(source)
    emitted = _CpuEmitter(source, plan, ranges, method, pixels).run()
    join_levels(emitted)
    return emitted


_EVERYTHING = (-np.inf, np.inf)


class _CpuEmitter:
    def __init__(self, graph: Graph, plan: Plan, ranges: Ranges, method: str, pixels: PixelInput | None) -> None:
        self.graph, self.plan, self.ranges, self.method, self.pixels = graph, plan, ranges, method, pixels
        self.writer = QdqWriter(graph)
        self.grids: dict[str, Grid] = {}
        self.scales: dict[str, np.float32] = {}
        self.entries: dict[str, str] = {}
        self.steps: dict[str, str] = {}

    def run(self) -> Graph:
        self._find_ranges()
        dropped = {site.absorbed for site in self.plan.cpu_sites.values()}
        if self.pixels is not None:
            dropped.add(self.pixels.tensor)
            self._grid(self.pixels.tensor, np.float32(self.pixels.scale), np.uint8(self.pixels.zero_point))
        for node in list(self.graph.nodes):
            site = self.plan.cpu_sites.get(key(node))
            if site is not None:
                self._quantized(node, site)
            elif key(node) not in dropped:
                self.writer.nodes.append(node)
        if self.pixels is not None:
            self.pixels.declare(self.graph)
        return self.writer.finish()

    def _find_ranges(self) -> None:
        """Search for the ends of the grids on all cores; the ranges remember them."""
        tensors = {site.tensor for site in self.plan.cpu_sites.values() if site.grid_of is None}
        with ThreadPoolExecutor(cores(), "grids") as pool:
            list(pool.map(lambda name: self.ranges[name].affine_range(self.method), tensors & self.ranges.keys()))

    def _quantized(self, node: onnx.NodeProto, site: CpuSite) -> None:
        """Append `node` with dequantised inputs and Q/DQ on its output, which keeps its name for all readers."""
        inputs = list(node.input)
        fold = fold_of(self.graph, node) if self._reads_pixels(node) else None
        for index in activations(self.graph, node):
            if fold is not None:
                inputs[index] = self._groups(node.input[index])
            elif self._reads_pixels(node):
                inputs[index] = self._aligned(node.input[index])
            else:
                inputs[index] = self._entry(inputs[index])
        if weight_of(self.graph, node) is not None:
            self._weights(node, inputs, fold)
        if site.grid_of is None:
            limits = None if site.absorbed is None else bounds(self.graph, self.graph.producer[site.absorbed])
            self._own_grid(site.tensor, limits or _EVERYTHING, "minmax" if site.is_head else self.method)
        else:
            self.grids[site.tensor], self.scales[site.tensor] = self.grids[site.grid_of], self.scales[site.grid_of]
        raw = self.writer.fresh(f"{site.tensor}/raw")
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.input[:], copy.output[:] = inputs, [raw]
        self.writer.nodes.append(copy)
        grid = self.grids[site.tensor]
        steps = self.writer.quantize(raw, grid, site.tensor)
        if fold is not None:
            fold.apply(copy, self.graph.constants[node.input[1]].shape[2])
            steps = self._single_pixels(steps, node.output[0])
        self.writer.dequantize(steps, grid, site.tensor)
        self.entries[site.tensor] = site.tensor

    def _entry(self, tensor: str) -> str:
        """The dequantised form of an input; one that float operators made is quantised here, for its first reader."""
        if tensor not in self.entries:
            quantized = self._entry_steps(tensor)
            output = self.writer.fresh(f"{tensor}/dequantized")
            self.entries[tensor] = self.writer.dequantize(quantized, self.grids[tensor], output)
        return self.entries[tensor]

    def _entry_steps(self, tensor: str) -> str:
        """Q of a float tensor."""
        if tensor not in self.steps:
            self._own_grid(tensor, _EVERYTHING, self.method)
            self.steps[tensor] = self.writer.quantize(tensor, self.grids[tensor], tensor)
        return self.steps[tensor]

    def _reads_pixels(self, node: onnx.NodeProto) -> bool:
        """Whether `node` is a convolution over three channels that float operators, or the camera, made."""
        if node.op_type != "Conv" or node.input[0] in self.entries or self.graph.shape(node.input[0]) is None:
            return False
        groups: int = attribute(node, "group", 1)
        return groups == 1 and self.graph.constants[node.input[1]].shape[1] == PIXEL - 1

    def _aligned(self, tensor: str) -> str:
        """The dequantised input of a convolution over three channels with a fourth, empty one."""
        steps, grid = self._entry_steps(tensor), self.grids[tensor]
        batch, _, height, width = self._shape(tensor)
        zero_point = self.graph.constants[grid.zero_point]
        plane = self.graph.add_constant(f"{tensor}/plane", np.full((batch, 1, height, width), zero_point))
        wide = self._move("Concat", [steps, plane], f"{tensor}/aligned", axis=1)
        return self.writer.dequantize(wide, grid, self.writer.fresh(f"{wide}/dequantized"))

    def _groups(self, tensor: str) -> str:
        """The dequantised input of a folded convolution. Both transpositions vanish in ONNX Runtime, whose integer
        convolutions read rows of pixels."""
        if self.pixels is not None and tensor == self.pixels.tensor:
            rows = self.pixels.preprocess.input_name
        else:
            rows = self._move("Transpose", [self._entry_steps(tensor)], f"{tensor}/rows", perm=[0, 2, 3, 1])
        batch, channels, height, width = self._shape(tensor)
        groups = self._reshape(rows, f"{tensor}/groups", [batch, height, width // GROUP, GROUP * channels])
        planes = self._move("Transpose", [groups], f"{tensor}/group_planes", perm=[0, 3, 1, 2])
        return self.writer.dequantize(planes, self.grids[tensor], self.writer.fresh(f"{tensor}/groups/dequantized"))

    def _single_pixels(self, steps: str, tensor: str) -> str:
        """A folded convolution's result in the shape of the original's, `tensor`."""
        batch, channels, height, width = self._shape(tensor)
        rows = self._move("Transpose", [steps], f"{tensor}/rows", perm=[0, 2, 3, 1])
        pixels = self._reshape(rows, f"{tensor}/pixels", [batch, height, width, channels])
        return self._move("Transpose", [pixels], f"{tensor}/planes", perm=[0, 3, 1, 2])

    def _shape(self, tensor: str) -> tuple[int, ...]:
        shape = self.graph.shape(tensor)
        assert shape is not None
        return shape

    def _reshape(self, tensor: str, stem: str, shape: list[int]) -> str:
        return self._move("Reshape", [tensor, self.graph.add_constant(f"{stem}/shape", np.array(shape))], stem)

    def _move(self, op_type: str, inputs: list[str], stem: str, **attributes: object) -> str:
        """Append an operator that moves uint8 values and return its output."""
        output = self.writer.fresh(stem)
        self.writer.nodes.append(
            onnx.helper.make_node(op_type, inputs, [output], name=f"{stem}/{op_type}", **attributes)
        )
        return output

    def _own_grid(self, tensor: str, limits: tuple[float, float], method: str) -> None:
        low, high = range_of(self.ranges, tensor).affine_range(method)
        self._grid(tensor, *affine_grid(max(low, limits[0]), min(high, limits[1])))

    def _grid(self, tensor: str, scale: np.float32, zero_point: np.uint8) -> None:
        self.grids[tensor], self.scales[tensor] = self.writer.grid(tensor, scale, zero_point), scale

    def _weights(self, node: onnx.NodeProto, inputs: list[str], fold: Fold | None) -> None:
        """Replace the weights and the bias among `inputs` by dequantised integers."""
        weight = weight_of(self.graph, node)
        assert weight is not None
        values, axis = self.graph.constants[weight.name], weight.channel_axis
        bias = self.graph.constants[inputs[2]] if len(inputs) > 2 and inputs[2] else None
        if fold is not None:
            values, bias = fold.weights(values), None if bias is None else fold.bias(bias)
        elif self._reads_pixels(node):
            values = padded(values, 1, 1)
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

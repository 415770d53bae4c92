"""A uint8 graph's input as cameras and decoders give it: rows of BGR pixels, with nothing to convert in front.

Normalisation is affine, so it folds into the first convolution: the scale of the input's grid is one channel's
1 / std, the weights carry the others', and what the zero point leaves of the mean goes into the bias. Where the
convolution pads with zeros, the padding is the zero point itself: half a level beside a mean of 127.5.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import onnx

from edgevision.export.graph import Graph, attribute
from edgevision.export.placement_cpu import CpuSite
from edgevision.export.stem import fold_of
from edgevision.export.structure import key, weight_of
from edgevision.manifest import Preprocess

_NEAR = 1.0
"""Channel means this close, in levels, share a zero point."""


@dataclass(frozen=True)
class PixelInput:
    """A float input that uint8 pixels can replace.

    Attributes:
        tensor: what the first convolution reads: float [1,3,h,w], network channel order, normalised.
        float_form: how a picture becomes the float input.
        zero_point: the level that stands for 0 on the new input's grid.
    """

    tensor: str
    float_form: Preprocess
    zero_point: int

    @property
    def preprocess(self) -> Preprocess:
        """How a picture becomes the uint8 input: BGR rows, so that nothing but the resize is left to do."""
        return dataclasses.replace(
            self.float_form, layout="nhwc", dtype="uint8", color="bgr", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
        )

    @property
    def scale(self) -> float:
        """What a level is worth on the new input's grid."""
        return 1 / self._unit

    @property
    def _unit(self) -> float:
        return max(abs(value) for value in self.float_form.std)

    def fold_normalisation(self, graph: Graph) -> None:
        """Let the first convolution expect scale * (level - zero_point) of BGR pixels, as channels of `tensor`."""
        (node,) = graph.consumers[self.tensor]
        weights = graph.constants[node.input[1]].astype(np.float64)
        std, mean = (np.array(values, np.float64) for values in (self.float_form.std, self.float_form.mean))
        offset = (self.zero_point - mean) / std
        bias = graph.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(len(weights))
        bias = bias + np.einsum("ochw,c->o", weights, offset)
        weights = weights * (self._unit / std)[:, None, None]
        if self.float_form.color == "rgb":
            weights = weights[:, ::-1]
        node.input[1:] = [
            graph.add_constant(f"{node.input[1]}/levels", weights.astype(np.float32)),
            graph.add_constant(f"{node.input[1]}/levels_bias", bias.astype(np.float32)),
        ]
        graph.reindex()

    def declare(self, graph: Graph) -> None:
        """Make the graph's input uint8 rows of pixels."""
        width, height = self.float_form.input_wh
        entry = next(entry for entry in graph.proto.input if entry.name == self.float_form.input_name)
        shape = (1, height, width, 3)
        entry.CopyFrom(onnx.helper.make_tensor_value_info(entry.name, onnx.TensorProto.UINT8, shape))


def find_pixels(graph: Graph, sites: dict[str, CpuSite], preprocess: Preprocess) -> PixelInput | str:
    """How uint8 pixels can replace the input of a float graph, or, in words, why they cannot.

    Args:
        graph: float, in normal form, with its shapes; left unchanged.
        sites: where the INT8 goes, see placement_cpu.
        preprocess: how a picture becomes the input.
    """
    if preprocess.dtype == "uint8":
        return "the input is uint8 as it is"
    if preprocess.color == "gray":
        return "the input stays float: pixels become grey in front of the graph"
    tensor = preprocess.input_name
    reader = _only_reader(graph, tensor)
    if preprocess.layout == "nhwc" and reader is not None and reader.op_type == "Transpose":
        tensor = key(reader)
        reader = _only_reader(graph, tensor) if attribute(reader, "perm") == [0, 3, 1, 2] else None
    if reader is None or key(reader) not in sites or reader.op_type != "Conv" or weight_of(graph, reader) is None:
        return "the input stays float: it is not read by one INT8 convolution alone"
    if fold_of(graph, reader) is None:
        return "the input stays float: its width or the first convolution's stride does not allow groups of pixels"
    mean = preprocess.mean
    if any(attribute(reader, "pads", [0])) and max(mean) - min(mean) > _NEAR:
        return f"the input stays float: one zero point cannot pad for channel means {mean}"
    return PixelInput(tensor, preprocess, min(max(round(sum(mean) / 3), 0), 255))


def _only_reader(graph: Graph, tensor: str) -> onnx.NodeProto | None:
    readers = graph.consumers[tensor]
    return readers[0] if len(readers) == 1 and tensor not in graph.outputs else None

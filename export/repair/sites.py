"""Tensors in front of quantised layers: where an INT8 grid meets channels of different size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.calibration import ChannelTable
from edgevision.export.graph import Graph, attribute
from edgevision.export.repair.channel_classes import channel_axis
from edgevision.export.structure import WEIGHTED, key

Floats = NDArray[np.float64]
Magnitudes = Mapping[str, Floats]
"""Tensor -> largest magnitude of each channel."""

# How far a dense layer's inputs are brought together: the wider a channel, the coarser its weights would become.
_DENSE, _DEPTHWISE = 0.5, 1.0
_NARROWEST = 2.0**-12


@dataclass(frozen=True)
class Site:
    """A tensor and the quantised layers that read it.

    Attributes:
        tensor: its name.
        readers: keys of the layers.
        exponent: a channel of magnitude r wants to be divided by (r / largest r) ** exponent. 1 before depthwise
            layers, which mix no channels, so that nothing is lost; 0.5 before dense ones, whose weights in turn get
            the spread that the input loses.
    """

    tensor: str
    readers: tuple[str, ...]
    exponent: float


def find_sites(graph: Graph, quantised: Mapping[str, tuple[int, ...]]) -> list[Site]:
    """Sites in graph order; `quantised`: node -> indices of its quantised inputs (Plan.tensorrt_inputs)."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        if node.op_type in WEIGHTED and 0 in quantised.get(key(node), ()) and _has_channels(graph, node):
            readers.setdefault(node.input[0], []).append(node)
    return [
        Site(tensor, tuple(map(key, nodes)), float(np.mean([_exponent(graph, node) for node in nodes])))
        for tensor, nodes in readers.items()
    ]


def magnitudes(channels: ChannelTable) -> dict[str, Floats]:
    """Largest magnitude of every channel on the pictures."""
    return {
        name: np.maximum(np.abs(found.minimum), np.abs(found.maximum)).astype(np.float64)
        for name, found in channels.ranges.items()
    }


def wanted(site: Site, sizes: Floats) -> Floats:
    """Factors by which the channels of a site want to be divided, at most 1; NaN for a channel that is always zero."""
    largest = sizes.max(initial=0.0)
    if largest == 0:
        return np.full(sizes.shape, np.nan)
    share = np.maximum(sizes / largest, _NARROWEST)
    factors: Floats = np.where(sizes > 0, share**site.exponent, np.nan)
    return factors


def _has_channels(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether the channels that `collect_channels` tells apart are the ones that the weights of `node` see."""
    rank = len(graph.shape(node.input[0]) or ())
    return (channel_axis(node) == 1) == (rank == 4) and not attribute(node, "transA", 0)


def _exponent(graph: Graph, node: onnx.NodeProto) -> float:
    depthwise = node.op_type == "Conv" and graph.constants[node.input[1]].shape[1] == 1
    return _DEPTHWISE if depthwise else _DENSE

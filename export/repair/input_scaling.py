"""Pass `scale-inputs`: a multiplication per channel in front of quantised layers whose channels still differ in size.

Needed where the maker cannot take a factor up: behind SiLU, HardSwish, ReLU6, a sum with either. The weights behind
undo it. It costs one pass over the tensor, which TensorRT joins with the activation before it, and it is left out
where it would gain less than LEAST_GAIN_DB.

Precondition: a float graph with its shapes inferred, and the magnitude of every channel at its sites.
Postcondition: the same outputs up to rounding; each new node is a Mul by a constant, named with SCALE_PREFIX, and read
by quantised layers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgevision.export.graph import SCALE_PREFIX, Graph
from edgevision.export.repair.channel_classes import channel_axis
from edgevision.export.repair.rescaling import scale_inputs
from edgevision.export.repair.sites import Floats, Magnitudes, Site, wanted
from edgevision.export.simplification import remove_dead

LEAST_GAIN_DB = 3.0
"""Least gain in the signal-to-noise ratio of a layer's sums that is worth a multiplication."""


@dataclass(frozen=True)
class Scaled:
    """A multiplication that was put in.

    Attributes:
        tensor: the one that it takes.
        gain_db: how much less noise the readers' sums are expected to have.
    """

    tensor: str
    gain_db: float


def scale_sites(graph: Graph, sites: Sequence[Site], sizes: Magnitudes) -> tuple[Graph, list[Scaled]]:
    """A copy with the multiplications, and where they are.

    Args:
        graph: left unchanged.
        sites: of `graph`.
        sizes: magnitudes of the channels at each site.
    """
    result = graph.copy()
    scaled: list[Scaled] = []
    muls: dict[str, onnx.NodeProto] = {}
    for site in sites:
        factors = np.nan_to_num(wanted(site, sizes[site.tensor]), nan=1.0)
        readers = [result.producer[reader] for reader in site.readers]
        gain = float(np.mean([_gain_db(result, node, sizes[site.tensor], factors) for node in readers]))
        if gain >= LEAST_GAIN_DB:
            muls[site.tensor] = _insert(result, site, readers, factors)
            scaled.append(Scaled(site.tensor, round(gain, 2)))
    _place(result, muls)
    return result, scaled


def _gain_db(graph: Graph, node: onnx.NodeProto, sizes: Floats, factors: Floats) -> float:
    """Noise of the sums of `node` on one grid for all channels over that with each channel divided by its factor.

    A grid of step d makes noise d**2 / 12 per value; a channel's noise counts with the square of its weights.
    """
    weight = graph.constants[node.input[1]].astype(np.float64)
    plain, scaled = (
        float(np.square(scale_inputs(node, weight, steps)).sum())
        for steps in (np.full(sizes.shape, sizes.max()), factors * (sizes / factors).max())
    )
    return 10 * float(np.log10(plain / scaled)) if plain and scaled else 0.0


def _insert(graph: Graph, site: Site, readers: Sequence[onnx.NodeProto], factors: Floats) -> onnx.NodeProto:
    """Let the readers of a site read a rescaled tensor; the node that makes it is returned, not yet in the graph."""
    shape = [1] * len(graph.shape(site.tensor) or ())
    shape[channel_axis(readers[0])] = -1
    divisor = graph.add_constant(f"{site.tensor}/scale", (1 / factors).reshape(shape).astype(np.float32))
    output = graph.fresh(f"{site.tensor}/scaled")
    for node in readers:
        weight = graph.constants[node.input[1]].astype(np.float64)
        node.input[1] = graph.add_constant(
            f"{node.input[1]}/unscaled", scale_inputs(node, weight, factors).astype(np.float32)
        )
        node.input[0] = output
    return onnx.helper.make_node("Mul", [site.tensor, divisor], [output], name=f"{SCALE_PREFIX}{site.tensor}")


def _place(graph: Graph, muls: dict[str, onnx.NodeProto]) -> None:
    """Put each Mul right behind the node that makes what it takes."""
    if not muls:
        return
    nodes = [muls[name] for name in graph.inputs if name in muls]
    for node in graph.nodes:
        nodes.append(node)
        nodes.extend(muls[name] for name in node.output if name in muls)
    graph.replace_nodes(nodes)
    remove_dead(graph)
    graph.infer_shapes()

"""Pass `correct-biases`: takes out what rounding does to the mean of a layer's outputs.

Rounded weights and clipped inputs shift the sums of a channel on every picture alike; a bias takes such a shift out.
Each layer is corrected by itself, on the inputs that the float network gives it (the empirical correction of Nagel et
al., arXiv:1906.04721, without its layer by layer order).

Precondition: layers probed on some pictures, see probing.
Postcondition: corrections for layers with a place for a bias, none larger than the layer's own noise. A shift that
differs from picture to picture is corrected in part: by the share 1 - s**2 / m**2 of the mean m, s its standard error.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevision.export.graph import Graph, attribute
from edgevision.export.repair.probing import Floats, Probe
from edgevision.export.structure import key

_BIASED = frozenset(("Conv", "ConvTranspose", "Gemm"))


def corrections_of(graph: Graph, probes: Mapping[str, Probe]) -> dict[str, NDArray[np.float32]]:
    """What to subtract from the bias of each probed layer, (channels,), by `structure.key`."""
    able = {key(node) for node in graph.nodes if node.op_type in _BIASED and _has_room(graph, node)}
    return {layer: _shift(probe.error).astype(np.float32) for layer, probe in probes.items() if layer in able}


def _has_room(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a constant bias is there or can be added."""
    given = len(node.input) > 2 and node.input[2]
    return (not given or node.input[2] in graph.constants) and attribute(node, "beta", 1.0) != 0


def _shift(errors: Floats) -> Floats:
    mean = errors.mean(axis=0)
    if len(errors) < 2:
        return np.zeros_like(mean)
    uncertain = errors.var(axis=0, ddof=1) / len(errors)
    certain = np.square(mean)
    share: Floats = np.maximum(1 - uncertain / np.maximum(certain, np.finfo(np.float64).tiny), 0)
    shift: Floats = mean * share
    return shift


def explained_db(probes: Mapping[str, Probe]) -> float:
    """Mean over the layers of how much less noise their outputs have, on the same pictures, once corrected."""
    gains = []
    for probe in probes.values():
        noise = probe.noise.mean(axis=0).sum()
        shift = _shift(probe.error)
        left = noise - (2 * shift * probe.error.mean(axis=0) - np.square(shift)).sum()
        if noise > 0 and left > 0:
            gains.append(10 * float(np.log10(noise / left)))
    return round(float(np.mean(gains)), 2) if gains else 0.0

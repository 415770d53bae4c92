"""Pass `rough-layers`: which cheap layers stay float16 because their own grids make much noise.

In most networks a few layers make most of the noise: heavy tails, or sums that nearly cancel. Where such a layer
has a small part of the multiply-adds, float16 costs hardly any time. Noise is taken as a share of the variance of the
layer's output, on pictures, all before it in float; whatever cancels it later is not seen.

Precondition: the layers of a plan, probed (see probing).
Postcondition: reasons for layers whose noise is above ROUGH_DB, those first that cost least for it, together with at
most MOST_SHARE of the network's multiply-adds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgevision.export.graph import Graph
from edgevision.export.repair.probing import Probe
from edgevision.export.structure import network_costs

ROUGH_DB = 30.0
"""Least signal over noise that a layer's grids should leave, dB."""
MOST_SHARE = 0.05
"""Most of the multiply-adds that may stay float for it."""


def rough_layers(graph: Graph, probes: Mapping[str, Probe]) -> dict[str, str]:
    """Keys of the layers to keep float, with the reason.

    Args:
        graph: the one that the probed plan was made for, its shapes inferred.
        probes: of all operators that the plan quantises.
    """
    costs = network_costs(graph)
    total = sum(costs.values())
    noise = {layer: probes[layer].noise_share for layer in costs if layer in probes}
    rough = [layer for layer, share in noise.items() if share > 10 ** (-ROUGH_DB / 10)]
    found, spent = {}, 0
    for layer in sorted(rough, key=lambda layer: -noise[layer] / max(costs[layer], 1)):
        if spent + costs[layer] <= MOST_SHARE * total:
            spent += costs[layer]
            found[layer] = (
                f"its grids would leave {-10 * math.log10(noise[layer]):.1f} dB of signal over noise (least: "
                f"{ROUGH_DB:g}), and it has {costs[layer] / total:.1%} of the multiply-adds: float16"
            )
    return found

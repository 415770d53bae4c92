"""Pass `float-sums`: which residual Adds keep their identity branch in float.

Quantising that branch lets TensorRT fuse the Add into the convolution before it, but puts the grid's noise into a
stream that later blocks only add to. The choice is made per Add, by the noise that was measured on pictures.

Precondition: the operators of a plan, probed (see probing).
Postcondition: reasons for those Adds whose noise would grow by more than MOST_DB.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgevision.export.graph import Graph
from edgevision.export.placement import Plan
from edgevision.export.repair.probing import Probe
from edgevision.export.structure import key

MOST_DB = 6.0
"""Most that the identity's grid may add to the noise which the convolution before the Add makes anyway."""


def float_sums(graph: Graph, plan: Plan, probes: Mapping[str, Probe]) -> dict[str, str]:
    """Keys of the Adds to keep float, with the reason.

    Args:
        graph: the one that `plan` was made for.
        probes: of all operators that `plan` quantises.
    """
    found = {}
    for node in graph.nodes:
        if node.op_type != "Add" or key(node) not in plan.tensorrt_inputs:
            continue
        (identity,) = plan.tensorrt_inputs[key(node)]
        branch = graph.producer[node.input[1 - identity]]
        noise, own = (probes[name].noise.mean() for name in (key(node), key(branch)))
        growth = 10 * float(np.log10((own + noise) / own)) if own else float("inf") if noise else 0.0
        if growth > MOST_DB:
            found[key(node)] = (
                f"residual Add: its identity's grid would add {growth:.1f} dB of noise (most: {MOST_DB:g})"
            )
    return found

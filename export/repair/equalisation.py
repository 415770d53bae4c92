"""Pass `equalise`: brings the channels of every quantised tensor to a like size, at no cost.

Precondition: a float graph in normal form with its shapes inferred, and the magnitude of every channel at its sites.
Postcondition: the same outputs up to rounding, the same nodes and names; only weights, biases and added constants are
others. Channels of class 0 (see channel_classes) stay as they were.

Where several sites share channels, each wants its own factors; the mean of their logarithms is taken, in which the
size of a whole site does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgevision.export.graph import Graph
from edgevision.export.repair.channel_classes import ChannelClasses
from edgevision.export.repair.rescaling import rescale
from edgevision.export.repair.sites import Floats, Magnitudes, Site, wanted
from edgevision.export.structure import decode_nodes

_ROUNDS = 20
# A little less than all of a site's offset is taken out per round, which keeps channels tied to nothing near 1.
_DAMPING = 0.9
_MOST = 12 * np.log(2)


def equalise(graph: Graph, sites: Sequence[Site], sizes: Magnitudes) -> tuple[Graph, dict[str, Floats]]:
    """An equalised copy, and the magnitudes of its channels.

    Args:
        graph: left unchanged.
        sites: of `graph`.
        sizes: magnitudes of the channels at each site.
    """
    classes = ChannelClasses(graph, decode_nodes(graph))
    labels = {site.tensor: classes.of(site.tensor).ravel() for site in sites}
    factors = _factors(len(classes), [(labels[site.tensor], wanted(site, sizes[site.tensor])) for site in sites])
    result = graph.copy()
    rescale(result, classes, factors)
    result.infer_shapes()
    return result, {site.tensor: sizes[site.tensor] / factors[labels[site.tensor]] for site in sites}


def _factors(count: int, wishes: Sequence[tuple[np.ndarray, Floats]]) -> Floats:
    """One factor per class, nearest in logarithms to what the sites want; that of class 0 is 1."""
    logs = np.zeros(count)
    alive = [(np.broadcast_to(labels, wish.shape)[wish > 0], np.log(wish[wish > 0])) for labels, wish in wishes]
    offsets = [0.0] * len(alive)
    for _ in range(_ROUNDS):
        total, votes = np.zeros(count), np.zeros(count)
        for (labels, wish), offset in zip(alive, offsets, strict=True):
            np.add.at(total, labels, wish - offset)
            np.add.at(votes, labels, 1)
        logs = total / np.maximum(votes, 1)
        logs[0] = 0
        offsets = [_DAMPING * float((wish - logs[labels]).mean()) if wish.size else 0.0 for labels, wish in alive]
    factors: Floats = np.exp(np.clip(logs, -_MOST, _MOST))
    return factors

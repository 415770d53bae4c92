"""Candidates of the search for an accuracy budget: a network with some layers in FP16, and what it loses."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence

from edgevision.export.emission import count_layers, emit_int8
from edgevision.export.findings import Figures, Findings
from edgevision.export.placement import plan_placement
from edgevision.export.quantisation import Quantised
from edgevision.export.sensitivity import Layer
from edgevision.export.yardstick import Goal, Loss, Yardstick, loss_of
from edgevision.manifest import GraphInfo
from edgevision.progress import Progress

# Of one dithered run on 64 pictures, in points (measured: 0.2 to 0.6); a candidate further off than three of these
# after some of its runs is not measured on.
_SPREAD_POINTS = 0.6


class Candidates:
    """Measures networks, each once."""

    def __init__(
        self, quantised: Quantised, islands: Mapping[str, str], yardstick: Yardstick, goal: Goal, findings: Findings
    ) -> None:
        """
        Args:
            quantised: with all layers in INT8 that can be.
            islands: see half_ranges.
            findings: takes every measurement.
        """
        self._quantised, self._islands, self._yardstick, self._goal = quantised, islands, yardstick, goal
        self._findings = findings

    def judge(self, kept: Sequence[Layer], seeds: Sequence[int], progress: Progress, *, typed: bool) -> Loss:
        """The loss with `kept` in FP16; of one that is hopeless after some runs the loss so far.

        Args:
            typed: run the very graph of the bundle, with float16 between the grids; else one with float32, which takes
                half the time on a CPU and is told apart by the noise of a run at most.
        """
        graph = emit_int8(keeping(self._quantised, kept), self._islands, typed=typed)
        info = GraphInfo("int8", *count_layers(graph))
        runs = []
        for number, seed in enumerate(seeds, 1):
            runs.append(self.measured("tensorrt.onnx", graph.serialize(), info, seed))
            loss = loss_of(runs, seeds[:number])
            progress.update(note=f"{len(kept)} layers in FP16 lose {loss.drop_points:.2f} points")
            if self._is_hopeless(loss):
                break
        return loss

    def measured(self, name: str, graph: bytes, info: GraphInfo, seed: int) -> Figures:
        """See Yardstick.run."""
        entry = f"run/{hashlib.sha256(graph).hexdigest()}/{seed}"
        if entry not in self._findings:
            self._findings.keep(entry, self._yardstick.run(name, graph, info, seed))
        return self._findings[entry]

    def miss(self, loss: Loss, errors: float) -> str:
        """Why a loss is too much, in words; each figure may lie beyond its bound by so many of its standard errors."""
        return loss.miss(self._goal, 0.0 if self._is_hopeless(loss) else errors)

    def _is_hopeless(self, loss: Loss) -> bool:
        """Whether more runs would not save it: few may scatter so much that their own standard error excuses all."""
        return loss.drop_points > self._goal.max_drop + 3 * _SPREAD_POINTS / math.sqrt(len(loss.seeds))


def keeping(quantised: Quantised, kept: Sequence[Layer]) -> Quantised:
    """The same with `kept` in FP16, and all that was float already."""
    stay = {name: decision.reason for name, decision in quantised.plan.tensorrt.items() if not decision.int8}
    stay |= {
        layer.key: f"kept in FP16 to meet the budget: alone it leaves an SQNR of {layer.sqnr_db:g} dB" for layer in kept
    }
    plan = plan_placement(
        quantised.graph,
        tensorrt_graph=quantised.tensorrt_graph,
        heads=True,
        centre=bool(quantised.plan.centred),
        keep_float=stay,
    )
    return dataclasses.replace(quantised, plan=plan)

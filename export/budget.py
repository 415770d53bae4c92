"""The fewest layers in FP16 with which TensorRT's INT8 graph loses no more than the user allows.

Layers are moved to FP16 in order of the error that one multiply-add in FP16 removes, as sensitivity.py measures it. How
many are needed is found by measuring the loss: by bisection, as more layers in FP16 lose less, but for noise. A loss is
the mean of several runs on dithered input. The search looks for a low one, and so likes those that were lucky; the
verdict therefore comes from runs with seeds that the search has not seen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from edgevision.calibration import CalibrationImages
from edgevision.export.config import ExportConfig
from edgevision.export.emission import Emitted, count_layers, emit_int8
from edgevision.export.layer_report import describe_layers, find_layers, open_findings
from edgevision.export.placement import plan_placement
from edgevision.export.preparation import PreparedModel
from edgevision.export.quantisation import Quantised
from edgevision.export.sensitivity import Layer, telling_inputs
from edgevision.export.yardstick import Goal, Loss, Yardstick, facts_of, loss_of
from edgevision.manifest import GraphInfo
from edgevision.progress import Progress

if TYPE_CHECKING:
    from edgevision.evaluation import Dataset

# Runs of one candidate: in the search, and for the verdict. A large set's mean moves little.
_SEARCH, _VERDICT, _LARGE_SET, _LARGE = 3, 4, 500, 2
_VERDICTS = 3
_FRESH = 1000
# Of one dithered run on 64 pictures, in points (measured: 0.2 to 0.6); a candidate further off than three of these
# after some of its runs is not measured on.
_SPREAD_POINTS = 0.6
_LEAST_SHARE = 0.5
# What a layer between others of another precision costs besides, as a share of the network's multiply-adds: without it
# a sum, which has next to none, would seem a bargain whatever it does.
_SWITCH = 0.002
# In standard errors, by how much a mean above the budget does not yet refute a candidate: for the verdict, and in the
# search, which should neither give up layers for noise nor hand much to the verdict that fails there.
_ERRORS, _DOUBT = 2.0, 1.0


class Budget:
    """One search.

    Attributes:
        layers: every layer that the graph without a budget has in INT8, with its error.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        quantised: Quantised,
        islands: Mapping[str, str],
        images: CalibrationImages | None,
        dataset: Dataset | None,
        config: ExportConfig,
    ) -> None:
        """
        Args:
            quantised: with all layers in INT8 that can be.
            islands: see half_ranges.
            dataset: labelled; None: agreement with the float model on the calibration pictures is judged.
            config: its max_drop is given.

        Raises:
            DatasetError: none of the pictures can be read.
        """
        assert config.max_drop is not None
        self._prepared, self._quantised, self._islands, self._quiet = prepared, quantised, islands, config.quiet
        self._goal = Goal(config.max_drop, config.max_score_shift, config.min_recall)
        self._yardstick = Yardstick(prepared, dataset, images)
        few = self._yardstick.count < _LARGE_SET
        self._runs = {"search": _SEARCH if few else _LARGE, "verdict": _VERDICT if few else _LARGE}
        self._inputs = telling_inputs(prepared, images, dataset)
        self._findings = open_findings(
            config, emit_int8(quantised, islands), quantised, images, self._yardstick.digest()
        )
        self._searched: list[dict[str, Any]] = []
        self._verdict: Loss | None = None
        self.layers: list[Layer] = []

    def meet(self) -> Quantised | None:
        """Search; the report gets `accuracy`, `budget` and `layers`.

        Returns:
            The network with as many layers in FP16 as it takes; None: the budget cannot be met.
        """
        self.layers = find_layers(self._quantised, self._inputs, self._findings, quiet=self._quiet)
        order = in_order(self.layers)
        problem, kept = "", 0
        refuted: Loss | None = None
        seeds = list(range(self._runs["search"]))
        with Progress("meeting the accuracy budget", self._most_runs(len(order)), quiet=self._quiet) as progress:
            for attempt in range(_VERDICTS):
                kept, loss = self._search(order, kept, refuted, seeds, progress)
                problem = self._miss(loss, _DOUBT)
                if problem or kept == len(order) > 0:
                    break
                loss, problem = self._confirm(order[:kept], _FRESH * (attempt + 1), progress)
                if not problem:
                    break
                seeds, refuted = [*seeds, *loss.seeds], loss
        if not problem and kept == len(order) > 0:
            problem = "it takes all layers in FP16: nothing would be left in INT8"
        elif problem:
            problem = f"with {kept} of {len(order)} layers in FP16: {problem}"
        result = keeping(self._quantised, order[:kept])
        self._report(result, order[:kept], loss, problem)
        return None if problem else result

    def refuses(self, emitted: Emitted) -> str:
        """Why the CPU's INT8 graph may not be used; empty where it loses no more than allowed.

        Runs it with the seeds of the verdict.
        """
        assert self._verdict is not None
        graph, info = emitted.graphs["cpu.onnx"], emitted.infos["cpu.onnx"]
        runs = [self._measured("cpu.onnx", graph, info, seed) for seed in self._verdict.seeds]
        loss = loss_of(runs, self._verdict.seeds)
        self._prepared.report.accuracy["cpu.onnx"] = loss.value
        self._prepared.report.budget["cpu"] = facts_of(loss)
        return self._miss(loss, _ERRORS)

    def _confirm(self, kept: Sequence[Layer], seed: int, progress: Progress) -> tuple[Loss, str]:
        """The loss with seeds from `seed` on, twice as many where the first do not tell; and why it is too much."""
        for count in (self._runs["verdict"], 2 * self._runs["verdict"]):
            loss = self._verdict = self._judge(kept, range(seed, seed + count), progress, typed=True)
            problem = self._miss(loss, _ERRORS)
            if problem or not loss.miss(self._goal):
                break
        return loss, problem

    def _search(
        self, order: Sequence[Layer], first: int, refuted: Loss | None, seeds: Sequence[int], progress: Progress
    ) -> tuple[int, Loss]:
        """How many layers must go, from `first` on, and the loss then; the loss of all where that is still too much.

        Args:
            refuted: what a verdict said of `first`; None: it is to be measured.
            seeds: of the runs.
        """
        losses: dict[int, Loss] = {} if refuted is None else {first: refuted}

        def holds(count: int) -> bool:
            typed = count == len(order)  # float16 is all that is left to lose by
            losses[count] = self._judge(order[:count], seeds, progress, typed=typed)
            return not self._miss(losses[count], _DOUBT)

        if (refuted is None and holds(first)) or first == len(order):
            return first, losses[first]
        kept = fewest(first, len(order), self._guess(order, losses[first].drop_points, first), holds)
        return kept, losses[kept]

    def _guess(self, order: Sequence[Layer], drop_points: float, first: int) -> int:
        """How many layers it takes if the loss is in proportion to the noise that is left."""
        left = list(accumulate((-layer.noise for layer in order), initial=sum(layer.noise for layer in order)))
        allowed = left[first] * max(self._goal.max_drop, 0.0) / max(drop_points, 1e-9)
        return next((count for count in range(first + 1, len(order)) if left[count] <= allowed), len(order))

    def _judge(self, kept: Sequence[Layer], seeds: Sequence[int], progress: Progress, *, typed: bool) -> Loss:
        """The loss with `kept` in FP16; of one that is hopeless after some runs the loss so far.

        Args:
            typed: run the very graph of the bundle, with float16 between the grids; else one with float32, which takes
                half the time on a CPU and is told apart by the noise of a run at most.
        """
        graph = emit_int8(keeping(self._quantised, kept), self._islands, typed=typed)
        info = GraphInfo("int8", *count_layers(graph))
        runs = []
        for number, seed in enumerate(seeds, 1):
            runs.append(self._measured("tensorrt.onnx", graph.serialize(), info, seed))
            loss = loss_of(runs, seeds[:number])
            progress.update(note=f"{len(kept)} layers in FP16 lose {loss.drop_points:.2f} points")
            if self._is_hopeless(loss):
                break
        self._searched.append(
            {
                "layers_in_fp16": len(kept),
                **facts_of(loss),
                "met": not self._miss(loss, _ERRORS if typed else _DOUBT),
            }
        )
        return loss

    def _measured(self, name: str, graph: bytes, info: GraphInfo, seed: int) -> dict[str, float | None]:
        entry = f"run/{hashlib.sha256(graph).hexdigest()}/{seed}"
        if entry not in self._findings:
            self._findings.keep(entry, self._yardstick.run(name, graph, info, seed))
        return self._findings[entry]

    def _is_hopeless(self, loss: Loss) -> bool:
        """Whether more runs would not save it: few may scatter so much that their own standard error excuses all."""
        return loss.drop_points > self._goal.max_drop + 3 * _SPREAD_POINTS / math.sqrt(len(loss.seeds))

    def _miss(self, loss: Loss, errors: float) -> str:
        """Why a loss is too much, in words; each figure may lie beyond its bound by so many of its standard errors."""
        return loss.miss(self._goal, 0.0 if self._is_hopeless(loss) else errors)

    def _most_runs(self, count: int) -> int:
        """Of a search whose first verdict holds."""
        return self._runs["search"] * (2 + 2 * count.bit_length()) + 2 * self._runs["verdict"]

    def _report(self, result: Quantised, kept: Sequence[Layer], loss: Loss, problem: str) -> None:
        report, goal = self._prepared.report, self._goal
        describe_layers(self._prepared, result, self.layers)
        error = "" if loss.standard_error is None else f" ± {loss.standard_error:.2f}"
        words = (
            f"{self._yardstick.words}: loses {loss.drop_points:.2f}{error} points, at most {goal.max_drop:g} (and "
            f"{_ERRORS:g} standard errors) allowed; {len(kept)} of {len(self.layers)} layers kept in FP16 for it; "
            f"{report.int8_macs_share:.1%} of the multiply-adds in INT8"
        )
        report.budget = {
            "words": f"missed, {problem}" if problem else words,
            "measured": self._yardstick.words,
            "max_drop_points": goal.max_drop,
            "max_score_shift": goal.max_score_shift,
            "min_recall": goal.min_recall,
            "kept_in_fp16": [{"node": x.node, "sqnr_db": x.sqnr_db, "multiply_adds": x.multiply_adds} for x in kept],
            "search": self._searched,
            "resumed": self._findings.note,
        }
        report.accuracy = {
            "metric": self._yardstick.metric,
            "model.onnx": loss.reference,
            "tensorrt.onnx": loss.value,
            **facts_of(loss),
            "max_drop_points": goal.max_drop,
            "repeats": len(loss.seeds),
            "passed": not problem,
        }
        if not problem and report.int8_macs_share < _LEAST_SHARE:
            report.warnings.append(
                f"to meet the accuracy budget only {report.int8_macs_share:.0%} of the multiply-adds stay in INT8: "
                "--precision fp16 is hardly slower then, and loses nothing"
            )


def in_order(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that remove most noise for what they cost first."""
    switch = max(_SWITCH * sum(layer.multiply_adds for layer in layers), 1)
    return sorted(layers, key=lambda layer: -layer.noise / (layer.multiply_adds + switch))


def fewest(first: int, most: int, guess: int, holds: Callable[[int], bool]) -> int:
    """The least number above `first` that holds, where larger ones do if a smaller one does; `most` if none is found.

    Args:
        first: does not hold.
        guess: where to begin, in first + 1..most.
        holds: measures; called once a number.
    """
    low, high = first, max(guess, first + 1)
    while high < most and not holds(high):
        low, high = high, min(most, first + 2 * (high - first))
    if high >= most and not holds(most):
        return most
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


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

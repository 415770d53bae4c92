"""The fewest layers in FP16 with which TensorRT's INT8 graph loses no more than the user allows.

layer_search.py chooses them. A loss is the mean of several runs on dithered input. The search looks for a low one, and
so likes those that were lucky; the verdict therefore comes from runs with seeds that the search has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgevision.calibration import CalibrationImages
from edgevision.export.candidates import Candidates, keeping
from edgevision.export.config import ExportConfig
from edgevision.export.emission import Emitted, emit_int8
from edgevision.export.layer_report import describe_layers, find_layers, open_findings
from edgevision.export.layer_search import TRIALS, LayerSearch
from edgevision.export.preparation import PreparedModel
from edgevision.export.quantisation import Quantised
from edgevision.export.sensitivity import Layer, telling_inputs
from edgevision.export.yardstick import Goal, Loss, Yardstick, facts_of, loss_of
from edgevision.progress import Progress

if TYPE_CHECKING:
    from edgevision.evaluation import Dataset

# Runs of one candidate: in the search, and for the verdict. A large set's mean moves little.
_SEARCH, _VERDICT, _LARGE_SET, _LARGE = 3, 4, 500, 2
_VERDICTS = 3
_FRESH = 1000
_LEAST_SHARE = 0.5
# In standard errors, by how much a mean above the budget does not refute what the search found.
_ERRORS = 2.0


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
        self._candidates = Candidates(quantised, islands, self._yardstick, self._goal, self._findings)
        self._searched: list[dict[str, Any]] = []
        self._verdict: Loss | None = None
        self.layers: list[Layer] = []

    def meet(self) -> Quantised | None:
        """Search; the report gets `accuracy`, `budget` and `layers`.

        Returns:
            The network with as many layers in FP16 as it takes; None: the budget cannot be met.
        """
        self.layers = find_layers(self._quantised, self._inputs, self._findings, quiet=self._quiet)
        candidates, every = self._candidates, len(self.layers)
        search = LayerSearch(self.layers, self._goal.max_drop, candidates.miss)
        seeds = list(range(self._runs["search"]))
        refuted: Loss | None = None
        with Progress("meeting the accuracy budget", self._most_runs(every), quiet=self._quiet) as progress:

            def measure(kept: Sequence[Layer]) -> Loss:
                # float16 is all that is left to lose by, or what the verdict, which sees it, may have refuted
                typed = len(kept) == every or refuted is not None
                loss = candidates.judge(kept, seeds, progress, typed=typed)
                self._note(kept, search.given_back, loss, search.doubt)
                return loss

            for attempt in range(_VERDICTS):
                loss = search.run(measure, refuted)
                kept = search.kept
                problem = candidates.miss(loss, search.doubt)
                if problem or len(kept) == every > 0:
                    break
                loss, problem = self._confirm(search, _FRESH * (attempt + 1), progress)
                if not problem:
                    break
                seeds, refuted = [*seeds, *loss.seeds], loss
        if not problem and len(kept) == every > 0:
            problem = "it takes all layers in FP16: nothing would be left in INT8"
        elif problem:
            problem = f"with {len(kept)} of {every} layers in FP16: {problem}"
        result = keeping(self._quantised, kept)
        self._report(result, kept, loss, problem)
        return None if problem else result

    def refuses(self, emitted: Emitted) -> str:
        """Why the CPU's INT8 graph may not be used; empty where it loses no more than allowed.

        Runs it with the seeds of the verdict.
        """
        assert self._verdict is not None
        graph, info = emitted.graphs["cpu.onnx"], emitted.infos["cpu.onnx"]
        runs = [self._candidates.measured("cpu.onnx", graph, info, seed) for seed in self._verdict.seeds]
        loss = loss_of(runs, self._verdict.seeds)
        self._prepared.report.accuracy["cpu.onnx"] = loss.value
        self._prepared.report.budget["cpu"] = facts_of(loss)
        return self._candidates.miss(loss, _ERRORS)

    def _confirm(self, search: LayerSearch, seed: int, progress: Progress) -> tuple[Loss, str]:
        """The loss with seeds from `seed` on, twice as many where the first do not tell; and why it is too much."""
        for count in (self._runs["verdict"], 2 * self._runs["verdict"]):
            seeds = range(seed, seed + count)
            loss = self._verdict = self._candidates.judge(search.kept, seeds, progress, typed=True)
            self._note(search.kept, search.given_back, loss, _ERRORS)
            problem = self._candidates.miss(loss, _ERRORS)
            if problem or not loss.miss(self._goal):
                break
        return loss, problem

    def _note(self, kept: Sequence[Layer], given_back: Sequence[Layer], loss: Loss, errors: float) -> None:
        self._searched.append(
            {
                "layers_in_fp16": len(kept),
                "given_back": [layer.node for layer in given_back],
                **facts_of(loss),
                "met": not self._candidates.miss(loss, errors),
            }
        )

    def _most_runs(self, count: int) -> int:
        """Of a search whose first verdict holds."""
        return self._runs["search"] * (2 + 4 * count.bit_length() + TRIALS) + 2 * self._runs["verdict"]

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
                "--precision fp16 loses less; on the board, edgevision build --compare-fp16 tells which is faster"
            )

"""The graphs of one bundle side by side: float, FP16, and INT8 as TensorRT and as the CPU run it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgevision.bundle import GRAPHS, Bundle
from edgevision.evaluation.agreement import Agreement
from edgevision.evaluation.datasets import Dataset, PictureSet
from edgevision.evaluation.evaluator import check_repeats, result, spread, standard_error
from edgevision.evaluation.judging import Judge, Score
from edgevision.evaluation.recording import Recording
from edgevision.evaluation.running import Dither, dithers, run_pictures
from edgevision.evaluation.showcase import Shown, show
from edgevision.model import Model
from edgevision.progress import Progress
from edgevision.results import Result

REFERENCE = "model.onnx"
_LOSSES = (
    *("map_50_95", "map_50", "mask_map_50_95", "mask_map_50", "miou", "pixel_accuracy"),
    *("recall_at_threshold", "precision_at_threshold"),
)
_WORST_LAYERS = 10


@dataclass
class Comparison:
    """What `compare_graphs` found.

    Attributes:
        data: the figures, plain data.
        shown: the pictures on which the graphs differ most, drawn.
    """

    data: dict[str, Any]
    shown: list[Shown] = field(default_factory=list)


def compare(bundle: Bundle | Path | str, dataset: Dataset | PictureSet, **options: Any) -> dict[str, Any]:
    """The figures of `compare_graphs`."""
    return compare_graphs(bundle, dataset, **options).data


def compare_graphs(
    bundle: Bundle | Path | str,
    dataset: Dataset | PictureSet,
    *,
    repeats: int = 1,
    confidence: float | None = None,
    limit: int | None = None,
    pictures: int = 0,
    seeds: Sequence[int] = (),
    recording: Recording | None = None,
    quiet: bool = True,
) -> Comparison:
    """Evaluate every graph that a bundle holds, on the CPU, picture by picture beside the float graph.

    Args:
        bundle, repeats, confidence, limit, quiet: as for `evaluate`.
        dataset: labelled, or pictures alone: then there is agreement with the float graph, and no accuracy.
        pictures: how many of those on which the graphs differ most are drawn.
        seeds: of the dithers, one run each, in place of the first `repeats`.
        recording: what the float graph found in earlier calls with the same pictures; takes what it finds now.

    Returns:
        Of its data: `bundle`, `task`, `images`, `labelled`, `threshold`, `repeats`; `graphs` {graph: the result of
        `evaluate` (without labels its accuracies are None), with `loss_points` and `agreement`}; `layers`, of the
        export report the layers that quantisation harms most; `fp16`, its proof.
        `loss_points` {figure: {`mean`, `standard_error`}} is how many hundredths each figure lies below the float
        graph's, with the error of the paired differences, None without repeats. `agreement` is what
        agreement.summarise says, with `standard_error` and `score_histogram`; the float graph has none.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    check_repeats(repeats)
    manifest = bundle.manifest
    judge = Judge(manifest, dataset, limit, confidence)
    names = [graph for graph in GRAPHS if graph in manifest.graphs]
    agreements = [Agreement(judge.threshold) for _ in names[1:]]
    runs: list[list[dict[str, Any]]] = [[] for _ in names]
    dithered = seeds or (range(repeats) if repeats > 1 else ())
    with ExitStack() as stack:
        models = [stack.enter_context(_open(bundle, name, judge)) for name in names]
        noises: list[list[Dither | None]] = [dithers(models, seed) for seed in dithered] or [[None] * len(models)]
        total = len(judge.pictures) * len(noises)
        with Progress(f"comparing the graphs of {manifest.name}", total, quiet=quiet) as progress:
            for number, noise in enumerate(noises):
                for agreement in agreements:
                    agreement.runs.append({})
                taker = _Taker([judge.score() for _ in names], agreements)
                known = None
                if recording is not None and dithered:
                    known = functools.partial(recording.get, dithered[number])
                    taker.keep = functools.partial(recording.keep, dithered[number])
                run_pictures(models, noise, judge.pictures, range(len(judge.pictures)), taker, progress, known)
                for figures, score in zip(runs, taker.scores, strict=True):
                    figures.append(score.metrics())
        results = {
            name: result(bundle, model, judge, figures)
            for name, model, figures in zip(names, models, runs, strict=True)
        }
        worst = _worst_pictures(agreements, pictures)
        shown = show(models, noises[0], judge, worst, agreements)
    for found in results.values():
        found["loss_points"] = _loss(results[REFERENCE], found)
    for name, agreement in zip(names[1:], agreements, strict=True):
        results[name]["agreement"] = _agreement(agreement, manifest.labels)
    report = bundle.report()
    data = {
        "bundle": manifest.name,
        "task": manifest.task,
        "images": len(judge.pictures),
        "labelled": not isinstance(dataset, PictureSet),
        "threshold": judge.threshold,
        "repeats": len(noises),
        "graphs": results,
        "layers": worst_layers(report),
        "fp16": report["fp16"] if isinstance(report.get("fp16"), dict) else None,
        "warnings": judge.warnings,
    }
    return Comparison(data, shown)


class _Taker:
    """Gives one picture's results to every graph's score and agreement, and the float one's to `keep`."""

    def __init__(self, scores: list[Score], agreements: list[Agreement]) -> None:
        self.scores, self._agreements = scores, agreements
        self.keep: Callable[[int, Result], None] | None = None

    def __call__(self, index: int, results: list[Result]) -> None:
        if self.keep is not None:
            self.keep(index, results[0])
        for score, found in zip(self.scores, results, strict=True):
            score.add(index, found)
        for agreement, found in zip(self._agreements, results[1:], strict=True):
            agreement.add(index, results[0], found)


def _open(bundle: Bundle, name: str, judge: Judge) -> Model:
    return Model(
        bundle,
        backend="cpu",
        precision=bundle.manifest.graphs[name].precision,
        graph="tensorrt" if name.startswith("tensorrt") else "cpu",
        threads=1,
        confidence=judge.floor,
        quiet=True,
    )


def _worst_pictures(agreements: list[Agreement], count: int) -> list[int]:
    """Each graph's worst picture, then each one's second, and so on."""
    ranked = [agreement.most_different(count) for agreement in agreements]
    turns = [order[i] for i in range(count) for order in ranked if i < len(order)]
    return list(dict.fromkeys(turns))[:count]


def _loss(reference: dict[str, Any], found: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    losses: dict[str, dict[str, float | None]] = {}
    for key in _LOSSES:
        if reference[key] is None or found[key] is None:
            continue
        error = None
        if "runs" in reference:
            pairs = zip(reference["runs"], found["runs"], strict=True)
            error = standard_error([100 * (a[key] - b[key]) for a, b in pairs])
        losses[key] = {"mean": 100 * (reference[key] - found[key]), "standard_error": error}
    return losses


def _agreement(agreement: Agreement, names: tuple[str, ...]) -> dict[str, Any]:
    runs = agreement.figures(names)
    figures = {key: _mean([run[key] for run in runs]) for key in runs[0]}
    error = spread(runs)["standard_error"] if len(runs) > 1 else {}
    return {**figures, "standard_error": error, "score_histogram": agreement.score_histogram()}


def _mean(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _mean([value[key] for value in values if key in value]) for key in keys}
    return None if None in values else values[0] if len(values) == 1 else float(np.mean(values))


def worst_layers(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers whose quantisation adds most noise, worst first, as an export report (from anywhere) names them:
    {`node`, `sqnr_db`, `int8`, `reason`}."""
    layers = report.get("layers")
    known = [
        {
            "node": str(layer.get("node", "")),
            "sqnr_db": float(layer["sqnr_db"]),
            "int8": layer.get("int8") is True,
            "reason": str(layer.get("reason", "")),
        }
        for layer in (layers if isinstance(layers, list) else [])
        if isinstance(layer, dict) and type(layer.get("sqnr_db")) in (int, float) and math.isfinite(layer["sqnr_db"])
    ]
    return sorted(known, key=lambda layer: float(str(layer["sqnr_db"])))[:_WORST_LAYERS]

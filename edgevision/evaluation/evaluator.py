"""The evaluation run: every picture of a data set through one graph of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.bundle import Bundle
from edgevision.errors import UsageError
from edgevision.evaluation.datasets import Dataset
from edgevision.evaluation.judging import Judge
from edgevision.evaluation.running import dithers, run_pictures
from edgevision.model import Model
from edgevision.progress import Progress

_KEYS = (
    *("map_50_95", "map_50", "mask_map_50_95", "mask_map_50", "miou", "pixel_accuracy"),
    *("recall_at_threshold", "precision_at_threshold", "per_class"),
)


def evaluate(
    bundle: Bundle | Path | str,
    dataset: Dataset,
    *,
    backend: str = "cpu",
    device: int = 0,
    precision: str | None = None,
    graph: str = "auto",
    repeats: int = 1,
    confidence: float | None = None,
    limit: int | None = None,
    draws: NDArray[np.int64] | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """How good a bundle is on a data set.

    Boxes are found as in use (the bundle's NMS), but down to a confidence of judging.CONFIDENCE_FLOOR.

    Args:
        bundle: the bundle or its path.
        dataset: from `open_dataset`; boxes for a detector, with outlines for one with masks; class masks for a
            segmenter.
        backend, device: what runs it; see `edgevision.load`. Repeats need the CPU.
        precision, graph: which graph runs; see `edgevision.load`.
        repeats: with more than 1, that many runs with the input dithered by up to half a grey level, the same noise
            for every bundle and graph: figures are means, with their standard errors. A single run on few pictures
            cannot judge tenths of a point.
        confidence: at which recall and precision are reported; None: the bundle's own threshold.
        limit: use the first pictures only.
        draws: (n, pictures) how often each picture counts in each of n resamples; tells how far a figure depends on
            the choice of pictures.
        quiet: no progress.

    Returns:
        `bundle`, `graph`, `precision`, `model` (what ran it, see Model.facts), `images`; `map_50_95`, `map_50`,
        `mask_map_50_95`, `mask_map_50`, `recall_at_threshold`, `precision_at_threshold` or `miou`, `pixel_accuracy`
        (None where they do not apply; 0..1); `per_class`; `threshold`; `voc_ap_50` on VOC data; with repeats
        `standard_error` and `runs` (the figures of each); `warnings`; with draws `resampled`, of each run the n values
        of `map_50_95` or `miou` (NaN where the pictures drawn hold nothing to find).

    Raises:
        DatasetError: the data set does not fit the model, or a picture or mask cannot be read.
        UsageError: an option is out of range.
        BundleError, SessionError: the bundle cannot be used.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    check_repeats(repeats)
    judge = Judge(bundle.manifest, dataset, limit, confidence)
    with Model(
        bundle,
        backend="cpu" if backend == "auto" and repeats > 1 else backend,
        device=device,
        precision=precision,
        graph=graph,
        threads=1,
        confidence=judge.floor,
        quiet=quiet,
    ) as model:
        label = f"evaluating {bundle.manifest.name}, {model.graph_name}"
        runs, resampled = [], []
        with Progress(label, len(judge.pictures) * repeats, quiet=quiet) as progress:
            for run in range(repeats):
                score = judge.score(draws)
                run_pictures(
                    [model],
                    dithers([model], run) if repeats > 1 else [None],
                    judge.pictures,
                    range(len(judge.pictures)),
                    lambda index, results, score=score: score.add(index, results[0]),  # type: ignore[misc]
                    progress,
                )
                runs.append(score.metrics())
                if draws is not None:
                    resampled.append(score.resampled().tolist())
        return {**result(bundle, model, judge, runs), **({} if draws is None else {"resampled": resampled})}


def check_repeats(repeats: int) -> None:
    """Raises:
    UsageError: fewer than one.
    """
    if repeats < 1:
        raise UsageError(f"repeats is at least 1, got {repeats}")


def result(bundle: Bundle, model: Model, judge: Judge, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What `evaluate` returns of one graph, from the figures of each run."""
    facts = model.facts()
    return {
        "bundle": bundle.manifest.name,
        "graph": facts["graph"],
        "precision": facts["precision"],
        "model": facts,
        "images": len(judge.pictures),
        **dict.fromkeys(_KEYS),
        "threshold": judge.threshold,
        **average(runs),
        **(spread(runs) if len(runs) > 1 else {}),
        "warnings": judge.warnings,
    }


def average(runs: list[Any]) -> Any:
    """Means over runs, key by key; whole numbers do not vary, and what one run lacks has none."""
    first = runs[0]
    if isinstance(first, dict):
        return {key: average([run[key] for run in runs]) for key in first}
    if isinstance(first, int) or None in runs:
        return first if isinstance(first, int) else None
    return float(np.mean(runs))


def spread(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of each run, and the standard errors of their means."""
    figures = [key for key, value in runs[0].items() if isinstance(value, float)]
    table = {key: [run[key] for run in runs] for key in figures if None not in [run[key] for run in runs]}
    return {
        "standard_error": {key: standard_error(values) for key, values in table.items()},
        "runs": [{key: table[key][i] for key in table} for i in range(len(runs))],
    }


def standard_error(values: list[float]) -> float:
    """Standard error of the mean of at least two values."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))

"""The graphs of one bundle side by side: float, FP16, and INT8 as TensorRT and as the CPU run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgevision.bundle import GRAPHS, Bundle
from edgevision.evaluation.datasets import Dataset
from edgevision.evaluation.evaluator import evaluate, standard_error

REFERENCE = "model.onnx"


def compare(bundle: Bundle | Path | str, dataset: Dataset, **options: Any) -> dict[str, Any]:
    """Evaluate every graph that a bundle holds.

    Args:
        bundle, dataset, options: as for `evaluate`, but for `precision` and `graph`.

    Returns:
        `bundle`, `images`, and `graphs`: {graph: the result of `evaluate`, with `loss_points`}. That is how many
        points (hundredths) each figure lies below the float graph's: {figure: {`mean`, `standard_error`}}; the error
        is that of the paired differences and None without repeats.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    results: dict[str, dict[str, Any]] = {}
    for name in (graph for graph in GRAPHS if graph in bundle.manifest.graphs):
        precision = bundle.manifest.graphs[name].precision
        graph = "tensorrt" if name.startswith("tensorrt") else "cpu"
        results[name] = evaluate(bundle, dataset, precision=precision, graph=graph, **options)
        results[name]["loss_points"] = _loss(results[REFERENCE], results[name])
    reference = results[REFERENCE]
    return {"bundle": reference["bundle"], "images": reference["images"], "graphs": results}


def _loss(reference: dict[str, Any], result: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    losses: dict[str, dict[str, float | None]] = {}
    for key in (
        "map_50_95",
        "map_50",
        "mask_map_50_95",
        "mask_map_50",
        "miou",
        "pixel_accuracy",
        "recall_at_threshold",
    ):
        if reference[key] is None:
            continue
        error = None
        if "runs" in reference:
            pairs = zip(reference["runs"], result["runs"], strict=True)
            error = standard_error([100 * (a[key] - b[key]) for a, b in pairs])
        losses[key] = {"mean": 100 * (reference[key] - result[key]), "standard_error": error}
    return losses

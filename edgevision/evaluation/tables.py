"""A comparison as tables of text, for the terminal, Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIGURES = {
    "map_50_95": "mAP50-95",
    "map_50": "mAP50",
    "mask_map_50_95": "mask mAP50-95",
    "mask_map_50": "mask mAP50",
    "voc_ap_50": "VOC AP50",
    "miou": "mIoU",
    "pixel_accuracy": "pixels right",
    "recall_at_threshold": "recall",
    "precision_at_threshold": "precision",
}
_AGREEMENT = {
    "matched_50": "boxes matched, IoU .5",
    "matched_70": "IoU .7",
    "matched_around": "around the threshold",
    "missing": "missing",
    "extra": "extra",
    "top1_same": "same best class",
    "score_shift": "score shift",
    "mask_iou": "mask IoU",
    "mask_iou_by_area": "by area",
    "pixels_same": "pixels same",
    "keypoint_px": "keypoints off, px",
    "keypoint_share": "of the box",
    "box_iou": "box IoU",
}
_DIGITS = {"missing": 0, "extra": 0, "keypoint_px": 2}
_HALF = {
    "pictures": "measured on",
    "largest": "largest number met",
    "largest_tensor": "in",
    "margin": "times this for pictures not seen",
    "float32_nodes": "operators kept in FP32 for it",
    "constants_to_zero": "numbers of constants that become 0",
    "scores_sqnr_db": "scores, SQNR in dB",
    "logits_sqnr_db": "logits, SQNR in dB",
    "boxes_error_px": "boxes off, px",
    "map_agreement": "pixels same",
}
_CLASS_FIGURES = {"ap_50_95": "AP50-95", "iou": "IoU"}


@dataclass(frozen=True)
class Table:
    """A title, a sentence of explanation, and cells; the first column holds names, the others figures."""

    title: str
    note: str
    header: list[str]
    rows: list[list[str]]


def comparison_tables(data: Mapping[str, Any]) -> list[Table]:
    """The tables of what `compare` returns, those without rows left out."""
    graphs = list(data["graphs"].values())
    tables = [
        *([_accuracy(graphs)] if data["labelled"] else []),
        _agreement(graphs),
        _layers(data["layers"]),
        _half(data["fp16"] or {}),
    ]
    return [table for table in tables if table.rows]


def class_table(data: Mapping[str, Any]) -> Table:
    """One figure per class and graph, for data that can be long."""
    graphs = list(data["graphs"].values())
    return _per_class(graphs) if data["labelled"] else _per_class_agreement(graphs)


def figure(found: Mapping[str, Any], key: str, digits: int = 3) -> str:
    """One of a result's figures, with its standard error where it has one."""
    value, error = found.get(key), found.get("standard_error", {}).get(key)
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits + 1}f} ±{error:.{digits + 1}f}"


def _accuracy(graphs: Sequence[Mapping[str, Any]]) -> Table:
    first = graphs[0]
    keys = [key for key in FIGURES if first.get(key) is not None]
    lost = [key for key in keys if key in first["loss_points"]][:1]
    rows = [
        [
            graph["graph"],
            graph["precision"],
            *(figure(graph, key) for key in keys),
            *(_loss(graph, key) for key in lost),
        ]
        for graph in graphs
    ]
    threshold = first["threshold"]
    note = "" if threshold is None else f"Recall and precision at confidence {threshold:g}, IoU 0.5."
    header = ["graph", "type", *(FIGURES[key] for key in keys), *(f"{FIGURES[key]} lost, points" for key in lost)]
    return Table("Accuracy", note, header, rows)


def _loss(graph: Mapping[str, Any], key: str) -> str:
    loss = graph["loss_points"].get(key)
    if loss is None:
        return "-"
    error = loss["standard_error"]
    return f"{loss['mean']:.2f}" if error is None else f"{loss['mean']:.2f} ±{error:.2f}"


def _agreement(graphs: Sequence[Mapping[str, Any]]) -> Table:
    others = [graph for graph in graphs if "agreement" in graph]
    keys = [key for key in _AGREEMENT if any(graph["agreement"].get(key) is not None for graph in others)]
    rows = [
        [g["graph"], g["precision"], *(figure(g["agreement"], key, _DIGITS.get(key, 4)) for key in keys)]
        for g in others
    ]
    threshold = graphs[0]["threshold"]
    where = "" if threshold is None else f", boxes at confidence {threshold:g}"
    note = f"How much is as the float graph has it{where}. This is not accuracy: both can be wrong together."
    return Table("Agreement with float", note, ["graph", "type", *(_AGREEMENT[key] for key in keys)], rows)


def _layers(layers: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [layer["node"], f"{layer['sqnr_db']:.1f}", "INT8" if layer["int8"] else "float", layer["reason"]]
        for layer in layers
    ]
    note = "Those whose quantisation adds most noise, as measured at export: signal over error of what it computes."
    return Table("Worst layers", note, ["layer", "SQNR, dB", "runs in", "why"], rows)


def _half(facts: Mapping[str, Any]) -> Table:
    plain = {key: facts[key] for key in _HALF if isinstance(facts.get(key), (str, int, float))}
    rows = [[_HALF[key], f"{value:.5g}" if isinstance(value, float) else str(value)] for key, value in plain.items()]
    note = "What the export found with every result rounded to half precision."
    return Table("FP16", note, ["", "found at export"], rows)


def _per_class(graphs: Sequence[Mapping[str, Any]]) -> Table:
    classes = graphs[0]["per_class"] or {}
    key = next((key for key in _CLASS_FIGURES if any(key in entry for entry in classes.values())), "")
    rows = [[name, *(f"{graph['per_class'][name][key]:.3f}" for graph in graphs)] for name in classes]
    header = ["class", *(graph["graph"] for graph in graphs)]
    return Table("Classes", f"{_CLASS_FIGURES.get(key, '')} of each.", header, rows)


def _per_class_agreement(graphs: Sequence[Mapping[str, Any]]) -> Table:
    others = [graph for graph in graphs if graph.get("agreement", {}).get("per_class")]
    classes = dict.fromkeys(name for graph in others for name in graph["agreement"]["per_class"])
    rows = [[name, *(figure(graph["agreement"]["per_class"], name) for graph in others)] for name in classes]
    return Table("Classes", "Mask IoU with the float graph.", ["class", *(graph["graph"] for graph in others)], rows)

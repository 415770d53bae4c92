"""What was found, as tables: quantization.json and quantization.md."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quantization.methods import METHODS, OURS
from benchmarks.quantization.steps import Protocol, speed_up
from benchmarks.quantization.verdict import ERRORS, Lead, leads, loss, recall_kept
from edgevision.benchmark import machine_facts, software_facts
from edgevision.files import atomic_path

_METRICS = {"map_50_95": "mAP50-95", "miou": "mIoU"}
_TITLES = {method.name: method.title for method in METHODS}


def assemble(
    results: Mapping[str, Any], left_out: Sequence[str], protocol: Protocol, verdicts: list[dict[str, Any]]
) -> dict[str, Any]:
    """Everything there is to say, as plain data; `left_out` are the models that were not measured."""
    return {
        "protocol": dataclasses.asdict(protocol),
        "machine": machine_facts(),
        "software": software_facts(),
        "models": _published(results),
        "leads": {
            model: {name: dataclasses.asdict(lead) for name, lead in leads(result).items()}
            for model, result in results.items()
        },
        "left_out": list(left_out),
        "verdicts": verdicts,
    }


def _published(value: Any) -> Any:
    """Without what results are kept by, which names this machine's folders, and without the thousands of figures of
    resamples, whose outcome is in `leads`."""
    if isinstance(value, dict):
        return {name: _published(entry) for name, entry in value.items() if name not in ("key", "resampled")}
    return value


def write(folder: Path, data: Mapping[str, Any]) -> None:
    """quantization.json and quantization.md, each whole or not at all.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("quantization.json", json.dumps(data, indent=1) + "\n"),
        ("quantization.md", markdown(data) + "\n"),
    ):
        with atomic_path(folder / name) as path:
            path.write_text(text)


def markdown(data: Mapping[str, Any]) -> str:
    """The report for people."""
    protocol, software = data["protocol"], data["software"]
    models = data["models"]
    loads = [
        entry["export"]["load"] for model in models.values() for entry in model["methods"].values() if "export" in entry
    ]
    dates = sorted(model["float"]["date"] for model in models.values())
    parts = [
        "# INT8 against the peers'",
        f"{data['machine']['cpu']}, {data['machine']['cores']} cores, onnxruntime {software['onnxruntime']}"
        f"{_peer_versions(models)}, edgevision {software['edgevision']}{_commits(models)}; {dates[0][:10]}. "
        "Made by `python -m benchmarks.quantization`; every run's figures are in quantization.json.",
        f"Accuracy is the mean of {protocol['repeats']} runs with the input dithered by half a grey level, the same "
        "noise for all; losses are of paired runs, ± is one standard error, of what noise does on these pictures (what "
        f"other pictures would do: see Ahead), recall is at confidence {protocol['confidence']:g}. Graphs for TensorRT "
        "run as fake quantisation, those for the CPU on ONNX Runtime's integer kernels. Peers quantise the network in "
        "front of the decode, which stays float for all. Export is the whole process: ours decodes and prepares the "
        "pictures, writes FP16 and CPU graphs and verifies them all; peers get prepared pictures. Speed is of one "
        "inference on one thread against float, all graphs in turn, median over "
        f"{protocol['rounds']} rounds.",
    ]
    if max(loads, default=0) > data["machine"]["cores"]:
        parts.append(
            f"**Other programs kept this machine busy (load {min(loads):.0f} to {max(loads):.0f}): seconds on the "
            "clock mean little, processor seconds and ratios more.**"
        )
    if data["left_out"]:
        parts.append(f"Not measured yet: {', '.join(data['left_out'])}.")
    answers = {True: "yes", False: "**no**", None: "not judged"}
    rows = [[v["row"], v["model"], v["goal"], answers[v["holds"]], v["found"]] for v in data["verdicts"]]
    parts += ["## Verdict", table(["row", "model", "goal", "holds", "found"], rows)]
    parts += ["## Points lost", _summary(models)]
    parts += [
        "## Ahead",
        "Points by which our default is ahead of float and of each peer's settings for TensorRT; **bold**: behind. The "
        "first ± is the standard error of the runs. The second is that of the choice of pictures: the standard "
        f"deviation, over {protocol['resamples']} resamples of the pictures with replacement, the same for all, of the "
        "difference between the means over the runs. Noise is drawn for each picture and run on its own, so that "
        "resampling pictures resamples it as well: the second error holds the first, and the verdict on accuracy "
        f"against the peers allows {ERRORS} of it. A lead within that may turn round on other pictures of the kind.",
        _leads(data["leads"], models),
    ]
    for name, model in models.items():
        parts += [f"## {name}", _model_table(model)]
        parts += [
            f"{_TITLES[method]} failed: {entry['failed']}"
            for method, entry in model["methods"].items()
            if "failed" in entry
        ]
    return "\n\n".join(parts)


def _summary(models: Mapping[str, Any]) -> str:
    """Every method on every model."""
    rows = []
    for method in METHODS:
        losses = [loss(model, method.name) for model in models.values()]
        if any(losses):
            rows.append([method.title, *("" if lost is None else f"{lost[0]:.2f} ±{lost[1]:.2f}" for lost in losses)])
    return table(["method", *(f"{name}, {_METRICS[model['metric']]}" for name, model in models.items())], rows)


def _leads(found: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    """Of ours over every other method, on every model."""
    rows = []
    for name, title in {"float": "float", **_TITLES}.items():
        held = [Lead(**entry[name]) if name in entry else None for entry in found.values()]
        if any(held):
            rows.append([title, *map(_lead, held)])
    return table(["ours to", *(f"{name}, {_METRICS[models[name]['metric']]}" for name in found)], rows)


def _lead(lead: Lead | None) -> str:
    if lead is None:
        return ""
    points = f"{lead.points:+.2f}"
    return f"{f'**{points}**' if lead.points < 0 else points} ±{lead.runs:.2f} ±{lead.pictures:.2f}"


def _model_table(model: Mapping[str, Any]) -> str:
    metric = model["metric"]
    float_ms = statistics.median(model["speed"]["rounds_ms"]["float"])
    rows = [["float", f"{100 * model['float']['figures'][metric]:.2f}", "", "", "", "", "", f"1 ({float_ms:.1f} ms)"]]
    for name, entry in model["methods"].items():
        if "failed" in entry:
            continue
        lost, kept = loss(model, name), recall_kept(model, name)
        assert lost is not None
        export, ratio = entry["export"], speed_up(model["speed"]["rounds_ms"], name)
        rows.append(
            [
                _TITLES[name] + (" (float)" if "float_because" in entry["accuracy"] else ""),
                f"{100 * entry['accuracy']['figures'][metric]:.2f}",
                f"{lost[0]:.2f} ±{lost[1]:.2f}",
                "" if kept is None else f"{kept:.1%}",
                f"{export['wall_s']:.1f}",
                f"{export['cpu_s']:.1f}",
                str(export["peak_mib"]),
                "" if ratio is None else f"{ratio:.2f}",
            ]
        )
    recall = model["float"]["figures"].get("recall_at_threshold")
    header = [
        "method",
        _METRICS[metric],
        "lost, points",
        "recall kept" if recall is None else f"recall kept of {100 * recall:.1f}",
        "export, s",
        "processor, s",
        "peak MiB",
        "CPU speed",
    ]
    return table(header, rows)


def _commits(models: Mapping[str, Any]) -> str:
    """What our exports were made with."""
    ours = [model["methods"].get(OURS.name, {}).get("export", {}) for model in models.values()]
    found = dict.fromkeys(export["commit"] for export in ours if export.get("commit"))
    return f" (commit {', '.join(found)})" if found else ""


def _peer_versions(models: Mapping[str, Any]) -> str:
    """Of nvidia-modelopt and of the ONNX Runtime beside it, where it took part."""
    for model in models.values():
        for entry in model["methods"].values():
            versions = entry.get("export", {}).get("versions", {})
            if "nvidia-modelopt" in versions:
                return f", nvidia-modelopt {versions['nvidia-modelopt']} (on onnxruntime {versions['onnxruntime']})"
    return ""


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)

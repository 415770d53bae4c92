"""What was found, judged and written down: gpu.json and gpu.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgevision.files import atomic_path

LEAST_SHARE_OF_COPY = 0.7
MOST_SHARE_OF_TORCHVISION = 1 / 3


def judge(data: dict[str, Any], judged_batch: int) -> list[dict[str, Any]]:
    """The goals: `holds` is None where a goal could not be judged."""
    shares = [row["share_of_copy"] for row in data["preprocess"] if row["batch"] >= judged_batch]
    against = [row["share_of_torchvision"] for row in data["nms"] if "share_of_torchvision" in row]
    outcomes = [entry["outcome"] for entry in data["sanitizer"].values()]
    ran = [outcome for outcome in outcomes if outcome != "not installed"]
    replay = data["replay"]
    return [
        _verdict("every kernel has its twin's bits", all(check["passed"] for check in data["checks"])),
        _verdict(
            "compute-sanitizer finds nothing", all(o == "passed" for o in ran) if ran else None, ", ".join(outcomes)
        ),
        _verdict("the replayed graph gives the CPU's detections", replay["correct"]),
        _verdict(
            f"preprocessing reaches {LEAST_SHARE_OF_COPY:.0%} of copy bandwidth for batches of {judged_batch} or more",
            min(shares) >= LEAST_SHARE_OF_COPY if shares and data["means_something"] else None,
            f"least {min(shares):.0%}" if shares else "",
        ),
        _verdict(
            "NMS takes at most a third of torchvision's time",
            max(against) <= MOST_SHARE_OF_TORCHVISION if against and data["means_something"] else None,
            f"most {max(against):.2f}" if against else "torchvision is not installed, or sees no GPU",
        ),
    ]


def _verdict(goal: str, holds: bool | None, found: str = "") -> dict[str, Any]:
    return {"goal": goal, "holds": holds, "found": found}


def write(folder: Path, data: dict[str, Any]) -> None:
    """gpu.json and gpu.md, each whole or not at all.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("gpu.json", json.dumps(data, indent=1) + "\n"), ("gpu.md", markdown(data))):
        with atomic_path(folder / name) as path:
            path.write_text(text)


def markdown(data: dict[str, Any]) -> str:
    """The report as tables."""
    machine = data["machine"]
    parts = [
        f"# Kernels on {machine['name']}",
        f"SM {machine['sm'] / 10}, driver for CUDA {machine['cuda']}, kernels compiled by {machine['compiler']}; "
        f"{machine['date']}. Made by `python -m benchmarks.gpu`.",
    ]
    if not data["means_something"]:
        parts.append("**A trial of the script with tiny sizes: the times mean nothing.**")
    answers = {True: "yes", False: "**no**", None: "not judged"}
    parts.append(
        _table(["goal", "holds", "found"], [[v["goal"], answers[v["holds"]], v["found"]] for v in data["verdicts"]])
    )
    parts.append("## Against the twins")
    rows = [[c["kernel"], c["cases"], c["values"], c["differing"], c["allowed"]] for c in data["checks"]]
    parts.append(_table(["kernel", "cases", "values", "differing", "allowed"], rows))
    parts.append(
        "compute-sanitizer: " + ", ".join(f"{tool} {e['outcome']}" for tool, e in data["sanitizer"].items()) + "."
    )
    parts.append("## Against memory")
    parts.append("Bytes are those a kernel must touch; the copy is the driver's, within the GPU.")
    rows = [
        [
            row["kernel"],
            f"{row['ms'] * 1e3:.1f}",
            f"{row['gb_per_s']:.0f}",
            f"{row['copy_gb_per_s']:.0f}",
            f"{row['share_of_copy']:.0%}",
        ]
        for row in [*data["preprocess"], *data["semantic"]]
    ]
    parts.append(_table(["kernel", "µs", "GB/s", "copy GB/s", "share"], rows))
    parts.append("## Against torch and torchvision")
    parts.append(
        "As a caller sees it, until the result is in device memory; median milliseconds, all in turn in one process."
    )
    names = list(dict.fromkeys(name for row in data["nms"] for name in row["ms"]))
    rows = [[f"NMS, {row['candidates']} candidates", *_times(row, names)] for row in data["nms"]]
    parts.append(_table(["", *names], rows))
    if data["torch_preprocess"]:
        rows = [
            [f"preprocess, batch {row['batch']}", *_times(row, ["ours", "torch"])] for row in data["torch_preprocess"]
        ]
        parts.append(_table(["", "ours", "torch"], rows))
    else:
        parts.append("torch is not installed, or sees no GPU.")
    replay = data["replay"]
    parts.append("## One CUDA graph: upload, preprocess, stand-in model, NMS, download")
    parts.append(
        f"{replay['frames']} frames one after another, {replay['detections']} detections each. The model is a stand-in "
        "with a network's memory traffic and recorded outputs. Milliseconds."
    )
    kinds = replay["latency_ms"]
    columns = list(kinds["graph"])
    parts.append(
        _table(["", *columns], [[kind, *(f"{times[c]:.3f}" for c in columns)] for kind, times in kinds.items()])
    )
    stages = replay["stages_ms"]
    parts.append(_table(["stage", "µs on the GPU"], [[name, f"{ms * 1e3:.1f}"] for name, ms in stages.items()]))
    return "\n\n".join(parts) + "\n"


def _times(row: dict[str, Any], names: list[str]) -> list[str]:
    return [f"{row['ms'][name]:.3f}" if name in row["ms"] else "" for name in names]


def _table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)

"""What runs a model: the arguments that choose it, and how a verb says it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

BACKENDS = ("auto", "cpu", "tensorrt", "tensorrt-rtx")


def add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--backend` and `--device`."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="auto: TensorRT where it is installed and finds a GPU, else the CPU; builds the engine at first use",
    )
    parser.add_argument("--device", type=int, default=0, metavar="N", help="number of the GPU (default: 0)")


def backend_text(facts: Mapping[str, Any]) -> str:
    """What ran, for people, from `Model.facts()`."""
    if facts["backend"] == "cpu":
        reason = facts["backend_reason"].partition(". ")[0]
        return f"on the CPU, {facts['graph']} ({facts['precision']}): {reason}"
    graph = "replayed as a CUDA graph" if facts["cuda_graph"] else "without a CUDA graph"
    lines = [f"on {facts['gpu']}, {facts['runtime']}, {facts['graph']} ({facts['precision']}), {graph}"]
    lines += [f"note: not at a higher precision: {reason}" for reason in facts["reasons"]]
    return "\n".join([*lines, *(f"note: {note}" for note in facts["notes"])])

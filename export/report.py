"""What an export did, step by step: printed, and kept in the bundle as report.json."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class StepReport:
    """One step of the pipeline.

    Attributes:
        name: the step.
        seconds: how long it took.
        facts: what it found and did.
    """

    name: str
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class ExportReport:
    """The whole export.

    Attributes:
        source_sha256: hash of the model file.
        family, task, precision: what it became.
        layers_int8, layers_float: weighted layers of TensorRT's graph by the precision of their inputs.
        int8_macs_share: of the multiply-adds of TensorRT's graph, how much is INT8.
        accuracy: how much INT8 loses, where a budget was given.
        budget: that budget, and how it was met (see budget.py).
        layers: what each quantised layer harms, the worst first, where that was measured.
        fp16: what real pictures do to float16, and how near the FP16 graph comes with every result rounded to half.
        bundle: path of the bundle; empty until written.
        warnings: what the user should know.
        steps: every step in order.
    """

    source_sha256: str = ""
    family: str = ""
    task: str = ""
    precision: str = ""
    layers_int8: int = 0
    layers_float: int = 0
    int8_macs_share: float = 0.0
    accuracy: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    fp16: dict[str, Any] = field(default_factory=dict)
    bundle: str = ""
    warnings: list[str] = field(default_factory=list)
    steps: list[StepReport] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a step; the body fills in its facts."""
        step = StepReport(name)
        self.steps.append(step)
        start = time.perf_counter()
        try:
            yield step.facts
        finally:
            step.seconds = round(time.perf_counter() - start, 3)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

"""The export, step by step."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgevision.bundle import write_bundle
from edgevision.calibration import CalibrationImages
from edgevision.errors import UsageError
from edgevision.export.acceptance import choose_cpu_graph, verify
from edgevision.export.batching import free_batches
from edgevision.export.budget import Budget
from edgevision.export.config import ExportConfig
from edgevision.export.emission import emit
from edgevision.export.gains import repair_gains
from edgevision.export.half_ranges import keep_float32
from edgevision.export.layer_report import name_layers
from edgevision.export.preparation import prepare
from edgevision.export.quantisation import quantise
from edgevision.export.report import ExportReport

if TYPE_CHECKING:
    from edgevision.evaluation import Dataset


def export_model(source: Path | str, output: Path | str, config: ExportConfig) -> ExportReport:
    """Export an ONNX model to a bundle.

    Args:
        source: the .onnx file.
        output: the bundle to write; replaced only when everything succeeded.
        config: options.

    Returns:
        The report. Its `bundle` is empty, and nothing was written, where the accuracy budget was missed.

    Raises:
        EdgeVisionError: the model, the pictures, the data set or an option cannot be used; nothing is written.
    """
    _check_output(source, output)
    images, dataset = _open_images(config), _open_dataset(config)

    prepared = prepare(source, config)
    report = prepared.report
    quantised = quantise(prepared, images, config) if report.precision == "int8" else None
    with report.step("half") as report.fp16:
        islands = keep_float32(prepared.graph, report.precision, prepared.preprocess, images, report.fp16)
    budget = None
    if quantised is not None and config.max_drop is not None:
        with report.step("budget"):
            budget = Budget(prepared, quantised, islands, images, dataset, config)
            quantised = budget.meet()
        if quantised is None:
            return report
    elif quantised is not None:
        with report.step("sensitivity") as facts:
            name_layers(prepared, quantised, islands, images, config)
            if config.sensitivity and images is not None:
                facts.update(repair_gains_db=repair_gains(prepared, quantised, images, config))
    with report.step("emit") as facts:
        emitted = emit(prepared.graph, report.precision, quantised, prepared.preprocess, islands)
        facts.update(emitted.facts)
        main = emitted.infos.get("tensorrt.onnx", emitted.infos["model.onnx"])
        report.layers_int8, report.layers_float = main.layers_int8, main.layers_float
    with report.step("batch") as batches:
        batches.update(free_batches(emitted))
    with report.step("verify") as facts:
        facts.update(verify(emitted, prepared.preprocess, images, report.warnings, batches))
        report.fp16.update(facts.get("tensorrt_fp16.onnx", facts.get("tensorrt.onnx", {})))
    with report.step("choose") as choice:
        refuses = None if budget is None else budget.refuses
        cpu_graph, reason = choose_cpu_graph(emitted, prepared.preprocess, images, facts, refuses)
        choice.update(cpu_graph=cpu_graph, reason=reason)
    manifest = prepared.manifest(emitted.infos, cpu_graph, reason)
    files = dict(emitted.graphs)
    if quantised is not None:
        files["ranges.json"] = quantised.ranges.to_json().encode()
    report.bundle = str(output)
    files["report.json"] = json.dumps(report.to_json(), indent=1).encode()
    write_bundle(output, manifest, files)
    return report


def _check_output(source: Path | str, output: Path | str) -> None:
    """Find out now, not after minutes of calibration, that the bundle cannot be written."""
    target = Path(output)
    if target.is_dir():
        raise UsageError(f"{target} is a folder; give the bundle's file name, for example {target / 'model.edge'}")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"folder {target.absolute().parent} does not exist; create it first")
    with contextlib.suppress(OSError):
        if target.exists() and target.samefile(source):
            raise UsageError(f"the bundle would overwrite the model {source}; choose another name")


def _open_images(config: ExportConfig) -> CalibrationImages | None:
    if config.calibration_images is None:
        return None
    return CalibrationImages(config.calibration_images, config.calibration_limit)


def _open_dataset(config: ExportConfig) -> Dataset | None:
    if config.dataset is None:
        return None
    from edgevision.evaluation import open_dataset

    return open_dataset(config.dataset)

"""The export, step by step."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgevision
from edgevision.bundle import Bundle, write_bundle
from edgevision.calibration import CalibrationImages, RangeTable, load_or_collect
from edgevision.errors import ModelError, UsageError
from edgevision.export.config import ExportConfig
from edgevision.export.emission import Emitted, emit
from edgevision.export.placement import plan_placement
from edgevision.export.preparation import PreparedModel, prepare
from edgevision.export.report import ExportReport
from edgevision.export.verification import compare, concerns, input_tensors, run_graph, speed_ratio
from edgevision.machine import cpu_name
from edgevision.manifest import Manifest

if TYPE_CHECKING:
    from edgevision.evaluation import Dataset

# An INT8 graph on the CPU must be worth its error.
_LEAST_SPEED_UP = 1.1


def export_model(source: Path | str, output: Path | str, config: ExportConfig) -> ExportReport:
    """Export an ONNX model to a bundle.

    Args:
        source: the .onnx file.
        output: the bundle to write; replaced only when everything succeeded.
        config: options.

    Returns:
        The report. Its `bundle` is empty, and nothing was written, where the accuracy gate was missed.

    Raises:
        EdgeVisionError: the model, the pictures, the data set or an option cannot be used; nothing is written.
    """
    _check_output(source, output)
    images, dataset = _open_images(config), _open_dataset(config)

    prepared = prepare(source, config)
    report = prepared.report
    plan, ranges = None, None
    if report.precision == "int8":
        with report.step("place") as facts:
            plan = plan_placement(prepared.graph)
            facts.update(tensors_observed=len(plan.observed))
        with report.step("calibrate") as facts:
            ranges = _calibrate(prepared, plan.observed, images, config, facts, report.warnings)
    with report.step("emit") as facts:
        emitted = emit(prepared.graph, report.precision, plan, ranges, config.calibration_method)
        facts.update(emitted.facts)
        main = emitted.infos.get("tensorrt.onnx", emitted.infos["model.onnx"])
        report.layers_int8, report.layers_float = main.layers_int8, main.layers_float
    with report.step("verify") as facts:
        cpu_graph, reason = _verify(emitted, prepared, images, facts, report.warnings)
    manifest = Manifest(
        name=prepared.name,
        task=prepared.task,
        family=prepared.family,
        precision=report.precision,
        labels=prepared.labels,
        preprocess=prepared.preprocess,
        graphs=emitted.infos,
        nms=prepared.nms,
        cpu_graph=cpu_graph,
        cpu_graph_reason=reason,
        source_sha256=prepared.source_sha256,
        producer=f"edgevision {edgevision.__version__}",
    )
    files = dict(emitted.graphs)
    if ranges is not None:
        files["ranges.json"] = ranges.to_json().encode()
    if dataset is not None:
        with report.step("accuracy") as facts:
            report.accuracy = _measure_accuracy(manifest, files, dataset, config)
            facts.update(report.accuracy)
        if not report.accuracy["passed"]:
            return report
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


def _calibrate(
    prepared: PreparedModel,
    tensors: tuple[str, ...],
    images: CalibrationImages | None,
    config: ExportConfig,
    facts: dict[str, Any],
    warnings: list[str],
) -> RangeTable:
    assert images is not None  # ExportConfig sees to it
    graph = prepared.graph.serialize()
    ranges, origin = load_or_collect(config.ranges, graph, tensors, images, prepared.preprocess, quiet=config.quiet)
    facts.update(images=ranges.images, skipped=list(ranges.skipped), origin=origin, method=config.calibration_method)
    warnings.extend(ranges.warnings)
    return ranges


def _verify(
    emitted: Emitted,
    prepared: PreparedModel,
    images: CalibrationImages | None,
    facts: dict[str, Any],
    warnings: list[str],
) -> tuple[str, str]:
    """Compare every graph with the float one; returns the graph for ONNX Runtime's CPU provider, and why that one."""
    inputs = input_tensors(prepared.preprocess, images)
    facts["pictures"] = f"{len(inputs)} {'drawn, seeded ones' if images is None else 'of the calibration pictures'}"
    try:
        reference = run_graph(emitted.graphs["model.onnx"], inputs, exact=False)
    except ModelError as error:
        raise ModelError(f"the float model itself fails: {error}") from error
    reason = "float is the only CPU form of this bundle"
    for name in sorted(emitted.graphs.keys() - {"model.onnx"}):
        try:
            outputs = run_graph(emitted.graphs[name], inputs, exact=name.startswith("tensorrt"))
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
        likeness = facts[name] = compare(reference, outputs)
        doubts = concerns(emitted.infos[name].precision, likeness)
        if name != "cpu.onnx":
            warnings.extend(f"{name}: {doubt}" for doubt in doubts)
            continue
        ratio = speed_ratio(emitted.graphs["model.onnx"], emitted.graphs[name], inputs[0])
        facts["cpu_speed_up"] = round(ratio, 2)
        measured = f"INT8 ran {ratio:.2f} times as fast as float, one thread, on {cpu_name()}"
        if ratio >= _LEAST_SPEED_UP and not doubts:
            return "cpu.onnx", measured
        del emitted.graphs[name], emitted.infos[name]
        reason = f"float, because {'; '.join(doubts) if doubts else measured}"
    return "model.onnx", reason


def _measure_accuracy(
    manifest: Manifest, files: dict[str, bytes], dataset: Dataset, config: ExportConfig
) -> dict[str, Any]:
    """Float and INT8 on the user's data set, from a bundle in a temporary folder."""
    from edgevision.evaluation import evaluate
    from edgevision.model import Model

    metric = "map_50_95" if manifest.task == "detection" else "miou"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.edge"
        write_bundle(path, manifest, files)
        values = {}
        for label, options in (
            ("float", {"precision": "fp32"}),
            ("int8_tensorrt", {"precision": "int8", "graph": "tensorrt"}),
            *((("int8_cpu", {"precision": "int8", "graph": "cpu"}),) if "cpu.onnx" in manifest.graphs else ()),
        ):
            with Model(Bundle(path), **options) as model:  # type: ignore[arg-type]
                values[label] = evaluate(model, dataset, quiet=config.quiet)[metric]
    drop = 100 * (values["float"] - min(values.values()))
    assert config.max_drop is not None
    return {
        "dataset": config.dataset,
        "metric": metric,
        **values,
        "drop_points": round(drop, 2),
        "max_drop_points": config.max_drop,
        "passed": drop <= config.max_drop,
    }

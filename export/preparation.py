"""The first half of an export: an ONNX file becomes a float model in normal form, with its facts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

import edgevision
from edgevision.errors import BundleError, ModelError, UsageError
from edgevision.export.baked_grids import check_grids
from edgevision.export.config import ExportConfig
from edgevision.export.families import identify
from edgevision.export.folding import fold_constants
from edgevision.export.graph import Graph
from edgevision.export.graph_loading import load_graph
from edgevision.export.heads.base import NormalForm, SourceModel
from edgevision.export.preprocessing import image_input, resolve_preprocess
from edgevision.export.report import ExportReport
from edgevision.export.side_inputs import fix_side_inputs
from edgevision.export.simplification import simplify
from edgevision.export.unpooling import rewrite_unpooling
from edgevision.labels import load_labels
from edgevision.manifest import GraphInfo, Manifest, Nms, Preprocess

_ELEMENTS_PER_TENSOR = 1 << 28
# Numbers of classes that stand for one public data set: COCO's boxes, numbered anew or by category id (with a column
# for id 0 or without), Cityscapes, VOC with background. 20 classes could be anything.
_COCO = {80: "coco80", 90: "coco90", 91: "coco90"}
_USUAL = {"detection": _COCO, "instance": _COCO, "semantic": {19: "cityscapes19", 21: "voc21"}}


@dataclass
class PreparedModel:
    """A float model in normal form, with all that the runtime must know about it.

    Attributes:
        graph: the network and its decode; float32, operator set 19, batch 1, shapes known.
        name: from the file name.
        task, family: see Manifest.
        classes: number of classes, background removed.
        labels: their names; empty where nothing names them.
        preprocess: how a picture becomes the input.
        nms: suppression after the network; None for tasks without.
        source_sha256: hash of the file as it came.
        report: what happened so far.
    """

    graph: Graph
    name: str
    task: str
    family: str
    classes: int
    labels: tuple[str, ...]
    preprocess: Preprocess
    nms: Nms | None
    source_sha256: str
    report: ExportReport

    def manifest(self, graphs: dict[str, GraphInfo], cpu_graph: str, reason: str) -> Manifest:
        """The manifest of a bundle with these graphs; `cpu_graph` runs on the CPU, for this `reason`."""
        return Manifest(
            name=self.name,
            task=self.task,
            family=self.family,
            precision=self.report.precision,
            labels=self.labels or tuple(map(str, range(self.classes))),  # nameless classes go by number
            preprocess=self.preprocess,
            graphs=graphs,
            nms=self.nms,
            cpu_graph=cpu_graph,
            cpu_graph_reason=reason,
            source_sha256=self.source_sha256,
            producer=f"edgevision {edgevision.__version__}",
        )


def prepare(source: Path | str | bytes, config: ExportConfig, report: ExportReport | None = None) -> PreparedModel:
    """Load a model, recognise its family and bring it into normal form; nothing is written.

    Args:
        source: path of an .onnx file, or its bytes.
        config: options.
        report: where to note the steps; it keeps those that were done when an error ends the work.

    Raises:
        ModelError: the file cannot be used, or does not say something that is needed (the message says which flag
            would).
        UsageError: the configuration does not fit the model.
    """
    report = ExportReport() if report is None else report
    report.precision = config.resolved_precision
    with report.step("load") as facts:
        loaded = load_graph(source, config.input_wh)
        graph = loaded.graph
        side_inputs = fix_side_inputs(graph, image_input(graph).wh)
        facts.update(loaded.facts, side_inputs=side_inputs, constants_folded=fold_constants(graph))
        facts.update(unpoolings_rewritten=rewrite_unpooling(graph))
        report.source_sha256 = loaded.sha256
    with report.step("identify") as facts:
        given = load_labels(config.labels) if config.labels is not None else loaded.metadata.labels
        model = SourceModel(graph, image_input(graph), loaded.metadata, config, given)
        identified = identify(model)
        facts.update(considered=identified.considered)
        check_grids(graph, model.image.wh)
    with report.step("normalise") as facts:
        form = identified.head.normalise(model, identified.match)
        facts.update(form.facts)
        report.precision = _resolve_precision(config, form, identified.head.name)
        preprocess, sources = resolve_preprocess(model.image, config, loaded.metadata, form.preprocess)
        nms = _resolve_nms(form.nms, config, loaded.metadata.section("nms"))
        labels = _resolve_labels(model, form, facts)
        facts.update(preprocess=dataclasses.asdict(preprocess), preprocess_sources=sources)
    with report.step("simplify") as facts:
        try:
            facts.update(simplify(graph))
        except onnx.shape_inference.InferenceError as error:
            raise ModelError(
                "the types of the model's tensors contradict each other where its head was rewritten "
                f"({' '.join(str(error).split())[:300]}); export it again, in float32"
            ) from error
        _check_normal_form(graph, open_inside=bool(form.float_only))
        facts["nodes"] = len(graph.proto.node)
    report.family, report.task = identified.head.name, form.task
    name = "model" if isinstance(source, bytes) else Path(source).stem
    return PreparedModel(
        graph, name, form.task, identified.head.name, form.classes, labels, preprocess, nms, loaded.sha256, report
    )


def _resolve_precision(config: ExportConfig, form: NormalForm, family: str) -> str:
    """What is exported: float32 for a family that takes nothing else, unless something else was asked for."""
    asked = config.precision or ("int8" if config.calibration_images is not None else "fp32")
    if form.float_only and asked != "fp32":
        raise UsageError(f"family {family} cannot be exported at {asked}: {form.float_only}")
    return "fp32" if form.float_only else config.resolved_precision


def _resolve_nms(default: Nms | None, config: ExportConfig, noted: Mapping[str, Any]) -> Nms | None:
    """Flags before metadata before the family's default."""
    if default is None:
        return None
    given = {"iou_threshold": config.nms_iou, "confidence": config.confidence}
    changes = {**noted, **{name: value for name, value in given.items() if value is not None}}
    try:
        return dataclasses.replace(default, **changes)
    except (BundleError, TypeError) as error:
        raise ModelError(f"metadata: nms = {dict(noted)} is not understood: {error}; correct or remove it") from error


def _resolve_labels(model: SourceModel, form: NormalForm, facts: dict[str, Any]) -> tuple[str, ...]:
    """The class names, checked against the number of classes; empty where nothing names them."""
    classes = form.classes
    if model.config.labels is not None:
        return load_labels(model.config.labels, classes)
    labels = model.labels or form.labels
    if len(labels) == classes + 1 and labels[0].casefold() == "background":
        return labels[1:]
    if labels and len(labels) != classes:
        raise ModelError(
            f"the model's metadata names {len(labels)} classes, its head has {classes}; "
            f"give --labels with {classes} names"
        )
    usual = None if labels else _USUAL.get(form.task, {}).get(classes)
    if usual is not None:
        labels = load_labels(usual, classes)
        facts["labels"] = f"{usual}: what {classes} classes without names usually are; --labels names others"
    return labels


def _check_normal_form(graph: Graph, *, open_inside: bool) -> None:
    """Every tensor must have a size that does not depend on the picture, and that fits into memory; with `open_inside`
    the outputs must."""
    shapes = {name: graph.shape(name) for node in graph.nodes for name in node.output if name}
    fixed = set(graph.outputs) if open_inside else set(shapes)
    makers = sorted({graph.producer[name].op_type for name in fixed if shapes.get(name) is None})
    refused = {"Loop", "Scan"} if open_inside else {"If", "Loop", "Scan"}
    makers += sorted({node.op_type for node in graph.nodes} & refused - set(makers))
    if makers:
        raise ModelError(
            f"the network holds {', '.join(makers)}, whose results have a size that depends on the picture; "
            "export it without control flow and post-processing"
        )
    largest = max(shapes, key=lambda name: math.prod(shapes[name] or ()), default="")
    if largest and math.prod(shapes[largest] or ()) > _ELEMENTS_PER_TENSOR:
        raise ModelError(
            f"tensor {largest!r} would have the shape {list(shapes[largest] or ())}; at most {_ELEMENTS_PER_TENSOR} "
            "elements are accepted: check the input size, pads and scales"
        )

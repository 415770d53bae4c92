"""What every export says about its layers, and what it remembers of them from one run to the next."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime

import edgevision
from edgevision.calibration import CalibrationImages
from edgevision.export.config import ExportConfig
from edgevision.export.emission import emit_int8
from edgevision.export.findings import Findings
from edgevision.export.graph import Graph
from edgevision.export.preparation import PreparedModel
from edgevision.export.quantisation import Quantised
from edgevision.export.sensitivity import Layer, int8_share, measure_layers, telling_inputs


def open_findings(
    config: ExportConfig, graph: Graph, quantised: Quantised, images: CalibrationImages | None, yardstick: str = ""
) -> Findings:
    """What earlier exports with the same ranges file have measured.

    Args:
        graph: emitted with all layers in INT8; it shows every choice that was made on the way.
        yardstick: hash of what losses are measured with.
    """
    digest = hashlib.sha256(graph.serialize())
    digest.update(quantised.tensorrt_graph.serialize())
    versions = edgevision.__version__, onnxruntime.__version__
    digest.update(repr((yardstick, None if images is None else images.sha256, versions)).encode())
    return Findings(None if config.ranges is None else f"{config.ranges}.budget", digest.hexdigest())


def find_layers(quantised: Quantised, inputs: Sequence[Any], findings: Findings, *, quiet: bool) -> list[Layer]:
    """sensitivity.measure_layers, with what was measured kept."""
    known = {name.removeprefix("layer/"): findings[name]["noise"] for name in findings.names("layer/")}
    return measure_layers(
        quantised,
        inputs,
        {name: noise for name, noise in known.items() if noise is not None},
        lambda name, noise: findings.keep(f"layer/{name}", {"noise": noise}),
        quiet=quiet,
    )


def describe_layers(prepared: PreparedModel, quantised: Quantised, layers: Sequence[Layer]) -> None:
    """State in the report what each layer harms, and how much of the network is INT8."""
    graph = quantised.tensorrt_graph.copy()
    graph.complete_shapes()
    decisions = quantised.plan.tensorrt
    prepared.report.int8_macs_share = round(int8_share(graph, quantised.plan.tensorrt_inputs), 4)
    prepared.report.layers = [
        {
            "node": layer.node,
            "sqnr_db": layer.sqnr_db,
            "multiply_adds": layer.multiply_adds,
            "int8": decisions[layer.key].int8,
            "reason": decisions[layer.key].reason,
        }
        for layer in sorted(layers, key=lambda layer: layer.sqnr_db)
    ]


def name_layers(
    prepared: PreparedModel,
    quantised: Quantised,
    islands: Mapping[str, str],
    images: CalibrationImages | None,
    config: ExportConfig,
) -> None:
    """Without a budget: describe_layers, with their errors measured where that was asked for."""
    layers: list[Layer] = []
    if config.sensitivity:
        inputs = telling_inputs(prepared, images)
        findings = open_findings(config, emit_int8(quantised, islands), quantised, images)
        layers = find_layers(quantised, inputs, findings, quiet=config.quiet)
    describe_layers(prepared, quantised, layers)

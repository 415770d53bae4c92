"""From a float network to what the INT8 emitters need: repaired graphs, placement, ranges, corrected biases.

Two passes over the calibration pictures (the sizes of channels, then histograms) and a third over a few of them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevision.calibration import (
    AUTO,
    CalibrationImages,
    RangeTable,
    load_or_collect,
    load_or_collect_channels,
)
from edgevision.calibration.saturation import saturation
from edgevision.calibration.tensorrt_cache import read_cache_file
from edgevision.export.config import ExportConfig
from edgevision.export.graph import Graph
from edgevision.export.grids import Ranges
from edgevision.export.placement import Plan, plan_placement
from edgevision.export.preparation import PreparedModel
from edgevision.export.repair import REPAIRS, RESCALING
from edgevision.export.repair.bias_correction import corrections_of, explained_db
from edgevision.export.repair.equalisation import equalise
from edgevision.export.repair.input_scaling import scale_sites
from edgevision.export.repair.probing import probe_layers
from edgevision.export.repair.rough_layers import rough_layers
from edgevision.export.repair.shared_grids import share_grids
from edgevision.export.repair.sites import find_sites, magnitudes
from edgevision.export.repair.sums import float_sums
from edgevision.export.verification import input_tensors


@dataclass(frozen=True)
class Quantised:
    """A network ready to be emitted in INT8.

    Attributes:
        graph: float; the same function as the model's, its channels equalised: what the CPU's graph is made from.
        tensorrt_graph: the same with multiplications in front of quantised layers.
        plan: placement in both.
        ranges: of `plan.observed`.
        method: how a grid's ends are chosen from them.
        corrections: see emit_tensorrt.
        clip_weights: see emit_tensorrt.
        shared: tensor -> the one whose range it takes in TensorRT's graph, see repair.shared_grids.
    """

    graph: Graph
    tensorrt_graph: Graph
    plan: Plan
    ranges: RangeTable
    method: str = "mse"
    corrections: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    clip_weights: bool = False
    shared: Mapping[str, str] = field(default_factory=dict)

    @property
    def tensorrt_ranges(self) -> Ranges:
        """`ranges` with those that are shared."""
        return {**self.ranges, **{tensor: self.ranges[leader] for tensor, leader in self.shared.items()}}


def quantise(prepared: PreparedModel, images: CalibrationImages | None, config: ExportConfig) -> Quantised:
    """Repair, place and calibrate; the report of `prepared` gets the steps.

    Args:
        prepared: its graph is left unchanged.
        images: None only where a calibration cache of TensorRT's states all ranges.
        config: options.

    Raises:
        CalibrationError: no picture can be read, or a value is not finite.
    """
    report, preprocess = prepared.report, prepared.preprocess
    heads = config.max_drop is not None  # the search for the budget will tell which layers may be
    with report.step("repair") as facts:
        graph, tensorrt_graph = _rescale(prepared, images, config, heads, facts)
    place = functools.partial(
        plan_placement, graph, tensorrt_graph=tensorrt_graph, heads=heads, centre="centre-grids" in config.repairs
    )
    with report.step("place") as facts:
        plan = place()
        facts.update(tensors_observed=len(plan.observed))
    with report.step("calibrate") as facts:
        ranges, origin = load_or_collect(
            config.ranges,
            tensorrt_graph.serialize(),
            plan.observed,
            images,
            preprocess,
            choose=config.calibration_method == AUTO,
            quiet=config.quiet,
        )
        method = config.calibration_method
        facts.update(images=ranges.images, skipped=list(ranges.skipped), origin=origin, method=method)
        facts.update(saturation=saturation(ranges, images))
        report.warnings.extend(ranges.warnings)
    clip = "clip-weights" in config.repairs
    corrections = {}
    with report.step("correct") as facts:
        if images is not None and {"correct-biases", "float-sums", "rough-layers"} & set(config.repairs):
            inputs = input_tensors(preprocess, images)
            probes = probe_layers(tensorrt_graph, plan, ranges, method, inputs, clip=clip)
            facts.update(pictures=len(inputs))
            if "correct-biases" in config.repairs:
                corrections = corrections_of(tensorrt_graph, probes)
                facts.update(layers=len(corrections), gain_db=explained_db(probes))
            sums = float_sums(tensorrt_graph, plan, probes) if "float-sums" in config.repairs else {}
            rough = rough_layers(tensorrt_graph, probes) if "rough-layers" in config.repairs and not heads else {}
            plan = place(keep_float=sums | rough)
            facts.update(float_sums=sums, rough_layers=rough)
        shared = share_grids(tensorrt_graph, plan, ranges, method) if "share-grids" in config.repairs else {}
        facts.update(shared_grids=shared)
    return Quantised(graph, tensorrt_graph, plan, ranges, method, corrections, clip, shared)


def _rescale(
    prepared: PreparedModel, images: CalibrationImages | None, config: ExportConfig, heads: bool, facts: dict[str, Any]
) -> tuple[Graph, Graph]:
    """The passes that need the size of every channel: the graph for the CPU and the one for TensorRT."""
    graph = prepared.graph
    stated = config.ranges is not None and read_cache_file(config.ranges) is not None
    if images is None or stated:
        facts.update(left_out="the ranges come from a calibration cache, which is of the network as it was")
        return graph, graph
    chosen = [name for name in REPAIRS if name in config.repairs]
    sites = find_sites(graph, plan_placement(graph, heads=heads).tensorrt_inputs)
    pictures_only = all(site.tensor == prepared.preprocess.input_name for site in sites)  # its channels need no scaling
    if pictures_only or not set(RESCALING) & set(chosen):
        return graph, graph
    channels, origin = load_or_collect_channels(
        config.ranges,
        graph.serialize(),
        [site.tensor for site in sites],
        images,
        prepared.preprocess,
        quiet=config.quiet,
    )
    sizes = magnitudes(channels)
    facts.update(channels=origin)
    if "equalise" in chosen:
        graph, sizes = equalise(graph, sites, sizes)
    tensorrt_graph = graph
    if "scale-inputs" in chosen:
        tensorrt_graph, scaled = scale_sites(graph, sites, sizes)
        facts.update(multiplications={entry.tensor: entry.gain_db for entry in scaled})
    return graph, tensorrt_graph

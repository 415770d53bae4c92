"""What each repair gains on this network: all the others made, that one left out, the decoded outputs compared."""

from __future__ import annotations

import dataclasses

from edgevision.calibration import CalibrationImages
from edgevision.export.config import ExportConfig
from edgevision.export.emission import emit_int8
from edgevision.export.preparation import PreparedModel
from edgevision.export.quantisation import Quantised, quantise
from edgevision.export.repair import REPAIRS
from edgevision.export.report import ExportReport
from edgevision.export.sensitivity import Layer, noise_share
from edgevision.export.verification import input_tensors, run_graph


def repair_gains(
    prepared: PreparedModel, quantised: Quantised, images: CalibrationImages, config: ExportConfig
) -> dict[str, float]:
    """Repair -> by how many dB the signal-to-noise ratio of the decoded outputs is better with it than without.

    Every repair costs a calibration of its own. Gains of a dB or less, to either side, are chance.

    Args:
        prepared, quantised: with all of `config.repairs`.
        images: the calibration pictures; some of them are compared on.

    Raises:
        CalibrationError: no picture can be read, or a value is not finite.
        ModelError: a graph does not run.
    """
    inputs = input_tensors(prepared.preprocess, images)
    reference = run_graph(prepared.graph.serialize(), inputs, exact=True)

    def sqnr_db(candidate: Quantised) -> float:
        graph = emit_int8(candidate, None, typed=False)
        noise = noise_share(reference, run_graph(graph.serialize(), inputs, exact=True))
        return Layer("", "", 0, noise).sqnr_db

    best = sqnr_db(quantised)
    gains = {}
    for repair in REPAIRS:
        if repair in config.repairs:
            others = tuple(name for name in config.repairs if name != repair)
            without = dataclasses.replace(config, repairs=others, ranges=None, quiet=True)
            unreported = dataclasses.replace(prepared, report=ExportReport())
            gains[repair] = round(best - sqnr_db(quantise(unreported, images, without)), 2)
    return gains

"""Whether INT8 is worth it on this GPU: its engine beside the FP16 one, picture by picture."""

from __future__ import annotations

import dataclasses
from typing import Any

from edgevision.backends.build_options import BuildOptions
from edgevision.bundle import Bundle
from edgevision.loadgen import compare_speed, render_pictures
from edgevision.model import Model

DURATION_S = 2.0


def int8_over_fp16(bundle: Bundle, options: BuildOptions, device: int, *, quiet: bool) -> dict[str, float]:
    """How many times faster INT8 is than FP16 in inference, both engines from the plan cache or built now.

    Returns:
        `p25`, `median`, `p75` of the ratios FP16 / INT8 of pairs of inferences that follow each other.

    Raises:
        BuildError: an engine cannot be built.
        UsageError, BundleError: an option does not fit, or the bundle has no graph for it.
    """
    fp16, int8 = (dataclasses.replace(options, precision=precision) for precision in ("fp16", "int8"))
    with (
        Model(bundle, backend="tensorrt", device=device, build=fp16, quiet=quiet) as plain,
        Model(bundle, backend="tensorrt", device=device, build=int8, quiet=quiet) as quantised,
    ):
        figures: dict[str, Any] = compare_speed(plain, quantised, render_pictures(), DURATION_S, quiet=quiet)
    speedup: dict[str, float] = figures["speedup"]["inference"]
    return speedup

"""Builds a bundle's plan, stepping down a ladder of precisions where TensorRT refuses one, and says why it did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgevision.backends.build_options import BuildOptions
from edgevision.backends.built_plan import BuiltPlan
from edgevision.backends.tensorrt_api import Api
from edgevision.progress import Progress

if TYPE_CHECKING:
    from edgevision.bundle import Bundle

__all__ = ["BuiltPlan", "build_plan"]


def build_plan(
    api: Api,
    bundle: Bundle,
    options: BuildOptions,
    *,
    sm: int | None = None,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
) -> BuiltPlan:
    """Build the plan of a bundle.

    Args:
        api: the TensorRT to build with.
        bundle: its graphs are tried from the wanted precision downwards.
        options: what to build.
        sm: compute capability of the GPU at hand, like 87; None where there is none.
        timing_cache: file to keep the builder's measurements in; None: none is kept.
        progress: shows how far the builder is.

    Raises:
        BuildError: every rung of the ladder failed; says why, with TensorRT's last words.
        UsageError: an option does not fit this TensorRT or this machine.
        BundleError: the bundle has no graph for the precision.
        KeyboardInterrupt: Ctrl-C; the build was cancelled.
    """
    raise NotImplementedError

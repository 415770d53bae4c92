"""Which graphs of a bundle a build tries, from the wanted precision downwards."""

from __future__ import annotations

from dataclasses import dataclass

from edgevision.backends.build_options import BuildOptions
from edgevision.errors import BundleError
from edgevision.manifest import PRECISIONS, Manifest

_ORDER = PRECISIONS[::-1]
_FILES = {"int8": ("tensorrt.onnx",), "fp16": ("tensorrt.onnx", "tensorrt_fp16.onnx"), "fp32": ("model.onnx",)}


@dataclass(frozen=True)
class Rung:
    """One precision to try.

    Attributes:
        precision: one of manifest.PRECISIONS.
        graph: file of the bundle.
        typed_like: file of the bundle in which the nodes that need float32 can be read; empty where nothing is half.
        ranges_of: file of the bundle whose Q/DQ say the ranges, for a network that has none itself; empty elsewhere.
    """

    precision: str
    graph: str
    typed_like: str = ""
    ranges_of: str = ""


def rungs(manifest: Manifest, options: BuildOptions, *, typed: bool = True, implicit: bool = False) -> tuple[Rung, ...]:
    """What to try, in order. Precisions below the wanted one that the bundle does not hold are left out.

    Args:
        manifest: of the bundle.
        options: what is asked for.
        typed: networks take their precisions from the graph; otherwise FP16 is built from the float graph by a flag.
        implicit: INT8 is built without Q/DQ in the network, from ranges alone.

    Raises:
        BundleError: it does not hold the wanted one.
    """
    half = _file(manifest, "fp16")
    found = []
    for precision in _ORDER[_ORDER.index(options.precision) :]:
        graph = _file(manifest, precision)
        if precision == "int8" and options.calibrator is not None:
            found.append(Rung(precision, "model.onnx", half or graph))
        elif precision == "int8" and implicit and graph:
            found.append(Rung(precision, "model.onnx", half or graph, graph))
        elif precision == "fp16" and not typed and graph:
            found.append(Rung(precision, "model.onnx", graph))
        elif graph:
            found.append(Rung(precision, graph, "" if precision == "fp32" else graph))
    if not found or found[0].precision != options.precision:
        held = sorted({info.precision for info in manifest.graphs.values()})
        raise BundleError(
            f"this bundle has no {options.precision} graph, it holds {', '.join(held)}; "
            f"export the model again with --precision {options.precision}"
        )
    return tuple(found)


def graphs_of(manifest: Manifest, options: BuildOptions) -> tuple[str, ...]:
    """Every file of the bundle that a build may read, whichever TensorRT builds: what a plan depends on.

    Raises:
        BundleError: see `rungs`.
    """
    implicit = options.dla_core is not None
    every = (
        *rungs(manifest, options),
        *rungs(manifest, options, typed=False),
        *rungs(manifest, options, typed=False, implicit=implicit),
    )
    named = [file for rung in every for file in (rung.ranges_of, rung.graph, rung.typed_like) if file]
    return tuple(dict.fromkeys(named))


def _file(manifest: Manifest, precision: str) -> str:
    held = (name for name in _FILES[precision] if name in manifest.graphs)
    return next((name for name in held if manifest.graphs[name].precision == precision), "")

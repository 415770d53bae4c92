"""Keeps a histogram per tensor while pictures run through a graph."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Final

from edgevision.calibration.counting import SAMPLE, Counter
from edgevision.calibration.histogram import Histogram
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.observation import Bounds, ObservedGraph, observe
from edgevision.calibration.passes import Picture, Tensors, not_finite, run_pass
from edgevision.calibration.table import RangeTable, table_key
from edgevision.manifest import Preprocess

GROWTH: Final = 0.1
"""A range that the last quarter of the pictures widened by more than this share counts as still growing."""
_LEAST_SAMPLE: Final = 1 << 13
_COUNTED: Final = 30 * SAMPLE
"""So many values of a large map, from all pictures together, settle its thresholds: many pictures give few each."""


def collect_ranges(
    graph: bytes,
    tensors: Sequence[str],
    images: CalibrationImages,
    preprocess: Preprocess,
    *,
    workers: int | None = None,
    quiet: bool = False,
) -> RangeTable:
    """Histograms of `tensors` over all pictures, in one pass.

    The result does not depend on the order of the pictures, on their names or on the number of workers.

    Args:
        graph: a serialised ONNX model with one input and fixed shapes.
        tensors: names of float32 tensors that it computes, or of its input.
        images: the pictures; those that cannot be read are skipped and named in the table.
        preprocess: how a picture becomes the input.
        workers: threads; None: one per core that this process may use.
        quiet: no progress.

    Raises:
        CalibrationError: no picture can be read, a tensor cannot be observed, or a value is not finite.
    """
    observed = observe(graph, tensors, preprocess.input_name)
    sample = min(SAMPLE, max(_LEAST_SAMPLE, _COUNTED // len(images)))
    total = run_pass(
        observed,
        lambda: _Histograms(observed, sample),
        images,
        preprocess,
        label="calibrating",
        workers=workers,
        quiet=quiet,
    )
    skipped = tuple(name for name in images.names if name in images.skipped)
    return RangeTable(
        key=table_key(graph, tensors, images, preprocess),
        images=len(images) - len(skipped),
        skipped=skipped,
        warnings=tuple(_warnings(total, len(images), skipped)),
        histograms={name: total.histograms[observed.sources[name]] for name in tensors},
    )


class _Histograms:
    """Histograms of all observed tensors over some pictures."""

    def __init__(self, observed: ObservedGraph, sample: int) -> None:
        self._bounds = observed.bounds
        self._counter = Counter(sample)
        sources = dict.fromkeys(observed.sources.values())
        self.histograms = {name: Histogram() for name in sources}
        self.early = dict.fromkeys(sources, 0.0)  # largest magnitude in the pictures not held back

    def see(self, tensors: Tensors, picture: Picture) -> None:
        for name, histogram in self.histograms.items():
            known = self._known(name, histogram, picture.held_back)
            try:
                low, high = self._counter.add(histogram, tensors[name], picture.phase, known)
            except ValueError as error:
                raise not_finite(name, picture, error) from error
            if not picture.held_back:
                self.early[name] = max(self.early[name], high, -low)

    def _known(self, name: str, histogram: Histogram, held_back: bool) -> Bounds:
        """Limits of the operator that earlier pictures have reached: this one cannot change the range any more.

        After ReLU6 that spares reading most of a large map.
        """
        if not held_back and self.early[name] < histogram.limit:
            return None, None
        low, high = self._bounds.get(name, (None, None))
        return low if histogram.minimum == low else None, high if histogram.maximum == high else None

    def merge(self, other: _Histograms) -> None:
        for name, histogram in self.histograms.items():
            histogram.merge(other.histograms[name])
            self.early[name] = max(self.early[name], other.early[name])


def _warnings(total: _Histograms, count: int, skipped: Sequence[str]) -> Iterator[str]:
    if skipped:
        shown = ", ".join(itertools.islice(skipped, 5)) + (", ..." if len(skipped) > 5 else "")
        yield f"{len(skipped)} of {count} calibration pictures could not be read: {shown}"
    dead = [name for name, histogram in total.histograms.items() if not histogram.limit]
    if dead:
        yield f"{len(dead)} tensors are zero on every picture, {dead[0]!r} among them"
    grown = [name for name, found in total.histograms.items() if found.limit > (1 + GROWTH) * total.early[name]]
    if grown:
        worst = max(grown, key=lambda name: total.histograms[name].limit / max(total.early[name], 1e-38))
        yield (
            f"{len(grown)} of {len(total.histograms)} ranges grew by more than {GROWTH:.0%} in the last quarter of the "
            f"pictures (worst: {worst!r} from {total.early[worst]:.3g} to {total.histograms[worst].limit:.3g}); "
            "more pictures would make them surer"
        )

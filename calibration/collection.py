"""Keeps a histogram per tensor while pictures run through a graph."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Final

from edgevision.calibration.checkpoint import Checkpoint
from edgevision.calibration.counting import SAMPLE, Counter
from edgevision.calibration.fields import check_keys
from edgevision.calibration.growth import EARLY, Growth
from edgevision.calibration.histogram import Histogram
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.objects import OUTPUTS, Objects
from edgevision.calibration.observation import Bounds, ObservedGraph, block_size, observe
from edgevision.calibration.passes import Picture, Tensors, not_finite, run_pass
from edgevision.calibration.table import RangeTable, histogram_from_json, histogram_to_json, table_key
from edgevision.manifest import Preprocess

_LEAST_SAMPLE: Final = 1 << 13
_COUNTED: Final = 30 * SAMPLE
"""So many values of a large map, from all pictures together, settle its thresholds: many pictures give few each."""


def collect_ranges(
    graph: bytes,
    tensors: Sequence[str],
    images: CalibrationImages,
    preprocess: Preprocess,
    *,
    checkpoint: Checkpoint | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> RangeTable:
    """Histograms of `tensors` over all pictures, in one pass.

    Where the graph ends in decoded boxes and scores, the values inside objects are counted once more by themselves.

    The result does not depend on the order of the pictures, on their names, on the number of workers, or on whether
    the pass was stopped and went on.

    Args:
        graph: a serialised ONNX model with one input and fixed shapes.
        tensors: names of float32 tensors that it computes, or of its input.
        images: the pictures; those that cannot be read are skipped and named in the table.
        preprocess: how a picture becomes the input.
        checkpoint: see `passes.run_pass`.
        workers: threads; None: one per core that this process may use.
        quiet: no progress.

    Raises:
        CalibrationError: no picture can be read, a tensor cannot be observed, or a value is not finite.
        OSError: the checkpoint cannot be written.
    """
    observed = observe(graph, tensors, preprocess.input_name)
    sample = min(SAMPLE, max(_LEAST_SAMPLE, _COUNTED // len(images)))
    total = run_pass(
        observed,
        lambda: _Histograms(observed, preprocess, sample),
        images,
        preprocess,
        label="calibrating",
        checkpoint=checkpoint,
        workers=workers,
        quiet=quiet,
    )
    skipped = tuple(name for name in images.names if name in images.skipped)
    total.finish()
    growing = total.growing()
    table = RangeTable(
        key=table_key(graph, tensors, images, preprocess),
        images=len(images) - len(skipped),
        skipped=skipped,
        warnings=(),
        histograms={name: total.histograms[observed.sources[name]] for name in tensors},
        growth={name: growing[observed.sources[name]] for name in tensors if observed.sources[name] in growing},
    )
    return dataclasses.replace(table, warnings=tuple(_warnings(table, len(images))))


class _Histograms:
    """Histograms of all observed tensors over some pictures."""

    def __init__(self, observed: ObservedGraph, preprocess: Preprocess, sample: int) -> None:
        self._bounds = observed.bounds
        self._counter = Counter(sample)
        sources = dict.fromkeys(observed.sources.values())
        self._input_hw = (preprocess.input_wh[1], preprocess.input_wh[0])
        blocked = [name for name in sources if observed.shown and observed.is_blocked(name)]
        self._blocks = dict.fromkeys(blocked, block_size() if blocked else 1)
        self.histograms = {name: Histogram(Histogram() if observed.shown else None) for name in sources}
        self.growth = {name: Growth() for name in sources}

    def see(self, tensors: Tensors, picture: Picture) -> None:
        objects = Objects(tensors, self._input_hw) if OUTPUTS[0] in tensors else None
        for name, histogram in self.histograms.items():
            known = self._known(name, histogram, picture.share)
            try:
                low, high = self._counter.add(histogram, tensors[name], picture.phase, known)
            except ValueError as error:
                raise not_finite(name, picture, error) from error
            self.growth[name].add(max(high, -low, 0.0), picture.share, picture.digest)
            if objects is not None and histogram.objects is not None:
                inside = objects.values(tensors[name], self._blocks.get(name, 1), picture.phase)
                if inside is not None:
                    self._counter.add(histogram.objects, inside, 0, (histogram.minimum, histogram.maximum))

    def _known(self, name: str, histogram: Histogram, share: int) -> Bounds:
        """Limits of the operator that earlier pictures have reached: this one cannot change the range any more.

        After ReLU6 that spares reading most of a large map.
        """
        if share < EARLY and self.growth[name].early < histogram.limit:
            return None, None
        low, high = self._bounds.get(name, (None, None))
        return low if histogram.minimum == low else None, high if histogram.maximum == high else None

    def finish(self) -> None:
        """Make what was counted inside objects independent of the order: its range grew with that of all values."""
        for histogram in self.histograms.values():
            if histogram.objects is not None and histogram.objects.total:
                histogram.objects.extend(histogram.minimum, histogram.maximum)
            else:
                histogram.objects = None

    def growing(self) -> dict[str, Growth]:
        """Growth of the ranges that were free to grow: not of one that reached its operator's limit, where no picture
        is looked at any more."""
        return {name: growth for name, growth in self.growth.items() if not self._limited(name)}

    def _limited(self, name: str) -> bool:
        histogram, (low, high) = self.histograms[name], self._bounds.get(name, (None, None))
        return bool((low and histogram.minimum == low) or (high and histogram.maximum == high))

    def merge(self, other: _Histograms) -> None:
        for name, histogram in self.histograms.items():
            histogram.merge(other.histograms[name])
            self.growth[name].merge(other.growth[name])

    def to_json(self) -> dict[str, Any]:
        return {
            name: [histogram_to_json(histogram), self.growth[name].to_json()]
            for name, histogram in self.histograms.items()
        }

    def restore(self, data: Any) -> None:
        check_keys(data, set(self.histograms), "the findings")
        histograms, growth = {}, {}
        for name in self.histograms:
            found, grown = data[name]
            histograms[name], growth[name] = histogram_from_json(found, name), Growth.from_json(grown)
        self.histograms, self.growth = histograms, growth


def _warnings(table: RangeTable, count: int) -> Iterator[str]:
    if table.skipped:
        shown = ", ".join(itertools.islice(table.skipped, 5)) + (", ..." if len(table.skipped) > 5 else "")
        yield f"{len(table.skipped)} of {count} calibration pictures could not be read: {shown}"
    dead = [name for name, histogram in table.items() if not histogram.limit]
    if dead:
        yield f"{len(dead)} tensors are zero on every picture, {dead[0]!r} among them"

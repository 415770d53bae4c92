"""Reuses a table of ranges from an earlier run when nothing it depends on has changed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from edgevision.calibration.channels import ChannelTable, collect_channels
from edgevision.calibration.checkpoint import Checkpoint
from edgevision.calibration.choice import choose_methods
from edgevision.calibration.collection import collect_ranges
from edgevision.calibration.fields import MAX_BYTES
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.table import RangeTable, table_key
from edgevision.calibration.tensorrt_cache import read_cache_file
from edgevision.errors import CalibrationError
from edgevision.files import atomic_path
from edgevision.manifest import Preprocess

Table = TypeVar("Table", RangeTable, ChannelTable)


def load_or_collect(
    cache: Path | str | None,
    graph: bytes,
    tensors: Sequence[str],
    images: CalibrationImages | None,
    preprocess: Preprocess,
    *,
    choose: bool = False,
    workers: int | None = None,
    quiet: bool = False,
) -> tuple[RangeTable, str]:
    """The table from `cache` if it fits, else a new one, which is then written there.

    Args:
        cache: a JSON file, which need not exist; None: always collect, write nothing. A collection that is stopped
            leaves its findings beside it, and the next one goes on from there. A calibration cache of TensorRT's is
            taken for the tensors that it names and never written to.
        images: as for collect_ranges; None: only a calibration cache that names all tensors will do.
        choose: also settle every tensor's own method, for the method AUTO (see choose_methods).
        graph, tensors, preprocess, workers, quiet: as for collect_ranges.

    Returns:
        The table, and a sentence on where it came from.

    Raises:
        CalibrationError: see collect_ranges; or the calibration cache is of another model, or not enough without
            pictures. Nothing is written then.
        OSError: the table cannot be written.
    """
    stated = None if cache is None else read_cache_file(cache)
    if stated is not None:
        collect = functools.partial(collect_ranges, graph, preprocess=preprocess, workers=workers, quiet=quiet)
        table, origin = _complete(stated, str(cache), tensors, images, collect)
        if choose and images is not None and not table.methods_chosen:
            choose_methods(graph, table, images, preprocess, workers=workers)
        return table, origin
    if images is None:
        raise CalibrationError(f"{cache} holds no ranges of TensorRT's, and there are no pictures to measure on")
    collect = functools.partial(collect_ranges, graph, tensors, images, preprocess, workers=workers, quiet=quiet)
    table, origin = _reuse_or(cache, RangeTable.from_json, table_key(graph, tensors, images, preprocess), collect)
    if choose and not table.methods_chosen:
        choose_methods(graph, table, images, preprocess, workers=workers)
        _write(cache, table)
    return table, origin


def load_or_collect_channels(
    cache: Path | str | None,
    graph: bytes,
    tensors: Sequence[str],
    images: CalibrationImages,
    preprocess: Preprocess,
    *,
    workers: int | None = None,
    quiet: bool = False,
) -> tuple[ChannelTable, str]:
    """The channel table from the file beside `cache` if it fits, else a new one, which is then written there.

    Args:
        cache: of the ranges; the channels are in a file of the same name with `.channels` behind it. None: always
            collect, write nothing.
        graph, tensors, images, preprocess, workers, quiet: as for collect_channels.

    Returns:
        The table, and a sentence on where it came from.

    Raises:
        CalibrationError: see collect_channels. Nothing is written then.
        OSError: the table cannot be written.
    """
    beside = None if cache is None else f"{cache}.channels"
    collect = functools.partial(collect_channels, graph, tensors, images, preprocess, workers=workers, quiet=quiet)
    return _reuse_or(beside, ChannelTable.from_json, table_key(graph, tensors, images, preprocess), collect)


def _reuse_or(
    cache: Path | str | None, read: Callable[[bytes], Table], key: str, collect: Callable[..., Table]
) -> tuple[Table, str]:
    """The table in the file `cache` if it has this key, else what `collect` finds, which is written there.

    Where a collection stands is kept in a file of the same name with `.part` behind it, until the table is written.
    """
    if cache is None:
        table = collect()
        return table, f"ranges collected from {table.images} pictures"
    note = ""
    if Path(cache).is_file():
        try:
            with Path(cache).open("rb") as handle:
                table = read(handle.read(MAX_BYTES + 1))
        except (CalibrationError, OSError) as error:
            note = f"; {cache} was not reused: {error}"
        else:
            if table.key == key:
                return table, f"ranges of {table.images} pictures reused from {cache}: nothing they depend on changed"
            note = f"; {cache} was not reused: it is for another graph, preprocessing or set of pictures"
    checkpoint = Checkpoint(f"{cache}.part", key)
    table = collect(checkpoint=checkpoint)
    _write(cache, table)
    checkpoint.remove()
    note += f"; {checkpoint.note}" if checkpoint.note else ""
    return table, f"ranges collected from {table.images} pictures{note}"


def _write(cache: Path | str | None, table: RangeTable | ChannelTable) -> None:
    if cache is not None:
        with atomic_path(cache) as path:
            path.write_text(table.to_json(), encoding="utf-8")


def _complete(
    stated: RangeTable,
    cache: str,
    tensors: Sequence[str],
    images: CalibrationImages | None,
    collect: Callable[..., RangeTable],
) -> tuple[RangeTable, str]:
    """The ranges of a calibration cache, with those that it lacks measured."""
    missing = [name for name in tensors if name not in stated]
    if len(missing) == len(tensors):
        raise CalibrationError(
            f"{cache} names none of this model's {len(tensors)} tensors ({', '.join(tensors[:3])}, ...): it is for "
            "another model"
        )
    if not missing:
        histograms = {name: stated[name] for name in tensors}
        return dataclasses.replace(stated, histograms=histograms), f"all {len(tensors)} ranges from {cache}"
    if images is None:
        raise CalibrationError(
            f"{cache} lacks {len(missing)} of {len(tensors)} tensors ({', '.join(missing[:3])}, ...); give "
            "--calibration-images to measure them on"
        )
    measured = collect(tensors=missing, images=images)
    histograms = {name: stated[name] if name in stated else measured[name] for name in tensors}
    origin = f"{len(tensors) - len(missing)} ranges from {cache}, {len(missing)} from {measured.images} pictures"
    return dataclasses.replace(measured, key=f"{stated.key} {measured.key}", histograms=histograms), origin

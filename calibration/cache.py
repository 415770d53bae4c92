"""Reuses a range table from an earlier run when nothing it depends on has changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgevision.calibration.collection import collect_ranges
from edgevision.calibration.images import CalibrationImages
from edgevision.calibration.table import MAX_BYTES, RangeTable, table_key
from edgevision.errors import CalibrationError
from edgevision.files import atomic_path
from edgevision.manifest import Preprocess


def load_or_collect(
    cache: Path | str | None,
    graph: bytes,
    tensors: Sequence[str],
    images: CalibrationImages,
    preprocess: Preprocess,
    *,
    workers: int | None = None,
    quiet: bool = False,
) -> tuple[RangeTable, str]:
    """The table from `cache` if it fits, else a new one, which is then written there.

    Args:
        cache: a JSON file, which need not exist; None: always collect, write nothing.
        graph, tensors, images, preprocess, workers, quiet: as for collect_ranges.

    Returns:
        The table, and a sentence on where it came from.

    Raises:
        CalibrationError: see collect_ranges. Nothing is written then.
        OSError: the table cannot be written.
    """
    note = ""
    if cache is not None and Path(cache).is_file():
        try:
            with Path(cache).open("rb") as handle:
                table = RangeTable.from_json(handle.read(MAX_BYTES + 1))
        except (CalibrationError, OSError) as error:
            note = f"; {cache} was not reused: {error}"
        else:
            if table.key == table_key(graph, tensors, images, preprocess):
                return table, f"ranges of {table.images} pictures reused from {cache}: nothing they depend on changed"
            note = f"; {cache} was not reused: it is for another graph, preprocessing or set of pictures"
    table = collect_ranges(graph, tensors, images, preprocess, workers=workers, quiet=quiet)
    if cache is not None:
        with atomic_path(cache) as path:
            path.write_text(table.to_json(), encoding="utf-8")
    return table, f"ranges collected from {table.images} pictures{note}"

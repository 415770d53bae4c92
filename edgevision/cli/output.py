"""What a verb says at its end: text for people, JSON for tools."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from edgevision.errors import UsageError
from edgevision.files import atomic_path


def finish(args: argparse.Namespace, data: Mapping[str, Any], text: str) -> None:
    """Print `text` unless --quiet or --json -, and write `data` where --json says.

    Raises:
        UsageError: the JSON file cannot be written.
    """
    if args.json == "-":
        json.dump(data, sys.stdout, indent=1)
        sys.stdout.write("\n")
    elif not args.quiet:
        print(text)
    if args.json not in (None, "-"):
        try:
            with atomic_path(args.json) as path:
                path.write_text(json.dumps(data, indent=1) + "\n")
        except OSError as error:
            raise UsageError(f"--json {args.json} cannot be written: {error}") from error


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain text table: first column left, the others right aligned."""
    cells = [[str(c) for c in header], *[[str(c) for c in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])

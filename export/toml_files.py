"""TOML files of the user's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edgevision.errors import UsageError
from edgevision.optional import require

_LIMIT_BYTES = 1 << 20


def read_toml(path: Path | str) -> dict[str, Any]:
    """The table that a TOML file holds.

    Raises:
        UsageError: it cannot be read, or is not TOML.
        DependencyError: Python 3.10 without the package tomli.
    """
    toml = require("tomllib" if sys.version_info >= (3, 11) else "tomli", "reading TOML files")
    try:
        with Path(path).open("rb") as handle:
            data = handle.read(_LIMIT_BYTES + 1)
        if len(data) > _LIMIT_BYTES:
            raise UsageError(f"{path} is larger than {_LIMIT_BYTES} bytes; expected a short text in TOML")
        table: dict[str, Any] = toml.loads(data.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    return table

"""Reading JSON that anybody may have written, field by field."""

from __future__ import annotations

from typing import Any, Final

MAX_BYTES: Final = 1 << 26
"""Of a file; a larger one is not read."""


def check_keys(data: Any, keys: set[str], where: str) -> None:
    """Raise ValueError unless `data` is an object with exactly these keys."""
    if not isinstance(data, dict) or data.keys() != keys:
        raise ValueError(f"{where} is an object with the keys {sorted(keys)}")


def typed(value: Any, kind: type, where: str) -> Any:
    """`value`; ValueError unless its type is `kind`."""
    if type(value) is not kind:
        raise ValueError(f"{where} is {kind.__name__}, got {value!r:.80}")
    return value


def texts(value: Any, where: str) -> tuple[str, ...]:
    """A list of texts; ValueError for anything else."""
    return tuple(typed(item, str, where) for item in typed(value, list, where))

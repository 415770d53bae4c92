"""Sources and sinks are found by what they say about themselves: one module per kind, no list to keep.

A module takes part by having `UNDERSTANDS` (its forms of URI, in words) and `claims(uri)`; a new kind is a new file.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from edgevision.errors import UsageError
from edgevision.redaction import without_secrets


def kinds(package: ModuleType) -> list[ModuleType]:
    """The modules of `package` that take part, by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "UNDERSTANDS")]


def understood(package: ModuleType) -> str:
    """What the kinds of `package` understand, one a line."""
    return "\n".join(f"  {kind.UNDERSTANDS}" for kind in kinds(package))


def find_kind(package: ModuleType, uri: str) -> ModuleType:
    """The module of `package` that claims `uri`.

    Raises:
        UsageError: none does; lists what is understood.
    """
    for kind in kinds(package):
        if kind.claims(uri):
            return kind
    what = package.__name__.rpartition(".")[2].removesuffix("s")
    raise UsageError(
        f"{what} {without_secrets(uri)!r} is not understood, or does not exist. Understood are:\n{understood(package)}"
    )

"""Sources and sinks are found by what they say about themselves: one module per kind, no list to keep.

A module takes part by having `UNDERSTANDS` (its forms of URI, in words) and `claims(uri)`; a new kind is a new file.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from edgevision.errors import UsageError


def find_kind(package: ModuleType, uri: str) -> ModuleType:
    """The module of `package` that claims `uri`.

    Raises:
        UsageError: none does; lists what is understood.
    """
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    kinds = [module for module in modules if hasattr(module, "UNDERSTANDS")]
    for kind in kinds:
        if kind.claims(uri):
            return kind
    listed = "\n".join(f"  {kind.UNDERSTANDS}" for kind in kinds)
    what = package.__name__.rpartition(".")[2].removesuffix("s")
    raise UsageError(f"{what} {uri!r} is not understood, or does not exist. Understood are:\n{listed}")

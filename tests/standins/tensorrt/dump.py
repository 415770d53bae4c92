"""Print the API of a real TensorRT module as JSON: `python dump.py MODULE [FOLDER]`, with any Python, on its own.

FOLDER holds the bindings and the libraries they load over. Signatures are read from the docstrings that pybind writes.
"""

import ctypes
import importlib
import inspect
import json
import sys
from pathlib import Path


def signatures(doc):
    """The overloads in a pybind docstring: one string, or a list where there are several; None without any."""
    lines = (doc or "").splitlines()
    if not lines or "(" not in lines[0]:
        return None
    if len(lines) > 1 and lines[1] == "Overloaded function.":
        numbered = [line.strip() for line in lines if line.strip()[:1].isdigit() and ". " in line and " -> " in line]
        return [line.partition(". ")[2] for line in numbered]
    return lines[0].strip()


def is_enum(entry):
    """Whether a class is a pybind enum."""
    return isinstance(entry, type) and hasattr(entry, "__members__") and not issubclass(entry, int)


def describe(entry):
    """One class."""
    facts = {"methods": {}, "properties": {}, "enums": {}, "bases": []}
    facts["bases"] = [base.__name__ for base in entry.__bases__ if base.__name__ not in ("object", "pybind11_object")]
    for name, member in vars(entry).items():
        if isinstance(member, property):
            text = (member.fget.__doc__ or "") if member.fget is not None else ""
            kind = text.rpartition(" -> ")[2].splitlines()[0].strip() if " -> " in text else None
            facts["properties"][name] = {"type": kind, "writable": member.fset is not None}
        elif is_enum(member):
            facts["enums"][name] = {key: int(value) for key, value in member.__members__.items()}
        elif inspect.isfunction(member):
            facts["methods"][name] = f"python: {name}{inspect.signature(member)}"
        elif callable(member) and not isinstance(member, type):
            found = signatures(getattr(member, "__doc__", None))
            if found is not None and (not name.startswith("__") or "self: " in str(found)):
                facts["methods"][name] = found
    if "__init__" not in facts["methods"]:
        facts["constructible"] = False
    return facts


def dump(module):
    """The whole module."""
    api = {"module_version": module.__version__, "classes": {}, "enums": {}, "functions": {}, "constants": {}}
    for name, entry in vars(module).items():
        if name.startswith("_") and name != "_itemsize":
            continue
        if is_enum(entry):
            api["enums"][name] = {key: int(value) for key, value in entry.__members__.items()}
        elif isinstance(entry, type):
            if entry.__module__.startswith(module.__name__.partition(".")[0]):
                api["classes"][name] = describe(entry)
        elif is_enum(type(entry)):
            api["constants"][name] = f"<{type(entry).__name__}.{entry.name}: {int(entry)}>"
        elif inspect.isfunction(entry):
            api["functions"][name] = f"python: {name}"
        elif callable(entry) and signatures(entry.__doc__):
            api["functions"][name] = signatures(entry.__doc__)
    return api


def load(name, folder=None):
    """Import the module, with the libraries in the folder loaded first so that it finds them by name."""
    if folder is not None:
        for library in Path(folder).glob("lib*.so.*"):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        sys.path.insert(0, folder)
    return importlib.import_module(name)


if __name__ == "__main__":
    json.dump(dump(load(*sys.argv[1:3])), sys.stdout)

"""What `import edgevision` offers is what it says it offers."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import edgevision

SOURCE = Path(edgevision.__file__).read_text()


def test_all_is_sorted_and_complete() -> None:
    assert edgevision.__all__ == sorted(edgevision.__all__)
    eager = {
        name
        for name, value in vars(edgevision).items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not name.startswith("_")
    }
    assert set(edgevision.__all__) - {"__version__"} == eager - {"Path", "Any"} | set(edgevision._LAZY)


@pytest.mark.parametrize("name", edgevision.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(edgevision, name)
    assert name == "__version__" or value.__doc__


def test_lazy_names_are_the_ones_that_type_checkers_see() -> None:
    tree = ast.parse(SOURCE)
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {
        alias.name: (node.module or "").removeprefix("edgevision.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == edgevision._LAZY


def test_dir_lists_the_public_names() -> None:
    assert dir(edgevision) == edgevision.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgevision' has no attribute 'Detector'"):
        edgevision.Detector  # noqa: B018

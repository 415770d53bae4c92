"""One base class for everything that is raised on purpose."""

from __future__ import annotations

import inspect

import pytest

import edgevision
from edgevision import errors

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]


def test_every_error_has_the_base_class() -> None:
    assert len(CLASSES) > 10
    assert all(issubclass(c, errors.EdgeVisionError) for c in CLASSES)


@pytest.mark.parametrize("error", CLASSES, ids=lambda c: c.__name__)
def test_every_error_is_public_documented_and_in_the_drawn_tree(error: type[Exception]) -> None:
    assert getattr(edgevision, error.__name__) is error
    assert error.__doc__
    line = next(line for line in (errors.__doc__ or "").splitlines() if error.__name__ in line.split())
    depth = len(error.__mro__) - len(errors.EdgeVisionError.__mro__)
    drawn = line.index(error.__name__) // 4 - 1
    assert drawn == depth, f"the tree in the docstring shows {error.__name__} at depth {drawn}, it is at {depth}"

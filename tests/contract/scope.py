"""One scope of the walk: what its names are, what is known of the version, and where uses are written down."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TypeVar

from tests.contract.kinds import Kind, Kinds
from tests.contract.source import Facts, Source, Use

NOT_KNOWN: Facts = frozenset()
Self = TypeVar("Self", bound="Scope")


class Scope:
    """A file, or a function within it, which sees the names around it.

    Attributes:
        names: what each name is.
        truths: of names that hold an answer: what holds where it is true, and where it is false.
        facts: what is known of the version here.
        inline: how deep the walk looks through our properties; what it meets there is recorded elsewhere.
    """

    def __init__(self, source: Source, path: Path, outer: Scope | None = None, function: str = "") -> None:
        self.source, self.path, self.function = source, path, function
        self.names: dict[str, Kinds] = dict(outer.names) if outer else {}
        self.truths: dict[str, tuple[Facts, Facts]] = dict(outer.truths) if outer else {}
        self.facts: Facts = outer.facts if outer else NOT_KNOWN
        self.inline = 0
        if outer is None:
            self.names |= {name: frozenset({meaning(kind)}) for name, kind in source.names[path].items()}

    def inner(self: Self, function: str = "") -> Self:
        """A scope inside this one."""
        made = type(self)(self.source, self.path, self, function or self.function)
        made.inline = self.inline
        return made

    def value(self, node: ast.expr) -> Kinds:
        """The kinds of an expression; records the uses in it."""
        raise NotImplementedError

    def use(
        self,
        owner: str,
        member: str,
        how: str,
        node: ast.AST,
        arguments: tuple[Kinds, ...] = (),
        keywords: tuple[str, ...] = (),
        open_call: bool = False,
    ) -> None:
        if not self.inline:
            where = f"{self.path}:{getattr(node, 'lineno', 0)}"
            found = Use(owner, member, how, self.facts, where, arguments, keywords, open_call)
            self.source.uses.append((self.function, found))

    def problem(self, node: ast.AST, text: str) -> None:
        if not self.inline:
            self.source.problems.add(f"{self.path}:{getattr(node, 'lineno', 0)}: {text}")

    def called(self, function: str) -> None:
        """Write down that a function of ours is called here."""
        if not self.inline:
            self.source.calls.setdefault(function, set()).add((self.function, self.facts))


def meaning(kind: Kind) -> Kind:
    """What a name stands for in expressions: a class of ours is called there, in annotations it means its objects."""
    return Kind("ours", kind.name) if kind.what == "product" else kind


def owner_of(kind: Kind) -> str:
    """Whose members such a value has; empty where they are not TensorRT's."""
    if kind.what == "module":
        return "module"
    return kind.name if kind.what in ("class", "enum", "object") else ""

"""What a value in the source can be, as far as TensorRT is concerned."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache

from tests.standins.tensorrt.facts import Api, Signature, load, versions


@dataclass(frozen=True)
class Kind:
    """One possibility.

    Attributes:
        what: `module`; `class`, `enum` (the class objects named `name`); `object`, `member` (their instances);
            `method`, `function` of TensorRT; `text` (the literal `name`); `list` and `dict` of `inner`; `tuple` of
            `parts`; `product` (an instance of our class `name`), `bound` (its method `member`); `call` (our function);
            `lost` (came from TensorRT, but nothing is known about it).
    """

    what: str
    name: str = ""
    member: str = ""
    inner: frozenset[Kind] = frozenset()
    parts: tuple[frozenset[Kind], ...] = ()


Kinds = frozenset[Kind]
NOTHING: Kinds = frozenset()
MODULE = Kind("module")
_SEQUENCES = ("list", "List", "Iterator", "Iterable", "Sequence", "deque", "set", "frozenset", "Collection")


@cache
def known() -> tuple[Api, ...]:
    """The API of every version."""
    return tuple(load(version) for version in versions())


def is_class(name: str) -> bool:
    """Whether any version has a class of this name."""
    return any(name in api.classes for api in known())


def is_enum(name: str) -> bool:
    """Whether any version has an enum of this name."""
    return any(name in api.enums for api in known())


def instance(name: str) -> Kind | None:
    """What a value of a type named in a signature is; None for plain numbers and texts."""
    if is_class(name):
        return Kind("object", name)
    return Kind("member", name) if is_enum(name) else None


def of_type(text: str) -> Kinds:
    """The kinds of a type as signatures spell it."""
    if text.startswith(("List[", "Iterator[")):
        return frozenset({Kind("list", inner=of_type(text.partition("[")[2][:-1]))})
    if text == "object":
        return frozenset({Kind("lost")})
    found = instance(text)
    return frozenset({found}) if found else NOTHING


def annotated(node: ast.expr | None, names: dict[str, Kind]) -> Kinds:
    """The kinds that an annotation names; `names` are the names that mean something in its file."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return annotated(ast.parse(node.value, mode="eval").body, names)
    if isinstance(node, ast.Name):
        return frozenset({names[node.id]}) if node.id in names else NOTHING
    if isinstance(node, ast.BinOp):
        return annotated(node.left, names) | annotated(node.right, names)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        kinds = [annotated(part, names) for part in parts]
        if node.value.id == "type":
            return frozenset(Kind("class", kind.name) for kind in kinds[0] if kind.what == "object")
        if not any(kinds):
            return NOTHING
        if node.value.id in ("dict", "Mapping"):
            return frozenset({Kind("dict", inner=kinds[-1])})
        if node.value.id == "tuple" and not isinstance(parts[-1], ast.Constant):
            return frozenset({Kind("tuple", parts=tuple(kinds))})
        if node.value.id in (*_SEQUENCES, "tuple"):
            return frozenset({Kind("list", inner=kinds[0])})
    return NOTHING


def elements(kinds: Kinds) -> Kinds:
    """What iterating or indexing gives."""
    found: set[Kind] = set()
    for kind in kinds:
        if kind.what in ("list", "dict"):
            found |= kind.inner
        elif kind.what == "tuple":
            found |= {entry for part in kind.parts for entry in part}
        elif kind.what == "object":
            found |= results(kind.name, "__getitem__")
    return frozenset(found)


def results(owner: str, member: str) -> set[Kind]:
    """What a method gives, or what a property holds, in any version."""
    found: set[Kind] = set()
    for api in known():
        for facts in api.lineage(owner):
            for signature in facts.methods.get(member, ()):
                found |= of_type(signature.result)
            if member in facts.properties:
                found |= of_type(facts.properties[member][0])
    return found


def signatures(api: Api, owner: str, member: str) -> list[Signature] | None:
    """A method's overloads in a version; None where it has no such method."""
    if owner == "module":
        return api.functions.get(member)
    for facts in api.lineage(owner):
        if member in facts.methods:
            return facts.methods[member]
    return None


def overloads_of(owner: str, member: str) -> list[Signature]:
    """A method's overloads in all versions; empty where none has such a method."""
    return [s for api in known() for facts in api.lineage(owner) for s in facts.methods.get(member, ())]


def part_of(kinds: Kinds, index: int) -> Kinds:
    """What a fixed index gives."""
    found: set[Kind] = set()
    for kind in kinds:
        if kind.what == "tuple" and -len(kind.parts) <= index < len(kind.parts):
            found |= kind.parts[index]
        elif kind.what != "tuple":
            found |= elements(frozenset({kind}))
    return frozenset(found)

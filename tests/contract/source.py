"""The product's files that touch TensorRT, and the uses found in them."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

from tests.contract.kinds import MODULE, Kind, Kinds, annotated, instance

_TYPES = "edgevision.backends.tensorrt_types"
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef)

Fact = tuple[str, str, bool]
"""Owner, member, and whether the version has it."""
Facts = frozenset[Fact]


@dataclass(frozen=True)
class Use:
    """One place where a member of TensorRT is needed.

    Attributes:
        owner: a class or enum, or `module`.
        member: its name.
        how: `read`, `write`, `call`, `override`, or `probe`: the name must exist in some version only.
        facts: what is known of the version there.
        where: file:line.
        arguments: of a call: the kinds by position; of an override: one entry per parameter.
        keywords: of a call.
        open_call: the call passes `*arguments` or `**keywords`.
    """

    owner: str
    member: str
    how: str
    facts: Facts
    where: str
    arguments: tuple[Kinds, ...] = ()
    keywords: tuple[str, ...] = ()
    open_call: bool = False


@dataclass
class Class:
    """One of our classes: kinds of its attributes, and its methods with those that are properties."""

    fields: dict[str, Kinds] = field(default_factory=dict)
    methods: dict[str, ast.FunctionDef] = field(default_factory=dict)
    properties: set[str] = field(default_factory=set)


@dataclass
class Source:
    """What the walk learns.

    Attributes:
        files: that import TensorRT's names, or what holds TensorRT's objects.
        names: per file, what names in it mean.
        classes: ours by key: file:name.
        functions: ours by key, with their file.
        extra: attributes that our subclasses add, by TensorRT's class.
        calls: per function of ours, from where it is called: the caller and what is known there.
        uses: with the function that they are in.
        problems: values that the walk cannot follow.
    """

    files: dict[Path, ast.Module]
    names: dict[Path, dict[str, Kind]] = field(default_factory=dict)
    classes: dict[str, Class] = field(default_factory=dict)
    functions: dict[str, tuple[ast.FunctionDef, Path]] = field(default_factory=dict)
    extra: dict[str, set[str]] = field(default_factory=dict)
    calls: dict[str, set[tuple[str, Facts]]] = field(default_factory=dict)
    uses: list[tuple[str, Use]] = field(default_factory=list)
    problems: set[str] = field(default_factory=set)


def read(files: dict[Path, str]) -> Source:
    """The files that matter among the texts of all, with what they declare."""
    trees = {path: ast.parse(text) for path, text in files.items()}
    carriers = {path for path, tree in trees.items() if any(module == _TYPES for module, _ in _imports(tree))}
    held = {key(path, node.name) for path in carriers for node in trees[path].body if isinstance(node, _DEFINITIONS)}
    source = Source(
        {p: t for p, t in trees.items() if p in carriers or held & {_origin(*entry) for entry in _imports(t)}}
    )
    for path, tree in source.files.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                source.classes[key(path, node.name)] = Class()
            elif isinstance(node, ast.FunctionDef):
                source.functions[key(path, node.name)] = (node, path)
    for path, tree in source.files.items():
        names = source.names[path] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    kind = _meaning(source, node.module or "", alias.name)
                    if kind is not None:
                        names[alias.asname or alias.name] = kind
        for node in tree.body:
            if isinstance(node, _DEFINITIONS):
                names[node.name] = Kind("product" if isinstance(node, ast.ClassDef) else "call", key(path, node.name))
    for path, tree in source.files.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                _declare(source.classes[key(path, node.name)], node, source.names[path])
    return source


def key(path: Path, name: str) -> str:
    """What a class or function of ours is known by."""
    return f"{path}:{name}"


def _origin(module: str, name: str) -> str:
    """The key of what is imported under a name."""
    parts = module.split(".")
    if parts[:2] in (["edgevision", "export"], ["edgevision", "calibration"]):
        parts = parts[1:]
    return key(Path(*parts).with_suffix(".py"), name)


def _imports(tree: ast.Module) -> set[tuple[str, str]]:
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {(node.module or "", alias.name) for node in found for alias in node.names}


def _meaning(source: Source, module: str, name: str) -> Kind | None:
    if module == _TYPES:
        return MODULE if name == "TensorRT" else instance(name)
    origin = _origin(module, name)
    if origin in source.classes:
        return Kind("product", origin)
    return Kind("call", origin) if origin in source.functions else None


def _declare(found: Class, node: ast.ClassDef, names: dict[str, Kind]) -> None:
    for entry in node.body:
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
            found.fields[entry.target.id] = annotated(entry.annotation, names)
        elif isinstance(entry, ast.FunctionDef):
            found.methods[entry.name] = entry
            if any(isinstance(d, ast.Name) and d.id in ("property", "cached_property") for d in entry.decorator_list):
                found.properties.add(entry.name)

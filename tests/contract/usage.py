"""Every use of TensorRT in the product, collected from its source, and checked against a version's API."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from tests.contract.kinds import Kind, known, signatures
from tests.contract.source import Facts, Source, Use, read
from tests.contract.walk import Walk
from tests.standins.tensorrt.facts import Api, Signature


def collect(files: dict[Path, str]) -> tuple[list[Use], set[str]]:
    """Every use of TensorRT in the texts of files, and what could not be followed."""
    source = read(files)
    for _ in range(3):  # attributes of our objects become known on the way
        source.uses.clear()
        source.calls.clear()
        source.problems.clear()
        for path, tree in source.files.items():
            Walk(source, path).block(tree.body)
    entry = _entry_facts(source)
    uses = {
        dataclasses.replace(use, facts=use.facts | entry.get(function, frozenset())) for function, use in source.uses
    }
    return sorted(uses, key=lambda use: (use.owner, use.member, use.where, use.how)), source.problems


def _entry_facts(source: Source) -> dict[str, Facts]:
    """What is known of the version wherever a function of ours is called, for those called from our code only."""
    entry: dict[str, Facts] = {}
    for _ in range(6):
        for function, calls in source.calls.items():
            sites = [facts | entry.get(caller, frozenset()) for caller, facts in calls]
            entry[function] = frozenset.intersection(*sites)
    return entry


def check(use: Use, api: Api) -> str | None:
    """What is wrong with a use in a version; None: nothing, or it is never reached there."""
    if use.how == "probe" or any(has(api, owner, member) != there for owner, member, there in use.facts):
        return None
    title = f"{use.where}: TensorRT {api.version}"
    if not has(api, use.owner, use.member):
        return f"{title} has no {use.owner}.{use.member}"
    if use.how == "write":
        writable = [
            facts.properties[use.member][1] for facts in api.lineage(use.owner) if use.member in facts.properties
        ]
        if not writable or not writable[0]:
            return f"{title}: {use.owner}.{use.member} cannot be written"
        kind = next(
            facts.properties[use.member][0] for facts in api.lineage(use.owner) if use.member in facts.properties
        )
        if use.arguments and not _suits(kind, use.arguments[0], api):
            return f"{title}: {use.owner}.{use.member} takes {kind}"
    if use.how in ("call", "override"):
        overloads = signatures(api, use.owner, use.member)
        if overloads is None:
            return f"{title}: {use.owner}.{use.member} is no method"
        fits = _overridden if use.how == "override" else _fits
        if not any(fits(use, overload, api) for overload in overloads):
            shown = "; ".join(overload.text() for overload in overloads)
            return f"{title}: {use.owner}.{use.member} takes {shown}"
    return None


def somewhere(use: Use, apis: list[Api]) -> str | None:
    """What is wrong with a use in all versions together: the name exists in none, or it is never reached."""
    if not any(has(api, use.owner, use.member) for api in apis):
        return f"{use.where}: no TensorRT has {use.owner}.{use.member}"
    if not any(all(has(api, o, m) == there for o, m, there in use.facts) for api in apis):
        return f"{use.where}: {use.owner}.{use.member} is never reached"
    return None


def has(api: Api, owner: str, member: str) -> bool:
    """Whether a version has a member."""
    if owner == "module":
        return member in api.classes or member in api.enums or member in api.functions or member in api.constants
    if owner in api.enums:
        return member in api.enums[owner]
    if member == "__init__":
        return owner in api.classes
    return any(member in facts.methods or member in facts.properties for facts in api.lineage(owner))


def _fits(use: Use, signature: Signature, api: Api) -> bool:
    """Whether a call's arguments fit an overload, as far as their kinds are known."""
    if signature.variadic or use.open_call:
        return True
    parameters, given = signature.parameters, len(use.arguments)
    if given > len(parameters) or not set(use.keywords) <= {
        p.name for p in parameters[given:] if not p.positional_only
    }:
        return False
    if any(p.default is None and p.name not in use.keywords for p in parameters[given:]):
        return False
    return all(_suits(p.type, kinds, api) for p, kinds in zip(parameters, use.arguments, strict=False))


def _suits(kind: str, kinds: frozenset[Kind], api: Api) -> bool:
    """Whether a value of these kinds can be given where a type is wanted."""
    seen = [k for k in kinds if k.what in ("object", "member")]
    if not seen or kind in ("object", "buffer", "capsule") or kind.startswith("List["):
        return True
    if kind == "Dims":
        return all(k.name.startswith("Dims") for k in seen)
    if kind not in api.classes and kind not in api.enums:
        return False
    return any(kind == k.name or kind in {facts.name for facts in api.lineage(k.name)} for k in seen)


def _overridden(use: Use, signature: Signature, api: Api) -> bool:
    return signature.variadic or len(use.arguments) == len(signature.parameters)


def product(root: Path) -> dict[Path, str]:
    """The texts of the product's files."""
    folders = ("edgevision", "calibration", "export")
    return {
        path.relative_to(root): path.read_text() for name in folders for path in sorted((root / name).rglob("*.py"))
    }


def used_members(uses: list[Use]) -> Iterator[tuple[str, str]]:
    """Each member that is used, once."""
    yield from sorted({(use.owner, use.member) for use in uses if use.member != "__init__"})


def all_apis() -> list[Api]:
    """The API of every version, oldest first."""
    return list(known())

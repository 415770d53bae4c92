"""The API of each TensorRT version, read from api.txt."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.standins.tensorrt.condense import entries

_FILE = Path(__file__).with_name("api.txt")
_SIGNATURE = re.compile(r"def (\w+)\((.*)\) -> (.+)$")
_PROPERTY = re.compile(r"property (\w+): (.+) (rw|r)$")


@dataclass(frozen=True)
class Parameter:
    """One parameter of a signature; `default` is its source text."""

    name: str
    type: str
    default: str | None = None

    @property
    def positional_only(self) -> bool:
        """pybind shows parameters without a name as arg0, arg1, ... and takes no keyword for them."""
        return re.fullmatch(r"arg\d+", self.name) is not None


@dataclass(frozen=True)
class Signature:
    """One overload of a method or function, without `self`."""

    name: str
    parameters: tuple[Parameter, ...]
    result: str
    variadic: bool = False

    def text(self, owner: str = "") -> str:
        """As pybind prints it in its errors."""
        shown = [f"self: {owner}"] if owner else []
        shown += [f"{p.name}: {p.type}" + (f" = {p.default}" if p.default else "") for p in self.parameters]
        return f"({', '.join(shown)}) -> {self.result}"


@dataclass
class ClassFacts:
    """One class; `properties` maps a name to its type and whether it may be written."""

    name: str
    base: str | None = None
    constructible: bool = False
    methods: dict[str, list[Signature]] = field(default_factory=dict)
    properties: dict[str, tuple[str, bool]] = field(default_factory=dict)


@dataclass
class Api:
    """Everything the bindings of one version define."""

    version: str
    classes: dict[str, ClassFacts] = field(default_factory=dict)
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    functions: dict[str, list[Signature]] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)

    def lineage(self, name: str) -> list[ClassFacts]:
        """The class and its bases, most derived first."""
        found = []
        current: str | None = name
        while current in self.classes:
            found.append(self.classes[current])
            current = found[-1].base
        return found


@functools.cache
def versions() -> tuple[str, ...]:
    """The versions in api.txt, oldest first; TensorRT-RTX's begins with `rtx-`."""
    return tuple(_FILE.read_text().partition("\n")[0].partition("Columns: ")[2].split())


def load(version: str) -> Api:
    """The API of one of `versions()`; a fresh object that the caller may change."""
    column = versions().index(version)
    api = Api(version)
    group = name = ""
    for line in _FILE.read_text().splitlines()[1:]:
        if not line.startswith(" "):
            group, _, name = line.partition(" ")
            continue
        text, _, row = line.rpartition(" | ")
        value = row.split()[column] if group == "enum" else row[column]
        if value != "-":
            _read(api, group, name, text.strip(), value)
    return api


def entries_to_api(version: str, dump: dict[str, Any]) -> Api:
    """The API in a dump of real bindings."""
    api = Api(version)
    for heading, lines in entries(dump).items():
        group, _, name = heading.partition(" ")
        for line, value in lines.items():
            _read(api, group, name, line.strip(), value)
    return api


def _read(api: Api, group: str, name: str, text: str, value: str) -> None:
    if group == "enum":
        api.enums.setdefault(name, {})[text] = int(value)
    elif group == "functions":
        signature = parse_signature(text)
        api.functions.setdefault(signature.name, []).append(signature)
    elif group == "constants":
        constant, _, member = text.partition(" = ")
        api.constants[constant] = member
    else:
        facts = api.classes.setdefault(name, ClassFacts(name))
        if text == "constructible":
            facts.constructible = True
        elif text.startswith("base "):
            facts.base = text[5:]
        elif match := _PROPERTY.match(text):
            facts.properties[match[1]] = (match[2], match[3] == "rw")
        else:
            signature = parse_signature(text)
            facts.methods.setdefault(signature.name, []).append(signature)


def parse_signature(text: str) -> Signature:
    """Read `def name(a: int, b: List[Dims] = None) -> bool`."""
    match = _SIGNATURE.match(text)
    assert match, text
    if match[2] == "*args":
        return Signature(match[1], (), match[3], variadic=True)
    parameters = []
    for part in re.split(r", (?=\w+: )", match[2]) if match[2] else ():
        name, _, rest = part.partition(": ")
        kind, _, default = rest.partition(" = ")
        parameters.append(Parameter(name, kind, default or None))
    return Signature(match[1], tuple(parameters), match[3])

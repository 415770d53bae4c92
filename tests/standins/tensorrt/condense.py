"""The facts that the stand-in is made of: how a dump of real bindings becomes lines of text, and api.txt.

Run as `python -m tests.standins.tensorrt.condense` where scripts/set-up-device has run; it writes api.txt from the real
bindings. Only what a program that builds and runs engines can meet is kept: no plugin authoring, no algorithm
selection, no Caffe and UFF.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

VERSIONS = ("8.6.1", "10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106", "rtx-1.7.1.116")
_LEFT_OUT = re.compile(
    r"Plugin|Algorithm|Caffe|Uff|RNN|FieldMap|FieldCollection|BlobNameToTensor|DimsExprs|DimensionExpr|SymExpr|"
    r"KernelLaunch|InterfaceInfo|VersionedInterface|ExprBuilder|Attention|MoE|KVCache|DistColl|Rotary|FallbackString|"
    r"DimensionOperation|TensorRTPhase|AllocatorFlag|SeekPosition|PersistentWorkspace|NodeIndices|SubGraphCollection|"
    r"TimingCacheKey|TimingCacheValue"
)
# Members that no program names.
_UNSEEN = {"__del__", "__repr__", "__str__", "__eq__", "__ne__", "__nonzero__", "_pybind11_conduit_v1_"}
_RENAMED = {
    "IParserError": "ParserError",
    "IBuilder": "Builder",
    "IEngineInspector": "EngineInspector",
    "ILogger.Severity": "Severity",
    "detail::accessor<detail::accessor_policies::str_attr>": "IPluginRegistry",
}


def tidy(text: str) -> str:
    """One spelling of a type for all generations of pybind and of the C++ namespaces it shows."""
    text = re.sub(r"(?:tensorrt\w*\.)+|nvinfer1::(?:v_\d_\d::)?|nvonnxparser::|collections\.abc\.", "", text)
    text = re.sub(r"typing(?:_extensions)?\.|types\.", "", text)
    text = text.replace("ILogger::Severity", "Severity").replace("SupportsInt | SupportsIndex", "int")
    text = (
        re.sub(r"SupportsInt|SupportsIndex", "int", text).replace("SupportsFloat", "float").replace("Buffer", "buffer")
    )
    text = re.sub(r"\b(?:list|Sequence|Iterable)\[", "List[", text).replace("tuple[", "Tuple[")
    text = re.sub(r"<(\w+\.\w+): -?\d+>", r"\1", text).replace("CapsuleType", "capsule")
    for old, new in _RENAMED.items():
        text = re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, text)
    return text


def _signatures(name: str, stored: Any) -> list[str]:
    lines = []
    for text in stored if isinstance(stored, list) else [stored]:
        if not isinstance(text, str) or text.startswith("python:"):
            text = f"{name}(this, *args) -> object"
        text = tidy(text)
        text = re.sub(r"^(\w+)\((?:self: \w+(?:, )?|this(?:, )?)", r"\1(", text)
        lines.append(f"  def {text}")
    return lines


def entries(api: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Group heading -> line -> its value in this version ("Y", or an enum's number)."""
    groups: dict[str, dict[str, str]] = {}
    for owner, facts in api["classes"].items():
        if _LEFT_OUT.search(owner) and owner != "IPluginRegistry":
            continue
        lines = groups.setdefault(f"class {owner}", {})
        base = [b for b in facts.get("bases", []) if b not in ("object", "pybind11_object")]
        if base:
            lines[f"  base {base[0]}"] = "Y"
        if facts.get("constructible", True):
            lines["  constructible"] = "Y"
        for name, stored in facts.get("methods", {}).items():
            if name in _UNSEEN or (owner == "INetworkDefinition" and "plugin" in name):
                continue
            for line in _signatures(name, stored):
                lines[line] = "Y"
        for name, entry in facts.get("properties", {}).items():
            mode = "rw" if entry["writable"] else "r"
            lines[f"  property {name}: {tidy(str(entry['type'] or 'object'))} {mode}"] = "Y"
        for inner, members in facts.get("enums", {}).items():
            if inner == "Severity":
                groups["enum Severity"] = {f"  {name}": str(value) for name, value in members.items()}
    for enum, members in api["enums"].items():
        if not _LEFT_OUT.search(enum):
            groups[f"enum {enum}"] = {f"  {name}": str(value) for name, value in members.items()}
    functions = groups.setdefault("functions", {})
    for name, stored in api["functions"].items():
        if "shutdown" not in name:
            for line in _signatures(name, stored):
                functions[line] = "Y"
    constants = groups.setdefault("constants", {})
    for name, text in api["constants"].items():
        if name == "value":  # left over from a loop in the bindings
            continue
        constants[f"  {name} = {tidy(text)}"] = "Y"
    return groups


def condense(dumps: dict[str, dict[str, Any]]) -> str:
    """The text of api.txt from dumps by version; a column per version follows each line's bar."""
    tables: dict[str, dict[str, list[str]]] = {}
    for column, version in enumerate(VERSIONS):
        for group, lines in entries(dumps[version]).items():
            for line, value in lines.items():
                row = tables.setdefault(group, {}).setdefault(line, ["-"] * len(VERSIONS))
                row[column] = value
    text = [f"# Made by condense.py. Columns: {' '.join(VERSIONS)}"]
    for group in sorted(tables):
        text.append(group)
        separator = " " if group.startswith("enum") else ""
        text += [f"{line} | {separator.join(row)}" for line, row in tables[group].items()]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    from tests.standins.tensorrt.bindings import dumped

    Path(__file__).with_name("api.txt").write_text(condense({version: dumped(version) for version in VERSIONS}))

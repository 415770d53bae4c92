"""Writes docs/families.md from the heads themselves and from families.toml beside this file.

python scripts/families_page.py
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevision.export.families import built_in_families
from edgevision.export.heads.base import Head
from edgevision.export.toml_files import read_toml
from edgevision.files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "families.md"
STATES = {
    "real": "**real model**",
    "own": "**own code**",
    "independent": "independent decode",
    "refused": "refused",
    "missing": "not yet",
}

INTRODUCTION = """# Model families

Written by `python scripts/families_page.py` from the heads themselves and from `scripts/families.toml`.

How each family is used is in [export.md](export.md). How far each is proved:

| state | means |
|---|---|
| **real model** | a trained model that others published gives its documented accuracy or results; \
its decode also equals an independent one |
| **own code** | on graphs that the family's own exporter wrote, with random weights: the same boxes, masks or \
classes as its own post-processing reports for the same pictures (`make test-families`); \
its decode also equals an independent one |
| independent decode | equal, on graphs built as the family's exporter writes them, \
to a decode written from its paper or documentation |
| refused | with a reason that says what to do instead |
| not yet | not there |
"""


def page() -> str:
    """The page's text."""
    data, heads = read_toml(ROOT / "scripts" / "families.toml"), built_in_families()
    return "\n".join([INTRODUCTION, *_rows(data["row"], heads), "", *_heads(data["preprocess"], heads), ""])


def _rows(rows: list[dict[str, Any]], heads: Mapping[str, Head]) -> list[str]:
    lines = ["| group | family | head | state | proof |", "|---|---|---|---|---|"]
    group = ""
    for row in rows:
        unknown = [name for name in row["heads"] if name not in heads]
        absent = [name for name in row.get("tests", []) if not (ROOT / "tests" / name).is_file()]
        if unknown or absent:
            raise SystemExit(f"families.toml, {row['family']}: there is no {', '.join(unknown + absent)}")
        tests = ", ".join(f"[{Path(name).stem}](../tests/{name})" for name in row.get("tests", []))
        names = ", ".join(f"`{name}`" for name in row["heads"])
        proof = "; ".join(part for part in (row.get("note", ""), tests) if part)
        shown = row["group"] if row["group"] != group else ""
        lines.append(f"| {shown} | {row['family']} | {names} | {STATES[row['state']]} | {proof} |")
        group = row["group"]
    return lines


def _heads(preprocess: Mapping[str, str], heads: Mapping[str, Head]) -> list[str]:
    lines = [
        "## What each head recognises",
        "",
        "Preprocessing: how the picture is resized (grey level around it), channel order, mean / std in 0..255 units.",
        "Flags and the file's own metadata outrank it.",
        "",
        "| head | recognises | preprocessing | options (`--head NAME=VALUE`) | source |",
        "|---|---|---|---|---|",
    ]
    for name, head in heads.items():
        options = "<br>".join(f"`{option}`: {meaning}" for option, meaning in head.options.items()) or "none"
        cells = [f"`{name}`", head.about, preprocess.get(name, "not noted here"), options, _source(head)]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def _source(head: Head) -> str:
    """What the head's file names as its source."""
    text = " ".join((inspect.getdoc(sys.modules[type(head).__module__]) or "").split())
    found = re.search(r"Sources?: (.*)", text)
    return found.group(1) if found else ""


if __name__ == "__main__":
    with atomic_path(PAGE) as path:
        path.write_text(page(), encoding="utf-8")

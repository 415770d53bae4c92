"""docs/families.md is what its script writes, and names every head."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgevision.export.families import built_in_families

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("families_page", ROOT / "scripts" / "families_page.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert written == script.page(), "run: python scripts/families_page.py"
    assert "not noted here" not in written, "scripts/families.toml lacks a head's preprocessing"
    for name in built_in_families():
        assert written.count(f"| `{name}` |") >= 1

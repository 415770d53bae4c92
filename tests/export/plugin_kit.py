"""Distributions that bring a head, as an installer leaves them: a module and its metadata on the path."""

from __future__ import annotations

from pathlib import Path

ALWAYS = """
from edgevision.export.heads.base import Match
class Head:
    name, about, options = "always", "says yes to everything", {}
    def recognise(self, model):
        return Match("it says yes to everything there is")
    def normalise(self, model, match):
        raise AssertionError("unfinished")
HEAD = Head()
"""


def install(folder: Path, entry: str, source: str | None = None, distribution: str = "acme_heads") -> None:
    """Put `source` (as module `<distribution>_module`) and an entry point such as `always = module:HEAD` into a
    folder of the path."""
    if source is not None:
        (folder / f"{distribution}_module.py").write_text(source)
    metadata = folder / f"{distribution}-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text(f"[edgevision.heads]\n{entry}\n")

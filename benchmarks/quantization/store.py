"""Results on disk: each is measured once, and again only when what it was measured from has changed."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgevision.files import atomic_path


class Store:
    """JSON files in one folder.

    Attributes:
        folder: where they are, beside the bundles they are about.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was measured under this name; None where nothing was, or from something else than `key`."""
        try:
            held = json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None
        return held if held["key"] == json.loads(json.dumps(key)) else None

    def measure(self, name: str, key: Mapping[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What is held under this name, or else what `work` finds now, with `key`, `date` and `load`: how many
        programs wanted this machine's cores when it began, over a minute."""
        held = self.get(name, key)
        if held is not None:
            return held
        load = round(os.getloadavg()[0], 1)
        date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes")
        found = {"key": dict(key), "date": date, "load": load, **work()}
        with atomic_path(self.folder / f"{name}.json") as path:
            path.write_text(json.dumps(found, indent=1))
        return found

    def forget(self, method: str) -> None:
        """Let everything about a method be measured anew."""
        for file in self.folder.glob(f"{method}.*"):
            file.unlink()

"""Finding a Python that has GStreamer's bindings, and what its GStreamer can do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from edgevision.errors import SourceError
from edgevision.sources.gstreamer_pipelines import FORMAT, HARDWARE_FORMAT, PACKAGES, SINK, GstreamerPipeline
from edgevision.sources.reader_process import ReaderProcess

READER = Path(__file__).with_name("gstreamer_reader.py")
_SYSTEM_PYTHON = "/usr/bin/python3"
_PROBE_LIMIT_S = 60.0  # the first time after an installation GStreamer looks at every plugin
REMEDY = "sudo apt-get install python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-libav"


@dataclass(frozen=True)
class GstreamerPython:
    """An interpreter with GStreamer's bindings.

    Attributes:
        python: its path.
        version: GStreamer's, in words.
        elements: those of gstreamer_pipelines.PACKAGES that are there.
    """

    python: str
    version: str
    elements: frozenset[str]

    def start(self, pipeline: GstreamerPipeline, *, nv12: bool = False) -> ReaderProcess:
        """Start a reader.

        Args:
            nv12: hand pictures over in NV12 where their colours are of that kind.

        Raises:
            SourceError: it cannot be started.
        """
        task = {"pipeline": pipeline.text, "properties": pipeline.properties, "sink": SINK, "nv12": nv12}
        task["formats"] = {FORMAT: ("NV12", "BGR"), HARDWARE_FORMAT: ("NV12", "BGRx")}
        return ReaderProcess([self.python, "-I", str(READER)], task)


@lru_cache(maxsize=1)
def find_gstreamer() -> GstreamerPython | None:
    """This interpreter if it has the bindings, else the system's; None where neither has. Asked once per process."""
    for python in dict.fromkeys([sys.executable, _SYSTEM_PYTHON, shutil.which("python3") or ""]):
        if not python or not Path(python).exists():
            continue
        try:
            done = subprocess.run(
                [python, "-I", str(READER), "--probe", *PACKAGES],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_PROBE_LIMIT_S,
                stdin=subprocess.DEVNULL,
            )
            if done.returncode == 0:
                found = json.loads(done.stdout)
                return GstreamerPython(python, found["version"], frozenset(found["elements"]))
        except (OSError, subprocess.TimeoutExpired, ValueError):
            continue
    return None


def require_gstreamer(purpose: str) -> GstreamerPython:
    """
    Raises:
        SourceError: there is none; says what to install.
    """
    found = find_gstreamer()
    if found is None:
        raise SourceError(
            f"{purpose} needs GStreamer's Python bindings, which neither {sys.executable} nor {_SYSTEM_PYTHON} has; "
            f"run: {REMEDY}"
        )
    return found

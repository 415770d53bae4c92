"""The real Python bindings, as scripts/set-up-device installed them: what they define, and what they answer."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.standins.tensorrt.facts import Api, entries_to_api

_FOLDER = Path(sys.prefix) / "tensorrt-bindings"
_DUMP = Path(__file__).with_name("dump.py")
_TIMEOUT_S = 60

# NVIDIA publishes no bindings of these versions for these Pythons; another interpreter's are used where there is one.
WITHOUT_WHEEL = {(3, 12): {"8.6.1"}, (3, 13): {"8.6.1", "10.3.0"}}


def installed(version: str) -> bool:
    """Whether the real bindings of a version can be looked at here."""
    return version.startswith("rtx-") or (_FOLDER / version / "interpreter").is_file()


def run(version: str, script: Path, *arguments: str) -> Any:
    """Run a script over the real bindings, in a process of its own; the JSON that it prints.

    Raises:
        AssertionError: it fails, or the bindings are not installed though they exist for this Python.
    """
    assert installed(version), f"no bindings of TensorRT {version} in {_FOLDER}; run scripts/set-up-device"
    if version.startswith("rtx-"):
        command = [sys.executable, str(script), "tensorrt_rtx_bindings"]
    else:
        folder = _FOLDER / version
        command = [(folder / "interpreter").read_text().strip(), str(script), "tensorrt_bindings", str(folder)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@functools.cache
def dumped(version: str) -> dict[str, Any]:
    """Everything that the real bindings define; see dump.py."""
    found: dict[str, Any] = run(version, _DUMP)
    return found


def api(version: str) -> Api:
    """The same in the stand-in's terms."""
    return entries_to_api(version, dumped(version))

"""What every check gives, and how checks ask the machine."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OK, ABSENT, PROBLEM = "ok", "absent", "problem"
_LIMIT_S = 20.0


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        state: `ok`; `absent`: an optional part is not there; `problem`: something that should work does not.
        detail: what was found.
        remedy: what to do about it; empty when there is nothing to do. With `ok`: what more could be had.
    """

    subject: str
    state: str
    detail: str
    remedy: str = ""


def find_package(module: str, distribution: str, purpose: str, remedy: str) -> Iterator[Finding]:
    """A Python package: its version, or why it does not import."""
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        yield Finding(distribution, ABSENT, f"{purpose}: not installed ({error})", remedy)
        return
    except (ImportError, OSError) as error:
        yield Finding(distribution, PROBLEM, f"{purpose}: does not load: {error}", f"reinstall it: {remedy}")
        return
    version = getattr(loaded, "__version__", None)
    if version is None:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(distribution)
    yield Finding(distribution, OK, f"{version or 'version unknown'}, for {purpose}")


def answer(program: str, *arguments: str) -> str | None:
    """What a program on the PATH prints; None where it is missing, fails or takes too long."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, errors="replace", timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def read(path: Path) -> str:
    """A file's text; empty where it is missing or closed to us."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""

"""Shared fixtures."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# A suite started in the background of a script inherits an ignored Ctrl-C; what is tested here is a user's terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a busy machine is no fault of the code. Integration runs repeat themselves; at the desk examples are new.
settings.register_profile("project", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("project")

# Files run side by side: the one that takes minutes must not begin when all others are done.
_LONGEST = "test_sanitizers.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != _LONGEST)


_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real trained models (models/) and labelled pictures (data/) beside the checkout.

    They are too large and too differently licensed to be part of the repository.
    """
    if not (_SHARED / "models").is_dir():
        pytest.skip(f"needs the folder of real models and pictures at {_SHARED}, which is not part of the repository")
    return _SHARED

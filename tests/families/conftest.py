"""Families against their own packages: `make test-families`, in an environment that has them.

A plain run of the suite collects these tests and leaves them out, so nothing here imports those packages at the top.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=1, help="random networks per family (default: 1)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        # The option is unknown where the whole suite is collected and this file is found late.
        metafunc.parametrize("seed", range(metafunc.config.getoption("--seeds", default=1)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("families")


@pytest.fixture(scope="session")
def torchvision_ops(tmp_path_factory: pytest.TempPathFactory) -> None:
    """torchvision with its compiled operators, also beside a torch without CUDA."""
    from tests.families.cuda_stubs import load_operators

    load_operators(tmp_path_factory.mktemp("stubs"))

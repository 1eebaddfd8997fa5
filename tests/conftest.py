"""What every test may stand on: a small set of real pictures, built once."""

from __future__ import annotations

import os
from pathlib import Path

# Networks in tests are tiny: a second thread costs more in waiting than it computes. Processes
# that tests start read the variable; this one has it before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from distgen.data import build

# How long an example takes says more about the machine than about the code.
settings.register_profile("distgen", deadline=None)
settings.load_profile("distgen")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need Ray come last.

    The others fail sooner that way, and they must not run beside the cluster that the Ray tests
    share: this process stays connected to it until the session ends.
    """
    items.sort(key=lambda item: "tests/ray/" in item.nodeid)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The built-in digits as a shard set with a train and a test split."""
    folder: Path = tmp_path_factory.mktemp("shards") / "digits"
    build("digits", str(folder))
    return str(folder)

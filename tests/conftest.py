"""What every test may stand on: a small set of real pictures, built once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# Networks in tests are tiny: a second thread costs more in waiting than it computes. Processes
# that tests start read the variable; this one has it before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Each of these processes would otherwise compile all of distgen anew, where images of containers
# set this: a second for each.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest
from hypothesis import settings

from distgen.data.building import build
from tests.faults import HEADER, TABLE, Survived, judge

# How long an example takes says more about the machine than about the code.
settings.register_profile("distgen", deadline=None)
settings.load_profile("distgen")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need Ray come last.

    The others fail sooner that way, and they must not run beside the cluster that the Ray tests
    share: this process stays connected to it until the session ends.
    """
    items.sort(key=lambda item: "tests/ray/" in item.nodeid)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table of faults, where some were tried."""
    rows = config.stash.get(TABLE, [])
    if rows:
        terminalreporter.section("what runs survive")
        terminalreporter.write_line(HEADER)
        for row in rows:
            terminalreporter.write_line(row.line())


@pytest.fixture
def survived(pytestconfig: pytest.Config) -> Callable[[Survived, int], None]:
    """Adds a fault to the table, and holds the run to what is promised."""

    def add(row: Survived, checkpoint_every: int) -> None:
        pytestconfig.stash.setdefault(TABLE, []).append(row)
        judge(row, checkpoint_every)

    return add


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The built-in digits as a shard set with a train and a test split."""
    folder: Path = tmp_path_factory.mktemp("shards") / "digits"
    build("digits", str(folder))
    return str(folder)

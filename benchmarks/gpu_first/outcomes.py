"""A plugin of pytest: writes the outcome of each test when it is known, and leaves out those that have passed before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.gpu_first.records import Records

# The folder, the device and whether the run is tiny, for the plugin in the process of the tests.
FOLDER, DEVICE, TINY = "GPU_FIRST_OUT", "TRACT_FX_TEST_DEVICE", "GPU_FIRST_TINY"


def records() -> Records:
    """Where the outcomes go."""
    return Records("correctness", Path(os.environ[FOLDER]), os.environ[DEVICE], os.environ[TINY] == "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has passed; the rest keeps its order."""
    passed = {key for key, record in records().found().items() if record["outcome"] == "passed"}
    left_out = [item for item in items if item.nodeid in passed]
    items[:] = [item for item in items if item.nodeid not in passed]
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests that are not reached are known by their number."""
    if session.items:
        name = session.items[0].nodeid.partition("::")[0]
        records().write(f"{name} begins", outcome="begins", tests=len(session.items))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test is over with its call, or with a set-up that failed or skipped it."""
    if report.when == "call" or (report.when == "setup" and not report.passed):
        why = "" if report.passed else str(report.longrepr)[-2000:]
        records().write(report.nodeid, outcome=report.outcome, seconds=report.duration, why=why)

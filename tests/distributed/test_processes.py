"""The watchdog itself: what hangs fails, with the place where every process stood."""

from __future__ import annotations

import time

import pytest

from tests.distributed.processes import Processes


def sleep_on_one(rank: int, size: int, port: int) -> None:
    if rank == 1:
        time.sleep(60)


def test_the_watchdog_says_where_it_hangs(two: Processes) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"(?s)sleep_on_one.* hangs after 1 seconds.*in sleep_on_one"):
        two.run(sleep_on_one, seconds=1)


def fail_on_one(rank: int, size: int, port: int) -> None:
    if rank == 1:
        raise ValueError("no")


def test_an_error_is_reported_with_all_traces(two: Processes) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"(?s)rank 0: returned.*rank 1: Traceback.*ValueError: no"):
        two.run(fail_on_one)

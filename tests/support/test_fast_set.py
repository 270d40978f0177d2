"""What the README's test command leaves out, no promise goes without."""

from collections import Counter
from pathlib import Path

import pytest

from support.slow import SPLITS, Split
from support.works import FEATURES

TESTS = Path(__file__).parents[1]


def test_every_promise_has_a_test_in_the_fast_set(request: pytest.FixtureRequest) -> None:
    """The items of a session are those that are left after the selection."""
    config = request.config
    if [Path(name).resolve() for name in config.args] not in ([TESTS], [TESTS.parent]) or config.option.keyword:
        pytest.skip("only some of the tests were collected")
    shown = Counter(mark.args[0] for item in request.session.items for mark in item.iter_markers("works"))
    assert set(FEATURES) - set(shown) == set()


@pytest.mark.parametrize("file", SPLITS)
def test_the_table_names_files_that_exist(file: str) -> None:
    assert (TESTS / file).is_file()


def test_exceptions_go_before_and_brackets_are_ordinary() -> None:
    split = Split(slow=("test_a*",), fast=("test_a[1]",))
    assert split.is_slow("test_a[2]")
    assert not split.is_slow("test_a[1]")
    assert not split.is_slow("test_b")

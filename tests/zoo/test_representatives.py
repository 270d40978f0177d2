"""What a test run leaves to ``python -m tests.zoo`` is, by its rows, like something that it examines."""

import pytest

from .representatives import ALIKE, SAME_STEM, different_cases
from .tables import all_cases

ROWS = {case.id: case for case in all_cases()}
TABLES = ALIKE, SAME_STEM


def test_every_model_is_examined_or_like_one_that_is() -> None:
    examined = [case.id for case in different_cases()]
    same_architecture, same_stem = ([name for group in table.values() for name in group] for table in TABLES)
    assert sorted([*examined, *same_architecture, *same_stem]) == sorted(ROWS)
    assert set(SAME_STEM) <= set(examined)
    assert set(ALIKE) <= {*examined, *same_stem}


@pytest.mark.parametrize("table", TABLES, ids=["architecture", "stem"])
def test_rows_that_are_alike_expect_the_same(table: dict[str, tuple[str, ...]]) -> None:
    for identifier, others in table.items():
        one = ROWS[identifier]
        for other in map(ROWS.get, others):
            assert sorted(map(len, other.layers)) == sorted(map(len, one.layers)), other.id
            assert (other.meets, other.known) == (one.meets, one.known), other.id

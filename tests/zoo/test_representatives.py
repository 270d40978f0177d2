"""What a test run leaves to ``python -m tests.zoo`` is, by its rows, like something that it looks at."""

from .representatives import ALIKE, different_cases
from .table_timm import TABLE
from .tables import all_cases

ROWS = {case.id: case for case in all_cases()}


def family_of_the_readme(identifier: str) -> str:
    row = ROWS[identifier]
    return row.family if row.id.startswith("transformers") else row.family.rpartition(".")[0] or row.family


def test_every_model_is_looked_at_or_like_one_that_is() -> None:
    looked_at = [case.id for case in different_cases()]
    others = [identifier for group in ALIKE.values() for identifier in group]
    assert len(others) == len(set(others))
    assert sorted([*looked_at, *others]) == sorted(ROWS)
    assert set(ALIKE) <= set(looked_at)


def test_rows_that_are_alike_expect_the_same() -> None:
    for identifier, others in ALIKE.items():
        one = ROWS[identifier]
        for other in map(ROWS.get, others):
            assert sorted(map(len, other.layers)) == sorted(map(len, one.layers)), other.id
            assert (other.meets, other.known) == (one.meets, one.known), other.id


def test_no_family_is_left_out() -> None:
    looked_at = {case.id for case in different_cases()}
    assert {family_of_the_readme(identifier) for identifier in ROWS} == set(map(family_of_the_readme, looked_at))
    for module, models in TABLE.items():
        assert looked_at & {f"timm:{name}" for name in models}, module

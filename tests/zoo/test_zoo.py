"""In the models of the zoo the first layers are those of the table: in all that are not like another one."""

import pytest

from .capture import capture
from .case import Case
from .representatives import different_cases
from .verdict import judge


def parameters() -> list[pytest.param]:
    """A row whose answer is known to be wrong fails the tests on the day on which it is right."""
    return [
        pytest.param(case, id=case.id, marks=pytest.mark.xfail(strict=True, reason=case.known) if case.known else ())
        for case in different_cases()
    ]


@pytest.mark.parametrize("case", parameters())
def test_first_layers(case: Case) -> None:
    verdict = judge(case, capture(case))
    assert verdict.is_good, f"{case.id}: {verdict.outcome.value}: {verdict.detail}"

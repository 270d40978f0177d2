"""In every model of the zoo the first layers are those of the table."""

import pytest

from .capture import capture
from .case import Case
from .tables import all_cases
from .verdict import judge


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.id)
def test_first_layers(case: Case) -> None:
    verdict = judge(case, capture(case))
    assert verdict.is_good, f"{case.id}: {verdict.outcome.value}: {verdict.detail}"

"""The committed table of libraries belongs to the cases, and holds what the project promises."""

import json
from pathlib import Path

from libraries.__main__ import TOLERANCE
from libraries.cases import CASES

RECORD = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "libraries.json").read_text())


def test_every_row_is_a_case_that_passed() -> None:
    for name, result in RECORD["cases"].items():
        case = CASES[name]
        assert (result["library"], result["use"], result["order"]) == (case.library, case.use, case.order)
        assert set(result["errors"]) == set(case.sides)
        assert max(result["errors"].values()) <= TOLERANCE
        assert result["steps"] >= 2

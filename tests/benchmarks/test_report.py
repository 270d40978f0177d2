"""Every number on a page comes from a committed result file."""

import json
from pathlib import Path

import pytest

from benchmarks import report
from support.works import FEATURES


@pytest.mark.parametrize("page", report.pages(), ids=lambda page: page.name)
def test_the_pages_have_what_the_results_give(page: Path) -> None:
    text = page.read_text()
    assert report.updated(text, report.pages()[page]) == text, "run: python -m benchmarks.report"


def test_every_table_has_a_place() -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        report.updated("a README without tables", report.TABLES)


def test_numbers() -> None:
    assert report.number(None) == "NaN"
    assert report.number(1.234e-5) == "1.2e-5"
    assert report.percent(1.0123) == "+1.2 %"


def test_the_table_of_what_works_is_that_of_the_present_tests() -> None:
    """Made with ``python -m pytest --what-works=benchmarks/results/what_works/torch-VERSION.json``."""
    paths = sorted((report.RESULTS / "what_works").glob("torch-*.json"))
    assert len(paths) == 2, "the oldest and the newest torch"
    for path in paths:
        features = json.loads(path.read_text())["features"]
        assert [(item["area"], item["promise"]) for item in features] == list(FEATURES.values()), path.name
        assert all(item["passed"] == item["tests"] > 0 for item in features), path.name


def test_a_promise_that_is_not_kept_stands_out() -> None:
    assert report.passed(3, 3) == "3 tests"
    assert report.passed(2, 3) == "**2 of 3**"
    assert report.passed(0, 0) == "**0 of 0**"

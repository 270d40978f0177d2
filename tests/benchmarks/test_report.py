"""Every number in the README comes from a committed result file."""

import pytest

from benchmarks import report


def test_the_readme_has_the_tables_that_the_results_give() -> None:
    text = report.README.read_text()
    assert report.updated(text) == text, "run: python -m benchmarks.report"


def test_every_table_has_a_place() -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        report.updated("a README without tables")


def test_numbers() -> None:
    assert report.number(None) == "NaN"
    assert report.number(1.234e-5) == "1.2e-5"
    assert report.percent(1.0123) == "+1.2 %"

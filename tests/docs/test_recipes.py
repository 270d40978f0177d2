"""The recipes of the documentation run as they stand."""

import functools
import re
import warnings
from pathlib import Path

import pytest

import tract_fx

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


def recipes() -> list[tuple[str, str]]:
    """Title and code of each."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    return [
        (section.partition("\n")[0], code)
        for section in sections
        for code in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    ]


def test_every_section_has_code() -> None:
    assert len(recipes()) == PAGE.read_text().count("\n## ") >= 6


@pytest.mark.parametrize(("title", "code"), recipes(), ids=[title for title, _ in recipes()])
def test_a_recipe_runs_without_a_warning(title: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_code = functools.partial(tract_fx.tract_backend, inner="aot_eager")
    monkeypatch.setattr(tract_fx, "tract_backend", without_code, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", tract_fx.TractWarning)
        exec(compile(code, title, "exec"), {})

"""How many examples hypothesis makes up: a fifth in the fast set, all with ``--hypothesis-profile=thorough``."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

THOROUGH = "thorough"
LEFT_OUT = 5
FEWEST = 10

settings.register_profile(THOROUGH)


def examples(number: int, **options: Any) -> settings:
    """Settings of a test with so many examples, of which the fast set takes a part; they take as long as they need."""
    if settings.get_current_profile_name() != THOROUGH:
        number = min(number, max(FEWEST, number // LEFT_OUT))
    return settings(max_examples=number, deadline=None, **options)

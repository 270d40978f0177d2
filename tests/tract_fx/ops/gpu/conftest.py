"""What every test of this folder has."""

import pytest

from tract_fx.ops.gpu import launch


@pytest.fixture(autouse=True)
def fresh_plans() -> None:
    """Plans that are kept know nothing of what a test has replaced."""
    launch._planned.cache_clear()
    yield
    launch._planned.cache_clear()

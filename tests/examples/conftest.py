"""Images for all examples."""

from pathlib import Path

import pytest

from tests.examples.photographs import write


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("photographs"))

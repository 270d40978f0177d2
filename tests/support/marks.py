"""Marks that several test files share."""

import pytest

codegen = pytest.mark.codegen
vectorised = pytest.mark.vectorised
INNERS = ["aot_eager", pytest.param("inductor", marks=codegen)]

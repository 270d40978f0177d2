"""Marks that several test files share."""

import pytest

codegen = pytest.mark.codegen
INNERS = ["aot_eager", pytest.param("inductor", marks=codegen)]

"""Every test session compiles into a cache folder of its own, so that nothing an older version cached is taken."""

import os

# One thread: two on a busy machine wait for each other, and sums in a fixed order are equal bit by bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests run in as many processes as there are cores; a pool of compilers in each of them would only get in the way.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import pytest
import torch
from support.works import pytest_addoption, pytest_configure, pytest_itemcollected  # noqa: F401

from tract_fx.compat import can_generate_code
from tract_fx.options import OWN, variable


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a C++ compiler Inductor cannot generate code for the CPU; all other tests still run."""
    if can_generate_code("cpu"):
        return
    skip = pytest.mark.skip(reason="Inductor needs a C++ compiler (g++ or clang++) to generate code for the CPU")
    for item in items:
        if item.get_closest_marker("codegen"):
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
    for option in OWN:
        patch.delenv(variable(option), raising=False)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)

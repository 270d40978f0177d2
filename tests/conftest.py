"""Every test session compiles into a cache folder of its own, so that nothing an older version cached is taken."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

# One thread: two on a busy machine wait for each other, and sums in a fixed order are equal bit by bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests run in as many processes as there are cores; a pool of compilers in each of them would only get in the way.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import pytest
import torch
import torch._inductor.config

from support import generated, slow, works  # noqa: F401
from support.works import pytest_addoption, pytest_configure  # noqa: F401
from tract_fx.compat import can_generate_code
from tract_fx.options import OWN, variable


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks are complete before tests are selected by them."""
    slow.mark(item)
    works.note(item)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a C++ compiler Inductor cannot generate code for the CPU; all other tests still run."""
    if can_generate_code("cpu"):
        return
    skip = pytest.mark.skip(reason="Inductor needs a C++ compiler (g++ or clang++) to generate code for the CPU")
    for item in items:
        if item.get_closest_marker("codegen"):
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """What is imported by now stays, and the garbage collector need not go through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_unconfigure() -> None:
    """At its end the interpreter collects everything; extension modules report what it does not as leaked."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all processes of the session: what one of them has compiled, the others need not compile again."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "inductor"
    Path(folder).mkdir(exist_ok=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    for option in OWN:
        patch.delenv(variable(option), raising=False)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def fresh_compiler(request: pytest.FixtureRequest) -> Iterator[None]:
    """Code for a processor without vector instructions compiles in half the time; ``vectorised`` tests have those."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    width = None if request.node.get_closest_marker("vectorised") else 1
    with torch._inductor.config.patch({"cpp.simdlen": width}):
        yield

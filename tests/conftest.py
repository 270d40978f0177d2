"""Every test session compiles into a cache folder of its own, so that nothing an older version cached is taken."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
    patch.delenv("TRACT_FX_LAM", raising=False)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)

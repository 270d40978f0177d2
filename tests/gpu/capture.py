"""With ``mode="reduce-overhead"`` a step is captured as a CUDA graph, and its replays are right."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from gpu.models import DEVICE, LAM, Autocast, make
from support.oracle import error, squared, tract_gradients
from tract_fx import tract_backend

STEPS = 6  # graphs are recorded at the second or third


@pytest.fixture(autouse=True)
def nothing_skipped() -> Iterator[None]:
    """Without looking there, a capture that Inductor decides against cannot be told from one that it makes."""
    torch._dynamo.utils.counters.clear()
    yield
    if DEVICE == "cuda":
        assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0


def steps(model: nn.Module, x: torch.Tensor, compiled: Any, bound: float) -> None:
    """Each step has another batch."""
    for step in range(STEPS):
        compiled.zero_grad(set_to_none=True)
        batch = x.roll(step, 0) * (1 + step)
        torch.compiler.cudagraph_mark_step_begin()
        squared(compiled(batch)).backward()
        (found,) = (p.grad for n, p in compiled.named_parameters() if n.endswith("0.weight"))
        assert error(found, tract_gradients(model, [batch], ["0"], LAM)["0"]) <= bound, step


@pytest.mark.parametrize("name", ["conv", "imagenet stem", "vit stem", "linear", "dual"])
def test_replays_are_right(name: str) -> None:
    model, x = make(name)
    backend = tract_backend(LAM, mode="reduce-overhead")
    steps(model, x, torch.compile(copy.deepcopy(model), backend=backend), 1e-5)
    assert len(backend.matches) == 1


@pytest.mark.parametrize("name", ["conv", "vit stem"])
def test_precision_of_replays_under_autocast(name: str) -> None:
    """Bounded by what mixed precision itself costs: that the right batch is replayed is what is tested here."""
    model, x = make(name)
    compiled = torch.compile(
        Autocast(copy.deepcopy(model), torch.bfloat16), backend=tract_backend(LAM, mode="reduce-overhead")
    )
    steps(model, x, compiled, 5e-2)

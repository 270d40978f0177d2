"""Two stages of a pipeline, one in each of two processes; the function is run by both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from support.parts import tract_warnings
from tests.distributed.processes import process_group
from tract_fx import tract_backend

BATCHES = 2


class Stage(nn.Sequential):
    """With a ``forward`` of its own, because Dynamo in PyTorch 2.11 skips that of ``nn.Sequential``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def stages_and_data() -> tuple[nn.ModuleList, Tensor]:
    torch.manual_seed(0)
    first, second = Stage(nn.Linear(6, 8), nn.Tanh()), Stage(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    return nn.ModuleList((first, second)), torch.randn(8, 6)


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def train_stage(rank: int, size: int, port: int) -> dict[str, Any]:
    """Two steps; the gradients of the last one are those of the process's own stage."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    with process_group(rank, size, port), tract_warnings() as messages:
        stages, x = stages_and_data()
        model, backend = stages[rank], tract_backend(inner="aot_eager")
        model.compile(backend=backend)
        stage = PipelineStage(model, rank, size, torch.device("cpu"))
        schedule = Schedule1F1B(stage, BATCHES, loss_fn=loss)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        for _ in range(2):
            optimizer.zero_grad()
            schedule.step(x) if rank == 0 else schedule.step(target=torch.zeros(8, 3))
            optimizer.step()
    return {
        "gradients": {name: item.grad.clone() for name, item in model.named_parameters()},
        "matches": [match.weight for match in backend.matches],
        "warnings": messages,
    }

"""The training of :mod:`tests.distributed.training` without a compiler."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from support.parts import tract_warnings
from tests.distributed.processes import process_group
from tests.distributed.training import ENGINES, RATE, Case, _whole, mean_loss
from tract_fx import LamScheduler, apply_tract


def train(
    rank: int,
    size: int,
    port: int,
    case: Case,
    given: str | None = "ddp",
    backend: str | None = None,
    steps_before: tuple[int, ...] = (0, 0),
) -> Any:
    """Gradients of each step as the optimiser sees them, and what was warned about.

    Args:
        rank: of this process.
        size: number of processes.
        port: for their group.
        case: what to train.
        given: as ``process_group``; ``"world"`` for the default group itself.
        backend: another backend, to compile the wrapped model with.
        steps_before: for each rank, how often its schedule has stepped; ``lam`` is that of ``case`` after two steps.
    """
    with process_group(rank, size, port) as world, tract_warnings() as messages:
        group = world if given == "world" else given
        model = apply_tract(case.make(), case.layers, case.lam, relative=case.relative, process_group=group)
        if any(steps_before):
            schedule = LamScheduler(map(model.get_submodule, case.layers), lambda step: case.lam if step == 2 else 0.3)
            for _ in range(steps_before[rank]):
                schedule.step()
        engine = ENGINES[case.engine](
            model, lambda module: torch.compile(module, backend=backend) if backend else module
        )
        optimizer = engine.optimizer or torch.optim.SGD(engine.module.parameters(), lr=RATE)
        steps = []
        for step, micros in enumerate(case.parts):
            optimizer.zero_grad()
            for micro in range(len(micros)):
                with contextlib.nullcontext() if micro == len(micros) - 1 else engine.no_sync():
                    mean_loss(engine.call(case.batch(step, micro)[rank])).backward()
            steps.append(
                {name: _whole(item.grad) for name, item in engine.module.named_parameters() if item.grad is not None}
            )
            optimizer.step()
    return {"steps": steps, "warnings": messages}

"""Tensor parallelism: layers whose weights are spread over processes; each function is run by all ranks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from support.oracle import squared
from support.parts import tract_warnings
from tests.distributed.processes import process_group
from tract_fx import tract_backend


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.stem(x)))


def model_and_data() -> tuple[Perceptron, Tensor]:
    torch.manual_seed(0)
    return Perceptron(), torch.randn(16, 6)


PLANS = {
    "outputs": {"stem": ColwiseParallel, "head": RowwiseParallel},
    "data": {},
    "inputs": {"stem": lambda: RowwiseParallel(input_layouts=Replicate())},
}


def tensor_parallel(rank: int, size: int, port: int, plan: str, inner: str, on_unsupported: str) -> dict[str, Any]:
    """One step; gradients are put together."""
    with process_group(rank, size, port), tract_warnings() as messages:
        mesh = distributed.init_device_mesh("cpu", (size,))
        model, x = model_and_data()
        parallelize_module(model, mesh, {name: style() for name, style in PLANS[plan].items()})
        if plan == "data":
            distribute_module(model, mesh)
            x = distribute_tensor(x, mesh, [Shard(0)])
        backend = tract_backend(inner=inner, on_unsupported=on_unsupported)
        found: dict[str, Any] = {"error": "", "gradients": {}}
        try:
            squared(torch.compile(model, backend=backend)(x)).backward()
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"
        for name, item in model.named_parameters():
            if item.grad is not None:
                whole = item.grad.full_tensor() if isinstance(item.grad, DTensor) else item.grad
                found["gradients"][name] = copy.deepcopy(whole.detach())
        found["matches"] = [str(match) for match in backend.matches]
    found["warnings"] = messages
    return found

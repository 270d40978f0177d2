"""Stages of ``torch.distributed.pipelining``: the first has a first layer, and what the others receive is no data."""

from __future__ import annotations

import pytest
import torch

from support.oracle import error
from tests.distributed.pipeline import BATCHES, loss, stages_and_data, train_stage
from tests.distributed.processes import Processes
from tract_fx import reference


@pytest.mark.slow
def test_only_the_first_stage_is_rewritten(two: Processes) -> None:
    stages, x = stages_and_data()
    expected = torch.zeros(8, 6, dtype=torch.float64)
    for part in x.chunk(BATCHES):
        layer, activation = stages[0]
        product = layer(part)
        product.retain_grad()
        output = stages[1](activation(product))
        (loss(output, torch.zeros_like(output)) / BATCHES).backward()
        expected += reference.linear_gradient(part, product.grad, 0.1)
    for rank, found in enumerate(two.run(train_stage)):
        assert found["warnings"] == []
        assert found["matches"] == (["0.weight"] if rank == 0 else [])
        for name, parameter in stages[rank].named_parameters():
            wanted = expected if (rank, name) == (0, "0.weight") else parameter.grad
            assert error(found["gradients"][name], wanted) <= 1e-5

"""A first layer whose weight is sharded over processes: right where a process has whole rows, and refused elsewhere."""

from __future__ import annotations

import pytest

from support.oracle import error, squared, tract_gradients
from support.works import works
from tests.distributed.processes import Processes
from tests.distributed.sharding import model_and_data, tensor_parallel


@works("tensor parallel")
def test_spread_over_outputs(two: Processes) -> None:
    """Each process solves for its own outputs, with the same rows; nothing is to be synchronised or warned about."""
    model, x = model_and_data()
    squared(model(x)).backward()
    expected = {name: item.grad for name, item in model.named_parameters()}
    expected["stem.weight"] = tract_gradients(model, [x], ["stem"], 0.1)["stem"]
    for result in two.run(tensor_parallel, "outputs", "aot_eager", "error"):
        assert result["error"] == ""
        assert result["warnings"] == []
        assert len(result["matches"]) == 1
        assert result["gradients"].keys() == expected.keys()
        for name, gradient in result["gradients"].items():
            assert error(gradient, expected[name]) <= 1e-5


@works("tensor parallel")
@pytest.mark.parametrize("plan", ["inputs", "data"])
def test_spread_over_inputs_or_rows(two: Processes, plan: str) -> None:
    message = "its weight is sharded over processes" if plan == "inputs" else "its input is sharded over processes"
    for result in two.run(tensor_parallel, plan, "aot_eager", "error"):
        assert "TrAct cannot be applied to stem" in result["error"]
        assert message in result["error"]
    for result in two.run(tensor_parallel, plan, "aot_eager", "warn"):
        assert result["error"] == ""
        assert result["matches"] == []
        assert any(message in warning for warning in result["warnings"])

"""Entries of a batched product that share a weight are rows of one layer, however the batch was folded."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from support.graphs import joint_graph
from support.marks import codegen
from support.oracle import error, squared
from support.training import gradients
from tract_fx import reference, tract_backend
from tract_fx.passes.batch import BatchDimension, batch_of
from tract_fx.passes.first_layer import find
from tract_fx.records import RejectionKind

LAM = 0.1


class Grouped(nn.Module):
    """A product of the input with one weight for each of two groups, or with a weight of another shape."""

    def __init__(self, function: Callable[..., torch.Tensor], *shape: int) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(shape or (2, 6, 4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.weight)


# Function, shape of the input, and its rows by group; the weight is (2, 6, 4).
BROADCAST = {
    "one row each": (lambda x, w: x[:, :, None] @ w, (9, 2, 6), lambda x: x.transpose(0, 1)),
    "groups last": (lambda x, w: x @ w, (5, 2, 3, 6), lambda x: x.transpose(0, 1).flatten(1, 2)),
    "groups first": (lambda x, w: x @ w[:, None], (2, 5, 3, 6), lambda x: x.flatten(1, 2)),
    "groups between": (lambda x, w: x @ w[:, None], (3, 2, 5, 2, 6), lambda x: x.transpose(0, 1).flatten(1, 3)),
    "weight on the left": (
        lambda x, w: w.transpose(1, 2) @ x.transpose(-1, -2),
        (5, 2, 3, 6),
        lambda x: x.transpose(0, 1).flatten(1, 2),
    ),
    "few rows": (lambda x, w: x[:, :, None] @ w, (3, 2, 6), lambda x: x.transpose(0, 1)),
}


def expected(model: Grouped, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``(C + lam I)^-1`` of each group's rows, applied to its plain gradient in float64."""
    twin = Grouped(model.function, *model.weight.shape).double()
    twin.load_state_dict(model.state_dict())
    squared(twin(x.double())).backward()
    return torch.stack([preconditioned(X, G) for X, G in zip(rows.double(), twin.weight.grad, strict=True)])


def preconditioned(X: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
    """The reference for the plain gradient ``G = X^T dZ``, through a ``dZ`` that has it."""
    return reference.primal(X, torch.linalg.pinv(X.T) @ G, LAM).T


@pytest.mark.parametrize(
    ("name", "dynamic", "inner"),
    # Between its groups this one has two symbolic sizes, which is refused: see the last test.
    [
        *((name, None, "aot_eager") for name in BROADCAST),
        *((name, True, "aot_eager") for name in BROADCAST if name != "groups between"),
        pytest.param("groups between", None, "inductor", marks=codegen),
        pytest.param("one row each", True, "inductor", marks=codegen),
    ],
)
def test_rows_of_a_group_are_those_of_the_whole_batch(name: str, dynamic: bool | None, inner: str) -> None:
    function, shape, rows = BROADCAST[name]
    model, x, backend = Grouped(function), torch.randn(shape), tract_backend(LAM, inner=inner)
    found = gradients(model, [x], backend, dynamic=dynamic)["weight"]
    assert [match.groups for match in backend.matches] == [2]
    assert error(found, expected(model, x, rows(x))) <= 1e-5


@pytest.mark.parametrize("inductor", [True, False], ids=["inductor", "aot_eager"])
def test_the_batch_of_a_broadcast_weight(inductor: bool) -> None:
    function, shape, _ = BROADCAST["groups between"]
    (match,) = find(joint_graph(Grouped(function), torch.randn(shape), inductor=inductor)).matches
    assert batch_of(match.call.weight) == (BatchDimension(3, True), BatchDimension(2, False), BatchDimension(5, True))
    assert (match.rows, match.groups) == (3 * 5 * 2, 2)


@pytest.mark.parametrize("inductor", [True, False], ids=["inductor", "aot_eager"])
def test_a_weight_that_is_not_broadcast_shares_nothing(inductor: bool) -> None:
    model = Grouped(lambda x, w: torch.bmm(x, w))
    (match,) = find(joint_graph(model, torch.randn(2, 7, 6), inductor=inductor)).matches
    assert match.batch == (BatchDimension(2, False),)
    assert not match.shared_batch


def test_two_sizes_that_are_known_at_run_time_only_are_refused() -> None:
    function, shape, _ = BROADCAST["groups between"]
    findings = find(joint_graph(Grouped(function), torch.randn(shape), dynamic=True))
    assert findings.matches == ()
    assert findings.rejections[0].kind is RejectionKind.UNSUPPORTED
    assert (
        "broadcast along several dimensions of sizes that are known at run time only" in findings.rejections[0].reason
    )

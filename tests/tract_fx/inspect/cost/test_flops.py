"""Operations of a graph are those that torch counts when the model runs, and those that scalar code does."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import sympy
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from support.graphs import joint_graph, lam_node
from tract_fx.inspect.cost.flops import cholesky_flops, gram_flops, step_flops, triangular_flops
from tract_fx.inspect.cost.layer_cost import layer_cost
from tract_fx.passes.first_layer import find
from tract_fx.passes.rewrite import apply


class Counted:
    """A number that counts what is done with numbers."""

    operations = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def _done(self, value: float) -> Counted:
        Counted.operations += 1
        return Counted(value)

    def __add__(self, other: Counted) -> Counted:
        return self._done(self.value + other.value)

    def __sub__(self, other: Counted) -> Counted:
        return self._done(self.value - other.value)

    def __mul__(self, other: Counted) -> Counted:
        return self._done(self.value * other.value)

    def __truediv__(self, other: Counted) -> Counted:
        return self._done(self.value / other.value)

    def sqrt(self) -> Counted:
        return self._done(math.sqrt(self.value))


Matrix = list[list[Counted]]


def operations(function: Callable[..., Matrix], *matrices: torch.Tensor) -> tuple[torch.Tensor, int]:
    """What scalar code computes, and in how many operations."""
    counted = [[[Counted(float(value)) for value in row] for row in matrix] for matrix in matrices]
    Counted.operations = 0
    result = function(*counted)
    values = [[item.value if isinstance(item, Counted) else item for item in row] for row in result]
    return torch.tensor(values, dtype=torch.float64), Counted.operations


def upper_gram(rows: Matrix) -> Matrix:
    size = len(rows[0])
    total = [[Counted(0.0) for _ in range(size)] for _ in range(size)]
    for row in rows:
        for i in range(size):
            for j in range(i, size):
                total[i][j] = total[i][j] + row[i] * row[j]
    return total


def cholesky(matrix: Matrix) -> Matrix:
    size = len(matrix)
    factor = [[Counted(0.0) for _ in range(size)] for _ in range(size)]
    for j in range(size):
        for i in range(j, size):
            entry = matrix[i][j]
            for k in range(j):
                entry = entry - factor[i][k] * factor[j][k]
            factor[i][j] = entry.sqrt() if i == j else entry / factor[j][j]
    return factor


def substitution(factor: Matrix, right: Matrix) -> Matrix:
    size, solved = len(factor), [list(row) for row in right]
    for column in range(len(right[0])):
        for i in range(size):
            for k in range(i):
                solved[i][column] = solved[i][column] - factor[i][k] * solved[k][column]
            solved[i][column] = solved[i][column] / factor[i][i]
        for i in reversed(range(size)):
            for k in range(i + 1, size):
                solved[i][column] = solved[i][column] - factor[k][i] * solved[k][column]
            solved[i][column] = solved[i][column] / factor[i][i]
    return solved


def test_formulas_are_what_scalar_code_needs() -> None:
    rows, size, columns = 11, 6, 4
    X, G = torch.randn(rows, size, dtype=torch.float64), torch.randn(size, columns, dtype=torch.float64)
    C, count = operations(upper_gram, X)
    torch.testing.assert_close(C, (X.T @ X).triu())
    assert count == gram_flops(sympy.Integer(rows), sympy.Integer(size))
    L, count = operations(cholesky, X.T @ X)
    torch.testing.assert_close(L, torch.linalg.cholesky(X.T @ X))
    assert count == cholesky_flops(sympy.Integer(size))
    solution, count = operations(substitution, L, G)
    torch.testing.assert_close(solution, torch.cholesky_solve(G, L))
    assert count == triangular_flops(sympy.Integer(size), sympy.Integer(columns))


def counted_by_torch(model: nn.Module, x: torch.Tensor) -> int:
    """Of a forward and backward pass without a compiler."""
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return counter.get_total_flops()


class Attention(nn.Module):
    """Patches, one block, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.patches(x).flatten(2).mT).mean(1))


def resnet() -> nn.Module:
    """One block in each stage, with and without a projection."""
    resnet = pytest.importorskip("torchvision").models.resnet
    return resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1])


def vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=10)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.ReLU(), nn.Linear(16, 5))


MODELS = {"resnet": resnet, "vit": vit, "attention": Attention, "mlp": mlp}


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_what_torch_counts_when_it_runs(name: str) -> None:
    model, x = MODELS[name](), torch.randn(3, 3, 32, 32)
    found = step_flops(joint_graph(model, x, inductor=False).graph)
    assert found == counted_by_torch(model, x)
    assert found > 0


def test_the_gradient_of_the_input_is_counted_where_there_is_one() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Tanh()), torch.randn(2, 3, 9, 8, requires_grad=True)
    assert step_flops(joint_graph(model, x).graph) == counted_by_torch(model, x)


class Split(nn.Module):
    """A grouped convolution as several that have no groups."""

    def __init__(self, grouped: nn.Conv2d) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Conv2d(
                grouped.in_channels // grouped.groups, grouped.out_channels // grouped.groups, grouped.kernel_size
            )
            for _ in range(grouped.groups)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(piece) for part, piece in zip(self.parts, x.chunk(len(self.parts), 1), strict=True)], 1)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_groups_are_counted_one_by_one(requires_grad: bool) -> None:
    grouped, x = nn.Conv2d(4, 8, 3, groups=2), torch.randn(2, 4, 7, 6, requires_grad=requires_grad)
    assert step_flops(joint_graph(grouped, x).graph) == counted_by_torch(Split(grouped), x)


@pytest.mark.parametrize("name", ["resnet", "attention", "mlp"])
def test_a_dynamic_batch_stays_a_symbol(name: str) -> None:
    model, x = MODELS[name](), torch.randn(5, 3, 32, 32)
    torch._dynamo.mark_dynamic(x, 0)
    found = step_flops(joint_graph(model, x).graph)
    (batch,) = found.free_symbols
    for size in (2, 7):
        static = step_flops(joint_graph(model, torch.randn(size, 3, 32, 32), dynamic=False).graph)
        assert found.subs(batch, size) == static


LAYERS = {
    "convolution": (lambda: nn.Conv2d(3, 4, 3, 2, 1), (4, 3, 9, 8)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 4, 9, 8)),
    "linear": (lambda: nn.Linear(6, 4), (9, 3, 6)),
    "dual": (lambda: nn.Linear(30, 4), (7, 30)),
    "dual convolution": (lambda: nn.Conv2d(8, 4, 3), (2, 8, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 4, 2, 1), (4, 3, 9, 8)),
    "dual transposed": (lambda: nn.ConvTranspose2d(30, 4, 3), (7, 30, 1, 1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_rewritten_graph_has_the_operations_that_its_cost_says(name: str) -> None:
    """Counted from the shapes of the nodes that are there, and from the match."""
    layer, shape = LAYERS[name]
    joint = joint_graph(nn.Sequential(layer(), nn.Tanh()), torch.randn(shape))
    before = step_flops(joint.graph)
    (match,) = find(joint).matches
    cost = layer_cost(match, before)
    apply(match, lam_node(joint.graph))
    joint.graph.eliminate_dead_code()
    assert step_flops(joint.graph) - before == cost.added


def test_of_two_branches_the_dearer_one_counts() -> None:
    """Which one is run is known at run time only."""
    operands = torch.randn(3, 6), torch.randn(6, 4)
    root = nn.Module()
    root.plain = make_fx(lambda x, w: x @ w, tracing_mode="fake")(*operands)
    root.thrice = make_fx(lambda x, w: x @ w @ w.mT @ w, tracing_mode="fake")(*operands)
    graph = torch.fx.Graph(root)
    chosen, x, w = map(graph.placeholder, ("chosen", "x", "w"))
    branches = graph.get_attr("plain"), graph.get_attr("thrice")
    graph.output(graph.call_function(torch.ops.higher_order.cond, (chosen, *branches, (x, w))))
    assert step_flops(torch.fx.GraphModule(root, graph).graph) == 3 * (2 * 3 * 6 * 4)

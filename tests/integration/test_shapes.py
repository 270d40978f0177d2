"""Promise 6: once sizes are dynamic one graph serves them all, and every one of them is right."""

import pytest
import torch
from torch import Tensor, nn

from support.marks import INNERS
from support.oracle import error, squared, tract_gradients
from support.training import Counter, gradients
from support.works import works
from tract_fx import tract_backend

LAM = 0.1


class Stem(nn.Module):
    """A stem and a head that take images of any size."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.head = conv, nn.Linear(conv.out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x)).mean((2, 3)))


def graphs(model: nn.Module, layer: str, batches: list[Tensor], inner: str = "aot_eager", **arguments: object) -> int:
    """How many graphs one step for each batch compiles, with every gradient compared with the reference.

    A plain compile never needs fewer: no size is fixed for the rewritten gradient's sake.
    """
    counter = Counter(tract_backend(LAM, inner=inner))
    compiled = torch.compile(model, backend=counter, **arguments)
    for x in batches:
        model.zero_grad()
        squared(compiled(x)).backward()
        found = model.get_submodule(layer).weight.grad
        assert error(found, tract_gradients(model, [x], [layer], LAM)[layer]) <= 1e-5, tuple(x.shape)
    torch._dynamo.reset()
    plain = Counter(torch._dynamo.lookup_backend("aot_eager"))
    compiled = torch.compile(model, backend=plain, **arguments)
    for x in batches:
        squared(compiled(x)).backward()
    assert counter.graphs == plain.graphs
    return counter.graphs


@works("dynamic")
@pytest.mark.parametrize("stem", ["overlapping", "patches"])
def test_batch_and_image_size(stem: str) -> None:
    """The first size, one more when the image changes, then one graph for every batch and image, the last included."""
    conv = nn.Conv2d(3, 4, 3, padding=1) if stem == "overlapping" else nn.Conv2d(3, 4, 4, stride=4)
    sizes = [(16, 20, 24), (16, 28, 32), (12, 36, 44), (7, 28, 20), (2, 64, 60), (16, 20, 24)]
    batches = [torch.randn(batch, 3, height, width) for batch, height, width in sizes]
    assert graphs(Stem(conv), "conv", batches) == 3


@works("dynamic")
def test_every_size_dynamic_from_the_start() -> None:
    batches = [torch.randn(size, 3, height, 21) for size, height in [(6, 9), (11, 14), (2, 30)]]
    model = Stem(nn.Conv2d(3, 4, (3, 5), stride=2))
    assert graphs(model, "conv", batches, dynamic=True) == 1


@works("dynamic")
def test_marked_dimensions() -> None:
    batches = [torch.randn(size, 3, 9, 11) for size in (14, 12, 7, 2)]
    torch._dynamo.mark_dynamic(batches[0], 0)
    assert graphs(Stem(nn.Conv2d(3, 4, 3)), "conv", batches) == 1


@works("dynamic")
def test_sequences_of_any_length() -> None:
    model = nn.Sequential(nn.Linear(10, 4), nn.Tanh())
    batches = [torch.randn(batch, length, 10) for batch, length in [(8, 6), (7, 9), (3, 17), (5, 2)]]
    assert graphs(model, "0", batches) == 2


@works("few rows")
@pytest.mark.parametrize("inner", INNERS)
def test_rows_that_fall_below_the_features_while_dynamic(inner: str) -> None:
    """The primal form is right for any number of rows; only the first, static graph may choose the dual one."""
    model = nn.Sequential(nn.Linear(12, 4), nn.Tanh())
    batches = [torch.randn(rows, 12) for rows in (5, 40, 11, 3, 2)]
    assert graphs(model, "0", batches, inner) == 2


@works("few rows")
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_batch_one(layer: str, inner: str) -> None:
    """One row, which Inductor turns into a product and a sum."""
    model = nn.Sequential(nn.Linear(12, 4) if layer == "linear" else nn.Conv2d(3, 4, 4, stride=4), nn.Tanh())
    x = torch.randn(1, 12) if layer == "linear" else torch.randn(1, 3, 8, 8)
    found = gradients(model, [x], tract_backend(LAM, inner=inner))["0.weight"]
    assert error(found, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-5


@works("few rows")
def test_batch_one_after_larger_ones() -> None:
    """Dynamo treats a size of one on its own: a graph more, and no other difference."""
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    batches = [torch.randn(rows, 6) for rows in (9, 14, 1, 3)]
    assert graphs(model, "0", batches) == 3


@works("dynamic")
def test_static_shapes_have_a_graph_each() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    batches = [torch.randn(rows, 6) for rows in (9, 14, 9)]
    assert graphs(model, "0", batches, dynamic=False) == 2

"""A layer whose ``lam`` float64 raises says so once, from its first batch, and never where its values cannot be read."""

import copy
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.utils.flop_counter import FlopCounterMode

from support.natural import natural_images, with_times
from support.parts import tract_warnings
from tract_fx import apply_tract


def network(**options: object) -> nn.Sequential:
    return apply_tract(nn.Sequential(nn.Linear(9, 4), nn.Tanh()), "0", **options)


def said(*steps: Callable[[], Tensor]) -> list[str]:
    with tract_warnings() as messages:
        for step in steps:
            step().square().mean().backward()
    return messages


@pytest.mark.parametrize("rows", [32, 5])
def test_it_is_said_once_with_the_layer_and_the_value(rows: int) -> None:
    model, x = network(), with_times(rows)
    (message,) = said(lambda: model(x), lambda: model(x), lambda: model(with_times(24)))
    least = 8 * min(9, rows) * torch.finfo(torch.float64).eps * x.double().square().sum(1).mean().item()
    assert message.startswith("0 (torch.nn.Linear): lam=0.1 is raised to about ")
    assert float(re.search(r"about (\S+) for", message)[1]) == pytest.approx(least, rel=0.06)


def test_every_layer_speaks_for_itself() -> None:
    first, second, x = network(), network(), with_times()
    assert len(said(lambda: first(x), lambda: second(x), lambda: first(x))) == 2


@pytest.mark.parametrize("options", [{"lam": 1e6}, {"relative": True}], ids=str)
def test_where_it_is_not_raised_nothing_is_said(options: dict[str, object]) -> None:
    model, x = network(**options), with_times()
    assert said(lambda: model(x)) == []


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 4, 16, 16), nn.ConvTranspose2d(3, 4, 4, 2)], ids=lambda it: it._get_name()
)
def test_nothing_is_said_of_raw_pixels(layer: nn.Module) -> None:
    model, images = apply_tract(nn.Sequential(layer, nn.Tanh()), "0"), natural_images(4, 32)
    assert said(lambda: model(images)) == []


def test_evaluation_is_not_looked_at() -> None:
    model, x = network(), with_times()

    def step() -> Tensor:
        with torch.no_grad():
            model(1e-3 * x)
        return model(x)

    assert len(said(step)) == 1


def test_where_values_cannot_be_read_it_waits_for_a_call_where_they_can() -> None:
    """Inside ``vmap`` and ``torch.func.grad``, compiled, and while something counts operators."""
    model, x = network(), with_times()

    def ensemble() -> Tensor:
        parameters, buffers = stack_module_state([model, copy.deepcopy(model)])
        return torch.vmap(lambda parameters: functional_call(model, (parameters, buffers), (x,)))(parameters)

    def per_sample() -> Tensor:
        loss = lambda parameters, row: functional_call(model, parameters, (row[None],)).sum()  # noqa: E731
        torch.vmap(torch.func.grad(loss), (None, 0))(dict(model.named_parameters()), x)
        return sum(item.sum() for item in model.parameters())

    def counted() -> Tensor:
        with FlopCounterMode(display=False):
            return model(x)

    def compiled() -> Tensor:
        return torch.compile(model, backend="aot_eager", fullgraph=True)(x)

    assert said(ensemble, per_sample, counted, compiled) == []
    assert len(said(lambda: model(x))) == 1

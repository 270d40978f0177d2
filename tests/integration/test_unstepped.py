"""Where no optimiser of ``torch.optim`` steps the weights, the gradients that arrive at them give the same warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch import Tensor, nn

from support.oracle import squared
from support.parts import Part, tract_warnings
from support.works import works
from tract_fx import UnsupportedLayerError, tract_backend

X = torch.randn(9, 6)


class Net(nn.Module):
    """Two layers; the stem is compiled, or it is skipped."""

    def __init__(self, skipped: bool) -> None:
        super().__init__()
        self.stem, self.head, self.skipped = nn.Linear(6, 4), nn.Linear(4, 2), skipped

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.eager(x) if self.skipped else self.stem(x)))

    @torch.compiler.disable
    def eager(self, x: Tensor) -> Tensor:
        return self.stem(x)


def by_hand(model: nn.Module) -> Callable[[], None]:
    def update() -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad
                parameter.grad = None

    return update


def of_master_weights(model: nn.Module) -> Callable[[], None]:
    """An optimiser that knows float64 copies of the weights, and never the weights."""
    copies = [item.detach().double().requires_grad_() for item in model.parameters()]
    optimizer = torch.optim.SGD(copies, lr=0.01)

    def update() -> None:
        for copy, parameter in zip(copies, model.parameters(), strict=True):
            copy.grad, parameter.grad = parameter.grad.double(), None
        optimizer.step()
        with torch.no_grad():
            for copy, parameter in zip(copies, model.parameters(), strict=True):
                parameter.copy_(copy)

    return update


def of_torch(model: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return update


def train(model: nn.Module, call: Callable[[Tensor], Tensor], update: Callable[[], None], steps: int = 5) -> list[str]:
    with tract_warnings() as messages:
        for _ in range(steps):
            squared(call(X)).backward()
            update()
    return messages


@works("skipped")
@pytest.mark.parametrize("steps", [by_hand, of_master_weights, of_torch])
def test_a_first_layer_that_is_skipped_is_told_once(steps: Callable[[nn.Module], Callable[[], None]]) -> None:
    model = Net(skipped=True)
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager"))
    (message,) = train(model, compiled, steps(model))
    assert "stem.weight" in message
    # Later steps cost nothing.
    assert not any(item._backward_hooks for item in model.parameters())


@works("skipped")
def test_a_model_of_which_nothing_is_compiled() -> None:
    model = nn.LSTM(6, 4)
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager"))
    (message,) = train(model, lambda x: compiled(x)[0], by_hand(model))
    assert "weight_ih_l0" in message


def test_compiled_parts_without_the_first_layer() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), Part(nn.Linear(4, 2)))
    model[2].compile(backend=tract_backend(inner="aot_eager"))
    (message,) = train(model, model, by_hand(model))
    assert "0.weight of Sequential trained outside of these graphs" in message


def test_a_function_that_uses_hidden_layers_only() -> None:
    stem, head = nn.Linear(6, 4), nn.Linear(4, 2)
    model = nn.ModuleList([stem, head])

    @torch.compile(backend=tract_backend(inner="aot_eager"))
    def function(x: Tensor) -> Tensor:
        return head(x)

    (message,) = train(model, lambda x: function(stem(x)), by_hand(model))
    assert "no graph that this backend compiled for training has a first layer" in message


def test_a_chosen_layer_that_has_no_effect_is_an_error_of_the_backward_pass() -> None:
    model = Net(skipped=True)
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager", layers=["stem"]))
    with pytest.raises(UnsupportedLayerError, match="'stem' in layers="):
        train(model, compiled, by_hand(model))


@works("skipped")
@pytest.mark.parametrize(
    ("steps", "accumulated"), [(by_hand, 1), (by_hand, 8), (of_master_weights, 1), (of_torch, 1), (of_torch, 8)]
)
def test_nothing_is_said_where_nothing_is_wrong(
    steps: Callable[[nn.Module], Callable[[], None]], accumulated: int
) -> None:
    """Steps of the compiled model, then of the same one without the compiler; gradients are also accumulated."""
    model = Net(skipped=False)
    compiled, update, calls = torch.compile(model, backend=tract_backend(inner="aot_eager")), steps(model), []

    def every() -> None:
        calls.append(None)
        if len(calls) % accumulated == 0:
            update()

    assert train(model, compiled, every, steps=8) == []
    assert train(model, model, every, steps=8) == []


def test_a_backward_pass_that_trains_nothing_is_not_counted() -> None:
    """Two passes, as for a map of what the model looks at, are no training yet."""
    model = Net(skipped=True)
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager"))
    assert train(model, compiled, model.zero_grad, steps=2) == []


@pytest.mark.parametrize("skipped", [False, True])
def test_weights_can_be_shared_with_other_processes(skipped: bool) -> None:
    """PyTorch warns of hooks that stay behind, save for those that are of no use elsewhere."""
    model = Net(skipped)
    train(model, torch.compile(model, backend=tract_backend(inner="aot_eager")), by_hand(model), steps=1)
    assert model.stem.weight._backward_hooks
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ForkingPickler.dumps(model)


def test_what_backward_passes_leave_is_what_they_leave_without_the_hook() -> None:
    expected = Net(skipped=True)
    model = Net(skipped=True)
    model.load_state_dict(expected.state_dict())
    train(model, torch.compile(model, backend=tract_backend(inner="aot_eager")), by_hand(model))
    train(expected, expected, by_hand(expected))
    for name, item in model.named_parameters():
        torch.testing.assert_close(item, expected.get_parameter(name), rtol=0, atol=0)

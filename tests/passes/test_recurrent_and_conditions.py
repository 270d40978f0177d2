"""Recurrent cells and layers that conditions feed are no first layers."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from support.parts import tract_warnings
from tract_fx import TractWarning, tract_backend


def matched(model: nn.Module, *inputs: Tensor, layers: str | list[str] = "first") -> list[str]:
    torch._dynamo.reset()
    backend = tract_backend(layers=layers, inner="aot_eager")
    torch.compile(model, backend=backend)(*inputs).square().mean().backward()
    return sorted({match.layer for match in backend.matches})


class Cell(nn.Module):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps, self.of_input, self.of_state = steps, nn.Linear(5, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        for _ in range(self.steps):
            state = torch.tanh(self.of_input(x) + self.of_state(state))
        return state


def test_recurrent_cell_is_not_rewritten_in_its_first_step_alone() -> None:
    assert matched(Cell(3), torch.randn(9, 5), torch.randn(9, 4)) == ["of_input"]


def test_one_step_has_two_first_layers() -> None:
    assert matched(Cell(1), torch.randn(9, 5), torch.randn(9, 4)) == ["of_input", "of_state"]


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.tanh(self.stem(x))) * self.head(torch.tanh(self.stem(y)))


class TiedAutoencoder(nn.Module):
    """The decoder uses the encoder's weight transposed; two calls in the same orientation are a recurrent cell."""

    def __init__(self, features: int, code: int, form: str) -> None:
        super().__init__()
        self.weight, self.form = nn.Parameter(torch.randn(code, features)), form

    def forward(self, x: Tensor) -> Tensor:
        batched = self.weight.expand(len(x), -1, -1)
        if self.form == "expanded":
            return torch.tanh(torch.bmm(batched, x[:, :, None])[:, :, 0]) @ self.weight
        if self.form == "einsum":
            return torch.tanh(torch.einsum("oi,...i->...o", self.weight, x)) @ self.weight
        if self.form == "recurrent":
            return torch.nn.functional.linear(torch.tanh(torch.nn.functional.linear(x, self.weight)), self.weight)
        if self.form == "recurrent, in other words":
            return torch.tanh(torch.bmm(batched, x[:, :, None])[:, :, 0]) @ self.weight.t()
        return torch.nn.functional.linear(torch.tanh(torch.nn.functional.linear(x, self.weight)), self.weight.t())


@pytest.mark.parametrize(
    ("code", "form", "first"),
    [
        (5, "functional", True),
        (3, "functional", True),
        (5, "expanded", True),
        (5, "einsum", True),
        (5, "recurrent", False),
        (5, "recurrent, in other words", False),
    ],
)
def test_transposed_use_of_a_tied_weight_is_another_layer(code: int, form: str, first: bool) -> None:
    assert matched(TiedAutoencoder(5, code, form), torch.randn(9, 5)) == ([""] if first else [])


def test_siamese_stem_stays_first() -> None:
    assert matched(Siamese(), torch.randn(9, 5), torch.randn(9, 5)) == ["stem"]


class Conditioned(nn.Module):
    def __init__(self, *, inside: bool, signal: bool = True) -> None:
        super().__init__()
        self.inside, self.signal, self.stem, self.time = inside, signal, nn.Linear(5, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        t = torch.rand(len(x)) if self.inside else t
        angles = t[:, None] * torch.arange(1.0, 4.0)
        time = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        return time + self.stem(x) if self.signal else time


@pytest.mark.parametrize("inside", [False, True])
def test_time_step_is_no_signal_wherever_it_is_drawn(*, inside: bool) -> None:
    inputs = torch.randn(9, 5), torch.rand(9)
    assert matched(Conditioned(inside=inside), *inputs) == ["stem"]
    assert matched(Conditioned(inside=inside), *inputs, layers=["time"]) == ["time"]
    assert matched(Conditioned(inside=inside, signal=False), *inputs) == ["time"]


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.randn_like(x))


def test_latent_drawn_inside_is_data() -> None:
    assert matched(Generator(), torch.randn(9, 5)) == ["fc"]


class OneLayerCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 4)
        for _ in range(2):
            state = torch.tanh(self.both(torch.cat([x, state], 1)))
        return state


def test_a_cell_with_a_bias_is_called_a_cell() -> None:
    with pytest.warns(TractWarning, match=r"both.*\(a recurrent cell\)"):
        assert matched(OneLayerCell(), torch.randn(9, 5)) == []


def test_nothing_is_said_of_a_time_step_in_a_later_graph() -> None:
    later = Conditioned(inside=True, signal=False)
    model = torch.compile(lambda h: h + later(h, h), backend=tract_backend(inner="aot_eager"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", TractWarning)
        model(nn.Linear(5, 4)(torch.randn(9, 5))).sum().backward()


class Time(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, time: Tensor) -> Tensor:
        return self.layer(torch.cat([time[:, None].sin(), time[:, None].cos()], 1).repeat(1, 2))


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Timed(nn.Module):
    """A signal and a time step, each in a graph of its own or both in one."""

    def __init__(self, *, breaks: bool = False, time_first: bool = True) -> None:
        super().__init__()
        self.time, self.stem = Time(), Stem()
        self.breaks, self.time_first = breaks, time_first

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        first = self.time(time).sum(1, keepdim=True) if self.time_first else self.stem(x)
        if self.breaks:
            torch._dynamo.graph_break()
        second = self.stem(x) if self.time_first else self.time(time).sum(1, keepdim=True)
        return first * second


@pytest.mark.parametrize("time_first", [True, False])
@pytest.mark.parametrize("way", ["breaks", "parts"])
def test_a_condition_beside_a_signal_in_another_graph(way: str, time_first: bool) -> None:
    """It is none of the first layers, as in one graph, and nothing is said."""
    torch._dynamo.reset()
    model, backend = Timed(breaks=way == "breaks", time_first=time_first), tract_backend(inner="aot_eager")
    for part in (model,) if way == "breaks" else (model.time, model.stem):
        part.compile(backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", TractWarning)
        model(torch.randn(9, 5), torch.rand(9)).square().mean().backward()
        optimizer.step()
    assert [match.layer for match in backend.matches] == ["stem.layer"]


def test_what_a_graph_made_of_conditions_remains_one() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.stem = nn.Linear(4, 3), nn.Linear(5, 3)

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            features = torch.cat([time[:, None].sin(), time[:, None].cos()], 1).repeat(1, 2)
            torch._dynamo.graph_break()
            return self.layer(features) + self.stem(x)

    assert matched(Features(), torch.randn(9, 5), torch.rand(9)) == ["stem"]


class Joint(nn.Module):
    """A cell with one layer for its input and its state."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(5 + 4, 4)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return torch.tanh(self.both(torch.cat([x, state], 1)))


def said_in_a_loop(cell: nn.Module, state: Tensor) -> list[str]:
    torch._dynamo.reset()
    cell.compile(backend=tract_backend(inner="aot_eager"))
    with tract_warnings() as messages:
        for _ in range(3):
            state = cell(torch.randn(9, 5), state)
        state.square().mean().backward()
    return messages


def test_a_cell_in_a_loop_that_is_not_compiled() -> None:
    """Its layer is rewritten in the first step before anybody knows that it is no first layer."""
    (message,) = said_in_a_loop(Joint(), torch.zeros(9, 4))
    assert "both.weight only where data alone feed its layer" in message
    assert said_in_a_loop(Cell(1), torch.zeros(9, 4)) == []
    (message,) = said_in_a_loop(Cell(1), torch.randn(9, 4))
    assert "of_state.weight only where data alone feed" in message

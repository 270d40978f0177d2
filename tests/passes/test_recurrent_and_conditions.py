"""Recurrent cells and layers that conditions feed are no first layers."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

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

"""Numbers drawn in the graph are data, however they are drawn; those that disturb a weight leave it a weight."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from support.graphs import joint_graph
from tract_fx.passes.first_layer import find

Draw = Callable[[Tensor], Tensor]

WAYS: dict[str, Draw] = {
    "randn": lambda like: torch.randn(like.shape),
    "randn_like": torch.randn_like,
    "rand": lambda like: torch.rand(like.shape) - 0.5,
    "normal": lambda like: torch.normal(0.0, 1.0, tuple(like.shape)),
    "normal of tensors": lambda like: torch.normal(torch.zeros(like.shape), torch.ones(like.shape)),
    "normal_": lambda like: torch.empty(like.shape).normal_(),
    "normal_ of a likeness": lambda like: torch.empty_like(like).normal_(),
    "uniform_": lambda like: like.new_empty(like.shape).uniform_(-1, 1),
    "exponential_": lambda like: torch.empty(like.shape).exponential_(),
    "cauchy_": lambda like: torch.empty(like.shape).cauchy_(),
    "log_normal_": lambda like: torch.empty(like.shape).log_normal_(),
    "a distribution": lambda like: torch.distributions.Normal(torch.zeros(like.shape), 1.0).sample(),
    "a reparametrised one": lambda like: torch.distributions.Laplace(torch.zeros(like.shape), 1.0).rsample(),
}
LATENT = torch.empty(16, 10)
every_way = pytest.mark.parametrize("name", WAYS)
both_tables = pytest.mark.parametrize("inductor", [False, True])


def weights(model: nn.Module, *inputs: Tensor, inductor: bool) -> set[str]:
    findings = find(joint_graph(model, *inputs, inductor=inductor))
    assert not findings.rejections
    return {weight for match in findings.matches for weight in match.weights}


class Generator(nn.Module):
    """An image and a latent code."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.latent, self.stem, self.draw = nn.Linear(10, 8), nn.Conv2d(3, 8, 4, stride=4), draw

    def forward(self, x: Tensor) -> Tensor:
        code = self.latent(self.draw(LATENT))
        return torch.tanh(self.stem(x) + code[:, :, None, None])


@both_tables
@every_way
def test_a_latent_code_is_data(name: str, inductor: bool) -> None:
    found = weights(Generator(WAYS[name]), torch.randn(16, 3, 8, 8), inductor=inductor)
    assert found == {"latent.weight", "stem.weight"}


class Noisy(nn.Module):
    """A linear layer with noise in its weight, beside another one."""

    def __init__(self, disturb: Draw) -> None:
        super().__init__()
        self.noisy, self.other, self.disturb = nn.Linear(10, 6), nn.Linear(10, 6), disturb
        self.log_std = nn.Parameter(torch.full((6, 10), -3.0))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.disturb(self.noisy.weight)
        return torch.tanh(nn.functional.linear(x, weight) + self.other(x))


@both_tables
@every_way
def test_noise_in_a_weight_leaves_it_a_weight(name: str, inductor: bool) -> None:
    model = Noisy(lambda weight: weight + 0.05 * WAYS[name](weight))
    assert weights(model, torch.randn(16, 10), inductor=inductor) == {"noisy.weight", "other.weight"}


@both_tables
def test_a_weight_drawn_from_its_posterior(inductor: bool) -> None:
    """Bayes by backprop: mean and deviation are both parameters of the weight."""
    model = Noisy(lambda weight: weight)
    model.disturb = lambda weight: weight + model.log_std.exp() * torch.randn_like(weight)
    found = weights(model, torch.randn(16, 10), inductor=inductor)
    assert found == {"noisy.weight", "log_std", "other.weight"}


@both_tables
def test_gates_of_outputs(inductor: bool) -> None:
    """One number for each output, drawn and stretched around a parameter (L0 regularisation)."""
    model = Noisy(lambda weight: weight)
    model.gate = nn.Parameter(torch.zeros(6, 1))

    def gated(weight: Tensor) -> Tensor:
        drawn = torch.empty(6, 1).uniform_(0.1, 0.9)
        return weight * torch.sigmoid(drawn.log() - (1 - drawn).log() + model.gate)

    model.disturb = gated
    assert weights(model, torch.randn(16, 10), inductor=inductor) == {"noisy.weight", "gate", "other.weight"}


class Prompted(nn.Module):
    """A latent code that meets a parameter before the layer, for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt, self.layer = nn.Parameter(torch.randn(10)), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.randn(16, 10) + self.prompt)) + x


@both_tables
def test_numbers_for_each_sample_that_meet_a_parameter_are_data(inductor: bool) -> None:
    findings = find(joint_graph(Prompted(), torch.randn(16, 6), inductor=inductor))
    assert not findings.matches
    assert [rejection.kind.value for rejection in findings.rejections] == ["no first layer"]


class Masked(nn.Module):
    """Patches in a random order, of which some are kept, as in masked autoencoders."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block = nn.Linear(10, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x)
        scores, order = torch.rand(x.shape[:2]).sort(dim=1)
        kept = patches.gather(1, order[:, :3, None].expand(-1, -1, 6))
        return self.block(torch.tanh(kept)) * scores[:, :3, None]


@both_tables
def test_a_random_order_is_no_signal(inductor: bool) -> None:
    assert weights(Masked(), torch.randn(4, 9, 10), inductor=inductor) == {"embed.weight"}


class Sampled(nn.Module):
    """What is drawn around the output of a layer is no data: a decoder is no first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(10, 4), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.encoder(x)
        code = torch.distributions.Normal(mean, torch.ones_like(mean)).sample()
        return torch.tanh(self.decoder(code)) + mean.sum(1, keepdim=True)


@both_tables
def test_what_is_drawn_around_an_activation_is_one(inductor: bool) -> None:
    assert weights(Sampled(), torch.randn(16, 10), inductor=inductor) == {"encoder.weight"}

"""Whatever cuts, wraps or repeats the graph: the first layer's gradient stays the TrAct one."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from support.marks import INNERS, codegen
from support.oracle import error, squared, tract_gradients
from support.training import gradients
from support.works import works
from tract_fx import tract_backend

LAM = 0.1


def nothing(x: Tensor) -> Tensor:
    return x


def cut(x: Tensor) -> Tensor:
    torch._dynamo.graph_break()
    return x


class Stem(nn.Module):
    """Two layers, with a place for something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.conv = nn.Conv2d(3, 4, 3)
        self.mix = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.between(torch.relu(self.conv(x))))


class Net(nn.Module):
    """A stem and a head, with places before and after the stem."""

    def __init__(
        self,
        before: Callable[[Tensor], Tensor] = nothing,
        between: Callable[[Tensor], Tensor] = nothing,
        after: Callable[[Tensor], Tensor] = nothing,
    ) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.stem = Stem(between)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x * 2.0)
        return self.head(self.after(torch.tanh(self.stem(x))).mean((2, 3)))


X = torch.randn(6, 3, 9, 8)
FIRST = "stem.conv.weight"


def expected(model: nn.Module, *inputs: Tensor, lam: float = LAM) -> Tensor:
    return tract_gradients(model, inputs or [X], ["stem.conv"], lam)["stem.conv"]


@works("breaks")
@pytest.mark.parametrize("places", list(itertools.product([nothing, cut], repeat=3))[1:])
def test_graph_breaks(places: tuple[Callable[[Tensor], Tensor], ...]) -> None:
    model, backend = Net(*places), tract_backend(LAM, inner="aot_eager")
    found = gradients(model, [X], backend)
    assert [match.weight for match in backend.matches] == [FIRST]
    assert error(found[FIRST], expected(model)) <= 1e-5
    plain = gradients(model, [X], "aot_eager")
    assert [name for name in plain if not torch.equal(plain[name], found[name])] == [FIRST]


@codegen
@works("breaks")
def test_graph_breaks_through_generated_code() -> None:
    model = Net(cut, cut, cut)
    assert error(gradients(model, [X], tract_backend(LAM))[FIRST], expected(model)) <= 1e-5


@works("breaks")
def test_a_tensor_without_grad_that_crosses_a_break_is_data() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.first(x))
            torch._dynamo.graph_break()
            return self.second(hidden)

    model, x, backend = Masked(), torch.randn(9, 6), tract_backend(LAM, inner="aot_eager")
    model.first.requires_grad_(False)
    found = gradients(model, [x], backend)
    assert [match.weight for match in backend.matches] == ["second.weight"], "the first layer that trains"
    assert error(found["second.weight"], tract_gradients(model, [x], ["second"], LAM)["second"]) <= 1e-5


@works("fullgraph")
@pytest.mark.parametrize("inner", INNERS)
def test_fullgraph_with_the_loss_inside(inner: str) -> None:
    class WithLoss(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return squared(self.net(x))

    model = Net()
    found = gradients(WithLoss(model), [X], tract_backend(LAM, inner=inner), loss=nothing, fullgraph=True)
    assert error(found[f"net.{FIRST}"], expected(model)) <= 1e-5


@works("fullgraph")
def test_backward_in_the_same_compiled_function_as_the_loss() -> None:
    """Without ``trace_autograd_ops`` Dynamo breaks the graph there, and the gradient is autograd's."""
    model, backend = Net(), tract_backend(LAM, inner="aot_eager")

    def step(x: Tensor) -> None:
        squared(model(x)).backward()

    torch.compile(step, backend=backend)(X)
    assert [match.weight for match in backend.matches] == [FIRST]
    assert error(model.stem.conv.weight.grad, expected(model)) <= 1e-5


class Checkpointed(Net):
    """The stem is computed anew in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.stem, x * 2.0, use_reentrant=False)
        return self.head(torch.tanh(hidden).mean((2, 3)))


@works("checkpoint")
@pytest.mark.parametrize("inner", INNERS)
def test_activation_checkpointing_around_the_stem(inner: str) -> None:
    model, backend = Checkpointed(), tract_backend(LAM, inner=inner)
    found = gradients(model, [X], backend)
    same = Net()
    same.load_state_dict(model.state_dict())
    assert [match.weight for match in backend.matches] == [FIRST]
    assert error(found[FIRST], expected(same)) <= 1e-5


@works("accumulation")
def test_accumulated_gradients_are_the_sum_over_micro_batches() -> None:
    model = Net()
    parts = X.split(2)
    total = sum(expected(model, part) for part in parts)
    compiled = torch.compile(model, backend=tract_backend(LAM, inner="aot_eager"))
    for part in parts:
        squared(compiled(part)).backward()
    assert error(model.stem.conv.weight.grad, total) <= 1e-5


@works("accumulation")
def test_two_forward_passes_before_their_backward_passes() -> None:
    model, (first, second) = Net(), X.split(3)
    total = expected(model, first) + expected(model, second)
    compiled = torch.compile(model, backend=tract_backend(LAM, inner="aot_eager"))
    losses = [squared(compiled(first)), squared(compiled(second))]
    for loss in losses:
        loss.backward()
    assert error(model.stem.conv.weight.grad, total) <= 1e-5


@works("adversarial")
def test_an_input_that_requires_grad_keeps_its_plain_gradient() -> None:
    model, backend = Net(), tract_backend(LAM, inner="aot_eager")
    images = {}
    for name, how in (("plain", "aot_eager"), ("tract", backend)):
        images[name] = X.clone().requires_grad_()
        found = gradients(model, [images[name]], how)
    assert torch.equal(images["plain"].grad, images["tract"].grad)
    assert error(found[FIRST], expected(model)) <= 1e-5


@works("adversarial")
def test_an_attack_with_frozen_weights_passes_through() -> None:
    model, image = Net().requires_grad_(False), X.clone().requires_grad_()
    backend = tract_backend(LAM, inner="aot_eager")
    squared(torch.compile(model, backend=backend)(image)).backward()
    assert (backend.matches, backend.rejections) == ((), ())
    plain = X.clone().requires_grad_()
    squared(model(plain)).backward()
    assert error(image.grad, plain.grad) <= 1e-5


@works("compiled autograd")
def test_compiled_autograd() -> None:
    model, backend = Net(), tract_backend(LAM, inner="aot_eager")
    with torch._dynamo.config.patch(compiled_autograd=True):
        found = gradients(model, [X], backend)
    assert [match.weight for match in backend.matches] == [FIRST]
    assert error(found[FIRST], expected(model)) <= 1e-5


@works("functional")
def test_a_plain_function_of_a_model() -> None:
    model, backend = Net(), tract_backend(LAM, inner="aot_eager")

    def loss(x: Tensor) -> Tensor:
        return squared(model(x))

    torch.compile(loss, backend=backend)(X).backward()
    assert [match.weight for match in backend.matches] == [FIRST]
    assert error(model.stem.conv.weight.grad, expected(model)) <= 1e-5


@works("functional")
@pytest.mark.parametrize("as_parameters", [True, False])
def test_functional_call(as_parameters: bool) -> None:
    """The weights come in as arguments: parameters, or plain tensors that require grad, which only their use tells."""
    model, backend = Net(), tract_backend(LAM, inner="aot_eager")
    weights = dict(copy.deepcopy(model).named_parameters())
    if not as_parameters:
        weights = {name: weight.detach().requires_grad_() for name, weight in weights.items()}

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return squared(torch.func.functional_call(model, weights, (x,)))

    torch.compile(loss, backend=backend)(weights, X).backward()
    (match,) = backend.matches
    assert FIRST in match.weight
    assert error(weights[FIRST].grad, expected(model)) <= 1e-5


@works("functional")
def test_a_plain_tensor_is_a_weight_where_a_layer_uses_it_as_one() -> None:
    weight, x = torch.randn(4, 6, requires_grad=True), torch.randn(9, 6)
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Tanh())
    model[0].weight.data.copy_(weight.detach())
    compiled = torch.compile(
        lambda w, x: squared(torch.tanh(nn.functional.linear(x, w))), backend=tract_backend(LAM, inner="aot_eager")
    )
    compiled(weight, x).backward()
    assert error(weight.grad, tract_gradients(model, [x], ["0"], LAM)["0"]) <= 1e-5


@works("adversarial")
def test_a_gradient_penalty_on_the_input_is_no_gradient_of_a_weight() -> None:
    """The gradient taken inside is that of the image; the weight's is autograd's, and is rewritten."""
    model, backend = Net(), tract_backend(LAM, inner="aot_eager")

    def loss(x: Tensor) -> Tensor:
        penalty = torch.func.grad(lambda image: model(image).sum())(x).square().sum()
        return squared(model(x)) + penalty

    torch.compile(loss, backend=backend)(X).backward()
    assert {match.weight for match in backend.matches} == {FIRST}

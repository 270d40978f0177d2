"""Promise 3: whatever would quietly train with plain gradients is an error or a warning."""

import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard

from support.marks import codegen
from support.oracle import squared
from support.parts import tract_warnings
from support.refused import Pairs
from support.works import works
from tract_fx import TractWarning, UnsupportedLayerError, tract_backend

X = torch.randn(9, 6)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))


def backward_inside(model: nn.Module) -> None:
    squared(model(X)).backward()


def grad_inside(model: nn.Module) -> Any:
    return torch.autograd.grad(squared(model(X)), list(model.parameters()))


def functional(model: nn.Module, weights: dict[str, Tensor]) -> Any:
    return torch.func.grad(lambda weights: squared(torch.func.functional_call(model, weights, (X,))))(weights)


def func_grad(model: nn.Module) -> Any:
    return functional(model, dict(model.named_parameters()))


def func_grad_of_plain_tensors(model: nn.Module) -> Any:
    return functional(model, {name: item.detach() for name, item in model.named_parameters()})


def func_vjp(model: nn.Module) -> Any:
    weights = dict(model.named_parameters())
    value, pull = torch.func.vjp(lambda weights: squared(torch.func.functional_call(model, weights, (X,))), weights)
    return pull(value)


def per_sample(model: nn.Module) -> Any:
    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return squared(torch.func.functional_call(model, weights, (x[None],)))

    return torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(model.named_parameters()), X)


INSIDE = [backward_inside, grad_inside, func_grad, func_grad_of_plain_tensors, func_vjp, per_sample]


@pytest.fixture
def traced_autograd() -> Iterator[None]:
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        yield


@works("inner gradients")
@pytest.mark.usefixtures("traced_autograd")
@pytest.mark.parametrize(
    ("function", "inner"),
    [
        *((function, "aot_eager") for function in INSIDE),
        *(pytest.param(function, "inductor", marks=codegen) for function in (backward_inside, func_grad)),
    ],
)
def test_gradients_taken_inside_of_the_compiled_function(function: Callable[[nn.Module], Any], inner: str) -> None:
    model = network()
    compiled = torch.compile(function, backend=tract_backend(inner=inner))
    with pytest.raises(Exception, match=r"0 \((addmm|mm)\): the compiled function itself takes the gradient") as caught:
        compiled(model)
    assert isinstance(caught.value, UnsupportedLayerError) or "UnsupportedLayerError" in str(caught.value)


@works("inner gradients")
@pytest.mark.usefixtures("traced_autograd")
def test_gradients_taken_inside_can_be_a_warning() -> None:
    model, backend = network(), tract_backend(inner="aot_eager", on_unsupported="warn")
    with pytest.warns(TractWarning, match=r"call backward\(\) outside"):
        torch.compile(backward_inside, backend=backend)(model)
    assert [rejection.weight for rejection in backend.rejections] == ["0.weight"]
    twin = network()
    twin.load_state_dict(model.state_dict())
    backward_inside(twin)
    assert torch.allclose(model[0].weight.grad, twin[0].weight.grad)


@works("inner gradients")
@pytest.mark.usefixtures("traced_autograd")
def test_a_gradient_of_a_later_layer_is_nobody_s_business() -> None:
    """As in losses that are weighted by the gradient of the last layer: the first one's is autograd's, and rewritten."""
    model, backend = network(), tract_backend(inner="aot_eager")

    def weighted(x: Tensor) -> Tensor:
        loss = squared(model(x))
        (gradient,) = torch.autograd.grad(loss, [model[2].weight], retain_graph=True, create_graph=True)
        return loss / (1 + gradient.detach().norm())

    torch.compile(weighted, backend=backend)(X)
    assert "0.weight" not in [rejection.weight for rejection in backend.rejections]


class Wrapped(nn.Module):
    """Calls a module from a forward of its own; that module's is one of torch.nn's, or disabled."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem, self.head = stem, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.stem(x)
        return self.head(torch.tanh(hidden[0] if isinstance(hidden, tuple) else hidden))


class Disabled(nn.Linear):
    """A layer that the user keeps out of Dynamo."""

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


SKIPPED = {
    "recurrent": (lambda: nn.LSTM(6, 4), "weight_ih_l0"),
    "recurrent stem": (lambda: Wrapped(nn.LSTM(6, 4)), r"stem\.weight_ih_l0"),
    "disabled stem": (lambda: Wrapped(Disabled(6, 4)), r"stem\.weight"),
}


def train(model: nn.Module, compiled: Callable[[Tensor], Any]) -> list[str]:
    """Two steps; returns the warnings."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tract_warnings() as messages:
        for _ in range(2):
            output = compiled(X)
            squared(output[0] if isinstance(output, tuple) else output).backward()
            optimizer.step()
            optimizer.zero_grad()
    return messages


@works("skipped")
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("name", SKIPPED)
def test_a_model_that_dynamo_skips(name: str, in_place: bool) -> None:
    make, parameter = SKIPPED[name]
    model, backend = make(), tract_backend(inner="aot_eager")
    if in_place:
        model.compile(backend=backend)
    compiled = model if in_place else torch.compile(model, backend=backend)
    (message,) = train(model, compiled)
    assert backend.matches == ()
    assert re.search(parameter, message)
    assert "graph_breaks" in message


@works("skipped")
def test_the_string_backend_notices_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # On torch 2.11 the model is seen only when the name is looked up for the first time in a process.
    monkeypatch.delitem(sys.modules, "tract_fx.entry_point", raising=False)
    registry, entry = torch._dynamo.backends.registry, EntryPoint("tract", "tract_fx.entry_point:tract", "")
    torch._dynamo.list_backends()  # Dynamo has read all entry points
    monkeypatch.delitem(registry._COMPILER_FNS, "tract", raising=False)
    monkeypatch.setitem(registry._BACKENDS, "tract", entry)
    model = Wrapped(nn.LSTM(6, 4))
    (message,) = train(model, torch.compile(model, backend="tract", options={"inner": "aot_eager"}))
    assert "stem.weight_ih_l0" in message


@works("skipped")
def test_one_step_with_a_closure_is_enough() -> None:
    """The gradients come into being inside of the step, as with L-BFGS and in Lightning."""
    model = Wrapped(nn.LSTM(6, 4))
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = compiled(torch.randn(5, 9, 6)).sum()
        loss.backward()
        return loss

    with pytest.warns(TractWarning, match=r"stem\.weight_ih_l0"):
        optimizer.step(closure)


@works("skipped")
def test_torch_compile_with_a_wrapper_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is once Lightning is imported."""
    compile_itself = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *arguments, **keywords: compile_itself(*arguments, **keywords))
    model = Wrapped(nn.LSTM(6, 4))
    (message,) = train(model, torch.compile(model, backend=tract_backend(inner="aot_eager")))
    assert "stem.weight_ih_l0" in message


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@works("skipped")
@pytest.mark.usefixtures("one_process")
def test_torch_nn_s_own_modules_inside_of_data_parallelism() -> None:
    """Dynamo skips all the frames, which are torch.nn's."""
    model = nn.parallel.DistributedDataParallel(network())
    (message,) = train(model, torch.compile(model, backend=tract_backend(inner="aot_eager")))
    assert "module.0.weight" in message


@works("skipped")
@pytest.mark.usefixtures("one_process")
def test_a_first_layer_that_fsdp_shards_on_its_own() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.stem(x)))

    model, mesh = Net(), distributed.init_device_mesh("cpu", (1,))
    fully_shard(model.stem, mesh=mesh)
    fully_shard(model, mesh=mesh)
    (message,) = train(model, torch.compile(model, backend=tract_backend(inner="aot_eager")))
    assert "stem.weight" in message


@works("skipped")
def test_errors_that_are_suppressed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = Pairs(6, 6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x)

    model = Net()
    with torch._dynamo.config.patch(suppress_errors=True):
        (message,) = train(model, torch.compile(model, backend=tract_backend(inner="aot_eager")))
    assert "up.weight" in message


@works("skipped")
def test_no_warning_where_nothing_is_wrong() -> None:
    class WithRecurrentHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = network(), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.stem(x)
            torch._dynamo.graph_break()
            return self.head(hidden)

    for model in (network(), WithRecurrentHead()):
        assert train(model, torch.compile(model, backend=tract_backend(inner="aot_eager"))) == []


@works("skipped")
def test_no_warning_when_a_later_part_is_compiled_anew() -> None:
    """What was compiled before the optimiser's first step still counts after it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head, self.scale = nn.Linear(6, 4), nn.Linear(4, 2), 1

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.stem(x))
            torch._dynamo.graph_break()
            return self.head(hidden) * self.scale

    model, backend = Net(), tract_backend(inner="aot_eager")
    compiled = torch.compile(model, backend=backend)
    assert train(model, compiled) == []
    graphs, model.scale = len(backend._records), 2
    assert train(model, compiled) == []
    assert len(backend._records) == graphs + 1


@works("skipped")
def test_no_warning_where_a_method_is_compiled_in_place_of_the_call() -> None:
    """Lightning takes the compiler out of ``torch.compile(module)`` and applies it to ``training_step``."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, x: Tensor) -> Tensor:
            return self.net(x)

    model, backend = Module(), tract_backend(inner="aot_eager")
    optimized = torch.compile(model, backend=backend)
    assert train(model, optimized.dynamo_ctx(model.training_step)) == []
    assert [match.weight for match in backend.matches] == ["net.0.weight"]


@works("skipped")
@pytest.mark.parametrize("by_name", [False, True])
def test_no_warning_where_a_model_runs_what_was_compiled_for_another(by_name: bool) -> None:
    """Dynamo compiles for a class, and no backend is called for its second instance."""
    backend, options = ("tract", {"inner": "aot_eager"}) if by_name else (tract_backend(inner="aot_eager"), None)
    counter = torch._dynamo.utils.counters["stats"]
    for number in range(2):
        model = Wrapped(nn.Linear(6, 4))
        graphs = counter["unique_graphs"]
        assert train(model, torch.compile(model, backend=backend, options=options)) == []
        assert counter["unique_graphs"] == graphs + (number == 0)
    if not by_name:  # on torch 2.11 only the first model is noticed by name
        model = Wrapped(nn.LSTM(6, 4))
        (message,) = train(model, torch.compile(model, backend=backend))
        assert "stem.weight_ih_l0" in message


@works("skipped")
def test_another_model_s_optimiser_is_no_reason_to_warn() -> None:
    waiting, other = network(), network()
    compiled = torch.compile(waiting, backend=tract_backend(inner="aot_eager"))
    assert train(other, other) == []
    assert train(waiting, compiled) == []


@works("skipped")
def test_the_user_may_ignore_it() -> None:
    model = nn.LSTM(6, 4)
    assert train(model, torch.compile(model, backend=tract_backend(inner="aot_eager", on_unsupported="ignore"))) == []


@works("skipped")
def test_evaluation_trains_nothing() -> None:
    model = nn.LSTM(6, 4)
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager"))
    with torch.no_grad():
        compiled(X)
    other = network()
    assert train(other, other) == []


@works("skipped")
def test_a_compiled_optimiser_step_is_not_disturbed() -> None:
    model = network()
    compiled = torch.compile(model, backend=tract_backend(inner="aot_eager"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = torch.compile(optimizer.step, backend="eager")
    before = model[0].weight.detach().clone()
    squared(compiled(X)).backward()
    step()
    assert not torch.equal(before, model[0].weight)

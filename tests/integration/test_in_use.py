"""What people do with a compiled model besides training it."""

import copy
import io
import pickle

import torch
from torch import Tensor, nn

from support.marks import codegen
from support.oracle import error, squared, tract_gradients
from support.training import gradients
from support.works import works
from tract_fx import tract_backend

LAM = 0.1
X = torch.randn(6, 3, 9, 8)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(168, 3))


def step(compiled: nn.Module, model: nn.Module) -> Tensor:
    """The first layer's gradient after one step."""
    model.zero_grad()
    squared(compiled(X)).backward()
    return model[0].weight.grad


def reference(model: nn.Module, lam: float = LAM) -> Tensor:
    return tract_gradients(model, [X], ["0"], lam)["0"]


@works("copies")
def test_a_deep_copy_of_a_compiled_model_trains_alike() -> None:
    model = network()
    compiled = torch.compile(model, backend=tract_backend(LAM, inner="aot_eager"))
    step(compiled, model)
    twin = copy.deepcopy(compiled)
    assert error(step(twin, twin._orig_mod), reference(twin._orig_mod)) <= 1e-5


@works("copies")
def test_a_pickled_compiled_model_trains_alike() -> None:
    compiled = torch.compile(network(), backend=tract_backend(0.3, inner="aot_eager"))
    step(compiled, compiled._orig_mod)
    buffer = io.BytesIO()
    torch.save(compiled, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert error(step(loaded, loaded._orig_mod), reference(loaded._orig_mod, 0.3)) <= 1e-5


@works("copies")
def test_a_pickled_backend_has_its_lam_and_its_matches() -> None:
    backend = tract_backend(LAM, inner="aot_eager")
    gradients(network(), [X], backend)
    backend.lam = 0.7
    twin = pickle.loads(pickle.dumps(backend))
    assert (twin.lam, twin.options, twin.matches) == (0.7, backend.options, backend.matches)
    twin.lam = 0.2
    assert backend.lam == 0.7
    model = network()
    assert error(step(torch.compile(model, backend=twin), model), reference(model, 0.2)) <= 1e-5


@works("copies")
def test_state_dicts_are_those_of_the_model() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    compiled = torch.compile(model, backend=tract_backend(LAM, inner="aot_eager"))
    step(compiled, model)
    assert list(model.state_dict()) == list(before)
    assert [name.removeprefix("_orig_mod.") for name in compiled.state_dict()] == list(before)
    network().load_state_dict(model.state_dict())


@works("copies")
def test_a_model_compiled_in_place_keeps_its_names() -> None:
    model = network()
    names = list(model.state_dict())
    backend = tract_backend(LAM, inner="aot_eager")

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    holder = Holder()
    holder.compile(backend=backend)
    squared(holder(X)).backward()
    assert list(model.state_dict()) == names
    assert [match.weight for match in backend.matches] == ["net.0.weight"]
    assert error(model[0].weight.grad, reference(model)) <= 1e-5


@works("lam")
def test_two_models_with_their_own_lam_in_one_process() -> None:
    models = {lam: network() for lam in (0.05, 0.4)}
    compiled = {
        lam: torch.compile(model, backend=tract_backend(lam, inner="aot_eager")) for lam, model in models.items()
    }
    for lam in (0.05, 0.4, 0.05):
        assert error(step(compiled[lam], models[lam]), reference(models[lam], lam)) <= 1e-5


@works("lam")
def test_plain_and_tract_compiles_of_one_model_do_not_mix() -> None:
    model = network()
    plain = torch.compile(model, backend="aot_eager")
    tract = torch.compile(model, backend=tract_backend(LAM, inner="aot_eager"))
    eager = step(model, model).clone()
    for _ in range(2):
        assert error(step(plain, model), eager) <= 1e-5
        assert error(step(tract, model), reference(model)) <= 1e-5


@works("inference")
def test_training_and_evaluation_take_turns() -> None:
    """Evaluation equals the plain model's bit by bit, in every mode that it can be done in."""
    model = network()
    backend = tract_backend(LAM, inner="aot_eager")
    compiled = torch.compile(model, backend=backend)
    for _ in range(2):
        assert error(step(compiled, model), reference(model)) <= 1e-5
        compiled.eval()
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                assert torch.equal(compiled(X), model(X))
        compiled.train()
    assert {match.weight for match in backend.matches} == {"0.weight"}


@codegen
@works("modes")
def test_a_mode_given_to_torch_compile() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    found = gradients(model, [X], tract_backend(LAM), mode="max-autotune")["0.weight"]
    assert error(found, reference(model)) <= 1e-5

"""A probe leaves nothing behind: not in the model, the inputs, random numbers, the loader or what Dynamo has compiled."""

import copy
import random
import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from support.natural import natural_images, standardised
from support.training import Counter
from support.works import works
from tract_fx import ProbeError, probe, tract_backend

pytestmark = works("probe")

IMAGES = standardised(natural_images(12, 12))


class Net(nn.Module):
    """With everything that a forward pass may change: running statistics, random numbers, its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5)
        z = self.norm(self.conv(x + 0.1 * torch.randn_like(x)))
        return self.head(self.drop(z.relu()).mean((2, 3)))


def test_the_model_is_left_alone() -> None:
    model = Net()
    model(IMAGES[:4].clone()).sum().backward()
    model.head.weight.requires_grad_(False)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    copies = {name: None if grad is None else grad.clone() for name, grad in gradients.items()}
    state = copy.deepcopy(model.state_dict())
    version = model.conv.weight._version
    probe(model, IMAGES.split(6))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is gradients[name] for name, parameter in model.named_parameters())
    assert all(grad is None or torch.equal(grad, copies[name]) for name, grad in gradients.items())
    assert model.training
    assert not model.head.weight.requires_grad
    assert model.conv.weight._version == version


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_counts_and_stays(training: bool) -> None:
    model = Net().train(training)
    seen = []
    model.norm.register_forward_hook(lambda module, arguments, output: seen.append(module.training))
    probe(model, [IMAGES])
    assert set(seen) == {training}
    assert model.training is training


def test_inputs_are_left_alone() -> None:
    class Demanding(nn.Module):
        """As audio models do."""

        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        @torch.compiler.disable
        def prepare(self, x: Tensor) -> Tensor:
            x.requires_grad = True
            return x

        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2)
            return self.net.conv(self.prepare(x)).tanh()

    x = IMAGES.clone()
    found = probe(Demanding(), [x])
    assert found.layers[0].layer == "net.conv"
    assert torch.equal(x, IMAGES)
    assert not x.requires_grad
    assert x.grad is None


def test_inputs_that_require_a_gradient_do_so_in_the_model_too() -> None:
    x = IMAGES.clone().requires_grad_()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    assert probe(model, [x]).layers[0].layer == "0"
    assert x.grad is None


def test_random_numbers_go_on_as_if_nothing_was() -> None:
    def augmented(images: list[tuple[Tensor]]) -> Tensor:
        return torch.stack([image * random.random() + np.random.rand() for (image,) in images]) + torch.rand(())

    generator = torch.Generator().manual_seed(3)
    data = TensorDataset(IMAGES)
    loader = DataLoader(data, batch_size=4, shuffle=True, generator=generator, collate_fn=augmented)
    model = Net()

    def draw() -> list[Tensor]:
        own = torch.rand(3), torch.tensor([random.random()]), torch.from_numpy(np.random.rand(3))
        return [*own, *loader]

    states = torch.get_rng_state(), generator.get_state(), random.getstate(), np.random.get_state()
    expected = draw()
    torch.set_rng_state(states[0])
    generator.set_state(states[1])
    random.setstate(states[2])
    np.random.set_state(states[3])
    probe(model, loader)
    assert all(map(torch.equal, draw(), expected))


def test_a_compiled_model_is_not_compiled_again() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    backend = tract_backend(inner="aot_eager")
    counter = Counter(backend)
    compiled = torch.compile(model, backend=counter)
    compiled(IMAGES).sum().backward()
    expected = model[0].weight.grad.clone()
    matches = backend.matches
    for subject in (model, compiled):
        assert probe(subject, [IMAGES[:5], IMAGES[5:], IMAGES[:3]]).layers[0].layer == "0"
    model.zero_grad()
    compiled(IMAGES).sum().backward()
    assert torch.equal(model[0].weight.grad, expected)
    assert counter.graphs == 1
    assert backend.matches == matches


def test_sizes_that_were_probed_do_not_make_a_later_compile_dynamic() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    probe(model, [IMAGES[:5], IMAGES[5:], IMAGES[:3]])
    backend = tract_backend(inner="aot_eager")
    torch.compile(model, backend=backend)(IMAGES)
    assert backend.matches[0].rows == 12 * 100


def test_many_sizes_do_not_run_into_the_recompile_limit() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    torch.compile(model, backend="eager", dynamic=False)(IMAGES)
    sizes = [torch.randn(2, 3, size, 25 - size) for size in range(6, 19)]
    with torch._dynamo.config.patch(recompile_limit=2, assume_static_by_default=True, automatic_dynamic_shapes=False):
        found = probe(model, sizes, batches=13)
    assert found.layers[0].passes == 13


def test_wrappers_are_taken_off() -> None:
    model = nn.DataParallel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()))
    assert probe(model, [IMAGES]).layers[0].layer == "0"


def test_it_needs_no_gradient_mode_of_its_caller() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh())
    with torch.no_grad():
        assert probe(model, [IMAGES]).layers[0].cosines
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert probe(model, [IMAGES + 0]).layers[0].cosines
        assert torch.is_inference_mode_enabled()


def test_a_model_that_cannot_be_copied_is_probed_on_copies_of_its_tensors() -> None:
    """It finds what a copy finds, and leaves the model its own tensors, values and gradients."""
    model = Net()
    twin = copy.deepcopy(model)
    model.lock = threading.Lock()
    model(IMAGES[:4].clone()).sum().backward()
    held = dict(vars(model.norm)), dict(model.norm._buffers), dict(model.conv._parameters)
    state = copy.deepcopy(model.state_dict())
    gradient = model.conv.weight.grad.clone()
    twin.load_state_dict(state)
    torch.manual_seed(0)
    expected = probe(twin, IMAGES.split(6)).to_dict()
    torch.manual_seed(0)
    assert probe(model, IMAGES.split(6)).to_dict() == expected
    assert (vars(model.norm), model.norm._buffers, model.conv._parameters) == held
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.conv.weight.grad, gradient)


def test_a_function_is_refused() -> None:
    with pytest.raises(ProbeError, match=r"needs a torch\.nn\.Module, not function"):
        probe(lambda x: x, [IMAGES])

"""Runs an example as its user would and looks at every step of its optimiser, from outside of the example.

The data set hands out the same images, and a note is taken of which; hooks of ``torch.optim`` see weights and gradients. What
they have to be is computed afterwards: an eager float64 copy of the network with the weights and the batch of a step.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from support.oracle import error, tract_gradients
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import Dataset

from tract_fx import TractWarning

EXAMPLES = Path(__file__).parents[2] / "examples"
LAM = 0.1

Batch = tuple[Tensor, Tensor]
Named = dict[str, Tensor]
Loss = Callable[[Any], Tensor]


@dataclasses.dataclass
class Step:
    """One step of an optimiser.

    Attributes:
        weights: of all parameters, before it.
        gradients: of all parameters, as it used them.
        batch: images and labels.
        states: how many parameters had a state, such as a momentum, before it.
    """

    weights: Named
    gradients: Named
    batch: Batch
    states: int


@dataclasses.dataclass
class Observed:
    """What an example did: the network that it trained, as it is without any compiler, and every step."""

    model: nn.Module
    steps: list[Step]


@dataclasses.dataclass(frozen=True)
class Errors:
    """Relative errors of a step's gradients: the first layer's against TrAct, and against plain; the largest other one."""

    first: float
    first_to_plain: float
    others: float


class Noted(Dataset[Batch]):
    """A data set that knows what it has handed out."""

    def __init__(self, data: Dataset[Batch]) -> None:
        self.data, self.handed_out = data, []

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Batch:
        self.handed_out.append(self.data[index])
        return self.handed_out[-1]

    def batch(self, number: int, size: int) -> Batch:
        """What was handed out for a step; trainers fetch ahead, but in order."""
        images, labels = zip(*self.handed_out[number * size : (number + 1) * size], strict=True)
        return torch.stack(images), torch.stack(labels)


class Recorder:
    """Weights before each step of any optimiser, and the gradients that it used, by identity of the parameter.

    Gradients are taken after the step: some trainers compute them in a closure inside of it.
    """

    def __init__(self) -> None:
        self.weights: list[dict[int, Tensor]] = []
        self.gradients: list[dict[int, Tensor]] = []
        self.states: list[int] = []

    def __enter__(self) -> Recorder:
        self._hooks = [
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.states.append(len(optimizer.state))
        self.weights.append({id(item): item.detach().clone() for item in _parameters(optimizer)})

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.gradients.append({id(item): item.grad.clone() for item in _parameters(optimizer) if item.grad is not None})

    def steps(self, model: nn.Module, batches: Sequence[Batch]) -> list[Step]:
        """With the names that parameters have in ``model``."""
        names = {id(item): name for name, item in model.named_parameters()}
        return [
            Step(*({names[key]: item for key, item in of_step.items()} for of_step in (weights, gradients)), batch, states)
            for weights, gradients, batch, states in zip(
                self.weights, self.gradients, batches, self.states, strict=True
            )
        ]


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [item for group in optimizer.param_groups for item in group["params"]]


def load(name: str) -> ModuleType:
    """An example; it finds what stands beside it, as a script does."""
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    return importlib.import_module(name)


def observe(example: ModuleType, arguments: Sequence[str]) -> Observed:
    """Call an example's ``main``; a warning of tract-fx is an error."""
    noted: list[Noted] = []

    def note(*given: Any) -> tuple[Noted, int, int]:
        data, *rest = images(*given)
        noted.append(Noted(data))
        return noted[-1], *rest

    images, example.training_images = example.training_images, note
    torch._dynamo.reset()
    try:
        with Recorder() as recorder, warnings.catch_warnings():
            warnings.filterwarnings("error", category=TractWarning)
            model = example.main(list(arguments))
    finally:
        example.training_images = images
    model = getattr(model, "_orig_mod", model)
    size = example.parser("").parse_args(arguments).batch
    batches = [noted[0].batch(number, size) for number in range(len(recorder.weights))]
    return Observed(copy.deepcopy(model), recorder.steps(model, batches))


def observe_twice(rank: int, size: int, port: int, name: str, arguments: Sequence[str], then: Sequence[str]) -> list[Observed]:
    """What an example does in this process with some arguments, and then from the start with others."""
    os.environ["TRACT_FX_INNER"] = "aot_eager"
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    example = load(name)
    return [observe(example, given) for given in (arguments, then)]


def cross_entropy(labels: Tensor) -> Loss:
    """Of logits, or of what a Hugging Face model returns."""
    return lambda output: nn.functional.cross_entropy(getattr(output, "logits", output), labels)


def expected(model: nn.Module, step: Step, layer: str, clip: float = 0.0, lam: float = LAM) -> tuple[Named, Tensor]:
    """Gradients of all parameters, with TrAct at one layer, as they are after clipping to a norm; and that layer's plain one."""
    twin = copy.deepcopy(model).double().train()
    twin.load_state_dict({name: item.double() for name, item in step.weights.items()}, strict=False)
    images, labels = step.batch
    loss = cross_entropy(labels)
    new = tract_gradients(twin, [images], [layer], lam, loss)[layer]
    loss(twin(images.double())).backward()
    gradients = {name: item.grad for name, item in twin.named_parameters()}
    plain, gradients[f"{layer}.weight"] = gradients[f"{layer}.weight"], new
    norm = torch.stack([item.norm() for item in gradients.values()]).norm().item()
    scale = min(1.0, clip / norm) if clip else 1.0
    return {name: scale * item for name, item in gradients.items()}, scale * plain


def errors(model: nn.Module, step: Step, layer: str, clip: float = 0.0) -> Errors:
    """Of the gradients that the optimiser used."""
    wanted, plain = expected(model, step, layer, clip)
    assert step.gradients.keys() == wanted.keys()
    found = {name: error(step.gradients[name], item) for name, item in wanted.items()}
    first = found.pop(f"{layer}.weight")
    return Errors(first, error(step.gradients[f"{layer}.weight"], plain), max(found.values()))

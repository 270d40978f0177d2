"""Runs an example as its user would and looks at every step of its optimiser, from outside of the example.

The data set hands out the same images, and a note is taken of which; hooks of ``torch.optim`` see weights and gradients.
What they have to be is computed afterwards: an eager float64 copy of the network with the weights and the batch of a
step.
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
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import Dataset

from support.oracle import error, tract_gradients
from tract_fx import TractWarning, reference

EXAMPLES = Path(__file__).parents[2] / "examples"
LAM = 0.1

FAR = 0.1  # where the plain gradient of the first layer is, at the least

Batch = tuple[Tensor, Tensor]
Named = dict[str, Tensor]
Criterion = Callable[[Any, Tensor], Tensor]


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


# An activation next to the kink of a ReLU may be on either side of it, depending on the order of a sum, and one of them
# changes a gradient by some 1e-4. A gradient of the wrong kind is off by more than FAR.
KINK = 1e-3


@dataclasses.dataclass(frozen=True)
class Errors:
    """Relative errors of a step's gradients.

    Attributes:
        first: of the first layer's, against TrAct.
        first_floor: what that would be, were it computed exactly from the plain gradient of an eager run in the same
            precision. Photographs are smooth, and their covariance amplifies rounding.
        first_to_plain: of the first layer's, against the plain one.
        others: the largest one of the other layers, against their plain ones.
        others_floor: that of an eager run in the same precision.
    """

    first: float
    first_floor: float
    first_to_plain: float
    others: float
    others_floor: float

    @property
    def are_of_tract(self) -> bool:
        """Whether the first layer's gradient is the one of TrAct, all others are plain, and one could tell."""
        right = self.first < 1e-6 + 2 * self.first_floor and self.others < KINK + 2 * self.others_floor
        return right and self.first_to_plain > max(FAR, 2 * self.first_floor)


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
            Step(
                *({names[key]: item for key, item in of_step.items()} for of_step in (weights, gradients)),
                batch,
                states,
            )
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


def observe_in_turn(_rank: int, _size: int, _port: int, name: str, *arguments: Sequence[str]) -> list[Observed]:
    """What an example does in this process, with each of some arguments."""
    os.environ["TRACT_FX_INNER"] = "aot_eager"
    torch.set_num_threads(1)
    example = load(name)
    return [observe(example, given) for given in arguments]


def cross_entropy(output: Any, labels: Tensor) -> Tensor:
    """Of logits, or of what a Hugging Face model returns."""
    return nn.functional.cross_entropy(getattr(output, "logits", output), labels)


def twin_of(model: nn.Module, step: Step, dtype: torch.dtype) -> nn.Module:
    """An eager copy with the weights of a step."""
    twin = copy.deepcopy(model).to(dtype).train()
    twin.load_state_dict({name: item.to(dtype) for name, item in step.weights.items()}, strict=False)
    return twin


def plain_gradients(model: nn.Module, step: Step, criterion: Criterion, dtype: torch.dtype = torch.float64) -> Named:
    """Gradients of all parameters without TrAct, in an eager run; bfloat16 is autocast."""
    autocast = dtype == torch.bfloat16
    twin = twin_of(model, step, torch.float32 if autocast else dtype)
    images, labels = step.batch
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        criterion(twin(images if autocast else images.to(dtype)), labels).backward()
    return {name: item.grad for name, item in twin.named_parameters()}


def errors(
    model: nn.Module,
    step: Step,
    layer: str,
    *,
    clip: float = 0.0,
    lam: float = LAM,
    criterion: Criterion = cross_entropy,
    dtype: torch.dtype = torch.float32,
) -> Errors:
    """Of the gradients that the optimiser used, against an eager float64 run.

    Args:
        model: the network; its weights are not used.
        step: of the optimiser.
        layer: the first one.
        clip: norm to which all gradients together were clipped; 0 for none.
        lam: of the method.
        criterion: of output and labels.
        dtype: in which the example trains; bfloat16 is autocast.
    """
    images, labels = step.batch
    wanted = plain_gradients(model, step, criterion)
    weight = f"{layer}.weight"
    plain = wanted[weight]
    wanted[weight] = tract_gradients(
        twin_of(model, step, torch.float64), [images], [layer], lam, lambda output: criterion(output, labels)
    )[layer]
    norm = torch.stack([item.norm() for item in wanted.values()]).norm().item()
    scale = min(1.0, clip / norm) if clip else 1.0
    assert step.gradients.keys() == wanted.keys()
    rounded = plain_gradients(model, step, criterion, dtype)
    rounded[weight] = new_from_plain(model, step, layer, rounded[weight], lam)
    floors = {name: error(rounded[name], item) for name, item in wanted.items()}
    found = {name: error(step.gradients[name], scale * item) for name, item in wanted.items()}
    to_plain = error(step.gradients[weight], scale * plain)
    return Errors(found.pop(weight), floors.pop(weight), to_plain, max(found.values()), max(floors.values()))


def new_from_plain(model: nn.Module, step: Step, layer: str, plain: Tensor, lam: float) -> Tensor:
    """TrAct's gradient of a convolution without groups, from the plain one."""
    twin = twin_of(model, step, torch.float64)
    rows: list[Tensor] = []

    def take(module: nn.Conv2d, arguments: tuple[Tensor, ...]) -> None:
        geometry = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
        rows.append(reference.conv_rows(arguments[0], module.kernel_size, 1, **geometry)[0])

    twin.get_submodule(layer).register_forward_pre_hook(take)
    twin(step.batch[0].double())
    (X,) = rows
    system = X.T @ X / len(X) + lam * torch.eye(X.shape[1], dtype=X.dtype)
    return torch.linalg.solve(system, plain.double().flatten(1), left=False).reshape(plain.shape)

"""The one training loop of the demo, of ``compare`` and of the study of convergence."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tract_fx.tools.errors import ToolError

__all__ = ["PEAK_RATES", "WARM_UP", "TrainedEpoch", "TrainingLoop", "class_scores", "make_optimizer", "rate_share"]

WARM_UP = 0.2
WEIGHT_DECAY = {"sgd": 5e-4, "adam": 0.05}
PEAK_RATES = {"sgd": 0.05, "adam": 1e-3}
"""What ``compare`` takes unless a learning rate is given."""


@dataclass(frozen=True)
class TrainedEpoch:
    """What an epoch gave: mean loss in nats over its steps, and its time by the clock and by the processor."""

    loss: float
    steps: int
    seconds: float
    processor_seconds: float


class TrainingLoop:
    """A model, its optimisers and the schedule of their learning rates.

    Args:
        model: holds the parameters; on the device of the training.
        optimizers: of its parameters, together.
        total: steps of the whole training, at whose end the learning rate is zero.
        amp: run the forward pass under bfloat16 autocast.
        warm_up: share of the training in which the learning rate rises.

    Attributes:
        forward: what is called with the images; the model itself, or a compiled form of it.
        done: steps so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        total: int,
        *,
        amp: bool = False,
        warm_up: float = WARM_UP,
    ) -> None:
        self.model = model
        self.forward: nn.Module = model
        self.device = next(model.parameters()).device
        self.total = total
        self.amp = amp
        self.done = 0
        self.optimizers = list(optimizers)
        schedule = partial(rate_share, total=total, share=warm_up)
        self.rates = [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) for optimizer in self.optimizers]

    def train_on(self, batches: Iterable[tuple[Tensor, Tensor]]) -> TrainedEpoch:
        """A step for each batch of images and targets; there is one at least."""
        self.model.train()
        total, count = torch.zeros((), device=self.device), 0
        started = self._now()
        for images, targets in batches:
            total += self.step(images, targets)
            count += 1
        clock, processor = (after - before for before, after in zip(started, self._now(), strict=True))
        return TrainedEpoch(total.item() / count, count, clock, processor)

    def step(self, images: Tensor, targets: Tensor) -> Tensor:
        """One step of the optimisers; the loss in nats."""
        loss = self.backward(images, targets)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            rate.step()
        self.done += 1
        return loss

    def backward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Fill the gradients; the cross-entropy of a batch in nats, without its history."""
        with self.autocast():
            loss = nn.functional.cross_entropy(class_scores(self.forward(images)), targets)
        loss.backward()
        return loss.detach()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision, if it was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)

    def state_dict(self) -> dict[str, Any]:
        """Everything that goes on."""
        return {
            "done": self.done,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rates": [rate.state_dict() for rate in self.rates],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.done = state["done"]
        self.model.load_state_dict(state["model"])
        for own, saved in zip(self.optimizers, state["optimizers"], strict=True):
            own.load_state_dict(saved)
        for own, saved in zip(self.rates, state["rates"], strict=True):
            own.load_state_dict(saved)

    def _now(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()


def rate_share(step: int, total: int, share: float = WARM_UP) -> float:
    """Learning rate of step `step` of `total`, counted from 0, as a share of its peak.

    It rises linearly in the given share of the training, and falls to zero as a cosine does.
    """
    warm_up = share * total
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / (total - warm_up))


def make_optimizer(kind: str, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """``"sgd"`` with Nesterov's momentum, or ``"adam"`` (AdamW), with the weight decay that is usual for each."""
    if kind == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY[kind])
    return torch.optim.AdamW(parameters, rate, weight_decay=WEIGHT_DECAY[kind])


def class_scores(output: Any) -> Tensor:
    """Scores `(batch, classes)` in what a classifier returns.

    That is a tensor; something with ``logits``, as Hugging Face's models return; or a tuple that begins with the scores, as
    those of models with auxiliary heads do.

    Raises:
        ToolError: when there are none.
    """
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    elif not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = "x".join(map(str, output.shape)) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ToolError(f"the model returns {found}, not a score for each class: batch x classes, or `logits`")
    return output

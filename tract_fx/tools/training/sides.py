"""The sides of a comparison: one network, compiled plain and with TrAct, and a training of it on one of them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tract_fx.backend import tract_backend
from tract_fx.tools.training.loop import TrainedEpoch, TrainingLoop

__all__ = ["PLAIN", "TRACT", "CompiledSides", "Side", "SideRun", "alternating", "first_step_seconds"]

PLAIN = "plain"
TRACT = "TrAct"

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Side:
    """A way to train: plain, or with TrAct and a ``lam``.

    Attributes:
        name: in tables and pictures.
        lam: TrAct's regularisation; None for plain training.
    """

    name: str
    lam: float | None


class CompiledSides:
    """A network with its two compiled forms, which share its parameters.

    Args:
        model: the network, on its device.
        inner: what compiles both.

    Attributes:
        backend: that of `tract`.
    """

    def __init__(self, model: nn.Module, inner: str) -> None:
        torch.compiler.reset()  # otherwise the networks before this one count towards Dynamo's recompile limit
        self.model = model
        self.backend = tract_backend(inner=inner)
        self._inner = inner

    @functools.cached_property
    def plain(self) -> nn.Module:
        """Compiled without the pass."""
        return torch.compile(self.model, backend=self._inner, dynamic=False)

    @functools.cached_property
    def tract(self) -> nn.Module:
        """Compiled with it; not made before it is used, because the backend warns of models that never run."""
        return torch.compile(self.model, backend=self.backend, dynamic=False)

    def of(self, side: Side) -> nn.Module:
        """The form of a side; it has that side's ``lam`` until this is called again."""
        if side.lam is None:
            return self.plain
        self.backend.lam = side.lam
        return self.tract

    @property
    def matches(self) -> tuple[dict[str, Any], ...]:
        """The rewritten layers, each as a dictionary of its record's fields, once TrAct has run a step."""
        return tuple(asdict(match) for match in self.backend.matches)


class SideRun(TrainingLoop):
    """The training of one side. The sides share a network: each has its weights in it for an epoch at a time.

    Args:
        side: which one.
        compiled: the network.
        weights: at the beginning, as `state_dict` has them.
        optimizer: makes the optimiser from the parameters.
        total: steps of the whole training.
        amp: see `TrainingLoop`.

    Attributes:
        epochs: how many are done.
    """

    def __init__(
        self,
        side: Side,
        compiled: CompiledSides,
        weights: Mapping[str, Any],
        optimizer: OptimizerFactory,
        total: int,
        *,
        amp: bool = False,
    ) -> None:
        trained = [parameter for parameter in compiled.model.parameters() if parameter.requires_grad]
        super().__init__(compiled.model, [optimizer(trained)], total, amp=amp)
        self.side = side
        self.epochs = 0
        self._compiled = compiled
        self._weights: Mapping[str, Any] = weights

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has this run's weights while the context is open; they are kept if it ends without an error."""
        self.model.load_state_dict(self._weights)
        self.forward = self._compiled.of(self.side)
        yield
        self._weights = copy.deepcopy(self.model.state_dict())

    def train_on(self, batches: Iterable[tuple[Tensor, Tensor]]) -> TrainedEpoch:
        """An epoch."""
        trained = super().train_on(batches)
        self.epochs += 1
        return trained

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state)
        self.epochs = state["epoch"]
        self._weights = state["model"]

    def state_dict(self) -> dict[str, Any]:
        """Everything that goes on, while the weights are in place."""
        return {"epoch": self.epochs, **super().state_dict()}


def alternating(runs: Sequence[SideRun], epochs: int) -> Iterator[SideRun]:
    """Each run in turn, with its weights in place, for an epoch that it has not trained yet.

    What disturbs a machine for a while so disturbs every side, and runs that are stopped early are equally far.
    """
    for number in range(1, epochs + 1):
        for run in runs:
            if run.epochs < number:
                with run.in_place():
                    yield run


def first_step_seconds(run: SideRun, batch: tuple[Tensor, Tensor]) -> float:
    """Time of a step with a run that is not used otherwise: where it is the first one, nearly all of it is compilation."""
    with run.in_place():
        return run.train_on([batch]).seconds

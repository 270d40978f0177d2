"""Ways to train the first layer: plain, with TrAct, and what else could be tried."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.convergence.networks import Builder, first_layer_name
from benchmarks.convergence.patch_norm import DualPatchNorm, PatchNorm
from benchmarks.convergence.whitening import geometry_of, rows_of
from tract_fx import compat
from tract_fx.ops.gram import gram
from tract_fx.ops.solve import solve_primal
from tract_fx.tools.training.sides import CompiledSides

__all__ = ["METHODS", "FirstLayerGradient", "Method", "Trainee", "network", "trainee"]

RUNNING_DECAY = 0.95


@dataclasses.dataclass(frozen=True)
class Method:
    """How the first layer is trained.

    Attributes:
        tract: whether the backend's pass is on.
        until: share of the training after which the pass is off.
        rising: whether ``lam`` goes from half of its value to twice of it by ``CosineLam``.
        wrapper: what replaces the first layer.
        parts: a batch is run in so many parts whose gradients are averaged, as by so many processes or by accumulation.
        covariance: where a gradient is preconditioned outside of the pass: ``"batch"``, by the covariance of the whole
            batch, ``"running"``, by an exponential average over the steps, or ``"dataset"``, by that of all training
            images, computed once.
        relative: whether ``lam`` is relative to the covariance, where it is from outside of the pass.
        start: what replaces the first layer's random weights: ``"whitened"`` or ``"whitened, same norm"``, those that do
            with raw patches what the random ones do with whitened patches, or ``"eigenvectors"`` of the data set's
            covariance.
        frozen: whether the first layer keeps its start.
        first_optimizer: an optimiser of its own for the first layer.
        first_decay: whether the first layer has the weight decay of the others.
        clip: norm that the gradient of all parameters together is brought down to.
    """

    tract: bool = False
    until: float = 1.0
    rising: bool = False
    wrapper: type[PatchNorm] | None = None
    parts: int = 1
    covariance: str | None = None
    relative: bool = False
    start: str | None = None
    frozen: bool = False
    first_optimizer: str | None = None
    first_decay: bool = True
    clip: float | None = None


METHODS = {
    "plain": Method(),
    "tract": Method(tract=True),
    "patchnorm": Method(wrapper=PatchNorm),
    "dualpatchnorm": Method(wrapper=DualPatchNorm),
    "plain-sgd-first": Method(first_optimizer="sgd"),
    "tract-sgd-first": Method(tract=True, first_optimizer="sgd"),
    "tract-first-third": Method(tract=True, until=1 / 3),
    "tract-running": Method(covariance="running"),
    "tract-8-local": Method(tract=True, parts=8),
    "tract-8-shared": Method(parts=8, covariance="batch"),
    "plain-8": Method(parts=8),
    "plain-4": Method(parts=4),
    "tract-4-local": Method(tract=True, parts=4),
    "tract-first-half": Method(tract=True, until=1 / 2),
    "tract-rising": Method(tract=True, rising=True),
    "tract-relative": Method(covariance="batch", relative=True),
    "plain-no-decay": Method(first_decay=False),
    "tract-no-decay": Method(tract=True, first_decay=False),
    "plain-clip": Method(clip=1.0),
    "tract-clip": Method(tract=True, clip=1.0),
    "tract-dataset": Method(covariance="dataset"),
    "whitened": Method(covariance="dataset", start="whitened"),
    "whitened-start": Method(start="whitened, same norm"),
    "frozen": Method(frozen=True),
    "frozen-eigenvectors": Method(start="eigenvectors", frozen=True),
}


class Trainee(CompiledSides):
    """A network with its compiled forms, and the name of its first layer."""

    def __init__(self, model: nn.Module, first: str, inner: str) -> None:
        super().__init__(model, inner)
        self.first = first

    @property
    def first_layer(self) -> nn.Conv2d:
        """The convolution that reads the images."""
        layer = self.model.get_submodule(self.first)
        return layer.convolution if isinstance(layer, PatchNorm) else layer


def network(build: Builder, classes: int, width: float, wrapper: type[PatchNorm] | None) -> tuple[nn.Module, str]:
    """A fresh network, its first layer wrapped if that is asked for, and the name of that layer."""
    model = build(classes, width)
    first = first_layer_name(model)
    if wrapper is not None:
        owner, _, attribute = first.rpartition(".")
        setattr(model.get_submodule(owner), attribute, wrapper(model.get_submodule(first)))
    return model, first


@functools.lru_cache(maxsize=1)
def trainee(
    build: Builder,
    classes: int,
    width: float,
    wrapper: type[PatchNorm] | None,
    batch: int,
    device: str,
    channels_last: bool,
) -> Trainee:
    """The last one is kept: compiling takes as long as a short run, and the next run often needs the same.

    ``batch`` is the number of images that it is run with. The weights are each run's to set.
    """
    model, first = network(build, classes, width, wrapper)
    model = model.to(device, memory_format=torch.channels_last if channels_last else torch.preserve_format)
    return Trainee(model, first, "inductor" if compat.can_generate_code(device) else "aot_eager")


class FirstLayerGradient:
    """TrAct from outside of the compiled graph, for covariances that the pass does not have.

    ``G`` in the weight's ``.grad`` becomes ``G (C + lam I)^-1`` (arXiv 2410.23970, section 3). The state, the average of
    covariances and how much of it is there, is saved with the training.

    Args:
        layer: the first layer.
        lam: the regularisation.
        covariance: ``"batch"`` or ``"running"``, see `Method`; or a fixed one, float64 `(n, n)`.
        relative: whether ``lam`` is in units of the mean eigenvalue of the covariance.
    """

    def __init__(self, layer: nn.Conv2d, lam: float, covariance: str | Tensor, *, relative: bool = False) -> None:
        self._layer = layer
        self._lam = lam
        self._relative = relative
        self._fixed = isinstance(covariance, Tensor)
        self._keep = RUNNING_DECAY if not self._fixed and covariance == "running" else 0.0
        n = layer.weight[0].numel()
        empty = torch.zeros(n, n, dtype=torch.float64, device=layer.weight.device)
        self._average = covariance.clone() if self._fixed else empty
        self._weight = 1.0 if self._fixed else 0.0

    @torch.no_grad()
    def precondition(self, images: Tensor) -> None:
        """Replace the gradient, given the images `(batch, channels, height, width)` that it belongs to."""
        if not self._fixed:
            self._add(images)
        gradient = self._layer.weight.grad
        average, flat = self._average / self._weight, gradient.flatten(1)
        solved = solve_primal(average[None], flat[None], self._lam, 1.0, relative=self._relative)
        gradient.copy_(solved.reshape(gradient.shape))

    def state_dict(self) -> dict[str, Any]:
        """The average so far."""
        return {"average": self._average, "weight": self._weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self._average.copy_(state["average"])
        self._weight = state["weight"]

    def _add(self, images: Tensor) -> None:
        covariance = gram(images.float(), geometry_of(self._layer))[0] / rows_of(self._layer, images)
        self._average.mul_(self._keep).add_(covariance, alpha=1 - self._keep)
        self._weight = self._keep * self._weight + 1 - self._keep

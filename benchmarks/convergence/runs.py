"""What one training is."""

from __future__ import annotations

import dataclasses
from typing import Any

from tract_fx.options import DEFAULT_LAM
from tract_fx.tools.training.loop import WARM_UP

__all__ = ["Run"]

LATER_FIELDS = ("batch", "warm_up")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training, and everything that tells it from another one of the same size and images.

    Attributes:
        network: a name in `sizes.Size.networks`.
        optimizer: ``"sgd"`` or ``"adam"``, see `sizes.Size.rates`.
        epochs: the budget; the learning rate falls to zero at its end.
        method: a name in `methods.METHODS`.
        seed: of the initial weights, the order of the images and their augmentation.
        lam: the regularisation of TrAct.
        width: factor on the network's number of channels.
        rate: factor on the peak learning rate.
        inputs: a name in `inputs.INPUTS`.
        augmentation: a name in `augmentation.AUGMENTATIONS`.
        noise: standard deviation of the noise that is added to every image, in units of a standardised image; only for
            inputs of planted contrast.
        batch: images in a step; 0 for the batch of the size.
        warm_up: share of the training in which the learning rate rises.
    """

    network: str
    optimizer: str
    epochs: int
    method: str
    seed: int
    lam: float = DEFAULT_LAM
    width: float = 1.0
    rate: float = 1.0
    inputs: str = "standardised"
    augmentation: str = "crop-flip"
    noise: float = 0.0
    batch: int = 0
    warm_up: float = WARM_UP

    @property
    def name(self) -> str:
        """A file name: the required fields, then what is not the default."""
        parts = [self.network, self.optimizer, f"{self.epochs}epochs", self.method]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.default is not dataclasses.MISSING and value != field.default:
                parts.append(f"{field.name}-{value:g}" if isinstance(value, float) else f"{field.name}-{value}")
        return "_".join([*parts, f"seed{self.seed}"])

    def record(self) -> dict[str, Any]:
        """All fields for the run's file; of those that older files do not have, what is not the default."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in LATER_FIELDS or getattr(self, field.name) != field.default
        }

"""One step of a small network, compared with the equations in float64 and with the step it would take without TrAct."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

from tract_fx.backend import tract_backend
from tract_fx.reference import conv_gradient

__all__ = ["TOLERANCE", "SelfCheck", "self_check"]

TOLERANCE = 1e-5
LAM = 0.1
STEM: dict[str, Any] = {"stride": 2, "padding": 1}


@dataclasses.dataclass(frozen=True)
class SelfCheck:
    """What one step has shown.

    Attributes:
        first: error of the first layer's gradient, relative to the float64 reference.
        others: largest relative difference of another gradient to that of plain eager training.
        rewritten: names of the weights that were rewritten.
        seconds: compilation included.
    """

    first: float
    others: float
    rewritten: tuple[str, ...]
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether the first layer, and it alone, trains with TrAct; a NaN is not right."""
        return self.first <= TOLERANCE and self.others <= TOLERANCE and self.rewritten == ("stem.weight",)

    def __str__(self) -> str:
        if self.rewritten != ("stem.weight",):
            return f"rewrote {', '.join(self.rewritten) or 'nothing'} instead of stem.weight, in {self.seconds:.1f} s"
        return (
            f"first gradient off by {self.first:.0e} from the reference, others by {self.others:.0e} from plain training, "
            f"in {self.seconds:.1f} s"
        )


class _Network(nn.Module):
    """A convolution, which is the first layer, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, **STEM)
        self.head = nn.Linear(4 * 5 * 6, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stem(images).tanh().flatten(1)).square().sum()


def self_check(inner: str, device: str = "cpu") -> SelfCheck:
    """Train one step.

    Args:
        inner: as in ``tract_backend``.
        device: torch's name of it.
    """
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, images = _Network(), torch.randn(8, 3, 9, 11)
    reference, plain = _expected(model, images)
    model, images = model.to(device), images.to(device)
    backend = tract_backend(LAM, inner=inner)
    torch.compile(model, backend=backend)(images).backward()
    errors = {name: _error(item.grad.cpu(), plain[name]) for name, item in model.named_parameters()}
    errors.pop("stem.weight")
    return SelfCheck(
        _error(model.stem.weight.grad.cpu(), reference),
        max(errors.values()),
        tuple(match.weight for match in backend.matches),
        time.perf_counter() - start,
    )


def _expected(model: _Network, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The reference of the first gradient, and all plain gradients, in float64."""
    exact, images = copy.deepcopy(model).double(), images.double()
    seen: list[Tensor] = []
    exact.stem.register_forward_hook(lambda module, arguments, output: seen.append(output))
    loss = exact(images)
    (output_gradient,) = torch.autograd.grad(loss, seen, retain_graph=True)
    loss.backward()
    reference = conv_gradient(images, output_gradient, exact.stem.weight, LAM, **STEM)
    return reference, {name: item.grad for name, item in exact.named_parameters()}


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


if __name__ == "__main__":
    torch.backends.cudnn.allow_tf32 = False
    sys.stdout.write(json.dumps(dataclasses.asdict(self_check(sys.argv[1], sys.argv[2]))))

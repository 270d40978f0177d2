"""Saying that ``lam`` is raised, because float64 could not tell it from zero beside the squares of the inputs.

What is raised is decided on the device, in every backward pass (:func:`tract_fx.ops.solve.shift`); to ask there would wait
for it. The inputs of one forward pass say the same.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from tract_fx.compat import is_dispatch_mode_active, is_wrapped
from tract_fx.errors import TractWarning
from tract_fx.ops.solve import ROUNDING_SAFETY

__all__ = ["can_be_asked", "warn_where_raised"]

# Padding and batched systems make the trace of one system differ from what is estimated here; below this factor nothing is
# said.
CERTAIN = 2.0


def can_be_asked(input: object) -> bool:
    """Whether the values of an input can be read now: not while anything traces, batches, or captures a CUDA graph."""
    if not isinstance(input, Tensor) or type(input) is not Tensor or is_wrapped(input) or is_dispatch_mode_active():
        return False
    if not input.numel() or input.is_meta:
        return False
    return not (input.is_cuda and torch.cuda.is_current_stream_capturing())


def warn_where_raised(name: str, input: Tensor, features: int, size: int, lam: float, warned: set[str]) -> None:
    """Warn once about a layer where an absolute ``lam`` is raised.

    Args:
        name: of the layer.
        input: what it saw; :func:`can_be_asked` has to hold.
        features: columns of ``X`` that are not zeros by construction.
        size: of the systems that are solved.
        lam: the regularisation.
        warned: keys of the warnings that are not to be repeated.
    """
    # A norm is summed in float64 without a copy of the inputs in it.
    mean_square = torch.linalg.vector_norm(input.detach(), dtype=torch.float64).item() ** 2 / input.numel()
    least = ROUNDING_SAFETY * size * torch.finfo(torch.float64).eps * features * mean_square
    key = f"raised lam: {name}"
    if not least > CERTAIN * lam or least == float("inf") or key in warned:
        return
    warned.add(key)
    warnings.warn(
        f"{name}: lam={lam:g} is raised to about {least:.1e} for these inputs, the least that float64 can tell from zero "
        f"beside their mean square of {mean_square:.1e}. The gradient is divided by at least that. Bring the "
        "inputs to the scale that lam is meant for, a variance of about 1; tract_fx.probe(model, loader) says which.",
        TractWarning,
        stacklevel=3,
    )

"""A scalar to differentiate, where the user gives none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tract_fx.errors import ProbeError
from tract_fx.probing.batches import Batch, tensors_in

__all__ = ["CROSS_ENTROPY", "FUNCTIONAL", "GIVEN", "OWN", "default_loss"]

GIVEN = "the given loss"
OWN = "the loss that the model returns"
CROSS_ENTROPY = "cross-entropy with the labels"
FUNCTIONAL = (
    "a fixed random linear functional of the output: no labels were found, so gradients are not those of training"
)

SEED = 0


def default_loss(output: Any, batch: Batch) -> tuple[Tensor, str]:
    """A loss and what it is.

    ``output.loss`` where the model returns one; cross-entropy for integer labels ``(b,)`` and logits ``(b, k)``; else a
    linear functional of the output with random weights that are the same for every batch.

    Raises:
        ProbeError: when no tensor of the output requires a gradient.
    """
    own = _entry(output, "loss")
    if isinstance(own, Tensor) and own.requires_grad:
        return (own if own.dim() == 0 else own.mean()), OWN
    logits = output if isinstance(output, Tensor) else _entry(output, "logits")
    if _fits(logits, batch.labels):
        return torch.nn.functional.cross_entropy(logits.float(), batch.labels.long()), CROSS_ENTROPY
    terms = [
        _functional(tensor, SEED + index) for index, tensor in enumerate(tensors_in(output)) if tensor.requires_grad
    ]
    if not terms:
        raise ProbeError(
            "No tensor in the model's output requires a gradient: nothing of the model is trainable, or its forward pass "
            "runs under no_grad()."
        )
    return torch.stack(terms).sum(), FUNCTIONAL


def _entry(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _fits(logits: Any, labels: Any) -> bool:
    if not (isinstance(logits, Tensor) and isinstance(labels, Tensor) and logits.dim() == 2 and logits.requires_grad):
        return False
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        return False
    return labels.shape == logits.shape[:1] and bool(((labels >= 0) & (labels < logits.shape[1])).all())


def _functional(tensor: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(tensor.shape, generator=generator).to(tensor.device)
    return ((tensor.abs() if tensor.is_complex() else tensor).float() * weights).mean()

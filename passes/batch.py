"""Which entries of a batched product share one weight.

A weight that is broadcast against its input (``x @ w`` with more dimensions in ``x``) is expanded, copied, and folded into
one batch dimension before ``bmm`` sees it. Entries along an expanded dimension are rows of one layer; entries along the
others belong to layers of their own.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TypeAlias

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from tract_fx.passes.joint_graph import target_of

__all__ = ["BatchDimension", "Folding", "batch_of"]

Size: TypeAlias = int | torch.SymInt

# What keeps the order of elements, and so the order of the batch.
_KEEP_ORDER = ("view", "_unsafe_view", "reshape", "clone", "alias", "_to_copy", "prims.convert_element_type")


@dataclasses.dataclass(frozen=True)
class BatchDimension:
    """One of the dimensions that were folded into the batch; ``shared`` when the weight is the same along it."""

    size: Size
    shared: bool


def batch_of(weight: Node) -> tuple[BatchDimension, ...]:
    """The batch of a weight ``(batch, *, *)``, neighbours of one kind merged; at least one dimension."""
    value = weight.meta["val"]
    source = _expanded(weight)
    lead = value if source is None else source.meta["val"]
    merged: list[BatchDimension] = []
    for size, stride in zip(lead.shape[:-2], lead.stride()[:-2], strict=True):
        if statically_known_true(size == 1):
            continue
        shared = stride == 0
        if merged and merged[-1].shared == shared:
            merged[-1] = BatchDimension(merged[-1].size * size, shared)
        else:
            merged.append(BatchDimension(size, shared))
    return tuple(merged) or (BatchDimension(value.shape[0], False),)


def _expanded(weight: Node) -> Node | None:
    """The expanded tensor of which ``weight`` is a copy with its leading dimensions folded."""
    node = weight
    while target_of(node) in _KEEP_ORDER:
        node = node.args[0]
    if target_of(node) != "expand":
        return None
    shape, source = weight.meta["val"].shape, node.meta["val"].shape
    same = len(source) >= 3 and all(statically_known_true(a == b) for a, b in zip(shape[-2:], source[-2:], strict=True))
    return node if same else None


class Folding:
    """``(batch, a, b)`` as ``(groups, shared * a, b)`` and back: what shares a weight lies below one another.

    Args:
        tensor: any tensor of that batch.
        batch: at most one of its dimensions may have a symbolic size.
    """

    def __init__(self, tensor: torch.Tensor, batch: tuple[BatchDimension, ...]) -> None:
        # A symbolic size of another trace is no number in this one: it is what the other sizes leave.
        self._sizes = [item.size if isinstance(item.size, int) else -1 for item in batch]
        self._order = sorted(range(len(batch)), key=lambda index: batch[index].shared)
        own = sum(not item.shared for item in batch)
        self._groups = math.prod(self._unfolded(tensor).shape[:own])

    def fold(self, tensor: torch.Tensor) -> torch.Tensor:
        """``(batch, a, b)`` to ``(groups, shared * a, b)``."""
        return self._unfolded(tensor).reshape(self._groups, -1, tensor.shape[-1])

    def unfold(self, folded: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The inverse, to ``shape``."""
        unfolded = folded.reshape(self._unfolded(folded.new_empty(shape)).shape)
        inverse = sorted(range(len(self._order)), key=self._order.__getitem__)
        return unfolded.permute(*inverse, -2, -1).reshape(shape)

    def _unfolded(self, tensor: torch.Tensor) -> torch.Tensor:
        dims = tensor.reshape(*self._sizes, *tensor.shape[1:])
        return dims.permute(*self._order, -2, -1)

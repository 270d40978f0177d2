"""Processes that share the covariance of a layer that is not compiled, or that each have their own."""

from __future__ import annotations

import warnings

import torch

from tract_fx.distributed.covariance import describe_layer
from tract_fx.distributed.groups import process_count, sharing_groups
from tract_fx.eager.function import Sharing
from tract_fx.errors import TractWarning, UnsupportedLayerError
from tract_fx.passes.first_layer import LARGEST_DYNAMIC_PRIMAL, WITHOUT_GROUP
from tract_fx.source_hash import source_hash

__all__ = ["sharing_of"]

OWN_COVARIANCE = (
    "There are {count} processes, and each uses the covariance of its own part of the batch, which for few rows is not "
    'the method. If their gradients are averaged, give process_group="ddp", or the process group, to tract_fx.TrAct(...); '
    "the covariance is then that of the whole batch."
)
_warned: set[str] = set()


@torch.compiler.assume_constant_result
def sharing_of(process_group: str | None, name: str, features: int, groups: int, dtype: str) -> Sharing | None:
    """With whom a layer shares its covariance, to be called in the forward pass; None for nobody.

    Args:
        process_group: as an option of the backend.
        name: of the layer.
        features: ``n``.
        groups: of the layer's channels.
        dtype: of its input.

    Raises:
        OptionError: when the option names no group, or nothing that is running has one.
        UnsupportedLayerError: when the covariance is too large to be summed.
    """
    if process_group is None:
        _tell_about_processes()
        return None
    found = tuple((group.name, group.size) for group in sharing_groups(process_group))
    if not found:
        return None
    if features > LARGEST_DYNAMIC_PRIMAL:
        raise UnsupportedLayerError(
            f"TrAct cannot be applied to {name}: its covariance, {features} x {features}, is too large to be summed over "
            f"processes. {WITHOUT_GROUP}"
        )
    layer = describe_layer((name,), features, groups, getattr(torch, dtype.removeprefix("torch.")), source_hash()[:12])
    return Sharing(found, layer)


def _tell_about_processes() -> None:
    """Once: without ``process_group`` the method is not that of one process with the whole batch."""
    count = process_count()
    if count > 1 and OWN_COVARIANCE not in _warned:
        _warned.add(OWN_COVARIANCE)
        warnings.warn(OWN_COVARIANCE.format(count=count), TractWarning, stacklevel=2)

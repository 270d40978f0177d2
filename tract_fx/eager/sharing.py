"""Processes that share the covariance of a layer that is not compiled, or that each have their own."""

from __future__ import annotations

import torch

from tract_fx import process_state
from tract_fx.distributed.covariance import LARGEST_DYNAMIC_PRIMAL, Sharing
from tract_fx.distributed.groups import LEAVE_GROUP_OUT, sharing_groups, warn_about_own_covariance
from tract_fx.errors import UnsupportedLayerError

__all__ = ["sharing_of"]


@torch.compiler.assume_constant_result
def sharing_of(
    process_group: str | None, name: str, features: tuple[int, ...], groups: int, dtype: str, relative: bool
) -> Sharing | None:
    """With which processes a layer shares its covariance, or None. It has to be called in the forward pass.

    Args:
        process_group: as an option of the backend.
        name: of the layer.
        features: ``n`` of each system.
        groups: of the layer's channels.
        dtype: of its input.
        relative: as an option of the backend.

    Raises:
        OptionError: when the option names no group, or nothing that is running has one.
        UnsupportedLayerError: when the covariance is too large to be summed.
    """
    if process_group is None:
        warn_about_own_covariance("tract_fx.TrAct(...)", process_state.warned)
        return None
    found = sharing_groups(process_group)
    if not found:
        return None
    largest = max(features, default=0)
    if largest > LARGEST_DYNAMIC_PRIMAL:
        raise UnsupportedLayerError(
            f"TrAct cannot be applied to {name}: its covariance, {largest} x {largest}, is too large to be summed over "
            f"processes. {LEAVE_GROUP_OUT}"
        )
    narrow = getattr(torch, dtype.removeprefix("torch."))
    return Sharing.of(found, (name,), features, groups, narrow, relative=relative)

"""Which processes share the covariance of a graph's first layer."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import distributed

from tract_fx import compat
from tract_fx.distributed import agreement
from tract_fx.distributed.agreement import Group
from tract_fx.errors import OptionError, TractWarning

__all__ = [
    "ENGINE",
    "LEAVE_GROUP_OUT",
    "check_process_group",
    "process_count",
    "sharing_groups",
    "warn_about_own_covariance",
]

ENGINE = "ddp"

LEAVE_GROUP_OUT = (
    "Leave process_group out: each process then uses the covariance of its own rows, in a system of their number."
)
OWN_COVARIANCE = (
    "There are {count} processes, and each uses the covariance of its own part of the batch, not of the whole "
    'batch. If their gradients are averaged, give process_group="ddp", or the process group, to {given_to}; the '
    "covariance is then that of the whole batch."
)


def check_process_group(value: object) -> str | None:
    """The value of the option in stored form: ``"ddp"``, the name under which PyTorch registers a process group, or None.

    Raises:
        OptionError: for anything that is neither of these nor a process group.
    """
    if value is None or (isinstance(value, str) and value):
        return value
    if distributed.is_available() and isinstance(value, distributed.ProcessGroup):
        return value.group_name
    raise OptionError(
        f'process_group={value!r} is not allowed: it must be a torch.distributed.ProcessGroup, "{ENGINE}" for the group of '
        "the DDP or FSDP2 module that is being run, or None."
    )


def process_count() -> int:
    """Number of processes in the default group; 1 when there is none."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def warn_about_own_covariance(given_to: str, warned: set[str]) -> None:
    """Warn, once, that without a process group the covariance is not that of the whole batch.

    Args:
        given_to: the function that takes the option ``process_group``.
        warned: names for which the warning has been given; ``given_to`` is added.
    """
    count = process_count()
    if count > 1 and given_to not in warned:
        warned.add(given_to)
        warnings.warn(OWN_COVARIANCE.format(count=count, given_to=given_to), TractWarning, stacklevel=3)


def sharing_groups(process_group: str | None) -> tuple[Group, ...]:
    """The groups behind the option, without those of one rank; to be called where Dynamo calls the backend.

    Their covariances are summed one after the other. There are several for HSDP, which shards within nodes and replicates
    between them.

    Raises:
        OptionError: when the option names no group, or nothing that is running has one.
    """
    if process_group is None or process_count() == 1:
        return ()
    engine = compat.active_engine()
    found = _groups_of(engine) if process_group == ENGINE else (_group_named(process_group),)
    groups = tuple(Group(group.group_name, group.size()) for group in found if group.size() > 1)
    if isinstance(engine, torch.nn.parallel.DistributedDataParallel):
        agreement.watch_engine(groups, engine)
    return groups


def _groups_of(engine: torch.nn.Module | None) -> tuple[Any, ...]:
    if engine is None:
        raise OptionError(
            f'process_group="{ENGINE}", but the model that is being compiled is neither inside '
            "DistributedDataParallel nor sharded by FSDP2's fully_shard, and no part of one: pass the "
            "torch.distributed.ProcessGroup over which its gradients are averaged."
        )
    try:
        return compat.engine_groups(engine)
    except LookupError:
        raise OptionError(
            f'process_group="{ENGINE}", but {type(engine).__name__} has no parameters that FSDP2 shards: pass the '
            "torch.distributed.ProcessGroup over which its gradients are averaged."
        ) from None


def _group_named(name: str) -> Any:
    try:
        return compat.group_named(name)
    except RuntimeError:
        raise OptionError(
            f'process_group={name!r} does not name a process group of this process: pass a group, or "{ENGINE}".'
        ) from None

"""What a probe must leave as it was: the model, random numbers, and what the loader draws them from."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tract_fx.compat import compiled_module
from tract_fx.errors import ProbeError
from tract_fx.inspect.model_copy import copied_model

__all__ = ["copied", "preserve_rng_state"]

_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model, without what ``torch.compile`` and data parallelism have put around it and without gradients.

    Raises:
        ProbeError: when it is no module, or one that cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise ProbeError(f"probe needs a torch.nn.Module, not {type(model).__name__}: a function cannot be copied.")
    model = compiled_module(model) or model
    while isinstance(model, _WRAPPERS):
        model = model.module
    try:
        twin = copied_model(model)
    except Exception as error:  # whatever the user's own classes raise
        raise ProbeError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}), and probe runs on a copy, so that "
            "buffers, gradients and random numbers of the model stay as they are. Give it a model made for the purpose, "
            "with the state_dict of this one."
        ) from error
    twin.zero_grad(set_to_none=True)
    return twin


@contextlib.contextmanager
def preserve_rng_state(loader: Any) -> Iterator[None]:
    """Random numbers of torch, Python and numpy, and of the loader's own generators, go on afterwards as if nothing was."""
    numpy = sys.modules.get("numpy")
    generators = [(generator, generator.get_state()) for generator in _generators(loader)]
    python, arrays = random.getstate(), numpy.random.get_state() if numpy else None
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python)
        if numpy:
            numpy.random.set_state(arrays)
        for generator, state in generators:
            generator.set_state(state)


def _generators(loader: Any) -> list[torch.Generator]:
    sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    owners = (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found = (getattr(owner, "generator", None) for owner in owners)
    return list({id(item): item for item in found if isinstance(item, torch.Generator)}.values())

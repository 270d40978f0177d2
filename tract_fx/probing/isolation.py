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
from tract_fx.inspect.model_copy import copy_or_stand_in

__all__ = ["copied", "preserve_rng_state"]

_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel)


@contextlib.contextmanager
def copied(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of a model, without what ``torch.compile`` and data parallelism have put around it and without gradients.

    A model that cannot be copied runs itself, on copies of its tensors, and has its own back afterwards.

    Raises:
        ProbeError: when it is no module.
    """
    if not isinstance(model, nn.Module):
        raise ProbeError(f"probe needs a torch.nn.Module, not {type(model).__name__}: a function cannot be copied.")
    model = compiled_module(model) or model
    while isinstance(model, _WRAPPERS):
        model = model.module
    with copy_or_stand_in(model) as twin:
        twin.zero_grad(set_to_none=True)
        yield twin


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

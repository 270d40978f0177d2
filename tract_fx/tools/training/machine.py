"""Where a training runs: the device, the compiler, and how many processor threads it computes with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tract_fx.compat import can_generate_code
from tract_fx.tools.errors import ToolError

__all__ = ["choose_compiler", "choose_device", "choose_threads", "processor_threads"]


@contextmanager
def processor_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads while the context is open."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_threads(asked: int | None, error: type[ToolError]) -> int:
    """What was asked for, or one less than torch would take.

    A parallel loop ends when its slowest thread does: with a thread on every core, one other busy process makes a
    training step of small networks ten times as long, while a core fewer costs less than a factor of two.

    Raises:
        ToolError: of the given class, when there are fewer cores.
    """
    cores = os.cpu_count() or 1
    if asked is not None and asked > cores:
        raise error(f"--threads {asked}: this machine has {cores}")
    return asked or max(1, torch.get_num_threads() - 1)


def choose_device(name: str | None, error: type[ToolError]) -> str:
    """What was asked for, or a GPU where there is one.

    Raises:
        ToolError: of the given class, when a tensor cannot be made there.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.ones(1, device=name).item()
    except Exception as problem:  # each kind of device that is not there has one of its own
        raise error(f"--device {name}: {str(problem).splitlines()[0]}") from problem
    return name


def choose_compiler(asked: str | None, device: str) -> str:
    """What was asked for, or `inductor` where it can generate code."""
    return asked or ("inductor" if can_generate_code(device) else "aot_eager")

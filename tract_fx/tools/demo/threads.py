"""How many processor threads the demo computes with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def processor_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads while the context is open."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_threads() -> int:
    """One less than torch would take.

    A parallel loop ends when its slowest thread does: with a thread on every core, one other busy process makes a
    training step of these small networks ten times as long, while a core fewer costs less than a factor of two.
    """
    return max(1, torch.get_num_threads() - 1)

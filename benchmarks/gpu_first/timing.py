"""Time of a block of calls that nothing waits for in between."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["seconds_of_block", "wait"]


def seconds_of_block(run: Callable[[], object], calls: int, device: str) -> float:
    """Seconds of one call: of ``calls`` that are queued one after the other, from an idle device to the end of the last.

    On a GPU they are between two events, so that a call costs what it costs in a training loop: the larger of what the
    processor needs to queue it and what the GPU needs to run it.
    """
    return (_by_events if device == "cuda" else _by_clock)(run, calls) / calls


def wait(device: str) -> None:
    """Until everything that was queued is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def _by_events(run: Callable[[], object], calls: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def _by_clock(run: Callable[[], object], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - started

"""Where a run took place: versions and hardware, so that its numbers can be quoted."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def environment(device: str) -> dict[str, str | int]:
    """Versions of Python and torch, and the hardware behind the torch device named `device`."""
    record: dict[str, str | int] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count() or 0,
    }
    if torch.device(device).type == "cuda":
        record["gpu"] = torch.cuda.get_device_name(device)
    return record


def _cpu_name() -> str:
    """The processor's marketing name where Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


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

"""Where a run took place: versions and hardware, so that its numbers can be quoted."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

__all__ = ["environment"]


def environment(device: str = "cpu") -> dict[str, str | int]:
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

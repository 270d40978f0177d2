"""Whether sizes that were asked for can fit into this machine's memory."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["check_memory", "total_memory"]

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def check_memory(needed: int, what: str, error: type[Exception]) -> None:
    """Refuse what needs more memory than this process can ever have.

    Args:
        needed: bytes, at least.
        what: names the argument and what it asks for.
        error: class of the exception.
    """
    total = total_memory()
    if total is not None and needed > total:
        raise error(
            f"{what} take at least {needed / 2**30:,.1f} GiB of memory; this process can have {total / 2**30:,.1f}"
        )


def total_memory() -> int | None:
    """Bytes that this process can have at most: of the machine, the container and its own limit; None if unknown."""
    found = [_physical(), _of_container(), _own_limit()]
    return min((limit for limit in found if limit is not None), default=None)


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def _of_container() -> int | None:
    try:
        return int(CONTAINER_LIMIT.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max", or no such file
        return None


def _own_limit() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft

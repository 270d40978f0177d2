"""Makes ``TORCH_LOGS="tract"`` known while ``import torch`` runs.

PyTorch calls every function of the entry-point group ``torch.backends`` then, and newer versions do it before they read
``TORCH_LOGS`` and refuse names that they do not know. On torch 2.11 it is too late for that: there the logger has to be
called by the name of its module, ``TORCH_LOGS="tract_fx"``, which works everywhere.

This file is part of everybody's ``import torch``, whether they use TrAct or not. So it imports nothing that is not loaded
already, does nothing without such a ``TORCH_LOGS``, and never raises. (That is also why a private name of PyTorch stands
here and not in ``compat``, which loads the compiler.)
"""

import contextlib
import os

__all__ = ["register_logs"]


def register_logs() -> None:
    """Register ``tract`` and ``tract_fx`` as names of the logger ``tract_fx``.

    A registered logger is PyTorch's: it prints by itself and hands nothing to the root logger. Where ``TORCH_LOGS`` does
    not ask for it, it stays one like any other.
    """
    wanted = os.environ.get("TORCH_LOGS", "")
    if "tract" not in wanted and "help" not in wanted:
        return
    with contextlib.suppress(Exception):
        from torch._logging._internal import register_log

        for name in ("tract", "tract_fx"):
            register_log(name, "tract_fx")

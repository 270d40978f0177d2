"""TrAct where a trainer only says that it compiles, and names no backend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tract_fx import compat
from tract_fx.backend import TractBackend, tract_backend
from tract_fx.options import DEFAULT_LAM

__all__ = ["as_default_backend"]


@contextlib.contextmanager
def as_default_backend(lam: float = DEFAULT_LAM, **options: Any) -> Iterator[TractBackend]:
    """Make TrAct the default backend of ``torch.compile`` and ``Module.compile`` inside a ``with`` statement.

    It takes the place of ``"inductor"``, also where that name is given explicitly, for trainers that cannot be given
    another one. Other backends, and ``mode=`` and ``options=`` of the calls, stay as they are. What was compiled inside
    keeps the backend after the end of the statement, although most of the work is done at its first call.

    Only calls of ``torch.compile`` in the same thread, or the same asynchronous task, are concerned. Statements can be
    nested; the innermost counts.

    Args:
        lam: as in :func:`tract_backend`.
        options: the keyword arguments of :func:`tract_backend`.

    Yields:
        The backend, whose ``lam`` can be set; everything that is compiled inside shares it.

    Raises:
        OptionError: naming the argument, its value and what is allowed.
    """
    backend = tract_backend(lam, **options)
    with compat.instead_of_inductor(backend):
        yield backend

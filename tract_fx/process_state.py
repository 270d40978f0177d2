"""Everything that this package keeps for a whole process, and why it cannot be kept anywhere else.

- ``torch.compile(model, backend="tract")`` calls a function anew for every graph, so that no object outlives a graph:
  what is said only once is kept in :data:`warned`.
- Dynamo may skip the frame that holds the first layer, and then no backend is called. What runs all the same is the
  optimiser, which knows nothing of backends: what was compiled of each model is kept in :data:`models`. The one moment at
  which a model can be seen before that is the call of ``torch.compile``, which looks for the name of the backend; that is
  why ``TractBackend.__name__`` is a property, and why importing ``tract_fx.entry_point`` acts.
- A second model with the structure of a first one runs the code that was compiled for the first: :data:`structures`.
- An operator in a compiled graph can hold a number or a string, and no object: :data:`observers` and :data:`agreements`.

All but the first are weak, or forgotten with what they belong to.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["CompileStatus", "Structure", "agreements", "models", "observers", "structures", "warned"]

Structure = tuple[tuple[str, type], ...]
"""Names and classes of the modules of a model: what decides whether one can run the code compiled for another one."""


@dataclasses.dataclass
class CompileStatus:
    """What has been compiled of a model so far, by whom, and whether the next step of an optimiser has to look at it."""

    owner: Callable[[], object | None] = lambda: None
    suppress_warnings: bool = False
    due: bool = True
    matched: bool = False
    parameters: set[str] = dataclasses.field(default_factory=set)


warned: set[str] = set()
models: weakref.WeakKeyDictionary[nn.Module, CompileStatus] = weakref.WeakKeyDictionary()
structures: weakref.WeakKeyDictionary[object, dict[Structure, CompileStatus]] = weakref.WeakKeyDictionary()
observers: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
agreements: dict[str, Any] = {}
